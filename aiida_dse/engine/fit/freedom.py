"""Checks of the free parameters of a refinement before it runs."""

from __future__ import annotations

from collections.abc import Sequence

from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.parameters import ParameterName

from .refine import default_stages, free_names


def check_freedom(model: PatternModel, stages: Sequence[Sequence[str]] | None) -> None:
    """Raise ValueError for more parameters than points, no room between bounds, or no effect.

    What depends on the data (a parameter that cannot be separated from others) is reported by the
    refinement itself.
    """
    free = free_names(model, stages or default_stages(model))
    n_points, n_linear = len(model.observation.q), len(model.linear_names)
    if len(free) + n_linear >= n_points:
        raise ValueError(
            f"{len(free)} free parameters and {n_linear} linear ones cannot be refined against "
            f"{n_points} points. Widen the pattern's range, or free fewer."
        )
    for name in free:
        p = model.parameters[name]
        if not p.lower < p.upper:
            raise ValueError(
                f"{name} cannot be refined between {p.lower:g} and {p.upper:g} {p.unit}, which "
                f"leaves no room. Widen its bounds, or remove it from the stages."
            )
    values = model.start
    drives = {source for constraint in model.constraints for source in constraint.sources}
    for name in free:
        parsed = ParameterName(name)
        phase, site = parsed.phase, parsed.site
        occupancy = ParameterName.of(phase, "occupancy", site=site)
        if name in drives:
            continue
        if model.fixed_scales.get(phase) == 0:
            raise ValueError(
                f"{name} has no effect: the scale of {phase} is fixed at 0. Specify another scale "
                f"under 'scales', or take it out of the stages."
            )
        if site and values.get(occupancy) == 0 and occupancy not in free:
            raise ValueError(
                f"{name} has no effect: {occupancy} is 0 and stays there. Set it to another "
                f"value, or take "
                f"{name} out of the stages."
            )
