"""Spheres of whole primitive cells around a point of the crystal, as in DebUsSy.

The k-th sphere has k^3 primitive cells and the diameter of a sphere of that volume. The cells are
those whose centres are nearest to the centre of the particle; the last shell of cells at one
distance is occupied evenly, and in part. An atom on a face, an edge or a corner of the cell belongs
to all cells that share it in equal parts, so such atoms fade out at the surface. A partly occupied
atom scatters with its mean amplitude: its self-scattering is weighted with the square of the
occupancy.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from threading import Lock
from typing import ClassVar

import gemmi
import numpy as np
from numba import njit

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .family import MAX_CELLS_ALONG_EDGE, Counting, NamedSizes, PairCounts
from .size_distributions import LogNormal, number_weights, whole_lengths
from .size_statistics import sphere_measures
from .size_weighting import Weighting, range_of
from .sphere_counting import (
    MAX_PAIRS,
    MAX_TABLE_BYTES,
    MergedPairs,
    merge_translations,
    rounded_up,
)
from .vector_groups import (
    Points,
    VectorGroups,
    groups_of,
    orbit_table,
    pairs_by_shell,
    representatives,
    vector_groups,
)

#: Vectors whose lengths (Å) differ by less have the same length.
SAME_LENGTH = 1e-6
#: An atom nearer to a face of the cell than this fraction of the edge lies on the face.
ON_FACE = 1e-4
#: Numbers of spheres are rounded up to powers of this, so that small changes of the size reuse the
#: pairs.
COUNTED_FURTHER = 1.2
#: Number of such counts that are kept in memory.
MOST_KEPT = 3
#: Pairs of atoms that are counted in the time of one operation on an element of a transform
#: (estimated, not measured).
PAIRS_PER_OPERATION = 2.0

Centre = tuple[float, float, float]


@dataclass(frozen=True)
class CellSpherePopulation(NamedSizes):
    """Spheres of whole primitive cells with a log-normal distribution of the diameter.

    `centre` (fractional) is that of a primitive cell, around which the others are arranged. Size
    parameters in nm; the distribution is truncated at `largest` nm, or at the limit of the model
    (within half a step of the diameters, see `whole_lengths`), and renormalised.
    """

    centre: Centre = (0.0, 0.0, 0.0)
    largest: float = np.inf
    parameters: ClassVar[Mapping[str, Kind]] = {"D": Kind.SIZE, "sd_D": Kind.SIZE_SD}
    isotropic: ClassVar[bool] = True
    whole_cells: ClassVar[bool] = False
    directed: ClassVar[bool] = False
    changes_with_cell: ClassVar[bool] = True

    def number_weights(
        self, crystal: Crystal, sizes: Mapping[str, float], stretch: float = 1.0
    ) -> tuple[FloatArray, FloatArray]:
        """The number weights (n,) of the spheres k = 1 ... n, and their diameters (n,) in nm."""
        distribution, step = LogNormal(sizes["D"], sizes["sd_D"]), stretch * step_of(crystal)
        limit = stretch * self.limit(crystal)
        end = min(distribution.end(dimensions=3) + step, self.largest, limit)
        diameters, counted = whole_lengths(step, end)
        return number_weights(distribution.log_density(diameters), counted), diameters

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        number, diameters = self.number_weights(crystal, sizes, stretch)
        if weighting is not None:
            number = number * weighting(diameters)
        counted = math.ceil(rounded_up(len(number), COUNTED_FURTHER))
        counted = min(counted, _largest(crystal, self.centre))
        spheres = _spheres(crystal, self.centre, counted, resources)
        number = np.pad(number, (0, len(spheres.pairs) - len(number)))
        return PairCounts(number @ spheres.pairs, number @ spheres.squares,
                          merge_translations(crystal), number @ spheres.occupancies, spheres.groups)

    def diameters(self, crystal: Crystal, sizes: Mapping[str, float]) -> tuple[float, float] | None:
        number, diameters = self.number_weights(crystal, sizes)
        return range_of(diameters, number)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        number, diameters = self.number_weights(crystal, sizes)
        mean = float(number @ diameters)
        largest = min(self.largest, self.limit(crystal))
        distribution = LogNormal(sizes["D"], sizes["sd_D"])
        return {
            "mean_D": mean, "sd_D": float(number @ (diameters - mean) ** 2) ** 0.5,
            "volume_mean_D": float(number @ diameters**4 / (number @ diameters**3)),
        } | sphere_measures(mean) | {
            "truncated_fraction": distribution.beyond(largest),
            "truncated_fraction_volume_squared": distribution.beyond(largest, power=6),
        }

    def limit(self, crystal: Crystal) -> float:
        return _largest(crystal, self.centre) * step_of(crystal)

    def counting(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> Counting | None:
        n_spheres = len(self.number_weights(crystal, sizes)[0])
        _, vectors, _ = _cost(crystal, self.centre, n_spheres)
        operations = len(crystal.stabiliser(np.array(self.centre)))
        groups = vectors / operations
        # pairs of cells, and for each group of vectors the cells that share its atoms
        once = float(n_spheres) ** 6 / (2 * operations) + 10 * groups
        return Counting(once, 0.0, groups, 8 * groups * n_spheres)

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        return {"sd_D": step_of(crystal)}

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        number, diameters = self.number_weights(crystal, sizes)
        return float(number @ diameters**3 * np.pi / 6 * 1e3 / crystal.cell.volume)


@dataclass(frozen=True)
class _Spheres:
    """The pairs of the spheres k = 1 ... n, by groups of vectors that have equal lengths by symmetry.

    The occupancies of each basis atom and their squares are summed over the cells of a particle.
    """

    pairs: FloatArray  # (n, n_groups)
    occupancies: FloatArray  # (n, n_atoms)
    squares: FloatArray  # (n, n_atoms)
    groups: VectorGroups


#: The spheres counted last, by crystal and centre.
_COUNTED: OrderedDict[tuple[Crystal, Centre], _Spheres] = OrderedDict()
_LOCK = Lock()


@dataclass(frozen=True)
class _Share:
    """A share of a basis atom: it belongs to the primitive cell whose centre lies at `offset`.

    The offset (3,) is a fractional lattice vector relative to the conventional cell of the atom.
    """

    atom: int
    offset: FloatArray
    share: float


@lru_cache(maxsize=32)
def step_of(crystal: Crystal) -> float:
    """The step (nm) of the diameters: that of a sphere with the volume of the primitive cell."""
    volume = crystal.cell.volume * abs(np.linalg.det(primitive_vectors(crystal)))
    return float((6 * volume / np.pi) ** (1 / 3)) / 10


@lru_cache(maxsize=32)
def primitive_vectors(crystal: Crystal) -> FloatArray:
    """The vectors of the standard primitive cell as columns, (3, 3) fractional.

    Raises ValueError for a centring other than A, B, C, I, F and R (obverse).
    """
    operations = gemmi.GroupOps([gemmi.Op(triplet) for triplet in crystal.operations])
    n_translations = sum(np.array_equal(op.rotation, np.eye(3)) for op in crystal.symmetry)
    centring = operations.find_centering()
    if centring in "PABCIFR":
        vectors = np.array(gemmi.UnitCell(1, 1, 1, 90, 90, 90).primitive_orth_matrix(centring).tolist())
        if round(1 / abs(np.linalg.det(vectors))) == n_translations:
            return vectors
    raise ValueError(
        f"the structure {crystal.name} has a non-standard centring, so its primitive cell is not "
        "defined. Use the conventional cell, or a primitive one, for particles of whole cells."
    )


@lru_cache(maxsize=32)
def _shares(crystal: Crystal, centre: Centre) -> tuple[_Share, ...]:
    """The shares of all atoms of the conventional cell in the primitive cells around `centre`."""
    # a centre near a special position is moved onto it
    fixing = crystal.stabiliser(np.array(centre))
    point = np.mean([op(np.array(centre)) + shift for op, shift in fixing], axis=0)
    vectors = primitive_vectors(crystal)
    found = []
    for atom, position in enumerate(crystal.positions() - point):
        inside = np.linalg.solve(vectors, position)
        inside -= np.round(inside)
        on_face = np.abs(np.abs(inside) - 0.5) < ON_FACE
        choices = [(-0.5, 0.5) if face else (value,)
                   for face, value in zip(on_face, inside, strict=True)]
        for choice in product(*choices):
            # lattice vectors have integer components along the primitive vectors
            whole = np.round(np.linalg.solve(vectors, position - vectors @ np.array(choice)))
            found.append(_Share(atom, vectors @ whole, 0.5 ** int(on_face.sum())))
    return tuple(found)


@lru_cache(maxsize=256)
def _reach(crystal: Crystal, centre: Centre, n_spheres: int) -> np.ndarray:
    """The largest cell (3,) along each axis with an atom of the sphere `n_spheres`."""
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.cell.matrix), axis=1)
    # the last shell may lie slightly beyond the radius of the sphere
    radius = 5 * step_of(crystal) * n_spheres + heights.max()
    offsets = np.abs([share.offset for share in _shares(crystal, centre)]).max(axis=0)
    return np.asarray(np.ceil(radius / heights + offsets), dtype=int)


@lru_cache(maxsize=32)
def _cost(crystal: Crystal, centre: Centre, n_spheres: int) -> tuple[float, float, float]:
    """Pairs that are counted in the same time, difference vectors, and bytes of the tables."""
    merged = merge_translations(crystal)
    n_atoms, n_classes = len(crystal.basis_atoms), len(merged.first)
    elements = np.prod(4.0 * _reach(crystal, centre, n_spheres) + 1 + 2 * np.abs(merged.shift).max())
    # transforms of about 20 operations for each element, and the products of the pairs
    operations = (20 * (n_atoms + n_classes) + n_atoms**2 / 2) * elements * (n_spheres / 4 + 1)
    vectors = np.pi / 6 * (20 * step_of(crystal) * n_spheres) ** 3 / crystal.cell.volume
    return (float(PAIRS_PER_OPERATION * operations), float(vectors * n_classes),
            float(8 * n_classes * elements))


@lru_cache(maxsize=32)
def _largest(crystal: Crystal, centre: Centre) -> int:
    """The largest sphere that the model can compute."""
    n = 1
    while True:
        pairs, _, size = _cost(crystal, centre, n + 1)
        cells = 2 * _reach(crystal, centre, n + 1).max()
        if pairs > MAX_PAIRS or size > MAX_TABLE_BYTES or cells > MAX_CELLS_ALONG_EDGE:
            return n
        n += 1


def _spheres(crystal: Crystal, centre: Centre, n_spheres: int, resources: Resources) -> _Spheres:
    """The pairs of at least the spheres k = 1 ... n_spheres, which are kept for other sizes."""
    with _LOCK:
        for (other, at), spheres in _COUNTED.items():
            if at == centre and other == crystal and len(spheres.pairs) >= n_spheres:
                _COUNTED.move_to_end((other, at))
                return spheres
        spheres = _count(crystal, centre, n_spheres, resources)
        _COUNTED[crystal, centre] = spheres
        while len(_COUNTED) > MOST_KEPT:
            _COUNTED.popitem(last=False)
    return spheres


def _count(crystal: Crystal, centre: Centre, n_spheres: int, resources: Resources) -> _Spheres:
    """Count the pairs of cells of all spheres, and from these the pairs of atoms.

    The number of pairs of atoms at a difference vector is the sum over the pairs of cells to which the
    two atoms belong, weighted by their shares.
    """
    cells = _pairs_of_cells(crystal, centre, n_spheres, resources)
    shares = _shares(crystal, centre)
    to_cells = np.round(np.linalg.inv(primitive_vectors(crystal))).astype(int)
    # an atom of the conventional cell occurs at only one of so many lattice vectors; it and its
    # translational equivalents together occur at all of them
    translations = round(float(abs(np.linalg.det(to_cells))))
    merged, site = merge_translations(crystal), crystal.site_of_atom
    offsets: list[np.ndarray] = []
    weights: list[FloatArray] = []
    for number, (first, second) in enumerate(zip(merged.first, merged.second, strict=True)):
        own: dict[tuple[int, ...], float] = {}
        for s, t in zip(*np.nonzero(merged.class_of_pair == number), strict=True):
            for a in (share for share in shares if share.atom == s):
                for b in (share for share in shares if share.atom == t):
                    shift = to_cells @ (b.offset - a.offset - merged.shift[s, t])
                    key = tuple(np.round(shift).astype(int).tolist())
                    own[key] = own.get(key, 0.0) + a.share * b.share
        offsets.append(np.array(list(own)))
        # pairs of one site are found from both of its atoms
        weights.append(np.array(list(own.values())) / translations
                       * (0.5 if site[first] == site[second] else 1.0))
    radius = 10 * step_of(crystal) * n_spheres + 2 * np.linalg.norm(crystal.cell.matrix, axis=0).sum()
    groups = vector_groups(crystal, float(radius))
    generic = crystal.generic_positions
    primitive = primitive_vectors(crystal)
    # the primitive cell, and with it the shares of atoms on its faces, has fewer symmetries
    rotations = [op.rotation for op, _ in crystal.stabiliser(np.array(centre))
                 if np.allclose(np.abs(to_cells @ op.rotation @ primitive).sum(axis=0), 1)]
    vectors = representatives(
        generic[merged.second] - generic[merged.first], crystal.cell.matrix, rotations,
        float(radius))
    number_of = groups_of(crystal, groups, vectors)
    pairs = np.zeros((len(groups), n_spheres))
    for number in range(len(merged.first)):
        chosen = (vectors.number == number) & (number_of >= 0) & (vectors.length > SAME_LENGTH)
        _add_pairs(vectors.cell[chosen] @ to_cells.T, number_of[chosen], vectors.orbit[chosen],
                   offsets[number], weights[number], cells.orbit, cells.products, pairs)
    occupancies, squares = np.zeros((2, n_spheres, len(crystal.basis_atoms)))
    for a in shares:
        occupancies[:, a.atom] += a.share / translations * np.arange(1.0, n_spheres + 1) ** 3
        for b in (share for share in shares if share.atom == a.atom):
            shift = np.round(to_cells @ (b.offset - a.offset)).astype(int)
            squares[:, a.atom] += a.share * b.share / translations * cells.at(shift[None])[0]
    return _Spheres(np.ascontiguousarray(pairs.T), occupancies, squares, groups)


@njit(cache=True, nogil=True)
def _add_pairs(  # type: ignore[no-untyped-def]
    cell, group, orbit, offsets, weights, orbit_of_vector, products, pairs
):
    """Add the pairs of atoms at difference vectors: those of the cells that share the atoms."""
    reach = np.array(orbit_of_vector.shape) // 2
    total = np.empty(pairs.shape[1])
    for n in range(len(cell)):
        total[:] = 0.0
        for k in range(len(weights)):
            u = cell[n, 0] + offsets[k, 0] + reach[0]
            v = cell[n, 1] + offsets[k, 1] + reach[1]
            w = cell[n, 2] + offsets[k, 2] + reach[2]
            if 0 <= u <= 2 * reach[0] and 0 <= v <= 2 * reach[1] and 0 <= w <= 2 * reach[2]:
                total += weights[k] * products[orbit_of_vector[u, v, w]]
        pairs[group[n]] += orbit[n] * total


@dataclass(frozen=True)
class _CellPairs:
    """The mean products (n_orbits + 1, n_spheres) of the occupancies of two cells, summed over cells.

    They depend on the lattice vector between the cells, in primitive vectors, through its `orbit`
    (2U+1, 2V+1, 2W+1); the last row is 0, for vectors that are too long.
    """

    products: FloatArray
    orbit: np.ndarray

    def at(self, vectors: np.ndarray) -> FloatArray:
        """The products (n, n_spheres) at lattice vectors (n, 3)."""
        reach = np.array(self.orbit.shape) // 2
        inside = (np.abs(vectors) <= reach).all(axis=1)
        index = np.where(inside[:, None], vectors + reach, 0)
        return self.products[np.where(inside, self.orbit[tuple(index.T)], -1)]


def _pairs_of_cells(
    crystal: Crystal, centre: Centre, n_spheres: int, resources: Resources
) -> _CellPairs:
    """The pairs of primitive cells of all spheres, by the orbits of lattice vectors."""
    vectors = primitive_vectors(crystal)
    matrix = crystal.cell.matrix @ vectors
    inverse = np.linalg.inv(vectors)
    fixing = [op.rotation for op, _ in crystal.stabiliser(np.array(centre))]
    rotations = list({tuple(np.round(inverse @ op @ vectors).astype(int).ravel()) for op in fixing})
    lengths, inside = _shells(crystal, n_spheres)
    radius = float(lengths[np.searchsorted(inside, n_spheres**3)]) + SAME_LENGTH
    cell = representatives(np.zeros((1, 3)), matrix, [np.eye(3)], radius)
    order = np.argsort(cell.length, kind="stable")
    points, shell = cell.cell[order], np.searchsorted(lengths, cell.length[order] - SAME_LENGTH)
    # shells that no sphere fills in part are counted together with their neighbours
    lasts = np.searchsorted(inside, np.arange(1, n_spheres + 1) ** 3)
    partly = np.unique(lasts)
    row_of_shell = 2 * np.searchsorted(partly, np.arange(len(lengths))) + np.isin(
        np.arange(len(lengths)), partly)
    own = representatives(np.zeros((1, 3)), matrix,
                          [np.array(entries).reshape(3, 3) for entries in rotations], radius)
    most = np.abs(points).max(axis=0)
    size_of = np.zeros(2 * most + 1)
    size_of[tuple((own.cell + most).T)] = own.orbit
    orbit = size_of[tuple((points + most).T)]
    reach = 2 * most
    table, n_orbits = orbit_table(np.array(rotations).reshape(-1, 3, 3), reach)
    lattice = MergedPairs(np.zeros((1, 1), dtype=int), np.zeros((1, 1, 3), dtype=int), np.zeros(1, dtype=int),
                          np.zeros(1, dtype=int))
    mixed, equal = pairs_by_shell(
        Points(points, np.zeros(len(points), dtype=int), shell, orbit, np.zeros((1, 3)), matrix,
               lengths[: shell[-1] + 1]),
        lattice, table[None], row_of_shell[: shell[-1] + 1], n_orbits, resources, separate=True)
    n_vectors = np.bincount(table.ravel(), minlength=n_orbits)
    below, next_row = np.zeros(n_orbits), 0
    products = np.zeros((n_orbits + 1, n_spheres))
    zero = int(table[tuple(reach)])
    for k in range(1, n_spheres + 1):
        last = int(lasts[k - 1])
        before = int(inside[last - 1]) if last else 0
        part = (k**3 - before) / (inside[last] - before)
        row = int(row_of_shell[last])
        for full in range(next_row, row):
            below += mixed[full] + equal[full]
        next_row = max(next_row, row)
        both = 2 * (below + part * mixed[row] + part**2 * equal[row])
        both[zero] = before + part**2 * (inside[last] - before)
        products[:-1, k - 1] = both / n_vectors
    return _CellPairs(products, table)


def _shells(crystal: Crystal, n_spheres: int) -> tuple[FloatArray, np.ndarray]:
    """The lengths (Å) of lattice vectors, and the number of vectors up to each length.

    They extend beyond the sphere `n_spheres`.
    """
    matrix = crystal.cell.matrix @ primitive_vectors(crystal)
    radius = 5 * step_of(crystal) * n_spheres + np.linalg.norm(matrix, axis=0).sum()
    lengths = np.sort(representatives(np.zeros((1, 3)), matrix, [np.eye(3)], float(radius)).length)
    last = np.append(np.flatnonzero(np.diff(lengths) > SAME_LENGTH), len(lengths) - 1)
    return lengths[last], last + 1
