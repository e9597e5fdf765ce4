"""Calcfunction that compares refinements.

Its source is part of the hash of the process, so it only delegates.
"""

from __future__ import annotations

from typing import Any

from aiida.engine import calcfunction

from aiida_dse.analysis.comparison import compare
from aiida_dse.data.results import result_from_nodes, result_nodes
from aiida_dse.io.results import Result


@calcfunction
def compare_refinements(**refinements: Any) -> dict[str, Any]:
    """Compare refinements passed as <model>_result (Dict) and <model>_arrays (HDF5)."""
    names = sorted(key.removesuffix("_result") for key in refinements if key.endswith("_result"))
    results: dict[str, Result[Any]] = {
        name: result_from_nodes(refinements[f"{name}_result"], refinements[f"{name}_arrays"])
        for name in names
    }
    summary, arrays = result_nodes(compare(results))
    return {"result": summary, "arrays": arrays}
