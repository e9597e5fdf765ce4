"""Bootstrap: the noise of the resampled patterns, and what refining them gives."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_dse.engine.fit import bootstrap as module
from aiida_dse.engine.fit.bootstrap import bootstrap, resampled
from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.model.restraints import parameter_restraint
from aiida_dse.engine.resources import Resources

FREE = ["P.Cs.B_iso", "P.Cl.B_iso"]
N = 80


@pytest.fixture(scope="module")
def model(small, q):
    intensity, sigma = small.counts(small.cscl_intensity(q), background=1000)
    return small.model(q, intensity, sigma, [small.phase(small.cscl())],
                       background=small.background(chebyshev=1))


@pytest.fixture(scope="module")
def best(model):
    return refine(model, [FREE])


@pytest.fixture(scope="module")
def samples(model, best):
    return bootstrap(model, best, N, seed=3)


def test_resampled_intensities_are_counts_with_the_data_s_noise():
    """Counts divided by 4: y = n / 4, sigma = sqrt(n) / 4."""
    n, expected = np.full(40_000, 100.0), np.full(40_000, 30.0)
    drawn = resampled(n / 4, np.sqrt(n) / 4, expected, np.random.default_rng(1))
    counts = drawn * 4
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    # Poisson: mean and variance are both 120 counts; five s.d. of their estimates
    assert abs(counts.mean() - 120) < 5 * np.sqrt(120 / len(n))
    assert abs(counts.var() / 120 - 1) < 5 * np.sqrt(2 / len(n))


def test_points_that_are_no_counts_get_normal_noise():
    observed = np.concatenate([np.zeros(20_000), np.full(20_000, -3.0)])
    drawn = resampled(observed, np.full(40_000, 2.0), np.full(40_000, 5.0),
                      np.random.default_rng(2))
    assert abs(drawn.mean() - 5) < 5 * 2 / 200
    assert abs(drawn.std() / 2 - 1) < 5 / np.sqrt(80_000)
    assert not np.allclose(drawn, np.round(drawn))


def test_spread_and_mean_are_those_of_the_least_squares_fit(best, samples):
    assert samples.complete and len(samples.refined) == N
    for p, values in zip(best.free, samples.refined.T, strict=True):
        # an s.d. from N samples is good to 1 / sqrt(2 (N - 1)); four of these
        assert abs(values.std(ddof=1) / p.su - 1) < 4 / np.sqrt(2 * (N - 1)), p.name
        assert abs(values.mean() - p.value) < 4 * p.su / np.sqrt(N), p.name
    # chi2 of Poisson patterns about their own fit is that of n - p degrees of freedom
    freedom = best.agreement.n_points - best.agreement.n_parameters
    assert abs(samples.chi2.mean() / freedom - 1) < 5 * np.sqrt(2 / freedom / N) + 0.01


def test_samples_depend_on_seed_and_number_only(model, best, samples):
    again = bootstrap(model, best, 3, seed=3, resources=Resources(2))
    np.testing.assert_array_equal(again.values, samples.values[:3])
    other = bootstrap(model, best, 3, seed=4)
    assert (other.values != again.values).all()


def test_a_continued_bootstrap_is_the_uninterrupted_one(model, best, samples, monkeypatch):
    calls = []

    def soon():
        calls.append(1)
        return "walltime" if len(calls) > 8 else None

    part = bootstrap(model, best, 12, seed=3, should_stop=soon)
    n = int((part.outcome != module.PENDING).sum())
    assert part.stop_reason == "walltime" and 0 < n < 12
    done = []
    monkeypatch.setattr(module, "refine", lambda *a, **k: done.append(1) or refine(*a, **k))
    found = bootstrap(model, best, 12, seed=3, finished=part)
    assert found.complete and len(done) == 12 - n
    np.testing.assert_array_equal(found.values, samples.values[:12])
    np.testing.assert_array_equal(found.chi2, samples.chi2[:12])
    with pytest.raises(ValueError, match="the seed 3"):
        bootstrap(model, best, 12, seed=5, finished=part)


def test_failed_samples_are_counted(model, best, monkeypatch):
    turns = iter(range(10))

    def unlucky(*arguments, **options):
        if next(turns) == 1:
            raise ValueError("no such particle")
        return refine(*arguments, **options)

    monkeypatch.setattr(module, "refine", unlucky)
    found = bootstrap(model, best, 4)
    assert found.failures == {1: "no such particle"}
    assert found.outcome.tolist() == [1, module.FAILED, 1, 1]
    assert len(found.refined) == 3 and np.isnan(found.values[1]).all()


def test_what_a_restraint_asks_for_is_resampled_as_well(model):
    """A parameter that only its restraint knows spreads by the restraint's sigma."""
    strong = [parameter_restraint(model, "P.Cs.B_iso", 1.0, 1e-5)]
    fixed = refine(model, [["P.Cs.B_iso"]], restraints=strong)
    found = bootstrap(model, fixed, 40, restraints=strong)
    assert abs(found.refined.std(ddof=1) / 1e-5 - 1) < 4 / np.sqrt(78)
