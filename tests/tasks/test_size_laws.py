"""Laws against size from documents: refined, mapped, reported and refused."""

from __future__ import annotations

import numpy as np
import pytest
from cifs import cubic_cif
from numpy.testing import assert_allclose

from aiida_dse.documents import DocumentError, parse_document
from aiida_dse.engine.particles.parallelepipeds import ParallelepipedPopulation
from aiida_dse.io.structures import parse_cif
from aiida_dse.tasks.build import build
from aiida_dse.tasks.distances import run_build
from aiida_dse.tasks.run import run_refine, run_scan
from aiida_dse.tasks.simulation import run_simulate

A, CHANGE, B_CHANGE = 5.936, 0.004, 0.6
CIF = cubic_cif(A, ["Pb Pb2+ 0 0 0 1 1.3", "S S 0.5 0.5 0.5 1 0.9"])
LAWS = {"a": {"change": 0.001, "size": 2.5}, "S.B_iso": {"change": 0.3, "size": 2.5}}
SIZES = {"L_ab": {"mean": 1.8, "sd": 0.5}, "L_c": {"mean": 1.8, "sd": 0.5}, "largest": 3.0}


def document(**more):
    particle = more.pop("particle", {"shape": "parallelepiped", **SIZES})
    phase = {"structure": "x.cif", "particle": particle, "size_laws": more.pop("laws", LAWS)}
    return {"schema": "aiida-dse/model/2", "phases": {"P": phase | more.pop("phase", {})},
            "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.5,
                        "grid": {"start": 0.8, "stop": 12.0, "step": 0.02}}, **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x.cif").write_text(CIF)
    return tmp_path


@pytest.fixture(scope="module")
def explicit(direct):
    """The mean pattern of explicit blocks of cells, each with its own lattice and B of S."""
    q = np.arange(0.8, 12.0, 0.05)
    crystal = parse_cif(CIF)
    number, _, _ = ParallelepipedPopulation(largest=3.0).number_weights(
        crystal, {"L_ab": 1.8, "sd_ab": 0.5, "L_c": 1.8, "sd_c": 0.5, "size_axes_rotation": 0.0})
    base, total = direct.pbs_rock_salt(), np.zeros(len(q))
    for n_ab, n_c in np.argwhere(number > 1e-6) + 1:
        inverse = 1 / ((6 / np.pi * n_ab**2 * n_c) ** (1 / 3) * A / 10)
        own = direct.Structure((A * (1 + CHANGE * 2.5 * inverse),) * 3, base.positions, base.site, base.ions,
                               base.occupancy, np.array([1.3, 0.9 + B_CHANGE * 2.5 * inverse]))
        total += number[n_ab - 1, n_c - 1] * direct.intensity(direct.block(own, n_ab, n_ab, n_c), q, 0.5)
    return q, total


def with_data(folder, explicit, **more):
    q, intensity = explicit
    sigma = 0.003 * np.sqrt(intensity * intensity.mean())
    noisy = intensity + sigma * np.random.default_rng(5).normal(size=len(q))
    np.savetxt(folder / "d.xye", np.c_[q, noisy, sigma])
    return document(pattern={"file": "d.xye", "axis": "q_inverse_angstrom", "wavelength": 0.5, "sigma": "column"},
                    refinement={"stages": [["P.a", "P.a_change", "P.Pb.B_iso", "P.S.B_iso_change"],
                                           ["P.L_*", "P.sd_*"]]}, **more)


def test_laws_are_refined(folder, explicit):
    """B_iso of S for large particles is known; one pattern would hardly distinguish it from its change."""
    found = run_refine(build(parse_document(with_data(folder, explicit)), folder)).summary
    for name, true in (("a", A), ("a_change", CHANGE), ("S.B_iso_change", B_CHANGE), ("L_ab", 1.8), ("Pb.B_iso", 1.3)):
        row = found.parameters[f"P.{name}"]
        assert abs(row.value - true) < 4 * row.su, (name, row.value, row.su)
    assert 0.9 < found.agreement.gof < 1.1
    assert found.parameters["P.a_change"].kind == "lattice_change"
    # the lattice of the particle with the mean size, whose s.u. is much smaller than that of the limit
    mean, limit = found.derived["P"].quantities["a_at_mean_size"], found.parameters["P.a"]
    inverse = 1 / (found.derived["P"].quantities["L"].value * (6 / np.pi) ** (1 / 3))
    assert mean.value == pytest.approx(limit.value * (1 + found.parameters["P.a_change"].value * 2.5 * inverse))
    assert mean.unit == "Å" and mean.su < limit.su / 2


def test_a_map_of_a_law(folder, explicit):
    """The map interpolated from exact patterns is the one that is computed point by point."""
    axes = [{"parameter": "P.a_change", "start": 0.0, "stop": 0.008, "step": 0.0004},
            {"parameter": "P.a", "start": 5.90, "stop": 5.96, "step": 0.0012}]
    content = with_data(folder, explicit, scan={"axes": axes})
    found = run_scan(build(parse_document(content), folder))
    coarse = [axis | {"step": 5 * axis["step"]} for axis in axes]
    exact = run_scan(build(parse_document(content | {"scan": {"axes": coarse, "method": "direct"}}), folder))
    assert found.summary.interpolation is not None
    assert_allclose(found.arrays["scan/gof"][::5, ::5], exact.arrays["scan/gof"], rtol=2e-5)
    assert 0.0005 < found.summary.minimum["P.a_change"] < 0.0075  # not at an edge


def test_stored_distances_have_no_laws(folder):
    with pytest.raises(ValueError, match="laws against size"):
        run_build(build(parse_document(document()), folder), folder / "out")


def test_every_form_and_property(folder):
    laws = {"cell": {"change": -0.01, "decay": 1.5}, "S.occupancy": {"change": -0.1}, "Pb.B_iso": {"change": 0.5}}
    plain = run_simulate(build(parse_document(document(laws={})), folder)).arrays["pattern/calculated"]
    found = run_simulate(build(parse_document(document(laws=laws)), folder))
    assert np.abs(found.arrays["pattern/calculated"] / plain - 1).max() > 0.01
    kinds = {name: row.kind.value for name, row in found.summary.parameters.items()
             if "change" in name or "decay" in name}
    assert kinds == {"P.cell_change": "lattice_change", "P.cell_decay": "decay",
                     "P.S.occupancy_change": "occupancy_change", "P.Pb.B_iso_change": "B_change"}


@pytest.mark.parametrize(("more", "words"), [
    ({"laws": {"b": {"change": 0.1}}}, "'b' cannot depend on the size"),
    ({"laws": {"Pd.B_iso": {"change": 0.1}}}, r"did you mean Pb\.B_iso"),
    ({"laws": {"a": {"change": 0.01}, "cell": {"change": 0.01}}}, "'cell' is the law of all cell lengths"),
    ({"laws": {"a": {"change": 0.01, "size": 3, "decay": 2}}}, "either 'size'.* or 'decay'"),
    ({"laws": {"a": {"change": 3.0}}}, "within a factor of two"),
    ({"laws": {"S.occupancy": {"change": 0.5}}}, "between 0 and 1"),
    ({"laws": {"S.B_iso": {"change": -5}}}, "must be at least 0"),
    ({"particle": {"shape": "parallelepiped", "cells": [3, 3, 3]}}, "size_laws: .* require a population"),
    ({"particle": {"shape": "sphere", "D": 3.0}}, "require a population"),
    ({"laws": {"S.B_iso": {"change": 0.1}}, "phase": {"displacements": {"S": "anisotropic"}}},
     "cannot have a law of B_iso"),
])
def test_laws_that_make_no_sense_are_refused(more, words, folder):
    with pytest.raises(DocumentError, match=words):
        build(parse_document(document(**more)), folder)


def test_laws_require_a_structure(folder):
    content = document()
    content["phases"]["P"] = {"atoms": "x.xyz", "size_laws": LAWS}
    with pytest.raises(DocumentError, match="size_laws require a 'structure'"):
        parse_document(content)




def test_a_map_with_impossible_corners_is_refused(folder):
    axes = [{"parameter": "P.S.B_iso_change", "start": -3.0, "stop": 3.0, "step": 0.5}]
    with pytest.raises(DocumentError, match=r"at the corner P\.S\.B_iso_change = -3 of the map: .* at least 0"):
        build(parse_document(document(scan={"axes": axes})), folder)
