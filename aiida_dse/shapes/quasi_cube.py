"""Quasi-cubes of whole cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from aiida_dse.sections import Positive

from .base import LARGEST, Shape, SizeDistribution

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.particles.family import Family


class QuasiCube(Shape):
    """Quasi-cubes of whole cells, as high as they are wide: a population of edge L (nm)."""

    name: ClassVar[str] = "quasi_cube"
    shape: Literal["quasi_cube"]
    L: SizeDistribution
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("L",)

    def family(self, crystal: Crystal) -> Family:
        from aiida_dse.engine.particles.parallelepipeds import QuasiCubePopulation

        return QuasiCubePopulation(self.largest or np.inf, self.L.length_law())
