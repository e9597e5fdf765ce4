"""The study document: samples, series, maps and comparisons."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from aiida_dse.sections import Finite, Name, Section

from .migration import current_document
from .model import MODEL_SCHEMA, ModelDocument
from .plans import RefinementPlan, ScanPlan, Start
from .reading import DocumentError, below_folder, naming, parse_document, read_content, validated
from .series import SeriesOptions, SizeOptions, TemperatureOptions, parse_options

STUDY_SCHEMA = "aiida-dse/study/2"
#: Options of the analysis by kind of series.
ANALYSES: dict[str, type[SeriesOptions]] = {"temperature": TemperatureOptions, "size": SizeOptions}
#: Keys of a sample that describe one measurement and therefore are no defaults.
OWN_SAMPLE = ("name", "temperature")


class SeriesSimultaneous(Section):
    """Simultaneous refinement of a series, started from the values of the single refinements."""

    shared: tuple[str, ...] = Field((), description="as in a simultaneous document")
    parametric_constraints: dict[str, str] = Field({})
    parameters: dict[str, Finite | Start] = Field({})
    refinement: RefinementPlan | None = None


class SeriesPlan(Section):
    """Plan of a series: mode, handling of failures, analysis, simultaneous refinement."""

    mode: Literal["independent", "sequential"] = Field(
        "independent", description="sequential: each member starts from the values of its neighbour"
    )
    anchor: str | None = Field(
        None, description="member at which a sequential series begins; default: the highest "
        "temperature, or the last size"
    )
    on_failure: Literal["skip", "stop"] = Field(
        "skip", description="skip: continue without a failed member; stop: start no further members"
    )
    analysis: dict[str, Any] = Field({}, description="options of the analysis of the series")
    simultaneous: SeriesSimultaneous | None = None


class StudySeries(Section):
    """Samples that are refined and analysed as a series."""

    kind: Literal["temperature", "size"]
    samples: tuple[str, ...] | str = Field(description="names or wildcards")
    options: SeriesPlan = SeriesPlan()


class StudyMap(ScanPlan):
    """A GoF map around the refined values of a sample."""

    sample: str
    name: Name | None = Field(None, description="default: map_ followed by the sample")


class StudyComparison(Section):
    """Comparison of models of the pattern of one sample."""

    sample: str
    name: Name | None = Field(None, description="default: compare_ followed by the sample")
    models: Annotated[dict[Name, dict[str, Any] | str], Field(min_length=2)] = Field(
        description="changes to the document of the sample; or the path of a model document, "
        "whose pattern and sample are ignored"
    )


class StudyDocument(Section):
    """A study: refinements, series, maps and comparisons of a set of samples."""

    model_config = ConfigDict(defer_build=True, 
        extra="forbid", frozen=True, populate_by_name=True, str_strip_whitespace=True
    )

    schema_: Literal["aiida-dse/study/2"] = Field("aiida-dse/study/2", alias="schema")
    name: Annotated[str, Field(min_length=1, max_length=200)]
    defaults: dict[str, Any] = Field(
        {}, description="keys common to all samples, as in a model document; or the path of a "
        "model document, whose pattern file, sample name and temperature are ignored"
    )
    samples: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)] = Field(
        description="keys of a model document, which override the defaults; null removes a key"
    )
    series: dict[Name, StudySeries] = Field({})
    maps: tuple[StudyMap, ...] = ()
    compare: tuple[StudyComparison, ...] = ()

    def document_of(self, sample: str) -> ModelDocument:
        """The model document of a sample. Raises DocumentError with the key path in the study."""
        return _parsed(self._content_of(sample), f"samples.{sample}")

    def members_of(self, series: str) -> tuple[str, ...]:
        """The samples of a series in the order of the document. Raises DocumentError."""
        given = self.series[series].samples
        wanted = (given,) if isinstance(given, str) else given
        for pattern in wanted:
            if not any(fnmatchcase(name, pattern) for name in self.samples):
                raise DocumentError(f"series.{series}.samples: no sample is called '{pattern}'; "
                                    f"the samples are {', '.join(self.samples)}.")
        return tuple(name for name in self.samples
                     if any(fnmatchcase(name, pattern) for pattern in wanted))

    def alone(self) -> tuple[str, ...]:
        """The samples that belong to no series."""
        taken = {name for series in self.series for name in self.members_of(series)}
        return tuple(name for name in self.samples if name not in taken)

    def named_maps(self) -> dict[str, StudyMap]:
        """The maps by name. Raises DocumentError if two have the same name."""
        return _named("maps", "map", self.maps)

    def named_comparisons(self) -> dict[str, StudyComparison]:
        """The comparisons by name. Raises DocumentError if two have the same name."""
        return _named("compare", "compare", self.compare)

    def map_document(self, name: str) -> ModelDocument:
        """The document of a map: that of its sample, with the axes. Raises DocumentError."""
        one = self.named_maps()[name]
        scan = one.model_dump(mode="json", exclude_unset=True, exclude={"sample", "name"})
        content = self._content_of(one.sample)
        content.pop("scan", None)
        return _parsed(content | {"scan": scan}, f"maps.{name}")

    def compared_documents(self, name: str) -> dict[str, ModelDocument]:
        """The documents of a comparison by name of the model. Raises DocumentError."""
        one = self.named_comparisons()[name]
        base = self._content_of(one.sample)
        found = {}
        for model, changes in one.models.items():
            assert isinstance(changes, dict)
            # a complete document takes only the measurement from the sample
            content = (changes | {key: base[key] for key in ("pattern", "sample")}
                       if "schema" in changes else _changed(base, changes))
            found[model] = _parsed(content, f"compare.{name}.models.{model}")
        return found

    def _content_of(self, sample: str) -> dict[str, Any]:
        content: dict[str, Any] = _changed(self.defaults, self.samples[sample])
        own = content.get("sample") or {}
        if isinstance(own, dict):  # otherwise the model document is refused
            content["sample"] = {"name": sample} | own
            content.setdefault("title", content["sample"]["name"])
        return content

    def canonical(self) -> dict[str, Any]:
        """The document as plain JSON values, as nodes store it."""
        content = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {"schema": STUDY_SCHEMA, **content}


def load_study(path: Path) -> StudyDocument:
    """Read a study document from a YAML or JSON file. Raises DocumentError."""
    with naming(path):
        return parse_study(read_content(path), path.parent)


def parse_study(content: Any, folder: Path | None = None) -> StudyDocument:
    """Parse a study document from plain JSON values, and check every document derived from it.

    `folder` is the folder to which the paths of model documents are relative. Raises
    DocumentError.
    """
    content = current_document(content)
    if not isinstance(content, dict) or content.get("schema") != STUDY_SCHEMA:
        raise DocumentError(
            f"a study document is a mapping with 'schema: {STUDY_SCHEMA}', 'name' and 'samples'."
        )
    content = copy.deepcopy(content)
    if isinstance(content.get("defaults"), str):
        content["defaults"] = _defaults(content["defaults"], folder)
    compared = content.get("compare")
    for one in compared if isinstance(compared, list) else ():
        models = one.get("models") if isinstance(one, dict) else None
        if not isinstance(models, dict):
            continue
        for name, given in models.items():
            if isinstance(given, str):
                model = _read_model(given, folder)
                models[name] = {"schema": MODEL_SCHEMA} | {
                    key: value for key, value in model.items()
                    if key not in ("schema", "pattern", "sample", "scan")}
    document = validated(content, StudyDocument)
    _check_parts(document)
    return document


def parse_plan(content: Any, kind: str, members: tuple[str, ...]) -> SeriesPlan:
    """Parse the plan of a series of `members` from plain JSON values. Raises DocumentError."""
    plan = validated(dict(content), SeriesPlan)
    analysis = parse_options(ANALYSES[kind], plan.analysis)
    if plan.anchor is not None and plan.mode != "sequential":
        raise DocumentError(f"anchor: '{plan.anchor}' requires 'mode: sequential'; an independent "
                            "series has no anchor.")
    for key, names in (("anchor", (plan.anchor,) if plan.anchor else ()),
                       ("analysis.exclude", analysis.exclude)):
        for name in names:
            if name not in members:
                raise DocumentError(f"{key}: '{name}' is not in the series; its members are "
                                    f"{', '.join(members)}.")
    return plan


def _check_parts(document: StudyDocument) -> None:
    if "schema" in document.defaults and document.defaults["schema"] != MODEL_SCHEMA:
        raise DocumentError(f"defaults.schema: '{document.defaults['schema']}' is not "
                            f"'{MODEL_SCHEMA}'; the defaults must be a model document.")
    for name, series in document.series.items():
        members = document.members_of(name)
        if len(members) < 2:
            raise DocumentError(f"series.{name}.samples: {', '.join(members)} is a single sample; "
                                f"a series needs at least two.")
        try:
            parse_plan(series.options.model_dump(mode="json", exclude_unset=True), series.kind,
                       members)
        except DocumentError as problem:
            raise DocumentError(f"series.{name}.options.{problem}") from None
    for key, parts in (("maps", document.named_maps()), ("compare", document.named_comparisons())):
        for name, part in parts.items():
            if part.sample not in document.samples:
                raise DocumentError(f"{key}.{name}.sample: '{part.sample}' is no sample; the "
                                    f"samples are {', '.join(document.samples)}.")
    for sample in document.samples:
        if document.document_of(sample).pattern.file is None:
            raise DocumentError(f"samples.{sample}.pattern.file: this key is missing; add it")
    for name in document.named_maps():
        document.map_document(name)
    for name in document.named_comparisons():
        document.compared_documents(name)


def _named(key: str, prefix: str, parts: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        name = part.name or f"{prefix}_{part.sample}"
        if name in found:
            raise DocumentError(f"{key}: two entries are called '{name}'; specify a different "
                                "'name' for each.")
        found[name] = part
    return found


def _parsed(content: dict[str, Any], place: str) -> ModelDocument:
    try:
        return parse_document(content)
    except DocumentError as problem:
        raise DocumentError("\n".join(f"{place}.{line}" for line in str(problem).splitlines())) \
            from None


def _changed(base: Any, changes: Any) -> Any:
    """A nested mapping with changes on top; None removes a key."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return copy.deepcopy(changes)
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _changed(merged.get(key), value)
    return merged


def _defaults(name: str, folder: Path | None) -> dict[str, Any]:
    model = _read_model(name, folder)
    model["pattern"].pop("file", None)
    for key in OWN_SAMPLE:
        model.get("sample", {}).pop(key, None)
    model.pop("title", None)
    return model


def _read_model(name: str, folder: Path | None) -> dict[str, Any]:
    """The content of a model document, with paths adjusted to the folder of the study."""
    if folder is None:
        raise DocumentError(f"the file '{name}' cannot be read here; insert its content instead.")
    model: dict[str, Any] = read_content(folder / name)
    parse_document(model)
    return below_folder(model, Path(name).parent)
