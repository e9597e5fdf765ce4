"""Round trips of crystals through pymatgen and CIF text change neither setting nor sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.crystal.disorder import excluded_pairs
from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.io.conversions import crystal_from_pymatgen, crystal_to_pymatgen
from aiida_dse.io.structures import cif_text, read_cif

pymatgen = pytest.importorskip("pymatgen.core")
EXAMPLE = Path(__file__).parents[2] / "examples" / "cspbbr3" / "CsPbBr3.cif"


def operations(symbol):
    import gemmi

    return tuple(op.triplet() for op in gemmi.SpaceGroup(symbol).operations())


CRYSTALS = {
    "pbnm": lambda: read_cif(EXAMPLE),
    "split": lambda: Crystal(
        Cell(5.87, 5.87, 5.87), operations("P m -3 m"),
        (Site("Pb", "Pb2+", (0, 0, 0), 1.0, 1.0), Site("Cs", "Cs1+", (0.5, 0.5, 0.5), 1.0, 4.0),
         Site("Br", "Br1-", (0.5, 0.07, 0), 0.25, 2.0))),
    "wurtzite": lambda: Crystal(
        Cell(4.2985, 4.2985, 7.0152, 90, 90, 120), operations("P 63 m c"),
        (Site("Cd", "Cd2+", (1 / 3, 2 / 3, 0), 1.0, 1.2),
         Site("Se", "Se", (1 / 3, 2 / 3, 0.3767), 0.95, 0.9))),
    "triclinic": lambda: Crystal(
        Cell(6.13, 7.29, 8.41, 77.9, 97.3, 109.6), operations("P -1"),
        (Site("Bi", "Bi3+", (0.131, 0.242, 0.077), 1.0, 0.8),
         Site("Fe", "Fe3+", (0.613, 0.318, 0.402), 0.85, 1.7))),
}


def atoms(crystal):
    """Atoms of the cell as a sorted list: label, ion, occupancy, B_iso, position in [0, 1)."""
    positions = np.round(crystal.positions() % 1, 4) % 1
    rows = []
    for k, position in zip(crystal.site_of_atom, positions, strict=True):
        site = crystal.sites[k]
        rows.append((site.label, site.ion, round(site.occupancy, 6), site.b_iso, *position))
    return sorted(rows)


def assert_same(first, second):
    for name in ("a", "b", "c", "alpha", "beta", "gamma"):
        assert getattr(first.cell, name) == pytest.approx(getattr(second.cell, name), abs=1e-4)
    one, two = atoms(first), atoms(second)
    assert [row[:4] for row in one] == [row[:4] for row in two]
    assert_allclose([row[4:] for row in one], [row[4:] for row in two], atol=2e-4)


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_crystal_survives_the_round_trip_through_pymatgen(name):
    crystal = CRYSTALS[name]()
    structure = crystal_to_pymatgen(crystal)
    assert len(structure) == len(crystal.site_of_atom)
    back = crystal_from_pymatgen(structure)
    assert_same(back, crystal)
    assert [site.label for site in back.sites] == [site.label for site in crystal.sites]
    assert set(back.operations) == set(crystal.operations)
    again = crystal_to_pymatgen(back)
    assert_allclose(again.lattice.matrix, structure.lattice.matrix, atol=1e-9)
    assert sorted(again.site_properties["label"]) == sorted(structure.site_properties["label"])


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_crystal_survives_the_round_trip_through_cif_text(name, tmp_path):
    crystal = CRYSTALS[name]()
    path = tmp_path / "back.cif"
    path.write_text(cif_text(crystal))
    back = read_cif(path)
    assert_same(back, crystal)
    assert set(back.operations) == set(crystal.operations)
    if crystal.space_group:
        assert back.space_group == crystal.space_group


def test_the_setting_pbnm_is_not_standardised():
    """c is the long axis, and Br_ax moves in x and y; Pnma would exchange the axes."""
    back = crystal_from_pymatgen(crystal_to_pymatgen(read_cif(EXAMPLE)))
    assert (back.cell.a, back.cell.b, back.cell.c) == pytest.approx((8.20, 8.30, 11.74))
    assert back.coordinate_freedom("Br_ax").independent == ("x", "y")
    assert "x,y,-z+1/2" in back.operations


def test_cif_text_keeps_assemblies_and_missing_b(tmp_path):
    crystal = Crystal(
        Cell(7, 8, 9), operations("P 1"),
        (Site("A", "Cs1+", (0.1, 0.2, 0.3), 0.5, None, "X", 1),
         Site("B", "Cs1+", (0.15, 0.2, 0.3), 0.5, 1.25, "X", 2)))
    path = tmp_path / "x.cif"
    path.write_text(cif_text(crystal))
    assert read_cif(path).sites == crystal.sites


def test_a_label_of_several_orbits_is_numbered():
    lattice = pymatgen.Lattice.tetragonal(4.0, 7.0)
    structure = pymatgen.Structure(
        lattice, ["Cs1+", "Br1-", "Br1-", "Br1-"],
        [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.4], [0, 0.5, 0.7]],
        site_properties={"label": ["Cs", "Br", "Br", "Br"]},
    )
    labels = [site.label for site in crystal_from_pymatgen(structure).sites]
    assert labels == ["Cs", "Br1", "Br2", "Br3"]


def test_atoms_with_equal_labels_but_different_species_remain_different():
    """Cs and Cl of CsCl are both labelled 'X': body-centred by label, but not by species."""
    structure = pymatgen.Structure(
        pymatgen.Lattice.cubic(4.12), ["Cs+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]],
        site_properties={"label": ["X", "X"]},
    )
    crystal = crystal_from_pymatgen(structure)
    ions = sorted(crystal.sites[k].ion for k in crystal.site_of_atom)
    assert ions == ["Cl1-", "Cs1+"]


def test_a_mixed_site_becomes_alternatives_at_one_position():
    structure = pymatgen.Structure(
        pymatgen.Lattice.cubic(5.9), [{"Pb2+": 0.7, "Sn2+": 0.3}, {"Br-": 1}, {"Br-": 1}, {"Br-": 1},
                                      {"Cs+": 0.9}],
        [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0.5, 0.5]])
    crystal = crystal_from_pymatgen(structure)
    found = {site.label: (site.ion, site.occupancy) for site in crystal.sites}
    assert found["PbSn_Pb"] == ("Pb2+", 0.7) and found["PbSn_Sn"] == ("Sn2+", 0.3)
    assert [site.occupancy for site in crystal.sites if site.ion == "Cs1+"] == [0.9]
    assert len(crystal.operations) == 48 and len(crystal.basis_atoms) == 6
    excluded = excluded_pairs(crystal)
    assert len(excluded) == 1  # lead or tin, never both
