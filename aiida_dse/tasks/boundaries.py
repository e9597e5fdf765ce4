"""Coherent boundaries from the section 'boundaries' of a phase."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aiida_dse.documents.model import BoundariesSection
from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.crystal.variants import Variants
from aiida_dse.engine.particles.boundaries import Boundaries, BoundaryPlanes
from aiida_dse.engine.particles.family import Family


def boundaries_of(
    crystal: Crystal, family: Family, section: BoundariesSection | None,
    excluded: Mapping[tuple[int, int], np.ndarray],
) -> Boundaries | None:
    """The boundaries of a phase.

    Raises ValueError for particles that do not consist of whole cells, split sites, structures that do not
    order on the sublattice, and shifts that are lattice vectors.
    """
    if section is None:
        return None
    if not family.whole_cells:
        raise ValueError("boundaries require particles of whole cells: the shape 'parallelepiped' or 'quasi_cube'.")
    if excluded:
        raise ValueError("boundaries cannot be combined with split sites. Remove 'boundaries', or the alternative "
                         "positions from the structure.")
    a, b, c = section.sublattice
    variants = Variants(crystal, (a, b, c))
    planes = []
    for name, one in section.planes.items():
        if variants.element_of(np.array(one.shift)) == 0:
            raise ValueError(
                f"boundaries.planes.{name}.shift = {list(one.shift)} is a vector of the lattice of the structure, so "
                "there is no boundary. Specify another shift.")
        planes.append(BoundaryPlanes(name, tuple(axis - 1 for axis in sorted(set(one.along))), one.shift))
    return Boundaries(variants, tuple(planes), {
        plane.parameter: section.planes[plane.name].density for plane in planes})
