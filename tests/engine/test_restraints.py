"""Restraints pull by what they are worth, join the s.u., and leave the GoF alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.maps.axes import Axis
from aiida_dse.engine.maps.scan import scan
from aiida_dse.engine.model.quantities import crystal_quantities, evaluated
from aiida_dse.engine.model.restraints import (
    Restraint,
    angle_restraints,
    distance_restraints,
    parameter_restraint,
)


@pytest.fixture(scope="module")
def model(small, q):
    """CsCl made with B(Cs) = 1, started near it."""
    data = small.counts(small.cscl_intensity(q, 3), peak=1e5, background=100 + 0 * q, seed=3)
    return small.model(q, *data, [small.phase(small.cscl(a=4.11, b=(1.3, 1.8)))],
                       background=small.background(2))


@pytest.fixture(scope="module")
def free_fit(model):
    return refine(model, [["P.a", "P.Cs.B_iso"]])


def test_a_prior_adds_its_information(model, free_fit):
    """For a Gaussian prior, the optimum and its variance follow from the free fit's."""
    names = ["P.a", "P.Cs.B_iso"]
    own = free_fit.covariance.block(names)
    sigma = float(np.sqrt(own[1, 1]))
    target = free_fit.values["P.Cs.B_iso"] + 3 * sigma
    found = refine(model, [["P.a", "P.Cs.B_iso"]],
                   restraints=[parameter_restraint(model, "P.Cs.B_iso", target, sigma)])
    assert found.values["P.Cs.B_iso"] == pytest.approx(target - 1.5 * sigma, abs=0.03 * sigma)
    gain = own[:, 1] / (own[1, 1] + sigma**2)
    expected = own - np.outer(gain, own[1])
    np.testing.assert_allclose(found.covariance.block(names), expected, rtol=2e-2, atol=1e-3 * own.max())


def test_the_figures_of_merit_count_the_pattern_only(model, free_fit):
    strict = parameter_restraint(model, "P.Cs.B_iso", 3.0, 1e-3)
    found = refine(model, [["P.a", "P.Cs.B_iso"]], restraints=[strict])
    assert found.values["P.Cs.B_iso"] == pytest.approx(3.0, abs=0.01)
    assert found.agreement.n_points == free_fit.agreement.n_points
    assert found.agreement.chi2 > free_fit.agreement.chi2
    assert found.agreement.chi2 == pytest.approx(
        model.evaluate(found.values).chi2, rel=1e-9)


def test_a_strict_distance_sets_the_cell(model):
    phase = model.phases[0]
    wanted = distance_restraints(model, phase, ("Cs", "Cl"), 3.6, 1e-5)
    assert [r.name for r in wanted] == ["P d(Cs-Cl)_1"]
    found = refine(model, [["P.a"]], restraints=wanted)
    assert found.values["P.a"] == pytest.approx(2 * 3.6 / np.sqrt(3), abs=2e-4)


def test_values_of_distances_and_angles(small, q):
    model = small.model(q, 100 + 0 * q, 1 + 0 * q, [small.phase(small.pbnm())])
    phase = model.phases[0]
    first, second = distance_restraints(model, phase, ("Pb", "Br_eq"), 3.0, 0.1)
    assert first.value(model.start) == pytest.approx(2.973, abs=1e-3)  # the paper's distances
    assert second.value(model.start) == pytest.approx(2.983, abs=1e-3)
    [bend] = angle_restraints(model, phase, ("Pb", "Br_eq", "Pb"), 160, 1)
    assert bend.value(model.start) == pytest.approx(161.0, abs=0.05)
    assert bend.deviation(model.start) == pytest.approx(1.0, abs=0.05)


def test_every_symmetry_independent_bond_and_angle_is_restrained_once(small, q):
    """At a symmetric start too, where two bonds have one length."""
    crystal = small.pbnm(cell=(8.3, 8.3, 11.7))
    crystal = replace(crystal, sites=tuple(
        replace(site, position=(0.25, 0.25, 0.5)) if site.label == "Br_eq" else site
        for site in crystal.sites))
    model = small.model(q, 100 + 0 * q, 1 + 0 * q, [small.phase(crystal)])
    phase = model.phases[0]
    first, second = distance_restraints(model, phase, ("Pb", "Br_eq"), 3.0, 0.1)
    assert first.value(model.start) == pytest.approx(second.value(model.start), abs=1e-12)
    moved = model.start | {"P.Br_eq.x": 0.26}
    assert abs(first.value(moved) - second.value(moved)) > 0.05
    # Br_eq-Pb-Br_eq: two cis angles; the two trans ones are 180 degrees by symmetry
    cis = angle_restraints(model, phase, ("Br_eq", "Pb", "Br_eq"), 90, 1)
    assert [r.name for r in cis] == ["P angle(Br_eq-Pb-Br_eq)_3", "P angle(Br_eq-Pb-Br_eq)_4"]
    # supplementary angles of a plane of four around an inversion centre
    values = [r.value(model.start | {"P.Br_eq.x": 0.27, "P.a": 8.5}) for r in cis]
    assert sum(values) == pytest.approx(180.0, abs=1e-9) and abs(values[0] - values[1]) > 1
    with pytest.raises(ValueError, match=r"180.00 \(fixed by symmetry\)"):
        angle_restraints(model, phase, ("Br_eq", "Pb", "Br_eq"), 170, 1)


def test_names_are_those_of_derived_quantities(small, q):
    model = small.model(q, 100 + 0 * q, 1 + 0 * q, [small.phase(small.pbnm())])
    phase = model.phases[0]
    derived = {quantity.name: quantity for quantity in crystal_quantities(
        model, phase, model.start, distances=[("Pb", "Br_eq")], angles_=[("Br_eq", "Pb", "Br_ax")])}
    restraints = [*distance_restraints(model, phase, ("Pb", "Br_eq"), 3, 0.1),
                  *angle_restraints(model, phase, ("Br_eq", "Pb", "Br_ax"), 90, 1)]
    assert len(restraints) == len(derived) - 1 == 6  # besides the volume
    for restraint in restraints:
        quantity = derived[restraint.name.removeprefix("P ")]
        (value,) = evaluated(model, [quantity], model.start)
        assert restraint.value(model.start) == pytest.approx(float(value), abs=1e-12)


def test_multiplicity_counts_a_bond_as_often_as_it_occurs(model):
    """Eight Cl around Cs: chi2 of the restraint is eight times that of one bond."""
    phase = model.phases[0]
    [single] = distance_restraints(model, phase, ("Cs", "Cl"), 3.6, 0.01)
    [eight] = distance_restraints(model, phase, ("Cs", "Cl"), 3.6, 0.01, multiplicity=True)
    ratio = eight.deviation(model.start) ** 2 / single.deviation(model.start) ** 2
    assert ratio == pytest.approx(8.0, rel=1e-12)


def test_a_restraint_pulls_two_different_bonds_together(small, q):
    """With a weak pattern the two equatorial bonds both take the length of the restraint."""
    pattern = small.pbnm_intensity(q)
    model = small.model(q, pattern, pattern, [small.phase(small.pbnm(), (2, 2, 2))])
    strict = distance_restraints(model, model.phases[0], ("Pb", "Br_eq"), 2.99, 1e-5)
    found = refine(model, [["P.Br_eq.[xy]"]], restraints=strict)
    assert [r.value(found.values) for r in strict] == pytest.approx([2.99, 2.99], abs=1e-5)


def test_refusals(model):
    phase = model.phases[0]
    with pytest.raises(ValueError, match="Xx"):
        distance_restraints(model, phase, ("Cs", "Xx"), 3, 0.1)
    with pytest.raises(ValueError, match=r"no parameter 'P\.q'"):
        parameter_restraint(model, "P.q", 1, 1)
    with pytest.raises(ValueError, match="and sigma above 0"):
        Restraint("d", 1.0, 0.0, "Å", lambda values: 1.0)


def test_points_of_a_map_are_refined_under_the_restraints(model):
    strict = parameter_restraint(model, "P.Cs.B_iso", 2.0, 1e-3)
    axis = Axis("P.a", np.array([4.11, 4.12]))
    found = scan(model, [axis], refine_at_each_point=["P.Cs.B_iso"], restraints=[strict])
    np.testing.assert_allclose(found.refined["P.Cs.B_iso"], 2.0, atol=0.01)
    free = scan(model, [axis], refine_at_each_point=["P.Cs.B_iso"])
    assert (found.chi2 > free.chi2).all()


def test_the_progress_shows_the_gof_of_the_pattern(model):
    cycles = []
    strict = parameter_restraint(model, "P.Cs.B_iso", 3.0, 1e-3)
    found = refine(model, [["P.a", "P.Cs.B_iso"]], restraints=[strict], on_cycle=cycles.append)
    assert cycles[-1].gof == pytest.approx(found.agreement.gof, rel=0.02)
