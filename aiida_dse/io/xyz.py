"""Reader and writer of XYZ files of particles, plain and extended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aiida_dse.engine.units import FloatArray

from .notes import note
from .text import number, read_text


def read_xyz(path: Path) -> tuple[list[str], FloatArray]:
    """The labels (n,) and positions (n, 3) Å in an XYZ file.

    A label is an element, an ion ('Pb2+'), or an element and a number. The ion of a label is
    determined later, by its letters ('Ca1' is calcium, 'CA1' is refused) or by the 'ions' in the
    document. Raises ValueError with the number of the line that cannot be read.
    """
    return parse_xyz(read_text(path), name=path.name)


def xyz_text(labels: Sequence[str], positions: FloatArray) -> str:
    """The text of an XYZ file with labels (n,) and positions (n, 3) Å, with all digits."""
    rows = (f"{label} {x!r} {y!r} {z!r}"
            for label, (x, y, z) in zip(labels, positions.tolist(), strict=True))
    return "\n".join([str(len(labels)), "", *rows, ""])


def parse_xyz(text: str, *, name: str = "atoms.xyz") -> tuple[list[str], FloatArray]:
    """The labels and positions in the text of an XYZ file; `name` names the file in messages.

    The columns are those of 'Properties' on line 2 of an extended XYZ file, else label, x, y, z.
    """
    lines = text.splitlines()
    try:
        count = int(lines[0].split()[0])
    except (IndexError, ValueError):
        raise ValueError(
            f"{name}, line 1: an XYZ file must start with the number of atoms."
        ) from None
    rows = [line for line in lines[2 : 2 + count] if line.strip()]
    if len(rows) != count or count < 1:
        raise ValueError(
            f"{name} contains {len(rows)} atoms, but its first line specifies {count}. Correct the "
            "number (at least 1) or complete the list."
        )
    rest = [line for line in lines[2 + count:] if line.strip()]
    if rest:
        frames = re.fullmatch(r"\d+", rest[0].strip()) is not None
        raise ValueError(
            f"{name}, line {3 + count}: " + (
                "the file contains several frames, but a phase is one particle. Write the frame "
                "that you want to a file of its own." if frames else
                f"'{rest[0].strip()[:40]}' follows the {count} atoms that the first line "
                "specifies. Correct the number of atoms, or remove the lines after them."))
    comment = lines[1] if len(lines) > 1 else ""
    species, first = _columns(comment, name)
    labels, positions = [], np.empty((count, 3))
    for at, line in enumerate(rows):
        fields = line.split()
        try:
            positions[at] = [number(field) for field in fields[first : first + 3]]
        except ValueError:
            positions[at] = np.nan
        if len(fields) <= max(species, first + 2) or not np.isfinite(positions[at]).all():
            raise ValueError(
                f"{name}, line {at + 3}: '{line.strip()}' is not a row of label, x, y, z with "
                "coordinates in Å, or of the columns that 'Properties' on line 2 lists."
            )
        labels.append(fields[species])
    if re.search(r'pbc\s*=\s*"?[^"]*\b(?:T|True|1)\b', comment):
        note(f"{name} describes a periodic box. Its atoms are computed as one isolated particle, "
             "without periodic images.")
    return labels, positions


def _columns(comment: str, name: str) -> tuple[int, int]:
    """The column of the species and the first column of the positions, from 0."""
    found = re.search(r'Properties\s*=\s*"?([\w:]+)"?', comment, re.I)
    if found is None:
        return 0, 1
    parts, columns, at = found[1].split(":"), {}, 0
    try:
        for key, _, width in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            columns[key.lower()] = at
            at += int(width)
        return columns["species"], columns["pos"]
    except (KeyError, ValueError):
        raise ValueError(
            f"{name}, line 2: 'Properties={found[1]}' does not list the columns 'species:S:1' and "
            "'pos:R:3'. Correct it, or remove it from a file with the columns label, x, y, z."
        ) from None
