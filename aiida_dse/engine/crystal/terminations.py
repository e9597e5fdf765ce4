"""Terminations of particles of whole cells: which atoms lie at their faces.

All particles of whole cells have the composition of the crystal, but the atoms that count as one
cell can be chosen in many ways, and the choice decides the atoms at the faces. The boxes differ
where a face of the box passes an atom. Two boxes whose atoms are mapped onto each other by an
operation of the space group that maps edges of the box onto edges yield the same particles up to
their orientation.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import gemmi
import numpy as np

from aiida_dse.engine.units import FloatArray

from .structure import Crystal

#: Atoms within this distance (Å) of the outermost one form the layer at a face.
LAYER = 1.0
#: Fractional coordinates closer than this belong to one plane of atoms.
SAME_PLANE = 1e-3

Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Termination:
    """One choice of the atoms of a cell.

    `corner` (fractional) is the corner of the box. `faces` lists the composition of the first and
    last layer of atoms along a, b and c. `dipole` (e Å) is the length of the dipole moment of one
    cell, None if the ions are not neutral together.
    """

    corner: Corner
    faces: tuple[tuple[str, str], ...]
    dipole: float | None
    charge: float


def terminations(crystal: Crystal) -> tuple[Termination, ...]:
    """The terminations that differ by symmetry; that of the crystal comes first."""
    positions = crystal.positions()
    cells = np.floor(positions + 1e-6)
    inside = positions - cells
    edges = [_corners(inside[:, axis]) for axis in range(3)]
    own = np.array(crystal.termination)
    corners = np.array([own, *itertools.product(*edges)])
    found: dict[bytes, Corner] = {}
    for corner, form in zip(corners, canonical_forms(crystal, inside, corners), strict=True):
        found.setdefault(form, (float(corner[0]), float(corner[1]), float(corner[2])))
    return tuple(describe(crystal, corner) for corner in found.values())


def neighbours(crystal: Crystal) -> tuple[Corner, ...]:
    """The corners of distinct terminations that differ from the crystal's along one axis."""
    positions = crystal.positions()
    inside = positions - np.floor(positions + 1e-6)
    own = np.array(crystal.termination, dtype=float)
    corners = [own]
    for axis in range(3):
        for edge in _corners(inside[:, axis]):
            corners.append(own.copy())
            corners[-1][axis] = edge
    found: dict[bytes, Corner] = {}
    for corner, form in zip(
            corners, canonical_forms(crystal, inside, np.array(corners)), strict=True):
        found.setdefault(form, (float(corner[0]), float(corner[1]), float(corner[2])))
    return tuple(found.values())[1:]


def describe(crystal: Crystal, corner: Corner) -> Termination:
    """The termination of a crystal whose cell is the box at `corner`."""
    moved = replace(crystal, termination=corner)
    positions, matrix = moved.positions(), crystal.cell.matrix
    heights = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=1)
    ions = [crystal.sites[site].ion for site in moved.site_of_atom]
    occupancy = np.array([crystal.sites[site].occupancy for site in moved.site_of_atom])
    faces = []
    for axis in range(3):
        along = positions[:, axis] * heights[axis]
        faces.append((_formula(ions, along - along.min() < LAYER),
                      _formula(ions, along.max() - along < LAYER)))
    charges = occupancy * [_charge(ion) for ion in ions]
    total = float(charges.sum())
    dipole = None
    if abs(total) < 1e-6 and np.abs(charges).max() > 0:
        dipole = float(np.linalg.norm(matrix @ (charges @ positions)))
    return Termination(corner, tuple(faces), dipole, total)


def _corners(coordinates: FloatArray) -> list[float]:
    """One corner in every interval between planes of atoms, with as few decimals as possible."""
    planes = np.sort(coordinates)
    planes = planes[np.r_[True, np.diff(planes) > SAME_PLANE]]
    found = []
    for low, high in zip(np.r_[planes[-1] - 1, planes[:-1]], planes, strict=True):
        if high - low <= SAME_PLANE:
            continue
        for digits in range(1, 7):
            corner = round((low + high) / 2, digits)
            # distance from the planes, because refined coordinates move
            if low + (high - low) / 4 <= corner <= high - (high - low) / 4:
                break
        found.append(float(corner))
    return found


def canonical_forms(crystal: Crystal, inside: FloatArray, corners: FloatArray) -> list[bytes]:
    """A form of the boxes at corners (n, 3) that is equal for boxes equivalent by symmetry.

    inside (n_atoms, 3) are the positions in the cell from 0 to 1.
    """
    # the box at a corner contains the atom i at inside[i] + cells[i]
    cells = -np.floor(np.round(inside[None] - corners[:, None], 6)).astype(int)
    forms = []
    for rotation, image, shift in _operations(crystal, inside):
        moved = np.empty_like(cells)
        moved[:, image] = cells @ rotation.T + shift
        forms.append((moved - moved[:, :1]).reshape(len(corners), -1).astype(np.int8))
    return [min(form[k].tobytes() for form in forms) for k in range(len(corners))]


def _operations(
    crystal: Crystal, inside: FloatArray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Operations that map edges of the cell onto edges, and c onto itself or its opposite.

    rotation (3, 3); image (n,) of every atom; shift (n, 3) in whole cells of the image.
    """
    found = []
    for op in crystal.symmetry:
        rotation = np.rint(op.rotation).astype(int)
        if (np.abs(rotation).sum(axis=0) != 1).any() or abs(rotation[2, 2]) != 1:
            continue
        difference = (inside @ op.rotation.T + op.translation)[:, None] - inside[None]
        whole = np.rint(difference)
        same_site = crystal.site_of_atom[:, None] == crystal.site_of_atom[None]
        distance = np.linalg.norm((difference - whole) @ crystal.cell.matrix.T, axis=2)
        image = np.where(same_site, distance, np.inf).argmin(axis=1)
        found.append((rotation, image, whole[np.arange(len(inside)), image].astype(int)))
    return found


def _formula(ions: Sequence[str], chosen: np.ndarray) -> str:
    """The chosen atoms in their smallest whole numbers, metals first: 'CsBr', 'PbBr2'."""
    counts = Counter(_element(ion) for ion, one in zip(ions, chosen, strict=True) if one)
    common = int(np.gcd.reduce(list(counts.values())))
    return "".join(
        f"{element}{counts[element] // common if counts[element] > common else ''}"
        for element in sorted(counts, key=lambda name: (not gemmi.Element(name).is_metal, name)))


def _element(ion: str) -> str:
    return ion.rstrip("0123456789.+-")


def _charge(ion: str) -> float:
    match = re.search(r"([\d.]+)([+-])$", ion)
    return 0.0 if match is None else float(match[1]) * (1 if match[2] == "+" else -1)
