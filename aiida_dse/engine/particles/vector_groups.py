"""Groups of difference vectors that have equal lengths by symmetry, and their pairs by shell.

The Debye equation depends on the lengths of difference vectors only, so that a particle enters it
through the number of pairs of each group. The vectors of a group join the same two sites and have
equal lengths in a cell, and at positions, that are displaced along all free parameters. A group is
represented by one of its vectors.

If the particles of a population are nested, a pair belongs to all particles that contain its outer
member. The pairs are therefore counted once, by the shell of the outer member; a change of the size
distribution costs one product of a matrix with a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numba import njit

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.resources import Resources
from aiida_dse.engine.units import FloatArray

from .sphere_counting import MergedPairs, merge_translations

#: Vectors whose lengths (Å) differ by less have the same length; rounding errors are 1e-13. In
#: crystals of low symmetry, a larger value would unite vectors that have similar lengths by chance.
SAME_LENGTH = 1e-9
#: Points whose distances (Å) from the centre differ by less belong to one shell.
SAME_RADIUS = 1e-6
#: Relative changes of the free cell parameters that make lengths equal by symmetry only.
GENERIC_CELL = (1.013, 0.987, 1.031, 1.007, 0.993, 1.017)
#: A direction without symmetry.
DIRECTION = (1.0, np.pi / 5, np.e / 9)


@dataclass(frozen=True)
class VectorGroups:
    """Groups of difference vectors x_second + cell - x_first of basis atoms, one vector of each.

    `generic` (n_groups,) are the lengths (Å) in the displaced structure, in increasing order within
    each pair of sites; the groups of the pair of sites k are begin[k] ... begin[k + 1] - 1, and
    `sites_of_class` (n_classes,) the pair of sites of each class of pairs. `number` (n_groups,) is the
    number of unordered pairs of atoms per unit cell at the vectors of each group.
    """

    first: np.ndarray
    second: np.ndarray
    cell: np.ndarray  # (n_groups, 3)
    generic: FloatArray
    begin: np.ndarray
    sites_of_class: np.ndarray
    number: FloatArray

    def __len__(self) -> int:
        return len(self.first)

    def parts(self, site_of_atom: np.ndarray, channel_of_sites: np.ndarray) -> dict[int, slice]:
        """The groups of each channel; channel_of_sites (n_sites, n_sites)."""
        return {
            int(channel_of_sites[site_of_atom[self.first[begin]], site_of_atom[self.second[begin]]]):
            slice(int(begin), int(end)) for begin, end in pairwise(self.begin) if end > begin}

    def places_of(self, other: VectorGroups) -> np.ndarray:
        """The groups (n,) that are those of smaller spheres of the same crystal."""
        found = [begin + np.searchsorted(
                     self.generic[begin:end], other.generic[a:b] - SAME_LENGTH / 2)
                 for (begin, end), (a, b) in zip(pairwise(self.begin), pairwise(other.begin), strict=True)]
        return np.concatenate(found)

    def lengths(
        self, matrix: FloatArray, positions: FloatArray, part: slice = slice(None)
    ) -> FloatArray:
        """The lengths (n,) in Å of a part of the groups; matrix (3, 3) Å, positions (n_atoms, 3) fractional."""
        cell = self.cell[part]
        found = np.empty(len(cell))
        _lengths(cell, self.first[part], self.second[part], matrix, positions, found)
        return found

    def excluded(self, crystal: Crystal, pairs: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
        """A mask (n_groups,) of the vectors at which two atoms never coexist, see `excluded_pairs`."""
        mask = self.generic < SAME_LENGTH
        matrix, positions = generic_geometry(crystal)
        sites = np.sort(crystal.site_of_atom[[self.first, self.second]], axis=0)
        for (i, j), cells in pairs.items():
            lengths = np.linalg.norm((cells + positions[j] - positions[i]) @ matrix.T, axis=1)
            same = (np.sort(crystal.site_of_atom[[i, j]]) == sites.T).all(axis=1)
            mask |= same & (np.abs(self.generic[:, None] - lengths) < SAME_LENGTH).any(axis=1)
        return np.asarray(mask)


@njit(cache=True, nogil=True, fastmath=True)
def _lengths(cell, first, second, matrix, positions, found):  # type: ignore[no-untyped-def]
    for n in range(len(found)):
        i, j = first[n], second[n]
        a = cell[n, 0] + positions[j, 0] - positions[i, 0]
        b = cell[n, 1] + positions[j, 1] - positions[i, 1]
        c = cell[n, 2] + positions[j, 2] - positions[i, 2]
        x = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c
        y = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c
        z = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c
        found[n] = np.sqrt(x * x + y * y + z * z)


def generic_geometry(crystal: Crystal) -> tuple[FloatArray, FloatArray]:
    """The lattice matrix (Å) and the positions of the displaced structure."""
    changes = zip(crystal.free_cell_parameters, GENERIC_CELL, strict=False)
    cell = crystal.with_cell(**{
        name: factor * getattr(crystal.cell, name) for name, factor in changes}).cell
    return cell.matrix, crystal.generic_positions


def reach_of(matrix: FloatArray, radius: float) -> np.ndarray:
    """The largest component (3,) of lattice vectors up to a length (Å)."""
    return np.asarray(np.ceil(radius * np.linalg.norm(np.linalg.inv(matrix), axis=1)), dtype=int)


@lru_cache(maxsize=4)
def vector_groups(
    crystal: Crystal, radius: float, kept: tuple[int, ...] | None = None
) -> VectorGroups:
    """The groups of all vectors up to a length of `radius` (Å), and of some longer vectors.

    `kept` are the symmetry operations under which the particles have the same number of pairs, by
    their index. If they are specified, only vectors that these operations map onto each other form a
    group; otherwise all that have equal lengths.
    """
    merged = merge_translations(crystal)
    matrix, positions = generic_geometry(crystal)
    rotations = [op.rotation for k, op in enumerate(crystal.symmetry) if kept is None or k in kept]
    # how far the displacements may lengthen a vector
    stretch = np.linalg.norm(matrix @ np.linalg.inv(crystal.cell.matrix), 2)
    moved = np.abs(positions - crystal.positions()).max(initial=0.0) * np.abs(matrix).sum()
    vectors = representatives(
        positions[merged.second] - positions[merged.first], matrix, rotations,
        radius * stretch * (1 + 1e-9) + 2 * moved)
    site = crystal.site_of_atom
    pairs = [(int(site[i]), int(site[j])) for i, j in zip(merged.first, merged.second, strict=True)]
    known = sorted(set(pairs))
    sites_of_class = np.array([known.index(pair) for pair in pairs])
    # pairs of atoms of one site are found from both of them
    pairs_of_class = np.bincount(merged.class_of_pair[merged.class_of_pair >= 0]) * np.where(
        site[merged.first] == site[merged.second], 0.5, 1.0)
    own = sites_of_class[vectors.number]
    order = np.lexsort((vectors.length, own))
    new = np.ones(len(order), dtype=bool) if kept is not None else (
        (np.diff(vectors.length[order], prepend=-1.0) > SAME_LENGTH)
        | (np.diff(own[order], prepend=-1) > 0))
    chosen = order[new]
    number = (vectors.orbit * pairs_of_class[vectors.number])[order]
    return VectorGroups(
        merged.first[vectors.number[chosen]], merged.second[vectors.number[chosen]],
        vectors.cell[chosen], vectors.length[chosen],
        np.searchsorted(own[chosen], np.arange(len(known) + 1)), sites_of_class,
        np.add.reduceat(number, np.flatnonzero(new)))


@dataclass(frozen=True)
class Vectors:
    """One vector of each orbit: its class, lattice vector, length (Å), and the size of the orbit."""

    number: np.ndarray
    cell: np.ndarray  # (n, 3)
    length: FloatArray
    orbit: FloatArray


def representatives(
    differences: FloatArray, matrix: FloatArray, rotations: list[np.ndarray], radius: float
) -> Vectors:
    """One vector of each orbit of lattice vectors plus `differences` (n_classes, 3), fractional.

    rotations: a point group of the vectors (fractional matrices), radius: the largest length in Å.
    """
    inverse = np.linalg.inv(matrix)
    unique = {tuple(np.round(matrix @ rotation @ inverse, 9).ravel()) for rotation in rotations}
    # R d . direction = d . (R^T direction)
    turned = np.array([np.array(entries).reshape(3, 3).T @ DIRECTION for entries in unique])
    reach = reach_of(matrix, radius) + int(np.ceil(np.abs(differences).max(initial=0.0)))
    none = np.zeros((0, 3), dtype=np.int64)
    n = _representatives(differences, matrix, turned, reach, radius, np.zeros(0, dtype=np.int64),
                         none, np.zeros(0), np.zeros(0))
    found = Vectors(np.empty(n, dtype=np.int64), np.empty((n, 3), dtype=np.int64), np.empty(n),
                    np.empty(n))
    _representatives(differences, matrix, turned, reach, radius, found.number, found.cell,
                     found.length, found.orbit)
    return found


@njit(cache=True, nogil=True)
def _representatives(  # type: ignore[no-untyped-def]
    differences, matrix, turned, reach, radius, number, cell, length, orbit
):
    """The number of representatives; they are stored if the arrays have room."""
    n = 0
    for u in range(-reach[0], reach[0] + 1):
        for v in range(-reach[1], reach[1] + 1):
            for w in range(-reach[2], reach[2] + 1):
                for c in range(len(differences)):
                    a, b, e = u + differences[c, 0], v + differences[c, 1], w + differences[c, 2]
                    x = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * e
                    y = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * e
                    z = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * e
                    square = x * x + y * y + z * z
                    if square > radius * radius:
                        continue
                    own = x * DIRECTION[0] + y * DIRECTION[1] + z * DIRECTION[2]
                    fixed, highest = 0, True
                    for k in range(len(turned)):
                        other = x * turned[k, 0] + y * turned[k, 1] + z * turned[k, 2]
                        if other > own + 1e-6:
                            highest = False
                            break
                        if other > own - 1e-6:
                            fixed += 1
                    if highest:
                        if n < len(number):
                            number[n] = c
                            cell[n, 0], cell[n, 1], cell[n, 2] = u, v, w
                            length[n] = np.sqrt(square)
                            orbit[n] = len(turned) / fixed
                        n += 1
    return n


def groups_of(crystal: Crystal, groups: VectorGroups, vectors: Vectors) -> np.ndarray:
    """The group (n,) of each vector; -1 beyond the groups."""
    merged = merge_translations(crystal)
    matrix, positions = generic_geometry(crystal)
    first, second = merged.first[vectors.number], merged.second[vectors.number]
    lengths = np.linalg.norm((vectors.cell + positions[second] - positions[first]) @ matrix.T, axis=1)
    found = np.full(len(lengths), -1)
    own = groups.sites_of_class[vectors.number]
    for k in range(len(groups.begin) - 1):
        known = groups.generic[groups.begin[k] : groups.begin[k + 1]]
        chosen = np.flatnonzero(own == k)
        at = np.searchsorted(known, lengths[chosen] + 0.1 * SAME_LENGTH, side="right") - 1
        near = lengths[chosen] - known[np.maximum(at, 0)] < 10 * SAME_LENGTH
        found[chosen] = np.where((at >= 0) & near, groups.begin[k] + at, -1)
    return found


def orbit_table(
    rotations: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, int]:
    """The orbit (2U+1, 2V+1, 2W+1) of every lattice vector under a point group, and their number.

    rotations (n, 3, 3) act on integer components. A rotation may lead out of the box; such vectors
    have orbits of their own.
    """
    table = np.full(2 * reach + 1, -1, dtype=np.int32)
    return table, int(_orbits(rotations, reach, table))


@njit(cache=True, nogil=True)
def _orbits(rotations, reach, table):  # type: ignore[no-untyped-def]
    n = 0
    for u in range(-reach[0], reach[0] + 1):
        for v in range(-reach[1], reach[1] + 1):
            for w in range(-reach[2], reach[2] + 1):
                if table[u + reach[0], v + reach[1], w + reach[2]] >= 0:
                    continue
                for k in range(len(rotations)):
                    r = rotations[k]
                    a = r[0, 0] * u + r[0, 1] * v + r[0, 2] * w
                    b = r[1, 0] * u + r[1, 1] * v + r[1, 2] * w
                    c = r[2, 0] * u + r[2, 1] * v + r[2, 2] * w
                    if abs(a) <= reach[0] and abs(b) <= reach[1] and abs(c) <= reach[2]:
                        table[a + reach[0], b + reach[1], c + reach[2]] = n
                n += 1
    return n


def group_table(crystal: Crystal, groups: VectorGroups, reach: np.ndarray) -> np.ndarray:
    """The group (n_classes, 2U+1, 2V+1, 2W+1) of every vector up to `reach`; -1 beyond the groups."""
    merged = merge_translations(crystal)
    matrix, positions = generic_geometry(crystal)
    table = np.empty((len(merged.first), *(2 * reach + 1)), dtype=np.int32)
    differences = positions[merged.second] - positions[merged.first]
    for c in range(len(table)):
        k = int(groups.sites_of_class[c])
        begin, end = groups.begin[k : k + 2].tolist()
        _number(differences[c], matrix, reach, groups.generic[begin:end], begin, table[c])
    return table


@njit(cache=True, nogil=True)
def _number(difference, matrix, reach, lengths, begin, table):  # type: ignore[no-untyped-def]
    # buckets of equal width in length, so that a search looks at a few lengths only
    n_buckets = 8 * len(lengths) + 1
    scale = n_buckets / (lengths[-1] + 1e-3)
    bucket = np.zeros(n_buckets + 1, dtype=np.int64)
    k = 0
    for i in range(n_buckets + 1):
        while k < len(lengths) and lengths[k] < i / scale:
            k += 1
        bucket[i] = k
    for u in range(table.shape[0]):
        a = u - reach[0] + difference[0]
        for v in range(table.shape[1]):
            b = v - reach[1] + difference[1]
            for w in range(table.shape[2]):
                e = w - reach[2] + difference[2]
                x = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * e
                y = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * e
                z = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * e
                r = np.sqrt(x * x + y * y + z * z)
                # the last group that begins at or below r
                at = np.int64(r * scale)
                found = -1
                if at < n_buckets:
                    k = bucket[at]
                    while k < len(lengths) and lengths[k] <= r + 0.1 * SAME_LENGTH:
                        k += 1
                    if k > 0 and r - lengths[k - 1] < 10 * SAME_LENGTH:
                        found = begin + k - 1
                table[u, v, w] = found


@dataclass(frozen=True)
class Points:
    """Points of a lattice with a basis around a centre, ordered by shell.

    `cell` (n, 3) and `atom` (n,) are lattice vector and basis atom, `shell` (n,) the shell of each
    point, `orbit` (n,) the size of its orbit for one point of each orbit and 0 for the others.
    `offset` (n_atoms, 3) Å are the basis atoms relative to the centre, `matrix` (3, 3) Å the lattice
    vectors as columns, and `radius` (n_shells,) Å that of each shell.
    """

    cell: np.ndarray
    atom: np.ndarray
    shell: np.ndarray
    orbit: FloatArray
    offset: FloatArray
    matrix: FloatArray
    radius: FloatArray


def pairs_by_shell(
    points: Points, merged: MergedPairs, table: np.ndarray, row_of_shell: np.ndarray, n_groups: int,
    resources: Resources, *, separate: bool = False, first: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """The unordered pairs (n_rows, n_groups) of points, by the row of the shell of the outer point.

    `table` is that of `group_table`. Shells may share a row. `separate` returns the pairs of two
    points of one shell in a second array; otherwise both are in the first. Outer points in shells
    before `first` are left out.
    """
    n_rows = int(row_of_shell[-1]) + 1
    mixed = np.zeros((n_rows, n_groups))
    equal = np.zeros((n_rows, n_groups)) if separate else mixed
    chosen = np.flatnonzero((points.orbit > 0) & (points.shell >= first))
    work = np.cumsum(chosen + 1.0)  # about as many points are as near to the centre
    rows = row_of_shell[points.shell[chosen]]
    n_parts = 8 * resources.threads
    begins = np.unique(rows[np.searchsorted(work, work[-1] * np.arange(1, n_parts) / n_parts)])
    limits = [0, *np.searchsorted(rows, begins).tolist(), len(chosen)]
    # where a pair of atoms in the same cell is in the table; -1: counted from the second atom
    strides = np.array([table.shape[2] * table.shape[3], table.shape[3], 1])
    origin = np.where(merged.class_of_pair >= 0, merged.class_of_pair * table[0].size
                      + (merged.shift + np.array(table.shape[1:]) // 2) @ strides, -1)
    place = points.cell @ strides
    begin_of_shell = np.searchsorted(points.shell, np.arange(len(points.radius) + 1))
    nearer = points.radius - SAME_RADIUS / 2
    inner = np.where(nearer > 0, nearer**2, -1.0)  # nothing is nearer than a point at the centre
    low, high = points.cell.min(axis=0), points.cell.max(axis=0)

    def count(part: np.ndarray) -> None:
        _count_by_shell(
            place, points.atom, points.shell, points.orbit, part, begin_of_shell, inner, points.offset,
            points.matrix, low, high, strides, origin, table.ravel(), row_of_shell, mixed, equal)

    parts = [chosen[a:b] for a, b in pairwise(limits) if b > a]
    for _ in resources.ordered(count, parts[::-1]):
        pass
    return mixed, equal


@njit(cache=True, nogil=True)
def _count_by_shell(  # type: ignore[no-untyped-def]
    place, atom, shell, orbit, chosen, begin_of_shell, inner, offset, matrix, low, high, strides, origin,
    table, row_of_shell, mixed, equal
):
    """The points nearer to the centre than an outer point form an interval of each lattice row."""
    length = matrix[0, 2] ** 2 + matrix[1, 2] ** 2 + matrix[2, 2] ** 2
    for i in chosen:
        s, own, weight = atom[i], shell[i], orbit[i]
        row, row_equal = mixed[row_of_shell[own]], equal[row_of_shell[own]]
        for t in range(len(offset)):
            forward = origin[s, t] >= 0
            start = origin[s, t] - place[i] if forward else origin[t, s] + place[i]
            for x in range(low[0], high[0] + 1):
                for y in range(low[1], high[1] + 1):
                    a = offset[t, 0] + matrix[0, 0] * x + matrix[0, 1] * y
                    b = offset[t, 1] + matrix[1, 0] * x + matrix[1, 1] * y
                    c = offset[t, 2] + matrix[2, 0] * x + matrix[2, 1] * y
                    along = a * matrix[0, 2] + b * matrix[1, 2] + c * matrix[2, 2]
                    rest = along * along - length * (a * a + b * b + c * c - inner[own])
                    if rest < 0:
                        continue
                    root = np.sqrt(rest)
                    z_low = np.int64(np.ceil((-along - root) / length))
                    z_high = np.int64(np.floor((-along + root) / length))
                    if forward:
                        at = start + x * strides[0] + y * strides[1]
                        for z in range(z_low, z_high + 1):
                            row[table[at + z]] += weight
                    else:
                        at = start - x * strides[0] - y * strides[1]
                        for z in range(z_low, z_high + 1):
                            row[table[at - z]] += weight
        for k in range(begin_of_shell[own], begin_of_shell[own + 1]):
            if k == i:
                continue
            t = atom[k]
            if origin[s, t] >= 0:
                group = table[origin[s, t] - place[i] + place[k]]
            else:
                group = table[origin[t, s] + place[i] - place[k]]
            row_equal[group] += 0.5 * weight  # counted from both points
