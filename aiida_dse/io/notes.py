"""Remarks about data that were read with a decision of the reader, such as points left out.

They do not end a command. A reader calls `note`; whoever builds a model collects the notes with
`collecting_notes`, so that results contain them. Without a collector they are warnings.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collector: ContextVar[list[str] | None] = ContextVar("collector", default=None)


class DataNote(UserWarning):
    """Warning about data that were read."""


def note(text: str) -> None:
    """Add a remark, a full sentence that names the file, to those of the collector."""
    collected = _collector.get()
    if collected is None:
        warnings.warn(DataNote(text), stacklevel=3)
    elif text not in collected:
        collected.append(text)


@contextmanager
def collecting_notes() -> Iterator[list[str]]:
    """Collect the notes of readers that are called in the context, in a list."""
    collected: list[str] = []
    token = _collector.set(collected)
    try:
        yield collected
    finally:
        _collector.reset(token)
