"""Coherent boundaries and split sites: every configuration of a small particle, with its probability."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np
import pytest

from aiida_dse.engine.crystal.splitting import SplitSite, SplitSites
from aiida_dse.engine.crystal.variants import Variants
from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.particles.boundaries import (
    Boundaries,
    BoundaryPlanes,
    SplitOrder,
    exactly,
    layers_of,
)
from aiida_dse.engine.particles.parallelepipeds import SingleParallelepiped
from aiida_dse.io.structures import read_cif

AXES = ((0.5, 0.5, 0.0), (-0.5, 0.5, 0.0), (0.0, 0.0, 0.5))
#: The displacements at a boundary, in pseudo-cubic vectors.
AB, C, ABC = (1, 0, 0), (0, 0, 1), (1, 0, 1)


def five_atoms(structure):
    """The displaced atoms of each pseudo-cubic cell, by its type (i + j mod 2, k mod 2).

    Written from PHYSICS2.md A.1: ideal offsets of Pb, Cs, Br_ax, Br_eq1 and Br_eq2 in a cell, and the
    displacements from them that the 20 atoms of the orthorhombic cell have. Returns a list, by type, of
    (site, ideal offset, pseudo-cubic position of the atom relative to the cell).
    """
    ideal = {"Pb": [(0, 0, 0)], "Cs": [(0.5, 0.5, 0.5)], "Br_ax": [(0, 0, 0.5)],
             "Br_eq": [(0.5, 0, 0), (0, 0.5, 0)]}
    names = {1: "Pb", 0: "Cs", 3: "Br_ax", 2: "Br_eq"}
    found = {}
    for x, site in zip(structure.positions, structure.site, strict=True):
        pseudo = np.array([x[0] + x[1], x[1] - x[0], 2 * x[2]])
        for offset in ideal[names[int(site)]]:
            cell = np.round(pseudo - offset)
            if np.abs(pseudo - offset - cell).max() < 0.24:
                kind = (int(cell[0] + cell[1]) % 2, int(cell[2]) % 2)
                found.setdefault(kind, []).append((int(site), offset, pseudo - cell))
    assert sorted(found) == [(0, 0), (0, 1), (1, 0), (1, 1)] and all(len(v) == 5 for v in found.values())
    return found


def atoms_of_block(structure, cells, corner):
    """(pseudo-cubic cell, number in the list of its type) of the atoms of whole boxes of atoms.

    A box contains the atoms whose coordinates, in the crystal without boundaries, lie between `corner` and
    corner + 1.
    """
    types = five_atoms(structure)
    found = []
    reach = sum(cells) + 4
    for cell in product(range(-reach, reach + 1), repeat=3):
        for number, (_, _, pseudo) in enumerate(types[(sum(cell[:2]) % 2, cell[2] % 2)]):
            i, j, k = np.array(cell) + pseudo
            box = np.floor(np.array([(i - j) / 2, (i + j) / 2, k / 2]) - corner + 1e-9)
            if (box >= 0).all() and (box < cells).all():
                found.append((cell, number))
    assert len(found) == 20 * np.prod(cells)
    return found


def particle(direct, structure, members, kind_of):
    """The atoms of pseudo-cubic cells, each of the type that kind_of(cell) has."""
    types = five_atoms(structure)
    xyz, sites = [], []
    order = {}
    for kind, rows in types.items():
        order[kind] = {(site, offset): pseudo for site, offset, pseudo in rows}
    for cell, number in members:
        site, offset, _ = types[(sum(cell[:2]) % 2, cell[2] % 2)][number]
        i, j, k = np.array(cell) + order[kind_of(cell)][site, offset]
        xyz.append(np.array([(i - j) / 2, (i + j) / 2, k / 2]) @ structure.vectors)
        sites.append(site)
    return direct.Atoms(structure, np.array(xyz), np.array(sites), np.zeros(len(xyz), int),
                        np.zeros((len(xyz), 3), int))


def enumerated(direct, structure, members, planes, q, wavelength):
    """The mean over all configurations and four starting variants.

    planes: for each axis of the pseudo-cubic lattice, {shift: probability}.
    """
    cells = np.array([cell for cell, _ in members])
    low, high = cells.min(axis=0), cells.max(axis=0)
    places = [(axis, at) for axis in range(3) if planes[axis] for at in range(low[axis] + 1, high[axis] + 1)]
    options = [[((0, 0, 0), 1 - sum(planes[axis].values())), *planes[axis].items()] for axis, _ in places]
    total, n = np.zeros(len(q)), 0
    for start in product((0, 1), repeat=2):
        for choice in product(*options):
            probability = np.prod([p for _, p in choice])
            jumps = [(axis, at, shift) for (axis, at), (shift, _) in zip(places, choice, strict=True) if any(shift)]

            def kind(cell, start=start, jumps=jumps):
                moved = np.array(cell)
                for axis, at, shift in jumps:
                    if cell[axis] >= at:
                        moved = moved + shift
                return ((moved[0] + moved[1] + start[0]) % 2, (moved[2] + start[1]) % 2)

            total += probability / 4 * direct.intensity(
                particle(direct, structure, members, kind), q, wavelength)
            n += 1
    assert n >= 100
    return total


@pytest.fixture(scope="module")
def model(dse):
    """The engine's particle with boundaries."""
    def made(cells, planes, density, corner=(0.0, 0.0, 0.0)):
        crystal = replace(dse.crystals["pbnm"], termination=corner)
        variants = Variants(crystal, AXES)
        rows = tuple(BoundaryPlanes(f"n{k}", along, shift) for k, (along, shift) in enumerate(planes))
        return dse.phase(crystal, SingleParallelepiped(cells), order=Boundaries(
            variants, rows, dict(zip([one.parameter for one in rows], density, strict=True))))

    return made


Q = np.array([0.5, 0.9, 1.4, 1.7, 1.9, 2.6, 4.3, 7.0, 12.0])


@pytest.mark.parametrize("corner", [(0.0, 0.0, 0.0), (0.0, 0.5, 0.5)])
def test_one_displacement_per_family(corner, dse, direct, model):
    """All boundaries of 2 x 1 x 1 cells, for two terminations."""
    structure = dse.structures["pbnm"]
    members = atoms_of_block(structure, (2, 1, 1), np.array(corner))
    expected = enumerated(direct, structure, members, [{AB: 0.3}, {AB: 0.2}, {ABC: 0.4}], Q, dse.wavelength)
    phase = model((2, 1, 1), [((0,), AB), ((1,), AB), ((2,), ABC)], [0.3, 0.2, 0.4], corner)
    np.testing.assert_allclose(dse.intensity(phase, Q, tolerance=1e-9), expected, rtol=1e-8)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_an_exact_number_of_boundaries(number, dse, direct):
    """All choices of K of the planes along the first vector, beside random boundaries along the third one."""
    structure, cells = dse.structures["pbnm"], (2, 1, 1)
    members = atoms_of_block(structure, cells, np.zeros(3))
    indices = np.array([cell for cell, _ in members])
    low, high = indices.min(axis=0), indices.max(axis=0)
    total, weight = np.zeros(len(Q)), 0.0
    places = range(low[0] + 1, high[0] + 1)
    for start in product((0, 1), repeat=2):
        for chosen in combinations(places, number):
            for jumps in product((0, 1), repeat=int(high[2] - low[2])):
                probability = np.prod([0.3 if jump else 0.7 for jump in jumps])

                def kind(cell, start=start, chosen=chosen, jumps=jumps):
                    across = sum(cell[0] >= at for at in chosen)
                    along = sum(jump for at, jump in enumerate(jumps, low[2] + 1) if cell[2] >= at)
                    return ((cell[0] + cell[1] + across + start[0]) % 2, (cell[2] + along + start[1]) % 2)

                total += probability * direct.intensity(
                    particle(direct, structure, members, kind), Q, dse.wavelength)
                weight += probability
    variants = Variants(dse.crystals["pbnm"], AXES)
    layers = layers_of(variants, cells)
    assert layers == tuple(high - low + 1)
    phase = dse.phase(dse.crystals["pbnm"], SingleParallelepiped(cells), order=Boundaries(variants, (
        BoundaryPlanes("exact", (0,), AB, number, layers), BoundaryPlanes("random", (2,), C)),
        {"boundary_random": 0.3}))
    np.testing.assert_allclose(dse.intensity(phase, Q, tolerance=1e-9), total / weight, rtol=1e-8)


def test_another_termination_has_other_layers(dse):
    """The planes between which an exact number of boundaries is distributed are those of the atoms of the particle."""
    crystal, cells = dse.crystals["pbnm"], (2, 1, 1)
    variants = Variants(crystal, AXES)
    own = Boundaries(variants, (BoundaryPlanes("n", (0,), AB, 1, layers_of(variants, cells)),), {}, cells)
    other = replace(crystal, termination=(0.3, 0.3, 0.3))
    moved = own.with_crystal(other)
    assert moved.planes[0].layers == layers_of(Variants(other, AXES), cells)
    assert moved.variants.crystal is other


def test_more_boundaries_than_planes_are_refused():
    assert exactly(3, 4, np.array([-1.0]), 6)[:, 0].tolist() == pytest.approx([1, -1, 1, -1, -1, -1, -1])
    with pytest.raises(ValueError, match="has 3 planes of this kind, so it cannot have 4 boundaries"):
        exactly(4, 4, np.array([-1.0]), 6)


@pytest.mark.parametrize("p", [0.0, 0.07, 0.5])
def test_the_analytic_derivative_agrees_with_differences(p, dse, model):
    """At p = 1/2, one of the transfer factors vanishes."""
    q = np.linspace(0.5, 12.0, 200)
    phase = model((3, 3, 2), [((0, 1), AB), ((2,), ABC)], [p, 0.2])
    sampling = Sampling(q, dse.wavelength, tolerance=1e-8)
    values = phase.start
    slope = phase.boundary_slope(values, sampling, phase.state(values, sampling), "boundary_n0")
    step = 1e-4
    near = [phase.state(values | {"boundary_n0": p + k * step}, sampling).sums for k in (-2, -1, 1, 2)]
    expected = (near[0] - 8 * near[1] + 8 * near[2] - near[3]) / (12 * step)
    assert np.abs(slope - expected).max() < 1e-6 * np.abs(expected).max()


def test_what_boundaries_broaden(dse, model):
    """Those with the displacement 1/2 [110]: the M and R reflections, but not X; and their coherence lengths."""
    phase = model((3, 3, 2), [((0,), AB), ((2,), C)], [0.1, 0.2])
    a, b, c = phase.crystal.cell.parameters[:3]
    found = phase.order.quantities({"boundary_n0": 0.1, "boundary_n1": 0.2}, phase.crystal.cell.matrix)
    spacing = 1 / np.hypot(1 / a, 1 / b) / 10  # (110), nm
    assert found == pytest.approx({
        "domain_n0": spacing / 0.1, "domain_n1": c / 20 / 0.2,
        "coherence_M_n0": -spacing / np.log(0.8), "coherence_R_n0": -spacing / np.log(0.8),
        "coherence_X_n1": -c / 20 / np.log(0.6), "coherence_R_n1": -c / 20 / np.log(0.6)}, rel=1e-9)


def test_no_boundaries_are_the_mean_of_four_variants(dse, direct, model):
    """p = 0: the mean over the whole particle in each of the four variants."""
    structure = dse.structures["pbnm"]
    members = atoms_of_block(structure, (2, 2, 1), np.zeros(3))
    expected = np.mean([
        direct.intensity(particle(
            direct, structure, members,
            lambda cell, a=a, b=b: ((cell[0] + cell[1] + a) % 2, (cell[2] + b) % 2)), Q, dse.wavelength)
        for a, b in product((0, 1), repeat=2)], axis=0)
    found = dse.intensity(model((2, 2, 1), [((0, 1), AB), ((2,), C)], [0.0, 0.0]), Q, tolerance=1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_superstructure_reflections_fade(dse):
    """PHYSICS2.md A.5, 3 and 4: heights at the peaks of the example, relative to no boundaries."""
    crystal = read_cif(Path(__file__).parents[2] / "examples" / "cspbbr3" / "CsPbBr3.cif")
    cell = np.array(crystal.cell.parameters[:3])

    def phase(shift, along, p):
        return dse.phase(crystal, SingleParallelepiped((11, 11, 8)), order=Boundaries(
            Variants(crystal, AXES), (BoundaryPlanes("n", along, shift),), {"boundary_n": p}))

    def heights(changed):
        none, found = phase(AB, (0,), 0.0), {}
        for hkl in [(1, 2, 0), (2, 1, 0), (1, 0, 3), (1, 2, 1), (2, 1, 1), (1, 2, 2), (2, 1, 2), (0, 0, 2),
                    (1, 1, 0), (1, 1, 2), (0, 0, 4), (2, 2, 0), (1, 1, 1), (0, 2, 1), (1, 1, 3)]:
            q = np.array([2 * np.pi * np.linalg.norm(np.array(hkl) / cell)])
            found["".join(map(str, hkl))] = float(dse.intensity(changed, q)[0] / dse.intensity(none, q)[0])
        return found

    full = heights(phase(AB, (0, 1, 2), 0.5))
    for hkl in ("120", "210", "103", "211", "122"):
        assert 0.488 < full[hkl] < 0.562, (hkl, full[hkl])
    for hkl in ("002", "110", "112", "004", "220"):
        assert 1.0065 < full[hkl] < 1.0105, (hkl, full[hkl])
    for hkl in ("111", "021", "113"):  # raised by the diffuse scattering of the others
        assert 1.088 < full[hkl] < 1.125, (hkl, full[hkl])
    only = heights(phase(ABC, (2,), 0.2))
    expected = {"122": 0.65, "212": 0.65, "111": 0.81, "103": 1.065, "121": 1.065, "211": 1.065, "120": 0.93,
                "210": 0.96}
    for hkl, height in expected.items():
        assert only[hkl] == pytest.approx(height, abs=0.012), hkl


def test_two_variants_of_a_lattice_without_inversion_of_sense(dse):
    """Three variants (a cell tripled along c), where the characters are complex: probabilities of changes."""
    from aiida_dse.engine.particles.boundaries import transfer
    from aiida_dse.engine.scattering.variant_pairs import _powers

    crystal = dse.crystal("P 1", (4.0, 4.3, 12.0), [
        ("A", "Pb2+", (0.01, 0.0, 0.02), 1.0, 1.0), ("B", "Pb2+", (0.02, 0.03, 0.33), 1.0, 1.0),
        ("C", "Pb2+", (0.0, 0.01, 0.68), 1.0, 1.0)])
    variants = Variants(crystal, ((1, 0, 0), (0, 1, 0), (0, 0, 1 / 3)))
    assert len(variants.elements) == 3
    p = 0.3
    factors = transfer(variants, (BoundaryPlanes("n", (2,), (0, 0, 1)),), {"boundary_n": p})
    powers, inverse = _powers(variants, factors[:, None, :] ** np.arange(5)[:, None])
    step = np.zeros((3, 3))  # from variant to variant at one plane
    for k in range(3):
        step[k, k] = 1 - p
        step[k, variants.element_of(variants.elements[k] + np.array([0, 0, 1]))] += p
    for m in range(5):
        expected = np.linalg.matrix_power(step, m)[0]
        forward = (inverse * powers[2, 4 + m]).sum(axis=1)
        backward = (inverse * powers[2, 4 - m]).sum(axis=1)
        np.testing.assert_allclose(forward.real, expected, atol=1e-12)
        np.testing.assert_allclose(forward.imag, 0, atol=1e-12)
        # the way back is the inverse change
        back = [expected[variants.element_of(-shift)] for shift in variants.elements]
        np.testing.assert_allclose(backward.real, back, atol=1e-12)


#: The direction (fractional) in which Br_ax is split, and the amplitude (Å): tangential, in the mirror plane.
DIRECTION, AMPLITUDE = np.array([0.6, -0.8, 0.0]), 0.28


def split_phase(dse, correlation, cells, amplitude=AMPLITUDE, fixed=False, corner=(0.0, 0.0, 0.0)):
    crystal = replace(dse.crystals["pbnm"], termination=corner)
    direction = DIRECTION / np.linalg.norm(crystal.cell.matrix @ DIRECTION)
    sites = SplitSites(crystal, AXES, (SplitSite("Br_ax", tuple(direction.tolist()), fixed),))
    return dse.phase(crystal, SingleParallelepiped(cells), order=SplitOrder(
        sites, {"Br_ax.split": amplitude}, correlation))


def chains(factor, length):
    """The configurations of signs of a chain and their probabilities, for neighbours of the mean product factor."""
    for signs in product((1, -1), repeat=length):
        p = 0.5 * np.prod([(1 + factor * a * b) / 2 for a, b in pairwise(signs)])
        if p > 0:
            yield signs, p


@pytest.mark.parametrize("correlation", [
    (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 0.0, -1.0), (0.0, 0.0, 0.5), (1.0, 1.0, 0.6)],
    ids=["independent", "columns", "layers", "alternating", "chain", "layers with chain"])
@pytest.mark.parametrize("fixed", [False, True], ids=["turned", "fixed"])
def test_split_sites_are_the_mean_over_all_signs(correlation, fixed, dse, direct):
    """The sign of a cell is the product of those of three chains, which has the product correlation."""
    structure = dse.structures["pbnm"]
    atoms = direct.block(structure, 2, 1, 1)
    axial = np.flatnonzero(atoms.site == 3)
    fractional = atoms.xyz[axial] @ np.linalg.inv(structure.vectors)
    cells = np.array([np.floor([x[0] + x[1] + 0.25, x[1] - x[0] + 0.25, 2 * x[2] + 0.25 - 0.5 + 0.5])
                      for x in fractional]).astype(int)
    shift = DIRECTION / np.linalg.norm(DIRECTION @ structure.vectors) * AMPLITUDE
    # the images of Pbnm in the plane, by x: (x, y), (-x, -y), (1/2 + x, 1/2 - y), (1/2 - x, 1/2 + y)
    turns = {0.052: (1, 1, 1), 0.948: (-1, -1, 1), 0.552: (1, -1, 1), 0.448: (-1, 1, 1)}
    own = np.array([shift if fixed else shift * turns[round(float(x[0] % 1), 3)]
                    for x in fractional]) @ structure.vectors
    low = cells.min(axis=0)
    lengths = np.ptp(cells, axis=0) + 1
    q = Q[[1, 3, 5]]
    expected = np.zeros(len(q))
    for (a, pa), (b, pb), (c, pc) in product(*[list(chains(f, n)) for f, n in zip(correlation, lengths, strict=True)]):
        signs = np.array([a[i] * b[j] * c[k] for i, j, k in cells - low])
        moved = atoms.xyz.copy()
        moved[axial] += signs[:, None] * own
        expected += pa * pb * pc * direct.intensity(
            replace(atoms, xyz=moved), q, dse.wavelength)
    found = dse.intensity(split_phase(dse, correlation, (2, 1, 1), fixed=fixed), q, tolerance=1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_independent_signs_are_half_occupied_sites(dse):
    """The route of partially occupied alternatives, which exists since version 0.1."""
    corner = (-0.1, -0.1, 0.0)  # so that both positions lie inside the box
    crystal = replace(dse.crystals["pbnm"], termination=corner)
    shift = DIRECTION / np.linalg.norm(crystal.cell.matrix @ DIRECTION) * AMPLITUDE
    axial = crystal.site("Br_ax")
    others = tuple(site for site in crystal.sites if site.label != "Br_ax")
    halves = tuple(replace(axial, label=f"Br_{name}", position=tuple(np.array(axial.position) + sign * shift),
                           occupancy=axial.occupancy / 2) for name, sign in (("p", 1), ("m", -1)))
    expected = dse.intensity(dse.phase(replace(crystal, sites=(*others, *halves)), SingleParallelepiped((3, 2, 2))),
                             Q, tolerance=1e-9)
    found = dse.intensity(split_phase(dse, (0.0, 0.0, 0.0), (3, 2, 2), corner=corner), Q, tolerance=1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_a_site_that_is_not_split_apart_is_the_site(dse):
    expected = dse.intensity(dse.phase(dse.crystals["pbnm"], SingleParallelepiped((3, 2, 2))), Q, tolerance=1e-9)
    found = dse.intensity(split_phase(dse, (0.0, 0.0, 0.7), (3, 2, 2), amplitude=0.0), Q, tolerance=1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_split_atoms_in_different_places_of_a_cell_are_independent(dse, direct):
    """Br_eq has two places in each pseudo-cubic cell: all signs of the eight atoms of a cell of Pbnm."""
    structure = dse.structures["pbnm"]
    atoms = direct.block(structure, 1, 1, 1)
    own, q = np.flatnonzero(atoms.site == 2), Q[[1, 3, 6]]
    crystal = dse.crystals["pbnm"]
    direction = np.array([0.0, 0.0, 1.0]) / crystal.cell.c
    sites = SplitSites(crystal, AXES, (SplitSite("Br_eq", tuple(direction.tolist()), True),))
    assert sorted(np.unique(sites.members, return_counts=True)[1]) == [4, 4, 12]
    found = dse.intensity(dse.phase(crystal, SingleParallelepiped((1, 1, 1)), order=SplitOrder(
        sites, {"Br_eq.split": AMPLITUDE})), q, tolerance=1e-9)
    expected = np.zeros(len(q))
    for signs in product((1, -1), repeat=len(own)):
        moved = atoms.xyz.copy()
        moved[own, 2] += np.array(signs) * AMPLITUDE
        expected += direct.intensity(replace(atoms, xyz=moved), q, dse.wavelength) / 2 ** len(own)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_each_atom_takes_one_place_in_a_variant(dse):
    """Two close atoms, of which the same one would be the nearest to both places."""
    crystal = dse.crystal("P 1", (10.0, 4.0, 4.0), [
        ("A", "C", (0.0, 0.0, 0.0), 1.0, 1.0), ("B", "C", (0.14, 0.0, 0.0), 1.0, 1.0),
        ("C", "C", (0.57, 0.0, 0.0), 1.0, 1.0), ("D", "C", (0.70, 0.0, 0.0), 1.0, 1.0)])
    variants = Variants(crystal, ((0.5, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert [sorted(row) for row in variants.sites.tolist()] == [[0, 1, 2, 3], [0, 1, 2, 3]]
    positions = variants.positions(crystal.site_positions)
    assert np.linalg.norm((positions[1] - positions[0]) @ crystal.cell.matrix.T, axis=1).max() < 1.5
