"""Hexagonal prisms with a random centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from aiida_dse.sections import Positive, Size

from .axes import Directions, frame
from .base import LARGEST, Shape, SizeDistribution
from .cylinder import height_overlap

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.parameters import Kind
    from aiida_dse.engine.particles.bodies import Overlap
    from aiida_dse.engine.particles.covariograms import Polyhedron, Rays
    from aiida_dse.engine.particles.family import Family
    from aiida_dse.engine.particles.size_distributions import Lengths
    from aiida_dse.engine.resources import Resources
    from aiida_dse.engine.units import FloatArray


class HexagonalPrism(Shape):
    """Prisms of height H whose base is a regular hexagon of edge L_edge.

    The first axis is that of the prism, the second points to an edge of the prism (a corner of the
    hexagon). With the default axes, the side faces in a hexagonal cell are {10-10}.
    """

    name: ClassVar[str] = "hexagonal_prism"
    shape: Literal["hexagonal_prism"]
    L_edge: SizeDistribution | Size
    H: SizeDistribution | Size
    axes: Directions = Field(((0, 0, 1), (1, 0, 0)), description="lattice directions of the height and of a "
                             "corner of the base")
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("L_edge", "H")

    def family(self, crystal: Crystal) -> Family:
        from aiida_dse.engine.particles.covariograms import Polyhedron

        axis, corner, across = frame(crystal, self.axes)
        angle = np.radians(30 + 60 * np.arange(6))[:, None]
        sides = np.cos(angle) * corner + np.sin(angle) * across
        normals = np.vstack([sides, axis, -axis])
        return self.random_centre(HexagonalPrismBody(
            axis, Polyhedron(normals, np.array([np.sqrt(0.75)] * 6 + [0.5] * 2))))


@dataclass(frozen=True, eq=False)
class HexagonalPrismBody:
    """The prism along the unit vector `axis` (3,); `unit` is the one of edge and height 1."""

    axis: FloatArray
    unit: Polyhedron
    powers: ClassVar[Mapping[str, int]] = {"L_edge": 2, "H": 1}
    parameters: ClassVar[Mapping[str, Kind]] = {}
    spherical: ClassVar[bool] = False
    cost: ClassVar[float] = 5000.0

    def volume(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> float:
        from aiida_dse.engine.particles.bodies import mean_power

        return self.unit.volume * mean_power(lengths["L_edge"], 2) * mean_power(lengths["H"], 1)

    def extent(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> float:
        return float(np.hypot(2 * lengths["L_edge"], lengths["H"]))

    def overlap(self, vectors: FloatArray, others: Mapping[str, float], resources: Resources) -> Overlap:
        from aiida_dse.engine.particles.covariograms import rays

        along = vectors @ self.axis
        base = vectors - along[:, None] * self.axis
        across = np.linalg.norm(base, axis=1)
        directions = np.where(across[:, None] > 1e-9, base / np.maximum(across, 1e-9)[:, None],
                              self.unit.normals[0])
        return HexagonalPrismOverlap(across, np.abs(along), rays(self.unit, directions, resources))

    def measures(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        from aiida_dse.engine.particles.bodies import compact_measures

        edge, height = lengths["L_edge"], lengths["H"]
        base = self.unit.volume * edge**2
        return compact_measures(base * height, 2 * base + 6 * edge * height)


@dataclass(frozen=True)
class HexagonalPrismOverlap:
    """The overlap at vectors with these components (nm) across and along the prism."""

    across: FloatArray
    along: FloatArray
    rays: Rays

    def mean(self, lengths: Mapping[str, Lengths]) -> FloatArray:
        base = self.rays.mean_overlap(self.across, lengths["L_edge"], dimension=2)
        return base * height_overlap(self.along, lengths["H"])
