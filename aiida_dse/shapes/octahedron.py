"""Regular octahedra."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from aiida_dse.sections import Positive, Size

from .axes import Directions, frame
from .base import CENTRE, LARGEST, Centre, SizeDistribution
from .polyhedra import PolyhedronShape

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.particles.family import Family


class Octahedron(PolyhedronShape):
    """Regular octahedra of edge L_edge, with corners along the axes of a cube and {111} faces of the cube."""

    name: ClassVar[str] = "octahedron"
    shape: Literal["octahedron"]
    L_edge: SizeDistribution | Size
    axes: Directions = Field(((1, 0, 0), (0, 1, 0)), description="lattice directions of the axes of the cube")
    centre: Centre = Field("random", description=CENTRE)
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("L_edge",)

    def family(self, crystal: Crystal) -> Family:
        normals = np.array(list(product((1.0, -1.0), repeat=3))) @ frame(crystal, self.axes)
        return self.around(self.centre, self.body(normals, np.full(8, 1 / np.sqrt(6))), crystal)
