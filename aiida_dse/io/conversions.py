"""Crystals from and to pymatgen structures, without changing setting or labels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gemmi
import numpy as np

from aiida_dse.engine.crystal.structure import CELL_PARAMETERS, Cell, Crystal, Site
from aiida_dse.engine.scattering.form_factors import ion_symbol

#: Symmetry operations must map atoms onto each other within this distance (Å).
SYMMETRY_PRECISION = 1e-3


def crystal_from_pymatgen(structure: Any, *, name: str = "structure") -> Crystal:
    """The crystal of a pymatgen Structure, in its own setting.

    Labels come from the site property 'label', else from the site's own label. The operations
    are those that map equally labelled atoms onto each other; nothing is standardised. Where
    atoms of one label are not equivalent, a number is appended. 'B_iso' (Å^2) is read from the
    site properties.
    """
    import spglib

    labels = [str(s.properties.get("label") or s.label or s.specie) for s in structure]
    for site, label in zip(structure, labels, strict=True):
        if len(site.species) != 1:
            raise ValueError(
                f"{name}: site {label} mixes {site.species_string}. Give every species its own "
                "site with its occupancy."
            )
    keys = [(label, str(site.species)) for site, label in zip(structure, labels, strict=True)]
    kinds = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    positions = np.array([site.frac_coords for site in structure])
    cell: Any = (structure.lattice.matrix, positions, [kinds[key] for key in keys])
    symmetry = spglib.get_symmetry(cell, symprec=SYMMETRY_PRECISION)
    if symmetry is None:
        raise ValueError(f"{name}: no symmetry could be found; are two atoms at one place?")
    operations = tuple(
        _triplet(rotation, translation)
        for rotation, translation in zip(
            symmetry["rotations"], symmetry["translations"], strict=True
        )
    )
    orbits = symmetry["equivalent_atoms"]
    chosen = sorted(set(int(k) for k in orbits))
    repeated = Counter(labels[k] for k in chosen)
    numbers: Counter[str] = Counter()
    sites = []
    for k in chosen:
        site, label = structure[k], labels[k]
        if repeated[label] > 1:
            numbers[label] += 1
            label = f"{label}{numbers[label]}"
        ((species, occupancy),) = site.species.items()
        b_iso = site.properties.get("B_iso")
        at = positions[k]
        sites.append(
            Site(label.replace(".", "_"), ion_symbol(str(species)),
                 (float(at[0]), float(at[1]), float(at[2])), float(occupancy),
                 None if b_iso is None else float(b_iso))
        )
    values = dict(zip(CELL_PARAMETERS, structure.lattice.parameters, strict=True))
    crystal = Crystal(Cell(**values), operations, tuple(sites), name)
    return crystal.checked_cell()


def crystal_to_pymatgen(crystal: Crystal) -> Any:
    """A pymatgen Structure of all atoms of the cell, labels and B_iso as site properties."""
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
            f"the symmetry translation {np.round(translation, 4).tolist()} is no fraction of the "
            "cell: shift the structure so that its symmetry elements sit at common fractions, or "
            "give a CIF with its own operations."
        )
    op.tran = np.round(steps).astype(int).tolist()
    return str(op.wrap().triplet())
