"""A full disk, a locked database or a database that does not respond: the same message in all commands."""

from __future__ import annotations

import errno
import re
from typing import Any

import click

from .terminal import Refusal

FULL = re.compile(r"no space left|disk is full|disk quota", re.IGNORECASE)
LOCKED = re.compile(r"database (table )?is locked", re.IGNORECASE)


def storage_trouble(problem: BaseException) -> str | None:
    """What keeps AiiDA from reading or writing its data, and the remedy; None for another problem."""
    cause: BaseException | None = problem
    while cause is not None:
        if found := _trouble(cause):
            return found
        cause = cause.__cause__ or cause.__context__
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
        return ("another program has locked the database for longer than 5 s. Wait until it has finished, or "
                "end it, and repeat this command. If analyses do not continue afterwards, run 'aiida-dse "
                "doctor --fix'.")
    if database and type(problem).__name__ in ("OperationalError", "InterfaceError"):
        return (f"the database does not respond ({' '.join(text.split())[:200]}). Check its service, and "
                "repeat this command.")
    return None


def _folder() -> str:
    from aiida.manage.configuration import get_config

    return str(get_config().dirpath)


class CommandGroup(click.Group):
    """A group whose commands report trouble of the storage instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as problem:
            if found := storage_trouble(problem):
                raise Refusal(found) from None
            raise
