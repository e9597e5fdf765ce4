"""Provenance of a result, from a node back to files, documents, versions and computers."""

from __future__ import annotations

import hashlib
from typing import Any

from aiida_dse.documents.result_migration import TASKS, current_status

from .exits import exit_word

#: Labels of inputs that have the same provenance, so that only one of them is followed.
_FOLLOWED_ONCE = ("tile_",)


def trace(node: Any) -> dict[str, Any]:
    """The provenance of a node as nested plain values.

    A row contains 'role', 'kind', 'pk', 'uuid', identifying 'facts', and the rows of its sources
    ('from'). A repeated row contains 'again': True but no 'from'.
    """
    return _row(_start(node), "", set())


def _start(node: Any) -> Any:
    """The result of a process; for any other node, the node itself."""
    from aiida.orm import ProcessNode

    if isinstance(node, ProcessNode) and "result" in node.outputs:
        return node.outputs.result
    return node


def _row(node: Any, role: str, visited: set[int]) -> dict[str, Any]:
    from aiida.orm import ProcessNode

    row: dict[str, Any] = {
        "role": role, "kind": type(node).__name__, "pk": node.pk, "uuid": node.uuid,
    }
    if isinstance(node, ProcessNode):
        row["kind"] = node.process_label or row["kind"]
    if node.pk in visited:
        return row | {"again": True}
    visited.add(node.pk)
    facts = _process_facts(node) if isinstance(node, ProcessNode) else _data_facts(node)
    row["facts"] = {key: value for key, value in facts.items() if value not in (None, "", {}, [])}
    row["from"] = _sources(node, visited)
    return row


def _sources(node: Any, visited: set[int]) -> list[dict[str, Any]]:
    """Rows of the creator of a data node, or of the inputs of a process."""
    from aiida.common.links import LinkType
    from aiida.orm import ProcessNode

    if not isinstance(node, ProcessNode):
        return [] if node.creator is None else [_row(node.creator, "made by", visited)]
    rows = []
    tiles = _tiles_of(node)
    links = node.base.links.get_incoming(
        link_type=(LinkType.INPUT_CALC, LinkType.INPUT_WORK)
    ).all()
    for link in sorted(links, key=lambda link: link.link_label):
        if not link.link_label.startswith(_FOLLOWED_ONCE):
            rows.append(_row(link.node, link.link_label.replace("__", "."), visited))
    # all tiles have the same inputs: one is followed, and the others are listed in the facts
    if tiles:
        rows.append(_row(tiles[0], f"1 of {len(tiles)} tiles", visited))
    return rows


def _tiles_of(node: Any) -> list[Any]:
    """The jobs whose results were merged into a map."""
    from aiida.common.links import LinkType

    makers = {}
    for link in node.base.links.get_incoming(link_type=LinkType.INPUT_CALC).all():
        if link.link_label.startswith(_FOLLOWED_ONCE) and link.node.creator is not None:
            makers[link.node.creator.pk] = link.node.creator
    return [makers[pk] for pk in sorted(makers)]


def _process_facts(node: Any) -> dict[str, Any]:
    from aiida.orm import CalcJobNode

    versions = node.base.attributes.get("version", {})
    facts = {
        "label": node.label, "state": node.process_state.value if node.process_state else None,
        "exit_status": node.exit_status, "exit_message": node.exit_message,
        "outcome": exit_word(node.process_type, versions.get("plugin"), node.exit_status),
        "began": node.ctime.isoformat(timespec="seconds"),
        "ended": node.mtime.isoformat(timespec="seconds"),
        "called_by": _callers(node),
        # the extra with which AiiDA marks processes that were taken from the cache
        "taken_from_cache_of": node.base.extras.get("_aiida_cached_from", None),
        "tiles": [tile.pk for tile in _tiles_of(node)],
        "plugin_versions": versions,
    }
    if isinstance(node, CalcJobNode):
        facts |= {
            "computer": node.computer.label if node.computer else None,
            "scheduler_job": node.get_job_id(),
            "resources": node.get_option("resources"),
        }
    return facts


def _callers(node: Any) -> list[str]:
    """The work chains that called a process, innermost first."""
    found = []
    while (node := node.caller) is not None:
        found.append(f"{node.process_label}<{node.pk}>")
    return found


def _data_facts(node: Any) -> dict[str, Any]:
    from aiida.orm import AbstractCode, ArrayData, Dict, SinglefileData

    attributes = node.base.attributes.all
    if isinstance(node, AbstractCode):
        return {"code": node.full_label, "executable": attributes.get("filepath_executable"),
                "prepend_text": attributes.get("prepend_text")}
    if isinstance(node, Dict):
        schema = str(attributes.get("schema", ""))
        if "/result/" in schema:
            return _result_facts(attributes, node.base.extras.get("title", None))
        facts = {"schema": schema, "title": attributes.get("title"),
                 "content_sha256": _document_sha256(attributes)}
        return facts if schema else {"attributes": len(attributes)}
    if isinstance(node, SinglefileData):  # including CIF files
        return {"file": node.filename,
                "sha256": hashlib.sha256(node.get_content(mode="rb")).hexdigest(),
                "label": node.label}
    if isinstance(node, ArrayData):
        kept = ("source_name", "source_sha256", "content_sha256", "axis_kind", "wavelength",
                "n_points", "q_min", "q_max", "sigma_origin", "sample_name", "ligand", "state",
                "temperature", "beamline", "tags", "axes")
        return {key: attributes.get(key) for key in kept} | {
            "arrays": ", ".join(sorted(node.get_arraynames()))}
    return {"value": attributes.get("value")}


def _document_sha256(attributes: dict[str, Any]) -> str:
    """SHA-256 of the JSON of a document with sorted keys."""
    import json

    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()


def _result_facts(result: dict[str, Any], title: str | None) -> dict[str, Any]:
    fit = result.get("agreement") or {}
    lowest = result.get("minimum") or {}
    return {
        "task": TASKS.get(result.get("task", ""), result.get("task")),
        "status": current_status(result.get("status", "")),
        "title": title or result.get("title"),
        "gof": fit.get("gof", lowest.get("gof")), "sample": result.get("sample"),
        "space_groups": result.get("space_groups"), "shapes": result.get("shapes"),
        "disorder": result.get("disorder_models"),
        "document_sha256": result.get("document_sha256"),
        "files_sha256": (result.get("data") or {}).get("sha256"),
        "engine_version": result.get("engine_version"), "libraries": result.get("libraries"),
        "form_factor_tables": result.get("tables"),
    }
