"""Spheres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from aiida_dse.sections import Fractional, Positive, Size

from .base import LARGEST, Shape, SizeDistribution
from .ellipsoid import ball_overlap

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.parameters import Kind
    from aiida_dse.engine.particles.bodies import Overlap
    from aiida_dse.engine.particles.family import Family
    from aiida_dse.engine.particles.size_distributions import Lengths
    from aiida_dse.engine.resources import Resources
    from aiida_dse.engine.units import FloatArray


class Sphere(Shape):
    """Spheres of diameter D (nm): one size, or a population.

    By default, their centre lies anywhere in the unit cell.
    """

    name: ClassVar[str] = "sphere"
    shape: Literal["sphere"]
    D: SizeDistribution | Size
    largest: Positive | None = Field(None, description=LARGEST)
    centre: tuple[Fractional, Fractional, Fractional] | str = Field(
        "random", description="'random': anywhere in the unit cell, with equal probability; or a point: "
        "fractional coordinates, or a site label"
    )
    whole_cells: bool = Field(
        False, description="build the spheres of whole primitive cells around the centre, as DebUsSy "
        "does, instead of all atoms within the radius; requires a size distribution"
    )
    size_fields: ClassVar[tuple[str, ...]] = ("D",)

    @model_validator(mode="after")
    def _distributed(self) -> Sphere:
        if self.whole_cells and not isinstance(self.D, SizeDistribution):
            raise ValueError(
                "spheres of whole cells have only certain diameters, so they need a size "
                "distribution: specify D: {mean, sd}, or remove 'whole_cells'"
            )
        if self.whole_cells and self.centre == "random":
            raise ValueError(
                "spheres of whole cells are arranged around a point: specify 'centre', such as "
                "centre: [0, 0, 0], or remove 'whole_cells'"
            )
        return self

    def family(self, crystal: Crystal) -> Family:
        from aiida_dse.engine.particles.cell_spheres import CellSpherePopulation
        from aiida_dse.engine.particles.spheres import SingleSphere, SpherePopulation

        centre = self.centre
        if centre == "random":
            return self.random_centre(Ball())
        if isinstance(centre, str):
            x, y, z = crystal.special_position(centre).tolist()
            centre = (x, y, z)
        if not isinstance(self.D, SizeDistribution):
            return SingleSphere(self.D, centre)
        population = CellSpherePopulation if self.whole_cells else SpherePopulation
        return population(centre, self.largest or np.inf)


@dataclass(frozen=True)
class Ball:
    """The sphere with a random centre."""

    powers: ClassVar[Mapping[str, int]] = {"D": 3}
    parameters: ClassVar[Mapping[str, Kind]] = {}
    spherical: ClassVar[bool] = True
    cost: ClassVar[float] = 10.0

    def volume(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> float:
        from aiida_dse.engine.particles.bodies import mean_power

        return np.pi / 6 * mean_power(lengths["D"], 3)

    def extent(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> float:
        return lengths["D"]

    def overlap(self, vectors: FloatArray, others: Mapping[str, float], resources: Resources) -> Overlap:
        from aiida_dse.engine.particles.bodies import TABLE, ComputedOverlap, interpolated

        r = np.linalg.norm(vectors, axis=1)
        grid = np.arange(-1, TABLE + 3) / (TABLE - 1)

        def mean(lengths: Mapping[str, Lengths]) -> FloatArray:
            # smooth between the smallest and the largest sphere, and much longer than the table
            step = lengths["D"].end / (TABLE - 1)
            return interpolated(ball_overlap(grid * lengths["D"].end, lengths["D"]), step, r)

        return ComputedOverlap(mean)

    def measures(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        from aiida_dse.engine.particles.size_statistics import sphere_measures

        return sphere_measures(lengths["D"])
