"""GoF maps: the model evaluated on a grid of one to three axes.

Axes that do not change the distances (B_iso, occupancy, scale) are innermost and share the sine
sums of their outer point. The outer points are distributed over threads; an adaptive scan computes
only those with a low chi2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.memo import Memo
from aiida_dse.engine.model.pattern import Evaluation, PatternModel
from aiida_dse.engine.model.phase import PhaseState
from aiida_dse.engine.model.restraints import Restraint
from aiida_dse.engine.resources import ONE_THREAD, Resources, StopCheck, spread
from aiida_dse.engine.units import FloatArray

from . import adaptive as coarse_to_fine
from .axes import MapAxis
from .grid import Coordinate, Grid, grid_of, refinable

#: Smallest number of blocks of a round with enough outer points, and largest size of a block.
LEAST_BLOCKS, LARGEST_BLOCK = 32, 32
#: Number of Debye-Waller factors that a scan caches, by B_iso: 8 n_q bytes each.
DAMPING_KEPT = 512


@dataclass(frozen=True)
class ScanProgress:
    """Progress of a scan."""

    done: int
    total: int
    best_gof: float
    best_at: tuple[float, ...]
    elapsed: float

    @property
    def remaining(self) -> float:
        """Estimated seconds to the end."""
        return self.elapsed / max(1, self.done) * (self.total - self.done)


@dataclass(frozen=True)
class GofMap:
    """A map of GoF and chi2 on a grid; nan at points without a value.

    gof, chi2 and n_active have the shape of the grid (n_1, ..., n_k), and so have the arrays in
    `refined`, the parameters refined at each point. n_active counts the linear coefficients and
    the parameters refined at each point. `evaluated` is a mask of the points that an adaptive scan
    computed rather than interpolated (None: all points with a value).
    """

    grid: Grid
    gof: FloatArray
    chi2: FloatArray
    n_active: FloatArray
    refined: dict[str, FloatArray]
    n_points: int
    seconds: float
    stop_reason: str
    evaluated: np.ndarray | None = None

    @property
    def axes(self) -> tuple[Coordinate, ...]:
        return self.grid.axes

    @property
    def complete(self) -> bool:
        """Whether every point that can be reached has a value."""
        return bool((np.isfinite(self.gof) | self.grid.unreachable).all())

    @property
    def lowest(self) -> tuple[int, ...]:
        """The index of the grid point with the lowest GoF."""
        return tuple(int(i) for i in
                     np.unravel_index(int(np.nanargmin(self.gof)), self.gof.shape))

    @property
    def minimum(self) -> dict[str, float]:
        """The values at the lowest GoF: axes, moved parameters, refined parameters and 'gof'."""
        at = self.lowest
        values = {axis.name: float(axis.values[k]) for axis, k in zip(self.axes, at, strict=True)}
        values |= self.grid.at(at)
        values |= {name: float(refined[at]) for name, refined in self.refined.items()}
        return values | {"gof": float(self.gof[at])}


def scan(
    model: PatternModel,
    axes: Sequence[MapAxis] | Grid,
    *,
    start: Mapping[str, float] | None = None,
    refine_at_each_point: Sequence[str] = (),
    restraints: Sequence[Restraint] = (),
    adaptive: bool = False,
    on_progress: Callable[[ScanProgress], None] | None = None,
    on_block: Callable[[GofMap], None] | None = None,
    should_stop: Callable[[], str | None] | None = None,
    resources: Resources = ONE_THREAD,
    finished: GofMap | None = None,
) -> GofMap:
    """The GoF map of a model over the axes; other parameters stay at `start`.

    `refine_at_each_point` names parameters (wildcards allowed) that are refined at every point,
    under the `restraints`; the map contains the chi2 of the pattern without restraints. An
    `adaptive` scan computes from coarse to fine and interpolates chi2 where it is high. `on_block`
    receives the unfinished map after every block of points. Ctrl-C, or a reason returned by
    `should_stop`, ends the scan with the points computed so far; such an earlier map on the same
    axes can be passed as `finished`, and its points are not recomputed. Blocks of points share
    the `resources`, with one thread for each block where there are enough blocks. Raises
    ValueError for axes that cannot be scanned, and where `finished` has another grid.
    """
    grid = axes if isinstance(axes, Grid) else grid_of(
        model, axes, start=start, refined=refine_at_each_point)
    clock = time.monotonic()
    base = model.constrained(dict(start or model.start))
    work = _Work(model, grid, base, refinable(model, grid.moved, refine_at_each_point), restraints)
    if finished is not None:
        work.take(finished)

    def after_block(*_: object) -> None:
        if on_block:
            on_block(work.map(clock, "running"))
        if on_progress:
            on_progress(work.progress(clock))

    reason = "complete"
    try:
        for points in work.rounds(adaptive):
            blocks = _blocks(points)
            work.share(resources, len(blocks))
            reason = spread(work.block, blocks, on_done=after_block, should_stop=should_stop,
                            resources=resources)
            if reason != "complete":
                break
        if adaptive and work.outer and reason == "complete":
            work.interpolate()
    except KeyboardInterrupt:  # between two rounds
        reason = "interrupted"
    return work.map(clock, reason)


def _blocks(points: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Neighbouring points in blocks, whose size does not depend on the number of threads.

    Each point of a block provides starting values for the next one, so with other blocks, a map
    with parameters refined at each point would differ.
    """
    size = max(1, min(LARGEST_BLOCK, -(-len(points) // LEAST_BLOCKS)))
    return [points[k : k + size] for k in range(0, len(points), size)]


class _Work:
    """An unfinished map: it plans the rounds, evaluates blocks of points and stores their chi2."""

    def __init__(
        self, model: PatternModel, grid: Grid, base: dict[str, float], local: list[str],
        restraints: Sequence[Restraint],
    ) -> None:
        self.whole_model = self.model = model
        self.grid, self.base, self.local = grid, base, local
        self.restraints = restraints
        self.inner, self.outer = grid.inner, grid.outer
        self.chi2 = np.full(grid.shape, np.nan)
        self.active = np.full(grid.shape, np.nan)
        self.refined = {name: np.full(grid.shape, np.nan) for name in local}
        self.evaluated: np.ndarray | None = None
        self.damping: Memo[FloatArray] = Memo(DAMPING_KEPT)
        self.scales: dict[str, str] = {
            model.scale_name(phase): phase.name for phase in model.phases}

    def take(self, finished: GofMap) -> None:
        """Take over the computed points of an earlier map; ValueError for another grid."""
        if not self.grid.same_points(finished.grid) or set(finished.refined) != set(self.local):
            raise ValueError(
                "the finished points belong to another grid over "
                f"{', '.join(a.name for a in finished.axes)}. Start without them."
            )
        known = True if finished.evaluated is None else finished.evaluated
        self.chi2[:] = np.where(known, finished.chi2, np.nan)
        self.active[:] = np.where(known, finished.n_active, np.nan)
        for name in self.local:
            self.refined[name][:] = finished.refined[name]

    def rounds(self, adaptive: bool) -> Iterator[list[tuple[int, ...]]]:
        """Yield the outer points still to compute; each round depends on the previous ones."""
        reachable = np.asarray(~self.grid.unreachable.any(axis=self.inner))
        if adaptive and self.outer:
            rounds = coarse_to_fine.rounds(
                self._best, reachable, len(self.model.sampling.q))
        else:
            rounds = iter([[tuple(int(i) for i in at) for at in np.argwhere(reachable)]])
        for points in rounds:
            yield [at for at in points if np.isnan(self.chi2[self.slice_of(at)]).any()]

    def share(self, resources: Resources, n_blocks: int) -> None:
        """Assign each of the blocks that run at the same time its share of the resources."""
        self.model = self.whole_model.with_resources(
            resources.share(resources.workers(n_blocks)))

    def interpolate(self) -> None:
        """Interpolate the points that an adaptive scan did not compute, and set `evaluated`."""
        self.evaluated = np.isfinite(self.chi2)
        known = self.evaluated.any(axis=self.inner)
        to_front = (*self.outer, *self.inner)
        grids = coarse_to_fine.levels(known.shape)
        missing = self.grid.unreachable
        for values in (self.chi2, self.active):
            full = np.where(missing, np.nanmax(values, initial=0.0), values)
            whole = coarse_to_fine.filled(
                full.transpose(to_front), np.asarray(known | missing.any(axis=self.inner)), grids)
            values[:] = np.where(missing, np.nan, whole.transpose(np.argsort(to_front)))

    def _best(self) -> FloatArray:
        """The lowest chi2 over the inner axes, of the shape of the outer ones; nan if unknown."""
        return np.asarray(self.chi2.min(axis=self.inner))

    def progress(self, clock: float) -> ScanProgress:
        at = np.unravel_index(int(np.nanargmin(self.chi2)), self.chi2.shape)
        gof = np.sqrt(self.chi2[at] / (len(self.model.sampling.q) - self.active[at]))
        return ScanProgress(
            int(np.isfinite(self.chi2).sum()), int((~self.grid.unreachable).sum()), float(gof),
            tuple(float(a.values[k]) for a, k in zip(self.grid.axes, at, strict=True)),
            time.monotonic() - clock,
        )

    def slice_of(self, point: tuple[int, ...]) -> tuple[int | slice, ...]:
        """The part of the map that belongs to an outer point."""
        at: list[int | slice] = [slice(None)] * len(self.grid.shape)
        for k, i in zip(self.outer, point, strict=True):
            at[k] = i
        return tuple(at)

    def map(self, clock: float, reason: str) -> GofMap:
        n_points = len(self.model.sampling.q)
        return GofMap(
            self.grid, np.sqrt(self.chi2 / (n_points - self.active)), self.chi2.copy(),
            self.active.copy(), {name: values.copy() for name, values in self.refined.items()},
            n_points, time.monotonic() - clock, reason, self.evaluated,
        )

    def block(self, points: Sequence[tuple[int, ...]], stopping: StopCheck) -> None:
        """Evaluate neighbouring outer points in order, each of which provides states for the next.

        A block computes at least one point, so that every run of a scan makes progress.
        """
        previous: Sequence[PhaseState] | None = None
        start = dict(self.base)
        for k, point in enumerate(points):
            if k and stopping():
                return
            index = [0] * len(self.grid.shape)
            for axis, i in zip(self.outer, point, strict=True):
                index[axis] = i
            if self.local:
                start, previous = self._refined_point(index, start, previous)
                continue
            values, _ = self._at(index, self.base)
            previous = self.model.states(values, previous)
            self._sweep(index, previous)

    def _sweep(self, index: list[int], states: Sequence[PhaseState]) -> None:
        """Evaluate all inner points of one outer point, which share the same sine sums."""
        where, many, scaled = [], [], []
        for sweep in product(*[range(self.grid.shape[k]) for k in self.inner]):
            for k, i in zip(self.inner, sweep, strict=True):
                index[k] = i
            values, scales = self._at(index, self.base)
            where.append(tuple(index))
            many.append(values)
            scaled.append(scales)
        if any(scaled):
            for at, values, scales in zip(where, many, scaled, strict=True):
                self._store(list(at), self.model.evaluate_at(states, values, scales), 0)
            return
        chi2, active = self.model.sweep(states, many, self.damping)
        for at, value, count in zip(where, chi2, active, strict=True):
            self.chi2[at], self.active[at] = value, count

    def _refined_point(
        self, index: list[int], start: dict[str, float],
        previous: Sequence[PhaseState] | None,
    ) -> tuple[dict[str, float], Sequence[PhaseState]]:
        """Refine the local parameters at one point; the values and states for the next point."""
        values, scales = self._at(index, start)
        model = self.model if not scales else self.model.with_fixed_scales(scales)
        # start from the neighbour's values or the common start, whichever fits better here
        fresh, _ = self._at(index, self.base)
        here = model.evaluate(values, previous)
        if model.evaluate(fresh, here.states).chi2 < here.chi2:
            values = fresh
        refined = refine(
            model, [self.local], start=values, max_cycles=25, tolerance=0.02, previous=previous,
            restraints=self.restraints,
        )
        for name in self.local:
            self.refined[name][tuple(index)] = refined.values[name]
        self._store(index, refined.evaluation, len(self.local))
        return refined.values, refined.evaluation.states

    def _store(self, index: list[int], evaluation: Evaluation, n_local: int) -> None:
        self.active[tuple(index)] = n_local + int(evaluation.linear.active.sum())
        self.chi2[tuple(index)] = evaluation.chi2

    def _at(
        self, index: Sequence[int], start: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The parameter values and the fixed scales at a grid point."""
        values, scales = dict(start), dict(self.model.fixed_scales)
        for name, value in self.grid.at(tuple(index)).items():
            if name in self.scales:
                scales[self.scales[name]] = value
            else:
                values[name] = value
        return self.model.constrained(values), scales
