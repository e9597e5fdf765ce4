"""Total scattering functions of a model and of its data: S(Q), F(Q), G(r) and the partial pair distributions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aiida_dse.engine.model.bulk_phase import BulkPhase
from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.scattering.form_factors import scattering_factor
from aiida_dse.engine.scattering.pairs import site_channels
from aiida_dse.engine.scattering.real_space import (
    Averages,
    Window,
    pair_distribution,
    partial_structure_factors,
)
from aiida_dse.engine.units import FloatArray

from .build import BuiltModel


@dataclass(frozen=True)
class TotalScattering:
    """S(Q) and F(Q) (n_q,) at q (n_q,) 1/Å, and G(r) (n_r,) 1/Å^2 at r (n_r,) Å.

    `observed` are those of the data, if there are any; `partials` the pair distribution functions of the pairs of
    elements or sites (n_r,) by name, for one phase, such that G(r) of neutrons is their weighted sum.
    """

    q: FloatArray
    structure_factor: FloatArray
    reduced: FloatArray
    r: FloatArray
    pair_distribution: FloatArray
    observed_structure_factor: FloatArray | None
    observed_pair_distribution: FloatArray | None
    partials: dict[str, FloatArray]

    def write(self, folder: Path) -> list[Path]:
        """Write S(Q) and F(Q), and G(r), as text files with named columns; their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        reciprocal = {"Q": self.q, "S_calculated": self.structure_factor, "F_calculated": self.reduced}
        real = {"r": self.r, "G_calculated": self.pair_distribution}
        if self.observed_structure_factor is not None and self.observed_pair_distribution is not None:
            reciprocal |= {"S_observed": self.observed_structure_factor,
                           "F_observed": self.q * (self.observed_structure_factor - 1)}
            real |= {"G_observed": self.observed_pair_distribution}
        real |= {f"g_{name}": values for name, values in self.partials.items()}
        paths = []
        for name, columns in (("structure_factor.txt", reciprocal), ("pair_distribution.txt", real)):
            paths.append(folder / name)
            np.savetxt(paths[-1], np.column_stack(list(columns.values())), header=" ".join(columns), fmt="%.8g")
        return paths


def total_scattering(
    built: BuiltModel, r: FloatArray, *, q_range: tuple[float, float] | None = None, window: Window = "none",
    q_damp: float = 0.0,
) -> TotalScattering:
    """The total scattering functions at the starting values, on the q of the pattern within q_range (1/Å).

    With data, the observed functions are the calculated ones plus the residuals divided by the scale, the number of
    atoms and the corrections, so that the background, blanks and Compton scattering are those of the model, and the
    resolution of an instrument remains in the residuals only. Raises ValueError for ranges without points, and for
    models with large crystals.
    """
    model, values = built.model, built.model.start
    if bulk := [phase.name for phase in model.phases if isinstance(phase, BulkPhase)]:
        raise ValueError(f"{' and '.join(bulk)}: the pair distribution function of large crystals does not end within "
                         "any range of r that could be transformed. Remove the phase.")
    q = model.observation.q
    low, high = q_range or (float(q[0]), float(q[-1]))
    used = (q >= low * (1 - 1e-9)) & (q <= high * (1 + 1e-9))
    if used.sum() < 2:
        raise ValueError(f"the pattern has {used.sum()} points from q = {low:g} to {high:g} 1/Å; it covers {q[0]:.4g} "
                         f"to {q[-1]:.4g} 1/Å. Correct the range.")
    sampling = Sampling(q, model.observation.wavelength, tolerance=model.sampling.tolerance,
                        resources=model.sampling.resources)
    evaluation = model.evaluate(values) if built.measured else None
    linear = {} if evaluation is None else dict(zip(
        model.linear_names, evaluation.linear.coefficients.tolist(), strict=True))
    coherent, numbers, factors, weights, partials = np.zeros(len(q)), [], [], 0.0, {}
    for k, phase in enumerate(model.phases):
        local = model.local(k, values)
        state = phase.state(local, sampling)
        occupancy, b_iso = phase.occupancy_and_b(local)
        scale = model.fixed_scales.get(phase.name, linear.get(model.scale_name(phase), 1.0))
        coherent += scale * debye.debye_intensity(
            state.sums, phase.pair_factors(sampling), state.atoms, occupancy, b_iso, q)
        atoms = state.atoms * occupancy
        numbers.append(scale * atoms)
        factors += [scattering_factor(ion, q, sampling.wavelength) for ion in phase.ions]
        weights += scale * atoms.sum()
        if len(model.phases) == 1:
            pairs = np.array([occupancy[s] * occupancy[t] for s, t in site_channels(len(phase.labels))])
            structure = partial_structure_factors(
                state.sums * pairs[:, None], debye.debye_waller(b_iso, q), atoms)
            for (s, t), one in zip(site_channels(len(phase.labels)), structure, strict=True):
                partials[f"{phase.labels[s]}-{phase.labels[t]}"] = pair_distribution(
                    q[used], (q * (one - 1))[used], r, window=window, q_damp=q_damp)
    if not weights > 0:
        raise ValueError("the scales of all phases are zero, so there is no pair distribution function.")
    averages = Averages.of(factors, np.concatenate(numbers))
    calculated = averages.structure_factor(coherent / weights)
    observed = None
    if evaluation is not None:
        corrections = model.measurement.observe(np.ones(len(model.sampling.q)), values)
        residual = (model.observation.intensity - model.calculated(evaluation)) / (corrections * weights)
        observed = calculated + residual / averages.square_of_mean

    def transformed(structure_factor: FloatArray) -> FloatArray:
        return pair_distribution(q[used], (q * (structure_factor - 1))[used], r, window=window, q_damp=q_damp)

    return TotalScattering(
        q[used], calculated[used], (q * (calculated - 1))[used], r, transformed(calculated),
        None if observed is None else observed[used], None if observed is None else transformed(observed), partials)
