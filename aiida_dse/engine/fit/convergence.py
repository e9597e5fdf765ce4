"""Convergence of Markov chains: burn-in, autocorrelation time and split R-hat.

The integrated autocorrelation time is emcee's estimate (J. Goodman and J. Weare, Commun. Appl.
Math. Comput. Sci. 5 (2010) 65); split R-hat follows A. Gelman et al., Bayesian Data Analysis
(2013), 11.4, with each half of a walker's path as a chain. The walkers of an ensemble propose moves
from each other's positions and are not independent chains, so R-hat is optimistic: the number of
autocorrelation times is the stricter criterion. Neither detects minima that no walker has visited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.units import FloatArray

#: Criteria of convergence: the largest split R-hat and the smallest length of the chain.
LARGEST_R_HAT = 1.05
LEAST_AUTOCORRELATION_TIMES = 50
#: Length of the burn-in, which is dropped, in autocorrelation times.
BURN_IN_TIMES = 5


@dataclass(frozen=True)
class Convergence:
    """Convergence diagnostics of each parameter (n_free,), with the burn-in dropped."""

    burn_in: int  # number of stored steps that were dropped
    n_kept: int  # number of stored steps that were kept
    autocorrelation_time: FloatArray  # in steps
    effective_samples: FloatArray
    r_hat: FloatArray
    reasons: tuple[str, ...]  # why the chain has not converged

    @property
    def converged(self) -> bool:
        return not self.reasons


def convergence(samples: FloatArray, *, thin: int = 1) -> Convergence:
    """Diagnose the convergence of `samples` (n_stored, n_walkers, n_free).

    The samples are every `thin`-th step of a chain. The chain has converged if every R-hat is below
    1.05 and at least 50 autocorrelation times follow the burn-in, which is five autocorrelation
    times and at most half the chain.
    """
    n_stored, n_walkers, n_free = samples.shape
    if n_stored < 8:
        unknown = np.full(n_free, np.nan)
        return Convergence(
            0, n_stored, unknown, unknown, unknown,
            (f"{n_stored} stored steps are too few to judge convergence (at least 8 are needed)",),
        )
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
                f"the {len(kept) * thin} steps after the burn-in are only "
                f"{len(kept) / np.max(tau):.0f} autocorrelation times "
                f"(at least {LEAST_AUTOCORRELATION_TIMES} are needed)"
            )
    return Convergence(burn_in, len(kept), tau * thin, n_walkers * len(kept) / tau, r_hat,
                       tuple(reasons))


def split_r_hat(samples: FloatArray) -> FloatArray:
    """Split R-hat (n_free,) = sqrt(((n - 1) W + B) / (n W)) of `samples` (n, n_walkers, n_free).

    W is the mean variance within the half chains and B / n the variance of their means; R-hat is 1
    where all half chains agree.
    """
    n = len(samples) // 2
    halves = np.concatenate([samples[:n], samples[-n:]], axis=1)
    within = halves.var(axis=0, ddof=1).mean(axis=0)
    between = halves.mean(axis=0).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt((n - 1) / n + between / within))


def _autocorrelation_time(samples: FloatArray) -> FloatArray:
    """The autocorrelation time (n_free,) in stored steps, at least 1; nan for constant samples."""
    import emcee

    # tol=0, because the caller judges the length of the chain
    with np.errstate(invalid="ignore", divide="ignore"):
        tau = emcee.autocorr.integrated_time(samples, tol=0)
    return np.asarray(np.maximum(tau, 1.0))
