"""Interpolation on tensor grids of Chebyshev nodes.

A polynomial of degree n - 1 is known from its values at n Chebyshev nodes (of the first kind), and
the error of the interpolation of an entire function decreases faster than any power of n; see
L. N. Trefethen, Approximation Theory and Approximation Practice (SIAM, 2013), chapters 3, 5 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiida_dse.engine.units import FloatArray


def nodes(low: float, high: float, n: int) -> FloatArray:
    """The n Chebyshev nodes (n,) of an interval, in increasing order."""
    return (low + high) / 2 - (high - low) / 2 * np.cos(np.pi * (np.arange(n) + 0.5) / n)


def matrix(at: FloatArray, points: FloatArray) -> FloatArray:
    """The matrix (n_points, n) that interpolates from the Chebyshev nodes `at` (n,) to `points`.

    Barycentric formula of the second form, which is numerically stable at all points.
    """
    n = len(at)
    weights = (-1.0) ** np.arange(n) * np.sin(np.pi * (np.arange(n) + 0.5) / n)
    difference = points[:, None] - at[None, :]
    exact = difference == 0
    terms = weights / np.where(exact, 1.0, difference)
    found = terms / terms.sum(axis=1, keepdims=True)
    return np.asarray(np.where(exact.any(axis=1, keepdims=True), exact, found))


def truncation(n: int, kept: int) -> FloatArray:
    """The matrix (n, n) from values at n nodes to those of the series without its last terms.

    `kept` is the number of Chebyshev polynomials that remain.
    """
    angles = np.pi * (np.arange(n) + 0.5) / n
    polynomials = np.cos(np.outer(angles, np.arange(kept)))
    norms = np.where(np.arange(kept) == 0, n, n / 2)
    return np.asarray((polynomials / norms) @ polynomials.T)


def along(values: FloatArray, matrices: Sequence[FloatArray | None]) -> FloatArray:
    """The values (n_1, ..., n_k, ...) transformed by a matrix (m_a, n_a) along each first axis.

    None leaves an axis unchanged.
    """
    for k, transform in enumerate(matrices):
        if transform is not None:
            values = np.moveaxis(np.tensordot(transform, values, axes=(1, k)), 0, k)
    return values
