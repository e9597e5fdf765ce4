"""Classes of pairs of basis atoms with equal distances, and their weights by lattice vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.particles.directed_groups import groups_in_box, ordered_pairs
from aiida_dse.engine.particles.family import PairCounts
from aiida_dse.engine.units import FloatArray


@dataclass(frozen=True)
class PairClass:
    """Pairs of basis atoms that have the same set of distances |A (v + kappa)| by symmetry.

    v is a lattice vector and `kappa = sign (x_second - x_first - cell)`, component by component.
    Each (shift, weight) of `members` contributes weight C(v - shift) pairs at v. `fold` lists for
    each axis whether v and -v ("zero") or v and -1-v ("half") have the same distance. `holes`
    (n, 3) are values of v at which the two atoms never coexist. `table` is the index of the table
    of C.
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
    """The number of pairs of each class at each lattice vector v = start ... start + shape - 1."""

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
    """The classes of the pairs of basis atoms, with each unordered pair once.

    `excluded` maps (i, j), i <= j, to the lattice differences (n, 3) at which the two atoms never
    coexist. For particles of whole cells with right angles, mirror images along each axis are
    merged. The classes are determined on a geometry that is displaced at random along the free
    coordinates, so pairs that agree by accident at the starting values are not merged.
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
    classes: dict[tuple[object, ...], PairClass] = {}
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
            sign, cell, fold = mirror(difference)
        elif counts.merged is None and i != j and _points_back(difference):
            sign = -sign
        kappa = np.round(sign * (difference - cell), 6) + 0.0
        # the table of a pair (i, i) contains both u and -u
        weight = 0.5 if i == j and counts.merged is None else 1.0
        shift = (int(sign[0] * cell[0]), int(sign[1] * cell[1]), int(sign[2] * cell[2]))
        if holes is not None:
            holes = sign * (holes + cell)
        key: tuple[object, ...] = (
            channel, tuple(kappa), number if counts.merged is not None else 0,
            None if holes is None else holes.tobytes(),
        )
        if key in classes:
            known = classes[key]
            classes[key] = replace(known, members=_add_member(known.members, shift, weight))
        else:
            classes[key] = PairClass(
                channel, number if counts.merged is not None else 0, int(i), int(j),
                (int(sign[0]), int(sign[1]), int(sign[2])),
                (int(cell[0]), int(cell[1]), int(cell[2])), ((shift, weight),), fold, holes,
            )
    return tuple(sorted(classes.values(), key=lambda pair: pair.channel))


def mirror(
    difference: FloatArray,
) -> tuple[np.ndarray, np.ndarray, tuple[str, str, str]]:
    """The sign, cell and fold that map every component of a difference into 0 ... 1/2."""
    rest = np.round(difference - np.floor(difference), 6) % 1.0
    sign = np.where(rest > 0.5, -1, 1)
    kappa = np.where(rest > 0.5, 1 - rest, rest)
    cell = np.round(difference - sign * kappa).astype(int)
    fold = ["zero" if k < 1e-6 else "half" if abs(k - 0.5) < 1e-6 else "" for k in kappa]
    return sign, cell, (fold[0], fold[1], fold[2])


def _points_back(difference: FloatArray) -> bool:
    """Whether the first non-zero component of a difference is negative."""
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
    """The weights of each class: the tables of C(u), shifted, summed and folded."""
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
            a = folded(x - reach[0] + shifts[m, 0], fold[0]) - start[0]
            for y in range(counts.shape[1]):
                b = folded(y - reach[1] + shifts[m, 1], fold[1]) - start[1]
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
                a = folded(holes[h, 0], fold[0]) - start[0]
                b = folded(holes[h, 1], fold[1]) - start[1]
                c = folded(holes[h, 2], fold[2]) - start[2]
                table[a, b, c] -= weight * counts[x, y, z]
    for h in range(len(holes)):
        # a rounding error of the subtraction must not be divided by a distance of zero
        a = folded(holes[h, 0], fold[0]) - start[0]
        b = folded(holes[h, 1], fold[1]) - start[1]
        c = folded(holes[h, 2], fold[2]) - start[2]
        inside = a < table.shape[0] and b < table.shape[1] and c < table.shape[2]
        left = 1e-9 * counts[reach[0], reach[1], reach[2]]
        if inside and min(a, b, c) >= 0 and abs(table[a, b, c]) < left:
            table[a, b, c] = 0.0


@njit(cache=True, nogil=True, inline="always")
def folded(v, fold):  # type: ignore[no-untyped-def]
    """The lattice component onto which v is folded (fold 0: none, 1: -v, 2: -1-v)."""
    if fold == 1:
        return abs(v)
    if fold == 2 and v < 0:
        return -1 - v
    return v


def by_direction(crystal: Crystal, counts: PairCounts) -> PairCounts:
    """The pair counts by groups of vectors that have the same direction relative to the atoms' tensors.

    counts: those of particles of whole cells, or of groups that already have this property.
    """
    if counts.groups is not None:
        return counts
    assert counts.merged is None
    u, v, w = reach = (np.array(counts.tables.shape[1:]) // 2).tolist()
    groups, table = groups_in_box(crystal, (u, v, w))
    # the groups may be those of a larger box
    middle = [slice(n // 2 - k, n // 2 + k + 1) for n, k in zip(table.shape[1:], reach, strict=True)]
    pairs, site = np.zeros(len(groups)), crystal.site_of_atom
    for number, (i, j) in enumerate(ordered_pairs(crystal)):
        # pairs of atoms of one site are found from both of them
        _add_table(counts.tables[0], table[number][tuple(middle)], 0.5 if site[i] == site[j] else 1.0, pairs)
    return replace(counts, tables=pairs, groups=groups)


@njit(cache=True, nogil=True)
def _add_table(counts, table, weight, pairs):  # type: ignore[no-untyped-def]
    for u in range(counts.shape[0]):
        for v in range(counts.shape[1]):
            for w in range(counts.shape[2]):
                pairs[table[u, v, w]] += weight * counts[u, v, w]
