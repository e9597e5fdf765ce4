"""Neighbour search: pairs of atom positions within a distance, and symmetry images of atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.units import FloatArray

from .structure import SAME_POSITION, Crystal


@dataclass(frozen=True)
class NearPairs:
    """Ordered pairs of atoms: `first` in the home cell, `second` in the cell `cells`.

    first, second (n,) indices; cells (n, 3) lattice translations; lengths (n,) Å.
    """

    first: np.ndarray
    second: np.ndarray
    cells: np.ndarray
    lengths: FloatArray

    def __len__(self) -> int:
        return len(self.first)


def pairs_within(
    matrix: FloatArray, positions: FloatArray, distance: float,
    centres: Sequence[int] | None = None,
) -> NearPairs:
    """All pairs from `centres` (default: every atom) to positions nearer than `distance` (Å).

    matrix (3, 3) Å with the lattice vectors as columns; positions (n_atoms, 3) fractional, inside
    the cell or not. A pair of different atoms appears in both directions; an atom forms pairs with
    its own lattice translations, but not with itself.
    """
    heights = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=1)
    # differences are reduced to at most half a cell, which extends the search by half a cell
    reach = np.floor(distance / heights + 0.5).astype(int)
    axes = [np.arange(-n, n + 1) for n in reach]
    around = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    rows = []
    for i in range(len(positions)) if centres is None else centres:
        difference = positions - positions[i]
        home = np.round(difference)
        vectors = ((difference - home)[:, None, :] + around[None, :, :]) @ matrix.T
        lengths = np.linalg.norm(vectors, axis=2)
        near = lengths < distance
        near[i, (around == 0).all(axis=1)] = False
        second, k = np.nonzero(near)
        cells = around[k] - home[second].astype(np.int64)
        rows.append((np.full(len(second), i), second, cells, lengths[near]))
    if not rows:
        return NearPairs(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3), int), np.zeros(0))
    first, second, cells, lengths = (np.concatenate(column) for column in zip(*rows, strict=True))
    return NearPairs(first, second, cells, lengths)


@dataclass(frozen=True)
class SymmetryImages:
    """The images of the atoms of a cell under the symmetry operations.

    Operation g maps atom i of the home cell onto atom atoms[g, i] of the cell shifts[g, i], and a
    lattice translation u onto rotations[g] @ u. All arrays hold integers.
    """

    atoms: np.ndarray  # (n_operations, n_atoms)
    shifts: np.ndarray  # (n_operations, n_atoms, 3)
    rotations: np.ndarray  # (n_operations, 3, 3)

    def cells(self, first: int, second: int, cell: Sequence[int]) -> np.ndarray:
        """The cell (n_operations, 3) of the second atom's image relative to that of the first."""
        moved = self.rotations @ np.asarray(cell)
        return np.asarray(moved + self.shifts[:, second] - self.shifts[:, first])


def symmetry_images(crystal: Crystal) -> SymmetryImages:
    """The symmetry images of all atoms of the cell, with each site on its special position."""
    positions, site = crystal.positions(), crystal.site_of_atom
    other_site = site[:, None] != site[None, :]
    atoms, shifts = [], []
    for op in crystal.symmetry:
        moved = positions @ op.rotation.T + op.translation
        difference = moved[:, None, :] - positions[None, :, :]
        shift = np.round(difference)
        away = np.linalg.norm((difference - shift) @ crystal.cell.matrix.T, axis=2)
        away[other_site] = np.inf
        image = away.argmin(axis=1)
        rows = np.arange(len(positions))
        assert away[rows, image].max() < SAME_POSITION, "an operation leaves the crystal"
        atoms.append(image)
        shifts.append(shift[rows, image].astype(np.int64))
    rotations = np.array([np.round(op.rotation) for op in crystal.symmetry]).astype(np.int64)
    return SymmetryImages(np.array(atoms), np.array(shifts), rotations)
