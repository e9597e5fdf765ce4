"""Translation variants of an ordered structure: domains shifted by vectors of a finer lattice.

A structure that orders on a finer lattice (the pseudo-cubic lattice of a tilted perovskite) has
variants: copies shifted by vectors of the finer lattice that are not lattice vectors of the structure. The shifts,
modulo the lattice, form a finite abelian group. All variants share the average positions of the atoms;
they differ in the displacements from these, such as the sense of the tilts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Protocol

import numpy as np

from aiida_dse.engine.units import FloatArray

from .structure import BasisAtom, Crystal

#: Largest distance (Å) between an atom and the shifted atom that takes its place in another variant.
LARGEST_SHIFT = 1.5
#: The cost (Å^2) of an atom of another ion in the place of an atom.
LARGEST_COST = 1e9
#: Largest number of variants.
MOST_VARIANTS = 64
#: An atom belongs to the cell of the finer lattice in which its average position lies, if the cell begins
#: this far (in cells) before the lattice point.
BEFORE = 0.25


Axes = tuple[tuple[float, float, float], ...]


class Ordering(Protocol):
    """Alternative positions of the atoms of a crystal, numbered by the elements of an abelian group."""

    @property
    def crystal(self) -> Crystal: ...

    @property
    def lattice(self) -> np.ndarray:
        """The edges of the unit cell in vectors of the parent lattice, as rows (3, 3)."""
        ...

    @property
    def elements(self) -> np.ndarray:
        """The elements (n, k) of the group; the first is 0."""
        ...

    def element_of(self, shift: np.ndarray) -> int:
        """The number of an element (k,), or of a sum or difference of elements."""
        ...

    @property
    def characters(self) -> np.ndarray:
        """The values (n_characters, n) of the characters of the group, complex."""
        ...

    @property
    def sites(self) -> np.ndarray:
        """The site (n, n_atoms) of each atom."""
        ...

    def positions(self, site_positions: FloatArray, values: Mapping[str, float]) -> FloatArray:
        """The fractional positions (n, n_atoms, 3), of sites at (n_sites, 3) and local parameter values."""
        ...

    @property
    def generic_positions(self) -> FloatArray:
        """Positions (n, n_atoms, 3) whose differences agree by symmetry only."""
        ...

    @property
    def cells(self) -> np.ndarray:
        """The cell (n_atoms, 3) of the parent lattice to which each basis atom belongs."""
        ...

    @property
    def members(self) -> np.ndarray:
        """Numbers (n_atoms,), equal for basis atoms whose alternatives are correlated."""
        ...


def whole_cells(axes: Axes) -> np.ndarray:
    """The edges of the unit cell in vectors of the parent lattice, as rows (3, 3).

    Raises ValueError if the vectors lie in one plane, or the cell does not consist of whole cells of the
    parent lattice.
    """
    matrix = np.array(axes, dtype=float)
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise ValueError(f"the vectors {_shown(axes)} of the parent lattice lie in one plane. Specify vectors that "
                         "are not coplanar.")
    inverse = np.linalg.inv(matrix)
    whole = np.round(inverse)
    if np.abs(whole - inverse).max() > 1e-6:
        raise ValueError(
            f"the unit cell does not consist of whole cells of the parent lattice {_shown(axes)}. Specify vectors "
            "of which the edges of the cell are integer combinations.")
    return np.asarray(whole, dtype=np.int64)


@dataclass(frozen=True)
class Variants:
    """The variants of a crystal on a finer lattice.

    `axes` (3, 3) are the vectors of the finer lattice as rows, in fractional coordinates of the crystal.
    Raises ValueError if the lattice of the crystal is no sublattice of it, if there is only one variant,
    or if the shifted atoms do not take the places of others.
    """

    crystal: Crystal
    axes: Axes

    def __post_init__(self) -> None:
        n = round(abs(float(np.linalg.det(self.lattice))))
        if not 1 < n <= MOST_VARIANTS:
            raise ValueError(
                f"the parent lattice {_shown(self.axes)} has {n} cells in the unit cell, and so many variants; from 2 "
                f"to {MOST_VARIANTS} are possible.")
        self.atoms  # noqa: B018 - raises if atoms have no partner

    @cached_property
    def lattice(self) -> np.ndarray:
        """The edges of the unit cell in vectors of the finer lattice, as rows (3, 3)."""
        return whole_cells(self.axes)

    @cached_property
    def elements(self) -> np.ndarray:
        """One shift (n, 3) of each variant in vectors of the finer lattice; the first is 0."""
        found: list[tuple[int, ...]] = []
        seen: set[tuple[int, ...]] = set()
        reach = int(np.abs(self.lattice).sum(axis=0).max())
        for shift in sorted(product(range(reach + 1), repeat=3), key=lambda one: (sum(one), one)):
            key = self._class_key(np.array(shift))
            if key not in seen:
                seen.add(key)
                found.append(shift)
        return np.array(found)

    def _class_key(self, shift: np.ndarray) -> tuple[int, ...]:
        """Equal for shifts that differ by a lattice vector of the crystal."""
        n = round(abs(float(np.linalg.det(self.lattice))))
        inside = np.linalg.solve(self.lattice.T.astype(float), shift)
        return tuple((np.round(n * (inside - np.floor(inside + 1e-9))).astype(int) % n).tolist())

    def element_of(self, shift: np.ndarray) -> int:
        """The variant of a shift in vectors of the finer lattice."""
        return self._numbers[self._class_key(shift)]

    @cached_property
    def _numbers(self) -> dict[tuple[int, ...], int]:
        return {self._class_key(shift): k for k, shift in enumerate(self.elements)}

    @cached_property
    def wave_vectors(self) -> FloatArray:
        """The wave vectors (n, 3) of the characters, in reciprocal vectors of the finer lattice; the first is 0.

        They are those of the superstructure reflections: the character of a shift s is exp(2 pi i k.s).
        """
        inverse = np.linalg.inv(self.lattice.astype(float))
        n = round(abs(float(np.linalg.det(self.lattice))))
        found = {tuple((np.round(n * inverse @ np.array(m)).astype(int) % n).tolist())
                 for m in product(range(n), repeat=3)}
        return np.array(sorted(found)) / n

    @cached_property
    def characters(self) -> np.ndarray:
        """The values (n_characters, n_variants) of the characters, complex."""
        return np.asarray(np.exp(2j * np.pi * self.wave_vectors @ self.elements.T))

    @cached_property
    def atoms(self) -> tuple[tuple[BasisAtom, ...], ...]:
        """The atom that takes the place of each basis atom, by variant and basis atom.

        It is an image of a site like any other, shifted onto the place.
        """
        shifts = self.elements @ np.array(self.axes)
        return tuple(self._partners(shift) for shift in shifts)

    def _partners(self, shift: FloatArray) -> tuple[BasisAtom, ...]:
        """The images of the atoms that take the places of the basis atoms if the crystal is shifted by -`shift`.

        Each atom takes one place, such that the sum of the squared distances is the smallest.
        """
        from scipy.optimize import linear_sum_assignment  # slow to load; only boundaries need it

        crystal, positions = self.crystal, self.crystal.positions()
        difference = positions - positions[:, None] - shift
        cell = np.round(difference)
        lengths = np.linalg.norm((difference - cell) @ crystal.cell.matrix.T, axis=2)
        ions = np.array([crystal.sites[atom.site].ion for atom in crystal.basis_atoms])
        places, taken = linear_sum_assignment(np.where(ions[:, None] == ions, lengths**2, LARGEST_COST))
        far = int(np.argmax(lengths[places, taken]))
        if lengths[places, taken].max() > LARGEST_SHIFT:
            site = crystal.sites[crystal.basis_atoms[places[far]].site]
            raise ValueError(
                f"no {site.ion} is near {site.label} if the structure is shifted by the vector "
                f"({', '.join(f'{x:.3g}' for x in shift)}) of the parent lattice; the nearest that takes no other "
                f"place is {lengths[places, taken][far]:.2f} Å away, and the limit is {LARGEST_SHIFT:g} Å. The "
                "structure does not order on this parent lattice.")
        return tuple(
            replace(crystal.basis_atoms[n], translation=crystal.basis_atoms[n].translation - shift - cell[place, n])
            for place, n in zip(places, taken, strict=True))

    def is_translation(self, number: int) -> bool:
        """Whether a variant is the structure itself, shifted by a vector of its lattice or of its centring."""
        positions = self.positions(self.crystal.site_positions)
        difference = positions[number] - positions[0]
        return bool((self.sites[number] == self.sites[0]).all()
                    and np.abs(difference - np.round(difference)).max() < 1e-6)

    @cached_property
    def sites(self) -> np.ndarray:
        """The site (n_variants, n_atoms) of each atom."""
        return np.array([[atom.site for atom in row] for row in self.atoms])

    @property
    def generic_positions(self) -> FloatArray:
        """Positions (n_variants, n_atoms, 3) whose differences agree by symmetry only."""
        return self.positions(self.crystal.generic_sites)

    def positions(
        self, site_positions: FloatArray, values: Mapping[str, float] | None = None
    ) -> FloatArray:
        """The fractional positions (n_variants, n_atoms, 3) in all variants, of sites at (n_sites, 3)."""
        return np.array([[atom.rotation @ site_positions[atom.site] + atom.translation for atom in row]
                         for row in self.atoms])

    @property
    def members(self) -> np.ndarray:
        return np.zeros(len(self.crystal.basis_atoms), dtype=int)

    @cached_property
    def cells(self) -> np.ndarray:
        """The cell (n_atoms, 3) of the finer lattice to which each basis atom belongs."""
        average = self.positions(self.crystal.site_positions).mean(axis=0)
        inside = average @ np.linalg.inv(np.array(self.axes))
        return np.asarray(np.floor(inside + BEFORE), dtype=np.int64)


def _shown(axes: Axes) -> str:
    return str([[float(f"{x:.4g}") for x in row] for row in axes])
