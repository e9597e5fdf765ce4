"""Text tables of series: temperature, size, sizing curve and differential patterns."""

from __future__ import annotations

from aiida_dse.documents.series_results import (
    DifferentialSummary,
    ScaledValue,
    SeriesSummary,
    SizeSummary,
    SizingSummary,
    TemperatureSummary,
)
from aiida_dse.engine.formatting import with_su


def series_report(summary: SeriesSummary | DifferentialSummary) -> str:
    """The table of a temperature_series, size_series, sizing_curve or differential."""
    lines = [f"{summary.task}: {summary.status}"]
    if isinstance(summary, SeriesSummary):
        lines[0] += (f", {len(summary.used)} of {len(summary.refinements)} refinements of "
                     f"{summary.phase} used")
    if isinstance(summary, TemperatureSummary):
        lines += _temperature_lines(summary)
    elif isinstance(summary, SizeSummary):
        lines += _size_lines(summary)
    elif isinstance(summary, SizingSummary):
        lines += _sizing_lines(summary)
    elif isinstance(summary, DifferentialSummary):
        lines += _differential_lines(summary)
    return "\n".join([*lines, *(f"note: {warning}" for warning in summary.warnings)])


def _shown(row: ScaledValue, factor: float = 1.0) -> str:
    su = row.su_scaled
    return with_su(row.value * factor, None if su is None else su * factor)


def _line_rows(summary: SeriesSummary, against: str, at: str) -> list[str]:
    lines = ["", f"straight lines against {against} (s.u. scaled by max(1, sqrt(chi2_red)) in "
             "addition to the GoF of each refinement, which is conservative)",
             f"{'quantity':24}{at:>20}{'slope':>18} {'unit':12}{'R^2':>8}{'chi2_red':>10}{'n':>4}"]
    for name, row in summary.lines.items():
        slope = row.numbers["slope"]
        r_squared = "-" if row.r_squared is None else f"{row.r_squared:.4f}"
        lines.append(
            f"{name:24}{_shown(row.numbers['intercept']):>20}{_shown(slope):>18} "
            f"{slope.unit:12}{r_squared:>8}{_ratio(row.chi2_red):>10}{row.n:4d}")
    return lines


def _ratio(chi2_red: float) -> str:
    return "-" if chi2_red != chi2_red else f"{chi2_red:.3g}"


def _temperature_lines(summary: TemperatureSummary) -> list[str]:
    reference = summary.temperatures.reference
    head = "thermal_expansion_"
    lines = [f"thermal expansion at {reference:g} K: " + ", ".join(
        f"alpha_{name.removeprefix(head)} = {_shown(row, 1e6)} 1e-6/K"
        for name, row in summary.numbers.items() if name.startswith(head))]
    lines += _line_rows(summary, "T", f"at {reference:g} K")
    if summary.displacements:
        lines += ["", f"{'B_iso(T)':12}{'law':10}{'theta/K':>12}{'B_static/Å^2':>16}{'r':>8}"
                      f"{'chi2_red':>10}{'n':>4}"]
    for site, row in summary.displacements.items():
        for law, fit in (("einstein", row.einstein), ("debye", row.debye)):
            r = "-" if fit.correlation is None else f"{fit.correlation:+z.2f}"
            lines.append(
                f"{site:12}{law:10}{_shown(fit.numbers['theta']):>12}"
                f"{_shown(fit.numbers['B_static']):>16}{r:>8}"
                f"{_ratio(fit.chi2_red):>10}{fit.n:4d}"
                + ("  lower chi2" if law == row.better else ""))
    lines += [row.best.static.text for row in summary.displacements.values()]
    return lines + [row.verdict for row in summary.disorder]


def _size_lines(summary: SizeSummary) -> list[str]:
    lines = []
    if strain := summary.strain:
        bulk, modulus = strain.V_bulk, strain.K
        r_squared = "" if strain.r_squared is None else f", R^2 = {strain.r_squared:.4f}"
        lines = [
            f"(V - V_bulk)/V_bulk = {_shown(strain.intercept)} + {_shown(strain.slope)} nm / L"
            f"{r_squared}, {strain.n} sizes",
            f"V_bulk = {with_su(bulk.value, bulk.su or None, 6)} Å^3 ({bulk.source})",
            f"surface energy gamma = {_shown(strain.surface_energy)} eV/nm^2 = "
            f"{_shown(strain.surface_energy_SI)} J/m^2, from {strain.law}, K = "
            f"{with_su(modulus.value, modulus.su or None)} GPa ({modulus.source})",
        ]
        if through := strain.through_bulk:
            lines.append(f"line through the bulk: slope {_shown(through.slope)} nm, gamma = "
                         f"{_shown(through.surface_energy)} eV/nm^2")
    return lines + _line_rows(summary, "1/L", "at 1/L = 0")


def _sizing_lines(summary: SizingSummary) -> list[str]:
    options = summary.options
    lines = [f"predicted with E0 = {options['gap']:g} eV, eps = {options['permittivity']:g}, "
             f"alpha = {options['alpha']:g}, d0 = {options['decay_length']:g} nm "
             f"({options['source']})"]
    if fitted := summary.fitted:
        lines.append(f"d0 = {_shown(fitted.numbers['d0'])} nm from a fit to {fitted.n} measured "
                     "energies")
    lines.append(f"{'refinement':20}{'d/nm':>8}{'E1/eV':>14}{'population':>12}{'measured':>12}")
    for name, row in summary.predicted.items():
        measured = options["measured"].get(name)
        spread = "" if row.spread != row.spread else f"± {row.spread:.3f}"
        lines.append(
            f"{name:20}{row.d:8.2f}{with_su(row.value, row.su_scaled):>14}"
            f"{spread:>12}"
            + (f"{with_su(measured['value'], measured['su']):>12}" if measured else ""))
    return lines


def _differential_lines(summary: DifferentialSummary) -> list[str]:
    reference = summary.reference
    at = "" if reference.at is None else \
        f" ({summary.parameter} = {reference.at:g} {summary.unit})"
    lines = [f"(I - I0)/I0 against {reference.name}{at}",
             f"{'pattern':24}{'value':>10}{'rms/%':>9}{'largest/%':>11}{'at q (1/Å)':>12}"]
    for name, row in summary.patterns.items():
        value = "" if row.at is None else f"{row.at:g}"
        lines.append(f"{name:24}{value:>10}{100 * row.rms:9.3f}{100 * row.largest:11.3f}"
                     f"{row.q_of_largest:12.3f}")
    return lines
