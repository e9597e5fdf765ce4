"""Documents that continue from a result, and simultaneous documents made from single ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from statistics import fmean
from typing import Any

from .migration import current_document
from .records import Summary
from .results import RefinementSummary, ScanSummary, SimultaneousSummary
from .simultaneous import SIMULTANEOUS_SCHEMA

#: Keys in which the model documents of a series may differ.
OWN = ("pattern", "sample", "parameters")
#: Keys that do not belong to the model.
NO_MODEL = ("schema", "title", "scan", "uncertainty", "refinement")


def _started(starts: Mapping[str, Any], name: str, value: float) -> dict[str, Any]:
    """The start of a parameter at a value, with its earlier bounds."""
    given = starts.get(name)
    return (dict(given) if isinstance(given, Mapping) else {}) | {"value": value}


def model_continued(model: Mapping[str, Any], summary: Summary) -> dict[str, Any]:
    """A model document that starts at the values of a result; for a map, at its lowest point.

    A search from several starting points that ended without a minimum is continued with as many
    points as it has not tried.
    """
    model = current_document(model)
    starts = dict(model.get("parameters", {}))
    moved = set(summary.moved) | set(summary.refined) if isinstance(summary, ScanSummary) else set()
    for name, row in summary.parameters.items():
        if row.status.refined or name in starts or name in moved:
            starts[name] = _started(starts, name, row.value)
    continued = {**model, "parameters": starts}
    if isinstance(summary, RefinementSummary) and summary.search is not None \
            and not summary.status.is_minimum:
        left = summary.search.n_starts - summary.search.n_tried
        continued["refinement"] = {
            **model.get("refinement", {}), "starts": 1 + max(0, left),
            "seed": summary.search.seed + 1}  # to draw other points than before
    return continued


def simultaneous_continued(
    document: Mapping[str, Any], summary: SimultaneousSummary
) -> dict[str, Any]:
    """A simultaneous document that starts at the values of its earlier result."""
    content = json.loads(json.dumps(current_document(document)))
    common = content.setdefault("parameters", {})
    model = content["model"].setdefault("parameters", {})
    for name, row in summary.parameters.items():
        if row.status.refined:
            place = common if name in common else model
            place[name] = _started(place, name, row.value)
    for pattern, rows in summary.patterns.items():
        own = content["patterns"][pattern].setdefault("parameters", {})
        for name, row in rows.parameters.items():
            if row.status.refined and not row.shared and row.parametric_constraint is None:
                own[name] = _started(own, name, row.value)
    return dict(content)


def simultaneous_document_of(
    plan: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Summary] | None = None,
) -> dict[str, Any]:
    """The simultaneous document of models that differ in pattern, sample and starts only.

    Shared parameters start at the mean of their values in the models, or in their `results`.
    Raises ValueError if the models differ in other keys.
    """
    models = {name: current_document(model) for name, model in models.items()}
    first, *others = models
    common = {key: value for key, value in models[first].items() if key not in (*OWN, *NO_MODEL)}
    for name in others:
        other = {key: value for key, value in models[name].items() if key not in (*OWN, *NO_MODEL)}
        different = [key for key in {**common, **other}
                     if json.dumps(common.get(key), sort_keys=True)
                     != json.dumps(other.get(key), sort_keys=True)]
        if different:
            raise ValueError(f"{name} and {first} differ in {', '.join(sorted(different))}, but "
                             "patterns that are refined simultaneously must have the same model.")
    starts = {
        name: dict((model if results is None else model_continued(model, results[name]))
                   .get("parameters", {}))
        for name, model in models.items()
    }
    shared, constraints = plan.get("shared", ()), plan.get("parametric_constraints", {})
    started = dict.fromkeys(key for own in starts.values() for key in own)
    together = [key for key in started if any(fnmatchcase(key, name) for name in shared)]
    common_starts = {key: _mean([own[key] for own in starts.values() if key in own])
                     for key in together}
    refinement = {**models[first].get("refinement", {}), **(plan.get("refinement") or {})}
    return {
        "schema": SIMULTANEOUS_SCHEMA, "title": plan.get("title", ""),
        "model": common | ({"parameters": common_starts} if common_starts else {}),
        "patterns": {
            name: {
                "pattern": model["pattern"], "sample": model.get("sample", {}),
                "parameters": {key: value for key, value in starts[name].items()
                               if key not in common_starts and key not in constraints},
            }
            for name, model in models.items()
        },
        "shared": list(shared), "parametric_constraints": constraints,
        "parameters": plan.get("parameters", {}),
        "refinement": {key: value for key, value in refinement.items()
                       if key not in ("starts", "seed")},
    }


def _mean(starts: list[Any]) -> Any:
    """The mean of starting values, with the bounds of the first."""
    values = [start["value"] if isinstance(start, Mapping) else start for start in starts]
    return _started({"": starts[0]}, "", fmean(values))
