"""Checks of models that are valid but cannot be computed, or are probably not what was meant."""

from __future__ import annotations

from collections.abc import Sequence

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.phase import Phase
from aiida_dse.engine.parameters import Kind, Parameter
from aiida_dse.io.notes import note

from .sources import Structure

#: Largest memory (bytes) of the sums over the pairs of sites of a phase.
MOST_SUMS = 2e9
#: Largest ratio of the starting cell edge to that of the structure without explicit bounds.
CELL_RATIO = 1.25


def check_sites(found: Structure, n_q: int) -> None:
    """Raise ValueError for so many sites that the sums over their pairs need too much memory."""
    if not isinstance(found, Crystal):
        return
    n = len(found.sites)
    size = 8.0 * n_q * n * (n + 1) / 2
    if size > MOST_SUMS:
        raise ValueError(
            f"{found.name} has {n} sites. The sums over their {n * (n + 1) // 2:,} pairs at {n_q} q need "
            f"{size / 1e9:.1f} GB; the limit is {MOST_SUMS / 1e9:g} GB. Use the symmetry of the structure, "
            "or list the atoms of a particle in an XYZ file ('atoms'), where those of an element are "
            "one site.")


def note_equal_phases(phases: Sequence[Phase]) -> None:
    """Add a note for phases of the same structure, which the data can hardly distinguish."""
    crystals = [phase for phase in phases if isinstance(phase, CrystalPhase)]
    for k, one in enumerate(crystals):
        for other in crystals[:k]:
            if one.crystal.cell == other.crystal.cell and one.crystal.sites == other.crystal.sites:
                note(f"{other.name} and {one.name} have the same structure. Only their particles can "
                     "distinguish them: constrain the parameters of their structures to be equal.")


def check_start(default: Parameter, value: float) -> None:
    """Check a starting value without bounds against that of the structure.

    Raises ValueError for an impossible cell; adds a note if the default bounds must be extended.
    """
    if default.lower <= value <= default.upper:
        return
    unit = f"{default.kind.spec.unit and ' '}{default.kind.spec.unit}"
    ratio = value / default.value if default.value else 1.0
    if default.kind is Kind.CELL_LENGTH and not 1 / CELL_RATIO <= ratio <= CELL_RATIO:
        raise ValueError(
            f"{default.name} = {value:g}{unit} differs from that of the structure, "
            f"{default.value:g}{unit}, by a factor of {ratio:.3g}; at most {CELL_RATIO:g} is allowed "
            "without bounds. Correct the value, or specify {value, lower, upper}.")
    note(f"{default.name} = {value:g}{unit} lies outside the default bounds {default.lower:g} ... "
         f"{default.upper:g}{unit}, which were extended to include it.")
