"""Reader of structures: CIF files, and the files of other programs that ASE reads."""

from __future__ import annotations

import warnings
from pathlib import Path

from aiida_dse.engine.crystal.structure import Crystal

from .conversions import crystal_from_ase
from .notes import note
from .structures import read_cif
from .text import read_text

#: Suffix -> format of ASE. ASE knows more formats; some of them run the content of the file as a program,
#: and its reader of .res files ignores their symmetry operations.
FORMATS = {".vasp": "vasp", ".poscar": "vasp", ".xsf": "xsf", ".extxyz": "extxyz", ".xyz": "extxyz",
           ".gen": "gen"}
#: Beginning of the name of files without a suffix -> format of ASE.
NAMES = {"POSCAR": "vasp", "CONTCAR": "vasp"}
#: Largest size (bytes) of such a file; a cell of 10 000 atoms has 1 MB.
MOST_BYTES = 5_000_000


def format_of(path: Path) -> str | None:
    """The format of ASE for a file, by its name; None for a CIF."""
    if path.suffix.lower() in (".cif", ".mcif"):
        return None
    return FORMATS.get(path.suffix.lower()) or next(
        (kind for begin, kind in NAMES.items() if path.name.startswith(begin)), None)


def read_structure(path: Path, *, block: str | None = None) -> Crystal:
    """The crystal in a CIF, or in another file that describes a periodic structure (`FORMATS`).

    Other files contain all atoms of the cell: the symmetry is determined from them, and ions,
    occupancies and B_iso are missing. Raises ValueError for a file that cannot be read, and for
    atoms that are not periodic.
    """
    kind = format_of(path)
    if kind is None:
        return read_cif(path, block=block)
    import ase.io

    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size / 1e6:.1f} MB; the limit for structures that are "
                         f"not CIF files is {MOST_BYTES / 1e6:.0f} MB. Use a smaller cell, or a CIF.")
    _check_number_of_atoms(path, kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = ase.io.read(path, index=0, format=kind, do_not_split_by_at_sign=True)
    except Exception as problem:  # the readers of ASE do not share a base class of errors
        raise ValueError(f"{path.name} cannot be read as a structure in the format '{kind}': "
                         f"{' '.join(str(problem).split())[:200] or type(problem).__name__}.") from None
    crystal = crystal_from_ase(atoms, name=path.name)
    note(f"{path.name} was read in the format '{kind}': {len(atoms)} atoms in the cell, {len(crystal.operations)} "
         "symmetry operations. It contains no ions and no B_iso; specify 'ions' and 'B_iso' of the phase.")
    return crystal


def _check_number_of_atoms(path: Path, kind: str) -> None:
    """Refuse a number of atoms that the file cannot contain; ASE would reserve memory or time for it."""
    lines = read_text(path).splitlines()
    for line in lines[5:7] if kind == "vasp" else lines[:1]:
        fields = line.split() if kind == "vasp" else line.split()[:1]
        if fields and all(field.isdecimal() for field in fields):
            announced = sum(int(field[:12]) for field in fields)
            if announced > len(lines):
                raise ValueError(f"{path.name} announces {announced:,} atoms, but has {len(lines)} lines. Correct "
                                 "the numbers of atoms, or complete the file.")
            return
