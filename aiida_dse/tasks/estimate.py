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
    touching = [a for a in built.axes if a.parameter in model.parameters and any(
        p.name == a.parameter.partition(".")[0]
        and p.depends_on_distances(a.parameter.partition(".")[2]) for p in model.phases)]
    values = model.start
    states = model.states(values)
    for axis in touching:
        values = values | {axis.parameter: float(axis.values[-1])}
    begin = time.perf_counter()
    evaluation = model.evaluate(model.tied(values), states)
    outer = time.perf_counter() - begin
    begin = time.perf_counter()
    model.evaluate_at(evaluation.states, evaluation.values, model.fixed_scales)
    inner = time.perf_counter() - begin
    sweep = np.prod([len(a.values) for a in built.axes if a not in touching])
    plan = built.document.scan
    if plan is not None and plan.refine:
        return float(10 * (1 + len(plan.refine)) * outer)
    return float(outer + inner * (sweep - 1))
