"""The linear part of a pattern: scales, blanks and background by linear least squares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.linalg import solve_triangular

from aiida_dse.engine.units import FloatArray

#: A column this near (relative to its length) to the span of the free columns counts as zero.
IN_FREE_SPAN = 1e-10
#: Columns nearer than this to the span of others (relative to their length) lose digits in normal
#: equations, so `sweep` solves them with the orthogonal factorisation of `solve`.
NEARLY_DEPENDENT = 1e-3
#: Largest number of blanks and patterns whose subsets are tried in normal equations.
MOST_COLUMNS = 8


@dataclass(frozen=True)
class LinearSolution:
    """The coefficients of the columns, the weighted residual and the active columns."""

    coefficients: FloatArray  # (n_columns,)
    residual: FloatArray  # (n_points,) (yo - yc) / sigma
    chi2: float
    active: np.ndarray  # (n_columns,) bool; False where held at zero by non-negativity
    basis: FloatArray  # (n_points, n_active) orthonormal basis of the active weighted columns


class LinearProblem:
    """The linear least-squares problem min |(y - free a - nonnegative b) / sigma|^2 with b >= 0.

    The free columns (background) are factorised once; every evaluation only orthogonalises the
    changing last columns, the patterns of the phases.
    """

    def __init__(
        self, observed: FloatArray, sigma: FloatArray, free: FloatArray, fixed: FloatArray
    ) -> None:
        """observed, sigma (n_points,); free (n_points, n_free); fixed (n_points, n_blanks).

        Raises ValueError where the free columns are linearly dependent.
        """
        self.weight = 1 / sigma
        self.observed = observed * self.weight
        self.n_free = free.shape[1]
        self._free_basis, self._free_factor = np.linalg.qr(free * self.weight[:, None])
        if self.n_free:
            diagonal = np.abs(np.diag(self._free_factor))
            if diagonal.min() < 1e-10 * diagonal.max():
                raise ValueError(
                    "the background terms are linearly dependent in this range. Use fewer "
                    "Chebyshev or inverse-q terms."
                )
        self._fixed = self._weighted(fixed)
        self._target = self.observed - self._project(self.observed)

    def _weighted(self, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
        weighted = columns * self.weight[:, None]
        along = self._free_basis.T @ weighted
        across = weighted - self._free_basis @ along
        length = np.linalg.norm(weighted, axis=0)
        across[:, np.linalg.norm(across, axis=0) <= IN_FREE_SPAN * length] = 0.0
        return along, across

    def _project(self, vector: FloatArray) -> FloatArray:
        return np.asarray(self._free_basis @ (self._free_basis.T @ vector))

    def solve(self, patterns: FloatArray, offset: FloatArray | None = None) -> LinearSolution:
        """Solve for the coefficients of free columns, blanks and patterns, in this order.

        patterns (n_points, n_patterns); `offset` (n_points,) is the intensity of phases with a
        fixed scale, which is subtracted first.
        """
        along, across = self._weighted(patterns)
        along = np.hstack([self._fixed[0], along])
        across = np.hstack([self._fixed[1], across])
        observed, target = self.observed, self._target
        if offset is not None:
            weighted = offset * self.weight
            observed = observed - weighted
            target = target - (weighted - self._project(weighted))
        length = np.linalg.norm(across, axis=0)
        length[length == 0] = 1.0
        basis, factor = np.linalg.qr(across / length)
        projected = basis.T @ target
        positive = _non_negative(factor, projected) / length
        active = positive > 0
        if active.all():
            active_basis = basis
            residual = target - basis @ projected
        else:
            residual = target - across @ positive
            active_basis = np.linalg.qr(across[:, active])[0]
        free = solve_triangular(
            self._free_factor, self._free_basis.T @ observed - along @ positive
        ) if self.n_free else np.zeros(0)
        return LinearSolution(
            coefficients=np.concatenate([free, positive]),
            residual=residual,
            chi2=float(residual @ residual),
            active=np.concatenate([np.ones(self.n_free, dtype=bool), active]),
            basis=np.hstack([self._free_basis, active_basis]),
        )

    def sweep(self, patterns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """chi2 (n_sweep,) and the number of active columns (n_sweep,) of many sets of patterns.

        patterns (n_sweep, n_patterns, n_points). The solution is that of `solve`, but by the normal
        equations of the few columns that remain after the free ones are projected out; sets with
        nearly dependent columns are passed to `solve`.
        """
        projected, dependent = self.projected(patterns)
        chi2, active, singular = self.solved(self.products(projected))
        for k in np.flatnonzero(dependent | singular):
            solved = self.solve(patterns[k].T)
            chi2[k], active[k] = solved.chi2, np.count_nonzero(solved.active)
        return chi2, active

    def projected(self, patterns: FloatArray) -> tuple[FloatArray, np.ndarray]:
        """The weighted patterns without their parts along the free columns, as in patterns.

        patterns (..., n_patterns, n_points). Also a mask (...) of sets in which a pattern, or a
        blank, is nearly a combination of the free columns, so that normal equations lose digits.
        """
        weighted = patterns * self.weight
        across = weighted - (weighted @ self._free_basis) @ self._free_basis.T
        whole = np.linalg.norm(weighted, axis=-1)
        dependent = (np.linalg.norm(across, axis=-1) < NEARLY_DEPENDENT * whole).any(axis=-1)
        along, blanks = (np.linalg.norm(part, axis=0) for part in self._fixed)
        if (blanks < NEARLY_DEPENDENT * np.hypot(along, blanks)).any():
            dependent = np.ones_like(dependent)
        return across, np.asarray(dependent)

    def products(self, projected: FloatArray) -> FloatArray:
        """The inner products (..., n_patterns, n_patterns + n_blanks + 1) of projected patterns.

        They are those with the patterns of the same set, with the blanks and with the observation.
        """
        others = np.column_stack([self._fixed[1], self._target])
        return np.concatenate([projected @ projected.swapaxes(-1, -2), projected @ others], axis=-1)

    def solved(
        self, products: FloatArray, fixed: Mapping[int, FloatArray | float] | None = None
    ) -> tuple[FloatArray, FloatArray, np.ndarray]:
        """chi2 and the number of active columns (n,), from `products` (n, n_patterns, ...).

        `fixed` holds the scales (n,), or one scale, of those patterns whose scale is not solved.
        The mask (n,) marks sets with nearly dependent columns, whose solution is not reliable.
        """
        fixed = fixed or {}
        n, n_patterns, _ = products.shape
        blanks = self._fixed[1]
        free = [k for k in range(n_patterns) if k not in fixed]
        n_blanks, size = blanks.shape[1], blanks.shape[1] + len(free)
        gram, moment = np.empty((n, size, size)), np.empty((n, size))
        gram[:, :n_blanks, :n_blanks] = blanks.T @ blanks
        gram[:, n_blanks:, :n_blanks] = products[:, free, n_patterns:-1]
        gram[:, :n_blanks, n_blanks:] = gram[:, n_blanks:, :n_blanks].transpose(0, 2, 1)
        gram[:, n_blanks:, n_blanks:] = products[:, free][:, :, free]
        moment[:, :n_blanks] = blanks.T @ self._target
        moment[:, n_blanks:] = products[:, free, -1]
        total = np.full(n, float(self._target @ self._target))
        for k, scale in fixed.items():  # what is left of the observation without these patterns
            total -= 2 * scale * products[:, k, -1]
            for j, other in fixed.items():
                total += scale * other * products[:, k, j]
            moment -= np.asarray(scale)[..., None] * np.concatenate(
                [products[:, k, n_patterns:-1], products[:, k, free]], axis=1)
        gain, active, singular = non_negative_gain(gram, moment)
        return np.maximum(total - gain, 0.0), self.n_free + active, singular


def non_negative_gain(
    gram: FloatArray, moment: FloatArray
) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """The decrease of chi2 by non-negative least squares, from many sets of normal equations.

    gram (n, size, size), moment (n, size). Returns the decrease (n,), the number of positive
    coefficients (n,) and a mask (n,) of sets with nearly dependent columns, whose decrease is not
    reliable. The solution is the best of those subsets of columns whose solution is positive.
    """
    n, size = moment.shape
    gain, count = np.zeros(n), np.zeros(n)
    if not size:
        return gain, count, np.zeros(n, dtype=bool)
    if size > MOST_COLUMNS:
        return gain, count, np.ones(n, dtype=bool)
    length = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 1e-300))
    scaled = gram / (length[:, :, None] * length[:, None, :])
    scaled[:, np.arange(size), np.arange(size)] = 1.0  # also for a column of zeros
    projected = moment / length
    singular = np.linalg.eigvalsh(scaled)[:, 0] < NEARLY_DEPENDENT**2 if size > 1 \
        else np.zeros(n, dtype=bool)
    left = np.flatnonzero(~singular)
    for subset in _subsets(size):
        chosen = list(subset)
        c = projected[left][:, chosen]
        x = np.linalg.solve(scaled[left][:, chosen][:, :, chosen], c[..., None])[..., 0]
        better = (x > 0).all(axis=1) & ((c * x).sum(axis=1) > gain[left])
        at = left[better]
        gain[at], count[at] = (c * x).sum(axis=1)[better], len(chosen)
        if len(chosen) == size:
            left = left[~better]  # a positive solution with all columns is the best one
        if not len(left):
            break
    return gain, count, singular


def _subsets(size: int) -> Iterator[tuple[int, ...]]:
    """All subsets of columns that are not empty, the largest first."""
    for n in range(size, 0, -1):
        yield from combinations(range(size), n)


def _non_negative(factor: FloatArray, projected: FloatArray) -> FloatArray:
    """The solution x of min |R x - c| with x >= 0, for a small upper-triangular R."""
    if not len(projected):
        return np.zeros(0)
    diagonal = np.abs(np.diag(factor))
    if diagonal.min() > 1e-12 * diagonal.max():
        solution = solve_triangular(factor, projected)
        if solution.min() > 0:
            return np.asarray(solution)
    from scipy.optimize import nnls  # slow to load; few solutions need it

    return np.asarray(nnls(factor, projected)[0])
