"""All particle shapes, and the interface that they share."""

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
    "MAX_CELLS_ALONG_EDGE", "NEGLIGIBLE_PAIRS", "CellSpherePopulation", "Family", "PairCounts",
    "ParallelepipedPopulation", "QuasiCubePopulation", "SingleParallelepiped", "SingleSphere",
    "SpherePopulation",
]
