"""Models built from documents and their files; errors state key and reason."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from aiida_dse.documents import DocumentError, load_document
from aiida_dse.tasks.build import build

EXAMPLES = Path(__file__).parents[2] / "examples" / "cspbbr3"
GRID = {"axis": "q_inverse_angstrom", "wavelength": 0.7,
        "grid": {"start": 1.0, "step": 0.1, "stop": 9.0}}


def refusal(folder, **paths):
    with pytest.raises(DocumentError) as problem:
        folder.build(**paths)
    return str(problem.value)


def example(**changes):
    return load_document(EXAMPLES / "refine.yaml").model_copy(update=changes)


def test_a_valid_document_is_built(folder, columns):
    built = folder.build()
    assert built.measured and built.stages == [["P.a"], ["P.*.B_iso"]]
    assert built.files == {
        name: hashlib.sha256((folder.path / name).read_bytes()).hexdigest()
        for name in ("cubes.xye", "CsCl.cif")
    }
    assert list(built.model.parameters) == ["P.a", "P.Cs.B_iso", "P.Cs.occupancy", "P.Cl.B_iso",
                                            "P.Cl.occupancy"]
    assert built.model.start["P.a"] == 4.11
    assert built.model.observation.q == pytest.approx(columns[:, 0], rel=1e-7)


@pytest.mark.parametrize(
    ("paths", "where", "what"),
    [
        ({"pattern__file": "no.xye"}, "pattern:", "no file 'no.xye'"),
        ({"phases__P__structure": "no.cif"}, "phases.P:", "no file 'no.cif'"),
        ({"phases__P__block": "zz"}, "phases.P:", "block"),
        ({"phases__P__ions": {"Cs": "Cs9+"}}, "phases.P:", "the table has Cs, Cs1+"),
        ({"phases__P__ions": {"Xx": "Cs1+"}}, "phases.P:", "its sites are Cs, Cl"),
        ({"phases__P__B_iso": {"Br": 1}}, "phases.P:", "its sites are Cs, Cl"),
        ({"phases__P__particle": {"shape": "sphere", "D": 1.0, "centre": "Xx"}}, "phases.P:",
         "no site 'Xx'"),
        ({"phases__P__particle__cells": [2, 2, 0]}, "phases.P:", "at least 1"),
        ({"parameters": {"P.q": 1}}, "parameters", "no parameter 'P.q' (did you mean"),
        ({"parameters": {"P.b": 4}}, "parameters", "equal to a"),
        ({"parameters": {"P.Cs.x": 0.1}}, "parameters", "special position"),
        ({"parameters": {"P.a": -4}}, "parameters", "-4"),
        ({"parameters": {"P.Cs.occupancy": 1.2}}, "parameters", "only values from 0 to 1"),
        ({"parameters": {"P.Cs.B_iso": {"lower": -1}}}, "parameters", "from -1"),
        ({"refinement__stages": [["P.zz"]]}, "refinement.stages:", "no parameter 'P.zz'"),
        ({"refinement__stages": [["P.*.q"]]}, "refinement.stages:", "matches no parameter"),
        ({"refinement__stages": [["P.b"]]}, "refinement.stages:", "equal to a"),
        ({"refinement__stages": [["P.alpha"]]}, "refinement.stages:", "fixes alpha at 90"),
        ({"scan__axes": [{"parameter": "P.zz", "values": [1]}]}, "scan.axes:", "'P.zz'"),
        ({"scan__axes": [{"parameter": "P.b", "values": [1]}]}, "scan.axes:", "equal to a"),
        ({"scan__axes": [{"parameter": "P.a", "start": 4, "stop": 5, "step": 1e-9}]},
         "scan.axes:", "limit is 5e+06"),
        ({"scan__axes": [{"parameter": f"P.{n}.B_iso", "start": 0, "stop": 1, "step": 1e-3}
                         for n in ("Cs", "Cl")] + [
            {"parameter": "P.a", "start": 4, "stop": 5, "step": 1e-3}]},
         "scan.axes:", "1,001 x 1,001 x 1,001"),
        ({"scan__refine": ["P.zz"]}, "scan.refine:", "'P.zz'"),
        ({"restraints": [{"distance": ["Cs", "Xx"], "target": 3, "sigma": 1}]}, "restraints.0:",
         "no site 'Xx'"),
        ({"restraints": [{"parameter": "P.zz", "target": 3, "sigma": 1}]}, "restraints.0:",
         "no parameter 'P.zz'"),
        ({"restraints": [{"distance": ["Cs", "Cl"], "phase": "R", "target": 3, "sigma": 1}]},
         "restraints.0:", "the phases are P"),
        ({"pattern__wavelength": 5.0}, "pattern:", "2.513 1/Å"),
        ({"pattern__axis": "q_inverse_nm"}, "pattern:", "If q is in 1/Å"),
        ({"pattern__range": [20, 30]}, "pattern:", "0 points lie in the range"),
        ({"background__blanks": {"air": {"file": "zz.xye"}}}, "background.blanks.air:", "zz.xye"),
        ({"background__blanks": {"air": {"axis": "two_theta"}}}, "background.blanks.air:",
         "needs a 'file'"),
        ({"constraints": {"P.Cs.B_iso": "P.Cs.B_iso"}}, "parameters, constraints",
         "refers to itself"),
        ({"constraints": {"P.Cs.B_iso": "__import__('os')"}}, "parameters, constraints",
         "plain arithmetic"),
        ({"constraints": {"P.Cs.B_iso": "P.Cl.B_iso", "P.Cl.B_iso": "P.Cs.B_iso"}},
         "parameters, constraints", "circular"),
        ({"constraints": {"P.zz": "P.a"}}, "parameters, constraints", "'P.zz'"),
        ({"derived": {"P": {"distances": [["Cs", "Br"]]}}}, "derived.P:", "no site 'Br'"),
        ({"pattern": GRID | {"grid": {"start": 1, "step": 1e-9, "stop": 9}}}, "pattern.grid:",
         "1e6"),
        ({"pattern": GRID | {"axis": "two_theta", "grid": {"start": 1, "step": 1, "stop": 200}}},
         "pattern.grid:", "between 0 and 180"),
    ],
    ids=str,
)
def test_a_document_that_contradicts_its_files_is_refused(folder, paths, where, what):
    text = refusal(folder, **paths)
    assert text.startswith(where) and what in text


def test_a_wavelength_that_cannot_reach_a_grid_is_reported_at_the_pattern(folder):
    text = refusal(folder, pattern=GRID | {"wavelength": 5.0})
    assert "2.513 1/Å" in text and text.startswith("pattern")


def test_q_in_inverse_nm_is_not_accepted_as_inverse_angstrom(folder, columns):
    np.savetxt(folder.path / "cubes.xye", columns * [10, 1, 1], fmt="%.8g")
    assert "q_inverse_nm" in refusal(folder)
    right = folder.build(pattern__axis="q_inverse_nm")
    assert right.model.observation.q == pytest.approx(columns[:, 0], rel=1e-7)


@pytest.mark.parametrize("part", [slice(20, None), slice(0, -20)], ids=["late", "early"])
def test_a_blank_that_does_not_cover_the_pattern_is_refused(folder, columns, part):
    np.savetxt(folder.path / "air.xye", columns[part], fmt="%.8g")
    air = {"air": {"file": "air.xye", "axis": "q_inverse_angstrom", "wavelength": 0.7,
                   "sigma": "column"}}
    text = refusal(folder, background__blanks=air)
    assert text.startswith("background.blanks.air:") and "covers q" in text and "range" in text


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"second": "?"}, "_atom_site_label"), ({"second": "."}, "_atom_site_label"),
        ({"second": "Cs"}, "'Cs' names 2 sites"), ({"second": "Cl.1"}, "contains a '.'"),
        ({"symmetry": ""}, "symmetry operations"),
        ({"symmetry": "_space_group_name_H-M_alt 'Q 7'"}, "'Q 7'"),
        ({"b": "?"}, "site Cl of P has no displacement parameter"),
    ],
    ids=str,
)
def test_an_incomplete_cif_is_refused(folder, options, what):
    (folder.path / "CsCl.cif").write_text(folder.cif(**options))
    text = refusal(folder)
    assert text.startswith("phases.P:") and what in text


def test_a_cif_without_labels_or_cell_is_refused(folder):
    path = folder.path / "CsCl.cif"
    rows = folder.cif().splitlines()
    path.write_text("\n".join(
        row.removeprefix("Cs ").removeprefix("Cl ") for row in rows if "site_label" not in row
    ))
    assert "_atom_site_label" in refusal(folder)
    path.write_text("\n".join(row for row in rows if "_cell_" not in row))
    assert "no unit cell" in refusal(folder)
    path.write_text("this is no CIF")
    assert "cannot be read as a CIF" in refusal(folder)


def test_incomplete_symmetry_operations_are_refused(folder):
    loop = "loop_\n_space_group_symop_operation_xyz\n'x,y,z'\n'y,z,x'"
    (folder.path / "CsCl.cif").write_text(folder.cif(symmetry=loop))
    assert "is incomplete" in refusal(folder)


def test_b_iso_of_the_document_overrides_that_of_the_cif(folder):
    (folder.path / "CsCl.cif").write_text(folder.cif(b="?"))
    built = folder.build(phases__P__B_iso={"Cl": 3.5, "Cs1+": 0.5})
    assert built.model.start["P.Cl.B_iso"] == 3.5 and built.model.start["P.Cs.B_iso"] == 0.5


@pytest.mark.parametrize("particle", [
    {"shape": "quasi_cube", "L": {"mean": 5000, "sd": 1}},
    {"shape": "quasi_cube", "L": {"mean": 0.05, "sd": 0.001}}, {"shape": "sphere", "D": 5000.0},
], ids=str)
def test_an_impossible_size_is_refused_when_built(folder, particle):
    """'dse-engine validate' must refuse a document with which no task can start."""
    assert "phases.P" in refusal(folder, phases__P__particle=particle)


@pytest.mark.parametrize("expression", ["log(-P.a)", "1 / 0", "9 ** 9 ** 9 ** 9", "-3 * P.a"])
def test_a_constraint_without_a_possible_value_is_refused_when_built(folder, expression):
    assert "P.Cs.B_iso" in refusal(folder, constraints={"P.Cs.B_iso": expression})


@pytest.mark.parametrize(
    "axis", [{"parameter": "P.a", "values": [0, 4.1]},
             {"parameter": "P.Cs.occupancy", "values": [0.5, 2]},
             {"parameter": "P.a", "start": 4, "stop": 5, "step": 1e-310}], ids=str)
def test_an_impossible_axis_is_refused_when_built(folder, axis):
    assert "scan.axes" in refusal(folder, scan__axes=[axis])


def test_keys_without_effect_on_a_grid_are_refused(folder):
    """'range' and 'every' select points of a file; with a grid, they would be ignored."""
    assert "range" in refusal(folder, pattern=GRID | {"range": [2.0, 3.0]})


# --- the example ---------------------------------------------------------------------------------


def test_the_example_builds():
    built = build(example(), EXAMPLES)
    reasons = built.model.phases[0].fixed_reasons
    assert "special position" in reasons["Br_ax.z"] and "alpha" in reasons
    assert "CsPbBr3.Br_ax.x" in built.model.parameters


def test_a_special_position_of_the_example_cannot_be_freed():
    plan = example().refinement.model_copy(update={"stages": (("CsPbBr3.Br_ax.z",),)})
    with pytest.raises(DocumentError, match=r"Br_ax lies on a special position, z = 0\.75"):
        build(example(refinement=plan), EXAMPLES)


@pytest.mark.parametrize(("changes", "message"), [
    ({"pattern__range": [1.0, 1.2]}, "3 free parameters and 2 linear coefficients .* 5 points"),
    ({"parameters": {"P.a": {"value": 4.1, "lower": 4.1, "upper": 4.1}}}, "leave no room"),
    ({"parameters": {"P.a": {"lower": 4.3, "upper": 4.0}}}, "lower bound 4.3 is above"),
    ({"parameters": {"P.a": {"value": 5.0, "lower": 4.0, "upper": 4.3}}}, "outside its bounds"),
    ({"parameters": {"P.Cl.occupancy": 0.0}}, r"P\.Cl\.B_iso has no effect, because P\.Cl\.occupancy is fixed at 0"),
    ({"scales": {"P": 0.0}}, r"P\.a has no effect, because the scale of P"),
    ({"constraints": {"P.Cs.B_iso": "P.Cl.B_iso + 1", "P.Cl.B_iso": "P.Cs.B_iso - 1"}},
     "are circular"),
    ({"restraints": [{"distance": ["Cs", "Br"], "target": 3.5, "sigma": 0.1}]}, "Br"),
])
def test_an_impossible_refinement_is_refused_when_built(folder, changes, message):
    from aiida_dse.documents import DocumentError

    with pytest.raises(DocumentError, match=message):
        folder.build(**{"refinement": {"stages": [["P.a"], ["P.*.B_iso"]]}} | changes)
