"""A quadratic model of the patterns around a minimum, from a few hundred exact patterns.

Within a few s.u. of the minimum, the patterns are nearly linear in the parameters. In coordinates z in
which the covariance is the unit matrix, each weighted pattern with the background projected out is
approximated by a quadratic polynomial, W(z) = V_0 + sum V_i z_i + sum V_ij z_i z_j, which is exact at
the centre, at +-STEP along each coordinate, and at one point for each pair of coordinates. chi2 then
requires only the inner products of the V. Nothing is assumed about chi2 itself, which is not
quadratic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from aiida_dse.engine.memo import Memo
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import PhaseState
from aiida_dse.engine.units import FloatArray

#: Distance (s.u.) of the exact patterns from the centre.
STEP = 3.0
#: Largest number of coefficients, 1 + n (n + 3) / 2 for n parameters, and of bytes of the patterns.
MOST_COEFFICIENTS, MOST_BYTES = 2000, 1e9


class NotApproximated(Exception):
    """The patterns cannot be approximated; the message is the reason."""


@dataclass(frozen=True)
class Approximation:
    """How log posteriors were approximated: number of exact patterns, and error at checked samples.

    `error` is the standard deviation of the difference in log p between approximation and exact
    model at `n_checked` samples of the chain; it bounds the shift of the mean of any parameter in
    units of its standard deviation, to first order.
    """

    n_exact: int
    n_checked: int
    error: float


class QuadraticPatterns:
    """chi2 of a model from a quadratic approximation of its patterns around `centre` (n,)."""

    def __init__(
        self, model: PatternModel, centre: FloatArray, factor: FloatArray,
        values_at: Callable[[FloatArray], Mapping[str, float]], states: tuple[PhaseState, ...],
        run: Callable[[Callable[[FloatArray], FloatArray], Iterable[FloatArray]], Iterable[FloatArray]],
    ) -> None:
        """Compute the exact patterns; factor F (n, n) with F F^T the covariance.

        `values_at` returns all values of the model at a point (n,), `states` are those of the
        centre, and `run` maps a function over points. Raises NotApproximated where a pattern cannot
        be computed, or where the normal equations would lose digits.
        """
        self.model, self.centre = model, centre
        self.inverse = np.linalg.inv(factor)
        points = _design(len(centre))
        n_phases, n_q = len(model.phases), model.n_points
        if len(points) > MOST_COEFFICIENTS or 8.0 * len(points) * n_phases * n_q > MOST_BYTES:
            raise NotApproximated(f"{len(points)} patterns would be needed")
        damping: Memo[FloatArray] = Memo(8 * len(model.phases))

        def pattern(point: FloatArray) -> FloatArray:
            values = values_at(point)
            patterns, dependent = model.linear.projected(
                model.patterns(model.states(values, states), [values], damping))
            if dependent.any():
                raise NotApproximated("a pattern is nearly a combination of the background terms")
            return np.asarray(patterns[0])

        try:
            exact = np.array(list(run(pattern, centre + points @ factor.T)))
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as problem:
            raise NotApproximated(f"a pattern near the minimum is not possible ({problem})") from None
        self.n_exact = len(points)
        flat = exact.reshape(len(points), -1)
        coefficients = np.linalg.solve(_monomials(points), flat).reshape(exact.shape)
        # the inner products of all coefficients with each other, and with the data
        others = model.linear.products(coefficients)[:, :, n_phases:]
        self.with_data = np.ascontiguousarray(others)
        self.gram = np.einsum("apq,brq->prab", coefficients, coefficients, optimize=True)

    def chi2(self, points: FloatArray) -> FloatArray:
        """chi2 (n_points,) at points (n_points, n)."""
        terms = _monomials((points - self.centre) @ self.inverse.T)
        n_phases = len(self.gram)
        products = np.empty((len(points), n_phases, n_phases + self.with_data.shape[2]))
        for p in range(n_phases):
            for r in range(n_phases):
                products[:, p, r] = np.einsum("na,na->n", terms @ self.gram[p, r], terms)
        products[:, :, n_phases:] = np.einsum("na,apc->npc", terms, self.with_data)
        fixed = {k: self.model.fixed_scales[phase.name] for k, phase in enumerate(self.model.phases)
                 if phase.name in self.model.fixed_scales}
        chi2, _, singular = self.model.linear.solved(products, fixed)
        return np.where(singular, np.inf, chi2)


def _design(n: int) -> FloatArray:
    """The points (1 + n (n + 3) / 2, n) at which the approximation is exact, in s.u."""
    points = [np.zeros(n)]
    for i in range(n):
        for sign in (1, -1):
            points.append(STEP * sign * np.eye(n)[i])
    for i, j in combinations(range(n), 2):
        # both combinations of signs occur equally often
        points.append(STEP * (np.eye(n)[i] + (-1) ** (i + j) * np.eye(n)[j]))
    return np.array(points)


def _monomials(z: FloatArray) -> FloatArray:
    """1, z_i and z_i z_j (n_points, 1 + n (n + 3) / 2) at points (n_points, n)."""
    first, second = np.triu_indices(z.shape[1])
    return np.hstack([np.ones((len(z), 1)), z, z[:, first] * z[:, second]])
