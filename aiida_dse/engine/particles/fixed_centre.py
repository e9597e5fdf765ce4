"""Bodies around a point of the crystal, whose pairs are counted atom by atom.

An atom at the vector x from the centre belongs to all bodies of the family with at least the size
g(x), the gauge of x. Both atoms of a pair belong to the bodies from the larger of their two gauges on, so
that a pair counts with the fraction of the particles that are larger. This is exact for every
distribution of sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numba import njit

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.memo import Memo
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .family import Counting, PairCounts
from .random_centre import FURTHER, RandomCentre
from .size_distributions import Lengths, OneLength
from .size_weighting import WeightedLengths, Weighting
from .sphere_counting import atoms_of_sphere, merge_translations, rounded_up, special_centre
from .vector_groups import VectorGroups, group_table, vector_groups

#: Largest memory (bytes) of the table of groups, and largest number of pairs of atoms.
MOST_BYTES, MOST_PAIRS = 1e9, 5e9
#: Relative difference of gauges that is regarded as a rounding error.
SAME_SIZE = 1e-9


@runtime_checkable
class GaugedBody(Protocol):
    """A body with one length that is given by a gauge."""

    def gauge(self, vectors: FloatArray, others: Mapping[str, float]) -> FloatArray:
        """The length (n,) of the smallest body that contains the end of each vector (n, 3) from its centre, in nm."""
        ...

    def radius(self, length: float, others: Mapping[str, float]) -> float:
        """The largest distance (nm) of a point of the body with this length (nm) from its centre."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The atoms around the centre: their cells, basis atoms and vectors (nm), and the groups of their differences."""

    cell: np.ndarray
    atom: np.ndarray
    vectors: FloatArray
    groups: VectorGroups
    table: np.ndarray
    origin: np.ndarray  # where a pair of atoms in the same cell is in the table; -1: counted from the second atom
    strides: np.ndarray


@dataclass(frozen=True)
class FixedCentre(RandomCentre):
    """A population of bodies with one length around the point `centre` (fractional)."""

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    directed: ClassVar[bool] = False
    _atoms: Memo[Candidates] = field(default_factory=lambda: Memo(2), init=False, repr=False, compare=False)

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        if self.single:  # a body of one size keeps its atoms when the cell changes
            stretch = 1.0
        (length,), others = self.lengths(crystal, sizes, stretch).values(), self._others(sizes, stretch)
        assert isinstance(self.body, GaugedBody)
        # rounded, so that small changes of the size reuse the atoms
        end = rounded_up(length.end, FURTHER)
        found = self._atoms.get((crystal, end, tuple(others.items())), lambda: self._candidates(crystal, end, others))
        gauge = self.body.gauge(found.vectors, others)
        inside = np.flatnonzero(gauge <= length.end * (1 + SAME_SIZE))
        order = inside[np.argsort(gauge[inside], kind="stable")]
        if not len(order):
            raise ValueError(
                f"the largest body around the centre {list(self.centre)}, {length.end * stretch:.3g} nm, contains no "
                "atom. Increase its size, or move its centre.")
        share = self._share(length, gauge[order], stretch, others, weighting)
        atom, site = found.atom[order], crystal.site_of_atom
        place = found.cell[order] @ found.strides
        # the atoms of the largest bodies have the most pairs
        limits = np.unique(np.sqrt(np.linspace(0, 1, 8 * resources.threads + 1)) * len(order)).astype(np.int64)
        pairs = np.zeros(len(found.groups))

        def count(part: tuple[int, int]) -> FloatArray:
            own = np.zeros(len(found.groups))
            _count(part[0], part[1], atom, place, share, found.origin, found.table, own)
            return own

        for own in resources.ordered(count, list(zip(limits[:-1].tolist(), limits[1:].tolist(), strict=True))[::-1]):
            pairs += own
        atoms = np.bincount(atom, weights=share, minlength=len(site)).astype(float)
        return PairCounts(pairs, atoms, merge_translations(crystal), groups=found.groups)

    def _share(
        self, length: Lengths, gauge: FloatArray, stretch: float, others: Mapping[str, float],
        weighting: Weighting | None,
    ) -> FloatArray:
        """The fraction (n,) of the particles that contain atoms with these gauges (n,), in increasing order."""
        if isinstance(length, OneLength):
            return np.ones(len(gauge))
        if weighting is not None:
            length = WeightedLengths(length, weighting, stretch * self._diameter(others))
        return length.moment_beyond(0, gauge)

    def require_possible(self, crystal: Crystal, sizes: Mapping[str, float]) -> None:
        """Raise ValueError for bodies that are larger than can be computed."""
        (length,) = self.lengths(crystal, sizes).values()
        self._require_countable(crystal, length.end, self._others(sizes))

    def _require_countable(self, crystal: Crystal, end: float, others: Mapping[str, float]) -> None:
        volume = self.body.volume({name: OneLength(end) for name in self.body.powers}, others)
        if (number := (volume * 1e3 / crystal.cell.volume * len(crystal.basis_atoms)) ** 2 / 2) > MOST_PAIRS:
            raise ValueError(
                f"the largest bodies around a point, {end:.3g} nm, have {number:.1e} pairs of atoms; the limit is "
                f"{MOST_PAIRS:.0e}. Lower the size, or use the random centre (remove 'centre').")

    def _candidates(self, crystal: Crystal, end: float, others: Mapping[str, float]) -> Candidates:
        """The atoms of the body with the length `end` nm."""
        assert isinstance(self.body, GaugedBody)
        self._require_countable(crystal, end / FURTHER, others)
        atoms = atoms_of_sphere(crystal, self.centre, 10 * self.body.radius(end, others))
        point = special_centre(crystal, self.centre)
        vectors = (atoms.cell + crystal.positions()[atoms.atom] - point) @ crystal.cell.matrix.T / 10
        inside = self.body.gauge(vectors, others) <= end * (1 + SAME_SIZE)
        cell, atom, vectors = atoms.cell[inside], atoms.atom[inside], vectors[inside]
        if not len(atom):
            raise ValueError(
                f"the largest body around the centre {list(self.centre)}, {end:.3g} nm, contains no atom. Increase its "
                "size, or move its centre.")
        merged = merge_translations(crystal)
        reach = np.ptp(cell, axis=0) + int(np.abs(merged.shift).max())
        if 4.0 * len(merged.first) * np.prod(2.0 * reach + 1) > MOST_BYTES:
            raise ValueError(
                f"bodies of up to {end:.3g} nm around a point have too many difference vectors. Lower the size, or use "
                "the random centre (remove 'centre').")
        (name,) = self.body.powers
        groups = vector_groups(crystal, rounded_up(10 * self.body.extent({name: end}, others) * (1 + 1e-6), FURTHER))
        table = group_table(crystal, groups, reach)
        strides = np.array([table.shape[2] * table.shape[3], table.shape[3], 1])
        origin = np.where(merged.class_of_pair >= 0, merged.class_of_pair * table[0].size
                          + (merged.shift + np.array(table.shape[1:]) // 2) @ strides, -1)
        return Candidates(cell, atom, vectors, groups, table.ravel(), origin, strides)

    def counting(self, crystal: Crystal, sizes: Mapping[str, float]) -> Counting | None:
        (length,) = self.lengths(crystal, sizes).values()
        volume = self.body.volume({name: OneLength(length.end) for name in self.body.powers}, self._others(sizes))
        pairs = (volume * 1e3 / crystal.cell.volume * len(crystal.basis_atoms)) ** 2 / 2
        return Counting(0.0, pairs, pairs / 50, min(MOST_BYTES, 4 * pairs))


@njit(cache=True, nogil=True)
def _count(begin, end, atom, place, share, origin, table, pairs):  # type: ignore[no-untyped-def]
    """Add the pairs of the atoms begin ... end - 1 with all atoms before them, which have smaller gauges."""
    for i in range(begin, end):
        s, at, weight = atom[i], place[i], share[i]
        for k in range(i):
            t = atom[k]
            forward = origin[s, t] >= 0
            pairs[table[origin[s, t] - at + place[k] if forward else origin[t, s] + at - place[k]]] += weight
