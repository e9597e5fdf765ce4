"""Refinement of one pattern: bounded least squares in stages, linear parameters solved inside.

Variable projection with Kaufman's Jacobian: J_p = -(1 - Q Q^T) W (dI/dp) c, Q the basis of the
weighted linear columns. dI/dB and dI/d occupancy are analytic; cell, coordinates and sizes are
differenced, recomputing only the distance channels they touch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from aiida_dse.engine.model.agreement import SERIAL_LIMIT, Agreement
from aiida_dse.engine.model.constraints import constraint_gradient
from aiida_dse.engine.model.derivatives import DIFFERENCE, pattern_derivative
from aiida_dse.engine.model.pattern import Evaluation, PatternModel
from aiida_dse.engine.model.phase import PhaseState
from aiida_dse.engine.model.restraints import Restraint, deviation_slopes, deviations
from aiida_dse.engine.parameters import (
    Parameter,
    ParameterName,
    ParameterStatus,
    is_pattern,
    select,
)
from aiida_dse.engine.units import FloatArray

from .covariance import Covariance, inverse_normal, with_linear
from .leastsquares import Cycle, Descent

#: Noise of a blank, as a share of sigma of the pattern, beyond which a refinement warns: at 0.3 the
#: true sigma is 4 % larger.
BLANK_NOISE = 0.3


class RefinedParameters:
    """Access to the parameters of a refinement by how they took part in it."""

    parameters: dict[str, Parameter]

    @property
    def free(self) -> tuple[Parameter, ...]:
        """The parameters that were refined, those that ended at a bound included."""
        return tuple(p for p in self.parameters.values() if p.status.refined)

    @property
    def undetermined(self) -> tuple[str, ...]:
        """The refined parameters that the data do not determine."""
        return tuple(p.name for p in self.free if p.status is ParameterStatus.UNDETERMINED)


@dataclass(frozen=True)
class Refinement(RefinedParameters):
    """The outcome: parameters with s.u., linear coefficients, agreement and how it ended.

    `covariance` is that of the refined parameters and the linear coefficients together, unscaled.
    """

    values: dict[str, float]
    parameters: dict[str, Parameter]  # all non-linear ones, with s.u. and status
    linear: tuple[Parameter, ...]
    agreement: Agreement
    covariance: Covariance
    evaluation: Evaluation
    converged: bool
    stop_reason: str
    n_cycles: int
    n_evaluations: int
    seconds: float
    warnings: tuple[str, ...] = field(default=())


def default_stages(model: PatternModel) -> list[list[str]]:
    """Cell and mean sizes; then displacements and widths; then coordinates (`KindSpec.stage`)."""
    stages: dict[int, list[str]] = {}
    for name, parameter in model.parameters.items():
        stage = parameter.kind.spec.stage
        if stage is not None:
            stages.setdefault(stage, []).append(name)
    return [stages[stage] for stage in sorted(stages)]


def free_names(model: PatternModel, stages: Sequence[Sequence[str]]) -> list[str]:
    """Parameters that any stage refines, in the order of the model; ValueError for unknown names."""
    names = list(model.parameters)
    constrained = {constraint.target for constraint in model.constraints}
    patterns = [pattern for stage in stages for pattern in stage]
    for pattern in patterns:
        if not is_pattern(pattern):
            model.require(pattern)
    return [name for name in select(patterns, names) if name not in constrained]


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
    ones: EARLY_STAGE). `should_stop` is called after every cycle and ends the refinement with the
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

    def evaluate(self, values: Mapping[str, float]) -> Evaluation:
        self.n_evaluations += 1
        self._last = self.model.evaluate(self.model.constrained(values), self._states)
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
        base = self.at(values)
        return self.projected(base, self.derivatives(base, free, central=central), free)

    def at(self, values: Mapping[str, float]) -> Evaluation:
        """The evaluation at `values`, the last one where these are its values."""
        full = self.model.constrained(values)
        if self._last is None or any(self._last.values[name] != full[name] for name in full):
            return self.evaluate(full)
        return self._last

    def derivatives(
        self, base: Evaluation, free: Sequence[str], *, central: bool = False
    ) -> FloatArray:
        """Derivatives (n_points, n_free) of the weighted calculated pattern, nothing projected."""
        model = self.model
        found = np.empty((len(model.sampling.q), len(free)))
        for column, name in enumerate(free):
            found[:, column] = pattern_derivative(model, base, name, central=central)
        self.n_evaluations += len(free)
        return found / model.observation.sigma[:, None]

    def projected(
        self, base: Evaluation, derivatives: FloatArray, free: Sequence[str]
    ) -> FloatArray:
        """The Jacobian (n_points + n_restraints, n_free) of the residual, linear part solved."""
        basis = base.linear.basis
        pattern = basis @ (basis.T @ derivatives) - derivatives
        if not self.restraints:
            return np.asarray(pattern)
        steps = [self.model.parameters[name].shift * DIFFERENCE for name in free]
        return np.vstack([pattern, -deviation_slopes(self.restraints, base.values, free, steps)])


def outcome(
    problem: PatternProblem, descent: Descent, free: list[str], values: dict[str, float]
) -> Refinement:
    """The refinement that ended at `values`: s.u. from the Jacobian there, flags and warnings.

    Parameters that ended at a bound are held there: they have no s.u., do not widen those of the
    others and are not counted among the refined ones in the agreement.
    """
    model = problem.model
    evaluation = problem.evaluate(values)
    values = dict(evaluation.values)
    bound = {name for name in free if at_bound(model.parameters[name], values[name])}
    moving = [name for name in free if name not in bound]
    derivatives = problem.derivatives(evaluation, moving, central=True)
    projected = problem.projected(evaluation, derivatives, moving)
    restrained = projected[problem.n_points:]
    inverse, lost = inverse_normal(
        projected, np.sqrt((derivatives**2).sum(axis=0) + (restrained**2).sum(axis=0)))
    undetermined = {name for name, is_lost in zip(moving, lost, strict=True) if is_lost}
    active = evaluation.linear.active
    columns = model.linear_columns(evaluation)[:, active] / model.observation.sigma[:, None]
    solved = [name for name, is_active in zip(model.linear_names, active, strict=True) if is_active]
    covariance = Covariance((*moving, *solved), with_linear(inverse, derivatives, columns))
    parameters = refined_parameters(model, values, covariance, free, bound, undetermined)
    fit = model.agreement(evaluation, len(moving))
    linear = linear_parameters(model, evaluation, covariance)
    refined = tuple(p for p in parameters.values() if p.status.refined)
    return Refinement(
        values=values, parameters=parameters, linear=linear, agreement=fit,
        covariance=covariance, evaluation=evaluation, converged=descent.converged,
        stop_reason=descent.reason, n_cycles=descent.n_cycles,
        n_evaluations=problem.n_evaluations, seconds=time.monotonic() - descent.clock,
        warnings=(*fit_warnings(refined, covariance, fit, linear),
                  *blank_warnings(model, evaluation)),
    )


def linear_parameters(
    model: PatternModel, evaluation: Evaluation, covariance: Covariance
) -> tuple[Parameter, ...]:
    """Scales, blanks and background with s.u.; those held at zero or undetermined have none."""
    found = []
    for (name, kind), value, is_active in zip(
        model.linear_kinds.items(), evaluation.linear.coefficients, evaluation.linear.active,
        strict=True,
    ):
        su, status = None, ParameterStatus.AT_BOUND
        if is_active:
            su = covariance.su(name)
            status = ParameterStatus.UNDETERMINED if su is None else ParameterStatus.FREE
        found.append(Parameter(ParameterName(name), kind, float(value),
                               lower=kind.spec.possible[0], su=su, status=status))
    return tuple(found)


def at_bound(start: Parameter, value: float) -> bool:
    """Whether a refined value lies at a bound, within a thousandth of a natural step."""
    width = max(1e-6 * abs(start.value), 1e-3 * start.shift)
    return bool(value - start.lower < width or start.upper - value < width)


def refined_parameters(
    model: PatternModel, values: Mapping[str, float], covariance: Covariance,
    free: Sequence[str], bound: AbstractSet[str], undetermined: AbstractSet[str],
) -> dict[str, Parameter]:
    """All parameters at their refined values with s.u. and status; constrained ones included."""
    moving = [name for name in free if name not in bound]
    # what is constrained to parameters that did not move has no s.u.
    gradient = constraint_gradient(model.constraints, values, moving)
    block = Covariance(tuple(moving), covariance.block(moving))
    found = {}
    for name, start in model.parameters.items():
        su, status = None, ParameterStatus.FIXED
        if name in bound:
            status = ParameterStatus.AT_BOUND
        elif name in undetermined:
            status = ParameterStatus.UNDETERMINED
        elif name in moving:
            su, status = covariance.su(name), ParameterStatus.FREE
        elif name in gradient:
            status = ParameterStatus.CONSTRAINED
            variance = float(block.propagated(gradient[name][None, :])[0, 0])
            su = math.sqrt(variance) if variance > 0 else None
        value = values[name]
        found[name] = start.changed(
            value=value, su=su, status=status,
            lower=min(start.lower, value), upper=max(start.upper, value))
    return found


def blank_warnings(model: PatternModel, evaluation: Evaluation) -> list[str]:
    """Blanks whose own noise, which chi2 does not count, is comparable to that of the pattern."""
    return [
        f"The s.u. of blank {name}, scaled, is {ratio:.2f} times that of the pattern (limit "
        f"{BLANK_NOISE:g}). chi2 does not count it: GoF is too large, and the standard uncertainties "
        "take as signal what is noise of the blank. Measure the blank for longer, or smooth it."
        for name, ratio in model.blank_noise(evaluation).items() if ratio > BLANK_NOISE
    ]


def fit_warnings(
    free: Sequence[Parameter], covariance: Covariance, fit: Agreement, linear: Sequence[Parameter]
) -> list[str]:
    """Warnings about a fit: GoF, bounds, undetermined parameters, correlations, residuals."""
    found = []
    if fit.gof < 1 and fit.n_points > 2 * (1 / max(1e-9, 1 - fit.gof)) ** 2:
        found.append(
            f"GoF = {fit.gof:.3f} is below 1: sigma of the data is overestimated (or its errors are "
            "correlated). The standard uncertainties are not scaled."
        )
    for p in free:
        if p.status is ParameterStatus.AT_BOUND:
            found.append(f"{p.name} = {p.value:.6g} {p.unit} is at its bound and was held there for "
                         "the standard uncertainties; it has none itself. Widen the bound or fix "
                         "the parameter.")
    for p in (*free, *linear):
        if p.status is ParameterStatus.UNDETERMINED:
            found.append(f"{p.name} is not determined by the data (it has no effect, or its effect "
                         "cannot be separated from that of others), so no s.u. is given. Fix or "
                         "restrain it.")
    correlation = covariance.correlation
    names = [p.name for p in free if p.su is not None]
    for k, name in enumerate(names):
        for other in names[:k]:
            r = correlation[covariance.names.index(name), covariance.names.index(other)]
            if abs(r) > 0.9:
                found.append(f"{name} and {other} are correlated, r = {r:+.3f}.")
    found += [f"{p.name} is zero: a negative value is not allowed." for p in linear
              if p.status is ParameterStatus.AT_BOUND]
    if fit.durbin_watson < SERIAL_LIMIT:
        found.append(f"The residuals are serially correlated (Durbin-Watson "
                     f"{fit.durbin_watson:.2f}), so the standard uncertainties are too small.")
    return found
