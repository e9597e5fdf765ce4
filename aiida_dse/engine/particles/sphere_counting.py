"""Pair counts of spheres, reduced by the point symmetry of their centre.

C_st(u) of a sphere has no closed form. Every atom pair of the largest sphere is counted once with
integer arithmetic, and only for one atom of each orbit of the point group of the centre: rock salt
needs 1/48 of the pairs. In a population, the weight of a pair is the fraction of particles large
enough to contain its outer atom, which makes the size distribution continuous. The distribution is
truncated at the largest sphere and renormalised, so the weight of an atom starts from zero when the
largest sphere reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.resources import Resources
from aiida_dse.engine.units import FloatArray

from .size_distributions import LogNormal

#: Largest pair tables (bytes) and number of counted pairs of spheres. These are limits of the model,
#: the same on every computer; 2e10 pairs take about a minute on two cores.
MAX_TABLE_BYTES = 2e9
MAX_PAIRS = 2e10


@dataclass(frozen=True)
class MergedPairs:
    """Ordered pairs of basis atoms (s, t), grouped by their difference vector modulo the lattice.

    A pair at lattice difference u belongs to the class `class_of_pair[s, t]` (-1: counted from t)
    at the difference `u + shift[s, t]`. `first` and `second` (n_classes,) are one pair of each
    class, with shift 0.
    """

    class_of_pair: np.ndarray
    shift: np.ndarray
    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class SphereAtoms:
    """The atoms of a sphere, innermost first.

    `orbit` (n,) is the size of an orbit under the point group of the centre for the one atom that
    represents the orbit, and 0 for the others.
    """

    cell: np.ndarray  # (n, 3)
    atom: np.ndarray  # (n,) index of the basis atom
    radius: FloatArray  # (n,) Å
    orbit: FloatArray


def count_sphere_pairs(
    crystal: Crystal,
    centre: tuple[float, float, float],
    diameter: float,
    distribution: LogNormal | None,
    resources: Resources,
) -> tuple[FloatArray, MergedPairs, FloatArray]:
    """The tables C(u) of each class of pairs, the classes, and the atom counts per particle.

    `diameter` (nm) is that of the largest sphere, where the distribution
    ends; `distribution` is None for one sphere of that diameter. Threads count into different parts
    of the same tables, so the counts do not depend on the number of threads. Raises ValueError
    where the sphere contains no atom, or the tables are larger than MAX_TABLE_BYTES.
    """
    # rounded radii let small steps in size reuse the atoms; beyond the end their weight is zero
    outer, inner = (1.1, 1.02) if distribution else (1.0, 1.0)
    atoms = atoms_of_sphere(crystal, centre, rounded_up(diameter * 5, outer))
    merged = merge_translations(crystal)
    atoms = _within(atoms, rounded_up(diameter * 5, inner))
    fraction = np.ones(len(atoms.radius)) if distribution is None else distribution.fraction_beyond(
        atoms.radius / 5, end=diameter)
    low = atoms.cell.min(axis=0)
    box = np.ptp(atoms.cell, axis=0) + 1
    n_atoms = len(crystal.basis_atoms)
    fractions = np.zeros((n_atoms, *box))
    at = atoms.cell - low
    fractions[atoms.atom, at[:, 0], at[:, 1], at[:, 2]] = fraction
    reach = box - 1 + np.abs(merged.shift).max()
    shape = (len(merged.first), *(2 * reach + 1))
    size = 8.0 * np.prod([float(n) for n in shape])
    if size > MAX_TABLE_BYTES:
        raise ValueError(
            f"spheres up to {diameter:.1f} nm need {size / 1e9:.1f} GB of pair tables; the limit "
            f"is {MAX_TABLE_BYTES / 1e9:.0f} GB. Use smaller spheres."
        )
    chosen = np.flatnonzero((atoms.orbit > 0) & (fraction > 0))
    filled = fractions > 0
    first = np.argmax(filled, axis=3)
    end = np.where(filled.any(axis=3), box[2] - np.argmax(filled[..., ::-1], axis=3), 0)
    tables = np.zeros(shape)
    slabs = np.array_split(
        np.arange(shape[1]), max(1, min(shape[1], -(-4 * resources.threads // shape[0]))))

    own_cell, own_atom, own_fraction = at[chosen], atoms.atom[chosen], fraction[chosen]
    own_orbit = atoms.orbit[chosen]

    def count(part: tuple[int, np.ndarray]) -> None:
        pair_class, slab = part
        _count_pairs(
            own_cell, own_atom, own_orbit, own_fraction, fractions, first, end,
            crystal.site_of_atom, merged.class_of_pair, pair_class, merged.shift, reach,
            slab[0], slab[-1], tables[pair_class],
        )

    parts = [(pair_class, slab) for pair_class in range(shape[0]) for slab in slabs]
    for _ in resources.ordered(count, parts):
        pass
    per_particle = np.bincount(atoms.atom, weights=fraction, minlength=n_atoms).astype(float)
    return tables, merged, per_particle


def rounded_up(radius: float, base: float) -> float:
    """The radius rounded up to a power of the base; the radius itself for base 1."""
    return radius if base == 1 else float(base ** np.ceil(np.log(radius) / np.log(base)))


def _within(atoms: SphereAtoms, radius: float) -> SphereAtoms:
    """The atoms within a radius (Å)."""
    n = int(np.searchsorted(atoms.radius, radius * (1 + 1e-9), side="right"))
    return SphereAtoms(atoms.cell[:n], atoms.atom[:n], atoms.radius[:n], atoms.orbit[:n])


@njit(cache=True, nogil=True, fastmath=True)
def _count_pairs(  # type: ignore[no-untyped-def]
    cell, atom, orbit, fraction, fractions, first, end, site, class_of_pair, wanted, shift, reach, low,
    high, table,
):
    """Count the pairs of one class, `wanted`, into the rows low ... high of its table.

    The weight of a pair is the fraction of particles that contain its outer atom, the smaller of
    two fractions. Along z, the atoms t of the cells (x, y) extend from first[t, x, y] to end[t, x,
    y].
    """
    for i in range(len(atom)):
        s = atom[i]
        own = fraction[i]
        for t in range(len(fractions)):
            if class_of_pair[s, t] != wanted:
                continue
            weight = orbit[i] * (0.5 if site[s] == site[t] else 1.0)
            to_u = shift[s, t, 0] + reach[0] - cell[i, 0]
            for x in range(max(0, low - to_u), min(fractions.shape[1], high + 1 - to_u)):
                u = x + to_u
                for y in range(fractions.shape[2]):
                    v = y - cell[i, 1] + shift[s, t, 1] + reach[1]
                    start = first[t, x, y] + shift[s, t, 2] + reach[2] - cell[i, 2]
                    line = fractions[t, x, y, first[t, x, y] : end[t, x, y]]
                    row = table[u, v, start : start + len(line)]
                    for z in range(len(line)):
                        row[z] += weight * min(own, line[z])


def special_centre(crystal: Crystal, centre: tuple[float, float, float]) -> FloatArray:
    """The centre (3,) of spheres; one near a special position is moved onto it."""
    fixing = crystal.stabiliser(np.array(centre))
    return np.asarray(np.mean([op(np.array(centre)) + shift for op, shift in fixing], axis=0))


@lru_cache(maxsize=8)
def atoms_of_sphere(
    crystal: Crystal, centre: tuple[float, float, float], radius: float
) -> SphereAtoms:
    point = special_centre(crystal, centre)
    matrix = crystal.cell.matrix
    heights = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=1)
    reach = np.ceil(radius / heights + 1).astype(int)
    axes = [np.arange(-n - 1, n + 2) + int(np.floor(c)) for n, c in zip(reach, point, strict=True)]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    rows: list[tuple[np.ndarray, np.ndarray, FloatArray]] = []
    for index, position in enumerate(crystal.positions()):
        vectors = (cells + position - point) @ matrix.T
        inside = np.einsum("ij,ij->i", vectors, vectors) <= (radius * (1 + 1e-9)) ** 2
        rows.append((cells[inside], np.full(int(inside.sum()), index), vectors[inside]))
    cell, atom, vectors = (np.concatenate(part) for part in zip(*rows, strict=True))
    if not len(atom):
        raise ValueError(
            f"the sphere of {radius / 5:g} nm around {centre} contains no atom. Increase its "
            "diameter, or move its centre."
        )
    lengths = np.linalg.norm(vectors, axis=1)
    order = np.argsort(lengths, kind="stable")
    orbit = _orbit_sizes(crystal, point, vectors[order])
    if abs(orbit.sum() - len(order)) > 0.5:
        # the orbits are incomplete, because the symmetry is only approximate: use every atom
        orbit = np.ones(len(order))
    return SphereAtoms(cell[order], atom[order], lengths[order], orbit)


def _orbit_sizes(crystal: Crystal, centre: FloatArray, vectors: FloatArray) -> FloatArray:
    """The size of the orbit for atoms that represent one, and 0 for all others.

    The atom that lies furthest along a generic direction represents its orbit.
    """
    matrix = crystal.cell.matrix
    inverse = np.linalg.inv(matrix)
    unique = {
        tuple(np.round(matrix @ op.rotation @ inverse, 9).ravel())
        for op, _ in crystal.stabiliser(centre)
    }
    rotations = np.array(sorted(unique)).reshape(-1, 3, 3)
    orbit = np.empty(len(vectors))
    _fill_orbits(vectors, rotations, np.array([1.0, np.pi / 5, np.e / 9]), orbit)
    return orbit


@njit(cache=True, nogil=True)
def _fill_orbits(vectors, rotations, direction, orbit):  # type: ignore[no-untyped-def]
    for n in range(len(vectors)):
        x, y, z = vectors[n]
        own = x * direction[0] + y * direction[1] + z * direction[2]
        fixed = 0
        for r in rotations:
            a = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z
            b = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z
            c = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z
            if a * direction[0] + b * direction[1] + c * direction[2] > own + 1e-6:
                fixed = 0
                break
            if max(abs(a - x), abs(b - y), abs(c - z)) < 1e-4:
                fixed += 1
        orbit[n] = len(rotations) / fixed if fixed else 0.0


def sphere_cost(
    crystal: Crystal, centre: tuple[float, float, float], diameter: float
) -> tuple[float, float, float]:
    """Pairs to count, difference vectors, and bytes of the tables of spheres up to `diameter` nm."""
    merged = merge_translations(crystal)
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.cell.matrix), axis=1)
    reach = 10 * diameter * 1.02 / heights + 3 + np.abs(merged.shift).max()
    operations = {op.rotation.tobytes() for op, _ in crystal.stabiliser(np.array(centre))}
    volume = np.pi / 6 * (10 * diameter) ** 3 / crystal.cell.volume
    pairs = (len(crystal.basis_atoms) * volume) ** 2 / len(operations)
    n_classes = len(merged.first)
    return float(pairs), float(8 * volume * n_classes), float(
        8 * n_classes * np.prod(2 * reach + 1))


@lru_cache(maxsize=32)
def largest_sphere(crystal: Crystal, centre: tuple[float, float, float]) -> float:
    """The diameter (nm) of the largest sphere of a crystal that the model can compute.

    It is limited by MAX_TABLE_BYTES and MAX_PAIRS.
    """
    low, high = 0.0, 1e3
    while high - low > 1e-3:
        middle = (low + high) / 2
        pairs, _, size = sphere_cost(crystal, centre, middle)
        possible = size <= MAX_TABLE_BYTES and pairs <= MAX_PAIRS
        low, high = (middle, high) if possible else (low, middle)
    return low


@lru_cache(maxsize=32)
def merge_translations(crystal: Crystal) -> MergedPairs:
    """The classes of pairs of a crystal.

    They are those of positions that are displaced at random along the free coordinates, where
    difference vectors agree by symmetry only.
    """
    generic = crystal.generic_positions
    n_atoms = len(generic)
    class_of_pair = np.full((n_atoms, n_atoms), -1, dtype=np.int64)
    shift = np.zeros((n_atoms, n_atoms, 3), dtype=np.int64)
    known: dict[tuple[object, ...], tuple[int, FloatArray]] = {}
    pairs: list[tuple[int, int]] = []
    site = crystal.site_of_atom
    for i in range(n_atoms):
        for j in range(n_atoms):
            # pairs of different sites are counted from the first site, those of one site twice
            if site[i] > site[j]:
                continue
            difference = generic[j] - generic[i]
            rest = np.round(difference - np.floor(difference + 1e-7), 6)
            key = (int(site[i]), int(site[j]), *rest)
            if key not in known:
                known[key] = (len(pairs), difference)
                pairs.append((i, j))
            index, reference = known[key]
            class_of_pair[i, j] = index
            shift[i, j] = np.round(difference - reference)
    return MergedPairs(
        class_of_pair, shift,
        np.array([i for i, _ in pairs]), np.array([j for _, j in pairs]),
    )
