"""Coherent boundaries from documents: refined, reported and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aiida_dse.documents import DocumentError, parse_document
from aiida_dse.report.tables import validation_report
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simulation import run_simulate

CIF = Path(__file__).parents[2] / "examples" / "cspbbr3" / "CsPbBr3.cif"
TWINS = {"ab": {"along": [1, 2], "shift": [1, 0, 0], "probability": 0.1}}


def document(boundaries, **more):
    return {"schema": "aiida-dse/model/2",
            "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.5,
                        "grid": {"start": 0.8, "stop": 9.0, "step": 0.01}},
            "phases": {"P": {"structure": "CsPbBr3.cif", "boundaries": boundaries,
                             "particle": {"shape": "parallelepiped", "cells": [6, 6, 4]}}}, **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "CsPbBr3.cif").write_text(CIF.read_text())
    return tmp_path


def test_the_density_of_boundaries_is_refined(folder):
    """From an ordered start, with tilts and B of Br free; the density has an s.u. and bounds."""
    content = document({"planes": TWINS})
    arrays = run_simulate(build(parse_document(content), folder)).arrays
    intensity = arrays["pattern/calculated"]
    np.savetxt(folder / "d.xye", np.c_[arrays["pattern/q"], intensity, 0.02 * np.sqrt(intensity * intensity.mean())])
    content["pattern"] = {"axis": "q_inverse_angstrom", "wavelength": 0.5, "file": "d.xye"}
    content["parameters"] = {"P.boundary_ab": 0.03}
    content["refinement"] = {"stages": [["P.boundary_ab"], ["P.Br_*.[xyz]", "P.Br_*.B_iso"]]}
    found = run_refine(build(parse_document(content), folder)).summary
    row = found.parameters["P.boundary_ab"]
    assert row.value == pytest.approx(0.1, abs=2e-3) and 0 < row.su < 0.05 and row.kind == "boundary_probability"
    assert (row.lower, row.upper) == (0.0, 0.5)
    # (110) planes of the pseudo-cubic lattice are 5.9 Å apart
    thickness = found.derived["P"].quantities["domain_ab"]
    assert thickness.value == pytest.approx(0.5873 / row.value, rel=0.01) and thickness.unit == "nm"
    coherence = found.derived["P"].quantities["coherence_M_ab"]
    assert coherence.value == pytest.approx(-0.5873 / np.log(1 - 2 * row.value), rel=0.01) and coherence.su > 0


def test_an_exact_number_of_boundaries_is_no_parameter(folder):
    """The pattern lies between that without boundaries and full disorder; the report names what is broadened."""
    def pattern(boundaries):
        built = build(parse_document(document({"planes": boundaries})), folder)
        return built, run_simulate(built).arrays["pattern/calculated"]

    exact = {"ab": {"along": [1, 2], "shift": [1, 0, 0], "number": 2}}
    built, found = pattern(exact)
    assert not [name for name in built.model.parameters if "boundary" in name]
    text = validation_report(built)
    assert "exactly 2 boundaries 'ab' broaden the superstructure reflections" in text
    assert "M (0.5 0.5 0)" in text and "R (0.5 0.5 0.5)" in text and "leave X as they are" in text
    _, none = pattern({"ab": exact["ab"] | {"number": 0}})
    _, random = pattern({"ab": TWINS["ab"] | {"probability": 2 / 11}})
    # 12 layers have 11 planes: the mean number of boundaries is the same
    assert np.abs(found / none - 1).max() > 3 * np.abs(found / random - 1).max() > 0


@pytest.mark.parametrize(("boundaries", "particle", "words"), [
    ({"planes": {"ab": TWINS["ab"] | {"probability": 0.6}}}, None, "less than or equal to 0.5"),
    ({"planes": {"ab": TWINS["ab"] | {"probability": 0.3}, "more": TWINS["ab"] | {"probability": 0.3}}}, None,
     "along vector 1 of the parent lattice sum to 0.6, but the sum must not exceed 0.5"),
    ({"planes": {}}, None, "at least 1 item"),
    ({"planes": {"ab": TWINS["ab"] | {"number": 2}}}, None, "either 'probability' or 'number'"),
    ({"planes": {"ab": {"along": [3], "shift": [0, 0, 1], "number": 9}}}, None, "has only 8 planes"),
    ({"planes": {"ab": {"along": [3], "shift": [0, 0, 1], "number": 1}}},
     {"shape": "quasi_cube", "L": {"mean": 4, "sd": 1}}, "requires particles of one size"),
    ({"planes": {"ab": TWINS["ab"] | {"shift": [1, 1, 0]}}}, None, "a translation of the structure"),
    ({"planes": {"ab": TWINS["ab"] | {"along": [4]}}}, None, "1, 2 or 3"),
    ({"planes": TWINS, "parent_lattice": [[0.5, 0, 0], [0, 1, 0], [0, 0, 1]]}, None, "does not order on this"),
    ({"planes": TWINS, "parent_lattice": [[0.7, 0, 0], [0, 1, 0], [0, 0, 1]]}, None, "does not consist of whole cells"),
    ({"planes": TWINS, "parent_lattice": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}, None, "1 cells in the unit cell"),
    ({"planes": TWINS, "parent_lattice": [[1, 0, 0], [1, 0, 0], [0, 0, 1]]}, None, "lie in one plane"),
    ({"planes": TWINS}, {"shape": "sphere", "D": 3}, "requires particles of whole cells"),
])
def test_boundaries_that_make_no_sense_are_refused(boundaries, particle, words, folder):
    content = document(boundaries)
    if particle:
        content["phases"]["P"]["particle"] = particle
    with pytest.raises(DocumentError, match=words):
        build(parse_document(content), folder)


SPLIT = {"sites": {"Br_ax": {"direction": [1, 1, 0], "amplitude": 0.25}}}


@pytest.mark.parametrize("correlation", ["independent", "columns", [0.0, 0.0, 0.5]])
def test_the_amplitude_of_a_split_site_is_refined(correlation, folder):
    content = document(None)
    content["phases"]["P"] |= {"boundaries": None, "split": SPLIT | {"correlation": correlation}}
    arrays = run_simulate(build(parse_document(content), folder)).arrays
    intensity = arrays["pattern/calculated"]
    np.savetxt(folder / "d.xye", np.c_[arrays["pattern/q"], intensity, 0.02 * np.sqrt(intensity * intensity.mean())])
    content["pattern"] = {"axis": "q_inverse_angstrom", "wavelength": 0.5, "file": "d.xye"}
    content["parameters"] = {"P.Br_ax.split": 0.15}
    content["refinement"] = {"stages": [["P.Br_ax.split", "P.Br_ax.[xy]"]]}
    found = run_refine(build(parse_document(content), folder)).summary
    row = found.parameters["P.Br_ax.split"]
    assert row.value == pytest.approx(0.25, abs=2e-3) and 0 < row.su < 0.05 and row.kind == "split"


@pytest.mark.parametrize(("split", "words"), [
    ({"sites": {"Xx": SPLIT["sites"]["Br_ax"]}}, "has no site 'Xx'"),
    ({"sites": {"Br_ax": {"direction": [0, 0, 0], "amplitude": 0.2}}}, "null vector"),
    ({"sites": {"Br_ax": {"direction": [1, 0, 0], "amplitude": -0.2}}}, "greater than or equal to 0"),
    (SPLIT | {"correlation": "rows"}, "split.correlation"),
    (SPLIT | {"correlation": [0, 0, 2]}, "less than or equal to 1"),
])
def test_split_sites_that_make_no_sense_are_refused(split, words, folder):
    content = document(None)
    content["phases"]["P"] |= {"boundaries": None, "split": split}
    with pytest.raises(DocumentError, match=words):
        build(parse_document(content), folder)


def test_boundaries_exclude_anisotropic_displacements(folder):
    content = document({"planes": TWINS})
    content["phases"]["P"]["displacements"] = {"Br_ax": "anisotropic"}
    with pytest.raises(DocumentError, match="cannot be combined"):
        parse_document(content)


def test_a_boundary_with_a_centring_vector_is_refused(folder):
    (folder / "bcc.cif").write_text("""data_bcc
_cell_length_a 8.3
_cell_length_b 8.3
_cell_length_c 11.8
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'I m m m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
Pb Pb2+ 0 0 0 1.3
S1 S 0.5 0 0 1.3
Pb2 Pb2+ 0 0.5 0 1.3
S2 S 0 0 0.5 1.3
""")
    content = document({"parent_lattice": [[0.5, 0.5, 0.5], [0, 1, 0], [0, 0, 1]], "planes": TWINS})
    content["phases"]["P"]["structure"] = "bcc.cif"
    content["phases"]["P"].pop("ions", None)
    with pytest.raises(DocumentError, match="is a translation of the structure"):
        build(parse_document(content), folder)
