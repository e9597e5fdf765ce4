"""Reading and validation of documents; errors state key, value, limit and remedy."""

from __future__ import annotations

import json
import os.path
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from .migration import current_document, is_old_document, looks_old
from .plain_yaml import load_json, load_yaml
from .printable import has_control_characters, printable

if TYPE_CHECKING:
    from .model import ModelDocument

Document = TypeVar("Document", bound=BaseModel)

#: Keys with boolean values.
TRUTHS = ("pseudo_cubic", "axis_confirmed", "whole_cells", "adaptive", "part_of_grid", "fixed",
          "multiplicity")


class DocumentNote(UserWarning):
    """Warning about a document that was read."""


def print_notes(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """Replacement for `warnings.showwarning`: prints notes of the package without a code location."""
    if category.__module__.startswith("aiida_dse."):
        print(printable(f"note: {message}"), file=sys.stderr)
    else:
        _SHOW(message, category, *place)


_SHOW = warnings.showwarning

#: Largest sizes (bytes) of YAML, which is read slowly, and of JSON.
MOST_BYTES = (1_000_000, 20_000_000)


class DocumentError(ValueError):
    """Error of a document that cannot be used; str() lists every problem on its own line."""


class located:
    """Context that turns a ValueError into a DocumentError that begins with a key path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, ValueError) and not isinstance(problem, DocumentError):
            raise DocumentError(f"{self.path}: {problem}") from None


def load_document(path: Path) -> ModelDocument:
    """Read a model document from a YAML or JSON file. Raises DocumentError."""
    from .model import MODEL_SCHEMA

    with naming(path):
        content = read_content(path)
        if isinstance(content, dict) and "schema" not in content:
            warnings.warn(
                f"{path} has no 'schema' and is read as {MODEL_SCHEMA}. Add the line 'schema: "
                f"{MODEL_SCHEMA}', so that later versions read it in the same way.",
                DocumentNote, stacklevel=2)
        return parse_document(content)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context in which the message of a DocumentError begins with the path of the document."""
    try:
        yield
    except DocumentError as problem:
        text = str(problem)
        raise DocumentError(text if text.startswith(str(path)) else f"{path}:\n{text}") from None


def read_content(path: Path) -> Any:
    """Read plain values from a YAML or JSON file, migrated from version 0.1 where needed.

    Raises DocumentError if the file cannot be read or parsed, or has a duplicate key.
    """
    text = _text_of(path)
    try:
        content = load_json(text) if path.suffix == ".json" else load_yaml(text)
    except ValueError as problem:
        raise DocumentError(f"{path} is not valid YAML or JSON: {problem}") from None
    if is_old_document(content):
        warnings.warn(
            f"{path} is a document of version 0.1 ({content['schema']}). Its names were translated "
            "to those of version 0.2; 'dse-engine upgrade' rewrites the file.",
            DocumentNote, stacklevel=2,
        )
    return _with_instruments(current_document(content), path.parent)


def _with_instruments(content: Any, folder: Path) -> Any:
    """The content with the instruments of files, relative to `folder`, in place of the names of the files."""
    for key, section in content.items() if isinstance(content, dict) else ():
        if key == "pattern" and isinstance(section, dict) and isinstance(section.get("instrument"), str):
            section["instrument"] = _instrument(folder / section["instrument"])
        elif key in ("model", "patterns") or (isinstance(section, dict) and "pattern" in section):
            _with_instruments(section, folder)
    return content


def _instrument(path: Path) -> Any:
    """The section of an instrument in a file. Raises DocumentError."""
    try:
        found = load_yaml(_text_of(path))
    except ValueError as problem:
        if isinstance(problem, DocumentError):
            raise
        raise DocumentError(f"{path} is not valid YAML: {problem}") from None
    if not isinstance(found, dict) or set(found) != {"instrument"}:
        raise DocumentError(f"pattern.instrument: {path} is not the file of an instrument, which has the only key "
                            "'instrument'. Write it with 'dse-engine calibrate'.")
    return found["instrument"]


def _text_of(path: Path) -> str:
    """The text of a document. Raises DocumentError if it cannot be read or is too large."""
    limit = MOST_BYTES[path.suffix == ".json"]
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DocumentError(f"{path} is not a file. Specify the path of a YAML or JSON document.")
        if size > limit:
            raise DocumentError(f"{path} has {size / 1e6:.1f} MB; documents have at most {limit / 1e6:g} "
                                "MB. Specify the path of a YAML or JSON document.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DocumentError(
            f"{path}: there is no such file. Specify the path of a model document.") from None
    except UnicodeDecodeError as problem:
        raise DocumentError(f"{path} cannot be read as a text file ({problem}). Specify the path of a "
                            "YAML or JSON model document.") from None
    except (OSError, ValueError) as problem:
        if isinstance(problem, DocumentError):
            raise
        reason = getattr(problem, "strerror", None) or str(problem)
        raise DocumentError(f"{path} cannot be read ({reason}). Specify the path of a YAML or JSON model "
                            "document.") from None


def below_folder(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Prefix the file paths in the content of a model document with `folder`, in place."""
    for phase in content.get("phases", {}).values():
        for key in {"structure", "atoms", "distances"} & set(phase):
            phase[key] = os.path.join(folder, phase[key])
    for blank in ((content.get("background") or {}).get("blanks") or {}).values():
        if blank.get("file"):
            blank["file"] = os.path.join(folder, blank["file"])
    return content


def parse_document(content: Any) -> ModelDocument:
    """Parse a model document from plain JSON values. Raises DocumentError."""
    from .model import MODEL_SCHEMA, ModelDocument

    content = current_document(content)
    if not isinstance(content, dict):
        raise DocumentError(
            "a model document is a mapping with the keys 'pattern' and 'phases', but this one is "
            f"{'empty' if content is None else 'a ' + type(content).__name__}."
        )
    schema = content.get("schema", MODEL_SCHEMA)
    if str(schema).startswith("aiida-dse/simultaneous/"):
        raise DocumentError(
            f"schema: '{schema}' describes a simultaneous refinement. Use 'dse-engine "
            "simultaneous' or 'aiida-dse launch simultaneous'."
        )
    if str(schema).startswith("aiida-dse/study/"):
        raise DocumentError(
            f"schema: '{schema}' describes a study. Use 'aiida-dse launch study'."
        )
    if schema != MODEL_SCHEMA:
        raise DocumentError(
            f"schema: {json.dumps(schema, default=str)} is unknown to this version, which reads '{MODEL_SCHEMA}'. "
            "Correct the line, or use the version of aiida-dse that wrote it."
        )
    try:
        return validated(content, ModelDocument)
    except DocumentError as problem:
        if looks_old(content):
            raise DocumentError(
                f"{problem}\nschema: this looks like a document of version 0.1. Add the line "
                "'schema: aiida-dse/model/1' to use the names of that version."
            ) from None
        raise


def validated(content: dict[str, Any], kind: type[Document]) -> Document:
    """Validate a document of type `kind`. Raises DocumentError, which lists all errors."""
    unprintable = sorted(_unprintable(content, ""))
    if unprintable:
        raise DocumentError("\n".join(
            f"{path}: the text contains control characters or line breaks; remove them"
            for path in unprintable))
    booleans = sorted(_booleans(content, ""))
    if booleans:
        raise DocumentError("\n".join(
            f"{path}: {json.dumps(value)} is a boolean, but a number or a text is required; put "
            "a text in quotes"
            for path, value in booleans
        ))
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        from .explaining import explained

        raise DocumentError("\n".join(explained(problem, kind))) from None


def _unprintable(content: Any, path: str) -> Iterator[str]:
    """The paths of all keys and texts that contain control characters."""
    items = content.items() if isinstance(content, dict) else (
        enumerate(content) if isinstance(content, list) else ())
    for key, value in items:
        place = printable(f"{path}.{key}".lstrip("."))
        if (isinstance(key, str) and has_control_characters(key)) or (
                isinstance(value, str) and has_control_characters(value.strip())):
            yield place
        yield from _unprintable(value, place)


def _booleans(content: Any, path: str) -> Iterator[tuple[str, bool]]:
    """Path and value of every boolean under a key that accepts none."""
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    for key, value in items:
        place = f"{path}.{key}".lstrip(".")
        if isinstance(value, bool):
            if key not in TRUTHS and not path.endswith("sample.tags"):
                yield place, value
        else:
            yield from _booleans(value, place)
