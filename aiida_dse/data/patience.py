"""How long AiiDA waits for a SQLite database that another process is writing to.

SQLite allows one writer at a time. AiiDA waits for 5 s (the default of Python), after which a
command fails, and a process of the daemon loses its task. A busy computer or a slow disk can delay
a writer for longer. The limit of every connection is therefore raised to `LOCK_SECONDS`, also of
those that AiiDA opened before aiida-dse was imported.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

#: Time limit (s) for another process to release the database.
LOCK_SECONDS = 30


def _wait_longer(connection: Any, record: Any, proxy: Any) -> None:
    """Set the limit of a connection whenever a session begins to use it; this costs microseconds."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"PRAGMA busy_timeout = {1000 * LOCK_SECONDS}")


def wait_for_the_database() -> None:
    """Raise the limit for all connections of this Python process."""
    if not event.contains(Pool, "checkout", _wait_longer):
        event.listen(Pool, "checkout", _wait_longer)
