"""AiiDA groups of analyses: dse/study/<name>, dse/series/<name> and dse/sample/<name>."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

#: The kinds of groups with their descriptions.
KINDS = {"study": "All analyses of the study {}.", "series": "All series named {}.",
         "sample": "All analyses of the sample {}."}
PREFIX = "dse/"
#: What AiiDA appends to the label of an imported group.
_IMPORTED = re.compile(r" \(Imported #\d+\)$")


def group_label(kind: str, name: str) -> str:
    """The label of a group: 'dse/sample/QD5' for ('sample', 'QD5').

    Raises ValueError for an unknown kind and for an empty name.
    """
    if kind not in KINDS:
        raise ValueError(f"'{kind}' is not a kind of group; use one of {', '.join(KINDS)}.")
    # superfluous spaces and line breaks would create groups whose labels look identical
    plain = " ".join(name.split())
    if not plain:
        raise ValueError(f"the name of a {kind} is empty; a group requires a name.")
    label = f"{PREFIX}{kind}/{plain}"
    if len(label) > 255:
        raise ValueError(f"'{label[:40]}...' has {len(label)} characters, but the label of an "
                         "AiiDA group may have at most 255. Shorten the name.")
    return label


def merge_imported_groups() -> None:
    """Merge groups that AiiDA renamed during an import because their labels already existed."""
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
    """Add stored nodes to the group of a study, series or sample, and return the group label."""
    from aiida.common.exceptions import IntegrityError
    from aiida.orm import Group

    label = group_label(kind, name)
    try:
        group, is_new = Group.collection.get_or_create(label)
    except IntegrityError:  # it has been created by another worker
        group, is_new = Group.collection.get(label=label), False
    if is_new:
        group.description = KINDS[kind].format(" ".join(name.split()))
    group.add_nodes(list(nodes))
    return label
