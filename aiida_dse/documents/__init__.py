"""The documents a person writes and a job reads: pydantic models with a versioned schema."""

from .model import MODEL_SCHEMA, ModelDocument
from .reading import DocumentError, load_document, parse_document
from .simultaneous import JOINT_SCHEMA, JointDocument, load_joint, parse_joint
from .study import STUDY_SCHEMA, StudyDocument, load_study, parse_study

__all__ = [
    "JOINT_SCHEMA", "MODEL_SCHEMA", "STUDY_SCHEMA", "DocumentError", "JointDocument",
    "ModelDocument", "StudyDocument", "load_document", "load_joint", "load_study",
    "parse_document", "parse_joint", "parse_study",
]
