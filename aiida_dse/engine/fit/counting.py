"""Weights of counts from the calculated instead of the observed pattern.

The variance of counts is their expected value. sqrt(counts) is its estimate from one observation:
points that happen to be low get too much weight, and the fit is low by about one count per point,
which matters below some 50 counts. With sigma^2 from the calculated pattern, repeated until it no
longer changes, the minimum is that of the Poisson likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aiida_dse.engine.model.pattern import ObservedPattern, PatternModel
from aiida_dse.engine.units import FloatArray

from .refine import Refinement

#: Largest relative spread of sigma^2 / intensity of counts.
EVEN = 1e-2
#: Sigma has settled when it changes by less than this fraction.
SETTLED = 1e-3
MOST_REPETITIONS = 8


def counts_per_unit(observation: ObservedPattern) -> float:
    """N of an intensity counts / N, from sigma^2 = intensity / N.

    Raises ValueError if sigma is not the square root of counts.
    """
    positive = observation.intensity > 0
    ratio = observation.intensity[positive] / observation.sigma[positive] ** 2
    middle = float(np.median(ratio)) if positive.any() else 0.0
    if not middle > 0 or np.mean(np.abs(ratio / middle - 1) > EVEN) > 0.05:
        raise ValueError(
            "the weights cannot be calculated, because sigma of the pattern is not the square root "
            "of counts, sqrt(I / N). Use 'weights: observed', or specify sigma: counts or "
            "sigma: counts / N."
        )
    return middle


def calculated_sigma(model: PatternModel, found: Refinement, per_unit: float) -> FloatArray:
    """sqrt(calculated counts) (n_points,) in units of the intensity, at least that of one count."""
    counts = per_unit * model.calculated(found.evaluation)
    return np.asarray(np.sqrt(np.maximum(counts, 1.0)) / per_unit)


def with_calculated_weights(
    model: PatternModel, found: Refinement,
    again: Callable[[PatternModel, Refinement], Refinement],
) -> tuple[PatternModel, Refinement]:
    """The model with sigma of the calculated pattern, and its refinement.

    `again` refines a model from the values of a refinement. Raises ValueError if sigma of the model
    is not the square root of counts.
    """
    per_unit = counts_per_unit(model.observation)
    for _ in range(MOST_REPETITIONS):
        if not found.converged:
            break
        sigma = calculated_sigma(model, found, per_unit)
        if np.abs(sigma / model.observation.sigma - 1).max() < SETTLED:
            break
        model = model.with_sigma(sigma)
        repeated = again(model, found)
        found = replace(
            repeated, n_cycles=found.n_cycles + repeated.n_cycles,
            n_evaluations=found.n_evaluations + repeated.n_evaluations,
            seconds=found.seconds + repeated.seconds)
    return model, found
