"""Convex polyhedra with a random centre, by the covariogram along each difference vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .base import Shape

if TYPE_CHECKING:
    from aiida_dse.engine.parameters import Kind
    from aiida_dse.engine.particles.bodies import Overlap
    from aiida_dse.engine.particles.covariograms import Polyhedron, Rays
    from aiida_dse.engine.particles.size_distributions import Lengths
    from aiida_dse.engine.resources import Resources
    from aiida_dse.engine.units import FloatArray


@dataclass(frozen=True, eq=False)
class PolyhedronBody:
    """A polyhedron with one size, in units of which its faces are specified; `size` is its name."""

    size: str
    polyhedron: Polyhedron
    parameters: ClassVar[Mapping[str, Kind]] = {}
    spherical: ClassVar[bool] = False

    @property
    def cost(self) -> float:
        return 10.0 * len(self.polyhedron.normals) ** 3

    @property
    def powers(self) -> Mapping[str, int]:
        return {self.size: 3}

    def volume(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> float:
        from aiida_dse.engine.particles.bodies import mean_power

        return self.polyhedron.volume * mean_power(lengths[self.size], 3)

    def extent(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> float:
        return lengths[self.size] * self.polyhedron.extent

    def gauge(self, vectors: FloatArray, others: Mapping[str, float]) -> FloatArray:
        """The size (n,) of the smallest polyhedron that contains the end of each vector (n, 3), nm."""
        return np.asarray((vectors @ self.polyhedron.normals.T / self.polyhedron.distances).max(axis=1))

    def radius(self, length: float, others: Mapping[str, float]) -> float:
        """The largest distance of a corner from the centre, nm."""
        return length * float(np.linalg.norm(self.polyhedron.corners(), axis=1).max())

    def overlap(self, vectors: FloatArray, others: Mapping[str, float], resources: Resources) -> Overlap:
        from aiida_dse.engine.particles.covariograms import rays

        length = np.linalg.norm(vectors, axis=1)
        directions = vectors / np.maximum(length, 1e-12)[:, None]
        directions[length < 1e-12] = (0, 0, 1)
        return PolyhedronOverlap(self.size, length, rays(self.polyhedron, directions, resources))

    def measures(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        from aiida_dse.engine.particles.bodies import compact_measures

        size = lengths[self.size]
        return compact_measures(self.polyhedron.volume * size**3, self.polyhedron.surface * size**2)


@dataclass(frozen=True)
class PolyhedronOverlap:
    """The overlap of a polyhedron along the directions of vectors of known lengths (nm)."""

    size: str
    length: FloatArray
    rays: Rays

    def mean(self, lengths: Mapping[str, Lengths]) -> FloatArray:
        return self.rays.mean_overlap(self.length, lengths[self.size])


class PolyhedronShape(Shape):
    """A shape with the faces of a polyhedron."""

    def body(self, normals: FloatArray, distances: FloatArray) -> PolyhedronBody:
        """The body with faces of these normals (n, 3) at these distances (n,) in units of the size.

        Raises ValueError for bodies that are not closed or do not contain their centre.
        """
        from aiida_dse.engine.particles.covariograms import Polyhedron

        unit = normals / np.linalg.norm(normals, axis=1)[:, None]
        return PolyhedronBody(self.size_fields[0], Polyhedron(unit, np.asarray(distances, dtype=float)))
