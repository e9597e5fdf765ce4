"""Reader of text files of numbers: columns, header, and the information in the header.

Files that cannot be used raise ValueError with the name of the file and, where possible, the line.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from aiida_dse.engine.units import FloatArray

from .columns import AXES, Columns
from .gsas import gsas_columns
from .instruments import instrument_columns
from .notes import note
from .text import read_text

_COMMENT = "#!;%"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[ed][+-]?\d+)?"
_CELL = re.compile(rf"{NUMBER}|[+-]?(?:nan|inf|infinity)", re.I)
_WAVELENGTH = re.compile(
    r"(?:\bwavelength|\blambda|λ)(?![^\W_])[\"']?\s*(?:[(\[]\s*(?P<before>\w*)\s*[)\]])?\s*[:=]?"
    rf"\s*(?P<value>{NUMBER})\s*[(\[]?(?P<after>[^\W\d_]*)",
    re.I,
)
_PLAIN = re.compile(r"[0-9+\-.eE \t]+")
_COMMENT_BEGIN = re.compile("[#!]")
#: Characters of a header line that are kept; longer ones would be searched for minutes.
LONGEST_HEADER = 4000
_ANGSTROM_PER = {"": 1.0, "a": 1.0, "å": 1.0, "nm": 10.0, "pm": 0.01, "m": 1e10}
_AXIS_NAME = re.compile(
    r"(?:q|2\W*θ|(?:2|two)[\W_]*th(?:eta)?|ttheta|tth)(?![^\W_])|(?:x|angle)(?=[\s,(\[_]|$)", re.I
)
_SIGMA_NAME = re.compile(
    r"sigma|σ|esd|uncert|err(?:or)?s?(?![a-z])|(?<![a-z])(?:sig|s\.?u\.?|e|sd|d[iy])(?![a-z])"
)

def read_columns(
    path: str | Path,
    *,
    intensity_column: str | int | None = None,
    sigma_column: str | int | None = None,
    axis_grid: tuple[float, float] | None = None,
) -> Columns:
    """Read the columns of a text file, and the axis, wavelength and names in its header.

    The axis is column 1, or `axis_grid` (start, step) for one number per line; the intensity is
    column 2 unless a column is specified by name or number. Sigma is the specified column, or the
    column with such a name, or an unnamed column 3. Raises ValueError for a file that is not a
    table of numbers.
    """
    path = Path(path)
    _check_file(path)
    if (found := instrument_columns(path)) is not None:
        return found
    lines = _lines(path)
    if (gsas := gsas_columns(path.name, lines)) is not None:
        return gsas
    header, rows, numbers, chi_label = _table(path, lines)
    table = np.array(rows, dtype=float)
    width = table.shape[1]
    names = (chi_label,) if chi_label else _names(header, width)
    _refuse_other_quantities(path, header, names)
    if names and width > 1 and not names[0]:
        raise ValueError(
            f"{path.name}: column 1 has no name and may be a row index, but it must be the axis. "
            f"The columns are {names}. Write the file without the index."
        )
    axis = _grid_axis(path, lines, width, len(rows), axis_grid)
    family, hint = _axis_kind(path, names[0]) if names and width > 1 else (None, None)
    for _, text in header:
        if space := re.search(r"\bintegrationspace\s*=\s*(q|t)", text, re.I):  # SrXgui
            family = family or ("q" if space[1].lower() == "q" else "two_theta")

    first = 0 if width == 1 else 1
    specified = _column(path, intensity_column, names, width, "intensity_column")
    at = first if specified is None else specified
    chosen = _column(path, sigma_column, names, width, "sigma_column")
    if (width > 1 and 0 in (at, chosen)) or at == chosen:
        raise ValueError(
            f"{path.name}: intensity_column is {at + 1} and sigma_column is "
            f"{'not specified' if chosen is None else chosen + 1}; they must differ from each "
            "other and from the axis, column 1."
        )
    named = [i for i, n in enumerate(names) if i > first and _SIGMA_NAME.search(n.lower())]
    by_name = chosen is None and len(named) == 1 and named[0] != at
    unnamed = chosen is None and at == first and width > 2 and len(names) < 3
    where = chosen if chosen is not None else named[0] if by_name else 2 if unnamed else None
    _note_root(path, table, at)
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


def _note_root(path: Path, table: FloatArray, at: int) -> None:
    """Add a note if the intensity in column `at` is the square root of another column."""
    for other in range(1, table.shape[1]):
        positive = table[:, other] > 1
        if other != at and np.count_nonzero(positive) > 2 and np.mean(np.abs(
                table[positive, at] / np.sqrt(table[positive, other]) - 1) < 0.01) > 0.9:
            note(f"{path.name}: column {at + 1} is the square root of column {other + 1}, as if it "
                 f"contained its s.u. Is the intensity column {other + 1}?")


def _table(
    path: Path, lines: list[str]
) -> tuple[list[tuple[int, str]], list[list[float]], list[int], str | None]:
    """The header lines, rows of numbers, their line numbers, and the axis label of a .chi file."""
    chi = _chi_points(lines)
    header: list[tuple[int, str]] = []
    rows: list[list[float]] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        is_header = text[0] in _COMMENT or (chi is not None and number <= 4)
        values = None if is_header else _values(_COMMENT_BEGIN.split(text, maxsplit=1)[0])
        if values is None:
            if rows and not is_header:
                raise ValueError(
                    f"{path.name}, line {number}: {text[:60]!r} is not a row of numbers, although "
                    "it is within the data. Put # before it if it is a comment."
                )
            if not rows:
                header.append((number, text[:LONGEST_HEADER]))
            continue
        if rows and len(values) != len(rows[0]):
            raise ValueError(
                f"{path.name}, line {number}: the line has {len(values)} columns, but line "
                f"{numbers[0]}, the first of the data, has {len(rows[0])}. Correct the line."
            )
        rows.append(values)
        numbers.append(number)
    if not rows:
        shown = f"line {header[0][0]} reads {header[0][1][:60]!r}" if header else "it is empty"
        raise ValueError(
            f"{path.name} contains no row of numbers: {shown}. Separate columns by spaces or "
            "commas and write decimals with a point."
        )
    if chi is not None and chi != len(rows):
        raise ValueError(
            f"{path.name}, line 4: the header specifies {chi} points, but {len(rows)} follow. "
            "Check that the file is complete."
        )
    if len(rows) < 3:
        raise ValueError(f"{path.name} contains {len(rows)} points; a pattern needs at least 3.")
    if header and chi is None and header[-1][0] == numbers[0] - 1:
        _check_last_header_line(path, *header[-1], width=len(rows[0]))
    return header, rows, numbers, lines[1].strip() if chi is not None else None


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a directory. Specify a file in it.")
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is not a file. Correct the path.")


def _lines(path: Path) -> list[str]:
    text = read_text(path)
    return re.split(r"\r\n|\r|\n", text.rstrip("\x1a"))


def _chi_points(lines: list[str]) -> int | None:
    """The number of points on line 4 of a Fit2D .chi header (title, two labels, number).

    None for other files.
    """
    if len(lines) < 5 or any(not s.strip() or _values(s) is not None for s in lines[1:3]):
        return None
    count = lines[3].split()
    announced = len(count) == 1 and len(_values(lines[4].strip()) or ()) > 1
    return int(count[0]) if announced and count[0].isdecimal() else None


def _cells(text: str) -> list[str]:
    # any comma separates cells, so that '1,5 20' is refused instead of being read as numbers
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
    """The numbers of a line (also with Fortran's D exponents); None if a cell is not a number."""
    if _PLAIN.fullmatch(text):  # nearly all lines; the check of each cell takes ten times as long
        try:
            return [float(cell) for cell in text.split()] or None
        except ValueError:
            return None
    cells = _cells(text)
    if not cells or not all(_CELL.fullmatch(cell) for cell in cells):
        return None
    return [float(cell.upper().replace("D", "E")) for cell in cells]


def _check_last_header_line(path: Path, number: int, text: str, *, width: int) -> None:
    """Raise ValueError for a damaged first row ('O.1 200') that could be taken for a header."""
    cells = _cells(text)
    is_names = text[0] in _COMMENT or re.search("[=:]", text) or _names([(0, text)], width)
    if not is_names and len(cells) == width and any(_CELL.fullmatch(cell) for cell in cells):
        raise ValueError(
            f"{path.name}, line {number}: {text[:60]!r} is directly above the data and contains "
            "numbers as well as other text. Correct it, or put # before it if it is a header."
        )


def _names(header: list[tuple[int, str]], width: int) -> tuple[str, ...]:
    """The column names in the last header line that names every column, an axis first; else ()."""
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


#: Names of quantities that are no intensities, with what they are.
_OTHER = {
    r"g\s*\(\s*r\s*\)|pdfgetx?\d?\b.*\bg\b": "G(r), a pair distribution function",
    r"g": "G(r), a pair distribution function",
    r"s\s*\(\s*q\s*\)|s": "S(Q), a structure function",
    r"f\s*\(\s*q\s*\)|f": "F(Q), a reduced structure function",
    r"i\s*\(\s*e\s*\)|energy|e\s*[(\[]?\s*kev.*": "a spectrum against the energy",
}


def _refuse_other_quantities(
    path: Path, header: list[tuple[int, str]], names: tuple[str, ...]
) -> None:
    """Raise ValueError for a file whose header names another axis or another quantity."""
    columns = list(names)
    for _, text in header:
        if match := re.match(r"#\s*L\s+(.*)", text):  # SPEC and PDFgetX3: two spaces between names
            columns = re.split(r"\s{2,}|\t", match[1].strip())
            columns = columns if len(columns) > 1 else match[1].split()
    if not columns:
        return
    if re.match(r"r(?![a-z])", columns[0].strip(), re.I):
        what = "G(r), a pair distribution function, against the distance r"
    else:
        second = columns[1].strip().lower() if len(columns) > 1 else ""
        what = next((meaning for name, meaning in _OTHER.items()
                     if re.fullmatch(rf"(?:{name})(?:\s*[(\[].*)?", second)), "")
    if what:
        raise ValueError(
            f"{path.name}: the header names {' and '.join(columns[:2])}, so the file contains {what}. "
            "The analysis needs the intensity against 2theta or q, before such a transformation."
        )


def _axis_kind(path: Path, label: str) -> tuple[str | None, str | None]:
    """The axis ('q' or 'two_theta') and one of AXES; None where the label does not state them."""
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
    """The wavelength (Å) in the header; None where the header does not state it."""
    wavelength: float | None = None
    for number, text in header:
        for match in _WAVELENGTH.finditer(text):
            value = float(match["value"].upper().replace("D", "E"))
            unit = (match["before"] or match["after"]).lower()
            factor = 1.0 if unit.startswith("ang") else _ANGSTROM_PER.get(unit)
            if factor is None or value <= 0:
                continue
            # pyFAI writes metres without the unit; no wavelength is 1e-10 Å
            value *= 1e10 if not unit and value < 1e-7 else factor
            if wavelength is not None and abs(value / wavelength - 1) > 1e-3:
                raise ValueError(
                    f"{path.name}, line {number}: the wavelength is {value:g} Å, but "
                    f"{wavelength:g} Å in a line above. Remove the wrong one."
                )
            wavelength = value if wavelength is None else wavelength
    return wavelength


def start_and_step(lines: list[str]) -> str:
    """The start and step in the header of a Bruker .uxd file, or an example."""
    found = {}
    for key, name in (("start", "_(?:2THETA)?START"), ("step", "_STEPSIZE")):
        match = re.search(rf"^{name}\s*=\s*({NUMBER})", "\n".join(lines), re.M)
        found[key] = match[1] if match else {"start": "4.0", "step": "0.02"}[key]
    return f"start: {found['start']}, step: {found['step']}"


def _grid_axis(
    path: Path, lines: list[str], width: int, n: int, grid: tuple[float, float] | None
) -> FloatArray | None:
    if width == 1 and grid is None:
        raise ValueError(
            f"{path.name} contains one number per line, that is intensities without an axis. "
            "Specify their axis in the document, in axis units, as in "
            f"'grid: {{{start_and_step(lines)}}}'."
        )
    if grid is None:
        return None
    if width > 1:
        raise ValueError(
            f"{path.name} has {width} columns, one of which is the axis, but the 'grid' "
            f"{tuple(grid)} is for files with one number per line. Remove the grid."
        )
    start, step = grid
    if not (np.isfinite(start) and np.isfinite(step) and step > 0):
        raise ValueError(
            f"the grid has the start {start:g} and the step {step:g}; both must be finite, and "
            "the step positive.")
    return start + step * np.arange(n, dtype=float)


def _column(
    path: Path, which: str | int | None, names: tuple[str, ...], width: int, role: str
) -> int | None:
    """The index (from 0) of a column that is specified by its name or its number (from 1)."""
    if which is None:
        return None
    if isinstance(which, int):
        if 1 <= which <= width:
            return which - 1
    elif names.count(which) == 1:
        return names.index(which)
    raise ValueError(
        f"{path.name}: {role} is {which!r}, but the file has no such column. It has {width} "
        f"columns {f'with the names {names}' if names else 'without names'}, numbered from 1."
    )
