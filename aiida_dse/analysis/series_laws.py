"""Records and warnings of fitted laws, for all analyses of series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy.stats import chi2 as chi2_law

import aiida_dse
from aiida_dse.documents.results import RefinementSummary
from aiida_dse.documents.series import SeriesOptions
from aiida_dse.documents.series_results import LawRow, ScaledValue
from aiida_dse.documents.status import Status
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.io.results import Result

from .laws import OUTLIER, LawFit, outliers, weighted_line
from .series_table import SU_NOTE, Row, Series

#: Probability of chi2 below which a warning questions the law or the s.u. of its points.
IMPROBABLE = 1e-3
#: Fewer points than this barely test a law with two parameters.
FEW_POINTS = 4
LAW_SU_NOTE = (
    "su of laws follows from the s.u. of the points, each scaled by max(1, GoF); su_scaled = su * "
    "max(1, sqrt(chi2_red)) of the law"
)


def series_fields(
    results: Mapping[str, Result[RefinementSummary]], series: Series, options: SeriesOptions,
) -> dict[str, Any]:
    """The fields of the summary of a series that describe its refinements and options."""
    samples = [row.summary.sample for row in series.rows]
    sample = {key: value for key, value in samples[0].items()
              if all(other.get(key) == value for other in samples)}
    return {
        "status": Status.COMPLETE, "stop_reason": "complete", "title": options.title,
        "sample": sample, "phases": [series.phase], "phase": series.phase,
        "refinements": [row.name for row in series.rows], "used": list(series.used),
        "excluded": dict(series.excluded), "options": options.model_dump(mode="json"),
        "su": f"{SU_NOTE}; {LAW_SU_NOTE}",
        "seconds": sum(result.summary.seconds for result in results.values()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine_version": aiida_dse.__version__, "numerics_version": NUMERICS_VERSION,
    }


def left_out_warnings(series: Series) -> list[str]:
    """Warnings about the refinements that are not used."""
    return [f"{name} is not used: {why}." for name, why in series.excluded.items()]


def number(
    value: float, su: float | None, scale: float, unit: str, *, at_bound: bool = False
) -> ScaledValue:
    """A parameter of a law with its unscaled and scaled s.u."""
    return ScaledValue(value=float(value), unit=unit, su=su, at_bound=at_bound,
                       su_scaled=None if su is None else su * scale)


def law_row(fit: LawFit, points: Sequence[Row], units: Mapping[str, str]) -> LawRow:
    """The record of a fitted law: parameters, correlation, chi2, R^2 and residuals in s.u."""
    names = [row.name for row in points]
    return LawRow(
        numbers={name: number(fit.value(name), fit.su(name), fit.scale, units[name],
                              at_bound=name in fit.at_bound) for name in fit.names},
        correlation=fit.correlation(*fit.names) if len(fit.names) == 2 else None,
        chi2=fit.chi2, chi2_red=fit.chi2_red, r_squared=fit.r_squared, n=len(points),
        residuals=dict(zip(names, map(float, fit.residuals), strict=True)),
        outliers=outliers(fit, names),
    )


def line_against(
    series: Series, quantity: str, against: str, *, origin: float = 0.0,
    through: float | None = None,
) -> tuple[LawFit, tuple[Row, ...]] | None:
    """The line of a quantity against 'temperature' or another quantity, and the fitted rows.

    Both axes have errors with their covariance, scaled by max(1, GoF) of each refinement;
    temperatures, and sizes that were specified rather than refined, count as exact. With
    `through`, the line is that of (quantity - through) and is 0 at the origin. None for fewer than
    two different x.
    """
    points = list(series.points(quantity))
    if against == "temperature":
        points = [row for row in points if row.temperature is not None]
        x = np.array([float(row.temperature or 0.0) for row in points])
        spread = shared = np.zeros(len(points))
    else:
        points = [row for row in points if np.isfinite(row.value(against))]
        x = np.array([row.value(against) for row in points])
        spread = np.nan_to_num(np.array([row.su(against) for row in points]))
        shared = np.nan_to_num(
            np.array([row.covariance_of(quantity, against) for row in points]))
    if len(np.unique(x)) < 2:
        return None
    fit = weighted_line(
        x, np.array([row.value(quantity) for row in points]) - (through or 0.0),
        su_y=np.array([row.su(quantity) for row in points]), su_x=spread, covariance_xy=shared,
        origin=origin, through_origin=through is not None,
    )
    return fit, tuple(points)


def law_warnings(what: str, fit: LawFit, points: Sequence[Row]) -> list[str]:
    """Warnings about a fitted law: few points, outliers, misfit, parameters at bounds."""
    warnings = []
    if len(points) < FEW_POINTS:
        warnings.append(f"{what}: the fit barely tests the law, because it has only {len(points)} "
                        f"points and {fit.degrees_of_freedom} degrees of freedom.")
    far = outliers(fit, [row.name for row in points])
    if far:
        warnings.append(f"{what}: points deviate from the law by more than {OUTLIER:g} s.u.: "
                        + ", ".join(f"{name} ({r:+.1f})" for name, r in far.items()) + ".")
    dof = fit.degrees_of_freedom
    if dof > 0 and chi2_law.sf(fit.chi2, dof) < IMPROBABLE:
        warnings.append(f"{what}: chi2_red = {fit.chi2_red:.3g} for {len(points)} points, which do "
                        "not follow this law within their s.u. (the scaled s.u. treat this misfit "
                        "as random scatter).")
    for name in fit.at_bound:
        warnings.append(
            f"{what}: {name} = {fit.value(name):.4g} is held at its bound and has no s.u.")
    return warnings


def left_out(series: Series, quantity: str) -> list[str]:
    """A warning about used refinements in which a quantity has no s.u. or is at its bound."""
    fitted = {row.name for row in series.points(quantity)}
    omitted = [row.name for row in series.rows
               if row.name in series.used and row.name not in fitted]
    if not omitted:
        return []
    return [f"{quantity}: not used in {', '.join(omitted)}, because it has no s.u. or is at its "
            "bound there."]


def listed(series: Series, *starts: str) -> list[str]:
    """The quantities of the table whose names begin with one of `starts`."""
    return [name for name in series.names if name.startswith(starts)]
