"""Remedies for failed jobs, used by all work chains."""

from __future__ import annotations

from enum import Enum
from typing import Any

from aiida_dse.documents.status import EXITS, Failure, Outcome, Status

#: AiiDA's exit statuses: no files retrieved, and failures found by a scheduler.
NOT_RETRIEVED, OUT_OF_MEMORY, OUT_OF_WALLTIME, INVALID_ACCOUNT, NODE_FAILURE = 100, 110, 120, 131, 140
#: Labels and messages of these in AiiDA; work chains return them like those of the engine.
SCHEDULER_EXITS = {
    NOT_RETRIEVED: ("ERROR_NO_RETRIEVED_FOLDER", "The files of the job could not be retrieved"),
    OUT_OF_MEMORY: ("ERROR_SCHEDULER_OUT_OF_MEMORY", "The job ran out of memory"),
    OUT_OF_WALLTIME: ("ERROR_SCHEDULER_OUT_OF_WALLTIME", "The job reached the walltime of the queue"),
    INVALID_ACCOUNT: ("ERROR_SCHEDULER_INVALID_ACCOUNT", "The account of the job is invalid"),
    NODE_FAILURE: ("ERROR_SCHEDULER_NODE_FAILURE", "The node of the job failed"),
}


class Remedy(Enum):
    """The action taken after a job has failed."""

    CONTINUE = "the job is continued"
    AGAIN = "the job is restarted"
    FEWER_THREADS = "the job is restarted with fewer threads"
    NONE = "none, because another attempt would fail in the same way"


_REMEDIES: dict[Outcome, Remedy] = {
    Status.WALLTIME: Remedy.CONTINUE, Status.INTERRUPTED: Remedy.CONTINUE,
    # the failure of a node or the loss of a file is unlikely to recur
    Failure.NO_RESULT: Remedy.AGAIN, Failure.DAMAGED_RESULT: Remedy.AGAIN,
    Failure.OUT_OF_MEMORY: Remedy.FEWER_THREADS,
}
_BY_NUMBER = {EXITS[outcome].number: remedy for outcome, remedy in _REMEDIES.items()} | {
    OUT_OF_WALLTIME: Remedy.CONTINUE, NODE_FAILURE: Remedy.AGAIN, NOT_RETRIEVED: Remedy.AGAIN,
    OUT_OF_MEMORY: Remedy.FEWER_THREADS,
}


def remedy_for(calculation: Any) -> Remedy:
    """The remedy for a job that failed.

    A job that excepted in AiiDA is restarted, but not a job that was killed by a user.
    """
    if calculation.exit_status is None:
        return Remedy.NONE if calculation.is_killed else Remedy.AGAIN
    return _BY_NUMBER.get(calculation.exit_status, Remedy.NONE)


def fewer_threads(threads: int | None) -> int | None:
    """Half the number of threads, to halve the memory; None if there is only one thread."""
    if threads == 1:
        return None
    return threads // 2 if threads else 1


def why_failed(process: Any) -> str:
    """The exit message of a process; if it is unspecific, that of its last failed job."""
    state = process.process_state.value
    message = process.exit_message or f"the process ended in the state '{state}'"
    last = next((below for below in reversed(process.called) if below.exit_status), None)
    if process.exit_status in _UNSPECIFIC and last is not None and last.exit_message:
        message = why_failed(last)
    return " ".join(message.split())


#: Exit statuses of AiiDA's restart work chain: maximum of iterations, and unhandled failure.
_UNSPECIFIC = (401, 402)
