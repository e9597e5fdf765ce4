"""The documents a person writes and a job reads: pydantic models with a versioned schema."""

from .model import MODEL_SCHEMA, ModelDocument
from .reading import DocumentError, load_document, parse_document

__all__ = ["MODEL_SCHEMA", "DocumentError", "ModelDocument", "load_document", "parse_document"]
