"""Ellipsoids with a random centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from aiida_dse.sections import Positive, Size

from .axes import Aspect, Directions, frame
from .base import CENTRE, LARGEST, Centre, Shape, SizeDistribution

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.parameters import Kind
    from aiida_dse.engine.particles.bodies import Overlap
    from aiida_dse.engine.particles.family import Family
    from aiida_dse.engine.particles.size_distributions import Lengths
    from aiida_dse.engine.resources import Resources
    from aiida_dse.engine.units import FloatArray


class Ellipsoid(Shape):
    """Ellipsoids of the diameters D, D aspect_2 and D aspect_3 along three perpendicular directions.

    The first direction is that of the first axis; the second lies in the plane of both axes.
    """

    name: ClassVar[str] = "ellipsoid"
    shape: Literal["ellipsoid"]
    D: SizeDistribution | Size
    aspect_2: Aspect = 1.0
    aspect_3: Aspect = 1.0
    axes: Directions = Field(((1, 0, 0), (0, 1, 0)), description="lattice directions [u, v, w]")
    centre: Centre = Field("random", description=CENTRE)
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("D",)

    def family(self, crystal: Crystal) -> Family:
        return self.around(self.centre, EllipsoidBody(frame(crystal, self.axes)), crystal)

    def start(self) -> dict[str, float]:
        return super().start() | {"aspect_2": self.aspect_2, "aspect_3": self.aspect_3}


@dataclass(frozen=True, eq=False)
class EllipsoidBody:
    """The ellipsoid; its principal directions are the rows of `axes` (3, 3)."""

    axes: FloatArray
    powers: ClassVar[Mapping[str, int]] = {"D": 3}
    spherical: ClassVar[bool] = False
    cost: ClassVar[float] = 10.0

    @property
    def parameters(self) -> Mapping[str, Kind]:
        from aiida_dse.engine.parameters import Kind

        return {"aspect_2": Kind.ASPECT, "aspect_3": Kind.ASPECT}

    def volume(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> float:
        from aiida_dse.engine.particles.bodies import mean_power

        return np.pi / 6 * others["aspect_2"] * others["aspect_3"] * mean_power(lengths["D"], 3)

    def extent(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> float:
        return lengths["D"] * max(1.0, others["aspect_2"], others["aspect_3"])

    def gauge(self, vectors: FloatArray, others: Mapping[str, float]) -> FloatArray:
        """The diameter D (n,) of the smallest ellipsoid that contains the end of each vector (n, 3), nm."""
        factors = np.array([1.0, others["aspect_2"], others["aspect_3"]])
        return np.asarray(2 * np.linalg.norm(vectors @ self.axes.T / factors, axis=1))

    def radius(self, length: float, others: Mapping[str, float]) -> float:
        """The largest semi-axis, nm."""
        return self.extent({"D": length}, others) / 2

    def overlap(self, vectors: FloatArray, others: Mapping[str, float], resources: Resources) -> Overlap:
        from aiida_dse.engine.particles.bodies import ComputedOverlap

        factors = np.array([1.0, others["aspect_2"], others["aspect_3"]])
        r = np.linalg.norm(vectors @ self.axes.T / factors, axis=1)
        return ComputedOverlap(lambda lengths: factors.prod() * ball_overlap(r, lengths["D"]))

    def measures(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        from aiida_dse.engine.particles.bodies import compact_measures

        a = lengths["D"] / 2 * np.array([1.0, others["aspect_2"], others["aspect_3"]])
        return compact_measures(float(4 / 3 * np.pi * a.prod()), surface(a))


def ball_overlap(r: FloatArray, diameter: Lengths) -> FloatArray:
    """The mean volume (n,) nm^3 that balls share with their copies shifted by r (n,) nm."""
    return np.asarray(np.pi / 6 * diameter.moment_beyond(3, r) - np.pi / 4 * r * diameter.moment_beyond(2, r)
                      + np.pi / 12 * r**3 * diameter.moment_beyond(0, r))


def surface(semi_axes: FloatArray) -> float:
    """The surface of an ellipsoid, by Legendre's integral over directions (error below 1e-9)."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    angle = np.arange(120) * np.pi / 60
    across = np.sqrt(1 - nodes[:, None] ** 2)
    normal = np.stack([across * np.cos(angle), across * np.sin(angle), nodes[:, None] + 0 * angle])
    stretched = np.linalg.norm(normal / semi_axes[:, None, None], axis=0)
    return float(semi_axes.prod() * np.sum(weights[:, None] * stretched) * np.pi / 60)
