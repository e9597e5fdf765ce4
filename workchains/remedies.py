"""Remedies for failed jobs: the table that all work chains use."""

from __future__ import annotations

from enum import Enum
from typing import Any

from aiida_dse.documents.status import EXITS, Failure, Outcome, Status

#: AiiDA's exit statuses for the verdicts of a scheduler.
OUT_OF_MEMORY, OUT_OF_WALLTIME, NODE_FAILURE = 110, 120, 140


class Remedy(Enum):
    """The action after a job has failed."""

    CONTINUE = "it is continued"
    AGAIN = "it is run again"
    FEWER_THREADS = "it is run again with fewer threads"
    NONE = "none: another attempt would fail in the same way"


_REMEDIES: dict[Outcome, Remedy] = {
    Status.WALLTIME: Remedy.CONTINUE, Status.INTERRUPTED: Remedy.CONTINUE,
    # the failure of a node or the loss of a file need not happen again
    Failure.NO_RESULT: Remedy.AGAIN, Failure.DAMAGED_RESULT: Remedy.AGAIN,
    Failure.OUT_OF_MEMORY: Remedy.FEWER_THREADS,
}
_BY_NUMBER = {EXITS[outcome].number: remedy for outcome, remedy in _REMEDIES.items()} | {
    OUT_OF_WALLTIME: Remedy.CONTINUE, NODE_FAILURE: Remedy.AGAIN,
    OUT_OF_MEMORY: Remedy.FEWER_THREADS,
}


def remedy_for(calculation: Any) -> Remedy:
    """The remedy for a job that failed.

    A job that excepted in AiiDA is run again; one that a user killed is not.
    """
    if calculation.exit_status is None:
        return Remedy.NONE if calculation.is_killed else Remedy.AGAIN
    return _BY_NUMBER.get(calculation.exit_status, Remedy.NONE)


def fewer_threads(threads: int | None) -> int | None:
    """Half the number of threads, which need half the memory; None after a single thread."""
    if threads == 1:
        return None
    return threads // 2 if threads else 1


def why_failed(process: Any) -> str:
    """The exit message of a process; if it is unspecific, that of its last failed job."""
    message = process.exit_message or f"it ended in the state '{process.process_state.value}'"
    last = next((below for below in reversed(process.called) if below.exit_status), None)
    if process.exit_status in _UNSPECIFIC and last is not None and last.exit_message:
        message = why_failed(last)
    return " ".join(message.split())


#: Exit statuses of AiiDA's restart work chain: the last iteration, and an unhandled failure.
_UNSPECIFIC = (401, 402)
