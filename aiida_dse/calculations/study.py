"""Calcfunction that summarises a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida.engine import calcfunction
from aiida.orm import Dict

#: Kinds of steps, in the order in which they run.
KINDS = ("sample", "series", "map", "compare")


@calcfunction
def study_summary(steps: Dict, **results: Any) -> Dict:
    """Summarise the parts of a study; `results` are those of the steps, as <kind>_<name>."""
    found: dict[str, Any] = {kind: {} for kind in KINDS}
    failures = {}
    for key, step in steps.get_dict().items():
        kind, name = key.split("_", 1)
        result = results.get(key)
        found[kind][name] = dict(step) if result is None else {
            **step, "result": result.uuid, **_numbers(kind, result.get_dict())}
        if step["problem"]:
            failures[key] = step["problem"]
    return Dict({"task": "study", "samples": found["sample"], "series": found["series"],
                 "maps": found["map"], "compare": found["compare"], "failures": failures})


def _numbers(kind: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a step that appear in the summary of a study."""
    if kind == "sample":
        return {key: result["agreement"][key] for key in ("gof", "r_wp")} | {
            "status": result["status"], "sample": result.get("sample", {})}
    if kind == "series":
        return {key: result.get(key, {}) for key in (
            "task", "phase", "used", "excluded", "numbers")} | {
            "disorder": [row["verdict"] for row in result.get("disorder", ())]}
    if kind == "map":
        return {key: result.get(key) for key in ("axes", "shape", "n_done", "minimum", "status")}
    return {"ranking": result["ranking"], "models": {
        name: {key: row[key] for key in ("gof", "r_wp", "bic")}
        for name, row in result["models"].items()}}
