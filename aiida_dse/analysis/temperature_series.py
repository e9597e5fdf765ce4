"""Temperature series: expansion, strain, bonds, B(T) and static disorder."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import gemmi
import numpy as np

from aiida_dse.documents.results import RefinementSummary
from aiida_dse.documents.series import TemperatureOptions
from aiida_dse.documents.series_results import (
    DifferenceRow,
    DisorderRow,
    DisplacementLaw,
    DisplacementRow,
    EvidenceRow,
    LawRow,
    ScaledValue,
    StaticRow,
    TemperatureRange,
    TemperatureSummary,
)
from aiida_dse.engine.formatting import with_su
from aiida_dse.io.results import Result

from .laws import (
    VIBRATION_LAWS,
    LawFit,
    VibrationLaw,
    cross_covariance,
    fit_displacements,
    relative_slope,
)
from .series_laws import (
    law_row,
    law_warnings,
    left_out,
    left_out_warnings,
    line_against,
    listed,
    number,
    series_fields,
)
from .series_table import Series, series_of

LAW_UNITS = {"theta": "K", "B_static": "Å^2"}
LAWS: tuple[VibrationLaw, ...] = ("einstein", "debye")
Fits = dict[str, dict[VibrationLaw, LawFit]]  # site: law: fit


def temperature_series(
    results: Mapping[str, Result[RefinementSummary]], options: TemperatureOptions | None = None
) -> tuple[Series, Result[TemperatureSummary]]:
    """The table of refinements of one sample at several temperatures, and the analysis of it.

    thermal_expansion_V = (1/V_ref) dV/dT and alpha_a, b, c by weighted lines; zeta, distances and angles
    against T; B(T) of every site by Einstein's and Debye's law with B_static >= 0; pairs of sites
    compared by B_static. Points weigh with s.u. scaled by max(1, GoF). Raises ValueError where a
    used refinement has no temperature, or fewer than two temperatures are left.
    """
    options = options or TemperatureOptions()
    series = series_of(results, options)
    series = _by_temperature(series)
    warnings = left_out_warnings(series)
    numbers: dict[str, ScaledValue] = {}
    arrays = series.arrays()
    t_ref = options.reference_temperature
    points = [row for row in series.rows if row.name in series.used]
    t = np.array([float(row.temperature or 0.0) for row in points])
    if not t.min() <= t_ref <= t.max():
        warnings.append(f"The reference temperature {t_ref:g} K lies outside the range of the "
                        f"points, {t.min():g} to {t.max():g} K: V_ref is extrapolated.")
    lines: dict[str, LawRow] = {}
    for name in ("volume", "a", "b", "c", "a_k", "zeta", *listed(series, "d(", "angle(")):
        found = line_against(series, name, "temperature", origin=t_ref) \
            if name in series.names else None
        if found is None:
            continue
        fit, used = found
        unit = series.unit(name)
        lines[name] = law_row(fit, used, {"intercept": unit, "slope": f"{unit or 1}/K"})
        warnings += law_warnings(f"{name} against T", fit, used) + left_out(series, name)
        if name in ("volume", "a", "b", "c"):
            short = "V" if name == "volume" else name
            numbers[f"thermal_expansion_{short}"] = number(
                *relative_slope(fit), fit.scale, "1/K")
    curve_t = np.linspace(0.0, 1.05 * float(t.max()), 200)
    arrays["curves/temperature"] = curve_t
    fits, sites = _displacements(series, options, numbers, warnings)
    for site, laws in fits.items():
        for law, fit in laws.items():
            arrays[f"curves/{law}/{site}"] = fit.value("B_static") + VIBRATION_LAWS[law](
                curve_t, fit.value("theta"), sites[site].mass)
    disorder = _disorder(series, options, fits, warnings)
    return series, Result(TemperatureSummary(
        **series_fields(results, series, options), numbers=numbers, lines=lines,
        temperatures=TemperatureRange(
            lowest=float(t.min()), highest=float(t.max()), reference=t_ref),
        displacements=sites, disorder=disorder, warnings=warnings,
    ), arrays)


def _by_temperature(series: Series) -> Series:
    """Rows in the order of temperature; those without one refuse the series if they are used."""
    for row in series.rows:
        if row.temperature is None and row.name in series.used:
            raise ValueError(f"'{row.name}' has no temperature. Specify sample: {{temperature: K}} "
                             "in its document, or exclude it.")
    rows = tuple(sorted(series.rows, key=lambda row: (row.temperature is None,
                                                      row.temperature or 0.0)))
    used = {row.temperature for row in rows if row.name in series.used}
    if len(used) < 2:
        raise ValueError(
            f"a temperature series needs at least two temperatures; {len(used)} is usable. "
            + "; ".join(f"{name}: {why}" for name, why in series.excluded.items())
        )
    return Series(series.phase, rows, series.used, series.excluded)


def _displacements(
    series: Series, options: TemperatureOptions, numbers: dict[str, ScaledValue],
    warnings: list[str],
) -> tuple[Fits, dict[str, DisplacementRow]]:
    """The fits of B_iso(T) of every site by both laws, and their rows; numbers into `numbers`."""
    fits: Fits = {}
    rows: dict[str, DisplacementRow] = {}
    for quantity in listed(series, "B_iso("):
        site, points = quantity[len("B_iso("):-1], series.points(quantity)
        t = np.array([float(row.temperature or 0.0) for row in points])
        if len(np.unique(t)) < 2:
            continue  # held fixed, or at its bound
        mass = options.masses.get(site) or _mass(series, site)
        if mass is None:
            warnings.append(f"{site}: its element is not known, so no law of B(T). Specify its "
                            f"mass under the option 'masses'.")
            continue
        b, su = np.array([row.value(quantity) for row in points]), \
            np.array([row.su(quantity) for row in points])
        fits[site] = {law: fit_displacements(law, t, b, su=su, mass=mass) for law in LAWS}
        made: dict[str, DisplacementLaw] = {}
        for law, fit in fits[site].items():
            made[law] = DisplacementLaw(
                **dict(law_row(fit, points, LAW_UNITS)),
                static=_above_zero(site, fit, options.significance))
            for name, unit in LAW_UNITS.items():
                numbers[f"{law}.{site}.{name}"] = number(
                    fit.value(name), fit.su(name), fit.scale, unit)
        chi2 = {law: fit.chi2 for law, fit in fits[site].items()}
        better = min(LAWS, key=lambda law: chi2[law])
        rows[site] = DisplacementRow(
            element=series.element(site), mass=mass, einstein=made["einstein"],
            debye=made["debye"], better=better, delta_chi2=abs(chi2["einstein"] - chi2["debye"]))
        fit = fits[site][better]
        warnings += law_warnings(f"B_iso({site}) by {better.capitalize()}'s law", fit, points)
        warnings += left_out(series, quantity)
        if t.min() > fit.value("theta"):
            warnings.append(f"B_iso({site}): the coldest point ({t.min():g} K) is above theta "
                            f"({fit.value('theta'):.0f} K): B_static is extrapolated.")
    return fits, rows


def _mass(series: Series, site: str) -> float | None:
    element = series.element(site)
    return float(gemmi.Element(element).weight) if element else None


def _above_zero(site: str, fit: LawFit, limit: float) -> StaticRow:
    """Whether B_static is above zero, by how many s.u., and this in words."""
    value, su = fit.value("B_static"), fit.su("B_static")
    if su is None:
        return StaticRow(n_su=0.0, above_zero=False,
                         text=f"B_static({site}) is 0, its bound: there is no static part")
    su *= fit.scale
    n_su = value / su
    sign = "above zero" if n_su > limit else "not above zero"
    return StaticRow(
        n_su=n_su, above_zero=n_su > limit,
        text=f"B_static({site}) = {with_su(value, su)} Å^2, {sign} ({_count(n_su)} s.u.)")


def _count(n_su: float) -> str:
    return f"{n_su:.0f}" if n_su >= 10 else f"{n_su:.2g}"


def _disorder(
    series: Series, options: TemperatureOptions, fits: Fits, warnings: list[str]
) -> list[DisorderRow]:
    """Static disorder of one site against another, with the evidence."""
    pairs = options.disorder
    if pairs is None:
        pairs = tuple((one, other) for one, other in combinations(fits, 2)
                      if series.element(one) == series.element(other) is not None)
    found = []
    for pair in pairs:
        missing = [site for site in pair if site not in fits]
        if missing:
            warnings.append(f"static disorder of {pair[0]} against {pair[1]}: no law of B(T) for "
                            f"{', '.join(missing)}. Refine its B at two or more temperatures.")
            continue
        total = {law: sum(fits[site][law].chi2 for site in pair) for law in LAWS}
        law = min(LAWS, key=lambda kind: total[kind])
        verdicts = {kind: _difference(series, pair, fits, kind) for kind in LAWS}
        sign = 1.0 if verdicts[law][0] >= 0 else -1.0
        high, low = pair if sign > 0 else pair[::-1]
        difference, su = abs(verdicts[law][0]), verdicts[law][1]
        by_law = {kind: sign * verdicts[kind][0] / verdicts[kind][1] if verdicts[kind][1] > 0
                  else 0.0 for kind in LAWS}
        n_su = by_law[law]
        # a disorder that only one of two laws of about the same chi2 shows is none yet
        disordered = min(by_law.values()) > options.significance
        text = f"by {with_su(difference, su)} Å^2, {_count(n_su)} s.u."
        if disordered:
            text = (f"B_static({high}) exceeds B_static({low}) {text}: static disorder of "
                    f"{high}")
        elif n_su > options.significance:
            text = (f"B_static({high}) exceeds B_static({low}) {text} under {law.capitalize()}'s "
                    f"law, but only {_count(min(by_law.values()))} s.u. under the other: "
                    "undecided")
        else:
            text = (f"B_static({high}) and B_static({low}) differ {text}: no static disorder of "
                    "one against the other is shown")
        evidence = EvidenceRow(
            law=law, limit_su=options.significance,
            chi2_red={site: fits[site][law].chi2_red for site in pair},
            B_static={site: number(fits[site][law].value("B_static"), fits[site][law].su("B_static"),
                                   fits[site][law].scale, "Å^2") for site in pair},
            theta={site: number(fits[site][law].value("theta"), fits[site][law].su("theta"),
                                fits[site][law].scale, "K") for site in pair},
            covariance=verdicts[law][2],
            by_law={kind: DifferenceRow(
                difference=sign * verdicts[kind][0], su_scaled=verdicts[kind][1],
                n_su=by_law[kind]) for kind in LAWS},
        )
        found.append(DisorderRow(
            sites=[high, low], difference=difference, su_scaled=su, n_su=n_su, unit="Å^2",
            static_disorder=disordered, site=high if disordered else None, verdict=text,
            evidence=evidence,
        ))
    return found


def _difference(
    series: Series, pair: tuple[str, str], fits: Fits, law: VibrationLaw
) -> tuple[float, float, float]:
    """B_static of the first minus the second, its scaled s.u., and their covariance (Å^4).

    The B of two sites at one temperature come from one refinement and share its covariance.
    """
    one, other = (fits[site][law] for site in pair)
    rows = [series.points(f"B_iso({site})") for site in pair]
    shared = np.zeros((len(rows[0]), len(rows[1])))
    for i, row in enumerate(rows[0]):
        for j, same in enumerate(rows[1]):
            if row.name == same.name:
                shared[i, j] = row.covariance_of(*(f"B_iso({site})" for site in pair))
    k = one.names.index("B_static")
    covariance = float(cross_covariance(one, other, shared)[k, k]) * one.scale * other.scale
    variance = sum(fit.covariance[k, k] * fit.scale**2 for fit in (one, other)) - 2 * covariance
    return (one.value("B_static") - other.value("B_static"), float(np.sqrt(max(variance, 0.0))),
            covariance)

