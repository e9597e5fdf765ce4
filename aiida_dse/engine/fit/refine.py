"""Refinement of one pattern: bounded least squares in stages, with the linear part solved inside.

Variable projection with Kaufman's Jacobian: J_p = -(1 - Q Q^T) W (dI/dp) c, with Q a basis of the
weighted linear columns. The derivatives with respect to B_iso and occupancies are analytic; those
with respect to cell parameters, coordinates and sizes are finite differences, for which only the
affected distance channels are recomputed.
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
    Kind,
    Parameter,
    ParameterName,
    ParameterStatus,
    is_pattern,
    select,
)
from aiida_dse.engine.units import FloatArray

from .covariance import Covariance, inverse_normal, with_linear
from .leastsquares import Cycle, Descent
from .narrow import descend_from_wider, narrow_warnings

#: Noise of a scaled blank, as a fraction of sigma of the pattern, above which a refinement warns.
#: At 0.3 the true sigma is 4 % larger.
BLANK_NOISE = 0.3


#: GoF above which serially correlated residuals may be due to the widths of the peaks.
WIDTHS_DOUBTFUL = 1.5
#: GoF above which a refinement is no description of the data.
NO_FIT = 5.0


class RefinedParameters:
    """The parameters of a refinement, selected by their status."""

    parameters: dict[str, Parameter]

    @property
    def free(self) -> tuple[Parameter, ...]:
        """The refined parameters, including those that ended at a bound."""
        return tuple(p for p in self.parameters.values() if p.status.refined)

    @property
    def undetermined(self) -> tuple[str, ...]:
        """The refined parameters that the data do not determine."""
        return tuple(p.name for p in self.free if p.status is ParameterStatus.UNDETERMINED)


@dataclass(frozen=True)
class Refinement(RefinedParameters):
    """The outcome of a refinement: parameters with s.u., linear coefficients and agreement.

    `covariance` is the unscaled joint covariance of refined parameters and linear coefficients.
    """

    values: dict[str, float]
    parameters: dict[str, Parameter]  # all non-linear parameters, with s.u. and status
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
    """The default stages: cell and mean sizes, B_iso and size widths, coordinates.

    The kinds of parameters are distributed over the stages by `KindSpec.stage`.
    """
    stages: dict[int, list[str]] = {}
    for name, parameter in model.parameters.items():
        stage = parameter.kind.spec.stage
        if stage is not None:
            stages.setdefault(stage, []).append(name)
    return [stages[stage] for stage in sorted(stages)]


def free_names(model: PatternModel, stages: Sequence[Sequence[str]]) -> list[str]:
    """The parameters that any of the stages refines, in the order of the model.

    Raises ValueError for unknown names.
    """
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
    """Refine a model in stages; every stage frees its parameters in addition to the earlier ones.

    `stages` holds parameter names or wildcards. A stage has converged when no parameter moves by
    more than `tolerance` times its s.u. (EARLY_STAGE in all but the last). `should_stop` is called
    after every cycle and ends the refinement with the reason that it returns. `restraints`
    contribute to the sum of squares and the covariance, but not to the GoF. Raises ValueError for
    names that cannot be free.
    """
    clock = time.monotonic()
    problem = PatternProblem(model, restraints, previous)
    descent = Descent(problem, on_cycle, should_stop, clock, len(stages))
    opened = [free_names(model, stages[: k + 1]) for k in range(len(stages))]
    free, values = descent.run(opened, dict(start or model.start), max_cycles, tolerance)
    if opened:
        values = descend_from_wider(
            model, problem, descent, opened, values, max_cycles, tolerance)
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
        self.on_derivative: Callable[[int, int], None] | None = None
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
        """The residual; infinite for values that have no pattern, except for the first values."""
        try:
            evaluation = self.evaluate(values)
        except ValueError as problem:
            if self._last is None:
                raise
            # an infinite sum of squares makes the search shorten its step
            self.refused = str(problem)
            return np.full(self.n_points + len(self.restraints), np.inf), 0.0
        # negative, because the residual of the pattern is (observed - calculated) / sigma
        extra = -deviations(self.restraints, evaluation.values)
        return np.concatenate([evaluation.linear.residual, extra]), float(extra @ extra)

    def jacobian(
        self, values: Mapping[str, float], free: Sequence[str], *, central: bool = False
    ) -> FloatArray:
        """The Jacobian (n_points + n_restraints, n_free) of the residual.

        The linear part is projected out. The rows of the pattern precede those of the restraints.
        """
        base = self.at(values)
        return self.projected(base, self.derivatives(base, free, central=central), free)

    def at(self, values: Mapping[str, float]) -> Evaluation:
        """The evaluation at `values`; it is not repeated where the last one had these values."""
        full = self.model.constrained(values)
        if self._last is None or any(self._last.values[name] != full[name] for name in full):
            return self.evaluate(full)
        return self._last

    def derivatives(
        self, base: Evaluation, free: Sequence[str], *, central: bool = False
    ) -> FloatArray:
        """Derivatives (n_points, n_free) of the weighted calculated pattern, without projection."""
        model = self.model
        slopes = np.empty((model.n_points, len(free)))
        for column, name in enumerate(free):
            slopes[:, column] = pattern_derivative(model, base, name, central=central)
            if self.on_derivative:
                self.on_derivative(column + 1, len(free))
        self.n_evaluations += len(free)
        return slopes / model.observation.sigma[:, None]

    def projected(
        self, base: Evaluation, derivatives: FloatArray, free: Sequence[str]
    ) -> FloatArray:
        """The Jacobian of the residual (see `jacobian`) from derivatives of the pattern."""
        basis = base.linear.basis
        pattern = basis @ (basis.T @ derivatives) - derivatives
        if not self.restraints:
            return np.asarray(pattern)
        steps = [self.model.parameters[name].shift * DIFFERENCE for name in free]
        return np.vstack([pattern, -deviation_slopes(self.restraints, base.values, free, steps)])


def outcome(
    problem: PatternProblem, descent: Descent, free: list[str], values: dict[str, float]
) -> Refinement:
    """The outcome of a refinement that ended at `values`: s.u., status of parameters, warnings.

    Parameters that ended at a bound are held there: they have no s.u., do not increase the s.u. of
    the others, and are not counted as refined parameters in the agreement. A refinement that was
    stopped has no s.u., because their computation may take longer than the time that is left.
    """
    model = problem.model
    evaluation = problem.evaluate(values)
    values = dict(evaluation.values)
    bound = {name for name in free if at_bound(model.parameters[name], values[name])}
    moving = [name for name in free if name not in bound]
    active = evaluation.linear.active
    solved = [name for name, is_active in zip(model.linear_names, active, strict=True) if is_active]
    derivatives = descent.unless_stopped(
        lambda: problem.derivatives(evaluation, moving, central=True))
    if derivatives is None:
        covariance = Covariance.unknown((*moving, *solved))
        return _refinement(problem, descent, evaluation, covariance, free, bound, set())
    projected = problem.projected(evaluation, derivatives, moving)
    restrained = projected[problem.n_points:]
    inverse = inverse_normal(
        projected, np.sqrt((derivatives**2).sum(axis=0) + (restrained**2).sum(axis=0)),
        np.array([model.parameters[name].kind.spec.largest_su(values[name]) for name in moving]))
    undetermined = {name for name, is_lost in zip(moving, inverse.undetermined, strict=True)
                    if is_lost}
    columns = model.linear_columns(evaluation)[:, active] / model.observation.sigma[:, None]
    covariance = Covariance(
        (*moving, *solved), with_linear(inverse.covariance, derivatives, columns), inverse)
    return _refinement(problem, descent, evaluation, covariance, free, bound, undetermined)


def _refinement(
    problem: PatternProblem, descent: Descent, evaluation: Evaluation, covariance: Covariance,
    free: Sequence[str], bound: AbstractSet[str], undetermined: AbstractSet[str],
) -> Refinement:
    """The outcome with the covariance of the refined parameters and linear coefficients."""
    model, values = problem.model, dict(evaluation.values)
    moving = [name for name in free if name not in bound]
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
                  *narrow_warnings(model, values), *blank_warnings(model, evaluation),
                  *resolution_warnings(refined, fit)),
    )


def linear_parameters(
    model: PatternModel, evaluation: Evaluation, covariance: Covariance
) -> tuple[Parameter, ...]:
    """Scales, blanks and background with their s.u.

    Coefficients that are held at zero or undetermined have no s.u.
    """
    coefficients = []
    for (name, kind), value, is_active in zip(
        model.linear_kinds.items(), evaluation.linear.coefficients, evaluation.linear.active,
        strict=True,
    ):
        su, status = None, ParameterStatus.AT_BOUND
        if is_active:
            su = covariance.su(name)
            known = su is not None or covariance.inverse is None
            status = ParameterStatus.FREE if known else ParameterStatus.UNDETERMINED
        coefficients.append(Parameter(ParameterName(name), kind, float(value),
                                      lower=kind.spec.possible[0], su=su, status=status))
    return tuple(coefficients)


def at_bound(start: Parameter, value: float) -> bool:
    """Whether a refined value lies at a bound, within a thousandth of a natural step."""
    width = max(1e-6 * abs(start.value), 1e-3 * start.shift)
    return bool(value - start.lower < width or start.upper - value < width)


def refined_parameters(
    model: PatternModel, values: Mapping[str, float], covariance: Covariance,
    free: Sequence[str], bound: AbstractSet[str], undetermined: AbstractSet[str],
) -> dict[str, Parameter]:
    """All parameters, constrained ones included, at their refined values with s.u. and status."""
    moving = [name for name in free if name not in bound]
    # parameters that are constrained to fixed parameters have no s.u.
    gradient = constraint_gradient(model.constraints, values, moving)
    refined = {}
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
            variance = float(covariance.propagated(gradient[name][None, :], moving)[0, 0])
            su = math.sqrt(variance) if variance > 0 else None
        value = values[name]
        refined[name] = start.changed(
            value=value, su=su, status=status,
            lower=min(start.lower, value), upper=max(start.upper, value))
    return refined


def blank_warnings(model: PatternModel, evaluation: Evaluation) -> list[str]:
    """Warnings about blanks whose noise, which chi2 ignores, is comparable to the pattern's."""
    return [
        f"The s.u. of the scaled blank {name} is {ratio:.2f} times that of the pattern (limit "
        f"{BLANK_NOISE:g}). chi2 does not take it into account, so the GoF is too large, and the "
        "standard uncertainties treat noise of the blank as signal. Measure the blank for longer, "
        "or smooth it."
        for name, ratio in model.blank_noise(evaluation).items() if ratio > BLANK_NOISE
    ]


def resolution_warnings(free: Sequence[Parameter], fit: Agreement) -> list[str]:
    """A warning about refined sizes where the residuals suggest other widths of the peaks.

    The peaks of particles of size L have a width (FWHM) of about 2 pi 0.9 / L in q.
    """
    if not (fit.gof > WIDTHS_DOUBTFUL and fit.durbin_watson < SERIAL_LIMIT):
        return []
    return [
        f"{p.name} = {p.value:.3g} nm may be a property of the instrument: the model has no "
        f"instrumental resolution, and peaks of this size are {2 * np.pi * 0.9 / (10 * p.value):.2g} "
        "1/Å wide (FWHM). If the peaks of a well crystallised standard are not much narrower, the "
        "size is too small."
        for p in free if p.kind is Kind.SIZE and p.su is not None
    ]


def fit_warnings(
    free: Sequence[Parameter], covariance: Covariance, fit: Agreement, linear: Sequence[Parameter]
) -> list[str]:
    """Warnings about a fit: GoF, bounds, undetermined parameters, correlations, residuals."""
    warnings = []
    if fit.gof < 1 and fit.n_points > 2 * (1 / max(1e-9, 1 - fit.gof)) ** 2:
        warnings.append(
            f"GoF = {fit.gof:.3f} is below 1, so sigma of the data is overestimated or its errors "
            "are correlated. The standard uncertainties are not scaled."
        )
    for p in free:
        if p.status is ParameterStatus.AT_BOUND:
            warnings.append(f"{p.name} = {p.value:.6g} {p.unit} is at its bound and was held there "
                            "for the standard uncertainties; it has none itself. Widen the bound "
                            "or fix the parameter.")
    for p in (*free, *linear):
        if p.status is ParameterStatus.UNDETERMINED:
            warnings.append(f"{p.name} is not determined by the data, because it has no effect or "
                            "its effect cannot be separated from that of others. It has no s.u. "
                            "Fix or restrain it.")
    correlation = covariance.correlation
    names = [p.name for p in free if p.su is not None]
    for k, name in enumerate(names):
        for other in names[:k]:
            r = correlation[covariance.names.index(name), covariance.names.index(other)]
            if abs(r) > 0.9:
                warnings.append(f"{name} and {other} are correlated, r = {r:+.3f}.")
    warnings += [f"{p.name} is held at zero, because it cannot be negative." for p in linear
                 if p.status is ParameterStatus.AT_BOUND]
    if fit.gof > NO_FIT:
        warnings.append(
            f"GoF = {fit.gof:.1f} is above {NO_FIT:g}: the model does not describe the pattern, and "
            "the values and standard uncertainties have no meaning. Check the structure, the axis "
            "and its unit, the wavelength, sigma, the background and the blanks.")
    if fit.durbin_watson < SERIAL_LIMIT:
        warnings.append(f"The residuals are serially correlated (Durbin-Watson "
                        f"{fit.durbin_watson:.2f}), so the standard uncertainties are too small.")
    return warnings
