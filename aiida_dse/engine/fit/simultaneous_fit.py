"""Simultaneous refinement: several patterns as one least-squares problem.

The sum of squares is that of all patterns and restraints. Every pattern has its own model, with the
linear part projected out, and contributes J_k G_k to the Jacobian: J_k is the derivative of its
residual with respect to its own parameters, G_k that of its parameters with respect to the
parameters of the simultaneous model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from aiida_dse.engine.model.agreement import Agreement, agreement
from aiida_dse.engine.model.restraints import Restraint
from aiida_dse.engine.parameters import Parameter, ParameterStatus
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .covariance import Covariance, NormalInverse, inverse_normal, with_linear
from .leastsquares import Cycle, Descent
from .narrow import narrow_warnings
from .refine import (
    PatternProblem,
    RefinedParameters,
    Refinement,
    at_bound,
    blank_warnings,
    fit_warnings,
    linear_parameters,
    refined_parameters,
)
from .simultaneous_model import SimultaneousModel

if TYPE_CHECKING:
    from scipy import sparse

T = TypeVar("T")


@dataclass(frozen=True)
class SimultaneousRefinement(RefinedParameters):
    """The outcome of a simultaneous refinement: its parameters, and a refinement of each pattern.

    The s.u. and covariance of the parameters of a pattern are propagated from those of the whole.
    The agreement of a pattern counts all parameters that act on it.
    """

    values: dict[str, float]
    parameters: dict[str, Parameter]
    patterns: dict[str, Refinement]
    agreement: Agreement
    covariance: Covariance
    converged: bool
    stop_reason: str
    n_cycles: int
    n_evaluations: int
    seconds: float
    warnings: tuple[str, ...] = field(default=())


def refine_simultaneous(
    model: SimultaneousModel,
    stages: Sequence[Sequence[str]] | None = None,
    *,
    restraints: Mapping[str, Sequence[Restraint]] | None = None,
    max_cycles: int = 60,
    tolerance: float = 0.01,
    on_cycle: Callable[[Cycle], None] | None = None,
    start: Mapping[str, float] | None = None,
    should_stop: Callable[[], str | None] | None = None,
    resources: Resources = ONE_THREAD,
) -> SimultaneousRefinement:
    """Refine all patterns as one least-squares problem, in stages.

    `restraints` lists the restraints of each pattern; those on shared parameters only are counted
    once. The patterns share the `resources`. The other arguments are those of `refine`. Raises
    ValueError for names that cannot be free, and for more parameters than points.
    """
    clock = time.monotonic()
    wanted = stages or model.default_stages()
    workers = resources.workers(len(model.models))
    model = model.with_resources(resources.share(workers))
    with ThreadPoolExecutor(workers) as pool:
        problem = SimultaneousProblem(model, model.distinct_restraints(restraints or {}), pool)
        descent = Descent(problem, on_cycle, should_stop, clock, len(wanted))
        opened = [model.free_names(wanted[: k + 1]) for k in range(len(wanted))]
        model.require_points(opened[-1])
        free, values = descent.run(opened, dict(start or model.start), max_cycles, tolerance)
        return _outcome(problem, descent, free, values)


class SimultaneousProblem:
    """All patterns as one least-squares problem, each pattern reduced to a few rows.

    For a pattern with residual r and Jacobian J, the triangle R of the QR decomposition of [r, J]
    preserves |r|, J^T r and J^T J: (|r|, 0, ..., 0) and the columns of R after the first replace r
    and J without any loss. A pattern then has n_local + 1 rows instead of thousands, and the
    problem is solved exactly. With scipy's iterative solver for sparse Jacobians (lsmr), three
    temperatures of CsPbBr3 under a cell law did not converge in 60 evaluations of the last stage;
    the exact solver took 6 cycles.
    """

    def __init__(
        self, model: SimultaneousModel, restraints: Mapping[str, Sequence[Restraint]],
        pool: ThreadPoolExecutor,
    ) -> None:
        self.model = model
        self.blocks = {
            name: PatternProblem(pattern, restraints.get(name, ()))
            for name, pattern in model.models.items()
        }
        self.pool = pool
        self.refused = ""
        self.on_derivative: Callable[[int, int], None] | None = None
        #: Derivatives of each pattern with respect to its parameters, from the last Jacobian.
        self.derivatives: dict[str, FloatArray] = {}
        self._residuals: dict[str, FloatArray] = {}
        self._at: Mapping[str, float] = {}

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return self.model.parameters

    @property
    def n_points(self) -> int:
        return sum(block.n_points for block in self.blocks.values())

    def residual(
        self, values: Mapping[str, float], free: Sequence[str]
    ) -> tuple[FloatArray, float]:
        starts, n_rows = self._rows(free)
        reduced = np.zeros(n_rows)
        try:
            local = {name: self.model.local(name, values) for name in self.blocks}
        except ValueError as problem:
            # an infinite sum of squares makes the search shorten its step
            self.refused = str(problem)
            reduced[:] = np.inf
            return reduced, 0.0
        residuals = self._each(lambda name: self.blocks[name].residual(local[name]))
        self._residuals = {name: vector for name, (vector, _) in residuals.items()}
        self._at = dict(values)
        reduced[starts] = [np.linalg.norm(vector) for vector in self._residuals.values()]
        return reduced, sum(restrained for _, restrained in residuals.values())

    def jacobian(
        self, values: Mapping[str, float], free: Sequence[str], *, central: bool = False
    ) -> FloatArray:
        """The Jacobian (n_rows, n_free), dense because the exact solver requires it."""
        return np.asarray(self.sparse_jacobian(values, free, central=central).toarray())

    def sparse_jacobian(
        self, values: Mapping[str, float], free: Sequence[str], *, central: bool = False,
        reduced: bool = True,
    ) -> sparse.csr_array:
        """The stacked blocks J_k G_k, either `reduced` by QR or with a row for every point."""
        from scipy import sparse  # slow to load; other tasks do not need it

        if self._at != values:
            self.residual(values, free)
        total = sum(len(self.model.followers(name, free)) for name in self.blocks)
        done: list[str] = []

        def block(name: str) -> sparse.csr_array:
            problem, followers = self.blocks[name], self.model.followers(name, free)
            base = problem.at(self.model.local(name, values))
            self.derivatives[name] = problem.derivatives(base, followers, central=central)
            done.extend(followers)
            if self.on_derivative:
                self.on_derivative(len(done), total)
            jacobian = problem.projected(base, self.derivatives[name], followers)
            if reduced:
                residual = self._residuals[name]
                triangle = np.asarray(
                    np.linalg.qr(np.column_stack([residual, jacobian]), mode="r")
                )
                # QR does not determine the sign of a row; the length of the residual is positive
                jacobian = np.copysign(1.0, triangle[0, 0]) * triangle[:, 1:]
            return sparse.csr_array(jacobian) @ sparse.csr_array(
                self.model.slopes(name, values, free)
            )

        return sparse.csr_array(sparse.vstack(list(self._each(block).values())))

    def _rows(self, free: Sequence[str]) -> tuple[np.ndarray, int]:
        """The first row of each pattern, and the total number of rows."""
        sizes = [len(self.model.followers(name, free)) + 1 for name in self.blocks]
        return np.concatenate([[0], np.cumsum(sizes)[:-1]]), int(np.sum(sizes))

    def _each(self, job: Callable[[str], T]) -> dict[str, T]:
        return dict(zip(self.blocks, self.pool.map(job, self.blocks), strict=True))


def _outcome(
    problem: SimultaneousProblem, descent: Descent, free: list[str], values: dict[str, float]
) -> SimultaneousRefinement:
    """The outcome of a simultaneous refinement that ended at `values`.

    Parameters at a bound are held there for the s.u. of the others.
    """
    model = problem.model
    bound = {name for name in free if at_bound(model.parameters[name], values[name])}
    moving = [name for name in free if name not in bound]
    jacobian = descent.unless_stopped(lambda: problem.jacobian(values, moving, central=True))
    if jacobian is None:
        return _simultaneous(problem, descent, values, Covariance.unknown(tuple(moving)), bound, set())
    squares = sum(
        (((derivatives @ model.slopes(name, values, moving)) ** 2).sum(axis=0)
         for name, derivatives in problem.derivatives.items()), np.zeros(len(moving)))
    inverse = inverse_normal(
        jacobian, np.sqrt(squares),
        np.array([model.parameters[name].kind.spec.largest_su(values[name]) for name in moving]))
    undetermined = {name for name, is_lost in zip(moving, inverse.undetermined, strict=True)
                    if is_lost}
    covariance = Covariance(tuple(moving), inverse.covariance, inverse)
    return _simultaneous(problem, descent, values, covariance, bound, undetermined)


def _simultaneous(
    problem: SimultaneousProblem, descent: Descent, values: Mapping[str, float],
    covariance: Covariance, bound: AbstractSet[str], undetermined: AbstractSet[str],
) -> SimultaneousRefinement:
    """The outcome with the covariance of the refined parameters."""
    model, moving = problem.model, covariance.names
    parameters: dict[str, Parameter] = {}
    for name, start in model.parameters.items():
        su, status = None, ParameterStatus.FIXED
        if name in bound:
            status = ParameterStatus.AT_BOUND
        elif name in undetermined:
            status = ParameterStatus.UNDETERMINED
        elif name in moving:
            su, status = covariance.su(name), ParameterStatus.FREE
        parameters[name] = start.changed(value=values[name], su=su, status=status)
    patterns = {name: _pattern_outcome(problem, descent, name, values, covariance, bound)
                for name in problem.blocks}
    own = [f"{name}: {text}" for name, refined in patterns.items() for text in refined.warnings]
    whole = _whole(problem, patterns, len(moving))
    free_parameters = [p for p in parameters.values() if p.status.refined]
    return SimultaneousRefinement(
        values=dict(values), parameters=parameters, patterns=patterns, agreement=whole,
        covariance=covariance, converged=descent.converged, stop_reason=descent.reason,
        n_cycles=descent.n_cycles,
        n_evaluations=sum(block.n_evaluations for block in problem.blocks.values()),
        seconds=time.monotonic() - descent.clock,
        warnings=(*fit_warnings(free_parameters, covariance, whole, ()), *own),
    )


def _pattern_outcome(
    problem: SimultaneousProblem, descent: Descent, name: str, values: Mapping[str, float],
    covariance: Covariance, bound: AbstractSet[str],
) -> Refinement:
    """The refinement of one pattern; s.u. by G C G^T, none where an undetermined parameter acts."""
    model, block = problem.model, problem.blocks[name]
    moving = covariance.names
    evaluation = block.at(model.local(name, values))
    full = dict(evaluation.values)
    acting = model.followers(name, moving)
    slopes = model.slopes(name, values, moving)
    inverse, active = covariance.inverse, evaluation.linear.active
    solved = [n for n, is_active in zip(block.model.linear_names, active, strict=True)
              if is_active]
    own, lost = Covariance.unknown((*acting, *solved)), set()
    if inverse is not None:
        acting_inverse = NormalInverse(
            slopes @ inverse.determined @ slopes.T, slopes @ inverse.missing @ slopes.T,
            np.array([block.model.parameters[n].kind.spec.largest_su(full[n]) for n in acting]))
        columns = block.model.linear_columns(evaluation)[:, active]
        columns = columns / block.model.observation.sigma[:, None]
        own = Covariance(
            (*acting, *solved),
            with_linear(covariance.propagated(slopes), problem.derivatives[name], columns),
            acting_inverse)
        lost = {n for n in acting if own.su(n) is None}
    held = set(model.followers(name, sorted(bound))) - set(acting)
    parameters = refined_parameters(block.model, full, own, [*acting, *sorted(held)], held, lost)
    for target in model.parametric_constraints:
        if target in parameters and target in acting and target not in lost:
            parameters[target] = parameters[target].changed(status=ParameterStatus.CONSTRAINED)
    fit = block.model.agreement(evaluation, int((np.abs(slopes) > 0).any(axis=0).sum()))
    linear = linear_parameters(block.model, evaluation, own)
    return Refinement(
        values=full, parameters=parameters, linear=linear, agreement=fit, covariance=own,
        evaluation=evaluation, converged=descent.converged, stop_reason=descent.reason,
        n_cycles=descent.n_cycles, n_evaluations=block.n_evaluations,
        seconds=time.monotonic() - descent.clock,
        warnings=(*fit_warnings((), own, fit, linear), *narrow_warnings(block.model, full),
                  *blank_warnings(block.model, evaluation)),
    )


def _whole(
    problem: SimultaneousProblem, patterns: Mapping[str, Refinement], n_free: int
) -> Agreement:
    """The agreement of all patterns as if they were one pattern."""
    models = [problem.blocks[name].model for name in patterns]
    evaluations = [refined.evaluation for refined in patterns.values()]
    pairs = list(zip(models, evaluations, strict=True))
    return agreement(
        observed=np.concatenate([model.observation.intensity for model in models]),
        calculated=np.concatenate([model.calculated(e) for model, e in pairs]),
        sigma=np.concatenate([model.observation.sigma for model in models]),
        n_refined=n_free + sum(int(e.linear.active.sum()) for e in evaluations),
        background=np.concatenate([model.below_phases(e) for model, e in pairs]),
    )
