"""Cost estimates of tasks: counted work, times the speed of a computer.

The work is counted, not timed: the same document makes the same estimate, so that a grid launched
again is cut into the same tiles, which are then found in the cache. Its unit is one distance of a
histogram; a computer's speed, in seconds for each, is measured when it is set up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.documents.plans import RefinementPlan
from aiida_dse.engine.fit.refine import default_stages
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import CrystalPhase, PhaseState
from aiida_dse.engine.parameters import Kind, select

from .build import BuiltModel

#: Seconds for a distance on one thread of a computer that has not been measured.
NOMINAL_SPEED = 6e-9
#: What the rest costs, in distances: counting cells anew (for each distance), the transform (for
#: each q of a histogram that changed), the sum over pairs of sites with the linear solution (for
#: each q and pair), and the same for a further point of a sweep over B and occupancies.
#: Measured on parallelepipeds and spheres of CsPbBr3 of 5 to 15 nm: within a factor of 1.5.
COUNTING, TRANSFORM, SUMMING, SWEEPING = 0.9, 23.0, 1.7, 0.15
#: Cycles of a stage, as seen in refinements from bulk-like starts.
CYCLES_OF_STAGE = 6


def point_work(built: BuiltModel) -> float:
    """Work of a grid point that moves distances, with the sweep on top of it, in distances."""
    model, grid = built.model, built.grid
    assert grid is not None
    # the last point of each outer axis, or the last that its quantities reach
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
    """Seconds of one thread for such a point; `speed` in seconds for a distance."""
    return round(point_work(built) * (speed or NOMINAL_SPEED), 6)


def seconds_of_map(built: BuiltModel, speed: float | None = None) -> float:
    """Seconds of one thread for all points of a map."""
    assert built.grid is not None
    outer = math.prod(built.grid.shape[k] for k in built.grid.outer)
    return round(outer * point_work(built) * (speed or NOMINAL_SPEED), 6)


def work_between(
    model: PatternModel, before: Sequence[PhaseState], after: Sequence[PhaseState]
) -> float:
    """Work of going from one state of the phases to another, in distances."""
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
    """Pairs of sites times q of all phases."""
    channels = sum(len(factors) for factors in built.model.pair_factors)
    return float(channels * len(built.model.sampling.q))


@dataclass(frozen=True)
class Estimate:
    """Cost of a task: evaluations of the model, seconds of one thread, bytes of results."""

    evaluations: int
    seconds: float
    bytes_stored: int


def estimate_refinement(built: BuiltModel, speed: float | None = None) -> Estimate:
    """The cost of the document's refinement, to a factor of about two.

    Every stage takes about CYCLES_OF_STAGE cycles, each of an evaluation and a Jacobian of about
    one evaluation for every free parameter that moves distances or coordinates. `speed`: seconds
    for a distance.
    """
    model, plan = built.model, built.document.refinement or RefinementPlan()
    stages = built.stages or default_stages(model)
    free: set[str] = set()
    evaluations = 0
    for stage in stages:
        free |= set(select(stage, list(model.parameters)))
        evaluations += CYCLES_OF_STAGE * (2 + len(free))
    evaluations *= plan.starts
    states = model.states(model.start)
    scaled = (Kind.CELL_LENGTH, Kind.LATTICE_SCALE)
    shifted = {name: value * (1 + 1e-4) if model.parameters[name].kind in scaled else value
               for name, value in model.start.items()}
    moved = work_between(model, states, model.states(model.constrained(shifted), states))
    work = moved + SUMMING * _sums(built)
    seconds = evaluations * work * (speed or NOMINAL_SPEED)
    return Estimate(evaluations, seconds, result_bytes(built, len(free)))


def result_bytes(built: BuiltModel, n_free: int) -> int:
    """About what a refinement's arrays and numbers take in the database."""
    n = len(built.model.sampling.q)
    curves = 6 + len(built.model.linear_names)
    return int(8 * (n * curves + n_free**2) + 60_000)


def stored_bytes(built: BuiltModel) -> int:
    """About what the pattern and the structures take in the database."""
    return 3 * 8 * len(built.model.observation.intensity) + 10_000
