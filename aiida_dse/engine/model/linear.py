"""The linear part of a pattern: scales, blanks and background by linear least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from aiida_dse.engine.units import FloatArray

#: A column this near (relative to its length) to the span of the free columns counts as zero.
IN_FREE_SPAN = 1e-10
#: Columns nearer than this to the span of others (relative to their length) lose digits in normal
#: equations, so `sweep` solves them with the orthogonal factorisation of `solve`.
NEARLY_DEPENDENT = 1e-3


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
        n_sweep, n_patterns, _ = patterns.shape
        weighted = patterns * self.weight
        along = weighted @ self._free_basis
        blanks = self._fixed[1]
        n_blanks = blanks.shape[1]
        size = n_blanks + n_patterns
        gram = np.empty((n_sweep, size, size))
        gram[:, :n_blanks, :n_blanks] = blanks.T @ blanks
        gram[:, n_blanks:, :n_blanks] = weighted @ blanks
        gram[:, :n_blanks, n_blanks:] = gram[:, n_blanks:, :n_blanks].transpose(0, 2, 1)
        gram[:, n_blanks:, n_blanks:] = (
            weighted @ weighted.transpose(0, 2, 1) - along @ along.transpose(0, 2, 1)
        )
        moment = np.empty((n_sweep, size))
        moment[:, :n_blanks] = blanks.T @ self._target
        moment[:, n_blanks:] = weighted @ self._target
        total = float(self._target @ self._target)
        lengths = np.empty((n_sweep, size))  # before the free columns were projected out
        lengths[:, :n_blanks] = np.hypot(*(np.linalg.norm(part, axis=0) for part in self._fixed))
        lengths[:, n_blanks:] = np.linalg.norm(weighted, axis=2)
        left = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0.0))
        dependent = ((left < NEARLY_DEPENDENT * lengths) & (lengths > 0)).any(axis=1)
        if size == 1 and not dependent.any():
            positive = np.maximum(moment[:, 0], 0.0)
            gained = positive**2 / np.maximum(gram[:, 0, 0], 1e-300)
            return total - gained, self.n_free + (positive > 0.0)
        chi2, active = np.empty(n_sweep), np.empty(n_sweep)
        for k in range(n_sweep):
            factor = None if dependent[k] else _cholesky(gram[k])
            if factor is None:
                solved = self.solve(patterns[k].T)
                chi2[k], active[k] = solved.chi2, np.count_nonzero(solved.active)
                continue
            scale = np.maximum(left[k], 1e-150)
            projected = solve_triangular(factor, moment[k] / scale, trans="T")
            solution = _non_negative(factor, projected)
            misfit = projected - factor @ solution
            chi2[k] = total - float(projected @ projected) + float(misfit @ misfit)
            active[k] = self.n_free + np.count_nonzero(solution > 0)
        return chi2, active


def _cholesky(gram: FloatArray) -> FloatArray | None:
    """The factor R of the Gram matrix with a unit diagonal; None for nearly dependent columns."""
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    scaled = gram / np.outer(scale, scale)
    # a column of zeros would make the matrix singular; its coefficient is zero
    np.fill_diagonal(scaled, np.maximum(np.diag(scaled), 1.0))
    try:
        factor = np.linalg.cholesky(scaled).T
    except np.linalg.LinAlgError:
        return None
    return factor if np.diag(factor).min() > NEARLY_DEPENDENT else None


def _non_negative(factor: FloatArray, projected: FloatArray) -> FloatArray:
    """The solution x of min |R x - c| with x >= 0, for a small upper-triangular R."""
    if not len(projected):
        return np.zeros(0)
    diagonal = np.abs(np.diag(factor))
    if diagonal.min() > 1e-12 * diagonal.max():
        solution = solve_triangular(factor, projected)
        if solution.min() > 0:
            return np.asarray(solution)
    return np.asarray(nnls(factor, projected)[0])
