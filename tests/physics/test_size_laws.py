"""Laws against size: the mean over explicit particles, each with its own cell, occupancies and B."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.model.size_laws import SizeLaw, SizeLawPhase
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.particles.parallelepipeds import ParallelepipedPopulation, SingleParallelepiped
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
    assert dse.worst(dse.intensity(phase, q), expected) < 2e-5
    # the laws are visible: without them, the pattern is another one
    plain = dse.phase(phase.crystal, phase.family, phase.sizes)
    assert dse.worst(dse.intensity(plain, q), expected) > 1e-3
