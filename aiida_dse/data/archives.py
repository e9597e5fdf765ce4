"""Archives: export and import of results with provenance, and reading without an import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .archive_checks import check_archive
from .grouping import merge_imported_groups
from .signatures import is_changed_result
from .storage_trouble import storage_trouble


@dataclass(frozen=True)
class Counted:
    """Numbers of nodes and results in an archive, or added by an import.

    `changed` are the PKs of the results that do not agree with their signatures.
    """

    nodes: int
    results: int
    changed: tuple[int, ...] = ()


def write_archive(
    nodes: Iterable[Any], file: Path, *, groups: Iterable[Any] = (), with_studies: bool = False
) -> None:
    """Write nodes with their ancestors, and their analyses with all outputs, to an archive file.

    Series and studies to which an analysis belongs, and hence the other samples, are included only
    `with_studies`. Computers are exported without login settings, and codes by their path. Raises
    ValueError if there is nothing to write or if `file` exists.
    """
    from aiida.tools.archive import create_archive
    from aiida.tools.archive.exceptions import ArchiveExportError

    nodes = list(nodes)
    wanted = [*nodes, *(one for node in nodes for one in _analyses_of(node)), *groups]
    if not wanted:
        raise ValueError("there is nothing to export: no results match and no nodes are specified.")
    if file.exists():
        raise ValueError(f"{file} already exists. Remove it or specify another file.")
    try:
        create_archive(
            wanted, filename=file, include_authinfos=False, call_calc_backward=with_studies,
            call_work_backward=with_studies, return_backward=with_studies,
        )
    except (ArchiveExportError, OSError) as problem:
        raise ValueError(f"{file} cannot be written: {problem}") from None


def _analyses_of(node: Any) -> list[Any]:
    """The work chain whose job or calculation created a node, in a list; empty if there is none."""
    creator = getattr(node, "creator", None)
    caller = None if creator is None else creator.caller
    return [] if caller is None else [caller]


def read_archive(file: Path) -> Counted:
    """Add the nodes of an archive to the loaded profile; existing nodes are not changed.

    Groups of the same sample, series or study are merged. Archives do not contain hashes, so they
    are computed for new nodes to enable caching. Returns the numbers of new nodes and results.
    Raises ValueError if the file is not an archive of this AiiDA version.
    """
    from aiida.orm import Node, QueryBuilder
    from aiida.tools.archive import import_archive

    _require_archive(file)
    before = counted()
    newest = QueryBuilder().append(Node, tag="node", project="id").order_by(
        {"node": {"id": "desc"}}).first(flat=True) or 0
    try:
        import_archive(file, create_group=False)
    except Exception as problem:  # a damaged archive may raise any exception
        if storage_trouble(problem):  # of the profile
            raise
        raise ValueError(_unreadable(file, problem)) from None
    merge_imported_groups()
    changed = []
    for (node,) in QueryBuilder().append(Node, filters={"id": {">": newest}}).iterall():
        node.base.caching.rehash()
        if is_changed_result(node):
            changed.append(node.pk)
    after = counted()
    return Counted(after.nodes - before.nodes, after.results - before.results, tuple(changed))


def counted() -> Counted:
    """Numbers of nodes and results in the loaded profile."""
    from aiida.orm import Dict, Node, QueryBuilder

    from aiida_dse.documents.migration import RESULT_SCHEMAS

    results = QueryBuilder().append(Dict, filters={
        "attributes.schema": {"in": list(RESULT_SCHEMAS)}})
    return Counted(QueryBuilder().append(Node).count(), results.count())


@contextmanager
def opened_archive(file: Path) -> Iterator[None]:
    """Load an archive file as a read-only profile, and restore the previous profile afterwards.

    The profile exists only in memory and is not part of the configuration, so that deleting
    profiles cannot affect the file. Nodes that were loaded before must be loaded again afterwards.
    Raises ValueError if the file is not an archive of this AiiDA version.
    """
    from aiida.manage import get_manager
    from aiida.storage.sqlite_zip.backend import SqliteZipBackend

    _require_archive(file)
    manager = get_manager()
    before = manager.get_profile()
    try:
        manager.load_profile(SqliteZipBackend.create_profile(file.resolve()), allow_switch=True)
        try:
            manager.get_profile_storage()
            counted()  # the first query shows whether the database is damaged
        except Exception as problem:  # a damaged archive may raise any exception
            raise ValueError(_unreadable(file, problem)) from None
        yield
    finally:
        manager.unload_profile()
        if before is not None:
            manager.load_profile(before, allow_switch=True)


def _require_archive(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"{file} does not exist or is not a file.")
    try:
        check_archive(file)
    except ValueError as problem:
        raise ValueError(_unreadable(file, problem)) from None


def _unreadable(file: Path, problem: Exception) -> str:
    reason = " ".join(str(problem).split())[:300]
    return (f"{file} cannot be read as an AiiDA archive ({reason}). Convert archives of older "
            f"versions with 'verdi archive migrate {file} NEW'.")
