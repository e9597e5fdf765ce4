"""Directions of a crystal along which shapes are oriented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.units import FloatArray

#: A lattice direction [u, v, w], and two of them.
Direction = tuple[int, int, int]
Directions = tuple[Direction, Direction]
#: The ratio of two dimensions.
Aspect = Annotated[float, Field(ge=0.01, le=100)]
#: A fraction between 0 and 1.
Share = Annotated[float, Field(ge=0, le=1)]


def unit_vectors(crystal: Crystal, directions: tuple[Direction, ...]) -> FloatArray:
    """The unit vectors (n, 3) along lattice directions, in the Cartesian axes of the cell.

    Raises ValueError for a direction of no length.
    """
    vectors = np.array(directions, dtype=float) @ crystal.cell.matrix.T
    lengths = np.linalg.norm(vectors, axis=1)
    if not (lengths > 0).all():
        raise ValueError("the lattice direction [0, 0, 0] is the null vector. Specify another direction.")
    return np.asarray(vectors / lengths[:, None])


def frame(crystal: Crystal, directions: Directions) -> FloatArray:
    """Three perpendicular unit vectors as rows (3, 3).

    The first is that of the first direction, the second lies in the plane of both. Raises ValueError for
    parallel directions.
    """
    first, other = unit_vectors(crystal, directions)
    second = other - (other @ first) * first
    length = float(np.linalg.norm(second))
    if length < 1e-6:
        raise ValueError(f"the axes {list(map(list, directions))} are parallel. Specify two directions that "
                         "are not parallel.")
    second = second / length
    return np.array([first, second, np.cross(first, second)])
