"""Spheres."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from aiida_dse.sections import Fractional, Positive, Size

from .base import LARGEST, Shape, SizeDistribution

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.particles.family import Family


class Sphere(Shape):
    """Spheres of diameter D (nm) about a point of the crystal: one size, or a population."""

    name: ClassVar[str] = "sphere"
    shape: Literal["sphere"]
    D: SizeDistribution | Size
    largest: Positive | None = Field(None, description=LARGEST)
    centre: tuple[Fractional, Fractional, Fractional] | str = Field(
        (0.0, 0.0, 0.0), description="centre: fractional coordinates, or a site label"
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
        return self

    def family(self, crystal: Crystal) -> Family:
        from aiida_dse.engine.particles.cell_spheres import CellSpherePopulation
        from aiida_dse.engine.particles.spheres import SingleSphere, SpherePopulation

        centre = self.centre
        if isinstance(centre, str):
            x, y, z = crystal.special_position(centre).tolist()
            centre = (x, y, z)
        if not isinstance(self.D, SizeDistribution):
            return SingleSphere(self.D, centre)
        population = CellSpherePopulation if self.whole_cells else SpherePopulation
        return population(centre, self.largest or np.inf)
