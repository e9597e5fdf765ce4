"""GoF maps: the model evaluated on a grid of one to three parameters.

Axes that leave the distances alone (B, occupancy, scale) are swept innermost, on the sine sums of
the outer point; the outer points are shared among threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product

import numpy as np

from .parameters import require_possible, select
from .pattern import Evaluation, PatternModel
from .phase import PhaseState
from .refine import refine
from .restraints import Restraint
from .threads import thread_count
from .units import FloatArray

#: The largest grid one scan accepts.
MAX_POINTS = 5_000_000


@dataclass(frozen=True)
class Axis:
    """A parameter and the values it takes, (n,) in the parameter's unit."""

    parameter: str
    values: FloatArray


@dataclass(frozen=True)
class ScanProgress:
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
    """GoF, chi2 and scales on the grid; nan where a point was not reached.

    gof, chi2, n_active (n_1, ..., n_k); n_active counts the linear and locally refined parameters
    of each point; refined: the locally refined parameters on the same grid.
    """

    axes: tuple[Axis, ...]
    gof: FloatArray
    chi2: FloatArray
    n_active: FloatArray
    refined: dict[str, FloatArray]
    n_points: int
    seconds: float
    stop_reason: str

    @property
    def complete(self) -> bool:
        return bool(np.isfinite(self.gof).all())

    @property
    def minimum(self) -> dict[str, float]:
        """Parameter values at the lowest GoF, with the locally refined ones, and 'gof'."""
        at = np.unravel_index(int(np.nanargmin(self.gof)), self.gof.shape)
        found = {
            axis.parameter: float(axis.values[k]) for axis, k in zip(self.axes, at, strict=True)
        }
        found |= {name: float(values[at]) for name, values in self.refined.items()}
        return found | {"gof": float(self.gof[at])}


def check_axes(model: PatternModel, axes: Sequence[Axis]) -> None:
    """Raise ValueError for axes that cannot be scanned: unknown, tied, repeated, out of reach."""
    if not 1 <= len(axes) <= 3:
        raise ValueError(f"a scan has one to three axes, not {len(axes)}.")
    n_points = int(np.prod([float(len(axis.values)) for axis in axes]))
    if n_points > MAX_POINTS:
        raise ValueError(
            f"the grid has {n_points:.3g} points; the limit is {MAX_POINTS:.3g}. Use larger steps "
            "or a smaller range, then refine the grid around the minimum."
        )
    tied = {tie.target: tie for tie in model.ties}
    scales = {f"{phase.name}.scale" for phase in model.phases}
    names = [axis.parameter for axis in axes]
    for axis in axes:
        if names.count(axis.parameter) > 1:
            raise ValueError(f"'{axis.parameter}' is scanned on two axes; each needs its own.")
        if axis.parameter in scales:
            if np.min(axis.values) < 0:
                raise ValueError(f"{axis.parameter} cannot be negative ({np.min(axis.values):g}).")
            continue
        parameter = model.require(axis.parameter)
        if axis.parameter in tied:
            raise ValueError(
                f"'{axis.parameter}' is tied to '{tied[axis.parameter].expression}'; scan one of "
                "its sources, or remove the tie."
            )
        require_possible(
            axis.parameter, parameter.unit, float(np.min(axis.values)), float(np.max(axis.values))
        )


def scan(
    model: PatternModel,
    axes: Sequence[Axis],
    *,
    start: Mapping[str, float] | None = None,
    refine_at_each_point: Sequence[str] = (),
    restraints: Sequence[Restraint] = (),
    on_progress: Callable[[ScanProgress], None] | None = None,
    on_block: Callable[[GofMap], None] | None = None,
    should_stop: Callable[[], str | None] | None = None,
    threads: int | None = None,
    finished: GofMap | None = None,
) -> GofMap:
    """The GoF map of a model over the axes; other parameters stay at `start`.

    `refine_at_each_point` names parameters (wildcards allowed) refined at every point, under the
    `restraints`; the map holds the pattern's own chi2. `on_block`
    receives the map as it fills, for keeping what is finished. Ctrl-C, or a reason from
    `should_stop`, ends the scan with the points done so far; `finished` is such an earlier map on
    the same axes, whose points are not computed again. The model should have been built with
    threads=1: the scan itself spreads its points over `threads`.
    """
    check_axes(model, axes)
    clock = time.monotonic()
    base = model.tied(dict(start or model.start))
    local = _refinable(model, axes, refine_at_each_point)
    shape = tuple(len(axis.values) for axis in axes)
    chi2 = np.full(shape, np.nan)
    active = np.full(shape, np.nan)
    refined = {name: np.full(shape, np.nan) for name in local}
    if finished is not None:
        same = [a.parameter for a in finished.axes] == [a.parameter for a in axes] and all(
            np.array_equal(a.values, b.values) for a, b in zip(finished.axes, axes, strict=True)
        )
        if not same or set(finished.refined) != set(local):
            raise ValueError(
                "the finished points belong to another grid over "
                f"{', '.join(axis.parameter for axis in finished.axes)}: start without them."
            )
        chi2[:], active[:] = finished.chi2, finished.n_active
        for name in local:
            refined[name][:] = finished.refined[name]
    inner = [] if local else [k for k, axis in enumerate(axes) if _is_cheap(model, axis.parameter)]
    outer = [k for k in range(len(axes)) if k not in inner]
    work = _Work(model, axes, base, local, inner, outer, chi2, active, refined, restraints)
    points = [
        point for point in product(*[range(shape[k]) for k in outer])
        if np.isnan(chi2[work.slice_of(point)]).any()
    ]
    workers = max(1, min(threads or thread_count(), len(points)))
    block = max(1, min(32, -(-len(points) // (4 * workers))))
    blocks = [points[k : k + block] for k in range(0, len(points), block)]
    reason = "complete"
    with ThreadPoolExecutor(workers) as pool:
        running: list[Future[None]] = []
        try:
            running += [pool.submit(work.block, part) for part in blocks]
            for future in as_completed(running):
                future.result()
                if on_block:
                    on_block(work.map(clock, "running"))
                if on_progress:
                    on_progress(_progress(chi2, axes, len(model.sampling.q), work, clock))
                if should_stop and (why := should_stop()):
                    reason = why
                    break
        except KeyboardInterrupt:
            reason = "interrupted"
        finally:
            work.stopping = True
            for future in running:
                future.cancel()
    return work.map(clock, reason)


class _Work:
    def __init__(
        self, model: PatternModel, axes: Sequence[Axis], base: dict[str, float],
        local: list[str], inner: list[int], outer: list[int], chi2: FloatArray,
        active: FloatArray, refined: dict[str, FloatArray], restraints: Sequence[Restraint],
    ) -> None:
        self.restraints = restraints
        self.model, self.axes, self.base, self.local = model, axes, base, local
        self.inner, self.outer = inner, outer
        self.chi2, self.active, self.refined = chi2, active, refined
        self.stopping = False
        self.damping: dict[float, FloatArray] = {}
        self.scales = {f"{phase.name}.scale": phase.name for phase in model.phases}

    def slice_of(self, point: tuple[int, ...]) -> tuple[int | slice, ...]:
        """The part of the map that belongs to an outer point."""
        at: list[int | slice] = [slice(None)] * len(self.axes)
        for k, i in zip(self.outer, point, strict=True):
            at[k] = i
        return tuple(at)

    def map(self, clock: float, reason: str) -> GofMap:
        n_points = len(self.model.sampling.q)
        return GofMap(
            tuple(self.axes), np.sqrt(self.chi2 / (n_points - self.active)), self.chi2.copy(),
            self.active.copy(), {name: values.copy() for name, values in self.refined.items()},
            n_points, time.monotonic() - clock, reason,
        )

    def block(self, points: Sequence[tuple[int, ...]]) -> None:
        """Evaluate neighbouring outer points one after another, each helping the next."""
        previous: Sequence[PhaseState] | None = None
        start = dict(self.base)
        for point in points:
            if self.stopping:
                return
            index = [0] * len(self.axes)
            for k, i in zip(self.outer, point, strict=True):
                index[k] = i
            if self.local:
                start, previous = self._refined_point(index, start, previous)
                continue
            values, _ = self._at(index, self.base)
            previous = self.model.states(values, previous)
            self._sweep(index, previous)

    def _sweep(self, index: list[int], states: Sequence[PhaseState]) -> None:
        """All inner points of one outer point, on the same sine sums."""
        where, many, scaled = [], [], []
        for sweep in product(*[range(len(self.axes[k].values)) for k in self.inner]):
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
        values, scales = self._at(index, start)
        model = self.model if not scales else self.model.with_fixed_scales(scales)
        # from the neighbour's values or from the common start, whichever fits better here
        fresh, _ = self._at(index, self.base)
        here = model.evaluate(values, previous)
        if model.evaluate(fresh, here.states).chi2 < here.chi2:
            values = fresh
        found = refine(
            model, [self.local], start=values, max_cycles=25, tolerance=0.02, previous=previous,
            restraints=self.restraints,
        )
        for name in self.local:
            self.refined[name][tuple(index)] = found.values[name]
        self._store(index, found.evaluation, len(self.local))
        return found.values, found.evaluation.states

    def _store(self, index: list[int], evaluation: Evaluation, n_local: int) -> None:
        self.active[tuple(index)] = n_local + int(evaluation.linear.active.sum())
        self.chi2[tuple(index)] = evaluation.chi2

    def _at(
        self, index: Sequence[int], start: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Values and fixed scales at a grid point."""
        values, scales = dict(start), dict(self.model.fixed_scales)
        for axis, i in zip(self.axes, index, strict=True):
            if axis.parameter in self.scales:
                scales[self.scales[axis.parameter]] = float(axis.values[i])
            else:
                values[axis.parameter] = float(axis.values[i])
        return self.model.tied(values), scales


def _refinable(model: PatternModel, axes: Sequence[Axis], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(c in pattern for c in "*?["):
            model.require(pattern)
    blocked = {axis.parameter for axis in axes} | {tie.target for tie in model.ties}
    return [n for n in select(patterns, list(model.parameters)) if n not in blocked]


def _is_cheap(model: PatternModel, name: str) -> bool:
    """Whether a parameter, and all that is tied to it, leaves the distances alone."""
    if name not in model.parameters:
        return True
    touched = {name}
    for tie in model.ties:
        if set(tie.sources) & touched:
            touched.add(tie.target)
    phases = {phase.name: phase for phase in model.phases}
    return not any(
        phases[n.partition(".")[0]].depends_on_distances(n.partition(".")[2]) for n in touched
    )


def _progress(
    chi2: FloatArray, axes: Sequence[Axis], n_points: int, work: _Work, clock: float
) -> ScanProgress:
    done = int(np.isfinite(chi2).sum())
    at = np.unravel_index(int(np.nanargmin(chi2)), chi2.shape)
    return ScanProgress(
        done, chi2.size, float(np.sqrt(chi2[at] / (n_points - work.active[at]))),
        tuple(float(axis.values[k]) for axis, k in zip(axes, at, strict=True)),
        time.monotonic() - clock,
    )
