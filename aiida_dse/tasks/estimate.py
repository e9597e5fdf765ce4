"""What a task will cost, measured on the model itself."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from aiida_dse.documents.plans import RefinementPlan
from aiida_dse.engine.parameters import select
from aiida_dse.engine.refine import default_stages

from .build import BuiltModel

#: Cycles of a stage, as seen in refinements from bulk-like starts.
CYCLES_OF_STAGE = 6


def seconds_per_point(built: BuiltModel) -> float:
    """Seconds of one thread for a grid point that moves distances, with the sweep on top of it.

    Measured by evaluating the model at two points of the grid (compilation excluded).
    """
    model = built.model
    grid = built.grid
    assert grid is not None
    # the last point of each outer axis, or the last that its quantities reach
    reachable = np.argwhere(~grid.unreachable)
    at = tuple(int(i) for i in reachable[-1]) if len(reachable) else (0,) * len(grid.shape)
    states = model.states(model.start)
    values = model.start | {name: value for name, value in grid.at(at).items()
                            if name in model.parameters and np.isfinite(value)}
    begin = time.perf_counter()
    evaluation = model.evaluate(model.tied(values), states)
    outer = time.perf_counter() - begin
    begin = time.perf_counter()
    model.evaluate_at(evaluation.states, evaluation.values, model.fixed_scales)
    inner = time.perf_counter() - begin
    sweep = np.prod([grid.shape[k] for k in grid.inner])
    plan = built.document.scan
    if plan is not None and plan.refine:
        return float(10 * (1 + len(plan.refine)) * outer)
    return float(outer + inner * (sweep - 1))


@dataclass(frozen=True)
class Estimate:
    """What a task will cost: evaluations of the model, seconds of one thread, bytes of results."""

    evaluations: int
    seconds: float
    bytes_stored: int


def estimate_refinement(built: BuiltModel) -> Estimate:
    """The cost of the document's refinement, to a factor of about two.

    Every stage takes about CYCLES_OF_STAGE cycles, each of an evaluation and a Jacobian of about
    one evaluation for every free parameter that moves distances or coordinates. One evaluation is
    measured (compilation excluded).
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
    model.evaluate(model.tied(dict(model.start)), states)
    shifted = {name: value * (1 + 1e-4) if name.endswith((".a", ".b", ".c")) else value
               for name, value in model.start.items()}
    begin = time.perf_counter()
    model.evaluate(model.tied(shifted), states)
    seconds = evaluations * (time.perf_counter() - begin)
    return Estimate(evaluations, seconds, result_bytes(built, len(free)))


def result_bytes(built: BuiltModel, n_free: int) -> int:
    """About what a refinement's arrays and numbers take in the database."""
    n = len(built.model.sampling.q)
    curves = 6 + len(built.model.linear_names)
    return int(8 * (n * curves + n_free**2) + 60_000)


def stored_bytes(built: BuiltModel) -> int:
    """About what the pattern and the structures take in the database."""
    return 3 * 8 * len(built.model.observation.intensity) + 10_000
