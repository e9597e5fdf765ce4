"""Standard uncertainties: the joint covariance of refined parameters and linear coefficients.

With D the derivative of the weighted pattern with respect to the free parameters, L the weighted
columns of the linear coefficients and R the derivative of the restraints, the normal matrix is

    | D^T D + R^T R   D^T L |
    | L^T D           L^T L |

Its inverse by block elimination is C_pp = (D^T (1 - Q Q^T) D + R^T R)^-1 with Q a basis of L (from
the Jacobian of the variable projection), C_lp = -L^+ D C_pp, and
C_ll = (L^T L)^-1 + L^+ D C_pp D^T L^+T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.units import FloatArray

#: Relative singular value below which a direction of parameter space is undetermined.
SINGULAR = 1e-5
#: A quantity is undetermined if the omitted directions would add this fraction of its variance.
ADDED = 0.01
#: A parameter takes part in the s.u. of a quantity if it contributes at least this fraction of it.
NOTICEABLE = 0.1
#: Variance of a parameter without any effect, and the limit of an s.u. that has none.
NO_EFFECT = 1e200
UNLIMITED = 1e100


@dataclass(frozen=True)
class NormalInverse:
    """(J^T J)^-1 of n parameters, on the directions that the data determine.

    `determined` (n, n) is the pseudo-inverse on these directions. `missing` (n, n) is the
    covariance that the omitted directions would add if their singular values were at the limit: a
    quantity with the gradient g is undetermined where g missing g^T exceeds the fraction ADDED of
    g determined g^T.

    `limits` (n,) are the largest s.u. of the parameters for which a linear propagation makes sense.
    A parameter beyond its limit is undetermined, and so is a quantity whose s.u. is larger than its
    change when that parameter moves by the limit.
    """

    determined: FloatArray
    missing: FloatArray
    limits: FloatArray

    @property
    def undetermined(self) -> np.ndarray:
        """A mask (n,) of the undetermined parameters."""
        return self._lost(np.eye(len(self.limits)), np.diag(self.determined))

    def _lost(self, gradient: FloatArray, variance: FloatArray) -> np.ndarray:
        """A mask (m,) of the undetermined ones among quantities with a gradient (m, n)."""
        added = np.einsum("ij,jk,ik->i", gradient, self.missing, gradient)
        su = np.sqrt(np.maximum(np.diag(self.determined), 0.0))
        total = np.sqrt(np.maximum(variance, 0.0))[:, None]
        beyond = (su > self.limits) & (np.abs(gradient) * su > NOTICEABLE * total) \
            & (total > np.abs(gradient) * self.limits)
        return np.asarray((added > ADDED * variance) | beyond.any(axis=1))

    @property
    def covariance(self) -> FloatArray:
        """The covariance (n, n) of the parameters; rows and columns without an s.u. are nan."""
        found, lost = self.determined.copy(), self.undetermined
        found[lost, :] = found[:, lost] = np.nan
        return found

    def propagated(self, gradient: FloatArray) -> FloatArray:
        """The covariance (m, m) of m quantities with the gradient (m, n).

        It is nan for quantities that the data do not determine. A quantity may be determined
        although it depends on undetermined parameters.
        """
        carried = np.asarray(gradient @ self.determined @ gradient.T)
        np.fill_diagonal(carried, np.maximum(np.diag(carried), 0.0))  # rounding may leave -1e-30
        lost = self._lost(gradient, np.diag(carried))
        carried[lost, :] = carried[:, lost] = np.nan
        return carried


@dataclass(frozen=True)
class Covariance:
    """The unscaled covariance of named quantities; nan for quantities without an s.u.

    `inverse` is that of the refined parameters, which are the first of the quantities. With it,
    quantities that depend on undetermined parameters only through a determined combination have
    an s.u.
    """

    names: tuple[str, ...]
    matrix: FloatArray  # (n, n)
    inverse: NormalInverse | None = None

    @classmethod
    def unknown(cls, names: tuple[str, ...]) -> Covariance:
        """The covariance of quantities without s.u."""
        return cls(names, np.full((len(names), len(names)), np.nan))

    def su(self, name: str) -> float | None:
        """The unscaled s.u. of a quantity; None where it has none."""
        k = self.names.index(name)
        variance = float(self.matrix[k, k])
        return float(np.sqrt(variance)) if np.isfinite(variance) else None

    def block(self, names: Sequence[str]) -> FloatArray:
        """The covariance (n_names, n_names) of some quantities, in the order of `names`."""
        at = [self.names.index(name) for name in names]
        return np.asarray(self.matrix[np.ix_(at, at)])

    @property
    def correlation(self) -> FloatArray:
        """The correlation matrix (n, n); nan where a quantity has no s.u."""
        deviation = np.sqrt(np.diag(self.matrix))
        deviation = np.where(deviation > 0, deviation, np.nan)
        return np.asarray(self.matrix / np.outer(deviation, deviation))

    def propagated(self, gradient: FloatArray, names: Sequence[str] | None = None) -> FloatArray:
        """The covariance G C G^T (m, m) of m quantities with the gradient G (m, n).

        `names` are the n quantities of the gradient, all of them by default. The covariance is nan
        for quantities that the data do not determine.
        """
        names = self.names if names is None else tuple(names)
        if self.inverse is not None and names == self.names[:len(self.inverse.determined)]:
            return self.inverse.propagated(gradient)
        matrix = self.block(names)
        known = np.isfinite(np.diag(matrix))
        inner = matrix[np.ix_(known, known)]
        carried = np.asarray(gradient[:, known] @ inner @ gradient[:, known].T)
        np.fill_diagonal(carried, np.maximum(np.diag(carried), 0.0))
        lost = (np.abs(gradient[:, ~known]) > 0).any(axis=1)
        carried[lost, :] = carried[:, lost] = np.nan
        return carried


def inverse_normal(
    jacobian: FloatArray, lengths: FloatArray | None = None, limits: FloatArray | None = None
) -> NormalInverse:
    """(J^T J)^-1 of a Jacobian (n_rows, n_free), on the directions that it determines.

    The inverse uses the singular values of the Jacobian, its columns scaled to length one.
    Directions below SINGULAR are omitted; what they would add is computed at ten times SINGULAR.

    lengths (n_free,) are the lengths of the columns before the linear part was projected out. A
    column of which less than SINGULAR remains can be replaced by linear coefficients: what is left
    of it is rounding, and its parameter is undetermined. limits (n_free,) are the largest s.u. that
    the parameters may have.
    """
    n = jacobian.shape[1]
    if n == 0:
        return NormalInverse(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0))
    length = np.linalg.norm(jacobian, axis=0)
    flat = length <= 1e-12 * max(length.max(), 1e-300)
    if lengths is not None:
        flat |= length <= SINGULAR * lengths
    if limits is not None:
        # even with all other parameters fixed, the s.u. would exceed the limit
        flat |= length * limits < 1
    scaled = np.where(flat, 0.0, jacobian / np.where(flat, 1.0, length))
    _, singular, vectors = np.linalg.svd(scaled, full_matrices=False)
    keep = singular > SINGULAR * singular[0]
    spread = 1 / np.where(flat, 1.0, length)
    inverse = (vectors[keep].T / singular[keep] ** 2) @ vectors[keep]
    floor = np.maximum(singular[~keep], 10 * SINGULAR * singular[0])
    omitted = (vectors[~keep].T / floor**2) @ vectors[~keep]
    missing = omitted * np.outer(spread, spread)
    missing[flat, :] = missing[:, flat] = 0.0
    missing[flat, flat] = NO_EFFECT
    return NormalInverse(inverse * np.outer(spread, spread), missing,
                         np.minimum(np.inf if limits is None else limits, np.full(n, UNLIMITED)))


def with_linear(
    free: FloatArray, derivatives: FloatArray, columns: FloatArray
) -> FloatArray:
    """The joint covariance (n_free + n_linear, n_free + n_linear) with the linear coefficients.

    free (n_free, n_free) is the covariance of the free parameters, derivatives (n_points, n_free)
    are those of the weighted pattern, columns (n_points, n_linear) the weighted patterns of the
    linear coefficients. Free parameters without an s.u. do not contribute to the variance of the
    linear coefficients; a coefficient that takes part in an undetermined direction, of the linear
    coefficients alone or together with those parameters, has no s.u. (nan) either.
    """
    scaled, length = _normalised(columns)
    known = np.isfinite(np.diag(free)) if len(free) else np.zeros(0, dtype=bool)
    slopes = np.zeros((columns.shape[1], len(free)))
    if columns.shape[1] and known.any():
        solution = np.linalg.lstsq(scaled, derivatives[:, known], rcond=None)[0]
        slopes[:, known] = -solution / length[:, None]
    unknown, _ = _normalised(derivatives[:, ~known])
    lost = inverse_normal(np.hstack([unknown, scaled])).undetermined[unknown.shape[1]:]
    linear = np.linalg.pinv(scaled.T @ scaled) / np.outer(length, length)
    inner = np.where(np.isfinite(free), free, 0.0)
    cross = slopes @ inner
    n = len(free)
    joint = np.empty((n + len(linear),) * 2)
    joint[:n, :n] = free
    joint[n:, :n] = cross
    joint[n:, :n][:, ~known] = np.nan
    joint[:n, n:] = joint[n:, :n].T
    joint[n:, n:] = linear + cross @ slopes.T
    joint[n:][lost] = np.nan
    joint[:, n:][:, lost] = np.nan
    return joint


def _normalised(columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The columns scaled to length one (zero columns unchanged), and the divisors."""
    length = np.linalg.norm(columns, axis=0)
    length = np.where(length > 0, length, 1.0)
    return columns / length, length
