"""Bounded, staged least squares on the non-linear parameters, the linear ones solved inside.

Variable projection with Kaufman's Jacobian: J_p = -(1 - Q Q^T) W (dI/dp) c, Q the basis of the
weighted linear columns. dI/dB and dI/d occupancy are analytic; cell, coordinates and sizes are
differenced, recomputing only the distance channels they touch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aiida_dse.engine.model.agreement import SERIAL_LIMIT, Agreement
from aiida_dse.engine.model.derivatives import pattern_derivative, typical_shift
from aiida_dse.engine.model.parameters import Parameter, select
from aiida_dse.engine.model.pattern import Evaluation, PatternModel
from aiida_dse.engine.model.phase import PhaseState
from aiida_dse.engine.model.restraints import Restraint, deviation_slopes, deviations
from aiida_dse.engine.units import FloatArray

from .leastsquares import Cycle, Descent, covariance_of, refined_parameter


@dataclass(frozen=True)
class Refinement:
    """The outcome: parameters with s.u., linear coefficients, agreement and how it ended."""

    values: dict[str, float]
    free: tuple[Parameter, ...]
    linear: tuple[Parameter, ...]
    agreement: Agreement
    correlation: FloatArray
    covariance: FloatArray
    evaluation: Evaluation
    converged: bool
    singular: bool
    stop_reason: str
    n_cycles: int
    n_evaluations: int
    seconds: float
    warnings: tuple[str, ...] = field(default=())


def default_stages(model: PatternModel) -> list[list[str]]:
    """Cell and mean sizes; then displacements and widths; then coordinates."""
    names = list(model.parameters)
    local = {name: name.partition(".")[2] for name in names}
    lattice = [n for n in names if local[n] in
               ("a", "b", "c", "alpha", "beta", "gamma", "expansion", "L_ab", "L_c", "L", "D")]
    spread = [n for n in names if n.endswith(".B") or local[n].startswith("sd_")]
    coordinates = [n for n in names if n[-2:] in (".x", ".y", ".z")]
    return [stage for stage in (lattice, spread, coordinates) if stage]


def free_names(model: PatternModel, stages: Sequence[Sequence[str]]) -> list[str]:
    """What the stages free together, in the model's order; ValueError for unknown names."""
    names = list(model.parameters)
    tied = {tie.target for tie in model.ties}
    patterns = [pattern for stage in stages for pattern in stage]
    for pattern in patterns:
        if not any(c in pattern for c in "*?["):
            model.require(pattern)
    return [name for name in select(patterns, names) if name not in tied]


def refine(
    model: PatternModel,
    stages: Sequence[Sequence[str]],
    *,
    max_cycles: int = 60,
    tolerance: float = 0.01,
    on_cycle: Callable[[Cycle], None] | None = None,
    start: Mapping[str, float] | None = None,
    should_stop: Callable[[], str | None] | None = None,
    previous: Sequence[PhaseState] | None = None,
    restraints: Sequence[Restraint] = (),
) -> Refinement:
    """Refine stage after stage; every stage frees its parameters on top of the earlier ones.

    `stages` holds parameter names or wildcards. Raises ValueError for names that cannot be free.
    A stage has converged when no parameter moves by more than `tolerance` of its s.u. (the early
    ones: EARLY_STAGE). `should_stop` is asked after every cycle and ends the refinement with the
    reason it returns. `restraints` join the sum of squares and the covariance, not the GoF.
    """
    clock = time.monotonic()
    problem = PatternProblem(model, restraints, previous)
    descent = Descent(problem, on_cycle, should_stop, clock, len(stages))
    opened = [free_names(model, stages[: k + 1]) for k in range(len(stages))]
    free, values = descent.run(opened, dict(start or model.start), max_cycles, tolerance)
    return outcome(problem, descent, free, values)


class PatternProblem:
    """One pattern and the restraints on its model as a least-squares problem."""

    def __init__(
        self, model: PatternModel, restraints: Sequence[Restraint] = (),
        previous: Sequence[PhaseState] | None = None,
    ) -> None:
        self.model = model
        self.restraints = restraints
        self.refused = ""
        self.n_evaluations = 0
        self._states = previous
        self._last: Evaluation | None = None

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return self.model.parameters

    @property
    def n_points(self) -> int:
        return len(self.model.observation.q)

    def typical_shift(self, name: str) -> float:
        return typical_shift(self.model.parameters[name])

    def evaluate(self, values: Mapping[str, float]) -> Evaluation:
        self.n_evaluations += 1
        self._last = self.model.evaluate(self.model.tied(values), self._states)
        self._states = self._last.states
        return self._last

    def residual(
        self, values: Mapping[str, float], free: Sequence[str] = ()
    ) -> tuple[FloatArray, float]:
        evaluation = self.evaluate(values)
        # the pattern's residual is (observed - calculated) / sigma
        extra = -deviations(self.restraints, evaluation.values)
        return np.concatenate([evaluation.linear.residual, extra]), float(extra @ extra)

    def jacobian(
        self, values: Mapping[str, float], free: Sequence[str], *, central: bool = False
    ) -> FloatArray:
        """Derivative of the weighted residual, linear part projected out, then of the restraints.

        (n_points + n_restraints, n_free).
        """
        model = self.model
        values = model.tied(values)
        base = self._last
        if base is None or any(base.values[name] != values[name] for name in values):
            base = self.evaluate(values)
        derivatives = np.empty((len(model.sampling.q), len(free)))
        for column, name in enumerate(free):
            derivatives[:, column] = pattern_derivative(model, base, name, central=central)
        self.n_evaluations += len(free)
        weighted = -derivatives / model.observation.sigma[:, None]
        basis = base.linear.basis
        pattern = weighted - basis @ (basis.T @ weighted)
        if not self.restraints:
            return np.asarray(pattern)
        steps = [typical_shift(model.parameters[name]) * 1e-3 for name in free]
        return np.vstack([pattern, -deviation_slopes(self.restraints, values, free, steps)])


def outcome(
    problem: PatternProblem, descent: Descent, free: list[str], values: dict[str, float]
) -> Refinement:
    """The refinement that ended at `values`: s.u. from the Jacobian there, flags and warnings."""
    model = problem.model
    evaluation = problem.evaluate(values)
    values = dict(evaluation.values)
    covariance, correlation, insensitive = covariance_of(
        problem.jacobian(values, free, central=True)
    )
    refined = tuple(
        refined_parameter(model.parameters[name], values[name], problem.typical_shift(name),
                          covariance[k, k], insensitive[k])
        for k, name in enumerate(free)
    )
    fit = model.agreement(evaluation, len(free))
    linear = linear_parameters(model, evaluation)
    return Refinement(
        values=values, free=refined, linear=linear, agreement=fit,
        correlation=correlation, covariance=covariance, evaluation=evaluation,
        converged=descent.converged, singular=bool(insensitive.any()),
        stop_reason=descent.reason, n_cycles=descent.n_cycles,
        n_evaluations=problem.n_evaluations, seconds=time.monotonic() - descent.clock,
        warnings=tuple(fit_warnings(refined, correlation, fit, linear)),
    )


def linear_parameters(model: PatternModel, evaluation: Evaluation) -> tuple[Parameter, ...]:
    """Scales, traces and background with the s.u. they have at fixed non-linear parameters."""
    columns = np.hstack([model._free, model._traces, evaluation.columns])
    active = evaluation.linear.active
    weighted = columns[:, active] / model.observation.sigma[:, None]
    length = np.linalg.norm(weighted, axis=0)
    variance = np.diag(np.linalg.pinv((weighted / length).T @ (weighted / length))) / length**2
    spread = np.full(len(active), np.nan)
    spread[active] = np.sqrt(variance)
    return tuple(
        Parameter(name, float(value), "", su=float(su) if np.isfinite(su) else None,
                  at_bound=not is_active)
        for name, value, su, is_active in zip(
            model.linear_names, evaluation.linear.coefficients, spread, active, strict=True
        )
    )


def fit_warnings(
    free: Sequence[Parameter], correlation: FloatArray, fit: Agreement, linear: Sequence[Parameter]
) -> list[str]:
    """What a referee would want to know before believing the numbers."""
    found = []
    if fit.gof < 1 and fit.n_points > 2 * (1 / max(1e-9, 1 - fit.gof)) ** 2:
        found.append(
            f"GoF = {fit.gof:.3f} is below 1: the data's sigma is overestimated (or its errors are "
            "correlated); standard uncertainties are left unscaled."
        )
    for k, p in enumerate(free):
        if p.at_bound:
            found.append(f"{p.name} = {p.value:.6g} {p.unit} ended at its bound; its s.u. means "
                         "little. Widen the bound or fix the parameter.")
        if p.insensitive:
            found.append(f"{p.name} has no effect on the pattern or cannot be told from others; "
                         "it has no s.u. Fix it.")
        for j in range(k):
            if abs(correlation[k, j]) > 0.9:
                found.append(f"{p.name} and {free[j].name} are correlated, "
                             f"r = {correlation[k, j]:+.3f}.")
    found += [f"{p.name} is zero: non-negativity holds it there." for p in linear if p.at_bound]
    if fit.durbin_watson < SERIAL_LIMIT:
        found.append(f"residuals are serially correlated (Durbin-Watson {fit.durbin_watson:.2f}); "
                     "the standard uncertainties are too small.")
    return found
