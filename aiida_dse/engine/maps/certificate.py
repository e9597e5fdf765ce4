"""The certificate of interpolated maps: exact evaluations at points that are no nodes.

Checked are the corners of the grid and points spread over it, then the lowest point of the map and
its neighbours. Where GoF differs too much, nodes are added; where these would cost as much as the
points, the map is not interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import product

import numpy as np

from aiida_dse.engine.resources import Resources, StopCheck, spread
from aiida_dse.engine.units import FloatArray

from .gof_map import Interpolation
from .interpolated import (
    NodePatterns,
    NotInterpolated,
    Stopped,
    chosen_nodes,
    interpolated,
    require_worthwhile,
)
from .points import MapPoints, blocks

#: Largest relative error of GoF at the checked points.
TOLERANCE = 1e-6
#: Number of geometries (points of the outer axes) spread over the grid, and of inner points of each.
SPREAD, SPREAD_INSIDE = 33, 64
#: Maps with fewer geometries are computed point by point, without looking at their axes.
LEAST_GEOMETRIES = 150

Point = tuple[int, ...]


def interpolate(
    points: MapPoints, tolerance: float, resources: Resources, should_stop: StopCheck | None,
    on_progress: Callable[[int], None],
) -> None:
    """Fill a map from exact patterns at nodes, and certify it.

    The lowest point of the map and all checked points are exact. Raises NotInterpolated with the
    reason where every point must be computed, and Stopped.
    """
    grid = points.grid
    if math.prod(grid.shape[k] for k in grid.outer) < LEAST_GEOMETRIES:
        raise NotInterpolated(f"the map has fewer than {LEAST_GEOMETRIES} geometries")
    exact = NodePatterns(points.model, grid, points.base, resources, should_stop, on_progress)
    nodes = chosen_nodes(exact, tolerance)
    checked: set[Point] = set()

    def check(wanted: Iterable[tuple[Point, Point]]) -> None:
        inside: dict[Point, list[Point]] = {}
        for outer, inner in wanted:
            if np.isnan(points.chi2[_place(points, outer, inner)]):
                inside.setdefault(outer, []).append(inner)
        parts = blocks(sorted(inside))
        points.share(resources, len(parts))
        reason = spread(
            lambda part, stopping: points.block(part, stopping, inside), parts,
            on_done=lambda *_: None, should_stop=should_stop, resources=resources)
        if reason != "complete":
            raise Stopped(reason)
        checked.update(inside)
        on_progress(exact.computed + len(checked))

    spread_points = _spread_points(points)
    before = math.inf
    while True:
        chi2, active = interpolated(exact, nodes)
        check(spread_points)
        while True:
            known = np.isfinite(points.chi2)
            gof = _gof(points, np.where(known, points.chi2, chi2),
                       np.where(known, points.active, active))
            lowest = tuple(int(i) for i in np.unravel_index(int(np.argmin(gof)), gof.shape))
            if known[lowest]:
                break
            check(_around(points, lowest))
        differences = np.abs(_gof(points, chi2, active)[known]
                             / _gof(points, points.chi2, points.active)[known] - 1)
        error = float(differences.max())
        if error <= tolerance:
            break
        more = nodes.more(grid)
        if more == nodes or error > before / 2:
            raise NotInterpolated(f"the interpolated GoF would have a relative error of up to {error:.1e}")
        nodes, before = more, error
        require_worthwhile(exact, nodes)
    points.interpolation = Interpolation(
        nodes.counts, exact.computed + len(checked), int(known.sum()), error)
    points.chi2[:] = np.where(known, points.chi2, chi2)
    points.active[:] = np.where(known, points.active, active)


def _gof(points: MapPoints, chi2: FloatArray, active: FloatArray) -> FloatArray:
    # an exact fit has chi2 = 0
    return np.sqrt(np.maximum(chi2, 1e-300) / (points.model.n_points - active))


def _place(points: MapPoints, outer: Point, inner: Point) -> Point:
    index = [0] * len(points.grid.shape)
    for axes, at in ((points.outer, outer), (points.inner, inner)):
        for k, i in zip(axes, at, strict=True):
            index[k] = i
    return tuple(index)


def _spread_points(points: MapPoints) -> list[tuple[Point, Point]]:
    """Corners and spread points of the outer axes, with those of the inner axes at each."""
    outer, inner = ([points.grid.shape[k] for k in axes] for axes in (points.outer, points.inner))
    if math.prod(inner) <= SPREAD_INSIDE:
        within: list[Point] = list(np.ndindex(*inner))
    else:
        within = _spread(inner, SPREAD_INSIDE)
    return [(at, one) for at in _spread(outer, SPREAD) for one in within]


def _spread(shape: list[int], n: int) -> list[Point]:
    """About n different points of a grid: its corners and an additive recurrence.

    The recurrence is that of the generalised golden ratio (M. Roberts, 2018), whose points are
    evenly spread in any number of dimensions.
    """
    found = dict.fromkeys(product(*[(0, size - 1) for size in shape]))
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (len(shape) + 1))
    steps = root ** -np.arange(1.0, len(shape) + 1)
    for k in range(1, 20 * n):
        if len(found) >= min(n, math.prod(shape)):
            break
        at = (0.5 + k * steps) % 1.0
        found[tuple(int(i) for i in at * shape)] = None
    return list(found)


def _around(points: MapPoints, at: Point) -> list[tuple[Point, Point]]:
    """A point and its nearest neighbours along each axis."""
    found = [at]
    for k, size in enumerate(points.grid.shape):
        found += [(*at[:k], i, *at[k + 1:]) for i in (at[k] - 1, at[k] + 1) if 0 <= i < size]
    return [(tuple(one[k] for k in points.outer), tuple(one[k] for k in points.inner))
            for one in found]
