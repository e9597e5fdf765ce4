"""The posterior against integrals on a grid; its chain's diagnostics against known processes."""

from __future__ import annotations

from types import SimpleNamespace

import emcee
import numpy as np
import pytest

from aiida_dse.engine.fit import posterior
from aiida_dse.engine.fit.convergence import convergence, split_r_hat
from aiida_dse.engine.fit.posterior import moves, sample_posterior
from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.fit.surrogate import QuadraticPatterns, _design
from aiida_dse.engine.model.agreement import serial_correlation
from aiida_dse.engine.model.restraints import parameter_restraint
from aiida_dse.engine.parameters import Kind, Parameter
from aiida_dse.engine.resources import Resources

FREE = ["P.Cs.B_iso", "P.Cl.B_iso"]


@pytest.fixture(scope="module")
def data(small, q):
    return small.counts(small.cscl_intensity(q), background=1000)


@pytest.fixture(scope="module")
def make(small, q, data):
    def make(**options):
        return small.model(q, *data, [small.phase(small.cscl())],
                           background=small.background(chebyshev=1), **options)

    return make


@pytest.fixture(scope="module")
def model(make):
    return make()


@pytest.fixture(scope="module")
def best(model):
    return refine(model, [FREE])


@pytest.fixture(scope="module")
def chain(model, best):
    return sample_posterior(model, best, 200, seed=1)


def on_a_grid(model, best, extra=lambda values: 0.0, n=25, reach=4.5):
    """Mean and s.d. of each parameter by summing exp(-chi2 / 2) over a grid inside the bounds."""
    axes = [np.linspace(max(p.lower, p.value - reach * p.su), min(p.upper, p.value + reach * p.su),
                        n) for p in best.free]
    points = np.array(np.meshgrid(*axes, indexing="ij")).reshape(len(axes), -1).T
    height = np.empty(len(points))
    for k, point in enumerate(points):
        values = best.values | dict(zip([p.name for p in best.free], point, strict=True))
        height[k] = model.evaluate(values, best.evaluation.states).chi2 + extra(values)
    weight = np.exp(-0.5 * (height - height.min()))
    # the trapezium rule: points at an end count half
    for column, axis in zip(points.T, axes, strict=True):
        weight[(column == axis[0]) | (column == axis[-1])] /= 2
    mean = weight @ points / weight.sum()
    return mean, np.sqrt(weight @ (points - mean) ** 2 / weight.sum())


def agrees(samples, verdict, mean, sd):
    """Means within four standard errors of the effective number of samples; s.d. likewise."""
    for k, n in enumerate(verdict.effective_samples):
        assert abs(samples[:, k].mean() - mean[k]) < 4 * sd[k] / np.sqrt(n)
        assert abs(samples[:, k].std() / sd[k] - 1) < 4 / np.sqrt(2 * n)


def test_the_posterior_is_the_one_on_a_grid(model, best, chain):
    verdict = convergence(chain.samples)
    assert verdict.converged, verdict.reasons
    kept = chain.samples[verdict.burn_in:].reshape(-1, 2)
    mean, sd = on_a_grid(model, best)
    agrees(kept, verdict, mean, sd)
    # nearly linear-Gaussian: the covariance says the same
    np.testing.assert_allclose(sd, [p.su for p in best.free], rtol=0.02)
    assert chain.n_impossible == 0 and 0.3 < chain.acceptance < 0.95


def test_a_bound_cuts_the_posterior_and_no_walker_passes(make, best):
    at, su = best.values["P.Cs.B_iso"], best.free[0].su
    bounded = Parameter("P.Cs.B_iso", Kind.B_ISO, at, at - 0.3 * su, at + 10 * su)
    model = make(overrides={"P.Cs.B_iso": bounded})
    found = refine(model, [FREE])
    chain = sample_posterior(model, found, 250, seed=2)
    assert chain.samples[:, :, 0].min() >= bounded.lower
    verdict = convergence(chain.samples)
    kept = chain.samples[verdict.burn_in:].reshape(-1, 2)
    mean, sd = on_a_grid(model, found, n=41)
    assert mean[0] > at + 0.3 * su  # lopsided
    agrees(kept, verdict, mean, sd)


def test_restraints_join_the_posterior(model, best):
    su = best.free[0].su
    narrow = [parameter_restraint(model, "P.Cs.B_iso", best.values["P.Cs.B_iso"] + su, su / 2)]
    found = refine(model, [FREE], restraints=narrow)
    chain = sample_posterior(model, found, 150, seed=3, restraints=narrow)
    verdict = convergence(chain.samples)
    mean, sd = on_a_grid(model, found, lambda values: narrow[0].deviation(values) ** 2)
    agrees(chain.samples[verdict.burn_in:].reshape(-1, 2), verdict, mean, sd)
    assert sd[0] < 0.6 * su


def test_where_the_model_does_not_exist_no_walker_stays(make, best):
    """A constraint without a value below the refined one halves the region."""
    edge = round(best.values["P.Cs.B_iso"] - 1e-3, 6)
    model = make(constraints={"P.Cl.occupancy": f"1 + 0 * sqrt(P.Cs.B_iso - {edge})"},
                 overrides={"P.Cs.B_iso": Parameter("P.Cs.B_iso", Kind.B_ISO, edge + 1e-3, 0, 10)})
    found = SimpleNamespace(
        free=best.free, values=best.values, covariance=best.covariance, evaluation=best.evaluation,
        undetermined=(),
    )
    chain = sample_posterior(model, found, 10, seed=4)
    assert chain.n_impossible > 10
    assert chain.samples[:, :, 0].min() >= edge


def test_a_chain_depends_on_its_seed_only_and_can_be_continued(model, best, chain):
    part = sample_posterior(model, best, 7, seed=1, resources=Resources(2))
    whole = sample_posterior(model, best, 20, seed=1, finished=part)
    np.testing.assert_array_equal(whole.samples, chain.samples[:20])
    np.testing.assert_array_equal(whole.log_posterior, chain.log_posterior[:20])
    assert whole.n_steps == 20 and whole.accepted.sum() > part.accepted.sum()
    other = sample_posterior(model, best, 7, seed=8)
    assert (other.samples[-1] != part.samples[-1]).any()
    with pytest.raises(ValueError, match="the seed 1"):
        sample_posterior(model, best, 20, seed=8, finished=part)


def test_the_reason_to_stop_ends_the_walk(model, best):
    found = sample_posterior(model, best, 50, should_stop=lambda: "walltime")
    assert (found.n_steps, found.stop_reason) == (0, "walltime")
    assert found.samples.shape == (0, 16, 2)


def test_an_interruption_drops_the_step_it_fell_into(model, best, monkeypatch, capsys):
    chain = sample_posterior(model, best, 5, seed=1, direct=True)
    evaluate, calls = model.evaluate, []

    def pressed(*arguments):
        calls.append(1)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(model, "evaluate", pressed)
    found = sample_posterior(model, best, 50, seed=1, direct=True)
    assert found.stop_reason == "interrupted" and 0 < found.n_steps < 5
    np.testing.assert_array_equal(found.samples, chain.samples[: found.n_steps])
    assert "Traceback" not in capsys.readouterr().err


def test_too_few_walkers_are_refused(model, best):
    with pytest.raises(ValueError, match="7 walkers are too few for 2 parameters: at least 8"):
        sample_posterior(model, best, 5, n_walkers=7)


def test_a_covariance_that_is_wrong_does_not_change_the_posterior():
    """Proposals half as wide, and beside the truth, lead to the same normal law."""
    proposals = moves(np.array([0.7, -0.4]), np.array([[0.25, 0.2], [0.2, 0.25]]))
    sampler = emcee.EnsembleSampler(
        24, 2, lambda x: -0.5 * (x**2).sum(axis=1), moves=proposals, vectorize=True
    )
    sampler.random_state = np.random.RandomState(5).get_state()
    sampler.run_mcmc(np.random.default_rng(5).normal(size=(24, 2)), 1500)
    verdict = convergence(sampler.get_chain())
    kept = sampler.get_chain()[verdict.burn_in:].reshape(-1, 2)
    agrees(kept, verdict, np.zeros(2), np.ones(2))


def first_order(phi, shape, seed):
    """An autoregressive process along the first axis: tau = (1 + phi) / (1 - phi)."""
    steps = np.random.default_rng(seed).normal(size=shape) * np.sqrt(1 - phi**2)
    found = np.empty(shape)
    found[0] = steps[0] / np.sqrt(1 - phi**2)
    for k in range(1, shape[0]):
        found[k] = phi * found[k - 1] + steps[k]
    return found


def test_diagnostics_of_a_known_process():
    samples = first_order(0.8, (2000, 20, 1), seed=1)
    verdict = convergence(samples, thin=3)
    assert verdict.autocorrelation_time[0] == pytest.approx(3 * 9, rel=0.1)
    assert verdict.effective_samples[0] == pytest.approx(20 * verdict.n_kept / 9, rel=0.1)
    assert verdict.burn_in == pytest.approx(5 * 9, rel=0.15)
    assert verdict.converged and verdict.r_hat[0] == pytest.approx(1.0, abs=0.02)


def test_a_short_chain_is_not_converged():
    verdict = convergence(first_order(0.8, (150, 20, 1), seed=2))
    assert not verdict.converged and "autocorrelation times (at least 50 are needed)" in verdict.reasons[-1]
    assert not convergence(np.zeros((2, 20, 1))).converged


def test_walkers_that_disagree_are_not_converged():
    samples = np.random.default_rng(3).normal(size=(400, 10, 2))
    samples[:, 5:, 1] += 1.0  # two camps, one s.d. apart: B / n = 1/4 (20/19) of W
    r_hat = split_r_hat(samples)
    assert r_hat[0] == pytest.approx(1.0, abs=0.01)
    assert r_hat[1] == pytest.approx(np.sqrt(1 + 0.25 * 20 / 19), abs=0.03)
    verdict = convergence(samples)
    assert not verdict.converged and "R-hat" in verdict.reasons[0]


def test_serial_correlation_is_the_variance_of_a_mean():
    """s.d. of the mean of a correlated series, over many series: sqrt(tau / n)."""
    series = first_order(0.6, (1500, 400), seed=6)
    tau = (1 + 0.6) / (1 - 0.6)
    observed = series.mean(axis=0).std() * np.sqrt(1500)
    assert observed == pytest.approx(np.sqrt(tau), rel=4 / np.sqrt(800))
    found = [serial_correlation(series[:, k]) for k in range(60)]
    assert np.mean([one.su_factor for one in found]) == pytest.approx(np.sqrt(tau), rel=0.06)
    assert found[0].n_effective * found[0].autocorrelation_time == pytest.approx(1500)


def test_the_correlation_time_is_that_of_emcee():
    """An independent estimate of the same; at least 1 here."""
    for phi in (0.0, 0.5, 0.9):
        series = first_order(phi, (1500, 4), seed=9)
        for column in series.T:
            theirs = max(1.0, float(emcee.autocorr.integrated_time(column, tol=0)[0]))
            assert serial_correlation(column).autocorrelation_time == pytest.approx(theirs)
    assert serial_correlation(np.ones(50)).autocorrelation_time == 1.0


def test_white_residuals_leave_the_s_u_alone():
    white = np.random.default_rng(7).normal(size=(60, 2000))
    factors = [serial_correlation(row).su_factor for row in white]
    assert 1.0 <= np.mean(factors) < 1.06


# --- the approximation ------------------------------------------------------------------------------


def test_an_approximated_chain_is_that_of_the_exact_model(model, best, chain):
    exact = sample_posterior(model, best, 200, seed=1, direct=True)
    assert exact.approximation is None and chain.approximation.n_exact == 6
    assert chain.approximation.n_checked >= 32 and chain.approximation.error < 0.02
    # almost all decisions are the same, so the chains are compared without Monte-Carlo error
    first, second = (one.samples[50:].reshape(-1, 2) for one in (chain, exact))
    sd = second.std(axis=0)
    np.testing.assert_allclose(first.mean(axis=0) / sd, second.mean(axis=0) / sd, atol=0.03)
    np.testing.assert_allclose(first.std(axis=0), sd, rtol=0.03)


def test_an_approximation_that_fails_is_replaced_by_the_exact_model(model, best, monkeypatch):
    monkeypatch.setattr(posterior, "LARGEST_ERROR", -1.0)
    found = sample_posterior(model, best, 30, seed=1)
    exact = sample_posterior(model, best, 30, seed=1, direct=True)
    assert found.approximation is None and found.n_steps == 30
    np.testing.assert_array_equal(found.samples, exact.samples)


def test_a_model_that_is_not_possible_near_the_minimum_is_sampled_exactly(model, best, monkeypatch):
    patterns = type(model).patterns

    def broken(*arguments):
        raise ValueError("two atoms coincide")

    monkeypatch.setattr(type(model), "patterns", broken)
    found = sample_posterior(model, best, 5, seed=1)
    monkeypatch.setattr(type(model), "patterns", patterns)
    exact = sample_posterior(model, best, 5, seed=1, direct=True)
    assert found.approximation is None
    np.testing.assert_array_equal(found.samples, exact.samples)


def test_quadratic_patterns_are_exact_where_they_were_computed_and_near_the_minimum(small, q):
    """Two phases, a blank and a fixed scale: chi2 against that of the model itself."""
    rng = np.random.default_rng(4)
    phases = [small.phase(small.cscl()), small.phase(small.pbnm(), (2, 2, 2), name="S")]
    pattern = 30 * small.cscl_intensity(q) + 4 * small.pbnm_intensity(q)
    counted = rng.poisson(pattern + 4000).astype(float)
    model = small.model(q, counted, np.sqrt(counted), phases, background=small.background(
        2, (), {"air": 1 / q}), fixed_scales={"S": 4.0})
    names = ["P.a", "P.Cs.B_iso", "S.Br_eq.x"]
    start = model.start
    centre = np.array([start[name] for name in names])
    factor = np.diag([0.003, 0.03, 0.0004])
    states = model.states(start)

    def values_at(point):
        return model.constrained(start | dict(zip(names, point.tolist(), strict=True)))

    found = QuadraticPatterns(model, centre, factor, values_at, states, map)
    assert found.n_exact == 10
    z = np.concatenate([_design(3), rng.normal(size=(40, 3))])
    points = centre + z @ factor.T
    exact = np.array([model.evaluate(values_at(one), states).chi2 for one in points])
    approximate = found.chi2(points)
    np.testing.assert_allclose(approximate[:10], exact[:10], rtol=1e-9)
    rise = exact.max() - exact.min()
    np.testing.assert_allclose(approximate, exact, atol=2e-3 * rise)
