"""Conversion of structures from pymatgen, ASE, gemmi and plain sites to crystals, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gemmi
import numpy as np
from numpy.typing import ArrayLike

from aiida_dse.engine.crystal.structure import CELL_PARAMETERS, Cell, Crystal, Site
from aiida_dse.engine.scattering.form_factors import element_of, ion_symbol
from aiida_dse.engine.units import FloatArray, b_from_u

from .structures import symmetry_of

#: Distance (Å) within which symmetry operations must map atoms onto each other.
SYMMETRY_PRECISION = 1e-3


def crystal_from_pymatgen(structure: Any, *, name: str = "structure") -> Crystal:
    """The crystal of a pymatgen Structure, in the setting of the structure.

    The labels are the site property 'label', else the labels of the sites. The symmetry operations
    are those that map atoms with equal labels onto each other; nothing is standardised. Where atoms
    of one label are not equivalent, a number is appended to it. A site with several species becomes
    one site for each of them, whose label ends in the element. The site property 'B_iso' (Å^2) is
    read as well. Raises ValueError where no symmetry is found.
    """
    labels = [
        str(s.properties.get("label") or (s.label if len(s.species) == 1 else "")
            or "".join(element_of(str(ion)) for ion in s.species))
        for s in structure]
    return _crystal_of_atoms(
        name, structure.lattice.parameters, structure.lattice.matrix,
        [site.frac_coords for site in structure], labels,
        [{str(ion): float(part) for ion, part in site.species.items()} for site in structure],
        [site.properties.get("B_iso") for site in structure],
    )


def crystal_from_ase(atoms: Any, *, name: str = "structure") -> Crystal:
    """The crystal of periodic ASE Atoms, with symmetry and labels as in `crystal_from_pymatgen`.

    The labels are the array 'label' (atoms.new_array("label", ...)), else the chemical symbols;
    B_iso (Å^2) is the array 'B_iso'; occupancies are those that ase.io reads from a CIF. Raises
    ValueError for atoms that are not periodic.
    """
    if not (atoms.cell.rank == 3 and atoms.pbc.all()):
        raise ValueError(
            f"{name}: these ASE Atoms are not periodic in three directions, so they are not a "
            "crystal. Set cell and pbc, or use them without a particle, as a list of atoms."
        )
    symbols = atoms.get_chemical_symbols()
    kinds = atoms.arrays.get("spacegroup_kinds", range(len(atoms)))
    species = [
        {str(element): float(part) for element, part in
         atoms.info.get("occupancy", {}).get(str(kind), {symbol: 1.0}).items()}
        for symbol, kind in zip(symbols, kinds, strict=True)]
    return _crystal_of_atoms(
        name, atoms.cell.cellpar(), np.array(atoms.cell), atoms.get_scaled_positions(wrap=False),
        [str(label) for label in atoms.arrays.get("label", symbols)], species,
        atoms.arrays.get("B_iso", [None] * len(atoms)),
    )


def crystal_from_gemmi(structure: gemmi.SmallStructure, *, name: str = "structure") -> Crystal:
    """The crystal of a gemmi SmallStructure; a U_iso of zero counts as missing.

    Raises ValueError for incomplete symmetry operations, and for a cell that does not obey them.
    """
    sites = tuple(
        Site(site.label.replace(".", "_"),
             ion_symbol(site.type_symbol or site.element.name, tabulated=False),
             (site.fract.x, site.fract.y, site.fract.z), site.occ,
             b_from_u(site.u_iso) if site.u_iso else None, group=int(site.disorder_group))
        for site in structure.sites
    )
    values = {key: float(getattr(structure.cell, key)) for key in CELL_PARAMETERS}
    operations, group = symmetry_of(name, structure)
    return Crystal(Cell(**values), operations, sites, name, group).checked_cell()


def crystal_from_sites(
    cell: Cell | Sequence[float], sites: Iterable[Site], *,
    space_group: str | Sequence[str] = "P 1", name: str = "structure",
) -> Crystal:
    """The crystal of a cell and the sites of its asymmetric unit.

    `cell` contains the edges a, b, c in Å and the angles in degrees (three numbers: right angles).
    `space_group` is a Hermann-Mauguin symbol in the setting of the cell ('P b n m'), or the list of
    operations as triplets ('-x,-y,z+1/2'). Raises ValueError for an unknown symbol, and for a cell
    that does not obey the symmetry.
    """
    if not isinstance(cell, Cell):
        if len(cell) not in (3, 6):
            raise ValueError(
                f"{name}: the cell has {len(cell)} numbers; it must have three, a, b, c (Å), or "
                "six, with alpha, beta, gamma (degrees)."
            )
        cell = Cell(*(float(value) for value in cell))
    symbol = ""
    if isinstance(space_group, str):
        group = gemmi.find_spacegroup_by_name(space_group, cell.alpha, cell.gamma)
        if group is None:
            raise ValueError(
                f"{name}: the space group '{space_group}' is unknown. Use its Hermann-Mauguin "
                "symbol with spaces ('P b n m'), or a list of its operations as triplets."
            )
        symbol, operations = group.xhm(), tuple(op.triplet() for op in group.operations())
    else:
        operations = tuple(space_group)
    sites = tuple(sites)
    for site in sites:
        if "." in site.label or " " in site.label:
            raise ValueError(
                f"{name}: the label '{site.label}' contains a '.' or a space, which separate the "
                "parts of a parameter name. Rename the site."
            )
    return Crystal(cell, operations, sites, name, symbol).checked_cell()


def _crystal_of_atoms(
    name: str, cell: Sequence[float], matrix: FloatArray, fractional: ArrayLike,
    labels: Sequence[str], species: Sequence[Mapping[str, float]],
    b_iso: Sequence[float | None],
) -> Crystal:
    """The crystal of all atoms (n,) of one cell, with the symmetry that they have.

    `cell` contains a, b, c (Å) and alpha, beta, gamma (degrees); matrix (3, 3) Å has the lattice
    vectors as rows; fractional (n, 3); species (n,) are the occupancies by species.
    """
    import spglib

    keys = [(label, *sorted(content.items()))
            for label, content in zip(labels, species, strict=True)]
    kinds = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    positions = np.asarray(fractional, dtype=float)
    if not (np.isfinite(positions).all() and np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-6):
        # spglib would end the process
        raise ValueError(f"{name}: the cell has no volume, or a coordinate is not a finite number. Correct it.")
    atoms: Any = (matrix, positions, [kinds[key] for key in keys])
    symmetry = spglib.get_symmetry(atoms, symprec=SYMMETRY_PRECISION)
    if symmetry is None:
        raise ValueError(
            f"{name}: no symmetry could be found. Check that no two atoms are at the same position."
        )
    operations = tuple(
        _triplet(rotation, translation)
        for rotation, translation in zip(
            symmetry["rotations"], symmetry["translations"], strict=True
        )
    )
    chosen = sorted(set(int(k) for k in symmetry["equivalent_atoms"]))
    repeated = Counter(labels[k] for k in chosen)
    numbers: Counter[str] = Counter()
    sites = []
    for k in chosen:
        label, (x, y, z), b = labels[k], positions[k], b_iso[k]
        if repeated[label] > 1:
            numbers[label] += 1
            label = f"{label}{numbers[label]}"
        for ion, part in species[k].items():
            own = label if len(species[k]) == 1 else f"{label}_{element_of(ion)}"
            sites.append(Site(
                own.replace(".", "_"), ion_symbol(ion, tabulated=False),
                (float(x), float(y), float(z)), part, None if b is None else float(b)))
    values = dict(zip(CELL_PARAMETERS, map(float, cell), strict=True))
    return Crystal(Cell(**values), operations, tuple(sites), name).checked_cell()


def crystal_to_pymatgen(crystal: Crystal) -> Any:
    """The pymatgen Structure of all atoms of the cell, with labels and B_iso as site properties."""
    from pymatgen.core import Lattice, Structure

    lattice = Lattice.from_parameters(*(getattr(crystal.cell, name) for name in CELL_PARAMETERS))
    sites = [crystal.sites[k] for k in crystal.site_of_atom]
    return Structure(
        lattice,
        [{_species(site.ion): site.occupancy} for site in sites],
        crystal.positions(),
        labels=[site.label for site in sites],
        site_properties={
            "label": [site.label for site in sites],
            "B_iso": [site.b_iso for site in sites],
        },
    )


def _species(ion: str) -> Any:
    from pymatgen.core import DummySpecies, Element, Species

    try:
        return Species.from_str(ion) if ion[-1] in "+-" else Element(ion)
    except ValueError:
        return DummySpecies(ion)


def _triplet(rotation: np.ndarray, translation: np.ndarray) -> str:
    op = gemmi.Op("x,y,z")
    op.rot = (np.asarray(rotation) * op.DEN).astype(int).tolist()
    steps = np.asarray(translation) * op.DEN
    if np.abs(steps - np.round(steps)).max() > 0.05:
        raise ValueError(
            f"the symmetry translation {np.round(translation, 4).tolist()} is not a common "
            f"fraction (a multiple of 1/{op.DEN}) of the cell. Shift the structure so that its "
            "symmetry elements lie at common fractions, or use a CIF with its operations."
        )
    op.tran = np.round(steps).astype(int).tolist()
    return str(op.wrap().triplet())
