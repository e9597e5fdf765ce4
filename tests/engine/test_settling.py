"""Refinements of few counts: weights of the calculated pattern have no bias."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.fit.settling import SINGLE, counts_per_unit, with_calculated_weights
from aiida_dse.engine.model.pattern import Background, ObservedPattern, PatternModel

Q = np.linspace(0.8, 9.0, 400)
FREE = [["P.a", "P.Cs.B_iso", "P.Cl.B_iso"]]


def refined(small, counts, *, calculated, per_unit=1.0):
    sigma = np.sqrt(np.maximum(counts, 1)) / per_unit
    observation = ObservedPattern(Q, counts / per_unit, sigma, small.wavelength)
    model = PatternModel(observation, [small.phase(small.cscl())], Background(chebyshev=1))
    found = refine(model, FREE)
    if calculated:
        _, found = with_calculated_weights(
            {SINGLE: model}, found,
            lambda models, last: refine(models[SINGLE], FREE, start=last.values))
    return found


def test_low_counts_bias_the_background_unless_weights_are_calculated(small):
    """Twelve counts per point on average, of which five are background; 30 patterns."""
    pattern = small.cscl_intensity(Q)
    scale = 7 / pattern.mean()
    expected = scale * pattern + 5
    pulls = {False: [], True: []}
    for seed in range(30):
        counts = np.random.default_rng(seed).poisson(expected).astype(float)
        for calculated in pulls:
            found = refined(small, counts, calculated=calculated)
            background = next(p for p in found.linear if "chebyshev_0" in p.name)
            pulls[calculated].append((background.value - 5) / background.su)
    mean = {calculated: np.mean(values) for calculated, values in pulls.items()}
    assert mean[False] < -2  # several s.u. in every pattern
    assert abs(mean[True]) < 3 / np.sqrt(30)
    assert 0.75 < np.std(pulls[True]) < 1.25


def test_weights_do_not_depend_on_the_unit_of_the_intensity(small):
    expected = small.cscl_intensity(Q)
    counts = np.random.default_rng(1).poisson(10 / expected.mean() * expected).astype(float)
    one, scaled = (refined(small, counts, calculated=True, per_unit=n) for n in (1.0, 250.0))
    for name in FREE[0]:
        assert scaled.values[name] == pytest.approx(one.values[name], rel=1e-5)
        assert scaled.parameters[name].su == pytest.approx(one.parameters[name].su, rel=1e-3)


def test_sigma_that_is_not_that_of_counts_is_refused(small):
    observation = ObservedPattern(Q, 100 + Q, 3 + 0 * Q, small.wavelength)
    with pytest.raises(ValueError, match="not the square root of counts"):
        counts_per_unit(observation)
    assert counts_per_unit(ObservedPattern(
        Q, (100 + Q) / 4, np.sqrt(100 + Q) / 4, small.wavelength)) == pytest.approx(4)
