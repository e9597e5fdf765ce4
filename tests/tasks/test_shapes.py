"""Every shape from a document: simulated, refined, reported, and refused where it makes no sense."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aiida_dse.documents import DocumentError, ModelDocument, parse_document
from aiida_dse.engine.model.derivatives import pattern_derivative
from aiida_dse.shapes import SHAPES
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simulation import run_simulate

ROOT = Path(__file__).parents[2]
CIF = """data_PbS
_cell_length_a 5.936
_cell_length_b 5.936
_cell_length_c 5.936
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_B_iso_or_equiv
Pb Pb2+ 0 0 0 1.0 1.3
S S 0.5 0.5 0.5 1.0 0.9
"""
LAW = {"mean": 3.0, "sd": 0.4}
FORMS = [{"hkl": [1, 1, 1], "distance": 1.0}, {"hkl": [1, 0, 0], "distance": 1.2}]
#: A population of every shape, and the parameter that is displaced at the start of the refinement.
PARTICLES = {
    "parallelepiped": ({"L_ab": LAW, "L_c": LAW}, "L_c"), "quasi_cube": ({"L": LAW}, "L"),
    "core_shell": ({"D": LAW, "layers": [{"thickness": 0.4, "occupancy": {"S": 0.5}}]}, "thickness_1"),
    "sphere": ({"D": LAW}, "D"), "ellipsoid": ({"D": LAW, "aspect_3": 1.3}, "aspect_3"),
    "cylinder": ({"D": LAW, "H": {"mean": 4.0, "sd": 0.5}}, "H"),
    "box": ({"L_12": LAW, "L_3": {"mean": 4.0, "sd": 0.5}, "axes": [[1, 1, 0], [-1, 1, 0], [0, 0, 1]]}, "L_3"),
    "octahedron": ({"L_edge": LAW}, "L_edge"), "tetrahedron": ({"L_edge": {"mean": 5.0, "sd": 0.6}}, "L_edge"),
    "truncated_cube": ({"L_edge": LAW, "truncation": 0.25}, "sd_edge"),
    "hexagonal_prism": ({"L_edge": {"mean": 2.0, "sd": 0.3}, "H": LAW, "axes": [[1, 1, 1], [1, -1, 0]]}, "L_edge"),
    "polyhedron": ({"D": LAW, "forms": FORMS}, "D"),
}


def document(particle, **more):
    return {"schema": "aiida-dse/model/2",
            "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.5,
                        "grid": {"start": 1.0, "stop": 12.0, "step": 0.02}},
            "phases": {"P": {"structure": "PbS.cif", "particle": particle}}, **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "PbS.cif").write_text(CIF)
    return tmp_path


def test_every_shape_is_tried():
    assert PARTICLES.keys() == SHAPES.keys()


@pytest.mark.parametrize("shape", PARTICLES)
def test_a_shape_is_simulated_and_refined(shape, folder):
    """The refinement returns to the size from which the pattern was computed."""
    sizes, moved = PARTICLES[shape]
    content = document({"shape": shape, **sizes})
    arrays = run_simulate(build(parse_document(content), folder)).arrays
    intensity = arrays["pattern/calculated"]
    np.savetxt(folder / "d.xye", np.c_[arrays["pattern/q"], intensity, 0.02 * np.sqrt(intensity * intensity.mean())])
    content["pattern"] = {"axis": "q_inverse_angstrom", "wavelength": 0.5, "file": "d.xye"}
    built = build(parse_document(content), folder)
    truth = built.model.parameters[f"P.{moved}"].value
    content["parameters"] = {f"P.{moved}": 1.15 * truth}
    content["refinement"] = {"stages": [[f"P.{moved}"], ["P.a", "P.*.B_iso"]]}
    found = run_refine(build(parse_document(content), folder)).summary
    row = found.parameters[f"P.{moved}"]
    assert row.value == pytest.approx(truth, rel=2e-3) and row.su < 0.05 * truth
    assert found.agreement.gof < 0.05
    values = found.derived["P"].quantities
    assert {"L", "surface_to_volume", "confinement_diameter"} <= values.keys()


@pytest.mark.parametrize(("particle", "words"), [
    ({"shape": "sphere", "D": 0.5}, "volume of 0.31 unit cells; it must have at least that of one"),
    ({"shape": "octahedron", "L_edge": {"mean": 0.4, "sd": 0.05}}, "raise them"),
    ({"shape": "sphere", "D": 3, "whole_cells": True}, "only certain diameters"),
    ({"shape": "sphere", "D": LAW, "whole_cells": True}, "arranged around a point: specify 'centre'"),
    ({"shape": "box", "L_12": 3, "L_1": 3, "L_3": 3}, "either 'L_12' and 'L_3', or"),
    ({"shape": "box", "L_12": 3, "L_3": 3, "axes": [[1, 0, 0], [0, 1, 0], [1, 1, 0]]}, "lie in one plane"),
    ({"shape": "cylinder", "D": 3, "H": 3, "axis": [0, 0, 0]}, r"direction \[0, 0, 0\] is the null vector"),
    ({"shape": "octahedron", "L_edge": 3, "axes": [[1, 0, 0], [2, 0, 0]]}, "are parallel"),
    ({"shape": "truncated_cube", "L_edge": 3, "truncation": 0.6}, "less than or equal to 0.5"),
    ({"shape": "polyhedron", "D": 3, "forms": [{"hkl": [0, 0, 0], "distance": 1}]}, r"is not a face"),
    ({"shape": "polyhedron", "D": 3, "forms": [{"hkl": [1, 1, 1], "distance": -1}]}, "greater than 0"),
    ({"shape": "polyhedron", "D": 3, "forms": []}, "at least 1 item"),
    ({"shape": "sphere", "D": {"mean": 3, "sd": 0.4}, "largest": 2.5}, "not below 'largest'"),
    ({"shape": "octahedron", "L_edge": 500.0}, "larger than the largest particle"),
    ({"shape": "core_shell", "D": 3.0, "layers": [{"thickness": 1.6}]}, "must be below the outer radius, 1.5 nm"),
    ({"shape": "core_shell", "D": 3.0, "layers": [{"thickness": 0.5, "occupancy": {"Xx": 1}}]}, "no site 'Xx'"),
    ({"shape": "core_shell", "D": 3.0, "layers": [{"thickness": 0.5, "occupancy": {"S": 0}}], "core": {"S": 0}},
     "the site S is empty in all layers"),
    ({"shape": "core_shell", "D": 3.0, "layers": []}, "at least 1 item"),
    ({"shape": "polyhedron", "D": 3, "forms": [{"hkl": [1, 1, 1], "distance": 1}, {"hkl": [1, 0, 0], "distance": 500}]},
     "the largest to the smallest distance of the faces is 500; the limit is 100"),
    ({"shape": "ellipsoid", "D": 3.0, "aspect_3": 1000}, "less than or equal to 100"),
    ({"shape": "ellipsoid", "D": 8.0, "aspect_3": 100}, "Lower the size or the ratio of the longest"),
])
def test_a_particle_that_makes_no_sense_is_refused(particle, words, folder):
    with pytest.raises(DocumentError, match=words):
        build(parse_document(document(particle)), folder)


@pytest.mark.parametrize(("parameters", "words"), [
    ({"P.thickness_1": 1.6}, "must be below the mean outer radius, 1.5 nm"),
    ({"P.S.occupancy": {"value": 0.5, "lower": 0, "upper": 0.9}}, "'P.S.occupancy' can be at most 0.5"),
    ({"P.S.occupancy": 0.6}, "'P.S.occupancy' can be at most 0.5"),
])
def test_starting_values_of_layers_are_checked(parameters, words, folder):
    (folder / "PbS.cif").write_text(CIF.replace("0.5 0.5 0.5 1.0", "0.5 0.5 0.5 0.5"))
    particle = {"shape": "core_shell", "D": 3.0, "layers": [{"thickness": 0.5}], "core": {"S": 1}}
    model = build(parse_document(document(particle)), folder).model
    assert model.parameters["P.S.occupancy"].upper == 0.5 and model.parameters["P.Pb.occupancy"].upper == 1.0
    with pytest.raises(DocumentError, match=words):
        build(parse_document(document(particle, parameters=parameters)), folder)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("impossible", ["larger", "smaller"])
def test_derivatives_at_the_edge_of_what_is_possible(central, impossible, folder, monkeypatch):
    """Where one side of a value is impossible, the difference is taken to the other side."""
    model = build(parse_document(document({"shape": "sphere", "D": LAW})), folder).model
    base = model.evaluate(model.start)
    expected = pattern_derivative(model, base, "P.D", central=True)
    states, start = model.states, model.start["P.D"]

    def limited(values, *args):
        if (values["P.D"] > start) == (impossible == "larger"):
            raise ValueError("there are no such particles")
        return states(values, *args)

    monkeypatch.setattr(model, "states", limited)
    found = pattern_derivative(model, base, "P.D", central=central)
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_faces_that_enclose_no_body_are_refused(folder):
    """One pair of faces of an orthorhombic crystal."""
    (folder / "PbS.cif").write_text(
        CIF.replace("F m -3 m", "P m m m").replace("_cell_length_c 5.936", "_cell_length_c 7"))
    with pytest.raises(DocumentError, match="do not enclose a body"):
        build(parse_document(document({"shape": "polyhedron", "D": 3, "forms": [
            {"hkl": [0, 0, 1], "distance": 1.0}]})), folder)


def test_a_fixed_centre_is_found_for_old_documents(folder):
    """Documents of version 0.1 keep their spheres around the origin."""
    old = {"schema": "aiida-dse/model/1",
           "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.5,
                       "grid": {"start": 1.0, "stop": 12.0, "step": 0.1}},
           "phases": {"P": {"structure": "PbS.cif", "particle": {"shape": "sphere", "D": 2.0}}}}
    assert parse_document(old).phases["P"].particle.centre == (0, 0, 0)


def test_the_worked_example_of_a_new_shape(tmp_path):
    """The module in docs/shapes.md, registered by its one line, in a process of its own."""
    text = (ROOT / "docs" / "shapes.md").read_text()
    module, use = re.findall(r"```python\n(.*?)```", text, re.S)
    assert [node.name for node in ast.parse(module).body if isinstance(node, ast.ClassDef)] == ["RhombicDodecahedron"]
    code = (
        "import sys, types, pathlib\n"
        "import aiida_dse.shapes as shapes\n"
        f"new = types.ModuleType('aiida_dse.shapes.rhombic_dodecahedron')\n"
        "sys.modules[new.__name__] = new\n"
        f"exec(compile({module!r}, 'rhombic_dodecahedron.py', 'exec'), new.__dict__)\n"
        "shapes.SHAPES[new.RhombicDodecahedron.name] = new.RhombicDodecahedron\n"
        f"pathlib.Path('PbS.cif').write_text({CIF!r})\n"
        f"exec({use!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # twelve faces at a distance of sqrt(2/3) edges: volume 16 sqrt(3)/9
    assert float(done.stdout.split()[-1]) > 1


def test_the_schema_knows_the_shapes():
    text = str(ModelDocument.model_json_schema())
    assert all(f"'{name}'" in text for name in SHAPES)


def test_the_patterns_of_several_frames_are_averaged(folder):
    """Two configurations of four atoms, and the same as two phases of equal scale."""
    frames = ["4\n\nPb 0 0 0\nPb 3 0 0\nS 0 3 0\nS 0 0 3.5\n", "4\nsecond\nPb 0 0 0\nPb 3.3 0 0\nS 0 2.6 0\nS 0 0 3\n"]
    (folder / "all.xyz").write_text("".join(frames))
    content = document(None)

    def pattern(file, **more):
        content["phases"] = {"P": {"atoms": file, "B_iso": {"Pb": 0.0, "S": 0.0}, **more}}
        built = build(parse_document(content), folder)
        return run_simulate(built).arrays["pattern/calculated"], built

    for k, text in enumerate(frames):
        (folder / f"{k}.xyz").write_text(text)
    mean = (pattern("0.xyz")[0] + pattern("1.xyz")[0]) / 2
    found, built = pattern("all.xyz", frames="average")
    np.testing.assert_allclose(found, mean, rtol=1e-9)
    with pytest.raises(DocumentError, match="specify 'frames: average'"):
        pattern("all.xyz")
    assert any("contains 2 frames, whose patterns are averaged" in text for text in built.notes)


@pytest.mark.parametrize("name", ["L_ab", "L_12", "H", "sd_3"])
def test_a_size_of_another_shape_is_answered_with_those_of_this_shape(name, folder):
    model = build(parse_document(document({"shape": "sphere", "D": LAW})), folder).model
    with pytest.raises(ValueError, match=r"\(the size parameters of this phase are P\.D, P\.sd_D\)"):
        model.require(f"P.{name}")


def test_equal_opposite_faces_change_the_composition(tmp_path):
    """CsCl with caesium on all faces: 4^3 Cs and 3^3 Cl, with a charge of +37 e."""
    from aiida_dse.report.tables import validation_report

    cif = CIF.replace("5.936", "4.12").replace("F m -3 m", "P m -3 m").replace("Pb Pb2+", "Cs Cs1+").replace(
        "S S 0.5", "Cl Cl1- 0.5")
    (tmp_path / "x.cif").write_text(cif)
    content = {"schema": "aiida-dse/model/2", "phases": {"P": {"structure": "x.cif", "particle": {
                   "shape": "parallelepiped", "cells": [3, 3, 3], "extension": [0.1, 0.1, 0.1]}}},
               "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.5,
                           "grid": {"start": 0.8, "stop": 9.0, "step": 0.05}}}
    built = build(parse_document(content), tmp_path)
    assert run_simulate(built).summary.derived["P"].composition == pytest.approx({"Cs1+": 64, "Cl1-": 27})
    assert "charge of +37 e" in validation_report(built)
    for key, value in (("boundaries", {"planes": {"ab": {"along": [1], "shift": [1, 0, 0], "probability": 0.1}}}),
                       ("displacements", {"Cs": "anisotropic"})):
        changed = copy.deepcopy(content)
        changed["phases"]["P"][key] = value
        with pytest.raises(DocumentError, match=r"whole cells|with an .extension."):
            build(parse_document(changed), tmp_path)
    content["phases"]["P"]["particle"]["extension"] = [1.2, 0, 0]
    with pytest.raises(DocumentError, match="less than or equal to 1"):
        parse_document(content)
