"""Split sites: which pairs exist, and which are errors."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_dse.engine.crystal.disorder import excluded_pairs
from aiida_dse.engine.model.fixed_geometry import AtomListPhase
from aiida_dse.engine.particles.parallelepipeds import ParallelepipedPopulation, SingleParallelepiped
from aiida_dse.engine.particles.spheres import SingleSphere


def test_split_cubic_without_pairs_of_alternatives(dse, direct):
    q = dse.uneven_q(120)
    atoms = direct.block(dse.structures["split"], 5, 4, 4)
    absent = direct.near(atoms, 1.2)
    # every bromine has at most three alternatives: 0.58 Å in pairs, 0.82 Å across
    assert absent.sum(axis=1).max() == 3
    expected = direct.intensity(atoms, q, dse.wavelength, absent=absent)
    parallelepiped = dse.phase(dse.crystals["split"], SingleParallelepiped((5, 4, 4)))
    assert dse.worst(dse.intensity(parallelepiped, q), expected) < 1e-6  # measured 9e-8
    assert dse.worst(dse.intensity(dse.atom_list(atoms), q), expected) < 1e-6
    # the test can fail: with those pairs the pattern is another one
    assert dse.worst(direct.intensity(atoms, q, dse.wavelength), expected) > 0.05


@pytest.mark.parametrize("centre", [(0, 0, 0), (0.5, 0, 0), (0.5, 0.5, 0.5), (0.1, 0.2, 0.3)])
def test_split_cubic_spheres(centre, dse, direct):
    q = dse.uneven_q(60)
    atoms = direct.sphere(dse.structures["split"], centre, 11.2)
    expected = direct.intensity(atoms, q, dse.wavelength, absent=direct.near(atoms, 1.2))
    phase = dse.phase(dse.crystals["split"], SingleSphere(2.24, tuple(map(float, centre))))
    assert dse.worst(dse.intensity(phase, q), expected) < 1e-6


def test_split_cubic_population(dse, direct):
    """Number-weighted double sums of a law narrow enough for two sizes along each axis."""
    q = dse.uneven_q(40)
    edge = 0.587
    sizes = {"L_ab": 2.5 * edge, "sd_ab": 0.12, "L_c": 2.4 * edge, "sd_c": 0.12, "size_axes_rotation": 0.0}
    crystal = dse.crystals["split"]
    number, _, _ = ParallelepipedPopulation().number_weights(crystal, sizes)
    assert np.count_nonzero(number > 0.01) >= 3
    expected = np.zeros(len(q))
    for (i, j), weight in np.ndenumerate(number):
        if weight > 1e-12:
            atoms = direct.block(dse.structures["split"], i + 1, i + 1, j + 1)
            expected += weight * direct.intensity(
                atoms, q, dse.wavelength, absent=direct.near(atoms, 1.2)
            )
    found = dse.intensity(dse.phase(crystal, ParallelepipedPopulation(), sizes), q)
    assert dse.worst(found, expected) < 1e-6


def test_the_self_term_of_a_split_site_counts_one_atom(dse, direct):
    """4 positions at 1/4 have the self term of one bromine."""
    q = dse.uneven_q(30)
    phase = dse.phase(dse.crystals["split"], SingleParallelepiped((2, 2, 2)))
    found = dse.intensity(phase, q, Pb__B_iso=1e7, Cs__B_iso=1e7, Br__B_iso=1e7)
    f = direct.form_factors(["Pb2+", "Cs1+", "Br1-"], q, dse.wavelength)
    np.testing.assert_allclose(found, 8 * np.array([1, 1, 3]) @ abs(f) ** 2, rtol=1e-12)


def test_at_y_zero_a_split_site_is_a_whole_atom(dse):
    """Four quarters in one place, without pairs among them: full pair terms and one self term."""
    q = dse.uneven_q(60, high=12.0)
    whole = dse.crystal(
        "P m -3 m", (5.87,) * 3,
        [("Pb", "Pb2+", (0, 0, 0), 1, 1.0), ("Cs", "Cs1+", (0.5, 0.5, 0.5), 1, 4.0),
         ("Br", "Br1-", (0.5, 0, 0), 1, 2.0)],
    )
    expected = dse.intensity(dse.phase(whole, SingleParallelepiped((3, 3, 2))), q)
    # the shifted box keeps all four alternatives of one bromine in one cell
    split = dse.crystal(
        "P m -3 m", (5.87,) * 3,
        [("Pb", "Pb2+", (0, 0, 0), 1, 1.0), ("Cs", "Cs1+", (0.5, 0.5, 0.5), 1, 4.0),
         ("Br", "Br1-", (0.5, 0.07, 0), 0.25, 2.0)],
        termination=(-0.25, -0.25, -0.25),
    )
    phase = dse.phase(split, SingleParallelepiped((3, 3, 2)))
    np.testing.assert_allclose(dse.intensity(phase, q, Br__y=1e-6), expected, rtol=1e-6)
    assert dse.worst(dse.intensity(phase, q), expected) > 0.01


def test_full_sites_too_close_are_refused_by_name(dse):
    crystal = dse.crystal(
        "P 1", (6, 6, 6),
        [("Pb1", "Pb2+", (0.1, 0.1, 0.1), 1.0, 1.0), ("Br7", "Br1-", (0.25, 0.1, 0.1), 1.0, 1.0)],
    )
    with pytest.raises(ValueError, match=r"Pb1.*Br7.*0\.900 Å"):
        dse.intensity(dse.phase(crystal, SingleParallelepiped((2, 2, 2))), dse.uneven_q(10))
    # lowering the limit below the distance is a remedy the message offers
    dse.intensity(
        dse.phase(crystal, SingleParallelepiped((2, 2, 2)), exclusion_distance=0.8), dse.uneven_q(10)
    )


def test_full_sites_too_close_across_a_cell_face(dse):
    crystal = dse.crystal(
        "P 1", (6, 6, 6),
        [("Pb1", "Pb2+", (0.02, 0.5, 0.5), 1.0, 1.0), ("Br7", "Br1-", (0.92, 0.5, 0.5), 1.0, 1.0)],
    )
    with pytest.raises(ValueError, match=r"Pb1.*Br7.*0\.600 Å"):
        excluded_pairs(crystal)


def test_a_full_site_too_close_to_its_own_image_is_refused(dse):
    crystal = dse.crystal("P -1", (6, 7, 8, 80, 95, 100), [("O1", "O1-", (0.05, 0, 0), 1.0, 1.0)])
    with pytest.raises(ValueError, match=r"O1.*O1.*0\.600 Å"):
        excluded_pairs(crystal)


def test_a_full_and_a_partial_site_too_close_are_refused(dse):
    crystal = dse.crystal(
        "P 1", (6, 6, 6),
        [("Pb1", "Pb2+", (0.1, 0.1, 0.1), 1.0, 1.0), ("Br7", "Br1-", (0.25, 0.1, 0.1), 0.5, 1.0)],
    )
    with pytest.raises(ValueError, match="Pb1"):
        excluded_pairs(crystal)


# --- CIF disorder groups -------------------------------------------------------------------------

CELL = (9.1, 8.3, 10.2, 84.0, 96.0, 102.0)
HOST = ("Pb", "Pb2+", (0.11, 0.62, 0.13), 1.0, 1.0)


def _grouped(dse, direct, sites):
    """The P-1 crystal of sites (label, ion, position, occupancy, B, assembly, group), its reference
    structure, and for each place in the cell its image: operation and lattice shift."""
    crystal = dse.crystal("P -1", CELL, sites)
    listed, operation, shift = [], [], []
    for _, ion, position, occupancy, b, *_ in sites:
        images = [np.array(position), -np.array(position)]
        if np.allclose(position, 0):
            images = images[:1]
        listed.append((ion, occupancy, b, images))
        for k, image in enumerate(images):
            operation.append({0, 1} if len(images) == 1 else {k})
            shift.append(-np.floor(image + 1e-9).astype(int))
    return crystal, direct.Structure.of(CELL, listed), operation, np.array(shift)


def _absent(atoms, direct, sites, operation, shift):
    """Pairs of different groups of one assembly in one image; near partial pairs unless they
    belong to one group."""
    group = [site[6] if len(site) > 6 else 0 for site in sites]
    assembly = [site[5] if len(site) > 5 else "" for site in sites]
    image = atoms.cell + shift[atoms.place]
    absent = direct.near(atoms, 1.2)
    for i in range(len(atoms)):
        for j in range(len(atoms)):
            s, t = atoms.site[i], atoms.site[j]
            if i == j or not (group[s] and group[t] and assembly[s] == assembly[t]):
                continue
            if group[s] == group[t]:
                absent[i, j] = False
            elif (image[i] == image[j]).all() and (
                operation[atoms.place[i]] & operation[atoms.place[j]]
            ):
                absent[i, j] = True
    return absent


GROUPED = {
    "far alternatives": [
        HOST,
        ("A", "Cs1+", (0.31, 0.22, 0.41), 0.6, 1.5, "A", 1),
        ("B", "Bi3+", (0.52, 0.30, 0.37), 0.4, 1.5, "A", 2),
    ],
    "a group of two near atoms": [
        HOST,
        ("A", "Cs1+", (0.31, 0.22, 0.41), 0.6, 1.5, "A", 1),
        ("C", "Br1-", (0.39, 0.27, 0.44), 0.6, 1.5, "A", 1),
        ("B", "Bi3+", (0.52, 0.30, 0.37), 0.4, 1.5, "A", 2),
    ],
    "alternatives in another cell of the box": [
        HOST,
        ("A", "Cs1+", (0.96, 0.22, 0.41), 0.6, 1.5, "A", 1),
        ("B", "Bi3+", (1.14, 0.30, 0.37), 0.4, 1.5, "A", 2),
    ],
    "around an inversion centre": [
        HOST,
        ("A", "Cs1+", (0.0, 0.0, 0.0), 0.6, 1.5, "A", 1),
        ("B", "Bi3+", (0.21, 0.11, 0.05), 0.4, 1.5, "A", 2),
    ],
    "two assemblies": [
        HOST,
        ("A", "Cs1+", (0.31, 0.22, 0.41), 0.6, 1.5, "A", 1),
        ("B", "Bi3+", (0.52, 0.30, 0.37), 0.4, 1.5, "A", 2),
        ("D", "Br1-", (0.75, 0.85, 0.30), 0.5, 1.5, "B", 1),
        ("E", "S", (0.85, 0.75, 0.35), 0.5, 1.5, "B", 2),
    ],
}


@pytest.mark.parametrize("family", ["parallelepiped", "sphere"])
@pytest.mark.parametrize("case", GROUPED)
def test_disorder_groups_against_the_double_sum(case, family, dse, direct):
    q = dse.uneven_q(50)
    sites = GROUPED[case]
    crystal, structure, operation, shift = _grouped(dse, direct, sites)
    if family == "parallelepiped":
        atoms = direct.block(structure, 3, 4, 3)
        phase = dse.phase(crystal, SingleParallelepiped((3, 4, 3)))
    else:
        atoms = direct.sphere(structure, (0, 0, 0), 13.3)
        phase = dse.phase(crystal, SingleSphere(2.66, (0.0, 0.0, 0.0)))
    absent = _absent(atoms, direct, sites, operation, shift)
    assert absent.any()
    expected = direct.intensity(atoms, q, dse.wavelength, absent=absent)
    assert dse.worst(dse.intensity(phase, q), expected) < 1e-6
    # the rule matters here: by distance alone the pattern would be another
    by_distance = direct.intensity(atoms, q, dse.wavelength, absent=direct.near(atoms, 1.2))
    assert dse.worst(by_distance, expected) > 1e-3


def test_far_positions_without_groups_keep_their_pairs(dse, direct):
    q = dse.uneven_q(40)
    sites = [site[:5] for site in GROUPED["far alternatives"]]
    crystal, structure, *_ = _grouped(dse, direct, sites)
    expected = direct.intensity(direct.block(structure, 3, 3, 3), q, dse.wavelength)
    assert dse.worst(dse.intensity(dse.phase(crystal, SingleParallelepiped((3, 3, 3))), q), expected) < 1e-6


def test_a_negative_group_excludes_its_near_symmetry_image(dse, direct):
    """An atom off an inversion centre, 0.8 Å from its image, present at half occupancy."""
    q = dse.uneven_q(40)
    sites = [HOST, ("A", "Cs1+", (0.044, 0.0, 0.0), 0.5, 1.5, "", -1)]
    crystal, structure, *_ = _grouped(dse, direct, sites)
    atoms = direct.block(structure, 3, 3, 3)
    absent = direct.near(atoms, 1.2)
    assert absent.any()
    expected = direct.intensity(atoms, q, dse.wavelength, absent=absent)
    assert dse.worst(dse.intensity(dse.phase(crystal, SingleParallelepiped((3, 3, 3))), q), expected) < 1e-6


# --- lists of atoms ------------------------------------------------------------------------------


def _atoms(occupancy, distance):
    return AtomListPhase("atoms", ("A", "B"), ("Pb2+", "Br1-"), np.array([0, 1]),
                         np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]]), (1.0, 1.0), occupancy)


@pytest.mark.parametrize("occupancy", [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0)])
@pytest.mark.parametrize("distance", [0.0, 0.9])
def test_a_full_atom_at_the_place_of_another_is_refused(occupancy, distance):
    """Also beside a partly occupied one: at no distance their pair term would be infinite."""
    with pytest.raises(ValueError, match=r"\(A, occupancy .*\(B, occupancy .*limit is 1\.2"):
        _atoms(occupancy, distance)


def test_two_partly_occupied_atoms_are_alternatives(dse):
    q = dse.uneven_q(20)
    near, far = (dse.intensity(_atoms((0.5, 0.5), distance), q) for distance in (0.3, 500.0))
    assert np.isfinite(near).all()
    np.testing.assert_allclose(near, far, rtol=1e-2)  # no pair term
