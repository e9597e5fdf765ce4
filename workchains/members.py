"""Members of a series: what they are given by, whether they can run, and how they ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import median_low
from typing import Any

from aiida_dse.calculations.engine import RefineCalculation

#: What a member has of its own.
MEMBER_INPUTS = ("model", "pattern", "structures", "blanks")
#: Members whose GoF is so many times the median of the series, and above POOR_FIT_FROM, are left
#: out of the analysis and do not start others: their model does not describe their data.
POOR_FIT_RATIO = 3.0
POOR_FIT_FROM = 1.5


def poor_fits(gofs: Mapping[str, float]) -> dict[str, str]:
    """The members whose fit is far worse than that of the others, with the reason."""
    if not gofs:
        return {}
    middle = median_low(gofs.values())
    limit = max(POOR_FIT_FROM, POOR_FIT_RATIO * middle)
    return {
        name: f"GoF {gof:.2f} is more than {limit:.2f} (the median of the series is {middle:.2f}): "
              "its model does not describe its data"
        for name, gof in gofs.items() if gof > limit
    }


def sample_of(member: Mapping[str, Any]) -> dict[str, Any]:
    """What a member's result will say about its sample."""
    return {**member["pattern"].sample, **member["model"].get_dict().get("sample", {})}


def why_failed(process: Any) -> str:
    """What a process that failed says; where it does not know, what its last job said."""
    told = process.exit_message or f"it ended as {process.process_state.value}"
    last = next((below for below in reversed(process.called) if below.exit_status), None)
    if "unhandled" in told and last is not None and last.exit_message:
        told = why_failed(last)
    return " ".join(told.split())


def for_any_task(inputs: dict[str, Any]) -> dict[str, Any]:
    """Code and options exposed from a refinement, for jobs of another task with its own parser."""
    metadata = inputs.get("metadata", {})
    options = {key: value for key, value in metadata.get("options", {}).items()
               if key != "parser_name"}
    return {**inputs, "metadata": {**metadata, "options": options}}


def problem_of(name: str, member: Mapping[str, Any], common: Mapping[str, Any]) -> str | None:
    """Why a member cannot be refined; None if it can."""
    if not re.fullmatch(r"[A-Za-z](?:_?[A-Za-z0-9])*", name):
        raise ValueError(f"the member's name '{name}' must be letters, digits and single _, a "
                         "letter first.")
    unknown = sorted(set(member) - set(MEMBER_INPUTS))
    missing = [key for key in ("model", "pattern", "structures") if key not in member]
    if unknown or missing:
        raise ValueError(f"members.{name}: {', '.join(missing) or 'nothing'} missing, "
                         f"{', '.join(unknown) or 'nothing'} unknown; a member has "
                         f"{', '.join(MEMBER_INPUTS)}.")
    return RefineCalculation._check({**member}, None)


def simultaneous_inputs(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Patterns, structures and blanks of a simultaneous refinement; the latter are those of any member."""
    one = next(iter(members.values()))
    found: dict[str, Any] = {
        "patterns": {name: member["pattern"] for name, member in members.items()},
        "structures": dict(one["structures"]),
    }
    if one.get("blanks"):
        found["blanks"] = dict(one["blanks"])
    return found
