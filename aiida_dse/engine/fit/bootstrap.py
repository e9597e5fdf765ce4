"""Parametric bootstrap: refinements of patterns that are drawn from the fitted model.

The factor y_i / sigma_i^2 converts the intensity of a point y_i +- sigma_i into counts, and
n_i = ycalc_i y_i / sigma_i^2 is the expected number of counts, so that

    y*_i = Poisson(n_i) sigma_i^2 / y_i

has the fitted pattern as its mean and the counting noise of the measurement. B. Efron and R. J.
Tibshirani, An Introduction to the Bootstrap (1993), chapter 6.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.restraints import Restraint, deviations
from aiida_dse.engine.resources import ONE_THREAD, Resources, StopCheck, spread
from aiida_dse.engine.units import FloatArray

from .refine import Refinement, refine

#: Outcomes of a bootstrap sample.
PENDING, REFINED, NOT_CONVERGED, FAILED = 0, 1, 2, 3
#: Below this y / sigma (nine counts) the noise of a point is drawn from a normal distribution.
LEAST_SIGNAL = 3.0


@dataclass(frozen=True)
class Bootstrap:
    """The refined parameters of every bootstrap sample; nan where a sample has none."""

    names: tuple[str, ...]
    values: FloatArray  # (n_samples, n_free)
    chi2: FloatArray  # (n_samples,) with restraints
    outcome: np.ndarray  # (n_samples,) PENDING, REFINED, NOT_CONVERGED or FAILED
    failures: dict[int, str]
    seed: int
    seconds: float
    stop_reason: str

    @property
    def complete(self) -> bool:
        return bool((self.outcome != PENDING).all())

    @property
    def refined(self) -> FloatArray:
        """The parameters (n_refined, n_free) of the samples whose refinement converged."""
        return np.asarray(self.values[self.outcome == REFINED])


def resampled(
    observed: FloatArray, sigma: FloatArray, calculated: FloatArray, random: np.random.Generator
) -> FloatArray:
    """One pattern (n_points,) with the mean `calculated` and the noise of `observed` +- `sigma`.

    The noise is Poisson noise, or normal with `sigma` where a point has fewer than nine counts or
    its calculated intensity is not positive.
    """
    counted = (observed > LEAST_SIGNAL * sigma) & (calculated > 0)
    per_intensity = np.where(counted, observed, 1.0) / sigma**2
    counts = random.poisson(np.where(counted, calculated * per_intensity, 0.0))
    normal = calculated + sigma * random.normal(size=len(observed))
    return np.asarray(np.where(counted, counts / per_intensity, normal))


def bootstrap(
    model: PatternModel,
    best: Refinement,
    n_samples: int,
    *,
    seed: int = 0,
    restraints: Sequence[Restraint] = (),
    finished: Bootstrap | None = None,
    resources: Resources = ONE_THREAD,
    on_sample: Callable[[Bootstrap, int, int], None] | None = None,
    should_stop: StopCheck | None = None,
) -> Bootstrap:
    """Refine `n_samples` resampled patterns, each from the best values.

    Sample k uses the k-th child of `seed`, so the samples of `finished` are kept and more can be
    requested later. The targets of restraints are resampled as well, because they are data like the
    pattern. Raises ValueError where `finished` has another seed or other parameters.
    """
    clock = time.monotonic()
    names = tuple(p.name for p in best.free)
    values = np.full((n_samples, len(names)), np.nan)
    chi2, outcome = np.full(n_samples, np.nan), np.zeros(n_samples, dtype=np.int8)
    failures: dict[int, str] = {}
    if finished is not None:
        if finished.seed != seed or finished.names != names:
            raise ValueError(
                f"the finished bootstrap samples have the seed {finished.seed} and the parameters "
                f"{', '.join(finished.names)}. Keep both, or start without these samples."
            )
        n = min(n_samples, len(finished.chi2))
        values[:n], chi2[:n] = finished.values[:n], finished.chi2[:n]
        outcome[:n] = finished.outcome[:n]
        failures |= {k: why for k, why in finished.failures.items() if k < n}
    observation, calculated = model.observation, model.calculated(best.evaluation)
    todo = np.flatnonzero(outcome == PENDING).tolist()
    model = model.with_resources(resources.share(resources.workers(len(todo))))
    # the seeds of the first samples do not depend on the number of samples
    seeds = np.random.SeedSequence(seed).spawn(n_samples)

    def work(k: int, stopping: StopCheck) -> Refinement | str | None:
        random = np.random.default_rng(seeds[k])
        intensity = resampled(observation.intensity, observation.sigma, calculated, random)
        targets = [
            replace(r, target=r.value(best.values) + r.sigma * random.normal()) for r in restraints
        ]
        try:
            refined = refine(
                model.with_intensity(intensity), [list(names)], start=best.values,
                previous=best.evaluation.states, restraints=targets, should_stop=stopping,
            )
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as problem:
            return str(problem)
        if not refined.converged and stopping():
            return None
        extra = deviations(targets, refined.values)
        values[k] = [refined.values[name] for name in names]
        chi2[k] = refined.agreement.chi2 + float(extra @ extra)
        return refined

    def state(reason: str) -> Bootstrap:
        return Bootstrap(names, values, chi2, outcome, failures, seed,
                         time.monotonic() - clock, reason)

    def keep(k: int, result: Refinement | str | None) -> None:
        if result is None:
            return
        if isinstance(result, str):
            outcome[k], failures[k] = FAILED, result
        else:
            outcome[k] = REFINED if result.converged else NOT_CONVERGED
        if on_sample:
            on_sample(state("running"), int((outcome != PENDING).sum()), n_samples)

    reason = spread(work, todo, on_done=keep, should_stop=should_stop, resources=resources)
    return state(reason)
