"""Profile likelihood: where chi2 has risen by one with all others at their optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from aiida_dse.engine.fit.profile import profile_likelihood
from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.parameters import Kind, Parameter

FREE = ["P.Cs.B_iso", "P.Cl.B_iso"]


@pytest.fixture(scope="module")
def model(small, q):
    intensity, sigma = small.counts(small.cscl_intensity(q), background=1000)
    return small.model(q, intensity, sigma, [small.phase(small.cscl())],
                       background=small.background(chebyshev=1))


@pytest.fixture(scope="module")
def best(model):
    return refine(model, [FREE])


def chi2_over_the_other(model, best, name, value):
    """min over the other parameter by a search of its own."""
    (other,) = [p for p in best.free if p.name != name]

    def chi2(x):
        return model.evaluate(best.values | {name: value, other.name: x}).chi2

    return minimize_scalar(chi2, bracket=(other.value, other.value + other.su), tol=1e-9).fun


@pytest.mark.parametrize("rise", [1.0, 4.0])
def test_chi2_has_risen_at_the_ends_of_an_interval(model, best, rise):
    found = profile_likelihood(model, best, ["P.Cl.B_iso"])
    assert found.complete and found.stop_reason == "complete"
    profile = found.profiles["P.Cl.B_iso"]
    for end in profile.interval(rise):
        reached = chi2_over_the_other(model, best, "P.Cl.B_iso", end)
        assert reached - profile.chi2_min == pytest.approx(rise, abs=0.01)
    # nearly linear-Gaussian: the half-widths are the s.u.
    low, high = profile.interval(1.0)
    assert (high - low) / 2 == pytest.approx(profile.parameter.su, rel=0.01)
    assert profile.lowest is None


def test_a_bound_ends_the_interval_on_its_side(small, q, model, best):
    at = best.values["P.Cs.B_iso"]
    su = best.free[0].su
    bounded = Parameter("P.Cs.B_iso", Kind.B_ISO, at, at - 0.4 * su, at + 10 * su)
    tight = small.model(q, model.observation.intensity, model.observation.sigma, model.phases,
                        background=model.background, overrides={"P.Cs.B_iso": bounded})
    profile = profile_likelihood(tight, refine(tight, [FREE]), ["P.Cs.B_iso"]).profiles[
        "P.Cs.B_iso"]
    low, high = profile.interval(1.0)
    assert profile.below.ended == "bound" and profile.above.ended == "risen"
    assert low == bounded.lower and np.all(profile.below.values >= bounded.lower)
    assert (high - at) / su == pytest.approx(1.0, abs=0.02)


def test_a_lower_minimum_on_the_way_is_reported(model, best):
    """From a point that is no minimum, the curve falls before it rises."""
    away = best.values | {"P.Cs.B_iso": best.values["P.Cs.B_iso"] + 2 * best.free[0].su}
    evaluation = model.evaluate(away)
    parameters = {name: p.changed(value=away[name]) for name, p in best.parameters.items()}
    wrong = replace(best, values=away, parameters=parameters, evaluation=evaluation,
                    agreement=model.agreement(evaluation, 2))
    profile = profile_likelihood(model, wrong, ["P.Cs.B_iso"]).profiles["P.Cs.B_iso"]
    chi2, refined = profile.lowest
    assert chi2 < wrong.agreement.chi2 - 1
    assert refined[0] < away["P.Cs.B_iso"]


def test_an_interrupted_profile_goes_on_where_it_was(model, best):
    whole = profile_likelihood(model, best, FREE)
    calls = []

    def soon():
        calls.append(1)
        return "walltime" if len(calls) > 12 else None

    part = profile_likelihood(model, best, FREE, should_stop=soon)
    assert part.stop_reason == "walltime" and not part.complete
    rays = [ray for p in part.profiles.values() for ray in (p.below, p.above)]
    n_points = sum(len(ray.values) for ray in rays)
    assert n_points > 0
    found = profile_likelihood(model, best, FREE, finished=rays)
    assert found.complete
    for name in FREE:
        for side in ("below", "above"):
            kept, again, first = (
                getattr(p.profiles[name], side) for p in (part, found, whole)
            )
            n = len(kept.values)
            np.testing.assert_array_equal(again.values[:n], kept.values)
            np.testing.assert_array_equal(again.chi2[:n], kept.chi2)
            np.testing.assert_allclose(again.chi2, first.chi2, atol=1e-3)


def test_what_is_not_free_has_no_profile(model, best):
    with pytest.raises(ValueError, match=r"P\.a cannot be profiled, because it is not refined"):
        profile_likelihood(model, best, ["P.a"])
