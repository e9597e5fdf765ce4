"""Queries for results by sample, phase, agreement factor or any parameter.

Any number of results requires only three database queries, and no node is loaded.

A name is a column of `COLUMNS` ('gof', 'temperature'), or '<phase>.<name>': a parameter
('CsPbBr3.a', 'CsPbBr3.Pb1.B_iso'), a size ('CsPbBr3.L_ab', nm) or a derived quantity ('CsPbBr3.zeta').
The suffix '.su' selects its standard uncertainty as stored (not scaled by GoF).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aiida_dse.documents.migration import RESULT_SCHEMAS, current_name, old_names
from aiida_dse.documents.result_migration import STATUSES, TASKS, old_words

from .roles import PART_OF, RIVAL, ROLE

if TYPE_CHECKING:
    import pandas

#: Paths of the columns in the database; if there are several, the first one that exists is used.
COLUMNS: dict[str, tuple[str, ...]] = {
    "pk": ("id",), "uuid": ("uuid",), "made": ("ctime",), "task": ("attributes.task",),
    "status": ("attributes.status",), "title": ("extras.title", "attributes.title"),
    "sample": ("attributes.sample.name",), "ligand": ("attributes.sample.ligand",),
    "state": ("attributes.sample.state",), "temperature": ("attributes.sample.temperature",),
    "beamline": ("attributes.sample.beamline",), "tags": ("attributes.sample.tags",),
    "phases": ("attributes.phases",), "space_groups": ("attributes.space_groups",),
    "shapes": ("attributes.shapes",), "disorder": ("attributes.disorder_models",),
    "gof": ("attributes.agreement.gof", "attributes.minimum.gof"),
    "r_wp": ("attributes.agreement.r_wp",), "chi2": ("attributes.agreement.chi2",),
    "wavelength": ("attributes.data.wavelength",), "seconds": ("extras.seconds", "attributes.seconds"),
    "engine": ("attributes.engine_version",),
    # the role ('member' or 'rival') of a part of another analysis, and that analysis
    "role": (f"extras.{ROLE}",), "part_of": (f"extras.{PART_OF}",),
    # numbers of series: thermal expansion (1/K) and surface energy (eV/nm^2)
    "thermal_expansion_V": (
        "attributes.numbers.thermal_expansion_V.value", "attributes.parameters.alpha_V.value"),
    "surface_energy": (
        "attributes.numbers.surface_energy.value", "attributes.parameters.gamma.value"),
}
#: Numerical columns, which can occur in conditions.
NUMBERS = ("pk", "temperature", "gof", "r_wp", "chi2", "wavelength", "seconds", "thermal_expansion_V",
           "surface_energy")
STANDARD = ("pk", "made", "task", "status", "sample", "ligand", "temperature", "gof", "role")
#: Columns with words that differ in version 0.1, and those words.
_OLD_WORDS = {"task": TASKS, "status": STATUSES}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[^.\s<>=!|]+)*")
_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|!=|<|>|=)\s*(\S+)\s*")
_COMPARED = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "=": "==", "!=": "!=="}


def paths_of(name: str) -> tuple[str, ...]:
    """The paths of a column or quantity in the database. Raises ValueError for an unknown name."""
    if name in COLUMNS:
        return COLUMNS[name]
    if not _NAME.fullmatch(name) or "." not in name:
        raise ValueError(
            f"'{name}' is neither a column ({', '.join(COLUMNS)}) nor a quantity of a phase, such "
            "as CsPbBr3.a, CsPbBr3.Pb1.B_iso or CsPbBr3.zeta.su."
        )
    whole, kind = (name[:-3], "su") if name.endswith(".su") else (name, "value")
    whole = current_name(whole)  # names of version 0.1 (CsPbBr3.Pb1.B) find new results too
    phase, _, rest = whole.partition(".")
    if not rest:
        raise ValueError(f"'{name}' does not specify a quantity; the form is CsPbBr3.a.su.")
    paths = [f"attributes.parameters.{whole}.{kind}"]
    # the paths of version 0.1
    paths += [f"attributes.{'su' if kind == 'su' else 'values'}.{old}" for old in old_names(whole)]
    if "." not in rest:
        paths.append(f"attributes.derived.{phase}.quantities.{rest}.{kind}")
        if kind == "value":
            paths += [f"attributes.derived.{phase}.sizes.{rest}.value",
                      f"attributes.derived.{phase}.sizes.{rest}"]
    return tuple(paths)


def number_range(text: str) -> dict[str, float]:
    """The filter for an inclusive range such as '10:100', ':100', '10:' or '77'.

    Raises ValueError for any other text.
    """
    low, colon, high = text.partition(":")
    try:
        ends = [float(end) if end else None for end in ((low, high) if colon else (low, low))]
    except ValueError:
        ends = []
    if not ends or ends == [None, None] or any(end is not None and math.isnan(end) for end in ends):
        raise ValueError(f"'{text}' is not a valid range; use LOW:HIGH, LOW:, :HIGH or a number.")
    if None not in ends and ends[0] > ends[1]:  # type: ignore[operator]
        raise ValueError(f"the range '{text}' is empty: its lower limit {ends[0]:g} exceeds its "
                         f"upper limit {ends[1]:g}. Exchange the limits.")
    return {sign: end for sign, end in zip((">=", "<="), ends, strict=True) if end is not None}


def condition(text: str) -> tuple[str, dict[str, float]]:
    """The name and filter of a condition: ('CsPbBr3.a', {'>': 8.2}) for 'CsPbBr3.a>8.2'.

    The operators are <, <=, >, >=, =, != and, for a range, '=LOW:HIGH'. Raises ValueError for any
    other text.
    """
    parts = _CONDITION.fullmatch(text)
    if parts is None:
        raise ValueError(
            f"'{text}' is not a valid condition; it must consist of a name, an operator (<, <=, >, "
            ">=, = or !=) and a number, as in 'CsPbBr3.a>8.2', or of a name and a range, as in "
            "'CsPbBr3.L=5:8'."
        )
    name, sign, number = parts.groups()
    paths_of(name)
    if name in COLUMNS and name not in NUMBERS:
        raise ValueError(f"'{name}' is not numerical and cannot be used in a condition. Numerical "
                         f"columns are {', '.join(NUMBERS)} and all quantities of phases.")
    if sign == "=":
        return name, number_range(number)
    try:
        return name, {_COMPARED[sign]: float(number)}
    except ValueError:
        raise ValueError(f"'{number}' in '{text}' is not a number.") from None


def find_rows(
    *, task: str | None = None, status: str | None = None, sample: str | None = None,
    ligand: str | None = None, state: str | None = None, temperature: str | None = None,
    phase: str | None = None, space_group: str | None = None, shape: str | None = None,
    disorder: str | None = None, max_gof: float | None = None,
    tags: Sequence[str] = (), where: Sequence[str] = (), group: str | None = None,
    show: Sequence[str] = (), sort: str = "-made", limit: int | None = None, parts: bool = False,
    latest: bool = False,
) -> list[dict[str, Any]]:
    """The matching results as rows of columns, where None represents a missing value.

    temperature: a range in K as for `number_range`; tags: 'key' or 'key=value'; where: conditions
    as for `condition`; shape: the shape of the particles of a phase; disorder: 'displacements',
    'correlated_motion', 'boundaries' or 'split'; group: a group of work chains, such as those created by
    `launch`; show: columns in addition to the standard ones and those of the conditions; sort: a column, with the
    prefix '-' for descending order; latest: return only the newest result of each sample and task,
    without the rivals of a comparison; parts: include tiles of maps and interrupted attempts.
    Raises ValueError for unknown names and malformed conditions.
    """
    from aiida.orm import Dict, Group, QueryBuilder, WorkflowNode

    conditions = [condition(text) for text in where]
    if temperature is not None:
        conditions.append(("temperature", number_range(temperature)))
    if max_gof is not None:
        conditions.append(("gof", {"<=": max_gof}))
    filters: list[dict[str, Any]] = [{"attributes.schema": {"in": list(RESULT_SCHEMAS)}}]
    texts = {"sample": sample, "ligand": ligand, "state": state}
    filters += [{COLUMNS[name][0]: text} for name, text in texts.items() if text is not None]
    filters += [{COLUMNS[name][0]: {"in": old_words(word, _OLD_WORDS[name])}}
                for name, word in (("task", task), ("status", status)) if word is not None]
    filters += [_any_of(paths_of(name), asked) for name, asked in conditions]
    filters += [_tag_filter(tag) for tag in tags]
    if phase is not None:
        filters.append({"attributes.phases": {"contains": [phase]}})
    if space_group is not None:
        plain = "".join(space_group.split())
        filters.append({"attributes.space_groups": {"contains": [plain]}} if phase is None else
                       {f"attributes.structures.{phase}.space_group": plain})
    if shape is not None:
        filters.append({"attributes.shapes": {"contains": [shape]}} if phase is None else
                       {f"attributes.document.phases.{phase}.particle.shape": shape})
    if disorder is not None:
        filters.append({"attributes.disorder_models": {"contains": [disorder]}})
    order = sort.removeprefix("-")
    names = list(dict.fromkeys([*STANDARD, *(name for name, _ in conditions), *show, order]))
    paths = list(dict.fromkeys(["id", *(path for name in names for path in paths_of(name))]))

    asked = {"and": filters}
    query = QueryBuilder().append(Dict, tag="result", filters=asked, project=paths)
    if group is not None:
        query.append(WorkflowNode, tag="giver", with_outgoing="result")
        query.append(Group, with_node="giver", filters={"label": group})
    # a result returned by several work chains of a group is found once for each of them
    rows = {}
    for values in query.all():
        found = dict(zip(paths, values, strict=True))
        row = {name: _first(found, paths_of(name)) for name in names}
        rows[found["id"]] = row | {name: words.get(str(row[name]), row[name])
                                   for name, words in _OLD_WORDS.items()}
    if not parts:
        for pk in _parts(asked):
            rows.pop(pk, None)
    ordered = sorted(rows.values(), key=lambda row: row["pk"], reverse=True)
    if latest:
        newest: dict[Any, dict[str, Any]] = {}
        # by time, because imported results have high PKs
        for row in sorted(ordered, key=lambda one: (str(one["made"] or ""), one["pk"]), reverse=True):
            if row["role"] != RIVAL:
                newest.setdefault((str(row["sample"]), str(row["task"])), row)
        ordered = list(newest.values())
    known = [row for row in ordered if row[order] is not None]
    known.sort(key=lambda row: _sortable(row[order]), reverse=sort.startswith("-"))
    ordered = known + [row for row in ordered if row[order] is None]
    shown = [name for name in names if name in STANDARD or name != order or name in show
             or name in dict(conditions)]
    return [{name: row[name] for name in shown} for row in ordered[:limit]]


def find(**options: Any) -> pandas.DataFrame:
    """The rows of `find_rows` as a pandas DataFrame, with columns even if nothing matches."""
    import pandas

    rows = find_rows(**options)
    names = [*STANDARD, *(condition(text)[0] for text in options.get("where", ())),
             *options.get("show", ())]
    return pandas.DataFrame(rows, columns=None if rows else list(dict.fromkeys(names)))


def _parts(filters: dict[str, Any]) -> set[int]:
    """PKs of results that a job of a work chain created but no work chain returned."""
    from aiida.orm import CalculationNode, Dict, QueryBuilder, WorkflowNode

    # two inner joins, since AiiDA's outer join drops nodes without a partner
    result: dict[str, Any] = {"tag": "result", "filters": filters, "project": "id"}
    called = QueryBuilder().append(Dict, **result)
    called.append(CalculationNode, tag="maker", with_outgoing="result")
    called.append(WorkflowNode, with_outgoing="maker")
    given = QueryBuilder().append(Dict, **result).append(WorkflowNode, with_outgoing="result")
    return set(called.all(flat=True)) - set(given.all(flat=True))


def _any_of(paths: Sequence[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    branches = [{path: dict(asked)} for path in paths]
    return branches[0] if len(branches) == 1 else {"or": branches}


def _tag_filter(tag: str) -> dict[str, Any]:
    key, sign, value = tag.partition("=")
    if not key or "." in key:
        raise ValueError(f"'{tag}' is not a valid tag; use KEY or KEY=VALUE, where KEY must not "
                         "contain '.'.")
    if not sign:
        return {"attributes.sample.tags": {"has_key": key}}
    path = f"attributes.sample.tags.{key}"
    meanings: list[Any] = [value]
    if value.lower() in ("true", "false"):
        meanings.append(value.lower() == "true")
    with contextlib.suppress(ValueError):
        meanings.append(float(value))
    return {"or": [{path: meaning} for meaning in meanings]}


def _first(found: Mapping[str, Any], paths: Sequence[str]) -> Any:
    return next((found[path] for path in paths if found[path] is not None), None)


def _sortable(value: Any) -> tuple[int, float, str]:
    """A key that orders numbers before times and texts; imported results may have any type."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), ""
    return 1, 0.0, value.isoformat() if isinstance(value, datetime) else str(value)
