"""Polyhedra with any crystal faces (Wulff bodies)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from aiida_dse.sections import Positive, Section, Size

from .base import CENTRE, LARGEST, Centre, SizeDistribution
from .polyhedra import PolyhedronShape

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.particles.family import Family


class Form(Section):
    """The faces that the point group of the crystal generates from (hkl)."""

    hkl: tuple[int, int, int]
    distance: Positive = Field(description="distance of the faces from the centre, in any unit; for an "
                               "equilibrium (Wulff) shape, the surface energy of the face")


class Polyhedron(PolyhedronShape):
    """Polyhedra with the faces of one or several crystal forms.

    D is the diameter of the sphere of equal volume; only the ratios of the distances matter.
    """

    name: ClassVar[str] = "polyhedron"
    shape: Literal["polyhedron"]
    D: SizeDistribution | Size
    forms: Annotated[tuple[Form, ...], Field(min_length=1, max_length=8)]
    centre: Centre = Field("random", description=CENTRE)
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("D",)

    def family(self, crystal: Crystal) -> Family:
        faces: dict[tuple[float, ...], tuple[np.ndarray, float]] = {}
        reciprocal = np.linalg.inv(crystal.cell.matrix)
        for form in self.forms:
            if not any(form.hkl):
                raise ValueError("hkl = [0, 0, 0] is not a face. Specify Miller indices that are not all 0.")
            for op in crystal.symmetry:
                # the face (h k l) R of the image of a crystal under the operation R
                normal = np.array(form.hkl) @ op.rotation @ reciprocal
                normal = normal / np.linalg.norm(normal)
                key = tuple((np.round(normal, 8) + 0.0).tolist())
                known = faces.get(key)
                if known is None or form.distance < known[1]:
                    faces[key] = (normal, form.distance)
        if len(faces) > MOST_FACES:
            raise ValueError(f"the forms have {len(faces)} faces; at most {MOST_FACES} are possible. Omit a form.")
        normals = np.array([normal for normal, _ in faces.values()])
        distances = np.array([distance for _, distance in faces.values()])
        body = self.body(normals, distances / distances.min())
        size = (6 * body.polyhedron.volume / np.pi) ** (1 / 3)
        distances = distances / distances.min() / size
        shown = self.body(normals, distances).polyhedron.areas() > 0
        return self.around(self.centre, self.body(normals[shown], distances[shown]), crystal)


#: Largest number of faces; the time of the calculation increases with its cube.
MOST_FACES = 60
