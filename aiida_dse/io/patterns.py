"""Readers of measured powder and total-scattering patterns.

The kind of axis, the wavelength and sigma are specified by the user or read from the file, but
never guessed; where both exist, they must agree. Patterns that cannot be used raise ValueError with
the name of the file and, where possible, the line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiida_dse.engine.units import FloatArray, q_from_two_theta

from .columns import AXES, Columns
from .notes import note
from .tables import NUMBER, read_columns

#: Limits of X-ray patterns; beyond them, the unit must be wrong.
HIGHEST_Q, LOWEST_Q_MAX = 45.0, 1.0  # 1/Å
WAVELENGTHS = (0.01, 10.0)  # Å

#: Number of counts below which sqrt(counts) is a biased estimate of sigma, and the fraction of such
#: points that is accepted without a note.
FEW_COUNTS, FEW_POINTS = 50, 0.02
#: Intensity with which pyFAI and others mark masked points.
DUMMY = -1.0

#: The path of a pattern from arrays.
ARRAYS = Path("the arrays")

_SIGMA_CHOICES = (
    "sigma: column (column 3 of the file, or that in sigma_column), sigma: counts (sqrt(I), for "
    "raw counts only), sigma: counts / N (sqrt(I / N), for counts divided by N), or "
    "sigma: 2 % (of the intensity)"
)


@dataclass(frozen=True)
class MeasuredPattern:
    """A measured pattern of n points that has passed all checks."""

    q: FloatArray  # (n,) 1/Å
    two_theta: FloatArray | None  # (n,) degrees; None if the axis was q
    intensity: FloatArray  # (n,)
    sigma: FloatArray  # (n,)
    axis: str
    wavelength: float  # Å
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
    exclude: Sequence[tuple[float, float]] = (),
    every: int = 1,
    sigma_required: bool = True,
) -> MeasuredPattern:
    """Read a measured pattern from a file and check it point by point.

    `axis` is one of AXES, `wavelength` is in Å, and `sigma` is 'column', 'counts', 'counts / N' or
    '2 %'; each may be None where the file states it. `axis_grid` is (start, step) in axis units for
    a file of intensities only. `range_` is (low, high) in axis units, both included, and `exclude`
    lists regions of the same form; points outside the range or inside an excluded region are
    dropped before intensity and sigma are checked. Points that the file flags as invalid
    (`flagged`) are left out with a note. `every` keeps every n-th of the remaining points. Where
    sigma is not required, as for a blank, sigma is 0 where it is unknown.

    Raises ValueError where something is missing, contradictory, impossible or not finite.
    """
    path = Path(path)
    _check_choices(axis, range_, every)
    columns = read_columns(
        path, intensity_column=intensity_column, sigma_column=sigma_column, axis_grid=axis_grid
    )
    return _measured(path, columns, axis, wavelength, sigma, range_, exclude, every,
                     sigma_required)


def pattern_from_arrays(
    x: ArrayLike,
    intensity: ArrayLike,
    sigma: ArrayLike | str,
    *,
    axis: str,
    wavelength: float,
    range_: tuple[float, float] | None = None,
    exclude: Sequence[tuple[float, float]] = (),
    every: int = 1,
) -> MeasuredPattern:
    """A measured pattern from arrays (n,), with the checks of `read_pattern`.

    `sigma` is an array or one of the rules of `read_pattern`. Raises ValueError as `read_pattern`
    does, with the index of the point.
    """
    rule = sigma if isinstance(sigma, str) else None
    columns_by_name = {"axis": x, "intensity": intensity} | ({} if rule else {"sigma": sigma})
    arrays = {name: np.array(values, dtype=float) for name, values in columns_by_name.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or arrays["axis"].ndim != 1 or not arrays["axis"].size:
        raise ValueError(
            f"the arrays have the shapes {shapes}; they must be one-dimensional, of equal length "
            "and not empty."
        )
    columns = Columns(
        arrays["axis"], arrays["intensity"], arrays.get("sigma"),
        np.arange(len(arrays["axis"]), dtype=np.int64), None, None, sigma_is_evident=rule is None,
    )
    _check_choices(axis, range_, every)
    return _measured(ARRAYS, columns, axis, wavelength, rule, range_, exclude, every)


def _measured(
    path: Path,
    columns: Columns,
    axis: str | None,
    wavelength: float | None,
    sigma: str | None,
    range_: tuple[float, float] | None,
    exclude: Sequence[tuple[float, float]],
    every: int,
    sigma_required: bool = True,
) -> MeasuredPattern:
    """The checked pattern from the columns of a file, or from arrays (path: ARRAYS)."""
    axis, wavelength = _settled(path, columns, axis=axis, wavelength=wavelength, sigma=sigma,
                                sigma_required=sigma_required)
    _check_axis(path, columns, axis, wavelength)

    low, high = range_ or (-np.inf, np.inf)
    kept = (columns.axis >= low) & (columns.axis <= high)
    for first, last in exclude:
        kept &= (columns.axis < first) | (columns.axis > last)
    counted = sigma is not None and sigma.strip().lower().startswith("counts")
    by_column = sigma_required and " ".join((sigma or "column").split()) == "column"
    invalid = kept & flagged(columns.intensity, columns.sigma if by_column else None,
                             counts=counted)
    if np.any(invalid):
        _check_flags(path, columns, invalid, kept)
        kept &= ~invalid
    if np.count_nonzero(kept[kept][::every]) < 3:
        raise ValueError(
            f"{path.name}: too few points remain, because {np.count_nonzero(kept)} points lie in "
            f"the range {low:g} to {high:g} (without invalid and excluded ones) and every = {every}; "
            "at least 3 are needed. The file "
            f"runs from {columns.axis[0]:g} to {columns.axis[-1]:g} ({axis}); specify the range in "
            "these units."
        )
    x, intensity, lines = columns.axis[kept], columns.intensity[kept], columns.line_numbers[kept]
    _refuse(path, lines, x <= 0, f"{axis} is not positive; exclude it with the range")
    _refuse(path, lines, ~np.isfinite(intensity), "the intensity is infinite")
    column = None if columns.sigma is None else columns.sigma[kept]
    if sigma_required or column is not None or sigma is not None:
        uncertainty, origin = _uncertainty(path, columns, column, intensity, lines, sigma)
    else:
        uncertainty, origin = np.zeros(len(x)), "unknown"
    if sigma_required:
        _refuse(path, lines, ~np.isfinite(uncertainty), "sigma is infinite")
        _refuse(path, lines, uncertainty <= 0, "sigma is not positive; exclude it with 'exclude'")
    uncertainty = np.where(np.isfinite(uncertainty), np.maximum(uncertainty, 0.0), 0.0)
    if not by_column and columns.sigma_is_evident and column is not None \
            and columns.sigma_column is not None and np.median(column) > 0:
        note(f"{path.name}: column {columns.sigma_column}, which appears to contain the s.u. of the "
             f"intensities, is not used, because the document specifies sigma: {sigma}.")
    if sigma_required and np.ptp(uncertainty) <= 1e-9 * uncertainty.max() \
            and intensity.max() > 2 * abs(intensity.min()):
        note(f"{path.name}: sigma is the same for all points, {uncertainty[0]:g}, although the "
             "intensity is not. If the intensities are counts, specify sigma: counts; a constant "
             "sigma gives wrong weights and a GoF without meaning.")

    x = x[::every]
    if axis == "two_theta":
        q, two_theta = q_from_two_theta(x, wavelength), x
    else:
        q, two_theta = (x / 10 if axis == "q_inverse_nm" else x), None
    return MeasuredPattern(
        q, two_theta, intensity[::every], uncertainty[::every], axis, wavelength, origin, str(path)
    )


def flagged(
    intensity: FloatArray, sigma: FloatArray | None, *, counts: bool = False
) -> NDArray[np.bool_]:
    """A mask (n,) of points that a file marks as invalid instead of leaving them out.

    These are points without an intensity or sigma (nan), points with sigma = 0, and the dummy
    intensity -1 where counts cannot be negative. Intensities of zero are valid.
    """
    found = np.isnan(intensity)
    if counts:
        found |= intensity == DUMMY
    elif sigma is not None:
        found |= np.isnan(sigma) | (sigma == 0)
    return np.asarray(found)


def _check_flags(
    path: Path, columns: Columns, invalid: NDArray[np.bool_], kept: NDArray[np.bool_]
) -> None:
    """Add a note about invalid points; raise ValueError if they are the majority."""
    number, total = np.count_nonzero(invalid), np.count_nonzero(kept)
    if 2 * number > total:
        zero = columns.sigma is not None and not np.any(columns.sigma[kept] > 0)
        raise ValueError(
            f"{path.name}: "
            + (f"column {columns.sigma_column}" if columns.sigma_column else "sigma")
            + " contains no standard uncertainties, because it is never positive. Specify "
            f"the origin of sigma: {_SIGMA_CHOICES}." if zero else
            f"{path.name}: {number} of {total} points are marked as invalid (nan, or sigma = 0). "
            "Check that the columns are those of the intensity and its sigma.")
    regions = ", ".join(f"{columns.axis[a]:g} to {columns.axis[b]:g}"
                        for a, b in _runs(invalid, most=4))
    note(f"{path.name}: {number} of {total} points are marked as invalid (nan, sigma = 0 or a dummy "
         f"value) and were left out: {regions}.")


def _runs(mask: NDArray[np.bool_], *, most: int) -> list[tuple[int, int]]:
    """The first and last index of runs of true values, at most `most` of them."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)][:most]


def _check_choices(axis: str | None, range_: tuple[float, float] | None, every: int) -> None:
    if axis is not None and axis not in AXES:
        raise ValueError(f"the axis {axis!r} is unknown; use one of {', '.join(AXES)}.")
    if range_ is not None and not range_[0] < range_[1]:
        raise ValueError(f"the range is {range_[0]:g} to {range_[1]:g}; it must be (low, high) "
                         "with low < high.")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(
            f"every is {every!r}; it must be a whole number of at least 1 (1 keeps all points)."
        )


def _settled(
    path: Path, columns: Columns, *, axis: str | None, wavelength: float | None, sigma: str | None,
    sigma_required: bool,
) -> tuple[str, float]:
    """The kind of axis and the wavelength (Å), specified by the user or read from the file.

    Raises ValueError where one of them or sigma is missing, or where they contradict the file.
    """
    missing = []
    hint, family, found = columns.axis_hint, columns.axis_family, columns.wavelength_hint
    if axis is None and hint is None:
        file_has = f" (the file has {family})" if family else ""
        missing.append(f"axis: {' | '.join(AXES)}{file_has}")
    if wavelength is None and found is None:
        missing.append("wavelength: the wavelength in Å, for example wavelength: 0.56456")
    if sigma is None and sigma_required and not columns.sigma_is_evident:
        named = f" (the columns are {columns.names})" if columns.names else ""
        missing.append(f"{_SIGMA_CHOICES}{named}")
    if missing:
        raise ValueError(f"{path.name} lacks the following information. Specify it in the "
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
    assert kind is not None and value is not None  # checked above
    if not WAVELENGTHS[0] <= value <= WAVELENGTHS[1]:
        raise ValueError(
            f"{path.name}: the wavelength is {value:g} Å; it must lie between {WAVELENGTHS[0]:g} "
            f"and {WAVELENGTHS[1]:g} Å. Specify it in Å, not in nm or m, nor as an energy."
        )
    return kind, float(value)


def _check_axis(path: Path, columns: Columns, axis: str, wavelength: float) -> None:
    """Raise ValueError unless the axis is finite, strictly increasing and possible for its unit.

    The whole file is checked, because the range must not hide a wrong unit.
    """
    x, lines = columns.axis, columns.line_numbers
    _refuse(path, lines, ~np.isfinite(x), "the axis is not finite (nan or inf)")
    if np.any(falls := np.diff(x) <= 0):
        k = int(np.argmax(falls))
        what = "has a duplicated point" if x[k + 1] == x[k] else "is not increasing"
        raise ValueError(
            f"{_place(path)} {lines[k + 1]}: the axis {what}: {x[k + 1]:.10g} after "
            f"{x[k]:.10g} {'at index' if path is ARRAYS else 'on line'} {lines[k]}. Sort the "
            "points and merge duplicates."
        )
    top = float(x[-1])
    if axis == "two_theta":
        if top >= 180:
            raise ValueError(
                f"{path.name}: 2theta reaches {top:g} degrees; it must be below 180. If the axis "
                "is q in 1/nm, specify axis: q_inverse_nm."
            )
        q_max = float(q_from_two_theta(columns.axis[-1:], wavelength)[0])
        if q_max > HIGHEST_Q:
            raise ValueError(
                f"{path.name}: 2theta = {top:g} degrees at a wavelength of {wavelength:g} Å is q = "
                f"{q_max:.4g} 1/Å, but the limit of patterns is {HIGHEST_Q:g} 1/Å. Specify the "
                "wavelength in Å, not in nm."
            )
        return
    q_max = top / 10 if axis == "q_inverse_nm" else top
    unit = ("If q is in 1/nm, specify axis: q_inverse_nm" if axis != "q_inverse_nm"
            else "Check that q is in 1/nm")
    if q_max > (reach := 4 * np.pi / wavelength):
        raise ValueError(
            f"{path.name}: q reaches {q_max:g} 1/Å, but the limit for a wavelength of "
            f"{wavelength:g} Å is {reach:.4g} 1/Å (backscattering). {unit}, or correct the "
            "wavelength."
        )
    if q_max > HIGHEST_Q:
        raise ValueError(
            f"{path.name}: q reaches {q_max:g} 1/Å, but the limit of patterns is {HIGHEST_Q:g} "
            f"1/Å. {unit}."
        )
    if axis == "q_inverse_nm" and q_max < LOWEST_Q_MAX:
        raise ValueError(
            f"{path.name}: q ends at {top:g} 1/nm = {q_max:g} 1/Å, before any Bragg reflection "
            f"({LOWEST_Q_MAX:g} 1/Å). If q is in 1/Å, specify axis: q_inverse_angstrom."
        )


def _uncertainty(
    path: Path,
    columns: Columns,
    column: FloatArray | None,
    intensity: FloatArray,
    lines: NDArray[np.int64],
    sigma: str | None,
) -> tuple[FloatArray, str]:
    """Sigma (n,) by the specified rule, and a description of its origin."""
    rule = "column" if sigma is None else " ".join(sigma.split())
    if rule == "column":
        if column is None:
            named = (f"the columns are {columns.names}" if columns.names
                     else "the file has no column 3")
            raise ValueError(
                f"{path.name}: the document specifies sigma: column, but no column is known to "
                f"contain sigma ({named}). Specify sigma_column, or another choice: "
                f"{_SIGMA_CHOICES}."
            )
        return column, f"column {columns.sigma_column}"
    if counts := re.fullmatch(rf"counts(?: ?/ ?({NUMBER}))?", rule, re.I):
        divisor = float(counts[1] or 1)
        if divisor <= 0:
            raise ValueError(
                f"sigma is {sigma!r}, but the divisor of the counts must be positive.")
        _refuse(path, lines, intensity < 0,
                "the counts are negative, so they are not counts; exclude them with 'exclude', or "
                "specify another sigma")
        origin = "sqrt(counts)" if counts[1] is None else f"sqrt(I / {divisor:g})"
        few = float(np.mean(intensity * divisor < FEW_COUNTS))
        if counts[1] is None and np.mean(np.abs(intensity - np.round(intensity)) > 1e-3) > FEW_POINTS:
            note(f"{path.name}: the intensities are not whole numbers, so they may not be counts, and "
                 "sqrt(I) may not be their s.u.; the GoF would then have no meaning. If they are "
                 "counts divided by N, specify sigma: counts / N.")
        elif few > FEW_POINTS:
            note(f"{path.name}: {100 * few:.0f} % of the points have fewer than {FEW_COUNTS} counts. "
                 "There, sqrt(counts) gives low counts too much weight, which biases the background "
                 "and the scales. Refine with 'weights: calculated' (in the section refinement), "
                 "which takes sigma from the calculated pattern.")
        # a point without counts has the s.u. of one count
        return np.sqrt(np.maximum(intensity * divisor, 1.0)) / divisor, origin
    if percent := re.fullmatch(rf"({NUMBER}) ?%", rule):
        share = float(percent[1])
        if not 0 < share <= 100:
            raise ValueError(f"sigma is {sigma!r}, but the percentage must lie between 0 and 100.")
        _refuse(path, lines, intensity <= 0,
                "the intensity is not positive, as a percentage of it requires; exclude it with "
                "'exclude'")
        return intensity * (share / 100), f"{share:g} % of the intensity"
    raise ValueError(f"the rule sigma: {sigma!r} is unknown. The choices are {_SIGMA_CHOICES}.")


def _refuse(path: Path, lines: NDArray[np.int64], bad: NDArray[np.bool_], why: str) -> None:
    """Raise ValueError with the first lines of the `bad` points, if there are any."""
    if np.any(bad):
        where = lines[bad]
        shown = ", ".join(str(n) for n in where[:5]) + (" ..." if where.size > 5 else "")
        raise ValueError(f"{_place(path)} {shown} ({where.size} in all): {why}.")


def _place(path: Path) -> str:
    """The text before the number of a point: its line in a file, or its index in arrays."""
    return "the arrays, index" if path is ARRAYS else f"{path.name}, line"
