"""What every submission shares: everything is checked before a node is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from aiida_dse.documents import DocumentError, ModelDocument, load_document


def read_document(path: Path) -> ModelDocument:
    try:
        return load_document(path)
    except DocumentError as problem:
        fail(str(problem))


def under_protocol(
    document: ModelDocument, protocol: str
) -> tuple[ModelDocument, dict[str, Any]]:
    """The document with what the protocol adds to it, and the protocol's settings."""
    from aiida_dse.workchains.protocol import read_protocol, with_protocol

    settings = read_protocol(protocol)
    try:
        return with_protocol(document, settings), settings
    except DocumentError as problem:
        fail(str(problem))


@dataclass(frozen=True)
class Checked:
    """A document that can run, with unstored nodes; nothing has touched the database."""

    content: ModelDocument
    model: dict[str, Any]
    pattern: Any
    structures: dict[str, Any]
    blanks: dict[str, Any]
    start: Any
    built: Any


def checked_document(
    content: ModelDocument, folder: Path, pattern_node: str | None, start_from: str | None
) -> Checked:
    """Read and build everything a launch needs, storing nothing."""
    from aiida.common.exceptions import NotExistent
    from aiida.orm import load_node

    from aiida_dse.data.jobs import built_from_nodes, nodes_of_document
    from aiida_dse.data.pattern import PatternData
    from aiida_dse.data.results import summary_from_node
    from aiida_dse.documents.continuation import model_continued
    from aiida_dse.tasks.peak_positions import check_axis

    try:
        model, pattern, structures, blanks = nodes_of_document(content, folder)
        if pattern_node is not None:
            pattern = load_node(pattern_node)
            if not isinstance(pattern, PatternData):
                fail(f"node {pattern_node} is a {type(pattern).__name__}, not a dse.pattern; "
                      "see 'verdi data dse pattern list'")
        start = None if start_from is None else _result_of(start_from)
        if start is not None:
            model = model_continued(model, summary_from_node(start))
        built = built_from_nodes(model, pattern, structures, blanks)
        remark = check_axis(built)
    except (DocumentError, ValueError, OSError) as problem:
        fail(str(problem))
    except NotExistent:
        fail(f"there is no node '{pattern_node}'")
    if remark:
        click.echo(f"note: {remark}")
    return Checked(content, model, pattern, structures, blanks, start, built)


def inputs_of(
    checked: Checked, code_label: str, walltime: int | None, threads: int | None,
    otherwise: int | None = None, protocol_walltime: int | None = None,
) -> dict[str, Any]:
    """The inputs of an engine job; data that the database holds already enter it once.

    `otherwise` and `protocol_walltime`: threads and walltime where neither the launch nor the
    computer's set-up specifies them.
    """
    from aiida.orm import Dict

    from aiida_dse.data.same_content import stored_node_of_same_content
    from aiida_dse.workchains.refine import continued_model

    inputs = job_inputs(code_label, walltime, threads, otherwise, protocol_walltime) | {
        "structures": {name: stored_node_of_same_content(node) for name, node in checked.structures.items()},
    }
    if checked.pattern is not None:
        inputs["pattern"] = stored_node_of_same_content(checked.pattern)
    if checked.blanks:
        inputs["blanks"] = {name: stored_node_of_same_content(node) for name, node in checked.blanks.items()}
    # the values of an earlier analysis enter through a calcfunction: the graph shows where from
    inputs["model"] = (
        Dict(checked.model) if checked.start is None
        else continued_model(Dict(checked.content.canonical()), checked.start)
    )
    return inputs


def speed_for(code_label: str) -> float | None:
    """Seconds for a distance on the computer of a code; None where that is not known."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code

    from aiida_dse.data.options import speed_of

    try:
        return speed_of(load_code(code_label))
    except (NotExistent, MultipleObjectsError, ValueError):
        return None  # a dry run needs no code


def job_inputs(
    code_label: str, walltime: int | None, threads: int | None, otherwise: int | None = None,
    protocol_walltime: int | None = None,
) -> dict[str, Any]:
    """Code and options of a job; refused where it could not start."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code

    from aiida_dse.data.options import job_options

    try:
        code = load_code(code_label)
    except (NotExistent, MultipleObjectsError, ValueError) as problem:
        fail(f"the code '{code_label}' cannot be used ({problem}). Make it with 'aiida-dse setup' "
              "or name another with --code")
    _daemon_must_run()
    options = job_options(
        code.computer, walltime=walltime, threads=threads, otherwise=otherwise,
        protocol_walltime=protocol_walltime,
    )
    return {"code": code, "metadata": {"options": options}}


def _result_of(identifier: str) -> Any:
    """The result Dict of an analysis."""
    from .showing import analysis_result

    node, result = analysis_result(identifier)
    if result is None:
        fail(f"{node.process_label}<{node.pk}> has no result to start from")
    return node.outputs.result


def _daemon_must_run() -> None:
    from aiida.engine.daemon.client import get_daemon_client
    from aiida.manage import get_manager

    if not get_daemon_client().is_daemon_running:
        profile = get_manager().get_profile()
        name = f"-p {profile.name} " if profile else ""
        fail("the daemon is not running, so nothing would start. Start it with "
              f"'verdi {name}daemon start' and launch again")


def title_of(document: ModelDocument) -> tuple[str, list[str | None]]:
    """The label of a process and the samples it is about."""
    return document.title or document.sample.name or "", [document.sample.name]


def tell_dry_run(built: Any) -> None:
    from aiida_dse.report.tables import validation_report

    click.echo(validation_report(built))
    click.echo("Dry run: nothing was stored or submitted.")


def submit_process(
    process: Any, inputs: dict[str, Any], title: str, samples: Sequence[str | None], wait: bool
) -> int:
    """Submit; the process joins the groups of its samples."""
    from aiida.engine import submit

    from aiida_dse.data.grouping import group_label, put_into_group

    from .showing import print_analysis

    inputs.setdefault("metadata", {})["label"] = title
    named = [sample for sample in samples if sample and sample.strip()]
    try:
        for sample in named:
            group_label("sample", sample)
    except ValueError as problem:
        fail(f"sample.name: {problem}")
    node = submit(process, **inputs)
    for sample in named:
        put_into_group("sample", sample, [node])
    click.echo(f"submitted {process.__name__}<{node.pk}>")
    if not wait:
        click.echo(f"follow it with 'aiida-dse watch {node.pk}', then "
                   f"'aiida-dse show {node.pk}'")
        return int(node.pk)
    wait_for(node)
    print_analysis(str(node.pk))
    if not node.is_finished_ok:
        raise SystemExit(1)
    return int(node.pk)


def wait_for(node: Any, interval: float = 0.5, look_every: float = 10.0) -> None:
    """Block until a process has ended, showing its state on a terminal.

    Meanwhile a killed worker's tasks are given to others, and workers without work are told.
    """
    import sys
    import time

    from aiida.manage import get_manager

    from .daemon import mended

    begin = looked = time.monotonic()
    lasting = 0  # looks in a row that found workers without work
    while not node.is_terminated:
        time.sleep(interval)
        now = time.monotonic()
        if now - looked >= look_every:
            looked = now
            trouble = mended(get_manager().get_profile())
            lasting = lasting + 1 if trouble else 0
            if lasting == 3:  # not a worker that only starts
                click.echo(trouble, err=True)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{node.process_label}<{node.pk}> "
                             f"{now - begin:.0f} s")
            sys.stderr.flush()
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def fail(message: str) -> NoReturn:
    end = "" if message.endswith((".", "?", "!")) else "."
    raise click.ClickException(f"{message}{end} Nothing was submitted.")
