"""All particle shapes, and the interface that they share."""

from aiida_dse.engine.parameters import Kind

from .cell_spheres import CellSpherePopulation
from .family import MAX_CELLS_ALONG_EDGE, Family, PairCounts
from .parallelepipeds import (
    NEGLIGIBLE_PAIRS,
    ParallelepipedPopulation,
    QuasiCubePopulation,
    SingleParallelepiped,
)
from .spheres import SingleSphere, SpherePopulation

__all__ = [
    "MAX_CELLS_ALONG_EDGE",
    "NEGLIGIBLE_PAIRS",
    "SIZE_PARAMETERS",
    "CellSpherePopulation",
    "Family",
    "PairCounts",
    "ParallelepipedPopulation",
    "QuasiCubePopulation",
    "SingleParallelepiped",
    "SingleSphere",
    "SpherePopulation",
]

#: The names of the size parameters of all shapes.
SIZE_PARAMETERS = frozenset(
    name for family in (ParallelepipedPopulation, QuasiCubePopulation, SpherePopulation)
    for name, kind in family.parameters.items() if kind in (Kind.SIZE, Kind.SIZE_SD))
