"""Uniform messages for a full disk, a locked database and a database that does not respond."""

from __future__ import annotations

import errno
import re

FULL = re.compile(r"no space left|disk is full|disk quota", re.IGNORECASE)
LOCKED = re.compile(r"database (table )?is locked", re.IGNORECASE)
SILENT = re.compile(r"connection (refused|failed|timed out|is closed|already closed)|could not connect|server closed|"
                    r"terminating connection|consuming input failed|unable to open database", re.IGNORECASE)


def storage_trouble(problem: BaseException) -> str | None:
    """What keeps AiiDA from reading or writing its data, and the remedy; None for another problem."""
    cause: BaseException | None = problem
    while cause is not None:
        if found := _trouble(cause):
            return found
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def _trouble(problem: BaseException) -> str | None:
    full = isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(problem).partition("\n")[0]
    database = type(problem).__module__.partition(".")[0] in ("sqlalchemy", "sqlite3", "psycopg")
    if full or (database and FULL.search(text)):
        place = getattr(problem, "filename", None) or _folder()
        return (f"no space is left on the disk of {place}. Free space there, then run 'aiida-dse doctor "
                "--fix': finished work is retained, and unfinished analyses continue.")
    if database and LOCKED.search(text):
        return ("another program keeps the database locked. Wait until it has finished, or end it, and repeat "
                "this command. If analyses do not continue afterwards, run 'aiida-dse doctor --fix'.")
    if database and SILENT.search(text):
        return (f"the database does not respond ({' '.join(text.split())[:200]}). Check its service, and "
                "repeat this command.")
    return None


def _folder() -> str:
    """Where the data of the loaded profile are, as far as a database does not specify it."""
    from aiida.manage import get_manager
    from aiida.manage.configuration import get_config

    profile = get_manager().get_profile()
    if profile is not None and profile.storage_backend == "core.psql_dos":
        return f"the database server or of {get_config().dirpath}"
    return str(get_config().dirpath)
