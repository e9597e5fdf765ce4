"""What a cloud of parameter values says: intervals, correlations, and derived quantities on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aiida_dse.engine.fit.refine import Refinement
from aiida_dse.engine.model.phase import CrystalPhase
from aiida_dse.engine.units import FloatArray

from .build import BuiltModel
from .derived import derived_rows, quantities_of

#: Percentiles of a normal distribution at -2, -1, 0, 1 and 2 s.d.
PERCENTILES = (2.275, 15.866, 50.0, 84.134, 97.725)
#: Derived quantities are evaluated on so many of the samples at most.
MOST_DERIVED = 1000


def spread_row(values: FloatArray, best: float | None = None) -> dict[str, Any]:
    """Median, mean, s.d. and the central 68.3 and 95.4 % of `values` (n,); bias against `best`."""
    low_95, low_68, median, high_68, high_95 = map(float, np.percentile(values, PERCENTILES))
    row: dict[str, Any] = {
        "median": median, "mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)),
        "interval_68": [low_68, high_68], "interval_95": [low_95, high_95],
    }
    return row if best is None else row | {"bias": row["mean"] - best}


def spread_rows(
    names: Sequence[str], samples: FloatArray, best: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """The row of each parameter from samples (n, n_free)."""
    return {name: spread_row(samples[:, k], best[name]) for k, name in enumerate(names)}


def correlation_of(samples: FloatArray) -> FloatArray:
    """(n_free, n_free) of samples (n, n_free)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(samples, rowvar=False))


def derived_spread(
    built: BuiltModel, best: Refinement, names: Sequence[str], spreads: Mapping[str, FloatArray]
) -> dict[str, dict[str, Any]]:
    """Sizes, volume, distances and angles of each phase, evaluated on samples (n, n_free).

    {phase: {quantity: {value, unit, su (by linear propagation), <spread>: its row}}}.
    """
    model = built.model
    linear = derived_rows(built, best.values, best.covariance)
    found: dict[str, dict[str, Any]] = {}
    for index, phase in enumerate(model.phases):
        rows: dict[str, Any] = {
            name: {"value": value, "unit": "" if name == "correlation" else "nm", "su": None}
            for name, value in linear[phase.name]["sizes"].items()
        }
        rows |= {name: dict(row) for name, row in linear[phase.name].get("quantities", {}).items()}
        quantities = quantities_of(built, index, best.values) \
            if isinstance(phase, CrystalPhase) else None
        for kind, samples in spreads.items():
            every = max(1, len(samples) // MOST_DERIVED)
            values: dict[str, list[float]] = {name: [] for name in rows}
            for sample in samples[::every]:
                at = dict(best.values) | dict(zip(names, map(float, sample), strict=True))
                at = model.constrained(at)
                for name, value in phase.size_statistics(model.local(index, at)).items():
                    values[name].append(value)
                for name, value, _ in quantities(at) if quantities else ():
                    values[name].append(value)
            for name, row in rows.items():
                row[kind] = spread_row(np.array(values[name]), row["value"])
        found[phase.name] = rows
    return found
