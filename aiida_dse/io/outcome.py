"""outcome.json: the outcome of a run of dse-engine, also of a run without a result.

The space of the file is reserved at the start of a run, so that it can be written on a full disk.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import aiida_dse
from aiida_dse.documents import DocumentError
from aiida_dse.documents.status import Failure
from aiida_dse.engine import NUMERICS_VERSION

OUTCOME_NAME = "outcome.json"
#: Number of bytes that are reserved for the file.
RESERVED = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: Messages of the shell, of Python and of libraries in jobs that ended without an outcome.
_WORDS = {
    Failure.DISK_FULL: re.compile(r"no space left on device|disk quota exceeded|disk is full", re.I),
    Failure.OUT_OF_MEMORY: re.compile(
        r"cannot allocate memory|failed to map segment(?!.*not permitted)|bad_alloc|memoryerror|"
        r"out[ _]of[ _]memory|oom[-_ ]kill", re.I),
}


@dataclass(frozen=True)
class RunOutcome:
    """The outcome of a run: its state, and the class and message of a failure."""

    state: str  # 'running', 'finished' (with a result) or 'failed'
    failure: str = ""
    message: str = ""
    engine_version: str = aiida_dse.__version__
    numerics_version: int = NUMERICS_VERSION


class EngineFailure(Exception):
    """The failure of a run, with its class and a message for the user."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


def write_outcome(folder: Path, outcome: RunOutcome) -> None:
    """Write the file in place; an OSError is ignored, because it would hide the original error."""
    text = json.dumps(asdict(outcome))
    while len(text.encode()) > RESERVED:
        outcome = replace(outcome, message=outcome.message[: len(outcome.message) * 3 // 4])
        text = json.dumps(asdict(outcome))
    content = text.encode().ljust(RESERVED)
    path = folder / OUTCOME_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(content)
    except OSError:
        return


def read_outcome(folder: Path) -> RunOutcome | None:
    """The outcome of the run in a folder; None if the file is missing or damaged."""
    try:
        content = json.loads((folder / OUTCOME_NAME).read_text(encoding="utf-8"))
        return RunOutcome(**content)
    except (OSError, ValueError, TypeError):
        return None


def failure_without_outcome(folder: Path, last_words: str) -> Failure | None:
    """The failure of a run that could not write its outcome; None if it cannot be recognised.

    On a full disk, outcome.json exists but is shorter than the space reserved for it.
    """
    path = folder / OUTCOME_NAME
    if path.is_file() and path.stat().st_size < RESERVED:
        return Failure.DISK_FULL
    return next((failure for failure, words in _WORDS.items() if words.search(last_words)), None)


def failure_of(problem: BaseException) -> EngineFailure:
    """The failure of an exception: invalid input, too little memory, a full disk, or a bug."""
    if isinstance(problem, EngineFailure):
        return problem
    if isinstance(problem, DocumentError) or (
            isinstance(problem, ValueError) and _raised_here(problem)):
        return EngineFailure(Failure.INVALID_INPUT, str(problem))
    if isinstance(problem, KeyboardInterrupt):
        return EngineFailure(Failure.NO_RESULT, "the run was interrupted before it had a result")
    if isinstance(problem, MemoryError):
        return EngineFailure(
            Failure.OUT_OF_MEMORY, str(problem) or "an array did not fit into memory")
    if isinstance(problem, OSError) and problem.errno in _FULL:
        return EngineFailure(Failure.DISK_FULL, str(problem))
    return EngineFailure(Failure.INTERNAL, f"{type(problem).__name__}: {problem}")


def _raised_here(problem: BaseException) -> bool:
    """Whether this package itself raised an exception, as it does for invalid input.

    An exception raised by a library during a task is a bug of the engine.
    """
    last = problem.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__", "").startswith("aiida_dse")


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Keep outcome.json in `folder` up to date while a task runs; exceptions are re-raised."""
    write_outcome(folder, RunOutcome("running"))
    try:
        yield
    except SystemExit:
        raise
    except (Exception, KeyboardInterrupt) as problem:
        failure = failure_of(problem)
        write_outcome(folder, RunOutcome("failed", failure.failure.value, str(failure)))
        raise
    write_outcome(folder, RunOutcome("finished"))
