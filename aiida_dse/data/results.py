"""Conversion between results and nodes.

The parameters in a node are nested so that queries can use 'attributes.parameters.P.Br.x.value'.
Fields that differ between equal analyses (title, time, duration) are extras, which are not hashed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from aiida.orm import ArrayData, Dict, ProcessNode, SinglefileData

from aiida_dse.documents.records import Summary
from aiida_dse.documents.result_migration import OLD_SCHEMA, map_paths
from aiida_dse.documents.results import ScanSummary
from aiida_dse.io.results import (
    HDF5_NAME,
    Result,
    content_of,
    read_arrays,
    summary_of,
    write_result,
)

from .signatures import SIGNATURE, is_as_computed, signed

#: Fields of a summary that become extras of its node.
IN_EXTRAS = ("seconds", "threads", "created", "title")
#: Keys that distinguish a row from a nested mapping.
_LEAF = ("value", "kind")


def nested(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Rows nested by the parts of their names: {'p.Br.x': row} -> {'p': {'Br': {'x': row}}}."""
    found: dict[str, Any] = {}
    for name, row in rows.items():
        *path, last = name.split(".")
        branch = found
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = row
    return found


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Rows by name, the inverse of `nested`."""
    found: dict[str, Any] = {}
    for key, item in content.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(item, Mapping) and all(mark in item for mark in _LEAF):
            found[name] = item
        elif isinstance(item, Mapping):
            found |= flat(item, name)
    return found


def summary_node(summary: Summary, arrays: SinglefileData | ArrayData | None = None) -> Dict:
    """The numbers of a result as an unstored node, without the CIF texts of its structures.

    They are signed, together with the node of the arrays, if there is one.
    """
    content = content_of(summary)
    content.pop("cif", None)
    # equal analyses must have equal results irrespective of their titles
    if content.get("document"):
        content["document"] = {key: value for key, value in content["document"].items()
                               if key != "title"}
    extras = {key: content.pop(key) for key in IN_EXTRAS if key in content}
    if "parameters" in content:
        content["parameters"] = nested(content["parameters"])
    for pattern in content.get("patterns", {}).values():
        if "parameters" in pattern:
            pattern.pop("cif", None)
            pattern["parameters"] = nested(pattern["parameters"])
    node = Dict(signed(content, arrays))
    node.base.extras.set_many(extras)
    node.label = summary.title or summary.task.value
    node.description = f"{summary.task.value}: {summary.status.value}"
    return node


def summary_from_node(node: Dict) -> Summary:
    """The typed summary in a result node of this or an earlier version.

    Raises ValueError for other content, and for numbers that do not agree with their signature.
    """
    content: dict[str, Any] = node.get_dict()
    if is_as_computed(node) is False:
        raise ValueError(f"the result node {node.pk} was changed after it was computed: its numbers do not "
                         "agree with their signature. Compute the result again.")
    content.pop(SIGNATURE, None)
    if content.get("schema") != OLD_SCHEMA:
        if "parameters" in content:
            content["parameters"] = flat(content["parameters"])
        for pattern in content.get("patterns", {}).values():
            if "parameters" in pattern:
                pattern["parameters"] = flat(pattern["parameters"])
        content |= {key: node.base.extras.get(key) for key in IN_EXTRAS
                    if key in node.base.extras.all}
    return summary_of(content, f"node {node.pk}")


def result_nodes(result: Result[Any]) -> tuple[Dict, SinglefileData]:
    """Unstored nodes of a result: a Dict with its summary and a file with its arrays."""
    with tempfile.TemporaryDirectory() as folder:
        write_result(result, Path(folder))
        arrays = SinglefileData(file=str(Path(folder) / HDF5_NAME), filename=HDF5_NAME)
    return summary_node(result.summary, arrays), arrays


def result_from_nodes(result: Dict, arrays: SinglefileData | ArrayData) -> Result[Any]:
    """The result in the nodes of its numbers and of its arrays.

    Raises ValueError if they are damaged or do not agree with the signature of the result.
    """
    summary = summary_from_node(result)
    if is_as_computed(result, arrays) is False:
        raise ValueError(f"the arrays of the result node {result.pk} belong to another result, or were "
                         "changed. Compute the result again.")
    if isinstance(arrays, ArrayData):
        assert isinstance(summary, ScanSummary)
        return Result(summary, arrays_of_map(arrays, summary))
    return Result(summary, arrays_of(arrays))


def arrays_of(node: SinglefileData) -> dict[str, np.ndarray]:
    """The arrays of a result file, by their paths. Raises ValueError if the file is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / HDF5_NAME
        path.write_bytes(node.get_content(mode="rb"))
        return read_arrays(path)


def map_node(summary: ScanSummary, arrays: Mapping[str, np.ndarray]) -> ArrayData:
    """The unstored node of a map, with names, units and paths of arrays in 'contents'."""
    names = {f"scan/axis_{k}": (axis.name, axis.unit) for k, axis in enumerate(summary.axes)}
    names |= {f"scan/quantity_{k}": (row.name, row.unit)
              for k, row in enumerate(summary.quantities)}
    units = {name: row.unit for name, row in summary.parameters.items()}
    names |= {f"scan/moved_{k}": (name, units.get(name, ""))
              for k, name in enumerate(summary.moved)}
    names |= {f"scan/refined/{name}": (name, units.get(name, "")) for name in summary.refined}
    node, contents = ArrayData(), {}
    for path, values in arrays.items():
        key = "".join(c if c.isalnum() else "_" for c in path.removeprefix("scan/"))
        name, unit = names.get(path, (path.removeprefix("scan/"), ""))
        node.set_array(key, np.asarray(values))
        contents[key] = {"path": path, "name": name, "unit": unit}
    node.base.attributes.set("contents", contents)
    node.base.attributes.set("axes", [axis.name for axis in summary.axes])
    node.base.attributes.set("axis_units", [axis.unit for axis in summary.axes])
    node.label = summary.title or "map"
    node.description = f"GoF over {', '.join(axis.name for axis in summary.axes)}"
    return node


def arrays_of_map(node: ArrayData, summary: ScanSummary) -> dict[str, np.ndarray]:
    """The arrays of a map by their paths in a result file."""
    contents = node.base.attributes.get("contents", None)
    if contents is None:  # of version 0.1
        paths = map_paths(summary.refined)
        return {paths.get(key, f"scan/{key}"): node.get_array(key)
                for key in node.get_arraynames()}
    return {contents.get(key, {}).get("path", f"scan/{key}"): node.get_array(key)
            for key in node.get_arraynames()}


def result_of(process: ProcessNode) -> Result[Any] | None:
    """The result of a process, or None. Raises ValueError if it is damaged."""
    outputs = process.outputs
    if "result" not in outputs:
        return None
    for label in ("arrays", "map"):
        if label in outputs:
            return result_from_nodes(outputs.result, outputs[label])
    return Result(summary_from_node(outputs.result))
