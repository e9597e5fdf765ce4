"""Spheres whose atoms are those of the refined structure instead of the starting one.

The atoms of a sphere are those within its radius. They are counted in a reference structure, so that
a pattern is continuous in the coordinates; after a refinement the refined structure becomes the
reference, and the refinement is repeated until nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aiida_dse.engine.model.agreement import su_scale
from aiida_dse.engine.model.pattern import PatternModel

from .refine import Refinement

#: A new reference structure matters if it changes chi2 by more than this (times max(1, GoF)^2).
NOTICEABLE = 0.01
MOST_REPETITIONS = 5


def with_refined_members(
    model: PatternModel, found: Refinement,
    again: Callable[[PatternModel, Refinement], Refinement],
) -> tuple[PatternModel, Refinement]:
    """The model with the refined structure as reference, and its refinement.

    `again` refines a model from the values of a refinement. Models without spheres are returned
    unchanged, and so are refinements that did not converge. A refinement whose atoms still change
    after MOST_REPETITIONS has a warning.
    """
    for _ in range(MOST_REPETITIONS):
        moved = model.with_reference(found.values)
        if moved is model or not found.converged:
            return model, found
        change = abs(moved.evaluate(found.values).chi2 - found.evaluation.chi2)
        if change < NOTICEABLE * su_scale(found.agreement.gof) ** 2:
            return model, found
        repeated = again(moved, found)
        if not repeated.converged:
            return model, replace(
                found, converged=False, stop_reason=repeated.stop_reason)
        model, found = moved, replace(
            repeated, n_cycles=found.n_cycles + repeated.n_cycles,
            n_evaluations=found.n_evaluations + repeated.n_evaluations,
            seconds=found.seconds + repeated.seconds)
    return model, replace(found, warnings=(*found.warnings, (
        f"The atoms of the spheres still changed after {MOST_REPETITIONS} refinements from the "
        "refined structure. Check the centre of the spheres and the structure.")))
