"""The posterior of the parameters by Markov chain Monte Carlo (emcee's ensemble of walkers).

    log p(x | y) = -chi2(x) / 2 - sum_restraints deviation^2 / 2   inside the bounds, else -inf

chi2 is taken with the linear coefficients at their optimum for x: the linear part is profiled, not
marginalised. For linear coefficients that are not held at zero, the two differ only by the slowly
varying log-determinant of their normal matrix.

chi2 is that of a quadratic approximation of the patterns (surrogate.py), which is compared with the
exact model at samples of the chain; where the two differ too much, the chain is computed again with the
exact model.

D. Foreman-Mackey et al., Publ. Astron. Soc. Pac. 125 (2013) 306 (emcee); C. J. F. ter Braak, Stat.
Comput. 16 (2006) 239 and with J. A. Vrugt, ibid. 18 (2008) 435 (differential evolution).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.restraints import Restraint, deviations
from aiida_dse.engine.resources import ONE_THREAD, Resources, StopCheck
from aiida_dse.engine.units import FloatArray

from .refine import Refinement
from .surrogate import Approximation, NotApproximated, QuadraticPatterns

#: The moves with their shares. Independent proposals from the covariance are efficient where the
#: posterior is nearly normal; differential evolution works for other posteriors as well.
MOVES = {"independent": 0.5, "differential": 0.4, "snooker": 0.1}
#: Degrees of freedom of the independent proposals (Student's t, with tails wider than a normal's).
TAILS = 20.0
#: Largest number of stored values; longer chains are thinned to every k-th step.
MOST_STORED = 5_000_000
#: Samples at which the approximation is compared with the exact model, and its largest error.
CHECKED, LARGEST_ERROR = 64, 0.05


@dataclass(frozen=True)
class Chain:
    """The Markov chain of an ensemble of walkers; every `thin`-th step is stored."""

    names: tuple[str, ...]
    samples: FloatArray  # (n_stored, n_walkers, n_free)
    log_posterior: FloatArray  # (n_stored, n_walkers)
    last: FloatArray  # (n_walkers, n_free) after the last step
    last_log_posterior: FloatArray  # (n_walkers,)
    accepted: np.ndarray  # (n_walkers,) number of accepted moves
    n_steps: int
    thin: int
    n_impossible: int  # number of proposals inside the bounds with an impossible model
    seed: int
    seconds: float
    stop_reason: str
    approximation: Approximation | None = None  # None: every log p is exact

    @property
    def acceptance(self) -> float:
        """The accepted fraction of the proposed moves."""
        return float(self.accepted.sum() / max(1, self.n_steps * len(self.accepted)))


def default_walkers(n_free: int) -> int:
    """The default number of walkers: two per parameter plus four, and at least 16."""
    return max(16, 2 * n_free + 4)


def sample_posterior(
    model: PatternModel,
    best: Refinement,
    n_steps: int,
    *,
    n_walkers: int | None = None,
    seed: int = 0,
    restraints: Sequence[Restraint] = (),
    finished: Chain | None = None,
    direct: bool = False,
    resources: Resources = ONE_THREAD,
    on_step: Callable[[Callable[[], Chain], int], None] | None = None,
    should_stop: StopCheck | None = None,
) -> Chain:
    """Sample the posterior with `n_steps` from around the best values, or continue `finished`.

    log p is approximated (see above) unless `direct`, or unless the finished chain is exact. The
    random numbers of every step depend on (seed, step) only, so a continued chain equals an
    uninterrupted one. The walkers of a step share the `resources`. `on_step` receives a function
    that makes the chain so far, and the number of steps done.

    Raises ValueError for undetermined parameters, for fewer than two walkers per parameter, and
    for a `finished` chain of other parameters, seed or walkers.
    """
    clock = time.monotonic()
    names = tuple(p.name for p in best.free)
    n_free = len(names)
    if best.undetermined:
        raise ValueError(
            f"the data do not determine {', '.join(best.undetermined)}, so the walkers would "
            "spread over all values between the bounds. Fix or restrain these parameters."
        )
    n_walkers = n_walkers or default_walkers(n_free)
    require_walkers(n_walkers, n_free)
    if finished is not None and (
        (finished.names, finished.seed, len(finished.last)) != (names, seed, n_walkers)
    ):
        raise ValueError(
            f"the finished chain has {len(finished.last)} walkers, the seed {finished.seed} and "
            f"the parameters {', '.join(finished.names)}. Keep these, or start without this chain."
        )
    import emcee  # loads scipy.stats, which other tasks do not need

    direct = direct or (finished is not None and finished.approximation is None)
    workers = resources.workers(n_walkers)
    target = _Target(model.with_resources(resources.share(workers)), best, restraints)
    thin = finished.thin if finished else max(1, -(-n_steps * n_walkers * n_free // MOST_STORED))
    stored = list(finished.samples) if finished else []
    heights = list(finished.log_posterior) if finished else []
    accepted = finished.accepted.copy() if finished else np.zeros(n_walkers, dtype=np.int64)
    before = finished.n_impossible if finished else 0
    step = finished.n_steps if finished else 0
    reason = "complete"
    with ThreadPoolExecutor(workers) as pool:
        if not direct:
            target.approximate(pool)
        sampler = emcee.EnsembleSampler(
            n_walkers, n_free, lambda points: target.many(points, pool),
            moves=moves(target.centre, _widths(best)), vectorize=True,
        )
        if finished:
            coordinates, heights_now = finished.last, finished.last_log_posterior
        else:
            coordinates, heights_now = target.beginning(n_walkers, seed, pool)
            target.n_impossible = 0  # the starting points of the walkers do not count

        def chain(reason: str = "running") -> Chain:
            return Chain(
                names, np.array(stored).reshape(-1, n_walkers, n_free),
                np.array(heights).reshape(-1, n_walkers), coordinates, heights_now,
                accepted.copy(), step, thin, before + target.n_impossible, seed,
                time.monotonic() - clock, reason,
                None if target.surrogate is None else Approximation(
                    target.surrogate.n_exact, 0, np.nan),
            )

        try:
            while step < n_steps:
                if should_stop and (why := should_stop()):
                    reason = why
                    break
                random = np.random.RandomState(
                    np.random.MT19937(np.random.SeedSequence((seed, step)))
                )
                state = emcee.State(
                    coordinates, log_prob=heights_now, random_state=random.get_state(), copy=True
                )
                moved = next(sampler.sample(
                    state, iterations=1, store=False, skip_initial_state_check=True
                ))
                if target.interrupted:
                    reason = "interrupted"
                    break
                accepted += (moved.coords != coordinates).any(axis=1)
                coordinates, heights_now = moved.coords.copy(), moved.log_prob.copy()
                step += 1
                if step % thin == 0:
                    stored.append(coordinates)
                    heights.append(heights_now)
                if on_step:
                    on_step(chain, step)
        except KeyboardInterrupt:
            reason = "interrupted"
        found = chain(reason)
        if target.surrogate is None or not step:
            return found
        checked, error = target.error_at(found, pool)
    if error <= LARGEST_ERROR:
        return replace(found, approximation=Approximation(target.surrogate.n_exact, checked, error))
    if reason != "complete":
        return replace(found, stop_reason=reason, approximation=Approximation(
            target.surrogate.n_exact, checked, error))
    return sample_posterior(
        model, best, n_steps, n_walkers=n_walkers, seed=seed, restraints=restraints, direct=True,
        resources=resources, on_step=on_step, should_stop=should_stop)


def require_walkers(n_walkers: int, n_free: int) -> None:
    """Raise ValueError for an ensemble that cannot span the parameters."""
    if n_walkers < max(8, 2 * n_free):
        raise ValueError(
            f"{n_walkers} walkers are too few for {n_free} parameters: at least "
            f"{max(8, 2 * n_free)} are needed. Raise 'walkers', or omit it for the default of "
            f"{default_walkers(n_free)}."
        )


class _Target:
    """The log posterior of many points; it counts points with an impossible model."""

    def __init__(
        self, model: PatternModel, best: Refinement, restraints: Sequence[Restraint]
    ) -> None:
        self.model, self.best, self.restraints = model, best, restraints
        self.names = [p.name for p in best.free]
        self.lower = np.array([p.lower for p in best.free])
        self.upper = np.array([p.upper for p in best.free])
        self.centre = np.array([p.value for p in best.free])
        self.n_impossible = 0
        self.interrupted = False
        self.surrogate: QuadraticPatterns | None = None

    def approximate(self, pool: ThreadPoolExecutor) -> None:
        """Approximate chi2 from now on, where this is possible."""
        with contextlib.suppress(NotApproximated):
            self.surrogate = QuadraticPatterns(
                self.model, self.centre, _root(_widths(self.best)), self.values_at,
                self.best.evaluation.states, pool.map)

    def error_at(self, chain: Chain, pool: ThreadPoolExecutor) -> tuple[int, float]:
        """The number of checked samples, and the spread of the error of log p at these."""
        kept = chain.samples[len(chain.samples) // 2 :].reshape(-1, len(self.names))
        kept = np.concatenate([kept, chain.last])
        points = kept[np.unique(np.linspace(0, len(kept) - 1, CHECKED).astype(int))]
        approximate = self.many(points, pool)
        surrogate, self.surrogate = self.surrogate, None
        difference = self.many(points, pool) - approximate
        self.surrogate = surrogate
        return len(points), float(np.std(difference)) if np.isfinite(difference).all() else np.inf

    def many(self, points: FloatArray, pool: ThreadPoolExecutor) -> FloatArray:
        inside = np.all((points >= self.lower) & (points <= self.upper), axis=1)
        heights = np.full(len(points), -np.inf)
        if self.surrogate is not None:
            total = self.surrogate.chi2(points[inside])
            if self.restraints:
                extra = [deviations(self.restraints, self.values_at(one)) for one in points[inside]]
                total = total + np.array([one @ one for one in extra])
            heights[inside] = -0.5 * total
            return heights
        try:
            heights[inside] = list(pool.map(self.one, points[inside]))
        except KeyboardInterrupt:
            # emcee would print it as an error of the model; the step is dropped instead
            self.interrupted = True
            return np.full(len(points), -np.inf)
        self.n_impossible += int(np.isneginf(heights[inside]).sum())
        return heights

    def values_at(self, point: FloatArray) -> dict[str, float]:
        """All values of the model at a point (n_free,)."""
        values = dict(self.best.values) | dict(zip(self.names, map(float, point), strict=True))
        return self.model.constrained(values)

    def one(self, point: FloatArray) -> float:
        try:
            values = self.values_at(point)
            # the states of the best point provide the channels of unchanged sites and cells
            chi2 = self.model.evaluate(values, self.best.evaluation.states).chi2
            extra = deviations(self.restraints, values)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):
            return -np.inf
        total = -0.5 * (chi2 + float(extra @ extra))
        return total if np.isfinite(total) else -np.inf

    def beginning(
        self, n_walkers: int, seed: int, pool: ThreadPoolExecutor
    ) -> tuple[FloatArray, FloatArray]:
        """Starting points drawn from the covariance and reflected at the bounds, and their log p.

        Points with an impossible model are moved towards the best values.
        """
        # no step uses this child of the seed
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        factor = _root(_widths(self.best))
        points = self.centre + random.normal(size=(n_walkers, len(self.centre))) @ factor.T
        points = np.where(points < self.lower, 2 * self.lower - points, points)
        points = np.where(points > self.upper, 2 * self.upper - points, points)
        points = np.clip(points, self.lower, self.upper)
        heights = self.many(points, pool)
        for _ in range(20):
            lost = np.isneginf(heights)
            if not lost.any():
                break
            points[lost] = (points[lost] + self.centre) / 2
            heights[lost] = self.many(points[lost], pool)
        return points, heights


def _widths(best: Refinement) -> FloatArray:
    """The covariance (n_free, n_free) of proposals, with the natural step where there is no s.u."""
    names = [p.name for p in best.free]
    widths = np.diag([p.shift**2 for p in best.free])
    moving = [k for k, p in enumerate(best.free) if p.su is not None]
    widths[np.ix_(moving, moving)] = best.covariance.block([names[k] for k in moving])
    return np.asarray(widths)


def _root(covariance: FloatArray) -> FloatArray:
    """F with F F^T = covariance, also where rounding has made the covariance indefinite."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 1e-12 * values.max())))


def moves(centre: FloatArray, covariance: FloatArray) -> list[tuple[Any, float]]:
    """emcee's moves with their shares; the independent proposals are around centre (n_free,)."""
    import emcee

    factor = _root(covariance)
    inverse = np.linalg.inv(factor)
    n_free = len(centre)

    def log_density(points: FloatArray) -> FloatArray:
        distance = np.sum(((points - centre) @ inverse.T) ** 2, axis=1)
        return np.asarray(-0.5 * (TAILS + n_free) * np.log1p(distance / TAILS))

    def propose(
        points: FloatArray, random: np.random.RandomState
    ) -> tuple[FloatArray, FloatArray]:
        width = np.sqrt(TAILS / random.chisquare(TAILS, size=len(points)))
        new = centre + (random.normal(size=points.shape) * width[:, None]) @ factor.T
        return new, log_density(points) - log_density(new)

    made = (emcee.moves.MHMove(propose), emcee.moves.DEMove(), emcee.moves.DESnookerMove())
    return list(zip(made, MOVES.values(), strict=True))
