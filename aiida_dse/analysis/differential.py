"""Differential patterns (I - I0)/I0: the effect of a swept parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

import aiida_dse
from aiida_dse.documents.series import DifferentialOptions
from aiida_dse.documents.series_results import DifferentialRow, DifferentialSummary, ReferenceRow
from aiida_dse.documents.status import Status
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.io.results import Result


def differential(
    results: Mapping[str, Result[Any]], options: DifferentialOptions
) -> Result[DifferentialSummary]:
    """(I - I0)/I0 of simulated or refined patterns on one q axis, I0 that of `reference`.

    I is the sum of the phases, as calculated; with options.background it includes background and
    blanks. Raises ValueError for patterns on different q, without a pattern, or where I0 is not
    positive.
    """
    if options.reference not in results:
        raise ValueError(f"the reference '{options.reference}' is not among "
                         f"{', '.join(results) or 'the results: there are none'}.")
    if len(results) < 2:
        raise ValueError("a differential pattern needs a pattern besides its reference; pass at "
                         "least two results.")
    curves, q0 = {}, _q(results[options.reference], options.reference)
    for name, result in results.items():
        if "/" in name:
            raise ValueError(f"'{name}': a pattern's name has no slash. Rename it.")
        q = _q(result, name)
        if q.shape != q0.shape or not np.allclose(q, q0, rtol=1e-9):
            raise ValueError(
                f"'{name}' ({len(q)} points, q {q[0]:.3f}-{q[-1]:.3f} 1/Å) and the reference "
                f"'{options.reference}' ({len(q0)} points, {q0[0]:.3f}-{q0[-1]:.3f}) are on "
                "different q. Simulate both on the same axis."
            )
        curves[name] = _intensity(result, options.background)
    labels = {name: _label(result, options.parameter) for name, result in results.items()}
    unit = "" if options.parameter is None else \
        results[options.reference].summary.parameters[options.parameter].unit
    return _result(q0, curves, options, labels, unit)


def differential_of_model(
    model: PatternModel, parameter: str, sweep: Sequence[float], *,
    values: Mapping[str, float] | None = None, scales: Mapping[str, float] | None = None,
    q_range: tuple[float, float] | None = None,
) -> Result[DifferentialSummary]:
    """(I - I0)/I0 of a model as one parameter takes the values of `sweep`, I0 at `values`.

    values: all parameters (default: the start); sweep (n,) in the parameter's unit; scales: of the
    phases, per particle (default 1). Constraints follow. No background. Raises ValueError for an unknown
    parameter or a constrained one.
    """
    p = model.require(parameter)
    if any(constraint.target == parameter for constraint in model.constraints):
        raise ValueError(f"{parameter} is constrained to others; sweep one of those.")
    base = dict(model.start) | dict(values or {})
    curves: dict[str, np.ndarray] = {}
    labels: dict[str, float | None] = {}
    states = model.states(model.constrained(base))
    for name, value in (("reference", base[parameter]),
                        *((f"{value:g}", float(value)) for value in sweep)):
        at = model.constrained(base | {parameter: value})
        moved = model.states(at, states)
        curves[name] = np.sum([
            (scales or {}).get(phase.name, 1.0) * model.intensity(k, moved[k], at)
            for k, phase in enumerate(model.phases)
        ], axis=0)
        labels[name] = value
    options = DifferentialOptions(reference="reference", parameter=parameter, q_range=q_range)
    return _result(model.sampling.q, curves, options, labels, p.unit)


def _q(result: Result[Any], name: str) -> np.ndarray:
    if "pattern/q" not in result.arrays:
        raise ValueError(f"'{name}' holds no pattern (it is of task '{result.task}'); pass "
                         f"simulations or refinements.")
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
        raise ValueError(f"the results have no parameter '{parameter}'; correct the option "
                         "'parameter'.")
    return float(row.value)


def _result(
    q: np.ndarray, curves: Mapping[str, np.ndarray], options: DifferentialOptions,
    labels: Mapping[str, float | None], unit: str,
) -> Result[DifferentialSummary]:
    low, high = options.q_range or (-np.inf, np.inf)
    inside = (q >= low) & (q <= high)
    if not inside.any():
        raise ValueError(f"no point of the patterns (q {q[0]:.3f}-{q[-1]:.3f} 1/Å) lies in q_range "
                         f"= {low:g} ... {high:g} 1/Å.")
    reference = curves[options.reference][inside]
    if not (reference > 0).all():
        raise ValueError(f"the reference '{options.reference}' is {reference.min():g} at its "
                         "lowest: (I - I0)/I0 needs I0 > 0. Narrow q_range.")
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
