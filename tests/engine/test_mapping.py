"""Minima between grid points, their s.u., basins and saddles."""

from __future__ import annotations

import re

import numpy as np
import pytest

from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.maps.axes import Axis
from aiida_dse.engine.maps.minima import basins, profile_interval, quadratic_minimum
from aiida_dse.engine.maps.scan import scan


def test_a_paraboloid_is_found_exactly():
    covariance = np.array([[0.04, 0.03], [0.03, 0.09]])
    centre, axes = np.array([1.03, -0.48]), [np.linspace(0, 2, 21), np.linspace(-2, 1, 13)]
    away = np.stack(np.meshgrid(*axes, indexing="ij"), -1) - centre
    chi2 = 50 + np.einsum("...i,ij,...j", away, np.linalg.inv(covariance), away)
    found = quadratic_minimum(axes, chi2)
    np.testing.assert_allclose(found.position, centre, atol=1e-10)
    np.testing.assert_allclose(found.su, np.sqrt(np.diag(covariance)), rtol=1e-9)
    assert found.correlation[0, 1] == pytest.approx(0.03 / 0.06)
    assert found.chi2 == pytest.approx(50)


@pytest.fixture(scope="module")
def model(small, q):
    data = small.counts(small.cscl_intensity(q, 4), peak=1e5, background=100 + 0 * q, seed=9)
    return small.model(q, *data, [small.phase(small.cscl(), cells=(4, 4, 4))],
                       background=small.background(1))


@pytest.mark.parametrize("others", [[], ["P.Cs.B_iso"]], ids=["fixed", "refined at each point"])
def test_the_map_of_a_parameter_yields_the_su_of_its_refinement(model, others):
    """With other parameters refined at every point the curvature is the marginal one."""
    best = refine(model, [["P.Cl.B_iso", *others]])
    p = next(p for p in best.free if p.name == "P.Cl.B_iso")
    axis = Axis("P.Cl.B_iso", p.value + 0.3 * p.su + p.su * np.linspace(-2, 2, 9))
    found = scan(model, [axis], start=best.values, refine_at_each_point=others)
    quadratic = quadratic_minimum([axis.values], found.chi2)
    assert quadratic.position[0] == pytest.approx(p.value, abs=0.02 * p.su)
    assert quadratic.su[0] == pytest.approx(p.su, rel=0.02)
    assert quadratic.chi2 == pytest.approx(best.agreement.chi2, abs=0.01)


@pytest.mark.parametrize(
    ("chi2", "why"),
    [(np.array([1.0, 2, 3, 4]), "edge"), (np.array([2.0, 1]), "3 values"),
     (np.array([np.nan, 1, np.nan]), "too few"), (np.array([3.0, 1, 2, 1, 0.99, 1, 0.995]), "")],
)
def test_where_there_is_no_minimum_the_reason_is_reported(chi2, why):
    found = quadratic_minimum([np.arange(len(chi2), dtype=float)], chi2)
    assert (why in found) if why else not isinstance(found, str)


def test_a_single_value_axis_is_left_out():
    x = np.linspace(-1, 1, 9)
    found = quadratic_minimum([x, np.array([2.0])], (10 + 4 * (x - 0.1) ** 2)[:, None])
    assert found.position[0] == pytest.approx(0.1) and np.isnan(found.position[1])
    assert found.su[0] == pytest.approx(0.5)


def test_two_valleys_and_the_saddle_between():
    x, y = np.meshgrid(np.linspace(-2, 2, 41), np.linspace(-1, 1, 21), indexing="ij")
    chi2 = 100 + 400 * (x**2 - 1) ** 2 + 300 * y**2 + 20 * x
    found = basins(chi2, n_dof=100)
    assert len(found) == 2
    deep, shallow = found
    assert x[deep.at] == pytest.approx(-1, abs=0.1) and x[shallow.at] == pytest.approx(1, abs=0.1)
    assert deep.saddle is None
    assert x[shallow.saddle] == pytest.approx(0, abs=0.15) and y[shallow.saddle] == 0
    assert shallow.saddle_chi2 == pytest.approx(500, rel=0.02)
    assert deep.chi2 < shallow.chi2 < shallow.saddle_chi2


def test_ripples_are_no_basins_and_holes_part():
    x = np.linspace(0, 10, 101)
    chi2 = 1000 + (x - 5) ** 2 + 0.01 * np.cos(40 * x)
    assert len(basins(chi2, n_dof=1000)) == 1
    chi2[50] = np.nan
    assert len(basins(chi2, n_dof=1000)) == 2  # nothing joins them: both are reported


def correlated_bowl():
    covariance = np.array([[0.04, 0.045], [0.045, 0.09]])
    axes = [np.linspace(0, 2, 41), np.linspace(-2.5, 1.5, 41)]
    away = np.stack(np.meshgrid(*axes, indexing="ij"), -1) - np.array([1.03, -0.48])
    return axes, 50 + np.einsum("...i,ij,...j", away, np.linalg.inv(covariance), away), covariance


def test_delta_chi2_of_a_paraboloid_yields_the_su_of_its_curvature():
    """The profile over a correlated axis, not a cut at its best value."""
    axes, chi2, covariance = correlated_bowl()
    minimum = quadratic_minimum(axes, chi2)
    for k, su in enumerate(np.sqrt(np.diag(covariance))):
        found = profile_interval(axes, chi2, k, minimum)
        assert found.minus == pytest.approx(su, rel=1e-6)
        assert found.plus == pytest.approx(su, rel=1e-6) and found.missing is None


def test_delta_chi2_of_a_skewed_valley_is_asymmetric():
    """chi2 = 20 + (exp(x) - 1)^2 / s^2 rises by 1 at log(1 + s) and -log(1 - s)."""
    s, x = 0.3, np.linspace(-0.6, 0.6, 49)
    chi2 = 20 + (np.exp(x) - 1) ** 2 / s**2
    minimum = quadratic_minimum([x], chi2)
    found = profile_interval([x], chi2, 0, minimum)
    assert found.plus == pytest.approx(np.log(1 + s), abs=2e-3)
    assert found.minus == pytest.approx(-np.log(1 - s), abs=2e-3)
    assert found.minus > minimum.su[0] > found.plus


@pytest.mark.parametrize(
    ("x", "side", "why"),
    [(np.linspace(-0.5, 3, 15), "minus", "below .* ends before"),
     (np.linspace(-3, 0.5, 15), "plus", "above .* ends before"),
     (np.linspace(-20, 20, 11), "minus", "below .* too coarse .*4 s.u. away")],
)
def test_without_points_near_delta_chi2_the_reason_is_reported(x, side, why):
    chi2 = 9 + x**2
    found = profile_interval([x], chi2, 0, quadratic_minimum([x], chi2))
    assert getattr(found, side) is None
    assert re.search(why, found.missing)
