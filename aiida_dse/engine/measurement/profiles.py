"""Instrumental profiles as products of analytic Fourier transforms.

k is conjugate to 2theta in degrees: a profile Phi(x) has the transform P(k) = integral Phi(x) exp(-i k x) dx.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numba import njit

from aiida_dse.engine.units import ComplexArray, FloatArray

#: Number of Gauss points of the axial divergence.
AXIAL_POINTS = 24


@dataclass(frozen=True)
class Widths:
    """H_G^2 = U tan^2 theta + V tan theta + W + P / cos^2 theta (Caglioti), and H_L = X tan theta + Y / cos theta.

    H_G and H_L are full widths at half maximum; U, V, W and P are in degrees squared, X and Y in degrees.
    """

    U: float = 0.0
    V: float = 0.0
    W: float = 0.0
    P: float = 0.0
    X: float = 0.0
    Y: float = 0.0

    def gaussian(self, two_theta: FloatArray) -> FloatArray:
        """H_G (n,) in degrees at 2theta (n,) in degrees; 0 where its square is negative."""
        return np.asarray(np.sqrt(np.maximum(self._square(two_theta), 0.0)))

    def lorentzian(self, two_theta: FloatArray) -> FloatArray:
        """H_L (n,) in degrees at 2theta (n,) in degrees."""
        theta = np.radians(two_theta) / 2
        return np.asarray(np.maximum(self.X * np.tan(theta) + self.Y / np.cos(theta), 0.0))

    def _square(self, two_theta: FloatArray) -> FloatArray:
        theta = np.radians(two_theta) / 2
        return np.asarray(
            self.U * np.tan(theta) ** 2 + self.V * np.tan(theta) + self.W + self.P / np.cos(theta) ** 2)

    def require_possible(self, two_theta: FloatArray) -> None:
        """Raise ValueError where the square of the Gaussian width is negative."""
        square = self._square(two_theta)
        if (square < -1e-12).any():
            at = float(np.asarray(two_theta)[int(np.argmin(square))])
            raise ValueError(
                f"instrument.profile: the square of the Gaussian width is {square.min():.3g} degrees^2 at 2theta = "
                f"{at:.4g} degrees; it must not be negative. Correct U, V, W and P.")


def gaussian(k: FloatArray, width: float) -> FloatArray:
    """The transform of a Gaussian with a full width at half maximum of `width`."""
    return np.asarray(np.exp(-((k * width) ** 2) / (16 * np.log(2))))


def lorentzian(k: FloatArray, width: float) -> FloatArray:
    """The transform of a Lorentzian with a full width at half maximum of `width`."""
    return np.asarray(np.exp(-np.abs(k) * width / 2))


@njit(cache=True, nogil=True)
def width_and_share(h_g, h_l):  # type: ignore[no-untyped-def]
    """The width and the Lorentzian share of the pseudo-Voigt function of Thompson, Cox and Hastings.

    h_g, h_l: full widths at half maximum of the Gaussian and the Lorentzian, in the unit of the width.
    """
    width = (h_g**5 + 2.69269 * h_g**4 * h_l + 2.42843 * h_g**3 * h_l**2 + 4.47163 * h_g**2 * h_l**3
             + 0.07842 * h_g * h_l**4 + h_l**5) ** 0.2
    x = h_l / width if width > 0 else 0.0
    return width, 1.36603 * x - 0.47719 * x**2 + 0.11116 * x**3


def pseudo_voigt(k: FloatArray, h_g: float, h_l: float) -> FloatArray:
    """The transform of the pseudo-Voigt function of Thompson, Cox and Hastings (J. Appl. Cryst. 20 (1987) 79)."""
    width, share = width_and_share(h_g, h_l)
    return np.asarray(share * lorentzian(k, width) + (1 - share) * gaussian(k, width))


def axial_divergence(k: FloatArray, two_theta: float, sample: float, detector: float) -> ComplexArray:
    """The transform of the axial divergence (Finger, Cox and Jephcoat, J. Appl. Cryst. 27 (1994) 892).

    sample, detector: the half-lengths of the illuminated sample and of the detector slit, divided by the distance
    between both. A ray that ends z higher than it began is recorded at an angle whose cosine is that of the
    scattering angle times sqrt(1 + z^2).
    """
    nodes, weights = np.polynomial.legendre.leggauss(AXIAL_POINTS)
    low, high = abs(sample - detector), sample + detector
    # the density of |z| for two uniform laws is constant up to `low` and decreases linearly up to `high`
    z = np.concatenate([low * (nodes + 1) / 2, low + (high - low) * (nodes + 1) / 2])
    density = np.where(z <= low, 1.0, (high - z) / max(high - low, 1e-300))
    share = density * np.concatenate([weights * low, weights * (high - low)])
    cosine = np.cos(np.radians(two_theta)) * np.sqrt(1 + z**2)
    shift = np.degrees(np.arccos(np.clip(cosine, -1, 1))) - two_theta
    return np.asarray(np.exp(-1j * np.multiply.outer(k, shift)) @ (share / share.sum()))


@lru_cache(maxsize=128)
def _axial(n: int, step: float, two_theta: float, sample: float, detector: float) -> ComplexArray:
    """`axial_divergence` at k = 0, step, ...; a changed width does not compute it again."""
    return axial_divergence(step * np.arange(n, dtype=np.float64), two_theta, sample, detector)


def capillary(k: FloatArray, radius: float, distance: float) -> FloatArray:
    """The transform of a transparent capillary of this radius at this distance (same unit) from the detector."""
    from scipy.special import j1

    x = k * np.degrees(radius / distance)
    return np.asarray(np.where(np.abs(x) < 1e-8, 1.0, 2 * j1(x) / np.where(np.abs(x) < 1e-8, 1.0, x)))


@dataclass(frozen=True)
class Profile:
    """The profile of an instrument.

    `shape`: 'tch' for the pseudo-Voigt function whose widths programs with TCH profiles refine, or 'voigt' for the
    convolution of a Gaussian and a Lorentzian. `q_width` (1/Å) is a Gaussian width in q, as of area detectors.
    axial (2,) as in `axial_divergence`; `capillary` (2,): radius and distance.
    """

    shape: Literal["tch", "voigt"] = "voigt"
    widths: Widths = Widths()
    q_width: float = 0.0
    axial: tuple[float, float] = (0.0, 0.0)
    capillary: tuple[float, float] | None = None

    @property
    def narrow(self) -> bool:
        """Whether there is no broadening at all."""
        return not (self.q_width or any(self.axial) or self.capillary) and self.widths == Widths()

    def width(self, two_theta: FloatArray, wavelength: float) -> FloatArray:
        """An upper limit (n,) of the width in degrees, for the margins of the grid."""
        total = self.widths.gaussian(two_theta) + self.widths.lorentzian(two_theta)
        total = total + self._q_width(two_theta, wavelength)
        if self.capillary:
            total = total + 2 * np.degrees(self.capillary[0] / self.capillary[1])
        z = sum(self.axial)
        return np.asarray(total + np.degrees(z * z / 2 / np.tan(np.radians(np.clip(two_theta, 1, 90)))))

    def transform(self, n: int, step: float, two_theta: float, wavelength: float) -> ComplexArray:
        """The transform (n,) of the profile at one angle, for k = 0, step, ..., in 1/degree."""
        k: FloatArray = step * np.arange(n, dtype=np.float64)
        at = np.array([two_theta])
        h_g, h_l = float(self.widths.gaussian(at)[0]), float(self.widths.lorentzian(at)[0])
        found: ComplexArray = (pseudo_voigt(k, h_g, h_l) if self.shape == "tch"
                               else gaussian(k, h_g) * lorentzian(k, h_l)).astype(complex)
        if self.q_width:
            found = found * gaussian(k, float(self._q_width(at, wavelength)[0]))
        if any(self.axial):
            found = found * _axial(n, step, two_theta, *self.axial)
        if self.capillary:
            found = found * capillary(k, *self.capillary)
        return found

    def _q_width(self, two_theta: FloatArray, wavelength: float) -> FloatArray:
        # dq = 2 pi cos(theta) / lambda d(2theta)
        slope = 2 * np.pi / wavelength * np.cos(np.radians(two_theta) / 2)
        return np.asarray(np.degrees(self.q_width / slope))
