"""Migration of results from version 0.1 (aiida-dse/result/1) to aiida-dse/result/2.

Values and s.u. are kept as they were computed. Copies for queries ('values', 'su', 'posterior_sd',
'bootstrap_sd', 'su_serial') are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aiida_dse.engine.parameters import Kind, ParameterStatus

from .migration import current_name, local_name, old_names
from .status import Status, Task

Content = Mapping[str, Any]

OLD_SCHEMA = "aiida-dse/result/1"
#: Old and new names of statuses and tasks.
STATUSES = {"singular": Status.UNDETERMINED.value}
TASKS = {"joint": Task.SIMULTANEOUS.value}
#: Old and new names of the numbers of series; lines and sites keep theirs.
NUMBERS = {
    "gamma": "surface_energy", "gamma_through_bulk": "surface_energy_through_bulk",
    **{f"alpha_{axis}": f"thermal_expansion_{axis}" for axis in ("V", "a", "b", "c")},
}
#: Kind of a parameter by the quantity at the end of its name and by its unit.
KINDS = {
    **{(name, "Å"): Kind.CELL_LENGTH for name in ("a", "b", "c")},
    **{(name, "deg"): Kind.CELL_ANGLE for name in ("alpha", "beta", "gamma")},
    **{(name, ""): Kind.COORDINATE for name in ("x", "y", "z")},
    ("B_iso", "Å^2"): Kind.B_ISO, ("occupancy", ""): Kind.OCCUPANCY,
    **{(name, "nm"): Kind.SIZE for name in ("L", "L_ab", "L_c", "D")},
    **{(f"sd_{name}", "nm"): Kind.SIZE_SD for name in ("L", "ab", "c", "D")},
    ("size_axes_rotation", "deg"): Kind.SIZE_ROTATION, ("lattice_scale", ""): Kind.LATTICE_SCALE,
    ("scale", ""): Kind.SCALE,
}
#: Fields of every result that have not changed.
_COMMON = (
    "stop_reason", "title", "sample", "phases", "structures", "space_groups", "document_sha256",
    "data", "seconds", "created", "engine_version", "libraries", "tables",
)


def kind_of(name: str, unit: str = "") -> Kind:
    """The kind of a parameter of version 0.1, from its (new) name and unit. Raises ValueError."""
    first, _, last = name.rpartition(":")[2].partition(".")
    if first in ("global", "background", "blank"):
        return Kind(first)
    found = KINDS.get((last.rpartition(".")[2], unit))
    if found is None:
        raise ValueError(f"'{name}' with the unit '{unit}' is no parameter of version 0.1.")
    return found


def current_status(word: str) -> str:
    """The name of a status in version 0.2."""
    return STATUSES.get(word, word)


def old_words(word: str, table: Mapping[str, str]) -> list[str]:
    """A current name and the names that version 0.1 used for it, for queries."""
    return [word, *(old for old, new in table.items() if new == word)]


def current_result(content: Any) -> Any:
    """Migrate the JSON values of a result from schema aiida-dse/result/1 to result/2."""
    if not isinstance(content, Mapping) or content.get("schema") != OLD_SCHEMA:
        return content
    several = content["task"] == "joint"
    found: dict[str, Any] = {key: content[key] for key in _COMMON if content.get(key) is not None}
    found |= {
        "schema": "aiida-dse/result/2", "task": TASKS.get(content["task"], content["task"]),
        "status": current_status(content["status"]),
        "warnings": [current_name(text, several=several) for text in content.get("warnings", [])],
        "numerics_version": 0,
    }
    task = Task(found["task"])
    if task in _SERIES:
        found["numbers"] = {NUMBERS.get(name, name): row
                            for name, row in content.get("parameters", {}).items()}
    elif "parameters" in content:
        found["parameters"] = _parameters(content["parameters"])
    return found | _FIELDS[task](content)


def current_study(summary: Content) -> dict[str, Any]:
    """The summary of a study with current names, migrated from version 0.1 where needed."""
    found = dict(summary)
    found["samples"] = {name: row if "status" not in row else
                        {**row, "status": current_status(row["status"])}
                        for name, row in summary["samples"].items()}
    found["series"] = {
        name: row if "parameters" not in row else {
            **{key: value for key, value in row.items() if key != "parameters"},
            "numbers": {NUMBERS.get(key, key): value for key, value in row["parameters"].items()}}
        for name, row in summary["series"].items()}
    found["maps"] = {name: row if not row.get("minimum") else
                     {**row, "minimum": _named(row["minimum"])}
                     for name, row in summary["maps"].items()}
    return found


def _picked(content: Content, *keys: str) -> dict[str, Any]:
    return {key: content[key] for key in keys if key in content}


def _named(rows: Content, *, several: bool = False) -> dict[str, Any]:
    """A mapping whose keys are parameters, with the keys translated."""
    return {current_name(name, several=several): row for name, row in rows.items()}


def _parameters(rows: Content) -> dict[str, Any]:
    found = {}
    for old, row in rows.items():
        name = current_name(old, several=True)
        new = _picked(row, "value", "unit", "su", "start", "shared")
        new["kind"] = kind_of(name, row.get("unit", "")).value
        new["status"] = _parameter_status(row).value
        if row.get("free"):
            new |= _picked(row, "lower", "upper")
        if "tie" in row:
            new["constraint"] = current_name(row["tie"])
        if "law" in row:
            new["parametric_constraint"] = current_name(row["law"], several=True)
        found[name] = new
    return found


def _parameter_status(row: Content) -> ParameterStatus:
    if "tie" in row or "law" in row:
        return ParameterStatus.CONSTRAINED
    if not row.get("free"):
        return ParameterStatus.FIXED
    if row.get("at_bound"):
        return ParameterStatus.AT_BOUND
    return ParameterStatus.UNDETERMINED if row.get("insensitive") else ParameterStatus.FREE


def _linear(rows: Content) -> dict[str, Any]:
    found = {}
    for old, row in rows.items():
        name = current_name(old)
        status = ParameterStatus.AT_BOUND if row.get("at_zero") else ParameterStatus.FREE
        found[name] = _picked(row, "value", "su") | {
            "kind": kind_of(name).value, "status": status.value}
    return found


def _derived(rows: Content) -> dict[str, Any]:
    found = {}
    for phase, row in rows.items():
        new: dict[str, Any] = {
            "sizes": {name: {"value": value, "unit": _unit_of_statistic(name)}
                      for name, value in row.get("sizes", {}).items()},
            "quantities": row.get("quantities", {}),
        } | _picked(row, "cell")
        if "sites" in row:
            new["sites"] = {
                label: {key if key != "B" else "B_iso": value for key, value in site.items()}
                for label, site in row["sites"].items()}
        found[phase] = new
    return found


def _unit_of_statistic(name: str) -> str:
    return "" if name in ("correlation", "atoms") else "nm"


def _refinement(content: Content) -> dict[str, Any]:
    found = _picked(content, "agreement", "method", "n_cycles", "n_evaluations",
                    "serial_correlation") | {
        "linear": _linear(content["linear"]), "derived": _derived(content["derived"]),
        "restraints": _named(content.get("restraints", {})),
    }
    if "search" in content:
        found["search"] = dict(content["search"]) | {"minima": [
            {**one, "values": _named(one["values"])} for one in content["search"]["minima"]]}
    return found


def _simulation(content: Content) -> dict[str, Any]:
    return _picked(content, "agreement") | {"derived": _derived(content["derived"])}


def _simultaneous(content: Content) -> dict[str, Any]:
    return _picked(content, "agreement", "n_cycles", "n_evaluations") | {
        "parametric_constraints": {
            current_name(name): current_name(law, several=True)
            for name, law in content.get("laws", {}).items()},
        "undetermined": [current_name(name, several=True)
                         for name in content.get("undetermined", [])],
        "patterns": {
            name: _picked(row, "sample", "data", "agreement") | {
                "parameters": _parameters(row["parameters"]), "linear": _linear(row["linear"]),
                "derived": _derived(row["derived"]),
                "restraints": _named(row.get("restraints", {})),
            } for name, row in content["patterns"].items()},
    }


def _uncertainty(content: Content) -> dict[str, Any]:
    part = dict(content.get("uncertainty", {}))
    if "profile" in part:
        part["profile"] = _named(part["profile"])
        for name, row in part["profile"].items():
            if row.get("lower_minimum"):
                lower = row["lower_minimum"]
                part["profile"][name] = {**row, "lower_minimum": {
                    **lower, "values": _named(lower.get("values", {}))}}
    for key in ("bootstrap", "posterior"):
        if "parameters" in (part.get(key) or {}):
            part[key] = {**part[key], "parameters": _named(part[key]["parameters"])}
    return _refinement(content) | {"uncertainty": part}


def _scan(content: Content) -> dict[str, Any]:
    parameters = _parameters(content["parameters"])
    units = content.get("axis_units") or [""] * len(content["axes"])
    scales = content.get("axis_scales") or [1.0] * len(content["axes"])
    axes = []
    for old, unit, scale in zip(content["axes"], units, scales, strict=True):
        name = current_name(old)
        kind = parameters[name]["kind"] if name in parameters else (
            Kind.SCALE.value if name.endswith(".scale") else None)
        axes.append({"name": name, "unit": unit, "scale": scale, "kind": kind})
    moved = [current_name(name) for name in content.get("moved", [])]
    refined = [current_name(name) for name in content.get("refined", [])]
    found = _picked(content, "shape", "n_done", "n_unreachable", "n_points_pattern", "quantities",
                    "minimum_quantities", "adaptive") | {
        "axes": axes, "moved": moved, "refined": refined, "minimum": None,
        "basins": [_point(row) for row in content.get("basins", [])], "parameters": parameters,
    }
    if content.get("minimum"):
        found["minimum"] = _named(content["minimum"])
        for name in {*moved, *refined} & set(found["minimum"]) & set(parameters):
            parameters[name] |= {"start": parameters[name]["value"],
                                 "value": found["minimum"][name]}
    if "quadratic" in content:
        found["quadratic"] = {
            key: _named(value) if key in ("position", "delta_chi2") else {
                ", ".join(map(current_name, pair.split(", "))): number
                for pair, number in value.items()} if key == "correlation" else value
            for key, value in content["quadratic"].items()}
    return found


def _point(row: Content) -> dict[str, Any]:
    found = dict(row) | {"at": _named(row["at"])}
    if row.get("saddle"):
        found["saddle"] = _point(row["saddle"])
    return found


def _build(content: Content) -> dict[str, Any]:
    return {"distances": {
        phase: {**row, "values": {
            local_name(name): value for name, value in row["values"].items()}}
        for phase, row in content["distances"].items()}}


def _comparison(content: Content) -> dict[str, Any]:
    return _picked(content, "agreement", "best", "ranking") | {
        "models": {name: {**row, "status": current_status(row["status"])}
                   for name, row in content["models"].items()}}


def _law(row: Content) -> dict[str, Any]:
    """A law, whose numbers move from the level of chi2 into a separate mapping."""
    fields = _picked(row, "correlation", "chi2", "chi2_red", "r_squared", "n", "residuals",
                     "outliers", "static")
    return {key: value for key, value in fields.items() if value is not None} | {
        "chi2_red": row.get("chi2_red"),
        "numbers": {name: value for name, value in row.items()
                    if isinstance(value, Mapping) and "value" in value}}


def _series(content: Content) -> dict[str, Any]:
    found = _picked(content, "phase", "refinements", "used", "excluded", "options", "su")
    if "su" in found and not isinstance(found["su"], str):  # in nodes: a copy for queries
        found.pop("su")
    if "lines" in content:
        found["lines"] = {name: _law(row) for name, row in content["lines"].items()}
    return found


def _temperatures(content: Content) -> dict[str, Any]:
    return _series(content) | {
        "temperatures": content["temperature"], "disorder": content.get("disorder", []),
        "displacements": {
            site: {**row, "einstein": _law(row["einstein"]), "debye": _law(row["debye"])}
            for site, row in content.get("displacements", {}).items()},
    }


def _sizes(content: Content) -> dict[str, Any]:
    found = _series(content)
    if content.get("strain"):
        strain = _moved(content["strain"], {
            "gamma": "surface_energy", "gamma_SI": "surface_energy_SI"})
        strain["points"] = {name: _moved(row, {"1/L": "inverse_length"})
                            for name, row in strain["points"].items()}
        if strain.get("through_bulk"):
            strain["through_bulk"] = _moved(strain["through_bulk"], {"gamma": "surface_energy"})
        found["strain"] = strain
    return found


def _sizing(content: Content) -> dict[str, Any]:
    fitted = content.get("fitted")
    return _series(content) | _picked(content, "predicted") | {
        "fitted": _law(fitted) if fitted else None}


def _differential(content: Content) -> dict[str, Any]:
    name = content.get("parameter")
    options = dict(content.get("options", {}))
    if options.get("parameter"):
        options["parameter"] = current_name(options["parameter"])
    return _picked(content, "reference", "unit", "patterns") | {
        "parameter": current_name(name) if name else None, "options": options}


def _moved(content: Content, names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in content.items()}


_SERIES = (Task.TEMPERATURE_SERIES, Task.SIZE_SERIES, Task.SIZING_CURVE)
_FIELDS: dict[Task, Callable[[Content], dict[str, Any]]] = {
    Task.SIMULATE: _simulation, Task.REFINE: _refinement, Task.SIMULTANEOUS: _simultaneous,
    Task.SCAN: _scan, Task.UNCERTAINTY: _uncertainty, Task.BUILD: _build,
    Task.COMPARE: _comparison, Task.TEMPERATURE_SERIES: _temperatures, Task.SIZE_SERIES: _sizes,
    Task.SIZING_CURVE: _sizing, Task.DIFFERENTIAL: _differential,
}


def current_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a result of version 0.1 under their new paths and with new names in them.

    The correlation matrix is dropped, because it follows from the covariance.
    """
    found: dict[str, np.ndarray] = {}
    for path, values in arrays.items():
        if path.endswith("refinement/correlation"):
            continue
        new = _path(path)
        if new.endswith(("covariance/names", "search/names")):
            values = np.array([current_name(str(name), several=True) for name in values], dtype=str)
        elif new.startswith("covariance_names/"):
            values = np.array([_column(str(name)) for name in values], dtype=str)
        found[new] = values
    return found


def _path(path: str) -> str:
    head, _, rest = path.partition("/")
    if head == "patterns":
        name, _, rest = rest.partition("/")
        return f"patterns/{name}/{_path(rest)}"
    if head == "refinement":
        return {"covariance": "covariance/matrix"}.get(rest, f"covariance/{rest}")
    if head in ("components", "profile") or path.startswith("scan/refined/"):
        return "/".join(map(current_name, path.split("/")))
    if head == "table":
        kind, _, name = rest.partition("/")
        return f"table/{kind}/{_column(name)}" if name else path
    return path


def _column(name: str) -> str:
    """A quantity in the table of a series: 'B(Pb)' -> 'B_iso(Pb)'."""
    return f"B_iso({name[2:]}" if name.startswith("B(") else name


def map_paths(refined: list[str]) -> dict[str, str]:
    """Paths of those arrays of a map node of version 0.1 that are not 'scan/<array name>'.

    refined: new names of the parameters that were refined at every point. Returns array name ->
    path.
    """
    return {
        "refined_" + old.replace("/", "_").replace(".", "_"): f"scan/refined/{name}"
        for name in refined for old in old_names(name)
    }
