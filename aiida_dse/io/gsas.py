"""Reader of GSAS powder data with a constant step or with a column of angles (FXYE, FXY, ESD, STD).

Angles are in centidegrees. Source: the GSAS manual, "Powder data files".
"""

from __future__ import annotations

import re

import numpy as np

from aiida_dse.engine.units import FloatArray

from .columns import Columns
from .text import number

#: Numbers per point of the types with a table of points.
TABLES = {"FXYE": 3, "FXY": 2}


def gsas_columns(name: str, lines: list[str]) -> Columns | None:
    """The columns of a GSAS file; None for files without a BANK record.

    Raises ValueError for several banks, for times of flight, and for incomplete data.
    """
    banks = [k for k, line in enumerate(lines) if line.startswith("BANK") and re.match(r"BANK\s+\d+\s", line)]
    if not banks:
        return None
    if len(banks) > 1:
        raise ValueError(
            f"{name} contains {len(banks)} banks of data (BANK records). Write the bank that you "
            "want to a file of its own.")
    at = banks[0]
    fields = lines[at].split()
    binning = fields[4].upper() if len(fields) > 4 else ""
    kind = fields[-1].upper() if fields[-1].isalpha() and len(fields) > 5 else "STD"
    if binning not in ("CONS", "CONST"):
        raise ValueError(
            f"{name}, line {at + 1}: the binning is '{binning}', which GSAS uses for times of flight "
            "or variable steps; only CONS, angles with a constant step, can be read.")
    n_points = int(fields[2])
    rows = [(k + 1, line) for k, line in enumerate(lines[at + 1:], at + 1) if line.strip()]
    if kind in TABLES:
        table, where = [], []
        for line_number, line in rows:
            try:
                table.append([number(text) for text in line.split()])
            except ValueError:
                raise ValueError(
                    f"{name}, line {line_number}: '{line.strip()[:40]}' is not a row of numbers."
                ) from None
            where.append(line_number)
        if len({len(row) for row in table}) != 1 or len(table[0]) < TABLES[kind]:
            raise ValueError(
                f"{name}: the points after BANK must have {TABLES[kind]} columns ({kind}).")
        values = np.array(table)
        axis: FloatArray = values[:, 0] / 100
        intensity: FloatArray = values[:, 1]
        sigma: FloatArray | None = values[:, 2] if kind == "FXYE" else None
    elif kind in ("ESD", "STD"):
        start, step = number(fields[5]) / 100, number(fields[6]) / 100
        pairs = [(line_number, text) for line_number, line in rows
                 for text in _cells(line, 8)]
        intensity, sigma, where = _packed(name, kind, pairs)
        axis = np.asarray(start + step * np.arange(len(intensity)), dtype=float)
    else:
        raise ValueError(
            f"{name}, line {at + 1}: the type of data '{kind}' cannot be read; the types are FXYE, "
            "FXY, ESD and STD.")
    if len(axis) != n_points:
        raise ValueError(
            f"{name}, line {at + 1}: the BANK record specifies {n_points} points, but {len(axis)} "
            "follow. Check that the file is complete.")
    return Columns(
        axis=axis, intensity=intensity, sigma=sigma,
        line_numbers=np.array(where, dtype=np.int64), axis_hint="two_theta", wavelength_hint=None,
        axis_family="two_theta", sigma_column=None if sigma is None else 3,
        sigma_is_evident=sigma is not None)


def _cells(line: str, width: int) -> list[str]:
    """The fields of a line, each of `width` characters."""
    text = line.rstrip()
    return [text[k : k + width] for k in range(0, len(text), width)]


def _packed(
    name: str, kind: str, cells: list[tuple[int, str]]
) -> tuple[FloatArray, FloatArray | None, list[int]]:
    """Intensity, sigma and line numbers of packed data: pairs (ESD), or a count and a value (STD).

    In STD, the first two characters of a field are the number of detectors; sigma is
    sqrt(I / number).
    """
    try:
        if kind == "ESD":
            values = np.array([number(text) for _, text in cells])
            return values[::2], values[1::2], [line for line, _ in cells[::2]]
        counters = np.array([float(text[:2].strip() or 1) for _, text in cells])
        values = np.array([number(text[2:]) for _, text in cells])
    except ValueError as problem:
        raise ValueError(f"{name}: the data after BANK cannot be read as {kind}: {problem}.") from None
    return values, np.sqrt(np.maximum(values, 1.0) / counters), [line for line, _ in cells]
