"""Calcfunctions that record the origin of starting values, tiles and maps.

The source of a calcfunction is part of the hash of its process, so these only delegate.
"""

from __future__ import annotations

from typing import Any

from aiida.engine import calcfunction
from aiida.orm import Dict, Int, SinglefileData

from aiida_dse.data.results import map_node, result_from_nodes, summary_from_node, summary_node
from aiida_dse.documents.continuation import (
    model_continued,
    simultaneous_continued,
    simultaneous_document_of,
)
from aiida_dse.documents.results import ScanSummary, SimultaneousSummary
from aiida_dse.documents.simultaneous import SIMULTANEOUS_SCHEMA
from aiida_dse.io.results import Result
from aiida_dse.tasks.tiles import merged_map, tile_documents


@calcfunction
def continued_model(model: Dict, result: Dict) -> Dict:
    """The document with the values of an earlier analysis as starting values."""
    content, summary = model.get_dict(), summary_from_node(result)
    if content.get("schema") == SIMULTANEOUS_SCHEMA and isinstance(summary, SimultaneousSummary):
        return Dict(simultaneous_continued(content, summary))
    return Dict(model_continued(content, summary))


@calcfunction
def simultaneous_model(plan: Dict, **members: Any) -> Dict:
    """The simultaneous document of members that are passed as <name>_model and <name>_result."""
    names = [key.removesuffix("_model") for key in members if key.endswith("_model")]
    return Dict(simultaneous_document_of(
        plan.get_dict(), {name: members[f"{name}_model"].get_dict() for name in names},
        {name: summary_from_node(members[f"{name}_result"]) for name in names},
    ))


@calcfunction
def cut_grid(model: Dict, n_tiles: Int, axis: Int) -> dict[str, Dict]:
    """The tiles of a grid as model documents tile_0, tile_1, ..."""
    tiles = tile_documents(model.get_dict(), n_tiles.value, axis.value)
    return {f"tile_{k}": Dict(tile) for k, tile in enumerate(tiles)}


@calcfunction
def merge_tiles(model: Dict, **tiles: Any) -> dict[str, Any]:
    """Merge tiles, passed as tile_<n>_arrays and tile_<n>_result, into a map and its result."""
    keys = sorted(key.removesuffix("_arrays") for key in tiles if key.endswith("_arrays"))
    whole = merged_map(model.get_dict(), [
        _map_of(tiles[f"{key}_result"], tiles[f"{key}_arrays"]) for key in keys])
    arrays = map_node(whole.summary, whole.arrays)
    return {"map": arrays, "result": summary_node(whole.summary, arrays)}


def _map_of(node: Dict, arrays: SinglefileData) -> Result[ScanSummary]:
    result = result_from_nodes(node, arrays)
    if not isinstance(result.summary, ScanSummary):
        raise ValueError(f"node {node.pk} is a result of the task '{result.task}', not of a map.")
    return result
