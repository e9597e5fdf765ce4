"""Remarks that spare a day: a fit that is none, doubtful sizes, sigma, impossible distances."""

from __future__ import annotations

import re

import numpy as np
import pytest

from aiida_dse.documents import DocumentError, ModelDocument
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simulation import run_simulate

CIF = """data_x
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
Ni Ni 0 0 0 0.4
"""


def document(folder, *, a=3.524, sizes=(5.0, 0.5), **sections):
    (folder / "Ni.cif").write_text(CIF.format(a=a))
    return ModelDocument.model_validate({
        "schema": "aiida-dse/model/2",
        "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.2},
        "phases": {"Ni": {"structure": "Ni.cif", "particle": {
            "shape": "quasi_cube", "L": {"mean": sizes[0], "sd": sizes[1]}}}},
        **sections})


def measured(folder, resolution):
    """The pattern of 20 nm cubes, its peaks broadened by a Gaussian of s.d. `resolution` (1/Å)."""
    grid = {"start": 1.0, "stop": 12.0, "step": 0.01}
    arrays = run_simulate(build(document(folder, sizes=(20.0, 1.0), pattern={
        "axis": "q_inverse_angstrom", "wavelength": 0.2, "grid": grid}), folder)).arrays
    q, pattern = arrays["pattern/q"], arrays["pattern/calculated"]
    kernel = np.exp(-0.5 * (np.arange(-60, 61) * 0.01 / resolution) ** 2)
    pattern = np.convolve(pattern, kernel / kernel.sum(), mode="same")
    counts = np.random.default_rng(1).poisson(1e4 * pattern / pattern.max() + 50)
    return q, counts


@pytest.fixture(scope="module")
def bulk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bulk")
    q, counts = measured(folder, 0.04)
    np.savetxt(folder / "d.xye", np.c_[q, counts, np.sqrt(np.maximum(counts, 1))])
    return run_refine(build(document(
        folder, background={"chebyshev": 2},
        pattern={"axis": "q_inverse_angstrom", "wavelength": 0.2, "file": "d.xye",
                 "range": (1.5, 11.0)},
        refinement={"stages": [["Ni.a", "Ni.L"], ["Ni.Ni.B_iso", "Ni.sd_L"]]}), folder)).summary


def test_a_size_that_is_the_instruments_is_remarked_on(bulk):
    """20 nm cubes with the resolution of an area detector look like cubes of a few nm."""
    assert bulk.parameters["Ni.L"].value < 12
    assert any("may be a property of the instrument" in text for text in bulk.warnings)


def test_a_good_fit_has_no_such_remark(tmp_path):
    grid = {"start": 1.5, "stop": 11.0, "step": 0.02}
    arrays = run_simulate(build(document(tmp_path, pattern={
        "axis": "q_inverse_angstrom", "wavelength": 0.2, "grid": grid}), tmp_path)).arrays
    pattern = arrays["pattern/calculated"]
    counts = np.random.default_rng(1).poisson(1e4 * pattern / pattern.max() + 100)
    np.savetxt(tmp_path / "d.xye", np.c_[arrays["pattern/q"], counts, np.sqrt(counts)])
    found = run_refine(build(document(
        tmp_path, sizes=(4.0, 0.5), background={"chebyshev": 1},
        pattern={"axis": "q_inverse_angstrom", "wavelength": 0.2, "file": "d.xye"},
        refinement={"stages": [["Ni.a", "Ni.L"], ["Ni.Ni.B_iso", "Ni.sd_L"]]}), tmp_path)).summary
    assert found.agreement.gof < 1.1 and found.warnings == []


def test_a_wrong_structure_is_called_no_description(tmp_path):
    q, counts = measured(tmp_path, 0.02)
    np.savetxt(tmp_path / "d.xye", np.c_[q, counts, np.sqrt(np.maximum(counts, 1))])
    found = run_refine(build(document(
        tmp_path, a=3.9, background={"chebyshev": 1},
        pattern={"axis": "q_inverse_angstrom", "wavelength": 0.2, "file": "d.xye",
                 "axis_confirmed": True},
        refinement={"stages": [["Ni.Ni.B_iso"]]}), tmp_path)).summary
    assert any("does not describe the pattern" in text for text in found.warnings)


@pytest.mark.parametrize("sigma", [1.0, 25.0])
def test_a_constant_sigma_beside_counts_is_remarked_on(tmp_path, sigma):
    q, counts = measured(tmp_path, 0.02)
    np.savetxt(tmp_path / "d.xye", np.c_[q, counts, np.full(len(q), sigma)])
    model = build(document(tmp_path, pattern={
        "axis": "q_inverse_angstrom", "wavelength": 0.2, "file": "d.xye",
        "axis_confirmed": True}), tmp_path)
    assert any("sigma is the same for all points" in text for text in model.notes)


def notes_of(folder, columns, **pattern):
    np.savetxt(folder / "d.xye", columns)
    return build(document(folder, pattern={
        "axis": "q_inverse_angstrom", "wavelength": 0.2, "file": "d.xye",
        "axis_confirmed": True, **pattern}), folder).notes


def test_a_sigma_that_does_not_belong_to_the_intensities_is_remarked_on(tmp_path):
    q, counts = measured(tmp_path, 0.02)
    root = np.sqrt(np.maximum(counts, 1))
    assert notes_of(tmp_path, np.c_[q, counts, root]) == ()
    assert "not whole numbers" in notes_of(tmp_path, np.c_[q, counts / 7.3], sigma="counts")[0]
    assert notes_of(tmp_path, np.c_[q, counts + 100], sigma="counts") == ()
    assert "column 3" in notes_of(tmp_path, np.c_[q, counts + 100, root], sigma="counts")[0]
    found = notes_of(tmp_path, np.c_[q, counts, root], sigma="5 %", intensity_column=3)
    assert "column 3 is the square root of column 2" in found[0]


def test_sizes_in_other_units_are_remarked_on(tmp_path):
    grid = {"axis": "q_inverse_angstrom", "wavelength": 0.2,
            "grid": {"start": 1.0, "stop": 9.0, "step": 0.1}}
    assert build(document(tmp_path, pattern=grid), tmp_path).notes == ()
    large = build(document(tmp_path, pattern=grid, sizes=(60.0, 1.0)), tmp_path)
    assert "60 nm is large for the Debye equation" in large.notes[0]
    with pytest.raises(DocumentError, match="in nm, not in per cent"):
        build(document(tmp_path, pattern=grid, sizes=(7.0, 15.0)), tmp_path)


def test_absurd_cells_are_refused_and_unusual_starts_remarked_on(tmp_path):
    grid = {"axis": "q_inverse_angstrom", "wavelength": 0.2,
            "grid": {"start": 1.0, "stop": 9.0, "step": 0.1}}
    with pytest.raises(DocumentError, match=r"Ni.a = 35.24 Å differs .* by a factor of 10"):
        build(document(tmp_path, pattern=grid, parameters={"Ni.a": 35.24}), tmp_path)
    bounded = {"value": 35.24, "lower": 30, "upper": 40}
    build(document(tmp_path, pattern=grid, parameters={"Ni.a": bounded}), tmp_path)
    notes = build(document(tmp_path, pattern=grid, parameters={"Ni.a": 4.1}), tmp_path).notes
    assert "Ni.a = 4.1 Å lies outside the default bounds" in notes[0]


def test_contradictory_models_are_remarked_on(tmp_path):
    grid = {"axis": "q_inverse_angstrom", "wavelength": 0.2,
            "grid": {"start": 1.0, "stop": 9.0, "step": 0.1}}
    phase = {"structure": "Ni.cif", "particle": {"shape": "quasi_cube", "L": {"mean": 3, "sd": 1}}}
    twice = build(document(tmp_path, pattern=grid, phases={"A": phase, "B": phase}), tmp_path)
    assert "A and B have the same structure" in twice.notes[0]
    listed = build(document(tmp_path, pattern=grid, constraints={"Ni.sd_L": "0.1 * Ni.L"},
                            refinement={"stages": [["Ni.L", "Ni.sd_L"]]}), tmp_path)
    assert "Ni.sd_L is listed in the stages" in listed.notes[0]
    with pytest.raises(DocumentError, match=r"the size parameters of this phase are Ni\.L, Ni\.sd_L"):
        build(document(tmp_path, pattern=grid, refinement={"stages": [["Ni.D"]]}), tmp_path)


def test_impossible_distances_are_remarked_on(tmp_path):
    """A cell in nm instead of Å, or a wrong edge, brings atoms too near to each other."""
    pattern = {"axis": "q_inverse_angstrom", "wavelength": 0.2,
               "grid": {"start": 1.0, "stop": 9.0, "step": 0.1}}
    short = build(document(tmp_path, a=2.2, pattern=pattern), tmp_path)
    assert any("Ni and Ni are only 1.56 Å apart" in text for text in short.notes)
    assert build(document(tmp_path, pattern=pattern), tmp_path).notes == ()


SALT = CIF.replace("Ni Ni 0 0 0 0.4", "Na Na1+ 0 0 0 1.0\nCl Cl1- 0.5 0.5 0.5 1.0").format(a=5.64)


@pytest.mark.parametrize(("particle", "remark"), [
    # 27 Na and 14 Cl and so on: one ion is in excess at every radius
    ({"shape": "sphere", "D": 1.2, "centre": [0, 0, 0]}, r"has a charge of [+-]\d+ e"),
    ({"shape": "sphere", "D": {"mean": 1.5, "sd": 0.3}, "centre": [0, 0, 0],
      "whole_cells": True}, None),
    ({"shape": "parallelepiped", "cells": [3, 3, 3]}, None),
    ({"shape": "sphere", "D": 1.2}, None),
])
def test_a_composition_that_is_not_that_of_the_structure_is_remarked_on(tmp_path, particle, remark):
    (tmp_path / "salt.cif").write_text(SALT)
    content = {"schema": "aiida-dse/model/2",
               "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.5,
                           "grid": {"start": 1.0, "stop": 8.0, "step": 0.05}},
               "phases": {"salt": {"structure": "salt.cif", "particle": particle}}}
    arrays = run_simulate(build(ModelDocument.model_validate(content), tmp_path)).arrays
    np.savetxt(tmp_path / "d.xye", np.c_[arrays["pattern/q"], arrays["pattern/calculated"],
                                         np.sqrt(arrays["pattern/calculated"])])
    content["pattern"] = {"axis": "q_inverse_angstrom", "wavelength": 0.5, "file": "d.xye"}
    content["refinement"] = {"stages": [["salt.a"]]}
    found = run_refine(build(ModelDocument.model_validate(content), tmp_path)).summary
    (row,) = found.derived.values()
    excess = abs(row.composition["Na1+"] - row.composition["Cl1-"])
    warned = [text for text in found.warnings if "deviates from the composition" in text]
    if remark is None:
        assert excess < 1e-6 and not warned
    else:
        assert excess > 1 and re.search(remark, warned[0])
        assert f"{row.composition['Na1+'] - row.composition['Cl1-']:+.0f} e" in warned[0]
