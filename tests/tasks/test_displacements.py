"""Anisotropic displacements from documents: read, refined, reported, continued and refused."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.documents import DocumentError, parse_document
from aiida_dse.engine.model import displacements
from aiida_dse.io.distances import read_distances
from aiida_dse.io.structures import cif_text, parse_cif
from aiida_dse.tasks.build import build
from aiida_dse.tasks.distances import run_build
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simulation import run_simulate

CIF = """data_P
_cell_length_a 4.1
_cell_length_b 4.1
_cell_length_c 5.2
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 4/m m m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_B_iso_or_equiv
Pb1 Pb2+ 0 0 0 1.0 1.0
O1 O2- 0.5 0.5 0.5 1.0 2.0
loop_
_atom_site_aniso_label
_atom_site_aniso_U_11
_atom_site_aniso_U_22
_atom_site_aniso_U_33
_atom_site_aniso_U_12
_atom_site_aniso_U_13
_atom_site_aniso_U_23
Pb1 0.010 0.010 0.030 0 0 0
"""


def document(sites, **more):
    return {"schema": "aiida-dse/model/2",
            "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.5,
                        "grid": {"start": 1.0, "stop": 15.0, "step": 0.02}},
            "phases": {"P": {"structure": "P.cif", "displacements": sites,
                             "particle": {"shape": "parallelepiped", "cells": [5, 5, 4]}}}, **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "P.cif").write_text(CIF)
    return tmp_path


def test_a_cif_is_read_and_written_with_its_tensors():
    crystal = parse_cif(CIF)
    assert crystal.site("Pb1").u_aniso == (0.01, 0.01, 0.03, 0, 0, 0) and crystal.site("O1").u_aniso is None
    assert parse_cif(cif_text(crystal, exact=True)).sites == crystal.sites


def test_tensors_without_an_isotropic_mean_are_reported(folder):
    """Where the CIF has no B_iso, and the mean of the tensor is used in its place."""
    assert not any("anisotropic" in text for text in build(parse_document(document({})), folder).notes)
    (folder / "P.cif").write_text(CIF.replace("Pb1 Pb2+ 0 0 0 1.0 1.0", "Pb1 Pb2+ 0 0 0 1.0 ?"))
    built = build(parse_document(document({})), folder)
    (note,) = [text for text in built.notes if "anisotropic" in text]
    assert "Pb1" in note and "unless 'displacements'" in note
    assert built.model.start["P.Pb1.B_iso"] == pytest.approx(8 * np.pi**2 / 3 * 0.05)


@pytest.mark.parametrize(("section", "moved"), [
    ("anisotropic", {"U_11": 0.015, "U_33": 0.02}),
    ({"model": "uniaxial", "along": "O", "parallel": 0.03, "perpendicular": 0.012},
     {"U_parallel": 0.02, "U_perpendicular": 0.02}),
])
def test_displacements_are_refined(section, moved, folder):
    """The refinement returns to the tensor from which the pattern was computed."""
    content = document({"Pb1": section})
    if isinstance(section, dict):
        # the eight O around Pb have no common direction: use those above and below
        (folder / "P.cif").write_text(CIF.replace("O1 O2- 0.5 0.5 0.5", "O1 O2- 0 0 0.5"))
    built = build(parse_document(content), folder)
    arrays = run_simulate(built).arrays
    intensity = arrays["pattern/calculated"]
    np.savetxt(folder / "d.xye", np.c_[arrays["pattern/q"], intensity, 0.01 * np.sqrt(intensity * intensity.mean())])
    truth = {name: built.model.parameters[f"P.Pb1.{name}"].value for name in moved}
    content["pattern"] = {"axis": "q_inverse_angstrom", "wavelength": 0.5, "file": "d.xye"}
    content["parameters"] = {f"P.Pb1.{name}": value for name, value in moved.items()}
    content["refinement"] = {"stages": [["P.Pb1.U_*", "P.O1.B_iso"]]}
    result = run_refine(build(parse_document(content), folder))
    found = result.summary
    for name, value in truth.items():
        row = found.parameters[f"P.Pb1.{name}"]
        assert row.value == pytest.approx(value, abs=2e-4) and 0 < row.su < 0.01
    expected = 8 * np.pi**2 / 3 * (2 * truth["U_11"] + truth["U_33"] if "U_33" in truth else
                                   truth["U_parallel"] + 2 * truth["U_perpendicular"])
    assert found.derived["P"].quantities["B_iso(Pb1)"].value == pytest.approx(expected, rel=0.02)
    assert found.derived["P"].sites["Pb1"].U_aniso[0] == pytest.approx(truth.get("U_11", 0.012), abs=2e-4)
    assert not any("positive definite" in text for text in found.warnings)


def test_the_default_stages_refine_displacements(folder):
    content = document({"Pb1": "anisotropic"})
    arrays = run_simulate(build(parse_document(content), folder)).arrays
    intensity = arrays["pattern/calculated"]
    np.savetxt(folder / "d.xye", np.c_[arrays["pattern/q"], intensity, np.sqrt(intensity)])
    content["pattern"] = {"axis": "q_inverse_angstrom", "wavelength": 0.5, "file": "d.xye"}
    content["refinement"] = {}
    found = run_refine(build(parse_document(content), folder)).summary
    assert {name for name, row in found.parameters.items() if row.status.refined} >= {
        "P.Pb1.U_11", "P.Pb1.U_33", "P.O1.B_iso", "P.a"}
    assert "P.Pb1.B_iso" not in found.parameters


@pytest.mark.parametrize(("change", "words"), [
    ({"displacements": {"Xx": "anisotropic"}}, "'Xx' is neither a site nor an element"),
    ({"displacements": {"Pb1": "isotropic"}}, "displacements.Pb1"),
    ({"displacements": {"Pb1": {"model": "uniaxial"}}}, "specify the neighbours under 'along'"),
    ({"displacements": {"Pb1": {"along": "O", "parallel": 0.02}}}, "specify 'parallel' and 'perpendicular' together"),
    ({"displacements": {"Pb1": {"along": "Cs"}}}, "there is no neighbour 'Cs'"),
    ({"displacements": {"Pb1": {"along": "O"}}}, "have no common direction"),
    ({"displacements": {"Pb1": "anisotropic"}, "particle": {"shape": "sphere", "D": 3, "centre": "Pb1"}},
     "not available for bodies around a point and .* Use 'centre: random'"),
    ({"correlated_motion": {"delta_2": 15.0}}, r"delta_2 = 15 Å\^2 must lie between 0 and 14.* 3.89 Å"),
    ({"correlated_motion": {"delta_1": 1.0, "delta_2": 1.0}}, "either 'delta_1'"),
    ({"displacements": {"Pb1": "anisotropic"}, "particle": {"shape": "sphere", "D": 50}},
     "difference vectors; with anisotropic displacements, the limit"),
])
def test_displacements_that_make_no_sense_are_refused(change, words, folder):
    content = document({})
    content["phases"]["P"] |= change
    with pytest.raises(DocumentError, match=words):
        build(parse_document(content), folder)


def test_a_tensor_that_is_not_positive_definite_is_refused(folder):
    (folder / "P.cif").write_text(CIF.replace("0.010 0.010 0.030", "0.010 0.010 -0.005"))
    with pytest.raises(DocumentError, match=r"eigenvalue -0.005 Å\^2, but all must be above 0"):
        build(parse_document(document({"Pb1": "anisotropic"})), folder)


@pytest.mark.parametrize("correlated", [False, True])
def test_stored_distances_keep_the_displacement_tensors(folder, correlated):
    """The pattern is that of the structure, also on another scale, and B_iso is added to the tensors."""
    content = document({"Pb1": "anisotropic"})
    if correlated:
        content["phases"]["P"]["correlated_motion"] = {"delta_2": 1.2}
    built = build(parse_document(content), folder)
    run_build(built, folder / "stores")
    stored = content | {"phases": {"P": {"distances": "stores/P.distances.h5"}}}
    fixed = build(parse_document(stored), folder).model
    assert fixed.start["P.Pb1.B_iso"] == 0
    # correlated motion is that of the stored distances
    for scale in (1.0,) if correlated else (1.0, 1.004):
        values = built.model.start | {f"P.{edge}": scale * built.model.start[f"P.{edge}"] for edge in "ac"}
        expected = built.model.intensity(0, built.model.states(values)[0], values)
        own = fixed.start | {"P.lattice_scale": scale}
        found = fixed.intensity(0, fixed.states(own)[0], own)
        assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())
    # U + u is the same as U and the isotropic B = 8 pi^2 u
    wider = CIF.replace("0.010 0.010 0.030", "0.015 0.015 0.035")
    (folder / "P.cif").write_text(wider)
    model = build(parse_document(document({"Pb1": "anisotropic"})), folder).model
    if not correlated:
        own = fixed.start | {"P.Pb1.B_iso": 8 * np.pi**2 * 0.005}
        assert_allclose(fixed.intensity(0, fixed.states(own)[0], own),
                        model.intensity(0, model.states(model.start)[0], model.start), rtol=1e-4)


def test_damaged_tensors_in_stored_distances_are_refused(folder):
    run_build(build(parse_document(document({"Pb1": "anisotropic"})), folder), folder / "stores")
    path = folder / "stores" / "P.distances.h5"
    whole = read_distances(path)
    for change, words in (
        ({"tensor_channels": (99,)}, "do not fit"),
        ({"tensors": None}, "do not fit"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(whole, **change)
    with pytest.raises(ValueError, match="not finite"):
        replace(whole.tensors, trace=whole.tensors.trace * np.nan)
    with pytest.raises(ValueError, match="must have the shape"):
        replace(whole.tensors, fields=whole.tensors.fields[:, :3])


def test_the_worked_example_of_a_new_model(folder, monkeypatch):
    """The class in docs/architecture.md, with its one entry of the registry."""
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    (module,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (folder / "P.cif").write_text(CIF.replace("O1 O2- 0.5 0.5 0.5", "O1 O2- 0 0 0.5"))
    with pytest.raises(DocumentError, match="there is no displacement model 'stiff_bond'; the models are anisotropic"):
        parse_document(document({"Pb1": {"model": "stiff_bond", "along": "O1"}}))
    namespace = {"__name__": "stiff_bond"}
    monkeypatch.setitem(sys.modules, "stiff_bond", types.ModuleType("stiff_bond"))
    try:
        exec(compile(module, "stiff_bond.py", "exec", dont_inherit=True), namespace)
        found = run_simulate(build(parse_document(document({"Pb1": {"model": "stiff_bond", "along": "O1"}})), folder))
        plain = run_simulate(build(parse_document(document({"Pb1": {"model": "uniaxial", "along": "O1"}})), folder))
    finally:
        displacements.MODELS.pop("stiff_bond", None)
    assert [name for name in found.summary.parameters if ".Pb1.U_" in name] == ["P.Pb1.U_perpendicular"]
    np.testing.assert_allclose(found.arrays["pattern/calculated"], plain.arrays["pattern/calculated"], rtol=1e-12)
    with pytest.raises(DocumentError, match="direction is missing"):
        parse_document(document({"Pb1": {"model": "uniaxial"}}))
