"""Static disorder of sites that are split into two positions, with correlated signs.

Each atom of a split site lies at x + s d, with s = +1 or -1 equally often. The signs of two atoms in the
cells n and n + U of a parent lattice have the mean product prod_k lambda_k^|U_k|: 0 for independent signs, 1
along the columns or in the layers within which all signs are equal, and -1 where they alternate. Atoms of
different sites, and those that do not differ (nearly) by a vector of the parent lattice, are independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aiida_dse.engine.units import FloatArray

from .structure import Crystal
from .variants import LARGEST_SHIFT, Axes, whole_cells

#: Amplitude (Å) with which the vectors that are equal by symmetry are recognised.
GENERIC_AMPLITUDE = 0.1371


@dataclass(frozen=True)
class SplitSite:
    """The direction (fractional, of unit length in Å) of the two positions of a site.

    It turns with the symmetry operations that generate the atoms of the site, unless it is `fixed` in the
    crystal.
    """

    label: str
    direction: tuple[float, float, float]
    fixed: bool = False

    @property
    def parameter(self) -> str:
        """The local name of the distance (Å) of each position from the mean."""
        return f"{self.label}.split"


@dataclass(frozen=True)
class SplitSites:
    """The two signs of the atoms of split sites, as variants of the structure.

    `axes` are the vectors of the parent lattice in fractional coordinates. Raises ValueError if the unit cell
    does not consist of whole cells of it.
    """

    crystal: Crystal
    axes: Axes
    split: tuple[SplitSite, ...]

    def __post_init__(self) -> None:
        whole_cells(self.axes)

    @property
    def lattice(self) -> np.ndarray:
        """The edges of the unit cell in vectors of the parent lattice, as rows (3, 3)."""
        return whole_cells(self.axes)

    @property
    def elements(self) -> np.ndarray:
        return np.array([[0], [1]])

    def element_of(self, shift: np.ndarray) -> int:
        return int(shift[0]) % 2

    @property
    def characters(self) -> np.ndarray:
        return np.array([[1, 1], [1, -1]], dtype=complex)

    @property
    def sites(self) -> np.ndarray:
        """The site (2, n_atoms) of each atom."""
        return np.tile(self.crystal.site_of_atom, (2, 1))

    @cached_property
    def _shifts(self) -> FloatArray:
        """The direction (n_split, n_atoms, 3) of each atom, 0 for those of other sites."""
        found = np.zeros((len(self.split), len(self.crystal.basis_atoms), 3))
        for row, one in zip(found, self.split, strict=True):
            for k, atom in enumerate(self.crystal.basis_atoms):
                if self.crystal.sites[atom.site].label == one.label:
                    row[k] = np.array(one.direction) if one.fixed else atom.rotation @ np.array(one.direction)
        return found

    def positions(self, site_positions: FloatArray, values: Mapping[str, float]) -> FloatArray:
        """The fractional positions (2, n_atoms, 3), of sites at (n_sites, 3)."""
        shift = np.tensordot([values[one.parameter] for one in self.split], self._shifts, axes=1)
        mean = self.crystal.positions(site_positions)
        return np.array([mean + shift, mean - shift])

    @property
    def generic_positions(self) -> FloatArray:
        """Positions (2, n_atoms, 3) whose differences agree by symmetry only."""
        return self.positions(self.crystal.generic_sites, {
            one.parameter: GENERIC_AMPLITUDE * (1 + 0.17 * k) for k, one in enumerate(self.split)})

    @property
    def members(self) -> np.ndarray:
        """Numbers (n_atoms,), equal for split atoms that differ by vectors of the parent lattice.

        The number is -1 for atoms that are not split.
        """
        return self._places[0]

    @property
    def cells(self) -> np.ndarray:
        """The cell (n_atoms, 3) of the parent lattice to which each basis atom belongs."""
        return self._places[1]

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        axes, positions = np.array(self.axes), self.crystal.positions()
        inside = positions @ np.linalg.inv(axes)
        members, cells = np.full(len(inside), -1), np.zeros((len(inside), 3), dtype=np.int64)
        first: list[tuple[str, int]] = []
        for k, atom in enumerate(self.crystal.basis_atoms):
            label = self.crystal.sites[atom.site].label
            if label not in [one.label for one in self.split]:
                continue
            for number, (other, n) in enumerate(first):
                cell = np.round(inside[k] - inside[n])
                apart = self.crystal.cell.matrix @ axes.T @ (inside[k] - inside[n] - cell)
                if label == other and np.linalg.norm(apart) < LARGEST_SHIFT:
                    members[k], cells[k] = number, cell
                    break
            else:
                members[k] = len(first)
                first.append((label, k))
        return members, cells
