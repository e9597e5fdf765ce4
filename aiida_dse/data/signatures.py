"""Signatures of result nodes: whether the numbers and arrays are those that were computed.

The signature is stored with the numbers when the result is parsed. A result that has since been
changed, for example in an archive, is neither read nor reused. AiiDA rounds numbers to 14 digits
when it stores them, so the digest is that of the rounded numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida.orm import ArrayData

from aiida_dse.documents.migration import RESULT_SCHEMAS

#: The key of the signature in the attributes of a result node.
SIGNATURE = "signature"


def signed(content: Mapping[str, Any], arrays: Any = None) -> dict[str, Any]:
    """The attributes of a result node with their signature; `arrays` is the node of its arrays."""
    digest = None if arrays is None else _digest_of_arrays(arrays)
    return {**content, SIGNATURE: {"numbers": _digest(content), "arrays": digest}}


def is_as_computed(result: Any, arrays: Any = None) -> bool | None:
    """Whether a result node and, if specified, the node of its arrays agree with the signature.

    None for a result without a signature. Missing files count as changes.
    """
    content = result.base.attributes.all
    signature = content.get(SIGNATURE)
    if signature is None:
        return None
    try:
        return bool(signature["numbers"] == _digest(content) and (
            arrays is None or signature["arrays"] == _digest_of_arrays(arrays)))
    except (OSError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        return False


def is_changed_result(node: Any) -> bool:
    """Whether a node is a result whose numbers or arrays do not agree with its signature."""
    attributes = node.base.attributes.all
    if attributes.get("schema") not in RESULT_SCHEMAS:
        return False
    outputs = {} if node.creator is None else node.creator.outputs
    arrays = next((outputs[label] for label in ("arrays", "map") if label in outputs), None)
    return is_as_computed(node, arrays) is False


def _digest_of_arrays(node: Any) -> str:
    if not isinstance(node, ArrayData):
        return hashlib.sha256(node.get_content(mode="rb")).hexdigest()
    digest = hashlib.sha256()
    for name in sorted(node.get_arraynames()):
        values = np.ascontiguousarray(node.get_array(name))
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    own = {key: value for key, value in content.items() if key != SIGNATURE}
    return hashlib.sha256(json.dumps(_rounded(own), sort_keys=True).encode()).hexdigest()


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    return f"{float(value) + 0.0:.14g}"  # databases do not keep the sign of zero
