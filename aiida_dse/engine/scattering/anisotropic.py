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
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from aiida_dse.engine.particles.vector_groups import VectorGroups
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .debye import trigonometric_sums
from .histograms import GRID_MARGIN, SPLINE_ORDER, spline_from_moments

#: Number of Chebyshev polynomials for the leading term, and for G and E.
LEADING, CORRECTIONS = 5, 3
#: Half-width of h (Å^2) below which a channel is regarded as isotropic.
LEAST_WIDTH = 1e-9


@dataclass(frozen=True)
class TensorPairs:
    """The pairs of one channel: groups of vectors, their numbers of pairs, and the tensors of the atoms.

    tensors (n_atoms, 3, 3) in Å^2, Cartesian; those of isotropic atoms are 0.
    """

    groups: VectorGroups
    part: slice
    pairs: FloatArray  # (n_groups,)
    tensors: FloatArray


def tensor_sums(
    channel: TensorPairs, matrix: FloatArray, positions: FloatArray, q: FloatArray, *, step: float,
    resources: Resources = ONE_THREAD,
) -> FloatArray:
    """The damped sum (n_q,) of a channel, including the factors of both atoms.

    matrix (3, 3) Å, positions (n_atoms, 3) fractional, step in Å.
    """
    part = channel.part
    first, second = channel.groups.first[part], channel.groups.second[part]
    cell, pairs = channel.groups.cell[part], channel.pairs[part]
    centre, width = _range(channel.tensors, first, second)
    lengths = channel.groups.lengths(matrix, positions, part)
    n_bins = int(lengths.max(initial=0.0, where=pairs > 0) / step) + GRID_MARGIN + 4
    n_fields = LEADING + 1 + 2 * CORRECTIONS
    pieces = max(1, min(resources.threads, len(pairs) // 20_000))
    limits = np.linspace(0, len(pairs), pieces + 1).astype(int)

    def collected(piece: int) -> FloatArray:
        own = slice(limits[piece], limits[piece + 1])
        moments = np.zeros((n_bins, n_fields * SPLINE_ORDER))
        _collect(cell[own], first[own], second[own], pairs[own], matrix, positions, channel.tensors, centre,
                 max(width, LEAST_WIDTH), step, moments)
        return moments

    moments = np.zeros((n_bins, n_fields * SPLINE_ORDER))
    for one in resources.ordered(collected, range(pieces), bytes_each=8.0 * moments.size):
        moments += one
    fields = np.zeros((n_fields, n_bins))
    for k in range(n_fields):
        spline_from_moments(moments[:, SPLINE_ORDER * k : SPLINE_ORDER * (k + 1)], fields[k])
    return _combined(fields, _trace(channel.tensors, first, second), centre, width, q, step, resources)


def _combined(
    fields: FloatArray, trace: float, centre: float, width: float, q: FloatArray, step: float,
    resources: Resources,
) -> FloatArray:
    """The sum of all terms at q, from the fields of W T_k, W G T_k and W E T_k with W = C/r."""
    n_bins = fields.shape[1]
    r = np.maximum((np.arange(n_bins) - GRID_MARGIN) * step, step)
    leading, along = fields[:LEADING], fields[LEADING : LEADING + CORRECTIONS]
    fourth = fields[LEADING + CORRECTIONS : LEADING + 2 * CORRECTIONS]
    # A = tr U - 3 h is linear in x = (h - centre) / width, and x T_k = (T_{k-1} + T_{k+1}) / 2
    higher = np.vstack([fields[1:LEADING], fields[-1:]])
    lower = np.vstack([fields[1:2], fields[: LEADING - 1]])
    trace_part = (trace - 3 * centre) * leading - 1.5 * width * (higher + lower)
    rows = np.concatenate([
        leading, trace_part / r**2, along / (2 * r**2) - fourth / (8 * r**2), fourth * 3 / (8 * r**4),  # sin
        trace_part / r, along / r, fourth / r**3,  # cos
    ])
    n_sines = 2 * LEADING + 2 * CORRECTIONS
    sums = trigonometric_sums(rows, q, step=step, resources=resources)
    sines, cosines = sums[:n_sines].imag, sums[n_sines:].real
    s0, s1, s2, s3 = np.split(sines, [LEADING, 2 * LEADING, 2 * LEADING + CORRECTIONS])
    c1, c2, c3 = np.split(cosines, [LEADING, LEADING + CORRECTIONS])
    weights = _chebyshev_weights(q, centre, width)
    total = weights[:LEADING] * (s0 / q - (s1 / q - c1) / 2)
    few = weights[:CORRECTIONS] * (q * s2 + s3 / q - q**2 * c2 / 2 - c3 * 3 / 8)
    return np.asarray(total.sum(axis=0) + few.sum(axis=0))


def _chebyshev_weights(q: FloatArray, centre: float, width: float) -> FloatArray:
    """The coefficients (LEADING, n_q) of T_k(x) in exp(-a (centre + width x)), a = q^2 / 2."""
    from scipy.special import ive

    a = q * q / 2
    k = np.arange(LEADING)[:, None]
    scaled = ive(k, a * width) * np.where(k == 0, 1.0, 2.0) * (-1.0) ** k
    return np.asarray(scaled * np.exp(-a * (centre - width)))


def _range(tensors: FloatArray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The centre and the half-width of the interval of h in a channel."""
    pairs = np.unique(np.stack([first, second], axis=1), axis=0)
    values = np.linalg.eigvalsh(tensors[pairs[:, 0]] + tensors[pairs[:, 1]])
    low, high = float(values.min()), float(values.max())
    return (high + low) / 2, (high - low) / 2


def _trace(tensors: FloatArray, first: np.ndarray, second: np.ndarray) -> float:
    """The trace of U, which is the same for all pairs of a channel."""
    return float(np.trace(tensors[first[0]] + tensors[second[0]]))


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _collect(  # type: ignore[no-untyped-def]
    cell, first, second, pairs, matrix, positions, tensors, centre, width, step, moments
):
    """Add the moments of W T_k (k < LEADING), W G T_k, W E T_k (k < CORRECTIONS) and W T_LEADING."""
    n_fields = LEADING + 1 + 2 * CORRECTIONS
    field = np.empty(n_fields)
    u = np.empty((3, 3))
    polynomial = np.empty(LEADING + 1)
    for n in range(len(pairs)):
        if pairs[n] <= 0.0:
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
        for k in range(3):
            for m in range(3):
                u[k, m] = tensors[i, k, m] + tensors[j, k, m]
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
        for k in range(2, LEADING + 1):
            polynomial[k] = 2 * at * polynomial[k - 1] - polynomial[k - 2]
        weight = pairs[n] / r
        for k in range(LEADING):
            field[k] = weight * polynomial[k]
        for k in range(CORRECTIONS):
            field[LEADING + k] = weight * along * polynomial[k]
            field[LEADING + CORRECTIONS + k] = weight * fourth * polynomial[k]
        field[n_fields - 1] = weight * polynomial[LEADING]
        s = r / step
        bin_ = np.int64(s)
        t = s - bin_ - 0.5
        row = moments[bin_ + GRID_MARGIN]
        for k in range(n_fields):
            value = field[k]
            row[4 * k] += value
            row[4 * k + 1] += value * t
            row[4 * k + 2] += value * t * t
            row[4 * k + 3] += value * t * t * t
