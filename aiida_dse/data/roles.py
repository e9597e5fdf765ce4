"""Names and roles of results: member of a series, rival in a comparison, or independent."""

from __future__ import annotations

from typing import Any

MEMBER, RIVAL = "member", "rival"
#: Extras of a result: its role, and the label of the work chain to which it belongs.
ROLE, PART_OF = "role", "part_of"


def name_result(result: Any, label: str) -> None:
    """Label a stored result with the title of the work chain that returns it; remove its role.

    A cached result still has the name and role of the analysis for which it was computed.
    """
    for key in (ROLE, PART_OF):
        if key in result.base.extras.all:
            result.base.extras.delete(key)
    if label:
        result.label = label
        result.base.extras.set("title", label)


def set_role(result: Any, role: str, chain: Any) -> None:
    """Record in the extras of a stored result that it is part of a work chain."""
    result.base.extras.set_many({
        ROLE: role, PART_OF: chain.label or f"{chain.process_label}<{chain.pk}>"})
