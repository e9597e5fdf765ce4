"""Python API for notebooks and scripts: the engine with numpy arrays, without files or AiiDA.

The same names can be imported from `aiida_dse`. Each function makes a model document and passes it
to `aiida_dse.tasks`, as `dse-engine` does with a document on disk.
"""

from typing import TYPE_CHECKING

from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.io.conversions import crystal_from_sites

from .analyses import evaluate, refine, scan, simulate, to_document
from .model import Background, Model
from .pattern import Pattern
from .phase import Phase
from .results import PatternResult, RefinementResult, ScanResult
from .shapes import NOTEBOOK_SHAPES
from .structures import as_crystal

if TYPE_CHECKING:
    from aiida_dse.shapes import *  # noqa: F403 - for type checkers, the sections describe the classes

__all__ = [
    "Background", "Cell", "Crystal", "Model", "Pattern", "PatternResult", "Phase", "RefinementResult",
    "ScanResult", "Site", "as_crystal", "crystal_from_sites", "evaluate", "refine", "scan", "simulate",
    "to_document", *NOTEBOOK_SHAPES,
]

globals().update(NOTEBOOK_SHAPES)
