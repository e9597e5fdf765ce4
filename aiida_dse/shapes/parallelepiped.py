"""Parallelepipeds of whole cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from aiida_dse.sections import Positive

from .axes import Share
from .base import LARGEST, Shape, SizeDistribution

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.particles.family import Family


class Parallelepiped(Shape):
    """Parallelepipeds of whole cells: one of n_a x n_b x n_c cells, or a population L_ab x L_c."""

    name: ClassVar[str] = "parallelepiped"
    shape: Literal["parallelepiped"]
    cells: tuple[int, int, int] | None = None
    L_ab: SizeDistribution | None = None
    L_c: SizeDistribution | None = None
    size_axes_rotation: Annotated[float, Field(ge=-90, le=90)] = Field(
        0.0, description="degrees by which the axes of the bivariate size distribution are rotated"
    )
    largest: Positive | None = Field(None, description=LARGEST)
    extension: tuple[Share, Share, Share] = Field(
        (0.0, 0.0, 0.0), description="how far, in cells, the far faces along a, b and c lie beyond whole cells, so "
        "that they contain the same atoms as the opposite faces; the sizes are those of the whole cells"
    )
    size_fields: ClassVar[tuple[str, ...]] = ("L_ab", "L_c")

    @model_validator(mode="after")
    def _one_way(self) -> Parallelepiped:
        lengths = (self.L_ab, self.L_c)
        if (self.cells is None) == (lengths == (None, None)) or (
            self.cells is None and None in lengths
        ):
            raise ValueError(
                "a parallelepiped needs either 'cells: [n_a, n_b, n_c]', or both 'L_ab' and 'L_c' "
                "(each {mean, sd} in nm)"
            )
        return self

    def family(self, crystal: Crystal) -> Family:
        from aiida_dse.engine.particles.open_parallelepipeds import OpenParallelepiped
        from aiida_dse.engine.particles.parallelepipeds import (
            ParallelepipedPopulation,
            SingleParallelepiped,
        )

        closed = ParallelepipedPopulation(self.largest or np.inf) if self.cells is None else \
            SingleParallelepiped(self.cells)
        return OpenParallelepiped(closed, self.extension) if any(self.extension) else closed

    def start(self) -> dict[str, float]:
        rotation = {} if self.cells else {"size_axes_rotation": self.size_axes_rotation}
        return super().start() | rotation
