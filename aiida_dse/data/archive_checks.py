"""Checks of an archive file before AiiDA reads it: archives may come from anybody."""

from __future__ import annotations

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
    """Raise ValueError, with the reason, if a file is no archive or could harm who reads it.

    Refused are members that expand enormously, and databases with views, triggers or virtual tables
    in place of the tables of AiiDA, since a query of them may never end.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_sizes(archive)
            _check_database(archive)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, KeyError, EOFError,
            RuntimeError, sqlite3.Error, zlib.error) as problem:
        raise ValueError(str(problem)) from None


def _check_sizes(archive: zipfile.ZipFile) -> None:
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
                f"{member.file_size / 1e6:.0f} MB, which no archive of results does.")


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
        finally:
            connection.close()
