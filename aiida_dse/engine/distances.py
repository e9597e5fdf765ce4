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
from dataclasses import dataclass
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


def grid_step(q_max: float, tolerance: float) -> float:
    """Step (Å) at which the error per distance stays below `tolerance` up to q_max (1/Å)."""
    if not (0 < tolerance < 1e-2):
        raise ValueError(
            f"the tolerance is {tolerance:g}; it must lie between 0 and 0.01 (a relative error)."
        )
    root = tolerance ** (1 / SPLINE_ORDER)
    return float(2 * np.pi * root / (1 + root) / q_max)


@dataclass(frozen=True)
class PairClasses:
    """Pairs of basis atoms grouped where symmetry gives them the same distances.

    Each class: the channel it counts in, the table of C(u), how many pairs it stands for, and
    one pair (first, second) whose difference vector gives the distances. `excluded` marks classes
    with their own table, `excluded[k]` being the (n, 3) lattice differences that do not count.
    """

    channel: np.ndarray
    table: np.ndarray
    multiplicity: FloatArray
    first: np.ndarray
    second: np.ndarray
    excluded: tuple[np.ndarray | None, ...]


def site_channels(n_sites: int) -> list[tuple[int, int]]:
    """The pairs of sites (s <= t), in the order of the histograms."""
    return [(s, t) for s in range(n_sites) for t in range(s, n_sites)]


def pair_classes(
    crystal: Crystal, counts: PairCounts, excluded: dict[tuple[int, int], np.ndarray]
) -> PairClasses:
    """Group the pairs of basis atoms, each unordered pair once.

    `excluded` maps (i, j), i <= j, to lattice differences (n, 3) that never coexist. Merging is
    decided on a geometry moved at random along the free coordinates, so that pairs alike by
    accident at the starting values stay apart.
    """
    index = {pair: k for k, pair in enumerate(site_channels(len(crystal.sites)))}
    site = crystal.site_of_atom

    def channel(i: int, j: int) -> int:
        return index[min(site[i], site[j]), max(site[i], site[j])]

    def holes(i: int, j: int) -> np.ndarray | None:
        found = excluded.get((i, j))
        if i != j:
            return found
        own = np.zeros((1, 3), dtype=np.int64)
        return own if found is None else np.concatenate([own, found])

    rows: list[tuple[int, int, float, int, int, np.ndarray | None]]
    if counts.merged is not None:
        pairs = zip(counts.merged.first, counts.merged.second, strict=True)
        rows = [(channel(i, j), k, 1.0, i, j, holes(i, j)) for k, (i, j) in enumerate(pairs)]
    else:
        right_angles = all(
            crystal.cell_constraints.get(angle) == 90 for angle in ("alpha", "beta", "gamma")
        )
        generic = crystal.generic_positions
        alike: dict[tuple[object, ...], list[tuple[int, int]]] = {}
        for i, j in zip(*np.triu_indices(len(generic)), strict=True):
            difference = np.round(generic[j] - generic[i], 7) + 0.0
            difference = np.abs(difference) if right_angles else _half_space(difference)
            key = (channel(i, j), i == j, *difference, *((i, j) if (i, j) in excluded else ()))
            alike.setdefault(key, []).append((int(i), int(j)))
        rows = []
        for members in alike.values():
            i, j = members[0]
            # the table of a pair (i, i) holds both u and -u
            weight = len(members) * (0.5 if i == j else 1.0)
            rows.append((channel(i, j), 0, weight, i, j, holes(i, j)))
    rows.sort(key=lambda row: row[0])
    return PairClasses(
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows], dtype=float),
        np.array([row[3] for row in rows]),
        np.array([row[4] for row in rows]),
        tuple(row[5] for row in rows),
    )


def tables_with_holes(counts: PairCounts, classes: PairClasses) -> tuple[FloatArray, np.ndarray]:
    """The tables of C(u), extended by copies with the excluded differences set to zero.

    Returns the stack and the index of the table that serves each class.
    """
    extra: list[FloatArray] = []
    table_of_class = classes.table.copy()
    known: dict[tuple[int, bytes], int] = {}
    reach = np.array(counts.reach)
    for k, holes in enumerate(classes.excluded):
        if holes is None:
            continue
        inside = holes[(np.abs(holes) <= reach).all(axis=1)]
        key = (int(classes.table[k]), inside.tobytes())
        if key not in known:
            table = counts.tables[classes.table[k]].copy()
            table[tuple((inside + reach).T)] = 0.0
            known[key] = len(counts.tables) + len(extra)
            extra.append(table)
        table_of_class[k] = known[key]
    stack = np.concatenate([counts.tables, np.array(extra)]) if extra else counts.tables
    return stack, table_of_class


def lattice_histograms(
    matrix: FloatArray,
    positions: FloatArray,
    tables: FloatArray,
    table_of_class: np.ndarray,
    classes: PairClasses,
    channels: Sequence[int],
    *,
    step: float,
    threads: int | None = None,
) -> FloatArray:
    """(n_channels, n_bins) histograms of C/r for the wanted channels of a crystal.

    matrix (3, 3) Å with lattice vectors as columns; positions (n_atoms, 3) fractional.
    """
    difference = positions[classes.second] - positions[classes.first]
    reach = np.array(tables.shape[1:]) // 2
    corners = np.stack(np.meshgrid(*[(-1, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    corner_lengths = np.linalg.norm((corners * (reach + 1.5)) @ matrix.T, axis=1)
    n_bins = int(corner_lengths.max() / step) + GRID_MARGIN + 4
    workers = threads or thread_count()
    portions = _portions(classes.channel, channels, workers)
    histograms = np.zeros((len(channels), n_bins))
    lock = Lock()

    def collect(portion: tuple[int, np.ndarray]) -> None:
        row, chosen = portion
        moments = np.zeros((n_bins, SPLINE_ORDER))
        histogram = np.zeros(n_bins)
        _collect_lattice(
            tables, table_of_class[chosen], classes.multiplicity[chosen], difference[chosen],
            matrix, step, moments, histogram,
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
    tables, table_of_class, multiplicity, difference, matrix, step, moments, histogram
):
    reach_u, reach_v, reach_w = (
        tables.shape[1] // 2, tables.shape[2] // 2, tables.shape[3] // 2
    )
    inverse = 1.0 / step
    length_c = (matrix[0, 2] ** 2 + matrix[1, 2] ** 2 + matrix[2, 2] ** 2) * inverse**2
    flat = moments.reshape(moments.size)
    for n in range(len(multiplicity)):
        factor = multiplicity[n] * inverse
        start_w = difference[n, 2] - reach_w
        for u in range(tables.shape[1]):
            du = difference[n, 0] + u - reach_u
            for v in range(tables.shape[2]):
                dv = difference[n, 1] + v - reach_v
                x = matrix[0, 0] * du + matrix[0, 1] * dv
                y = matrix[1, 0] * du + matrix[1, 1] * dv
                z = matrix[2, 0] * du + matrix[2, 1] * dv
                base = (x * x + y * y + z * z) * inverse**2 + 1e-20
                cross = 2 * (x * matrix[0, 2] + y * matrix[1, 2] + z * matrix[2, 2]) * inverse**2
                counts = tables[table_of_class[n], u, v]
                for w in range(tables.shape[3]):
                    dw = start_w + w
                    s = np.sqrt(abs((length_c * dw + cross) * dw + base))
                    k = np.int64(s)
                    t = s - k - 0.5
                    weight = factor * counts[w] / s
                    slope = weight * t
                    square = t * t
                    at = np.uint64(4 * (k + GRID_MARGIN))
                    flat[at] += weight
                    flat[at + np.uint64(1)] += slope
                    flat[at + np.uint64(2)] += weight * square
                    flat[at + np.uint64(3)] += slope * square
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


def _half_space(difference: FloatArray) -> FloatArray:
    """The difference or its opposite, whichever has its first non-zero component positive."""
    for component in difference:
        if abs(component) > 1e-6:
            return difference if component > 0 else -difference + 0.0
    return difference
