"""Simultaneous refinement: several patterns as one least-squares problem.

The sum of squares is that of all patterns and restraints. Every pattern keeps its own model, its
linear part projected out, and contributes J_k G_k to the Jacobian: J_k its derivative by its own
parameters, G_k the derivative of those by the parameters of the whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from scipy import sparse

from aiida_dse.engine.model.agreement import Agreement, agreement
from aiida_dse.engine.model.restraints import Restraint
from aiida_dse.engine.parameters import Parameter, ParameterStatus
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .covariance import Covariance, inverse_normal, with_linear
from .leastsquares import Cycle, Descent
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

T = TypeVar("T")


@dataclass(frozen=True)
class SimultaneousRefinement(RefinedParameters):
    """The outcome: parameters of the whole, and each pattern as if refined by itself.

    The s.u. and covariance of a pattern's parameters are those of the whole, carried over. The
    parameters counted in a pattern's agreement are all that act on it.
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
    should_stop: Callable[[], str | None] | None = None,
    resources: Resources = ONE_THREAD,
) -> SimultaneousRefinement:
    """Refine all patterns as one least-squares problem, in stages, as `refine` does with one.

    `restraints` by pattern; those on shared parameters alone count once. The patterns share the
    `resources`.
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
        free, values = descent.run(opened, model.start, max_cycles, tolerance)
        return _outcome(problem, descent, free, values)


class SimultaneousProblem:
    """All patterns as one least-squares problem, each reduced to a few rows.

    For a pattern with residual r and Jacobian J, the triangle R of the QR decomposition of [r, J]
    has the same |r|, J^T r and J^T J as they: (|r|, 0, ..., 0) and the columns of R after the first
    represent them without any loss. So the whole has n_local + 1 rows for a pattern instead of
    thousands and is solved exactly. With the iterative solver that scipy keeps for sparse
    Jacobians (lsmr), three temperatures of CsPbBr3 under a cell law did not converge in 60
    evaluations of the last stage; the exact one took 6 cycles.
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
        #: Of each pattern by its own parameters, where the last Jacobian was computed.
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
            # the search takes an infinite sum of squares as a step too far
            self.refused = str(problem)
            reduced[:] = np.inf
            return reduced, 0.0
        found = self._each(lambda name: self.blocks[name].residual(local[name]))
        self._residuals = {name: vector for name, (vector, _) in found.items()}
        self._at = dict(values)
        reduced[starts] = [np.linalg.norm(vector) for vector in self._residuals.values()]
        return reduced, sum(restrained for _, restrained in found.values())

    def jacobian(
        self, values: Mapping[str, float], free: Sequence[str], *, central: bool = False
    ) -> FloatArray:
        """(n_rows, n_free), dense as its solver wants it; stored sparse until here."""
        return np.asarray(self.sparse_jacobian(values, free, central=central).toarray())

    def sparse_jacobian(
        self, values: Mapping[str, float], free: Sequence[str], *, central: bool = False,
        reduced: bool = True,
    ) -> sparse.csr_array:
        """The blocks J_k G_k, below each other; `reduced` by QR or with a row for every point."""
        if self._at != values:
            self.residual(values, free)

        def block(name: str) -> sparse.csr_array:
            own, followers = self.blocks[name], self.model.followers(name, free)
            base = own.at(self.model.local(name, values))
            self.derivatives[name] = own.derivatives(base, followers, central=central)
            jacobian = own.projected(base, self.derivatives[name], followers)
            if reduced:
                residual = self._residuals[name]
                triangle = np.asarray(
                    np.linalg.qr(np.column_stack([residual, jacobian]), mode="r")
                )
                # QR leaves the sign of a row open; the residual's length is positive
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
    """The whole at the values it ended at; parameters at a bound are held there for the s.u."""
    model = problem.model
    bound = {name for name in free if at_bound(model.parameters[name], values[name])}
    moving = [name for name in free if name not in bound]
    jacobian = problem.jacobian(values, moving, central=True)
    squares = sum(
        (((derivatives @ model.slopes(name, values, moving)) ** 2).sum(axis=0)
         for name, derivatives in problem.derivatives.items()), np.zeros(len(moving)))
    inverse, lost = inverse_normal(jacobian, np.sqrt(squares))
    undetermined = {name for name, is_lost in zip(moving, lost, strict=True) if is_lost}
    covariance = Covariance(tuple(moving), inverse)
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
    own = [f"{name}: {text}" for name, found in patterns.items() for text in found.warnings]
    whole = _whole(problem, patterns, len(moving))
    refined = [p for p in parameters.values() if p.status.refined]
    return SimultaneousRefinement(
        values=dict(values), parameters=parameters, patterns=patterns, agreement=whole,
        covariance=covariance, converged=descent.converged, stop_reason=descent.reason,
        n_cycles=descent.n_cycles,
        n_evaluations=sum(block.n_evaluations for block in problem.blocks.values()),
        seconds=time.monotonic() - descent.clock,
        warnings=(*fit_warnings(refined, covariance, whole, ()), *own),
    )


def _pattern_outcome(
    problem: SimultaneousProblem, descent: Descent, name: str, values: Mapping[str, float],
    covariance: Covariance, bound: AbstractSet[str],
) -> Refinement:
    """One pattern of the whole; s.u. by G C G^T, none where an undetermined parameter acts."""
    model, block = problem.model, problem.blocks[name]
    moving = covariance.names
    evaluation = block.at(model.local(name, values))
    full = dict(evaluation.values)
    acting = model.followers(name, moving)
    slopes = model.slopes(name, values, moving)
    carried = covariance.propagated(slopes)
    derivatives = problem.derivatives[name]
    active = evaluation.linear.active
    columns = block.model.linear_columns(evaluation)[:, active]
    columns = columns / block.model.observation.sigma[:, None]
    solved = [one for one, is_active in zip(block.model.linear_names, active, strict=True)
              if is_active]
    own = Covariance((*acting, *solved), with_linear(carried, derivatives, columns))
    lost = {one for one in acting if own.su(one) is None}
    held = set(model.followers(name, sorted(bound))) - set(acting)
    parameters = refined_parameters(block.model, full, own, [*acting, *sorted(held)], held, lost)
    for one in model.parametric_constraints:
        if one in parameters and one in acting and one not in lost:
            parameters[one] = parameters[one].changed(status=ParameterStatus.CONSTRAINED)
    fit = block.model.agreement(evaluation, int((np.abs(slopes) > 0).any(axis=0).sum()))
    linear = linear_parameters(block.model, evaluation, own)
    return Refinement(
        values=full, parameters=parameters, linear=linear, agreement=fit, covariance=own,
        evaluation=evaluation, converged=descent.converged, stop_reason=descent.reason,
        n_cycles=descent.n_cycles, n_evaluations=block.n_evaluations,
        seconds=time.monotonic() - descent.clock,
        warnings=(*fit_warnings((), own, fit, linear), *blank_warnings(block.model, evaluation)),
    )


def _whole(
    problem: SimultaneousProblem, patterns: Mapping[str, Refinement], n_free: int
) -> Agreement:
    """The agreement of all patterns as if they were one."""
    models = [problem.blocks[name].model for name in patterns]
    evaluations = [found.evaluation for found in patterns.values()]
    pairs = list(zip(models, evaluations, strict=True))
    return agreement(
        observed=np.concatenate([model.observation.intensity for model in models]),
        calculated=np.concatenate([model.calculated(e) for model, e in pairs]),
        sigma=np.concatenate([model.observation.sigma for model in models]),
        n_refined=n_free + sum(int(e.linear.active.sum()) for e in evaluations),
        background=np.concatenate([model.below_phases(e) for model, e in pairs]),
    )
