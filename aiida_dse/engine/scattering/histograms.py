"""Histograms of pair distances on a uniform grid, one for each pair of sites.

A distance r of weight C contributes C/r, spread over four grid points by a cubic B-spline. The
sine transform of the grid, divided by the transform of the B-spline, then approximates the sum over
sin(q r)/r with a relative error per distance of at most (x / (2 pi - x))^4, x = q step
(the gridding of Cervellino, Giannini & Guagliardi, J. Comput. Chem. 27 (2006) 995, with a
B-spline in place of the Gaussian). The kernels sum powers of the position inside each bin, which
costs four additions per distance; `spline_from_moments` computes the spline from these moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numba import njit

from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .pairs import PairWeights

#: Number of grid points before r = 0, which the spline of a short distance may reach.
GRID_MARGIN = 2
SPLINE_ORDER = 4
#: Largest step (Å); a coarser grid would blur the nearest neighbours of small-angle patterns.
LARGEST_STEP = 0.05
#: Smallest number of distances per bin in a piece of work, because bins take time as well.
DISTANCES_PER_BIN = 40


def grid_step(q_max: float, tolerance: float) -> float:
    """The step (Å) at which the error per distance is below `tolerance` up to q_max (1/Å).

    Raises ValueError for a tolerance that is not between 0 and 0.01.
    """
    if not (0 < tolerance < 1e-2):
        raise ValueError(
            f"the tolerance is {tolerance:g}; it is a relative error and must lie between 0 and "
            "0.01."
        )
    root = tolerance ** (1 / SPLINE_ORDER)
    return float(min(2 * np.pi * root / (1 + root) / q_max, LARGEST_STEP))


class VectorClass(Protocol):
    """What the distances of a class of pairs depend on; see `PairClass`."""

    @property
    def channel(self) -> int: ...

    @property
    def first(self) -> int: ...

    @property
    def second(self) -> int: ...

    @property
    def sign(self) -> tuple[int, int, int]: ...

    @property
    def cell(self) -> tuple[int, int, int]: ...


def lattice_histograms(
    matrix: FloatArray,
    positions: FloatArray,
    classes: Sequence[VectorClass],
    weights: PairWeights,
    channels: Sequence[int],
    *,
    step: float,
    resources: Resources = ONE_THREAD,
) -> FloatArray:
    """The histograms (n_channels, n_bins) of C/r of the requested channels of a crystal.

    matrix (3, 3) Å with lattice vectors as columns; positions (n_atoms, 3) fractional. The values
    of a channel depend neither on the number of threads nor on the other requested channels.
    """
    kappa = np.array(
        [
            np.array(pair.sign) * (positions[pair.second] - positions[pair.first] - pair.cell)
            for pair in classes
        ]
    )
    reach = np.abs([weights.start, weights.start + weights.shape - 1]).max(axis=(0, 1))
    reach = reach + np.abs(kappa).max(axis=0)
    corners = np.stack(np.meshgrid(*[(-1, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    longest = np.linalg.norm((corners * reach) @ matrix.T, axis=1).max()
    n_bins = int(longest / step) + GRID_MARGIN + 4
    portions = _portions(
        np.array([pair.channel for pair in classes]), weights.shape.prod(axis=1), channels,
        DISTANCES_PER_BIN * n_bins,
    )

    def collected(portion: tuple[int, np.ndarray]) -> FloatArray:
        _, chosen = portion
        moments = np.zeros((n_bins, SPLINE_ORDER))
        histogram = np.zeros(n_bins)
        _collect_lattice(
            weights.flat, weights.offset[chosen], weights.shape[chosen], weights.start[chosen],
            kappa[chosen], matrix, step, moments, histogram,
        )
        return histogram

    histograms = np.zeros((len(channels), n_bins))
    parts = resources.ordered(collected, portions, bytes_each=8.0 * n_bins * (SPLINE_ORDER + 1))
    for (row, _), part in zip(portions, parts, strict=True):
        histograms[row] += part
    return histograms


def group_histograms(
    lengths: FloatArray, pairs: FloatArray, parts: Mapping[int, slice], channels: Sequence[int], *,
    step: float, resources: Resources = ONE_THREAD,
) -> FloatArray:
    """The histograms (n_channels, n_bins) of C/r of the requested channels, from groups of vectors.

    lengths (n_groups,) Å, their numbers of pairs C (n_groups,), 0 where there are none, and the groups of
    each channel.
    """
    n_bins = int(lengths.max(initial=0.0, where=abs(pairs) > 0) / step) + GRID_MARGIN + 4

    def collected(channel: int) -> FloatArray:
        histogram = np.zeros(n_bins)
        if channel in parts:
            own = parts[channel]
            _collect_groups(lengths[own], pairs[own], step, np.zeros((n_bins, SPLINE_ORDER)), histogram)
        return histogram

    found = resources.ordered(collected, channels, bytes_each=8.0 * n_bins * (SPLINE_ORDER + 1))
    return np.array(list(found)).reshape(len(channels), n_bins)


def _portions(
    channel_of_class: np.ndarray, distances: np.ndarray, channels: Sequence[int], least: int
) -> list[tuple[int, np.ndarray]]:
    """Pieces of work (row, classes) with at least `least` distances if the channel has as many.

    The pieces of a channel depend on that channel only; the largest pieces are first.
    """
    portions = []
    for row, channel in enumerate(channels):
        own = np.flatnonzero(channel_of_class == channel)
        done = np.cumsum(distances[own])
        if len(own):
            n_pieces = max(1, int(done[-1]) // least)
            piece = np.minimum((done - distances[own]) * n_pieces // done[-1], n_pieces - 1)
            portions += [(row, own[piece == k]) for k in np.unique(piece)]
    return sorted(portions, key=lambda portion: -int(distances[portion[1]].sum()))


def atom_histograms(
    positions: FloatArray,
    channel_of_pair: np.ndarray,
    site_of_atom: np.ndarray,
    n_channels: int,
    *,
    step: float,
    excluded: float = 0.0,
    partial: np.ndarray | None = None,
    resources: Resources = ONE_THREAD,
) -> FloatArray:
    """The histograms (n_channels, n_bins) of 1/r over all pairs of a list of atoms.

    positions (n, 3) Å; channel_of_pair (n_sites, n_sites). Pairs of `partial` atoms (n,) bool
    nearer than `excluded` Å are alternatives of one atom and are not counted.
    """
    span = np.linalg.norm(np.ptp(positions, axis=0))
    n_bins = int(span / step) + GRID_MARGIN + 4
    flags = np.zeros(len(positions), dtype=bool) if partial is None else partial
    n_pairs = len(positions) * (len(positions) - 1) // 2
    n_pieces = max(1, n_pairs // (DISTANCES_PER_BIN * n_channels * n_bins))

    def collected(piece: int) -> FloatArray:
        moments = np.zeros((n_channels, n_bins, SPLINE_ORDER))
        own = np.zeros((n_channels, n_bins))
        _collect_atoms(
            positions, site_of_atom, channel_of_pair, flags, excluded, piece, n_pieces, step,
            moments, own,
        )
        return own

    histograms = np.zeros((n_channels, n_bins))
    size = 8.0 * n_channels * n_bins * (SPLINE_ORDER + 1)
    for part in resources.ordered(collected, range(n_pieces), bytes_each=size):
        histograms += part
    return histograms


@njit(cache=True, nogil=True, fastmath=True, inline="always")
def spline_shares(m0, m1, m2, m3):  # type: ignore[no-untyped-def]
    """The contributions of the even and of the odd moments of a bin to the outer and the inner two grid points."""
    return m0 / 48 + m2 / 4, m0 * 23 / 48 - m2 / 4, m1 / 8 + m3 / 6, 5 * m1 / 8 - m3 / 2


@njit(cache=True, nogil=True, fastmath=True)
def spline_from_moments(moments, histogram):  # type: ignore[no-untyped-def]
    """Cubic B-spline coefficients (n_bins,) from the power moments (n_bins, 4) inside each bin.

    A point at t in (-1/2, 1/2) of the bin between grid points k and k+1 contributes to the points
    k-1 ... k+2 with the pieces of the cubic B-spline, written in powers of t.
    """
    for k in range(1, len(moments) - 2):
        m0, m1, m2, m3 = moments[k, 0], moments[k, 1], moments[k, 2], moments[k, 3]
        outer, inner, tilt_outer, tilt_inner = spline_shares(m0, m1, m2, m3)
        histogram[k - 1] += outer - tilt_outer
        histogram[k] += inner - tilt_inner
        histogram[k + 1] += inner + tilt_inner
        histogram[k + 2] += outer + tilt_outer


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _collect_lattice(  # type: ignore[no-untyped-def]
    flat_weights, offset, shape, start, kappa, matrix, step, moments, histogram
):
    inverse = 1.0 / step
    length_c = (matrix[0, 2] ** 2 + matrix[1, 2] ** 2 + matrix[2, 2] ** 2) * inverse**2
    flat = moments.reshape(moments.size)
    for n in range(len(offset)):
        at_row = offset[n]
        start_w = kappa[n, 2] + start[n, 2]
        for u in range(shape[n, 0]):
            du = kappa[n, 0] + start[n, 0] + u
            for v in range(shape[n, 1]):
                dv = kappa[n, 1] + start[n, 1] + v
                x = matrix[0, 0] * du + matrix[0, 1] * dv
                y = matrix[1, 0] * du + matrix[1, 1] * dv
                z = matrix[2, 0] * du + matrix[2, 1] * dv
                base = (x * x + y * y + z * z) * inverse**2
                cross = 2 * (x * matrix[0, 2] + y * matrix[1, 2] + z * matrix[2, 2]) * inverse**2
                for w in range(shape[n, 2]):
                    count = flat_weights[at_row + w]
                    if count == 0.0:
                        continue
                    dw = start_w + w
                    s = np.sqrt((length_c * dw + cross) * dw + base)
                    k = np.int64(s)
                    t = s - k - 0.5
                    weight = inverse * count / s
                    slope = weight * t
                    square = t * t
                    at = np.uint64(4 * (k + GRID_MARGIN))
                    flat[at] += weight
                    flat[at + np.uint64(1)] += slope
                    flat[at + np.uint64(2)] += weight * square
                    flat[at + np.uint64(3)] += slope * square
                at_row += shape[n, 2]
    spline_from_moments(moments, histogram)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _collect_groups(lengths, pairs, step, moments, histogram):  # type: ignore[no-untyped-def]
    for n in range(len(lengths)):
        if not abs(pairs[n]) > 0.0:
            continue
        s = lengths[n] / step
        k = np.int64(s)
        t = s - k - 0.5
        weight = pairs[n] / lengths[n]
        bins = moments[k + GRID_MARGIN]
        bins[0] += weight
        bins[1] += weight * t
        bins[2] += weight * t * t
        bins[3] += weight * t * t * t
    spline_from_moments(moments, histogram)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _collect_atoms(  # type: ignore[no-untyped-def]
    positions, site, channel_of_pair, partial, excluded, piece, n_pieces, step, moments,
    histograms,
):
    inverse = 1.0 / step
    for i in range(piece, len(positions), n_pieces):
        x, y, z = positions[i]
        for j in range(i):
            r2 = (
                (x - positions[j, 0]) ** 2 + (y - positions[j, 1]) ** 2 + (z - positions[j, 2]) ** 2
            )
            if partial[i] and partial[j] and r2 < excluded * excluded:
                continue
            s = np.sqrt(r2) * inverse
            k = np.int64(s)
            t = s - k - 0.5
            weight = inverse / s
            bins = moments[channel_of_pair[site[i], site[j]], k + GRID_MARGIN]
            bins[0] += weight
            bins[1] += weight * t
            bins[2] += weight * t * t
            bins[3] += weight * t * t * t
    for channel in range(len(moments)):
        spline_from_moments(moments[channel], histograms[channel])
