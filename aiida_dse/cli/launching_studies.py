"""Submission of studies and of single series, as described by study documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiida_dse.documents import StudyDocument, load_study

from .submission import (
    Settings,
    builder_of,
    fail,
    print_remarks,
    refusing,
    speed_for,
    submit_builder,
)
from .terminal import echo


def launch_study(
    document: Path, settings: Settings, max_concurrent: int | None = None
) -> int | None:
    """Submit dse.study and return the PK of the work chain (None for a dry run)."""
    from aiida_dse.workchains.study import StudyWorkChain

    overrides = _overrides(max_concurrent)
    read = _read(_load(document), document.parent, settings, overrides)
    if settings.dry_run:
        echo("Dry run: nothing was stored or submitted.")
        return None
    builder = builder_of(StudyWorkChain, settings, read, overrides=overrides)
    return submit_builder(builder, (), settings.wait)


def launch_series(
    document: Path, settings: Settings, series: str | None = None,
    max_concurrent: int | None = None,
) -> int | None:
    """Submit one series of a study document and return its PK (None for a dry run)."""
    from aiida_dse.workchains.study import SERIES

    study = _load(document)
    known = ", ".join(study.series) or "none"
    if series is None and len(study.series) != 1:
        fail(f"{document} does not contain exactly one series (series: {known}). Specify one with "
             "--series")
    name = series or next(iter(study.series))
    if name not in study.series:
        fail(f"{document} does not contain a series '{name}' (series: {known})")
    one, members = study.series[name], study.members_of(name)
    overrides = _overrides(max_concurrent)
    read = _read(study.model_copy(update={
        "samples": {member: study.samples[member] for member in members},
        "series": {name: one}, "maps": (), "compare": (),
    }), document.parent, settings, overrides)
    if settings.dry_run:
        echo("Dry run: nothing was stored or submitted.")
        return None
    builder = builder_of(
        SERIES[one.kind], settings, read.members_of(name),
        one.options.model_dump(mode="json", exclude_unset=True), overrides=overrides, label=name,
        left_out=read.left_out)
    return submit_builder(builder, (), settings.wait)


def _load(document: Path) -> StudyDocument:
    with refusing():
        return load_study(document)


def _overrides(max_concurrent: int | None) -> dict[str, Any]:
    return {} if max_concurrent is None else {"max_concurrent": max_concurrent}


def _read(
    study: StudyDocument, folder: Path, settings: Settings, overrides: dict[str, Any]
) -> Any:
    """Read and check all parts of a study, and print its plan with the estimated cost."""
    from aiida_dse.report.study import plan_report
    from aiida_dse.tasks.estimate import stored_bytes
    from aiida_dse.workchains.study import StudyWorkChain

    with refusing():
        read = StudyWorkChain.read(study, folder, settings.protocol, overrides)
        jobs = StudyWorkChain.get_protocol_inputs(settings.protocol, overrides)["max_concurrent"]
    costs = _costs(read, *(speed_for(settings.code_label, task) for task in ("refine", "scan")))
    data = sum(stored_bytes(one.built) for one in read.samples.values())
    echo(plan_report(study, costs, data, jobs))
    for name, one in read.samples.items():
        print_remarks([f"{name}: {remark}" for remark in one.remarks])
    for name, why in read.left_out.items():
        echo(f"note: {name} is left out: {why}")
    return read


def _costs(read: Any, refining: float | None, scanning: float | None) -> dict[str, Any]:
    """The estimated cost of every step, from the core time (s) per distance of the tasks."""
    import math

    from aiida_dse.tasks.estimate import Estimate, estimate_refinement, seconds_of_map

    costs = {f"refine {name}": estimate_refinement(one.built, refining)
             for name, one in read.samples.items()}
    for name, one in read.maps.items():
        points = math.prod(one.built.grid.shape)
        costs[f"map {name}"] = Estimate(
            points, seconds_of_map(one.built, scanning), 40 * points + 20_000)
    for name, models in read.compare.items():
        sample = costs[f"refine {read.document.named_comparisons()[name].sample}"]
        n = len(models)
        costs[f"compare {name}"] = Estimate(
            n * sample.evaluations, n * sample.seconds, n * sample.bytes_stored)
    return costs
