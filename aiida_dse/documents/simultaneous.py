"""The simultaneous document: several patterns of one model with shared parameters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from aiida_dse.sections import Expression, Finite, Name, Section

from .migration import current_document
from .model import ModelDocument
from .plans import RefinementPlan, Start
from .reading import DocumentError, below_folder, naming, parse_document, read_content, validated

SIMULTANEOUS_SCHEMA = "aiida-dse/simultaneous/2"
#: Names of the parameters of parametric constraints: 'global.something'.
GLOBAL_PARAMETER = r"^global\.[A-Za-z_]\w*$"


class SimultaneousPattern(Section):
    """One pattern of a simultaneous refinement, whose keys override those of the model."""

    pattern: dict[str, Any] = Field(
        description="as in a model document; at least 'file' is required"
    )
    sample: dict[str, Any] = Field({}, description="as in a model document")
    parameters: dict[str, Finite | Start] = Field(
        {}, description="starts of the parameters that are not shared"
    )


class SimultaneousDocument(Section):
    """Several patterns that are refined simultaneously, as one least-squares problem."""

    model_config = ConfigDict(defer_build=True, 
        extra="forbid", frozen=True, populate_by_name=True, str_strip_whitespace=True
    )

    schema_: Literal["aiida-dse/simultaneous/2"] = Field("aiida-dse/simultaneous/2", alias="schema")
    title: str = ""
    model: dict[str, Any] = Field(
        description="keys common to all patterns, as in a model document; or the path of a model "
        "document, whose pattern, sample and refinement then serve as defaults"
    )
    patterns: dict[Name, SimultaneousPattern]
    shared: tuple[str, ...] = Field((), description="parameters with one value for all patterns")
    parameters: dict[Annotated[str, Field(pattern=GLOBAL_PARAMETER)], Finite | Start] = Field(
        {}, description="parameters of the parametric constraints, each named global.something"
    )
    parametric_constraints: dict[str, Expression] = Field(
        {}, description="parameter -> arithmetic expression in global.*, sample.temperature (K) "
        "and other parameters of the same pattern"
    )
    refinement: RefinementPlan = RefinementPlan()

    @field_validator("patterns")
    @classmethod
    def _several(cls, patterns: dict[str, SimultaneousPattern]) -> dict[str, SimultaneousPattern]:
        if len(patterns) < 2:
            raise ValueError(
                f"{len(patterns)} pattern, but at least two are required; use 'dse-engine refine' "
                "for a single pattern"
            )
        return patterns

    @field_validator("refinement")
    @classmethod
    def _one_start(cls, plan: RefinementPlan) -> RefinementPlan:
        if plan.starts != 1:
            raise ValueError(
                f"starts = {plan.starts}, but a simultaneous refinement has one start. Search for "
                "the minimum with a single pattern first, and start from its values"
            )
        if plan.method != "least_squares":
            raise ValueError(
                f"method = {plan.method}, but simultaneous refinements are least-squares "
                "refinements. Remove 'method'"
            )
        return plan

    def document_of(self, name: str) -> ModelDocument:
        """The model document of one pattern. Raises DocumentError with key paths of this one."""
        own = self._own(name)
        content = {key: value for key, value in self.model.items() if key not in own}
        for key, values in own.items():
            common = self.model.get(key) or {}
            if not isinstance(common, dict):
                raise DocumentError(f"model.{key}: {common!r} is not a mapping of keys.")
            content[key] = {**common, **values}
        try:
            return parse_document(content)
        except DocumentError as problem:
            raise DocumentError(self.placed(name, str(problem))) from None

    def placed(self, name: str, problems: str) -> str:
        """Error messages of the document of one pattern, with the key paths of this document."""
        return "\n".join(
            (f"patterns.{name}." if re.split("[.:, ]", line)[0] in self._own(name) else "model.")
            + line for line in problems.splitlines()
        )

    def _own(self, name: str) -> dict[str, Any]:
        return self.patterns[name].model_dump(mode="json", exclude_unset=True)

    def canonical(self) -> dict[str, Any]:
        """The document as plain JSON values with every pattern complete, as nodes store it."""
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        documents = {name: self.document_of(name).canonical() for name in self.patterns}
        first = next(iter(documents.values()))
        own = ("pattern", "sample", "parameters")
        content["model"] = {
            key: value for key, value in first.items() if key not in ("schema", *own)
        }
        content["patterns"] = {
            name: {key: document[key] for key in own if key in document}
            for name, document in documents.items()
        }
        return {"schema": SIMULTANEOUS_SCHEMA, **content}

    def resolved(self) -> dict[str, Any]:
        """The document with all defaults of every pattern, as results store it."""
        content = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        content.pop("model")
        content["patterns"] = {name: self.document_of(name).resolved() for name in self.patterns}
        return content


def load_simultaneous(path: Path) -> SimultaneousDocument:
    """Read a simultaneous document from a YAML or JSON file. Raises DocumentError."""
    with naming(path):
        return parse_simultaneous(read_content(path), path.parent)


def parse_simultaneous(content: Any, folder: Path | None = None) -> SimultaneousDocument:
    """Parse a simultaneous document from plain JSON values, and check the document of each pattern.

    `folder` is the folder to which the path of a model is relative. Raises DocumentError.
    """
    content = current_document(content)
    if not isinstance(content, dict) or content.get("schema") != SIMULTANEOUS_SCHEMA:
        raise DocumentError(
            f"a simultaneous document is a mapping with 'schema: {SIMULTANEOUS_SCHEMA}', 'model' "
            "and 'patterns'."
        )
    if isinstance(content.get("model"), str):
        content = _with_model(content, folder)
    document = validated(content, SimultaneousDocument)
    for key in ("schema", "title", "refinement", "scan"):
        if key in document.model:
            raise DocumentError(f"model.{key}: this key belongs beside 'model', not in it."
                                if key != "scan" else "model.scan: a simultaneous refinement has "
                                "no scan; remove this key.")
    for name in document.patterns:
        if document.document_of(name).pattern.file is None:
            raise DocumentError(f"patterns.{name}.pattern.file: this key is missing; add it")
    return document


def _with_model(content: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Replace the path of a model by the content of its file, with adjusted paths."""
    name = content["model"]
    if folder is None:
        raise DocumentError(f"model: the file '{name}' cannot be read here; insert its content "
                            "instead.")
    model = read_content(folder / name)
    parse_document(model)
    below_folder(model, Path(name).parent)
    # keys that describe the measurement of that document are no defaults
    model["pattern"].pop("file", None)
    for key in ("name", "temperature"):
        model.get("sample", {}).pop(key, None)
    found = {"title": model.pop("title", ""), **content, "model": model}
    plan = model.pop("refinement", None)
    if plan and "refinement" not in content:
        found["refinement"] = {key: value for key, value in plan.items()
                               if key not in ("starts", "seed", "method")}
    for key in ("schema", "scan"):
        model.pop(key, None)
    return found
