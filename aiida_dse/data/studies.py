"""Reading of a study into checked models of its samples, maps and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiida_dse.documents import DocumentError, ModelDocument, StudyDocument

from .jobs import CheckedModel, ModelNodes, nodes_of_document

#: Applies a protocol to a model document and checks it in full; raises ValueError.
Check = Callable[[ModelDocument, ModelNodes], CheckedModel]


@dataclass
class ReadStudy:
    """The checked models of a study; `left_out` contains the reasons why samples cannot run."""

    document: StudyDocument
    samples: dict[str, CheckedModel] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    maps: dict[str, CheckedModel] = field(default_factory=dict)
    compare: dict[str, dict[str, CheckedModel]] = field(default_factory=dict)

    def members_of(self, series: str) -> dict[str, CheckedModel]:
        """The samples of a series that can run."""
        return {name: self.samples[name] for name in self.document.members_of(series)
                if name in self.samples}

    def left_out_of(self, series: str) -> dict[str, str]:
        """The samples of a series that cannot run, with the reasons."""
        members = self.document.members_of(series)
        return {name: why for name, why in self.left_out.items() if name in members}


def read_study(
    document: StudyDocument, folder: Path, *, sample: Check, map_: Check
) -> ReadStudy:
    """Read and check all files; `sample` checks a refinement and `map_` a GoF map.

    An unreadable sample is left out if it belongs only to series that skip failures. Any other
    problem raises DocumentError.
    """
    found = ReadStudy(document)
    for name in document.samples:
        try:
            found.samples[name] = _read(document.document_of(name), folder, sample)
        except (ValueError, OSError) as problem:
            found.left_out[name] = str(problem)
    _require_reasons_to_go_on(document, found)
    for name, part in document.named_maps().items():
        own = _sample(found, part.sample, f"maps.{name}")
        try:
            found.maps[name] = map_(document.map_document(name), own.nodes)
        except ValueError as problem:
            raise DocumentError(f"maps.{name}: {problem}") from None
    for name, one in document.named_comparisons().items():
        _sample(found, one.sample, f"compare.{name}")
        found.compare[name] = {}
        for model, content in document.compared_documents(name).items():
            try:
                found.compare[name][model] = _read(content, folder, sample)
            except (ValueError, OSError) as problem:
                raise DocumentError(f"compare.{name}.models.{model}: {problem}") from None
    return found


def _read(document: ModelDocument, folder: Path, check: Check) -> CheckedModel:
    return check(document, nodes_of_document(document, folder))


def _sample(read: ReadStudy, name: str, place: str) -> CheckedModel:
    if name not in read.samples:
        raise DocumentError(f"{place}: the sample '{name}' cannot be read: {read.left_out[name]}")
    return read.samples[name]


def _require_reasons_to_go_on(document: StudyDocument, read: ReadStudy) -> None:
    """Raise DocumentError unless all samples left out belong to series that skip failures."""
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
