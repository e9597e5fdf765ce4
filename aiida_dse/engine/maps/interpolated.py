"""GoF maps by interpolation of exact patterns.

The partial Debye sums of a phase are entire functions of coordinates and cell edges: moving an atom
by d changes the phase q r of a distance by at most q |d|, so that their Chebyshev interpolants
converge geometrically once they have more nodes than this change on the half range of an axis. The
patterns are exact at a tensor of nodes. chi2 requires only inner products of patterns; along an axis
with m nodes these are polynomials of degree 2 m - 2, known from 2 m - 1 values. After that, a point
of the grid costs a few thousand multiplications.

Axes along which interpolation saves no time (few values), or does not converge (a number of cells that
changes in steps, a path with corners) keep their own values, and only the others are interpolated.
Scale axes require no pattern at all. `scan` computes points of every such map exactly, and uses the
map only if it agrees with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from aiida_dse.engine.memo import Memo
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import PhaseState
from aiida_dse.engine.resources import Resources, StopCheck, spread
from aiida_dse.engine.units import FloatArray

from . import chebyshev
from .axes import PathAxis
from .grid import Grid, grid_of
from .points import DAMPING_KEPT, blocks

#: Numbers of nodes on the line along an axis from which the required number is determined.
PROBES = (12, 24, 48, 96)
#: Smallest number of nodes, and largest share of an axis's values that nodes may replace.
LEAST_NODES, LARGEST_SHARE = 3, 0.8
#: The error that is aimed at, relative to that which the certificate permits.
MARGIN = 0.05
#: Largest roughness of patterns along an axis, relative to the error that the certificate permits.
ROUGHEST = 0.5
#: Exact evaluations of the certificate, and largest share of the points that all may amount to.
CHECKED, WORTHWHILE = 40, 0.6
#: Size (bytes) of the work arrays of one step.
STEP_BYTES = 1e8


class NotInterpolated(Exception):
    """Interpolation is not possible or saves no time on this grid; the message is the reason."""


class Stopped(Exception):
    """The computation of exact patterns was stopped; the message is the reason."""


@dataclass(frozen=True)
class Nodes:
    """The number of Chebyshev nodes of each axis; None for axes that keep their own values."""

    counts: tuple[int | None, ...]

    def more(self, grid: Grid) -> Nodes:
        """About a fifth more nodes on every axis that has nodes, at least two."""
        return Nodes(tuple(
            None if n is None or n + 2 > LARGEST_SHARE * size else min(size, n + 2 + n // 5)
            for n, size in zip(self.counts, grid.shape, strict=True)))


class NodePatterns:
    """The exact patterns of a model on tensors of values of the axes of a grid."""

    def __init__(
        self, model: PatternModel, grid: Grid, base: Mapping[str, float], resources: Resources,
        should_stop: StopCheck | None, on_progress: Callable[[int], None],
    ) -> None:
        if not grid.sources:
            raise NotInterpolated("the axes from which the grid was made are unknown")
        if grid.unreachable.any():
            raise NotInterpolated("some grid points are unreachable")
        self.model, self.grid, self.base = model, grid, base
        self.resources, self.should_stop, self.on_progress = resources, should_stop, on_progress
        self.scales: dict[str, int] = {
            model.scale_name(phase): k for k, phase in enumerate(model.phases)}
        self.scale_axes = [k for k, axis in enumerate(grid.axes) if axis.name in self.scales]
        self.computed = 0
        self.damping: Memo[FloatArray] = Memo(DAMPING_KEPT)

    def values(self, k: int, nodes: int | None) -> FloatArray:
        """The values of an axis at its nodes, or its own values."""
        own = self.grid.axes[k].values / self.grid.axes[k].scale
        if k in self.scale_axes:
            return np.asarray(own[:1])
        return own if nodes is None else chebyshev.nodes(own.min(), own.max(), nodes)

    def at(self, values: Sequence[FloatArray]) -> tuple[FloatArray, bool]:
        """The projected patterns (n_1, ..., n_k, n_phases, n_points) at values of the axes.

        Also whether any of them is nearly a combination of the background terms.
        """
        shape = tuple(len(one) for one in values)
        size = 8 * len(self.model.phases) * self.model.n_points
        if math.prod(shape) * size > self.resources.memory / 3:
            raise NotInterpolated("the patterns at the Chebyshev nodes would not fit into the memory")
        sampled = self._grid(values)
        found = np.empty((*shape, len(self.model.phases), self.model.n_points))
        dependent = False
        parts = blocks(list(product(*[range(shape[k]) for k in self.grid.outer])))
        model = self.model.with_resources(
            self.resources.share(self.resources.workers(len(parts))))

        def compute(block: list[tuple[int, ...]], stopping: StopCheck) -> bool:
            previous: Sequence[PhaseState] | None = None
            near = False
            for point in block:
                if stopping():
                    break
                index: list[int | slice] = [slice(None)] * len(shape)
                for k, i in zip(self.grid.outer, point, strict=True):
                    index[k] = i
                many = [self._values(sampled, tuple(one)) for one in _inside(index, shape)]
                previous = model.states(many[0], previous)
                patterns, bad = model.linear.projected(
                    model.patterns(previous, many, self.damping))
                found[tuple(index)] = patterns.reshape(found[tuple(index)].shape)
                near = near or bool(bad.any())
            return near

        def done(block: list[tuple[int, ...]], near: bool) -> None:
            nonlocal dependent
            dependent = dependent or near
            self.computed += len(block)
            self.on_progress(self.computed)

        reason = spread(compute, parts, on_done=done, should_stop=self.should_stop,
                        resources=self.resources)
        if reason != "complete":
            raise Stopped(reason)
        return found, dependent

    def _grid(self, values: Sequence[FloatArray]) -> Grid:
        axes = [replace(axis, shares=one) if isinstance(axis, PathAxis) else replace(axis, values=one)
                for axis, one in zip(self.grid.sources, values, strict=True)]
        sampled = grid_of(self.model, axes, start=self.base, partial=True)
        if sampled.unreachable.any():
            raise NotInterpolated("some Chebyshev nodes are unreachable")
        return sampled

    def _values(self, sampled: Grid, index: tuple[int, ...]) -> dict[str, float]:
        moved = {name: value for name, value in sampled.at(index).items()
                 if name not in self.scales}
        return self.model.constrained({**self.base, **moved})


def _inside(index: Sequence[int | slice], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The points of a tensor that an index with slices selects, in order."""
    return list(product(*[range(n) if isinstance(i, slice) else (i,)
                          for i, n in zip(index, shape, strict=True)]))


def chosen_nodes(exact: NodePatterns, tolerance: float) -> Nodes:
    """The numbers of nodes with which GoF is expected to be exact within `tolerance`.

    Each axis is judged by exact patterns on the line through the middle of the grid: the smallest
    number of Chebyshev terms is chosen whose chi2 agrees with that of many more. Raises
    NotInterpolated where the exact patterns at the nodes would cost too much.
    """
    grid = exact.grid
    counts: list[int | None] = [None] * len(grid.shape)
    n_outer = math.prod(grid.shape[k] for k in grid.outer)
    affordable = WORTHWHILE * n_outer - CHECKED
    order = sorted(range(len(grid.shape)), key=lambda k: -grid.shape[k])
    for k in order:
        if k in exact.scale_axes:
            continue
        counts[k] = _nodes_along(exact, k, tolerance)
        if exact.computed > affordable:
            break
    nodes = Nodes(tuple(counts))
    require_worthwhile(exact, nodes)
    return nodes


def require_worthwhile(exact: NodePatterns, nodes: Nodes) -> None:
    """Raise NotInterpolated where the exact patterns at the nodes would cost too much."""
    grid = exact.grid
    cost = math.prod(n or size for k, (n, size) in enumerate(
        zip(nodes.counts, grid.shape, strict=True)) if k in grid.outer)
    limit = WORTHWHILE * math.prod(grid.shape[k] for k in grid.outer)
    if exact.computed + cost + CHECKED > limit or not any(nodes.counts):
        raise NotInterpolated("interpolation would save too little time")


def _nodes_along(exact: NodePatterns, k: int, tolerance: float) -> int | None:
    """The number of nodes along an axis; None where it keeps its own values."""
    grid = exact.grid
    largest = LARGEST_SHARE * grid.shape[k]
    values = [_few(exact.values(i, None), ends=i in grid.inner) for i in range(len(grid.shape))]
    for n in PROBES:
        if largest < LEAST_NODES or (n > largest and n > PROBES[0]):
            return None
        patterns, _ = exact.at([exact.values(i, n) if i == k else one
                                for i, one in enumerate(values)])
        patterns = np.moveaxis(patterns, k, 0)
        reference = _gof(exact.model, patterns)
        errors = np.array([
            np.abs(_gof(exact.model, chebyshev.along(
                patterns, [chebyshev.truncation(n, kept)])) / reference - 1).max()
            for kept in range(LEAST_NODES, n - 2)])
        # sampled distances make the patterns of small particles rough at a level of its own
        aim = max(MARGIN * tolerance, 2 * errors.min())
        if aim <= ROUGHEST * tolerance:
            kept = LEAST_NODES + int(np.argmax(errors <= aim))
            return kept if kept <= largest else None
    return None


def _few(values: FloatArray, ends: bool) -> FloatArray:
    """Both ends of an axis, or its middle."""
    return values[[0, -1]] if ends and len(values) > 1 else values[[len(values) // 2]]


def _gof(model: PatternModel, patterns: FloatArray) -> FloatArray:
    """sqrt(chi2) of projected patterns (..., n_phases, n_points), with all scales solved."""
    products = model.linear.products(patterns)
    chi2, _, _ = model.linear.solved(products.reshape(-1, *products.shape[-2:]))
    return np.sqrt(np.maximum(chi2, 1e-300))


def interpolated(exact: NodePatterns, nodes: Nodes) -> tuple[FloatArray, FloatArray]:
    """chi2 and the number of active linear coefficients on the grid, both of its shape.

    Raises NotInterpolated where patterns and background cannot be distinguished.
    """
    grid, model = exact.grid, exact.model
    samples = [exact.values(k, n) for k, n in enumerate(nodes.counts)]
    patterns, dependent = exact.at(samples)
    if dependent:
        raise NotInterpolated("a pattern is nearly a combination of the background terms")
    smooth = [k for k, n in enumerate(nodes.counts) if n is not None]
    kept = [k for k in range(len(grid.shape)) if k not in smooth]
    patterns = patterns.transpose(*kept, *smooth, -2 % patterns.ndim, -1 % patterns.ndim)
    to_middle, to_grid = [], []
    for k in smooth:
        own, n = exact.values(k, None), len(samples[k])
        middle = chebyshev.nodes(own.min(), own.max(), 2 * n - 1)
        saves = 2 * n - 1 < len(own)
        to_middle.append(chebyshev.matrix(samples[k], middle if saves else own))
        to_grid.append(chebyshev.matrix(middle, own) if saves else None)
    slices = list(np.ndindex(*[len(samples[k]) for k in kept]))
    shape = [grid.shape[k] for k in smooth]
    chi2 = np.empty((*[grid.shape[k] for k in kept], *shape))
    active = np.empty_like(chi2)
    scales = [k for k in kept if k in exact.scale_axes]
    work = partial(_products, model, to_middle=to_middle, to_grid=to_grid)
    for at, products in zip(slices, exact.resources.ordered(
            work, [patterns[one] for one in slices]), strict=True):
        flat = products.reshape(-1, *products.shape[-2:])
        for values in product(*[range(grid.shape[k]) for k in scales]):
            fixed = {exact.scales[model.scale_name(phase)]: model.fixed_scales[phase.name]
                     for phase in model.phases if phase.name in model.fixed_scales}
            index = list(at)
            for k, i in zip(scales, values, strict=True):
                fixed[exact.scales[grid.axes[k].name]] = float(grid.axes[k].values[i])
                index[kept.index(k)] = i
            found, count, singular = model.linear.solved(flat, fixed)
            if singular.any():
                raise NotInterpolated("the patterns of two phases are nearly equal")
            chi2[tuple(index)] = found.reshape(shape)
            active[tuple(index)] = count.reshape(shape)
        if exact.should_stop and (why := exact.should_stop()):
            raise Stopped(why)
    back = np.argsort([*kept, *smooth])
    return chi2.transpose(back), active.transpose(back)


def _products(
    model: PatternModel, patterns: FloatArray, *, to_middle: Sequence[FloatArray],
    to_grid: Sequence[FloatArray | None],
) -> FloatArray:
    """The inner products on the grid (n_1, ..., n_a, n_phases, ...), from patterns at the nodes."""
    rows = [len(one) for one in to_middle]
    bytes_each = 8 * math.prod(rows[1:]) * patterns.shape[-2] * patterns.shape[-1]
    length = max(1, int(STEP_BYTES / bytes_each))
    parts = []
    for first in range(0, rows[0], length):
        steps = [to_middle[0][first : first + length], *to_middle[1:]]
        parts.append(model.linear.products(chebyshev.along(patterns, steps)))
    return chebyshev.along(np.concatenate(parts), to_grid)
