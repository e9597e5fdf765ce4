"""Statistics of bootstrap and posterior samples, and of quantities derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aiida_dse.documents.results import DerivedSpread, SpreadRow
from aiida_dse.engine.fit.refine import Refinement
from aiida_dse.engine.units import FloatArray

from .build import BuiltModel
from .derived import SIZES, derived_quantities, quantity_function

#: Percentiles of a normal distribution at -2, -1, 0, 1 and 2 s.d.
PERCENTILES = (2.275, 15.866, 50.0, 84.134, 97.725)
#: Largest number of samples on which derived quantities are evaluated.
MOST_DERIVED = 1000


def spread_row(values: FloatArray, best: float | None = None) -> SpreadRow:
    """Median, mean, s.d., central 68.3 and 95.4 % intervals of `values` (n,), bias from `best`."""
    low_95, low_68, median, high_68, high_95 = map(float, np.percentile(values, PERCENTILES))
    mean = float(np.mean(values))
    return SpreadRow(
        median=median, mean=mean, sd=float(np.std(values, ddof=1)),
        interval_68=(low_68, high_68), interval_95=(low_95, high_95),
        bias=None if best is None else mean - best,
    )


def spread_rows(
    names: Sequence[str], samples: FloatArray, best: Mapping[str, float]
) -> dict[str, SpreadRow]:
    """The statistics of each parameter from samples (n, n_free)."""
    return {name: spread_row(samples[:, k], best[name]) for k, name in enumerate(names)}


def correlation_of(samples: FloatArray) -> FloatArray:
    """Correlation matrix (n_free, n_free) of samples (n, n_free)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(samples, rowvar=False))


def derived_spread(
    built: BuiltModel, best: Refinement, names: Sequence[str], spreads: Mapping[str, FloatArray]
) -> dict[str, dict[str, DerivedSpread]]:
    """Derived quantities of each phase with their spread over samples (n, n_free) of each kind.

    Each quantity also has its s.u. by linear propagation.
    """
    model = built.model
    found: dict[str, dict[str, DerivedSpread]] = {}
    for phase in model.phases:
        linear = derived_quantities(built, phase, best.values, best.covariance)
        values = linear.rows(sizes=True) | linear.rows(sizes=False)
        shown = [name.removeprefix(SIZES) for name in linear.names]
        _, _, function = quantity_function(built, phase, best.values, best.covariance)
        rows = {name: DerivedSpread(**values[name].model_dump()) for name in shown}
        for kind, samples in spreads.items():
            every = max(1, len(samples) // MOST_DERIVED)
            drawn = np.array([
                function(model.constrained(
                    dict(best.values) | dict(zip(names, map(float, sample), strict=True))))
                for sample in samples[::every]
            ])
            for k, name in enumerate(shown):
                row = spread_row(drawn[:, k], values[name].value)
                rows[name] = rows[name].model_copy(update={kind: row})
        found[phase.name] = rows
    return found
