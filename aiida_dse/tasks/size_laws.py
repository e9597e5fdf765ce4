"""Laws against size from the section 'size_laws' of a phase."""

from __future__ import annotations

from collections.abc import Mapping

from aiida_dse.documents.disorder import SizeLawSection
from aiida_dse.engine.crystal.structure import CELL_LENGTHS, Crystal
from aiida_dse.engine.model.displacements import DisplacementModel
from aiida_dse.engine.model.size_laws import SizeLaw
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
                f"{site} has anisotropic or correlated displacements, so it cannot have a law of B_iso. Remove the "
                "law, or the displacement model of the site.")
        kind = {"B_iso": Kind.B_CHANGE, "occupancy": Kind.OCCUPANCY_CHANGE}.get(what, Kind.LATTICE_CHANGE)
        found.append(SizeLaw(name, lengths if name == "cell" else (name,), kind, section.change, section.size,
                             section.decay))
    return tuple(found)
