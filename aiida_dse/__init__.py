"""Debye scattering analysis of nanocrystals with AiiDA provenance.

In a notebook: `from aiida_dse import Phase, Parallelepiped, Pattern, Model, refine` (docs/api.md).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiida_dse.api import Background as Background
    from aiida_dse.api import Cell as Cell
    from aiida_dse.api import Crystal as Crystal
    from aiida_dse.api import Model as Model
    from aiida_dse.api import Pattern as Pattern
    from aiida_dse.api import PatternResult as PatternResult
    from aiida_dse.api import Phase as Phase
    from aiida_dse.api import RefinementResult as RefinementResult
    from aiida_dse.api import ScanResult as ScanResult
    from aiida_dse.api import Site as Site
    from aiida_dse.api import as_crystal as as_crystal
    from aiida_dse.api import crystal_from_sites as crystal_from_sites
    from aiida_dse.api import evaluate as evaluate
    from aiida_dse.api import refine as refine
    from aiida_dse.api import scan as scan
    from aiida_dse.api import simulate as simulate
    from aiida_dse.api import to_document as to_document
    from aiida_dse.shapes import *  # noqa: F403

__version__ = "0.2.0"

#: The public names of `aiida_dse.api`, which is imported on first access to one of them; the names of
#: the particle shapes belong to them as well.
__all__ = [
    "Background", "Cell", "Crystal", "Model", "Pattern", "PatternResult", "Phase", "RefinementResult",
    "ScanResult", "Site", "as_crystal", "crystal_from_sites", "evaluate", "refine", "scan", "simulate",
    "to_document",
]


def __getattr__(name: str) -> Any:
    if name in __all__ or name[:1].isupper():  # shapes are classes; modules have names in lower case
        from aiida_dse import api

        if name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'aiida_dse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
