"""Exact evaluation of the points of a map, block by block."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.memo import Memo
from aiida_dse.engine.model.pattern import Evaluation, PatternModel
from aiida_dse.engine.model.phase import PhaseState
from aiida_dse.engine.model.restraints import Restraint
from aiida_dse.engine.resources import Resources, StopCheck
from aiida_dse.engine.units import FloatArray

from . import adaptive as coarse_to_fine
from .gof_map import GofMap, Interpolation, ScanProgress
from .grid import Grid

#: Smallest number of blocks of a round with enough outer points, and largest size of a block.
LEAST_BLOCKS, LARGEST_BLOCK = 32, 32
#: Number of Debye-Waller factors that a scan caches, by B_iso: 8 n_q bytes each.
DAMPING_KEPT = 512
#: Largest number of points of a sweep whose patterns are in memory at the same time.
LARGEST_SWEEP = 256


def blocks(points: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Neighbouring points in blocks, whose size does not depend on the number of threads.

    Each point of a block provides starting values for the next one, so with other blocks, a map
    with parameters refined at each point would differ.
    """
    size = max(1, min(LARGEST_BLOCK, -(-len(points) // LEAST_BLOCKS)))
    return [points[k : k + size] for k in range(0, len(points), size)]


class MapPoints:
    """The points of an unfinished map: plans rounds, evaluates blocks of points and stores chi2."""

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
        #: Starting values of the refined parameters on the grid; empty while they are unknown.
        self.starts: dict[str, FloatArray] = {}
        self.evaluated: np.ndarray | None = None
        self.interpolation: Interpolation | None = None
        self.direct_reason = ""
        self.computed = 0
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
        if self.done == 1:
            self.interpolation, self.direct_reason = finished.interpolation, finished.direct_reason

    @property
    def done(self) -> float:
        """The share of points with a value."""
        return float(np.isfinite(self.chi2).mean())

    def rounds(self, adaptive: bool) -> Iterator[list[tuple[int, ...]]]:
        """Yield the outer points still to compute; each round depends on the previous ones.

        Parameters that are refined at every point are refined on a coarse grid first, from which
        the starting values of the other points are interpolated.
        """
        reachable = np.asarray(~self.grid.unreachable.any(axis=self.inner))
        if adaptive and self.outer:
            rounds = coarse_to_fine.rounds(
                self._best, reachable, self.model.n_points)
        else:
            rounds = iter(self._coarse_first(reachable))
        for points in rounds:
            yield [at for at in points if np.isnan(self.chi2[self.slice_of(at)]).any()]
            if self.local and not self.starts:
                self._interpolate_starts()

    def _coarse_first(self, reachable: np.ndarray) -> list[list[tuple[int, ...]]]:
        first = np.zeros_like(reachable)
        if self.local:
            first[np.ix_(*coarse_to_fine.levels(reachable.shape)[0])] = True
        return [[tuple(int(i) for i in at) for at in np.argwhere(reachable & part)]
                for part in (first, ~first) if part.any()]

    def _interpolate_starts(self) -> None:
        """Interpolate the refined parameters from the coarse grid; without it, from no point."""
        grids = coarse_to_fine.levels(self.grid.shape)
        coarse = {name: values[np.ix_(*grids[0])] for name, values in self.refined.items()}
        if all(np.isfinite(values).all() for values in coarse.values()):
            known = np.isfinite(self.chi2)
            self.starts = {name: coarse_to_fine.filled(values, known, grids)
                           for name, values in self.refined.items()}

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
        n_all = int((~self.grid.unreachable).sum())
        if np.isnan(self.chi2).all():
            return ScanProgress(0, n_all, np.nan, (), time.monotonic() - clock, self.computed)
        at = np.unravel_index(int(np.nanargmin(self.chi2)), self.chi2.shape)
        gof = np.sqrt(self.chi2[at] / (self.model.n_points - self.active[at]))
        return ScanProgress(
            int(np.isfinite(self.chi2).sum()), n_all, float(gof),
            tuple(float(a.values[k]) for a, k in zip(self.grid.axes, at, strict=True)),
            time.monotonic() - clock, self.computed,
        )

    def slice_of(self, point: tuple[int, ...]) -> tuple[int | slice, ...]:
        """The part of the map that belongs to an outer point."""
        at: list[int | slice] = [slice(None)] * len(self.grid.shape)
        for k, i in zip(self.outer, point, strict=True):
            at[k] = i
        return tuple(at)

    def map(self, clock: float, reason: str) -> GofMap:
        n_points = self.model.n_points
        return GofMap(
            self.grid, np.sqrt(self.chi2 / (n_points - self.active)), self.chi2.copy(),
            self.active.copy(), {name: values.copy() for name, values in self.refined.items()},
            n_points, time.monotonic() - clock, reason, self.evaluated, self.interpolation,
            self.direct_reason,
        )

    def block(
        self, points: Sequence[tuple[int, ...]], stopping: StopCheck,
        inside: Mapping[tuple[int, ...], Sequence[tuple[int, ...]]] | None = None,
    ) -> None:
        """Evaluate neighbouring outer points in order, each of which provides states for the next.

        A block computes at least one point, so that every run of a scan makes progress. `inside`
        lists the inner points to evaluate at each outer point (default: all).
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
            self._sweep(index, previous, None if inside is None else inside[point])

    def _sweep(
        self, index: list[int], states: Sequence[PhaseState],
        inside: Sequence[tuple[int, ...]] | None,
    ) -> None:
        """Evaluate inner points of one outer point, which share the same sine sums."""
        if inside is None:
            inside = list(product(*[range(self.grid.shape[k]) for k in self.inner]))
        for first in range(0, len(inside), LARGEST_SWEEP):
            self._part_of_sweep(index, states, inside[first : first + LARGEST_SWEEP])

    def _part_of_sweep(
        self, index: list[int], states: Sequence[PhaseState], inside: Sequence[tuple[int, ...]]
    ) -> None:
        where, many, scaled = [], [], []
        for sweep in inside:
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
        # the start that fits best here: the neighbour's, the common one or the interpolated one
        candidates = [self.base]
        if self.starts:
            candidates.append(self.base | {name: float(known[tuple(index)])
                                           for name, known in self.starts.items()})
        best = model.evaluate(values, previous)
        for candidate in candidates:
            other = model.evaluate(self._at(index, candidate)[0], best.states)
            best = other if other.chi2 < best.chi2 else best
        values = dict(best.values)
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
