"""Cubes with truncated corners."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from aiida_dse.sections import Positive, Size

from .axes import Directions, frame
from .base import CENTRE, LARGEST, Centre, SizeDistribution
from .polyhedra import PolyhedronShape

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.particles.family import Family


class TruncatedCube(PolyhedronShape):
    """Cubes of edge L_edge whose corners are cut off by {111} faces.

    `truncation` is the fraction of the edge that is cut off at each of its ends: 0 is a cube and 0.5 a
    cuboctahedron.
    """

    name: ClassVar[str] = "truncated_cube"
    shape: Literal["truncated_cube"]
    L_edge: SizeDistribution | Size
    truncation: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    axes: Directions = Field(((1, 0, 0), (0, 1, 0)), description="lattice directions of the axes of the cube")
    centre: Centre = Field("random", description=CENTRE)
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("L_edge",)

    def family(self, crystal: Crystal) -> Family:
        cube = np.vstack([np.eye(3), -np.eye(3)])
        corners = np.array(list(product((1.0, -1.0), repeat=3)))
        distances = [0.5] * 6 + [(1.5 - self.truncation) / np.sqrt(3)] * 8
        # faces that touch the cube in a corner only do not cut it
        used = 14 if self.truncation > 0 else 6
        normals = np.vstack([cube, corners])[:used] @ frame(crystal, self.axes)
        return self.around(self.centre, self.body(normals, np.array(distances[:used])), crystal)
