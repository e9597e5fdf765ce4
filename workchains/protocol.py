"""Protocols: named sets of default inputs, and builders of work chains that use them.

The interface is that of aiida-quantumespresso: `get_available_protocols`, `get_default_protocol`,
`get_protocol_inputs` and `get_builder_from_protocol` with `overrides` nested like the ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

import yaml
from aiida.orm import Bool, Code, Dict, Float, Int, load_code

from aiida_dse.data.jobs import (
    CheckedModel,
    ModelNodes,
    job_document,
    model_node,
    model_of_nodes,
)
from aiida_dse.data.options import job_threads, queue_options
from aiida_dse.data.results import summary_from_node
from aiida_dse.data.same_content import NodesByContent
from aiida_dse.documents import (
    ModelDocument,
    SimultaneousDocument,
    parse_document,
    parse_simultaneous,
)
from aiida_dse.documents.continuation import model_continued
from aiida_dse.tasks.build import BuiltModel
from aiida_dse.tasks.peak_positions import check_axis

DEFAULT = "standard"
#: Inputs of a job that a protocol may contain.
JOB_KEYS = ("model", "metadata", "threads")


@cache
def _protocol(name: str) -> dict[str, Any]:
    known = protocol_names()
    if name not in known:
        raise ValueError(f"'{name}' is not a protocol; the protocols are {', '.join(known)}.")
    text = (files("aiida_dse.workchains") / "protocols" / f"{name}.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def protocol_names() -> list[str]:
    """The names of all protocols."""
    folder = files("aiida_dse.workchains") / "protocols"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir()
                  if path.name.endswith(".yaml"))


class ProtocolMixin:
    """Protocols of a work chain.

    NAMESPACE: the namespace of the inputs of its jobs; NOUN: the name of the analysis in
    descriptions; SIDE_BY_SIDE: whether several jobs run concurrently.
    """

    NAMESPACE: ClassVar[str] = ""
    NOUN: ClassVar[str] = "Analysis"
    SIDE_BY_SIDE: ClassVar[bool] = False

    @classmethod
    def get_available_protocols(cls) -> dict[str, dict[str, str]]:
        """The protocols as {name: {'description': ...}}."""
        return {name: {"description": _protocol(name)["description"]} for name in protocol_names()}

    @classmethod
    def get_default_protocol(cls) -> str:
        return DEFAULT

    @classmethod
    def get_protocol_inputs(
        cls, protocol: str | None = None, overrides: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The inputs of a protocol, nested like the ports, with `overrides` merged into them.

        Raises ValueError for an unknown protocol, and for keys that are not inputs of the work
        chain.
        """
        content = _protocol(protocol or DEFAULT)
        ports = cls.spec().inputs  # type: ignore[attr-defined]
        found: dict[str, Any] = {cls.NAMESPACE: content["job"]} | {
            key: value for key, value in content["chain"].items() if key in ports}
        for key, value in (overrides or {}).items():
            known = [cls.NAMESPACE, *(name for name in ports if name != cls.NAMESPACE)]
            if key not in known:
                raise ValueError(f"overrides: the work chain has no input '{key}'; its inputs are "
                                 f"{', '.join(known)}.")
            if key == "metadata":
                raise ValueError("overrides.metadata cannot be overridden; specify the 'label' as an "
                                 "argument.")
            if key == cls.NAMESPACE:
                for part in value.get("metadata", {}):
                    if part != "options":
                        raise ValueError(
                            f"overrides.{key}.metadata: '{part}' cannot be overridden; only "
                            "'options' can. Labels are specified by the argument 'label'.")
                for part in value:
                    if part not in JOB_KEYS:
                        raise ValueError(f"overrides.{key}: '{part}' cannot be overridden; only "
                                         f"{', '.join(JOB_KEYS)} can.")
        return recursive_merge(found, overrides or {})

    @classmethod
    def model_settings(
        cls, protocol: str | None = None, overrides: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of the protocol, used as defaults of a document, and overriding settings."""
        inputs = cls.get_protocol_inputs(protocol)
        cls.get_protocol_inputs(protocol, overrides)  # raises an error for unknown keys
        explicit = (overrides or {}).get(cls.NAMESPACE, {}).get("model", {})
        return inputs[cls.NAMESPACE]["model"], dict(explicit)

    @classmethod
    def set_chain(cls, builder: Any, inputs: Mapping[str, Any]) -> None:
        """Set the inputs of the work chain itself as nodes."""
        for key, value in inputs.items():
            if key != cls.NAMESPACE:
                builder[key] = _as_node(key, value)

    @classmethod
    def set_names(
        cls, builder: Any, label: str | None, subject: str, protocol: str | None
    ) -> None:
        """Set label and description of the process; the default label is the subject."""
        builder.metadata.label = subject if label is None else label
        subject = f" of {subject}" if subject else ""
        builder.metadata.description = f"{cls.NOUN}{subject}, protocol '{protocol or DEFAULT}'."

    @classmethod
    def set_job(
        cls, namespace: Any, code: Code | str, inputs: Mapping[str, Any],
        overrides: Mapping[str, Any] | None, options: Mapping[str, Any] | None,
        threads: int | None,
    ) -> None:
        """Set code, options and threads of the jobs.

        Explicit values take precedence over those of the computer's set-up, and these over the
        protocol's.
        """
        namespace.code = load_code(code) if isinstance(code, str) else code
        computer = namespace.code.computer
        explicit = (overrides or {}).get(cls.NAMESPACE, {})
        merged = recursive_merge(
            inputs[cls.NAMESPACE].get("metadata", {}).get("options", {}), queue_options(computer))
        merged = recursive_merge(merged, explicit.get("metadata", {}).get("options", {}))
        namespace.metadata.options = recursive_merge(merged, options or {})
        count = job_threads(computer, threads or explicit.get("threads"),
                            side_by_side=cls.SIDE_BY_SIDE)
        if count is not None:
            namespace.threads = count


class SingleModelProtocol(ProtocolMixin):
    """Protocols of a work chain whose jobs use a single model and its data."""

    @classmethod
    def get_builder_from_protocol(
        cls, code: Code | str, model: Any, pattern: Any = None,
        structures: Mapping[str, Any] | None = None, blanks: Mapping[str, Any] | None = None,
        protocol: str | None = None, overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None, *, threads: int | None = None,
        start_from: Dict | None = None, label: str | None = None,
    ) -> Any:
        """A builder for a model (document, mapping or Dict) and its data.

        Settings omitted from the model are taken from the protocol. options: metadata.options of
        every job; overrides: inputs, nested like the ports; start_from: the result node of an
        earlier analysis that provides the starting values. The model is checked in full. Raises
        ValueError (DocumentError) if the analysis cannot run.
        """
        nodes = ModelNodes(pattern, dict(structures or {}), dict(blanks or {}))
        inputs = cls.get_protocol_inputs(protocol, overrides)
        checked = cls.checked(model, nodes, protocol, overrides, start_from)
        builder = cls.get_builder()  # type: ignore[attr-defined]
        namespace = builder[cls.NAMESPACE]
        cls.set_job(namespace, code, inputs, overrides, options, threads)
        cls.set_chain(builder, inputs)
        for key, value in NodesByContent().data(nodes).items():
            namespace[key] = value
        namespace.model = model_node(checked.content)
        if start_from is not None:
            builder.start_from = start_from
        cls.set_names(builder, label, label_of(checked.document), protocol)
        cls.complete(builder, checked.built)
        return builder

    @classmethod
    def checked(
        cls, model: Any, nodes: ModelNodes, protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None, start_from: Dict | None = None,
    ) -> CheckedModel:
        """Check a model with the settings of a protocol in full; nothing is stored.

        Raises ValueError (DocumentError) if the analysis cannot run.
        """
        document = with_protocol(document_of(model), *cls.model_settings(protocol, overrides))
        content = job_document(document, nodes)
        built = model_of_nodes(content if start_from is None else model_continued(
            content, summary_from_node(start_from)), nodes)
        return CheckedModel(document, content, nodes, built, cls.check_model(built))

    @classmethod
    def check_model(cls, built: BuiltModel) -> tuple[str, ...]:
        """Check a model for the task and return remarks. Raises ValueError if it is unsuitable."""
        remark = check_axis(built)
        return () if remark is None else (remark,)

    @classmethod
    def complete(cls, builder: Any, built: BuiltModel) -> None:
        """Set further inputs that depend on the model."""


def document_of(model: Any) -> ModelDocument:
    """Convert a Dict node or a mapping to a model document. Raises DocumentError."""
    if isinstance(model, ModelDocument):
        return model
    return parse_document(model.get_dict() if isinstance(model, Dict) else dict(model))


def label_of(document: ModelDocument) -> str:
    """The label of an analysis: the title of its document or, without one, the sample name."""
    return document.title or document.sample.name or ""


def with_protocol(
    document: ModelDocument, defaults: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> ModelDocument:
    """The document with `defaults` for missing settings, and with settings from `overrides`.

    The number of starting points applies only to least squares, and the settings of the pattern
    only to measured patterns. Raises DocumentError.
    """
    given = document.model_dump(mode="json", by_alias=True, exclude_unset=True)
    wanted = recursive_merge({}, defaults)
    if document.pattern.file is None:
        wanted.pop("pattern", None)
    plan = document.refinement
    if plan is not None and plan.method != "least_squares":
        wanted.get("refinement", {}).pop("starts", None)
    if plan is None:
        given.pop("refinement", None)
    return parse_document(recursive_merge(recursive_merge(wanted, given), overrides or {}))


def simultaneous_with_protocol(
    document: SimultaneousDocument, defaults: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
) -> SimultaneousDocument:
    """Like `with_protocol` for a simultaneous document, which has only one starting point."""
    given = document.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for above, settings in ((False, defaults), (True, overrides or {})):
        placed = {key: value for key, value in settings.items() if key != "refinement"}
        plan = {key: value for key, value in settings.get("refinement", {}).items()
                if key != "starts"}
        nested = {"model": placed, "refinement": plan}
        given = recursive_merge(given, nested) if above else recursive_merge(nested, given)
    return parse_simultaneous(given)


def recursive_merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings; values of `upper` take precedence."""
    merged = {key: recursive_merge(value, {}) if isinstance(value, Mapping) else value
              for key, value in lower.items()}
    for key, value in upper.items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = recursive_merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _as_node(key: str, value: Any) -> Any:
    if isinstance(value, bool):
        return Bool(value)
    if isinstance(value, int):
        return Int(value)
    if isinstance(value, float):
        return Float(value)
    return value
