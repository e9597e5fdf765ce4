"""Factors by which the measured intensity differs from that of the sample: polarisation and absorption.

There is no Lorentz factor: a Debye pattern is the intensity per solid angle, and its powder average contains
what programs for single reflections call the Lorentz factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np

from aiida_dse.engine.units import FloatArray


class Correction(Protocol):
    """A factor of the intensity that depends on the scattering angle."""

    def factor(self, two_theta: FloatArray) -> FloatArray:
        """The factor (n,) at scattering angles (n,) in degrees."""
        ...


@dataclass(frozen=True)
class Polarisation:
    """(1 + K cos^2 2theta) / (1 + K) of an unpolarised source, with K = cos^2 of the angle of a monochromator.

    monochromator: 2theta (degrees) of the reflection that monochromatises the beam, 0 without one. For a
    `perfect` crystal, K = |cos 2theta|; for a mosaic one, K = cos^2 2theta (Azaroff, Acta Cryst. 8 (1955) 701).
    """

    monochromator: float = 0.0
    perfect: bool = False

    def factor(self, two_theta: FloatArray) -> FloatArray:
        own = abs(np.cos(np.radians(self.monochromator))) ** (1 if self.perfect else 2)
        return np.asarray((1 + own * np.cos(np.radians(two_theta)) ** 2) / (1 + own))


@dataclass(frozen=True)
class SynchrotronPolarisation:
    """The factor for the share p of horizontal polarisation, in a vertical or horizontal scattering plane.

    Vertical: p + (1 - p) cos^2 2theta; horizontal: p cos^2 2theta + 1 - p.
    """

    horizontal: float
    plane: Literal["vertical", "horizontal"] = "vertical"

    def factor(self, two_theta: FloatArray) -> FloatArray:
        across = self.horizontal if self.plane == "vertical" else 1 - self.horizontal
        return np.asarray(across + (1 - across) * np.cos(np.radians(two_theta)) ** 2)


#: The largest mu R for which the integral over the capillary is accurate, and the angles at which it is computed.
LARGEST_MU_R = 10.0
_ANGLES = np.linspace(0.0, 180.0, 61)


@dataclass(frozen=True)
class CapillaryAbsorption:
    """The transmission of a cylindrical sample in a parallel beam that is wider than the sample.

    mu_r: the linear absorption coefficient times the radius. The factor is 1 without absorption.
    """

    mu_r: float

    def factor(self, two_theta: FloatArray) -> FloatArray:
        from scipy.interpolate import CubicSpline  # slow to load; few models need it

        return np.asarray(np.exp(CubicSpline(_ANGLES, np.log(transmission(self.mu_r)))(two_theta)))


@lru_cache(maxsize=64)
def transmission(mu_r: float) -> FloatArray:
    """The transmission (61,) of a cylinder at 2theta = 0, 3, ... 180 degrees.

    The mean of exp(-mu (path in + path out)) over the disc, by Gauss-Legendre nodes in the square of the
    distance from the axis and equidistant angles.
    """
    # more nodes for more absorption, which makes the integrand steep at the surface
    n_rho, n_phi = int(60 + 20 * mu_r), int(96 + 48 * mu_r)
    nodes, weights = np.polynomial.legendre.leggauss(n_rho)
    rho = np.sqrt((nodes + 1) / 2)[:, None]
    phi = 2 * np.pi * (np.arange(n_phi) + 0.5) / n_phi
    x, y = rho * np.cos(phi), rho * np.sin(phi)
    path_in = x + np.sqrt(1 - y**2)  # the beam travels along x
    found = []
    for angle in np.radians(_ANGLES):
        along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
        path_out = -along + np.sqrt(1 - across**2)
        mean = np.exp(-mu_r * (path_in + path_out)).mean(axis=1)
        found.append(float(weights @ mean) / 2)
    return np.array(found)
