"""Anisotropic displacements: the exact average over directions, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit, prange

from aiida_dse.engine.model.displacements import Anisotropic, Correlation, Damped, Uniaxial
from aiida_dse.engine.particles.parallelepipeds import ParallelepipedPopulation, SingleParallelepiped
from aiida_dse.engine.particles.random_centre import RandomCentre
from aiida_dse.shapes.sphere import Ball


@njit(parallel=True)
def _averaged(q, xyz, tensors, real, imaginary, nodes, weights, n_angles):
    """2 sum over pairs of Re(f f*) < exp(-q^2 m.U.m / 2) cos(q m.r) >, by quadrature over directions m."""
    result = np.zeros(len(q))
    for k in range(len(q)):
        total = 0.0
        for i in prange(len(xyz)):
            part = 0.0
            for j in range(i):
                d = xyz[i] - xyz[j]
                r = np.sqrt(np.sum(d * d))
                n = d / r
                other = np.array([1.0, 0.0, 0.0]) if abs(n[0]) < 0.6 else np.array([0.0, 1.0, 0.0])
                u = np.cross(n, other)
                u = u / np.sqrt(np.sum(u * u))
                v = np.cross(n, u)
                t = tensors[i] + tensors[j]
                value = 0.0
                for a in range(len(nodes)):
                    across = np.sqrt(1 - nodes[a] ** 2)
                    mean = 0.0
                    for b in range(n_angles):
                        angle = np.pi * (b + 0.5) / n_angles  # m.U.m is even in m
                        m = nodes[a] * n + across * (np.cos(angle) * u + np.sin(angle) * v)
                        mirrored = nodes[a] * n - across * (np.cos(angle) * u + np.sin(angle) * v)
                        mean += 0.5 * np.exp(-q[k] ** 2 / 2 * np.dot(m, t @ m))
                        mean += 0.5 * np.exp(-q[k] ** 2 / 2 * np.dot(mirrored, t @ mirrored))
                    value += weights[a] / 2 * np.cos(q[k] * r * nodes[a]) * mean / n_angles
                part += value * (real[k, i] * real[k, j] + imaginary[k, i] * imaginary[k, j])
            total += part
        result[k] = 2 * total
    return result


def exact(direct, atoms, tensors, q, wavelength):
    """I(q) of atoms with Cartesian tensors (n, 3, 3); occupancies are those of the structure."""
    structure = atoms.structure
    f = direct.form_factors(structure.ions, q, wavelength)
    number = np.bincount(atoms.site, minlength=len(structure.ions))
    amplitude = (f * structure.occupancy[:, None])[atoms.site].T
    longest = float(np.linalg.norm(np.ptp(atoms.xyz, axis=0)))
    pairs = []
    for k, one in enumerate(q):
        nodes, weights = np.polynomial.legendre.leggauss(int(one * longest / 2 + 30))
        own = np.ascontiguousarray(amplitude[k : k + 1])
        pairs.append(_averaged(np.array([one]), atoms.xyz, tensors, own.real.copy(), own.imag.copy(), nodes,
                               weights, 16)[0])
    return (number * structure.occupancy) @ np.abs(f) ** 2 + np.array(pairs)


#: q (1/Å) of the comparison; at 0.8 the leading order alone is wrong by 2.5 %.
Q = np.array([0.5, 0.8, 1.3, 2.1, 3.4, 7.5, 12.0, 20.0])
#: Along and across the chains Pb-Br-Pb, and of Cs along the three axes; Å^2, about those at room temperature.
PB, BR_ALONG, BR_ACROSS, CS = 0.02, 0.026, 0.08, (0.075, 0.105, 0.09)


def bulk_like(structure, place, along):
    """The tensor of each atom of the cell list of CsPbBr3: uniaxial Br, Cs with the axes of the cell."""
    cell = structure.positions
    tensors = []
    for k in place:
        ion, site = structure.ions[structure.site[k]], structure.site[k]
        if ion == "Pb2+":
            tensors.append(PB * np.eye(3))
        elif ion == "Cs1+":
            tensors.append(np.diag(CS))
        elif site == 3:  # axial: along c
            tensors.append(BR_ACROSS * np.eye(3) + (BR_ALONG - BR_ACROSS) * np.diag([0, 0, 1.0]))
        else:
            n = along[k]
            tensors.append(BR_ACROSS * np.eye(3) + (BR_ALONG - BR_ACROSS) * np.outer(n, n))
        assert len(cell)
    return np.array(tensors)


def chains(structure):
    """The direction of the two nearest Pb of each equatorial Br of the cell list."""
    vectors = structure.vectors
    lead = structure.positions[[structure.ions[s] == "Pb2+" for s in structure.site]]
    shifts = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    found = {}
    for k, (x, site) in enumerate(zip(structure.positions, structure.site, strict=True)):
        if site == 2:
            d = (lead[:, None] + shifts - x).reshape(-1, 3) @ vectors
            nearest = d[np.argsort(np.linalg.norm(d, axis=1))[:2]]
            unit = nearest / np.linalg.norm(nearest, axis=1)[:, None]
            n = unit[0] - unit[1]
            found[k] = n / np.linalg.norm(n)
    return found


def models(crystal):
    """The same displacements for the engine."""
    from aiida_dse.engine.model.displacements import bond_direction

    u_cs = np.diag(CS)
    return {
        "Cs": Anisotropic.of(crystal, "Cs", u_cs),
        "Pb": Anisotropic.of(crystal, "Pb", PB * np.eye(3)),
        "Br_eq": Uniaxial(tuple(bond_direction(crystal, "Br_eq", "Pb")), BR_ALONG, BR_ACROSS),
        "Br_ax": Uniaxial((0.0, 0.0, 1.0), BR_ALONG, BR_ACROSS),
    }


@pytest.fixture(scope="module")
def bulk(dse, direct):
    structure, crystal = dse.structures["pbnm"], dse.crystals["pbnm"]
    along = chains(structure)
    return structure, models(crystal), lambda atoms: bulk_like(structure, atoms.place, along)


def test_a_crystal_with_bulk_like_displacements(dse, direct, bulk):
    structure, displacements, tensors = bulk
    atoms = direct.block(structure, 2, 2, 1)
    expected = exact(direct, atoms, tensors(atoms), Q, dse.wavelength)
    phase = dse.phase(dse.crystals["pbnm"], SingleParallelepiped((2, 2, 1)), displacements=displacements)
    found = dse.intensity(phase, Q, tolerance=1e-8)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_isotropic_tensors_are_b_iso(dse):
    """U = u 1 for all sites, of particles of whole cells and with a random centre."""
    crystal = dse.crystals["pbnm"]
    q = dse.uneven_q(200)
    tensors = {site.label: Anisotropic.of(crystal, site.label, site.b_iso / (8 * np.pi**2) * np.eye(3))
               for site in crystal.sites}
    population = ParallelepipedPopulation(), {
        "L_ab": 2.0, "sd_ab": 0.3, "L_c": 2.2, "sd_c": 0.4, "size_axes_rotation": 0.0}
    for family, sizes in ((SingleParallelepiped((3, 2, 2)), {}), population,
                          (RandomCentre(Ball()), {"D": 2.0, "sd_D": 0.3})):
        expected = dse.intensity(dse.phase(crystal, family, sizes), q, tolerance=1e-8)
        found = dse.intensity(dse.phase(crystal, family, sizes, displacements=tensors), q, tolerance=1e-8)
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_vectors_are_grouped_again_only_if_particles_outgrow_them(dse, bulk, monkeypatch):
    """Changing sizes reuse the groups of a larger box, and yield the same patterns."""
    from aiida_dse.engine.particles import directed_groups

    _, displacements, _ = bulk
    q = dse.uneven_q(40)
    monkeypatch.setattr(directed_groups, "_REACHES", {})
    grouped = []
    in_box = directed_groups._in_box
    monkeypatch.setattr(
        directed_groups, "_in_box", lambda crystal, reach: grouped.append(reach) or in_box(crystal, reach))

    def pattern(size):
        return dse.intensity(dse.phase(dse.crystals["pbnm"], ParallelepipedPopulation(), {
            "L_ab": size, "sd_ab": 0.3, "L_c": size, "sd_c": 0.3, "size_axes_rotation": 0.0},
            displacements=displacements), q, tolerance=1e-8)

    sizes = (2.0, 2.4, 2.45, 2.35, 2.3, 2.4, 2.1)
    found = [pattern(size) for size in sizes]
    assert len(grouped) <= 3, grouped
    for size, one in zip(sizes, found, strict=True):
        directed_groups._REACHES.clear()
        np.testing.assert_allclose(one, pattern(size), rtol=1e-11)


def test_one_anisotropic_site_among_isotropic_ones(dse, direct, bulk):
    structure, displacements, tensors = bulk
    atoms = direct.block(structure, 2, 1, 1)
    mixed = np.array([structure.b[s] / (8 * np.pi**2) * np.eye(3) for s in atoms.site])
    mixed[atoms.site == 2] = tensors(atoms)[atoms.site == 2]
    expected = exact(direct, atoms, mixed, Q, dse.wavelength)
    phase = dse.phase(dse.crystals["pbnm"], SingleParallelepiped((2, 1, 1)),
                      displacements={"Br_eq": displacements["Br_eq"]})
    np.testing.assert_allclose(dse.intensity(phase, Q, tolerance=1e-8), expected, rtol=1e-4)


def test_a_sphere_with_a_random_centre(dse, direct, bulk):
    """The mean over explicit spheres."""
    structure, displacements, tensors = bulk
    around = direct.sphere(structure, (0.5, 0.5, 0.5), 20.0)
    q = np.array([0.8, 2.1, 3.4, 7.5])
    patterns = []
    for centre in np.random.default_rng(8).uniform(size=(48, 3)):
        atoms = around.chosen(direct.distances_from(around, centre) <= 5.0)
        patterns.append(exact(direct, atoms, tensors(atoms), q, dse.wavelength))
    mean, error = np.mean(patterns, axis=0), np.std(patterns, axis=0, ddof=1) / np.sqrt(len(patterns))
    phase = dse.phase(dse.crystals["pbnm"], RandomCentre(Ball(), {"D": 1.0}), displacements=displacements)
    found = dse.intensity(phase, q)
    assert (np.abs(found - mean) < 3 * error).all(), (found - mean) / error


def test_another_setting_has_the_same_pattern(dse, bulk):
    """A rotation of cell, coordinates and tensors: Pnma in place of Pbnm (a b c -> c a b)."""
    _, displacements, _ = bulk
    old = dse.crystals["pbnm"]
    new = dse.crystal(
        "P n m a", (8.407, 11.756, 8.207),
        [("Cs", "Cs1+", (0.0225, 0.25, 0.4914), 1.0, 3.9), ("Pb", "Pb2+", (0, 0.5, 0), 1.0, 1.1),
         ("Br_eq", "Br1-", (0.2120, 0.486, 0.2908), 1.0, 2.3),
         ("Br_ax", "Br1-", (0.006, 0.75, 0.052), 0.9, 3.1)])
    turn = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=float)  # new axes x, y, z are old y, z, x
    turned = {label: Anisotropic.of(new, label, turn @ model.tensor(model.start, old.cell.matrix) @ turn.T)
              for label, model in displacements.items()}
    q = dse.uneven_q(100)
    expected = dse.intensity(dse.phase(old, SingleParallelepiped((2, 2, 2)), displacements=displacements), q,
                             tolerance=1e-8)
    found = dse.intensity(dse.phase(new, SingleParallelepiped((2, 2, 2)), displacements=turned), q, tolerance=1e-8)
    # other cells belong to a particle in the other setting only if the atoms of the cell differ
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "label", "names"), [
    ("pbnm", "Br_ax", ("U_11", "U_22", "U_33", "U_12")), ("pbnm", "Cs", ("U_11", "U_22", "U_33", "U_12")),
    ("pbnm", "Br_eq", ("U_11", "U_22", "U_33", "U_12", "U_13", "U_23")), ("rock_salt", "Pb", ("U_11",)),
    ("wurtzite", "Cd", ("U_11", "U_33")), ("split", "Cs", ("U_11",)),
    ("split", "Br", ("U_11", "U_22", "U_33")),
])
def test_site_symmetry_restricts_the_tensor(name, label, names, dse):
    """International Tables: mirrors, three-fold axes and cubic sites."""
    crystal = dse.crystals[name]
    model = Anisotropic.of(crystal, label, np.diag([0.01, 0.02, 0.03]))
    assert model.names == names
    values = dict(zip(names, np.random.default_rng(2).uniform(0.01, 0.05, len(names)), strict=True))
    tensor = model.tensor(values, crystal.cell.matrix)
    for op, _ in crystal.stabiliser(crystal.special_position(label)):
        turn = crystal.cell.matrix @ op.rotation @ np.linalg.inv(crystal.cell.matrix)
        np.testing.assert_allclose(turn @ tensor @ turn.T, tensor, atol=1e-12)


def test_u_of_hexagonal_crystals_follows_the_convention_of_cifs(dse):
    """gemmi's conversion of the same components."""
    import gemmi

    crystal = dse.crystals["wurtzite"]
    model = Anisotropic.of(crystal, "Cd", np.diag([0.01, 0.01, 0.02]))
    values = {"U_11": 0.013, "U_33": 0.021}
    components = np.array([values[name] for name in model.names]) @ np.array(model.basis)
    site = gemmi.SmallStructure.Site()
    site.aniso = gemmi.SMat33d(*components)
    cell = gemmi.UnitCell(*crystal.cell.parameters)
    # U_cart = M N U N M^T with M the orthogonalisation matrix
    n = np.diag([cell.reciprocal().a, cell.reciprocal().b, cell.reciprocal().c])
    m = np.array(cell.orth.mat.tolist())
    u = np.array(site.aniso.as_mat33().tolist())
    np.testing.assert_allclose(model.tensor(values, crystal.cell.matrix), m @ n @ u @ n @ m.T, atol=1e-15)
    assert components[3] == pytest.approx(components[0] / 2)  # U_12 = U_11 / 2 on a three-fold axis


@njit(parallel=True)
def _correlated(q, xyz, u, real, imaginary, delta_1, delta_2):
    """2 sum over pairs of Re(f f*) exp(-q^2 (u_i + u_j) (1 - delta_1/r - delta_2/r^2) / 2) sin(q r)/(q r)."""
    result = np.zeros(len(q))
    for k in prange(len(q)):
        for i in range(len(xyz)):
            for j in range(i):
                r = np.sqrt(np.sum((xyz[i] - xyz[j]) ** 2))
                damping = np.exp(-q[k] ** 2 / 2 * (u[i] + u[j]) * (1 - delta_1 / r - delta_2 / r**2))
                weight = real[k, i] * real[k, j] + imaginary[k, i] * imaginary[k, j]
                result[k] += 2 * weight * damping * np.sin(q[k] * r) / (q[k] * r)
    return result


@pytest.mark.parametrize(("name", "value"), [("delta_1", 1.5), ("delta_2", 4.0)])
def test_correlated_motion_with_isotropic_displacements(name, value, dse, direct):
    """Pair by pair; 4 Å^2 halves the displacement of nearest neighbours."""
    structure, crystal = dse.structures["pbnm"], dse.crystals["pbnm"]
    atoms = direct.block(structure, 3, 3, 2)
    q = dse.uneven_q(40)
    f = direct.form_factors(structure.ions, q, dse.wavelength)
    amplitude = (f * structure.occupancy[:, None])[atoms.site].T
    number = np.bincount(atoms.site)
    deltas = {"delta_1": 0.0, "delta_2": 0.0} | {name: value}
    expected = (number * structure.occupancy) @ np.abs(f) ** 2 + _correlated(
        q, atoms.xyz, structure.b[atoms.site] / (8 * np.pi**2), amplitude.real.copy(), amplitude.imag.copy(),
        deltas["delta_1"], deltas["delta_2"])
    phase = dse.phase(
        crystal, SingleParallelepiped((3, 3, 2)),
        displacements={site.label: Damped(site.b_iso) for site in crystal.sites},
        correlation=Correlation.of(name, value, 2.9))
    np.testing.assert_allclose(dse.intensity(phase, q, tolerance=1e-8), expected, rtol=1e-4)
    # without correlation, it is the phase with B_iso
    plain = dse.intensity(dse.phase(crystal, SingleParallelepiped((3, 3, 2))), q, tolerance=1e-8)
    without = dse.intensity(phase, q, tolerance=1e-8, **{name: 0.0})
    np.testing.assert_allclose(without, plain, rtol=1e-8)


def test_correlated_motion_scales_tensors(dse, direct, bulk):
    """Pairs whose tensor is half of that far away."""
    structure, displacements, tensors = bulk
    atoms = direct.block(structure, 1, 1, 1)
    q = Q[:7]
    f = direct.form_factors(structure.ions, q, dse.wavelength)
    number = np.bincount(atoms.site)
    expected = (number * structure.occupancy) @ np.abs(f) ** 2
    own = tensors(atoms)
    amplitude = (f * structure.occupancy[:, None])[atoms.site].T
    nodes, weights = np.polynomial.legendre.leggauss(120)
    for i in range(len(atoms)):
        for j in range(i):
            r = np.linalg.norm(atoms.xyz[i] - atoms.xyz[j])
            scale = 1 - 4.0 / r**2
            two = np.array([i, j])
            for k, one in enumerate(q):
                expected[k] += _averaged(
                    np.array([one]), atoms.xyz[two], scale * own[two], amplitude.real[k : k + 1, two].copy(),
                    amplitude.imag[k : k + 1, two].copy(), nodes, weights, 16)[0]
    phase = dse.phase(dse.crystals["pbnm"], SingleParallelepiped((1, 1, 1)), displacements=displacements,
                      correlation=Correlation.of("delta_2", 4.0, 2.9))
    np.testing.assert_allclose(dse.intensity(phase, q, tolerance=1e-8), expected, rtol=2e-4)
