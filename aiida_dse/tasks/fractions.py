"""Weight fractions of the phases of a refinement, with their standard uncertainties.

The pattern of a phase is that of its mean particle times its scale, so the scale is proportional to
the number of particles: w_i = s_i m_i / sum_j s_j m_j with m_i the mass of the mean particle.
"""

from __future__ import annotations

from collections.abc import Mapping

import gemmi
import numpy as np

from aiida_dse.documents.records import Value
from aiida_dse.engine.fit.refine import Refinement
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.derivatives import DIFFERENCE
from aiida_dse.engine.model.fixed_geometry import FixedGeometryPhase
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import Phase
from aiida_dse.engine.scattering.form_factors import element_of
from aiida_dse.engine.units import FloatArray

#: Relative step of a scale for the derivative of the fractions.
SCALE_STEP = 1e-4


def mass_of_particle(phase: Phase, local: Mapping[str, float]) -> float:
    """The mass (u) of the mean particle at local values; nan if the atoms are unknown."""
    weights = np.array([gemmi.Element(element_of(ion)).weight for ion in phase.ions])
    occupancy, _ = phase.occupancy_and_b(local)
    if isinstance(phase, CrystalPhase):
        crystal = phase.structure(local)
        atoms = np.bincount(crystal.site_of_atom, minlength=len(phase.ions)) \
            * phase.family.mean_cells(crystal, {name: local[name] for name in phase.family.parameters})
    elif isinstance(phase, FixedGeometryPhase):
        atoms = phase.atoms
    else:
        return float("nan")
    return float(np.sum(atoms * occupancy * weights))


def weight_fractions(model: PatternModel, found: Refinement) -> dict[str, Value]:
    """The weight fraction of each phase with its unscaled s.u.; empty for a single phase."""
    phases = model.phases
    if len(phases) < 2:
        return {}
    scales = {str(p.name): p.value for p in found.linear}

    def fractions(values: Mapping[str, float], scale: Mapping[str, float]) -> FloatArray:
        total = np.array([
            model.fixed_scales.get(phase.name, scale.get(model.scale_name(phase), 0.0))
            * mass_of_particle(phase, model.local(index, values))
            for index, phase in enumerate(phases)])
        return np.asarray(total / total.sum() if total.sum() > 0 else np.full(len(total), np.nan))

    of_phases = {str(model.scale_name(phase)) for phase in phases}
    names = [name for name in found.covariance.names
             if name in model.parameters or name in of_phases]
    gradient = np.zeros((len(phases), len(names)))
    for column, name in enumerate(names):
        if name in model.parameters:
            step = model.parameters[name].shift * DIFFERENCE
            ends = [fractions(model.constrained(dict(found.values) | {
                name: found.values[name] + sign * step}), scales) for sign in (1, -1)]
        else:
            step = SCALE_STEP * abs(scales[name])
            ends = [fractions(found.values, scales | {name: scales[name] + sign * step})
                    for sign in (1, -1)]
        gradient[:, column] = (ends[0] - ends[1]) / (2 * step)
    gradient[np.abs(gradient) < 1e-12] = 0.0
    variance = np.diag(found.covariance.propagated(gradient, names))
    return {
        phase.name: Value(value=float(value), unit="",
                          su=float(np.sqrt(v)) if np.isfinite(v) and v > 0 else None)
        for phase, value, v in zip(phases, fractions(found.values, scales), variance, strict=True)
    }
