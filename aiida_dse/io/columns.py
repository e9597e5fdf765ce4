"""The columns of a file of a pattern, before their interpretation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aiida_dse.engine.units import FloatArray

#: Kinds of axes: 2theta in degrees, q in 1/Å, q in 1/nm.
AXES = ("two_theta", "q_inverse_angstrom", "q_inverse_nm")


@dataclass(frozen=True)
class Columns:
    """The columns of a text file before interpretation; columns are numbered from 1."""

    axis: FloatArray
    intensity: FloatArray
    sigma: FloatArray | None
    #: (n,) the line of each point in the file, from 1.
    line_numbers: NDArray[np.int64]
    #: One of AXES where the file names axis and unit.
    axis_hint: str | None
    #: The wavelength (Å) in the header.
    wavelength_hint: float | None
    names: tuple[str, ...] = ()
    #: 'q' or 'two_theta' where the file names only the axis ('Q' without a unit).
    axis_family: str | None = None
    sigma_column: int | None = None
    #: True where sigma follows from the header, the caller, or a file with exactly three columns.
    sigma_is_evident: bool = False
