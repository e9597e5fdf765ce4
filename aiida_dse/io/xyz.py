"""Reader and writer of XYZ files of particles, plain and extended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aiida_dse.engine.units import FloatArray

from .notes import note
from .text import number, read_text


def read_xyz(path: Path, *, average: bool = False) -> tuple[list[str], FloatArray]:
    """The labels (n,) and positions (n, 3) in Å in an XYZ file; (n_frames, n, 3) if frames are averaged.

    A label is an element, an ion ('Pb2+'), or an element and a number. The ion of a label is
    determined later, by its letters ('Ca1' is calcium, 'CA1' is refused) or by the 'ions' in the
    document. Raises ValueError with the number of the line that cannot be read.
    """
    return parse_xyz(read_text(path), name=path.name, average=average)


def xyz_text(labels: Sequence[str], positions: FloatArray) -> str:
    """The text of an XYZ file with labels (n,) and positions (n, 3) or (n_frames, n, 3) Å, with all digits."""
    frames = []
    for frame in positions.reshape(-1, len(labels), 3).tolist():
        rows = (f"{label} {x!r} {y!r} {z!r}" for label, (x, y, z) in zip(labels, frame, strict=True))
        frames.append("\n".join([str(len(labels)), "", *rows, ""]))
    return "".join(frames)


def parse_xyz(
    text: str, *, name: str = "atoms.xyz", average: bool = False
) -> tuple[list[str], FloatArray]:
    """The labels and positions in the text of an XYZ file; `name` names the file in messages.

    The columns are those of 'Properties' on line 2 of an extended XYZ file, else label, x, y, z. If frames are
    to be averaged, the positions are (n_frames, n, 3). Raises ValueError for several frames that are not, and
    for frames of different atoms.
    """
    lines = text.splitlines()
    labels, first, end = _frame(lines, 0, name)
    frames = [first]
    while end < len(lines):
        if not lines[end].strip():
            end += 1
            continue
        if re.fullmatch(r"\d+", lines[end].strip()) is None:
            raise ValueError(
                f"{name}, line {end + 1}: '{lines[end].strip()[:40]}' follows the {len(labels)} atoms that the "
                "frame declares. Correct the number of atoms, or remove the lines after them.")
        if not average:
            raise ValueError(
                f"{name}, line {end + 1}: the file contains several frames, but a phase is one particle. Write the "
                "frame that you want to a file of its own, or specify 'frames: average' for the phase to average "
                "the patterns of all frames.")
        others, positions, end = _frame(lines, end, name)
        if others != labels:
            where = next((k for k, (one, other) in enumerate(zip(labels, others, strict=False)) if one != other),
                         min(len(labels), len(others)))
            raise ValueError(
                f"{name}: frame {len(frames) + 1} (atoms: {len(others)}) lists other atoms than the first frame "
                f"(atoms: {len(labels)}), from atom {where + 1} on. All frames must list the same atoms in the same "
                "order. Write other particles to files of their own, and specify each as a phase.")
        frames.append(positions)
    if not average:
        return labels, first
    note(f"{name} contains {len(frames)} frames, whose patterns are averaged. The displacements "
         "between the frames are part of the average, so B_iso must not contain them.")
    return labels, np.array(frames)


def _frame(lines: Sequence[str], begin: int, name: str) -> tuple[list[str], FloatArray, int]:
    """The labels, the positions and the end of the frame that begins at a line."""
    try:
        count = int(lines[begin].split()[0])
    except (IndexError, ValueError):
        raise ValueError(
            f"{name}, line {begin + 1}: an XYZ file must start with the number of atoms."
        ) from None
    rows = [line for line in lines[begin + 2 : begin + 2 + count] if line.strip()]
    if len(rows) != count or count < 1:
        raise ValueError(
            f"{name} contains {len(rows)} atoms where line {begin + 1} specifies {count}. Correct the "
            "number (at least 1) or complete the list."
        )
    comment = lines[begin + 1] if len(lines) > begin + 1 else ""
    species, first = _columns(comment, name, begin + 2)
    labels, positions = [], np.empty((count, 3))
    for at, line in enumerate(rows):
        fields = line.split()
        try:
            positions[at] = [number(field) for field in fields[first : first + 3]]
        except ValueError:
            positions[at] = np.nan
        if len(fields) <= max(species, first + 2) or not np.isfinite(positions[at]).all():
            raise ValueError(
                f"{name}, line {begin + at + 3}: '{line.strip()}' is not a row of label, x, y, z with "
                "coordinates in Å, or of the columns that 'Properties' lists."
            )
        labels.append(fields[species])
    if begin == 0 and re.search(r'pbc\s*=\s*"?[^"]*\b(?:T|True|1)\b', comment):
        note(f"{name} describes a periodic box. Its atoms are computed as one isolated particle, "
             "without periodic images.")
    return labels, positions, begin + 2 + count


def _columns(comment: str, name: str, line: int) -> tuple[int, int]:
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
            f"{name}, line {line}: 'Properties={found[1]}' does not list the columns 'species:S:1' and "
            "'pos:R:3'. Correct it, or remove it from a file with the columns label, x, y, z."
        ) from None
