"""Refinements, maps, uncertainties, comparisons, simultaneous refinements and stores: one launch each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from aiida_dse.documents import DocumentError, ModelDocument, load_simultaneous, parse_document

from .submission import (
    Checked,
    checked_document,
    fail,
    inputs_of,
    job_inputs,
    read_document,
    speed_for,
    submit_process,
    tell_dry_run,
    title_of,
    under_protocol,
)


def launch_refinement(document: Path, **options: Any) -> int | None:
    """Submit dse.refine; the PK of the work chain (None for a dry run)."""
    from aiida_dse.workchains.refine import RefineWorkChain

    return _launch_restarting(RefineWorkChain, "refine", document, **options)


def launch_build(document: Path, **options: Any) -> int | None:
    """Submit dse.build_model; the PK of the work chain (None for a dry run)."""
    from aiida_dse.workchains.build_model import BuildModelWorkChain

    return _launch_restarting(BuildModelWorkChain, "build", document, **options)


def _launch_restarting(
    process: Any, namespace: str, document: Path, *, code_label: str, pattern_node: str | None,
    walltime: int | None, threads: int | None, start_from: str | None, dry_run: bool, wait: bool,
    protocol: str,
) -> int | None:
    """Submit a work chain of one job and its restarts, whose inputs are in `namespace`."""
    from aiida.orm import Int

    from aiida_dse.tasks.distances import require_geometry

    content, settings = under_protocol(read_document(document), protocol)
    checked = checked_document(content, document.parent, pattern_node, start_from)
    if namespace == "build":
        try:
            require_geometry(checked.built)
        except ValueError as problem:
            fail(str(problem))
    if dry_run:
        tell_dry_run(checked.built)
        return None
    inputs = inputs_of(checked, code_label, walltime, threads,
                       protocol_walltime=settings["max_wallclock_seconds"])
    return submit_process(
        process, {namespace: inputs, "max_iterations": Int(settings["max_iterations"])},
        *title_of(checked.built.document), wait)


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

    content = read_document(document)
    if axes:
        content = _with_axes(content, axes, refine)
    elif refine:
        fail("--refine goes with --axis; without it, write 'refine' into the document's 'scan'")
    content, settings = under_protocol(content, protocol)
    checked = checked_document(content, document.parent, pattern_node, start_from)
    built = checked.built
    if built.document.scan is None:
        fail("scan: this key is missing; add it with its 'axes' to launch a grid search")
    cost = seconds_per_point(built, speed_for(code_label))
    points = math.prod(len(axis.values) for axis in built.axes)
    click.echo(f"{points:,} grid points, about {cost * 1e3:.1f} ms for each that moves distances")
    if dry_run:
        tell_dry_run(built)
        return None
    inputs = inputs_of(
        checked, code_label, walltime, threads, 1, settings["max_wallclock_seconds"])
    return submit_process(
        GridSearchWorkChain,
        {"scan": inputs, "max_concurrent": Int(max_concurrent),
         "tile_seconds": Float(tile_seconds or settings["tile_seconds"]),
         "seconds_per_point": Float(cost)},
        *title_of(built.document), wait,
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

    content, settings = under_protocol(read_document(document), protocol)
    finished = None if start_from is None else _to_go_on_with(
        content, document, pattern_node, start_from
    )
    if finished is None:
        checked = checked_document(content, document.parent, pattern_node, start_from)
    else:
        checked = finished[0]
        click.echo(f"going on with what {start_from} has finished")
    try:
        require_uncertainty(checked.built)
    except DocumentError as problem:
        fail(str(problem))
    if dry_run:
        tell_dry_run(checked.built)
        return None
    inputs = inputs_of(checked, code_label, walltime, threads,
                     protocol_walltime=settings["max_wallclock_seconds"])
    if finished is not None:
        inputs["finished"] = finished[1]
    return submit_process(UncertaintyCalculation, inputs, *title_of(checked.built.document), wait)


def _to_go_on_with(
    content: ModelDocument, document: Path, pattern_node: str | None, start_from: str
) -> tuple[Checked, dict[str, Any]] | None:
    """An earlier dse.uncertainty of the same refinement, to go on with; else None."""
    from aiida_dse.documents.migration import current_document
    from aiida_dse.tasks.summary import document_hash

    from .showing import analysis_result

    node, result = analysis_result(start_from)
    if node.process_type != "aiida.calculations:dse.uncertainty" or result is None:
        return None
    # its refinement must begin where it began, or the samples would be around another minimum
    start = current_document(node.inputs.model.get_dict()).get("parameters", {})
    again = parse_document(content.canonical() | {"parameters": start})
    checked = checked_document(again, document.parent, pattern_node, None)
    data = result.summary.data
    same = document_hash(checked.built.document) == result.summary.document_sha256
    if not same or data is None or checked.built.files != data.sha256:
        return None
    return checked, {"result": node.outputs.result, "arrays": node.outputs.arrays}


def launch_comparison(
    documents: tuple[Path, ...], code_label: str, pattern_node: str | None, walltime: int | None,
    threads: int | None, dry_run: bool, wait: bool, max_concurrent: int,
) -> int | None:
    """Submit dse.compare_models, a model for each document; its PK (None for a dry run)."""
    from aiida.orm import Dict, Int

    from aiida_dse.data.same_content import stored_node_of_same_content
    from aiida_dse.workchains.compare_models import CompareModelsWorkChain

    names = [path.stem.replace("-", "_") for path in documents]
    if len(names) < 2 or len(set(names)) < len(names):
        fail(f"the models would be called {', '.join(names)}: give at least two documents with "
              "different file names")
    checked = [checked_document(read_document(path), path.parent, pattern_node, None)
               for path in documents]
    first = checked[0]
    for name, other in zip(names, checked, strict=True):
        if other.pattern is None or not _same_content(first.pattern, other.pattern):
            fail(f"{name} and {names[0]} do not have the same pattern: models are compared on the "
                  "same data. Name the same file, axis, wavelength and sample in both, or give "
                  "--pattern")
        same = first.blanks.keys() == other.blanks.keys() and all(
            _same_content(blank, other.blanks[key]) for key, blank in first.blanks.items())
        if not same:
            fail(f"{name} and {names[0]} do not have the same blanks; give both the same solvent "
                  "and blank")
    if dry_run:
        for each in checked:
            tell_dry_run(each.built)
        return None
    inputs = inputs_of(first, code_label, walltime, threads, 1)
    del inputs["model"], inputs["structures"]
    return submit_process(
        CompareModelsWorkChain,
        {"refine": inputs, "max_concurrent": Int(max_concurrent),
         "models": {name: Dict(each.model) for name, each in zip(names, checked, strict=True)},
         "structures": {
             name: {phase: stored_node_of_same_content(node) for phase, node in each.structures.items()}
             for name, each in zip(names, checked, strict=True)}},
        *title_of(first.built.document), wait,
    )


def _same_content(one: Any, other: Any) -> bool:
    """Whether two pattern nodes hold the same measurement."""
    keys = [node.base.attributes.get("content_sha256", None) for node in (one, other)]
    return one.uuid == other.uuid or (keys[0] is not None and keys[0] == keys[1])


def launch_joint_refinement(
    document: Path, code_label: str, walltime: int | None, threads: int | None, dry_run: bool,
    wait: bool,
) -> int | None:
    """Submit dse.simultaneous; the PK of the job (None for a dry run)."""
    from aiida.orm import Dict

    from aiida_dse.calculations.engine import SimultaneousCalculation
    from aiida_dse.data.jobs import nodes_of_simultaneous, simultaneous_from_nodes
    from aiida_dse.data.same_content import stored_node_of_same_content
    from aiida_dse.report.simultaneous_tables import simultaneous_validation_report
    from aiida_dse.tasks.simultaneous import check_axes_of

    try:
        content = load_simultaneous(document)
        model, patterns, structures, blanks = nodes_of_simultaneous(content, document.parent)
        built = simultaneous_from_nodes(model, patterns, structures, blanks)
        remarks = check_axes_of(built)
    except (ValueError, OSError) as problem:
        fail(str(problem))
    for remark in remarks:
        click.echo(f"note: {remark}")
    if dry_run:
        click.echo(simultaneous_validation_report(built))
        click.echo("Dry run: nothing was stored or submitted.")
        return None
    inputs = job_inputs(code_label, walltime, threads) | {
        "model": Dict(model),
        "patterns": {name: stored_node_of_same_content(node) for name, node in patterns.items()},
        "structures": {name: stored_node_of_same_content(node) for name, node in structures.items()},
    }
    if blanks:
        inputs["blanks"] = {name: stored_node_of_same_content(node) for name, node in blanks.items()}
    samples = [one.sample.get("name") for one in content.patterns.values() if one.sample]
    return submit_process(SimultaneousCalculation, inputs, content.title, samples, wait)


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
