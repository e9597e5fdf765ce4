"""Derivatives of the calculated pattern with respect to the non-linear parameters.

dI/dB and dI/d occupancy are analytic; cell, coordinates and sizes are differenced, recomputing
only the distance channels they touch.
"""

from __future__ import annotations

import numpy as np

from aiida_dse.engine.scattering import debye
from aiida_dse.engine.units import FloatArray

from .parameters import Parameter
from .pattern import Evaluation, PatternModel


def pattern_derivative(
    model: PatternModel, base: Evaluation, name: str, *, central: bool = False
) -> FloatArray:
    """d(scaled pattern)/d(parameter) (n_points,), ties included, linear coefficients held.

    Forward differences where there is no closed form; `central` ones cost twice as much and are
    accurate enough to tell a degenerate direction.
    """
    q = model.sampling.q
    linear = dict(zip(model.linear_names, base.linear.coefficients, strict=True))
    followers = [tie.target for tie in model.ties]
    owner, _, local = name.partition(".")
    index = next(k for k, phase in enumerate(model.phases) if phase.name == owner)
    scale = model.fixed_scales.get(owner, linear.get(f"{owner}.scale", 0.0))
    site, _, kind = local.rpartition(".")
    if kind in ("B", "occupancy") and not followers:
        occupancy, b_iso = model.phases[index].occupancy_and_b(model.local(index, base.values))
        number = model.phases[index].labels.index(site)  # type: ignore[attr-defined]
        state, factors = base.states[index], model.pair_factors[index]
        slope = (
            debye.b_derivative(state.sums, factors, occupancy, b_iso, q, number)
            if kind == "B"
            else debye.occupancy_derivative(
                state.sums, factors, state.atoms, occupancy, b_iso, q, number
            )
        )
        return np.asarray(scale * slope * model.observation.polarisation_factor)
    parameter = model.parameters[name]
    step = typical_shift(parameter) * 1e-3
    if base.values[name] + step > parameter.upper:
        step = -step
    total = np.zeros(len(q))
    for shift in (step, -step) if central else (step,):
        moved = model.tied(dict(base.values) | {name: base.values[name] + shift})
        states = model.states(moved, base.states)
        for k, phase in enumerate(model.phases):
            if model.local(k, moved) == model.local(k, base.values):
                continue
            size = model.fixed_scales.get(phase.name, linear.get(f"{phase.name}.scale", 0.0))
            before = model.intensity(k, base.states[k], base.values)
            total += size * (model.intensity(k, states[k], moved) - before) / shift
    return total / 2 if central else total


def typical_shift(parameter: Parameter) -> float:
    """A natural step of a parameter: sets the scaling of the search and of differences."""
    local = parameter.name.rpartition(".")[2]
    if parameter.unit == "Å":
        return 1e-3 * abs(parameter.value)
    if local in ("x", "y", "z"):
        return 2e-3
    if parameter.unit == "deg":
        return 0.1
    if parameter.unit == "Å^2":
        return 0.1
    if parameter.unit == "nm":
        return 0.1
    return 1e-3 if local == "expansion" else 0.02
