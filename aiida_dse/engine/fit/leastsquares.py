"""Bounded least squares in stages, for one pattern or several patterns together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from aiida_dse.engine.parameters import Parameter
from aiida_dse.engine.units import FloatArray

#: Largest shift / s.u. at which a stage other than the last one ends.
EARLY_STAGE = 5.0
#: Seconds without a report after which the derivatives computed so far are reported.
SILENCE = 5.0
#: Seconds that the first cycle may still take after a request to stop.
PATIENCE = 10.0


class Stopped(Exception):
    """A refinement ends within a cycle, because of a request to stop."""


@dataclass(frozen=True)
class Cycle:
    """Progress of a refinement after one cycle, or within a long one.

    Within a cycle, `derivatives` contains the numbers of computed and of all derivatives, and the GoF
    and the shift are those of the cycle before (nan before the first one).
    """

    stage: int
    n_stages: int
    cycle: int
    gof: float
    largest_shift: float  # in units of the parameter's s.u. estimate
    largest_name: str
    elapsed: float
    derivatives: tuple[int, int] | None = None


class Problem(Protocol):
    """A least-squares problem: a residual and its derivatives as functions of named parameters."""

    #: Why a trial had no residual (an infinite one was returned); '' once a step succeeds.
    refused: str
    #: Called with the numbers of computed and of all derivatives.
    on_derivative: Callable[[int, int], None] | None

    @property
    def parameters(self) -> Mapping[str, Parameter]: ...

    @property
    def n_points(self) -> int:
        """The number of points of the patterns, without restraints."""

    def residual(
        self, values: Mapping[str, float], free: Sequence[str]
    ) -> tuple[FloatArray, float]:
        """The residual vector, restraints included, and the sum of squares of the restraints."""

    def jacobian(self, values: Mapping[str, float], free: Sequence[str]) -> FloatArray:
        """The derivative (n_rows, n_free) of the residual with respect to the free parameters."""


@dataclass
class Descent:
    """A refinement in progress: it runs `least_squares` stage by stage and records the outcome."""

    problem: Problem
    on_cycle: Callable[[Cycle], None] | None
    should_stop: Callable[[], str | None] | None
    clock: float
    n_stages: int
    n_cycles: int = 0
    converged: bool = False
    stopped: str = ""
    reason: str = "nothing to refine"
    _last: Cycle | None = None
    _reported: float = -math.inf
    _asked: float = math.inf  # time of the first request to stop

    def _report(self, cycle: Cycle) -> None:
        self._last, self._reported = cycle, time.monotonic()
        if self.on_cycle:
            self.on_cycle(cycle)

    def _report_derivatives(self, index: int, cycle: int, done: int, total: int) -> None:
        now = time.monotonic()
        if now - max(self._reported, self.clock) < SILENCE:
            return
        if self.should_stop and (why := self.should_stop()):
            # a continued refinement must advance, so the first cycle is completed if it is short
            self._asked = min(self._asked, now)
            if self.n_cycles or now - self._asked > PATIENCE:
                self.stopped = why
                raise Stopped
        last = self._last or Cycle(index + 1, self.n_stages, 0, math.nan, math.nan, "", 0.0)
        self._report(replace(last, stage=index + 1, cycle=cycle, elapsed=now - self.clock,
                             derivatives=(done, total)))

    def run(
        self, stages: Sequence[list[str]], values: dict[str, float], max_cycles: int,
        tolerance: float,
    ) -> tuple[list[str], dict[str, float]]:
        """Run all stages; the free parameters of the last stage begun, and the best values.

        `stages` lists all parameters that are free in each stage. A stage has converged when no
        parameter moves by more than `tolerance` times its s.u. (EARLY_STAGE in all but the last).
        """
        free: list[str] = []
        for index, free in enumerate(stages):
            final = index == len(stages) - 1
            values = self.stage(
                index, free, values, max_cycles, tolerance if final else EARLY_STAGE
            )
            if self.stopped:
                break
        return free, values

    def stage(
        self, index: int, free: list[str], values: dict[str, float], max_cycles: int,
        tolerance: float,
    ) -> dict[str, float]:
        """Run one stage from `values`; the best values."""
        problem = self.problem
        parameters = [problem.parameters[name] for name in free]
        lower = np.array([p.lower for p in parameters])
        upper = np.array([p.upper for p in parameters])
        for p in parameters:
            if not p.lower < p.upper:
                raise ValueError(
                    f"{p.name} cannot be refined, because its bounds {p.lower:g} and {p.upper:g} "
                    f"{p.unit} leave no room. Widen them, or remove the parameter from the stages."
                )
        margin = 1e-9 * np.maximum(1.0, np.abs(upper - lower))
        margin = np.where(np.isfinite(margin), margin, 1e-9)
        begin = np.clip([values[name] for name in free], lower + margin, upper - margin)
        scale = np.array([p.shift for p in parameters])
        best: dict[str, Any] = {"x": begin, "chi2": np.inf, "jacobian": None, "cycle": 0}

        def full(x: FloatArray) -> dict[str, float]:
            return values | dict(zip(free, map(float, x), strict=True))

        def residual(u: FloatArray) -> FloatArray:
            x = np.clip(u * scale, lower, upper)
            vector, restrained = problem.residual(full(x), free)
            total = float(vector @ vector)
            if total < best["chi2"]:
                best.update(x=x, chi2=total, restrained=restrained)
            return vector

        def jacobian(u: FloatArray) -> FloatArray:
            x = np.clip(u * scale, lower, upper)
            matrix = problem.jacobian(full(x), free) * scale
            if not np.abs(matrix).max() > 0:
                raise ValueError(
                    f"none of the free parameters ({', '.join(free[:5])}) has any effect on the "
                    "pattern; the scale of their phase may be zero. Check phases, scales and "
                    "starting values."
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
            chi2 = 2 * intermediate_result.cost - best["restrained"]
            gof = float(np.sqrt(chi2 / max(1, problem.n_points - len(free))))
            self._report(Cycle(
                index + 1, self.n_stages, best["cycle"], gof, float((shift * curvature)[largest]),
                free[largest], time.monotonic() - self.clock))
            # a small step does not indicate convergence after a larger one was refused
            if shift[largest] * curvature[largest] >= tolerance:
                problem.refused = ""
            elif not problem.refused:
                best["settled"] = True
                raise StopIteration
            if self.should_stop and (why := self.should_stop()):
                self.stopped = why
                raise StopIteration

        from scipy.optimize import least_squares  # slow to load; simulations and maps do not need it

        problem.refused = ""
        problem.on_derivative = lambda done, total: self._report_derivatives(
            index, best["cycle"], done, total)
        try:
            result = least_squares(
                residual, begin / scale, jacobian, bounds=(lower / scale, upper / scale),
                method="trf", x_scale="jac", xtol=1e-9, ftol=1e-10, gtol=None,
                max_nfev=max_cycles, callback=callback,
            )
            self.converged = bool(result.status > 0)
            self.reason = {
                0: f"stopped after {max_cycles} evaluations without converging",
                2: "converged: the sum of squares no longer decreases",
                3: "converged: the parameters no longer change",
                4: "converged: neither the parameters nor the sum of squares change",
            }.get(int(result.status), self.stopped or str(result.message))
            if best.get("settled"):
                self.converged = True
                self.reason = f"converged: no parameter moves by more than {tolerance:g} s.u."
            elif problem.refused and self.converged:
                self.converged, self.reason = False, f"stopped: {problem.refused}"
        except (KeyboardInterrupt, StopIteration, Stopped) as ended:
            self.stopped = self.stopped or (
                "interrupted" if isinstance(ended, KeyboardInterrupt) else "stopped"
            )
        self._settle()
        return full(best["x"])

    def _settle(self) -> None:
        """A refinement that was stopped has not converged."""
        if self.stopped:
            self.converged = False
            self.reason = self.stopped

    def unless_stopped(self, derivatives: Callable[[], FloatArray]) -> FloatArray | None:
        """Derivatives at the end of a refinement; None if it was or is stopped before."""
        if self.stopped:
            return None
        try:
            return derivatives()
        except Stopped:
            self._settle()
            return None

