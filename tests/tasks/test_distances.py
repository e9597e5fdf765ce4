"""Stored pair distances yield the patterns of the structures from which they were computed."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from aiida_dse.cli.engine import main
from aiida_dse.documents import DocumentError, parse_document
from aiida_dse.io.distances import read_distances, write_distances
from aiida_dse.io.results import read_result
from aiida_dse.io.storage import BLOCK
from aiida_dse.tasks.distances import run_build, store_name
from aiida_dse.tasks.run import run_refine, run_scan
from aiida_dse.tasks.simulation import run_simulate


@pytest.fixture
def stored(folder):
    """Keys that replace the structure by its pair distances, computed at P.a = 4.12."""
    run_build(folder.build(parameters={"P.a": 4.12}), folder.path)
    return {"phases": {"P": {"distances": store_name("P")}}, "parameters": {}, "derived": {},
            "refinement": {"stages": [["P.lattice_scale"], ["P.*.B_iso"]]},
            "scan": {"axes": [{"parameter": "P.lattice_scale", "values": [0.995, 1.0, 1.005]},
                              {"parameter": "P.Cl.B_iso", "values": [1.0, 2.0, 3.0]}]}}


def test_stored_distances_yield_the_pattern_of_their_structure(folder, stored):
    of_structure = run_simulate(folder.build(parameters={"P.a": 4.12}))
    of_store = run_simulate(folder.build(**stored))
    calculated = [r.arrays["pattern/calculated"] for r in (of_structure, of_store)]
    np.testing.assert_allclose(*calculated, rtol=2e-6)


def test_a_lattice_scale_yields_the_pattern_of_the_scaled_cell(folder, stored):
    larger = run_simulate(folder.build(parameters={"P.a": 4.12 * 1.004}))
    of_store = run_simulate(folder.build(**stored | {"parameters": {"P.lattice_scale": 1.004}}))
    calculated = [r.arrays["pattern/calculated"] for r in (larger, of_store)]
    np.testing.assert_allclose(*calculated, rtol=2e-6)


def test_the_refined_lattice_scale_corresponds_to_the_refined_cell(folder, stored):
    of_structure = run_refine(folder.build()).summary
    of_store = run_refine(folder.build(**stored)).summary
    assert of_store.status == of_structure.status == "converged"
    cell = 4.12 * of_store.parameters["P.lattice_scale"].value
    assert cell == pytest.approx(of_structure.parameters["P.a"].value, abs=2e-5)
    for name in ("P.Cs.B_iso", "P.Cl.B_iso"):
        assert of_store.parameters[name].value == pytest.approx(
            of_structure.parameters[name].value, abs=2e-4)
    assert of_store.agreement.gof == pytest.approx(of_structure.agreement.gof, rel=1e-4)
    assert of_store.structures["P"] == of_structure.structures["P"]


def test_a_map_over_the_lattice_scale_equals_the_map_over_the_cell(folder, stored):
    """With a tolerance at which different grids of distances yield the same GoF."""
    fine = {"tolerance": 1e-7}
    run_build(folder.build(parameters={"P.a": 4.12}, **fine), folder.path)
    axes = [{"parameter": "P.a", "values": [4.12 * x for x in (0.995, 1.0, 1.005)]},
            {"parameter": "P.Cl.B_iso", "values": [1.0, 2.0, 3.0]}]
    of_structure = run_scan(folder.build(parameters={"P.a": 4.12}, scan={"axes": axes}, **fine))
    of_store = run_scan(folder.build(**stored, **fine))
    np.testing.assert_allclose(of_store.arrays["scan/gof"], of_structure.arrays["scan/gof"],
                               rtol=1e-6)


def test_a_population_is_stored_with_its_sizes(folder):
    particle = {"shape": "quasi_cube", "L": {"mean": 1.5, "sd": 0.3}}
    population = {"phases": {"P": {"structure": "CsCl.cif", "particle": particle}}}
    result = run_build(folder.build(**population), folder.path)
    kept = read_distances(folder.path / store_name("P"))
    row = result.summary.distances["P"]
    assert kept.sizes["mean_ab"] == pytest.approx(1.5, rel=0.02)
    assert row.sizes == dict(kept.sizes)
    assert kept.about["values"]["sd_L"] == pytest.approx(0.3)
    of_store = folder.build(phases={"P": {"distances": store_name("P")}}, parameters={},
                            derived={}, refinement=None, scan=None)
    np.testing.assert_allclose(
        run_simulate(of_store).arrays["pattern/calculated"],
        run_simulate(folder.build(**population)).arrays["pattern/calculated"], rtol=2e-6)
    # the distribution contains every pair of the mean particle
    r, number = (result.arrays[f"pairs/P/{key}"] for key in ("r", "number"))
    pairs = number.sum() * (r[1] - r[0])
    exact = sum(w * n * (n - 1) / 2 for w, n in cubes(1.5, 0.3, 4.11))
    assert pairs == pytest.approx(exact, rel=1e-3)


def cubes(mean, sd, a):
    """Share and number of atoms of every cube of the log-normal law, computed independently."""
    width = np.sqrt(np.log(1 + (sd / mean) ** 2))
    middle = np.log(mean / np.sqrt(1 + (sd / mean) ** 2))
    n = np.arange(1, int(4 * mean * 10 / a) + 1)
    edge = n * a / 10
    density = np.exp(-((np.log(edge) - middle) ** 2) / (2 * width**2)) / edge
    share = density / density.sum()
    return zip(share, 2 * n**3, strict=True)


def test_equal_distances_are_stored_as_equal_bytes(folder):
    for name in ("one", "two"):
        run_build(folder.build(), folder.path / name)
    one, two = ((folder.path / name / store_name("P")).read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_list_of_atoms_can_be_stored_as_distances(folder):
    lines = ["4", "", "Cs 0 0 0", "Cs 4 0 0", "Cl 2 2 2", "Cl 6 2 2"]
    (folder.path / "four.xyz").write_text("\n".join(lines) + "\n")
    bare = {"parameters": {}, "derived": {}, "refinement": None, "scan": None}
    ions = {"Cs": "Cs1+", "Cl": "Cl1-"}
    listed = {"phases": {"P": {"atoms": "four.xyz", "B_iso": {"Cs": 1.0, "Cl": 2.0}, "ions": ions}}}
    run_build(folder.build(**bare, **listed), folder.path)
    of_store = folder.build(**bare, phases={"P": {"distances": store_name("P")}})
    np.testing.assert_allclose(
        run_simulate(of_store).arrays["pattern/calculated"],
        run_simulate(folder.build(**bare, **listed)).arrays["pattern/calculated"], rtol=2e-6)


def test_a_command_uses_the_distances_that_build_stored(folder):
    path = folder.write(parameters={"P.a": 4.12})
    outcome = CliRunner().invoke(main, ["build", str(path), "-o", str(folder.path / "out")])
    assert outcome.exit_code == 0, outcome.output
    assert "accurate up to q = " in outcome.output and "54 atoms" in outcome.output
    result = read_result(folder.path / "out")
    assert result.task == "build" and result.status == "complete"
    with h5py.File(folder.path / "out" / store_name("P")) as file:
        assert file["channels"][()].tolist() == [[b"Cs", b"Cs"], [b"Cs", b"Cl"], [b"Cl", b"Cl"]]
        assert json.loads(file.attrs["about"])["values"]["a"] == 4.12
        assert len(file["r"]) == file["weights"].shape[1]
    content = yaml.safe_load(path.read_text())
    content |= {"phases": {"P": {"distances": f"out/{store_name('P')}"}}, "parameters": {},
                "derived": {}, "refinement": {"stages": [["P.lattice_scale"]]}}
    content.pop("scan")
    (folder.path / "next.yaml").write_text(yaml.safe_dump(content))
    outcome = CliRunner().invoke(
        main, ["refine", str(folder.path / "next.yaml"), "-o", str(folder.path / "fit"), "--quiet"])
    assert outcome.exit_code == 0, outcome.output
    assert "P.lattice_scale" in outcome.output


def test_the_geometry_of_stored_distances_cannot_vary(folder, stored):
    with pytest.raises(DocumentError, match=r"P\.a' cannot be set.*stored for a = 4\.12"):
        folder.build(**stored | {"parameters": {"P.a": 4.1}})
    with pytest.raises(DocumentError, match=r"P\.a.*stored"):
        folder.build(**stored | {"refinement": {"stages": [["P.a"]]}})
    with pytest.raises(DocumentError, match="phases with a structure"):
        folder.build(**stored | {"derived": {"P": {"distances": [["Cs", "Cl"]]}}})


def test_a_pattern_beyond_the_range_of_stored_distances_is_refused(folder, stored):
    far = {"pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.3,
                       "grid": {"start": 1.0, "step": 0.1, "stop": 30.0}},
           "refinement": None, "scan": None}
    with pytest.raises(DocumentError, match=r"accurate up to q = .*reaches 30 1/Å.*Rebuild the distances"):
        folder.build(**stored | far)
    with pytest.raises(DocumentError, match="tolerance"):
        folder.build(**stored | {"tolerance": 1e-7})


def test_files_without_valid_distances_are_refused(folder, stored):
    path = folder.path / store_name("P")
    kept = path.read_bytes()
    path.write_text("no HDF5")
    with pytest.raises(DocumentError, match=r"phases\.P.*cannot be read as stored pair distances"):
        folder.build(**stored)
    with h5py.File(path, "w") as file:
        file.attrs["schema"] = "aiida-dse/result/1"
    with pytest.raises(DocumentError, match="does not contain stored pair distances"):
        folder.build(**stored)
    path.write_bytes(kept[BLOCK:])  # without its seal
    with h5py.File(path, "a") as file:
        del file["weights"]
    with pytest.raises(DocumentError, match="cannot be read as stored pair distances"):
        folder.build(**stored)
    path.write_bytes(kept)
    whole = read_distances(path)
    broken = whole.histograms.copy()
    broken[0, 0] = np.nan
    object.__setattr__(whole, "histograms", broken)
    write_distances(whole, path)
    with pytest.raises(DocumentError, match="not finite"):
        folder.build(**stored)


def test_a_phase_has_one_source(folder, stored):
    both = {"P": {"distances": "x.h5", "atoms": "x.xyz"}}
    with pytest.raises(DocumentError, match=r"one of 'structure'.*'distances'"):
        parse_document({"pattern": {"file": "a"}, "phases": both})
    with pytest.raises(DocumentError, match="has no label 'X'; its labels are Cs, Cl"):
        folder.build(**stored | {
            "phases": {"P": {"distances": store_name("P"), "B_iso": {"X": 1.0}}}})


def test_distances_cannot_be_built_from_stored_distances(folder, stored):
    with pytest.raises(ValueError, match="stored already"):
        run_build(folder.build(**stored), folder.path / "again")
