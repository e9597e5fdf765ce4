"""Launch of refinements, pair distances, maps, uncertainty analyses and comparisons."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from aiida_dse.documents import DocumentError, ModelDocument, load_simultaneous, parse_document

from .submission import (
    Settings,
    builder_of,
    fail,
    launch_model,
    nodes_of_files,
    print_dry_run,
    print_remarks,
    read_document,
    refusing,
    speed_for,
    submit_builder,
)
from .terminal import echo

#: Seconds on one core above which a map must be confirmed.
LONG_MAP = 3600.0


def launch_refinement(
    document: Path, settings: Settings, pattern_node: str | None = None,
    start_from: str | None = None,
) -> int | None:
    """Submit dse.refine and return the PK of the work chain (None for a dry run)."""
    from aiida_dse.workchains.refine import RefineWorkChain

    content = read_document(document)
    nodes = nodes_of_files(content, document.parent, pattern_node)
    return launch_model(RefineWorkChain, content, nodes, settings, start_from=start_from)


def launch_build(
    document: Path, settings: Settings, pattern_node: str | None = None,
    start_from: str | None = None,
) -> int | None:
    """Submit dse.build_model and return the PK of the work chain (None for a dry run)."""
    from aiida_dse.workchains.build_model import BuildModelWorkChain

    content = read_document(document)
    nodes = nodes_of_files(content, document.parent, pattern_node)
    return launch_model(BuildModelWorkChain, content, nodes, settings, start_from=start_from)


def launch_map(
    document: Path, settings: Settings, pattern_node: str | None = None,
    start_from: str | None = None, max_concurrent: int | None = None,
    tile_seconds: float | None = None, axes: tuple[str, ...] = (), refine: tuple[str, ...] = (),
    yes: bool = False,
) -> int | None:
    """Submit dse.grid_search and return the PK of the work chain (None for a dry run)."""
    from aiida_dse.report.understood import seconds_text
    from aiida_dse.tasks.estimate import expected_geometries, seconds_of_map, seconds_per_point
    from aiida_dse.workchains.grid_search import GridSearchWorkChain

    content = read_document(document)
    if axes:
        content = _with_axes(content, axes, refine)
    elif refine:
        fail("--refine requires --axis. Without --axis, specify 'refine' in the document's section "
             "'scan'")
    if content.scan is None:
        fail("scan: this section is missing. A grid search requires it; add it with its 'axes'")

    def describe(built: Any) -> None:
        speed = speed_for(settings.code_label, "scan")
        cost, total = seconds_per_point(built, speed), seconds_of_map(built, speed)
        points = math.prod(built.grid.shape)
        echo(f"{points:,} grid points, from the patterns of about {expected_geometries(built):,} geometries "
             f"of {cost * 1e3:.1f} ms each; about {seconds_text(total)} on one core in total")
        if total > LONG_MAP and not yes and not settings.dry_run:
            _ask(f"the map takes about {seconds_text(total)} on one core")

    given = {"max_concurrent": max_concurrent, "tile_seconds": tile_seconds}
    return launch_model(
        GridSearchWorkChain, content, nodes_of_files(content, document.parent, pattern_node),
        settings, start_from=start_from, describe=describe,
        overrides={key: value for key, value in given.items() if value is not None})


def _ask(why: str) -> None:
    """Ask on a terminal whether to submit; fail if the answer is no, or if nobody can answer."""
    import sys

    if not (sys.stdin.isatty() and click.confirm(f"{why[0].upper()}{why[1:]}. Submit it?")):
        fail(f"{why}. Use larger steps, or confirm with --yes")


def launch_uncertainty(
    document: Path, settings: Settings, pattern_node: str | None = None,
    start_from: str | None = None,
) -> int | None:
    """Submit dse.uncertainty and return the PK of the work chain (None for a dry run).

    If `start_from` is an earlier dse.uncertainty of the same refinement, its finished parts are
    not computed again.
    """
    from aiida_dse.workchains.uncertainty import UncertaintyWorkChain

    content = read_document(document)
    nodes = nodes_of_files(content, document.parent, pattern_node)
    found = None if start_from is None else _unfinished(content, nodes, settings, start_from)
    if found is None:
        return launch_model(UncertaintyWorkChain, content, nodes, settings, start_from=start_from)
    content, finished = found
    echo(f"continuing from the finished parts of {start_from}")

    def complete(builder: Any) -> None:
        builder.uncertainty.finished = finished

    return launch_model(UncertaintyWorkChain, content, nodes, settings, complete=complete)


def _unfinished(
    content: ModelDocument, nodes: Any, settings: Settings, start_from: str
) -> tuple[ModelDocument, dict[str, Any]] | None:
    """The document and outputs of an earlier dse.uncertainty of the same refinement; else None."""
    from aiida_dse.documents.migration import current_document
    from aiida_dse.documents.status import Task
    from aiida_dse.tasks.summary import document_hash
    from aiida_dse.workchains.uncertainty import UncertaintyWorkChain

    from .showing import analysis_result

    node, result = analysis_result(start_from)
    if result is None or result.task is not Task.UNCERTAINTY or "arrays" not in node.outputs:
        return None
    # start the refinement at the same values; otherwise the samples could belong to another minimum
    job = node.outputs.result.creator
    start = current_document(job.inputs.model.get_dict()).get("parameters", {})
    again = parse_document(content.canonical() | {"parameters": start})
    with refusing():
        built = UncertaintyWorkChain.checked(again, nodes, settings.protocol).built
    data = result.summary.data
    same = document_hash(built.document) == result.summary.document_sha256
    if not same or data is None or built.files != data.sha256:
        return None
    return again, {"result": node.outputs.result, "arrays": node.outputs.arrays}


def launch_comparison(
    documents: tuple[Path, ...], settings: Settings, pattern_node: str | None = None,
    max_concurrent: int | None = None,
) -> int | None:
    """Submit dse.compare_models with one model per document; its PK (None for a dry run)."""
    from aiida_dse.workchains.compare_models import CompareModelsWorkChain
    from aiida_dse.workchains.refine import RefineWorkChain

    names = [path.stem.replace("-", "_") for path in documents]
    if len(names) < 2 or len(set(names)) < len(names):
        fail(f"the models would be named {', '.join(names)}. A comparison requires at least two "
             "documents with different file names")
    read = {name: read_document(path) for name, path in zip(names, documents, strict=True)}
    data = {name: nodes_of_files(read[name], path.parent, pattern_node)
            for name, path in zip(names, documents, strict=True)}
    first = data[names[0]]
    for name, other in data.items():
        if other.pattern is None or not _same_content(first.pattern, other.pattern):
            fail(f"{name} and {names[0]} do not have the same pattern, but models can be compared "
                 "only for the same data. Specify the same file, axis, wavelength and sample in "
                 "both documents, or use --pattern")
        same = first.blanks.keys() == other.blanks.keys() and all(
            _same_content(blank, other.blanks[key]) for key, blank in first.blanks.items())
        if not same:
            fail(f"{name} and {names[0]} do not have the same blanks. Specify the same blanks in "
                 "both documents")
    for name, document in read.items():
        with refusing():
            checked = RefineWorkChain.checked(document, data[name], settings.protocol)
        print_remarks([f"{name}: {remark}" for remark in checked.remarks])
        if settings.dry_run:
            print_dry_run(checked.built)
    if settings.dry_run:
        return None
    builder = builder_of(
        CompareModelsWorkChain, settings, read, first.pattern,
        {name: nodes.structures for name, nodes in data.items()}, first.blanks,
        overrides={} if max_concurrent is None else {"max_concurrent": max_concurrent})
    return submit_builder(builder, [read[names[0]].sample.name], settings.wait)


def _same_content(one: Any, other: Any) -> bool:
    """Whether two pattern nodes contain the same measurement."""
    if one is None or other is None:
        return False
    keys = [node.base.attributes.get("content_sha256", None) for node in (one, other)]
    return one.uuid == other.uuid or (keys[0] is not None and keys[0] == keys[1])


def launch_simultaneous(
    document: Path, settings: Settings, start_from: str | None = None
) -> int | None:
    """Submit dse.simultaneous and return the PK of the work chain (None for a dry run)."""
    from aiida_dse.data.jobs import nodes_of_simultaneous
    from aiida_dse.report.simultaneous_tables import simultaneous_validation_report
    from aiida_dse.workchains.refine import SimultaneousWorkChain

    from .submission import result_node

    start = None if start_from is None else result_node(start_from)
    with refusing():
        content = load_simultaneous(document)
        patterns, nodes = nodes_of_simultaneous(content, document.parent)
        _, built, remarks = SimultaneousWorkChain.checked_patterns(
            content, patterns, nodes, settings.protocol, None, start)
    print_remarks(remarks)
    if settings.dry_run:
        echo(simultaneous_validation_report(built))
        echo("Dry run: nothing was stored or submitted.")
        return None
    builder = builder_of(SimultaneousWorkChain, settings, content, patterns, nodes.structures,
                         nodes.blanks, start_from=start)
    samples = [one.sample.get("name") for one in content.patterns.values() if one.sample]
    return submit_builder(builder, samples, settings.wait)


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
            fail(f"--axis {text}: the form is not NAME=START:STOP:STEP, as in "
                 "CsPbBr3.a=8.16:8.26:0.01")
        found.append({"parameter": name.strip(), "start": start, "stop": stop, "step": step})
    content = document.canonical() | {"scan": {"axes": found, "refine": list(refine)}}
    try:
        return parse_document(content)
    except DocumentError as problem:
        fail(str(problem))
