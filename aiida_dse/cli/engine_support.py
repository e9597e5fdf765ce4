"""Common parts of the commands of dse-engine: options, models, errors, progress and results."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from aiida_dse.engine.resources import ONE_THREAD, Resources

from .terminal import echo

document_argument = click.argument("document", type=click.Path(path_type=Path))
output_option = click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("results"),
    show_default=True, help="Folder for result.json and result.h5.",
)
walltime_option = click.option(
    "--walltime", type=click.FloatRange(min=1),
    help="Stop after this many seconds and write the results obtained so far.",
)

#: Seconds of one pattern above which its duration is printed in advance.
LONG_EVALUATION = 5.0


def _resources_of(
    context: click.Context, option: click.Parameter, threads: int | None
) -> Resources:
    """Threads and memory of the command; nothing else reads them from the environment."""
    try:
        return Resources.from_environment(threads)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None


threads_option = click.option(
    "--threads", "resources", type=click.IntRange(min=1), callback=_resources_of,
    help="Number of threads (default: all available cores).",
)
quiet_option = click.option("--quiet", is_flag=True, help="Do not show progress.")

continue_option = click.option(
    "--continue", "continued", is_flag=True,
    help="Continue from the result in the output folder.",
)


def build_model(document: Path, resources: Resources = ONE_THREAD, *, measured: bool = False) -> Any:
    """Build the model of a document and check its axis.

    With `measured`, raise ValueError if the document has no measured pattern.
    """
    from aiida_dse.documents import load_document
    from aiida_dse.tasks.build import build
    from aiida_dse.tasks.peak_positions import check_axis

    built = build(load_document(document), document.parent, resources=resources)
    if measured and not built.measured:
        raise ValueError("pattern: there is no 'file', but this task requires a measured pattern. "
                         "Specify its file, or use 'dse-engine simulate'.")
    if remark := check_axis(built):
        echo(f"note: {remark}", err=True)
    return built


def is_simultaneous(document: Path) -> bool:
    from aiida_dse.documents import SIMULTANEOUS_SCHEMA
    from aiida_dse.documents.reading import read_content

    content = read_content(document)
    return isinstance(content, dict) and content.get("schema") == SIMULTANEOUS_SCHEMA


def build_simultaneous_model(document: Path, resources: Resources = ONE_THREAD) -> Any:
    from aiida_dse.documents import load_simultaneous
    from aiida_dse.tasks.simultaneous import build_simultaneous, check_axes_of

    built = build_simultaneous(load_simultaneous(document), document.parent, resources=resources)
    for remark in check_axes_of(built):
        echo(f"note: {remark}", err=True)
    return built


def finished_result(output: Path, built: Any, *, remedy: str = "Choose another --output.") -> Any:
    """Read the earlier result in an output folder; None if there is none.

    Raises ValueError if the result belongs to another document or to other files.
    """
    from aiida_dse.io.results import JSON_NAME, read_result
    from aiida_dse.tasks.summary import document_hash

    if not (output / JSON_NAME).exists():
        return None
    try:
        finished = read_result(output)
    except ValueError as problem:
        raise ValueError(f"{problem} Choose another --output, or omit --continue to start from "
                         "the beginning.") from None
    data = finished.summary.data
    if finished.summary.document_sha256 != document_hash(built.document) \
            or data is None or data.sha256 != built.files:
        raise ValueError(f"{output} contains the result of another document or of other files. {remedy}")
    return finished


@contextmanager
def refusals() -> Iterator[None]:
    """Print the error that ends a command, and exit with the status of that failure."""
    from aiida_dse.documents.status import EXITS, Failure
    from aiida_dse.io.outcome import failure_of

    try:
        yield
    except (Exception, KeyboardInterrupt) as problem:
        failure = failure_of(problem)
        if failure.failure is Failure.INTERNAL:
            raise
        echo(f"Error: {failure}", err=True)
        sys.exit(EXITS[failure.failure].command)


@contextmanager
def task_in(output: Path) -> Iterator[None]:
    """Run a task and record its outcome in the output folder, even if it fails."""
    from aiida_dse.io.outcome import reporting

    with refusals(), reporting(output):
        yield


def stop_check(walltime: float | None) -> Callable[[], str | None]:
    """A function that returns 'walltime' after this many seconds or a SIGTERM, and None before."""
    begin = time.monotonic()
    signalled: list[int] = []

    def stop(number: int, frame: Any) -> None:
        signalled.append(number)
        echo("Terminating after the current step; the results obtained so far are written.",
                   err=True)

    signal.signal(signal.SIGTERM, stop)

    def check() -> str | None:
        if signalled or (walltime and time.monotonic() - begin > walltime):
            return "walltime"
        return None

    return check


def print_duration(built: Any) -> None:
    """Print the time and the memory of a pattern, if it takes so long that a task appears to be idle."""
    from aiida_dse.tasks.estimate import evaluation_bytes, evaluation_seconds

    seconds = evaluation_seconds(built)
    if seconds > LONG_EVALUATION:
        echo(f"The first pattern of this model takes about {seconds:.0f} s on one thread and "
             f"{evaluation_bytes(built) / 1e9:.1f} GB of memory; the first progress follows after that.", err=True)


def progress_display(quiet: bool) -> Any:
    from aiida_dse.report.progress import LogProgress, NoProgress, TerminalProgress

    if quiet:
        return NoProgress()
    return TerminalProgress() if sys.stderr.isatty() else LogProgress()


def finish(result: Any, output: Path) -> None:
    """Write and print a result, and exit with the status of its outcome."""
    from aiida_dse.documents.status import EXITS
    from aiida_dse.io.outcome import RunOutcome, write_outcome
    from aiida_dse.io.results import write_result
    from aiida_dse.report.tables import result_report

    write_result(result, output)
    write_outcome(output, RunOutcome("finished"))
    echo(result_report(result))
    echo(f"Results: {output / 'result.json'}, {output / 'result.h5'}")
    sys.exit(EXITS[result.status].command)
