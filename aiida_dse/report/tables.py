"""Results and documents as text tables."""

from __future__ import annotations

from typing import Any

from aiida_dse.engine.maps.grid import Coordinate
from aiida_dse.io.results import Result
from aiida_dse.tasks.build import BuiltModel

from .numbers import with_su
from .series import REPORTS, series_report
from .simultaneous_tables import simultaneous_lines
from .uncertainty_table import uncertainty_lines

#: Grid steps of more s.u. than this leave the minimum between the points uncertain.
COARSE = 5.0


def validation_report(built: BuiltModel) -> str:
    """What a document would do: data, parameters with bounds, linear terms, stages, grid."""
    model = built.model
    q = model.sampling.q
    lines = [
        "The document is valid.",
        f"data: {len(q)} points, q = {q[0]:.4g} ... {q[-1]:.4g} 1/Å, "
        f"wavelength {model.observation.wavelength:g} Å",
        f"distance grid: {model.sampling.step:.4f} Å",
        "",
        f"{'parameter':32} {'start':>12} {'lower':>10} {'upper':>10} unit",
    ]
    constrained = {constraint.target: constraint.expression for constraint in model.constraints}
    start = model.start
    for name, p in model.parameters.items():
        end = f"= {constrained[name]}" if name in constrained else f"{p.lower:10.5g} {p.upper:10.5g} {p.unit}"
        lines.append(f"{name:32} {start[name]:12.6g} {end}")
    lines += ["", "solved linearly: " + ", ".join(model.linear_names)]
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
            lines.append(f"  {missing:,} of them cannot be reached and will be left empty")
    if plan := built.document.uncertainty:
        asked = ["profile of " + ", ".join(plan.profile)] if plan.profile else []
        if plan.bootstrap:
            asked.append(f"{plan.bootstrap.samples} bootstrap samples")
        if plan.posterior:
            asked.append(f"posterior, {plan.posterior.steps} steps")
        lines.append("uncertainty: " + ("; ".join(asked) or "nothing asked for"))
    return "\n".join(lines)


def axis_text(axis: Coordinate) -> str:
    """An axis with its range: names of quantities and paths do not tell it."""
    return f"{axis.name} = {axis.values[0]:.5g} ... {axis.values[-1]:.5g} {axis.unit}".rstrip()


def result_report(result: Result) -> str:
    """The outcome of a task, as printed at its end and by 'show'."""
    summary = result.summary
    if summary["task"] in REPORTS:
        return series_report(result)
    lines = [f"{summary['task']}: {summary['status']} ({summary['stop_reason']}), "
             f"{summary['seconds']:.1f} s"]
    if "n_evaluations" in summary:
        method = summary.get("method", "least_squares")
        lines[0] += f", {summary['n_evaluations']:,} evaluations by {method}"
    if summary["task"] == "compare":
        return "\n".join([*lines, *comparison_lines(summary),
                          *(f"note: {warning}" for warning in summary["warnings"])])
    if "agreement" in summary:
        lines += agreement_lines(summary["agreement"])
    if summary["task"] in ("refine", "uncertainty"):
        lines += ["", *parameter_lines(summary), *restraint_lines(summary),
                  *search_lines(summary)]
    if summary["task"] == "simultaneous":
        lines += ["", *simultaneous_lines(summary)]
    if summary["task"] == "build":
        lines += distances_lines(summary)
    if summary["task"] == "scan":
        lines += scan_lines(summary)
    lines += derived_lines(summary)
    if summary.get("uncertainty"):
        lines += uncertainty_lines(summary)
    lines += [f"note: {warning}" for warning in summary["warnings"]]
    return "\n".join(lines)


def agreement_lines(fit: dict[str, Any]) -> list[str]:
    return [
        f"Rwp {100 * fit['r_wp']:.2f} % (background subtracted "
        f"{100 * fit['r_wp_background_subtracted']:.2f} %), Rexp {100 * fit['r_exp']:.2f} %, "
        f"GoF {fit['gof']:.4f} (= sqrt of reduced chi2), {fit['n_points']} points, "
        f"{fit['n_parameters']} parameters incl. linear ones",
    ]


def distances_lines(summary: dict[str, Any]) -> list[str]:
    """The stores of a build: what they hold and up to where they are good."""
    lines = []
    for name, row in summary["distances"].items():
        lines.append(
            f"{name}: {row['atoms']:,.0f} atoms in the mean particle, {len(row['sites'])} sites "
            f"({', '.join(row['sites'])}), distances up to {row['r_max']:.1f} Å on a grid of "
            f"{row['step']:.4f} Å, good up to q = {row['q_max']:.3g} 1/Å"
        )
        if sizes := ", ".join(f"{key} = {round(value, 9):.4g}"
                              for key, value in row["sizes"].items() if key != "atoms"):
            lines.append(f"  its population (lengths in nm): {sizes}")
    return lines


def parameter_lines(summary: dict[str, Any]) -> list[str]:
    """Refined parameters with s.u. scaled by GoF."""
    factor = max(1.0, summary["agreement"]["gof"])
    serial = summary.get("serial_correlation")
    lines = []
    if serial:
        lines.append(
            f"residuals correlate over {serial['autocorrelation_time']:.1f} points, which leaves "
            f"{serial['n_effective']:.0f} independent ones: s.u. up to {serial['su_factor']:.2f} "
            "times as large, in the second column"
        )
    second = f" {'serially corr.':>16}" if serial else ""
    lines.append(f"{'parameter':28} {'value':>16}{second} unit   "
                 f"(s.u. scaled by max(1, GoF) = {factor:.3f})")
    for name, row in summary["parameters"].items():
        if not (row["free"] or "constraint" in row):
            continue
        su = None if row["su"] is None else row["su"] * factor
        flags = [text for key, text in (("at_bound", "at its bound"),
                                        ("undetermined", "undetermined")) if row.get(key)]
        if "constraint" in row:
            flags.append(f"= {row['constraint']}")
        wider = None if su is None or not serial else su * serial["su_factor"]
        second = f" {with_su(row['value'], wider):>16}" if serial else ""
        lines.append(f"{name:28} {with_su(row['value'], su):>16}{second} {row['unit']:5} "
                     + "; ".join(flags))
    for name, row in summary["linear"].items():
        su = None if row["su"] is None else row["su"] * factor
        lines.append(f"{name:28} {with_su(row['value'], su):>16}")
    return lines


def comparison_lines(summary: dict[str, Any]) -> list[str]:
    """The models of a comparison, the best by BIC first."""
    wide = max(len(name) for name in summary["models"]) + 2
    lines = [f"{'model':{wide}}{'GoF':>9}{'Rwp/%':>8}{'parameters':>12}{'points':>8}"
             f"{'chi2':>12}{'AIC - best':>13}{'BIC - best':>13}  ended"]
    for name, row in summary["models"].items():
        lines.append(
            f"{name:{wide}}{row['gof']:9.4f}{100 * row['r_wp']:8.2f}{row['n_parameters']:12d}"
            f"{row['n_points']:8d}{row['chi2']:12.1f}{row['delta_aic']:13.1f}"
            f"{row['delta_bic']:13.1f}  {row['status']}"
        )
    return lines


def restraint_lines(summary: dict[str, Any]) -> list[str]:
    """What the restraints asked for, what they got, and what they add to chi2."""
    rows = summary.get("restraints", {})
    if not rows:
        return []
    total = sum(row["chi2"] for row in rows.values())
    lines = [f"restraints add {total:.3g} to chi2 = {summary['agreement']['chi2']:.6g} "
             "(GoF counts the pattern only)"]
    for name, row in rows.items():
        lines.append(f"  {name:34} {row['value']:10.5g} {row['unit']:5} asked for "
                     f"{with_su(row['target'], row['sigma'])}, adds {row['chi2']:.3g}")
    return lines


def search_lines(summary: dict[str, Any]) -> list[str]:
    """The minima of a multi-start search, the lowest first, by what sets them apart."""
    search = summary.get("search")
    if not search:
        return []
    best = search["minima"][0]["values"]
    lines = [f"{search['n_tried']} of {search['n_starts']} starts led to {len(search['minima'])} "
             f"minima, {len(search['failures'])} led nowhere"]
    for minimum in search["minima"]:
        apart = sorted(best, key=lambda name: -abs(minimum["values"][name] - best[name])
                       / max(1e-9, summary["parameters"][name]["su"] or 1.0))[:4]
        shown = ", ".join(f"{name} {minimum['values'][name]:.5g}" for name in apart)
        lines.append(f"  GoF {minimum['gof']:.4f} from {len(minimum['starts'])}"
                     + (f": {shown}" if minimum["values"] != best else "  (above)"))
    return lines


def derived_lines(summary: dict[str, Any]) -> list[str]:
    factor = max(1.0, summary.get("agreement", {}).get("gof", 1.0))
    lines = []
    for phase, rows in summary.get("derived", {}).items():
        sizes = ", ".join(f"{name} {value:.3f}" for name, value in rows["sizes"].items())
        lines.append(f"{phase} population: {sizes}")
        for name, row in rows.get("quantities", {}).items():
            su = None if row["su"] is None else row["su"] * factor
            lines.append(f"{phase + ' ' + name:34} {with_su(row['value'], su):>14} {row['unit']}")
    return lines


def scan_lines(summary: dict[str, Any]) -> list[str]:
    shape = " x ".join(str(n) for n in summary["shape"])
    lines = [f"grid {shape}, {summary['n_done']} points done"]
    if missing := summary.get("n_unreachable"):
        lines.append(f"  {missing} points have no structure with the values asked for")
    if saved := summary.get("adaptive"):
        total = saved["n_evaluated"] + saved["n_interpolated"]
        lines.append(f"  {saved['n_evaluated']} computed, {saved['n_interpolated']} interpolated "
                     f"({100 * saved['n_interpolated'] / total:.0f} % saved)")
    if summary["minimum"]:
        at = ", ".join(f"{k} = {v:.6g}" for k, v in summary["minimum"].items() if k != "gof")
        lines.append(f"lowest GoF {summary['minimum']['gof']:.4f} at {at}")
    for row in summary.get("quantities", []):
        if row.get("varies"):
            value = summary["minimum_quantities"][row["name"]]
            lines.append(f"  there {row['name']} = {value:.5g} {row['unit']}".rstrip())
    lines += _minimum_lines(summary)
    for basin in summary.get("basins", [])[1:]:
        at, saddle = basin["at"], basin.get("saddle")
        where = ", ".join(f"{name} = {value:.6g}" for name, value in at.items())
        lines.append(f"another minimum, GoF {basin['gof']:.4f} at {where}"
                     + (f"; saddle towards a deeper one at GoF {saddle['gof']:.4f}" if saddle
                        else ""))
    return lines


def _minimum_lines(summary: dict[str, Any]) -> list[str]:
    """The minimum between the points; s.u. are printed scaled by GoF, as for a refinement."""
    quadratic = summary.get("quadratic", {})
    if "missing" in quadratic:
        return [f"no minimum between the points: {quadratic['missing']}"]
    if not quadratic:
        return []
    factor = max(1.0, summary["minimum"]["gof"])
    at = ", ".join(f"{name} = {with_su(row['value'], row['su'] * factor)}"
                   for name, row in quadratic["position"].items())
    lines = [f"paraboloid's minimum at {at} (s.u. at the values of what is not mapped or refined "
             "at each point)"]
    if (width := quadratic["widest_step_in_su"] / factor) > COARSE:
        lines.append(f"  the grid's steps are up to {width:.0f} s.u. wide: a finer grid around it "
                     "tells more")
    unknown = []
    for name, row in quadratic.get("delta_chi2", {}).items():
        if row["minus"] is None and row["plus"] is None:
            unknown.append(name)
            continue
        sides = ", ".join(f"{sign}{row[side] * factor:.2g}" for sign, side in
                          (("-", "minus"), ("+", "plus")) if row[side] is not None)
        why = f"({row['missing']})" if row["missing"] else ""
        lines.append(f"  s.u. of {name} from Delta chi2 = 1, scaled: "
                     + " ".join(filter(None, [sides, why])))
    if unknown:
        lines.append(f"  no s.u. from Delta chi2 = 1 of {', '.join(unknown)}: the grid is too "
                     "coarse or does not reach it")
    return lines + [f"  correlation of {pair}: {r:+.3f}"
                    for pair, r in quadratic["correlation"].items()]
