"""Protocols: how thoroughly to work where the document does not say it itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml
from aiida.orm import Code, Dict, load_code

from aiida_dse.data.options import job_options
from aiida_dse.documents import ModelDocument, parse_document

DEFAULT = "standard"


def protocol_names() -> list[str]:
    """The protocols there are."""
    folder = files("aiida_dse.workchains") / "protocols"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir()
                  if path.name.endswith(".yaml"))


def read_protocol(
    name: str = DEFAULT, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a protocol, with `overrides` of the same keys on top.

    Raises ValueError for an unknown protocol or key.
    """
    known = protocol_names()
    if name not in known:
        raise ValueError(f"there is no protocol '{name}'; choose one of {', '.join(known)}.")
    text = (files("aiida_dse.workchains") / "protocols" / f"{name}.yaml").read_text("utf-8")
    settings: dict[str, Any] = yaml.safe_load(text)
    unknown = sorted(set(overrides or {}) - set(settings))
    if unknown:
        raise ValueError(f"overrides: unknown key '{unknown[0]}'; known keys: "
                         f"{', '.join(settings)}.")
    return _below(settings, overrides or {})


def with_protocol(document: ModelDocument, settings: Mapping[str, Any]) -> ModelDocument:
    """The document with the protocol's values where it says nothing itself. Raises DocumentError.

    Starting points go with least squares only, and a grid that is simulated is used as it is.
    """
    said = document.model_dump(mode="json", by_alias=True, exclude_unset=True)
    wanted = {key: dict(value) if isinstance(value, Mapping) else value
              for key, value in settings["model"].items()}
    if document.pattern.file is None:
        wanted.pop("pattern", None)
    plan = document.refinement
    if plan is not None and plan.method != "least_squares":
        wanted.get("refinement", {}).pop("starts", None)
    if document.refinement is None:
        said.pop("refinement", None)
    return parse_document(_below(wanted, said))


def model_of(model: Any, settings: Mapping[str, Any]) -> Dict:
    """The Dict of a model (a Dict, mapping or document) under a protocol."""
    if isinstance(model, Dict):
        model = model.get_dict()
    if not isinstance(model, ModelDocument):
        model = parse_document(dict(model))
    return Dict(with_protocol(model, settings).canonical())


def set_job(namespace: Any, code: Code | str, settings: Mapping[str, Any]) -> None:
    """Code and options of a builder's jobs: the computer's set-up, else the protocol's."""
    namespace.code = load_code(code) if isinstance(code, str) else code
    namespace.metadata.options = job_options(
        namespace.code.computer, otherwise=1,
        protocol_walltime=settings["max_wallclock_seconds"],
    )


def set_model(
    namespace: Any, settings: Mapping[str, Any], model: Any, structures: Mapping[str, Any],
    pattern: Any = None, blanks: Mapping[str, Any] | None = None,
) -> None:
    """Model under the protocol, and data, of a builder's jobs."""
    namespace.model = model_of(model, settings)
    namespace.structures = dict(structures)
    if pattern is not None:
        namespace.pattern = pattern
    if blanks:
        namespace.blanks = dict(blanks)


def _below(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both say something, the upper holds."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = _below(below, value)
        else:
            merged[key] = value
    return merged
