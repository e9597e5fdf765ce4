"""The tasks 'refine' and 'scan', which compute results from a model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aiida_dse.documents.plans import RefinementPlan
from aiida_dse.documents.records import RestraintRow
from aiida_dse.documents.results import (
    AxisRow,
    InterpolationRow,
    MinimumRow,
    QuantityRow,
    RefinementSummary,
    ScanSummary,
    SearchRow,
)
from aiida_dse.documents.status import Status
from aiida_dse.engine.crystal.geometry import reflections
from aiida_dse.engine.fit.freedom import check_freedom
from aiida_dse.engine.fit.leastsquares import Cycle
from aiida_dse.engine.fit.minimisers import Evaluations, refine_without_derivatives
from aiida_dse.engine.fit.multistart import SearchProgress, multi_start
from aiida_dse.engine.fit.refine import Refinement, default_stages, refine
from aiida_dse.engine.fit.settling import (
    SINGLE,
    Models,
    with_calculated_weights,
    with_refined_members,
)
from aiida_dse.engine.maps.gof_map import GofMap, Interpolation, ScanProgress
from aiida_dse.engine.maps.grid import Coordinate, quantities_on
from aiida_dse.engine.maps.scan import scan
from aiida_dse.engine.model.agreement import SERIAL_LIMIT, serial_correlation
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.particles.size_statistics import truncation_warning
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.io.results import Result, write_result

from .build import BuiltModel
from .derived import composition_warnings, phase_rows, refined_cifs
from .displacements import displacement_warnings
from .estimate import estimate_refinement, expected_geometries, map_work
from .fractions import weight_fractions
from .map_analysis import map_analysis
from .summary import (
    common,
    covariance_arrays,
    linear_rows,
    parameter_rows,
    pattern_arrays,
    unrefined_rows,
)
from .terminations import termination_warnings

#: Largest q (1/Å) at which reflections are marked; beyond it, the marks would merge into a band.
TICKS_Q_MAX = 6.0
#: Largest number of outer grid points for which derived quantities are stored (8 bytes each).
MAX_QUANTITY_POINTS = 100_000
#: Largest interpolated map that is stored in double precision.
LARGEST_DOUBLE = 100_000
#: Seconds between two checkpoints of a running scan.
CHECKPOINT_INTERVAL = 10.0

StopCheck = Callable[[], str | None]


def run_refine(
    built: BuiltModel, *, on_cycle: Callable[[Cycle], None] | None = None,
    should_stop: StopCheck | None = None, start: Mapping[str, float] | None = None,
    on_search: Callable[[SearchProgress], None] | None = None,
    on_descent: Callable[[Evaluations], None] | None = None,
) -> Result[RefinementSummary]:
    """Refine the parameters of the document from its starting values or from `start`.

    If the document requests several starting points, the result is that of the lowest minimum, and
    its 'search' lists all minima.
    """
    model, plan = built.model, built.document.refinement or RefinementPlan()
    stages = built.stages or default_stages(model)
    check_freedom(model, stages)
    begin = model.constrained(dict(model.start) | dict(start or {}))

    def settled(found: Refinement) -> Result[RefinementSummary]:
        final, best = settled_refinement(built, found, on_cycle, should_stop)
        best = replace(best, warnings=(*best.warnings, *termination_warnings(final, best)))
        return refinement_result(final, best)

    if plan.method != "least_squares":
        return settled(refine_without_derivatives(
            model, stages, plan.method, on_progress=on_descent, should_stop=should_stop,
            start=begin, seed=plan.seed, restraints=built.restraints, max_cycles=plan.max_cycles,
            tolerance=plan.tolerance,
        ))
    if plan.starts == 1:
        return settled(refine(
            model, stages, on_cycle=on_cycle, should_stop=should_stop, start=begin,
            restraints=built.restraints, max_cycles=plan.max_cycles, tolerance=plan.tolerance,
        ))
    search = multi_start(
        model, stages, plan.starts, seed=plan.seed, start=begin, restraints=built.restraints,
        max_cycles=plan.max_cycles, tolerance=plan.tolerance, on_progress=on_search,
        should_stop=should_stop,
    )
    result = settled(search.minima[0].refinement)
    tried = sum(len(minimum.starts) for minimum in search.minima) + len(search.failures)
    warnings = list(result.summary.warnings)
    if search.stop_reason != "complete":
        warnings.append(f"The search ended after {tried} of {plan.starts} starting points "
                        f"({search.stop_reason}).")
    found_minima = SearchRow(
        n_starts=plan.starts, n_tried=tried, seed=plan.seed, stop_reason=search.stop_reason,
        minima=[
            MinimumRow(
                gof=m.refinement.agreement.gof, chi2=m.chi2, starts=list(m.starts),
                converged=m.refinement.converged,
                values={name: m.refinement.values[name] for name in search.names})
            for m in search.minima
        ],
        failures={str(k): why for k, why in search.failures.items()},
    )
    arrays = dict(result.arrays) | {
        "search/starts": search.starts, "search/names": np.array(search.names, dtype=str)}
    return replace(result.changed(
        search=found_minima, seconds=search.seconds, n_evaluations=search.n_evaluations,
        warnings=warnings), arrays=arrays)


def settled_refinement(
    built: BuiltModel, found: Refinement, on_cycle: Callable[[Cycle], None] | None = None,
    should_stop: StopCheck | None = None,
) -> tuple[BuiltModel, Refinement]:
    """The model and the refinement after what depends on the refined values has settled.

    These are the atoms of spheres, and sigma if the weights are those of the calculated pattern.
    """
    plan = built.document.refinement or RefinementPlan()
    stages = [[name for stage in built.stages or default_stages(built.model) for name in stage]]

    def again(models: Models, last: Refinement) -> Refinement:
        return refine(
            models[SINGLE], stages, start=last.values, on_cycle=on_cycle, should_stop=should_stop,
            restraints=built.restraints, max_cycles=plan.max_cycles, tolerance=plan.tolerance)

    models, found = with_refined_members({SINGLE: built.model}, found, again)
    if plan.weights == "calculated":
        models, found = with_calculated_weights(models, found, again)
    return replace(built, model=models[SINGLE]), found


def status_of(converged: bool, undetermined: Sequence[str], stop_reason: str) -> Status:
    """The status of a refinement."""
    if stop_reason in (Status.WALLTIME, Status.INTERRUPTED):
        return Status(stop_reason)
    if not converged:
        return Status.NOT_CONVERGED
    return Status.UNDETERMINED if undetermined else Status.CONVERGED


def size_warnings(model: PatternModel, values: Mapping[str, float]) -> list[str]:
    """Warnings for phases whose size distribution extends beyond `largest` at these values."""
    warnings = [truncation_warning(phase.name, phase.size_statistics(model.local(k, values)))
                for k, phase in enumerate(model.phases)]
    return [warning for warning in warnings if warning]


def refinement_result(built: BuiltModel, found: Refinement) -> Result[RefinementSummary]:
    """The result of a refinement: typed numbers and arrays."""
    model = built.model
    status = status_of(found.converged, found.undetermined, found.stop_reason)
    derived, arrays = phase_rows(
        built, found.values, found.evaluation.states, found.covariance)
    for name, fraction in weight_fractions(model, found).items():
        derived[name] = derived[name].model_copy(update={"weight_fraction": fraction})
    serial = serial_correlation(found.evaluation.linear.residual) \
        if found.agreement.durbin_watson < SERIAL_LIMIT else None
    summary = RefinementSummary(
        **common(built, status, found.stop_reason, found.seconds) | {
            "warnings": [*built.notes, *found.warnings, *size_warnings(model, found.values),
                         *displacement_warnings(model, found.values),
                         *composition_warnings(built, found.values, found.evaluation.states)]},
        agreement=found.agreement,
        parameters=parameter_rows(found.parameters, model.start, model.constraints),
        linear=linear_rows(found.linear), derived=derived,
        restraints={
            r.name: RestraintRow(value=r.value(found.values), target=r.target, sigma=r.sigma,
                                 unit=r.unit, chi2=r.deviation(found.values) ** 2)
            for r in built.restraints
        },
        method=(built.document.refinement or RefinementPlan()).method,
        n_cycles=found.n_cycles, n_evaluations=found.n_evaluations, serial_correlation=serial,
        work=estimate_refinement(built).work,
        cif=refined_cifs(built, found.values),
    )
    arrays |= pattern_arrays(model, found.evaluation) | covariance_arrays(found.covariance)
    for index, phase in enumerate(model.phases):
        if isinstance(phase, CrystalPhase):
            crystal = phase.structure(model.local(index, found.values))
            q_max = min(TICKS_Q_MAX, float(model.observation.q.max()))
            arrays[f"reflections/{phase.name}"] = reflections(crystal, q_max)
    return Result(summary, arrays)


def run_scan(
    built: BuiltModel, *, on_progress: Callable[[ScanProgress], None] | None = None,
    should_stop: StopCheck | None = None, checkpoint: Path | None = None,
    finished: Result[ScanSummary] | None = None, resources: Resources = ONE_THREAD,
) -> Result[ScanSummary]:
    """Compute the GoF map of the document, or continue it from `finished`.

    Unfinished maps are written to the folder `checkpoint`. Raises ValueError without a scan.
    """
    plan = built.document.scan
    if plan is None:
        raise ValueError("the document has no 'scan'; add one with its 'axes'.")
    last = time.monotonic()
    # computes two patterns; a continuation keeps the work of the whole map
    work = map_work(built) if finished is None else finished.summary.work

    def keep(partial: GofMap) -> None:
        nonlocal last
        if checkpoint is not None and time.monotonic() - last > CHECKPOINT_INTERVAL:
            write_result(scan_result(built, partial, resources.threads, work), checkpoint)
            last = time.monotonic()

    earlier = None if finished is None else map_of(built, finished)
    assert built.grid is not None
    found = scan(
        built.model, built.grid, refine_at_each_point=plan.refine, restraints=built.restraints,
        direct=plan.method == "direct", adaptive=plan.adaptive, on_progress=on_progress,
        on_block=keep, should_stop=should_stop, resources=resources, finished=earlier,
    )
    counted = finished is not None and finished.summary.interpolation is not None
    if work is not None and found.interpolation is not None and not counted:
        work *= found.interpolation.n_exact / expected_geometries(built)
    return scan_result(built, found, resources.threads, work)


def scan_result(
    built: BuiltModel, found: GofMap, threads: int = 1, work: float | None = None
) -> Result[ScanSummary]:
    """The result of a map, finished or not: typed numbers and arrays.

    `work` is the estimated work of the map in distances.
    """
    grid, done = found.grid, int(np.isfinite(found.gof).sum())
    ended = found.stop_reason != Status.RUNNING
    status = Status.COMPLETE if found.complete else Status(found.stop_reason)
    quantities = quantity_arrays(built, found) if ended else {}
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
    summary = ScanSummary(
        **common(built, status, found.stop_reason, found.seconds),
        axes=[AxisRow(name=axis.name, unit=axis.unit, scale=axis.scale,
                      kind=axis_kind(built.model, axis)) for axis in grid.axes],
        shape=list(found.gof.shape), n_done=done, n_unreachable=int(grid.unreachable.sum()),
        n_points_pattern=found.n_points, moved=list(grid.moved), refined=list(found.refined),
        quantities=[QuantityRow(name=name, unit=built.quantities[name].unit)
                    for name in quantities],
        parameters=unrefined_rows(built.model), work=work, threads=threads,
        interpolation=None if found.interpolation is None else InterpolationRow(
            nodes=list(found.interpolation.nodes), n_exact=found.interpolation.n_exact,
            n_checked=found.interpolation.n_checked, error=found.interpolation.error),
        direct_reason=found.direct_reason,
    )
    analysed = map_analysis(summary, arrays) if ended and done else summary
    if found.interpolation is not None and found.gof.size > LARGEST_DOUBLE:
        # the rounding, 6e-8, is below the error that the certificate permits
        arrays |= {path: arrays[path].astype(np.float32)
                   for path in ("scan/gof", "scan/chi2", "scan/n_active")}
    return Result(analysed, arrays)


def axis_kind(model: PatternModel, axis: Coordinate) -> Kind | None:
    """The kind of the parameter on an axis; None for quantities and paths."""
    parameter = model.parameters.get(axis.name)
    if parameter is None:
        return Kind.SCALE if axis.name in model.linear_names else None
    return parameter.kind


def quantity_arrays(built: BuiltModel, found: GofMap) -> dict[str, np.ndarray]:
    """Derived quantities over the grid by name; empty for grids above MAX_QUANTITY_POINTS.

    The arrays have length 1 along axes that do not change the quantity.
    """
    names = list(built.quantities)
    outer = math.prod(found.grid.shape[k] for k in found.grid.outer)
    size = found.gof.size if found.refined else outer
    if size > MAX_QUANTITY_POINTS:
        return {}
    values = quantities_on(built.model, found.grid, list(built.quantities.values()),
                           found.refined, built.model.start)
    return dict(zip(names, values, strict=True))


def map_of(built: BuiltModel, result: Result[ScanSummary]) -> GofMap:
    """The GoF map in a scan result of the same document, finished or not."""
    arrays, grid = result.arrays, built.grid
    assert grid is not None
    refined = {name: arrays[f"scan/refined/{name}"] for name in result.summary.refined}
    evaluated = arrays.get("scan/evaluated")
    return GofMap(
        grid, arrays["scan/gof"], arrays["scan/chi2"], arrays["scan/n_active"], refined,
        result.summary.n_points_pattern, result.summary.seconds, result.summary.stop_reason,
        None if evaluated is None else evaluated.astype(bool),
        None if (row := result.summary.interpolation) is None else Interpolation(
            tuple(row.nodes), row.n_exact, row.n_checked, row.error),
        result.summary.direct_reason,
    )
