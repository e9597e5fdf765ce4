"""Reader of text files of numbers: columns, header, and the facts in the header.

Every refusal is a ValueError that names the file and, where there is one, the line.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aiida_dse.engine.units import FloatArray

#: Kinds of axis: 2theta in degrees, q in 1/Å, q in 1/nm.
AXES = ("two_theta", "q_inverse_angstrom", "q_inverse_nm")

_COMMENT = "#!;%"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[ed][+-]?\d+)?"
_CELL = re.compile(rf"{NUMBER}|[+-]?(?:nan|inf|infinity)", re.I)
_WAVELENGTH = re.compile(
    r"(?:\bwavelength|\blambda|λ)(?![^\W_])[\"']?\s*(?:[(\[]\s*(?P<before>\w*)\s*[)\]])?\s*[:=]?"
    rf"\s*(?P<value>{NUMBER})\s*[(\[]?(?P<after>[^\W\d_]*)",
    re.I,
)
_ANGSTROM_PER = {"": 1.0, "a": 1.0, "å": 1.0, "nm": 10.0, "pm": 0.01, "m": 1e10}
_AXIS_NAME = re.compile(
    r"(?:q|2\W*θ|(?:2|two)[\W_]*th(?:eta)?|ttheta|tth)(?![^\W_])|(?:x|angle)(?=[\s,(\[_]|$)", re.I
)
_SIGMA_NAME = re.compile(
    r"sigma|σ|esd|uncert|err(?:or)?s?(?![a-z])|(?<![a-z])(?:sig|s\.?u\.?|e|sd|d[iy])(?![a-z])"
)

@dataclass(frozen=True)
class Columns:
    """Content of a text file before interpretation; columns are counted from 1."""

    axis: FloatArray
    intensity: FloatArray
    sigma: FloatArray | None
    #: (n,) line of each point in the file, from 1.
    line_numbers: NDArray[np.int64]
    #: One of AXES where the file names axis and unit.
    axis_hint: str | None
    #: Å
    wavelength_hint: float | None
    names: tuple[str, ...] = ()
    #: 'q' or 'two_theta' where the file contains only that ('Q' without a unit).
    axis_family: str | None = None
    sigma_column: int | None = None
    #: True where the header, the caller, or a file of just three columns makes it sigma.
    sigma_is_evident: bool = False


def read_columns(
    path: str | Path,
    *,
    intensity_column: str | int | None = None,
    sigma_column: str | int | None = None,
    axis_grid: tuple[float, float] | None = None,
) -> Columns:
    """The numbers of a text file and the facts in its header.

    The axis is column 1 (or axis_grid for one number per line), the intensity column 2 unless
    named or numbered from 1. Sigma is the column that is given, or the one with such a name, or
    an unnamed column 3. Raises ValueError for what is not a table of numbers.
    """
    path = Path(path)
    header, rows, numbers, chi_label = _table(path)
    table = np.array(rows, dtype=float)
    width = table.shape[1]
    names = (chi_label,) if chi_label else _names(header, width)
    if names and width > 1 and not names[0]:
        raise ValueError(
            f"{path.name}: column 1 has no name (a row index?), but the axis must come first. "
            f"The columns are {names}; write the file without the index."
        )
    axis = _grid_axis(path, width, len(rows), axis_grid)
    family, hint = _axis_kind(path, names[0]) if names and width > 1 else (None, None)
    for _, text in header:
        if space := re.search(r"\bintegrationspace\s*=\s*(q|t)", text, re.I):  # SrXgui
            family = family or ("q" if space[1].lower() == "q" else "two_theta")

    first = 0 if width == 1 else 1
    given = _column(path, intensity_column, names, width, "intensity_column")
    at = first if given is None else given
    chosen = _column(path, sigma_column, names, width, "sigma_column")
    if (width > 1 and 0 in (at, chosen)) or at == chosen:
        raise ValueError(
            f"{path.name}: intensity_column {at + 1} and sigma_column "
            f"{'-' if chosen is None else chosen + 1} must differ from each other and from the "
            "axis, column 1."
        )
    named = [i for i, n in enumerate(names) if i > first and _SIGMA_NAME.search(n.lower())]
    by_name = chosen is None and len(named) == 1 and named[0] != at
    unnamed = chosen is None and at == first and width > 2 and len(names) < 3
    where = chosen if chosen is not None else named[0] if by_name else 2 if unnamed else None
    return Columns(
        axis=table[:, 0] if axis is None else axis,
        intensity=table[:, at],
        sigma=None if where is None else table[:, where],
        line_numbers=np.array(numbers, dtype=np.int64),
        axis_hint=hint,
        wavelength_hint=_wavelength(path, header),
        names=names,
        axis_family=family,
        sigma_column=None if where is None else where + 1,
        sigma_is_evident=where is not None and (not unnamed or width == 3),
    )


def _table(
    path: Path,
) -> tuple[list[tuple[int, str]], list[list[float]], list[int], str | None]:
    """Header lines, rows of numbers, the rows' line numbers, and the axis label of a .chi file."""
    lines = _lines(path)
    chi = _chi_points(lines)
    header: list[tuple[int, str]] = []
    rows: list[list[float]] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        is_header = text[0] in _COMMENT or (chi is not None and number <= 4)
        values = None if is_header else _values(re.split("[#!]", text)[0])
        if values is None:
            if rows and not is_header:
                raise ValueError(
                    f"{path.name}, line {number}: {text[:60]!r} is not a row of numbers, in the "
                    "middle of the data. Put # before it if it is a remark."
                )
            if not rows:
                header.append((number, text))
            continue
        if rows and len(values) != len(rows[0]):
            raise ValueError(
                f"{path.name}, line {number}: {len(values)} columns, but the data began with "
                f"{len(rows[0])} on line {numbers[0]}."
            )
        rows.append(values)
        numbers.append(number)
    if not rows:
        shown = f"line {header[0][0]} reads {header[0][1][:60]!r}" if header else "it is empty"
        raise ValueError(
            f"{path.name} holds no row of numbers: {shown}. Separate columns by spaces or commas "
            "and write decimals with a point."
        )
    if chi is not None and chi != len(rows):
        raise ValueError(
            f"{path.name}, line 4 announces {chi} points, but {len(rows)} follow: is it cut off?"
        )
    if len(rows) < 3:
        raise ValueError(f"{path.name} holds {len(rows)} points; a pattern needs at least 3.")
    if header and chi is None and header[-1][0] == numbers[0] - 1:
        _check_last_header_line(path, *header[-1], width=len(rows[0]))
    return header, rows, numbers, lines[1].strip() if chi is not None else None


def _lines(path: Path) -> list[str]:
    if path.is_dir():
        raise ValueError(f"{path} is a directory; specify a pattern file in it.")
    if not path.is_file():
        raise ValueError(f"{path} does not exist (or is not a file).")
    raw = path.read_bytes()
    if re.search(rb"[\x00-\x08\x0e-\x19\x1b-\x1f]", raw):
        raise ValueError(f"{path.name} is a binary file (or UTF-16); export it as plain text.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return re.split(r"\r\n|\r|\n", text.rstrip("\x1a"))


def _chi_points(lines: list[str]) -> int | None:
    """The number of points on line 4 of a Fit2D .chi header (title, two labels, number)."""
    if len(lines) < 5 or any(not s.strip() or _values(s) is not None for s in lines[1:3]):
        return None
    count = lines[3].split()
    announced = len(count) == 1 and len(_values(lines[4].strip()) or ()) > 1
    return int(count[0]) if announced and count[0].isdecimal() else None


def _cells(text: str) -> list[str]:
    # A comma separates cells wherever there is one, so that '1,5 20' is refused, not four numbers.
    if "," not in text:
        return text.split()
    try:
        cells = next(csv.reader([text], skipinitialspace=True))
    except csv.Error as problem:
        raise ValueError(
            f"a line of {len(text)} characters cannot be split into columns ({problem}). "
            "Export the pattern as a table with one point per line."
        ) from None
    return [cell.strip() for cell in cells]


def _values(text: str) -> list[float] | None:
    """The numbers of a line (Fortran's D exponents too), or None if a cell is no number."""
    cells = _cells(text)
    if not cells or not all(_CELL.fullmatch(cell) for cell in cells):
        return None
    return [float(cell.upper().replace("D", "E")) for cell in cells]


def _check_last_header_line(path: Path, number: int, text: str, *, width: int) -> None:
    """A damaged first row ('O.1 200') must not pass for a header."""
    cells = _cells(text)
    is_names = text[0] in _COMMENT or re.search("[=:]", text) or _names([(0, text)], width)
    if not is_names and len(cells) == width and any(_CELL.fullmatch(cell) for cell in cells):
        raise ValueError(
            f"{path.name}, line {number}: {text[:60]!r} is directly above the data and consists "
            f"of numbers only in part. Correct it, or put # before it if it is a header."
        )


def _names(header: list[tuple[int, str]], width: int) -> tuple[str, ...]:
    """Column names: the last header line with a name for each column, the first one an axis."""
    for _, text in reversed(header):
        bare = re.sub(r"^[#!;%\s]*(?:L\s)?", "", text).split(";")[0].strip()
        names = tuple(_cells(re.sub(r"\s+([(\[])", r"\1", bare)))
        if len(names) != width or "=" in names:
            continue
        is_comment, has_numbers = text[0] in _COMMENT, any(map(_CELL.fullmatch, names))
        if _AXIS_NAME.match(bare) and not (is_comment and has_numbers):
            return names
        if "," in text and not is_comment and not has_numbers:
            return names
    return ()


def _axis_kind(path: Path, label: str) -> tuple[str | None, str | None]:
    """('q' or 'two_theta', one of AXES), each None if the label does not contain it."""
    text = label.strip().lower()
    if text in AXES:
        return text.partition("_inverse")[0], text
    if re.match(r"(?:2|two)[\W_]*(?:th|θ)|tth", text):
        if re.search(r"(?<![a-z])rad(?!ial)", text):
            raise ValueError(f"{path.name}: the axis is {label!r}; convert it to degrees.")
        return "two_theta", "two_theta"
    if not re.match(r"q(?![a-z])", text):
        return None, None
    nm = bool(re.search(r"nm|nanomet", text))
    angstrom = bool(re.search(r"å|angstr|(?<![a-z])(?:ang|a)(?![a-z])", text))
    return "q", {(True, False): AXES[2], (False, True): AXES[1]}.get((nm, angstrom))


def _wavelength(path: Path, header: list[tuple[int, str]]) -> float | None:
    """The wavelength (Å) stated in the header, None where there is none."""
    found: float | None = None
    for number, text in header:
        for match in _WAVELENGTH.finditer(text):
            value = float(match["value"].upper().replace("D", "E"))
            unit = (match["before"] or match["after"]).lower()
            factor = 1.0 if unit.startswith("ang") else _ANGSTROM_PER.get(unit)
            if factor is None or value <= 0:
                continue
            # pyFAI writes metres without saying so; no wavelength is 1e-10 Å.
            value *= 1e10 if not unit and value < 1e-7 else factor
            if found is not None and abs(value / found - 1) > 1e-3:
                raise ValueError(
                    f"{path.name}, line {number}: wavelength {value:g} Å, but {found:g} Å above. "
                    f"Remove the wrong one."
                )
            found = value if found is None else found
    return found


def _grid_axis(
    path: Path, width: int, n: int, grid: tuple[float, float] | None
) -> FloatArray | None:
    if width == 1 and grid is None:
        raise ValueError(
            f"{path.name} holds one number per line, intensities without an axis. Specify "
            f"axis_grid: [start, step] in axis units."
        )
    if grid is None:
        return None
    if width > 1:
        raise ValueError(
            f"{path.name} has {width} columns, its own axis among them; axis_grid "
            f"{tuple(grid)} is for files of one number per line. Remove axis_grid."
        )
    start, step = grid
    if not (np.isfinite(start) and np.isfinite(step) and step > 0):
        raise ValueError(f"axis_grid start {start:g}, step {step:g}: the step must be positive.")
    return start + step * np.arange(n, dtype=float)


def _column(
    path: Path, which: str | int | None, names: tuple[str, ...], width: int, role: str
) -> int | None:
    """The index from 0 of a column given by name or number from 1."""
    if which is None:
        return None
    if isinstance(which, int):
        if 1 <= which <= width:
            return which - 1
    elif names.count(which) == 1:
        return names.index(which)
    raise ValueError(
        f"{path.name}: {role} {which!r} is not there; the file has {width} columns"
        f"{f', named {names}' if names else ' without names'} (numbers count from 1)."
    )
