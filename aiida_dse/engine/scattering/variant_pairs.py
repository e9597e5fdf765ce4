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
        return self._weights(counts, lambda longest: [powers(longest)], unchanged=True, resources=resources)

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

        return self._weights(counts, products, unchanged=False, resources=resources)

    def _weights(
        self, counts: FloatArray, products: Callable[[int], list[np.ndarray]], *, unchanged: bool,
        resources: Resources,
    ) -> PairWeights:
        """The weights summed over products of transfer factors along the axes; without those of pairs whose
        distance does not depend on the variants if not `unchanged`."""
        reach = np.array(counts.shape) // 2
        shifts = np.array([shift for members in self.sums for shift, _ in members])
        weight = np.array([weight for members in self.sums for _, weight in members])
        members = np.concatenate([[0], np.cumsum([len(one) for one in self.sums])])
        end = reach + np.abs(shifts).max()
        lattice = self.ordering.lattice
        longest = int((np.abs(lattice).T @ end).max() + np.abs(self.offset).max())
        powers, inverse = _powers(self.ordering, np.concatenate(products(longest), axis=2))
        # the vectors of a table and of a class extend as far as their own shifts
        table_end = reach + np.maximum.reduceat(np.abs(shifts), members[:-1])[self.sum_of_table]
        last = np.maximum.reduceat(table_end[self.part] + np.abs(self.shift), self.begin[:-1])
        start = np.where(self.fold > 0, 0, -last)
        shape = last - start + 1
        offsets = np.concatenate([[0], np.cumsum(shape.prod(axis=1))])
        flat = np.zeros(offsets[-1])

        def fill(k: int) -> None:
            _fill(counts, shifts, weight, members, self.sum_of_table, self.change, self.offset,
                  self.part[self.begin[k] : self.begin[k + 1]], self.sign[self.begin[k] : self.begin[k + 1]],
                  self.shift[self.begin[k] : self.begin[k + 1]], self.fold[k], self.hole[k], unchanged, inverse, powers,
                  lattice, longest, start[k], flat[offsets[k] : offsets[k + 1]].reshape(shape[k]))

        for _ in resources.ordered(fill, np.argsort(-shape.prod(axis=1) * np.diff(self.begin)).tolist()):
            pass
        return PairWeights(flat, offsets[self.of_class], shape[self.of_class], start[self.of_class])


def _powers(variants: Ordering, forward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors (3, 2 longest + 1, n) of m = -longest ... steps, and the inverse transform (n_changes, n).

    forward (3, longest + 1, n_products n_characters) are those of m = 0 ... steps. Real if all characters are.
    """
    inverse = variants.characters.conj().T / len(variants.characters)
    inverse = np.tile(inverse, forward.shape[2] // inverse.shape[1])
    # characters with equal factors are summed
    _, first, of = np.unique(np.round(forward.reshape(-1, forward.shape[2]), 14), axis=1, return_index=True,
                             return_inverse=True)
    forward = forward[:, :, first]
    inverse = inverse @ np.eye(len(first))[of.reshape(-1)]
    powers = np.concatenate([forward[:, :0:-1].conj(), forward], axis=1)
    if np.abs(powers.imag).max() < 1e-12 and np.abs(inverse.imag).max() < 1e-12:
        return np.ascontiguousarray(powers.real), np.ascontiguousarray(inverse.real)
    return powers, np.ascontiguousarray(inverse)


@njit(cache=True, nogil=True)
def _fill(  # type: ignore[no-untyped-def]
    counts, shifts, weights, members, sum_of_table, change, offset, part, sign, shift, fold, hole, unchanged, inverse,
    powers, lattice, longest, start, target
):
    """Add the numbers of pairs of one class at v = sign u + shift, folded, to `target`.

    They are those of a table at u, times the probability of its change between cells that differ by u + offset.
    """
    reach = np.array([n // 2 for n in counts.shape])
    n = inverse.shape[1]
    straight = lattice[2, 0] == 0 and lattice[2, 1] == 0
    for p in range(len(part)):
        t = part[p]
        if change[t] < 0 and not unchanged:
            continue
        own = range(members[sum_of_table[t]], members[sum_of_table[t] + 1])
        low, high = -reach, reach.copy()
        for m in own:
            for axis in range(3):
                low[axis] = min(low[axis], shifts[m, axis] - reach[axis])
                high[axis] = max(high[axis], shifts[m, axis] + reach[axis])
        line = np.empty(high[2] - low[2] + 1)
        back = np.empty(len(line))
        chance = np.empty(len(line), dtype=powers.dtype)
        along = np.empty((n, len(line)), dtype=powers.dtype)
        varies = not straight
        if change[t] >= 0 and straight:
            for c in range(n):
                for z in range(len(line)):
                    along[c, z] = powers[2, (low[2] + z) * lattice[2, 2] + offset[t, 2] + longest, c]
                    varies = varies or along[c, z] != 1
        for x in range(low[0], high[0] + 1):
            a = folded(sign[p, 0] * x + shift[p, 0], fold[0]) - start[0]
            for y in range(low[1], high[1] + 1):
                line[:] = 0.0
                empty = True
                for m in own:
                    u, v = x - shifts[m, 0] + reach[0], y - shifts[m, 1] + reach[1]
                    if 0 <= u < counts.shape[0] and 0 <= v < counts.shape[1]:
                        source, weight, first = counts[u, v], weights[m], shifts[m, 2] - reach[2] - low[2]
                        shifted = line[first : first + len(source)]
                        for z in range(len(source)):
                            shifted[z] += weight * source[z]
                        empty = False
                if empty:
                    continue
                if change[t] >= 0:
                    i = x * lattice[0, 0] + y * lattice[1, 0] + offset[t, 0] + longest
                    j = x * lattice[0, 1] + y * lattice[1, 1] + offset[t, 1] + longest
                    chance[:] = 0.0
                    for c in range(n):
                        factor = inverse[change[t], c]
                        if not straight:
                            k = x * lattice[0, 2] + y * lattice[1, 2] + offset[t, 2] + longest
                            for z in range(len(line)):
                                w = z + low[2]
                                chance[z] += (factor * powers[0, i + w * lattice[2, 0], c]
                                              * powers[1, j + w * lattice[2, 1], c]
                                              * powers[2, k + w * lattice[2, 2], c])
                            continue
                        factor = factor * powers[0, i, c] * powers[1, j, c]
                        if varies:
                            for z in range(len(line)):
                                chance[z] += factor * along[c, z]
                        else:
                            chance[0] += factor
                    if varies:
                        for z in range(len(line)):
                            line[z] *= chance[z].real
                    else:
                        for z in range(len(line)):
                            line[z] *= chance[0].real
                row = target[a, folded(sign[p, 1] * y + shift[p, 1], fold[1]) - start[1]]
                if sign[p, 2] > 0:
                    _add_line(line, low[2] + shift[p, 2], fold[2], start[2], row)
                else:
                    for z in range(len(line)):
                        back[len(line) - 1 - z] = line[z]
                    _add_line(back, shift[p, 2] - high[2], fold[2], start[2], row)
    if hole:
        target[-start[0], -start[1], -start[2]] = 0.0


@njit(cache=True, nogil=True)
def _add_line(line, first, fold, start, row):  # type: ignore[no-untyped-def]
    """Add the numbers of pairs at first, first + 1, ... to `row`, which begins at `start`, folded."""
    # slices, because the compiler uses vector instructions only for indices that cannot be negative
    negative = min(max(-first, 0), len(line)) if fold else 0
    if negative:
        last = 1 - fold - first
        back = row[last - negative + 1 : last + 1]
        for z in range(negative):
            back[negative - 1 - z] += line[z]
    rest = line[negative:]
    begin = first + negative - start
    ahead = row[begin : begin + len(rest)]
    for z in range(len(rest)):
        ahead[z] += rest[z]
