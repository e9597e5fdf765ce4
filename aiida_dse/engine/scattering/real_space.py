"""Total scattering functions: S(Q), F(Q), G(r) and the partial structure factors (Faber and Ziman).

    S(Q) = [I/N - <f^2>] / |<f>|^2 + 1,   F(Q) = Q [S(Q) - 1],   G(r) = 2/pi int F(Q) M(Q) sin(Q r) dQ,

with the intensity I of N atoms without Compton scattering, <f> = sum c_s f_s and <f^2> = sum c_s |f_s|^2. G(r) is
the reduced pair distribution function of Farrow and Billinge (Acta Cryst. A65 (2009) 232), G^PDF of Keen (J. Appl.
Cryst. 34 (2001) 172).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from aiida_dse.engine.units import FloatArray

from .form_factors import ScatteringFactor
from .pairs import site_channels

Window = Literal["none", "lorch"]


@dataclass(frozen=True)
class Averages:
    """|<f>|^2 and <f^2> (n_q,) of a composition, in electron units squared."""

    square_of_mean: FloatArray
    mean_of_squares: FloatArray

    @classmethod
    def of(cls, factors: Sequence[ScatteringFactor], atoms: FloatArray) -> Averages:
        """From the scattering factors of the sites and the numbers (n_sites,) of their atoms."""
        share = np.asarray(atoms, dtype=float) / np.sum(atoms)
        values = np.array([factor.real + 1j * factor.imaginary for factor in factors])
        return cls(np.abs(share @ values) ** 2, np.asarray(share @ np.abs(values) ** 2))

    def structure_factor(self, intensity: FloatArray) -> FloatArray:
        """S(Q) (n_q,) of an intensity per atom, without Compton scattering."""
        return np.asarray((intensity - self.mean_of_squares) / self.square_of_mean + 1)

    def intensity(self, structure_factor: FloatArray) -> FloatArray:
        """The intensity (n_q,) per atom of S(Q)."""
        return np.asarray((structure_factor - 1) * self.square_of_mean + self.mean_of_squares)


def pair_distribution(
    q: FloatArray, reduced: FloatArray, r: FloatArray, *, window: Window = "none", q_damp: float = 0.0
) -> FloatArray:
    """G(r) (n_r,) in 1/Å^2 at distances r (n_r,) Å, from F(Q) (n_q,) 1/Å at q (n_q,).

    The integral from the first to the last q is that of the trapezoidal rule. `lorch` multiplies F(Q) by
    sin(pi Q/Q_max) / (pi Q/Q_max), and q_damp (1/Å) G(r) by exp(-(r q_damp)^2 / 2). Raises ValueError for q that do
    not increase or are too far apart for the largest r.
    """
    steps = np.diff(q)
    if len(q) < 2 or not (steps > 0).all():
        raise ValueError("q must have at least two values, in increasing order.")
    if steps.max() * r.max() > np.pi:
        raise ValueError(
            f"the values of q are up to {steps.max():.3g} 1/Å apart, which allows distances up to "
            f"{np.pi / steps.max():.3g} Å, but r reaches {r.max():.3g} Å. Use a finer step, or a shorter range of r.")
    values = np.array(reduced, dtype=float)
    if window == "lorch":
        values *= np.sinc(q / q[-1])
    weights = np.zeros(len(q))
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    values *= weights
    found = np.empty(len(r))
    for begin in range(0, len(r), 256):  # bounds the memory
        part = slice(begin, begin + 256)
        found[part] = np.sin(np.multiply.outer(r[part], q)) @ values
    return np.asarray(2 / np.pi * found * np.exp(-((r * q_damp) ** 2) / 2))


def partial_structure_factors(sums: FloatArray, damping: FloatArray, atoms: FloatArray) -> FloatArray:
    """The partial structure factors A_st(Q) (n_channels, n_q) of Faber and Ziman.

    sums (n_channels, n_q) are the partial Debye sums of unordered pairs of atoms, times the occupancies of both;
    damping (n_sites, n_q) the Debye-Waller factors, and atoms (n_sites,) the numbers of atoms.
    """
    share, total = atoms / atoms.sum(), atoms.sum()
    found = np.empty_like(sums)
    for k, (s, t) in enumerate(site_channels(len(atoms))):
        ordered = 2.0 if s == t else 1.0
        found[k] = 1 + ordered * sums[k] * damping[s] * damping[t] / (total * share[s] * share[t])
    return found


def total_from_partials(partials: FloatArray, factors: Sequence[ScatteringFactor], atoms: FloatArray) -> FloatArray:
    """S(Q) (n_q,), the sum of the weighted partial structure factors (n_channels, n_q)."""
    share = atoms / atoms.sum()
    total = np.zeros(partials.shape[1])
    for k, (s, t) in enumerate(site_channels(len(atoms))):
        product = factors[s].real * factors[t].real + factors[s].imaginary * factors[t].imaginary
        total += (1.0 if s == t else 2.0) * share[s] * share[t] * product * (partials[k] - 1)
    return np.asarray(1 + total / Averages.of(factors, atoms).square_of_mean)
