"""Tiles of GoF maps: division of a document into tiles, and merging of their results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aiida_dse.documents import ModelDocument, parse_document
from aiida_dse.documents.plans import ScanAxis, ScanPlan
from aiida_dse.documents.results import InterpolationRow, ScanSummary
from aiida_dse.documents.status import Status
from aiida_dse.engine.maps.grid import Grid
from aiida_dse.io.results import Result

from .map_analysis import map_analysis


def scan_of(document: ModelDocument) -> ScanPlan:
    """The document's scan. Raises ValueError if there is none."""
    if document.scan is None:
        raise ValueError("the document has no 'scan'; add one with its 'axes'.")
    return document.scan


def cut_axis(grid: Grid) -> int:
    """The axis along which a grid is cut: the longest axis that changes pair distances."""
    return max(grid.outer or range(len(grid.shape)), key=lambda k: grid.shape[k])


def tile_documents(model: Mapping[str, Any], n_tiles: int, axis: int) -> list[dict[str, Any]]:
    """Divide the document of a map into about `n_tiles` documents along an axis.

    Every tile is a complete document whose axes list their values, so that the cache recognises
    tiles that were computed earlier. An adaptive grid remains one tile, because the lowest point of
    the whole grid decides where it is interpolated.
    """
    plan = scan_of(parse_document(dict(model)))
    if plan.adaptive:
        return [dict(model)]
    values = [one.points().tolist() for one in plan.axes]
    # a tile may contain no reachable point, although the grid does
    partial = {"part_of_grid": True} if any(one.quantity for one in plan.axes) else {}
    tiles = []
    for part in _parts(plan.axes[axis], n_tiles):
        axes = [
            {key: value for key, value in one.items() if key not in ("start", "stop", "step")}
            | {"values": part if k == axis else values[k]}
            for k, one in enumerate(model["scan"]["axes"])
        ]
        tiles.append({**model, "scan": {**model["scan"], "axes": axes, **partial}})
    return tiles


def _parts(axis: ScanAxis, n_parts: int) -> list[list[float]]:
    """Divide an axis into at least n_parts parts of 2^k points, at most one part per point.

    The parts of an axis with a step begin at multiples of their length from zero, so that a wider
    grid contains the parts of a narrower one.
    """
    points = axis.points().tolist()
    first = 0
    if axis.step is not None:
        start, _ = axis.ends
        assert start is not None
        first = round(start / axis.step)
    length = 2 ** max(0, int(math.log2(len(points) / n_parts)))
    parts: dict[int, list[float]] = {}
    for k, point in enumerate(points):
        parts.setdefault((first + k) // length, []).append(point)
    return list(parts.values())


def merged_map(
    model: Mapping[str, Any], tiles: Sequence[Result[ScanSummary]]
) -> Result[ScanSummary]:
    """Merge the map of a document from its tiles; the points of missing tiles are nan."""
    if not tiles:
        raise ValueError("no tile finished, so there is nothing to merge.")
    plan, first = scan_of(parse_document(dict(model))), tiles[0].summary
    axes = [row.scale * axis.points() for row, axis in zip(first.axes, plan.axes, strict=True)]
    arrays = _merged(axes, [tile.arrays for tile in tiles])
    gof = arrays["scan/gof"]
    n_done = int(np.isfinite(gof).sum())
    unreachable = sum(tile.summary.n_unreachable for tile in tiles)
    whole = first.model_copy(update={
        "status": Status.COMPLETE if n_done + unreachable == gof.size else Status.PARTIAL,
        "stop_reason": f"{n_done} of {gof.size} points", "shape": list(gof.shape),
        "n_done": n_done, "n_unreachable": unreachable, "warnings": [], "minimum": None,
        "quadratic": None, "basins": [], "adaptive": None, "document": None,
        "document_sha256": None, "interpolation": _interpolation(tiles),
        "direct_reason": next((tile.summary.direct_reason for tile in tiles
                               if tile.summary.direct_reason), ""),
        "seconds": sum(tile.summary.seconds for tile in tiles),
        "work": sum(tile.summary.work or 0.0 for tile in tiles),
        # reset to the start, since the lowest point of the whole map differs
        "parameters": {
            name: row if row.start is None else row.model_copy(
                update={"value": row.start, "start": None})
            for name, row in first.parameters.items()
        },
    })
    return Result(map_analysis(whole, arrays) if n_done else whole, arrays)


def _interpolation(tiles: Sequence[Result[ScanSummary]]) -> InterpolationRow | None:
    """The largest error and the total cost of interpolated tiles; None where there are none."""
    rows = [tile.summary.interpolation for tile in tiles]
    found = [row for row in rows if row is not None]
    if not found:
        return None
    return InterpolationRow(
        nodes=found[0].nodes if len(tiles) == 1 else [], n_exact=sum(row.n_exact for row in found),
        n_checked=sum(row.n_checked for row in found), error=max(row.error for row in found))


def _merged(
    axes: list[np.ndarray], tiles: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of a whole grid by path, with nan where no tile has a value."""
    merged: dict[str, np.ndarray] = {f"scan/axis_{k}": axis for k, axis in enumerate(axes)}
    for arrays in tiles:
        own = [arrays[f"scan/axis_{k}"] for k in range(len(axes))]
        cut = [len(part) < len(axis) for part, axis in zip(own, axes, strict=True)]
        for path, values in arrays.items():
            if path.startswith("scan/axis_"):
                continue
            # arrays have length 1 along axes that do not change them, but may differ between tiles
            long = [is_cut or n > 1 for is_cut, n in zip(cut, values.shape, strict=True)]
            shape = [len(axis) if keep else 1 for axis, keep in zip(axes, long, strict=True)]
            where = np.ix_(*[places(axis, part) if keep else np.array([0])
                             for axis, part, keep in zip(axes, own, long, strict=True)])
            kind = values.dtype if values.dtype.kind == "f" else float
            merged.setdefault(path, np.full(shape, np.nan, dtype=kind))[where] = values
    for path, values in merged.items():
        if path.startswith(("scan/moved_", "scan/quantity_")):
            for k in range(values.ndim):
                first = values.take([0], axis=k)
                if np.array_equal(values, np.broadcast_to(first, values.shape)):
                    values = first
            merged[path] = values
    return merged


def places(axis: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Indices of the values of a part on the whole axis."""
    return np.asarray(np.argmin(np.abs(axis[:, None] - part[None, :]), axis=0))
