"""From a study document and its files to nodes: every sample, map and comparison, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiida.orm import Dict

from aiida_dse.documents import DocumentError, ModelDocument, StudyDocument
from aiida_dse.engine.fit.freedom import check_freedom
from aiida_dse.tasks.build import BuiltModel
from aiida_dse.tasks.estimate import seconds_per_point
from aiida_dse.tasks.peak_positions import check_axis

from .jobs import built_from_nodes, nodes_of_document
from .same_content import NodesByContent


@dataclass(frozen=True)
class ReadSample:
    """A sample that can be refined: the inputs of its job and its forward model."""

    member: dict[str, Any]  # model (plain), pattern, structures, blanks
    built: BuiltModel
    remark: str | None


@dataclass
class ReadStudy:
    """What of a study can run; `left_out`: samples that cannot, with the reason."""

    samples: dict[str, ReadSample] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    maps: dict[str, tuple[dict[str, Any], BuiltModel]] = field(default_factory=dict)
    compare: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


def read_study(
    document: StudyDocument, folder: Path, prepare: Callable[[ModelDocument], ModelDocument]
) -> ReadStudy:
    """Read and check all files; `prepare` is what a protocol does to a model document.

    A sample of a series that skips failures may be unreadable and is left out. Raises
    DocumentError for anything else.
    """
    found = ReadStudy()
    for name in document.samples:
        try:
            member, built = _member(prepare(document.document_of(name)), folder)
            remark = check_axis(built)
            check_freedom(built.model, built.stages)
            found.samples[name] = ReadSample(member, built, remark)
        except (ValueError, OSError) as problem:
            found.left_out[name] = str(problem)
    _require_reasons_to_go_on(document, found)
    for name, part in document.named_maps().items():
        sample = _sample(found, part.sample, f"maps.{name}")
        try:
            content = prepare(document.map_document(name)).canonical()
            found.maps[name] = content, _built({**sample.member, "model": content})
        except ValueError as problem:
            raise DocumentError(f"maps.{name}: {problem}") from None
    for name, one in document.named_comparisons().items():
        _sample(found, one.sample, f"compare.{name}")
        found.compare[name] = {}
        for model, content in document.compared_documents(name).items():
            try:
                found.compare[name][model], _ = _member(prepare(content), folder)
            except (ValueError, OSError) as problem:
                raise DocumentError(f"compare.{name}.models.{model}: {problem}") from None
    return found


def study_inputs(
    study: StudyDocument, read: ReadStudy, speed: float | None = None
) -> dict[str, Any]:
    """The inputs of dse.study that follow from its document; data stored before are used again.

    speed: seconds for a distance on the computer of the code.
    """
    nodes_by_content = NodesByContent()
    plan: dict[str, Any] = {
        "series": {name: {"kind": one.kind, "samples": list(study.members_of(name)),
                          "options": one.options.model_dump(mode="json", exclude_unset=True)}
                   for name, one in study.series.items()},
        "maps": {name: {"sample": part.sample,
                        "seconds_per_point": seconds_per_point(read.maps[name][1], speed)}
                 for name, part in study.named_maps().items()},
        "compare": {name: part.sample for name, part in study.named_comparisons().items()},
    }
    inputs: dict[str, Any] = {
        "samples": nodes_by_content.members({name: one.member for name, one in read.samples.items()}),
        "plan": Dict({key: value for key, value in plan.items() if value}),
    }
    if read.maps:
        inputs["maps"] = {name: Dict(content) for name, (content, _) in read.maps.items()}
    if read.compare:
        inputs["compare"] = {
            name: {"models": {model: Dict(one["model"]) for model, one in models.items()},
                   "structures": {model: nodes_by_content.each(one["structures"])
                                  for model, one in models.items()}}
            for name, models in read.compare.items()
        }
    if read.left_out:
        inputs["left_out"] = Dict(read.left_out)
    return inputs


def members_of(read: ReadStudy, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The inputs of those samples that can run."""
    return {name: read.samples[name].member for name in names if name in read.samples}


def _member(document: ModelDocument, folder: Path) -> tuple[dict[str, Any], BuiltModel]:
    model, pattern, structures, blanks = nodes_of_document(document, folder)
    member = {"model": model, "pattern": pattern, "structures": structures}
    if blanks:
        member["blanks"] = blanks
    return member, _built(member)


def _built(member: Mapping[str, Any]) -> BuiltModel:
    return built_from_nodes(member["model"], member["pattern"], member["structures"],
                            member.get("blanks", {}))


def _sample(read: ReadStudy, name: str, place: str) -> ReadSample:
    if name not in read.samples:
        raise DocumentError(f"{place}: the sample {name} cannot be read: {read.left_out[name]}")
    return read.samples[name]


def _require_reasons_to_go_on(document: StudyDocument, read: ReadStudy) -> None:
    """Raise DocumentError unless what was left out belongs to series that go on without it."""
    alone = document.alone()
    wrong = {name for name in read.left_out if name in alone}
    for name, series in document.series.items():
        members = document.members_of(name)
        lost = {member for member in members if member in read.left_out}
        if series.options.on_failure == "stop" or len(members) - len(lost) < 2:
            wrong |= lost
    if wrong:
        raise DocumentError("\n".join(
            f"samples.{name}: {why}" for name, why in read.left_out.items() if name in wrong))
