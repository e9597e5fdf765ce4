"""The class Pattern for notebooks: measured patterns and blanks from arrays or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from aiida_dse.documents.model import AxisKind
from aiida_dse.io.patterns import MeasuredPattern, pattern_from_arrays, read_pattern

Polarisation = Literal["none", "unpolarised"] | Mapping[str, Any]
#: Keys of `measurement`, as in the section of a pattern in documents.
MEASUREMENT = ("absorption", "compton", "corrected", "instrument")


def measurement_section(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys of the section of a pattern for `measurement`; ValueError for others."""
    if unknown := set(given or {}) - set(MEASUREMENT):
        raise ValueError(f"measurement has the keys {', '.join(map(repr, sorted(unknown)))}; possible are "
                         f"{', '.join(MEASUREMENT)}.")
    return dict(given or {})


@dataclass(frozen=True, eq=False, repr=False)
class Pattern:
    """A measured pattern or blank: intensities (n,) and their s.u. on an increasing axis (n,).

    x: q in 1/Å unless `axis` is 'two_theta' (degrees) or 'q_inverse_nm'; sigma: (n,), or one of the
    rules 'counts', 'counts / N' and 'p %'; wavelength: Å; range: (low, high) and exclude: regions
    (low, high) that are left out, in units of the axis; every: use every n-th point; polarisation:
    'none' for corrected data, 'unpolarised' multiplies the model by (1 + cos^2 2theta) / 2, or a
    mapping as in documents; measurement: absorption, compton, corrected and instrument as in
    documents (docs/measurement.md); axis_confirmed: skip the comparison of the peak positions with
    the structures. Raises ValueError with the indices of invalid points.
    """

    x: ArrayLike
    intensity: ArrayLike
    sigma: ArrayLike | str
    _: KW_ONLY
    wavelength: float
    axis: AxisKind = "q_inverse_angstrom"
    range: tuple[float, float] | None = None
    exclude: Sequence[tuple[float, float]] = ()
    every: int = 1
    polarisation: Polarisation = "none"
    measurement: Mapping[str, Any] | None = None
    axis_confirmed: bool = False
    #: The points that are used.
    measured: MeasuredPattern = field(init=False)

    def __post_init__(self) -> None:
        found = pattern_from_arrays(
            self.x, self.intensity, self.sigma, axis=self.axis, wavelength=self.wavelength,
            range_=self.range, exclude=self.exclude, every=self.every,
        )
        axis = "two_theta" if found.two_theta is not None else "q_inverse_angstrom"
        object.__setattr__(self, "measured", replace(found, axis=axis))

    @classmethod
    def read(
        cls, path: str | Path, *, axis: AxisKind | None = None, wavelength: float | None = None,
        sigma: str | None = None, range: tuple[float, float] | None = None,
        exclude: Sequence[tuple[float, float]] = (), every: int = 1,
        intensity_column: str | int | None = None, sigma_column: str | int | None = None,
        grid: tuple[float, float] | None = None, polarisation: Polarisation = "none",
        measurement: Mapping[str, Any] | None = None, axis_confirmed: bool = False,
    ) -> Pattern:
        """Read a pattern from a text file; specify axis, wavelength and sigma unless it does.

        sigma: 'column' or a rule; columns: number from 1, or name; grid: (start, step) of a file
        that contains intensities only. Raises ValueError with the numbers of invalid lines.
        """
        found = read_pattern(
            path, axis=axis, wavelength=wavelength, sigma=sigma, axis_grid=grid, range_=range,
            exclude=exclude, every=every, intensity_column=intensity_column, sigma_column=sigma_column,
        )
        by_angle = found.two_theta is not None
        return cls(
            found.two_theta if by_angle else found.q, found.intensity, found.sigma,  # type: ignore[arg-type]
            wavelength=found.wavelength, axis="two_theta" if by_angle else "q_inverse_angstrom",
            polarisation=polarisation, measurement=measurement, axis_confirmed=axis_confirmed,
        )

    def __repr__(self) -> str:
        q = self.measured.q
        return (f"Pattern({len(q)} points, q = {q[0]:.4g} ... {q[-1]:.4g} 1/Å, wavelength "
                f"{self.wavelength:g} Å, sigma: {self.measured.sigma_origin})")

    def content(self, file: str) -> dict[str, Any]:
        """The document's 'pattern' section for points in `file`."""
        return self.curve(file) | measurement_section(self.measurement) | {
            "polarisation": self.polarisation, "axis_confirmed": self.axis_confirmed}

    def curve(self, file: str) -> dict[str, Any]:
        """The document's section of a blank with points in `file`."""
        return {"file": file, "axis": self.measured.axis, "wavelength": self.measured.wavelength,
                "sigma": "column"}

    @cached_property
    def text(self) -> bytes:
        """The points used, as a file of three columns with all digits."""
        found = self.measured
        x = found.q if found.two_theta is None else found.two_theta
        rows = np.c_[x, found.intensity, found.sigma].tolist()
        return "".join(f"{a!r} {b!r} {c!r}\n" for a, b, c in rows).encode()
