"""Multi-start refinement: searches for other minima from many starting points.

The starting points fill a box with a scrambled Sobol sequence (scipy.stats.qmc), and least squares
refines each of them; results that agree within their uncertainties are the same minimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.restraints import Restraint, deviations
from aiida_dse.engine.parameters import Parameter
from aiida_dse.engine.units import FloatArray

from .refine import Refinement, default_stages, free_names, refine

#: Results whose parameters all agree within this many s.u. are the same minimum.
SAME_MINIMUM = 1.0


@dataclass(frozen=True)
class Minimum:
    """A minimum: its best refinement, and the starting points from which it was reached."""

    refinement: Refinement
    chi2: float  # with restraints
    starts: tuple[int, ...]  # 0 is the starting point of the document


@dataclass(frozen=True)
class Search:
    """The outcome of a multi-start search: its minima, the lowest first, and its cost."""

    minima: tuple[Minimum, ...]
    failures: dict[int, str]
    starts: FloatArray  # (n_starts, n_free)
    names: tuple[str, ...]
    n_evaluations: int
    seconds: float
    stop_reason: str


@dataclass(frozen=True)
class SearchProgress:
    """Progress of a multi-start search."""

    done: int
    total: int
    best_gof: float
    n_minima: int
    elapsed: float

    @property
    def remaining(self) -> float:
        """Estimated seconds to the end."""
        return self.elapsed / max(1, self.done) * (self.total - self.done)


def multi_start(
    model: PatternModel,
    stages: Sequence[Sequence[str]] | None,
    n_starts: int,
    *,
    seed: int = 0,
    start: Mapping[str, float] | None = None,
    boxes: Mapping[str, tuple[float, float]] | None = None,
    restraints: Sequence[Restraint] = (),
    max_cycles: int = 60,
    tolerance: float = 0.01,
    on_progress: Callable[[SearchProgress], None] | None = None,
    should_stop: Callable[[], str | None] | None = None,
) -> Search:
    """Refine from `n_starts` starting points, the first of which is `start`.

    `boxes` replaces the default starting ranges of parameters. Starting points that fail, for
    example with an impossible particle, are reported as failures. Raises ValueError for a range
    outside the bounds, and where all starting points fail.
    """
    if n_starts < 1:
        raise ValueError(
            f"the number of starting points is {n_starts}; it must be at least 1."
        )
    clock = time.monotonic()
    wanted = stages or default_stages(model)
    names = free_names(model, wanted)
    base = model.constrained(dict(start or model.start))
    limits = np.array([_box(model.parameters[n], base[n], (boxes or {}).get(n)) for n in names])
    low, high = limits[:, 0], limits[:, 1]
    from scipy.stats import qmc  # loads for half a second; few refinements need it

    # only a power of two of its points makes a Sobol sequence balanced
    power = int(np.ceil(np.log2(n_starts)))
    draws = qmc.Sobol(len(names), rng=np.random.default_rng(seed)).random_base2(power)[:n_starts]
    points = low + draws * (high - low)
    points[0] = [base[n] for n in names]
    minima: list[Minimum] = []
    failures: dict[int, str] = {}
    evaluations, reason = 0, "complete"
    for k, point in enumerate(points):
        values = base | dict(zip(names, map(float, point), strict=True))
        try:
            refined = refine(
                model, wanted, start=model.constrained(values), restraints=restraints,
                max_cycles=max_cycles, tolerance=tolerance, should_stop=should_stop,
            )
        except ValueError as problem:
            failures[k] = str(problem)
            continue
        evaluations += refined.n_evaluations
        if refined.stop_reason in ("walltime", "interrupted"):
            reason = refined.stop_reason
            if minima:
                break
        extra = deviations(restraints, refined.values)
        chi2 = refined.agreement.chi2 + float(extra @ extra)
        minima = _joined(minima, Minimum(refined, chi2, (k,)))
        if on_progress:
            on_progress(SearchProgress(
                k + 1, n_starts, minima[0].refinement.agreement.gof, len(minima),
                time.monotonic() - clock,
            ))
        if reason != "complete":
            break
    if not minima:
        raise ValueError(f"all starting points failed. The first error: {failures[min(failures)]}")
    return Search(
        tuple(minima), failures, points, tuple(names), evaluations, time.monotonic() - clock, reason
    )


def _box(
    parameter: Parameter, value: float, specified: tuple[float, float] | None
) -> tuple[float, float]:
    if specified is None:
        return parameter.start_range(value)
    low, high = specified
    if not parameter.lower <= low < high <= parameter.upper:
        raise ValueError(
            f"{parameter.name}: the starting range {low:g} ... {high:g} {parameter.unit} does not "
            f"lie within its bounds {parameter.lower:g} ... {parameter.upper:g}. Change the range "
            "or the bounds."
        )
    return low, high


def _joined(minima: Sequence[Minimum], new: Minimum) -> list[Minimum]:
    """The minima, the lowest first, with a new one added or merged with that which it equals."""
    rest = []
    for known in minima:
        if _same(known.refinement, new.refinement):
            better = min(known, new, key=lambda minimum: minimum.chi2)
            new = Minimum(better.refinement, better.chi2, tuple(sorted(known.starts + new.starts)))
        else:
            rest.append(known)
    return sorted([*rest, new], key=lambda minimum: minimum.chi2)


def _same(one: Refinement, other: Refinement) -> bool:
    for p, r in zip(one.free, other.free, strict=True):
        su = [x.su for x in (p, r) if x.su is not None]
        if su and abs(p.value - r.value) > SAME_MINIMUM * max(su):
            return False
    return True
