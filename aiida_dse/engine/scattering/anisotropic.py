"""Pairs of atoms with anisotropic displacements in the Debye equation.

Independent Gaussian displacements with the tensors U_1 and U_2 damp a pair at the mean distance
vector r n, after averaging over all orientations m, by < exp(-q^2 m.U.m / 2) cos(q m.r) >, with
U = U_1 + U_2. With a = q^2/2, k = q r and h = n.U.n, this is

    exp(-a h) [ j0(k) - (a A - 2 a^2 G) j1(k)/k + (a^2/2) E j2(k)/k^2 ],
    A = tr U - 3 h,  G = |U n|^2 - h^2,
    E = 35 h^2 - 10 h tr U - 20 |U n|^2 + (tr U)^2 + 2 tr(U^2),

exact to second order in U for every k, and in U to leading order in 1/k. All three corrections vanish
for isotropic U. The dependence on h is expanded in Chebyshev polynomials, so that the pairs of a
channel are binned once for all q.

Correlated motion reduces the tensor of near pairs: U (1 - delta_1/r - delta_2/r^2) (Jeong et al., J. Phys.
Chem. A 103 (1999) 921).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from aiida_dse.engine.particles.vector_groups import VectorGroups
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import ComplexArray, FloatArray

from .debye import packed_sums
from .histograms import GRID_MARGIN, SPLINE_ORDER, spline_from_moments

#: Number of Chebyshev polynomials for the leading term, and for G and E.
LEADING, CORRECTIONS = 4, 2
N_FIELDS = 2 * LEADING + 2 * CORRECTIONS
#: Relative accuracy of the transforms of the corrections, which are a few per cent of the sum.
CORRECTIONS_TOLERANCE = 1e-7
#: Number of points from which the coefficients of the polynomials are computed.
NODES = 12
#: Half-width of h (Å^2) below which a channel is regarded as isotropic.
LEAST_WIDTH = 1e-9


@dataclass(frozen=True)
class TensorPairs:
    """Groups of vectors with their numbers of pairs, and the tensors of the atoms.

    tensors (n_atoms, 3, 3) in Å^2, Cartesian; those of isotropic atoms are 0. delta_1 (Å) and delta_2 (Å^2)
    describe correlated motion.
    """

    groups: VectorGroups
    pairs: FloatArray  # (n_groups,)
    tensors: FloatArray
    delta_1: float = 0.0
    delta_2: float = 0.0

    def scale(self, lengths: FloatArray) -> FloatArray:
        """The factor of the tensors of pairs at distances (n,) in Å."""
        return 1 - self.delta_1 / lengths - self.delta_2 / lengths**2


def tensor_sums(
    vectors: TensorPairs, channels: Sequence[slice], matrix: FloatArray, positions: FloatArray,
    q: FloatArray, *, step: float, resources: Resources = ONE_THREAD,
) -> FloatArray:
    """The damped sums (n_channels, n_q) of the groups in each slice, with the factors of both atoms.

    matrix (3, 3) Å, positions (n_atoms, 3) fractional, step in Å.
    """
    groups, pairs = vectors.groups, vectors.pairs
    lengths = groups.lengths(matrix, positions)
    n_bins = int(lengths.max(initial=0.0, where=abs(pairs) > 0) / step) + GRID_MARGIN + 4

    def collected(part: slice) -> tuple[FloatArray, float, float]:
        first, second = groups.first[part], groups.second[part]
        present = lengths[part][abs(pairs[part]) > 0]
        if not len(present):
            return np.zeros((N_ROWS, n_bins)), 0.0, 0.0
        scale = vectors.scale(present)
        centre, width = _range(vectors.tensors, first, second, float(scale.min()), float(scale.max()))
        moments = np.zeros((n_bins, N_FIELDS * SPLINE_ORDER))
        _collect(groups.cell[part], first, second, pairs[part], matrix, positions, vectors.tensors, centre,
                 max(width, LEAST_WIDTH), vectors.delta_1, vectors.delta_2, step, moments)
        fields = np.zeros((N_FIELDS, n_bins))
        for k in range(N_FIELDS):
            spline_from_moments(moments[:, SPLINE_ORDER * k : SPLINE_ORDER * (k + 1)], fields[k])
        return _rows(fields, step), centre, width

    size = 8.0 * n_bins * N_FIELDS * (SPLINE_ORDER + 3)
    found = list(resources.ordered(collected, channels, bytes_each=size))
    leading = packed_sums(np.concatenate([rows[:LEADING] for rows, *_ in found]), q, step=step,
                          resources=resources).reshape(len(channels), -1, len(q))
    others = packed_sums(np.concatenate([rows[LEADING:] for rows, *_ in found]), q, step=step,
                         resources=resources, tolerance=CORRECTIONS_TOLERANCE).reshape(len(channels), -1, len(q))
    return np.array([_combined(first, second, centre, width, q)
                     for first, second, (_, centre, width) in zip(leading, others, found, strict=True)])


#: Number of rows of a channel that are transformed.
N_ROWS = 3 * LEADING + 4 * CORRECTIONS


def _rows(fields: FloatArray, step: float) -> FloatArray:
    """What is to be transformed (N_ROWS, n_bins), from the fields of W, W A, W G and W E times T_k.

    Of the rows of `leading` and of the three groups that follow, the sine transforms are needed; of the
    others, the cosine transforms.
    """
    n_bins = fields.shape[1]
    inverse = 1 / np.maximum((np.arange(n_bins) - GRID_MARGIN) * step, step)
    leading, trace, along, fourth = np.split(
        fields, [LEADING, 2 * LEADING, 2 * LEADING + CORRECTIONS])
    square = inverse**2
    return np.concatenate([
        leading, trace * square, (along / 2 - fourth / 8) * square, fourth * (0.375 * square**2),  # sin
        trace * inverse, along * inverse, fourth * (square * inverse),  # cos
    ])


def _combined(
    leading: ComplexArray, others: ComplexArray, centre: float, width: float, q: FloatArray
) -> FloatArray:
    """The sum (n_q,) of all terms of a channel, from the transforms of its rows."""
    sizes = (LEADING, CORRECTIONS, CORRECTIONS, LEADING, CORRECTIONS, CORRECTIONS)
    s1, s2, s3, c1, c2, c3 = np.split(others, np.cumsum(sizes)[:-1])
    sine = [one.imag for one in (leading, s1, s2, s3)]
    cosine = [one.real for one in (c1, c2, c3)]
    weights = _chebyshev_weights(q, centre, width)
    few = weights[:CORRECTIONS]
    return np.asarray(
        ((weights * (sine[0] - sine[1] / 2)).sum(axis=0) + (few * sine[3]).sum(axis=0)) / q
        + (weights * cosine[0]).sum(axis=0) / 2 - 0.375 * (few * cosine[2]).sum(axis=0)
        + q * (few * sine[2]).sum(axis=0) - q**2 / 2 * (few * cosine[1]).sum(axis=0))


def _chebyshev_weights(q: FloatArray, centre: float, width: float) -> FloatArray:
    """The coefficients (LEADING, n_q) of T_k(x) in exp(-a (centre + width x)), a = q^2 / 2."""
    angle = np.pi * (np.arange(NODES) + 0.5) / NODES
    values = np.exp(np.outer(-(centre + width * np.cos(angle)), q * q / 2))
    transform = 2 / NODES * np.cos(np.arange(LEADING)[:, None] * angle)
    transform[0] /= 2
    return np.asarray(transform @ values)


def _range(
    tensors: FloatArray, first: np.ndarray, second: np.ndarray, lowest: float, highest: float
) -> tuple[float, float]:
    """The centre and the half-width of the interval of h, for tensors scaled by lowest ... highest."""
    occurs = np.zeros((len(tensors), len(tensors)), dtype=bool)
    occurs[first, second] = True
    i, j = np.nonzero(occurs)
    values = np.multiply.outer([lowest, highest], np.linalg.eigvalsh(tensors[i] + tensors[j]))
    low, high = float(values.min()), float(values.max())
    return (high + low) / 2, (high - low) / 2


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _collect(  # type: ignore[no-untyped-def]
    cell, first, second, pairs, matrix, positions, tensors, centre, width, delta_1, delta_2, step, moments
):
    """Add the moments of W T_k and W A T_k (k < LEADING), W G T_k and W E T_k (k < CORRECTIONS)."""
    field = np.empty(N_FIELDS)
    u = np.empty((3, 3))
    polynomial = np.empty(LEADING)
    for n in range(len(pairs)):
        if not abs(pairs[n]) > 0.0:
            continue
        i, j = first[n], second[n]
        a = cell[n, 0] + positions[j, 0] - positions[i, 0]
        b = cell[n, 1] + positions[j, 1] - positions[i, 1]
        c = cell[n, 2] + positions[j, 2] - positions[i, 2]
        x = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c
        y = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c
        z = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c
        r = np.sqrt(x * x + y * y + z * z)
        x, y, z = x / r, y / r, z / r
        scale = 1 - delta_1 / r - delta_2 / (r * r)
        for k in range(3):
            for m in range(3):
                u[k, m] = scale * (tensors[i, k, m] + tensors[j, k, m])
        ux = u[0, 0] * x + u[0, 1] * y + u[0, 2] * z
        uy = u[1, 0] * x + u[1, 1] * y + u[1, 2] * z
        uz = u[2, 0] * x + u[2, 1] * y + u[2, 2] * z
        h = ux * x + uy * y + uz * z
        square = ux * ux + uy * uy + uz * uz
        trace = u[0, 0] + u[1, 1] + u[2, 2]
        second_trace = (u[0, 0] ** 2 + u[1, 1] ** 2 + u[2, 2] ** 2
                        + 2 * (u[0, 1] ** 2 + u[0, 2] ** 2 + u[1, 2] ** 2))
        along = square - h * h
        fourth = 35 * h * h - 10 * h * trace - 20 * square + trace * trace + 2 * second_trace
        at = (h - centre) / width
        polynomial[0], polynomial[1] = 1.0, at
        for k in range(2, LEADING):
            polynomial[k] = 2 * at * polynomial[k - 1] - polynomial[k - 2]
        weight = pairs[n] / r
        for k in range(LEADING):
            field[k] = weight * polynomial[k]
            field[LEADING + k] = weight * (trace - 3 * h) * polynomial[k]
        for k in range(CORRECTIONS):
            field[2 * LEADING + k] = weight * along * polynomial[k]
            field[2 * LEADING + CORRECTIONS + k] = weight * fourth * polynomial[k]
        s = r / step
        bin_ = np.int64(s)
        t = s - bin_ - 0.5
        row = moments[bin_ + GRID_MARGIN]
        for k in range(N_FIELDS):
            value = field[k]
            row[4 * k] += value
            row[4 * k + 1] += value * t
            row[4 * k + 2] += value * t * t
            row[4 * k + 3] += value * t * t * t
