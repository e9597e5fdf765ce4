"""Results as nodes, and nodes as results."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from aiida.orm import Dict, SinglefileData

from aiida_dse.io.results import HDF5_NAME, Result, read_arrays, write_result


def nested_values(parameters: dict[str, Any], key: str = "value") -> dict[str, Any]:
    """{'p.Br.x': {'value': 1}} -> {'p': {'Br': {'x': 1}}}: what a query can reach by a path."""
    found: dict[str, Any] = {}
    for name, row in parameters.items():
        if row.get(key) is None:
            continue
        *path, last = name.split(".")
        branch = found
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = row[key]
    return found


def best_rows(summary: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a result; those of a map at its lowest point, not at the start."""
    lowest = {k: {"value": v} for k, v in (summary.get("minimum") or {}).items() if k != "gof"}
    return dict(summary["parameters"]) | lowest


def summary_node(result: Result) -> Dict:
    """The numbers of a result, parameter values and s.u. also where a query reaches them."""
    summary = dict(result.summary)
    if "parameters" in summary:
        summary["values"] = nested_values(best_rows(summary))
        summary["su"] = nested_values(summary["parameters"], "su")
    if summary["task"] == "simultaneous":
        summary["patterns"] = {
            name: {**rows, "values": nested_values(rows["parameters"]),
                   "su": nested_values(rows["parameters"], "su")}
            for name, rows in summary["patterns"].items()
        }
    for kind, row in summary.get("uncertainty", {}).items():
        if kind in ("bootstrap", "posterior") and "parameters" in row:
            # beside 'su', for queries: 'posterior_sd.CsPbBr3.a'
            summary[f"{kind}_sd"] = nested_values(row["parameters"], "sd")
    return Dict(summary)


def result_nodes(result: Result) -> tuple[Dict, SinglefileData]:
    """The Dict of a result's numbers and the file of its arrays, unstored."""
    with tempfile.TemporaryDirectory() as folder:
        write_result(result, Path(folder))
        arrays = SinglefileData(file=str(Path(folder) / HDF5_NAME), filename=HDF5_NAME)
    return summary_node(result), arrays


def arrays_of(node: SinglefileData) -> dict[str, np.ndarray]:
    """The arrays of a result file by path. Raises ValueError where it is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / HDF5_NAME
        path.write_bytes(node.get_content(mode="rb"))
        return read_arrays(path)
