"""The task 'uncertainty': refinement, then profiles, bootstrap and posterior."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aiida_dse.documents import DocumentError
from aiida_dse.documents.plans import RefinementPlan, UncertaintyPlan
from aiida_dse.documents.results import (
    UncertaintyRow,
    UncertaintySummary,
)
from aiida_dse.documents.status import Status, Task
from aiida_dse.engine.fit.bootstrap import (
    NOT_CONVERGED,
    PENDING,
    Bootstrap,
    bootstrap,
)
from aiida_dse.engine.fit.freedom import check_freedom
from aiida_dse.engine.fit.leastsquares import Cycle
from aiida_dse.engine.fit.posterior import Chain, sample_posterior
from aiida_dse.engine.fit.profile import Profiles, Ray, profile_likelihood
from aiida_dse.engine.fit.refine import Refinement, default_stages, refine
from aiida_dse.engine.parameters import ParameterStatus, select
from aiida_dse.engine.resources import ONE_THREAD, Resources, StopCheck
from aiida_dse.io.results import Result, write_result

from .build import BuiltModel
from .run import CHECKPOINT_INTERVAL, refinement_result, settled_refinement
from .sample_statistics import correlation_of, derived_spread, spread_rows
from .uncertainty_rows import (
    bootstrap_of,
    bootstrap_row,
    bootstrap_warnings,
    chain_arrays,
    chain_of,
    chain_row,
    judged,
    profile_arrays,
    profile_rows,
    profile_warnings,
    rays_of,
)


@dataclass(frozen=True)
class UncertaintyProgress:
    """Progress of one part of the task."""

    part: str  # profile, bootstrap or posterior
    unit: str  # the noun that `done` and `total` count
    begun: int  # number done before this run
    done: int
    total: int
    note: str
    elapsed: float

    @property
    def remaining(self) -> float:
        """Estimated seconds to the end of the part."""
        return self.elapsed / max(1, self.done - self.begun) * (self.total - self.done)


def require_uncertainty(built: BuiltModel) -> UncertaintyPlan:
    """The document's plan of uncertainties. Raises DocumentError if it requests nothing."""
    plan = built.document.uncertainty
    if plan is None or not (plan.profile or plan.bootstrap or plan.posterior):
        raise DocumentError(
            "uncertainty: nothing is requested; specify at least one of 'profile' (parameter "
            "names), 'bootstrap' and 'posterior', e.g. uncertainty: {posterior: {steps: 1000}}."
        )
    return plan


def run_uncertainty(
    built: BuiltModel, *, on_cycle: Callable[[Cycle], None] | None = None,
    on_progress: Callable[[UncertaintyProgress], None] | None = None,
    should_stop: StopCheck | None = None, checkpoint: Path | None = None,
    finished: Result[UncertaintySummary] | None = None, resources: Resources = ONE_THREAD,
) -> Result[UncertaintySummary]:
    """Refine from the document's starting values, then compute profiles, bootstrap and posterior.

    The refinement has one starting point. Unfinished results are written to the folder
    `checkpoint`; points, samples and steps in `finished` are not computed again. All parts are
    skipped if the refinement did not converge, bootstrap and posterior also if it has undetermined
    parameters. Raises ValueError if `finished` is the result of another task.
    """
    wanted, plan = require_uncertainty(built), built.document.refinement or RefinementPlan()
    if finished is not None and finished.task is not Task.UNCERTAINTY:
        raise ValueError(f"the finished result is of the task '{finished.task}', not of "
                         "'uncertainty'. Start without it.")
    model = built.model
    clock = time.monotonic()
    stages = built.stages or default_stages(model)
    check_freedom(model, stages)
    best = refine(
        model, stages, on_cycle=on_cycle, should_stop=should_stop,
        restraints=built.restraints, max_cycles=plan.max_cycles, tolerance=plan.tolerance,
    )
    built, best = settled_refinement(built, best, on_cycle, should_stop)
    if best.stop_reason in (Status.WALLTIME, Status.INTERRUPTED) and finished is not None:
        # nothing new was computed, and the earlier result must not be lost
        return finished.changed(status=Status(best.stop_reason), stop_reason=best.stop_reason)
    work = _Work(built, best, wanted, clock, on_progress, should_stop, checkpoint, finished,
                 resources)
    if best.converged:
        parts: list[tuple[Any, Callable[[], None]]] = [(wanted.profile, work.profile)]
        if not best.undetermined:
            parts += [(wanted.bootstrap, work.bootstrap), (wanted.posterior, work.posterior)]
        for plan_of_part, part in parts:
            if plan_of_part and work.reason == "complete":
                part()
    return work.result()


class _Work:
    """State of the task: runs profiles, bootstrap and posterior and collects their results."""

    def __init__(
        self, built: BuiltModel, best: Refinement, wanted: UncertaintyPlan, clock: float,
        on_progress: Callable[[UncertaintyProgress], None] | None, should_stop: StopCheck | None,
        checkpoint: Path | None, finished: Result[UncertaintySummary] | None, resources: Resources,
    ) -> None:
        self.built, self.best, self.wanted, self.clock = built, best, wanted, clock
        self.on_progress, self.should_stop = on_progress, should_stop
        self.checkpoint, self.resources = checkpoint, resources
        self.refinement = refinement_result(built, best)
        self.rays: list[Ray] = []
        self.profiles: Profiles | None = None
        self.samples: Bootstrap | None = None
        self.chain: Chain | None = None
        #: Parameters at a bound, which have no s.u. and therefore no step size for a profile.
        self.without_su = [p.name for p in best.free if p.status is ParameterStatus.AT_BOUND]
        self.reason = "complete"
        self.last_checkpoint = time.monotonic()
        if finished is not None:
            names = tuple(finished.summary.free)
            self.rays = rays_of(finished)
            self.samples = bootstrap_of(finished, names) if wanted.bootstrap else None
            self.chain = chain_of(finished, names) if wanted.posterior else None

    def profile(self) -> None:
        names = [name for name in select(self.wanted.profile, [p.name for p in self.best.free])
                 if name not in self.without_su]
        begun, clock = sum(bool(ray.ended) for ray in self.rays), time.monotonic()

        def on_ray(profiles: Profiles, done: int, total: int) -> None:
            self.profiles = profiles
            self._report("profile", "curve sides", begun, done, total, "", clock)

        self.profiles = profile_likelihood(
            self.built.model, self.best, names, restraints=self.built.restraints,
            finished=self.rays, resources=self.resources, on_ray=on_ray,
            should_stop=self.should_stop,
        )
        self.reason = self.profiles.stop_reason

    def bootstrap(self) -> None:
        plan, clock = self.wanted.bootstrap, time.monotonic()
        assert plan is not None
        begun = 0 if self.samples is None else int((self.samples.outcome != PENDING).sum())

        def on_sample(samples: Bootstrap, done: int, total: int) -> None:
            self.samples = samples
            lost = int((samples.outcome >= NOT_CONVERGED).sum())
            self._report("bootstrap", "samples", begun, done, total,
                         f"{lost} failed or not converged" * (lost > 0), clock)

        self.samples = bootstrap(
            self.built.model, self.best, plan.samples, seed=plan.seed,
            restraints=self.built.restraints, finished=self.samples, resources=self.resources,
            on_sample=on_sample, should_stop=self.should_stop,
        )
        self.reason = self.samples.stop_reason

    def posterior(self) -> None:
        plan, clock = self.wanted.posterior, time.monotonic()
        assert plan is not None
        begun = 0 if self.chain is None else self.chain.n_steps

        def on_step(chain: Callable[[], Chain], done: int) -> None:
            if self._due:
                self.chain = chain()
            self._report("posterior", "steps", begun, done, plan.steps, "", clock)

        self.chain = sample_posterior(
            self.built.model, self.best, plan.steps, n_walkers=plan.walkers, seed=plan.seed,
            restraints=self.built.restraints, finished=self.chain,
            direct=plan.method == "direct", resources=self.resources, on_step=on_step, should_stop=self.should_stop,
        )
        self.reason = self.chain.stop_reason

    @property
    def _due(self) -> bool:
        return (self.checkpoint is not None
                and time.monotonic() - self.last_checkpoint > CHECKPOINT_INTERVAL)

    def _report(
        self, part: str, unit: str, begun: int, done: int, total: int, note: str, clock: float
    ) -> None:
        if self._due:
            assert self.checkpoint is not None
            write_result(self._raw(Status.RUNNING, "running"), self.checkpoint)
            self.last_checkpoint = time.monotonic()
        if self.on_progress:
            elapsed = time.monotonic() - clock
            self.on_progress(UncertaintyProgress(part, unit, begun, done, total, note, elapsed))

    def _raw(self, status: Status, reason: str) -> Result[UncertaintySummary]:
        """The raw data that a continuation requires, without analysis."""
        found: dict[str, Any] = {}
        arrays = dict(self.refinement.arrays)
        if self.profiles is not None:
            found["profile"] = profile_rows(self.profiles, self.best)
            arrays |= profile_arrays(self.profiles)
        if self.samples is not None:
            found["bootstrap"] = bootstrap_row(self.samples)
            arrays |= {"bootstrap/values": self.samples.values, "bootstrap/chi2": self.samples.chi2,
                       "bootstrap/outcome": self.samples.outcome}
        if self.chain is not None:
            found["posterior"] = chain_row(self.chain)
            arrays |= chain_arrays(self.chain)
        return Result(self._summary(
            status=status, stop_reason=reason, uncertainty=UncertaintyRow(**found)), arrays)

    def _summary(self, **changes: Any) -> UncertaintySummary:
        """The summary of the refinement as a summary of the task 'uncertainty'."""
        fields = {name: getattr(self.refinement.summary, name)
                  for name in type(self.refinement.summary).model_fields}
        return UncertaintySummary(**fields | {
            "task": Task.UNCERTAINTY, "work": None, "seconds": time.monotonic() - self.clock} | changes)

    def result(self) -> Result[UncertaintySummary]:
        """The complete result with intervals, correlations, verdicts and warnings."""
        warnings = list(self.refinement.summary.warnings)
        if not self.best.converged:
            warnings.append("Profile, bootstrap and posterior were skipped: they require a "
                            "converged refinement.")
            return Result(self._summary(warnings=warnings), self.refinement.arrays)
        raw = self._raw(
            Status.COMPLETE if self.reason == "complete" else Status(self.reason), self.reason)
        summary, arrays, part = raw.summary, dict(raw.arrays), raw.summary.uncertainty
        changes: dict[str, Any] = {}
        if self.best.undetermined and self.reason == "complete":
            # the refinement is not a success, even where its profiles are complete
            changes = {"status": Status.UNDETERMINED, "stop_reason": self.best.stop_reason}
            if self.wanted.bootstrap or self.wanted.posterior:
                warnings.append(
                    "Bootstrap and posterior were skipped: they require a refinement in which the "
                    "data determine every free parameter.")
        names = [p.name for p in self.best.free]
        spreads: dict[str, np.ndarray] = {}
        if self.profiles is not None:
            warnings += profile_warnings(part.profile)
            warnings += [f"{name} has no profile, because it is at its bound. Widen the bound."
                         for name in select(self.wanted.profile, names)
                         if name in self.without_su]
        if part.bootstrap is not None and self.samples is not None:
            warnings += bootstrap_warnings(part.bootstrap)
            if len(refined := self.samples.refined) > 1:
                part = part.model_copy(update={"bootstrap": part.bootstrap.model_copy(update={
                    "parameters": spread_rows(names, refined, self.best.values)})})
                arrays["bootstrap/correlation"] = correlation_of(refined)
                spreads["bootstrap"] = refined
        if part.posterior is not None and self.chain is not None and len(self.chain.samples):
            verdict, each, kept = judged(self.chain)
            rows = {
                name: row.model_copy(update={key: float(values[k]) for key, values in each.items()})
                for k, (name, row) in enumerate(
                    spread_rows(names, kept, self.best.values).items())
            }
            part = part.model_copy(update={
                "posterior": part.posterior.model_copy(update=verdict | {"parameters": rows})})
            arrays["posterior/correlation"] = correlation_of(kept)
            spreads["posterior"] = kept
            if not verdict["converged"]:
                reasons = "; ".join(verdict["reasons"])
                warnings.append(f"The posterior did not converge: {reasons}. Increase 'steps' and "
                                "continue the task.")
                if self.reason == "complete":
                    changes = {"status": Status.POSTERIOR_NOT_CONVERGED, "stop_reason": reasons}
        if spreads:
            part = part.model_copy(update={
                "derived": derived_spread(self.built, self.best, names, spreads)})
        return Result(summary.model_copy(update={
            "uncertainty": part, "warnings": warnings, **changes}), arrays)
