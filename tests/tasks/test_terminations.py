"""Terminations of particles of whole cells: which differ, and which fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gemmi
import numpy as np
import pytest
from click.testing import CliRunner

from aiida_dse.cli.engine import main
from aiida_dse.documents.disorder import Displacement
from aiida_dse.documents.reading import load_document
from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.engine.crystal.terminations import canonical_forms, describe, neighbours, terminations
from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.particles.parallelepipeds import SingleParallelepiped
from aiida_dse.engine.scattering import debye
from aiida_dse.shapes import Parallelepiped
from aiida_dse.tasks.build import build
from aiida_dse.tasks.terminations import expected_chi2, termination_warnings, with_termination

EXAMPLE = Path(__file__).parents[2] / "examples" / "cspbbr3" / "refine.yaml"


def crystal(symbol, cell, sites, termination=(0.0, 0.0, 0.0)):
    operations = tuple(op.triplet() for op in gemmi.SpaceGroup(symbol).operations())
    return Crystal(Cell(*cell), operations, tuple(Site(*site) for site in sites), symbol,
                   space_group=symbol, termination=termination)


ROCK_SALT = crystal("F m -3 m", (5.64, 5.64, 5.64), [
    ("Na", "Na1+", (0, 0, 0), 1.0, 1.0), ("Cl", "Cl1-", (0.5, 0.5, 0.5), 1.0, 1.0)])
PEROVSKITE = crystal("P m -3 m", (5.87, 5.87, 5.87), [
    ("Cs", "Cs1+", (0.5, 0.5, 0.5), 1.0, 1.0), ("Pb", "Pb2+", (0, 0, 0), 1.0, 1.0),
    ("Br", "Br1-", (0.5, 0, 0), 1.0, 1.0)])
POLAR = crystal("P 4 m m", (3.99, 3.99, 4.03), [
    ("Ba", "Ba2+", (0, 0, 0.02), 1.0, 1.0), ("Ti", "Ti4+", (0.5, 0.5, 0.51), 1.0, 1.0),
    ("O1", "O2-", (0.5, 0.5, 0.97), 1.0, 1.0), ("O2", "O2-", (0.5, 0, 0.48), 1.0, 1.0)])
ORTHORHOMBIC = crystal("P b n m", (8.207, 8.407, 11.756), [
    ("Cs", "Cs1+", (0.4914, 0.0225, 0.25), 1.0, 3.9), ("Pb", "Pb2+", (0, 0, 0.5), 1.0, 1.1),
    ("Br_eq", "Br1-", (0.2908, 0.2120, 0.486), 1.0, 2.3),
    ("Br_ax", "Br1-", (0.052, 0.006, 0.75), 1.0, 3.1)])


def pattern(structure, corner, cells=(2, 2, 1)):
    q = np.linspace(0.3, 6.0, 60)
    phase = CrystalPhase(
        "P", replace(structure, termination=corner), SingleParallelepiped(cells), {})
    sampling, values = Sampling(q, 0.7, tolerance=1e-7), phase.start
    state = phase.state(values, sampling)
    return debye.debye_intensity(state.sums, phase.pair_factors(sampling), state.atoms,
                                 *phase.occupancy_and_b(values), q)


def test_symmetric_structures_have_few_terminations():
    """Rock salt and the cubic perovskite: by mirror planes, either layer may come first."""
    assert len(terminations(ROCK_SALT)) == len(terminations(PEROVSKITE)) == 1
    assert not neighbours(PEROVSKITE)
    only = terminations(PEROVSKITE)[0]
    assert only.faces == (("PbBr2", "CsBr"),) * 3
    assert only.charge == only.dipole == 0  # Cs at the centre balances three Br


@pytest.mark.parametrize("structure", [POLAR, ORTHORHOMBIC], ids=["polar", "orthorhombic"])
def test_terminations_are_equivalent_if_and_only_if_their_patterns_agree(structure):
    corners = [one.corner for one in terminations(structure)]
    random = np.random.default_rng(1)
    tried = [corners[k] for k in random.choice(len(corners), min(10, len(corners)), replace=False)]
    tried += [tuple(random.uniform(0, 1, 3)) for _ in range(12)]
    positions = structure.positions()
    inside = positions - np.floor(positions + 1e-6)
    forms = canonical_forms(structure, inside, np.array(tried))
    patterns = [pattern(structure, corner) for corner in tried]
    pairs = [(i, j) for i in range(len(tried)) for j in range(i)]
    assert any(forms[i] == forms[j] for i, j in pairs) or structure is ORTHORHOMBIC
    for i, j in pairs:
        apart = np.abs(patterns[i] / patterns[j] - 1).max()
        assert (apart < 1e-6) == (forms[i] == forms[j]), (tried[i], tried[j], apart)
    # every box is one of the list
    listed = set(canonical_forms(structure, inside, np.array(corners)))
    assert len(listed) == len(corners) and set(forms) <= listed


def test_the_number_of_terminations_of_orthorhombic_perovskite():
    """14 x 14 x 8 intervals between planes of atoms, eight of which are equivalent by symmetry."""
    assert len(terminations(ORTHORHOMBIC)) == 14 * 14 * 8 / 8


def test_faces_and_dipole_of_a_polar_structure():
    found = describe(POLAR, (0.0, 0.0, 0.1))
    assert found.faces[2] == ("TiO2", "BaO")
    # charges times z c by hand: Ti 0.51, O2 twice 0.48, O1 0.97, Ba 1.02, and x, y of the corner box
    z = 4.03 * (4 * 0.51 - 2 * 2 * 0.48 - 2 * 0.97 + 2 * 1.02)
    x = y = 3.99 * (4 * 0.5 - 2 * 0.5 - 2 * 0.5)
    assert found.dipole == pytest.approx(np.sqrt(x**2 + y**2 + z**2))


@pytest.fixture(scope="module")
def refined():
    """The model of the example, and its refinement."""
    built = build(load_document(EXAMPLE), EXAMPLE.parent)
    return built, refine(built.model, built.stages)


def test_the_example_has_the_termination_that_fits_best(refined):
    """DebUsSy's pattern: chi2 is 131 lower than with another choice, and no warning remains."""
    built, found = refined
    assert termination_warnings(built, found) == []
    document = load_document(EXAMPLE)
    phase = document.phases["CsPbBr3"].model_copy(update={"termination": (0.0, 0.0, 0.005)})
    other = build(document.model_copy(update={"phases": {"CsPbBr3": phase}}), EXAMPLE.parent)
    worse = refine(other.model, other.stages, start=found.values)
    assert worse.agreement.chi2 - found.agreement.chi2 == pytest.approx(131, abs=3)
    (warning,) = termination_warnings(other, worse)
    assert "fit better than those with [0, 0, 0.005]" in warning
    assert "chi2 decreases by 131" in warning


def test_the_command_lists_terminations_without_a_pattern(tmp_path):
    text = EXAMPLE.read_text().replace("  file: size_05nm.xye\n", "").replace(
        "  sigma: column\n", "  grid: {start: 5, stop: 60, step: 0.1}\n")
    text = text[:text.index("refinement:")] + text[text.index("derived:"):]
    (tmp_path / "CsPbBr3.cif").write_text((EXAMPLE.parent / "CsPbBr3.cif").read_text())
    (tmp_path / "model.yaml").write_text(text)
    outcome = CliRunner().invoke(main, ["terminations", str(tmp_path / "model.yaml")])
    assert outcome.exit_code == 0, outcome.output
    assert "196 terminations that differ by symmetry" in outcome.output
    assert "[0, 0.5, 0.5]" in outcome.output.splitlines()[2]


def test_spheres_have_no_terminations(tmp_path):
    text = EXAMPLE.read_text().replace("shape: parallelepiped", "shape: sphere")
    text = text.replace("L_ab: {mean: 7.0, sd: 1.0}", "D: {mean: 3.0, sd: 0.3}")
    text = text.replace("      L_c: {mean: 7.0, sd: 1.0}\n", "")
    text = text[:text.index("refinement:")]
    for name in ("CsPbBr3.cif", "size_05nm.xye"):
        (tmp_path / name).write_bytes((EXAMPLE.parent / name).read_bytes())
    (tmp_path / "model.yaml").write_text(text)
    outcome = CliRunner().invoke(main, ["terminations", str(tmp_path / "model.yaml")])
    assert outcome.exit_code == 2 and "no phase consists of whole cells" in outcome.output


def test_terminations_of_particles_with_anisotropic_displacements():
    """The change of chi2 is computed with isotropic displacements; it agrees with that of the full model."""
    document = load_document(EXAMPLE)
    phase = document.phases["CsPbBr3"]
    phase = phase.model_copy(update={
        "displacements": {"Br_ax": Displacement(model="uniaxial", along="Pb", parallel=0.03, perpendicular=0.045)},
        "particle": Parallelepiped(shape="parallelepiped", cells=(5, 5, 4))})
    model = build(document.model_copy(update={"phases": {"CsPbBr3": phase}, "refinement": None}), EXAMPLE.parent).model
    found = SimpleNamespace(values=model.start, evaluation=model.evaluate(model.start))
    none = np.zeros((len(model.sampling.q), 0))
    own = float(found.evaluation.linear.residual @ found.evaluation.linear.residual)
    corners = neighbours(model.phases[0].crystal)
    assert len(corners) > 4
    changes = []
    for corner in corners[::3]:
        other = with_termination(model, model.phases[0], corner).evaluate(model.start).linear.residual
        changes.append((expected_chi2(model, found, none, model.phases[0], corner) - own, float(other @ other) - own))
    approximate, exact = np.array(changes).T
    np.testing.assert_allclose(approximate, exact, atol=0.03 * np.abs(exact).max())
    assert np.abs(exact).max() > 1000
