"""Size distributions against numerical integration."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad

from aiida_dse.engine.particles.size_distributions import (
    TAIL,
    BivariateLogNormal,
    EdgeStatistics,
    LogNormal,
    number_weights,
    whole_lengths,
)

DISTRIBUTIONS = [LogNormal(5.0, 0.4), LogNormal(7.3, 2.9), LogNormal(2.1, 2.5)]


def _integral(function, lognormal, start=0.0, stop=None):
    """Integral over a length, split at the median and carried far into the tail."""
    stop = lognormal.median * np.exp(12 * lognormal.width) if stop is None else stop
    points = [p for p in lognormal.median * np.exp(np.arange(-8, 12) * lognormal.width) if start < p < stop]
    edges = [start, *points, stop]
    return sum(
        quad(function, a, b, epsabs=0, epsrel=1e-11)[0]
        for a, b in pairwise(edges)
    )


@pytest.mark.parametrize("lognormal", DISTRIBUTIONS, ids=str)
def test_the_mean_and_sd_are_those_of_the_density(lognormal):
    assert _integral(lognormal.density, lognormal) == pytest.approx(1, rel=1e-9)
    mean = _integral(lambda x: x * lognormal.density(x), lognormal)
    assert mean == pytest.approx(lognormal.mean, rel=1e-9)
    variance = _integral(lambda x: (x - mean) ** 2 * lognormal.density(x), lognormal)
    assert np.sqrt(variance) == pytest.approx(lognormal.sd, rel=1e-8)


@pytest.mark.parametrize("lognormal", DISTRIBUTIONS, ids=str)
def test_the_median_splits_the_distribution_in_halves(lognormal):
    assert _integral(lognormal.density, lognormal, stop=lognormal.median) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("lognormal", DISTRIBUTIONS, ids=str)
def test_survival_is_the_integral_of_the_density(lognormal):
    for length in lognormal.median * np.array([0.3, 0.8, 1.0, 1.3, 2.0]):
        assert lognormal.survival(length) == pytest.approx(_integral(lognormal.density, lognormal, length), rel=1e-8)
    assert lognormal.survival(0.0) == 1 and lognormal.survival(-1.0) == 1


@pytest.mark.parametrize("lognormal", DISTRIBUTIONS, ids=str)
def test_the_volume_weighted_mean(lognormal):
    fourth = _integral(lambda x: x**4 * lognormal.density(x), lognormal)
    third = _integral(lambda x: x**3 * lognormal.density(x), lognormal)
    assert lognormal.moment(4) / lognormal.moment(3) == pytest.approx(fourth / third, rel=1e-7)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_beyond_the_largest_size_lies_the_stated_share(dimensions):
    lognormal = LogNormal(5.0, 1.0)
    weighted = lambda x: x ** (2 * dimensions) * lognormal.density(x)  # noqa: E731
    beyond = _integral(weighted, lognormal, lognormal.end(dimensions=dimensions))
    assert beyond / _integral(weighted, lognormal) == pytest.approx(TAIL, rel=1e-5)


def _fine_grid(first, second):
    return np.linspace(0.02, 30, 1500), np.linspace(0.02, 24, 1200)


def _bivariate(first, second, ab, c, rotation):
    lognormal = BivariateLogNormal(first, second, rotation)
    return number_weights(lognormal.log_density(ab, c), np.ones((len(ab), len(c))))


def test_two_independent_laws_keep_their_means_and_sds():
    first, second = LogNormal(5.0, 0.9), LogNormal(3.0, 0.7)
    ab, c = _fine_grid(first, second)
    number = _bivariate(first, second, ab, c, 0.0)
    assert number.sum() == pytest.approx(1, abs=1e-12)
    found = EdgeStatistics.of(number, ab, c)
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
    found = EdgeStatistics.of(_bivariate(first, second, ab, c, phi), ab, c)
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
        # the first distribution is the wider: a positive angle makes the lengths grow together
        assert np.sign(found.correlation) == np.sign(phi)


def test_discrete_weights_follow_the_density():
    lognormal = LogNormal(4.0, 0.8)
    lengths = np.arange(1, 20) * 0.8
    weights = number_weights(lognormal.log_density(lengths), np.ones(len(lengths)))
    assert weights.sum() == pytest.approx(1)
    assert_allclose(weights / weights[4], lognormal.density(lengths) / lognormal.density(lengths[4]))


@pytest.mark.parametrize(("mean", "sd"), [(0, 1), (5, 0), (-2, 1), (np.nan, 1), (5, np.inf)])
def test_impossible_laws_are_refused(mean, sd):
    with pytest.raises(ValueError, match="above 0"):
        LogNormal(mean, sd)


def test_a_distribution_far_below_or_above_all_lengths_selects_the_nearest():
    """A fit that wanders there gets a finite pattern instead of an error."""
    for lognormal, nearest in ((LogNormal(0.01, 0.001), 0), (LogNormal(900.0, 1.0), 3)):
        lengths, counted = whole_lengths(1.0, 4.5)
        weights = number_weights(lognormal.log_density(lengths), counted)
        assert weights[nearest] == pytest.approx(1) and weights.sum() == pytest.approx(1)


ENDS = [0.6, 1.0, 1.7, 3.0]


@pytest.mark.parametrize("lognormal", DISTRIBUTIONS, ids=str)
@pytest.mark.parametrize("part", ENDS)
def test_a_distribution_truncated_at_its_end_is_renormalised(lognormal, part):
    """Shares and moments are integrals of the density up to the end, divided by all of that."""
    end = part * lognormal.mean
    whole = _integral(lognormal.density, lognormal, stop=end)
    for length in np.array([0.2, 0.5, 0.9, 0.999]) * end:
        above = _integral(lognormal.density, lognormal, length, end)
        assert lognormal.fraction_beyond(length, end=end) == pytest.approx(above / whole, rel=1e-7)
    assert lognormal.fraction_beyond(end * np.array([1, 1.2, 3]), end=end).tolist() == [0, 0, 0]
    for power in (1, 2, 3, 4):
        moment = _integral(lambda x: x**power * lognormal.density(x), lognormal, stop=end)  # noqa: B023
        assert lognormal.moment(power, end=end) == pytest.approx(moment / whole, rel=1e-7)


@pytest.mark.parametrize("lognormal", DISTRIBUTIONS, ids=str)
@pytest.mark.parametrize("power", [0, 6])
def test_the_fraction_beyond_a_length(lognormal, power):
    weighted = lambda x: x**power * lognormal.density(x)  # noqa: E731
    end = 1.4 * lognormal.mean
    expected = _integral(weighted, lognormal, end) / _integral(weighted, lognormal)
    assert lognormal.beyond(end, power=power) == pytest.approx(expected, rel=1e-6)
    assert lognormal.beyond(np.inf, power=power) == 0


@pytest.mark.parametrize("rotation", [0.0, 25.0, -40.0, 90.0])
def test_the_end_and_the_shares_of_a_rotated_law(rotation):
    """Against sums over a fine grid, weighted with the volume squared."""
    lognormal = BivariateLogNormal(LogNormal(5.0, 1.1), LogNormal(3.0, 0.5), rotation)
    ab, c = np.geomspace(0.2, 60, 1500), np.geomspace(0.2, 60, 1500)
    number = np.exp(lognormal.log_density(ab, c)) * np.outer(ab, c)
    squared = number * np.outer(ab**4, c**2)
    ends = lognormal.ends(powers=(2, 1))
    for axis, (lengths, end) in enumerate(((ab, ends[0]), (c, ends[1]))):
        beyond = squared.sum(axis=1 - axis)[lengths > end].sum() / squared.sum()
        assert beyond == pytest.approx(TAIL, rel=0.05)
    for largest in (4.0, 6.0, 9.0):
        either = (ab[:, None] > largest) | (c[None, :] > largest)
        for powers, weight in (((0, 0), number), ((4, 2), squared)):
            fraction = weight[either].sum() / weight.sum()
            assert lognormal.beyond(largest, powers=powers) == pytest.approx(fraction, rel=0.02, abs=1e-6)
    assert lognormal.ends(powers=(2, 1), largest=2.0) == (2.0, 2.0)
    assert lognormal.beyond(np.inf) == 0


def test_a_row_of_cells_enters_and_leaves_without_a_jump():
    lognormal, step = LogNormal(4.0, 0.9), 0.6
    for end in (6.0, 6.3, 6.9, 2.7):  # 6.3 = 10.5 steps: row 11 enters
        means = []
        for shift in (-1e-7, 1e-7):
            lengths, counted = whole_lengths(step, end + shift)
            means.append(number_weights(lognormal.log_density(lengths), counted) @ lengths)
        assert means[1] == pytest.approx(means[0], rel=1e-6)
    # the truncated distribution's mean is near that of the continuous one
    lengths, counted = whole_lengths(0.05, 4.5)
    mean = number_weights(lognormal.log_density(lengths), counted) @ lengths
    assert mean == pytest.approx(lognormal.moment(1, end=4.5), rel=1e-3)
