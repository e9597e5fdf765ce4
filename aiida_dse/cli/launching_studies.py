"""Submission of series and studies, each one a study document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aiida_dse.documents import DocumentError, StudyDocument, load_study

from .submission import fail, job_inputs, speed_for, submit_process


def launch_study(
    document: Path, code_label: str, walltime: int | None, threads: int | None, dry_run: bool,
    wait: bool, protocol: str, max_concurrent: int | None,
) -> int | None:
    """Submit dse.study; the PK of the work chain (None for a dry run)."""
    from aiida.orm import Float

    from aiida_dse.data.studies import study_inputs
    from aiida_dse.workchains.study import StudyWorkChain

    study, read, settings = _read(document, protocol, max_concurrent)
    speed = speed_for(code_label)
    _tell(study, read, settings, speed)
    if dry_run:
        click.echo("Dry run: nothing was stored or submitted.")
        return None
    inputs = _common(code_label, walltime, threads, settings) | study_inputs(study, read, speed) | {
        "tile_seconds": Float(settings["tile_seconds"])}
    return submit_process(StudyWorkChain, inputs, study.name, (), wait)


def launch_series(
    document: Path, series: str | None, code_label: str, walltime: int | None,
    threads: int | None, dry_run: bool, wait: bool, protocol: str, max_concurrent: int | None,
) -> int | None:
    """Submit one series of a study document; the PK of the work chain (None for a dry run)."""
    from aiida.orm import Dict

    from aiida_dse.data.same_content import NodesByContent
    from aiida_dse.data.studies import members_of
    from aiida_dse.workchains.study import SERIES

    study = _load(document)
    known = ", ".join(study.series) or "none"
    if series is None and len(study.series) != 1:
        fail(f"{document} has several series or none ({known}); say which with --series")
    name = series or next(iter(study.series))
    if name not in study.series:
        fail(f"{document} has no series '{name}'; it has {known}")
    one, members = study.series[name], study.members_of(name)
    study = study.model_copy(update={
        "samples": {member: study.samples[member] for member in members},
        "series": {name: one}, "maps": (), "compare": (),
    })
    study, read, settings = _read(document, protocol, max_concurrent, study)
    _tell(study, read, settings, speed_for(code_label))
    if dry_run:
        click.echo("Dry run: nothing was stored or submitted.")
        return None
    inputs = _common(code_label, walltime, threads, settings) | {
        "members": NodesByContent().members(members_of(read, members)),
        "options": Dict(one.options.model_dump(mode="json", exclude_unset=True)),
    }
    if read.left_out:
        inputs["left_out"] = Dict(read.left_out)
    return submit_process(SERIES[one.kind], inputs, name, (), wait)


def _load(document: Path) -> StudyDocument:
    try:
        return load_study(document)
    except DocumentError as problem:
        fail(str(problem))


def _read(
    document: Path, protocol: str, max_concurrent: int | None, study: StudyDocument | None = None
) -> Any:
    """Document, what was read of it, and the settings; nothing is stored."""
    from aiida_dse.data.studies import read_study
    from aiida_dse.workchains.protocol import read_protocol, with_protocol

    study = study or _load(document)
    try:
        settings = read_protocol(
            protocol, {"max_concurrent": max_concurrent} if max_concurrent else None)
        read = read_study(study, document.parent, lambda model: with_protocol(model, settings))
    except (ValueError, OSError) as problem:
        fail(str(problem))
    return study, read, settings


def _common(
    code_label: str, walltime: int | None, threads: int | None, settings: dict[str, Any]
) -> dict[str, Any]:
    from aiida.orm import Int

    job = job_inputs(code_label, walltime, threads, 1, settings["max_wallclock_seconds"])
    return {"refine": job, "max_concurrent": Int(settings["max_concurrent"]),
            "max_iterations": Int(settings["max_iterations"])}


def _tell(
    study: StudyDocument, read: Any, settings: dict[str, Any], speed: float | None
) -> None:
    """What would run, with its estimated cost."""
    import math

    from aiida_dse.report.study import plan_report
    from aiida_dse.tasks.estimate import (
        Estimate,
        estimate_refinement,
        seconds_per_point,
        stored_bytes,
    )

    costs = {f"refine {name}": estimate_refinement(one.built, speed)
             for name, one in read.samples.items()}
    for name, (_, built) in read.maps.items():
        points = math.prod(built.grid.shape)
        outer = math.prod(n for k, n in enumerate(built.grid.shape) if k not in built.grid.inner)
        costs[f"map {name}"] = Estimate(
            points, seconds_per_point(built, speed) * outer, 40 * points + 20_000)
    for name, models in read.compare.items():
        one = costs[f"refine {study.named_comparisons()[name].sample}"]
        n = len(models)
        costs[f"compare {name}"] = Estimate(n * one.evaluations, n * one.seconds,
                                            n * one.bytes_stored)
    data = sum(stored_bytes(one.built) for one in read.samples.values())
    click.echo(plan_report(study, costs, data, settings["max_concurrent"]))
    for name, one in read.samples.items():
        if one.remark:
            click.echo(f"note: {name}: {one.remark}")
    for name, why in read.left_out.items():
        click.echo(f"note: {name} is left out: {why}")
