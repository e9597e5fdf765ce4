"""The classes Model and Background for notebooks, and the documents and data made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from aiida_dse.documents import ModelDocument, parse_document
from aiida_dse.documents.continuation import model_continued
from aiida_dse.documents.records import Summary
from aiida_dse.engine.model.phase import TOLERANCE
from aiida_dse.engine.resources import Resources
from aiida_dse.io.patterns import MeasuredPattern
from aiida_dse.io.results import plain
from aiida_dse.tasks.build import BuiltModel, build
from aiida_dse.tasks.sources import MemorySource

from .pattern import Pattern
from .phase import Phase

#: File names of the pattern and of the document.
PATTERN_FILE, DOCUMENT_FILE = "pattern.xye", "model.yaml"


@dataclass(frozen=True, eq=False)
class Background:
    """Background terms, whose coefficients are solved linearly in every evaluation.

    chebyshev: number of Chebyshev terms over the range in 2theta (1 is a constant); inverse_q:
    powers p of 1/q^p (4 is Porod's law); blanks: measured patterns of solvent, capillary or air by
    name, each with a scale >= 0.
    """

    chebyshev: int = 0
    inverse_q: Sequence[int] = ()
    blanks: Mapping[str, Pattern] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model:
    """Phases, background, starting values, constraints and restraints of a pattern.

    phases: one or several; background: a Background, or the number of Chebyshev terms.
    parameters: starting values by name ('CsPbBr3.Br_eq.B_iso'), each a number or a mapping with
    'value', 'lower' and 'upper'; constraints: parameter -> arithmetic expression in others;
    restraints: mappings as in documents ({"distance": ("Pb", "Br_eq"), "target": 2.98,
    "sigma": 0.02}); scales: phase -> fixed scale, which is otherwise solved; tolerance: relative
    error of the contribution of one distance at q_max; title and sample are copied to the results.
    Raises ValueError if two phases have the same name.
    """

    phases: Phase | Sequence[Phase]
    _: KW_ONLY
    background: Background | int = 0
    parameters: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    constraints: Mapping[str, str] = field(default_factory=dict)
    restraints: Sequence[Mapping[str, Any] | BaseModel] = ()
    scales: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    title: str = ""
    sample: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.all_phases]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two phases are called '{name}'; rename one of them.")

    @property
    def all_phases(self) -> tuple[Phase, ...]:
        """The phases in order."""
        return (self.phases,) if isinstance(self.phases, Phase) else tuple(self.phases)

    @property
    def blanks(self) -> Mapping[str, Pattern]:
        """The blanks by name."""
        return {} if isinstance(self.background, int) else self.background.blanks

    def continued(self, summary: Summary) -> Model:
        """The model with the values of a result as starting values."""
        start = model_continued({"parameters": plain(self.parameters)}, summary)
        return replace(self, parameters=start["parameters"])

    def content(self) -> dict[str, Any]:
        """The sections of the document; files are named after phases and blanks."""
        back = self.background
        if isinstance(back, int):
            back = Background(chebyshev=back)
        content: dict[str, Any] = {
            "title": self.title, "sample": self.sample, "parameters": self.parameters,
            "constraints": self.constraints, "scales": self.scales, "tolerance": self.tolerance,
            "restraints": [as_section(one) for one in self.restraints],
            "background": {
                "chebyshev": back.chebyshev, "inverse_q": back.inverse_q,
                "blanks": {name: blank.curve(blank_file(name))
                           for name, blank in back.blanks.items()},
            },
            "phases": {phase.name: phase.content() for phase in self.all_phases},
            "derived": {phase.name: phase.derived for phase in self.all_phases if phase.derived},
        }
        return dict(plain(content))


def as_model(model: Model | Phase) -> Model:
    """The model, or the model of a single phase without a background."""
    return model if isinstance(model, Model) else Model(model)


def as_section(given: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    """The plain values of a section of a document."""
    if isinstance(given, BaseModel):
        return given.model_dump(mode="json", exclude_defaults=True)
    return dict(plain(given))


def blank_file(name: str) -> str:
    """The name of the file of a blank."""
    return f"blank_{name}.xye"


@dataclass(frozen=True, eq=False)
class Inputs:
    """A document with its data in memory, the input of a task.

    texts: file name -> content.
    """

    document: ModelDocument
    source: MemorySource
    texts: Mapping[str, bytes]

    def built(self, threads: int | None = None) -> BuiltModel:
        """Build the forward model. Raises DocumentError with the key and the reason.

        threads: number of threads; None: from the environment, as for the command.
        """
        return build(self.document, self.source, resources=Resources.from_environment(threads))

    def write(self, folder: str | Path) -> Path:
        """Write the document and its files, and return the path of the document.

        Raises ValueError if the folder contains one of these files already.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        taken = [name for name in (*self.texts, DOCUMENT_FILE) if (place / name).exists()]
        if taken:
            raise ValueError(f"{place} already contains {', '.join(taken)}; nothing was written. "
                             "Choose another folder, or remove these files.")
        for name, text in self.texts.items():
            (place / name).write_bytes(text)
        content = yaml.safe_dump(self.document.canonical(), sort_keys=False, allow_unicode=True)
        (place / DOCUMENT_FILE).write_text(content, encoding="utf-8")
        return place / DOCUMENT_FILE


def inputs_of(
    model: Model, pattern: Pattern, *, refinement: Mapping[str, Any] | None = None,
    scan: Mapping[str, Any] | None = None,
) -> Inputs:
    """The document and data of a measured pattern. Raises DocumentError."""
    patterns = {PATTERN_FILE: pattern}
    patterns |= {blank_file(name): blank for name, blank in model.blanks.items()}
    tasks = {"refinement": refinement, "scan": scan}
    content = {"pattern": pattern.content(PATTERN_FILE)} | model.content()
    content |= {key: plain(plan) for key, plan in tasks.items() if plan is not None}
    return _inputs(model, content, {name: one.measured for name, one in patterns.items()},
                   {name: one.text for name, one in patterns.items()})


def simulated_inputs(
    model: Model, pattern: Mapping[str, Any], axis: MeasuredPattern | None
) -> Inputs:
    """The document and data of a simulation. Raises DocumentError.

    axis: the points, or None if the section `pattern` has a grid.
    """
    content = {"pattern": plain(pattern)} | model.content() | {"background": {}}
    if axis is None:
        return _inputs(model, content, {}, {})
    return _inputs(model, content, {PATTERN_FILE: axis}, {PATTERN_FILE: axis.q.tobytes()})


def _inputs(
    model: Model, content: Mapping[str, Any], patterns: Mapping[str, MeasuredPattern],
    texts: Mapping[str, bytes],
) -> Inputs:
    texts = {**texts, **{phase.file: phase.text for phase in model.all_phases}}
    structures = {phase.file: phase.structure for phase in model.all_phases}
    sums = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    source = MemorySource(patterns, structures, sums)
    return Inputs(parse_document(content), source, texts)
