"""Particles and populations: single ones atom by atom, populations as the sum of their members."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.particles.open_parallelepipeds import OpenParallelepiped
from aiida_dse.engine.particles.parallelepipeds import (
    ParallelepipedPopulation,
    QuasiCubePopulation,
    SingleParallelepiped,
)
from aiida_dse.engine.particles.size_distributions import TAIL
from aiida_dse.engine.particles.spheres import SingleSphere, SpherePopulation


def _density(length, mean, sd):
    """PHYSICS.md section 3."""
    w = np.sqrt(np.log(1 + sd**2 / mean**2))
    x0 = mean / np.sqrt(1 + sd**2 / mean**2)
    return np.exp(-((np.log(length) - np.log(x0)) ** 2) / (2 * w**2)) / (
        length * w * np.sqrt(2 * np.pi)
    )


def _larger(length, mean, sd):
    """Share of particles longer than `length`."""
    w = np.sqrt(np.log(1 + sd**2 / mean**2))
    x0 = mean / np.sqrt(1 + sd**2 / mean**2)
    return 0.5 * math.erfc(np.log(length / x0) / (w * np.sqrt(2)))


@pytest.mark.parametrize("cells", [(1, 1, 1), (1, 4, 2), (5, 1, 1)])
@pytest.mark.parametrize("name", ["pbnm", "wurtzite", "triclinic", "rock_salt"])
def test_thin_parallelepipeds(name, cells, dse, direct):
    """Where nearly every cell is at a face."""
    q = dse.uneven_q(40)
    expected = direct.intensity(direct.block(dse.structures[name], *cells), q, dse.wavelength)
    phase = dse.phase(dse.crystals[name], SingleParallelepiped(cells))
    # few distances do not average the gridding error of 3e-5 each
    assert dse.worst(dse.intensity(phase, q), expected) < 5e-6
    assert dse.worst(dse.intensity(phase, q, tolerance=1e-8), expected) < 3e-9


def test_a_narrow_law_is_a_single_parallelepiped(dse):
    q = dse.uneven_q(80)
    crystal = dse.crystals["pbnm"]
    step = math.sqrt(8.207 * 8.407) / 10, 1.1756
    sizes = {"L_ab": 3 * step[0], "sd_ab": 0.01, "L_c": 2 * step[1], "sd_c": 0.01, "size_axes_rotation": 0.0}
    narrow = dse.intensity(dse.phase(crystal, ParallelepipedPopulation(), sizes), q)
    single = dse.intensity(dse.phase(crystal, SingleParallelepiped((3, 3, 2))), q)
    # the transforms are exact to 1e-10 of their largest value, on grids of different length
    assert_allclose(narrow, single, rtol=1e-8)


@pytest.mark.parametrize("phi", [0.0, 25.0])
@pytest.mark.parametrize("name", ["pbnm", "triclinic"])
def test_a_population_is_the_number_weighted_sum_of_its_parallelepipeds(name, phi, dse):
    q = dse.uneven_q(80)
    crystal = dse.crystals[name]
    sizes = {"L_ab": 1.9, "sd_ab": 0.35, "L_c": 2.2, "sd_c": 0.5, "size_axes_rotation": phi}
    family = ParallelepipedPopulation()
    number, length_ab, length_c = family.number_weights(crystal, sizes)
    assert number.shape == (len(length_ab), len(length_c)) and min(number.shape) >= 4
    assert_allclose(length_ab, np.arange(1, len(length_ab) + 1) * math.sqrt(
        crystal.cell.a * crystal.cell.b) / 10)
    if phi == 0:
        own = np.outer(_density(length_ab, 1.9, 0.35), _density(length_c, 2.2, 0.5))
        # the last row and column count in part: the distribution ends among the lengths they stand
        # for
        assert_allclose(number[:-1, :-1] / number[0, 0], (own / own[0, 0])[:-1, :-1], rtol=1e-9)
        assert (number[-1, :-1] <= own[-1, :-1] * number[0, 0] / own[0, 0]).all()
    expected = sum(
        number[i, j] * dse.intensity(dse.phase(crystal, SingleParallelepiped((i + 1, i + 1, j + 1))), q)
        for i, j in np.ndindex(number.shape)
    )
    found = dse.intensity(dse.phase(crystal, family, sizes), q)
    assert dse.worst(found, expected) < 1e-6


def test_a_population_atom_by_atom(dse, direct):
    """The same without the engine's parallelepipeds: rock salt, sizes up to where 1e-5 of them is left."""
    q = dse.uneven_q(40)
    edge = 0.5936
    sizes = {"L_ab": 1.2, "sd_ab": 0.15, "L_c": 1.0, "sd_c": 0.15, "size_axes_rotation": 0.0}
    lengths = np.arange(1, 5) * edge
    number = np.outer(_density(lengths, 1.2, 0.15), _density(lengths, 1.0, 0.15))
    number /= number.sum()
    structure = dse.structures["rock_salt"]
    expected = sum(
        number[i, j]
        * direct.intensity(direct.block(structure, i + 1, i + 1, j + 1), q, dse.wavelength)
        for i, j in np.ndindex(number.shape) if number[i, j] > 1e-12
    )
    found = dse.intensity(dse.phase(dse.crystals["rock_salt"], ParallelepipedPopulation(), sizes), q)
    # the distribution ends where TAIL of the volume squared is left
    assert dse.worst(found, expected) < TAIL


@pytest.mark.parametrize("name", ["pbnm", "wurtzite"])
def test_a_population_of_cubes_is_the_sum_of_its_members(name, dse):
    q = dse.uneven_q(80)
    crystal = dse.crystals[name]
    sizes = {"L": 2.4, "sd_L": 0.5}
    step = math.sqrt(crystal.cell.a * crystal.cell.b) / 10
    number, lengths, _ = QuasiCubePopulation().number_weights(crystal, sizes)
    by_size = _density(lengths, 2.4, 0.5)
    expected = np.zeros(len(q))
    for n, weight in enumerate(number.sum(axis=1), start=1):
        if n < len(number):  # the last one counts in part
            ratio = number[0].sum() / by_size[0]
            assert weight == pytest.approx(by_size[n - 1] * ratio, rel=1e-9)
        # two heights, shared so that the mean height is the edge
        height = max(1.0, n * step * 10 / crystal.cell.c)
        fraction = height - math.floor(height)
        for cells, part in ((math.floor(height), 1 - fraction), (math.floor(height) + 1, fraction)):
            if part > 1e-12:
                assert number[n - 1, cells - 1] == pytest.approx(weight * part, rel=1e-9)
                single = dse.phase(crystal, SingleParallelepiped((n, n, cells)))
                expected += weight * part * dse.intensity(single, q)
    assert number.sum() == pytest.approx(1)
    found = dse.intensity(dse.phase(crystal, QuasiCubePopulation(), sizes), q)
    assert dse.worst(found, expected) < 1e-6


CENTRES = [
    ("rock_salt", (0, 0, 0)), ("rock_salt", (0.25, 0.25, 0.25)), ("rock_salt", (0.5, 0, 0)),
    ("rock_salt", (0.13, 0.13, 0.13)), ("rock_salt", (0.13, 0.21, 0.37)),
    ("wurtzite", (1 / 3, 2 / 3, 0)), ("wurtzite", (0, 0, 0.2)), ("wurtzite", (0.1, 0.2, 0.3)),
    ("wurtzite", (0.15, 0.42, 0.3)), ("pbnm", (0, 0, 0.5)), ("pbnm", (0.1, 0.3, 0.25)),
    ("pbnm", (0.1, 0.3, 0.4)), ("triclinic", (0.5, 0, 0.5)), ("triclinic", (1.1, -0.2, 0.3)),
]


@pytest.mark.parametrize(("name", "centre"), CENTRES, ids=str)
def test_a_sphere_scatters_like_the_atoms_inside_it(name, centre, dse, direct):
    q = dse.uneven_q(50)
    diameter = 2.37
    atoms = direct.sphere(dse.structures[name], centre, diameter * 5)
    assert len(atoms) > 100
    expected = direct.intensity(atoms, q, dse.wavelength)
    phase = dse.phase(dse.crystals[name], SingleSphere(diameter, tuple(map(float, centre))))
    assert dse.worst(dse.intensity(phase, q), expected) < 1e-6  # measured: below 4e-7


@pytest.mark.parametrize(
    ("name", "centre"),
    [
        ("wurtzite", (0.3333, 0.6667, 0.0)), ("wurtzite", (0.33333, 0.66667, 0.0)),
        ("rock_salt", (0.001, 0.0, 0.0)), ("rock_salt", (0.00005, 0.0, 0.0)),
        ("pbnm", (0.1, 0.3, 0.2505)), ("triclinic", (0.001, 0.0, 0.0)),
    ],
    ids=str,
)
def test_a_centre_beside_a_special_position(name, centre, dse, direct):
    """Rounded thirds, or a centre moved a little: every atom is still counted."""
    q = dse.uneven_q(30)
    structure = dse.structures[name]
    # a surface in the widest gap between shells: the rounding of the centre decides nothing
    away = np.sort(direct.distances_from(direct.sphere(structure, centre, 13), centre))
    away = away[away > 10]
    widest = np.argmax(np.diff(away))
    assert away[widest + 1] - away[widest] > 0.05
    diameter = (away[widest] + away[widest + 1]) / 10
    atoms = direct.sphere(structure, centre, diameter * 5)
    expected = direct.intensity(atoms, q, dse.wavelength)
    phase = dse.phase(dse.crystals[name], SingleSphere(diameter, centre))
    assert dse.worst(dse.intensity(phase, q), expected) < 1e-6


@pytest.mark.parametrize(
    ("name", "centre"),
    [("rock_salt", (0.0, 0.0, 0.0)), ("rock_salt", (0.1, 0.2, 0.3)), ("triclinic", (0, 0, 0))],
    ids=str,
)
def test_a_population_of_spheres_is_the_sum_over_all_its_spheres(name, centre, dse, direct):
    """A sphere changes only where its surface meets an atom: the sum over shells is exact."""
    q = dse.uneven_q(40)
    mean, sd = 1.3, 0.12
    atoms = direct.sphere(dse.structures[name], centre, 10.6)
    away = direct.distances_from(atoms, centre)
    shells = np.unique(np.round(away, 6))
    expected = np.zeros(len(q))
    number = 0.0
    for inner, outer in zip(shells, [*shells[1:], np.inf], strict=True):
        fraction = (_larger(inner / 5, mean, sd) if inner > 0 else 1.0) - (
            _larger(outer / 5, mean, sd) if outer < np.inf else 0.0
        )
        if fraction < 1e-11:
            continue
        members = atoms.chosen(away <= inner + 1e-5)
        number += fraction * len(members)
        expected += fraction * direct.intensity(members, q, dse.wavelength)
    phase = dse.phase(
        dse.crystals[name], SpherePopulation(tuple(map(float, centre))), {"D": mean, "sd_D": sd}
    )
    # the distribution ends where TAIL of the volume squared is left
    assert dse.worst(dse.intensity(phase, q), expected) < TAIL
    counts = phase.family.pair_counts(phase.crystal, {"D": mean, "sd_D": sd})
    assert counts.atoms.sum() == pytest.approx(number, rel=5e-5)


def test_a_narrow_law_is_a_single_sphere(dse):
    """A distribution that lies wholly between two neighbouring atom shells."""
    q = dse.uneven_q(40)
    crystal = dse.crystals["rock_salt"]
    half = 5.936 / 2
    # shells at half * sqrt(n): 14 and 16 are neighbours (15 is no sum of three squares)
    diameter = half * (math.sqrt(14) + math.sqrt(16)) / 10
    population = dse.phase(crystal, SpherePopulation(), {"D": diameter, "sd_D": 0.01})
    single = dse.phase(crystal, SingleSphere(diameter))
    assert_allclose(dse.intensity(population, q), dse.intensity(single, q), rtol=1e-6)


def test_statistics_of_a_population(dse):
    """Projected means and sds of a wide population: close to the distributions'."""
    sizes = {"L_ab": 8.0, "sd_ab": 1.6, "L_c": 9.0, "sd_c": 1.8, "size_axes_rotation": 0.0}
    found = ParallelepipedPopulation().statistics(dse.crystals["pbnm"], sizes)
    assert_allclose(
        [found["mean_ab"], found["sd_ab"], found["mean_c"], found["sd_c"]],
        [8.0, 1.6, 9.0, 1.8], rtol=1e-3,
    )
    assert abs(found["correlation"]) < 1e-6


def test_a_sphere_grows_with_its_cell(dse, direct):
    """The atoms of the reference crystal stay members when the cell is refined."""
    q = dse.uneven_q(40)
    atoms = direct.sphere(dse.structures["rock_salt"], (0, 0, 0), 9.0)
    larger = direct.Structure.of(
        (6.05,) * 3,
        [("Pb2+", 1.0, 1.3, [(0, 0, 0)]), ("S", 1.0, 0.9, [(0.5, 0.5, 0.5)])],
    )
    grown = direct.Atoms(
        larger, atoms.xyz * 6.05 / 5.936, atoms.site, atoms.place, atoms.cell
    )
    expected = direct.intensity(grown, q, dse.wavelength)
    phase = dse.phase(dse.crystals["rock_salt"], SingleSphere(1.8))
    assert dse.worst(dse.intensity(phase, q, a=6.05), expected) < 1e-6


def test_moving_sites_and_cell_match_a_crystal_built_there(dse, direct):
    """Parameters away from the start give what a new double sum gives at those values."""
    q = dse.uneven_q(40)
    phase = dse.phase(dse.crystals["pbnm"], SingleParallelepiped((3, 2, 2)))
    moved = dict(a=8.31, b=8.29, c=11.7, Br_eq__x=0.3, Br_eq__y=0.2, Br_eq__z=0.47)
    found = dse.intensity(phase, q, **moved)
    x, y, z = 0.3, 0.2, 0.47
    start = direct.cspbbr3_pbnm()
    old = np.array([0.2908, 0.2120, 0.486])
    rotations = [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1),
                 (-1, -1, -1), (1, 1, -1), (-1, 1, 1), (1, -1, 1)]
    positions = start.positions.copy()
    positions[start.site == 2] += np.array(rotations) * (np.array([x, y, z]) - old)
    structure = direct.Structure(
        (8.31, 8.29, 11.7), positions, start.site, start.ions, start.occupancy, start.b
    )
    expected = direct.intensity(direct.block(structure, 3, 2, 2), q, dse.wavelength)
    assert dse.worst(found, expected) < 1e-6


@pytest.mark.parametrize("cells", [(0, 1, 1), (201, 1, 1)])
def test_impossible_parallelepipeds_are_refused(cells):
    with pytest.raises(ValueError, match="cell"):
        SingleParallelepiped(cells)


def opened(direct, structure, cells, corner, extension):
    """All atoms with corner <= coordinate < corner + cells + extension."""
    end = np.array(cells) + np.array(extension)
    atoms = direct.block(structure, *(n + 3 for n in cells))
    fractional = np.round(atoms.xyz @ np.linalg.inv(structure.vectors), 7) - 1 - np.array(corner)
    return atoms.chosen(((fractional >= -1e-6) & (fractional < end - 1e-6)).all(axis=1))


@pytest.mark.parametrize(("name", "corner", "extension"), [
    ("pbnm", (0.0, 0.0, 0.0), (0.1, 0.1, 0.02)), ("pbnm", (0.0, 0.5, 0.5), (0.02, 0.3, 0.55)),
    ("rock_salt", (0.0, 0.0, 0.0), (0.25, 0.25, 0.25)), ("wurtzite", (0.0, 0.0, 0.0), (0.0, 0.5, 0.1)),
    ("triclinic", (0.0, 0.1, 0.0), (0.4, 0.0, 0.9)), ("pbnm", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))])
def test_a_parallelepiped_with_equal_opposite_faces(name, corner, extension, dse, direct):
    q, cells = dse.uneven_q(40), (3, 2, 2)
    crystal, structure = replace(dse.crystals[name], termination=corner), dse.structures[name]
    atoms = opened(direct, structure, cells, corner, extension)
    expected = direct.intensity(atoms, q, dse.wavelength)
    phase = dse.phase(crystal, OpenParallelepiped(SingleParallelepiped(cells), extension))
    assert dse.worst(dse.intensity(phase, q, tolerance=1e-7), expected) < 1e-6
    counts = phase.family.pair_counts(crystal, {})
    assert counts.atoms.sum() == len(atoms)
    assert (len(atoms) > len(crystal.basis_atoms) * np.prod(cells)) == any(extension)


def test_a_population_with_equal_opposite_faces(dse, direct):
    q, extension = dse.uneven_q(30), (0.1, 0.1, 0.02)
    crystal, sizes = dse.crystals["pbnm"], {
        "L_ab": 1.4, "sd_ab": 0.3, "L_c": 1.6, "sd_c": 0.3, "size_axes_rotation": 0.0}
    inner = ParallelepipedPopulation(largest=2.6)
    number, _, _ = inner.number_weights(crystal, sizes)
    expected = np.zeros(len(q))
    for n_ab, n_c in np.argwhere(number > 1e-9) + 1:
        atoms = opened(direct, dse.structures["pbnm"], (n_ab, n_ab, n_c), (0, 0, 0), extension)
        expected += number[n_ab - 1, n_c - 1] * direct.intensity(atoms, q, dse.wavelength)
    phase = dse.phase(crystal, OpenParallelepiped(inner, extension), sizes)
    assert dse.worst(dse.intensity(phase, q, tolerance=1e-7), expected) < 1e-6


def test_the_memory_of_open_parallelepipeds_is_limited(dse):
    family = OpenParallelepiped(SingleParallelepiped((150, 150, 150)), (0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match=r"with an 'extension' need .* GB for their pairs; the limit is 1 GB"):
        family.pair_counts(dse.crystals["pbnm"], {})
