"""Data that the database has already enter it once."""

from __future__ import annotations

from typing import Any

from aiida.orm import CifData, QueryBuilder

from .distances import DistancesData
from .jobs import ModelNodes
from .pattern import PatternData


def stored_node_of_same_content(node: Any) -> Any:
    """The node already in the database with the same content, so that data enter it once."""
    if node.is_stored:
        return node
    keys: dict[Any, str] = {PatternData: "content_sha256", DistancesData: "content_sha256",
                            CifData: "md5"}
    key = keys.get(type(node))
    if key is None:
        return node
    query = QueryBuilder().append(
        type(node), tag="node", filters={f"attributes.{key}": node.base.attributes.get(key)}
    ).order_by({"node": "id"})
    found = query.first(flat=True)
    return node if found is None else found


class NodesByContent:
    """Data that the database or another sample has already enter it once."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def node(self, node: Any) -> Any:
        found = stored_node_of_same_content(node)
        content = node.base.attributes.get("content_sha256", None) or node.base.attributes.get(
            "md5", None)
        return found if content is None else self._known.setdefault((type(node), content), found)

    def each(self, nodes: dict[str, Any]) -> dict[str, Any]:
        return {name: self.node(node) for name, node in nodes.items()}

    def data(self, nodes: ModelNodes) -> dict[str, Any]:
        """The data of one model as inputs of a job."""
        found: dict[str, Any] = {"structures": self.each(dict(nodes.structures))}
        if nodes.pattern is not None:
            found["pattern"] = self.node(nodes.pattern)
        if nodes.blanks:
            found["blanks"] = self.each(dict(nodes.blanks))
        return found
