"""Conversion of CIF, XYZ, pymatgen, ASE and gemmi objects to structures for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.io.conversions import crystal_from_ase, crystal_from_gemmi, crystal_from_pymatgen
from aiida_dse.io.distances import read_distances
from aiida_dse.io.structure_files import read_structure
from aiida_dse.io.structures import parse_cif
from aiida_dse.io.xyz import parse_xyz, read_xyz
from aiida_dse.tasks.sources import Atoms, Structure

KNOWN = (
    "a crystal is a CIF (path or text), a POSCAR, XSF or GEN file (path), a pymatgen Structure, periodic ASE "
    "Atoms, a gemmi SmallStructure or crystal_from_sites(...); a list of atoms an XYZ file (path or text), ASE "
    "Atoms, a pymatgen Molecule or (labels, positions in Å)"
)


def as_crystal(source: Any, *, name: str = "structure", block: str | None = None) -> Crystal:
    """The crystal in a CIF (path or text), in a file such as POSCAR, or a pymatgen, ASE or gemmi object.

    Setting and labels are kept. name: name in errors and results if there is no file; block: data
    block of a CIF with several. Raises ValueError if the source is no crystal, or its cell,
    symmetry, labels or species are invalid.
    """
    if isinstance(source, Crystal):
        return source
    if isinstance(source, str) and "\n" in source:
        return parse_cif(source, name=f"{name}.cif", block=block)
    if isinstance(source, str | Path):
        return read_structure(Path(source), block=block)
    if isinstance(source, gemmi.SmallStructure):
        return crystal_from_gemmi(source, name=name)
    if _is_ase(source):
        return crystal_from_ase(source, name=name)
    if hasattr(source, "lattice") and hasattr(source, "frac_coords"):
        return crystal_from_pymatgen(source, name=name)
    raise ValueError(f"{name}: {type(source).__name__} is no crystal; {KNOWN}.")


def as_atoms(source: Any, *, name: str = "atoms", average: bool = False) -> Atoms:
    """The atoms in an XYZ file (path or text), ASE Atoms, a pymatgen Molecule or two arrays.

    The arrays are labels (n,), elements with an optional number ('Br1'), and positions (n, 3), or
    (n_frames, n, 3), in Å. `average`: average the patterns of all frames of an XYZ file.
    Raises ValueError if the source is no list of atoms.
    """
    if isinstance(source, Atoms):
        return source
    if isinstance(source, str | Path):
        is_text = isinstance(source, str) and "\n" in source
        labels, positions = (parse_xyz(str(source), name=f"{name}.xyz", average=average) if is_text
                             else read_xyz(Path(source), average=average))
        return Atoms(tuple(labels), positions)
    if _is_ase(source):
        source = source.arrays.get("label", source.get_chemical_symbols()), source.get_positions()
    elif hasattr(source, "cart_coords") and hasattr(source, "species"):
        source = [str(one) for one in source.species], source.cart_coords
    try:
        labels, positions = source
        found = Atoms(tuple(str(label) for label in labels), np.array(positions, dtype=float))
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {type(source).__name__} is no list of atoms; {KNOWN}.") from None
    if found.positions.shape[-2:] != (len(found.labels), 3) or found.positions.ndim > 3 or not found.labels \
            or not np.isfinite(found.positions).all():
        raise ValueError(
            f"{name}: there are {len(found.labels)} labels and positions of shape "
            f"{found.positions.shape}; positions must be finite, of shape (n, 3), or (n_frames, n, 3), in Å."
        )
    return found


def as_structure(
    source: Any, *, name: str, block: str | None, in_particle: bool, average: bool = False
) -> Structure:
    """The structure of a phase: a crystal, a list of atoms, or pair distances (HDF5 path).

    in_particle: whether a particle is cut from the structure; if so, ASE Atoms are a crystal.
    Raises ValueError if the source is invalid.
    """
    kind = _kind(source)
    if kind == "distances":
        return read_distances(Path(source))
    if kind == "atoms" or (kind == "ase" and not in_particle):
        return as_atoms(source, name=name, average=average)
    return as_crystal(source, name=name, block=block)


def _kind(source: Any) -> str:
    if isinstance(source, str) and "\n" in source:
        return "crystal" if "_atom_site" in source else "atoms"
    if isinstance(source, str | Path):
        return {".xyz": "atoms", ".h5": "distances", ".hdf5": "distances"}.get(
            Path(source).suffix.lower(), "crystal")
    if _is_ase(source):
        return "ase"
    is_list = isinstance(source, Atoms | Sequence) and not hasattr(source, "lattice")
    is_molecule = hasattr(source, "cart_coords") and not hasattr(source, "lattice")
    return "atoms" if is_list or is_molecule else "crystal"


def _is_ase(source: Any) -> bool:
    return hasattr(source, "get_scaled_positions") and hasattr(source, "get_chemical_symbols")
