"""Laws fitted to the points of a series: weighted lines, and B_iso(T) of Einstein and Debye."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import constants
from scipy.optimize import least_squares
from scipy.special import spence

from aiida_dse.engine.units import FloatArray

#: Points further from a law than this (in s.u. of the point) are outliers.
OUTLIER = 4.0
#: Bounds (K) of the characteristic temperature of a law of B_iso(T).
THETA_LIMITS = (1.0, 5000.0)

VibrationLaw = Literal["einstein", "debye"]


@dataclass(frozen=True)
class LawFit:
    """A law fitted to n points by weighted least squares.

    values (p,); unscaled covariance (p, p); sensitivity (p, n) = d values / d points; residuals
    (n,) in s.u. of the points. `at_bound` names the parameters held at a bound, which have no s.u.
    """

    names: tuple[str, ...]
    values: FloatArray
    covariance: FloatArray
    sensitivity: FloatArray
    residuals: FloatArray
    r_squared: float | None = None
    at_bound: tuple[str, ...] = ()

    def value(self, name: str) -> float:
        """The fitted value of a parameter."""
        return float(self.values[self.names.index(name)])

    def su(self, name: str) -> float | None:
        """The unscaled standard uncertainty; None for a parameter at a bound."""
        k = self.names.index(name)
        return None if name in self.at_bound else float(np.sqrt(self.covariance[k, k]))

    def correlation(self, first: str, second: str) -> float | None:
        """The correlation of two parameters; None where one is at a bound."""
        if {first, second} & set(self.at_bound):
            return None
        i, j = self.names.index(first), self.names.index(second)
        c = self.covariance
        return float(c[i, j] / np.sqrt(c[i, i] * c[j, j]))

    @property
    def chi2(self) -> float:
        return float(np.sum(self.residuals**2))

    @property
    def degrees_of_freedom(self) -> int:
        return len(self.residuals) - len(self.names) + len(self.at_bound)

    @property
    def chi2_red(self) -> float | None:
        """chi2 / (n - p); None where there are no more points than parameters."""
        dof = self.degrees_of_freedom
        return self.chi2 / dof if dof > 0 else None

    @property
    def scale(self) -> float:
        """max(1, sqrt(chi2_red)), the factor by which the s.u. are scaled for scattered points.

        It corresponds to max(1, GoF) of a refinement (Birge, Phys. Rev. 40 (1932) 207).
        """
        return float(np.sqrt(max(1.0, self.chi2_red or 0.0)))


def weighted_line(
    x: ArrayLike, y: ArrayLike, *, su_y: ArrayLike, su_x: ArrayLike | None = None,
    covariance_xy: ArrayLike | None = None, origin: float = 0.0, through_origin: bool = False,
) -> LawFit:
    """Fit the line y = intercept + slope (x - origin) with errors in both axes.

    The fit minimises sum (y - y(x))^2 / (su_y^2 + slope^2 su_x^2 - 2 slope cov_xy), the least
    squares of York (1966) for correlated errors. x, y, su_y, su_x and covariance_xy (n,) are in the
    units of x and y; without su_x, it is the ordinary weighted line; `through_origin` fixes the
    intercept at 0, so that 'slope' is the only parameter. R^2 = 1 - sum w (y - y(x))^2 /
    sum w (y - mean)^2 refers to the weighted mean in both cases. The covariance takes the weights
    as constant; for errors mostly in x, its s.u. are about one per cent larger than York's. As in
    all least squares whose weights depend on the slope, the log-determinant of the weights is
    omitted, so the slope is biased where su_x is not small compared with the spread of x. Raises
    ValueError for fewer than two distinct x, and for s.u. that are not positive.
    Source: York, Evensen, Martínez & Delgado, Am. J. Phys. 72 (2004) 367.
    """
    places, points, sigma = checked_points(x, y, su_y)
    if len(np.unique(places)) < 2:
        raise ValueError(f"a line needs points at two or more different x, but the number of "
                         f"points is {len(places)} and that of different x "
                         f"{len(np.unique(places))}.")
    spread = np.zeros(len(places)) if su_x is None else np.asarray(su_x, dtype=float)
    shared = np.zeros(len(places)) if covariance_xy is None else np.asarray(covariance_xy, float)
    shift = places - origin
    names: tuple[str, ...] = ("slope",) if through_origin else ("intercept", "slope")
    design = np.column_stack([np.ones(len(shift)), shift])[:, -len(names):]
    start = np.asarray(
        np.linalg.lstsq(design / sigma[:, None], points / sigma, rcond=None)[0], dtype=float)

    def effective(slope: float) -> FloatArray:
        return np.asarray(np.sqrt(sigma**2 + slope**2 * spread**2 - 2 * slope * shared))

    def distance(values: FloatArray) -> FloatArray:
        return np.asarray((points - design @ values) / effective(float(values[-1])))

    values = start
    if spread.any():
        scale = np.maximum(np.abs(start), 1e-12)
        values = least_squares(distance, start, x_scale=scale, xtol=1e-14, ftol=1e-14, gtol=1e-14,
                               jac="3-point").x
    weight = 1 / effective(float(values[-1]))
    residuals = distance(values)
    total = float(np.sum((weight * (points - np.average(points, weights=weight**2))) ** 2))
    return linearised(names, values, design * weight[:, None], weight, residuals,
                      r_squared=1 - float(residuals @ residuals) / total if total > 0 else None)


def relative_slope(fit: LawFit) -> tuple[float, float]:
    """The relative slope of a line, slope / intercept, and its unscaled s.u.

    For a line V(T) it is the expansion coefficient alpha = (1/V_ref) dV/dT.
    """
    intercept, slope = fit.values
    gradient = np.array([-slope / intercept**2, 1 / intercept])
    return float(slope / intercept), float(np.sqrt(gradient @ fit.covariance @ gradient))


def einstein_b(temperature: ArrayLike, theta: float, mass: float) -> FloatArray:
    """Einstein's B_iso (Å^2) of an oscillator: (8 pi^2 hbar / 2 m omega) coth(hbar omega / 2 k T).

    temperature (n,) in K, 0 allowed; theta = hbar omega / k in K; mass in u.
    Source: Willis & Pryor, Thermal Vibrations in Crystallography (1975).
    """
    t = np.asarray(temperature, dtype=float)
    zero_point = 8 * np.pi**2 * _mean_square(theta, mass) / 2
    ratio = np.divide(theta / 2, t, out=np.full(t.shape, np.inf), where=t > 0)
    return np.asarray(zero_point / np.tanh(ratio))


def debye_b(temperature: ArrayLike, theta: float, mass: float) -> FloatArray:
    """Debye's B_iso (Å^2) of a solid: (6 h^2 / m k theta) (phi(x)/x + 1/4), x = theta/T.

    phi(x) = (1/x) integral_0^x t / (e^t - 1) dt, by the dilogarithm. temperature (n,) in K, 0
    allowed; theta in K; mass in u. At high T it equals an Einstein law with theta / sqrt(3).
    Source: Willis & Pryor, Thermal Vibrations in Crystallography (1975).
    """
    t = np.asarray(temperature, dtype=float)
    x = np.divide(theta, t, out=np.full(t.shape, np.inf), where=t > 0)
    cold = np.exp(-x)
    # at T = 0, where x is infinite, x log(1 - e^-x) is 0
    finite = np.where(np.isfinite(x), x, 0.0)
    with np.errstate(divide="ignore"):
        log = np.where(np.isfinite(x), np.log1p(-np.where(np.isfinite(x), cold, 0.0)), 0.0)
    integral = np.pi**2 / 6 + finite * log - spence(1 - cold)
    return np.asarray(24 * np.pi**2 * _mean_square(theta, mass) * (integral / x**2 + 0.25))


def _mean_square(theta: float, mass: float) -> float:
    """hbar^2 / (m k theta) in Å^2."""
    kilogram = mass * constants.atomic_mass
    return float(constants.hbar**2 / (kilogram * constants.k * theta) / constants.angstrom**2)


VIBRATION_LAWS: dict[str, Callable[[ArrayLike, float, float], FloatArray]] = {
    "einstein": einstein_b, "debye": debye_b,
}


def fit_displacements(
    law: VibrationLaw, temperature: ArrayLike, b: ArrayLike, *, su: ArrayLike, mass: float,
) -> LawFit:
    """Fit B_iso(T) = B_static + Einstein's or Debye's law, with 'theta' (K) and 'B_static' (Å^2).

    temperature (n,) in K; b and su (n,) in Å^2; mass in u. B_static cannot be negative: where the
    points would require that, it is 0 and in `at_bound`, and the s.u. of theta is that of the law
    without it. Raises ValueError for fewer than two temperatures.
    """
    t, points, sigma = checked_points(temperature, b, su)
    if len(np.unique(t)) < 2:
        raise ValueError("a law of B_iso(T) needs at least two temperatures, but the temperatures "
                         f"are {np.unique(t).tolist()} K.")
    thermal = VIBRATION_LAWS[law]

    def static_at(theta: float) -> float:
        rest = points - thermal(t, theta, mass)
        return max(0.0, float(np.average(rest, weights=1 / sigma**2)))

    def distance(values: FloatArray) -> FloatArray:
        return np.asarray((points - values[1] - thermal(t, float(values[0]), mass)) / sigma)

    # B_static is linear, so a one-dimensional grid of theta contains a good starting point
    grid = np.geomspace(*THETA_LIMITS, 120)
    tried = [(theta, static_at(theta)) for theta in grid]
    start = min(tried, key=lambda pair: float(np.sum(distance(np.array(pair)) ** 2)))
    lower, upper = (THETA_LIMITS[0], 0.0), (THETA_LIMITS[1], np.inf)
    solution = least_squares(
        distance, start, bounds=(lower, upper),
        x_scale=(start[0], max(float(np.ptp(points)), 1e-6)), jac="3-point",
        xtol=1e-14, ftol=1e-14, gtol=1e-14,
    ).x
    theta, static = float(solution[0]), static_at(float(solution[0]))
    values = np.array([theta, static])
    at_bound = tuple(
        name for name, bound in (
            ("theta", min(abs(theta - limit) for limit in THETA_LIMITS) < 1e-6 * theta),
            ("B_static", static == 0.0),
        ) if bound
    )
    step = 1e-4 * theta
    slope = (thermal(t, theta + step, mass) - thermal(t, theta - step, mass)) / (2 * step)
    design = np.column_stack([slope, np.ones(len(t))])
    return linearised(("theta", "B_static"), values, design / sigma[:, None], 1 / sigma,
                       distance(values), at_bound=at_bound)


def cross_covariance(first: LawFit, second: LawFit, covariance: ArrayLike) -> FloatArray:
    """The covariance (p1, p2) of the parameters of two laws whose points have correlated errors.

    covariance (n1, n2) is that between the points of the first and those of the second law, for
    example between quantities of the same refinements.
    """
    shared = np.asarray(covariance, dtype=float)
    return np.asarray(first.sensitivity @ shared @ second.sensitivity.T)


def outliers(fit: LawFit, names: Sequence[str]) -> dict[str, float]:
    """The points further than OUTLIER s.u. from the law, with their residuals in s.u."""
    return {name: float(r) for name, r in zip(names, fit.residuals, strict=True)
            if abs(r) > OUTLIER}


def checked_points(
    x: ArrayLike, y: ArrayLike, su: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The x, y and s.u. (n,) of the points of a law as arrays.

    Raises ValueError for different shapes, for values that are not finite, and for s.u. that are
    not positive.
    """
    places, points, sigma = (np.asarray(v, dtype=float) for v in (x, y, su))
    if not (places.shape == points.shape == sigma.shape and places.ndim == 1):
        raise ValueError(f"x, y and s.u. of a law have the shapes {places.shape}, {points.shape} "
                         f"and {sigma.shape}; they must be one-dimensional and of equal length.")
    if not (np.isfinite(places).all() and np.isfinite(points).all()
            and np.isfinite(sigma).all() and (sigma > 0).all()):
        raise ValueError("every point of a law needs finite values and an s.u. above 0. Remove "
                         "points without an s.u.")
    return places, points, sigma


def linearised(
    names: tuple[str, ...], values: FloatArray, jacobian: FloatArray, weight: FloatArray,
    residuals: FloatArray, *, r_squared: float | None = None, at_bound: tuple[str, ...] = (),
) -> LawFit:
    """A fitted law with covariance (J^T J)^-1 and sensitivity (J^T J)^-1 J^T diag(weight).

    jacobian (n, p) is d(law)/d(parameter) divided by the s.u. of the points; weight (n,) = 1 / s.u.
    Parameters at a bound do not take part.
    """
    free = np.array([name not in at_bound for name in names])
    covariance = np.zeros((len(names), len(names)))
    sensitivity = np.zeros((len(names), len(weight)))
    # unit columns, because theta and B_static, or V and dV/dT, differ by orders of magnitude
    length = np.linalg.norm(jacobian[:, free], axis=0)
    inverse = np.linalg.pinv(jacobian[:, free] / length) / length[:, None]
    covariance[np.ix_(free, free)] = inverse @ inverse.T
    sensitivity[free] = inverse * weight
    return LawFit(names, np.asarray(values, dtype=float), covariance, sensitivity,
                  residuals, r_squared, at_bound)
