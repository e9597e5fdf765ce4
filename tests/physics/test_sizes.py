"""Size laws against numerical integration."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad

from aiida_dse.engine.particles.size_laws import (
    TAIL,
    LogNormal,
    SizeStatistics,
    bivariate_log_normal,
    discrete_weights,
)

LAWS = [LogNormal(5.0, 0.4), LogNormal(7.3, 2.9), LogNormal(2.1, 2.5)]


def _integral(function, law, start=0.0, stop=None):
    """Integral over a length, split at the median and carried far into the tail."""
    stop = law.median * np.exp(12 * law.width) if stop is None else stop
    points = [p for p in law.median * np.exp(np.arange(-8, 12) * law.width) if start < p < stop]
    edges = [start, *points, stop]
    return sum(
        quad(function, a, b, epsabs=0, epsrel=1e-11)[0]
        for a, b in pairwise(edges)
    )


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_mean_and_sd_are_those_of_the_density(law):
    assert _integral(law.density, law) == pytest.approx(1, rel=1e-9)
    mean = _integral(lambda x: x * law.density(x), law)
    assert mean == pytest.approx(law.mean, rel=1e-9)
    variance = _integral(lambda x: (x - mean) ** 2 * law.density(x), law)
    assert np.sqrt(variance) == pytest.approx(law.sd, rel=1e-8)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_median_splits_the_law_in_halves(law):
    assert _integral(law.density, law, stop=law.median) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_survival_is_the_integral_of_the_density(law):
    for length in law.median * np.array([0.3, 0.8, 1.0, 1.3, 2.0]):
        assert law.survival(length) == pytest.approx(_integral(law.density, law, length), rel=1e-8)
    assert law.survival(0.0) == 1 and law.survival(-1.0) == 1


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_volume_weighted_mean(law):
    fourth = _integral(lambda x: x**4 * law.density(x), law)
    third = _integral(lambda x: x**3 * law.density(x), law)
    assert law.volume_weighted_mean == pytest.approx(fourth / third, rel=1e-7)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_beyond_the_largest_size_lies_the_stated_share(dimensions):
    law = LogNormal(5.0, 1.0)
    weighted = lambda x: x ** (2 * dimensions) * law.density(x)  # noqa: E731
    beyond = _integral(weighted, law, law.largest(dimensions=dimensions))
    assert beyond / _integral(weighted, law) == pytest.approx(TAIL, rel=1e-5)


def _fine_grid(first, second):
    return np.linspace(0.02, 30, 1500), np.linspace(0.02, 24, 1200)


def test_two_independent_laws_keep_their_means_and_sds():
    first, second = LogNormal(5.0, 0.9), LogNormal(3.0, 0.7)
    ab, c = _fine_grid(first, second)
    number = bivariate_log_normal(first, second, ab, c, 0.0)
    assert number.sum() == pytest.approx(1, abs=1e-12)
    found = SizeStatistics.of(number, ab, c)
    assert_allclose(
        [found.mean_ab, found.sd_ab, found.mean_c, found.sd_c], [5, 0.9, 3, 0.7], rtol=1e-6
    )
    assert found.correlation == pytest.approx(0, abs=1e-9)
    # weighted with the volume L_ab^2 L_c
    w = first.width, second.width
    assert found.volume_mean_ab == pytest.approx(first.median * np.exp(2.5 * w[0] ** 2), rel=1e-6)
    assert found.volume_mean_c == pytest.approx(second.median * np.exp(1.5 * w[1] ** 2), rel=1e-6)


@pytest.mark.parametrize("phi", [-30.0, 20.0, 45.0, 90.0])
def test_a_rotated_law_is_a_rotated_gaussian_of_the_logarithms(phi):
    """Moments of exp(N(mu, R diag(w^2) R^T)), in closed form."""
    first, second = LogNormal(5.0, 1.1), LogNormal(3.0, 0.3)
    ab, c = _fine_grid(first, second)
    found = SizeStatistics.of(bivariate_log_normal(first, second, ab, c, phi), ab, c)
    angle = np.radians(phi)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    cov = axes.T @ np.diag([first.width**2, second.width**2]) @ axes
    mean = np.array([first.median, second.median]) * np.exp(np.diag(cov) / 2)
    covariance = np.outer(mean, mean) * (np.exp(cov) - 1)
    sd = np.sqrt(np.diag(covariance))
    assert_allclose([found.mean_ab, found.mean_c], mean, rtol=1e-5)
    assert_allclose([found.sd_ab, found.sd_c], sd, rtol=1e-5)
    assert found.correlation == pytest.approx(covariance[0, 1] / sd.prod(), abs=1e-5)
    if phi not in (0, 90):
        # the first law is the wider: a positive angle makes the lengths grow together
        assert np.sign(found.correlation) == np.sign(phi)


def test_discrete_weights_follow_the_density():
    law = LogNormal(4.0, 0.8)
    lengths = np.arange(1, 20) * 0.8
    weights = discrete_weights(law, lengths)
    assert weights.sum() == pytest.approx(1)
    assert_allclose(weights / weights[4], law.density(lengths) / law.density(lengths[4]))


@pytest.mark.parametrize(("mean", "sd"), [(0, 1), (5, 0), (-2, 1), (np.nan, 1), (5, np.inf)])
def test_impossible_laws_are_refused(mean, sd):
    with pytest.raises(ValueError, match="above 0"):
        LogNormal(mean, sd)


def test_a_population_without_weight_is_refused():
    with pytest.raises(ValueError, match="no particle size"):
        discrete_weights(LogNormal(0.01, 0.001), np.arange(1, 5) * 1.0)
