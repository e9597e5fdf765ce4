"""Boxes with a random centre, along any lattice directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from aiida_dse.sections import Positive, Size

from .axes import Direction, unit_vectors
from .base import LARGEST, Shape, SizeDistribution
from .cylinder import height_overlap

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.parameters import Kind
    from aiida_dse.engine.particles.bodies import Overlap
    from aiida_dse.engine.particles.family import Family
    from aiida_dse.engine.particles.size_distributions import Lengths
    from aiida_dse.engine.resources import Resources
    from aiida_dse.engine.units import FloatArray


class Box(Shape):
    """Boxes with the edges L_1, L_2 and L_3 along three lattice directions.

    L_12 is the common length of the first two edges. The directions need not be perpendicular.
    """

    name: ClassVar[str] = "box"
    shape: Literal["box"]
    L_1: SizeDistribution | Size | None = None
    L_2: SizeDistribution | Size | None = None
    L_12: SizeDistribution | Size | None = None
    L_3: SizeDistribution | Size
    axes: tuple[Direction, Direction, Direction] = Field(
        ((1, 0, 0), (0, 1, 0), (0, 0, 1)), description="lattice directions [u, v, w] of the edges")
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("L_1", "L_2", "L_12", "L_3")

    @model_validator(mode="after")
    def _three_edges(self) -> Box:
        if (self.L_12 is None) != (self.L_1 is not None and self.L_2 is not None) or (
                self.L_12 is not None and (self.L_1, self.L_2) != (None, None)):
            raise ValueError("a box needs either 'L_12' and 'L_3', or 'L_1', 'L_2' and 'L_3'")
        return self

    def family(self, crystal: Crystal) -> Family:
        vectors = unit_vectors(crystal, self.axes)
        if abs(np.linalg.det(vectors)) < 1e-6:
            raise ValueError(f"the axes {list(map(list, self.axes))} lie in one plane. Specify three directions "
                             "that are not coplanar.")
        return self.random_centre(BoxBody(vectors, self.L_12 is not None))


@dataclass(frozen=True, eq=False)
class BoxBody:
    """The box along the unit vectors `axes` (3, 3), its rows; `square`: the first two edges are equal."""

    axes: FloatArray
    square: bool
    parameters: ClassVar[Mapping[str, Kind]] = {}
    spherical: ClassVar[bool] = False
    cost: ClassVar[float] = 10.0

    @property
    def powers(self) -> Mapping[str, int]:
        return {"L_12": 2, "L_3": 1} if self.square else {"L_1": 1, "L_2": 1, "L_3": 1}

    @property
    def _skew(self) -> float:
        """The volume of the box of unit edges."""
        return float(abs(np.linalg.det(self.axes)))

    def volume(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> float:
        from aiida_dse.engine.particles.bodies import mean_power

        return self._skew * float(np.prod([mean_power(lengths[name], power)
                                           for name, power in self.powers.items()]))

    def _edges(self, lengths: Mapping[str, float]) -> FloatArray:
        first = (lengths["L_12"],) * 2 if self.square else (lengths["L_1"], lengths["L_2"])
        return np.array([*first, lengths["L_3"]])

    def extent(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> float:
        signs = np.array([(1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1)])
        return float(np.linalg.norm(signs * self._edges(lengths) @ self.axes, axis=1).max())

    def overlap(self, vectors: FloatArray, others: Mapping[str, float], resources: Resources) -> Overlap:
        from aiida_dse.engine.particles.bodies import ComputedOverlap

        x, y, z = np.abs(np.linalg.solve(self.axes.T, vectors.T))

        def mean(lengths: Mapping[str, Lengths]) -> FloatArray:
            height = self._skew * height_overlap(z, lengths["L_3"])
            if not self.square:
                return height * height_overlap(x, lengths["L_1"]) * height_overlap(y, lengths["L_2"])
            edge, longer = lengths["L_12"], np.maximum(x, y)
            return height * (edge.moment_beyond(2, longer) - (x + y) * edge.moment_beyond(1, longer)
                             + x * y * edge.moment_beyond(0, longer))

        return ComputedOverlap(mean)

    def measures(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        from aiida_dse.engine.particles.bodies import compact_measures

        a, b, c = self._edges(lengths)[:, None] * self.axes
        surface = 2 * sum(np.linalg.norm(np.cross(one, two)) for one, two in ((a, b), (b, c), (a, c)))
        found = compact_measures(float(abs(np.dot(a, np.cross(b, c)))), float(surface))
        # as for parallelepipeds of whole cells: the size of a cuboid in the sizing curve
        return found | {"confinement_diameter": 2 * found["edge"] / float(np.sqrt(3))}
