"""Reading documents, with errors that name the key, the value, the limit and the remedy."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .model import MODEL_SCHEMA, ModelDocument


class DocumentError(ValueError):
    """A document that cannot be used; str() lists every problem on its own line."""


def load_document(path: Path) -> ModelDocument:
    """The model document in a YAML or JSON file. Raises DocumentError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DocumentError(f"{path}: there is no such file. Give the path of a model document.") \
            from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as problem:
        raise DocumentError(
            f"{path} cannot be read as a text file ({problem}). Give the path of a YAML or JSON "
            "model document."
        ) from None
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as problem:
        raise DocumentError(f"{path} is not valid YAML or JSON: {problem}") from None
    try:
        return parse_document(content)
    except DocumentError as problem:
        raise DocumentError(f"{path}:\n{problem}") from None


def parse_document(content: Any) -> ModelDocument:
    """The model document in plain JSON values. Raises DocumentError."""
    if not isinstance(content, dict):
        raise DocumentError(
            "a model document is a mapping with the keys 'pattern' and 'phases'; this is "
            f"{'empty' if content is None else 'a ' + type(content).__name__}."
        )
    schema = content.get("schema", MODEL_SCHEMA)
    if schema != MODEL_SCHEMA:
        raise DocumentError(
            f"schema: '{schema}' is not known to this version, which reads '{MODEL_SCHEMA}'. "
            "Correct the line, or use the version of aiida-dse that wrote it."
        )
    try:
        return ModelDocument.model_validate(content)
    except ValidationError as problem:
        lines = {_explain(error, content) for error in problem.errors()}
        raise DocumentError("\n".join(sorted(lines))) from None


def _explain(error: Any, content: Any) -> str:
    """One problem: key path, value, limit, remedy."""
    keys = [key for key in error["loc"] if key not in ("prism", "sphere", "SizeLaw", "Start")]
    keys = [key for key in keys if not (isinstance(key, str) and key.startswith("function-"))]
    keys = [key for key in keys if not (isinstance(key, str) and "[" in key)]
    if keys and keys[-1] in ("float", "str", "int"):
        keys.pop()
    path = ".".join(str(key) for key in keys) or "document"
    value = error.get("input")
    shown = json.dumps(value, default=str)
    shown = "" if isinstance(value, dict) else f" = {shown if len(shown) < 60 else shown[:57]}"
    kind = error["type"]
    if kind == "extra_forbidden":
        known = _keys_at(error["loc"][:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"{path}: unknown key; {hint}"
    if kind == "missing":
        return f"{path}: this key is missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}{shown}: {message[0].lower()}{message[1:]}"


def _keys_at(loc: tuple[Any, ...]) -> list[str]:
    """The keys that the schema knows at a place in the document."""
    model: Any = ModelDocument
    for key in loc:
        found = _section_at(model, key)
        if found is not None:
            model = found
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_at(model: Any, key: Any) -> Any:
    tagged = {"prism": "Prism", "sphere": "Sphere"}.get(str(key), str(key))
    field = model.model_fields.get(key)
    sections = _sections(field.annotation) if field else _sections(model)
    for section in sections:
        if section.__name__ == tagged:
            return section
    return sections[0] if field and sections else None


def _sections(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[Any] = []
    for part in getattr(annotation, "__args__", ()):
        found += _sections(part)
    return found
