"""Conversions of scattering variables and displacement parameters, with their units."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

#: hc in eV Å (CODATA 2018, exact constants).
HC_EV_ANGSTROM = 12398.419843320026


def q_from_two_theta(two_theta: ArrayLike, wavelength: float) -> FloatArray:
    """q = 4 pi sin(theta) / lambda in 1/Å, from the scattering angle in degrees.

    Raises ValueError where an angle is not in 0 < 2theta < 180 or the wavelength (Å) is not
    positive.
    """
    angle = np.asarray(two_theta, dtype=float)
    _positive_wavelength(wavelength)
    if angle.size and not (angle.min() > 0 and angle.max() < 180):
        raise ValueError(
            f"2theta runs from {angle.min():g} to {angle.max():g} degrees; it must lie between "
            "0 and 180. If this column is q, specify 'axis' of the pattern."
        )
    return np.asarray(4 * np.pi * np.sin(np.radians(angle) / 2) / wavelength)


def two_theta_from_q(q: ArrayLike, wavelength: float) -> FloatArray:
    """2theta in degrees from q in 1/Å and the wavelength in Å.

    Raises ValueError where q reaches 4 pi / lambda, the limit of the wavelength.
    """
    momentum = np.asarray(q, dtype=float)
    _positive_wavelength(wavelength)
    reach = 4 * np.pi / wavelength
    if momentum.size and momentum.max() >= reach:
        raise ValueError(
            f"q reaches {momentum.max():g} 1/Å, but the limit for a wavelength of {wavelength:g} Å "
            f"is {reach:.4g} 1/Å (backscattering). Correct the wavelength, or specify "
            "'axis: q_inverse_nm' if q is in 1/nm."
        )
    return np.asarray(np.degrees(2 * np.arcsin(momentum * wavelength / (4 * np.pi))))


def photon_energy(wavelength: float) -> float:
    """Photon energy in eV for a wavelength in Å."""
    _positive_wavelength(wavelength)
    return HC_EV_ANGSTROM / wavelength


def b_from_u(u_iso: float) -> float:
    """B = 8 pi^2 U_iso, both in Å^2."""
    return 8 * np.pi**2 * u_iso


def u_from_b(b_iso: float) -> float:
    """U_iso = B / (8 pi^2), both in Å^2."""
    return b_iso / (8 * np.pi**2)


def _positive_wavelength(wavelength: float) -> None:
    if not wavelength > 0:
        raise ValueError(
            f"the wavelength is {wavelength:g} Å; it must be a positive number of Å."
        )
