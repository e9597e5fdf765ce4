"""AiiDA groups of analyses: dse/study/<name>, dse/series/<name>, dse/sample/<name>."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

#: The kinds of groups with their descriptions.
KINDS = {"study": "All analyses of the study {}.", "series": "All series called {}.",
         "sample": "All analyses of the sample {}."}
PREFIX = "dse/"
#: What AiiDA appends to the label of an imported group.
_IMPORTED = re.compile(r" \(Imported #\d+\)$")


def group_label(kind: str, name: str) -> str:
    """The label of a group: 'dse/sample/QD5' for ('sample', 'QD5').

    Raises ValueError for an unknown kind and for an empty name.
    """
    if kind not in KINDS:
        raise ValueError(f"'{kind}' is no kind of group; it is one of {', '.join(KINDS)}.")
    # spaces at the ends and line breaks would yield two groups with labels that look the same
    plain = " ".join(name.split())
    if not plain:
        raise ValueError(f"a {kind} without a name has no group; it needs a name.")
    label = f"{PREFIX}{kind}/{plain}"
    if len(label) > 255:
        raise ValueError(f"'{label[:40]}...' has {len(label)} characters, but the label of a group "
                         "in AiiDA may have 255 at most.")
    return label


def merge_imported_groups() -> None:
    """Merge groups that AiiDA renamed at an import, because their labels existed already."""
    from aiida.orm import Group, QueryBuilder

    query = QueryBuilder().append(Group, filters={"label": {"like": f"{PREFIX}%(Imported #%"}})
    for group in query.all(flat=True):
        label = _IMPORTED.sub("", group.label)
        if label == group.label:
            continue
        target, _ = Group.collection.get_or_create(label)
        target.add_nodes(list(group.nodes))
        Group.collection.delete(group.pk)


def put_into_group(kind: str, name: str, nodes: Iterable[Any]) -> str:
    """Add stored nodes to the group of a study, series or sample, and return its label."""
    from aiida.common.exceptions import IntegrityError
    from aiida.orm import Group

    label = group_label(kind, name)
    try:
        group, is_new = Group.collection.get_or_create(label)
    except IntegrityError:  # another worker has created it meanwhile
        group, is_new = Group.collection.get(label=label), False
    if is_new:
        group.description = KINDS[kind].format(" ".join(name.split()))
    group.add_nodes(list(nodes))
    return label
