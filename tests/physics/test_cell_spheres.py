"""Spheres of whole primitive cells against lists of their atoms and a direct double sum.

The lists are made from the definition in docs/physics.md: lattice vectors in the order of their
lengths, and atoms on faces of the cell divided between the cells that share them.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from aiida_dse.engine.particles.cell_spheres import CellSpherePopulation
from aiida_dse.engine.particles.spheres import SpherePopulation

Q = np.linspace(0.4, 12.0, 60)
#: Primitive vectors as rows, in fractions of the conventional cell.
PRIMITIVE = {
    "rock_salt": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    "pbnm": np.eye(3),
    "triclinic": np.eye(3),
    "body_centred": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
}


@pytest.fixture(scope="module")
def cases(dse, direct):
    """The crystals of the engine, and the same with all atoms written out."""
    crystals, structures = dict(dse.crystals), dict(dse.structures)
    crystals["body_centred"] = dse.crystal("I 4/m m m", (3.6, 3.6, 7.1), [
        ("Pb", "Pb2+", (0, 0, 0.31), 1.0, 1.2), ("O", "O2-", (0, 0.5, 0.25), 0.8, 0.7)])
    lead = [(0, 0, 0.31), (0, 0, 0.69), (0.5, 0.5, 0.81), (0.5, 0.5, 0.19)]
    oxygen = [(0, 0.5, 0.25), (0.5, 0, 0.25), (0, 0.5, 0.75), (0.5, 0, 0.75)]
    structures["body_centred"] = direct.Structure.of(
        (3.6, 3.6, 7.1), [("Pb2+", 1.0, 1.2, lead), ("O2-", 0.8, 0.7, oxygen)])
    return crystals, structures


def listed(structure, primitive, k, centre=(0, 0, 0), moved=None):
    """Atoms of the k-th sphere: sites (n,), positions (n, 3) Å and occupied fractions (n,).

    `moved` is the structure in which the positions are taken, with the cells of `structure`.
    """
    moved = moved or structure
    primitive = np.asarray(primitive, dtype=float)
    grid = np.array(list(product(range(-k - 2, k + 3), repeat=3)))
    lengths = np.linalg.norm(grid @ primitive @ structure.vectors, axis=1).round(6)
    filled, cells = 0, []
    for length in np.unique(lengths):
        shell = grid[lengths == length]
        part = min(1.0, (k**3 - filled) / len(shell))
        cells += [(cell, part) for cell in shell]
        filled += part * len(shell)
        if filled >= k**3 - 1e-9:
            break
    occupied = {}
    for number, (site, at) in enumerate(zip(structure.site, structure.positions, strict=True)):
        inside = np.linalg.solve(primitive.T, at - centre)
        whole = np.round(inside)
        faces = [axis for axis in range(3) if abs(abs(inside[axis] - whole[axis]) - 0.5) < 1e-6]
        for sides in product((-0.5, 0.5), repeat=len(faces)):
            lattice = whole.copy()
            lattice[faces] = np.round(inside[faces] - sides)
            if np.abs(at - lattice @ primitive - centre).max() > 3:
                continue
            for cell, part in cells:
                # the atom of this conventional cell, moved into the primitive cell
                shift = np.round((cell - lattice) @ primitive, 6)
                key = (number, site, *shift)
                occupied[key] = occupied.get(key, 0.0) + part / 2 ** len(faces)
    # atoms of a centred cell are listed once for each centring vector: the same position, one atom
    merged = {}
    for (number, site, *shift), fraction in occupied.items():
        at = (moved.positions[number] + np.array(shift)) @ moved.vectors
        merged.setdefault((site, *at.round(4)), []).append((at, fraction))
    sites = np.array([key[0] for key in merged], dtype=int)
    positions = np.array([found[0][0] for found in merged.values()])
    copies = round(1 / abs(np.linalg.det(primitive)))
    return sites, positions, np.array([
        sum(fraction for _, fraction in found) / copies for found in merged.values()])


def pattern(direct, structure, atoms, q, wavelength):
    """I(q) of partly filled atoms that scatter with their mean amplitude."""
    site, xyz, filled = atoms
    factors = direct.form_factors(structure.ions, q, wavelength)
    damped = factors * np.exp(-np.outer(structure.b, q**2) / (16 * np.pi**2))
    amplitude = (damped * structure.occupancy[:, None])[site] * filled[:, None]
    own = (filled**2 * structure.occupancy[site]) @ np.abs(factors[site]) ** 2
    distance = direct.all_distances(xyz)
    rows, columns = np.triu_indices(len(xyz), 1)
    r = distance[rows, columns]
    assert r.min() > 1e-3
    pair = (amplitude[rows] * np.conj(amplitude[columns])).real
    return own + 2 * np.array([
        np.sum(pair[:, n] * np.sinc(x * r / np.pi)) for n, x in enumerate(q)])


def expected(direct, structure, primitive, number, wavelength, **more):
    return sum(weight * pattern(direct, structure if more.get("moved") is None else more["moved"],
                                listed(structure, primitive, k, **more), Q, wavelength)
               for k, weight in enumerate(number, 1) if weight > 1e-12)


@pytest.mark.parametrize(("name", "sizes", "centre"), [
    ("rock_salt", {"D": 1.3, "sd_D": 0.25}, (0.0, 0.0, 0.0)),
    ("rock_salt", {"D": 1.2, "sd_D": 0.2}, (0.5, 0.5, 0.5)),
    ("pbnm", {"D": 1.6, "sd_D": 0.2}, (0.0, 0.0, 0.0)),
    ("triclinic", {"D": 1.4, "sd_D": 0.2}, (0.1, 0.2, 0.3)),
    ("body_centred", {"D": 1.1, "sd_D": 0.2}, (0.0, 0.0, 0.0)),
])
def test_the_pattern_is_that_of_the_listed_atoms(dse, direct, cases, name, sizes, centre):
    crystal, structure = (case[name] for case in cases)
    shape = CellSpherePopulation(centre, largest=2.0)
    number, _ = shape.number_weights(crystal, sizes)
    assert np.count_nonzero(number > 0.01) > 1
    found = dse.intensity(dse.phase(crystal, shape, sizes), Q, wavelength=dse.wavelength,
                          tolerance=1e-8)
    wanted = expected(direct, structure, PRIMITIVE[name], number, dse.wavelength, centre=centre)
    assert dse.worst(found, wanted) < 2e-6


def test_cell_and_positions_move_with_the_cells_of_the_reference(dse, direct, cases):
    """A distorted cell and a moved atom change distances, but not which atoms are there."""
    crystal, structure = (case["body_centred"] for case in cases)
    shape, sizes = CellSpherePopulation(largest=1.6), {"D": 1.1, "sd_D": 0.2}
    phase = dse.phase(crystal, shape, sizes)
    number = CellSpherePopulation(largest=1.6).number_weights(
        crystal.with_cell(a=3.7, c=6.9), sizes)[0]
    moved = direct.Structure.of((3.7, 3.7, 6.9), [
        ("Pb2+", 1.0, 1.2, [(0, 0, 0.33), (0, 0, 0.67), (0.5, 0.5, 0.83), (0.5, 0.5, 0.17)]),
        ("O2-", 0.8, 0.7, [(0, 0.5, 0.25), (0.5, 0, 0.25), (0, 0.5, 0.75), (0.5, 0, 0.75)])])
    found = dse.intensity(phase, Q, tolerance=1e-8, a=3.7, c=6.9, Pb__z=0.33)
    wanted = expected(direct, structure, PRIMITIVE["body_centred"], number, dse.wavelength,
                      moved=moved)
    assert dse.worst(found, wanted) < 2e-6


def test_the_smallest_rock_salt_sphere_has_an_eighth_of_sulphur_on_eight_corners(cases):
    sites, xyz, filled = listed(cases[1]["rock_salt"], PRIMITIVE["rock_salt"], 1)
    assert filled[sites == 0] == pytest.approx([1.0])
    assert filled[sites == 1] == pytest.approx([1 / 8] * 8)
    away = np.sort(np.linalg.norm(xyz[sites == 1] - xyz[sites == 0], axis=1)) / 5.936
    assert away == pytest.approx([0.5] * 6 + [np.sqrt(0.75)] * 2, abs=1e-4)


@pytest.mark.parametrize("name", ["rock_salt", "body_centred", "triclinic"])
def test_the_composition_is_that_of_whole_cells(dse, cases, name):
    """n cells have n times the atoms of a primitive cell, although atoms at the surface are shared."""
    crystal = cases[0][name]
    shape, sizes = CellSpherePopulation(), {"D": 2.5, "sd_D": 0.4}
    counts = shape.pair_counts(crystal, sizes)
    cells = shape.mean_cells(crystal, sizes)
    site = crystal.site_of_atom
    assert np.bincount(site, counts.contents) == pytest.approx(cells * np.bincount(site))
    assert (counts.atoms <= counts.contents * (1 + 1e-12)).all()


def test_large_particles_approach_spheres_of_atoms(dse, cases):
    """Volume, composition and small-angle scattering agree; only the surface differs."""
    crystal, sizes = cases[0]["rock_salt"], {"D": 6.0, "sd_D": 0.9}
    small = np.linspace(0.02, 0.1, 20)
    cells, atoms = (dse.intensity(dse.phase(crystal, shape, sizes), small)
                    for shape in (CellSpherePopulation(), SpherePopulation()))
    assert dse.worst(cells, atoms) < 0.01


def test_a_non_standard_centring_is_refused(dse):
    doubled = dse.crystal("P 1", (5.0, 5.0, 5.0), [("Pb", "Pb2+", (0, 0, 0), 1.0, 1.0)])
    moved = type(doubled)(doubled.cell, ("x,y,z", "x+1/2,y,z"), doubled.sites, name="doubled")
    with pytest.raises(ValueError, match="non-standard centring"):
        CellSpherePopulation().pair_counts(moved, {"D": 2.0, "sd_D": 0.3})
