"""Repetition of a refinement until what depends on the refined values no longer changes.

Two properties of a model are kept constant during a refinement although they depend on its outcome.

The atoms of a sphere are those within its radius. They are counted in a reference structure, so that
a pattern is continuous in the coordinates; after a refinement the refined structure becomes the
reference.

The variance of counts is their expected value. sqrt(counts) is its estimate from one observation:
points that happen to be low get too much weight, and the fit is low by about one count per point,
which matters below some 50 counts. With sigma^2 from the calculated pattern, the minimum is that of
the Poisson likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from aiida_dse.engine.model.agreement import su_scale
from aiida_dse.engine.model.pattern import ObservedPattern, PatternModel
from aiida_dse.engine.units import FloatArray

from .refine import Refinement
from .simultaneous_fit import SimultaneousRefinement

#: A new reference structure matters if it changes chi2 by more than this (times max(1, GoF)^2).
NOTICEABLE = 0.01
MOST_STRUCTURES = 5
#: Largest relative spread of sigma^2 / intensity of counts.
EVEN = 1e-2
#: Sigma has settled when it changes by less than this fraction.
SETTLED = 1e-3
MOST_SIGMAS = 8

#: The models of the patterns by name; a single refinement has one pattern, SINGLE.
Models = Mapping[str, PatternModel]
SINGLE = ""
Fit = TypeVar("Fit", Refinement, SimultaneousRefinement)
#: Refines the models from the values of a refinement.
Again = Callable[[Models, Fit], Fit]


def with_refined_members(models: Models, found: Fit, again: Again[Fit]) -> tuple[Models, Fit]:
    """The models with the refined structures as reference, and their refinement.

    Models without spheres are returned unchanged, and so are refinements that did not converge. A
    refinement whose atoms still change after MOST_STRUCTURES has a warning.
    """
    for _ in range(MOST_STRUCTURES):
        patterns = patterns_of(found)
        moved = {name: model.with_reference(patterns[name].values)
                 for name, model in models.items()}
        if not found.converged or all(moved[name] is model for name, model in models.items()):
            return models, found
        change = sum(
            abs(model.evaluate(patterns[name].values).chi2 - patterns[name].evaluation.chi2)
            for name, model in moved.items() if model is not models[name])
        if change < NOTICEABLE * su_scale(found.agreement.gof) ** 2:
            return models, found
        repeated = again(moved, found)
        if not repeated.converged:
            return models, replace(found, converged=False, stop_reason=repeated.stop_reason)
        models, found = moved, _counted(repeated, found)
    return models, replace(found, warnings=(*found.warnings, (
        f"The atoms of the spheres still changed after {MOST_STRUCTURES} refinements from the "
        "refined structure. Check the centre of the spheres and the structure.")))


def with_calculated_weights(models: Models, found: Fit, again: Again[Fit]) -> tuple[Models, Fit]:
    """The models with sigma of the calculated patterns, and their refinement.

    Raises ValueError if sigma of a pattern is not the square root of counts.
    """
    per_unit = {name: counts_per_unit(model.observation) for name, model in models.items()}
    for _ in range(MOST_SIGMAS):
        patterns = patterns_of(found)
        sigma = {name: calculated_sigma(model, patterns[name], per_unit[name])
                 for name, model in models.items()}
        if not found.converged or all(
                np.abs(sigma[name] / model.observation.sigma - 1).max() < SETTLED
                for name, model in models.items()):
            break
        models = {name: model.with_sigma(sigma[name]) for name, model in models.items()}
        found = _counted(again(models, found), found)
    return models, found


def patterns_of(found: Refinement | SimultaneousRefinement) -> Mapping[str, Refinement]:
    """The refinement of each pattern by name."""
    return {SINGLE: found} if isinstance(found, Refinement) else found.patterns


def _counted(repeated: Fit, found: Fit) -> Fit:
    """A repeated refinement with the cycles and the time of the earlier ones added to its own."""
    return replace(
        repeated, n_cycles=found.n_cycles + repeated.n_cycles,
        n_evaluations=found.n_evaluations + repeated.n_evaluations,
        seconds=found.seconds + repeated.seconds)


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
