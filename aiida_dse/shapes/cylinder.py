"""Cylinders with a random centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from aiida_dse.sections import Positive, Size

from .axes import Direction, unit_vectors
from .base import LARGEST, Shape, SizeDistribution

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.parameters import Kind
    from aiida_dse.engine.particles.bodies import Overlap
    from aiida_dse.engine.particles.family import Family
    from aiida_dse.engine.particles.size_distributions import Lengths
    from aiida_dse.engine.resources import Resources
    from aiida_dse.engine.units import FloatArray


class Cylinder(Shape):
    """Cylinders of diameter D and height H along a lattice direction."""

    name: ClassVar[str] = "cylinder"
    shape: Literal["cylinder"]
    D: SizeDistribution | Size
    H: SizeDistribution | Size
    axis: Direction = Field((0, 0, 1), description="lattice direction [u, v, w]")
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("D", "H")

    def family(self, crystal: Crystal) -> Family:
        return self.random_centre(CylinderBody(unit_vectors(crystal, (self.axis,))[0]))


@dataclass(frozen=True, eq=False)
class CylinderBody:
    """The cylinder along the unit vector `axis` (3,)."""

    axis: FloatArray
    powers: ClassVar[Mapping[str, int]] = {"D": 2, "H": 1}
    parameters: ClassVar[Mapping[str, Kind]] = {}
    spherical: ClassVar[bool] = False
    cost: ClassVar[float] = 10.0

    def volume(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> float:
        from aiida_dse.engine.particles.bodies import mean_power

        return np.pi / 4 * mean_power(lengths["D"], 2) * mean_power(lengths["H"], 1)

    def extent(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> float:
        return float(np.hypot(lengths["D"], lengths["H"]))

    def overlap(self, vectors: FloatArray, others: Mapping[str, float], resources: Resources) -> Overlap:
        from aiida_dse.engine.particles.bodies import ComputedOverlap, tabulated

        along = vectors @ self.axis
        across = np.sqrt(np.maximum(np.einsum("ij,ij->i", vectors, vectors) - along**2, 0.0))
        height = np.abs(along)

        def mean(lengths: Mapping[str, Lengths]) -> FloatArray:
            base = tabulated(disc_overlap, lengths["D"], across)
            return base * height_overlap(height, lengths["H"])

        return ComputedOverlap(mean)

    def measures(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        from aiida_dse.engine.particles.bodies import compact_measures

        diameter, height = lengths["D"], lengths["H"]
        return compact_measures(np.pi / 4 * diameter**2 * height,
                                np.pi * diameter * (diameter / 2 + height))


def disc_overlap(distance: FloatArray, diameter: FloatArray) -> FloatArray:
    """The area (nm^2) that discs share with their copies at a distance (nm)."""
    t = np.minimum(distance / diameter, 1.0)
    return np.asarray(diameter**2 / 2 * (np.arccos(t) - t * np.sqrt(1 - t * t)))


def height_overlap(distance: FloatArray, height: Lengths) -> FloatArray:
    """The mean length (nm) that rods share with their copies shifted by a distance (nm) along them."""
    return height.moment_beyond(1, distance) - distance * height.moment_beyond(0, distance)
