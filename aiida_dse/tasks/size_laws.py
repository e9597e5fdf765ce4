"""Laws against size from the section 'size_laws' of a phase."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from aiida_dse.documents.disorder import SizeLawSection
from aiida_dse.engine.crystal.structure import CELL_LENGTHS, Crystal
from aiida_dse.engine.maps.grid import Grid
from aiida_dse.engine.model.displacements import DisplacementModel
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.size_laws import SizeLaw, SizeLawPhase
from aiida_dse.engine.parameters import Kind, closest


def size_laws(
    crystal: Crystal, sections: Mapping[str, SizeLawSection], displacements: Mapping[str, DisplacementModel]
) -> tuple[SizeLaw, ...]:
    """The laws of a phase. Raises ValueError for properties that do not exist or cannot have a law."""
    lengths = tuple(name for name in crystal.free_cell_parameters if name in CELL_LENGTHS)
    sites = [f"{site.label}.{what}" for site in crystal.sites for what in ("B_iso", "occupancy")]
    known = ["cell", *lengths, *sites]
    if "cell" in sections and set(sections) & set(lengths):
        raise ValueError("'cell' is the law of all cell lengths. Specify either 'cell', or laws of single lengths.")
    found = []
    for name, section in sections.items():
        if name not in known:
            raise ValueError(
                f"'{name}' cannot depend on the size{closest(name, known)}. Possible are 'cell' (all cell lengths), "
                f"{', '.join(lengths)}, and B_iso and occupancy of a site, such as {sites[0]}.")
        site, _, what = name.rpartition(".")
        if what == "B_iso" and site in displacements:
            raise ValueError(
                f"{site} has anisotropic displacements or takes part in correlated motion, so it cannot have a law of "
                "B_iso. Remove the law, or 'displacements' of the site and 'correlated_motion'.")
        kind = {"B_iso": Kind.B_CHANGE, "occupancy": Kind.OCCUPANCY_CHANGE}.get(what, Kind.LATTICE_CHANGE)
        found.append(SizeLaw(name, lengths if name == "cell" else (name,), kind, section.change, section.size,
                             section.decay))
    return tuple(found)


def require_laws_on_grid(model: PatternModel, grid: Grid) -> None:
    """Raise ValueError if a law has impossible values at a corner of a map."""
    for corner in product(*[(0, n - 1) for n in grid.shape]):
        values = grid.at(corner)
        moved = {name: value for name, value in values.items() if name in model.parameters and np.isfinite(value)}
        complete = model.constrained({**model.start, **moved})
        for index, phase in enumerate(model.phases):
            if isinstance(phase, SizeLawPhase):
                try:
                    phase.require_laws(model.local(index, complete))
                except ValueError as problem:
                    at = ", ".join(f"{name} = {value:.5g}" for name, value in moved.items())
                    raise ValueError(f"at the corner {at} of the map: {problem} Narrow the axes.") from None
