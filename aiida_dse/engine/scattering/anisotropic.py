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
from aiida_dse.engine.units import FloatArray

from .debye import packed_sums
from .histograms import GRID_MARGIN, SPLINE_ORDER, spline_shares

#: Number of Chebyshev polynomials for the leading term, and for G and E.
LEADING, CORRECTIONS = 4, 2
N_FIELDS = LEADING + 2 * CORRECTIONS
#: Number of rows of a channel that are transformed.
N_ROWS = 2 * LEADING + 2 * CORRECTIONS
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
    site_of_atom: np.ndarray
    delta_1: float = 0.0
    delta_2: float = 0.0

    def scale(self, lengths: FloatArray) -> FloatArray:
        """The factor of the tensors of pairs at distances (n,) in Å."""
        return 1 - self.delta_1 / lengths - self.delta_2 / lengths**2


@dataclass(frozen=True)
class TensorFields:
    """The pairs of some channels, expanded in Chebyshev polynomials of h on a grid of distances.

    fields (n_channels, N_FIELDS, n_bins) on r_k = (k - GRID_MARGIN) step, the first of which is the histogram of C/r;
    `interval` (n_channels, 2) is the centre and the half-width of the interval of h, and `trace` (n_channels,) that
    of the tensors, both in Å^2.
    """

    fields: FloatArray
    interval: FloatArray
    trace: FloatArray
    delta_1: float = 0.0
    delta_2: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.fields)
        if self.fields.shape[1:2] != (N_FIELDS,) or self.fields.ndim != 3 or self.interval.shape != (n, 2) \
                or self.trace.shape != (n,):
            raise ValueError(
                f"the fields of displacement tensors must have the shape (n, {N_FIELDS}, n_bins), and their intervals "
                f"and traces (n, 2) and (n,), but have {self.fields.shape}, {self.interval.shape} and "
                f"{self.trace.shape}.")
        if not (all(np.isfinite(one).all() for one in (self.fields, self.interval, self.trace))
                and np.isfinite([self.delta_1, self.delta_2]).all() and (self.interval[:, 1] > 0).all()):
            raise ValueError("the fields of displacement tensors contain values that are not finite, or an interval "
                             "without width.")

    def sums(
        self, q: FloatArray, *, step: float, lattice_scale: float = 1.0, resources: Resources = ONE_THREAD
    ) -> FloatArray:
        """The damped sums (n_channels, n_q), with the factors of both atoms; all distances times lattice_scale."""
        unscaled = np.maximum((np.arange(self.fields.shape[2]) - GRID_MARGIN) * step, step)
        motion = 1 - self.delta_1 / unscaled - self.delta_2 / unscaled**2
        rows = [_rows(fields / lattice_scale, motion * trace, centre, width, 1 / (lattice_scale * unscaled))
                for fields, trace, (centre, width) in zip(self.fields, self.trace, self.interval, strict=True)]
        sines = np.arange(N_ROWS) < LEADING + CORRECTIONS
        leading, others = (
            packed_sums(np.concatenate([one[part] for one in rows]), np.tile(sines[part], len(rows)), q,
                        step=lattice_scale * step, resources=resources, tolerance=tolerance
                        ).reshape(len(rows), -1, len(q))
            for part, tolerance in ((slice(LEADING), None), (slice(LEADING, None), CORRECTIONS_TOLERANCE)))
        return np.array([_combined(first, second, centre, width, q) for first, second, (centre, width) in zip(
            leading, others, self.interval, strict=True)])


def tensor_fields(
    vectors: TensorPairs, channels: Sequence[slice], matrix: FloatArray, positions: FloatArray,
    *, step: float, resources: Resources = ONE_THREAD,
) -> TensorFields:
    """The expanded pairs of the groups in each slice.

    matrix (3, 3) Å, positions (n_atoms, 3) fractional, step in Å.
    """
    groups, pairs = vectors.groups, vectors.pairs
    lengths = groups.lengths(matrix, positions)
    n_bins = int(lengths.max(initial=0.0, where=abs(pairs) > 0) / step) + GRID_MARGIN + 4

    def collected(part: slice) -> tuple[FloatArray, float, float, float]:
        first, second = groups.first[part], groups.second[part]
        if not pairs[part].any():
            return np.zeros((N_FIELDS, n_bins)), 0.0, LEAST_WIDTH, 0.0
        lowest, highest = 1.0, 1.0
        if vectors.delta_1 or vectors.delta_2:
            present = lengths[part][pairs[part] != 0]
            lowest, highest = vectors.scale(np.array([present.min(), present.max()])).tolist()
        of_sites = [np.flatnonzero(vectors.site_of_atom == vectors.site_of_atom[atoms[0]]) for atoms in (first, second)]
        centre, width = _range(vectors.tensors, of_sites[0], of_sites[1], lowest, highest)
        width = max(width, LEAST_WIDTH)
        moments = np.zeros((n_bins, SPLINE_ORDER, N_FIELDS))
        _collect(groups.cell[part], first, second, pairs[part], matrix, positions, vectors.tensors, centre,
                 width, vectors.delta_1, vectors.delta_2, step, moments)
        fields = np.zeros((n_bins, N_FIELDS))
        _splines(moments, fields)
        # the trace is the same for all pairs of atoms of two sites
        trace = float(np.trace(vectors.tensors[first[0]] + vectors.tensors[second[0]]))
        return np.ascontiguousarray(fields.T), centre, width, trace

    size = 8.0 * n_bins * N_FIELDS * (SPLINE_ORDER + 3)
    # the largest first, so that all threads end at about the same time
    order = sorted(range(len(channels)), key=lambda k: channels[k].start - channels[k].stop)
    parts = dict(zip(order, resources.ordered(collected, [channels[k] for k in order], bytes_each=size), strict=True))
    fields, centre, width, trace = zip(*(parts[k] for k in range(len(channels))), strict=True)
    return TensorFields(np.array(fields), np.array([centre, width]).T, np.array(trace), vectors.delta_1,
                        vectors.delta_2)


def _rows(
    fields: FloatArray, trace: FloatArray, centre: float, width: float, inverse: FloatArray
) -> FloatArray:
    """What is to be transformed (N_ROWS, n_bins), from the fields of W T_k, W G T_k and W E T_k, with W = C/r.

    trace (n_bins,) is that of U, and `inverse` 1/r. The coefficients exp(-a h) of T_k multiply, in this order,
    sine transforms / q, q times sine transforms, cosine transforms, and q^2 times cosine transforms.
    """
    leading, along, fourth = np.split(fields, [LEADING, LEADING + CORRECTIONS])
    square = inverse**2
    # h = centre + width x and 2 x T_k = T_(k-1) + T_(k+1); T_LEADING is beyond the accuracy of the expansion
    times_x = np.zeros_like(leading)
    times_x[0] = leading[1]
    times_x[1:] = leading[:-1] / 2
    times_x[1:-1] += leading[2:] / 2
    corrected = (trace - 3 * centre) * leading - 3 * width * times_x  # W A T_k
    sines, cosines = leading - corrected * (square / 2), corrected * (inverse / 2)
    sines[:CORRECTIONS] += fourth * (0.375 * square**2)
    cosines[:CORRECTIONS] -= fourth * (0.375 * square * inverse)
    return np.concatenate([sines, (along / 2 - fourth / 8) * square, cosines, along * (inverse / -2)])


def _combined(
    leading: FloatArray, others: FloatArray, centre: float, width: float, q: FloatArray
) -> FloatArray:
    """The sum (n_q,) of all terms of a channel, from the transforms of its rows."""
    weights = _chebyshev_weights(q, centre, width)
    few = weights[:CORRECTIONS]
    sines, cosines, squares = np.split(others, [CORRECTIONS, CORRECTIONS + LEADING])
    return np.asarray(
        (weights * leading).sum(axis=0) / q + q * (few * sines).sum(axis=0)
        + (weights * cosines).sum(axis=0) + q**2 * (few * squares).sum(axis=0))


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
    """The centre and the half-width of the interval of h for two sets of atoms.

    The tensors are scaled by `lowest` to `highest`.
    """
    values = np.multiply.outer([lowest, highest], np.linalg.eigvalsh(tensors[first, None] + tensors[second]))
    low, high = float(values.min()), float(values.max())
    return (high + low) / 2, (high - low) / 2


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _collect(  # type: ignore[no-untyped-def]
    cell, first, second, pairs, matrix, positions, tensors, centre, width, delta_1, delta_2, step, moments
):
    """Add the moments of W T_k (k < LEADING), W G T_k and W E T_k (k < CORRECTIONS)."""
    field = np.empty(N_FIELDS)
    flat = moments.reshape(moments.size)
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
        u00 = scale * (tensors[i, 0, 0] + tensors[j, 0, 0])
        u11 = scale * (tensors[i, 1, 1] + tensors[j, 1, 1])
        u22 = scale * (tensors[i, 2, 2] + tensors[j, 2, 2])
        u01 = scale * (tensors[i, 0, 1] + tensors[j, 0, 1])
        u02 = scale * (tensors[i, 0, 2] + tensors[j, 0, 2])
        u12 = scale * (tensors[i, 1, 2] + tensors[j, 1, 2])
        ux = u00 * x + u01 * y + u02 * z
        uy = u01 * x + u11 * y + u12 * z
        uz = u02 * x + u12 * y + u22 * z
        h = ux * x + uy * y + uz * z
        square = ux * ux + uy * uy + uz * uz
        trace = u00 + u11 + u22
        second_trace = u00 * u00 + u11 * u11 + u22 * u22 + 2 * (u01 * u01 + u02 * u02 + u12 * u12)
        along = square - h * h
        fourth = 35 * h * h - 10 * h * trace - 20 * square + trace * trace + 2 * second_trace
        at = (h - centre) / width
        weight = pairs[n] / r
        field[0], field[1] = weight, weight * at
        for k in range(2, LEADING):
            field[k] = 2 * at * field[k - 1] - field[k - 2]
        for k in range(CORRECTIONS):
            field[LEADING + k] = along * field[k]
            field[LEADING + CORRECTIONS + k] = fourth * field[k]
        s = r / step
        bin_ = np.int64(s)
        t = s - bin_ - 0.5
        begin = (bin_ + GRID_MARGIN) * (SPLINE_ORDER * N_FIELDS)
        power = 1.0
        for m in range(SPLINE_ORDER):
            row = flat[begin + m * N_FIELDS : begin + (m + 1) * N_FIELDS]
            for k in range(N_FIELDS):
                row[k] += power * field[k]
            power *= t


@njit(cache=True, nogil=True, fastmath=True)
def _splines(moments, fields):  # type: ignore[no-untyped-def]
    """`spline_from_moments` of all fields (n_bins, N_FIELDS), from moments (n_bins, 4, N_FIELDS)."""
    for b in range(1, len(moments) - 2):
        for k in range(N_FIELDS):
            outer, inner, tilt_outer, tilt_inner = spline_shares(
                moments[b, 0, k], moments[b, 1, k], moments[b, 2, k], moments[b, 3, k])
            fields[b - 1, k] += outer - tilt_outer
            fields[b, k] += inner - tilt_inner
            fields[b + 1, k] += inner + tilt_inner
            fields[b + 2, k] += outer + tilt_outer
