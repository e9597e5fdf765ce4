"""Several patterns refined as one least-squares problem.

The sum of squares is that of all patterns and restraints. Every pattern keeps its own model, its
linear part projected out, and contributes J_k G_k to the Jacobian: J_k its derivative by its own
parameters, G_k the derivative of those by the parameters of the whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from scipy import sparse

from aiida_dse.engine.model.agreement import Agreement, agreement
from aiida_dse.engine.model.parameters import Parameter
from aiida_dse.engine.model.restraints import Restraint
from aiida_dse.engine.resources import thread_count
from aiida_dse.engine.units import FloatArray

from .leastsquares import Cycle, Descent, covariance_of, refined_parameter
from .refine import PatternProblem, Refinement, fit_warnings, linear_parameters
from .simultaneous_model import JointModel

T = TypeVar("T")


@dataclass(frozen=True)
class JointRefinement:
    """The outcome: parameters of the whole, and each pattern as if refined by itself.

    The s.u. and covariance of a pattern's parameters are those of the whole, carried over. The
    parameters counted in a pattern's agreement are all that act on it.
    """

    values: dict[str, float]
    free: tuple[Parameter, ...]
    patterns: dict[str, Refinement]
    agreement: Agreement
    correlation: FloatArray
    covariance: FloatArray
    converged: bool
    singular: bool
    stop_reason: str
    n_cycles: int
    n_evaluations: int
    seconds: float
    warnings: tuple[str, ...] = field(default=())


def refine_joint(
    model: JointModel,
    stages: Sequence[Sequence[str]] | None = None,
    *,
    restraints: Mapping[str, Sequence[Restraint]] | None = None,
    max_cycles: int = 60,
    tolerance: float = 0.01,
    on_cycle: Callable[[Cycle], None] | None = None,
    should_stop: Callable[[], str | None] | None = None,
    threads: int | None = None,
) -> JointRefinement:
    """Refine all patterns as one least-squares problem, in stages, as `refine` does with one.

    `restraints` by pattern; those on shared parameters alone count once. The patterns are evaluated
    on `threads` threads.
    """
    clock = time.monotonic()
    wanted = stages or model.default_stages()
    with ThreadPoolExecutor(min(threads or thread_count(), len(model.models))) as pool:
        problem = JointProblem(model, model.distinct_restraints(restraints or {}), pool)
        descent = Descent(problem, on_cycle, should_stop, clock, len(wanted))
        opened = [model.free_names(wanted[: k + 1]) for k in range(len(wanted))]
        model.require_points(opened[-1])
        free, values = descent.run(opened, model.start, max_cycles, tolerance)
        return _outcome(problem, descent, free, values)


class JointProblem:
    """All patterns as one least-squares problem, each reduced to a few rows.

    For a pattern with residual r and Jacobian J, the triangle R of the QR decomposition of [r, J]
    has the same |r|, J^T r and J^T J as they: (|r|, 0, ..., 0) and the columns of R after the first
    stand for them without any loss. So the whole has n_local + 1 rows for a pattern instead of
    thousands and is solved exactly. With the iterative solver that scipy keeps for sparse
    Jacobians (lsmr), three temperatures of CsPbBr3 under a cell law did not converge in 60
    evaluations of the last stage; the exact one took 6 cycles.
    """

    def __init__(
        self, model: JointModel, restraints: Mapping[str, Sequence[Restraint]],
        pool: ThreadPoolExecutor,
    ) -> None:
        self.model = model
        self.blocks = {
            name: PatternProblem(pattern, restraints.get(name, ()))
            for name, pattern in model.models.items()
        }
        self.pool = pool
        self.refused = ""
        self._residuals: dict[str, FloatArray] = {}
        self._at: Mapping[str, float] = {}

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return self.model.parameters

    @property
    def n_points(self) -> int:
        return sum(block.n_points for block in self.blocks.values())

    def typical_shift(self, name: str) -> float:
        return self.model.typical_shift(name)

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
            jacobian = self.blocks[name].jacobian(
                self.model.local(name, values), self.model.followers(name, free), central=central
            )
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
        """Where each pattern's rows start, and how many there are in all."""
        sizes = [len(self.model.followers(name, free)) + 1 for name in self.blocks]
        return np.concatenate([[0], np.cumsum(sizes)[:-1]]), int(np.sum(sizes))

    def _each(self, job: Callable[[str], T]) -> dict[str, T]:
        return dict(zip(self.blocks, self.pool.map(job, self.blocks), strict=True))


def _outcome(
    problem: JointProblem, descent: Descent, free: list[str], values: dict[str, float]
) -> JointRefinement:
    covariance, correlation, insensitive = covariance_of(
        problem.jacobian(values, free, central=True)
    )
    refined = tuple(
        refined_parameter(problem.parameters[name], values[name], problem.typical_shift(name),
                          covariance[k, k], insensitive[k])
        for k, name in enumerate(free)
    )
    patterns = {
        name: _pattern_outcome(problem, descent, name, values, refined, covariance)
        for name in problem.blocks
    }
    own = [f"{name}: {text}" for name, found in patterns.items() for text in found.warnings]
    whole = _whole(problem, patterns, len(free))
    return JointRefinement(
        values=dict(values), free=refined, patterns=patterns, agreement=whole,
        correlation=correlation, covariance=covariance, converged=descent.converged,
        singular=bool(insensitive.any()), stop_reason=descent.reason, n_cycles=descent.n_cycles,
        n_evaluations=sum(block.n_evaluations for block in problem.blocks.values()),
        seconds=time.monotonic() - descent.clock,
        warnings=(*fit_warnings(refined, correlation, whole, ()), *own),
    )


def _pattern_outcome(
    problem: JointProblem, descent: Descent, name: str, values: Mapping[str, float],
    refined: Sequence[Parameter], covariance: FloatArray,
) -> Refinement:
    """One pattern of the whole; s.u. by G C G^T, none where an undetermined parameter acts."""
    joint, block = problem.model, problem.blocks[name]
    free = [p.name for p in refined]
    local, locals_ = joint.local(name, values), joint.followers(name, free)
    evaluation = block.evaluate(local)
    slopes = joint.slopes(name, values, free)
    carried = slopes @ np.nan_to_num(covariance) @ slopes.T
    undetermined = (np.abs(slopes) > 0) @ np.array([p.insensitive for p in refined], dtype=bool)
    carried[undetermined, :] = carried[:, undetermined] = np.nan
    at_bound = {p.name for p in refined if p.at_bound}
    own = tuple(
        replace(
            block.model.parameters[local_name], value=local[local_name],
            lower=-np.inf if local_name in joint.laws else p.lower,
            upper=np.inf if local_name in joint.laws else p.upper,
            su=None if undetermined[k] else float(np.sqrt(max(0.0, carried[k, k]))),
            at_bound=bool({local_name, joint.own_name(name, local_name)} & at_bound),
            insensitive=bool(undetermined[k]),
        )
        for k, local_name in enumerate(locals_) for p in (block.model.parameters[local_name],)
    )
    fit = block.model.agreement(evaluation, int((np.abs(slopes) > 0).any(axis=0).sum()))
    linear = linear_parameters(block.model, evaluation)
    deviation = np.sqrt(np.diag(carried))
    deviation = np.where(deviation > 0, deviation, 1.0)
    return Refinement(
        values=dict(evaluation.values), free=own, linear=linear, agreement=fit,
        correlation=carried / np.outer(deviation, deviation), covariance=carried,
        evaluation=evaluation, converged=descent.converged, singular=bool(undetermined.any()),
        stop_reason=descent.reason, n_cycles=descent.n_cycles, n_evaluations=block.n_evaluations,
        seconds=time.monotonic() - descent.clock,
        warnings=tuple(fit_warnings((), np.zeros((0, 0)), fit, linear)),
    )


def _whole(
    problem: JointProblem, patterns: Mapping[str, Refinement], n_free: int
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
