"""The table of a series: all quantities of its refinements, with s.u. and covariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_dse.documents.results import RefinementSummary
from aiida_dse.documents.series import SeriesOptions
from aiida_dse.documents.status import Task
from aiida_dse.engine.parameters import Kind, ParameterName, ParameterStatus
from aiida_dse.engine.scattering.form_factors import element_of
from aiida_dse.engine.units import FloatArray
from aiida_dse.io.results import Result

from .old_refinements import old_quantities

SU_NOTE = (
    "su is unscaled; su_scaled = su * max(1, GoF) of the refinement is shown in figures and "
    "weights the points of laws"
)
#: Prefix of the names of population statistics, which are not quantities of a series.
STATISTIC = "sizes."


@dataclass(frozen=True)
class Row:
    """One refinement of a series: its quantities with their unscaled covariance.

    names, units, values (k,); covariance (k, k), nan without an s.u.
    """

    name: str
    summary: RefinementSummary
    names: tuple[str, ...]
    units: tuple[str, ...]
    values: FloatArray
    covariance: FloatArray
    at_bound: frozenset[str]
    elements: Mapping[str, str]  # the elements of sites, where the result contains them

    @property
    def gof(self) -> float:
        return self.summary.agreement.gof

    @property
    def factor(self) -> float:
        """The factor by which the s.u. of this refinement are scaled."""
        return self.summary.su_scale

    @property
    def temperature(self) -> float | None:
        return self.summary.temperature

    def value(self, name: str) -> float:
        """The value of a quantity; nan where the row does not have it."""
        return float(self.values[self.names.index(name)]) if name in self.names else float("nan")

    def covariance_of(self, first: str, second: str) -> float:
        """The covariance scaled by max(1, GoF)^2; nan where one is missing or has no s.u."""
        if first not in self.names or second not in self.names:
            return float("nan")
        i, j = self.names.index(first), self.names.index(second)
        return float(self.covariance[i, j]) * self.factor**2

    def su(self, name: str) -> float:
        """The s.u. scaled by max(1, GoF); nan where there is none."""
        return float(np.sqrt(self.covariance_of(name, name)))

    def plain(self) -> dict[str, Any]:
        """The row as JSON values."""
        sample, fit = self.summary.sample, self.summary.agreement
        quantities = {}
        for k, (name, unit) in enumerate(zip(self.names, self.units, strict=True)):
            su = float(np.sqrt(self.covariance[k, k]))
            known = bool(np.isfinite(su))
            quantities[name] = {
                "value": float(self.values[k]), "unit": unit, "su": su if known else None,
                "su_scaled": su * self.factor if known else None,
                "at_bound": name in self.at_bound,
            }
        return {
            "sample": sample, "temperature": self.temperature, "ligand": sample.get("ligand"),
            "gof": fit.gof, "r_wp": fit.r_wp, "r_exp": fit.r_exp,
            "status": self.summary.status.value, "su_factor": self.factor,
            "document_sha256": self.summary.document_sha256, "quantities": quantities,
        }


@dataclass(frozen=True)
class Series:
    """The refinements of one phase in the order of their temperature or size."""

    phase: str
    rows: tuple[Row, ...]
    used: tuple[str, ...]
    excluded: Mapping[str, str]  # the reasons why refinements are not used, by name

    @property
    def names(self) -> tuple[str, ...]:
        """All quantities of any row, in the order of their first appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.names))

    def unit(self, quantity: str) -> str:
        return next(row.units[row.names.index(quantity)] for row in self.rows
                    if quantity in row.names)

    def points(self, quantity: str) -> tuple[Row, ...]:
        """The used rows in which the quantity has an s.u. and is not held at a bound."""
        return tuple(row for row in self.rows if row.name in self.used
                     and row.su(quantity) > 0 and quantity not in row.at_bound)

    def element(self, site: str) -> str | None:
        return next((row.elements[site] for row in self.rows if site in row.elements), None)

    def plain(self) -> dict[str, Any]:
        """The table as JSON values."""
        return {
            "phase": self.phase, "rows": {row.name: row.plain() for row in self.rows},
            "used": list(self.used), "excluded": dict(self.excluded), "su": SU_NOTE,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns (n_rows,), nan where missing, and the scaled covariance of each row."""
        columns: dict[str, np.ndarray] = {
            "table/names": np.array([row.name for row in self.rows], dtype=str),
            "table/used": np.array([row.name in self.used for row in self.rows]),
            "table/temperature": np.array(
                [np.nan if row.temperature is None else row.temperature for row in self.rows]),
        }
        for name in self.names:
            columns[f"table/values/{name}"] = np.array([row.value(name) for row in self.rows])
            columns[f"table/su_scaled/{name}"] = np.array([row.su(name) for row in self.rows])
        for row in self.rows:
            columns[f"covariance/{row.name}"] = row.covariance * row.factor**2
            columns[f"covariance_names/{row.name}"] = np.array(row.names, dtype=str)
        return columns


def series_table(
    results: Mapping[str, Result], phase: str | None = None, *,
    exclude: Sequence[str] = (), max_gof: float | None = None,
) -> Series:
    """The table of the refinements in `results`, by name.

    Its quantities are the cell, V (Å^3), a_k and zeta, sizes L_ab, L_c, L = (L_c L_ab^2)^(1/3) (nm)
    with the standard deviation sd_L of the population, B_iso (Å^2) of every site, and the distances
    and angles in the results, with s.u. propagated from the covariance of the refinement.
    Refinements that did not converge, are in `exclude` or have a GoF above max_gof are in the table
    with the reason, but not used. Raises ValueError for results that are not refinements, for an
    unknown phase, and for several phases without a choice.
    """
    if not results:
        raise ValueError("a series needs refinements, but there are none. Pass at least one.")
    for name, result in results.items():
        if result.task is not Task.REFINE:
            raise ValueError(f"'{name}' is the result of the task '{result.task}', not of a "
                             "refinement. Remove it from the series.")
        if "/" in name:
            raise ValueError(f"the name '{name}' of a refinement contains a slash. Rename it.")
    chosen = _phase_of(results, phase)
    for name in exclude:
        if name not in results:
            raise ValueError(f"'{name}' in 'exclude' is not one of the refinements "
                             f"{', '.join(results)}. Correct the name.")
    rows = tuple(_row(name, result, chosen) for name, result in results.items())
    excluded: dict[str, str] = {}
    for row in rows:
        if row.name in exclude:
            excluded[row.name] = "excluded by the options"
        elif not row.summary.status.is_minimum:
            excluded[row.name] = f"the refinement ended as '{row.summary.status}'"
        elif max_gof is not None and row.gof > max_gof:
            excluded[row.name] = f"its GoF of {row.gof:.2f} is above max_gof = {max_gof:g}"
    used = tuple(row.name for row in rows if row.name not in excluded)
    return Series(chosen, rows, used, excluded)


def series_of(results: Mapping[str, Result], options: SeriesOptions) -> Series:
    """The table of the refinements with the options of an analysis."""
    return series_table(results, options.phase, exclude=options.exclude, max_gof=options.max_gof)


def _phase_of(results: Mapping[str, Result], phase: str | None) -> str:
    known = list(dict.fromkeys(p for r in results.values() for p in r.summary.phases))
    if phase is None:
        if len(known) > 1:
            raise ValueError(f"the refinements have the phases {', '.join(known)}. Specify that "
                             "of the series as 'phase'.")
        phase = known[0]
    for name, result in results.items():
        if phase not in result.summary.phases:
            raise ValueError(f"'{name}' has no phase '{phase}'; its phases are "
                             f"{', '.join(result.summary.phases)}. Remove it from the series, or "
                             "choose another phase.")
    return phase


def _row(name: str, result: Result[RefinementSummary], phase: str) -> Row:
    """The quantities of a phase in a refinement, with their covariance."""
    summary, derived = result.summary, result.summary.derived[phase]
    stored = result.arrays.get(f"quantities/{phase}/names")
    if stored is not None:
        names = [str(text) for text in stored]
        at = [k for k, text in enumerate(names) if not text.startswith(STATISTIC)]
        rows = [(names[k], derived.quantities[names[k]].value, derived.quantities[names[k]].unit)
                for k in at]
        covariance = np.asarray(result.arrays[f"quantities/{phase}/covariance"])[np.ix_(at, at)]
    else:
        rows, covariance = old_quantities(summary, result.arrays, phase)
    at_bound = [ParameterName(key) for key, p in summary.parameters.items()
                if p.kind is Kind.B_ISO and p.status is ParameterStatus.AT_BOUND]
    return Row(
        name, summary, tuple(key for key, _, _ in rows), tuple(unit for _, _, unit in rows),
        np.array([value for _, value, _ in rows]), covariance,
        frozenset(f"B_iso({key.site})" for key in at_bound if key.phase == phase),
        {site: element_of(row.ion) for site, row in derived.sites.items()},
    )
