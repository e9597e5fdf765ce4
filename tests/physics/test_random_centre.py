"""Particles with a random centre: the mean over explicit particles whose centre is drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy.stats import qmc

from aiida_dse.shapes import SHAPES


def unit(vector):
    vector = np.asarray(vector, dtype=float)
    return vector / np.linalg.norm(vector)


def crystal_frame(vectors, first, second):
    """Three perpendicular unit vectors as rows, from two lattice directions; vectors: rows a, b, c in Å."""
    one, other = unit(np.array(first) @ vectors), np.array(second) @ vectors
    two = unit(other - (other @ one) * one)
    return np.array([one, two, np.cross(one, two)])


def ball(x, vectors):
    return np.linalg.norm(x, axis=1) <= 6.0


def ellipsoid(x, vectors):
    axes = crystal_frame(vectors, (1, 1, 0), (0, 0, 1))
    return np.linalg.norm(x @ axes.T / np.array([5.0, 5.0 * 1.3, 5.0 * 0.8]), axis=1) <= 1


def cylinder(x, vectors):
    axis = unit(vectors[2])
    along = x @ axis
    return (np.abs(along) <= 4.5) & (np.linalg.norm(x - along[:, None] * axis, axis=1) <= 5.5)


def box(x, vectors):
    """Along the pseudo-cubic axes, which are not perpendicular to each other here."""
    axes = np.array([unit(vectors[0] + vectors[1]), unit(vectors[1] - vectors[0]), unit(vectors[2])])
    return (np.abs(np.linalg.solve(axes.T, x.T)) <= np.array([[5.0], [5.0], [4.0]])).all(axis=0)


def octahedron(x, vectors):
    axes = crystal_frame(vectors, (1, 0, 0), (0, 1, 0))
    return np.abs(x @ axes.T).sum(axis=1) <= 12.0 / np.sqrt(2)  # half the distance of opposite corners


def tetrahedron(x, vectors):
    axes = crystal_frame(vectors, (1, 0, 0), (0, 1, 0))
    corners = 16.0 / np.sqrt(8) * np.array([(1, 1, -1), (1, -1, 1), (-1, 1, 1), (-1, -1, -1)]) @ axes
    # barycentric coordinates
    share = np.linalg.solve(np.vstack([corners.T, np.ones(4)]), np.vstack([x.T, np.ones(len(x))]))
    return (share >= 0).all(axis=0)


def truncated_cube(x, vectors):
    axes = crystal_frame(vectors, (1, 0, 0), (0, 1, 0))
    inside = np.abs(x @ axes.T)
    return (inside <= 4.5).all(axis=1) & (inside.sum(axis=1) <= 3 * 4.5 - 0.3 * 9.0)


def hexagonal_prism(x, vectors):
    axis, corner, across = crystal_frame(vectors, (0, 0, 1), (1, 0, 0))
    one, two = np.abs(x @ corner), np.abs(x @ across)
    height = 6.0 * np.sqrt(3) / 2
    return (np.abs(x @ axis) <= 5.0) & (two <= height) & (two <= np.sqrt(3) * (6.0 - one))


def wulff(x, vectors):
    """{111} and {100} of a cubic crystal at distances 1 and 1.1, of the volume of a sphere of 1.3 nm."""
    # an octahedron |x| + |y| + |z| <= sqrt(3) h with its corners cut at 1.1 h
    h = 1.0
    whole = 4 / 3 * (np.sqrt(3) * h) ** 3
    corner = 2 / 3 * (np.sqrt(3) * h - 1.1 * h) ** 3
    scale = (np.pi / 6 * 13.0**3 / (whole - 6 * corner)) ** (1 / 3)
    inside = np.abs(x)
    return (inside.sum(axis=1) <= np.sqrt(3) * scale) & (inside <= 1.1 * scale).all(axis=1)


PSEUDO_CUBIC = [[1, 1, 0], [-1, 1, 0], [0, 0, 1]]
#: By name: the section, the body as a function of points (Å) around its centre, its crystal.
BODIES = {
    "sphere": ({"shape": "sphere", "D": 1.2}, ball, "pbnm"),
    "sphere of wurtzite": ({"shape": "sphere", "D": 1.2}, ball, "wurtzite"),
    "sphere of a triclinic crystal": ({"shape": "sphere", "D": 1.2}, ball, "triclinic"),
    "ellipsoid": ({"shape": "ellipsoid", "D": 1.0, "aspect_2": 1.3, "aspect_3": 0.8,
                   "axes": [[1, 1, 0], [0, 0, 1]]}, ellipsoid, "pbnm"),
    "cylinder": ({"shape": "cylinder", "D": 1.1, "H": 0.9}, cylinder, "wurtzite"),
    "box": ({"shape": "box", "L_12": 1.0, "L_3": 0.8, "axes": PSEUDO_CUBIC}, box, "pbnm"),
    "box of three edges": ({"shape": "box", "L_1": 1.0, "L_2": 1.0, "L_3": 0.8, "axes": PSEUDO_CUBIC}, box,
                           "pbnm"),
    "octahedron": ({"shape": "octahedron", "L_edge": 1.2}, octahedron, "rock_salt"),
    "tetrahedron": ({"shape": "tetrahedron", "L_edge": 1.6}, tetrahedron, "pbnm"),
    "truncated cube": ({"shape": "truncated_cube", "L_edge": 0.9, "truncation": 0.3}, truncated_cube, "rock_salt"),
    "hexagonal prism": ({"shape": "hexagonal_prism", "L_edge": 0.6, "H": 1.0}, hexagonal_prism, "wurtzite"),
    "polyhedron": ({"shape": "polyhedron", "D": 1.3, "forms": [
        {"hkl": [1, 1, 1], "distance": 1.0}, {"hkl": [1, 0, 0], "distance": 1.1}]}, wulff, "rock_salt"),
}
#: Number of random centres.
CENTRES = 512


def section(content):
    return TypeAdapter(SHAPES[content["shape"]]).validate_python(content)


def phase_of(dse, content, name):
    shape = section(content)
    crystal = dse.crystals[name]
    return dse.phase(crystal, shape.family(crystal), shape.start())


@pytest.mark.parametrize("name", BODIES)
def test_the_mean_over_particles_with_random_centres(name, dse, direct):
    content, inside, crystal = BODIES[name]
    structure = dse.structures[crystal]
    q = dse.uneven_q(14, low=0.5)
    around = direct.sphere(structure, (0.5, 0.5, 0.5), 13.0 + 12.0)
    centres = qmc.Sobol(3, seed=5).random(CENTRES)
    patterns, numbers = [], []
    for centre in centres:
        chosen = around.chosen(inside(around.xyz - centre @ structure.vectors, structure.vectors))
        patterns.append(direct.intensity(chosen, q, dse.wavelength))
        numbers.append(len(chosen))
    mean, error = np.mean(patterns, axis=0), np.std(patterns, axis=0, ddof=1) / np.sqrt(CENTRES)
    phase = phase_of(dse, content, crystal)
    found = dse.intensity(phase, q)
    pulls = (found - mean) / error
    # the errors are those of independent centres; all q share the fluctuation of the number of atoms
    assert np.abs(pulls).max() < 3, pulls
    counts = phase.family.pair_counts(dse.crystals[crystal], phase.sizes)
    assert counts.atoms.sum() == pytest.approx(np.mean(numbers), abs=3 * np.std(numbers) / np.sqrt(CENTRES))


#: A population of each shape: the section and the names of its size parameters.
POPULATIONS = {
    "sphere": {"shape": "sphere", "D": {"mean": 1.5, "sd": 0.25}},
    "ellipsoid": {"shape": "ellipsoid", "D": {"mean": 1.5, "sd": 0.25}, "aspect_3": 1.4},
    "cylinder, diameters": {"shape": "cylinder", "D": {"mean": 1.2, "sd": 0.2}, "H": 1.1},
    "cylinder, heights": {"shape": "cylinder", "D": 1.2, "H": {"mean": 1.6, "sd": 0.3}},
    "box, bases": {"shape": "box", "L_12": {"mean": 1.2, "sd": 0.2}, "L_3": 0.9},
    "box, heights": {"shape": "box", "L_12": 1.1, "L_3": {"mean": 1.0, "sd": 0.15}},
    "octahedron": {"shape": "octahedron", "L_edge": {"mean": 1.5, "sd": 0.15}},
    "truncated cube": {"shape": "truncated_cube", "L_edge": {"mean": 0.9, "sd": 0.08}, "truncation": 0.2},
    "hexagonal prism": {"shape": "hexagonal_prism", "L_edge": {"mean": 0.8, "sd": 0.1}, "H": 1.2},
}


def density(length, mean, sd):
    """PHYSICS.md section 3, not normalised."""
    width = np.sqrt(np.log1p((sd / mean) ** 2))
    return np.exp(-(np.log(length / mean) + width**2 / 2) ** 2 / (2 * width**2)) / length


@pytest.mark.parametrize("name", POPULATIONS)
def test_a_population_is_the_mean_over_its_sizes(name, dse):
    """Single sizes on a grid up to the end of the distribution; the test above checks single sizes."""
    content = POPULATIONS[name]
    q = dse.uneven_q(40, low=0.5)
    phase = phase_of(dse, content, "rock_salt")
    found = dse.intensity(phase, q)
    (key, law), = ((key, value) for key, value in content.items() if isinstance(value, dict))
    end = phase.family.lengths(dse.crystals["rock_salt"], phase.sizes)[key].end
    low = law["mean"] - 4 * law["sd"]
    nodes, weights = np.polynomial.legendre.leggauss(90)
    sizes = low + (end - low) * (nodes + 1) / 2
    weights = weights * density(sizes, **law)
    expected = sum(weight / weights.sum() * dse.intensity(
        phase_of(dse, content | {key: float(size)}, "rock_salt"), q) for size, weight in zip(
            sizes, weights, strict=True))
    assert dse.worst(found, expected) < 2e-4


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_pattern_is_smooth_in_every_size(name, dse):
    """Differences with two steps agree, so the derivative is that of the pattern and not of a grid."""
    content = POPULATIONS[name]
    phase = phase_of(dse, content, "rock_salt")
    q = dse.uneven_q(30, low=0.5)
    for parameter, value in phase.sizes.items():
        one, two = (
            (dse.intensity(phase, q, tolerance=1e-8, **{parameter: value + step})
             - dse.intensity(phase, q, tolerance=1e-8, **{parameter: value - step})) / (2 * step)
            for step in (1e-3, 1e-4))
        assert np.abs(one - two).max() < 2e-4 * np.abs(two).max(), parameter


def test_a_box_of_whole_cells_has_the_pairs_of_the_parallelepiped(dse):
    """Of equal basis atoms at every lattice vector: (N_a - |u|)(N_b - |v|)(N_c - |w|)."""
    crystal = dse.crystals["pbnm"]
    cell = crystal.cell
    content = {"shape": "box", "L_1": 0.3 * cell.a, "L_2": 0.2 * cell.b, "L_3": 0.2 * cell.c}
    counts = phase_of(dse, content, "pbnm").family.pair_counts(crystal, {})
    groups = counts.groups
    same = groups.first == groups.second
    u, v, w = np.abs(groups.cell[same]).T
    expected = np.maximum(0, 3 - u) * np.maximum(0, 2 - v) * np.maximum(0, 2 - w)
    np.testing.assert_allclose(counts.tables[same] / groups.number[same], expected, atol=1e-9)
    np.testing.assert_allclose(counts.atoms, 12.0)


def test_the_covariogram_of_a_tetrahedron_along_its_edge(dse):
    from aiida_dse.engine.particles.covariograms import rays
    from aiida_dse.engine.particles.size_distributions import OneLength
    from aiida_dse.engine.resources import ONE_THREAD

    body = section({"shape": "tetrahedron", "L_edge": 1.0}).family(dse.crystals["rock_salt"]).body
    edge = np.array([0.0, 1.0, 1.0]) / np.sqrt(2)
    shifts = np.array([0.05, 0.3, 0.7, 0.99])
    found = rays(body.polyhedron, np.tile(edge, (4, 1)), ONE_THREAD).mean_overlap(shifts, OneLength(1.0))
    np.testing.assert_allclose(found / body.polyhedron.volume, (1 - shifts) ** 3, atol=1e-12)


@pytest.mark.parametrize("name", BODIES)
def test_the_measures_of_a_body(name, dse):
    """Volume and surface from the derivative of the overlap: V gamma(r) = V - S r / 4 on average."""
    content, _, crystal = BODIES[name]
    phase = phase_of(dse, content, crystal)
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    family = phase.family
    others = {key: phase.sizes[key] for key in family.body.parameters}
    lengths = family.lengths(dse.crystals[crystal], phase.sizes)
    from aiida_dse.engine.resources import ONE_THREAD

    step = 1e-4
    near = family.body.overlap(directions * step, others, ONE_THREAD).mean(lengths)
    volume = family.body.volume(lengths, others)
    found = family.statistics(dse.crystals[crystal], phase.sizes)
    assert found["edge"] ** 3 == pytest.approx(volume, rel=1e-9)
    surface = 4 * (volume - near.mean()) / step
    assert found["surface_to_volume"] == pytest.approx(surface / volume, rel=0.02)


def zinc_blende(direct, dse, a=5.9):
    """CdSe and ZnS on the same positions: the structure of the reference, and the crystal of the engine."""
    face = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    quarter = [(x + 0.25, y + 0.25, z + 0.25) for x, y, z in face]
    structure = direct.Structure.of((a, a, a), [
        ("Cd2+", 1.0, 1.0, face), ("Zn2+", 1.0, 1.3, face), ("Se", 1.0, 0.8, quarter), ("S", 1.0, 1.1, quarter)])
    crystal = dse.crystal("F -4 3 m", (a, a, a), [
        ("Cd", "Cd2+", (0, 0, 0), 0.5, 1.0), ("Zn", "Zn2+", (0, 0, 0), 0.5, 1.3),
        ("Se", "Se", (0.25, 0.25, 0.25), 0.5, 0.8), ("S", "S", (0.25, 0.25, 0.25), 0.5, 1.1)])
    return structure, crystal


CORE_SHELL = {"shape": "core_shell", "D": 1.5, "core": {"Cd": 1, "Zn": 0, "Se": 1, "S": 0},
              "layers": [{"thickness": 0.25, "occupancy": {"Cd": 0, "Zn": 1, "Se": 0, "S": 0.6}}]}


def test_core_and_shell_with_random_centres(dse, direct):
    """CdSe in ZnS with 40 % of the S at the surface vacant: the mean over explicit particles."""
    structure, crystal = zinc_blende(direct, dse)
    q = dse.uneven_q(14, low=0.5)
    around = direct.sphere(structure, (0.5, 0.5, 0.5), 13.0)
    rng = np.random.default_rng(5)
    patterns, numbers = [], []
    for centre in qmc.Sobol(3, seed=5).random(1024):
        r = direct.distances_from(around, centre)
        core = r <= 5.0
        inside = np.where(np.isin(around.site, (0, 2)), core, ~core & (r <= 7.5))
        inside &= (around.site != 3) | (rng.uniform(size=len(r)) < 0.6)
        atoms = around.chosen(inside)
        patterns.append(direct.intensity(atoms, q, dse.wavelength))
        numbers.append(np.bincount(atoms.site, minlength=4))
    mean, error = np.mean(patterns, axis=0), np.std(patterns, axis=0, ddof=1) / np.sqrt(len(patterns))
    shape = section(CORE_SHELL)
    phase = dse.phase(crystal, shape.family(crystal), shape.start())
    found = dse.intensity(phase, q)
    assert np.abs((found - mean) / error).max() < 3
    counts = phase.family.pair_counts(crystal, phase.sizes)
    per_site = np.bincount(crystal.site_of_atom, weights=counts.atoms * 0.5)
    np.testing.assert_allclose(per_site, np.mean(numbers, axis=0),
                               atol=3 * np.max(np.std(numbers, axis=0)) / np.sqrt(len(numbers)))


def test_layers_with_the_occupancies_of_the_structure_are_the_sphere(dse):
    crystal = dse.crystals["pbnm"]
    q = dse.uneven_q(60)
    for size in (1.8, {"mean": 1.8, "sd": 0.3}):
        expected = dse.intensity(phase_of(dse, {"shape": "sphere", "D": size}, "pbnm"), q)
        content = {"shape": "core_shell", "D": size, "layers": [{"thickness": 0.2}, {"thickness": 0.3}]}
        shape = section(content)
        phase = dse.phase(crystal, shape.family(crystal), shape.start())
        np.testing.assert_allclose(dse.intensity(phase, q), expected, rtol=2e-5)
        assert phase.family.statistics(crystal, phase.sizes)["core_diameter"] == pytest.approx(
            phase.family.statistics(crystal, phase.sizes).get("mean_D", 1.8) - 1.0)


def test_a_population_of_cores_and_shells(dse, direct):
    """The mean over single sizes."""
    _, crystal = zinc_blende(direct, dse)
    content = CORE_SHELL | {"D": {"mean": 2.0, "sd": 0.3}}
    q = dse.uneven_q(40, low=0.5)
    shape = section(content)
    phase = dse.phase(crystal, shape.family(crystal), shape.start())
    end = phase.family.lengths(crystal, phase.sizes)["D"].end
    nodes, weights = np.polynomial.legendre.leggauss(120)
    sizes = 0.9 + (end - 0.9) * (nodes + 1) / 2
    weights = weights * density(sizes, 2.0, 0.3)
    expected = np.zeros(len(q))
    for size, weight in zip(sizes, weights / weights.sum(), strict=True):
        one = section(CORE_SHELL | {"D": float(size)})
        expected += weight * dse.intensity(dse.phase(crystal, one.family(crystal), one.start()), q)
    assert dse.worst(dse.intensity(phase, q), expected) < 3e-4


#: Shapes of a cubic crystal.
SCALED = POPULATIONS | {
    "core and shell": CORE_SHELL | {"D": {"mean": 2.0, "sd": 0.3}},
    "polyhedron": {"shape": "polyhedron", "D": {"mean": 1.5, "sd": 0.2}, "forms": [
        {"hkl": [1, 1, 1], "distance": 1.0}, {"hkl": [1, 0, 0], "distance": 1.1}]},
}


@pytest.mark.parametrize("name", SCALED)
def test_a_changed_cell_is_another_crystal(name, dse, direct):
    """The sizes are in nm, whether the cell is that of the structure or is refined."""
    made = (lambda a: zinc_blende(direct, dse, a)[1]) if name == "core and shell" else (lambda a: dse.crystal(
        "F m -3 m", (a, a, a), [("Pb", "Pb2+", (0, 0, 0), 1.0, 1.3), ("S", "S", (0.5, 0.5, 0.5), 1.0, 0.9)]))
    shape, q = section(SCALED[name]), dse.uneven_q(40, low=0.5)

    def phase(crystal):
        return dse.phase(crystal, shape.family(crystal), shape.start())

    found = dse.intensity(phase(made(5.9)), q, tolerance=1e-8, a=6.0)
    expected = dse.intensity(phase(made(6.0)), q, tolerance=1e-8)
    assert dse.worst(found, expected) < 1e-6


@pytest.mark.parametrize("content", [
    {"shape": "truncated_cube", "truncation": 0.2}, {"shape": "hexagonal_prism", "H": 1.2}, CORE_SHELL],
    ids=lambda content: content["shape"])
def test_narrow_populations(content, dse, direct):
    crystal = zinc_blende(direct, dse)[1] if content["shape"] == "core_shell" else dse.crystals["rock_salt"]
    key = "D" if content["shape"] == "core_shell" else "L_edge"
    mean, sd = 1.5, 0.012
    q = dse.uneven_q(30, low=0.5)

    def pattern(size):
        shape = section(content | {key: size})
        return dse.intensity(dse.phase(crystal, shape.family(crystal), shape.start()), q)

    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    width = np.sqrt(np.log1p((sd / mean) ** 2))
    expected = sum(weight / weights.sum() * pattern(float(mean * np.exp(width * node - width**2 / 2)))
                   for node, weight in zip(nodes, weights, strict=True))
    assert dse.worst(pattern({"mean": mean, "sd": sd}), expected) < 2e-4


@pytest.mark.parametrize("content", [
    {"shape": "sphere"}, {"shape": "ellipsoid", "aspect_2": 1.2}, {"shape": "cylinder", "H": 4.0}],
    ids=lambda content: content["shape"])
def test_a_population_beyond_the_largest_size_is_refused(content, dse):
    """No number may be undefined, since the histograms are filled without a check of their bounds."""
    phase = phase_of(dse, content | {"D": {"mean": 4, "sd": 0.3}, "largest": 6}, "rock_salt")
    q = dse.uneven_q(30, low=0.5)
    for mean, sd in ((9, 0.08), (8, 0.05), (12, 0.1)):
        with pytest.raises(ValueError, match="is smaller than the largest size of the model, 6 nm"):
            dse.intensity(phase, q, D=mean, sd_D=sd)
    assert np.isfinite(dse.intensity(phase, q, D=6.3, sd_D=0.1)).all()


@pytest.mark.parametrize("aspect", [0.3, 0.06, 0.02])
def test_the_symmetry_of_a_flat_body_is_recognised(aspect, dse):
    content = {"shape": "ellipsoid", "D": 3.0, "aspect_2": aspect, "aspect_3": 1.0}
    crystal = dse.crystals["rock_salt"]
    shape = section(content)
    family = shape.family(crystal)
    kept = family._common_symmetry(crystal, {"aspect_2": aspect, "aspect_3": 1.0})
    assert len(kept) == len(crystal.symmetry) // 3  # one of the three axes is the short one
    single = dse.crystal("P 1", (5.936, 5.936, 5.936), [
        (f"{ion[:1]}{k}", ion, tuple((np.array(x) + shift) % 1), 1.0, b) for ion, shift, b in (
            ("Pb2+", 0, 1.3), ("S", 0.5, 0.9)) for k, x in enumerate(
                [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)])])
    q = dse.uneven_q(30, low=0.5)
    found, expected = (dse.intensity(dse.phase(one, shape.family(one), shape.start()), q)
                       for one in (crystal, single))
    assert dse.worst(found, expected) < 2e-4


@pytest.mark.parametrize(("content", "changes", "words"), [
    ({"shape": "ellipsoid", "D": 8.0}, {"aspect_2": 30.0}, "Lower the size or the ratio"),
    (CORE_SHELL | {"D": 3.0}, {"thickness_1": 1.5}, "1.5 nm, must be below the mean outer radius, 1.5 nm"),
], ids=["needle", "no core"])
def test_impossible_bodies_are_refused(content, changes, words, dse, direct):
    crystal = zinc_blende(direct, dse)[1] if "core" in content else dse.crystals["pbnm"]
    shape = section(content)
    phase = dse.phase(crystal, shape.family(crystal), shape.start())
    with pytest.raises(ValueError, match=words):
        dse.intensity(phase, dse.uneven_q(20, low=0.5), **changes)
    with pytest.raises(ValueError, match=words):
        phase.require_possible(dse.values(phase, **changes))
