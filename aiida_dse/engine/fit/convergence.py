"""Convergence of Markov chains: burn-in, autocorrelation time and split R-hat.

Integrated autocorrelation time after J. Goodman and J. Weare, Commun. Appl. Math. Comput. Sci. 5
(2010) 65 (emcee's estimate); split R-hat after A. Gelman et al., Bayesian Data Analysis (2013),
11.4, each half of a walker's way being a chain. The walkers of one ensemble propose moves from each
other and are not independent chains, so R-hat is optimistic: the number of autocorrelation times is
the stricter criterion, and neither notices minima that no walker has visited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.units import FloatArray

#: What counts as converged.
LARGEST_R_HAT = 1.05
LEAST_AUTOCORRELATION_TIMES = 50
#: Autocorrelation times that are dropped at the beginning.
BURN_IN_TIMES = 5


@dataclass(frozen=True)
class Convergence:
    """Diagnostics for each parameter (n_free,), after `burn_in` stored steps were dropped."""

    burn_in: int  # stored steps
    n_kept: int  # stored steps
    autocorrelation_time: FloatArray  # in steps
    effective_samples: FloatArray
    r_hat: FloatArray
    reasons: tuple[str, ...]  # why it is not converged; empty where it is

    @property
    def converged(self) -> bool:
        return not self.reasons


def convergence(samples: FloatArray, *, thin: int = 1) -> Convergence:
    """Judge `samples` (n_stored, n_walkers, n_free), every `thin`-th step of a chain.

    Converged: every R-hat below 1.05, and at least 50 autocorrelation times after the burn-in of
    five, which takes half the chain at most.
    """
    n_stored, n_walkers, n_free = samples.shape
    if n_stored < 8:
        nothing = np.full(n_free, np.nan)
        return Convergence(0, n_stored, nothing, nothing, nothing,
                           (f"{n_stored} stored steps are too few to judge (at least 8)",))
    longest = np.max(_autocorrelation_time(samples))
    burn_in = n_stored // 2
    if np.isfinite(longest):
        burn_in = min(burn_in, int(np.ceil(BURN_IN_TIMES * longest)))
    kept = samples[burn_in:]
    tau = _autocorrelation_time(kept)
    r_hat = split_r_hat(kept)
    reasons = []
    with np.errstate(invalid="ignore"):
        if not np.all(r_hat < LARGEST_R_HAT):
            reasons.append(f"split R-hat reaches {np.max(r_hat):.3f} (limit {LARGEST_R_HAT:g})")
        if not np.all(len(kept) >= LEAST_AUTOCORRELATION_TIMES * tau):
            reasons.append(
                f"the {len(kept) * thin} steps after the burn-in are "
                f"{len(kept) / np.max(tau):.0f} autocorrelation times "
                f"({LEAST_AUTOCORRELATION_TIMES} wanted)"
            )
    return Convergence(burn_in, len(kept), tau * thin, n_walkers * len(kept) / tau, r_hat,
                       tuple(reasons))


def split_r_hat(samples: FloatArray) -> FloatArray:
    """sqrt(((n - 1) W + B) / (n W)) of the half chains of `samples` (n, n_walkers, n_free).

    W is the mean variance within a half chain, B / n the variance of their means; 1 when all
    half chains agree.
    """
    n = len(samples) // 2
    halves = np.concatenate([samples[:n], samples[-n:]], axis=1)
    within = halves.var(axis=0, ddof=1).mean(axis=0)
    between = halves.mean(axis=0).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt((n - 1) / n + between / within))


def _autocorrelation_time(samples: FloatArray) -> FloatArray:
    """(n_free,) in stored steps, at least one; nan where a parameter never moved."""
    import emcee

    # tol=0: judging the length is left to the caller
    with np.errstate(invalid="ignore", divide="ignore"):
        tau = emcee.autocorr.integrated_time(samples, tol=0)
    return np.asarray(np.maximum(tau, 1.0))
