"""Multi-start refinement: searches for other minima from many starting points.

Starting values spread over a box by a scrambled Sobol sequence (scipy.stats.qmc), each refined by
least squares; ends that agree within their uncertainties are one minimum.
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

#: Ends nearer than this, in s.u. of every parameter, are the same minimum.
SAME_MINIMUM = 1.0


@dataclass(frozen=True)
class Minimum:
    """One minimum: its best refinement, and which starts (0 is the document's own) led there."""

    refinement: Refinement
    chi2: float  # restraints included
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Search:
    """All minima found, the lowest first, and what finding them took."""

    minima: tuple[Minimum, ...]
    failures: dict[int, str]
    starts: FloatArray  # (n_starts, n_free)
    names: tuple[str, ...]
    n_evaluations: int
    seconds: float
    stop_reason: str


@dataclass(frozen=True)
class SearchProgress:
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
    """Refine from `n_starts` starting points, the first of them `start` itself.

    `boxes` replaces the default range of a parameter's starts. A start that fails (impossible
    particle, say) is reported, not hidden. Raises ValueError for a box outside the bounds.
    """
    if n_starts < 1:
        raise ValueError(f"{n_starts} starts: at least 1 is needed.")
    clock = time.monotonic()
    wanted = stages or default_stages(model)
    names = free_names(model, wanted)
    base = model.constrained(dict(start or model.start))
    limits = np.array([_box(model.parameters[n], base[n], (boxes or {}).get(n)) for n in names])
    low, high = limits[:, 0], limits[:, 1]
    from scipy.stats import qmc  # loads for half a second; few refinements need it

    # a Sobol sequence is balanced in powers of two only
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
            found = refine(
                model, wanted, start=model.constrained(values), restraints=restraints,
                max_cycles=max_cycles, tolerance=tolerance, should_stop=should_stop,
            )
        except ValueError as problem:
            failures[k] = str(problem)
            continue
        evaluations += found.n_evaluations
        if found.stop_reason in ("walltime", "interrupted"):
            reason = found.stop_reason
            if minima:
                break
        extra = deviations(restraints, found.values)
        minima = _joined(minima, Minimum(found, found.agreement.chi2 + float(extra @ extra), (k,)))
        if on_progress:
            on_progress(SearchProgress(
                k + 1, n_starts, minima[0].refinement.agreement.gof, len(minima),
                time.monotonic() - clock,
            ))
        if reason != "complete":
            break
    if not minima:
        raise ValueError(f"All starting points failed. First error: {failures[min(failures)]}")
    return Search(
        tuple(minima), failures, points, tuple(names), evaluations, time.monotonic() - clock, reason
    )


def _box(
    parameter: Parameter, value: float, given: tuple[float, float] | None
) -> tuple[float, float]:
    if given is None:
        return parameter.start_range(value)
    low, high = given
    if not parameter.lower <= low < high <= parameter.upper:
        raise ValueError(
            f"{parameter.name}: starts between {low:g} and {high:g} {parameter.unit} do not lie "
            f"inside its bounds {parameter.lower:g} ... {parameter.upper:g}."
        )
    return low, high


def _joined(minima: Sequence[Minimum], new: Minimum) -> list[Minimum]:
    """The minima with a new end: merged with the one it agrees with, the lowest first."""
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
