"""Outcomes of tasks and their exit codes, for the command, the jobs and the work chains."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """The task that was computed."""

    SIMULATE = "simulate"
    REFINE = "refine"
    SIMULTANEOUS = "simultaneous"
    SCAN = "scan"
    UNCERTAINTY = "uncertainty"
    BUILD = "build"
    COMPARE = "compare"
    TEMPERATURE_SERIES = "temperature_series"
    SIZE_SERIES = "size_series"
    SIZING_CURVE = "sizing_curve"
    DIFFERENTIAL = "differential"


#: The analyses of existing results, whose options are in `documents.series`.
ANALYSES_OF_RESULTS = (
    Task.TEMPERATURE_SERIES, Task.SIZE_SERIES, Task.SIZING_CURVE, Task.DIFFERENTIAL)


class Status(StrEnum):
    """Outcome of a task that wrote a result."""

    RUNNING = "running"  # a checkpoint, written before the end of the task
    COMPLETE = "complete"
    CONVERGED = "converged"
    UNDETERMINED = "undetermined"  # converged, with parameters that the data do not determine
    NOT_CONVERGED = "not_converged"
    POSTERIOR_NOT_CONVERGED = "posterior_not_converged"
    PARTIAL = "partial"  # a map with empty points
    WALLTIME = "walltime"
    INTERRUPTED = "interrupted"

    @property
    def is_minimum(self) -> bool:
        """Whether a refinement ended in a minimum whose values may be used."""
        return self in (Status.CONVERGED, Status.UNDETERMINED)

    @property
    def is_unfinished(self) -> bool:
        """Whether the task can be continued."""
        return self in (Status.RUNNING, Status.WALLTIME, Status.INTERRUPTED)


class Failure(StrEnum):
    """Outcome of a task that wrote no result."""

    INVALID_INPUT = "invalid_input"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    INTERNAL = "internal_error"
    NO_RESULT = "no_result"  # the job was killed, or its computer failed
    DAMAGED_RESULT = "damaged_result"
    OTHER_ENGINE = "other_engine"  # version of the engine's numerics differs from the plugin's


class PartsFailed(StrEnum):
    """Outcome of a work chain whose parts failed."""

    NOTHING_FINISHED = "nothing_finished"
    SOME_FAILED = "some_failed"
    NO_ANALYSIS = "no_analysis"
    SIMULTANEOUS_FAILED = "simultaneous_failed"


Outcome = Status | Failure | PartsFailed


@dataclass(frozen=True)
class Exit:
    """Exit of a process: AiiDA's status, label and message, and the exit status of the command.

    AiiDA's conventions are 300-399 for critical failures and 400 or more for failures with
    outputs; the numbers 301, 302, 401 and 402 belong to its restart work chain. `cachable`:
    whether a later process with the same input may reuse the result from the cache.
    """

    number: int
    label: str
    message: str
    command: int
    cachable: bool = False


EXITS: dict[Outcome, Exit] = {
    Status.COMPLETE: Exit(0, "", "", 0, True),
    Status.CONVERGED: Exit(0, "", "", 0, True),
    Status.PARTIAL: Exit(0, "", "", 0, True),
    Failure.INTERNAL: Exit(
        300, "ERROR_INTERNAL", "The engine failed with an internal error: {detail}", 1),
    Failure.NO_RESULT: Exit(
        310, "ERROR_NO_RESULT", "The job ended before the engine wrote a result: {detail}", 1),
    Failure.DAMAGED_RESULT: Exit(
        311, "ERROR_DAMAGED_RESULT", "The result cannot be read: {detail}", 1),
    Failure.OUT_OF_MEMORY: Exit(
        312, "ERROR_OUT_OF_MEMORY", "The engine ran out of memory: {detail}", 12),
    Failure.DISK_FULL: Exit(
        313, "ERROR_DISK_FULL", "The disk of the computer is full: {detail}", 13),
    Failure.OTHER_ENGINE: Exit(
        314, "ERROR_OTHER_ENGINE", "The engine on the computer has another version: {detail}", 14),
    Failure.INVALID_INPUT: Exit(
        320, "ERROR_INVALID_INPUT", "The input is invalid: {detail}", 2),
    Status.RUNNING: Exit(
        400, "ERROR_WALLTIME",
        "The task reached its walltime; the outputs contain the finished part.", 4),
    Status.WALLTIME: Exit(
        400, "ERROR_WALLTIME",
        "The task reached its walltime; the outputs contain the finished part.", 4),
    Status.INTERRUPTED: Exit(
        405, "ERROR_INTERRUPTED",
        "The task was interrupted; the outputs contain the finished part.", 130),
    Status.NOT_CONVERGED: Exit(
        410, "ERROR_NOT_CONVERGED", "The refinement did not converge: {detail}", 3, True),
    Status.UNDETERMINED: Exit(
        420, "ERROR_UNDETERMINED", "The data do not determine some free parameters: {detail}", 6,
        True),
    Status.POSTERIOR_NOT_CONVERGED: Exit(
        430, "ERROR_POSTERIOR_NOT_CONVERGED",
        "The posterior did not converge; the outputs contain the chain, which can be continued "
        "with more steps: {detail}", 5, True),
    PartsFailed.NOTHING_FINISHED: Exit(
        440, "ERROR_NOTHING_FINISHED", "No part of the work finished: {detail}", 1),
    PartsFailed.SOME_FAILED: Exit(
        450, "ERROR_SOME_FAILED", "Some parts failed; the outputs cover the others: {detail}", 1),
    PartsFailed.NO_ANALYSIS: Exit(
        460, "ERROR_NO_ANALYSIS", "The refinements cannot be analysed: {detail}", 1),
    PartsFailed.SIMULTANEOUS_FAILED: Exit(
        470, "ERROR_SIMULTANEOUS_FAILED", "The simultaneous refinement failed: {detail}", 1),
}

#: All failures of jobs; they can occur with every task.
JOB_FAILURES = tuple(Failure)
