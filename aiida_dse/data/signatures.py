"""Signatures of result nodes: whether the numbers are those that were computed.

The signature is stored with the numbers when the result is parsed. A result that was changed since,
for example in an archive, is not read and not reused. AiiDA rounds numbers to 14 digits when it
stores them, so the digest is that of the rounded numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

#: The key of the signature in the attributes of a result node.
SIGNATURE = "signature"


def signed(content: Mapping[str, Any], arrays: bytes | None = None) -> dict[str, Any]:
    """The attributes of a result node with their signature; `arrays` is the file of its arrays."""
    digest = None if arrays is None else hashlib.sha256(arrays).hexdigest()
    return {**content, SIGNATURE: {"numbers": _digest(content), "arrays": digest}}


def is_unchanged(content: Mapping[str, Any], arrays: bytes | None = None) -> bool | None:
    """Whether attributes and, if given, arrays agree with the signature; None if there is none."""
    signature = content.get(SIGNATURE)
    if signature is None:
        return None
    try:
        if not isinstance(signature, Mapping) or signature.get("numbers") != _digest(content):
            return False
    except (OverflowError, RecursionError, TypeError, ValueError):  # content that nobody computed
        return False
    return arrays is None or signature.get("arrays") == hashlib.sha256(arrays).hexdigest()


def is_as_computed(result: Any, arrays: Any = None) -> bool | None:
    """The same for the nodes of a result and its arrays."""
    return is_unchanged(result.base.attributes.all, None if arrays is None else arrays.get_content(mode="rb"))


def changed_results(nodes: Iterable[Any]) -> list[Any]:
    """The results among some nodes whose numbers were changed after they were computed."""
    return [node for node in nodes if SIGNATURE in node.base.attributes.all and not is_as_computed(node)]


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
