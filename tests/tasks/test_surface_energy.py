"""The surface energy gamma from the strain of particles of any shape with a known gamma."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_dse.analysis.size_series import _surface_energy
from aiida_dse.documents.series import BulkModulus
from aiida_dse.documents.series_results import ScaledValue
from aiida_dse.engine.crystal.structure import Cell
from aiida_dse.engine.particles.size_quantities import size_quantities
from aiida_dse.engine.particles.size_statistics import block_measures, sphere_measures

GAMMA, MODULUS = -0.43, BulkModulus(value=15.0, su=0.0, source="test")


def gamma_of(surfaces, strain):
    slope = np.polyfit(surfaces, strain, 1)[0]
    scaled = ScaledValue(value=float(slope), unit="nm", su=0.0, su_scaled=0.0)
    return _surface_energy(scaled, MODULUS, 1.0, "J/m^2").value


def test_the_laplace_pressure_of_spheres_and_cubes():
    """dV/V = -4 gamma / (K D) for a sphere, -4 gamma / (K L) for a cube."""
    lengths = np.array([3.0, 5.0, 8.0, 11.0])
    strain = -4 * GAMMA / (MODULUS.value * lengths)
    spheres = [sphere_measures(d)["surface_to_volume"] for d in lengths]
    cell = Cell(5.0, 5.0, 5.0)
    cubes = [block_measures(cell, *[2 * edge] * 3)["surface_to_volume"] for edge in lengths]
    assert gamma_of(spheres, strain) == pytest.approx(GAMMA)
    assert gamma_of(cubes, strain) == pytest.approx(GAMMA)
    # the relation -K slope / 4 against 1/L, with L of the cube of equal volume, misses the sphere
    edges = [sphere_measures(d)["edge"] for d in lengths]
    by_cube = -MODULUS.value * np.polyfit(1 / np.array(edges), strain, 1)[0] / 4
    assert by_cube == pytest.approx(0.806 * GAMMA, rel=1e-3)


def test_a_plate_has_more_surface_than_a_cube():
    rows = {name: value for name, _, value in size_quantities(
        {"L_ab": 10.0, "sd_ab": 1.0, "L_c": 2.0, "sd_c": 0.2}, {}, Cell(5.0, 5.0, 6.0))}
    assert rows["surface_to_volume"] == pytest.approx(4 / 10 + 2 / 2)
    assert rows["confinement_diameter"] == pytest.approx(2 * 200 ** (1 / 3) / np.sqrt(3))
    rows = {name: value for name, _, value in size_quantities({"D": 4.0, "sd_D": 0.3}, {}, None)}
    assert rows["surface_to_volume"] == 1.5 and rows["confinement_diameter"] == 4.0
