"""Migration of documents from version 0.1 (schemas .../1) to the names of version 0.2."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

#: Schemas of results that can be read.
RESULT_SCHEMAS = ("aiida-dse/result/2", "aiida-dse/result/1")
#: Old and new names of a parameter's quantity.
QUANTITIES = {"B": "B_iso", "phi": "size_axes_rotation", "expansion": "lattice_scale"}
#: Old and new schemas of documents.
DOCUMENT_SCHEMAS = {
    "aiida-dse/model/1": "aiida-dse/model/2", "aiida-dse/joint/1": "aiida-dse/simultaneous/2",
    "aiida-dse/study/1": "aiida-dse/study/2",
}
#: The last part of a name or wildcard; a star after it is a wildcard at the end of the name, and
#: a product elsewhere.
_LAST = re.compile(
    r"(?<=[\w*?\]'\-])\.(" + "|".join(QUANTITIES) + r")(?![\w.('?\[])(?!\*(?:$|[.?\[]))")
_BLANK = re.compile(r"(?<![\w.])trace\.(?=[\w*?\[])")
_GLOBAL = re.compile(r"(?<![\w.:])joint\.(?=\w)")


def current_name(text: str, *, several: bool = False) -> str:
    """Translate the parameter names in a text (a name, a wildcard or an expression).

    several: the text belongs to a simultaneous document, whose prefix 'joint.' is now 'global.';
    elsewhere, 'joint' may be the name of a phase.
    """
    text = _LAST.sub(lambda m: f".{QUANTITIES[m.group(1)]}", text)
    text = _BLANK.sub("blank.", text)
    return _GLOBAL.sub("global.", text) if several else text


def current_wildcards(text: str, *, several: bool = False) -> list[str]:
    """Names and wildcards that select the same parameters as one of version 0.1.

    '*.?' selected 'PbS.Pb1.B', but does not match the new name 'PbS.Pb1.B_iso'.
    """
    head, dot, last = text.rpartition(".")
    found = [current_name(text, several=several)]
    for old, new in QUANTITIES.items():
        if any(c in last for c in "*?[") and fnmatch.fnmatchcase(old, last) \
                and not fnmatch.fnmatchcase(new, last):
            found.append(head + dot + (last.removesuffix(old) + new if last.endswith(old) else new))
    return found


def local_name(text: str) -> str:
    """The new name of a parameter within its phase, such as 'Cs1.B' or 'phi'."""
    return current_name(f"phase.{text}").removeprefix("phase.")


def old_names(name: str) -> tuple[str, ...]:
    """The names that version 0.1 used for `name`."""
    head, _, last = name.rpartition(".")
    if head == "global":
        return (f"joint.{last}",)
    if head and last.startswith("B_iso("):
        return (f"{head}.{last[len('B_iso('):-1]}.B",)
    for old, new in QUANTITIES.items():
        if last == new and head:
            return (f"{head}.{old}",)
    return (name,)


def current_document(content: Any) -> Any:
    """Migrate a document from schema .../1 to schema .../2; return other content unchanged."""
    if not is_old_document(content):
        return content
    change = {"aiida-dse/model/1": _model, "aiida-dse/joint/1": _simultaneous,
              "aiida-dse/study/1": _study}[content["schema"]]
    return {**change(content), "schema": DOCUMENT_SCHEMAS[content["schema"]]}


def is_old_document(content: Any) -> bool:
    """Whether the content is a document of version 0.1, which `current_document` migrates."""
    return isinstance(content, Mapping) and isinstance(content.get("schema"), str) \
        and content["schema"] in DOCUMENT_SCHEMAS


def looks_old(content: Any) -> bool:
    """Whether a model document without a schema has keys that exist in version 0.1 only."""
    if not isinstance(content, Mapping) or "schema" in content:
        return False
    phases = content.get("phases")
    sections = [one for one in phases.values() if isinstance(one, Mapping)] \
        if isinstance(phases, Mapping) else []
    particles = [one["particle"] for one in sections if isinstance(one.get("particle"), Mapping)]
    background = content.get("background")
    return (
        "ties" in content or (isinstance(background, Mapping) and "traces" in background)
        or any("B" in one or "origin" in one for one in sections)
        or any(one.get("shape") == "prism" for one in particles)
    )


def _renamed(value: Any, *, several: bool = False) -> Any:
    """Translate parameter names in keys and texts at any depth, and wildcards in lists."""
    if isinstance(value, str):
        return current_name(value, several=several)
    if isinstance(value, Mapping):
        return {current_name(key, several=several) if isinstance(key, str) else key:
                _renamed(item, several=several) for key, item in value.items()}
    if isinstance(value, list | tuple):
        found: list[Any] = []
        for item in value:
            found += current_wildcards(item, several=several) if isinstance(item, str) \
                else [_renamed(item, several=several)]
        return found
    return value


def _moved(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in content.items()}


def _model(content: Mapping[str, Any]) -> dict[str, Any]:
    """Migrate a model document, or a part of one."""
    found = _moved(content, {"ties": "constraints"})
    if content.get("schema") == "aiida-dse/model/1":
        found["schema"] = DOCUMENT_SCHEMAS["aiida-dse/model/1"]
    if isinstance(found.get("phases"), Mapping):
        found["phases"] = {name: _phase(phase) for name, phase in found["phases"].items()}
    if isinstance(found.get("background"), Mapping):
        found["background"] = _moved(found["background"], {"traces": "blanks"})
    for key in ("parameters", "constraints", "refinement", "restraints", "scan", "uncertainty"):
        if key in found:
            found[key] = _renamed(found[key])
    return found


def _phase(phase: Any) -> Any:
    if not isinstance(phase, Mapping):
        return phase
    found = _moved(phase, {"origin": "termination", "B": "B_iso"})
    if isinstance(found.get("particle"), Mapping):
        found["particle"] = _particle(found["particle"])
    return found


def _particle(content: Mapping[str, Any]) -> dict[str, Any]:
    """Migrate a particle, or changes to one; without a 'shape', its lengths determine the shape."""
    found = _moved(content, {"phi": "size_axes_rotation"})
    given = {key for key, value in found.items() if value is not None}
    shape = found.get("shape")
    if shape == "prism" or (shape is None and given & {"L", "L_ab", "L_c", "cells"}):
        found = {"shape": "quasi_cube" if "L" in given else "parallelepiped"} | {
            key: value for key, value in found.items() if key != "shape"}
        if "L" in given and shape == "prism":
            found.pop("size_axes_rotation", None)  # it had no effect on near-cubes
    if shape == "sphere" and "centre" not in found:
        found["centre"] = [0.0, 0.0, 0.0]  # later versions have a random centre by default
    return found


def _simultaneous(content: Mapping[str, Any]) -> dict[str, Any]:
    found = _moved(content, {"laws": "parametric_constraints"})
    for key in ("shared", "parameters", "parametric_constraints", "refinement"):
        if key in found:
            found[key] = _renamed(found[key], several=True)
    if isinstance(found.get("model"), Mapping):
        found["model"] = _model(found["model"])
    if isinstance(found.get("patterns"), Mapping):
        found["patterns"] = {
            name: {key: _renamed(value) if key == "parameters" else value
                   for key, value in own.items()} if isinstance(own, Mapping) else own
            for name, own in found["patterns"].items()
        }
    return found


def _study(content: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(content)
    if isinstance(content.get("defaults"), Mapping):
        found["defaults"] = _model(content["defaults"])
    if isinstance(content.get("samples"), Mapping):
        found["samples"] = {name: _model(own) if isinstance(own, Mapping) else own
                            for name, own in content["samples"].items()}
    if isinstance(content.get("series"), Mapping):
        found["series"] = {
            name: {**one, "options": _series_options(one.get("options") or {})}
            if isinstance(one, Mapping) else one for name, one in content["series"].items()}
    if "maps" in content:
        found["maps"] = _renamed(content["maps"])
    if isinstance(content.get("compare"), list | tuple):
        found["compare"] = [
            {**one, "models": {name: _model(changes) if isinstance(changes, Mapping) else changes
                               for name, changes in (one.get("models") or {}).items()}}
            if isinstance(one, Mapping) else one for one in content["compare"]]
    return found


def _series_options(options: Any) -> Any:
    if not isinstance(options, Mapping):
        return options
    found = _moved(options, {"joint": "simultaneous"})
    if isinstance(found.get("simultaneous"), Mapping):
        found["simultaneous"] = _renamed(
            _moved(found["simultaneous"], {"laws": "parametric_constraints"}), several=True)
    return found
