"""Bonds and angles by identity: equal by symmetry is one, equal by accident is not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from aiida_dse.engine.crystal.bonds import angles, bonds
from aiida_dse.engine.crystal.geometry import Bond, BondAngle, Geometry, angle, propagated
from aiida_dse.engine.crystal.neighbours import pairs_within, symmetry_images


def geometry_of(crystal, positions=None, cell=None):
    labels = tuple(crystal.sites[k].label for k in crystal.site_of_atom)
    cell = cell or crystal.cell
    return Geometry(cell.matrix, crystal.positions() if positions is None else positions, labels)


@pytest.fixture(scope="module")
def crystals(small):
    """Orthorhombic, hexagonal, cubic, centred and triclinic."""
    return {
        "pbnm": small.pbnm(),
        "symmetric start": small.pbnm(cell=(8.3, 8.3, 11.74), br_ax=(0.0, 0.0, 0.75)),
        "cscl": small.cscl(),
        "wurtzite": small.crystal("P 63 m c", (4.3, 4.3, 7.0, 90, 90, 120), [
            ("Cd", "Cd2+", (1 / 3, 2 / 3, 0), 1.0, 1.2), ("Se", "Se", (1 / 3, 2 / 3, 0.375), 1.0, 0.9)]),
        "quartz": small.crystal("P 32 2 1", (4.913, 4.913, 5.405, 90, 90, 120), [
            ("Si", "Si4+", (0.4697, 0, 2 / 3), 1.0, 0.5), ("O", "O1-", (0.4133, 0.2672, 0.7855), 1.0, 1.0)]),
        "rock salt": small.crystal("F m -3 m", (5.9,) * 3, [
            ("Pb", "Pb2+", (0, 0, 0), 1.0, 1.3), ("S", "S", (0.5, 0.5, 0.5), 1.0, 0.9)]),
        "triclinic": small.crystal("P -1", (6.1, 7.3, 8.4, 78, 97, 110), [
            ("Bi", "Bi3+", (0, 0, 0), 1.0, 0.8), ("O", "O2-", (0.38, 0.87, 0.29), 1.0, 2.6)]),
    }


def elsewhere(crystal, seed):
    """A geometry with all free cell parameters and coordinates moved: accidents are gone."""
    random = np.random.default_rng(seed)
    points = crystal.site_positions.copy()
    for k, site in enumerate(crystal.sites):
        basis = crystal.coordinate_freedom(site.label).basis
        points[k] += random.uniform(0.005, 0.02, len(basis)) @ basis
    cell = crystal.with_cell(**{
        name: getattr(crystal.cell, name) * random.uniform(0.98, 1.02)
        for name in crystal.free_cell_parameters}).cell
    return geometry_of(crystal, crystal.positions(points), cell)


@pytest.mark.parametrize("name", ["pbnm", "symmetric start", "cscl", "wurtzite", "quartz",
                                  "rock salt", "triclinic"])
def test_one_bond_for_each_length_of_a_generic_geometry(crystals, name):
    """Equal by symmetry is equal in every geometry: an independent way to count bonds and angles."""
    crystal = crystals[name]
    # isosceles triangles of oxygen have angles that are equal without being images of each other
    start, cutoff = geometry_of(crystal), 2.0 if name == "quartz" else 3.9
    moved = [elsewhere(crystal, seed) for seed in (1, 2)]
    pairs = pairs_within(start.matrix, start.positions, cutoff)
    labels = [site.label for site in crystal.sites]
    checked = 0
    for first in labels:
        centre = start.labels.index(first)
        shells = {}
        for second in labels:
            rows = [(int(j), tuple(map(int, u))) for i, j, u in
                    zip(pairs.first, pairs.second, pairs.cells, strict=True)
                    if i == centre and start.labels[j] == second]
            if not rows:
                continue
            shells[second] = rows
            found = bonds(crystal, start, first, second, cutoff=cutoff)
            generic = Counter(tuple(np.round([vector_length(g, centre, *row) for g in moved], 7))
                              for row in rows)
            assert len(found) == len(generic)
            for bond in found:
                key = tuple(np.round([float(g.length(bond)) for g in moved], 7))
                assert generic[key] == bond.multiplicity
            checked += len(found)
        for one, other in [(one, other) for one in shells for other in shells]:
            found = angles(crystal, start, one, first, other, cutoff=cutoff)
            total = Counter()
            for k, a in enumerate(shells[one]):
                for m, b in enumerate(shells[other]):
                    if (one == other and m <= k) or a == b:
                        continue
                    arms = [[vector(g, centre, *row) for row in (a, b)] for g in moved]
                    ends = [sorted(np.linalg.norm(x) for x in pair) for pair in arms]
                    total[tuple(np.round([[*end, np.dot(*pair)] for end, pair in
                                          zip(ends, arms, strict=True)], 7).ravel())] += 1
            # the scalar product and both lengths: more than the angle, which may be fixed
            assert sum(between.multiplicity for between in found) == sum(total.values())
            assert len(found) == len(total)
    assert checked > 1


def vector(geometry, first, second, cell):
    return geometry.matrix @ (geometry.positions[second] + np.array(cell) - geometry.positions[first])


def vector_length(geometry, first, second, cell):
    return float(np.linalg.norm(vector(geometry, first, second, cell)))


def test_a_symmetric_start_keeps_both_bonds(small):
    """a = b and Br_eq halfway: two equal lengths now, two bonds as soon as an atom moves."""
    def at(x, cell):
        sites = [("Cs", "Cs1+", (0.49, 0.02, 0.25), 1.0, 1.0), ("Pb", "Pb2+", (0, 0, 0.5), 1.0, 1.0),
                 ("Br_eq", "Br1-", (x, 0.25, 0.5), 1.0, 1.0)]
        return small.crystal("P b n m", cell, sites)

    start = at(0.25, (8.3, 8.3, 11.7))
    first, second = bonds(start, geometry_of(start), "Pb", "Br_eq")
    geometry = geometry_of(start)
    assert geometry.length(first) == pytest.approx(float(geometry.length(second)), abs=1e-12)
    points = start.site_positions.copy()
    points[2, 0] += 0.01
    moved = geometry_of(start, start.positions(points))
    assert abs(moved.length(first) - moved.length(second)) > 0.05
    # noise of the size of rounding does not exchange their numbers
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(scale=1e-12, size=(len(start.basis_atoms), 3))
        assert bonds(start, geometry_of(start, start.positions() + noise), "Pb", "Br_eq") == [
            first, second]


def test_alternatives_of_a_split_site_are_no_neighbours(small):
    """Br on 12h at 1/4: 24 positions around Pb for 6 bromines, and no bromine 0.58 Å away."""
    split = small.crystal("P m -3 m", (5.87,) * 3, [
        ("Pb", "Pb2+", (0, 0, 0), 1.0, 1.0), ("Cs", "Cs1+", (0.5, 0.5, 0.5), 1.0, 4.0),
        ("Br", "Br1-", (0.5, 0.07, 0), 0.25, 2.0)])
    geometry = geometry_of(split)
    (bond,) = bonds(split, geometry, "Pb", "Br")
    assert bond.multiplicity == 24
    assert geometry.length(bond) == pytest.approx(5.87 * np.hypot(0.5, 0.07))
    assert bonds(split, geometry, "Pb", "Br", coordination=6) == [bond]
    between = bonds(split, geometry, "Br", "Br")
    assert float(geometry.length(between[0])) > 3.0
    # no angle between two alternatives, which would be 2 atan(0.07 / 0.5) = 16 degrees or less
    assert min(float(angle(geometry, one)) for one in angles(split, geometry, "Br", "Pb", "Br")) > 70


@pytest.fixture(scope="module")
def titanate(small):
    """PbTiO3 at room temperature: apical Ti-O 1.77 and 2.39 Å, a ratio of 1.35."""
    return small.crystal("P 4 m m", (3.904, 3.904, 4.152), [
        ("Pb", "Pb2+", (0, 0, 0), 1.0, 0.5), ("Ti", "Ti4+", (0.5, 0.5, 0.5377), 1.0, 0.5),
        ("O_ap", "O2-", (0.5, 0.5, 0.1118), 1.0, 0.5), ("O_eq", "O2-", (0.5, 0, 0.6174), 1.0, 0.5)])


def test_a_strongly_distorted_octahedron_needs_a_cutoff_or_a_coordination_number(titanate):
    geometry = geometry_of(titanate)
    assert len(bonds(titanate, geometry, "Ti", "O_ap")) == 1
    by_number = bonds(titanate, geometry, "Ti", "O_ap", coordination=2)
    assert [float(geometry.length(b)) for b in by_number] == pytest.approx([1.768, 2.384], abs=1e-3)
    assert bonds(titanate, geometry, "Ti", "O_ap", cutoff=2.5) == by_number
    (equatorial,) = bonds(titanate, geometry, "Ti", "O_eq", coordination=4)
    assert equatorial.multiplicity == 4
    (trans,) = angles(titanate, geometry, "O_ap", "Ti", "O_ap", coordination=2)
    assert angle(geometry, trans) == pytest.approx(180.0, abs=1e-12)


def test_a_cutoff_that_equals_a_length_includes_all_of_its_bonds(small):
    crystal = small.cscl(a=4.12)
    (bond,) = bonds(crystal, geometry_of(crystal), "Cs", "Cs", cutoff=4.12)
    assert bond.multiplicity == 6


def test_refusals_of_neighbours(titanate):
    geometry = geometry_of(titanate)
    with pytest.raises(ValueError, match=r"cannot have 3 neighbours O_eq.*possible numbers are 4"):
        bonds(titanate, geometry, "Ti", "O_eq", coordination=3)
    with pytest.raises(ValueError, match=r"no neighbour O_ap within the cutoff of 1\.5 Å"):
        bonds(titanate, geometry, "Ti", "O_ap", cutoff=1.5)
    with pytest.raises(ValueError, match="Keep only one"):
        bonds(titanate, geometry, "Ti", "O_ap", cutoff=1.5, coordination=2)


@pytest.mark.parametrize("name", ["pbnm", "quartz", "rock salt", "triclinic"])
def test_symmetry_maps_bonds_onto_bonds_of_the_same_length(crystals, name):
    """Every image of every bond, by atom and lattice translation, has its length."""
    crystal = crystals[name]
    geometry, images = elsewhere(crystal, 3), symmetry_images(crystal)
    pairs = pairs_within(geometry.matrix, geometry.positions, 4.5)
    for i, j, u, length in list(zip(pairs.first, pairs.second, pairs.cells, pairs.lengths,
                                    strict=True))[::7]:
        for g, cell in enumerate(images.cells(i, j, u)):
            image = vector_length(geometry, images.atoms[g, i], images.atoms[g, j], cell)
            assert image == pytest.approx(length, abs=1e-10)


def test_the_search_finds_every_pair(crystals):
    """Against all pairs of a block of cells, atoms inside the cell or not."""
    crystal = crystals["triclinic"]
    positions = crystal.positions() + np.array([[3, 0, -2], [0, 0, 0], [0, -1, 0]])[
        : len(crystal.basis_atoms)]
    matrix, distance = crystal.cell.matrix, 9.3
    found = pairs_within(matrix, positions, distance)
    shifts = np.stack(np.meshgrid(*[np.arange(-7, 8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    expected = set()
    for i in range(len(positions)):
        for j in range(len(positions)):
            away = np.linalg.norm((positions[j] + shifts - positions[i]) @ matrix.T, axis=1)
            expected |= {(i, j, *map(int, shifts[k])) for k in np.flatnonzero(
                (away < distance) & (away > 1e-9))}
    rows = {(int(i), int(j), *map(int, u)) for i, j, u in
            zip(found.first, found.second, found.cells, strict=True)}
    assert rows == expected and len(found) == len(rows)
    np.testing.assert_allclose(
        found.lengths, [vector_length(Geometry(matrix, positions, ()), i, j, u) for i, j, u in
                        zip(found.first, found.second, found.cells, strict=True)], rtol=1e-12)


# --- angles near 180 degrees ---------------------------------------------------------------------


EDGE = 5.9
BENT = BondAngle(Bond(0, 1, (0, 0, 0)), Bond(0, 1, (1, 0, 0)))


def bent(off):
    """Atom 0 lies `off` (fractional) beside the middle between atom 1 and its translation."""
    return Geometry(EDGE * np.eye(3), np.array([[0.5, off, 0.0], [0.0, 0.0, 0.0]]), ("Br", "Pb"))


@pytest.mark.parametrize("off", [0.0, 1e-9, 1e-7, 1e-5, 1e-3, 0.1, 2.0])
def test_angles_agree_with_high_precision(off):
    """50 digits: an arc cosine is wrong by 1e-6 degrees where atan2 is right to 1e-13."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        expected = mpmath.degrees(2 * mpmath.atan2(mpmath.mpf("0.5"), mpmath.mpf(off)))
    assert abs(float(angle(bent(off), BENT)) - float(expected)) < 1e-12


@pytest.mark.parametrize("off", [1e-6, 1e-4, 1e-2])
def test_the_uncertainty_of_an_angle_near_180_degrees(off):
    """s.u. = |d(angle)/d(off)| s.u.(off) = (4 / (1 + 4 off^2)) s.u.(off), in radians."""
    def quantities(values):
        return [("angle", float(angle(bent(values["y"]), BENT)), "deg")]

    su = 1e-3 * off
    (found,) = propagated(quantities, {"y": off}, ["y"], np.array([[su**2]]), [1e-3 * off])
    assert found.su == pytest.approx(np.degrees(4 * su / (1 + 4 * off**2)), rel=1e-6)
