"""Interatomic distances sampled on a uniform grid, one histogram per pair of sites.

A distance r of weight C contributes C/r, spread over four grid points by a cubic B-spline. The
sine transform of the grid divided by the B-spline's own transform then approximates the sum over
sin(q r)/r with a relative error per distance of at most (x / (2 pi - x))^4, x = q step
(the gridding of Cervellino, Giannini & Guagliardi, J. Comput. Chem. 27 (2006) 995, with a
B-spline in place of the Gaussian). The kernels collect the powers of the position inside a bin,
which costs four additions per distance; `_spline_from_moments` makes the spline of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
from numba import njit

from .crystal import Crystal
from .particles import PairCounts
from .threads import thread_count
from .units import FloatArray

#: Grid points before r = 0 that the spline of a short distance may reach.
GRID_MARGIN = 2
SPLINE_ORDER = 4
#: A grid coarser than this (Å) would blur the nearest neighbours of small-angle patterns.
LARGEST_STEP = 0.05


def grid_step(q_max: float, tolerance: float) -> float:
    """Step (Å) at which the error per distance stays below `tolerance` up to q_max (1/Å)."""
    if not (0 < tolerance < 1e-2):
        raise ValueError(
            f"the tolerance is {tolerance:g}; it must lie between 0 and 0.01 (a relative error)."
        )
    root = tolerance ** (1 / SPLINE_ORDER)
    return float(min(2 * np.pi * root / (1 + root) / q_max, LARGEST_STEP))


@dataclass(frozen=True)
class PairClass:
    """Pairs of basis atoms that symmetry gives the same set of distances |A (v + kappa)|.

    `kappa = sign (x_second - x_first - cell)` component by component, v a lattice vector.
    `members` holds (shift, weight): the class counts C(v - shift) weight pairs at v. `fold` says
    along which axes v and -v ("zero") or v and -1-v ("half") are the same distance. `holes`
    (n, 3) are values of v that never coexist. `table` is the table of C to use.
    """

    channel: int
    table: int
    first: int
    second: int
    sign: tuple[int, int, int]
    cell: tuple[int, int, int]
    members: tuple[tuple[tuple[int, int, int], float], ...]
    fold: tuple[str, str, str]
    holes: np.ndarray | None


@dataclass(frozen=True)
class PairWeights:
    """How many pairs each class has at each lattice vector v = start ... start + shape - 1."""

    flat: FloatArray
    offset: np.ndarray  # (n_classes,)
    shape: np.ndarray  # (n_classes, 3)
    start: np.ndarray  # (n_classes, 3)


def site_channels(n_sites: int) -> list[tuple[int, int]]:
    """The pairs of sites (s <= t), in the order of the histograms."""
    return [(s, t) for s in range(n_sites) for t in range(s, n_sites)]


def pair_classes(
    crystal: Crystal, counts: PairCounts, excluded: dict[tuple[int, int], np.ndarray]
) -> tuple[PairClass, ...]:
    """Group the pairs of basis atoms, each unordered pair once.

    `excluded` maps (i, j), i <= j, to lattice differences (n, 3) that never coexist. Whole-cell
    particles of a right-angled cell merge mirror images along each axis. Merging is decided on a
    geometry moved at random along the free coordinates, so that pairs alike by accident at the
    starting values stay apart.
    """
    index = {pair: k for k, pair in enumerate(site_channels(len(crystal.sites)))}
    site = crystal.site_of_atom
    generic = crystal.generic_positions
    right_angles = all(
        crystal.cell_constraints.get(angle) == 90 for angle in ("alpha", "beta", "gamma")
    )
    if counts.merged is None:
        pairs = list(zip(*np.triu_indices(len(generic)), strict=True))
    else:
        pairs = list(zip(counts.merged.first, counts.merged.second, strict=True))
    found: dict[tuple[object, ...], PairClass] = {}
    for number, (i, j) in enumerate(pairs):
        channel = index[min(site[i], site[j]), max(site[i], site[j])]
        difference = generic[j] - generic[i]
        holes = excluded.get((int(i), int(j)))
        if holes is None and (int(j), int(i)) in excluded:
            holes = -excluded[int(j), int(i)]
        if i == j:
            own = np.zeros((1, 3), dtype=np.int64)
            holes = own if holes is None else np.concatenate([own, holes])
        sign, cell, fold = np.ones(3, dtype=int), np.zeros(3, dtype=int), ("", "", "")
        if counts.merged is None and right_angles:
            sign, cell, fold = _mirror(difference)
        elif counts.merged is None and i != j and _points_back(difference):
            sign = -sign
        kappa = np.round(sign * (difference - cell), 6) + 0.0
        # both u and -u stand in the table of a pair (i, i)
        weight = 0.5 if i == j and counts.merged is None else 1.0
        shift = (int(sign[0] * cell[0]), int(sign[1] * cell[1]), int(sign[2] * cell[2]))
        if holes is not None:
            holes = sign * (holes + cell)
        key: tuple[object, ...] = (
            channel, tuple(kappa), number if counts.merged is not None else 0,
            None if holes is None else holes.tobytes(),
        )
        if key in found:
            known = found[key]
            found[key] = replace(known, members=_add_member(known.members, shift, weight))
        else:
            found[key] = PairClass(
                channel, number if counts.merged is not None else 0, int(i), int(j),
                (int(sign[0]), int(sign[1]), int(sign[2])),
                (int(cell[0]), int(cell[1]), int(cell[2])), ((shift, weight),), fold, holes,
            )
    return tuple(sorted(found.values(), key=lambda pair: pair.channel))


def _mirror(
    difference: FloatArray,
) -> tuple[np.ndarray, np.ndarray, tuple[str, str, str]]:
    """Sign, cell and fold that bring every component of a difference into 0 ... 1/2."""
    rest = np.round(difference - np.floor(difference), 6) % 1.0
    sign = np.where(rest > 0.5, -1, 1)
    kappa = np.where(rest > 0.5, 1 - rest, rest)
    cell = np.round(difference - sign * kappa).astype(int)
    fold = ["zero" if k < 1e-6 else "half" if abs(k - 0.5) < 1e-6 else "" for k in kappa]
    return sign, cell, (fold[0], fold[1], fold[2])


def _points_back(difference: FloatArray) -> bool:
    """Whether the first component that is not zero is negative."""
    for component in difference:
        if abs(component) > 1e-6:
            return bool(component < 0)
    return False


def _add_member(
    members: tuple[tuple[tuple[int, int, int], float], ...], shift: tuple[int, int, int],
    weight: float,
) -> tuple[tuple[tuple[int, int, int], float], ...]:
    summed = dict(members)
    summed[shift] = summed.get(shift, 0.0) + weight
    return tuple(sorted(summed.items()))


def pair_weights(counts: PairCounts, classes: Sequence[PairClass]) -> PairWeights:
    """The tables of C(u), shifted, summed and folded for each class."""
    known: dict[tuple[object, ...], int] = {}
    distinct: list[PairClass] = []
    table_of_class = []
    for pair in classes:
        holes = None if pair.holes is None else pair.holes.tobytes()
        key = (pair.table, pair.members, pair.fold, holes)
        if key not in known:
            known[key] = len(distinct)
            distinct.append(pair)
        table_of_class.append(known[key])
    reach = np.array(counts.tables.shape[1:]) // 2
    start = np.empty((len(distinct), 3), dtype=np.int64)
    shape = np.empty((len(distinct), 3), dtype=np.int64)
    for k, pair in enumerate(distinct):
        end = reach + max(max(map(abs, shift)) for shift, _ in pair.members)
        start[k] = np.where([bool(fold) for fold in pair.fold], 0, -end)
        shape[k] = end - start[k] + 1
    offset = np.concatenate([[0], np.cumsum(shape.prod(axis=1))])
    flat = np.empty(offset[-1])
    for k, pair in enumerate(distinct):
        shifts = np.array([shift for shift, _ in pair.members])
        weights = np.array([weight for _, weight in pair.members])
        fold = np.array([("", "zero", "half").index(kind) for kind in pair.fold])
        holes_of = np.zeros((0, 3), dtype=np.int64) if pair.holes is None else pair.holes
        table = flat[offset[k] : offset[k + 1]].reshape(shape[k])
        _fill_class(counts.tables[pair.table], shifts, weights, fold, holes_of, start[k], table)
    chosen = np.array(table_of_class)
    return PairWeights(flat, offset[chosen], shape[chosen], start[chosen])


@njit(cache=True, nogil=True)
def _fill_class(counts, shifts, weights, fold, holes, start, table):  # type: ignore[no-untyped-def]
    table[:] = 0.0
    reach = np.array([n // 2 for n in counts.shape])
    for m in range(len(weights)):
        weight = weights[m]
        zero = reach[2] - shifts[m, 2]  # where the third component of v is zero
        for x in range(counts.shape[0]):
            a = _folded(x - reach[0] + shifts[m, 0], fold[0]) - start[0]
            for y in range(counts.shape[1]):
                b = _folded(y - reach[1] + shifts[m, 1], fold[1]) - start[1]
                target, source = table[a, b], counts[x, y]
                for z in range(max(zero, 0), len(source)):
                    target[z - zero - start[2]] += weight * source[z]
                if fold[2] == 0:
                    for z in range(min(zero, len(source))):
                        target[z - zero - start[2]] += weight * source[z]
                else:
                    back = zero - (fold[2] - 1)
                    for z in range(min(zero, len(source))):
                        target[back - z] += weight * source[z]
        for h in range(len(holes)):
            x, y, z = holes[h] - shifts[m] + reach
            if 0 <= x < counts.shape[0] and 0 <= y < counts.shape[1] and 0 <= z < counts.shape[2]:
                a = _folded(holes[h, 0], fold[0]) - start[0]
                b = _folded(holes[h, 1], fold[1]) - start[1]
                c = _folded(holes[h, 2], fold[2]) - start[2]
                table[a, b, c] -= weight * counts[x, y, z]
    for h in range(len(holes)):
        # what is left of the subtraction must not be divided by a distance of zero
        a = _folded(holes[h, 0], fold[0]) - start[0]
        b = _folded(holes[h, 1], fold[1]) - start[1]
        c = _folded(holes[h, 2], fold[2]) - start[2]
        inside = a < table.shape[0] and b < table.shape[1] and c < table.shape[2]
        left = 1e-9 * counts[reach[0], reach[1], reach[2]]
        if inside and min(a, b, c) >= 0 and abs(table[a, b, c]) < left:
            table[a, b, c] = 0.0


@njit(cache=True, nogil=True, inline="always")
def _folded(v, fold):  # type: ignore[no-untyped-def]
    """The lattice component that v folds onto (0: none, 1: -v, 2: -1-v)."""
    if fold == 1:
        return abs(v)
    if fold == 2 and v < 0:
        return -1 - v
    return v


def lattice_histograms(
    matrix: FloatArray,
    positions: FloatArray,
    classes: Sequence[PairClass],
    weights: PairWeights,
    channels: Sequence[int],
    *,
    step: float,
    threads: int | None = None,
) -> FloatArray:
    """(n_channels, n_bins) histograms of C/r for the wanted channels of a crystal.

    matrix (3, 3) Å with lattice vectors as columns; positions (n_atoms, 3) fractional.
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
    workers = threads or thread_count()
    portions = _portions(np.array([pair.channel for pair in classes]), channels, workers)
    histograms = np.zeros((len(channels), n_bins))
    lock = Lock()

    def collect(portion: tuple[int, np.ndarray]) -> None:
        row, chosen = portion
        moments = np.zeros((n_bins, SPLINE_ORDER))
        histogram = np.zeros(n_bins)
        _collect_lattice(
            weights.flat, weights.offset[chosen], weights.shape[chosen], weights.start[chosen],
            kappa[chosen], matrix, step, moments, histogram,
        )
        with lock:
            histograms[row] += histogram

    _run(collect, portions, workers)
    return histograms


def _portions(
    channel_of_class: np.ndarray, channels: Sequence[int], workers: int
) -> list[tuple[int, np.ndarray]]:
    """Work items (row, classes), the largest first, small enough to keep all workers busy."""
    members = [np.flatnonzero(channel_of_class == channel) for channel in channels]
    limit = max(1, sum(map(len, members)) // (2 * workers)) if workers > 1 else 10**9
    portions = [
        (row, part)
        for row, own in enumerate(members)
        for part in np.array_split(own, -(-len(own) // limit))
        if len(own)
    ]
    return sorted(portions, key=lambda portion: -len(portion[1]))


def _run(work: Callable[[Any], None], items: Sequence[Any], workers: int) -> None:
    if workers == 1 or len(items) == 1:
        for item in items:
            work(item)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, items))


def atom_histograms(
    positions: FloatArray,
    channel_of_pair: np.ndarray,
    site_of_atom: np.ndarray,
    n_channels: int,
    *,
    step: float,
    excluded: float = 0.0,
    partial: np.ndarray | None = None,
    threads: int | None = None,
) -> FloatArray:
    """(n_channels, n_bins) histograms of 1/r over all pairs of an atom list: the general route.

    positions (n, 3) Å; channel_of_pair (n_sites, n_sites). Pairs of `partial` atoms (n,) bool
    nearer than `excluded` Å are alternatives of one atom and do not count.
    """
    span = np.linalg.norm(np.ptp(positions, axis=0))
    n_bins = int(span / step) + GRID_MARGIN + 4
    workers = threads or thread_count()
    flags = np.zeros(len(positions), dtype=bool) if partial is None else partial
    histograms = np.zeros((n_channels, n_bins))
    lock = Lock()

    def collect(worker: int) -> None:
        moments = np.zeros((n_channels, n_bins, SPLINE_ORDER))
        own = np.zeros((n_channels, n_bins))
        _collect_atoms(
            positions, site_of_atom, channel_of_pair, flags, excluded, worker, workers, step,
            moments, own,
        )
        with lock:
            histograms[:] += own

    _run(collect, range(workers), workers)
    return histograms


@njit(cache=True, nogil=True, fastmath=True)
def _spline_from_moments(moments, histogram):  # type: ignore[no-untyped-def]
    """Cubic B-spline coefficients (n_bins,) from the power moments (n_bins, 4) inside each bin.

    A point at t in (-1/2, 1/2) of the bin between grid points k and k+1 weighs on the points
    k-1 ... k+2 with the pieces of the cubic B-spline written in powers of t.
    """
    for k in range(1, len(moments) - 2):
        m0, m1, m2, m3 = moments[k, 0], moments[k, 1], moments[k, 2], moments[k, 3]
        outer = m0 / 48 + m2 / 4
        inner = m0 * 23 / 48 - m2 / 4
        tilt_outer = m1 / 8 + m3 / 6
        tilt_inner = 5 * m1 / 8 - m3 / 2
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
    _spline_from_moments(moments, histogram)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _collect_atoms(  # type: ignore[no-untyped-def]
    positions, site, channel_of_pair, partial, excluded, worker, workers, step, moments,
    histograms,
):
    inverse = 1.0 / step
    for i in range(worker, len(positions), workers):
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
        _spline_from_moments(moments[channel], histograms[channel])
