"""The newest analyses of a profile, as 'aiida-dse list' shows them.

AiiDA takes about a second to load what it needs to read nodes. For a profile on SQLite, whose
database is a file, the few facts of a list are therefore read from the file. This does not change
the file and is done only for the version of AiiDA's tables for which it was written; profiles with
other versions or databases are read by AiiDA.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiida_dse.documents.status import ANALYSES_OF_RESULTS

#: The work chains that are listed.
ANALYSES = tuple(f"aiida.workflows:dse.{name}" for name in (
    "refine", "grid_search", "compare_models", "simultaneous", "uncertainty", "temperature_series",
    "size_series", "study", "build_model"))
#: Calculations of 'aiida-dse analyse'; those that a work chain called are not listed.
CALLED_DIRECTLY = tuple(f"aiida.calculations:dse.analysis.{name}" for name in ANALYSES_OF_RESULTS)
#: Jobs that version 0.1 ran without a work chain.
OLD_ANALYSES = ("aiida.calculations:dse.joint", "aiida.calculations:dse.uncertainty")
#: Version of AiiDA's tables (aiida-core 2.7 to 2.9) that `_from_file` can read.
TABLES = "main_0002"


@dataclass(frozen=True)
class Listed:
    """One analysis. The values come from the attributes of nodes and may have any type."""

    pk: int
    created: str
    label: Any
    state: Any
    exit_status: Any
    title: str
    process_type: Any
    version: Any
    gof: Any = None
    minimum: Any = None
    sample: Any = None


def newest_analyses(profile: Any, limit: int) -> tuple[list[Listed], bool]:
    """The newest analyses, and whether any process of the profile may be unfinished.

    `profile` is a loaded profile, or None for an open archive.
    """
    if profile is not None and profile.storage_backend == "core.sqlite_dos":
        path = Path(profile.storage_config["filepath"]) / "database.sqlite"
        try:
            return _from_file(path, limit)
        except (sqlite3.Error, ValueError):
            pass  # AiiDA knows the reason
    return _from_aiida(limit), True


def _from_file(path: Path, limit: int) -> tuple[list[Listed], bool]:
    """Read the database of AiiDA. Raises ValueError for other tables, sqlite3.Error if unreadable."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=0.2)) as database:
        if database.execute("SELECT version_num FROM alembic_version").fetchall() != [(TABLES,)]:
            raise ValueError("another version of the tables")
        rows = database.execute(f"""
            SELECT id, ctime, attributes, label, process_type FROM db_dbnode AS node
            WHERE process_type IN ({_marks(ANALYSES)})
               OR process_type IN ({_marks(CALLED_DIRECTLY)}) AND NOT EXISTS (
                    SELECT 1 FROM db_dblink WHERE output_id = node.id AND type = 'call_calc')
               OR process_type IN ({_marks(OLD_ANALYSES)})
                    AND json_extract(attributes, '$.version.plugin') LIKE '0.1.%'
            ORDER BY ctime DESC LIMIT ?
            """, (*ANALYSES, *CALLED_DIRECTLY, *OLD_ANALYSES, limit)).fetchall()
        pks = [row[0] for row in rows]
        results = {pk: values for pk, *values in database.execute(f"""
            SELECT input_id, json_extract(attributes, '$.agreement.gof'),
                   json_extract(attributes, '$.minimum.gof'), json_extract(attributes, '$.sample')
            FROM db_dblink JOIN db_dbnode AS node ON node.id = output_id
            WHERE db_dblink.label = 'result' AND type IN ('return', 'create')
              AND input_id IN ({_marks(pks)})
            """, pks)}
        unfinished = database.execute("""
            SELECT 1 FROM db_dbnode
            WHERE node_type IN ('process.calculation.calcjob.CalcJobNode.',
                                'process.workflow.workchain.WorkChainNode.')
              AND json_extract(attributes, '$.process_state') IN ('created', 'waiting', 'running')
            LIMIT 1""").fetchone()
    listed = []
    for pk, created, text, label, kind in rows:
        attributes = json.loads(text or "{}")
        version = attributes.get("version")
        gof, minimum, sample = results.get(pk, (None, None, None))
        listed.append(Listed(
            pk, created[:16], attributes.get("process_label"), attributes.get("process_state"),
            attributes.get("exit_status"), label, kind,
            version.get("plugin") if isinstance(version, dict) else None, gof, minimum,
            json.loads(sample) if isinstance(sample, str) and sample.startswith("{") else None))
    return listed, unfinished is not None


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def _from_aiida(limit: int) -> list[Listed]:
    from aiida.orm import CalcFunctionNode, Dict, ProcessNode, QueryBuilder, WorkChainNode

    called = QueryBuilder().append(WorkChainNode, tag="caller").append(
        CalcFunctionNode, with_incoming="caller", project="id",
        filters={"process_type": {"in": list(CALLED_DIRECTLY)}}).all(flat=True)
    query = QueryBuilder()
    query.append(
        ProcessNode,
        filters={"or": [
            {"process_type": {"in": list(ANALYSES)}},
            {"and": [{"process_type": {"in": list(CALLED_DIRECTLY)}},
                     {"id": {"!in": called or [-1]}}]},
            {"and": [{"process_type": {"in": list(OLD_ANALYSES)}},
                     {"attributes.version.plugin": {"like": "0.1.%"}}]},
        ]},
        project=["id", "ctime", "attributes.process_label", "attributes.process_state",
                 "attributes.exit_status", "label", "process_type", "attributes.version.plugin"],
        tag="process",
    )
    query.order_by({"process": {"ctime": "desc"}}).limit(limit)
    found = query.all()
    # a separate query, since AiiDA's outer join drops processes without a result
    query = QueryBuilder().append(
        ProcessNode, tag="process", filters={"id": {"in": [pk for pk, *_ in found]}}, project="id"
    )
    query.append(
        Dict, with_incoming="process", edge_filters={"label": "result"},
        project=["attributes.agreement.gof", "attributes.minimum.gof", "attributes.sample"],
    )
    results = {pk: values for pk, *values in query.all()} if found else {}
    return [Listed(pk, f"{created:%Y-%m-%d %H:%M}", *facts, *results.get(pk, ()))
            for pk, created, *facts in found]
