"""Size distributions narrower than the step of the sizes, which trap a refinement.

Particles of whole cells have sizes in steps. Where the standard deviation is far below a step, one
or two sizes occur, and the pattern does not change with the mean and the standard deviation except
through the fractions of these two: the search cannot leave such a valley by small moves, although a
broader distribution may fit better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.parameters import ParameterName

from .leastsquares import Descent, Problem

#: A distribution is narrow if its s.d. is below this fraction of the step of the sizes.
NARROW = 0.5


def narrow_distributions(
    model: PatternModel, values: Mapping[str, float]
) -> dict[ParameterName, float]:
    """The s.d. parameters of narrow size distributions, with the step (nm) of the sizes."""
    found = {}
    for index, phase in enumerate(model.phases):
        local = model.local(index, values)
        for quantity, step in phase.size_steps(local).items():
            if local[quantity] < NARROW * step:
                found[ParameterName.of(phase.name, quantity)] = step
    return found


def narrow_warnings(model: PatternModel, values: Mapping[str, float]) -> list[str]:
    """Warnings about narrow size distributions."""
    return [
        f"{name} = {values[name]:.3g} nm is below half a step of the sizes of whole cells, "
        f"{step:.3g} nm. The pattern determines the fractions of the few sizes that occur, but "
        "hardly the mean and the s.d. of the distribution. Quote the mean and the s.d. of the "
        f"population instead (under 'sizes' of phase {name.phase}), from which L and 1/L are also "
        "calculated."
        for name, step in narrow_distributions(model, values).items()
    ]


def descend_from_wider(
    model: PatternModel, problem: Problem, descent: Descent, stages: Sequence[list[str]],
    values: dict[str, float], max_cycles: int, tolerance: float,
) -> dict[str, float]:
    """The better of `values` and of the minimum from narrow distributions widened to one step.

    Only distributions with a free s.d. are widened; the last stage is repeated from there.
    """
    free = stages[-1]
    narrow = {name: step for name, step in narrow_distributions(model, values).items()
              if name in free}
    if not narrow or descent.stopped:
        return values
    before = _sum_of_squares(problem, values, free), descent.converged, descent.reason
    wider = values | {
        name: min(max(step, problem.parameters[name].lower), problem.parameters[name].upper)
        for name, step in narrow.items()}
    again = descent.stage(len(stages) - 1, free, wider, max_cycles, tolerance)
    if _sum_of_squares(problem, again, free) < before[0]:
        return again
    if not descent.stopped:
        descent.converged, descent.reason = before[1:]
    return values


def _sum_of_squares(problem: Problem, values: Mapping[str, float], free: Sequence[str]) -> float:
    residual, _ = problem.residual(values, free)
    return float(residual @ residual)
