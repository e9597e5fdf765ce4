"""Text tables of documents and results, as the commands print them."""

from __future__ import annotations

from aiida_dse.documents.records import Fitted, PhaseRow, Summary
from aiida_dse.documents.results import (
    BuildSummary,
    ComparisonSummary,
    RefinementSummary,
    ScanSummary,
    SimulationSummary,
    SimultaneousSummary,
    UncertaintySummary,
)
from aiida_dse.documents.series_results import DifferentialSummary, SeriesSummary
from aiida_dse.engine.formatting import with_su
from aiida_dse.engine.maps.grid import Coordinate
from aiida_dse.engine.model.agreement import Agreement
from aiida_dse.engine.parameters import ParameterStatus
from aiida_dse.io.results import Result
from aiida_dse.tasks.build import BuiltModel

from .series import series_report
from .simultaneous_tables import simultaneous_lines
from .uncertainty_table import uncertainty_lines
from .understood import cost_lines, data_lines, phase_lines, surface_lines

#: Marks of refined parameters that have no s.u.
MARKS = {ParameterStatus.AT_BOUND: "at its bound", ParameterStatus.UNDETERMINED: "undetermined"}
#: Grid step in s.u. above which the minimum between the points is unreliable.
COARSE = 5.0


def validation_report(built: BuiltModel) -> str:
    """Table of a document: data, parameters with bounds, linear coefficients, grid and plans."""
    model = built.model
    lines = [
        "The document is valid.", *data_lines(built), *phase_lines(built), *cost_lines(built),
        *(f"note: {text}" for text in built.notes), *surface_lines(built),
        "",
        f"{'parameter':32} {'start':>12} {'lower':>10} {'upper':>10} unit",
    ]
    constrained = {constraint.target: constraint.expression for constraint in model.constraints}
    start = model.start
    for name, p in model.parameters.items():
        end = f"= {constrained[name]}" if name in constrained else \
            f"{p.lower:10.5g} {p.upper:10.5g} {p.unit}"
        lines.append(f"{name:32} {start[name]:12.6g} {end}")
    lines += ["", "linear coefficients: " + ", ".join(model.linear_names)]
    for phase in model.phases:
        for name, reason in phase.fixed_reasons.items():
            lines.append(f"not a parameter: {phase.name}.{name} ({reason})")
    if built.grid is not None:
        shape = " x ".join(str(len(axis.values)) for axis in built.axes)
        total = 1
        for axis in built.axes:
            total *= len(axis.values)
        lines.append(f"scan: {shape} = {total:,} points over "
                     + ", ".join(axis_text(axis) for axis in built.axes))
        if missing := int(built.grid.unreachable.sum()):
            lines.append(f"  {missing:,} of these points are unreachable and will remain empty")
    if plan := built.document.uncertainty:
        parts = ["profile of " + ", ".join(plan.profile)] if plan.profile else []
        if plan.bootstrap:
            parts.append(f"{plan.bootstrap.samples} bootstrap samples")
        if plan.posterior:
            parts.append(f"posterior, {plan.posterior.steps} steps")
        lines.append("uncertainty: " + ("; ".join(parts) or "none requested"))
    return "\n".join(lines)


def axis_text(axis: Coordinate) -> str:
    """Name, range and unit of an axis."""
    return f"{axis.name} = {axis.values[0]:.5g} ... {axis.values[-1]:.5g} {axis.unit}".rstrip()


def result_report(result: Result[Summary]) -> str:
    """The table of a result, as printed at the end of a task and by 'show'."""
    summary = result.summary
    if isinstance(summary, SeriesSummary | DifferentialSummary):
        return series_report(summary)
    reason = f" ({summary.stop_reason})" if summary.stop_reason != summary.status else ""
    first = f"{summary.task}: {summary.status}{reason}, {summary.seconds:.1f} s"
    if isinstance(summary, RefinementSummary | SimultaneousSummary):
        method = summary.method if isinstance(summary, RefinementSummary) else "least_squares"
        first += f", {summary.n_evaluations:,} evaluations by {method}"
    lines = [first]
    if isinstance(summary, ComparisonSummary):
        lines += comparison_lines(summary)
    elif isinstance(summary, Fitted):
        lines += agreement_lines(summary.agreement)
    if isinstance(summary, RefinementSummary):
        lines += ["", *parameter_lines(summary), *restraint_lines(summary), *search_lines(summary),
                  *derived_lines(summary.derived, summary.su_scale)]
    elif isinstance(summary, SimulationSummary):
        if summary.agreement is not None:
            lines += agreement_lines(summary.agreement)
        lines += derived_lines(summary.derived, 1.0)
    elif isinstance(summary, SimultaneousSummary):
        lines += ["", *simultaneous_lines(summary)]
    elif isinstance(summary, BuildSummary):
        lines += distances_lines(summary)
    elif isinstance(summary, ScanSummary):
        lines += scan_lines(summary)
    if isinstance(summary, UncertaintySummary):
        lines += uncertainty_lines(summary)
    lines += [f"note: {warning}" for warning in summary.warnings]
    return "\n".join(lines)


def agreement_lines(fit: Agreement) -> list[str]:
    """The figures of merit of a fit."""
    return [
        f"Rwp {100 * fit.r_wp:.2f} % (background subtracted "
        f"{100 * fit.r_wp_background_subtracted:.2f} %), Rexp {100 * fit.r_exp:.2f} %, "
        f"GoF {fit.gof:.4f} (= sqrt of reduced chi2), {fit.n_points} points, "
        f"{fit.n_parameters} parameters including linear ones",
    ]


def distances_lines(summary: BuildSummary) -> list[str]:
    """The pair distances of every phase: atoms, sites, range, and largest accurate q."""
    lines = []
    for name, row in summary.distances.items():
        lines.append(
            f"{name}: {row.atoms:,.0f} atoms in the mean particle, {len(row.sites)} sites "
            f"({', '.join(row.sites)}), distances up to {row.r_max:.1f} Å on a grid of "
            f"{row.step:.4f} Å, accurate up to q = {row.q_max:.3g} 1/Å"
        )
        if sizes := ", ".join(f"{key} = {round(value, 9):.4g}"
                              for key, value in row.sizes.items() if key != "atoms"):
            lines.append(f"  population (lengths in nm): {sizes}")
    return lines


def parameter_lines(summary: RefinementSummary) -> list[str]:
    """Refined and constrained parameters and linear coefficients; s.u. scaled by max(1, GoF)."""
    serial = summary.serial_correlation
    lines = []
    if serial:
        lines.append(
            f"The residuals are serially correlated over {serial.autocorrelation_time:.1f} points "
            f"({serial.n_effective:.0f} effectively independent); the second column lists s.u. "
            f"enlarged by {serial.su_factor:.2f}."
        )
    second = f" {'serially corr.':>16}" if serial else ""
    lines.append(f"{'parameter':28} {'value':>16}{second} unit   "
                 f"(s.u. scaled by max(1, GoF) = {summary.su_scale:.3f})")
    for name, row in summary.parameters.items():
        if not (row.status.refined or row.constraint):
            continue
        su = summary.scaled(row.su)
        flags = [MARKS[row.status]] if row.status in MARKS else []
        if row.constraint:
            flags.append(f"= {row.constraint}")
        wider = None if su is None or not serial else su * serial.su_factor
        second = f" {with_su(row.value, wider):>16}" if serial else ""
        lines.append(f"{name:28} {with_su(row.value, su):>16}{second} {row.unit:5} "
                     + "; ".join(flags))
    for name, term in summary.linear.items():
        lines.append(f"{name:28} {with_su(term.value, summary.scaled(term.su)):>16}")
    return lines


def comparison_lines(summary: ComparisonSummary) -> list[str]:
    """The models of a comparison, the best by BIC first."""
    wide = max(len(name) for name in summary.models) + 2
    lines = [f"{'model':{wide}}{'GoF':>9}{'Rwp/%':>8}{'parameters':>12}{'points':>8}"
             f"{'chi2':>12}{'AIC - best':>13}{'BIC - best':>13}  status"]
    for name, row in summary.models.items():
        lines.append(
            f"{name:{wide}}{row.gof:9.4f}{100 * row.r_wp:8.2f}{row.n_parameters:12d}"
            f"{row.n_points:8d}{row.chi2:12.1f}{row.delta_aic:13.1f}"
            f"{row.delta_bic:13.1f}  {row.status}"
        )
    return lines


def restraint_lines(summary: RefinementSummary) -> list[str]:
    """The target of every restraint, its value and its contribution to chi2."""
    rows = summary.restraints
    if not rows:
        return []
    total = sum(row.chi2 for row in rows.values())
    lines = [f"The restraints contribute {total:.3g} to chi2 = {summary.agreement.chi2:.6g} "
             "(the GoF counts the pattern only)."]
    for name, row in rows.items():
        lines.append(f"  {name:34} {row.value:10.5g} {row.unit:5} target "
                     f"{with_su(row.target, row.sigma)}, contributes {row.chi2:.3g} to chi2")
    return lines


def search_lines(summary: RefinementSummary) -> list[str]:
    """The minima of a search, lowest first, with the parameters that distinguish them most."""
    search = summary.search
    if search is None:
        return []
    best = search.minima[0].values
    noun = "minimum" if len(search.minima) == 1 else "minima"
    lines = [f"{search.n_tried} of {search.n_starts} starting points tried: "
             f"{len(search.minima)} distinct {noun}, {len(search.failures)} failed"]
    for minimum in search.minima:
        values = minimum.values
        apart = sorted(best, key=lambda name: -abs(values[name] - best[name])
                       / max(1e-9, summary.parameters[name].su or 1.0))[:4]
        shown = ", ".join(f"{name} {values[name]:.5g}" for name in apart)
        lines.append(f"  GoF {minimum.gof:.4f} from {len(minimum.starts)} of the starting points"
                     + (f": {shown}" if values != best else " (listed above)"))
    return lines


def derived_lines(derived: dict[str, PhaseRow], factor: float) -> list[str]:
    """Sizes and derived quantities of every phase, with s.u. multiplied by `factor`."""
    lines = []
    for phase, rows in derived.items():
        sizes = ", ".join(
            f"{name} {with_su(row.value, row.su * factor) if row.su else f'{row.value + 0.0:.3f}'} "
            f"{row.unit}".rstrip() for name, row in rows.sizes.items())
        if sizes:
            lines.append(f"{phase} population: {sizes}")
        if (part := rows.weight_fraction) is not None:
            su = None if part.su is None else part.su * factor
            lines.append(f"{phase + ' weight fraction':34} {with_su(part.value, su):>14}")
        for name, row in rows.quantities.items():
            su = None if row.su is None else row.su * factor
            lines.append(f"{phase + ' ' + name:34} {with_su(row.value, su):>14} {row.unit}")
    return lines


def scan_lines(summary: ScanSummary) -> list[str]:
    """The size of a map, its lowest point, minima and saddles."""
    shape = " x ".join(str(n) for n in summary.shape)
    lines = [f"grid {shape}, {summary.n_done} points done"]
    if missing := summary.n_unreachable:
        lines.append(f"  {missing} grid points are unreachable (no structure has the requested "
                     "values) and remain empty")
    if nodes := summary.interpolation:
        also = "; some tiles were computed point by point" if summary.direct_reason else ""
        lines.append(f"  The map was interpolated from the exact patterns of {nodes.n_exact} geometries. At "
                     f"{nodes.n_checked} points that were also computed exactly, the largest relative error of "
                     f"the GoF is {nodes.error:.1e}{also}.")
    elif summary.direct_reason:
        lines.append(f"  The map was not interpolated from exact patterns, because {summary.direct_reason}.")
    if saved := summary.adaptive:
        total = saved.n_evaluated + saved.n_interpolated
        lines.append(f"  {saved.n_evaluated} points computed, {saved.n_interpolated} interpolated "
                     f"({100 * saved.n_interpolated / total:.0f} %)")
    if summary.minimum:
        at = ", ".join(f"{k} = {v:.6g}" for k, v in summary.minimum.items() if k != "gof")
        lines.append(f"lowest GoF {summary.lowest_gof:.4f} at {at}")
        if summary.minimum_chi2 is not None:
            lines.append(f"  chi2 = {summary.minimum_chi2:.1f}; the GoF of this map counts "
                         f"{summary.n_counted} parameters. Refinements count more, so their GoF is "
                         "higher at an equal chi2.")
    for row in summary.quantities:
        if row.varies:
            value = summary.minimum_quantities[row.name]
            lines.append(f"  {row.name} = {value:.5g} {row.unit} at this point".rstrip())
    lines += _minimum_lines(summary)
    for basin in summary.basins[1:]:
        where = ", ".join(f"{name} = {value:.6g}" for name, value in basin.at.items())
        lines.append(f"secondary minimum: GoF {basin.gof:.4f} at {where}"
                     + (f"; the barrier to a deeper minimum is at GoF {basin.saddle.gof:.4f}"
                        if basin.saddle else ""))
    return lines


def _minimum_lines(summary: ScanSummary) -> list[str]:
    """The minimum between the points, with s.u. scaled by max(1, GoF) as for a refinement."""
    quadratic = summary.quadratic
    if quadratic is None:
        return []
    if quadratic.missing:
        return [f"No minimum between the points was found: {quadratic.missing}"]
    factor = summary.su_scale
    at = ", ".join(f"{name} = {with_su(row.value, (row.su or 0.0) * factor)}"
                   for name, row in quadratic.position.items())
    lines = [f"Minimum of the fitted paraboloid: {at} (s.u. are conditional: parameters neither on "
             "an axis nor refined at every point are held fixed)"]
    if (width := (quadratic.widest_step_in_su or 0.0) / factor) > COARSE:
        lines.append(f"  The grid steps are up to {width:.0f} s.u. wide; repeat with a finer grid "
                     "around this minimum.")
    unknown = []
    for name, row in quadratic.delta_chi2.items():
        if row.minus is None and row.plus is None:
            unknown.append(name)
            continue
        sides = ", ".join(f"{sign}{width * factor:.2g}" for sign, width in
                          (("-", row.minus), ("+", row.plus)) if width is not None)
        why = f"({row.missing})" if row.missing else ""
        lines.append(f"  s.u. of {name} from Delta chi2 = 1, scaled: "
                     + " ".join(filter(None, [sides, why])))
    if unknown:
        lines.append(f"  No Delta chi2 = 1 interval for {', '.join(unknown)}: the grid is too "
                     "coarse, or ends before chi2 has risen by 1.")
    return lines + [f"  correlation of {pair}: {r:+z.3f}"
                    for pair, r in quadratic.correlation.items()]
