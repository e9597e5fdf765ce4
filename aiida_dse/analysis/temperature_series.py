"""Temperature series: thermal expansion, strain, bonds, B_iso(T) and static disorder."""

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
Fits = dict[str, dict[VibrationLaw, LawFit]]  # fits by site and law


def temperature_series(
    results: Mapping[str, Result[RefinementSummary]], options: TemperatureOptions | None = None
) -> tuple[Series, Result[TemperatureSummary]]:
    """The table of refinements of one sample at several temperatures, and their analysis.

    Weighted lines against T yield thermal_expansion_V = (1/V_ref) dV/dT and those of a, b and c,
    and describe zeta, distances and angles. B_iso(T) of every site is fitted by Einstein's and
    Debye's law with B_static >= 0, and pairs of sites are compared by B_static. Points are weighted
    by s.u. scaled by max(1, GoF). Raises ValueError where a used refinement has no temperature, and
    where fewer than two temperatures can be used.
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
                        f"points, {t.min():g} to {t.max():g} K, so V_ref is extrapolated.")
    lines: dict[str, LawRow] = {}
    for name in ("volume", "a", "b", "c", "a_k", "zeta", *listed(series, "d(", "angle(")):
        line = line_against(series, name, "temperature", origin=t_ref) \
            if name in series.names else None
        if line is None:
            continue
        fit, used = line
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
    """The series in the order of temperature.

    Raises ValueError for used rows without a temperature, and for fewer than two temperatures.
    """
    for row in series.rows:
        if row.temperature is None and row.name in series.used:
            raise ValueError(f"'{row.name}' has no temperature. Specify it in K in its document "
                             "(sample: {temperature: ...}), or exclude the refinement.")
    rows = tuple(sorted(series.rows, key=lambda row: (row.temperature is None,
                                                      row.temperature or 0.0)))
    used = {row.temperature for row in rows if row.name in series.used}
    if len(used) < 2:
        raise ValueError(
            "a temperature series needs at least two different temperatures, but the number of "
            f"usable temperatures is {len(used)}. "
            + "; ".join(f"{name} is not used: {why}" for name, why in series.excluded.items())
        )
    return Series(series.phase, rows, series.used, series.excluded)


def _displacements(
    series: Series, options: TemperatureOptions, numbers: dict[str, ScaledValue],
    warnings: list[str],
) -> tuple[Fits, dict[str, DisplacementRow]]:
    """The fits of B_iso(T) of every site by both laws, and their records.

    Their parameters are added to `numbers`.
    """
    fits: Fits = {}
    rows: dict[str, DisplacementRow] = {}
    for quantity in listed(series, "B_iso("):
        site, points = quantity[len("B_iso("):-1], series.points(quantity)
        t = np.array([float(row.temperature or 0.0) for row in points])
        if len(np.unique(t)) < 2:
            continue  # fixed, or at a bound
        mass = options.masses.get(site) or _mass(series, site)
        if mass is None:
            warnings.append(f"{site}: no law of B_iso(T) was fitted, because the element of the "
                            "site is unknown. Specify its mass under the option 'masses'.")
            continue
        b, su = np.array([row.value(quantity) for row in points]), \
            np.array([row.su(quantity) for row in points])
        fits[site] = {law: fit_displacements(law, t, b, su=su, mass=mass) for law in LAWS}
        records: dict[str, DisplacementLaw] = {}
        for law, fit in fits[site].items():
            records[law] = DisplacementLaw(
                **dict(law_row(fit, points, LAW_UNITS)),
                static=_above_zero(site, fit, options.significance))
            for name, unit in LAW_UNITS.items():
                numbers[f"{law}.{site}.{name}"] = number(
                    fit.value(name), fit.su(name), fit.scale, unit)
        chi2 = {law: fit.chi2 for law, fit in fits[site].items()}
        better = min(LAWS, key=lambda law: chi2[law])
        rows[site] = DisplacementRow(
            element=series.element(site), mass=mass, einstein=records["einstein"],
            debye=records["debye"], better=better,
            delta_chi2=abs(chi2["einstein"] - chi2["debye"]))
        fit = fits[site][better]
        warnings += law_warnings(f"B_iso({site}) by {better.capitalize()}'s law", fit, points)
        warnings += left_out(series, quantity)
        if t.min() > fit.value("theta"):
            warnings.append(f"B_iso({site}): B_static is extrapolated, because the coldest point "
                            f"({t.min():g} K) is above theta ({fit.value('theta'):.0f} K).")
    return fits, rows


def _mass(series: Series, site: str) -> float | None:
    element = series.element(site)
    return float(gemmi.Element(element).weight) if element else None


def _above_zero(site: str, fit: LawFit, limit: float) -> StaticRow:
    """The record of whether B_static is above zero by more than `limit` s.u., with a sentence."""
    value, su = fit.value("B_static"), fit.su("B_static")
    if su is None:
        return StaticRow(n_su=0.0, above_zero=False,
                         text=f"B_static({site}) is at its bound of 0: there is no static part")
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
    """The records of static disorder of one site relative to another, with the evidence."""
    pairs = options.disorder
    if pairs is None:
        pairs = tuple((first, second) for first, second in combinations(fits, 2)
                      if series.element(first) == series.element(second) is not None)
    records = []
    for pair in pairs:
        missing = [site for site in pair if site not in fits]
        if missing:
            warnings.append(f"The static disorder of {pair[0]} relative to {pair[1]} was not "
                            f"tested, because there is no law of B_iso(T) for "
                            f"{', '.join(missing)}. Refine B_iso at two or more temperatures.")
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
        # the laws have similar chi2, so disorder must be significant with both of them
        disordered = min(by_law.values()) > options.significance
        text = f"by {with_su(difference, su)} Å^2, {_count(n_su)} s.u."
        if disordered:
            text = (f"B_static({high}) exceeds B_static({low}) {text}: there is static disorder "
                    f"of {high}")
        elif n_su > options.significance:
            text = (f"B_static({high}) exceeds B_static({low}) {text} with {law.capitalize()}'s "
                    f"law, but only by {_count(min(by_law.values()))} s.u. with the other law: "
                    "static disorder is undecided")
        else:
            text = (f"B_static({high}) and B_static({low}) differ {text}: there is no evidence of "
                    "static disorder of one relative to the other")
        evidence = EvidenceRow(
            law=law, limit_su=options.significance,
            chi2_red={site: fits[site][law].chi2_red for site in pair},
            B_static={site: number(fits[site][law].value("B_static"),
                                   fits[site][law].su("B_static"),
                                   fits[site][law].scale, "Å^2") for site in pair},
            theta={site: number(fits[site][law].value("theta"), fits[site][law].su("theta"),
                                fits[site][law].scale, "K") for site in pair},
            covariance=verdicts[law][2],
            by_law={kind: DifferenceRow(
                difference=sign * verdicts[kind][0], su_scaled=verdicts[kind][1],
                n_su=by_law[kind]) for kind in LAWS},
        )
        records.append(DisorderRow(
            sites=[high, low], difference=difference, su_scaled=su, n_su=n_su, unit="Å^2",
            static_disorder=disordered, site=high if disordered else None, verdict=text,
            evidence=evidence,
        ))
    return records


def _difference(
    series: Series, pair: tuple[str, str], fits: Fits, law: VibrationLaw
) -> tuple[float, float, float]:
    """B_static of the first minus the second site, its scaled s.u., and their covariance (Å^4).

    The B_iso of two sites at one temperature are correlated, because one refinement yields both.
    """
    first, second = (fits[site][law] for site in pair)
    rows = [series.points(f"B_iso({site})") for site in pair]
    shared = np.zeros((len(rows[0]), len(rows[1])))
    for i, row in enumerate(rows[0]):
        for j, same in enumerate(rows[1]):
            if row.name == same.name:
                shared[i, j] = row.covariance_of(*(f"B_iso({site})" for site in pair))
    k = first.names.index("B_static")
    covariance = float(cross_covariance(first, second, shared)[k, k]) * first.scale * second.scale
    variance = sum(fit.covariance[k, k] * fit.scale**2 for fit in (first, second)) - 2 * covariance
    return (first.value("B_static") - second.value("B_static"),
            float(np.sqrt(max(variance, 0.0))), covariance)

