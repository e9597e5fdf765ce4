"""What a task will cost, measured on the model itself."""

from __future__ import annotations

import time

import numpy as np

from .build import BuiltModel


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
