"""Pairs of nested spheres by shell and length against all pairs of a list of atoms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from aiida_dse.engine.particles import sphere_shells
from aiida_dse.engine.particles.sphere_counting import atoms_of_sphere
from aiida_dse.engine.particles.sphere_shells import pairs_of_spheres
from aiida_dse.engine.particles.vector_groups import representatives, vector_groups
from aiida_dse.engine.resources import Resources


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(sphere_shells, "_known", [])


def listed(crystal, centre, radius):
    """Sites, positions (Å) and distances from the centre of the atoms of a sphere."""
    atoms = atoms_of_sphere(crystal, centre, radius)
    positions = (atoms.cell + crystal.positions()[atoms.atom]) @ crystal.cell.matrix.T
    return crystal.site_of_atom[atoms.atom], positions, atoms.radius


CASES = [("rock_salt", (0, 0, 0)), ("rock_salt", (0.25, 0.25, 0.25)), ("pbnm", (0, 0, 0.5)),
         ("triclinic", (0.1, 0.2, 0.3)), ("wurtzite", (1 / 3, 2 / 3, 0.0))]


@pytest.mark.parametrize(("name", "centre"), CASES)
def test_every_pair_is_counted_at_its_length_and_in_its_shell(dse, name, centre):
    crystal = dse.crystals[name]
    known = pairs_of_spheres(crystal, centre, 1.6, Resources(2))
    site, positions, radius = listed(crystal, centre, known.radius[-1])
    lengths = known.groups.lengths(crystal.cell.matrix, crystal.positions())
    sites = np.sort(crystal.site_of_atom[[known.groups.first, known.groups.second]], axis=0)
    i, j = np.triu_indices(len(site), 1)
    distance = np.linalg.norm(positions[i] - positions[j], axis=1)
    outer = np.maximum(radius[i], radius[j])
    pair = np.sort(np.array([site[i], site[j]]), axis=0)
    for limit in np.quantile(known.radius, [0.3, 0.7, 1.0]):
        inside = known.radius <= limit + 1e-6
        assert known.pairs[inside].sum() == pytest.approx((outer <= limit + 1e-6).sum())
        for s, t in {tuple(one) for one in pair.T}:
            own = (sites == [[s], [t]]).all(axis=0)
            chosen = (pair == [[s], [t]]).all(axis=0) & (outer <= limit + 1e-6)
            counted = known.pairs[inside][:, own].sum(axis=0)
            order = np.argsort(lengths[own])
            expected = np.sort(distance[chosen])
            found = np.repeat(lengths[own][order], np.round(counted[order]).astype(int))
            assert_allclose(found, expected, atol=1e-6)
    assert known.atoms.sum() == len(site)


def test_larger_spheres_continue_the_count_of_smaller_ones(dse):
    crystal = dse.crystals["rock_salt"]
    pairs_of_spheres(crystal, (0, 0, 0), 1.5, Resources(1))
    continued = pairs_of_spheres(crystal, (0, 0, 0), 2.6, Resources(1))
    sphere_shells._known.clear()
    fresh = pairs_of_spheres(crystal, (0, 0, 0), 2.6, Resources(3))
    assert_array_equal(continued.pairs, fresh.pairs)
    assert pairs_of_spheres(crystal, (0, 0, 0), 2.3, Resources(1)) is fresh


def test_too_many_shells_and_groups_are_left_to_the_other_way(dse, monkeypatch):
    from aiida_dse.engine.particles.spheres import SpherePopulation

    crystal, sizes = dse.crystals["pbnm"], {"D": 1.6, "sd_D": 0.2}
    family = SpherePopulation(centre=(0, 0, 0.5))
    grouped = family.pair_counts(crystal, sizes)
    monkeypatch.setattr(sphere_shells, "MOST_BYTES", 0.0)
    sphere_shells._known.clear()
    listed_ = family.pair_counts(crystal, sizes)
    assert grouped.groups is not None and listed_.groups is None
    assert_allclose(grouped.atoms, listed_.atoms, rtol=1e-12)
    # the other way contains each atom as its own neighbour, once for a pair of equal sites
    assert listed_.tables.sum() - grouped.tables.sum() == pytest.approx(listed_.atoms.sum() / 2)


@pytest.mark.parametrize("name", ["rock_salt", "pbnm", "triclinic", "wurtzite"])
def test_orbits_contain_every_vector_once(dse, name):
    crystal = dse.crystals[name]
    rotations = [op.rotation for op in crystal.symmetry]
    none = np.zeros((1, 3))
    orbits = representatives(none, crystal.cell.matrix, rotations, 14.0)
    every = representatives(none, crystal.cell.matrix, [np.eye(3, dtype=int)], 14.0)
    assert orbits.orbit.sum() == pytest.approx(len(every.cell))
    assert len(vector_groups(crystal, 14.0)) >= len(np.unique(orbits.length.round(6)))


def test_grouped_pairs_have_the_pattern_of_listed_ones(dse, monkeypatch):
    """To the tolerance of the transform, which is made negligible here."""
    from aiida_dse.engine.model.crystal_phase import CrystalPhase
    from aiida_dse.engine.model.phase import Sampling
    from aiida_dse.engine.particles.spheres import SpherePopulation
    from aiida_dse.engine.scattering import debye

    monkeypatch.setattr(debye, "NUFFT_TOLERANCE", 1e-13)
    monkeypatch.setattr(debye, "_plans", debye._Plans())
    sampling = Sampling(np.linspace(0.3, 15, 300), 0.56)
    for name in ("rock_salt", "pbnm"):
        phase = CrystalPhase("P", dse.crystals[name], SpherePopulation(), {"D": 1.8, "sd_D": 0.3})
        grouped = phase.state(phase.start, sampling).sums
        monkeypatch.setattr(sphere_shells, "MOST_BYTES", 0.0)
        monkeypatch.setattr(sphere_shells, "_known", [])
        single = CrystalPhase("P", dse.crystals[name], SpherePopulation(), {"D": 1.8, "sd_D": 0.3})
        listed_ = single.state(single.start, sampling).sums
        monkeypatch.setattr(sphere_shells, "MOST_BYTES", 1e9)
        assert np.abs(grouped - listed_).max() < 1e-10 * np.abs(listed_).max()
