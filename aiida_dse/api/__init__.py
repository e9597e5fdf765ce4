"""Python API for notebooks and scripts: the engine with numpy arrays, without files or AiiDA.

The same names can be imported from `aiida_dse`. Each function makes a model document and passes it
to `aiida_dse.tasks`, as `dse-engine` does with a document on disk.
"""

from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.io.conversions import crystal_from_sites

from .analyses import evaluate, refine, scan, simulate, to_document
from .model import Background, Model
from .pattern import Pattern
from .phase import Phase
from .results import PatternResult, RefinementResult, ScanResult
from .shapes import Parallelepiped, QuasiCube, Sphere
from .structures import as_crystal

__all__ = [
    "Background", "Cell", "Crystal", "Model", "Parallelepiped", "Pattern", "PatternResult", "Phase",
    "QuasiCube", "RefinementResult", "ScanResult", "Site", "Sphere", "as_crystal",
    "crystal_from_sites", "evaluate", "refine", "scan", "simulate", "to_document",
]
