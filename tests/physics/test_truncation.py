"""`largest` has one meaning in all shapes: the distribution is truncated there and renormalised.

And what is reported of a population is that of the truncated distribution; measures of the body
follow the shape.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.crystal.structure import Cell
from aiida_dse.engine.particles.parallelepipeds import (
    ParallelepipedPopulation,
    QuasiCubePopulation,
    SingleParallelepiped,
)
from aiida_dse.engine.particles.size_distributions import LogNormal
from aiida_dse.engine.particles.size_statistics import (
    MOST_TRUNCATED,
    block_measures,
    sphere_measures,
    statistic_unit,
    truncation_warning,
)
from aiida_dse.engine.particles.spheres import SingleSphere, SpherePopulation

SIZES = {"L_ab": 4.0, "sd_ab": 0.8, "L_c": 4.4, "sd_c": 0.9, "size_axes_rotation": 0.0}


def populations(largest):
    return {
        "parallelepipeds": (ParallelepipedPopulation(largest), SIZES),
        "rotated": (ParallelepipedPopulation(largest), SIZES | {"size_axes_rotation": 30.0}),
        "quasi-cubes": (QuasiCubePopulation(largest), {"L": 4.0, "sd_L": 0.8}),
        "spheres": (SpherePopulation(largest=largest), {"D": 2.5, "sd_D": 0.5}),
    }


@pytest.mark.parametrize("largest", [2.0, 2.6, 3.2])
def test_spheres_are_those_drawn_from_the_distribution_below_largest(largest, dse, direct):
    """D = 2.5(5) nm, truncated: atoms and diameters of a Monte-Carlo population below `largest`."""
    random = np.random.default_rng(7)
    distribution = LogNormal(2.5, 0.5)
    drawn = distribution.median * np.exp(distribution.width * random.normal(size=400_000))
    kept = drawn[drawn < largest]
    crystal = dse.crystals["rock_salt"]
    shape = SpherePopulation(largest=largest)
    away = np.sort(direct.distances_from(
        direct.sphere(dse.structures["rock_salt"], (0, 0, 0), largest * 5 + 0.1), (0, 0, 0)))
    held = np.searchsorted(away, kept * 5 * (1 + 1e-9))
    sizes = {"D": 2.5, "sd_D": 0.5}
    counts = shape.pair_counts(crystal, sizes)
    assert counts.atoms.sum() == pytest.approx(held.mean(), rel=3e-3)
    found = shape.statistics(crystal, sizes)
    assert found["mean_D"] == pytest.approx(kept.mean(), rel=1e-3)
    assert found["sd_D"] == pytest.approx(kept.std(), rel=5e-3)
    assert found["volume_mean_D"] == pytest.approx((kept**4).sum() / (kept**3).sum(), rel=1e-3)
    assert found["truncated_fraction"] == pytest.approx((drawn > largest).mean(), rel=5e-3)
    squared = drawn**6
    assert found["truncated_fraction_volume_squared"] == pytest.approx(
        squared[drawn > largest].sum() / squared.sum(), rel=0.05)


def test_no_share_of_the_spheres_is_piled_up_at_largest(dse):
    """The outermost atoms are held by next to no particle, wherever the distribution is truncated."""
    crystal = dse.crystals["rock_salt"]
    for largest in (2.0, 2.6, 3.2):
        distribution = LogNormal(2.5, 0.5)
        radii = np.array([0.999, 1.0, 1.001]) * largest
        fraction = distribution.fraction_beyond(radii, end=largest)
        assert 0 < fraction[0] < 0.01 and fraction[1] == fraction[2] == 0
        reached = SpherePopulation(largest=largest).pair_counts(crystal, {"D": 2.5, "sd_D": 0.5})
        assert reached.tables.max() > 0


@pytest.mark.parametrize("shape", ["parallelepipeds", "rotated", "quasi-cubes"])
@pytest.mark.parametrize("largest", [3.0, 4.1, 5.0])
def test_edges_are_those_drawn_from_the_distribution_below_largest(shape, largest):
    """On a fine lattice, where cells resolve the distribution."""
    crystal = _fine_crystal()
    family, sizes = populations(largest)[shape]
    random = np.random.default_rng(3)
    z = random.normal(size=(2, 3_000_000))
    if shape == "quasi-cubes":
        distribution = LogNormal(4.0, 0.8)
        ab = c = distribution.median * np.exp(distribution.width * z[0])
    else:
        first, second = LogNormal(4.0, 0.8), LogNormal(4.4, 0.9)
        angle = np.radians(sizes["size_axes_rotation"])
        along, across = first.width * z[0], second.width * z[1]
        ab = first.median * np.exp(np.cos(angle) * along - np.sin(angle) * across)
        c = second.median * np.exp(np.sin(angle) * along + np.cos(angle) * across)
    kept = (ab < largest) & (c < largest)
    found = family.statistics(crystal, sizes)
    assert found["mean_ab"] == pytest.approx(ab[kept].mean(), rel=5e-3)
    assert found["mean_c"] == pytest.approx(c[kept].mean(), rel=5e-3)
    assert found["sd_ab"] == pytest.approx(ab[kept].std(), rel=0.02)
    volume = ab[kept] ** 2 * c[kept]
    mean_c = (volume * c[kept]).sum() / volume.sum()
    assert found["volume_mean_c"] == pytest.approx(mean_c, rel=5e-3)
    assert found["truncated_fraction"] == pytest.approx((~kept).mean(), rel=0.01)
    squared = (ab**2 * c) ** 2
    assert found["truncated_fraction_volume_squared"] == pytest.approx(
        squared[~kept].sum() / squared.sum(), rel=0.05)


def _fine_crystal():
    from aiida_dse.engine.crystal.structure import Crystal, Site

    # a cell of 0.3 Å is no crystal, but resolves the distribution as no crystal does
    return Crystal(Cell(0.3, 0.3, 0.3), ("x,y,z",), (Site("X", "Cs1+", (0, 0, 0), 1.0, 1.0),))


@pytest.mark.parametrize("shape", populations(3.0))
def test_a_distribution_that_reaches_beyond_largest_is_remarked_on(shape, dse):
    crystal = dse.crystals["pbnm"]
    for largest in (3.0, 30.0, np.inf):
        family, sizes = populations(largest)[shape]
        found = family.statistics(crystal, sizes)
        remark = truncation_warning("P", found)
        if largest == 3.0:
            assert found["truncated_fraction_volume_squared"] > found["truncated_fraction"] > MOST_TRUNCATED
            assert remark is not None and "Raise or remove 'largest' of the particle" in remark
        else:
            assert found["truncated_fraction"] < 1e-6 and remark is None
    assert statistic_unit("truncated_fraction") == "" and statistic_unit("mean_ab") == "nm"


@pytest.mark.parametrize("shape", populations(3.0))
@pytest.mark.parametrize("mean", [2.9, 3.1, 5.0, 30.0])
def test_a_mean_beyond_largest_is_computed_as_any_other(shape, mean, dse):
    """A fit that wanders there must get numbers, no error."""
    crystal = dse.crystals["rock_salt"]
    family, sizes = populations(3.0)[shape]
    moved = {name: mean if name in ("L_ab", "L_c", "L", "D") else value
             for name, value in sizes.items()}
    counts = family.pair_counts(crystal, moved)
    found = family.statistics(crystal, moved)
    assert np.isfinite(counts.tables).all() and counts.atoms.sum() > 1
    assert found["truncated_fraction"] <= 1 and all(np.isfinite(value) for value in found.values())
    # whole cells within half a cell
    assert max(found.get("mean_ab", 0), found.get("mean_D", 0)) <= 3.0 + 0.3


@pytest.mark.parametrize("name", ["rock_salt", "pbnm", "wurtzite", "triclinic"])
def test_the_surface_of_a_block_is_that_of_its_faces(name, dse):
    """A/V from cross products of the edges, and the cube of the same volume."""
    crystal = dse.crystals[name]
    cells = (5, 5, 4)
    found = SingleParallelepiped(cells).statistics(crystal, {})
    edges = crystal.cell.matrix * np.array(cells) / 10  # columns, nm
    area = 2 * sum(np.linalg.norm(np.cross(edges[:, i], edges[:, j]))
                   for i, j in ((0, 1), (1, 2), (2, 0)))
    volume = abs(np.linalg.det(edges))
    assert found["surface_to_volume"] == pytest.approx(area / volume, rel=1e-12)
    assert found["edge"] == pytest.approx(volume ** (1 / 3), rel=1e-12)
    assert found["confinement_diameter"] == pytest.approx(2 * volume ** (1 / 3) / np.sqrt(3))


def test_measures_of_the_mean_particle(dse):
    cubic = Cell(5.0, 5.0, 6.0)
    found = block_measures(cubic, 8.0, 8.0, 5.0)  # 4 x 4 x 3 nm
    assert found["surface_to_volume"] == pytest.approx(4 / 4 + 2 / 3)
    sphere = sphere_measures(4.0)
    area, volume = np.pi * 4.0**2, np.pi * 4.0**3 / 6
    assert sphere["surface_to_volume"] == pytest.approx(area / volume)
    assert sphere["edge"] == pytest.approx(volume ** (1 / 3))
    assert sphere["confinement_diameter"] == 4.0
    for shape, sizes in populations(np.inf).values():
        found = shape.statistics(dse.crystals["pbnm"], sizes)
        expected = 6 / found["mean_D"] if "mean_D" in found else \
            2 * (8.207 + 8.407) / np.sqrt(8.207 * 8.407) / found["mean_ab"] + 2 / found["mean_c"]
        assert found["surface_to_volume"] == pytest.approx(expected)
    single = SingleSphere(3.0).statistics(dse.crystals["pbnm"], {})
    assert single["surface_to_volume"] == 2.0 and single["confinement_diameter"] == 3.0


def test_the_cut_of_spheres_is_in_nm_of_the_actual_cell(dse):
    """A grown crystal keeps its atoms; `largest` stays where it is, in nm."""
    crystal = dse.crystals["rock_salt"]
    shape, sizes = SpherePopulation(largest=2.6), {"D": 2.5, "sd_D": 0.5}
    grown = SpherePopulation(largest=2.6 * 1.03)
    stretched = {name: value * 1.03 for name, value in sizes.items()}
    assert_allclose(grown.pair_counts(crystal, stretched, stretch=1.03).tables,
                    shape.pair_counts(crystal, sizes).tables, rtol=1e-9, atol=1e-9)
