"""From the single refinements of a series to the simultaneous document that starts at their values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from statistics import fmean
from typing import Any

from aiida.engine import calcfunction
from aiida.orm import Dict

from aiida_dse.data.results import summary_from_node
from aiida_dse.documents.results import Summary
from aiida_dse.documents.simultaneous import SIMULTANEOUS_SCHEMA
from aiida_dse.workchains.refine import model_continued

#: Keys in which the members of a series may differ.
OWN = ("pattern", "sample", "parameters")
#: Keys that say nothing about the model.
NO_MODEL = ("schema", "title", "scan", "uncertainty", "refinement")


def simultaneous_model_of(
    simultaneous: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Summary] | None = None,
) -> dict[str, Any]:
    """The simultaneous document of members whose models are the same but for pattern, sample and starts.

    Shared parameters start at the mean of the members' values. Raises ValueError where the models
    differ.
    """
    first, *others = models
    common = {key: value for key, value in models[first].items()
              if key not in (*OWN, *NO_MODEL)}
    for name in others:
        other = {key: value for key, value in models[name].items() if key not in (*OWN, *NO_MODEL)}
        different = [key for key in {**common, **other}
                     if json.dumps(common.get(key), sort_keys=True)
                     != json.dumps(other.get(key), sort_keys=True)]
        if different:
            raise ValueError(f"{name} and {first} differ in {', '.join(sorted(different))}; "
                             "patterns refined simultaneously have one model.")
    starts = {}
    for name, model in models.items():
        continued = model if results is None else model_continued(dict(model), results[name])
        starts[name] = dict(continued.get("parameters", {}))
    shared, parametric_constraints = simultaneous.get("shared", ()), simultaneous.get("parametric_constraints", {})
    known = dict.fromkeys(key for own in starts.values() for key in own)
    together = [key for key in known if any(fnmatchcase(key, one) for one in shared)]
    common_starts = {key: _mean([own[key] for own in starts.values() if key in own])
                     for key in together}
    plan = {**models[first].get("refinement", {}), **simultaneous.get("refinement", {})}
    return {
        "schema": SIMULTANEOUS_SCHEMA, "title": simultaneous.get("title", ""),
        "model": common | ({"parameters": common_starts} if common_starts else {}),
        "patterns": {
            name: {
                "pattern": model["pattern"], "sample": model.get("sample", {}),
                "parameters": {key: value for key, value in starts[name].items()
                               if key not in common_starts and key not in parametric_constraints},
            }
            for name, model in models.items()
        },
        "shared": list(shared), "parametric_constraints": parametric_constraints,
        "parameters": simultaneous.get("parameters", {}),
        "refinement": {key: value for key, value in plan.items() if key not in ("starts", "seed")},
    }


@calcfunction
def simultaneous_model(simultaneous: Dict, **members: Any) -> Dict:
    """The simultaneous document of members given as <name>_model and <name>_result."""
    names = [key.removesuffix("_model") for key in members if key.endswith("_model")]
    return Dict(simultaneous_model_of(
        simultaneous.get_dict(), {name: members[f"{name}_model"].get_dict() for name in names},
        {name: summary_from_node(members[f"{name}_result"]) for name in names},
    ))


def _mean(starts: list[Any]) -> Any:
    """The mean of starting values, with the bounds of the first."""
    values = [start["value"] if isinstance(start, Mapping) else start for start in starts]
    bounds = dict(starts[0]) if isinstance(starts[0], Mapping) else {}
    return bounds | {"value": fmean(values)}
