"""Checks of the free parameters of a refinement before it runs."""

from __future__ import annotations

from collections.abc import Sequence

from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.parameters import ParameterName

from .refine import default_stages, free_names


def check_freedom(model: PatternModel, stages: Sequence[Sequence[str]] | None) -> None:
    """Raise ValueError for too many parameters, equal bounds, or parameters without an effect.

    Parameters that the data do not determine are reported by the refinement itself.
    """
    free = free_names(model, stages or default_stages(model))
    n_points, n_linear = len(model.observation.q), len(model.linear_names)
    if len(free) + n_linear >= n_points:
        raise ValueError(
            f"{len(free)} free parameters and {n_linear} linear coefficients cannot be refined "
            f"against {n_points} points. Widen the range of the pattern, or free fewer parameters."
        )
    for name in free:
        p = model.parameters[name]
        if not p.lower < p.upper:
            raise ValueError(
                f"{name} cannot be refined, because its bounds {p.lower:g} and {p.upper:g} "
                f"{p.unit} leave no room. Widen them, or remove the parameter from the stages."
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
                f"{name} has no effect, because the scale of {phase} is fixed at 0. Specify "
                f"another scale under 'scales', or remove {name} from the stages."
            )
        if site and values.get(occupancy) == 0 and occupancy not in free:
            raise ValueError(
                f"{name} has no effect, because {occupancy} is fixed at 0. Set it to another "
                f"value, or remove {name} from the stages."
            )
