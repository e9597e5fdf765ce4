"""The analyses of series as text tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiida_dse.io.results import Result

from .numbers import with_su

Summary = dict[str, Any]


def series_report(result: Result) -> str:
    """The outcome of temperature_series, size_series, sizing_curve or differential, in lines."""
    summary = result.summary
    lines = [f"{summary['task']}: {summary['status']}"]
    if "refinements" in summary:
        lines[0] += (f", {len(summary['used'])} of {len(summary['refinements'])} refinements of "
                     f"{summary['phase']} used")
    lines += REPORTS[summary["task"]](summary)
    return "\n".join([*lines, *(f"note: {warning}" for warning in summary["warnings"])])


def _shown(row: Summary, factor: float = 1.0) -> str:
    su = row["su_scaled"]
    return with_su(row["value"] * factor, None if su is None else su * factor)


def _line_rows(summary: Summary, against: str, at: str) -> list[str]:
    lines = ["", f"straight lines against {against} (s.u. scaled by max(1, sqrt(chi2_red)))",
             f"{'quantity':24}{at:>20}{'slope':>18} {'unit':12}{'R^2':>8}{'chi2_red':>10}{'n':>4}"]
    for name, row in summary["lines"].items():
        r_squared, chi2 = row["r_squared"], row["chi2_red"]
        lines.append(
            f"{name:24}{_shown(row['intercept']):>20}{_shown(row['slope']):>18} "
            f"{row['slope']['unit']:12}{'-' if r_squared is None else f'{r_squared:.4f}':>8}"
            f"{'-' if chi2 is None else f'{chi2:.3g}':>10}{row['n']:4d}")
    return lines


def _temperature_lines(summary: Summary) -> list[str]:
    reference = summary["temperature"]["reference"]
    lines = [f"alpha at {reference:g} K: " + ", ".join(
        f"{name} = {_shown(row, 1e6)} 1e-6/K" for name, row in summary["parameters"].items()
        if name.startswith("alpha_"))]
    lines += _line_rows(summary, "T", f"at {reference:g} K")
    if summary["displacements"]:
        lines += ["", f"{'B_iso(T)':12}{'law':10}{'theta/K':>12}{'B_static/Å^2':>16}{'r':>8}"
                      f"{'chi2_red':>10}{'n':>4}"]
    for site, row in summary["displacements"].items():
        for law in ("einstein", "debye"):
            fit = row[law]
            r, chi2 = fit["correlation"], fit["chi2_red"]
            lines.append(
                f"{site:12}{law:10}{_shown(fit['theta']):>12}{_shown(fit['B_static']):>16}"
                f"{'-' if r is None else f'{r:+.2f}':>8}"
                f"{'-' if chi2 is None else f'{chi2:.3g}':>10}{fit['n']:4d}"
                + ("  lower chi2" if law == row["better"] else ""))
    lines += [row[row["better"]]["static"]["text"] for row in summary["displacements"].values()]
    return lines + [row["verdict"] for row in summary["disorder"]]


def _size_lines(summary: Summary) -> list[str]:
    lines = []
    if strain := summary.get("strain"):
        bulk, modulus = strain["V_bulk"], strain["K"]
        lines = [
            f"(V - V_bulk)/V_bulk = {_shown(strain['intercept'])} + {_shown(strain['slope'])} nm "
            f"/ L, R^2 = {strain['r_squared']:.4f}, {strain['n']} sizes",
            f"V_bulk = {with_su(bulk['value'], bulk['su'] or None, 6)} Å^3 ({bulk['source']})",
            f"gamma = {_shown(strain['surface_energy'])} eV/nm^2 = {_shown(strain['surface_energy_SI'])} J/m^2 by "
            f"{strain['law']}, K = {with_su(modulus['value'], modulus['su'] or None)} GPa "
            f"({modulus['source']})",
        ]
        if through := strain.get("through_bulk"):
            lines.append(f"from the bulk's own point: slope {_shown(through['slope'])} nm, gamma "
                         f"= {_shown(through['surface_energy'])} eV/nm^2")
    return lines + _line_rows(summary, "1/L", "at 1/L = 0")


def _sizing_lines(summary: Summary) -> list[str]:
    options = summary["options"]
    lines = [f"E0 = {options['gap']:g} eV, eps = {options['permittivity']:g}, alpha = "
             f"{options['alpha']:g}, d0 = {options['decay_length']:g} nm predicted "
             f"({options['source']})"]
    if fitted := summary.get("fitted"):
        lines.append(f"d0 = {_shown(fitted['d0'])} nm through {fitted['n']} measured energies")
    lines.append(f"{'refinement':20}{'d/nm':>8}{'E1/eV':>14}{'population':>12}{'measured':>12}")
    for name, row in summary["predicted"].items():
        measured = options["measured"].get(name)
        spread = "" if row["spread"] is None else f"± {row['spread']:.3f}"
        lines.append(
            f"{name:20}{row['d']:8.2f}{with_su(row['value'], row['su_scaled']):>14}"
            f"{spread:>12}"
            + (f"{with_su(measured['value'], measured['su']):>12}" if measured else ""))
    return lines


def _differential_lines(summary: Summary) -> list[str]:
    reference = summary["reference"]
    at = "" if reference["at"] is None else \
        f" ({summary['parameter']} = {reference['at']:g} {summary['unit']})"
    lines = [f"(I - I0)/I0 against {reference['name']}{at}",
             f"{'pattern':24}{'value':>10}{'rms/%':>9}{'largest/%':>11}{'at q (1/Å)':>12}"]
    for name, row in summary["patterns"].items():
        value = "" if row["at"] is None else f"{row['at']:g}"
        lines.append(f"{name:24}{value:>10}{100 * row['rms']:9.3f}{100 * row['largest']:11.3f}"
                     f"{row['q_of_largest']:12.3f}")
    return lines


REPORTS: dict[str, Callable[[Summary], list[str]]] = {
    "temperature_series": _temperature_lines, "size_series": _size_lines,
    "sizing_curve": _sizing_lines, "differential": _differential_lines,
}
