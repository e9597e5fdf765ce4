"""Simulate, refine and scan: from a built model to a result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from aiida_dse.documents.plans import RefinementPlan
from aiida_dse.engine.crystal.geometry import reflections
from aiida_dse.engine.fit.freedom import check_freedom
from aiida_dse.engine.fit.leastsquares import Cycle
from aiida_dse.engine.fit.minimisers import Evaluations, refine_without_derivatives
from aiida_dse.engine.fit.multistart import SearchProgress, multi_start
from aiida_dse.engine.fit.refine import Refinement, default_stages, refine
from aiida_dse.engine.maps.grid import quantities_on
from aiida_dse.engine.maps.scan import GofMap, ScanProgress, scan
from aiida_dse.engine.model.agreement import SERIAL_LIMIT, Agreement, serial_correlation
from aiida_dse.engine.model.phase import CrystalPhase
from aiida_dse.engine.parameters import ParameterStatus
from aiida_dse.io.results import Result, write_result

from .build import BuiltModel
from .derived import derived_rows
from .map_analysis import map_analysis
from .summary import (
    axis_arrays,
    common_summary,
    covariance_arrays,
    parameter_rows,
    pattern_arrays,
    unrefined_rows,
)

#: Reflections are marked up to here (1/Å); beyond, they crowd into a band.
TICKS_Q_MAX = 6.0
#: Derived quantities are kept for grids of up to so many outer points (each takes 8 bytes).
MAX_QUANTITY_POINTS = 100_000
#: Seconds between two safekeepings of a running scan.
CHECKPOINT_INTERVAL = 10.0

StopCheck = Callable[[], str | None]


def run_simulate(built: BuiltModel) -> Result:
    """The pattern at the starting values: on its own, or with scales and background fitted."""
    model = built.model
    clock = time.monotonic()
    if built.measured:
        evaluation = model.evaluate(model.start)
        arrays = pattern_arrays(model, evaluation)
        fit: Agreement | None = model.agreement(evaluation, 0)
    else:
        scales = {phase.name: built.document.scales.get(phase.name, 1.0) for phase in model.phases}
        evaluation = model.with_fixed_scales(scales).evaluate(model.start)
        arrays = axis_arrays(model)
        parts = {
            phase.name: scales[phase.name] * model.intensity(k, evaluation.states[k], model.start)
            for k, phase in enumerate(model.phases)
        }
        arrays |= {f"components/{name}": part for name, part in parts.items()}
        arrays["pattern/calculated"] = np.sum(list(parts.values()), axis=0)
        fit = None
    summary = common_summary(built, "simulate", "complete", "complete", time.monotonic() - clock)
    summary["parameters"] = unrefined_rows(model)
    summary["derived"] = derived_rows(built, model.start, None)
    if fit:
        summary["agreement"] = asdict(fit)
    return Result(summary, arrays)


def run_refine(
    built: BuiltModel, *, on_cycle: Callable[[Cycle], None] | None = None,
    should_stop: StopCheck | None = None, start: Mapping[str, float] | None = None,
    on_search: Callable[[SearchProgress], None] | None = None,
    on_descent: Callable[[Evaluations], None] | None = None,
) -> Result:
    """The refinement of the document, from its starting values or from `start`.

    With several `starts`, that of the lowest minimum; the others are listed in its 'search'.
    """
    model, plan = built.model, built.document.refinement or RefinementPlan()
    stages = built.stages or default_stages(model)
    check_freedom(model, stages)
    begin = model.constrained(dict(model.start) | dict(start or {}))
    if plan.method != "least_squares":
        found = refine_without_derivatives(
            model, stages, plan.method, on_progress=on_descent, should_stop=should_stop,
            start=begin, seed=plan.seed, restraints=built.restraints, max_cycles=plan.max_cycles,
            tolerance=plan.tolerance,
        )
        return refinement_result(built, found)
    if plan.starts == 1:
        found = refine(
            model, stages, on_cycle=on_cycle, should_stop=should_stop, start=begin,
            restraints=built.restraints, max_cycles=plan.max_cycles, tolerance=plan.tolerance,
        )
        return refinement_result(built, found)
    search = multi_start(
        model, stages, plan.starts, seed=plan.seed, start=begin, restraints=built.restraints,
        max_cycles=plan.max_cycles, tolerance=plan.tolerance, on_progress=on_search,
        should_stop=should_stop,
    )
    result = refinement_result(built, search.minima[0].refinement)
    tried = sum(len(minimum.starts) for minimum in search.minima) + len(search.failures)
    result.summary["search"] = {
        "n_starts": plan.starts, "n_tried": tried, "seed": plan.seed,
        "stop_reason": search.stop_reason,
        "minima": [
            {"gof": m.refinement.agreement.gof, "chi2": m.chi2, "starts": list(m.starts),
             "converged": m.refinement.converged,
             "values": {name: m.refinement.values[name] for name in search.names}}
            for m in search.minima
        ],
        "failures": {str(k): why for k, why in search.failures.items()},
    }
    result.summary.update(seconds=search.seconds, n_evaluations=search.n_evaluations)
    if search.stop_reason != "complete":
        result.summary["warnings"].append(
            f"the search ended ({search.stop_reason}) after {tried} of {plan.starts} starts"
        )
    result.arrays["search/starts"] = search.starts
    result.arrays["search/names"] = np.array(search.names, dtype=str)
    return result


def refinement_result(built: BuiltModel, found: Refinement) -> Result:
    model = built.model
    status = "converged" if found.converged else "not_converged"
    if found.stop_reason in ("walltime", "interrupted"):
        status = found.stop_reason
    elif found.converged and found.undetermined:
        status = "singular"
    summary = common_summary(built, "refine", status, found.stop_reason, found.seconds)
    summary |= {
        "agreement": asdict(found.agreement),
        "parameters": parameter_rows(found.parameters, model.start, model.constraints),
        "linear": {p.name: {"value": p.value, "su": p.su,
                            "at_zero": p.status is ParameterStatus.AT_BOUND}
                   for p in found.linear},
        "derived": derived_rows(built, found.values, found.covariance),
        "restraints": {
            r.name: {"value": r.value(found.values), "target": r.target, "sigma": r.sigma,
                     "unit": r.unit, "chi2": r.deviation(found.values) ** 2}
            for r in built.restraints
        },
        "warnings": list(found.warnings),
        "method": (built.document.refinement or RefinementPlan()).method,
        "n_cycles": found.n_cycles,
        "n_evaluations": found.n_evaluations,
    }
    if found.agreement.durbin_watson < SERIAL_LIMIT:
        serial = serial_correlation(found.evaluation.linear.residual)
        summary["serial_correlation"] = asdict(serial)
        for row in summary["parameters"].values():
            if row["su"] is not None:
                row["su_serial"] = row["su"] * serial.su_factor
    arrays = pattern_arrays(model, found.evaluation)
    for phase in model.phases:
        if isinstance(phase, CrystalPhase):
            index = model.phases.index(phase)
            crystal = phase.structure(model.local(index, found.values))
            q_max = min(TICKS_Q_MAX, float(model.sampling.q.max()))
            arrays[f"reflections/{phase.name}"] = reflections(crystal, q_max)
    return Result(summary, arrays | covariance_arrays(found.covariance))


def run_scan(
    built: BuiltModel, *, on_progress: Callable[[ScanProgress], None] | None = None,
    should_stop: StopCheck | None = None, checkpoint: Path | None = None,
    finished: Result | None = None, threads: int | None = None,
) -> Result:
    """The GoF map of the document; kept in `checkpoint` as it fills, continued from `finished`."""
    plan = built.document.scan
    if plan is None:
        raise ValueError("the document has no 'scan'; add one with its 'axes'.")
    last = time.monotonic()

    def keep(partial: GofMap) -> None:
        nonlocal last
        if checkpoint is not None and time.monotonic() - last > CHECKPOINT_INTERVAL:
            write_result(scan_result(built, partial), checkpoint)
            last = time.monotonic()

    known = None if finished is None else map_of(built, finished)
    assert built.grid is not None
    found = scan(
        built.model, built.grid, refine_at_each_point=plan.refine, restraints=built.restraints,
        adaptive=plan.adaptive, on_progress=on_progress, on_block=keep, should_stop=should_stop,
        threads=threads, finished=known,
    )
    return scan_result(built, found)


def scan_result(built: BuiltModel, found: GofMap) -> Result:
    status = "complete" if found.complete else found.stop_reason
    summary = common_summary(built, "scan", status, found.stop_reason, found.seconds)
    grid, done = found.grid, int(np.isfinite(found.gof).sum())
    ended = found.stop_reason != "running"
    quantities = quantity_arrays(built, found) if ended else {}
    summary |= {
        "axes": [axis.name for axis in grid.axes],
        "axis_units": [axis.unit for axis in grid.axes],
        # times the document's values: the length of a path
        "axis_scales": [axis.scale for axis in grid.axes],
        "shape": list(found.gof.shape),
        "n_done": done,
        "n_unreachable": int(grid.unreachable.sum()),
        "moved": list(grid.moved),
        "refined": list(found.refined),
        "quantities": [{"name": name, "unit": built.quantities[name].unit} for name in quantities],
        "n_points_pattern": found.n_points,
        "minimum": found.minimum if done else None,
        "parameters": unrefined_rows(built.model),
    }
    arrays: dict[str, np.ndarray] = {
        "scan/gof": found.gof, "scan/chi2": found.chi2, "scan/n_active": found.n_active,
    }
    for k, axis in enumerate(grid.axes):
        arrays[f"scan/axis_{k}"] = axis.values
    for k, values in enumerate(grid.moved.values()):
        arrays[f"scan/moved_{k}"] = values
    for k, values in enumerate(quantities.values()):
        arrays[f"scan/quantity_{k}"] = values
    for name, values in found.refined.items():
        arrays[f"scan/refined/{name}"] = values
    if found.evaluated is not None:
        arrays["scan/evaluated"] = found.evaluated.astype(np.uint8)
    if ended and done:
        summary |= map_analysis(summary, arrays)
    return Result(summary, arrays)


def quantity_arrays(built: BuiltModel, found: GofMap) -> dict[str, np.ndarray]:
    """Derived quantities over the grid, length 1 along axes that do not move them; none if huge."""
    names = list(built.quantities)
    if found.refined:
        size = found.gof.size
    else:
        size = math.prod(found.grid.shape[k] for k in found.grid.outer)
    if size > MAX_QUANTITY_POINTS:
        return {}
    values = quantities_on(built.model, found.grid, list(built.quantities.values()),
                           found.refined, built.model.start)
    return dict(zip(names, values, strict=True))


def map_of(built: BuiltModel, result: Result) -> GofMap:
    """The GoF map in a scan result of the same document, finished or not."""
    arrays, grid = result.arrays, built.grid
    assert grid is not None
    refined = {name: arrays[f"scan/refined/{name}"] for name in result.summary["refined"]}
    evaluated = arrays.get("scan/evaluated")
    return GofMap(
        grid, arrays["scan/gof"], arrays["scan/chi2"], arrays["scan/n_active"], refined,
        result.summary["n_points_pattern"], result.summary["seconds"],
        result.summary["stop_reason"], None if evaluated is None else evaluated.astype(bool),
    )
