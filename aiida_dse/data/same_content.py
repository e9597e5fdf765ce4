"""Search for stored nodes with the same content, so that equal data are stored only once."""

from __future__ import annotations

from typing import Any

from aiida.orm import CifData, QueryBuilder

from .distances import DistancesData
from .jobs import ModelNodes
from .pattern import PatternData


def stored_node_of_same_content(node: Any) -> Any:
    """The stored node with the same content, or the node itself if there is none."""
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
    """A single node for equal data, in the database as well as within one submission."""

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
        """The nodes of a model as inputs of a job."""
        found: dict[str, Any] = {"structures": self.each(dict(nodes.structures))}
        if nodes.pattern is not None:
            found["pattern"] = self.node(nodes.pattern)
        if nodes.blanks:
            found["blanks"] = self.each(dict(nodes.blanks))
        return found
