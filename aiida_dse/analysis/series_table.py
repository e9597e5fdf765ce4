"""A series of refinements as one table: every quantity with its s.u. and their covariance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_dse.documents.series import SeriesOptions
from aiida_dse.engine.crystal.geometry import (
    irreducible_strain,
    propagated_covariance,
    pseudo_cubic_edge,
)
from aiida_dse.engine.crystal.structure import Cell
from aiida_dse.engine.model.constraints import Constraint, ordered_constraints
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.scattering.form_factors import element_of
from aiida_dse.engine.units import FloatArray
from aiida_dse.io.results import Result

#: Refinements that ended otherwise are listed and not used.
USABLE = ("converged", "singular")
SU_NOTE = (
    "su is unscaled; su_scaled = su * max(1, GoF) of its refinement is what figures show and laws "
    "weight with"
)
Quantities = list[tuple[str, float, str]]


@dataclass(frozen=True)
class Row:
    """One refinement: names, units, values (k,) and unscaled covariance (k, k), nan without s.u."""

    name: str
    summary: Mapping[str, Any]
    names: tuple[str, ...]
    units: tuple[str, ...]
    values: FloatArray
    covariance: FloatArray
    at_bound: frozenset[str]
    elements: Mapping[str, str]  # site: element, where the result says so

    @property
    def gof(self) -> float:
        return float(self.summary["agreement"]["gof"])

    @property
    def factor(self) -> float:
        """By what this refinement's s.u. are scaled: max(1, GoF)."""
        return max(1.0, self.gof)

    @property
    def temperature(self) -> float | None:
        return (self.summary.get("sample") or {}).get("temperature")

    def value(self, name: str) -> float:
        return float(self.values[self.names.index(name)]) if name in self.names else float("nan")

    def covariance_of(self, first: str, second: str) -> float:
        """Covariance scaled by max(1, GoF)^2; nan where one has no s.u. or is not there."""
        if first not in self.names or second not in self.names:
            return float("nan")
        i, j = self.names.index(first), self.names.index(second)
        return float(self.covariance[i, j]) * self.factor**2

    def su(self, name: str) -> float:
        """s.u. scaled by max(1, GoF); nan where there is none."""
        return float(np.sqrt(self.covariance_of(name, name)))

    def plain(self) -> dict[str, Any]:
        """This row as JSON values."""
        sample = dict(self.summary.get("sample") or {})
        fit = self.summary["agreement"]
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
            "sample": sample, "temperature": sample.get("temperature"),
            "ligand": sample.get("ligand"), "gof": fit["gof"], "r_wp": fit["r_wp"],
            "r_exp": fit["r_exp"], "status": self.summary["status"],
            "converged": self.summary["status"] == "converged", "su_factor": self.factor,
            "document_sha256": self.summary.get("document_sha256"), "quantities": quantities,
        }


@dataclass(frozen=True)
class Series:
    """The refinements of one phase in the order of their temperature or size."""

    phase: str
    rows: tuple[Row, ...]
    used: tuple[str, ...]
    excluded: Mapping[str, str]  # name: why it is not used

    @property
    def names(self) -> tuple[str, ...]:
        """All quantities of any row, in the order of the first that has them."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.names))

    def unit(self, quantity: str) -> str:
        return next(row.units[row.names.index(quantity)] for row in self.rows
                    if quantity in row.names)

    def points(self, quantity: str) -> tuple[Row, ...]:
        """The used rows in which the quantity has an s.u. and is not held by a bound."""
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
        """Columns (n_rows,), nan where a row lacks them, and each row's scaled covariance."""
        found: dict[str, np.ndarray] = {
            "table/names": np.array([row.name for row in self.rows], dtype=str),
            "table/used": np.array([row.name in self.used for row in self.rows]),
            "table/temperature": np.array(
                [np.nan if row.temperature is None else row.temperature for row in self.rows]),
        }
        for name in self.names:
            found[f"table/values/{name}"] = np.array([row.value(name) for row in self.rows])
            found[f"table/su_scaled/{name}"] = np.array([row.su(name) for row in self.rows])
        for row in self.rows:
            found[f"covariance/{row.name}"] = row.covariance * row.factor**2
            found[f"covariance_names/{row.name}"] = np.array(row.names, dtype=str)
        return found


def series_table(
    results: Mapping[str, Result], phase: str | None = None, *,
    exclude: Sequence[str] = (), max_gof: float | None = None,
) -> Series:
    """The table of refinements given by name.

    Cell, V (Å^3), a_k and zeta, sizes L_ab, L_c, L = (L_c L_ab^2)^(1/3) (nm) with the spread sd_L
    of the population, B (Å^2) of every site, and the distances and angles that the results list.
    s.u. are propagated with the refinement's covariance. Refinements that did not converge, are
    excluded or above max_gof are listed with the reason and not used. Raises ValueError for what
    is no refinement, for an unknown phase, and where several phases leave a choice.
    """
    if not results:
        raise ValueError("a series needs refinements; none was given.")
    for name, result in results.items():
        if result.task != "refine":
            raise ValueError(f"'{name}' is the result of '{result.task}', not of a refinement; "
                             "leave it out.")
        if "/" in name:
            raise ValueError(f"'{name}': a refinement's name has no slash. Rename it.")
    chosen = _phase_of(results, phase)
    for name in exclude:
        if name not in results:
            raise ValueError(f"'{name}' is to be excluded but is not among {', '.join(results)}.")
    rows = tuple(_row(name, result, chosen) for name, result in results.items())
    excluded: dict[str, str] = {}
    for row in rows:
        if row.name in exclude:
            excluded[row.name] = "excluded by the options"
        elif row.summary["status"] not in USABLE:
            excluded[row.name] = f"the refinement ended as '{row.summary['status']}'"
        elif max_gof is not None and row.gof > max_gof:
            excluded[row.name] = f"GoF {row.gof:.2f} is above the {max_gof:g} allowed"
    used = tuple(row.name for row in rows if row.name not in excluded)
    return Series(chosen, rows, used, excluded)


def series_of(results: Mapping[str, Result], options: SeriesOptions) -> Series:
    """The table that the options of an analysis ask for."""
    return series_table(results, options.phase, exclude=options.exclude, max_gof=options.max_gof)


def _phase_of(results: Mapping[str, Result], phase: str | None) -> str:
    known = list(dict.fromkeys(p for r in results.values() for p in r.summary["phases"]))
    if phase is None:
        if len(known) > 1:
            raise ValueError(f"the refinements have the phases {', '.join(known)}; say which "
                             "'phase' the series is of.")
        phase = known[0]
    for name, result in results.items():
        if phase not in result.summary["phases"]:
            raise ValueError(f"'{name}' has no phase '{phase}' but "
                             f"{', '.join(result.summary['phases'])}. Leave it out, or choose "
                             "another phase.")
    return phase


def _row(name: str, result: Result, phase: str) -> Row:
    summary = result.summary
    parameters, derived = summary["parameters"], summary["derived"][phase]
    names = [str(text) for text in result.arrays.get("covariance/names", ())]
    free = [text for text in names if text in parameters]
    at = [names.index(text) for text in free]
    covariance = np.asarray(result.arrays.get("covariance/matrix", np.zeros((0, 0))))
    covariance = covariance[np.ix_(at, at)]
    values = {key: float(row["value"]) for key, row in parameters.items()}
    quantities = _quantities(parameters, derived, phase)
    steps = [1e-3 * Kind(parameters[key]["kind"]).spec.shift(values[key]) for key in free]
    rows = quantities(values)
    matrix = propagated_covariance(quantities, values, free, covariance, steps)
    known = {key for key, _, _ in rows}
    # distances and angles need the symmetry, which a result does not hold: s.u. as they stand
    listed = [(key, row) for key, row in derived.get("quantities", {}).items()
              if key not in known]
    k = len(rows)
    full = np.zeros((k + len(listed),) * 2)
    full[:k, :k] = matrix
    for j, (_, row) in enumerate(listed):
        full[k + j, k + j] = np.nan if row["su"] is None else row["su"] ** 2
    rows += [(key, float(row["value"]), str(row["unit"])) for key, row in listed]
    at_bound = frozenset(
        f"B_iso({site})" for site in _sites(parameters, phase)
        if parameters[f"{phase}.{site}.B_iso"].get("status") == "at_bound"
    )
    return Row(
        name, summary, tuple(r[0] for r in rows), tuple(r[2] for r in rows),
        np.array([r[1] for r in rows]), full, at_bound,
        {site: element_of(str(row["ion"])) for site, row in derived.get("sites", {}).items()},
    )


def _sites(parameters: Mapping[str, Any], phase: str) -> list[str]:
    head, tail = f"{phase}.", ".B_iso"
    return [key[len(head):-len(tail)] for key in parameters
            if key.startswith(head) and key.endswith(tail)]


def _quantities(
    parameters: Mapping[str, Any], derived: Mapping[str, Any], phase: str
) -> Callable[[Mapping[str, float]], Quantities]:
    """A function of the parameter values that gives every quantity which follows from them."""
    constraints = ordered_constraints([Constraint.parse(key, row["constraint"], parameters)
                         for key, row in parameters.items() if "constraint" in row])
    sites = _sites(parameters, phase)
    cell_of = _cell(parameters, derived, phase)
    pseudo_cubic = "zeta" in derived.get("quantities", {})

    def quantities(values: Mapping[str, float]) -> Quantities:
        full = dict(values)
        for constraint in constraints:
            full[constraint.target] = constraint.value(full)
        local = {key[len(phase) + 1:]: value for key, value in full.items()
                 if key.startswith(f"{phase}.")}
        rows: Quantities = []
        if cell_of is not None:
            cell = cell_of(local)
            rows += [("a", cell.a, "Å"), ("b", cell.b, "Å"), ("c", cell.c, "Å"),
                     ("volume", cell.volume, "Å^3")]
            if pseudo_cubic:
                rows += [("a_k", float(pseudo_cubic_edge(cell.a, cell.b, cell.c)), "Å"),
                         ("zeta", float(irreducible_strain(cell.a, cell.b, cell.c)), "")]
        rows += _sizes(local, derived["sizes"])
        return rows + [(f"B_iso({site})", local[f"{site}.B_iso"], "Å^2") for site in sites]

    return quantities


def _cell(
    parameters: Mapping[str, Any], derived: Mapping[str, Any], phase: str
) -> Callable[[Mapping[str, float]], Cell] | None:
    """The cell from the phase's own parameters; None for a list of atoms.

    A length or angle that is no parameter follows the one that the crystal system makes it equal
    to; angles of 90 and 120 degrees are constants.
    """
    stored = derived.get("cell")
    if stored is None:
        return None
    leader = {}
    for name, others in (("b", "a"), ("c", "ab"), ("beta", ("alpha",)),
                         ("gamma", ("alpha", "beta"))):
        fixed = f"{phase}.{name}" not in parameters
        for other in others:
            if fixed and f"{phase}.{other}" in parameters \
                    and abs(stored[name] - stored[other]) < 1e-9:
                leader[name] = other
                break

    def cell(local: Mapping[str, float]) -> Cell:
        return Cell(**{name: local.get(leader.get(name, name), float(stored[name]))
                       for name in stored})

    return cell


def _sizes(local: Mapping[str, float], statistics: Mapping[str, float]) -> Quantities:
    """Mean lengths of the size law and L, the edge of the cube of the same volume (nm).

    sd_L is the spread of L in the population: of a product of powers of log-normal lengths.
    """
    if "L_ab" in local:
        # along rotated axes the law's means are no lengths of the particles; the projections are
        turned = local.get("size_axes_rotation", 0.0) != 0.0
        names = ("mean_ab", "sd_ab", "mean_c", "sd_c") if turned else (
            "L_ab", "sd_ab", "L_c", "sd_c")
        source = statistics if turned else local
        ab, sd_ab, c, sd_c = (float(source[name]) for name in names)
        w_ab, w_c = (np.sqrt(np.log1p((sd / mean) ** 2)) for sd, mean in ((sd_ab, ab), (sd_c, c)))
        shared = statistics.get("correlation", 0.0) if turned else 0.0
        width2 = (4 * w_ab**2 + w_c**2 + 4 * shared * w_ab * w_c) / 9
        edge = float((c * ab**2) ** (1 / 3))
        rows = [("L_ab", ab, "nm"), ("L_c", c, "nm"), ("L", edge, "nm"),
                ("sd_L", edge * float(np.sqrt(np.expm1(width2))), "nm")]
    elif "L" in local:
        edge = local["L"]
        rows = [("L", edge, "nm"), ("sd_L", local["sd_L"], "nm")]
    elif "D" in local or "D" in statistics:
        diameter = float(local.get("D", statistics.get("D", np.nan)))
        share = float((np.pi / 6) ** (1 / 3))
        edge = share * diameter
        rows = [("D", diameter, "nm"), ("L", edge, "nm")]
        if "sd_D" in local:
            rows.append(("sd_L", share * local["sd_D"], "nm"))
    elif {"L_a", "L_b", "L_c"} <= set(statistics):
        edge = float(np.prod([statistics[name] for name in ("L_a", "L_b", "L_c")]) ** (1 / 3))
        rows = [("L", edge, "nm")]
    else:
        return []
    return [*rows, ("1/L", 1 / edge, "1/nm")]
