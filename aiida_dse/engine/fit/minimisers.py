"""Minimisers other than least squares: COBYQA without derivatives, differential evolution.

Both are scipy's and use the values of chi2 only, with the linear coefficients solved in every
evaluation. They are slower than least squares by one to two orders of magnitude, but independent of
its Jacobian: use them as a check, and where the starting values are poor.

- cobyqa: bounded trust-region models from values only (Ragonneau & Zhang, 2022), stage by stage;
- differential_evolution: a population over the starting ranges of all parameters at once (Storn &
  Price, J. Global Optim. 11 (1997) 341), whose best member least squares polishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.restraints import Restraint, deviations
from aiida_dse.engine.units import FloatArray

from .leastsquares import Descent
from .refine import PatternProblem, Refinement, free_names, outcome, refine

METHODS = ("least_squares", "cobyqa", "differential_evolution")
#: Members of the population per parameter.
MEMBERS = 8


@dataclass(frozen=True)
class Evaluations:
    """Progress of a minimiser that counts evaluations."""

    method: str
    evaluations: int
    limit: int
    best_gof: float
    elapsed: float


def refine_without_derivatives(
    model: PatternModel,
    stages: Sequence[Sequence[str]],
    method: str,
    *,
    max_cycles: int = 60,
    tolerance: float = 0.01,
    seed: int = 0,
    on_progress: Callable[[Evaluations], None] | None = None,
    start: Mapping[str, float] | None = None,
    should_stop: Callable[[], str | None] | None = None,
    restraints: Sequence[Restraint] = (),
) -> Refinement:
    """Minimise chi2 by 'cobyqa' or 'differential_evolution'.

    A cycle is as many evaluations as one cycle of least squares (the number of free parameters
    plus one), or one generation. cobyqa stops when its trust region is as small as `tolerance`
    times the natural step of every parameter. The outcome and its s.u. are those of `refine`.
    Raises ValueError for an unknown method.
    """
    if method not in METHODS[1:]:
        raise ValueError(f"the method '{method}' is unknown; use one of {', '.join(METHODS)}.")
    search = _Search(model, method, start, on_progress, should_stop, restraints)
    free = free_names(model, stages)
    if method == "cobyqa":
        for index in range(len(stages)):
            part = free_names(model, stages[: index + 1])
            search.descend(part, max_cycles * (len(part) + 1), tolerance)
            if search.stopped:
                break
        return search.outcome(free)
    search.evolve(free, max_cycles, seed)
    if search.stopped:
        return search.outcome(free)
    polished = refine(
        model, [free], max_cycles=max_cycles, tolerance=tolerance, start=search.best,
        should_stop=should_stop, restraints=restraints,
    )
    return replace(
        polished, seconds=time.monotonic() - search.clock,
        n_evaluations=polished.n_evaluations + search.problem.n_evaluations,
        n_cycles=polished.n_cycles + search.n_cycles,
        stop_reason=f"{search.reason}; polished by least squares: {polished.stop_reason}"
        if polished.converged else polished.stop_reason,
    )


class _Search:
    def __init__(
        self, model: PatternModel, method: str, start: Mapping[str, float] | None,
        on_progress: Callable[[Evaluations], None] | None,
        should_stop: Callable[[], str | None] | None,
        restraints: Sequence[Restraint],
    ) -> None:
        self.clock = time.monotonic()
        self.model, self.method, self.restraints = model, method, restraints
        self.problem = PatternProblem(model, restraints)
        self.n_cycles = 0
        self.on_progress, self.should_stop = on_progress, should_stop
        self.best = model.constrained(dict(start or model.start))
        self.best_chi2 = np.inf
        self.gof, self.limit = np.inf, 0
        self.stopped, self.reason, self.converged = "", "nothing to refine", False

    def chi2(self, names: Sequence[str], x: FloatArray) -> float:
        """chi2 with restraints; infinite where the particle or the linear part is impossible."""
        values = dict(self.best) | dict(zip(names, map(float, x), strict=True))
        try:
            evaluation = self.problem.evaluate(values)
        except ValueError:
            return float("inf")
        extra = deviations(self.restraints, evaluation.values)
        total = evaluation.chi2 + float(extra @ extra)
        if total < self.best_chi2:
            self.best_chi2, self.best = total, dict(evaluation.values)
            n_points = len(self.model.observation.q)
            self.gof = float(np.sqrt(evaluation.chi2 / max(1, n_points - len(names))))
        return total

    def report(self) -> None:
        """Report progress; raise StopIteration where there is a reason to stop."""
        self.n_cycles += 1
        if self.on_progress:
            self.on_progress(Evaluations(self.method, self.problem.n_evaluations, self.limit,
                                         self.gof, time.monotonic() - self.clock))
        if self.should_stop and (why := self.should_stop()):
            self.stopped = why
            raise StopIteration

    def descend(self, names: Sequence[str], evaluations: int, tolerance: float) -> None:
        """Run COBYQA in units of the natural steps, from the best values so far."""
        from scipy.optimize import Bounds, minimize  # slow to load

        parameters = [self.model.parameters[name] for name in names]
        scale = np.array([p.shift for p in parameters])
        bounds = Bounds(np.array([p.lower for p in parameters]) / scale,
                        np.array([p.upper for p in parameters]) / scale)
        begin = np.array([self.best[name] for name in names]) / scale
        self.limit = self.problem.n_evaluations + evaluations
        unit = max(1.0, self.chi2(names, begin * scale) / len(self.model.observation.q))

        def objective(u: FloatArray) -> float:
            value = self.chi2(names, np.clip(u, bounds.lb, bounds.ub) * scale)
            # finite, because the method builds models from the values of the objective
            return value / unit if np.isfinite(value) else 1e12

        def callback(intermediate_result: Any) -> None:
            self.report()

        options = {"maxfev": evaluations, "initial_tr_radius": 2.0, "final_tr_radius": tolerance}
        try:
            result = minimize(objective, begin, method="COBYQA", bounds=bounds, options=options,
                              callback=callback)
        except (KeyboardInterrupt, StopIteration):
            self.stopped = self.stopped or "interrupted"
            return
        if self.stopped:
            return
        self.converged = bool(result.status == 0)
        self.reason = (
            f"converged: the trust region has shrunk to {tolerance:g} natural steps"
            if self.converged
            else f"stopped after {evaluations} evaluations without converging"
        )

    def evolve(self, names: Sequence[str], generations: int, seed: int) -> None:
        """Run differential evolution over the starting ranges of the parameters."""
        from scipy.optimize import differential_evolution  # slow to load

        parameters = [self.model.parameters[name] for name in names]
        boxes = [p.start_range(self.best[p.name]) for p in parameters]
        begin = np.array([self.best[name] for name in names])
        self.limit = (generations + 1) * MEMBERS * len(names)

        def callback(intermediate_result: Any) -> None:
            self.report()

        try:
            result = differential_evolution(
                lambda x: self.chi2(names, x), boxes, maxiter=generations, popsize=MEMBERS,
                init="sobol", x0=np.clip(begin, *np.array(boxes).T), rng=seed, polish=False,
                tol=1e-3, callback=callback,
            )
        except (KeyboardInterrupt, StopIteration):
            self.stopped = self.stopped or "interrupted"
            return
        if not self.stopped:
            self.converged = bool(result.success)
            self.reason = (f"differential evolution: the population has "
                           f"{'' if result.success else 'not '}contracted after {result.nit} "
                           "generations")

    def outcome(self, free: list[str]) -> Refinement:
        descent = Descent(
            self.problem, None, None, self.clock, 1, self.n_cycles,
            self.converged and not self.stopped, reason=self.stopped or self.reason,
        )
        return outcome(self.problem, descent, free, self.best)
