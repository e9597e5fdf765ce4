"""Particle shapes, one per module: the section of documents, the particles and their statistics."""

from .base import Shape, SizeDistribution
from .box import Box
from .core_shell import CoreShell
from .cylinder import Cylinder
from .ellipsoid import Ellipsoid
from .hexagonal_prism import HexagonalPrism
from .octahedron import Octahedron
from .parallelepiped import Parallelepiped
from .polyhedron import Polyhedron
from .quasi_cube import QuasiCube
from .sphere import Sphere
from .tetrahedron import Tetrahedron
from .truncated_cube import TruncatedCube

#: The shapes by their names, in the order in which messages list them.
SHAPES: dict[str, type[Shape]] = {shape.name: shape for shape in (
    Parallelepiped, QuasiCube, Sphere, CoreShell, Ellipsoid, Cylinder, Box, Octahedron, Tetrahedron, TruncatedCube,
    HexagonalPrism, Polyhedron)}

__all__ = ["SHAPES", "Shape", "SizeDistribution", *(shape.__name__ for shape in SHAPES.values())]
