"""Bodies around a point of the crystal: single ones atom by atom, populations as the sum over shells of atoms."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_dse.engine.resources import Resources
from aiida_dse.shapes import SHAPES


def unit(vector):
    return np.asarray(vector, dtype=float) / np.linalg.norm(vector)


def frame(vectors, first, second):
    one, other = unit(np.array(first) @ vectors), np.array(second) @ vectors
    two = unit(other - (other @ one) * one)
    return np.array([one, two, np.cross(one, two)])


def ellipsoid(x, vectors):
    """The diameter of the smallest ellipsoid with the ratios 1.3 and 0.8."""
    return 2 * np.linalg.norm(x @ frame(vectors, (1, 1, 0), (0, 0, 1)).T / [1, 1.3, 0.8], axis=1)


def octahedron(x, vectors):
    """The edge of the smallest octahedron: half the distance of opposite corners is edge / sqrt 2."""
    return np.sqrt(2) * np.abs(x @ frame(vectors, (1, 0, 0), (0, 1, 0)).T).sum(axis=1)


def truncated_cube(x, vectors):
    """The edge of the smallest cube whose corners are cut off at 0.2 of the edges."""
    own = np.abs(x @ frame(vectors, (1, 0, 0), (0, 1, 0)).T)
    return np.maximum(2 * own.max(axis=1), own.sum(axis=1) / (1.5 - 0.2))


CASES = {
    "ellipsoid": (ellipsoid, {"shape": "ellipsoid", "aspect_2": 1.3, "aspect_3": 0.8, "axes": [[1, 1, 0], [0, 0, 1]]}),
    "octahedron": (octahedron, {"shape": "octahedron"}),
    "truncated cube": (truncated_cube, {"shape": "truncated_cube", "truncation": 0.2}),
}
CRYSTALS = ["rock_salt", "pbnm", "triclinic"]


def phase_of(dse, content, crystal):
    shape = SHAPES[content["shape"]].model_validate(content)
    return dse.phase(crystal, shape.family(crystal), shape.start())


@pytest.mark.parametrize("crystal", CRYSTALS)
@pytest.mark.parametrize("case", CASES)
def test_single_bodies(case, crystal, dse, direct):
    gauge, content = CASES[case]
    q, centre, size = dse.uneven_q(30), (0.1, 0.2, 0.15), 1.6
    structure = dse.structures[crystal]
    around = direct.sphere(structure, centre, 16.0)
    inside = gauge(around.xyz - np.array(centre) @ structure.vectors, structure.vectors) <= 10 * size
    atoms = around.chosen(inside)
    expected = direct.intensity(atoms, q, dse.wavelength)
    (name,) = SHAPES[content["shape"]].size_fields
    phase = phase_of(dse, content | {name: size, "centre": centre}, dse.crystals[crystal])
    assert dse.worst(dse.intensity(phase, q, tolerance=1e-7), expected) < 1e-6
    counts = phase.family.pair_counts(phase.crystal, phase.sizes)
    assert counts.atoms.sum() == len(atoms)
    several = phase.family.pair_counts(phase.crystal, phase.sizes, Resources(3))
    np.testing.assert_allclose(several.tables, counts.tables, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_populations_around_a_site(case, dse, direct):
    """Between two gauges of atoms, the bodies consist of the same atoms."""
    gauge, content = CASES[case]
    q, structure, mean, sd, largest = dse.uneven_q(25), dse.structures["rock_salt"], 1.2, 0.25, 1.9
    around = direct.sphere(structure, (0, 0, 0), 20.0)
    gauges = gauge(around.xyz, structure.vectors) / 10
    levels = np.unique(np.round(gauges, 7))
    levels = levels[levels < largest]
    width = np.sqrt(np.log1p((sd / mean) ** 2))
    median = mean / np.sqrt(1 + (sd / mean) ** 2)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    expected, total = np.zeros(len(q)), 0.0
    for low, high in zip(levels, [*levels[1:], largest], strict=True):
        x = (low + high) / 2 + (high - low) / 2 * nodes
        share = (high - low) / 2 * np.sum(weights * np.exp(-np.log(x / median) ** 2 / (2 * width**2)) / x) / (
            width * np.sqrt(2 * np.pi))
        total += share
        if share > 1e-12:
            expected += share * direct.intensity(around.chosen(gauges <= low + 1e-6), q, dse.wavelength)
    (name,) = SHAPES[content["shape"]].size_fields
    phase = phase_of(dse, content | {name: {"mean": mean, "sd": sd}, "largest": largest, "centre": "Pb"},
                     dse.crystals["rock_salt"])
    assert dse.worst(dse.intensity(phase, q, tolerance=1e-7), expected / total) < 1e-5


def test_the_ellipsoid_of_equal_diameters_is_the_sphere(dse):
    q, law = dse.uneven_q(40), {"mean": 1.4, "sd": 0.3}
    crystal = dse.crystals["pbnm"]
    ball = phase_of(dse, {"shape": "sphere", "D": law, "centre": "Pb"}, crystal)
    other = phase_of(dse, {"shape": "ellipsoid", "D": law, "centre": "Pb"}, crystal)
    assert dse.worst(dse.intensity(other, q), dse.intensity(ball, q)) < 1e-9


def test_the_pattern_is_that_of_the_scaled_crystal(dse):
    """A larger cell, with the sizes scaled alike, has the pattern at smaller q."""
    crystal = dse.crystals["rock_salt"]
    content = {"shape": "octahedron", "L_edge": {"mean": 1.6, "sd": 0.2}, "centre": "Pb"}
    phase, q = phase_of(dse, content, crystal), np.linspace(1.0, 8.0, 30)
    values = phase.start | {"Pb.B_iso": 0.0, "S.B_iso": 0.0}
    plain = phase.state(values, dse_sampling(dse, q * 1.02)).sums
    scaled = values | {"a": 1.02 * values["a"], "L_edge": 1.02 * values["L_edge"], "sd_edge": 1.02 * values["sd_edge"]}
    np.testing.assert_allclose(phase.state(scaled, dse_sampling(dse, q)).sums, plain, atol=1e-5 * np.abs(plain).max())


def dse_sampling(dse, q):
    from aiida_dse.engine.model.phase import Sampling

    return Sampling(q, dse.wavelength, tolerance=1e-8)


def test_bodies_that_are_too_large_or_empty_are_refused(dse, monkeypatch):
    from aiida_dse.engine.particles import fixed_centre

    crystal = dse.crystals["rock_salt"]
    with pytest.raises(ValueError, match="contains no atom"):
        phase = phase_of(dse, {"shape": "octahedron", "L_edge": 0.2, "centre": [0.25, 0.25, 0.25]}, crystal)
        phase.family.pair_counts(crystal, {})
    monkeypatch.setattr(fixed_centre, "MOST_PAIRS", 1e4)
    phase = phase_of(dse, {"shape": "octahedron", "L_edge": 3.0, "centre": "Pb"}, crystal)
    with pytest.raises(ValueError, match="pairs of atoms; the limit is 1e\\+04"):
        phase.family.pair_counts(crystal, {})


def test_bodies_of_ordinary_size_are_possible(dse):
    """An octahedron of 5 nm has 1.4e7 pairs of atoms; the candidates are those of the body, not of a sphere."""
    crystal = dse.crystals["pbnm"]
    phase = phase_of(dse, {"shape": "octahedron", "L_edge": {"mean": 4.0, "sd": 0.4}, "centre": "Pb"}, crystal)
    phase.require_possible(phase.start)
    counts = phase.family.pair_counts(crystal, phase.sizes, Resources(2))
    volume = phase.family.mean_cells(crystal, phase.sizes)
    assert counts.atoms.sum() == pytest.approx(20 * volume, rel=0.03)
    (found,) = [entry.result() for entry in phase.family._atoms._entries.values()]
    assert len(found.atom) < 20 * 6 * volume


def test_a_body_of_one_size_keeps_its_atoms_when_the_cell_changes(dse):
    phase = phase_of(dse, {"shape": "octahedron", "L_edge": 2.1, "centre": "Pb"}, dse.crystals["rock_salt"])
    numbers = {phase.family.pair_counts(phase.crystal, {}, stretch=scale).atoms.sum()
               for scale in (0.99, 1.0, 1.0005, 1.01)}
    assert len(numbers) == 1
