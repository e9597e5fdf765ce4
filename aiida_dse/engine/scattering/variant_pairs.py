"""Pairs of atoms in particles with domains of translation variants, or with split sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numba import njit

from aiida_dse.engine.crystal.variants import Ordering
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .pairs import PairWeights, folded, mirror, site_channels

Vector = tuple[int, int, int]
#: Pairs C(v - shift) with a weight.
Member = tuple[Vector, float]


@dataclass(frozen=True)
class ChangeTable:
    """The numbers of pairs at lattice vectors v with a change of variant.

    They are P(change | U) times the sum of weight C(v - shift) over the members, where U = v + offset in
    vectors of the finer lattice. The change is None for pairs whose distance does not depend on it.
    """

    members: tuple[Member, ...]
    change: int | None
    offset: Vector


@dataclass(frozen=True)
class VariantClass:
    """Pairs of atoms that have the same set of distances |A (v + kappa)| by symmetry.

    kappa = sign (y_second - y_first - cell), with y the position of atom number `first` or `second` in the
    list of the atoms of all variants. Each (table, sign, shift) of `parts` contributes the numbers of a
    ChangeTable at u to v = sign u + shift. `fold` is that of `PairClass`. `hole`: v = 0 is an atom and itself.
    """

    channel: int
    first: int
    second: int
    sign: Vector
    cell: Vector
    parts: tuple[tuple[int, Vector, Vector], ...]
    fold: tuple[str, str, str]
    hole: bool


def variant_classes(
    variants: Ordering, changes: Sequence[int]
) -> tuple[tuple[VariantClass, ...], tuple[ChangeTable, ...]]:
    """The classes of pairs of basis atoms in any two variants that differ by one of `changes`."""
    crystal = variants.crystal
    right_angles = all(
        crystal.cell_constraints.get(angle) == 90 for angle in ("alpha", "beta", "gamma"))
    generic = variants.generic_positions.reshape(-1, 3)
    tables: dict[ChangeTable, int] = {}
    found: dict[tuple[object, ...], tuple[VariantClass, list[tuple[int, Vector, Vector]]]] = {}
    for channel, first, second, cell, hole, table in _directed(variants, changes):
        difference = generic[second] - generic[first] - cell
        sign, shift, fold = np.ones(3, dtype=int), np.zeros(3, dtype=int), ("", "", "")
        if right_angles:
            sign, shift, fold = mirror(difference)
        key = (channel, tuple(np.round(sign * (difference - shift), 6) + 0.0), hole)
        part = (tables.setdefault(table, len(tables)), _vector(sign), _vector(sign * shift))
        if key not in found:
            found[key] = VariantClass(
                channel, first, second, _vector(sign), _vector(np.array(cell) + shift), (), fold, hole), []
        found[key][1].append(part)
    classes = [replace(one, parts=tuple(sorted(parts))) for one, parts in found.values()]
    return tuple(sorted(classes, key=lambda one: one.channel)), tuple(tables)


def _directed(
    variants: Ordering, changes: Sequence[int]
) -> Iterator[tuple[int, int, int, Vector, bool, ChangeTable]]:
    """Pairs of atoms with the same difference vectors, and their numbers: channel, first, second, cell, hole."""
    crystal = variants.crystal
    index = {pair: k for k, pair in enumerate(site_channels(len(crystal.sites)))}
    generic = variants.generic_positions
    n_variants, n_atoms = generic.shape[:2]
    sites = variants.sites
    found: dict[tuple[int, tuple[float, ...], int, Vector, bool], dict[Vector, float]] = {}
    example: dict[tuple[int, tuple[float, ...], int, Vector, bool], tuple[int, int, Vector]] = {}
    for i, j in zip(*np.triu_indices(n_atoms), strict=True):
        for a, b in product(range(n_variants), repeat=2):
            one, other = (a, int(i)), (b, int(j))
            difference = generic[other] - generic[one]
            # a vector and its inverse, modulo the lattice, are one class
            inside, inverse = (tuple((np.round(x - np.floor(x + 1e-7), 6) + 0.0).tolist())
                               for x in (difference, -difference))
            if inverse < inside:
                one, other, difference, inside = other, one, -difference, inverse
            change = variants.element_of(variants.elements[other[0]] - variants.elements[one[0]])
            if change not in changes:
                continue
            cell = np.round(difference - inside).astype(int)
            offset = variants.cells[other[1]] - variants.cells[one[1]] - cell @ variants.lattice
            s, t = sorted((int(sites[one]), int(sites[other])))
            key = (index[s, t], inside, change, _vector(offset), bool(i == j and a == b))
            members = found.setdefault(key, {})
            shift = _vector(cell)
            # pairs of an atom with its own images are found twice
            members[shift] = members.get(shift, 0.0) + (0.5 if i == j else 1.0) / n_variants
            example.setdefault(key, (one[0] * n_atoms + one[1], other[0] * n_atoms + other[1], shift))
    for key, members in found.items():
        channel, inside, change, offset, hole = key
        unchanged = not hole and all(
            found.get((channel, inside, k, offset, hole)) == members for k in changes)
        if unchanged and change != changes[0]:
            continue  # the probabilities of all changes sum to 1
        first, second, cell = example[key]
        # numbers that differ by a lattice vector only share a table; a hole remains at 0
        origin = np.zeros(3, dtype=int) if hole else np.array(min(members))
        moved = tuple(sorted((_vector(np.array(shift) - origin), weight) for shift, weight in members.items()))
        yield channel, first, second, _vector(np.array(cell) - origin), hole, ChangeTable(
            moved, None if unchanged else change,
            (0, 0, 0) if unchanged else _vector(np.array(offset) + origin @ variants.lattice))


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (int(value) for value in values)
    return x, y, z


def variant_weights(
    counts: FloatArray, classes: Sequence[VariantClass], tables: Sequence[ChangeTable], variants: Ordering,
    factors: np.ndarray, resources: Resources = ONE_THREAD,
) -> PairWeights:
    """The weights of each class, for C(u) (2U-1, 2V-1, 2W-1) and the transfer factors of the planes."""
    end = np.array(counts.shape) // 2 + max(
        abs(x) for table in tables for shift, _ in table.members for x in shift)
    longest = int((np.abs(variants.lattice).T @ end).max()
                  + max(abs(x) for table in tables for x in table.offset))
    powers, inverse = _powers(variants, factors, longest)
    distinct_members = list(dict.fromkeys(table.members for table in tables))
    sums: dict[tuple[Member, ...], FloatArray] = {}

    def sum_members(k: int) -> None:
        sums[distinct_members[k]] = _summed(counts, distinct_members[k], 2 * end + 1)

    _run(sum_members, len(distinct_members), resources)
    numbers = np.empty((len(tables), *(2 * end + 1)))

    def fill_table(k: int) -> None:
        table = tables[k]
        if table.change is None:
            numbers[k] = sums[table.members]
        else:
            _multiply(sums[table.members], inverse[table.change], powers, variants.lattice,
                      np.array(table.offset), end, longest, numbers[k])

    _run(fill_table, len(tables), resources)
    place: dict[tuple[object, ...], int] = {}
    distinct: list[VariantClass] = []
    for one in classes:
        if place.setdefault((one.parts, one.fold, one.hole), len(distinct)) == len(distinct):
            distinct.append(one)
    start = np.empty((len(distinct), 3), dtype=np.int64)
    shape = np.empty((len(distinct), 3), dtype=np.int64)
    for k, one in enumerate(distinct):
        last = end + max(max(map(abs, shift)) for _, _, shift in one.parts)
        start[k] = np.where([bool(fold) for fold in one.fold], 0, -last)
        shape[k] = last - start[k] + 1
    offsets = np.concatenate([[0], np.cumsum(shape.prod(axis=1))])
    flat = np.zeros(offsets[-1])

    def fill_class(k: int) -> None:
        one = distinct[k]
        fold = np.array([("", "zero", "half").index(kind) for kind in one.fold])
        table = flat[offsets[k] : offsets[k + 1]].reshape(shape[k])
        for number, sign, shift in one.parts:
            _add(numbers[number], np.array(sign), np.array(shift), fold, start[k], table)
        if one.hole:
            table[tuple(-start[k])] = 0.0

    _run(fill_class, len(distinct), resources)
    chosen = np.array([place[one.parts, one.fold, one.hole] for one in classes])
    return PairWeights(flat, offsets[chosen], shape[chosen], start[chosen])


def _run(work: Callable[[int], None], n: int, resources: Resources) -> None:
    """Call work(0) ... work(n - 1), which are short, in as many portions as there are threads."""
    def portion(numbers: range) -> None:
        for number in numbers:
            work(number)

    for _ in resources.ordered(portion, [range(k, n, resources.threads) for k in range(resources.threads)]):
        pass


def _powers(variants: Ordering, factors: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """lambda^m (3, 2 longest + 1, n_characters) for m = -longest ..., and the inverse transform to changes.

    Real arrays if all characters are real.
    """
    inverse = variants.characters.conj().T / len(variants.characters)
    # characters with equal factors are summed
    factors, of = np.unique(np.round(factors, 14), axis=1, return_inverse=True)
    inverse = inverse @ np.eye(factors.shape[1])[of.reshape(-1)]
    forward = factors[:, None, :] ** np.arange(longest + 1)[:, None]
    powers = np.concatenate([forward[:, :0:-1].conj(), forward], axis=1)
    if np.abs(powers.imag).max() < 1e-12 and np.abs(inverse.imag).max() < 1e-12:
        return np.ascontiguousarray(powers.real), np.ascontiguousarray(inverse.real)
    return powers, np.ascontiguousarray(inverse)


def _summed(counts: FloatArray, members: Sequence[Member], shape: np.ndarray) -> FloatArray:
    table = np.zeros(shape)
    start = (shape - counts.shape) // 2
    for shift, weight in members:
        at = start + shift
        table[tuple(slice(int(k), int(k) + n) for k, n in zip(at, counts.shape, strict=True))] += weight * counts
    return table


@njit(cache=True, nogil=True)
def _multiply(  # type: ignore[no-untyped-def]
    table, inverse, powers, lattice, offset, end, longest, product
):
    """The numbers at v times the probability of a change between cells that differ by v + offset."""
    n = len(inverse)
    across = inverse.copy()
    for x in range(table.shape[0]):
        for y in range(table.shape[1]):
            u, v = x - end[0], y - end[1]
            first = u * lattice[0] + v * lattice[1] + offset + longest
            for c in range(n):
                across[c] = inverse[c]
                if lattice[2, 0] == 0:
                    across[c] *= powers[0, first[0], c]
                if lattice[2, 1] == 0:
                    across[c] *= powers[1, first[1], c]
            for z in range(table.shape[2]):
                w = z - end[2]
                total = across[0] * powers[2, first[2] + w * lattice[2, 2], 0]
                for c in range(1, n):
                    total += across[c] * powers[2, first[2] + w * lattice[2, 2], c]
                if lattice[2, 0] != 0 or lattice[2, 1] != 0:
                    total *= 0.0
                    for c in range(n):
                        value = across[c] * powers[2, first[2] + w * lattice[2, 2], c]
                        for axis in range(2):
                            if lattice[2, axis] != 0:
                                value *= powers[axis, first[axis] + w * lattice[2, axis], c]
                        total += value
                product[x, y, z] = table[x, y, z] * total.real


@njit(cache=True, nogil=True)
def _add(counts, sign, shift, fold, start, table):  # type: ignore[no-untyped-def]
    """Add the pairs at u to v = sign u + shift, folded."""
    reach = np.array([n // 2 for n in counts.shape])
    for x in range(counts.shape[0]):
        a = folded(sign[0] * (x - reach[0]) + shift[0], fold[0]) - start[0]
        for y in range(counts.shape[1]):
            b = folded(sign[1] * (y - reach[1]) + shift[1], fold[1]) - start[1]
            source, target = counts[x, y], table[a, b]
            for z in range(len(source)):
                target[folded(sign[2] * (z - reach[2]) + shift[2], fold[2]) - start[2]] += source[z]
