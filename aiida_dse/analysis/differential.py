"""Differential patterns (I - I0)/I0, for example the effect of one parameter on a pattern."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

import aiida_dse
from aiida_dse.documents.series import DifferentialOptions
from aiida_dse.documents.series_results import DifferentialRow, DifferentialSummary, ReferenceRow
from aiida_dse.documents.status import Status
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.io.results import Result


def differential(
    results: Mapping[str, Result[Any]], options: DifferentialOptions
) -> Result[DifferentialSummary]:
    """(I - I0)/I0 of simulated or refined patterns on one q axis, with I0 that of `reference`.

    I is the calculated intensity of all phases; with options.background it includes background and
    blanks. Raises ValueError for an unknown reference, for fewer than two results, for results
    without a pattern or on different q, and where I0 is not positive.
    """
    if options.reference not in results:
        raise ValueError(f"the reference '{options.reference}' is not one of the results "
                         f"({', '.join(results) or 'there are none'}).")
    if len(results) < 2:
        raise ValueError("a differential pattern needs a pattern besides its reference. Pass at "
                         "least two results.")
    curves, q0 = {}, _q(results[options.reference], options.reference)
    for name, result in results.items():
        if "/" in name:
            raise ValueError(f"the name '{name}' of a pattern contains a slash. Rename it.")
        q = _q(result, name)
        if q.shape != q0.shape or not np.allclose(q, q0, rtol=1e-9):
            raise ValueError(
                f"'{name}' ({len(q)} points, q {q[0]:.3f}-{q[-1]:.3f} 1/Å) and the reference "
                f"'{options.reference}' ({len(q0)} points, q {q0[0]:.3f}-{q0[-1]:.3f} 1/Å) have "
                "different q. Simulate both on the same axis."
            )
        curves[name] = _intensity(result, options.background)
    labels = {name: _label(result, options.parameter) for name, result in results.items()}
    unit = "" if options.parameter is None else \
        results[options.reference].summary.parameters[options.parameter].unit
    return _result(q0, curves, options, labels, unit)


def _q(result: Result[Any], name: str) -> np.ndarray:
    if "pattern/q" not in result.arrays:
        raise ValueError(f"'{name}' is the result of the task '{result.task}' and contains no "
                         "pattern. Pass results of simulations or refinements.")
    return np.asarray(result.arrays["pattern/q"])


def _intensity(result: Result[Any], background: bool) -> np.ndarray:
    if background:
        return np.asarray(result.arrays["pattern/calculated"])
    return np.asarray(np.sum(
        [result.arrays[f"components/{name}"] for name in result.summary.phases], axis=0))


def _label(result: Result[Any], parameter: str | None) -> float | None:
    if parameter is None:
        return None
    row = result.summary.parameters.get(parameter)
    if row is None:
        raise ValueError(f"the results have no parameter '{parameter}'. Correct the option "
                         "'parameter'.")
    return float(row.value)


def _result(
    q: np.ndarray, curves: Mapping[str, np.ndarray], options: DifferentialOptions,
    labels: Mapping[str, float | None], unit: str,
) -> Result[DifferentialSummary]:
    low, high = options.q_range or (-np.inf, np.inf)
    inside = (q >= low) & (q <= high)
    if not inside.any():
        raise ValueError(f"no point of the patterns (q {q[0]:.3f}-{q[-1]:.3f} 1/Å) lies in the "
                         f"q_range {low:g} ... {high:g} 1/Å. Change q_range.")
    reference = curves[options.reference][inside]
    if not (reference > 0).all():
        raise ValueError(f"the lowest intensity I0 of the reference '{options.reference}' is "
                         f"{reference.min():g}, but (I - I0)/I0 needs I0 > 0. Narrow q_range.")
    arrays = {"pattern/q": q[inside], "reference/intensity": reference}
    rows: dict[str, DifferentialRow] = {}
    for name, intensity in curves.items():
        if name == options.reference:
            continue
        change = intensity[inside] / reference - 1
        arrays[f"differential/{name}"] = change
        k = int(np.argmax(np.abs(change)))
        rows[name] = DifferentialRow(
            at=labels[name], largest=float(change[k]), q_of_largest=float(q[inside][k]),
            rms=float(np.sqrt(np.mean(change**2))))
    return Result(DifferentialSummary(
        status=Status.COMPLETE, stop_reason="complete", title=options.title,
        reference=ReferenceRow(name=options.reference, at=labels[options.reference]),
        parameter=options.parameter, unit=unit, patterns=rows,
        options=options.model_dump(mode="json"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        engine_version=aiida_dse.__version__, numerics_version=NUMERICS_VERSION,
    ), arrays)
