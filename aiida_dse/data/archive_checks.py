"""Checks of an archive file before AiiDA reads it: archives may come from anybody."""

from __future__ import annotations

import errno
import sqlite3
import tempfile
import zipfile
import zlib
from pathlib import Path

#: Largest size (bytes) of the metadata, which AiiDA reads into memory.
MOST_METADATA = 10_000_000
#: Members above this size (bytes) must not expand by more than this factor.
LARGE_MEMBER, MOST_EXPANSION = 100_000_000, 200
DATABASE, METADATA = "db.sqlite3", "metadata.json"


def check_archive(file: Path) -> None:
    """Raise ValueError, with the reason, if a file is not an archive or could harm its reader.

    Members that expand excessively are refused, and so are databases with views, triggers, virtual
    tables or generated columns, since a query of them may never end.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_sizes(archive)
            _check_database(archive)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, KeyError, EOFError,
            RuntimeError, sqlite3.Error, zlib.error) as problem:
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # of the temporary folder
        raise ValueError(str(problem)) from None


def _check_sizes(archive: zipfile.ZipFile) -> None:
    total = sum(member.file_size for member in archive.infolist())
    packed = sum(member.compress_size for member in archive.infolist())
    if total > max(LARGE_MEMBER, MOST_EXPANSION * packed):
        raise ValueError(f"its members expand from {packed / 1e6:.1f} MB to {total / 1e6:.0f} MB, which does "
                         "not occur in an archive of results.")
    names = archive.namelist()
    if len(set(names)) != len(names):  # AiiDA would read another one than this check
        raise ValueError("it contains two members of the same name.")
    for member in archive.infolist():
        if member.filename == METADATA and member.file_size > MOST_METADATA:
            raise ValueError(f"its {METADATA} has {member.file_size / 1e6:.0f} MB; the limit is "
                             f"{MOST_METADATA / 1e6:.0f} MB.")
        if member.file_size > max(LARGE_MEMBER, MOST_EXPANSION * member.compress_size):
            raise ValueError(
                f"its member '{member.filename[:80]}' expands from {member.compress_size / 1e6:.1f} MB to "
                f"{member.file_size / 1e6:.0f} MB, which does not occur in an archive of results.")


def _check_database(archive: zipfile.ZipFile) -> None:
    with tempfile.NamedTemporaryFile(suffix=".sqlite3") as copy:
        with archive.open(DATABASE) as database:
            while block := database.read(1 << 20):
                copy.write(block)
        copy.flush()
        connection = sqlite3.connect(f"file:{copy.name}?mode=ro", uri=True)
        try:
            for kind, name, root in connection.execute("select type, name, rootpage from sqlite_master"):
                if kind not in ("table", "index") or not root:  # virtual tables have no page
                    raise ValueError(f"its database contains the {kind} '{str(name)[:80]}', which AiiDA "
                                     "does not write.")
                for column in connection.execute("select hidden from pragma_table_xinfo(?)", (name,)):
                    if column[0]:
                        raise ValueError(f"its database computes a column of '{str(name)[:80]}', which "
                                         "AiiDA does not do.")
        finally:
            connection.close()
