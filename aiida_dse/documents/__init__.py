"""Pydantic models of the documents that users write, and of typed results.

The names are loaded when they are first used, because the models take a tenth of a second to build.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import MODEL_SCHEMA, ModelDocument
    from .reading import DocumentError, load_document, parse_document
    from .simultaneous import (
        SIMULTANEOUS_SCHEMA,
        SimultaneousDocument,
        load_simultaneous,
        parse_simultaneous,
    )
    from .study import STUDY_SCHEMA, StudyDocument, load_study, parse_study

__all__ = [
    "MODEL_SCHEMA",
    "SIMULTANEOUS_SCHEMA",
    "STUDY_SCHEMA",
    "DocumentError",
    "ModelDocument",
    "SimultaneousDocument",
    "StudyDocument",
    "load_document",
    "load_simultaneous",
    "load_study",
    "parse_document",
    "parse_simultaneous",
    "parse_study",
]

_MODULES = {"MODEL_SCHEMA": "model", "ModelDocument": "model", "DocumentError": "reading",
            "load_document": "reading", "parse_document": "reading"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module = _MODULES.get(name) or next(
        module for module in ("simultaneous", "study") if module in name.lower())
    return getattr(import_module(f".{module}", __name__), name)
