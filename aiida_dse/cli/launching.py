"""Submission: everything is checked before a node is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from aiida_dse.documents import (
    DocumentError,
    ModelDocument,
    load_document,
    load_joint,
    parse_document,
)


def launch_refinement(
    document: Path, code_label: str, pattern_node: str | None, walltime: int | None,
    threads: int | None, start_from: str | None, dry_run: bool, wait: bool, protocol: str,
) -> int | None:
    """Submit dse.refine; the PK of the work chain (None for a dry run)."""
    from aiida.orm import Int

    from aiida_dse.workchains.refine import RefineWorkChain

    content, settings = under_protocol(_document(document), protocol)
    checked = _checked(content, document.parent, pattern_node, start_from)
    if dry_run:
        _dry_run(checked.built)
        return None
    inputs = _inputs(checked, code_label, walltime, threads,
                     protocol_walltime=settings["max_wallclock_seconds"])
    return submit_process(
        RefineWorkChain, {"refine": inputs, "max_iterations": Int(settings["max_iterations"])},
        *_title(checked.built.document), wait)


def launch_map(
    document: Path, code_label: str, pattern_node: str | None, walltime: int | None,
    threads: int | None, start_from: str | None, dry_run: bool, wait: bool, protocol: str,
    max_concurrent: int, tile_seconds: float | None, axes: tuple[str, ...] = (),
    refine: tuple[str, ...] = (),
) -> int | None:
    """Submit dse.grid_search; the PK of the work chain (None for a dry run)."""
    from aiida.orm import Float, Int

    from aiida_dse.tasks.estimate import seconds_per_point
    from aiida_dse.workchains.grid_search import GridSearchWorkChain

    content = _document(document)
    if axes:
        content = _with_axes(content, axes, refine)
    elif refine:
        fail("--refine goes with --axis; without it, write 'refine' into the document's 'scan'")
    content, settings = under_protocol(content, protocol)
    checked = _checked(content, document.parent, pattern_node, start_from)
    built = checked.built
    if built.document.scan is None:
        fail("scan: this key is missing; add it with its 'axes' to launch a grid search")
    cost = round(seconds_per_point(built), 4)
    points = math.prod(len(axis.values) for axis in built.axes)
    click.echo(f"{points:,} grid points, about {cost * 1e3:.1f} ms for each that moves distances")
    if dry_run:
        _dry_run(built)
        return None
    inputs = _inputs(
        checked, code_label, walltime, threads, 1, settings["max_wallclock_seconds"])
    return submit_process(
        GridSearchWorkChain,
        {"scan": inputs, "max_concurrent": Int(max_concurrent),
         "tile_seconds": Float(tile_seconds or settings["tile_seconds"]),
         "seconds_per_point": Float(cost)},
        *_title(built.document), wait,
    )


def launch_uncertainty(
    document: Path, code_label: str, pattern_node: str | None, walltime: int | None,
    threads: int | None, start_from: str | None, dry_run: bool, wait: bool, protocol: str,
) -> int | None:
    """Submit dse.uncertainty; the PK of the job (None for a dry run).

    From an earlier dse.uncertainty of the same refinement, what is finished is not done again.
    """
    from aiida_dse.calculations.engine import UncertaintyCalculation
    from aiida_dse.tasks.uncertainty import require_uncertainty

    content, settings = under_protocol(_document(document), protocol)
    finished = None if start_from is None else _to_go_on_with(
        content, document, pattern_node, start_from
    )
    if finished is None:
        checked = _checked(content, document.parent, pattern_node, start_from)
    else:
        checked = finished[0]
        click.echo(f"going on with what {start_from} has finished")
    try:
        require_uncertainty(checked.built)
    except DocumentError as problem:
        fail(str(problem))
    if dry_run:
        _dry_run(checked.built)
        return None
    inputs = _inputs(checked, code_label, walltime, threads,
                     protocol_walltime=settings["max_wallclock_seconds"])
    if finished is not None:
        inputs["finished"] = finished[1]
    return submit_process(UncertaintyCalculation, inputs, *_title(checked.built.document), wait)


def _to_go_on_with(
    content: ModelDocument, document: Path, pattern_node: str | None, start_from: str
) -> tuple[_Checked, dict[str, Any]] | None:
    """An earlier dse.uncertainty of the same refinement, to go on with; else None."""
    from aiida_dse.tasks.summary import document_hash

    from .showing import analysis_outputs

    node, result, arrays = analysis_outputs(start_from)
    if node.process_type != "aiida.calculations:dse.uncertainty" or arrays is None:
        return None
    # its refinement must begin where it began, or the samples would be around another minimum
    start = node.inputs.model.get_dict().get("parameters", {})
    again = parse_document(content.canonical() | {"parameters": start})
    checked = _checked(again, document.parent, pattern_node, None)
    same = document_hash(checked.built.document) == result["document_sha256"]
    if not same or checked.built.files != result["data"]["sha256"]:
        return None
    return checked, {"result": result, "arrays": node.outputs.arrays}


def launch_comparison(
    documents: tuple[Path, ...], code_label: str, pattern_node: str | None, walltime: int | None,
    threads: int | None, dry_run: bool, wait: bool, max_concurrent: int,
) -> int | None:
    """Submit dse.compare_models, a model for each document; its PK (None for a dry run)."""
    from aiida.orm import Dict, Int

    from aiida_dse.workchains.compare_models import CompareModelsWorkChain

    names = [path.stem.replace("-", "_") for path in documents]
    if len(names) < 2 or len(set(names)) < len(names):
        fail(f"the models would be called {', '.join(names)}: give at least two documents with "
              "different file names")
    checked = [_checked(_document(path), path.parent, pattern_node, None) for path in documents]
    first = checked[0]
    for name, other in zip(names, checked, strict=True):
        if other.pattern is None or not _same_content(first.pattern, other.pattern):
            fail(f"{name} and {names[0]} do not have the same pattern: models are compared on the "
                  "same data. Name the same file, axis, wavelength and sample in both, or give "
                  "--pattern")
        same = first.traces.keys() == other.traces.keys() and all(
            _same_content(trace, other.traces[key]) for key, trace in first.traces.items())
        if not same:
            fail(f"{name} and {names[0]} do not have the same traces; give both the same solvent "
                  "and blank")
    if dry_run:
        for each in checked:
            _dry_run(each.built)
        return None
    inputs = _inputs(first, code_label, walltime, threads, 1)
    del inputs["model"], inputs["structures"]
    return submit_process(
        CompareModelsWorkChain,
        {"refine": inputs, "max_concurrent": Int(max_concurrent),
         "models": {name: Dict(each.model) for name, each in zip(names, checked, strict=True)},
         "structures": {
             name: {phase: stored_twin(node) for phase, node in each.structures.items()}
             for name, each in zip(names, checked, strict=True)}},
        *_title(first.built.document), wait,
    )


def _same_content(one: Any, other: Any) -> bool:
    """Whether two pattern nodes hold the same measurement."""
    keys = [node.base.attributes.get("content_sha256", None) for node in (one, other)]
    return one.uuid == other.uuid or (keys[0] is not None and keys[0] == keys[1])


def launch_joint_refinement(
    document: Path, code_label: str, walltime: int | None, threads: int | None, dry_run: bool,
    wait: bool,
) -> int | None:
    """Submit dse.joint; the PK of the job (None for a dry run)."""
    from aiida.orm import Dict

    from aiida_dse.calculations.engine import JointCalculation
    from aiida_dse.data.jobs import joint_from_nodes, nodes_of_joint
    from aiida_dse.report.joint_tables import joint_validation_report
    from aiida_dse.tasks.joint import check_axes_of

    try:
        content = load_joint(document)
        model, patterns, structures, traces = nodes_of_joint(content, document.parent)
        built = joint_from_nodes(model, patterns, structures, traces)
        remarks = check_axes_of(built)
    except (ValueError, OSError) as problem:
        fail(str(problem))
    for remark in remarks:
        click.echo(f"note: {remark}")
    if dry_run:
        click.echo(joint_validation_report(built))
        click.echo("Dry run: nothing was stored or submitted.")
        return None
    inputs = job_inputs(code_label, walltime, threads) | {
        "model": Dict(model),
        "patterns": {name: stored_twin(node) for name, node in patterns.items()},
        "structures": {name: stored_twin(node) for name, node in structures.items()},
    }
    if traces:
        inputs["traces"] = {name: stored_twin(node) for name, node in traces.items()}
    samples = [one.sample.get("name") for one in content.patterns.values() if one.sample]
    return submit_process(JointCalculation, inputs, content.title, samples, wait)


def _document(path: Path) -> ModelDocument:
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


def _with_axes(
    document: ModelDocument, axes: tuple[str, ...], refine: tuple[str, ...]
) -> ModelDocument:
    """The document with axes from the command line."""
    found = []
    for text in axes:
        name, _, numbers = text.partition("=")
        try:
            start, stop, step = (float(number) for number in numbers.split(":"))
        except ValueError:
            fail(f"--axis {text}: write it NAME=START:STOP:STEP, as in CsPbBr3.a=8.16:8.26:0.01")
        found.append({"parameter": name.strip(), "start": start, "stop": stop, "step": step})
    content = document.canonical() | {"scan": {"axes": found, "refine": list(refine)}}
    try:
        return parse_document(content)
    except DocumentError as problem:
        fail(str(problem))


@dataclass(frozen=True)
class _Checked:
    """A document that can run, with unstored nodes; nothing has touched the database."""

    content: ModelDocument
    model: dict[str, Any]
    pattern: Any
    structures: dict[str, Any]
    traces: dict[str, Any]
    start: Any
    built: Any


def _checked(
    content: ModelDocument, folder: Path, pattern_node: str | None, start_from: str | None
) -> _Checked:
    """Read and build everything a launch needs, storing nothing."""
    from aiida.common.exceptions import NotExistent
    from aiida.orm import load_node

    from aiida_dse.data.jobs import built_from_nodes, nodes_of_document
    from aiida_dse.data.pattern import PatternData
    from aiida_dse.tasks.axis import check_axis
    from aiida_dse.workchains.refine import model_continued

    try:
        model, pattern, structures, traces = nodes_of_document(content, folder)
        if pattern_node is not None:
            pattern = load_node(pattern_node)
            if not isinstance(pattern, PatternData):
                fail(f"node {pattern_node} is a {type(pattern).__name__}, not a dse.pattern; "
                      "see 'verdi data dse pattern list'")
        start = None if start_from is None else _result_of(start_from)
        if start is not None:
            model = model_continued(model, start.get_dict())
        built = built_from_nodes(model, pattern, structures, traces)
        remark = check_axis(built)
    except (DocumentError, ValueError, OSError) as problem:
        fail(str(problem))
    except NotExistent:
        fail(f"there is no node '{pattern_node}'")
    if remark:
        click.echo(f"note: {remark}")
    return _Checked(content, model, pattern, structures, traces, start, built)


def _inputs(
    checked: _Checked, code_label: str, walltime: int | None, threads: int | None,
    otherwise: int | None = None, protocol_walltime: int | None = None,
) -> dict[str, Any]:
    """The inputs of an engine job; data that the database holds already enter it once.

    `otherwise` and `protocol_walltime`: threads and walltime where neither the launch nor the
    computer's set-up tells.
    """
    from aiida.orm import Dict

    from aiida_dse.workchains.refine import continued_model

    inputs = job_inputs(code_label, walltime, threads, otherwise, protocol_walltime) | {
        "structures": {name: stored_twin(node) for name, node in checked.structures.items()},
    }
    if checked.pattern is not None:
        inputs["pattern"] = stored_twin(checked.pattern)
    if checked.traces:
        inputs["traces"] = {name: stored_twin(node) for name, node in checked.traces.items()}
    # the values of an earlier analysis enter through a calcfunction: the graph shows where from
    inputs["model"] = (
        Dict(checked.model) if checked.start is None
        else continued_model(Dict(checked.content.canonical()), checked.start)
    )
    return inputs


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
    from .showing import analysis_outputs

    node, result, _ = analysis_outputs(identifier)
    if result is None:
        fail(f"{node.process_label}<{node.pk}> has no result to start from")
    return result


def stored_twin(node: Any) -> Any:
    """The node already in the database with the same content, so that data enter it once."""
    from aiida.orm import CifData, QueryBuilder

    from aiida_dse.data.pattern import PatternData

    if node.is_stored:
        return node
    key = {PatternData: "content_sha256", CifData: "md5"}.get(type(node))
    if key is None:
        return node
    query = QueryBuilder().append(
        type(node), filters={f"attributes.{key}": node.base.attributes.get(key)}
    )
    found = query.first(flat=True)
    return node if found is None else found


def _daemon_must_run() -> None:
    from aiida.engine.daemon.client import get_daemon_client
    from aiida.manage import get_manager

    if not get_daemon_client().is_daemon_running:
        profile = get_manager().get_profile()
        name = f"-p {profile.name} " if profile else ""
        fail("the daemon is not running, so nothing would start. Start it with "
              f"'verdi {name}daemon start' and launch again")


def _title(document: ModelDocument) -> tuple[str, list[str | None]]:
    """The label of a process and the samples it is about."""
    return document.title or document.sample.name or "", [document.sample.name]


def _dry_run(built: Any) -> None:
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
