"""Regular tetrahedra."""

from __future__ import annotations

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


class Tetrahedron(PolyhedronShape):
    """Regular tetrahedra of edge L_edge, with the faces (111), (1-1-1), (-11-1) and (-1-11) of a cube.

    A tetrahedron and its inverse have the same pattern for every structure, because both share the same
    volume with their shifted copies; the pattern does not determine the polarity of the faces.
    """

    name: ClassVar[str] = "tetrahedron"
    shape: Literal["tetrahedron"]
    L_edge: SizeDistribution | Size
    axes: Directions = Field(((1, 0, 0), (0, 1, 0)), description="lattice directions of the axes of the cube")
    centre: Centre = Field("random", description=CENTRE)
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("L_edge",)

    def family(self, crystal: Crystal) -> Family:
        faces = np.array([(1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0)])
        normals = faces @ frame(crystal, self.axes)
        return self.around(self.centre, self.body(normals, np.full(4, 1 / np.sqrt(24))), crystal)
