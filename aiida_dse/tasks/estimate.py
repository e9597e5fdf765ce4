"""Cost estimates of tasks: work, counted in distances, times the speed of a computer.

The work is counted, not timed, so the same document always yields the same estimate. The unit of work
is one distance of a histogram. The speed of a computer (seconds per distance) is measured when the
computer is set up, and then follows from its results, which record their work. Tiles of maps are
cut with the nominal speed, so that a map that is launched again has the same tiles, which the cache
contains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.documents.plans import RefinementPlan
from aiida_dse.engine.fit.refine import default_stages
from aiida_dse.engine.maps.certificate import LEAST_GEOMETRIES
from aiida_dse.engine.maps.interpolated import CHECKED, PROBES, WORTHWHILE
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import Phase, PhaseState
from aiida_dse.engine.parameters import Kind, select

from .build import BuiltModel

#: Seconds per distance on one thread of a computer whose speed is unknown.
NOMINAL_SPEED = 6e-9
#: Costs of the other steps in distances: recounting cells (per distance), the transform (per q of
#: a changed histogram), the sum over pairs of sites with the linear solution (per q and pair), and
#: the same for a further point of a sweep over B and occupancies. Measured with parallelepipeds and
#: spheres of CsPbBr3 from 5 to 15 nm; accurate within a factor of 1.5.
COUNTING, TRANSFORM, SUMMING, SWEEPING = 0.9, 23.0, 1.7, 0.15
#: Memory of the tables with their working copies, and of the program (bytes).
TABLE_COPIES, BASE_BYTES = 1.5, 2.5e8
#: Chebyshev nodes of an axis of a map: this many for each radian of the phase q r, plus a few.
NODES_OF_PHASE, FEWEST_NODES = 0.85, 4
#: Typical number of cycles per stage in refinements from bulk-like starts.
CYCLES_OF_STAGE = 6


def point_work(built: BuiltModel) -> float:
    """Work, in distances, of a grid point that changes pair distances, including its sweep."""
    model, grid = built.model, built.grid
    assert grid is not None
    # the last point of the outer axes that is reachable
    reachable = np.argwhere(~grid.unreachable)
    at = tuple(int(i) for i in reachable[-1]) if len(reachable) else (0,) * len(grid.shape)
    values = model.start | {name: value for name, value in grid.at(at).items()
                            if name in model.parameters and np.isfinite(value)}
    states = model.states(model.start)
    outer = work_between(model, states, model.states(model.constrained(values), states))
    plan = built.document.scan
    sums = _sums(built)
    if plan is not None and plan.refine:
        return 10 * (1 + len(plan.refine)) * (outer + SUMMING * sums)
    sweep = float(np.prod([grid.shape[k] for k in grid.inner]))
    return outer + (SUMMING + SWEEPING * (sweep - 1)) * sums


def seconds_per_point(built: BuiltModel, speed: float | None = None) -> float:
    """Seconds on one thread for `point_work`; `speed` in seconds per distance."""
    return round(point_work(built) * (speed or NOMINAL_SPEED), 6)


def map_work(built: BuiltModel) -> float:
    """Work, in distances, of all geometries of a map whose patterns are computed."""
    return expected_geometries(built) * point_work(built)


def expected_geometries(built: BuiltModel) -> int:
    """Number of geometries of a map whose patterns are computed, if it can be interpolated.

    An axis needs about as many nodes as the largest change of the phase q r on half its range; the
    constants describe maps of coordinates and cells of particles of 5 and 9 nm.
    """
    grid, plan = built.grid, built.document.scan
    assert grid is not None and plan is not None
    outer = math.prod(grid.shape[k] for k in grid.outer)
    if plan.method == "direct" or plan.refine or outer < LEAST_GEOMETRIES \
            or grid.unreachable.any():
        return outer
    nodes = 1
    for k in grid.outer:
        changed = _phase_change(built, k)
        nodes *= grid.shape[k] if changed is None else min(
            grid.shape[k], math.ceil(NODES_OF_PHASE * changed) + FEWEST_NODES)
    cost = nodes + PROBES[0] * len(grid.shape) + CHECKED
    return min(outer, cost) if cost < WORTHWHILE * outer else outer


def _phase_change(built: BuiltModel, axis: int) -> float | None:
    """The largest change of q r (rad) from the middle of an axis to its end; None for sizes."""
    model, grid = built.model, built.grid
    assert grid is not None
    middle = [n // 2 for n in grid.shape]
    ends = []
    for at in (0, grid.shape[axis] - 1):
        index = (*middle[:axis], at, *middle[axis + 1:])
        moved = {name: value for name, value in grid.at(index).items() if name in model.parameters}
        ends.append(model.constrained({**model.start, **moved}))
    shift = 0.0
    for k, phase in enumerate(model.phases):
        low, high = (model.local(k, values) for values in ends)
        for parameter in phase.parameters:
            name = parameter.name.local
            change = abs(high[name] - low[name]) / 2
            if not change or not parameter.kind.spec.changes.moves_distances:
                continue
            if parameter.kind is Kind.COORDINATE and isinstance(phase, CrystalPhase):
                cell = phase.crystal.cell
                # two atoms may move in opposite directions
                shift += 2 * change * max(cell.a, cell.b, cell.c)
            elif parameter.kind in (Kind.CELL_LENGTH, Kind.LATTICE_SCALE):
                shift += change / low[name] * _diameter(phase, low)
            elif parameter.kind is Kind.CELL_ANGLE:
                shift += math.radians(change) * _diameter(phase, low)
            else:
                return None
    return float(model.sampling.q.max()) * shift


def _diameter(phase: Phase, values: Mapping[str, float]) -> float:
    """The largest size (Å) of a phase among its statistics; 100 Å if it has none."""
    known = [value for name, value in phase.size_statistics(values).items()
             if name.startswith(("L", "D")) and np.isfinite(value)]
    return 10 * max(known, default=10.0)


def seconds_of_map(built: BuiltModel, speed: float | None = None) -> float:
    """Seconds on one thread for all points of a map; `speed` in seconds per distance."""
    return round(map_work(built) * (speed or NOMINAL_SPEED), 6)


def work_between(
    model: PatternModel, before: Sequence[PhaseState], after: Sequence[PhaseState]
) -> float:
    """Work, in distances, to compute the states `after` of the phases from `before`."""
    total = 0.0
    for phase, old, new in zip(model.phases, before, after, strict=True):
        stale = [k for k, key in enumerate(new.keys) if old.keys[k] != key]
        total += TRANSFORM * len(stale) * len(model.sampling.q)
        if isinstance(phase, CrystalPhase) and stale:
            distances = phase.distances_in(new)
            total += distances[stale].sum()
            total += COUNTING * distances.sum() if new.counts_key != old.counts_key else 0.0
    return total


def _sums(built: BuiltModel) -> float:
    """Number of pairs of sites of all phases, times the number of q."""
    channels = sum(len(factors) for factors in built.model.pair_factors)
    return float(channels * len(built.model.sampling.q))


@dataclass(frozen=True)
class Estimate:
    """Cost of a task: evaluations, work in distances, seconds on one thread, bytes of results."""

    evaluations: int
    seconds: float
    bytes_stored: int
    work: float = 0.0


def evaluation_work(built: BuiltModel, *, first: bool = True) -> float:
    """Work, in distances, of one pattern in which all distances are new, without computing it.

    Pairs that are counted once for all sizes belong to the `first` pattern.
    """
    model = built.model
    work = SUMMING * _sums(built)
    for index, (phase, factors) in enumerate(
            zip(model.phases, model.pair_factors, strict=True)):
        of_phase = phase.work(model.local(index, model.start))
        work += of_phase.distances + COUNTING * (of_phase.counted + of_phase.once * first)
        work += TRANSFORM * len(factors) * len(model.sampling.q)
    return work


def evaluation_seconds(built: BuiltModel, speed: float | None = None) -> float:
    """Seconds on one thread for `evaluation_work`; `speed` in seconds per distance."""
    return evaluation_work(built) * (speed or NOMINAL_SPEED)


def evaluation_bytes(built: BuiltModel) -> float:
    """Approximate memory of an evaluation: pair tables and patterns."""
    model = built.model
    tables = sum(phase.work(model.local(index, model.start)).bytes
                 for index, phase in enumerate(model.phases))
    return TABLE_COPIES * tables + 8 * 4 * _sums(built) + BASE_BYTES


def estimate_refinement(built: BuiltModel, speed: float | None = None) -> Estimate:
    """Estimate the cost of the document's refinement within a factor of about two.

    Every stage is assumed to take CYCLES_OF_STAGE cycles, each with an evaluation and a Jacobian of
    about one evaluation per free parameter. `speed`: seconds per distance.
    """
    model, plan = built.model, built.document.refinement or RefinementPlan()
    stages = built.stages or default_stages(model)
    free: set[str] = set()
    evaluations = 0
    for stage in stages:
        free |= set(select(stage, list(model.parameters)))
        evaluations += CYCLES_OF_STAGE * (2 + len(free))
    evaluations *= plan.starts
    each, first = evaluation_work(built, first=False), evaluation_work(built)
    # larger particles than those of the start are counted as well
    work = evaluations * each + 2 * (first - each)
    seconds = work * (speed or NOMINAL_SPEED)
    return Estimate(evaluations, seconds, result_bytes(built, len(free)), work)


def result_bytes(built: BuiltModel, n_free: int) -> int:
    """Approximate storage of the arrays and numbers of a refinement in the database, in bytes."""
    n = built.model.n_points
    curves = 6 + len(built.model.linear_names)
    return int(8 * (n * curves + n_free**2) + 60_000)


def stored_bytes(built: BuiltModel) -> int:
    """Approximate storage of the pattern and the structures in the database, in bytes."""
    return 3 * 8 * len(built.model.observation.intensity) + 10_000
