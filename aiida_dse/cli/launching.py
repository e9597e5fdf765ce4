"""Submission: everything is checked before a node is stored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

import click

from aiida_dse.documents import DocumentError, ModelDocument, load_document


def launch_refinement(
    document: Path, code_label: str, pattern_node: str | None, walltime: int | None,
    threads: int | None, dry_run: bool, wait: bool,
) -> None:
    from aiida.orm import Dict

    from aiida_dse.workchains.refine import RefineWorkChain

    model, inputs, built = _inputs(document, code_label, pattern_node, walltime, threads)
    if dry_run:
        _dry_run(built)
        return
    inputs["model"] = Dict(model)
    _submit(RefineWorkChain, {"refine": inputs}, built.document, wait)


def launch_map(
    document: Path, code_label: str, pattern_node: str | None, walltime: int | None,
    threads: int | None, dry_run: bool, wait: bool, max_concurrent: int, tile_seconds: float,
) -> None:
    from aiida.orm import Dict, Float, Int

    from aiida_dse.tasks.estimate import seconds_per_point
    from aiida_dse.workchains.grid_search import GridSearchWorkChain

    model, inputs, built = _inputs(document, code_label, pattern_node, walltime, threads or 1)
    if built.document.scan is None:
        _fail("scan: this key is missing; add it with its 'axes' to launch a grid search")
    cost = round(seconds_per_point(built), 4)
    points = math.prod(len(axis.values) for axis in built.axes)
    click.echo(f"{points:,} grid points, about {cost * 1e3:.1f} ms for each that moves distances")
    if dry_run:
        _dry_run(built)
        return
    inputs["model"] = Dict(model)
    _submit(
        GridSearchWorkChain,
        {"scan": inputs, "max_concurrent": Int(max_concurrent),
         "tile_seconds": Float(tile_seconds), "seconds_per_point": Float(cost)},
        built.document, wait,
    )


def _inputs(
    document: Path, code_label: str, pattern_node: str | None, walltime: int | None,
    threads: int | None,
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Canonical document, inputs (unstored nodes) and the checked model."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code, load_node

    from aiida_dse.data.jobs import built_from_nodes, nodes_of_document
    from aiida_dse.data.pattern import PatternData

    try:
        content = load_document(document)
        model, pattern, structures, traces = nodes_of_document(content, document.parent)
        if pattern_node is not None:
            pattern = load_node(pattern_node)
            if not isinstance(pattern, PatternData):
                _fail(f"node {pattern_node} is a {type(pattern).__name__}, not a dse.pattern; "
                      "see 'verdi data dse pattern list'")
        built = built_from_nodes(model, pattern, structures, traces)
    except (DocumentError, ValueError, OSError) as problem:
        _fail(str(problem))
    except NotExistent:
        _fail(f"there is no node '{pattern_node}'")
    try:
        code = load_code(code_label)
    except (NotExistent, MultipleObjectsError, ValueError) as problem:
        _fail(f"the code '{code_label}' cannot be used ({problem}). Make it with 'aiida-dse setup' "
              "or name another with --code")
    _daemon_must_run()
    resources: dict[str, int] = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
    if threads:
        resources["num_cores_per_mpiproc"] = threads
    options: dict[str, Any] = {"resources": resources}
    if walltime:
        options["max_wallclock_seconds"] = walltime
    inputs = {"code": code, "structures": structures, "metadata": {"options": options}}
    if pattern is not None:
        inputs["pattern"] = _stored_twin(pattern)
    if traces:
        inputs["traces"] = {name: _stored_twin(node) for name, node in traces.items()}
    inputs["structures"] = {name: _stored_twin(node) for name, node in structures.items()}
    return model, inputs, built


def _stored_twin(node: Any) -> Any:
    """The node already in the database with the same content, so that data enter it once."""
    from aiida.orm import QueryBuilder

    if node.is_stored:
        return node
    twins = QueryBuilder().append(
        type(node), filters={"extras._aiida_hash": node.base.caching.compute_hash()}
    )
    found = twins.first(flat=True)
    return node if found is None else found


def _daemon_must_run() -> None:
    from aiida.engine.daemon.client import get_daemon_client

    if not get_daemon_client().is_daemon_running:
        _fail("the daemon is not running, so nothing would start. Start it with 'verdi daemon "
              "start' and launch again")


def _dry_run(built: Any) -> None:
    from aiida_dse.report.tables import validation_report

    click.echo(validation_report(built))
    click.echo("Dry run: nothing was stored or submitted.")


def _submit(process: Any, inputs: dict[str, Any], document: ModelDocument, wait: bool) -> None:
    from aiida.engine import submit

    from .showing import print_analysis

    title = document.title or document.sample.name or ""
    inputs["metadata"] = {"label": title}
    node = submit(process, **inputs)
    click.echo(f"submitted {process.__name__}<{node.pk}>")
    if not wait:
        click.echo(f"follow it with 'verdi process status {node.pk}', then "
                   f"'aiida-dse show {node.pk}'")
        return
    wait_for(node)
    print_analysis(str(node.pk))
    if not node.is_finished_ok:
        raise SystemExit(1)


def wait_for(node: Any, interval: float = 0.5) -> None:
    """Block until a process has ended, showing its state on a terminal."""
    import sys
    import time

    begin = time.monotonic()
    while not node.is_terminated:
        time.sleep(interval)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{node.process_label}<{node.pk}> "
                             f"{time.monotonic() - begin:.0f} s")
            sys.stderr.flush()
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def _fail(message: str) -> NoReturn:
    raise click.ClickException(f"{message}. Nothing was submitted.".replace("..", "."))
