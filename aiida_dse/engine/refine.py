"""Bounded, staged least squares on the non-linear parameters, the linear ones solved inside.

Variable projection with Kaufman's Jacobian: J_p = -(1 - Q Q^T) W (dI/dp) c, Q the basis of the
weighted linear columns. dI/dB and dI/d occupancy are analytic; cell, coordinates and sizes are
differenced, recomputing only the distance channels they touch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from .agreement import SERIAL_LIMIT, Agreement
from .derivatives import pattern_derivative, typical_shift
from .parameters import Parameter, select
from .pattern import Evaluation, PatternModel
from .phase import PhaseState
from .restraints import Restraint, deviation_slopes, deviations
from .units import FloatArray

#: Relative singular value below which a direction of parameter space is undetermined.
SINGULAR = 1e-5
#: Largest shift / s.u. at which a stage that others follow has done enough.
EARLY_STAGE = 5.0


@dataclass(frozen=True)
class Cycle:
    """Progress of a refinement after one cycle."""

    stage: int
    n_stages: int
    cycle: int
    gof: float
    largest_shift: float  # in units of the parameter's s.u. estimate
    largest_name: str
    elapsed: float


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
    free: list[str] = []
    values = dict(start or model.start)
    run = Run(model, on_cycle, should_stop, clock, len(stages), previous, restraints)
    for index in range(len(stages)):
        free = free_names(model, stages[: index + 1])
        final = index == len(stages) - 1
        values = run.stage(index, free, values, max_cycles, tolerance if final else EARLY_STAGE)
        if run.stopped:
            break
    return run.outcome(free, values)


class Run:
    """One refinement on its way: counts, the states to go on from, and the outcome."""

    def __init__(
        self,
        model: PatternModel,
        on_cycle: Callable[[Cycle], None] | None,
        should_stop: Callable[[], str | None] | None,
        clock: float,
        n_stages: int,
        previous: Sequence[PhaseState] | None,
        restraints: Sequence[Restraint] = (),
    ) -> None:
        self.model = model
        self.restraints = restraints
        self.on_cycle = on_cycle
        self.should_stop = should_stop
        self.clock = clock
        self.n_stages = n_stages
        self.n_evaluations = 0
        self.n_cycles = 0
        self.converged = False
        self.stopped = ""
        self.reason = "nothing to refine"
        self._states = previous
        self._last: Evaluation | None = None

    def evaluate(self, values: Mapping[str, float]) -> Evaluation:
        self.n_evaluations += 1
        self._last = self.model.evaluate(self.model.tied(values), self._states)
        self._states = self._last.states
        return self._last

    def stage(
        self, index: int, free: list[str], values: dict[str, float], max_cycles: int,
        tolerance: float,
    ) -> dict[str, float]:
        parameters = [self.model.parameters[name] for name in free]
        lower = np.array([p.lower for p in parameters])
        upper = np.array([p.upper for p in parameters])
        for p in parameters:
            if not p.lower < p.upper:
                raise ValueError(
                    f"{p.name} is to be refined between {p.lower:g} and {p.upper:g} {p.unit}, "
                    "which leaves it no room. Widen its bounds, or take it out of the stages."
                )
        margin = 1e-9 * np.maximum(1.0, np.abs(upper - lower))
        margin = np.where(np.isfinite(margin), margin, 1e-9)
        begin = np.clip([values[name] for name in free], lower + margin, upper - margin)
        scale = np.array([typical_shift(p) for p in parameters])
        best: dict[str, Any] = {"x": begin, "chi2": np.inf, "jacobian": None, "cycle": 0}

        def full(x: FloatArray) -> dict[str, float]:
            return values | dict(zip(free, map(float, x), strict=True))

        def residual(u: FloatArray) -> FloatArray:
            x = np.clip(u * scale, lower, upper)
            evaluation = self.evaluate(full(x))
            # the pattern's residual is (observed - calculated) / sigma
            extra = -deviations(self.restraints, evaluation.values)
            total = evaluation.chi2 + float(extra @ extra)
            if total < best["chi2"]:
                best.update(x=x, chi2=total)
            return np.concatenate([evaluation.linear.residual, extra])

        def jacobian(u: FloatArray) -> FloatArray:
            x = np.clip(u * scale, lower, upper)
            matrix = self.jacobian(full(x), free) * scale
            if not np.abs(matrix).max() > 0:
                raise ValueError(
                    f"no free parameter ({', '.join(free[:5])}) has any effect on the pattern: is "
                    "the scale of its phase zero? Check phases, scales and starting values."
                )
            best["jacobian"] = matrix
            return np.asarray(matrix)

        def callback(intermediate_result) -> None:  # type: ignore[no-untyped-def]
            self.n_cycles += 1
            best["cycle"] += 1
            x = intermediate_result.x * scale
            shift = np.abs(x - best.get("previous", begin))
            best["previous"] = x
            curvature = np.sqrt(np.sum((best["jacobian"] / scale) ** 2, axis=0))
            largest = int(np.argmax(shift * curvature))
            n_points = len(self.model.observation.q)
            extra = deviations(self.restraints, full(x))
            chi2 = 2 * intermediate_result.cost - float(extra @ extra)
            gof = float(np.sqrt(chi2 / max(1, n_points - len(free))))
            if self.on_cycle:
                self.on_cycle(
                    Cycle(index + 1, self.n_stages, best["cycle"], gof,
                          float((shift * curvature)[largest]), free[largest],
                          time.monotonic() - self.clock)
                )
            if shift[largest] * curvature[largest] < tolerance:
                best["settled"] = True
                raise StopIteration
            if self.should_stop and (why := self.should_stop()):
                self.stopped = why
                raise StopIteration

        try:
            result = least_squares(
                residual, begin / scale, jacobian, bounds=(lower / scale, upper / scale),
                method="trf", x_scale="jac", xtol=1e-9, ftol=1e-10, gtol=None,
                max_nfev=max_cycles, callback=callback,
            )
            self.converged = bool(result.status > 0)
            self.reason = {
                0: f"stopped after {max_cycles} evaluations without converging",
                2: "converged: the sum of squares no longer falls",
                3: "converged: the parameters no longer move",
                4: "converged: neither parameters nor sum of squares change",
            }.get(int(result.status), self.stopped or str(result.message))
            if best.get("settled"):
                self.converged = True
                self.reason = f"converged: no parameter moves by more than {tolerance:g} s.u."
        except (KeyboardInterrupt, StopIteration) as ended:
            self.stopped = self.stopped or (
                "interrupted" if isinstance(ended, KeyboardInterrupt) else "stopped"
            )
        if self.stopped:
            self.converged = False
            self.reason = self.stopped
        return full(best["x"])

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

    def outcome(self, free: list[str], values: dict[str, float]) -> Refinement:
        model = self.model
        evaluation = self.evaluate(values)
        values = dict(evaluation.values)
        jacobian = self.jacobian(values, free, central=True)
        covariance, correlation, insensitive = _covariance(jacobian)
        refined = []
        for k, name in enumerate(free):
            p = model.parameters[name]
            width = 1e-6 * max(abs(p.value), typical_shift(p))
            refined.append(
                Parameter(
                    name, values[name], p.unit, p.lower, p.upper,
                    su=None if insensitive[k] else float(np.sqrt(covariance[k, k])),
                    at_bound=bool(values[name] - p.lower < width or p.upper - values[name] < width),
                    insensitive=bool(insensitive[k]),
                )
            )
        fit = model.agreement(evaluation, len(free))
        linear = _linear_parameters(model, evaluation)
        return Refinement(
            values=values, free=tuple(refined), linear=linear, agreement=fit,
            correlation=correlation, covariance=covariance, evaluation=evaluation,
            converged=self.converged, singular=bool(insensitive.any()), stop_reason=self.reason,
            n_cycles=self.n_cycles, n_evaluations=self.n_evaluations,
            seconds=time.monotonic() - self.clock,
            warnings=tuple(fit_warnings(refined, correlation, fit, linear)),
        )


def _covariance(jacobian: FloatArray) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """Unscaled covariance, correlation, and which parameters have no effect on the pattern."""
    n = jacobian.shape[1]
    if n == 0:
        return np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0, dtype=bool)
    length = np.linalg.norm(jacobian, axis=0)
    flat = length <= 1e-12 * max(length.max(), 1e-300)
    scaled = jacobian / np.where(flat, 1.0, length)
    _, singular, vectors = np.linalg.svd(scaled, full_matrices=False)
    keep = singular > SINGULAR * singular[0]
    undetermined = flat | (np.abs(vectors[~keep]) > 0.1).any(axis=0)
    inverse = (vectors[keep].T / singular[keep] ** 2) @ vectors[keep]
    spread = np.where(flat, np.nan, 1 / np.where(flat, 1.0, length))
    covariance = inverse * np.outer(spread, spread)
    deviation = np.sqrt(np.diag(inverse))
    deviation = np.where(deviation > 0, deviation, 1.0)
    return covariance, inverse / np.outer(deviation, deviation), undetermined


def _linear_parameters(model: PatternModel, evaluation: Evaluation) -> tuple[Parameter, ...]:
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
