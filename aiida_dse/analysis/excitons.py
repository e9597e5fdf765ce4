"""First exciton energies of quantum dots as a function of size (sizing curve)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import constants
from scipy.optimize import least_squares

from aiida_dse.engine.units import FloatArray

from .laws import LawFit, checked_points, linearised

_RYDBERG_RADIUS = (
    constants.Rydberg * constants.h * constants.c / constants.e
    * constants.physical_constants["Bohr radius"][0] * 1e9
)  # Ry a0 = e^2 / (8 pi eps0), eV nm
#: Bounds (nm) of a fitted decay length.
DECAY_LIMITS = (0.05, 500.0)


@dataclass(frozen=True)
class ExcitonLaw:
    """The sizing curve E1(d) of the first exciton energy.

    E1(d) = (E0 + sqrt(E0^2 + 8 E0 alpha pi^2 (Ry a0 / (eps d0)) e^-x / (1 - e^-x)^2)) / 2 with
    x = d/d0; gap E0 in eV, decay_length d0 in nm, permittivity eps and alpha dimensionless.
    E1 -> E0 for large d, and e^-x / (1 - e^-x)^2 is (d0/d)^2 for d << d0. Raises ValueError for
    parameters that are not positive. Source: Bertolotti et al., Small Structures (2023).
    """

    gap: float
    permittivity: float
    decay_length: float
    alpha: float = 0.7

    def __post_init__(self) -> None:
        for name in ("gap", "permittivity", "decay_length", "alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"the {name} of the sizing curve is {getattr(self, name):g}; it "
                                 "must be positive (gap in eV, decay_length in nm).")

    def energy(self, d: ArrayLike) -> FloatArray:
        """E1 (n,) in eV at the sizes d (n,) in nm; ValueError for d <= 0."""
        size = np.asarray(d, dtype=float)
        if not (size > 0).all():
            raise ValueError(f"the smallest size is {size.min():g} nm; sizes must be positive "
                             "lengths in nm.")
        x = size / self.decay_length
        strength = (8 * self.gap * self.alpha * np.pi**2 * _RYDBERG_RADIUS
                    / (self.permittivity * self.decay_length))
        shape = np.exp(-x) / np.expm1(-x) ** 2
        return np.asarray((self.gap + np.sqrt(self.gap**2 + strength * shape)) / 2)

    def slope(self, d: ArrayLike) -> FloatArray:
        """The derivative dE1/dd (n,) in eV/nm at the sizes d (n,) in nm."""
        size = np.asarray(d, dtype=float)
        step = 1e-5 * size
        return np.asarray((self.energy(size + step) - self.energy(size - step)) / (2 * step))


def cuboid_size(edge: ArrayLike) -> FloatArray:
    """The size d = 2 L / sqrt(3) (nm) in the sizing curve of a cuboid of edge L (nm)."""
    return np.asarray(2 * np.asarray(edge, dtype=float) / np.sqrt(3))


def fit_decay_length(
    d: ArrayLike, energy: ArrayLike, *, su_energy: ArrayLike, su_d: ArrayLike | None = None,
    gap: float, permittivity: float, alpha: float = 0.7,
) -> LawFit:
    """Fit the decay length 'd0' (nm) of the sizing curve to measured energies (eV) at sizes d (nm).

    The fit minimises sum (E - E1(d))^2 / (su_E^2 + (dE1/dd)^2 su_d^2); d, energy, su_energy and
    su_d have the shape (n,).
    """
    size, points, sigma = checked_points(d, energy, su_energy)
    spread = np.zeros(len(size)) if su_d is None else np.asarray(su_d, dtype=float)

    def effective(d0: float) -> FloatArray:
        return np.asarray(np.hypot(
            sigma, ExcitonLaw(gap, permittivity, d0, alpha).slope(size) * spread))

    def distance(values: FloatArray) -> FloatArray:
        law = ExcitonLaw(gap, permittivity, float(values[0]), alpha)
        return np.asarray((points - law.energy(size)) / effective(float(values[0])))

    grid = np.geomspace(*DECAY_LIMITS, 200)
    start = min(grid, key=lambda d0: float(np.sum(distance(np.array([d0])) ** 2)))
    solution = least_squares(distance, [start], bounds=DECAY_LIMITS, x_scale=[start],
                             jac="3-point", xtol=1e-14, ftol=1e-14, gtol=1e-14).x
    d0, step = float(solution[0]), 1e-4 * float(solution[0])
    ends = [ExcitonLaw(gap, permittivity, d0 + sign * step, alpha).energy(size)
            for sign in (1, -1)]
    weight = 1 / effective(d0)
    jacobian = ((ends[0] - ends[1]) / (2 * step) * weight)[:, None]
    at_bound = ("d0",) if min(abs(d0 - limit) for limit in DECAY_LIMITS) < 1e-6 * d0 else ()
    return linearised(("d0",), solution, jacobian, weight, distance(solution), at_bound=at_bound)
