"""Laws against size: the mean over explicit particles, each with its own cell, occupancies and B."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.model.size_laws import SizeLaw, SizeLawPhase
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.particles.cell_spheres import CellSpherePopulation
from aiida_dse.engine.particles.parallelepipeds import (
    ParallelepipedPopulation,
    QuasiCubePopulation,
    SingleParallelepiped,
)
from aiida_dse.engine.particles.random_centre import RandomCentre
from aiida_dse.engine.particles.spheres import SpherePopulation
from aiida_dse.shapes import SHAPES

#: nm
SIZES = {"L_ab": 1.9, "sd_ab": 0.5, "L_c": 2.0, "sd_c": 0.5, "size_axes_rotation": 20.0}
LENGTHS = ("a", "b", "c")


def phase_of(dse, family, sizes, laws, name="pbnm"):
    return SizeLawPhase("phase", dse.crystals[name], family, sizes, laws=tuple(laws))


def cell_law(change, **more):
    return SizeLaw("cell", LENGTHS, Kind.LATTICE_CHANGE, change, **more)


def b_law(site, change, **more):
    return SizeLaw(f"{site}.B_iso", (f"{site}.B_iso",), Kind.B_CHANGE, change, **more)


def occupancy_law(site, change, **more):
    return SizeLaw(f"{site}.occupancy", (f"{site}.occupancy",), Kind.OCCUPANCY_CHANGE, change, **more)


def shape(law, diameter):
    """The change at a diameter in nm, from the equations of the documentation."""
    if law.decay is None:
        return law.change * law.size / diameter
    return law.change * np.exp(-diameter / law.decay)


def explicit(direct, structure, cells, laws, q, wavelength, labels):
    """One block of cells with the properties that the laws yield for its volume."""
    a, b, c, *angles = (*structure.cell, 90.0, 90.0, 90.0)[:6]
    volume = abs(np.linalg.det(structure.vectors)) * np.prod(cells) / 1e3
    diameter = (6 * volume / np.pi) ** (1 / 3)
    occupancy, b_iso = structure.occupancy.copy(), structure.b.copy()
    scale = dict.fromkeys(LENGTHS, 1.0)
    for law in laws:
        for name in law.of:
            site, _, what = name.rpartition(".")
            if what == "B_iso":
                b_iso[labels.index(site)] += shape(law, diameter)
            elif what == "occupancy":
                occupancy[labels.index(site)] *= 1 + shape(law, diameter)
            else:
                scale[name] *= 1 + shape(law, diameter)
    own = direct.Structure((a * scale["a"], b * scale["b"], c * scale["c"], *angles), structure.positions,
                           structure.site, structure.ions, occupancy, b_iso)
    return direct.intensity(direct.block(own, *cells), q, wavelength)


LAWS = {
    "lattice": [cell_law(0.01)],
    "one axis": [SizeLaw("c", ("c",), Kind.LATTICE_CHANGE, -0.012)],
    "B": [b_law("Br_eq", 0.5), b_law("Pb", -0.2)],
    "occupancy": [occupancy_law("Br_ax", -0.08)],
    "exponential": [cell_law(-0.03, decay=1.2), b_law("Cs", 3.0, decay=1.0)],
    "all": [SizeLaw("a", ("a",), Kind.LATTICE_CHANGE, 0.008), b_law("Br_eq", 0.6, decay=2.0),
            occupancy_law("Br_ax", -0.05)],
}


@pytest.mark.parametrize("laws", LAWS.values(), ids=LAWS)
def test_a_population_of_parallelepipeds(dse, direct, laws):
    q = dse.uneven_q(40)
    phase = phase_of(dse, ParallelepipedPopulation(largest=4.0), SIZES, laws)
    number, _, _ = phase.family.number_weights(phase.crystal, phase.sizes)
    expected = np.zeros(len(q))
    for n_ab, n_c in np.argwhere(number > 1e-9) + 1:
        expected += number[n_ab - 1, n_c - 1] * explicit(
            direct, dse.structures["pbnm"], (n_ab, n_ab, n_c), laws, q, dse.wavelength, list(phase.labels))
    assert dse.worst(dse.intensity(phase, q), expected) < 1e-6
    # the laws are visible: without them, the pattern is another one
    plain = dse.phase(phase.crystal, phase.family, phase.sizes)
    assert dse.worst(dse.intensity(plain, q), expected) > 1e-3


@pytest.mark.parametrize("laws", [LAWS["lattice"], LAWS["all"]], ids=["lattice", "all"])
def test_quasi_cubes(dse, direct, laws):
    q = dse.uneven_q(30)
    family = QuasiCubePopulation(largest=3.4)
    phase = phase_of(dse, family, {"L": 1.9, "sd_L": 0.5}, laws)
    number, _, _ = family.number_weights(phase.crystal, phase.sizes)
    expected = np.zeros(len(q))
    for n_ab, n_c in np.argwhere(number > 1e-9) + 1:
        expected += number[n_ab - 1, n_c - 1] * explicit(
            direct, dse.structures["pbnm"], (n_ab, n_ab, n_c), laws, q, dse.wavelength, list(phase.labels))
    assert dse.worst(dse.intensity(phase, q), expected) < 1e-6


def log_normal(diameter, mean, sd):
    width = np.sqrt(np.log1p((sd / mean) ** 2))
    median = mean / np.sqrt(1 + (sd / mean) ** 2)
    return np.exp(-np.log(diameter / median) ** 2 / (2 * width**2)) / (diameter * width * np.sqrt(2 * np.pi))


def gauss(low, high, n):
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (low + high) / 2 + (high - low) / 2 * nodes, (high - low) / 2 * weights


def test_spheres_around_a_point(dse, direct):
    """Between two shells of atoms, spheres consist of the same atoms, but have different lattices."""
    q, structure, largest = dse.uneven_q(30), dse.structures["rock_salt"], 2.2
    laws = [cell_law(0.01, size=2.0), b_law("S", 0.4, decay=1.5)]
    laws = [replace(laws[0], of=("a",)), laws[1]]
    phase = phase_of(dse, SpherePopulation((0.0, 0.0, 0.0), largest), {"D": 1.5, "sd_D": 0.3}, laws, "rock_salt")
    whole = direct.sphere(structure, (0, 0, 0), 5 * largest)
    radii = np.unique(np.round(direct.distances_from(whole, (0, 0, 0)), 6))
    expected, total = np.zeros(len(q)), 0.0
    for low, high in zip(radii, [*radii[1:], 5 * largest], strict=True):
        inside = whole.chosen(direct.distances_from(whole, (0, 0, 0)) <= low + 1e-4)
        for diameter, weight in zip(*gauss(low / 5, high / 5, 4), strict=True):
            if diameter <= 0 or (weight := weight * log_normal(diameter, 1.5, 0.3)) < 1e-12:
                continue
            total += weight
            b_iso = structure.b + np.array([0.0, shape(laws[1], diameter)])
            stretched = replace(inside, xyz=inside.xyz * (1 + shape(laws[0], diameter)))
            expected += weight * direct.intensity(stretched, q, dse.wavelength, b=b_iso)
    assert dse.worst(dse.intensity(phase, q), expected / total) < 3e-5


@pytest.mark.parametrize("content", [
    {"shape": "sphere", "D": {"mean": 2.0, "sd": 0.4}, "largest": 3.2},
    {"shape": "octahedron", "L_edge": {"mean": 2.0, "sd": 0.4}, "largest": 3.2},
], ids=["sphere", "octahedron"])
def test_bodies_with_a_random_centre(dse, content):
    """The mean over bodies of one size, each with its own cell; a size is that in the cell without the law."""
    q, crystal = dse.uneven_q(40), dse.crystals["rock_salt"]
    law = SizeLaw("a", ("a",), Kind.LATTICE_CHANGE, 0.008, size=2.0)
    shape_ = SHAPES[content["shape"]].model_validate(content)
    (name,) = shape_.size_fields
    phase = phase_of(dse, shape_.family(crystal), shape_.start(), [law], "rock_salt")
    expected, total = np.zeros(len(q)), 0.0
    volume = {"sphere": np.pi / 6, "octahedron": np.sqrt(2) / 3}[content["shape"]]
    for length, weight in zip(*gauss(0.7, 3.2, 80), strict=True):
        weight *= log_normal(length, 2.0, 0.4)
        scale = 1 + shape(law, length * (6 / np.pi * volume) ** (1 / 3))
        one = SHAPES[content["shape"]].model_validate({"shape": content["shape"], name: length * scale})
        own = crystal.with_cell(a=crystal.cell.a * scale)
        expected += weight * dse.intensity(dse.phase(own, one.family(own)), q)
        total += weight
    assert dse.worst(dse.intensity(phase, q), expected / total) < 3e-5


def test_spheres_of_whole_cells(dse):
    """The sum over the spheres of k^3 primitive cells, each one with its own lattice."""
    q, crystal = dse.uneven_q(30), dse.crystals["rock_salt"]
    law = SizeLaw("a", ("a",), Kind.LATTICE_CHANGE, 0.008, size=2.0)
    family, sizes = CellSpherePopulation(largest=3.0), {"D": 1.6, "sd_D": 0.3}
    phase = phase_of(dse, family, sizes, [law], "rock_salt")
    number, diameters = family.number_weights(crystal, sizes)
    expected = np.zeros(len(q))
    for k, (weight, diameter) in enumerate(zip(number, diameters, strict=True)):
        if weight > 1e-9:
            one = CellSpherePopulation(largest=3.0)
            scale = 1 + shape(law, diameter)
            own = crystal.with_cell(a=crystal.cell.a * scale)
            # a distribution that is much narrower than the step contains one sphere
            alone = {"D": diameter * scale, "sd_D": 1e-3 * diameter}
            assert one.number_weights(own, alone)[0][k] == pytest.approx(1, abs=1e-9)
            expected += weight * dse.intensity(dse.phase(own, one, alone), q)
    assert dse.worst(dse.intensity(phase, q), expected) < 3e-5


@pytest.mark.parametrize("laws", LAWS.values(), ids=LAWS)
def test_laws_without_change_yield_the_plain_pattern(dse, laws):
    q = dse.uneven_q(60)
    none = [replace(law, change=0.0) for law in laws]
    phase = phase_of(dse, ParallelepipedPopulation(), SIZES, none)
    plain = dse.phase(phase.crystal, phase.family, phase.sizes)
    assert dse.worst(dse.intensity(phase, q), dse.intensity(plain, q)) < 1e-12


def test_unchanged_channels_are_taken_from_the_previous_state(dse):
    phase = phase_of(dse, ParallelepipedPopulation(), SIZES, LAWS["all"])
    sampling = Sampling(dse.uneven_q(30), dse.wavelength)
    first = phase.state(phase.start, sampling)
    values = phase.start | {"Br_eq.x": 0.3, "Br_eq.B_iso_change": 0.7}
    again, anew = phase.state(values, sampling, first), phase.state(values, sampling)
    assert_allclose(again.sums, anew.sums, rtol=1e-12, atol=1e-9)


def test_the_derivative_is_smooth(dse):
    """Central differences with two steps agree, although the number of nodes is not the same everywhere."""
    phase, q = phase_of(dse, ParallelepipedPopulation(), SIZES, LAWS["lattice"]), dse.uneven_q(60)

    def slope(name, step):
        return (dse.intensity(phase, q, **{name: phase.start[name] + step})
                - dse.intensity(phase, q, **{name: phase.start[name] - step})) / (2 * step)

    for name, step in (("cell_change", 2e-4), ("L_ab", 2e-3), ("a", 2e-3)):
        one, other = slope(name, step), slope(name, 2 * step)
        assert np.abs(one - other).max() < 2e-3 * np.abs(one).max(), name


def test_a_single_size_has_no_law(dse):
    phase = phase_of(dse, SingleParallelepiped((2, 2, 2)), {}, LAWS["lattice"])
    with pytest.raises(ValueError, match="require a population"):
        phase.require_laws(phase.start)
    two = SHAPES["cylinder"].model_validate(
        {"shape": "cylinder", "D": {"mean": 2, "sd": 0.2}, "H": {"mean": 2, "sd": 0.2}})
    phase = phase_of(dse, two.family(dse.crystals["pbnm"]), two.start(), LAWS["lattice"])
    assert isinstance(phase.family, RandomCentre)
    with pytest.raises(ValueError, match="require a population"):
        phase.require_laws(phase.start)


@pytest.mark.parametrize(("law", "message"), [
    (b_law("Pb", -3.0), r"Pb\.B_iso yields -.* at least 0"),
    (occupancy_law("Br_ax", 0.3), r"Br_ax\.occupancy yields 1\..* between 0 and 1"),
    (occupancy_law("Br_ax", -2.0), r"Br_ax\.occupancy yields -"),
    (cell_law(-0.5), r"law of a yields .* within a factor of two"),
])
def test_impossible_values_are_refused(dse, law, message):
    phase = phase_of(dse, ParallelepipedPopulation(), SIZES, [law])
    with pytest.raises(ValueError, match=message):
        phase.require_laws(phase.start)


@pytest.mark.parametrize("mean", [2.0, 3.0, 4.0, 5.5])
def test_distributions_far_beyond_the_largest_size(mean, dse):
    """Without change, the pattern is the plain one, however small the fraction of the particles that remains."""
    q, crystal = dse.uneven_q(20), dse.crystals["rock_salt"]
    family, sizes = SpherePopulation((0.0, 0.0, 0.0), 2.2), {"D": mean, "sd_D": 0.1 * mean}
    phase = phase_of(dse, family, sizes, [SizeLaw("a", ("a",), Kind.LATTICE_CHANGE, 0.0)], "rock_salt")
    plain = dse.phase(crystal, family, sizes)
    assert dse.worst(dse.intensity(phase, q), dse.intensity(plain, q)) < 1e-5
