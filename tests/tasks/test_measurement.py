"""Instruments, corrections and Compton scattering from documents: computed, refined and refused.

The patterns are direct sums over explicit atoms, for each wavelength, which are convolved by quadrature.
"""

from __future__ import annotations

import numpy as np
import pytest
import xraylib
from cifs import cubic_cif
from numpy.testing import assert_allclose

from aiida_dse.documents import DocumentError, parse_document
from aiida_dse.engine.units import q_from_two_theta
from aiida_dse.tasks.build import build
from aiida_dse.tasks.partials import partial_patterns
from aiida_dse.tasks.run import run_refine, run_scan
from aiida_dse.tasks.simulation import run_simulate

A, WAVELENGTH = 5.936, 1.540596
CIF = cubic_cif(A, ["Pb Pb2+ 0 0 0 1 1.3", "S S 0.5 0.5 0.5 1 0.9"])
LINES = ((WAVELENGTH, 1.0), (1.544414, 0.5))
ZERO, W, MU_R = 0.031, 0.16, 0.8
ANGLES = np.arange(18.0, 110.0, 0.08)
INSTRUMENT = {"lines": [{"wavelength": w, "weight": s} for w, s in LINES], "zero": ZERO, "profile": {"W": W}}
SAMPLE = {"polarisation": {"source": "laboratory", "monochromator": 26.6}, "absorption": {"mu_R": MU_R},
          "compton": "counting"}


def document(*, pattern=None, **more):
    grid = {"axis": "two_theta", "wavelength": WAVELENGTH,
            "grid": {"start": ANGLES[0], "stop": ANGLES[-1] + 0.01, "step": 0.08}}
    return {"schema": "aiida-dse/model/2",
            "pattern": grid | (pattern or {}),
            "phases": {"P": {"structure": "x.cif", "particle": {"shape": "parallelepiped", "cells": [4, 4, 4]}}},
            **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x.cif").write_text(CIF)
    return tmp_path


@pytest.fixture(scope="module")
def explicit(direct):
    """The pattern of 4 x 4 x 4 cells at ANGLES as it is measured, per particle."""
    base = direct.pbs_rock_salt()
    structure = direct.Structure((A,) * 3, base.positions, base.site, base.ions, base.occupancy, np.array([1.3, 0.9]))
    atoms = direct.block(structure, 4, 4, 4)
    angles = np.arange(15.0, 114.0, 0.1)
    number = np.bincount(atoms.site)
    total = np.zeros(len(angles))
    for wavelength, weight in LINES:
        q = q_from_two_theta(angles, wavelength)
        ratio = 1 / (1 + 12398.42 / wavelength / 510998.95 * (1 - np.cos(np.radians(angles))))
        compton = sum(n * np.array([xraylib.SF_Compt(z, x / (4 * np.pi)) for x in q]) * ratio**2
                      for n, z in zip(number, (82, 16), strict=True))
        # f' and f'' are those of the first line
        coherent = direct.intensity(atoms, q, WAVELENGTH)
        total += weight / 1.5 * (coherent + compton)
    monochromator = np.cos(np.radians(26.6)) ** 2
    total *= (1 + monochromator * np.cos(np.radians(angles)) ** 2) / (1 + monochromator)
    true = ANGLES - ZERO
    profile = np.exp(-4 * np.log(2) * (true[:, None] - angles) ** 2 / W)
    seen = (profile @ total) / profile.sum(axis=1)
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (60_000, 2))
    points = points[(points**2).sum(axis=1) < 1]

    def path(angle):
        along = points @ np.array([np.cos(angle), np.sin(angle)])
        return -along + np.sqrt(along**2 + 1 - (points**2).sum(axis=1))

    some = np.linspace(ANGLES[0], ANGLES[-1], 24)
    absorbed = [np.exp(-MU_R * (path(np.pi) + path(np.radians(one)))).mean() for one in some]
    return seen * np.polyval(np.polyfit(some, absorbed, 6), ANGLES)


def test_the_measured_pattern_of_explicit_atoms(folder, explicit):
    built = build(parse_document(document(pattern=SAMPLE | {"instrument": INSTRUMENT})), folder)
    found = run_simulate(built).arrays["pattern/calculated"]
    assert_allclose(found, explicit, rtol=4e-3)  # the paths of the reference are drawn at random
    assert_allclose(found / explicit, np.mean(found / explicit), rtol=2e-3)


def test_the_parts_add_up(folder):
    built = build(parse_document(document(pattern=SAMPLE | {"instrument": INSTRUMENT})), folder)
    parts = partial_patterns(built)
    assert set(parts) == {"P.Pb-Pb", "P.Pb-S", "P.S-S", "P.compton"}
    assert_allclose(sum(parts.values()), run_simulate(built).arrays["pattern/calculated"], rtol=1e-12)


@pytest.fixture
def fitted(folder, explicit):
    scale = 2e4 / explicit.max()
    counts = np.random.default_rng(4).poisson(scale * explicit + 50)
    np.savetxt(folder / "d.xye", np.c_[ANGLES, counts, np.sqrt(counts)])
    measured = {"file": "d.xye", "axis": "two_theta", "wavelength": WAVELENGTH, "sigma": "column"}
    start = INSTRUMENT | {"zero": 0.0, "profile": {"W": 0.08, "X": 0.01}}
    content = document(background={"chebyshev": 1}, pattern={"instrument": start} | SAMPLE, refinement={"stages": [
        ["P.a", "instrument.zero"], ["P.*.B_iso", "instrument.W"]]}, parameters={
            "instrument.X": 0.0, "P.a": 5.95, "P.Pb.B_iso": 1.0})
    content["pattern"] = measured | SAMPLE | {"instrument": start}
    return content


def test_the_instrument_is_refined(folder, fitted):
    """Zero shift and width of the profile beside the cell and B_iso, with their s.u."""
    found = run_refine(build(parse_document(fitted), folder)).summary
    assert 0.9 < found.agreement.gof < 1.1
    for name, true in (("P.a", A), ("P.Pb.B_iso", 1.3), ("P.S.B_iso", 0.9), ("instrument.zero", ZERO),
                       ("instrument.W", W)):
        row = found.parameters[name]
        assert abs(row.value - true) < 4 * row.su, (name, row.value, row.su)
    assert found.parameters["instrument.zero"].kind == "angle_shift"
    assert found.parameters["instrument.zero"].unit == "deg"


def test_a_map_of_the_instrument(folder, fitted):
    axes = [{"parameter": "instrument.zero", "start": 0.0, "stop": 0.06, "step": 0.002},
            {"parameter": "P.a", "start": 5.92, "stop": 5.95, "step": 0.002}]
    found = run_scan(build(parse_document(fitted | {"scan": {"axes": axes}, "parameters": {
        "instrument.X": 0.0, "instrument.W": W}}), folder)).summary
    assert abs(found.minimum["instrument.zero"] - ZERO) < 0.005 and abs(found.minimum["P.a"] - A) < 0.003


def test_instruments_do_not_change_models_without_them(folder):
    plain, none = (run_simulate(build(parse_document(document(pattern=pattern)), folder)).arrays["pattern/calculated"]
                   for pattern in ({}, {"instrument": {}}))
    assert_allclose(none, plain, rtol=2e-5)  # the error of sampling the distances differs


def test_the_grid_of_angles_resolves_lists_of_atoms(folder):
    """Of 60 nm, for which no size is known: as fine as without an instrument."""
    (folder / "chain.xyz").write_text("3\n\nPb 0 0 0\nPb 600 0 0\nS 5 0 0\n")
    phase = {"P": {"atoms": "chain.xyz", "B_iso": {"Pb": 0.1, "S": 0.1}}}
    plain, none = (run_simulate(build(parse_document(document(pattern=pattern, phases=phase)), folder)).arrays[
        "pattern/calculated"] for pattern in ({}, {"instrument": {}}))
    assert_allclose(none, plain, rtol=2e-6)


@pytest.mark.parametrize(("pattern", "words"), [
    ({"corrected": ["compton"], "compton": "counting"}, "corrected for compton"),
    ({"absorption": {}}, "either mu_R, or composition, density and diameter"),
    ({"absorption": {"composition": "CsPbBr3", "density": 2.0}}, "diameter is missing"),
    ({"absorption": {"mu_R": 1.0, "diameter": 1.0}}, "either mu_R, or"),
    ({"absorption": {"composition": "Xx7", "density": 2.0, "diameter": 1.0}}, "'Xx7' is not a chemical formula"),
    ({"absorption": {"composition": "CsPbBr3", "density": 4.8, "diameter": 30.0}}, "hardly anything would be"),
    ({"instrument": {"lines": [{"wavelength": 0.7}]}}, "first line must be that of the pattern"),
    ({"instrument": {"lines": [{"wavelength": WAVELENGTH}, {"wavelength": 2.0}]}}, "differ by a factor of 1.3"),
    ({"instrument": {"profile": {"W": -0.1}}}, "square of the Gaussian width is -0.1"),
    ({"instrument": {"capillary": {"diameter": 50.0, "radius": 200.0}}}, "wider than a tenth"),
    ({"polarisation": {"source": "synchrotron"}}, "horizontal"),
    ({"polarisation": {"source": "synchrotron", "horizontal": 1.2}}, "horizontal"),
    ({"instrument": {"zero": 60.0}}, "zero"),
])
def test_impossible_measurements_are_refused(folder, pattern, words):
    with pytest.raises((DocumentError, ValueError), match=words):
        build(parse_document(document(pattern=pattern)), folder)


def test_a_phase_may_not_be_called_instrument(folder):
    content = document()
    content["phases"] = {"instrument": content["phases"]["P"]}
    build(parse_document(content), folder)  # without an instrument, as before
    content["pattern"]["instrument"] = INSTRUMENT
    with pytest.raises(DocumentError, match="'instrument'"):
        build(parse_document(content), folder)


def test_the_absorption_of_a_composition_is_reported(folder):
    built = build(parse_document(document(pattern={
        "absorption": {"composition": "CsPbBr3", "density": 1.2, "diameter": 0.5}})), folder)
    (note,) = [text for text in built.notes if "mu R" in text]
    # the mass attenuation coefficient of CsPbBr3 at 8.05 keV is 175 cm^2/g (xraylib: 173.9)
    expected = xraylib.CS_Total_CP("CsPbBr3", 12.39842 / WAVELENGTH) * 1.2 * 0.025
    assert float(note.split("mu R = ")[1].split()[0]) == pytest.approx(expected, rel=0.05)


def test_a_profile_narrower_than_the_points_is_noted(folder):
    built = build(parse_document(document(pattern={"instrument": {"profile": {"W": 1e-6}}})), folder)
    assert any("far below the step of the points" in text for text in built.notes)


def test_the_measurement_in_notebooks(folder):
    from aiida_dse import Parallelepiped, Phase, simulate

    phase = Phase("P", folder / "x.cif", Parallelepiped(cells=(4, 4, 4)))
    found = simulate(ANGLES, phase, axis="two_theta", wavelength=WAVELENGTH, polarisation=SAMPLE["polarisation"],
                     measurement={"absorption": SAMPLE["absorption"], "compton": "counting", "instrument": INSTRUMENT})
    built = build(parse_document(document(pattern=SAMPLE | {"instrument": INSTRUMENT})), folder)
    assert_allclose(found, run_simulate(built).arrays["pattern/calculated"], rtol=1e-6)
    with pytest.raises(ValueError, match="'instrumnt'; possible are absorption"):
        simulate(ANGLES, phase, axis="two_theta", wavelength=WAVELENGTH, measurement={"instrumnt": {}})
