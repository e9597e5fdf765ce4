"""What element a site of a file is: capitals, labels and type symbols."""

from __future__ import annotations

from pathlib import Path

import gemmi
import pytest
from pymatgen.core import Composition

from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.engine.scattering.form_factors import ion_symbol
from aiida_dse.io.structures import chemical_formula, cif_text, read_cif
from aiida_dse.io.xyz import read_xyz

EXAMPLES = Path(__file__).parents[2] / "examples"

HEAD = """data_test
_cell_length_a 5.9
_cell_length_b 5.9
_cell_length_c 5.9
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_space_group_symop_operation_xyz
'x,y,z'
loop_
_atom_site_label
"""


def written(folder, rows, types=False):
    path = folder / "test.cif"
    column = "_atom_site_type_symbol\n" if types else ""
    axes = "".join(f"_atom_site_fract_{axis}\n" for axis in "xyz")
    path.write_text(HEAD + column + axes + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(("species", "ion"), [
    ("Ca", "Ca"), ("C", "C"), ("c", "C"), ("O2-", "O2-"), ("Pb+2", "Pb2+"), ("Cs+", "Cs1+"),
    # a charge belongs to an element, not to a label
    ("PB2+", "Pb2+"), ("ca2+", "Ca2+"), ("CO2+", "Co2+"), ("Ti0+", "Ti")])
def test_species_with_one_meaning(species, ion):
    assert ion_symbol(species) == ion


@pytest.mark.parametrize(("species", "choice"), [
    ("CA", "Ca or C "), ("CO", "Co or C "), ("PB", "Pb or P "), ("pb", "Pb or P "), ("cS", "Cs or C ")])
def test_capitals_are_not_taken_for_an_element(species, choice):
    """'CA1' in the file of a molecule is carbon alpha, not calcium."""
    with pytest.raises(ValueError, match=f"ambiguous: it may mean {choice}.*under 'ions' of the phase"):
        ion_symbol(species)
    assert ion_symbol(species, any_case=True) == species.capitalize()


def test_a_type_symbol_may_be_written_in_capitals(tmp_path):
    path = written(tmp_path, ["CA1 C 0 0 0", "PB1 PB2+ 0.5 0.5 0.5", "O1 O2- 0.5 0 0", "TI1 TI 0.5 0.5 0"],
                   types=True)
    crystal = read_cif(path)
    assert [site.ion for site in crystal.sites] == ["C", "Pb2+", "O2-", "Ti"]
    again = tmp_path / "again.cif"
    again.write_text(cif_text(crystal))
    assert [site.ion for site in read_cif(again).sites] == ["C", "Pb2+", "O2-", "Ti"]


def test_without_type_symbols_the_label_begins_with_the_element(tmp_path):
    crystal = read_cif(written(tmp_path, ["Pb1 0 0 0", "Br_eq 0.5 0.5 0.5", "O1 0.5 0 0"]))
    assert [site.ion for site in crystal.sites] == ["Pb", "Br", "O"]


@pytest.mark.parametrize("label", ["CA1", "PB1", "Ow1"])
def test_labels_that_leave_the_element_open_are_refused(tmp_path, label):
    with pytest.raises(ValueError, match=f"element of site {label} is uncertain.*type_symbol"):
        read_cif(written(tmp_path, [f"{label} 0 0 0"]))


def test_labels_of_atoms_are_kept_as_written(tmp_path):
    path = tmp_path / "test.xyz"
    path.write_text("2\n\nCA1 0 0 0\nPb 3.0 0 0\n")
    labels, positions = read_xyz(path)
    assert labels == ["CA1", "Pb"] and positions[1].tolist() == [3.0, 0.0, 0.0]


@pytest.mark.parametrize(("ions", "occupancy", "formula", "units"), [
    (("Cs1+", "Cl1-"), 1.0, "Cl Cs", 1),
    (("Cs1+", "Cl1-"), 0.25, "Cl0.25 Cs", 1),
    (("C", "H"), 1.0, "C H", 1),
])
def test_the_formula_of_a_crystal_is_in_hill_order(ions, occupancy, formula, units):
    sites = (Site("A", ions[0], (0, 0, 0)), Site("B", ions[1], (0.5, 0.5, 0.5), occupancy))
    crystal = Crystal(Cell(4, 4, 4), ("x,y,z",), sites, "test")
    assert chemical_formula(crystal) == (formula, units)


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.cif")), ids=lambda path: path.stem)
def test_the_formula_and_the_space_group_of_a_written_cif_are_those_of_pymatgen(path, tmp_path):
    from pymatgen.core import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    crystal = read_cif(path)
    (tmp_path / "written.cif").write_text(cif_text(crystal))
    block = gemmi.cif.read(str(tmp_path / "written.cif")).sole_block()
    structure = Structure.from_file(path)
    expected, units = structure.composition.get_integer_formula_and_factor()
    formula = gemmi.cif.as_string(block.find_value("_chemical_formula_sum"))
    assert Composition(formula) == Composition(expected).element_composition
    assert int(block.find_value("_cell_formula_units_Z")) == units
    number = SpacegroupAnalyzer(structure).get_space_group_number()
    assert int(block.find_value("_space_group_IT_number")) == number
