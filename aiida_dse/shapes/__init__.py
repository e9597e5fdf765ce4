"""Particle shapes, one per module: the section of documents, the particles and their statistics."""

from .base import Shape, SizeDistribution
from .parallelepiped import Parallelepiped
from .quasi_cube import QuasiCube
from .sphere import Sphere

#: The shapes by their names, in the order in which messages list them.
SHAPES: dict[str, type[Shape]] = {shape.name: shape for shape in (
    Parallelepiped, QuasiCube, Sphere)}

__all__ = ["SHAPES", "Shape", "SizeDistribution", *(shape.__name__ for shape in SHAPES.values())]
