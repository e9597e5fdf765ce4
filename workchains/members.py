"""Members of a series: their inputs, checks, and those that do not fit their data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import median_low
from typing import Any

from aiida_dse.calculations.engine import RefineCalculation
from aiida_dse.data.jobs import CheckedModel, ModelNodes, model_node
from aiida_dse.data.same_content import NodesByContent

#: The inputs of a member.
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
    """The sample of a member: the facts of its pattern, then those of its document."""
    return {**member["pattern"].sample, **member["model"].get_dict().get("sample", {})}


def member_inputs(checked: CheckedModel, known: NodesByContent) -> dict[str, Any]:
    """The inputs of a member; equal data of other members or in the database are the same node."""
    return {"model": model_node(checked.content), **known.data(checked.nodes)}


def nodes_of_member(member: Mapping[str, Any]) -> ModelNodes:
    """The data nodes of a member."""
    return ModelNodes(member.get("pattern"), dict(member.get("structures", {})),
                      dict(member.get("blanks", {})))


def for_any_task(inputs: dict[str, Any]) -> dict[str, Any]:
    """Code and options exposed from a refinement, for jobs of another task with its own parser."""
    metadata = inputs.get("metadata", {})
    options = {key: value for key, value in metadata.get("options", {}).items()
               if key != "parser_name"}
    return {**inputs, "metadata": {**metadata, "options": options}}


def problem_of(name: str, member: Mapping[str, Any]) -> str | None:
    """Check the inputs of a member: the reason why it cannot be refined, or None.

    Raises ValueError for inputs that are no member.
    """
    if not re.fullmatch(r"[A-Za-z](?:_?[A-Za-z0-9])*", name):
        raise ValueError(f"the name of the member '{name}' must be letters, digits and single _, a "
                         "letter first.")
    unknown = sorted(set(member) - set(MEMBER_INPUTS))
    missing = [key for key in ("model", "pattern", "structures") if key not in member]
    if unknown or missing:
        raise ValueError(f"members.{name}: {', '.join(missing) or 'nothing'} is missing, "
                         f"{', '.join(unknown) or 'nothing'} is unknown; a member has "
                         f"{', '.join(MEMBER_INPUTS)}.")
    return RefineCalculation.check_ports({**member})


def simultaneous_data(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Patterns of a simultaneous refinement of members, with the structures and blanks of any."""
    one = next(iter(members.values()))
    found: dict[str, Any] = {
        "patterns": {name: member["pattern"] for name, member in members.items()},
        "structures": dict(one["structures"]),
    }
    if one.get("blanks"):
        found["blanks"] = dict(one["blanks"])
    return found
