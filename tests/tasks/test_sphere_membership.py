"""Spheres consist of the atoms of the refined structure, not of those of the starting structure."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_dse.documents import ModelDocument, parse_simultaneous
from aiida_dse.documents.status import Status
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simulation import run_simulate
from aiida_dse.tasks.simultaneous import build_simultaneous, run_simultaneous
from aiida_dse.tasks.uncertainty import run_uncertainty

CIF = """data_CdSe
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {c}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_space_group_name_H-M_alt 'P 63 m c'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
Cd Cd2+ 0.33333333 0.66666667 0 0.9
Se Se 0.33333333 0.66666667 {z} 0.8
"""
TRUTH = {"a": 4.30, "c": 7.01, "z": 0.376}
SIZE = {"mean": 2.4, "sd": 0.3}
REFINED = {"P.a": 4.30, "P.c": 7.01, "P.D": 2.4, "P.sd_D": 0.3, "P.Se.z": 0.376,
           "P.Cd.B_iso": 0.9, "P.Se.B_iso": 0.8}


def document(folder, start, **sections):
    (folder / "CdSe.cif").write_text(CIF.format(**start))
    return ModelDocument.model_validate({
        "schema": "aiida-dse/model/2",
        "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.7},
        "phases": {"P": {"structure": "CdSe.cif",
                         "particle": {"shape": "sphere", "D": SIZE, "centre": [0, 0, 0]}}},
        **sections})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A noise-free pattern of the model itself: the question is whether the start matters."""
    folder = tmp_path_factory.mktemp("data")
    grid = {"start": 0.8, "stop": 12.0, "step": 0.02}
    simulated = run_simulate(build(document(folder, TRUTH, pattern={
        "axis": "q_inverse_angstrom", "wavelength": 0.7, "grid": grid}), folder)).arrays
    pattern = simulated["pattern/calculated"]
    pattern = 2e4 / pattern.max() * pattern + 100
    return np.c_[simulated["pattern/q"], pattern, np.sqrt(pattern)]


def refined(folder, data, start, **sections):
    np.savetxt(folder / "data.xye", data)
    model = build(document(
        folder, start, background={"chebyshev": 1},
        pattern={"file": "data.xye", "axis": "q_inverse_angstrom", "wavelength": 0.7},
        refinement={"stages": [["P.a", "P.c", "P.D"], ["P.*.B_iso", "P.sd_D", "P.Se.z"]]},
        **sections), folder)
    return (run_uncertainty if sections else run_refine)(model)


@pytest.mark.parametrize(
    "change", [{}, {"z": 0.384}, {"z": 0.371}, {"c": 7.08}, {"a": 4.27, "z": 0.381}],
    ids=["truth", "z+0.008", "z-0.005", "c+1%", "a-0.7%, z+0.005"])
def test_the_truth_is_found_from_a_displaced_structure(tmp_path, data, change):
    found = refined(tmp_path, data, TRUTH | change).summary
    assert found.status is Status.CONVERGED
    assert found.agreement.chi2 < 0.05
    for name, value in REFINED.items():
        row = found.parameters[name]
        assert abs(row.value - value) < 0.1 * row.su, name


def test_profiles_use_the_atoms_of_the_refined_structure(tmp_path, data):
    found = refined(tmp_path, data, TRUTH | {"z": 0.384}, uncertainty={"profile": ["P.D"]}).summary
    row = found.uncertainty.profile["P.D"]
    assert row.lower_minimum is None and abs(row.value - 2.4) < 0.1 * row.su
    low, high = row.interval_68
    assert high - low == pytest.approx(2 * row.su, rel=0.1)


def test_a_simultaneous_refinement_finds_the_truth_from_a_displaced_structure(tmp_path, data):
    wave = {"axis": "q_inverse_angstrom", "wavelength": 0.7}
    model = document(tmp_path, TRUTH | {"z": 0.384}, background={"chebyshev": 1},
                     pattern=wave | {"file": "any"}).canonical()
    del model["schema"], model["pattern"]
    for name, rows in (("even", data[::2]), ("odd", data[1::2])):
        np.savetxt(tmp_path / f"{name}.xye", rows)
    found = run_simultaneous(build_simultaneous(parse_simultaneous({
        "schema": "aiida-dse/simultaneous/2", "model": model, "shared": ["P.*"],
        "patterns": {name: {"pattern": {**wave, "file": f"{name}.xye"}} for name in ("even", "odd")},
        "refinement": {"stages": [["P.a", "P.c", "P.D"], ["P.*.B_iso", "P.sd_D", "P.Se.z"]]},
    }), tmp_path)).summary
    assert found.status is Status.CONVERGED
    assert found.agreement.chi2 < 0.05
    for name, value in REFINED.items():
        row = found.parameters[name]
        assert abs(row.value - value) < 0.1 * row.su, name
