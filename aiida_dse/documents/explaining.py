"""Explanation of validation errors of documents: key, value, limit and remedy on one line each."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from aiida_dse.shapes import SHAPES

#: Other names of keys and values, by the text without case and punctuation.
SYNONYMS = {
    "diameter": "D", "axisgrid": "grid", "origin": "termination", "traces": "blanks", "b": "B_iso",
    "biso": "B_iso", "lambda": "wavelength", "ties": "constraints",
    "errors": "sigma", "columns": "intensity_column",
    "2theta": "two_theta", "twotheta": "two_theta", "tth": "two_theta", "2th": "two_theta",
    "cube": "quasi_cube", "cubes": "quasi_cube", "cuboid": "parallelepiped",
    "prism": "parallelepiped", "block": "parallelepiped", "box": "parallelepiped", "ball": "sphere",
}
#: Remedies for a value of another type, by the class of the section that is required.
REMEDIES = {
    "SizeDistribution": "; for parallelepipeds of one size, specify 'cells: [n_a, n_b, n_c]', and "
    "for spheres of one size 'D' as a number in nm",
}
#: Remedies for unknown keys that have no similar key, by section.
ELSEWHERE = {"Sample": "other properties of the sample belong under 'tags'"}
#: Remedies for other quantities than that of a key, by the plain text of the unknown key.
CONVERTED = {"uiso": ("B_iso", "use 'B_iso', with B_iso = 8 pi^2 U_iso"),
             "radius": ("D", "use 'D', the diameter in nm, which is twice the radius")}
#: Longest value that a message repeats.
LONGEST = 60


def explained(problem: ValidationError, kind: type[BaseModel]) -> list[str]:
    """The messages of all errors of a document of type `kind`, sorted and without repetition."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for error in problem.errors():
        groups.setdefault(_path(error["loc"]), []).append(error)
    # a list that is too short because its items are invalid is no error of its own
    kept = {
        path: errors for path, errors in groups.items()
        if not (all(error["type"] == "too_short" for error in errors)
                and any(len(p) > len(path) and p[: len(path)] == path for p in groups))
        # nor is a member of a union that the value does not belong to
        and not (all(error["type"].endswith("_type") or error["type"] == "literal_error" for error in errors)
                 and any(len(p) > len(path) and p[: len(path)] == path for p in groups))
    }
    return sorted({_explanation(path, errors, kind) for path, errors in kept.items()})


def _path(loc: tuple[Any, ...]) -> tuple[str, ...]:
    """The keys of a place in a document, without pydantic's names of types."""
    types = (*SHAPES, "SizeDistribution", "Start", "Section")
    keys = [str(key) for key in loc if key not in types]
    keys = [key for key in keys if not key.startswith(
        ("function-", "constrained-", "tuple[", "list[", "dict[", "is-instance[", "literal["))]
    while len(keys) > 1 and keys[-1] in ("float", "str", "int", "bool"):
        keys.pop()
    return tuple(keys)


def _explanation(path: tuple[str, ...], errors: list[Any], kind: type[BaseModel]) -> str:
    """Message of the errors at one place; several are those of the members of a union."""
    # of a union, the member that accepts the type of the value explains best
    error = min(errors, key=lambda one: one["type"].endswith(("_type", "_parsing"))
                or (one["type"] == "literal_error" and isinstance(one.get("input"), dict)))
    name, value, what = ".".join(path) or "document", error.get("input"), error["type"]
    sections = [e for e in errors if e["type"] == "model_type"]
    if what == "extra_forbidden":
        return f"{name}: unknown key; {_unknown(path[-1], error['loc'][:-1], kind)}"
    if what == "missing":
        return f"{name}: this key is missing; add it"
    if what == "union_tag_invalid":
        return (f"{name}.shape = {_shown(error['ctx']['tag'])}: there is no such shape"
                f"{_meant(error['ctx']['tag'], SHAPES)}; the shapes are {', '.join(SHAPES)}")
    if what == "union_tag_not_found":
        return f"{name}.shape: this key is missing; add it. The shapes are {', '.join(SHAPES)}"
    given = "" if isinstance(value, dict) else f" = {_shown(value)}"
    if sections:
        wanted = section_class(kind, sections[0]["ctx"]["class_name"])
        others = [e for e in errors if e["type"] != "model_type"]
        words = [e["ctx"]["expected"] for e in others if e["type"] == "literal_error"]
        if others and not words and isinstance(value, int | float):
            return f"{name}{given}: {_reason(others[0], path)}"
        number = f"{words[0]}, or " if words else "a number, or " if others else ""
        return f"{name}{given}: {number}{_mapping(wanted, value)} is required" + (
            "" if number else REMEDIES.get(wanted.__name__, ""))
    return f"{name}{given}: {_reason(error, path)}"


def _shown(value: Any) -> str:
    """A value as JSON, cut and without control characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 3]}..."


def _unknown(key: str, loc: tuple[Any, ...], kind: type[BaseModel]) -> str:
    """The remedy for an unknown key in a section."""
    section = _section_at(loc, kind)
    known = [field.alias or name for name, field in section.model_fields.items()]
    wanted, remedy = CONVERTED.get(re.sub(r"[^a-z]", "", key[:LONGEST].lower()), ("", ""))
    if wanted in known:
        return remedy
    if meant := _meant(key, known):
        return meant[2:-1]
    keys = f"known keys: {', '.join(known)}"
    return f"{ELSEWHERE[section.__name__]} ({keys})" if section.__name__ in ELSEWHERE else keys


def _meant(text: Any, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the known name that a text resembles; '' if there is none."""
    names = list(known)
    plain = re.sub(r"[^a-z0-9]", "", str(text)[:LONGEST].lower())
    synonym = SYNONYMS.get(plain)
    near = [synonym] if synonym in names else difflib.get_close_matches(
        str(text)[:LONGEST], names, n=1, cutoff=0.7)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _mapping(section: type[BaseModel], value: Any) -> str:
    """The mapping that is required instead of a value, as in a document."""
    names = [field.alias or name for name, field in section.model_fields.items()]
    required = [name for name, field in section.model_fields.items() if field.is_required()]
    text = f"a mapping with the keys {', '.join(names)}"
    if isinstance(value, list) and len(required) <= len(value) <= len(names):
        pairs = ", ".join(f"{name}: {_shown(one)}" for name, one in zip(names, value, strict=False))
        return f"{text} ({{{pairs}}})"
    return text


def _reason(error: Any, path: tuple[str, ...]) -> str:
    """The reason and the remedy of a single error."""
    what, value = error["type"], error.get("input")
    if what in ("float_parsing", "int_parsing") and isinstance(value, str):
        if re.fullmatch(r"\s*[-+]?\d+,\d+\s*", value):
            return f"a number is required; use a decimal point: {value.strip().replace(',', '.')}"
        if number := re.fullmatch(r"\s*([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)\s*(?:[^\W\d_]|[%°]).*", value):
            return f"a number is required; write it without the unit: {number[1]}"
        return "a number is required"
    if what in ("float_type", "int_type", "int_from_float"):
        return "a whole number is required" if what.startswith("int") else "a number is required"
    if what == "string_type":
        if isinstance(value, int | float):
            return f"a text is required; put it in quotes: \"{value}\""
        return "a text is required"
    if what in ("tuple_type", "list_type"):
        if path[:2] == ("refinement", "stages") and len(path) == 3:
            return "each stage is a list, as in stages: [[P.a, P.L], [P.*.B_iso]]"
        return "a list in brackets is required"
    if what == "dict_type":
        return "a mapping of keys is required"
    if what == "model_attributes_type":
        return f"a mapping with the key shape is required; the shapes are {', '.join(SHAPES)}"
    if what == "too_short":
        return f"at least {error['ctx']['min_length']} item is required"
    if what == "too_long":
        most = error["ctx"]["max_length"]
        return f"at most {most} items are possible, but there are {len(value)}; remove {len(value) - most}"
    if what == "string_pattern_mismatch" and error["ctx"]["pattern"].startswith("^[A-Za-z][A-Za-z0-9_]"):
        return "names consist of letters, digits and underscores, and begin with a letter"
    if what == "greater_than" and path[-1] == "sd":
        return f"{_lower(error['msg'])}{REMEDIES['SizeDistribution']}"
    if what == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        if path[-1] == "axis" and str(value).lower() == "q":
            return "specify the unit of q: 'q_inverse_angstrom' or 'q_inverse_nm'"
        return f"{_lower(error['msg'])}{_meant(value, choices)}"
    return _lower(error["msg"].removeprefix("Value error, "))


def _lower(text: str) -> str:
    return f"{text[0].lower()}{text[1:]}"


def _section_at(loc: tuple[Any, ...], kind: type[BaseModel]) -> type[BaseModel]:
    """The section at a place in a document of type `kind`."""
    section: type[BaseModel] = kind
    for key in loc:
        if key in SHAPES:
            section = SHAPES[key]
            continue
        field = section.model_fields.get(str(key)) or next(
            (f for f in section.model_fields.values() if f.alias == key), None)
        below = sections_of(field.annotation) if field else sections_of(section)
        named = [one for one in below if one.__name__ == key]
        section = (named or (below if field else []) or [section])[0]
    return section


def section_class(kind: type[BaseModel], name: str) -> type[BaseModel]:
    """The section of this class name that a document of type `kind` contains."""
    found, todo = {kind.__name__: kind}, [kind]
    while todo and name not in found:
        for field in todo.pop().model_fields.values():
            for section in sections_of(field.annotation):
                if section.__name__ not in found:
                    found[section.__name__] = section
                    todo.append(section)
    return found.get(name, kind)


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for part in getattr(annotation, "__args__", ()):
        found += sections_of(part)
    return found
