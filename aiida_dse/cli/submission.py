"""Submission of work chains. Documents are checked in full before any node is stored."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from aiida_dse.data.storage_trouble import storage_trouble
from aiida_dse.documents import ModelDocument, load_document

from .terminal import Refusal, echo


@dataclass(frozen=True)
class Settings:
    """Options common to all launch commands; None selects the computer's or protocol's value."""

    code_label: str
    protocol: str
    walltime: int | None  # s
    threads: int | None
    dry_run: bool
    wait: bool


#: Seconds between two readings of the progress of a job by `wait_for`.
PROGRESS_SECONDS = 3.0


@contextmanager
def refusing() -> Iterator[None]:
    """Turn errors in the input into a message that ends the command; nothing is stored by then."""
    from aiida.common.exceptions import NotExistent

    try:
        yield
    except (ValueError, OSError, NotExistent) as problem:
        fail(storage_trouble(problem) or str(problem))


def read_document(path: Path) -> ModelDocument:
    with refusing():
        return load_document(path)


def nodes_of_files(document: ModelDocument, folder: Path, pattern_node: str | None) -> Any:
    """Unstored nodes of the files of a document; the pattern can be a stored node instead."""
    from aiida.common.exceptions import NotExistent
    from aiida.orm import load_node

    from aiida_dse.data.jobs import nodes_of_document
    from aiida_dse.data.pattern import PatternData

    with refusing():
        if pattern_node is None:
            return nodes_of_document(document, folder)
        try:
            pattern = load_node(pattern_node)
        except NotExistent:
            fail(f"there is no node '{pattern_node}'. List the stored patterns with 'verdi data "
                 "dse pattern list'")
        if not isinstance(pattern, PatternData):
            fail(f"node {pattern_node} is a {type(pattern).__name__}, not a dse.pattern. List the "
                 "stored patterns with 'verdi data dse pattern list'")
        return nodes_of_document(document, folder, pattern)


def launch_model(
    process: Any, document: ModelDocument, nodes: Any, settings: Settings, *,
    start_from: str | None = None, overrides: dict[str, Any] | None = None,
    complete: Callable[[Any], None] | None = None, describe: Callable[[Any], None] | None = None,
) -> int | None:
    """Submit the work chain of one model and return its PK (None for a dry run).

    describe: prints information before the submission; complete: sets further inputs.
    """
    start = None if start_from is None else result_node(start_from)
    with refusing():
        checked = process.checked(document, nodes, settings.protocol, overrides, start)
    print_remarks(checked.remarks)
    if describe is not None:
        describe(checked.built)
    if settings.dry_run:
        print_dry_run(checked.built)
        return None
    builder = builder_of(
        process, settings, document, nodes.pattern, nodes.structures, nodes.blanks,
        overrides=overrides, start_from=start)
    if complete is not None:
        complete(builder)
    return submit_builder(builder, [document.sample.name], settings.wait)


def builder_of(process: Any, settings: Settings, *arguments: Any, **more: Any) -> Any:
    """The builder of a work chain, as in a Python shell. Fails if the analysis cannot run."""
    code = code_of(settings.code_label)
    options = {} if settings.walltime is None else {"max_wallclock_seconds": settings.walltime}
    with refusing():
        return process.get_builder_from_protocol(
            code, *arguments, protocol=settings.protocol, options=options,
            threads=settings.threads, **more)


def code_of(label: str) -> Any:
    """The code with this label. Fails if it does not exist or the daemon is not running."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code

    try:
        code = load_code(label)
    except (NotExistent, MultipleObjectsError, ValueError) as problem:
        fail(f"the code '{label}' cannot be loaded ({problem}). Create it with 'aiida-dse setup', "
             "or specify another code with --code")
    _daemon_must_run()
    return code


def speed_for(code_label: str, task: str) -> float | None:
    """Core time (s) per distance of a task on the computer of a code; None if unknown."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code

    from aiida_dse.data.options import speed_of

    try:
        return speed_of(load_code(code_label), task)
    except (NotExistent, MultipleObjectsError, ValueError):
        return None  # a dry run does not require a code


def result_node(identifier: str) -> Any:
    """The result node of an analysis. Fails if the analysis has no result."""
    from .showing import analysis_result

    node, result = analysis_result(identifier)
    if result is None:
        fail(f"{node.process_label}<{node.pk}> has no result to start from")
    return node.outputs.result


def _daemon_must_run() -> None:
    from aiida.manage import get_manager

    from .daemon import daemon_trouble
    from .daemon_start import danger, folder_in_danger

    profile = get_manager().get_profile()
    assert profile is not None
    if trouble := daemon_trouble(profile):
        fail(f"the analysis would not start. {trouble} Then launch again")
    if folder := folder_in_danger(profile):
        echo(f"note: {danger(folder)} Run 'aiida-dse -p {profile.name} doctor --fix' once.", err=True)


def print_remarks(remarks: Sequence[str]) -> None:
    for remark in remarks:
        echo(f"note: {remark}")


def print_dry_run(built: Any) -> None:
    from aiida_dse.report.tables import validation_report

    echo(validation_report(built))
    echo("Dry run: nothing was stored or submitted.")


def submit_builder(builder: Any, samples: Sequence[str | None], wait: bool) -> int:
    """Submit the builder, add the process to the groups of its samples, and return its PK."""
    from aiida.engine import submit

    from aiida_dse.data.grouping import group_label, put_into_group

    from .showing import print_analysis

    named = [sample for sample in samples if sample and sample.strip()]
    try:
        for sample in named:
            group_label("sample", sample)
    except ValueError as problem:
        fail(f"sample.name: {problem}")
    with refusing():
        node: Any = submit(builder)
    for sample in named:
        put_into_group("sample", sample, [node])
    echo(f"submitted {node.process_label}<{node.pk}>")
    if not wait:
        echo(f"Follow it with 'aiida-dse watch {node.pk}'; show its result with "
                   f"'aiida-dse show {node.pk}'.")
        return int(node.pk)
    try:
        wait_for(node)
    except KeyboardInterrupt:
        echo(f"\n{continues(node.process_label, node.pk)}")
        raise SystemExit(130) from None
    print_analysis(str(node.pk))
    if not node.is_finished_ok:
        raise SystemExit(1)
    return int(node.pk)


def continues(name: str, pk: int) -> str:
    """The message to a user who stops waiting for a process."""
    return (f"The display has ended, but {name}<{pk}> continues. Follow it again with 'aiida-dse "
            f"watch {pk}', or end it with 'verdi process kill {pk}'.")


def wait_for(node: Any, interval: float = 0.5, look_every: float = 10.0) -> None:
    """Wait until a process has ended, and show time and progress on a terminal.

    Meanwhile the tasks of dead workers are reassigned; workers without tasks and a daemon that does
    not run are reported.
    """
    import sys
    import time

    from aiida.manage import get_manager

    from aiida_dse.data.steps import below, read_progress, steps_of

    from .daemon import repair

    begin = looked = read = time.monotonic()
    progress = ""
    lasting = 0  # number of successive checks that found trouble
    while not node.is_terminated:
        time.sleep(interval)
        now = time.monotonic()
        if now - looked >= look_every:
            looked = now
            trouble = repair(get_manager().get_profile())
            lasting = lasting + 1 if trouble else 0
            if lasting == 3:  # a daemon or a worker that is starting up would run by now
                echo(trouble, err=True)
        if sys.stderr.isatty():
            if now - read >= PROGRESS_SECONDS:
                top = steps_of(node.pk)
                read_progress(top, most=1)
                progress = next((step.progress for step in below(top) if step.progress), "")
                read = time.monotonic()
            line = f"{node.process_label}<{node.pk}> {now - begin:.0f} s  {progress}"
            sys.stderr.write(f"\r\033[K{line[:shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def fail(message: str) -> NoReturn:
    end = "" if message.endswith((".", "?", "!")) else "."
    raise Refusal(f"{message}{end} Nothing was submitted.")
