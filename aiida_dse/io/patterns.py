"""Readers of measured powder and total-scattering patterns.

Axis kind, wavelength and sigma are given by the user or found in the file, never guessed; where
both exist they must agree. Every refusal is a ValueError that names the file and, where there is
one, the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiida_dse.engine.units import FloatArray, q_from_two_theta

from .tables import AXES, NUMBER, Columns, read_columns

#: Limits that no x-ray pattern passes; beyond them the unit is wrong.
HIGHEST_Q, LOWEST_Q_MAX = 45.0, 1.0  # 1/Å
WAVELENGTHS = (0.01, 10.0)  # Å

#: Replaces the path of a pattern that consists of arrays.
ARRAYS = Path("the arrays")

_SIGMA_CHOICES = (
    "sigma: column (the file's column 3, or the one in sigma_column), sigma: counts (sqrt(I), raw "
    "counts only), sigma: counts / N (counts divided by N: sqrt(I / N)), or sigma: 2 % (of the "
    "intensity)"
)


@dataclass(frozen=True)
class MeasuredPattern:
    """q (n,) 1/Å, two_theta (n,) degrees (None if the axis was q), intensity, sigma (n,)."""

    q: FloatArray
    two_theta: FloatArray | None
    intensity: FloatArray
    sigma: FloatArray
    axis: str
    wavelength: float
    sigma_origin: str
    source: str


def read_pattern(
    path: str | Path,
    *,
    axis: str | None,
    wavelength: float | None,
    sigma: str | None,
    axis_grid: tuple[float, float] | None = None,
    intensity_column: str | int | None = None,
    sigma_column: str | int | None = None,
    range_: tuple[float, float] | None = None,
    every: int = 1,
) -> MeasuredPattern:
    """A measured pattern, checked point by point.

    axis: one of AXES; wavelength: Å; sigma: 'column', 'counts', 'counts / N' or '2 %'; None
    where the file states it. axis_grid: (start, step) in axis units for a file of bare intensities.
    range_: (low, high) in axis units, both ends kept; points outside are dropped before
    intensity and sigma are checked. every: keep each n-th of the points that remain.

    Raises ValueError where something is missing, contradictory, impossible or not finite.
    """
    path = Path(path)
    _check_choices(axis, range_, every)
    columns = read_columns(
        path, intensity_column=intensity_column, sigma_column=sigma_column, axis_grid=axis_grid
    )
    return _measured(path, columns, axis, wavelength, sigma, range_, every)


def pattern_from_arrays(
    x: ArrayLike,
    intensity: ArrayLike,
    sigma: ArrayLike | str,
    *,
    axis: str,
    wavelength: float,
    range_: tuple[float, float] | None = None,
    every: int = 1,
) -> MeasuredPattern:
    """A pattern from arrays (n,), with the checks of a file; sigma: an array, or a rule.

    Raises ValueError as `read_pattern` does, with the index of the point.
    """
    rule = sigma if isinstance(sigma, str) else None
    given = {"axis": x, "intensity": intensity} | ({} if rule else {"sigma": sigma})
    arrays = {name: np.array(values, dtype=float) for name, values in given.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or arrays["axis"].ndim != 1 or not arrays["axis"].size:
        raise ValueError(
            f"the arrays have the shapes {shapes}; they must be one-dimensional, of one length "
            "and not empty."
        )
    columns = Columns(
        arrays["axis"], arrays["intensity"], arrays.get("sigma"),
        np.arange(len(arrays["axis"]), dtype=np.int64), None, None, sigma_is_evident=rule is None,
    )
    _check_choices(axis, range_, every)
    return _measured(ARRAYS, columns, axis, wavelength, rule, range_, every)


def _measured(
    path: Path,
    columns: Columns,
    axis: str | None,
    wavelength: float | None,
    sigma: str | None,
    range_: tuple[float, float] | None,
    every: int,
) -> MeasuredPattern:
    """The checked pattern in the columns of a file, or in arrays (path: ARRAYS)."""
    axis, wavelength = _settled(path, columns, axis=axis, wavelength=wavelength, sigma=sigma)
    _check_axis(path, columns, axis, wavelength)

    low, high = range_ or (-np.inf, np.inf)
    kept = (columns.axis >= low) & (columns.axis <= high)
    if np.count_nonzero(kept[kept][::every]) < 3:
        raise ValueError(
            f"{path.name}: {np.count_nonzero(kept)} points lie in the range {low:g} to {high:g}, "
            f"every = {every}; at least 3 must remain. The file runs from {columns.axis[0]:g} to "
            f"{columns.axis[-1]:g} ({axis}); the range is in these units."
        )
    x, intensity, lines = columns.axis[kept], columns.intensity[kept], columns.line_numbers[kept]
    _refuse(path, lines, x <= 0, f"{axis} is not positive; exclude it with the range")
    _refuse(path, lines, ~np.isfinite(intensity), "the intensity is not finite (nan or inf)")
    column = None if columns.sigma is None else columns.sigma[kept]
    uncertainty, origin = _uncertainty(path, columns, column, intensity, lines, sigma)
    _refuse(path, lines, ~np.isfinite(uncertainty), "sigma is not finite (nan or inf)")
    _refuse(path, lines, uncertainty <= 0, "sigma is not positive; exclude it with the range")

    x = x[::every]
    if axis == "two_theta":
        q, two_theta = q_from_two_theta(x, wavelength), x
    else:
        q, two_theta = (x / 10 if axis == "q_inverse_nm" else x), None
    return MeasuredPattern(
        q, two_theta, intensity[::every], uncertainty[::every], axis, wavelength, origin, str(path)
    )


def _check_choices(axis: str | None, range_: tuple[float, float] | None, every: int) -> None:
    if axis is not None and axis not in AXES:
        raise ValueError(f"axis: {axis!r} is not known; use one of {', '.join(AXES)}.")
    if range_ is not None and not range_[0] < range_[1]:
        raise ValueError(f"range {range_[0]:g} to {range_[1]:g}: it must be (low, high) with low "
                         f"< high.")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every is {every!r}; it must be a whole number from 1 (all points).")


def _settled(
    path: Path, columns: Columns, *, axis: str | None, wavelength: float | None, sigma: str | None
) -> tuple[str, float]:
    """Axis kind and wavelength (Å), given or found; refuses what is missing or contradictory."""
    missing = []
    hint, family, found = columns.axis_hint, columns.axis_family, columns.wavelength_hint
    if axis is None and hint is None:
        missing.append(f"axis: {' | '.join(AXES)}" + (f" (the file has {family})" if family else ""))
    if wavelength is None and found is None:
        missing.append("wavelength: the wavelength in Å, e.g. wavelength: 0.56456")
    if sigma is None and not columns.sigma_is_evident:
        named = f" (the columns are {columns.names})" if columns.names else ""
        missing.append(f"{_SIGMA_CHOICES}{named}")
    if missing:
        raise ValueError(f"{path.name} does not contain the following facts. Specify them in the "
                         "document:\n  " + "\n  ".join(missing))
    if axis and (hint or family or axis) not in (axis, axis.partition("_inverse")[0]):
        raise ValueError(
            f"{path.name}: the document specifies the axis {axis}, but the file has "
            f"{hint or family}. Correct the wrong one."
        )
    if wavelength and found and abs(wavelength / found - 1) > 1e-3:
        raise ValueError(
            f"{path.name}: the document specifies a wavelength of {wavelength:g} Å, but the file "
            f"has {found:g} Å. Correct the wrong one."
        )
    kind = axis or hint
    value = found if wavelength is None else wavelength
    assert kind is not None and value is not None  # else missing
    if not WAVELENGTHS[0] <= value <= WAVELENGTHS[1]:
        raise ValueError(
            f"{path.name}: the wavelength is {value:g} Å, outside {WAVELENGTHS[0]:g} to "
            f"{WAVELENGTHS[1]:g} Å. Specify it in Å, not in nm or m, nor as an energy."
        )
    return kind, float(value)


def _check_axis(path: Path, columns: Columns, axis: str, wavelength: float) -> None:
    """Finite, strictly increasing, and possible for its unit; over the whole file.

    The range must not hide a wrong unit, so it plays no part here.
    """
    x, lines = columns.axis, columns.line_numbers
    _refuse(path, lines, ~np.isfinite(x), "the axis is not finite (nan or inf)")
    if np.any(falls := np.diff(x) <= 0):
        k = int(np.argmax(falls))
        what = "a duplicated point" if x[k + 1] == x[k] else "not increasing"
        raise ValueError(
            f"{_place(path)} {lines[k + 1]}: {what}: the axis is {x[k + 1]:.10g} after "
            f"{x[k]:.10g} {'at index' if path is ARRAYS else 'on line'} {lines[k]}. Sort and merge "
            "the points."
        )
    top = float(x[-1])
    if axis == "two_theta":
        if top >= 180:
            raise ValueError(
                f"{path.name}: 2theta reaches {top:g} degrees; it must stay below 180. Is this q "
                f"in 1/nm? If so, set axis: q_inverse_nm."
            )
        q_max = float(q_from_two_theta(columns.axis[-1:], wavelength)[0])
        if q_max > HIGHEST_Q:
            raise ValueError(
                f"{path.name}: 2theta = {top:g} degrees at a wavelength of {wavelength:g} Å is q = "
                f"{q_max:.4g} 1/Å; patterns end below {HIGHEST_Q:g} 1/Å. Is the wavelength in nm? "
                f"Specify it in Å."
            )
        return
    q_max = top / 10 if axis == "q_inverse_nm" else top
    ask = "Is this 1/nm? Say axis: q_inverse_nm." if axis != "q_inverse_nm" else "Is it 1/nm?"
    if q_max > (reach := 4 * np.pi / wavelength):
        raise ValueError(
            f"{path.name}: q reaches {q_max:g} 1/Å, but a wavelength of {wavelength:g} Å ends at "
            f"{reach:.4g} 1/Å (back scattering). {ask} Or is the wavelength wrong?"
        )
    if q_max > HIGHEST_Q:
        raise ValueError(
            f"{path.name}: q reaches {q_max:g} 1/Å; patterns end below {HIGHEST_Q:g} 1/Å. {ask}"
        )
    if axis == "q_inverse_nm" and q_max < LOWEST_Q_MAX:
        raise ValueError(
            f"{path.name}: q ends at {top:g} 1/nm = {q_max:g} 1/Å, before any Bragg line "
            f"({LOWEST_Q_MAX:g} 1/Å). Is this 1/Å? If so, set axis: q_inverse_angstrom."
        )


def _uncertainty(
    path: Path,
    columns: Columns,
    column: FloatArray | None,
    intensity: FloatArray,
    lines: NDArray[np.int64],
    sigma: str | None,
) -> tuple[FloatArray, str]:
    """Sigma (n,) by the stated rule, and where it came from."""
    rule = "column" if sigma is None else " ".join(sigma.split())
    if rule == "column":
        if column is None:
            named = f"its columns are {columns.names}" if columns.names else "there is no column 3"
            raise ValueError(
                f"{path.name}: sigma: column, but no column is known to be sigma; {named}. "
                f"Specify sigma_column, or another choice: {_SIGMA_CHOICES}."
            )
        return column, f"column {columns.sigma_column}"
    if counts := re.fullmatch(rf"counts(?: ?/ ?({NUMBER}))?", rule, re.I):
        divisor = float(counts[1] or 1)
        if divisor <= 0:
            raise ValueError(f"sigma: {sigma!r}: the divisor of the counts must be positive.")
        _refuse(path, lines, intensity <= 0, "sqrt(counts) needs positive counts; exclude it")
        origin = "sqrt(counts)" if counts[1] is None else f"sqrt(I / {divisor:g})"
        return np.sqrt(intensity / divisor), origin
    if percent := re.fullmatch(rf"({NUMBER}) ?%", rule):
        share = float(percent[1])
        if not 0 < share <= 100:
            raise ValueError(f"sigma: {sigma!r}: the percentage must lie between 0 and 100.")
        _refuse(path, lines, intensity <= 0, "a share of it needs a positive intensity")
        return intensity * (share / 100), f"{share:g} % of the intensity"
    raise ValueError(f"sigma: {sigma!r} is not known. The choices: {_SIGMA_CHOICES}.")


def _refuse(path: Path, lines: NDArray[np.int64], bad: NDArray[np.bool_], why: str) -> None:
    if np.any(bad):
        where = lines[bad]
        shown = ", ".join(str(n) for n in where[:5]) + (" ..." if where.size > 5 else "")
        raise ValueError(f"{_place(path)} {shown} ({where.size} in all): {why}.")


def _place(path: Path) -> str:
    """Words before the number of a point: its line in a file, or its index in arrays."""
    return "the arrays, index" if path is ARRAYS else f"{path.name}, line"
