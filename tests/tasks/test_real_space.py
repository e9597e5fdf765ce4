"""Total scattering functions of models and data: against explicit atoms, written, drawn and refused."""

from __future__ import annotations

import numpy as np
import pytest
import xraylib
import yaml
from cifs import cubic_cif
from click.testing import CliRunner
from numpy.testing import assert_allclose

from aiida_dse.cli.engine import main
from aiida_dse.documents import parse_document
from aiida_dse.tasks.build import build
from aiida_dse.tasks.real_space import total_scattering

A, WAVELENGTH = 5.936, 0.4
CIF = cubic_cif(A, ["Pb Pb2+ 0 0 0 1 1.3", "S S 0.5 0.5 0.5 1 0.9"])
Q = np.arange(0.8, 20.0, 0.01)
R = np.arange(0.5, 30.0, 0.05)


@pytest.fixture(scope="module")
def explicit(direct):
    """I(q) of 3 x 3 x 3 cells of PbS, the numbers of atoms, and the function from I(q) to S(Q)."""
    base = direct.pbs_rock_salt()
    structure = direct.Structure((A,) * 3, base.positions, base.site, base.ions, base.occupancy, np.array([1.3, 0.9]))
    atoms = direct.block(structure, 3, 3, 3)
    intensity = direct.intensity(atoms, Q, WAVELENGTH)
    number = np.bincount(atoms.site)
    share = number / number.sum()
    f = direct.form_factors(structure.ions, Q, WAVELENGTH)
    mean, square = abs(share @ f) ** 2, share @ np.abs(f) ** 2
    return intensity, number, lambda one: (one / number.sum() - square) / mean + 1


def transform(q, structure_factor):
    """2/pi int Q [S - 1] sin(Q r) dQ, by the trapezoidal rule."""
    values = (q * (structure_factor - 1))[:, None] * np.sin(np.multiply.outer(q, R))
    return 2 / np.pi * np.trapezoid(values, q, axis=0)


def document(folder, **more):
    (folder / "x.cif").write_text(CIF)
    return {"schema": "aiida-dse/model/2", "pattern": {
                "axis": "q_inverse_angstrom", "wavelength": WAVELENGTH,
                "grid": {"start": 0.8, "stop": 19.9901, "step": 0.01}},
            "phases": {"P": {"structure": "x.cif", "particle": {"shape": "parallelepiped", "cells": [3, 3, 3]}}},
            **more}


def test_the_functions_of_a_model(tmp_path, explicit):
    intensity, _, of_intensity = explicit
    structure_factor = of_intensity(intensity)
    found = total_scattering(build(parse_document(document(tmp_path)), tmp_path), R)
    assert_allclose(found.structure_factor, structure_factor, rtol=1e-5, atol=1e-6)
    assert_allclose(found.pair_distribution, transform(Q, structure_factor), atol=1e-5)
    assert found.observed_pair_distribution is None
    assert set(found.partials) == {"Pb-Pb", "Pb-S", "S-S"}
    # the first peaks of the partials: Pb-S at a/2, Pb-Pb and S-S at a / sqrt(2)
    for name, distance in (("Pb-S", A / 2), ("Pb-Pb", A / 2**0.5), ("S-S", A / 2**0.5)):
        near = (R > 2) & (R < 5.2)
        assert R[near][np.argmax(found.partials[name][near])] == pytest.approx(distance, abs=0.08)


def test_the_functions_of_corrected_data(tmp_path, explicit):
    """Polarisation and Compton scattering are removed; what the model does not contain remains."""
    intensity, number, of_intensity = explicit
    cosine = 1 - 2 * (Q * WAVELENGTH / (4 * np.pi)) ** 2
    ratio = 1 / (1 + 12398.42 / WAVELENGTH / 510998.95 * (1 - cosine))
    compton = sum(n * np.array([xraylib.SF_Compt(z, x / (4 * np.pi)) for x in Q]) * ratio**2
                  for n, z in zip(number, (82, 16), strict=True))
    ripple = 1 + 0.01 * np.sin(7 * Q)  # an effect that the model does not contain
    seen = 3e-3 * (intensity * ripple + compton) * (1 + cosine**2) / 2
    np.savetxt(tmp_path / "d.xye", np.c_[Q, seen, np.full(len(Q), 1.0)])
    content = document(tmp_path, scales={"P": 3e-3})
    content["pattern"] = {"file": "d.xye", "axis": "q_inverse_angstrom", "wavelength": WAVELENGTH, "sigma": "column",
                          "polarisation": "unpolarised", "compton": "counting"}
    found = total_scattering(build(parse_document(content), tmp_path), R)
    assert_allclose(found.structure_factor, of_intensity(intensity), atol=1e-4)
    assert_allclose(found.observed_structure_factor, of_intensity(intensity * ripple), atol=1e-4)
    assert abs(found.observed_structure_factor - found.structure_factor).max() > 0.02
    assert_allclose(found.observed_pair_distribution, transform(Q, found.observed_structure_factor), atol=1e-9)


def test_files_and_figure(tmp_path):
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(document(tmp_path)))
    done = CliRunner().invoke(main, ["total-scattering", str(tmp_path / "model.yaml"), "--r-max", "20", "--lorch",
                                     "--q-range", "1", "18", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    with open(tmp_path / "out" / "pair_distribution.txt") as file:
        assert file.readline().split() == ["#", "r", "G_calculated", "g_Pb-Pb", "g_Pb-S", "g_S-S"]
    q = np.loadtxt(tmp_path / "out" / "structure_factor.txt")[:, 0]
    assert q[0] == pytest.approx(1.0) and q[-1] == pytest.approx(18.0)
    assert (tmp_path / "out" / "total_scattering.png").stat().st_size > 10_000


@pytest.mark.parametrize(("options", "words"), [
    (["--r-max", "900"], "distances up to 314"), (["--q-range", "30", "40"], "Correct the range"),
    (["--r-step", "-1"], "positive step"),
])
def test_impossible_ranges_are_refused(tmp_path, options, words):
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(document(tmp_path)))
    done = CliRunner().invoke(main, ["total-scattering", str(tmp_path / "model.yaml"), *options, "-o", str(tmp_path)])
    assert done.exit_code == 2 and words in " ".join((done.output + done.stderr).split())


def test_values_of_a_refinement_of_the_document(tmp_path, explicit):
    """Those of another document, and of folders without a result, are refused."""
    intensity, *_ = explicit
    np.savetxt(tmp_path / "d.xye", np.c_[Q, intensity, 0.01 * intensity])
    content = document(tmp_path, parameters={"P.Pb.B_iso": 0.8}, refinement={"stages": [["P.Pb.B_iso"]]})
    content["pattern"] = {"file": "d.xye", "axis": "q_inverse_angstrom", "wavelength": WAVELENGTH, "sigma": "column"}
    path, out = tmp_path / "model.yaml", str(tmp_path / "out")
    path.write_text(yaml.safe_dump(content))
    assert CliRunner().invoke(main, ["refine", str(path), "--quiet", "-o", str(tmp_path / "fit")]).exit_code == 0
    arguments = ["total-scattering", str(path), "-o", out, "--result"]
    assert CliRunner().invoke(main, [*arguments, str(tmp_path / "fit")]).exit_code == 0
    table = np.loadtxt(tmp_path / "out" / "structure_factor.txt")
    assert abs(table[:, 1] - table[:, 3]).max() < 1e-3  # S of the model and of the data
    none = CliRunner().invoke(main, [*arguments, str(tmp_path)])
    assert none.exit_code == 2 and "contains no result" in none.output + none.stderr
    path.write_text(yaml.safe_dump(content | {"parameters": {"P.Pb.B_iso": 0.9}}))
    other = CliRunner().invoke(main, [*arguments, str(tmp_path / "fit")])
    assert other.exit_code == 2 and "another document" in " ".join((other.output + other.stderr).split())


def test_large_crystals_have_no_pair_distribution(tmp_path):
    content = document(tmp_path)
    content["phases"]["P"] = {"structure": "x.cif", "bulk": {}}
    content["pattern"]["instrument"] = {"profile": {"W": 0.01}}
    with pytest.raises(ValueError, match="large crystals does not end"):
        total_scattering(build(parse_document(content), tmp_path), R)
