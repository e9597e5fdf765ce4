"""Large crystals as reflections: against Debye patterns of large particles, in mixtures, refined and refused."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from cifs import cubic_cif
from click.testing import CliRunner
from numpy.testing import assert_allclose

from aiida_dse import Phase, simulate
from aiida_dse.cli.engine import main
from aiida_dse.documents import DocumentError, parse_document
from aiida_dse.documents.reading import load_document
from aiida_dse.engine.measurement.profiles import Profile, Widths
from aiida_dse.report.tables import result_report, validation_report
from aiida_dse.tasks.build import build
from aiida_dse.tasks.distances import run_build
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simulation import run_simulate

WAVELENGTH = 0.56
CIF = cubic_cif(4.123, ["Cs Cs1+ 0 0 0 0.9 1.5", "Cl Cl1- 0.5 0.5 0.5 1 2.0"], group="P m -3 m")
GRID = {"axis": "two_theta", "wavelength": WAVELENGTH, "grid": {"start": 6.0, "stop": 45.0, "step": 0.02}}


def document(phase, profile=None, *, pattern=None, phases=None, **more):
    instrument = {"profile": profile or {"W": 0.25}}
    return {"schema": "aiida-dse/model/2", "pattern": GRID | {"instrument": instrument} | (pattern or {}),
            "phases": {"P": {"structure": "x.cif", **phase}, **(phases or {})}, **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x.cif").write_text(CIF)
    return tmp_path


def calculated(folder, content):
    return run_simulate(build(parse_document(content), folder)).arrays["pattern/calculated"]


def test_a_large_crystal_is_the_limit_of_large_particles(folder):
    """Per unit cell, with a profile that is much wider than the reflections of the particles."""
    size = 40.0
    sphere = calculated(folder, document({"particle": {"shape": "sphere", "D": size}}))
    cells = np.pi / 6 * size**3 / 0.4123**3
    # the volume-weighted column length of a sphere is 3/4 of its diameter
    bulk = calculated(folder, document({"bulk": {"size": 0.75 * size}}))
    # reflections of spheres are no Lorentzians, so that only their integrals agree
    assert_allclose(np.cumsum(bulk), np.cumsum(sphere / cells), atol=6e-3 * bulk.sum())
    assert_allclose(bulk, sphere / cells, atol=0.06 * bulk.max())
    wide = calculated(folder, document({"bulk": {}}))
    assert wide.sum() == pytest.approx(bulk.sum(), rel=2e-3)


def test_intensities_do_not_depend_on_the_grid(folder):
    """A narrow and a wide profile have the same integral and the same centre."""
    narrow = calculated(folder, document({"bulk": {}}, {"W": 0.0025}))
    wide = calculated(folder, document({"bulk": {}}, {"W": 0.01}))
    angle = 6.0 + 0.02 * np.arange(len(wide))
    near = (angle > 10.2) & (angle < 11.9)  # (110)
    assert narrow[near].sum() == pytest.approx(wide[near].sum(), rel=2e-3)
    centre = [(angle[near] * one[near]).sum() / one[near].sum() for one in (narrow, wide)]
    assert centre[0] == pytest.approx(centre[1], abs=2e-4)
    # the width of the profile is not changed by the grid
    peak = wide[near] - wide[near].min()
    sd = np.sqrt((peak * (angle[near] - centre[1]) ** 2)[abs(angle[near] - centre[1]) < 0.15].sum() / peak.sum())
    assert 2.3548 * sd == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize(("given", "grows"), [
    ({"size": 50.0}, "not with the angle"), ({"strain": 0.002}, "with the angle")])
def test_size_and_strain_broaden(folder, given, grows):
    plain, broad = (calculated(folder, document({"bulk": one}, {"W": 0.0025})) for one in ({}, given))
    angle = 6.0 + 0.02 * np.arange(len(plain))

    def height(low, high):
        near = (angle > low) & (angle < high)
        return plain[near].max() / broad[near].max()

    first, second = height(10.5, 11.5), height(24.0, 25.5)  # (110) and (321)
    assert first > 1.05
    assert second > 1.3 * first if grows == "with the angle" else second < 1.2 * first


SALT = cubic_cif(5.64, ["Na Na1+ 0 0 0 1 1.2", "Cl Cl1- 0.5 0.5 0.5 1 1.4"])


@pytest.fixture(scope="module")
def explicit(direct):
    """The pattern per unit cell of NaCl from its reflections, and that of 125 cells of CsCl from all pairs of atoms.

    Both at `angle` with a Gaussian profile of 0.1 degrees: I = m F^2 lambda^3 / (16 pi V sin^2 theta cos theta).
    """
    angle = 6.0 + 0.02 * np.arange(1950)
    fine = np.arange(5.0, 46.0, 0.02)
    q = 4 * np.pi * np.sin(np.radians(fine) / 2) / WAVELENGTH

    def gaussian(centre, at):
        return np.exp(-4 * np.log(2) * ((at - centre) / 0.1) ** 2) / (0.1 * np.sqrt(np.pi / (4 * np.log(2))))

    h = np.arange(-16, 17)
    hkl = np.stack(np.meshgrid(h, h, h), axis=-1).reshape(-1, 3)
    square, number = np.unique((hkl[(hkl % 2 == hkl[:, :1] % 2).all(axis=1)] ** 2).sum(axis=1), return_counts=True)
    odd = square % 4 == 3  # of unmixed indices
    salt = np.zeros(len(angle))
    b = np.array([1.2, 1.4])
    for n, m, minus in zip(square[1:], number[1:], odd[1:], strict=True):
        sine = WAVELENGTH * np.sqrt(n) / (2 * 5.64)
        if sine > 0.42:
            break
        f = direct.form_factors(("Na1+", "Cl1-"), np.array([4 * np.pi * sine / WAVELENGTH]), WAVELENGTH)[:, 0]
        f = f * np.exp(-b * sine**2 / WAVELENGTH**2)
        theta = np.arcsin(sine)
        integral = m * abs(4 * (f[0] - f[1] if minus else f[0] + f[1])) ** 2 * WAVELENGTH**3 / (
            16 * np.pi * 5.64**3 * sine**2 * np.cos(theta))
        salt += np.degrees(integral) * gaussian(2 * np.degrees(theta), angle)
    own = 4 * np.pi * np.sin(np.radians(angle) / 2) / WAVELENGTH
    f = direct.form_factors(("Na1+", "Cl1-"), own, WAVELENGTH)
    salt += 4 * (np.abs(f) ** 2 * (1 - np.exp(-2 * np.outer(b, own**2) / (16 * np.pi**2)))).sum(axis=0)
    structure = direct.Structure((4.123,) * 3, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([0, 1]),
                                 ("Cs1+", "Cl1-"), np.array([0.9, 1.0]), np.array([1.5, 2.0]))
    atoms = direct.block(structure, 5, 5, 5)
    dots = direct.intensity(atoms, q, WAVELENGTH)
    profile = np.array([gaussian(x, fine) for x in angle])
    return angle, salt, (profile @ dots) / profile.sum(axis=1)


def test_reflections_of_a_large_crystal(folder, explicit):
    """Integrals, positions and diffuse scattering are those of the reflections one by one."""
    (folder / "x.cif").write_text(SALT)
    _, salt, _ = explicit
    found = calculated(folder, document({"bulk": {}}, {"W": 0.01}))[: len(salt)]
    assert_allclose(found, salt, atol=5e-3 * salt.max())
    weak = salt < 0.01 * salt.max()
    assert_allclose(found[weak], salt[weak], rtol=0.02)


def test_a_mixture_of_particles_and_large_crystals_is_refined(folder, explicit):
    (folder / "salt.cif").write_text(SALT)
    other = {"salt": {"structure": "salt.cif", "bulk": {}}}
    dots = {"particle": {"shape": "parallelepiped", "cells": [5, 5, 5]}}
    angle, salt, particles = explicit
    expected = particles + 60 * salt
    counts = np.random.default_rng(3).poisson(1e4 * expected / expected.max() + 20)
    np.savetxt(folder / "d.xye", np.c_[angle, counts, np.sqrt(counts)])
    content = document(dots, {"W": 0.012}, phases=other, background={"chebyshev": 1}, parameters={
        "P.a": 4.13, "salt.a": 5.645}, refinement={"weights": "calculated", "stages": [
            ["P.a", "salt.a"], ["instrument.W", "P.Cs.B_iso", "salt.Na.B_iso", "instrument.zero"]]})
    content["pattern"] = {"file": "d.xye", "axis": "two_theta", "wavelength": WAVELENGTH, "sigma": "column",
                          "instrument": content["pattern"]["instrument"]}
    found = run_refine(build(parse_document(content), folder)).summary
    assert found.agreement.gof < 1.1
    for name, true in (("P.a", 4.123), ("salt.a", 5.64), ("P.Cs.B_iso", 1.5), ("instrument.W", 0.01),
                       ("salt.Na.B_iso", 1.2), ("instrument.zero", 0.0)):
        row = found.parameters[name]
        assert abs(row.value - true) < 4 * row.su, (name, row.value, row.su)
    assert found.derived["salt"].weight_fraction.value + found.derived["P"].weight_fraction.value == pytest.approx(1)
    assert found.linear["salt.scale"].value / found.linear["P.scale"].value == pytest.approx(60.0, rel=0.03)


@pytest.mark.parametrize(("phase", "more", "words"), [
    ({"bulk": {}, "particle": {"shape": "sphere", "D": 3.0}}, {}, "'bulk' requires a 'structure' without a 'particle'"),
    ({"bulk": {}, "displacements": {"Cs": {"model": "uniaxial", "along": "Cl", "parallel": 0.01,
                                           "perpendicular": 0.02}}}, {}, "isotropic displacements only"),
    ({"bulk": {"strain": -0.1}}, {}, "strain"),
    ({"bulk": {}}, {"pattern": {"instrument": None}}, "profile of the instrument, which is missing"),
    ({"bulk": {}}, {"pattern": {"instrument": {"zero": 0.1}}}, "have no width"),
    ({"bulk": {}}, {"pattern": {"instrument": {"profile": {"W": 1e-10}}}}, "the limit with an instrument"),
])
def test_impossible_large_crystals_are_refused(folder, phase, more, words):
    with pytest.raises(DocumentError, match=words):
        build(parse_document(document(phase, **more)), folder)


def test_reports_of_large_crystals(folder):
    built = build(parse_document(document({"bulk": {}})), folder)
    assert "large crystals, whose pattern consists of reflections" in validation_report(built)
    assert "population" not in result_report(run_simulate(built))


def test_large_crystals_in_notebooks(folder):
    angle = 6.0 + 0.02 * np.arange(1951)
    found = simulate(angle, Phase("P", folder / "x.cif", bulk={"size": 50.0}), axis="two_theta", wavelength=WAVELENGTH,
                     measurement={"instrument": {"profile": {"W": 0.25}}})
    assert_allclose(found, calculated(folder, document({"bulk": {"size": 50.0}})), rtol=1e-6)


def test_large_crystals_have_no_stored_distances(folder):
    with pytest.raises(ValueError, match="no list of distances"):
        run_build(build(parse_document(document({"bulk": {}})), folder), folder)


def test_a_standard_calibrates_the_instrument(folder, explicit):
    """Of sodium chloride, with a zero shift; the instrument is then that of another document."""
    (folder / "salt.cif").write_text(SALT)
    angle, salt, _ = explicit
    counts = np.random.default_rng(8).poisson(2e4 * salt / salt.max() + 30)
    np.savetxt(folder / "standard.xye", np.c_[angle + 0.03, counts, np.sqrt(counts + 1)])
    done = CliRunner().invoke(main, [
        "calibrate", str(folder / "standard.xye"), "--cif", str(folder / "salt.cif"), "--axis", "two_theta",
        "--wavelength", str(WAVELENGTH), "--quiet", "-o", str(folder / "out")])
    assert done.exit_code in (0, 6), done.output  # widths that are zero need not be determined
    found = yaml.safe_load((folder / "out" / "instrument.yaml").read_text())["instrument"]
    assert found["zero"] == pytest.approx(0.03, abs=3e-4)
    width = Profile("voigt", Widths(**found["profile"])).width(np.array([11.0, 20.0]), WAVELENGTH)
    assert_allclose(width, 0.1, rtol=0.05)
    content = document({"particle": {"shape": "sphere", "D": 4.0}})
    content["pattern"]["instrument"] = "out/instrument.yaml"
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    assert load_document(folder / "model.yaml").pattern.instrument.zero == found["zero"]


def test_files_that_are_no_instruments_are_refused(folder):
    content = document({"particle": {"shape": "sphere", "D": 4.0}})
    content["pattern"]["instrument"] = "instrument.yaml"
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(DocumentError, match="there is no such file"):
        load_document(folder / "model.yaml")
    for text, words in (("zero: 0.1\n", "is not the file of an instrument"), ("instrument: {zeros: 1}\n", "zeros"),
                        ("instrument: [1\n", "not valid YAML")):
        (folder / "instrument.yaml").write_text(text)
        with pytest.raises(DocumentError, match=words):
            load_document(folder / "model.yaml")


def test_a_pattern_that_ends_with_a_maximum_is_no_standard(folder):
    angle = np.arange(10.0, 20.0, 0.05)
    np.savetxt(folder / "rising.xye", np.c_[angle, 100 + angle**3, np.full(len(angle), 10.0)])
    done = CliRunner().invoke(main, ["calibrate", str(folder / "rising.xye"), "--cif", str(folder / "x.cif"), "--axis",
                                     "two_theta", "--wavelength", "0.56", "-o", str(folder / "out")])
    assert done.exit_code == 2 and "no reflection of a standard" in done.output + str(done.stderr)
