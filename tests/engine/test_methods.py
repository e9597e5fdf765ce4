"""Methods that know no derivatives end where least squares does."""

from __future__ import annotations

import pytest

from aiida_dse.engine.fit.minimisers import refine_without_derivatives
from aiida_dse.engine.fit.refine import refine

STAGES = [["P.a"], ["P.*.B_iso"]]


@pytest.fixture(scope="module")
def model(small, q):
    """CsCl made with a = 4.12 Å, B = 1 and 2 Å^2, started 1 % and a factor of two away."""
    data = small.counts(small.cscl_intensity(q, 4), peak=1e5, background=100 + 0 * q, seed=5)
    return small.model(q, *data, [small.phase(small.cscl(a=4.16, b=(2.0, 1.0)), cells=(4, 4, 4))],
                       background=small.background(1))


@pytest.mark.parametrize("method", ["cobyqa", "differential_evolution"])
def test_the_minimum_is_that_of_least_squares(model, method):
    reference = refine(model, STAGES)
    message = []
    found = refine_without_derivatives(model, STAGES, method, seed=3, on_progress=message.append)
    assert found.converged and "converged" in found.stop_reason
    assert [p.name for p in found.free] == [p.name for p in reference.free]
    for p, r in zip(found.free, reference.free, strict=True):
        assert abs(p.value - r.value) < 0.1 * r.su, p.name
        assert p.su == pytest.approx(r.su, rel=0.02)
    assert found.n_evaluations > reference.n_evaluations
    assert message and message[-1].best_gof <= message[0].best_gof


def test_a_population_is_reproducible(model):
    one, other = (
        refine_without_derivatives(model, STAGES, "differential_evolution", seed=7, max_cycles=3)
        for _ in range(2)
    )
    assert one.values == other.values and one.n_evaluations == other.n_evaluations


@pytest.mark.parametrize("method", ["cobyqa", "differential_evolution"])
def test_a_reason_to_stop_keeps_the_best_so_far(model, method):
    found = refine_without_derivatives(model, STAGES, method, should_stop=lambda: "walltime")
    assert found.stop_reason == "walltime" and not found.converged
    assert found.agreement.chi2 <= model.evaluate(model.start).chi2


def test_too_few_evaluations_are_not_called_converged(model):
    found = refine_without_derivatives(model, STAGES, "cobyqa", max_cycles=2)
    assert not found.converged and "without converging" in found.stop_reason


def test_an_unknown_method_is_named(model):
    with pytest.raises(ValueError, match=r"'simplex' is unknown.*cobyqa"):
        refine_without_derivatives(model, STAGES, "simplex")
