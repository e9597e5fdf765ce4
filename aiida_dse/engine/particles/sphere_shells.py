"""The pairs of nested spheres by the shell of their outer atom, counted once for all sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.resources import Resources
from aiida_dse.engine.units import FloatArray

from .sphere_counting import atoms_of_sphere, merge_translations, rounded_up, special_centre
from .vector_groups import (
    SAME_RADIUS,
    Points,
    VectorGroups,
    group_table,
    pairs_by_shell,
    vector_groups,
)

#: Largest size (bytes) of the pairs by shell and group, and of the table of groups.
MOST_BYTES = 1e9
Centre = tuple[float, float, float]


@dataclass(frozen=True)
class ShellPairs:
    """The pairs (n_shells, n_groups) and atoms (n_shells, n_atoms) of shells of `radius` Å.

    The pairs are those whose outer atom lies in the shell.
    """

    radius: FloatArray
    pairs: FloatArray
    atoms: FloatArray
    groups: VectorGroups


#: Counts of spheres whose radius is larger by up to this factor are reused.
LARGEST_USED = 1.5
_known: list[tuple[tuple[Crystal, Centre], float, ShellPairs | None]] = []
_lock = Lock()


def pairs_of_spheres(
    crystal: Crystal, centre: Centre, diameter: float, resources: Resources
) -> ShellPairs | None:
    """The pairs of spheres up to `diameter` nm and somewhat beyond.

    None where the shells and groups, which are many in crystals of low symmetry, would exceed
    MOST_BYTES.
    """
    # a rounded radius serves small changes of the size
    radius = rounded_up(diameter * 5, 1.1)
    key = (crystal, centre)
    with _lock:
        own = [(its_radius, pairs) for known, its_radius, pairs in _known if known == key]
        for its_radius, pairs in own:
            if radius <= its_radius <= radius * LARGEST_USED:
                return pairs
        smaller = [one for one in own if one[0] < radius]
        earlier = max(smaller, key=lambda one: one[0])[1] if smaller else None
        pairs = _counted(crystal, centre, radius, earlier, resources)
        _known.insert(0, (key, radius, pairs))
        del _known[2:]
    return pairs


@lru_cache(maxsize=32)
def matrix_size(crystal: Crystal, centre: Centre, diameter: float) -> float | None:
    """The number of shells times that of groups, estimated; None if they are too many.

    Both are powers of the radius, determined from small spheres.
    """
    sizes = []
    edge = max(crystal.cell.a, crystal.cell.b, crystal.cell.c)
    for radius in (1.5 * edge, 2.25 * edge):
        shells = np.count_nonzero(np.diff(atoms_of_sphere(crystal, centre, radius).radius) > SAME_RADIUS)
        sizes.append((shells + 1.0) * len(vector_groups(crystal, 2 * radius)))
    power = np.log(sizes[1] / sizes[0]) / np.log(1.5)
    size = float(sizes[0] * (5 * diameter / (1.5 * edge)) ** power)
    return size if 8 * size <= MOST_BYTES else None


def _counted(
    crystal: Crystal, centre: Centre, radius: float, earlier: ShellPairs | None, resources: Resources
) -> ShellPairs | None:
    """Count the pairs; those of `earlier`, smaller spheres are not counted again."""
    atoms = atoms_of_sphere(crystal, centre, radius)
    shell = np.concatenate([[0], np.cumsum(np.diff(atoms.radius) > SAME_RADIUS)])
    merged = merge_translations(crystal)
    reach = np.ptp(atoms.cell, axis=0) + int(np.abs(merged.shift).max())
    if 4.0 * len(merged.first) * np.prod(2.0 * reach + 1) > MOST_BYTES:
        return None
    groups = vector_groups(crystal, 2 * radius * (1 + 1e-6))
    n_shells, n_atoms = int(shell[-1]) + 1, len(crystal.basis_atoms)
    if 8.0 * n_shells * len(groups) > MOST_BYTES:
        return None
    begins = np.searchsorted(shell, np.arange(n_shells))
    matrix = crystal.cell.matrix
    offset = (crystal.positions() - special_centre(crystal, centre)) @ matrix.T
    known = 0 if earlier is None else len(earlier.pairs)
    pairs, _ = pairs_by_shell(
        Points(atoms.cell, atoms.atom, shell, atoms.orbit, offset, matrix, atoms.radius[begins]),
        merged, group_table(crystal, groups, reach), np.arange(n_shells), len(groups), resources,
        first=known)
    if earlier is not None:
        pairs[:known, groups.places_of(earlier.groups)] = earlier.pairs
    contents = np.bincount(shell * n_atoms + atoms.atom, minlength=n_shells * n_atoms)
    return ShellPairs(atoms.radius[begins], pairs, contents.reshape(n_shells, n_atoms).astype(float),
                      groups)
