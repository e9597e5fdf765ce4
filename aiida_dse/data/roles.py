"""What a result is for: most stand alone, others belong to a series or compete in a comparison."""

from __future__ import annotations

from typing import Any

MEMBER, RIVAL = "member", "rival"
#: Extras of a result: its role, and the label of the work chain that it belongs to.
ROLE, PART_OF = "role", "part_of"


def set_role(result: Any, role: str, chain: Any) -> None:
    """Note on a stored result node that it is part of a work chain, so that queries find it."""
    result.base.extras.set_many({
        ROLE: role, PART_OF: chain.label or f"{chain.process_label}<{chain.pk}>"})
