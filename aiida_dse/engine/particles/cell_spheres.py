"""Spheres of whole primitive cells around a point of the crystal, as in DebUsSy.

The k-th sphere has k^3 primitive cells and the diameter of a sphere of that volume. The cells are
those whose centres are nearest to the centre of the particle; the last shell of cells at one
distance is occupied evenly, and in part. An atom on a face, an edge or a corner of the cell belongs
to all cells that share it in equal parts, so such atoms fade out at the surface. A partly occupied
atom scatters with its mean amplitude: its self-scattering is weighted with the square of the
occupancy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from threading import Lock
from typing import ClassVar

import gemmi
import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .family import MAX_CELLS_ALONG_EDGE, PairCounts
from .size_distributions import LogNormal, number_weights, whole_lengths
from .size_statistics import sphere_measures
from .sphere_counting import MAX_PAIRS, MAX_TABLE_BYTES, MergedPairs, merge_translations

#: Vectors whose lengths (Å) differ by less have the same length.
SAME_LENGTH = 1e-6
#: An atom nearer to a face of the cell than this fraction of the edge lies on the face.
ON_FACE = 1e-4
#: Spheres are counted in steps of this number, so that small changes of the size reuse the pairs.
COUNTED_TOGETHER = 4
#: Number of such counts that are kept in memory.
MOST_KEPT = 6
#: Pairs of atoms that are counted in the time of one operation on an element of a transform
#: (estimated, not measured).
PAIRS_PER_OPERATION = 2.0

Centre = tuple[float, float, float]


@dataclass(frozen=True)
class CellSpherePopulation:
    """Spheres of whole primitive cells with a log-normal distribution of the diameter.

    `centre` (fractional) is that of a primitive cell, around which the others are arranged. Size
    parameters in nm; the distribution is truncated at `largest` nm, or at the limit of the model
    (within half a step of the diameters, see `whole_lengths`), and renormalised.
    """

    centre: Centre = (0.0, 0.0, 0.0)
    largest: float = np.inf
    parameters: ClassVar[Mapping[str, Kind]] = {"D": Kind.SIZE, "sd_D": Kind.SIZE_SD}
    isotropic: ClassVar[bool] = True

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
        stretch: float = 1.0,
    ) -> PairCounts:
        number, _ = self.number_weights(crystal, sizes, stretch)
        steps = -(-len(number) // COUNTED_TOGETHER)
        counted = min(COUNTED_TOGETHER * steps, _largest(crystal, self.centre))
        spheres = _spheres(crystal, self.centre, counted, resources)
        number = np.pad(number, (0, len(spheres.pairs) - len(number)))
        tables = (number @ spheres.pairs / spheres.groups.n_vectors)[spheres.groups.of_vector]
        return PairCounts(tables, number @ spheres.squares, spheres.merged,
                          number @ spheres.occupancies)

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
    ) -> tuple[float, float, float] | None:
        return _cost(crystal, self.centre, len(self.number_weights(crystal, sizes)[0]))

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
    groups: _Groups
    merged: MergedPairs


@dataclass(frozen=True)
class _Groups:
    """Groups of difference vectors of the same two sites that have equal lengths by symmetry.

    `of_vector` (n_classes, 2U+1, 2V+1, 2W+1) is the group of each vector, `n_vectors` (n_groups,)
    the number of vectors in each. `lengths` holds, for every two sites, the lengths of their groups
    in increasing order.
    """

    of_vector: np.ndarray
    n_vectors: FloatArray
    lengths: dict[tuple[int, int], FloatArray]

    def of_lengths(self, other: dict[tuple[int, int], FloatArray]) -> np.ndarray:
        """The groups (n,) that have the lengths of `other` groups, of a smaller box."""
        found, offset = [], 0
        for sites, lengths in self.lengths.items():
            found.append(offset + np.searchsorted(lengths, other[sites] - SAME_LENGTH / 2))
            offset += len(lengths)
        return np.concatenate(found)


#: The spheres counted last, by crystal, centre and number of spheres.
_COUNTED: OrderedDict[tuple[Crystal, Centre, int], _Spheres] = OrderedDict()
_LOCK = Lock()


@dataclass(frozen=True)
class _Share:
    """A share of a basis atom: it belongs to the primitive cell whose centre lies at `offset`.

    The offset (3,) is a fractional lattice vector relative to the conventional cell of the atom.
    """

    atom: int
    offset: FloatArray
    share: float


def step_of(crystal: Crystal) -> float:
    """The step (nm) of the diameters: that of a sphere with the volume of the primitive cell."""
    volume = crystal.cell.volume * abs(np.linalg.det(primitive_vectors(crystal)))
    return float((6 * volume / np.pi) ** (1 / 3)) / 10


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
    """The pairs of the spheres k = 1 ... n_spheres. Spheres counted before are not counted again."""
    with _LOCK:
        counted = {n: spheres for (other, at, n), spheres in _COUNTED.items()
                   if at == centre and other == crystal}
    if n_spheres not in counted:
        most = counted[max(counted)] if counted else None
        counted[n_spheres] = _count(crystal, centre, n_spheres, most, resources)
        with _LOCK:
            _COUNTED[crystal, centre, n_spheres] = counted[n_spheres]
            while len(_COUNTED) > MOST_KEPT:
                _COUNTED.popitem(last=False)
    return counted[n_spheres]


def _count(
    crystal: Crystal, centre: Centre, n_spheres: int, counted: _Spheres | None,
    resources: Resources,
) -> _Spheres:
    """Count the pairs of the spheres that are not `counted` yet by Fourier transforms."""
    merged = merge_translations(crystal)
    n_atoms, n_classes = len(crystal.basis_atoms), len(merged.first)
    reach = _reach(crystal, centre, n_spheres)
    from scipy.fft import irfftn, next_fast_len, rfftn  # slow to load; other shapes do not need it

    shells, inside = _shells(crystal, reach)
    shell_of_share = _shell_of_shares(crystal, centre, reach, shells)
    beyond = int(np.abs(merged.shift).max())
    groups = _groups(crystal, merged, 2 * reach + beyond)
    n_groups = len(groups.n_vectors)
    pairs = np.zeros((n_spheres, n_groups))
    occupancies, squares = np.zeros((2, n_spheres, n_atoms))
    site = crystal.site_of_atom
    known = 0
    if counted is not None:
        known = min(len(counted.pairs), n_spheres)
        if known == n_spheres:
            pairs[:] = counted.pairs[:known, counted.groups.of_lengths(groups.lengths)]
        else:
            pairs[:known, groups.of_lengths(counted.groups.lengths)] = counted.pairs
        occupancies[:known], squares[:known] = counted.occupancies[:known], counted.squares[:known]
    for k in range(known + 1, n_spheres + 1):
        last = int(np.searchsorted(inside, k**3))
        before = inside[last - 1] if last else 0
        occupied = np.zeros(len(shells) + 1)
        occupied[:last] = 1.0
        occupied[last] = (k**3 - before) / (inside[last] - before)
        within = np.minimum(reach, _reach(crystal, centre, k))
        box = tuple(slice(r - w, r + w + 1) for r, w in zip(reach, within, strict=True))
        fractions = np.zeros((n_atoms, *(2 * within + 1)))
        for share, shell in zip(_shares(crystal, centre), shell_of_share, strict=True):
            fractions[share.atom] += share.share * occupied[shell[box]]
        occupancies[k - 1] = fractions.sum(axis=(1, 2, 3))
        squares[k - 1] = (fractions**2).sum(axis=(1, 2, 3))

        end = 2 * within + beyond
        size = [next_fast_len(int(2 * n + 1), real=True) for n in end]
        waves = rfftn(fractions, size, axes=(1, 2, 3), workers=resources.threads)
        at = np.ix_(*(np.arange(-n, n + 1) for n in end))
        own = tuple(slice(full - n, full + n + 1)
                    for full, n in zip(2 * reach + beyond, end, strict=True))
        ramps = {tuple(shift): _ramp(shift, size)
                 for shift in np.unique(merged.shift.reshape(-1, 3), axis=0)}
        for number in range(n_classes):
            spectrum = np.zeros(waves.shape[1:], dtype=complex)
            for s, t in zip(*np.nonzero(merged.class_of_pair == number), strict=True):
                spectrum += np.conj(waves[s]) * waves[t] * ramps[tuple(merged.shift[s, t])]
            counts = irfftn(spectrum, size, workers=resources.threads)[at]
            counts[np.abs(counts) < 1e-7] = 0.0  # rounding of the transform
            weight = 0.5 if site[merged.first[number]] == site[merged.second[number]] else 1.0
            pairs[k - 1] += weight * np.bincount(
                groups.of_vector[number][own].ravel(), counts.ravel(), minlength=n_groups)
    return _Spheres(pairs, occupancies, squares, groups, merged)


def _ramp(shift: np.ndarray, size: list[int]) -> np.ndarray | float:
    """The factor of a spectrum that moves its function by `shift` elements."""
    if not shift.any():
        return 1.0
    axes = [np.exp(-2j * np.pi * np.arange(n if axis < 2 else n // 2 + 1) * shift[axis] / n)
            for axis, n in enumerate(size)]
    return np.asarray(axes[0][:, None, None] * axes[1][:, None] * axes[2])


def _shells(crystal: Crystal, reach: np.ndarray) -> tuple[FloatArray, np.ndarray]:
    """The lengths (Å) of lattice vectors, and the number of vectors up to each length."""
    vectors = primitive_vectors(crystal)
    most = np.ceil(np.abs(np.linalg.inv(vectors)) @ (reach + 1.0)).astype(int)
    n = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij"), axis=-1)
    lengths = np.sort(np.linalg.norm(n.reshape(-1, 3) @ (crystal.cell.matrix @ vectors).T, axis=1))
    last = np.append(np.flatnonzero(np.diff(lengths) > SAME_LENGTH), len(lengths) - 1)
    return lengths[last], last + 1


def _shell_of_shares(
    crystal: Crystal, centre: Centre, reach: np.ndarray, shells: FloatArray
) -> list[np.ndarray]:
    """For each share of an atom, the shell (2U+1, 2V+1, 2W+1) of its primitive cell."""
    cells = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1)
    bounds = (shells[1:] + shells[:-1]) / 2
    return [np.searchsorted(bounds, np.linalg.norm((cells + share.offset) @ crystal.cell.matrix.T,
                                                   axis=-1))
            for share in _shares(crystal, centre)]


def _groups(crystal: Crystal, merged: MergedPairs, reach: np.ndarray) -> _Groups:
    """The groups of difference vectors up to `reach` (3,) cells along each axis.

    The Debye equation depends on the lengths only, so the pairs of a group may be distributed evenly
    over its vectors. The lengths are those of a cell and of positions with displaced free
    parameters.
    """
    changes = zip(crystal.free_cell_parameters, (1.013, 0.987, 1.031, 1.007, 0.993, 1.017), strict=False)
    cell = crystal.with_cell(**{
        name: factor * getattr(crystal.cell, name) for name, factor in changes}).cell
    u = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1)
    generic, site = crystal.generic_positions, crystal.site_of_atom
    of_vector = np.empty((len(merged.first), *u.shape[:-1]), dtype=np.int32)
    n_vectors: list[FloatArray] = []
    lengths_of: dict[tuple[int, int], FloatArray] = {}
    offset = 0
    sites = [(int(site[i]), int(site[j])) for i, j in zip(merged.first, merged.second, strict=True)]
    for two in sorted(set(sites)):
        classes = [number for number, these in enumerate(sites) if these == two]
        lengths = np.array([
            np.linalg.norm((u + generic[merged.second[n]] - generic[merged.first[n]]) @ cell.matrix.T,
                           axis=-1)
            for n in classes])
        order = np.argsort(lengths, axis=None, kind="stable")
        new = np.diff(lengths.ravel()[order], prepend=-1.0) > SAME_LENGTH
        numbers = np.empty(lengths.size, dtype=np.int32)
        numbers[order] = np.cumsum(new) - 1
        of_vector[classes] = offset + numbers.reshape(lengths.shape)
        n_vectors.append(np.bincount(numbers).astype(float))
        lengths_of[two] = lengths.ravel()[order][new]
        offset += len(n_vectors[-1])
    return _Groups(of_vector, np.concatenate(n_vectors), lengths_of)
