"""Rows and arrays of profiles, bootstrap and posterior in a result, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aiida_dse.documents.results import BootstrapRow, PosteriorRow, ProfileRow, UncertaintySummary
from aiida_dse.engine.fit.bootstrap import FAILED, NOT_CONVERGED, PENDING, REFINED, Bootstrap
from aiida_dse.engine.fit.convergence import convergence
from aiida_dse.engine.fit.posterior import Chain
from aiida_dse.engine.fit.profile import Profiles, Ray
from aiida_dse.engine.fit.refine import Refinement
from aiida_dse.engine.fit.surrogate import Approximation
from aiida_dse.engine.model.agreement import su_scale
from aiida_dse.io.results import Result

SIDES = {-1: "below", 1: "above"}
#: Rise of chi2 at the ends of the intervals of one parameter.
RISES = {"68": 1.0, "95": 4.0}


def profile_rows(profiles: Profiles, best: Refinement) -> dict[str, ProfileRow]:
    """Intervals of each profiled parameter where chi2 rises by 1 and by 4.

    The scaled intervals correspond to these rises times max(1, GoF)^2.
    """
    scale = su_scale(best.agreement.gof) ** 2
    rows: dict[str, ProfileRow] = {}
    for name, one in profiles.profiles.items():
        lower = None
        if one.lowest is not None:
            chi2, values = one.lowest
            lower = {"chi2": chi2,
                     "values": dict(zip(profiles.names, map(float, values), strict=True))}
        rows[name] = ProfileRow(
            value=one.parameter.value, su=one.parameter.su, chi2_min=one.chi2_min,
            below=one.below.ended, above=one.above.ended,
            n_points=len(one.below.values) + len(one.above.values),
            interval_68=one.interval(RISES["68"]), interval_95=one.interval(RISES["95"]),
            scaled_68=one.interval(RISES["68"] * scale),
            scaled_95=one.interval(RISES["95"] * scale), lower_minimum=lower,
        )
    return rows


def profile_arrays(profiles: Profiles) -> dict[str, np.ndarray]:
    """Arrays profile/<name>/<below|above>/<value|chi2|refined> of every side with points."""
    found: dict[str, np.ndarray] = {}
    for name, one in profiles.profiles.items():
        for ray in (one.below, one.above):
            if len(ray.values):
                at = f"profile/{name}/{SIDES[ray.side]}"
                found |= {f"{at}/value": ray.values, f"{at}/chi2": ray.chi2,
                          f"{at}/refined": ray.refined}
    return found


def profile_warnings(rows: Mapping[str, ProfileRow]) -> list[str]:
    """Warnings of lower minima and of sides without a limit."""
    found = []
    for name, row in rows.items():
        if row.lower_minimum is not None:
            found.append(
                f"The profile of {name} passed a lower minimum, chi2 = "
                f"{row.lower_minimum['chi2']:.6g} instead of {row.chi2_min:.6g}. Refine again "
                "from its values (lower_minimum in uncertainty.profile of the result)."
            )
        for side, ended in (("below", row.below), ("above", row.above)):
            if ended == "flat":
                found.append(f"chi2 is flat {side} {name} = {row.value:.6g}, so there is no limit "
                             "on this side.")
            elif ended not in ("", "risen", "bound"):
                found.append(f"The profile {side} {name} = {row.value:.6g} is incomplete: {ended}")
    return found


def bootstrap_row(samples: Bootstrap) -> BootstrapRow:
    """The numbers of bootstrap samples by outcome."""
    def count(outcome: int) -> int:
        return int((samples.outcome == outcome).sum())

    return BootstrapRow(
        n_samples=len(samples.chi2), seed=samples.seed, n_refined=count(REFINED),
        n_not_converged=count(NOT_CONVERGED), n_failed=count(FAILED), n_pending=count(PENDING),
        failures={str(k): why for k, why in samples.failures.items()},
    )


def bootstrap_warnings(row: BootstrapRow) -> list[str]:
    """A warning if samples are missing."""
    lost = row.n_failed + row.n_not_converged
    if not lost:
        return []
    first = next(iter(row.failures.values()), "")
    return [f"{lost} of {row.n_samples} bootstrap samples are missing: {row.n_failed} failed"
            + (f" (first error: {first})" if first else "")
            + f", {row.n_not_converged} did not converge."]


def chain_arrays(chain: Chain) -> dict[str, np.ndarray]:
    """Arrays posterior/<field> of a chain, from which it can be continued."""
    return {
        "posterior/samples": chain.samples,
        "posterior/log_posterior": chain.log_posterior,
        "posterior/last": chain.last,
        "posterior/last_log_posterior": chain.last_log_posterior,
        "posterior/accepted": chain.accepted,
    }


def chain_row(chain: Chain) -> PosteriorRow:
    """The size and acceptance of a chain."""
    return PosteriorRow(
        n_walkers=len(chain.last), n_steps=chain.n_steps, thin=chain.thin, seed=chain.seed,
        acceptance=chain.acceptance, n_impossible=chain.n_impossible,
        **({} if chain.approximation is None else {
            "n_exact": chain.approximation.n_exact, "n_checked": chain.approximation.n_checked,
            "error": None if np.isnan(chain.approximation.error) else chain.approximation.error}),
    )


def judged(chain: Chain) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    """Verdict on the convergence of a chain, diagnostics (n_free,), and samples after burn-in."""
    verdict = convergence(chain.samples, thin=chain.thin)
    kept = chain.samples[verdict.burn_in:].reshape(-1, len(chain.names))
    return {
        "burn_in": verdict.burn_in * chain.thin, "n_kept": len(kept),
        "converged": verdict.converged, "reasons": list(verdict.reasons),
    }, {
        "r_hat": verdict.r_hat, "autocorrelation_time": verdict.autocorrelation_time,
        "effective_samples": verdict.effective_samples,
    }, kept


def rays_of(result: Result[UncertaintySummary]) -> list[Ray]:
    """The sides of the profiles in a result, complete or not."""
    found = []
    for name, row in result.summary.uncertainty.profile.items():
        for side, ended in ((-1, row.below), (1, row.above)):
            at = f"profile/{name}/{SIDES[side]}"
            if f"{at}/value" in result.arrays:
                values, chi2, refined = (
                    result.arrays[f"{at}/{key}"] for key in ("value", "chi2", "refined")
                )
                found.append(Ray(name, side, values, chi2, refined, ended))
    return found


def bootstrap_of(
    result: Result[UncertaintySummary], names: tuple[str, ...]
) -> Bootstrap | None:
    """The bootstrap samples in a result."""
    row, arrays = result.summary.uncertainty.bootstrap, result.arrays
    if row is None:
        return None
    return Bootstrap(
        names, arrays["bootstrap/values"], arrays["bootstrap/chi2"], arrays["bootstrap/outcome"],
        {int(k): why for k, why in row.failures.items()}, row.seed, 0.0, "finished",
    )


def chain_of(result: Result[UncertaintySummary], names: tuple[str, ...]) -> Chain | None:
    """The chain of the posterior in a result."""
    row, arrays = result.summary.uncertainty.posterior, result.arrays
    if row is None:
        return None
    return Chain(
        names, arrays["posterior/samples"], arrays["posterior/log_posterior"],
        arrays["posterior/last"], arrays["posterior/last_log_posterior"],
        arrays["posterior/accepted"], row.n_steps, row.thin, row.n_impossible,
        row.seed, 0.0, "finished",
        None if row.n_exact is None else Approximation(
            row.n_exact, row.n_checked or 0, np.nan if row.error is None else row.error),
    )
