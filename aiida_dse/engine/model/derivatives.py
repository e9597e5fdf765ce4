"""Derivatives of the calculated pattern with respect to the non-linear parameters.

The derivatives with respect to B_iso, occupancies and probabilities of boundaries are analytic, also
through constraints (chain rule); those with respect to cell parameters, coordinates and sizes are
finite differences, for which only the affected distance histograms are recomputed.
"""

from __future__ import annotations

import numpy as np

from aiida_dse.engine.parameters import Changes, Kind, Parameter
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.units import FloatArray

from .constraints import constraint_gradient
from .crystal_phase import CrystalPhase
from .pattern import Evaluation, PatternModel

#: Step of finite differences, as a fraction of the natural step of the parameter.
DIFFERENCE = 1e-3


def pattern_derivative(
    model: PatternModel, base: Evaluation, name: str, *, central: bool = False
) -> FloatArray:
    """d(scaled pattern)/d(parameter) (n_points,), with constraints, at fixed linear coefficients.

    Where there is no analytic derivative, differences are forward, or `central`, which cost twice
    as much and are accurate enough to recognise a degenerate direction.
    """
    moved = {name: 1.0}
    if model.constraints:
        gradient = constraint_gradient(model.constraints, base.values, [name])
        moved |= {target: float(row[0]) for target, row in gradient.items() if row[0] != 0}
    scales = _scales(model, base)
    if all(model.parameters[other].kind.spec.changes in (Changes.DAMPING, Changes.AMPLITUDE) for other in moved):
        total = np.sum([slope * _amplitude_derivative(model, base, other, scales)
                        for other, slope in moved.items()], axis=0)
        return model.measurement.observe(total, base.values)
    if all(_has_slope(model, other) for other in moved):
        total = np.sum([slope * _boundary_derivative(model, base, other, scales)
                        for other, slope in moved.items()], axis=0)
        return model.measurement.observe(total, base.values)
    parameter = model.parameters[name]
    step = parameter.shift * DIFFERENCE
    if base.values[name] + step > parameter.upper:
        step = -step
    found: list[FloatArray] = []
    for shift in (step, -step):
        try:
            found.append(_difference(model, base, name, shift, scales))
        except ValueError:  # not a possible value of the parameter; the other side may be one
            if shift == -step and not found:
                raise
        if found and not central:
            break
    return np.asarray(np.mean(found, axis=0))


def _has_slope(model: PatternModel, name: str) -> bool:
    """Whether the parameter is a probability of boundaries with an analytic derivative."""
    return model.parameters[name].kind is Kind.BOUNDARY_PROBABILITY and type(model.phase_of(name)) is CrystalPhase


def _boundary_derivative(
    model: PatternModel, base: Evaluation, name: str, scales: dict[str, float]
) -> FloatArray:
    """d(scaled intensity)/d(probability of a boundary), before it is measured."""
    phase = model.phase_of(name)
    assert isinstance(phase, CrystalPhase)
    index = model.phases.index(phase)
    local, state = model.local(index, base.values), base.states[index]
    sums = phase.boundary_slope(local, model.sampling, state, model.parameters[name].name.local)
    occupancy, b_iso = phase.occupancy_and_b(local)
    slope = debye.debye_intensity(sums, model.pair_factors[index], np.zeros_like(state.atoms), occupancy, b_iso,
                                  model.sampling.q)
    return np.asarray(scales[phase.name] * slope)


def _difference(
    model: PatternModel, base: Evaluation, name: str, shift: float, scales: dict[str, float]
) -> FloatArray:
    """The difference quotient (n_points,) of the scaled pattern for one shift of a parameter."""
    total = np.zeros(model.n_points)
    values = model.constrained(dict(base.values) | {name: base.values[name] + shift})
    states = model.states(values, base.states)
    measured = any(values[parameter.name] != base.values[parameter.name]
                   for parameter in model.measurement.parameters)
    for k, phase in enumerate(model.phases):
        if not measured and model.local(k, values) == model.local(k, base.values):
            continue
        before = model.intensity(k, base.states[k], base.values)
        after = model.intensity(k, states[k], values)
        total += scales[phase.name] * (after - before) / shift
    return total


def _scales(model: PatternModel, base: Evaluation) -> dict[str, float]:
    """The scale factor of every phase, fixed or solved."""
    linear = dict(zip(model.linear_names, base.linear.coefficients, strict=True))
    return {phase.name: model.fixed_scales.get(phase.name, linear.get(model.scale_name(phase), 0.0))
            for phase in model.phases}


def _amplitude_derivative(
    model: PatternModel, base: Evaluation, name: str, scales: dict[str, float]
) -> FloatArray:
    """d(scaled intensity)/d(B_iso or occupancy), before it is measured."""
    parameter: Parameter = model.parameters[name]
    phase = model.phase_of(name)
    index = model.phases.index(phase)
    occupancy, b_iso = phase.occupancy_and_b(model.local(index, base.values))
    site = phase.labels.index(parameter.name.site)
    state, factors, q = base.states[index], model.pair_factors[index], model.sampling.q
    if parameter.kind is Kind.B_ISO:
        slope = debye.b_derivative(state.sums, factors, occupancy, b_iso, q, site)
    else:
        assert parameter.kind.spec.changes is Changes.AMPLITUDE
        slope = debye.occupancy_derivative(
            state.sums, factors, state.atoms, occupancy, b_iso, q, site)
        if model.compton is not None:
            slope = slope + state.atoms[site] * model.compton[index][site]
    return np.asarray(scales[phase.name] * slope)
