"""The task 'uncertainty': refine, then profiles, bootstrap and posterior around the minimum."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aiida_dse.documents import DocumentError
from aiida_dse.documents.plans import RefinementPlan, UncertaintyPlan
from aiida_dse.engine.fit.bootstrap import (
    FAILED,
    NOT_CONVERGED,
    PENDING,
    REFINED,
    Bootstrap,
    bootstrap,
)
from aiida_dse.engine.fit.convergence import convergence
from aiida_dse.engine.fit.freedom import check_freedom
from aiida_dse.engine.fit.leastsquares import Cycle
from aiida_dse.engine.fit.posterior import Chain, sample_posterior
from aiida_dse.engine.fit.profile import Profiles, Ray, profile_likelihood
from aiida_dse.engine.fit.refine import Refinement, default_stages, refine
from aiida_dse.engine.parameters import select
from aiida_dse.engine.resources import StopCheck
from aiida_dse.io.results import Result, write_result

from .build import BuiltModel
from .run import CHECKPOINT_INTERVAL, refinement_result
from .sample_statistics import correlation_of, derived_spread, spread_rows

SIDES = {-1: "below", 1: "above"}
#: Rise of chi2 at the ends of the intervals of one parameter.
RISES = {"68": 1.0, "95": 4.0}


@dataclass(frozen=True)
class UncertaintyProgress:
    """How far one part of the task is."""

    part: str  # profile, bootstrap or posterior
    unit: str  # what is counted
    begun: int  # done before this run
    done: int
    total: int
    note: str
    elapsed: float

    @property
    def remaining(self) -> float:
        """Estimated seconds to the end of the part."""
        return self.elapsed / max(1, self.done - self.begun) * (self.total - self.done)


def require_uncertainty(built: BuiltModel) -> UncertaintyPlan:
    """The document's plan. Raises DocumentError where it asks for nothing."""
    plan = built.document.uncertainty
    if plan is None or not (plan.profile or plan.bootstrap or plan.posterior):
        raise DocumentError(
            "uncertainty: nothing is asked for; give at least one of 'profile' (parameter names), "
            "'bootstrap' and 'posterior', as in uncertainty: {posterior: {steps: 1000}}."
        )
    return plan


def run_uncertainty(
    built: BuiltModel, *, on_cycle: Callable[[Cycle], None] | None = None,
    on_progress: Callable[[UncertaintyProgress], None] | None = None,
    should_stop: StopCheck | None = None, checkpoint: Path | None = None,
    finished: Result | None = None, threads: int | None = None,
) -> Result:
    """Refine from the document's start (once: no multi-start), then do what 'uncertainty' asks.

    Kept in `checkpoint` as it grows; points, samples and steps in `finished` are not computed
    again. The model should have been built with threads=1: the work is spread over `threads`.
    Nothing follows a refinement that did not converge or left parameters undetermined.
    """
    wanted, plan = require_uncertainty(built), built.document.refinement or RefinementPlan()
    if finished is not None and finished.task != "uncertainty":
        raise ValueError(f"the finished result is of the task '{finished.task}': start without it.")
    model = built.model
    clock = time.monotonic()
    stages = built.stages or default_stages(model)
    check_freedom(model, stages)
    best = refine(
        model, stages, on_cycle=on_cycle, should_stop=should_stop,
        restraints=built.restraints, max_cycles=plan.max_cycles, tolerance=plan.tolerance,
    )
    if best.stop_reason in ("walltime", "interrupted") and finished is not None:
        # nothing new, and nothing of the earlier run may be lost
        told = {"status": best.stop_reason, "stop_reason": best.stop_reason}
        return Result(finished.summary | told, finished.arrays)
    work = _Work(built, best, wanted, clock, on_progress, should_stop, checkpoint, finished,
                 threads)
    if best.converged and not best.undetermined:
        for asked, part in ((wanted.profile, work.profile), (wanted.bootstrap, work.bootstrap),
                            (wanted.posterior, work.posterior)):
            if asked and work.reason == "complete":
                part()
    return work.result()


class _Work:
    """The parts of the task in their order, with what is there so far."""

    def __init__(
        self, built: BuiltModel, best: Refinement, wanted: UncertaintyPlan, clock: float,
        on_progress: Callable[[UncertaintyProgress], None] | None, should_stop: StopCheck | None,
        checkpoint: Path | None, finished: Result | None, threads: int | None,
    ) -> None:
        self.built, self.best, self.wanted, self.clock = built, best, wanted, clock
        self.on_progress, self.should_stop = on_progress, should_stop
        self.checkpoint, self.threads = checkpoint, threads
        self.refinement = refinement_result(built, best)
        self.rays: list[Ray] = []
        self.profiles: Profiles | None = None
        self.samples: Bootstrap | None = None
        self.chain: Chain | None = None
        self.reason = "complete"
        self.kept = time.monotonic()
        if finished is not None:
            names = tuple(finished.arrays["refinement/names"].tolist())
            self.rays = rays_of(finished)
            self.samples = bootstrap_of(finished, names) if wanted.bootstrap else None
            self.chain = chain_of(finished, names) if wanted.posterior else None

    def profile(self) -> None:
        names = select(self.wanted.profile, [p.name for p in self.best.free])
        begun, clock = sum(bool(ray.ended) for ray in self.rays), time.monotonic()

        def on_ray(profiles: Profiles, done: int, total: int) -> None:
            self.profiles = profiles
            self._tell("profile", "curve sides", begun, done, total, "", clock)

        self.profiles = profile_likelihood(
            self.built.model, self.best, names, restraints=self.built.restraints,
            finished=self.rays, threads=self.threads, on_ray=on_ray, should_stop=self.should_stop,
        )
        self.reason = self.profiles.stop_reason

    def bootstrap(self) -> None:
        plan, clock = self.wanted.bootstrap, time.monotonic()
        assert plan is not None
        begun = 0 if self.samples is None else int((self.samples.outcome != PENDING).sum())

        def on_sample(samples: Bootstrap, done: int, total: int) -> None:
            self.samples = samples
            lost = int((samples.outcome >= NOT_CONVERGED).sum())
            self._tell("bootstrap", "samples", begun, done, total, f"{lost} lost" * (lost > 0),
                       clock)

        self.samples = bootstrap(
            self.built.model, self.best, plan.samples, seed=plan.seed,
            restraints=self.built.restraints, finished=self.samples, threads=self.threads,
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
            self._tell("posterior", "steps", begun, done, plan.steps, "", clock)

        self.chain = sample_posterior(
            self.built.model, self.best, plan.steps, n_walkers=plan.walkers, seed=plan.seed,
            restraints=self.built.restraints, finished=self.chain, threads=self.threads,
            on_step=on_step, should_stop=self.should_stop,
        )
        self.reason = self.chain.stop_reason

    @property
    def _due(self) -> bool:
        return (self.checkpoint is not None
                and time.monotonic() - self.kept > CHECKPOINT_INTERVAL)

    def _tell(
        self, part: str, unit: str, begun: int, done: int, total: int, note: str, clock: float
    ) -> None:
        if self._due:
            assert self.checkpoint is not None
            write_result(self._raw("running", "running"), self.checkpoint)
            self.kept = time.monotonic()
        if self.on_progress:
            elapsed = time.monotonic() - clock
            self.on_progress(UncertaintyProgress(part, unit, begun, done, total, note, elapsed))

    def _raw(self, status: str, reason: str) -> Result:
        """What continuing needs, without any analysis."""
        summary = self.refinement.summary | {
            "task": "uncertainty", "status": status, "stop_reason": reason,
            "seconds": time.monotonic() - self.clock,
            "warnings": list(self.refinement.summary["warnings"]),
        }
        found, arrays = {}, dict(self.refinement.arrays)
        if self.profiles is not None:
            found["profile"] = profile_rows(self.profiles, self.best)
            arrays |= profile_arrays(self.profiles)
        if self.samples is not None:
            found["bootstrap"] = bootstrap_row(self.samples)
            arrays |= {"bootstrap/values": self.samples.values, "bootstrap/chi2": self.samples.chi2,
                       "bootstrap/outcome": self.samples.outcome}
        if self.chain is not None:
            found["posterior"] = chain_row(self.chain)
            arrays |= {
                "posterior/samples": self.chain.samples,
                "posterior/log_posterior": self.chain.log_posterior,
                "posterior/last": self.chain.last,
                "posterior/last_log_posterior": self.chain.last_log_posterior,
                "posterior/accepted": self.chain.accepted,
            }
        return Result(summary | {"uncertainty": found}, arrays)

    def result(self) -> Result:
        """Everything with intervals, correlations, verdicts and what they mean for the reader."""
        if not self.best.converged or self.best.undetermined:
            summary = self.refinement.summary | {"task": "uncertainty", "uncertainty": {}}
            summary["warnings"] = [
                *summary["warnings"], "no profile, bootstrap or posterior was made: they need a "
                "refinement that converged with every free parameter determined.",
            ]
            return Result(summary, self.refinement.arrays)
        raw = self._raw("complete" if self.reason == "complete" else self.reason, self.reason)
        summary, arrays = raw.summary, raw.arrays
        found, warnings = summary["uncertainty"], summary["warnings"]
        names = [p.name for p in self.best.free]
        spreads: dict[str, np.ndarray] = {}
        if self.profiles is not None:
            warnings += profile_warnings(found["profile"])
        if self.samples is not None and len(refined := self.samples.refined) > 1:
            found["bootstrap"]["parameters"] = spread_rows(names, refined, self.best.values)
            arrays["bootstrap/correlation"] = correlation_of(refined)
            spreads["bootstrap"] = refined
        if self.samples is not None:
            warnings += bootstrap_warnings(found["bootstrap"])
        if self.chain is not None and len(self.chain.samples):
            row, each, kept = judged(self.chain)
            found["posterior"] |= row | {"parameters": {
                name: one | {key: float(values[k]) for key, values in each.items()}
                for k, (name, one) in enumerate(spread_rows(names, kept, self.best.values).items())
            }}
            arrays["posterior/correlation"] = correlation_of(kept)
            spreads["posterior"] = kept
            if not row["converged"]:
                warnings.append("the posterior is not converged: " + "; ".join(row["reasons"])
                                + ". Raise 'steps' and continue.")
                if self.reason == "complete":
                    summary |= {"status": "posterior_not_converged",
                                "stop_reason": "; ".join(row["reasons"])}
        if spreads:
            found["derived"] = derived_spread(self.built, self.best, names, spreads)
        return Result(summary, arrays)


def profile_rows(profiles: Profiles, best: Refinement) -> dict[str, Any]:
    """Intervals of each profiled parameter: at min + 1 and + 4, and at these times GoF^2."""
    scale = max(1.0, best.agreement.gof) ** 2
    rows: dict[str, Any] = {}
    for name, one in profiles.profiles.items():
        row: dict[str, Any] = {
            "value": one.parameter.value, "su": one.parameter.su, "chi2_min": one.chi2_min,
            "below": one.below.ended, "above": one.above.ended,
            "n_points": len(one.below.values) + len(one.above.values),
        }
        for key, rise in RISES.items():
            row[f"interval_{key}"] = list(one.interval(rise))
            row[f"scaled_{key}"] = list(one.interval(rise * scale))
        if one.lowest is not None:
            chi2, values = one.lowest
            row["lower_minimum"] = {
                "chi2": chi2, "values": dict(zip(profiles.names, map(float, values), strict=True))
            }
        rows[name] = row
    return rows


def profile_arrays(profiles: Profiles) -> dict[str, np.ndarray]:
    """profile/<name>/<below|above>/<value|chi2|refined> of every side that has points."""
    found: dict[str, np.ndarray] = {}
    for name, one in profiles.profiles.items():
        for ray in (one.below, one.above):
            if len(ray.values):
                at = f"profile/{name}/{SIDES[ray.side]}"
                found |= {f"{at}/value": ray.values, f"{at}/chi2": ray.chi2,
                          f"{at}/refined": ray.refined}
    return found


def profile_warnings(rows: dict[str, Any]) -> list[str]:
    """What a profile says beyond its interval."""
    found = []
    for name, row in rows.items():
        if "lower_minimum" in row:
            found.append(
                f"the profile of {name} met a lower minimum, chi2 = "
                f"{row['lower_minimum']['chi2']:.6g} against {row['chi2_min']:.6g}: refine again "
                "from there (uncertainty.profile of the result holds its values)."
            )
        for side in SIDES.values():
            if row[side] == "flat":
                found.append(f"chi2 hardly rises {side} {name} = {row['value']:.6g}: no limit "
                             "on that side was found.")
            elif row[side] not in ("", "risen", "bound"):
                found.append(f"the profile of {name} ends {side}: {row[side]}")
    return found


def bootstrap_row(samples: Bootstrap) -> dict[str, Any]:
    """How many samples there are and what became of them."""
    counts = {key: int((samples.outcome == outcome).sum()) for key, outcome in (
        ("n_refined", REFINED), ("n_not_converged", NOT_CONVERGED), ("n_failed", FAILED),
        ("n_pending", PENDING))}
    return {"n_samples": len(samples.chi2), "seed": samples.seed} | counts | {
        "failures": {str(k): why for k, why in samples.failures.items()}}


def bootstrap_warnings(row: dict[str, Any]) -> list[str]:
    lost = row["n_failed"] + row["n_not_converged"]
    if not lost:
        return []
    first = next(iter(row["failures"].values()), "")
    return [f"{lost} of {row['n_samples']} bootstrap samples are missing: {row['n_failed']} failed"
            + (f" (the first: {first})" if first else "")
            + f", {row['n_not_converged']} did not converge."]


def chain_row(chain: Chain) -> dict[str, Any]:
    return {
        "n_walkers": len(chain.last), "n_steps": chain.n_steps, "thin": chain.thin,
        "seed": chain.seed, "acceptance": chain.acceptance, "n_impossible": chain.n_impossible,
    }


def judged(chain: Chain) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    """The verdict on a chain, its diagnostics (n_free,), and the samples that count."""
    verdict = convergence(chain.samples, thin=chain.thin)
    kept = chain.samples[verdict.burn_in:].reshape(-1, len(chain.names))
    return {
        "burn_in": verdict.burn_in * chain.thin, "n_kept": len(kept),
        "converged": verdict.converged, "reasons": list(verdict.reasons),
    }, {
        "r_hat": verdict.r_hat, "autocorrelation_time": verdict.autocorrelation_time,
        "effective_samples": verdict.effective_samples,
    }, kept


def rays_of(result: Result) -> list[Ray]:
    """The sides of the profiles in a result, finished or not."""
    found = []
    for name, row in result.summary["uncertainty"].get("profile", {}).items():
        for side, word in SIDES.items():
            at = f"profile/{name}/{word}"
            if f"{at}/value" in result.arrays:
                values, chi2, refined = (
                    result.arrays[f"{at}/{key}"] for key in ("value", "chi2", "refined")
                )
                found.append(Ray(name, side, values, chi2, refined, row[word]))
    return found


def bootstrap_of(result: Result, names: tuple[str, ...]) -> Bootstrap | None:
    """The bootstrap samples in a result."""
    row, arrays = result.summary["uncertainty"].get("bootstrap"), result.arrays
    if row is None:
        return None
    return Bootstrap(
        names, arrays["bootstrap/values"], arrays["bootstrap/chi2"], arrays["bootstrap/outcome"],
        {int(k): why for k, why in row["failures"].items()}, row["seed"], 0.0, "finished",
    )


def chain_of(result: Result, names: tuple[str, ...]) -> Chain | None:
    """The posterior's chain in a result."""
    row, arrays = result.summary["uncertainty"].get("posterior"), result.arrays
    if row is None:
        return None
    return Chain(
        names, arrays["posterior/samples"], arrays["posterior/log_posterior"],
        arrays["posterior/last"], arrays["posterior/last_log_posterior"],
        arrays["posterior/accepted"], row["n_steps"], row["thin"], row["n_impossible"],
        row["seed"], 0.0, "finished",
    )
