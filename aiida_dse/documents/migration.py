"""Documents and results of version 0.1 (schemas .../1) in the words and shape of today's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Schemas of results that can be read.
RESULT_SCHEMAS = ("aiida-dse/result/2", "aiida-dse/result/1")
#: Old and new names of a parameter's quantity.
QUANTITIES = {"B": "B_iso", "phi": "size_axes_rotation", "expansion": "lattice_scale"}
_NAME = re.compile(
    r"(?<![\w.])([A-Za-z_*?\[][\w*?\[\]!']*(?:\.[\w*?\[\]!'\-]+)*)\.(B|phi|expansion)(?![\w.(])")
_GLOBAL = re.compile(r"(?<![\w.:])joint\.")


def current_name(text: str) -> str:
    """Parameter names in a text (a name, a wildcard, an expression) under their new names."""
    text = _NAME.sub(lambda m: f"{m.group(1)}.{QUANTITIES[m.group(2)]}", text)
    text = re.sub(r"(?<![\w.])trace\.(?=\w)", "blank.", text)
    return _GLOBAL.sub("global.", text)


def old_names(name: str) -> tuple[str, ...]:
    """The names under which version 0.1 stored what `name` means."""
    head, _, last = name.rpartition(".")
    for old, new in QUANTITIES.items():
        if last == new and head:
            return (f"{head}.{old}",)
    return (name,)


def current_document(content: Any) -> Any:
    """A document of schema .../1 as one of schema .../2; other content as it is."""
    if not isinstance(content, Mapping):
        return content
    schema = content.get("schema")
    if schema == "aiida-dse/model/1":
        return {**_model(content), "schema": "aiida-dse/model/2"}
    if schema == "aiida-dse/joint/1":
        return _simultaneous(content)
    if schema == "aiida-dse/study/1":
        return _study(content)
    return content


def is_old_document(content: Any) -> bool:
    """Whether `current_document` changes it."""
    return isinstance(content, Mapping) and content.get("schema") in (
        "aiida-dse/model/1", "aiida-dse/joint/1", "aiida-dse/study/1")


def _renamed(value: Any) -> Any:
    """Parameter names in keys and texts, at any depth."""
    if isinstance(value, str):
        return current_name(value)
    if isinstance(value, Mapping):
        return {current_name(key) if isinstance(key, str) else key: _renamed(item)
                for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item) for item in value]
    return value


def _moved(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in content.items()}


def _model(content: Mapping[str, Any]) -> dict[str, Any]:
    """A model document, or part of one."""
    found = _moved(content, {"ties": "constraints"})
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
    particle = found.get("particle")
    if isinstance(particle, Mapping):
        particle = _moved(particle, {"phi": "size_axes_rotation"})
        if particle.get("shape") == "prism":
            particle["shape"] = "quasi_cube" if "L" in particle else "parallelepiped"
        found["particle"] = particle
    return found


def _simultaneous(content: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _renamed(_moved(content, {"laws": "parametric_constraints"}))
    found["schema"] = "aiida-dse/simultaneous/2"
    if isinstance(content.get("model"), Mapping):
        found["model"] = _model(content["model"])
    elif "model" in content:
        found["model"] = content["model"]
    if isinstance(content.get("patterns"), Mapping):
        found["patterns"] = {
            name: {key: _renamed(value) if key == "parameters" else value
                   for key, value in own.items()} if isinstance(own, Mapping) else own
            for name, own in content["patterns"].items()
        }
    return found


def _study(content: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(content)
    found["schema"] = "aiida-dse/study/2"
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
            _moved(found["simultaneous"], {"laws": "parametric_constraints"}))
    return found


def current_result(content: Any) -> Any:
    """The JSON values of a result of schema aiida-dse/result/1 in those of result/2."""
    if not isinstance(content, Mapping) or content.get("schema") != "aiida-dse/result/1":
        return content
    raise ValueError("results of version 0.1 cannot be read yet")


def current_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of earlier results under their new paths."""
    return arrays
