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


#: The change of variant of two atoms whose alternatives are independent of each other.
INDEPENDENT = -1


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
            weight = (0.5 if i == j else 1.0) / n_variants
            if variants.members[i] != variants.members[j]:
                change, weight = INDEPENDENT, weight / n_variants
            elif change not in changes:
                continue
            cell = np.round(difference - inside).astype(int)
            offset = variants.cells[other[1]] - variants.cells[one[1]] - cell @ variants.lattice
            s, t = sorted((int(sites[one]), int(sites[other])))
            key = (index[s, t], inside, change, _vector(offset), bool(i == j and a == b))
            members = found.setdefault(key, {})
            shift = _vector(cell)
            # pairs of an atom with its own images are found twice
            members[shift] = members.get(shift, 0.0) + weight
            example.setdefault(key, (one[0] * n_atoms + one[1], other[0] * n_atoms + other[1], shift))
    for key, members in found.items():
        channel, inside, change, offset, hole = key
        unchanged = change == INDEPENDENT or (not hole and all(
            found.get((channel, inside, k, offset, hole)) == members for k in changes))
        if unchanged and change not in (changes[0], INDEPENDENT):
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


@dataclass(frozen=True)
class VariantPairs:
    """The classes of pairs of a phase, with everything that does not depend on the particles.

    `sums` lists the distinct members of the tables and `sum_of_table` the one of each table; `change`
    (-1: any) and `offset` are those of each table. The distinct classes add the tables `part`, with sign and
    shift, from begin[k] to begin[k + 1] - 1; `of_class` is the distinct one of each class.
    """

    ordering: Ordering
    classes: tuple[VariantClass, ...]
    sums: tuple[tuple[Member, ...], ...]
    sum_of_table: np.ndarray
    change: np.ndarray
    offset: np.ndarray  # (n_tables, 3)
    begin: np.ndarray
    part: np.ndarray
    sign: np.ndarray  # (n_parts, 3)
    shift: np.ndarray  # (n_parts, 3)
    fold: np.ndarray  # (n_distinct, 3)
    hole: np.ndarray  # (n_distinct,)
    of_class: np.ndarray

    @classmethod
    def of(cls, ordering: Ordering, changes: Sequence[int]) -> VariantPairs:
        """The pairs in any two variants that differ by one of `changes`."""
        classes, tables = variant_classes(ordering, changes)
        sums = tuple(dict.fromkeys(table.members for table in tables))
        place: dict[tuple[object, ...], int] = {}
        distinct: list[VariantClass] = []
        for one in classes:
            if place.setdefault((one.parts, one.fold, one.hole), len(distinct)) == len(distinct):
                distinct.append(one)
        parts = [part for one in distinct for part in one.parts]
        return cls(
            ordering, classes, sums, np.array([sums.index(table.members) for table in tables]),
            np.array([-1 if table.change is None else table.change for table in tables]),
            np.array([table.offset for table in tables]),
            np.concatenate([[0], np.cumsum([len(one.parts) for one in distinct])]),
            np.array([number for number, *_ in parts]), np.array([sign for _, sign, _ in parts]),
            np.array([shift for *_, shift in parts]),
            np.array([[("", "zero", "half").index(kind) for kind in one.fold] for one in distinct]),
            np.array([one.hole for one in distinct]),
            np.array([place[one.parts, one.fold, one.hole] for one in classes]))

    def weights(
        self, counts: FloatArray, powers: Callable[[int], np.ndarray], resources: Resources = ONE_THREAD
    ) -> PairWeights:
        """The weights of each class, for C(u) (2U-1, 2V-1, 2W-1) and `powers` of an `Order`."""
        return self._collected(self._numbers(counts, lambda longest: [powers(longest)], resources), resources)

    def slopes(
        self, counts: FloatArray, powers: Callable[[int], np.ndarray],
        slopes: Callable[[int], dict[int, np.ndarray]], resources: Resources = ONE_THREAD,
    ) -> PairWeights:
        """The derivatives of the weights with respect to a parameter, for `powers` and `slopes` of an `Order`."""
        def products(longest: int) -> list[np.ndarray]:
            found, own = [], powers(longest)
            for axis, slope in slopes(longest).items():
                found.append(own.copy())
                found[-1][axis] = slope
            return found

        numbers = self._numbers(counts, products, resources)
        numbers[self.change < 0] = 0.0  # these do not depend on the variants
        return self._collected(numbers, resources)

    def _numbers(
        self, counts: FloatArray, products: Callable[[int], list[np.ndarray]], resources: Resources
    ) -> FloatArray:
        """The numbers of pairs (n_tables, 2U'-1, ...), summed over products of transfer factors along the axes."""
        lattice = self.ordering.lattice
        end = np.array(counts.shape) // 2 + max(
            abs(x) for members in self.sums for shift, _ in members for x in shift)
        longest = int((np.abs(lattice).T @ end).max() + np.abs(self.offset).max())
        sums = np.array([_summed(counts, members, 2 * end + 1) for members in self.sums])
        total: FloatArray = np.zeros(0)
        for forward in products(longest):
            powers, inverse = _powers(self.ordering, forward)
            numbers = np.empty((len(self.change), *sums.shape[1:]))

            def fill(part: np.ndarray, powers: np.ndarray = powers, inverse: np.ndarray = inverse,
                     numbers: FloatArray = numbers) -> None:
                _multiply(sums, self.sum_of_table, self.change, self.offset, part, inverse, powers, lattice, end,
                          longest, numbers)

            self._run(fill, len(numbers), resources)
            total = total + numbers if len(total) else numbers
        return total

    def _collected(self, numbers: FloatArray, resources: Resources) -> PairWeights:
        """The weights of each class, from the numbers of the tables."""
        end = np.array(numbers.shape[1:]) // 2
        last = end + np.maximum.reduceat(np.abs(self.shift).max(axis=1), self.begin[:-1])[:, None]
        start = np.where(self.fold > 0, 0, -last)
        shape = last - start + 1
        offsets = np.concatenate([[0], np.cumsum(shape.prod(axis=1))])
        flat = np.zeros(offsets[-1])

        def add(part: np.ndarray) -> None:
            _add(numbers, self.begin, self.part, self.sign, self.shift, self.fold, self.hole, part, start, shape,
                 offsets, flat)

        self._run(add, len(self.fold), resources)
        return PairWeights(flat, offsets[self.of_class], shape[self.of_class], start[self.of_class])

    @staticmethod
    def _run(work: Callable[[np.ndarray], None], n: int, resources: Resources) -> None:
        """Call work for all numbers below n, in as many portions as there are threads."""
        for _ in resources.ordered(work, [np.arange(k, n, resources.threads) for k in range(resources.threads)]):
            pass


def _powers(variants: Ordering, forward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors (3, 2 longest + 1, n_characters) of m = -longest ... steps, and the inverse transform to changes.

    forward (3, longest + 1, n_characters) are those of m = 0 ... steps. Real arrays if all characters are real.
    """
    inverse = variants.characters.conj().T / len(variants.characters)
    # characters with equal factors are summed
    _, first, of = np.unique(np.round(forward.reshape(-1, forward.shape[2]), 14), axis=1, return_index=True,
                             return_inverse=True)
    forward = forward[:, :, first]
    inverse = inverse @ np.eye(len(first))[of.reshape(-1)]
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
    sums, sum_of_table, change, offset, chosen, inverse, powers, lattice, end, longest, numbers
):
    """The numbers at v times the probability of a change between cells that differ by v + offset."""
    n = inverse.shape[1]
    across = inverse[0].copy()
    for t in chosen:
        table, product = sums[sum_of_table[t]], numbers[t]
        if change[t] < 0:
            product[:] = table
            continue
        for x in range(table.shape[0]):
            for y in range(table.shape[1]):
                u, v = x - end[0], y - end[1]
                i = u * lattice[0, 0] + v * lattice[1, 0] + offset[t, 0] + longest
                j = u * lattice[0, 1] + v * lattice[1, 1] + offset[t, 1] + longest
                k = u * lattice[0, 2] + v * lattice[1, 2] + offset[t, 2] + longest
                if lattice[2, 0] == 0 and lattice[2, 1] == 0:
                    for c in range(n):
                        across[c] = inverse[change[t], c] * powers[0, i, c] * powers[1, j, c]
                    for z in range(table.shape[2]):
                        at = k + (z - end[2]) * lattice[2, 2]
                        total = across[0] * powers[2, at, 0]
                        for c in range(1, n):
                            total += across[c] * powers[2, at, c]
                        product[x, y, z] = table[x, y, z] * total.real
                else:
                    for z in range(table.shape[2]):
                        w = z - end[2]
                        total = across[0] * 0.0
                        for c in range(n):
                            total += (inverse[change[t], c] * powers[0, i + w * lattice[2, 0], c]
                                      * powers[1, j + w * lattice[2, 1], c] * powers[2, k + w * lattice[2, 2], c])
                        product[x, y, z] = table[x, y, z] * total.real


@njit(cache=True, nogil=True)
def _add(  # type: ignore[no-untyped-def]
    numbers, begin, part, sign, shift, fold, hole, chosen, start, shape, offsets, flat
):
    """Add the pairs at u to v = sign u + shift, folded."""
    reach = np.array([n // 2 for n in numbers[0].shape])
    for k in chosen:
        table = flat[offsets[k] : offsets[k + 1]].reshape((shape[k, 0], shape[k, 1], shape[k, 2]))
        for p in range(begin[k], begin[k + 1]):
            counts = numbers[part[p]]
            for x in range(counts.shape[0]):
                a = folded(sign[p, 0] * (x - reach[0]) + shift[p, 0], fold[k, 0]) - start[k, 0]
                for y in range(counts.shape[1]):
                    b = folded(sign[p, 1] * (y - reach[1]) + shift[p, 1], fold[k, 1]) - start[k, 1]
                    source, target = counts[x, y], table[a, b]
                    for z in range(len(source)):
                        target[folded(sign[p, 2] * (z - reach[2]) + shift[p, 2], fold[k, 2]) - start[k, 2]] += source[z]
        if hole[k]:
            table[-start[k, 0], -start[k, 1], -start[k, 2]] = 0.0
