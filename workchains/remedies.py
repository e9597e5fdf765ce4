"""What can be done about a job that failed: one table for all work chains."""

from __future__ import annotations

from enum import Enum
from typing import Any

from aiida_dse.documents.status import EXITS, Failure, Outcome, Status

#: AiiDA's exit statuses of what the scheduler found.
OUT_OF_MEMORY, OUT_OF_WALLTIME, NODE_FAILURE = 110, 120, 140


class Remedy(Enum):
    """What is done with a job that failed."""

    CONTINUE = "continue from what it finished"
    AGAIN = "run it again"
    FEWER_THREADS = "run it again with fewer threads"
    NONE = "report it; another try would fail in the same way"


_REMEDIES: dict[Outcome, Remedy] = {
    Status.WALLTIME: Remedy.CONTINUE, Status.INTERRUPTED: Remedy.CONTINUE,
    # a node that died or a file that was lost may not do so again
    Failure.NO_RESULT: Remedy.AGAIN, Failure.DAMAGED_RESULT: Remedy.AGAIN,
    Failure.OUT_OF_MEMORY: Remedy.FEWER_THREADS,
}
_BY_NUMBER = {EXITS[outcome].number: remedy for outcome, remedy in _REMEDIES.items()} | {
    OUT_OF_WALLTIME: Remedy.CONTINUE, NODE_FAILURE: Remedy.AGAIN,
    OUT_OF_MEMORY: Remedy.FEWER_THREADS,
}


def remedy_for(calculation: Any) -> Remedy:
    """What can be done about a job that did not finish well.

    A job that a fault of AiiDA ended (excepted) or that somebody killed is treated as lost.
    """
    if calculation.exit_status is None:
        return Remedy.NONE if calculation.is_killed else Remedy.AGAIN
    return _BY_NUMBER.get(calculation.exit_status, Remedy.NONE)


def fewer_threads(threads: int | None) -> int | None:
    """Half the threads hold half the tables; None where a single thread is too much already."""
    if threads == 1:
        return None
    return threads // 2 if threads else 1


def why_failed(process: Any) -> str:
    """The message of a process that failed; where it has none of its own, that of its last job."""
    message = process.exit_message or f"it ended in the state '{process.process_state.value}'"
    last = next((below for below in reversed(process.called) if below.exit_status), None)
    if process.exit_status in _UNSPECIFIC and last is not None and last.exit_message:
        message = why_failed(last)
    return " ".join(message.split())


#: Exit statuses of AiiDA's restart work chain for a failure that no handler knew, and for the last try.
_UNSPECIFIC = (401, 402)
