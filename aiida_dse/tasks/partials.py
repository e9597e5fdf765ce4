"""Partial Debye sums: the contribution of every pair of sites to I(q)."""

from __future__ import annotations

import numpy as np

from aiida_dse.engine.scattering.debye import debye_intensity
from aiida_dse.engine.scattering.pairs import site_channels
from aiida_dse.engine.units import FloatArray

from .build import BuiltModel


def partial_patterns(built: BuiltModel) -> dict[str, FloatArray]:
    """I(q) (n_q,) of every pair of sites of every phase at the starting values, by 'phase.s-t'.

    Both orders of a pair are counted, and a pair of equal sites includes the self-scattering, so
    that all partial patterns (with Compton scattering, that of each phase is another one) add up to the
    pattern of `run_simulate`. In electron units per mean
    particle, times the scale of the phase (1 unless the document specifies it).
    """
    model = built.model
    values = model.start
    found = {}
    for index, (phase, state) in enumerate(zip(model.phases, model.states(values), strict=True)):
        occupancy, b_iso = phase.occupancy_and_b(model.local(index, values))
        factors = model.pair_factors[index]
        scale = built.document.scales.get(phase.name, 1.0)
        for channel, (s, t) in enumerate(site_channels(len(phase.labels))):
            # the form factors of all other pairs are set to zero
            only = np.zeros_like(factors)
            only[channel] = factors[channel]
            found[f"{phase.name}.{phase.labels[s]}-{phase.labels[t]}"] = scale * model.measurement.observe(
                debye_intensity(state.sums, only, state.atoms, occupancy, b_iso, model.sampling.q), values)
        if model.compton is not None:
            found[f"{phase.name}.compton"] = scale * model.measurement.observe(
                (state.atoms * occupancy) @ model.compton[index], values)
    return found
