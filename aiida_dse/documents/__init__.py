"""Pydantic models of the documents that users write, and of typed results."""

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
