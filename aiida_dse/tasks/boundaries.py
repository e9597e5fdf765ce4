"""Coherent boundaries and split sites from the sections 'boundaries' and 'split' of a phase."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aiida_dse.documents.disorder import BoundariesSection, SplitSection
from aiida_dse.documents.model import Phase as PhaseSection
from aiida_dse.engine.crystal.splitting import SplitSite, SplitSites
from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.crystal.variants import Variants
from aiida_dse.engine.particles.boundaries import (
    Boundaries,
    BoundaryPlanes,
    Order,
    SplitOrder,
    layers_of,
)
from aiida_dse.engine.particles.family import Family
from aiida_dse.engine.particles.parallelepipeds import SingleParallelepiped

#: The correlations of the signs of split sites along the vectors of the parent lattice, by name.
CORRELATIONS = {"independent": (0.0, 0.0, 0.0), "columns": (0.0, 0.0, 1.0), "alternating_columns": (0.0, 0.0, -1.0),
                "layers": (1.0, 1.0, 0.0)}


def order_of(
    crystal: Crystal, family: Family, section: PhaseSection, excluded: Mapping[tuple[int, int], np.ndarray]
) -> Order | None:
    """The boundaries or split sites of a phase.

    Raises ValueError for particles that do not consist of whole cells, for partially occupied alternatives,
    and for parent lattices, shifts and directions that are not possible.
    """
    if section.boundaries is None and section.split is None:
        return None
    what = "boundaries" if section.boundaries is not None else "split"
    if not family.whole_cells:
        raise ValueError(f"'{what}' requires particles of whole cells: the shape 'parallelepiped' or 'quasi_cube'.")
    if excluded:
        raise ValueError(f"'{what}' cannot be combined with partially occupied alternative positions. Remove "
                         f"'{what}', or the alternatives from the structure.")
    if section.boundaries is not None:
        return _boundaries(crystal, family, section.boundaries)
    assert section.split is not None
    return _split(crystal, section.split)


def _boundaries(crystal: Crystal, family: Family, section: BoundariesSection) -> Boundaries:
    a, b, c = section.parent_lattice
    variants = Variants(crystal, (a, b, c))
    planes, layers, cells = [], (0, 0, 0), None
    if any(one.number is not None for one in section.planes.values()):
        if not isinstance(family, SingleParallelepiped):
            raise ValueError(
                "an exact 'number' of boundaries requires particles of one size (parallelepiped with 'cells'). For a "
                "size distribution, specify a 'probability'.")
        cells = family.cells
        layers = layers_of(variants, cells)
    for name, one in section.planes.items():
        if variants.is_translation(variants.element_of(np.array(one.shift))):
            raise ValueError(
                f"boundaries.planes.{name}.shift = {list(one.shift)} is a translation of the structure, so there is "
                "no boundary. Specify another shift.")
        along = tuple(axis - 1 for axis in sorted(set(one.along)))
        planes.append(BoundaryPlanes(name, along, one.shift, one.number, layers))
        if one.number is not None and one.number > (most := min(layers[axis] for axis in along) - 1):
            raise ValueError(
                f"boundaries.planes.{name}.number = {one.number}, but the particle has only {most} planes along a "
                "vector of 'along'. Specify a smaller number, or more cells.")
    return Boundaries(variants, tuple(planes), {
        plane.parameter: float(probability) for plane in planes
        if (probability := section.planes[plane.name].probability) is not None}, cells)


def _split(crystal: Crystal, section: SplitSection) -> SplitOrder:
    split, amplitudes = [], {}
    for label, one in section.sites.items():
        crystal.site(label)
        direction = np.array(one.direction, dtype=float)
        length = float(np.linalg.norm(crystal.cell.matrix @ direction))
        if not length > 0:
            raise ValueError(f"split.sites.{label}: the direction [0, 0, 0] is the null vector. Specify another "
                             "direction.")
        x, y, z = (direction / length).tolist()
        split.append(SplitSite(label, (x, y, z), one.fixed))
        amplitudes[split[-1].parameter] = one.amplitude
    a, b, c = section.parent_lattice
    correlation = CORRELATIONS[section.correlation] if isinstance(section.correlation, str) \
        else section.correlation
    return SplitOrder(SplitSites(crystal, (a, b, c), tuple(split)), amplitudes, correlation)
