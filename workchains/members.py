"""Members of a series: inputs, checks, and identification of poor fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import median_low
from typing import Any

from aiida_dse.calculations.engine import RefineCalculation
from aiida_dse.data.jobs import CheckedModel, ModelNodes, model_node
from aiida_dse.data.same_content import NodesByContent

#: Inputs of a member.
MEMBER_INPUTS = ("model", "pattern", "structures", "blanks")
#: Members whose GoF exceeds this multiple of the median of the series, and POOR_FIT_FROM, are
#: excluded from the analysis and from the starting values of others, because their model does not
#: describe their data.
POOR_FIT_RATIO = 3.0
POOR_FIT_FROM = 1.5


def poor_fits(gofs: Mapping[str, float]) -> dict[str, str]:
    """The members with a much worse fit than the others, with the reasons."""
    if not gofs:
        return {}
    middle = median_low(gofs.values())
    limit = max(POOR_FIT_FROM, POOR_FIT_RATIO * middle)
    return {
        name: f"GoF {gof:.2f} exceeds {limit:.2f} (the median of the series is {middle:.2f}), so "
              "the model does not describe the data"
        for name, gof in gofs.items() if gof > limit
    }


def sample_of(member: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of the sample of a member: those of its pattern, updated by its document."""
    return {**member["pattern"].sample, **member["model"].get_dict().get("sample", {})}


def member_inputs(checked: CheckedModel, known: NodesByContent) -> dict[str, Any]:
    """The inputs of a member; equal data share a node with other members and the database."""
    return {"model": model_node(checked.content), **known.data(checked.nodes)}


def nodes_of_member(member: Mapping[str, Any]) -> ModelNodes:
    """The data nodes of a member."""
    return ModelNodes(member.get("pattern"), dict(member.get("structures", {})),
                      dict(member.get("blanks", {})))


def for_any_task(inputs: dict[str, Any]) -> dict[str, Any]:
    """Exposed inputs of a refinement (code, options), for jobs of a task with another parser."""
    metadata = inputs.get("metadata", {})
    options = {key: value for key, value in metadata.get("options", {}).items()
               if key != "parser_name"}
    return {**inputs, "metadata": {**metadata, "options": options}}


def problem_of(name: str, member: Mapping[str, Any]) -> str | None:
    """Check the inputs of a member, and return the reason why it cannot be refined, or None.

    Raises ValueError if the name or the keys of the member are invalid.
    """
    if not re.fullmatch(r"[A-Za-z](?:_?[A-Za-z0-9])*", name):
        raise ValueError(f"'{name}' is not a valid name of a member; a name must start with a "
                         "letter and consist of letters, digits and single _.")
    unknown = sorted(set(member) - set(MEMBER_INPUTS))
    missing = [key for key in ("model", "pattern", "structures") if key not in member]
    if unknown or missing:
        raise ValueError(f"members.{name}: missing inputs: {', '.join(missing) or 'none'}; unknown "
                         f"inputs: {', '.join(unknown) or 'none'}. The inputs of a member are "
                         f"{', '.join(MEMBER_INPUTS)}.")
    return RefineCalculation.check_ports({**member})


def simultaneous_data(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Patterns of members for a simultaneous refinement, and their common structures and blanks."""
    one = next(iter(members.values()))
    found: dict[str, Any] = {
        "patterns": {name: member["pattern"] for name, member in members.items()},
        "structures": dict(one["structures"]),
    }
    if one.get("blanks"):
        found["blanks"] = dict(one["blanks"])
    return found
