"""What a document means: the data and the structures as they were understood, and the cost."""

from __future__ import annotations

import gemmi
import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.model.bulk_phase import BulkPhase
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import AtomListPhase
from aiida_dse.engine.particles.boundaries import Boundaries, reflection_label
from aiida_dse.engine.scattering.form_factors import element_of
from aiida_dse.io.structures import chemical_formula
from aiida_dse.tasks.build import BuiltModel
from aiida_dse.tasks.derived import composition_warnings
from aiida_dse.tasks.estimate import estimate_refinement, evaluation_bytes, evaluation_seconds
from aiida_dse.tasks.peak_positions import match_axis

#: Seconds of a pattern up to which the atoms of the mean particle are counted before a task is run.
COUNTED_SECONDS = 1.5
#: Mass (g) of 1 u, times Å^3 per cm^3.
DALTON = 1.66053906660


def data_lines(built: BuiltModel) -> list[str]:
    """Lines about the data: points, range, wavelength and the origin of sigma."""
    model = built.model
    q = model.observation.q
    lines = [
        f"data: {len(q)} points, q = {q[0]:.4g} ... {q[-1]:.4g} 1/Å, "
        f"wavelength {model.observation.wavelength:g} Å"
        + (f", sigma: {built.sigma_origin}" if built.sigma_origin else ""),
        f"distance grid: {model.sampling.step:.4f} Å",
    ]
    match = match_axis(model, built.axis) if built.measured else None
    if match is not None:
        lines.append(f"peaks: small particles of the structures explain {100 * match.specified:.0f} % of "
                     "the intensity above a smooth background")
    return lines


def phase_lines(built: BuiltModel) -> list[str]:
    """Lines about every phase: formula, Z, cell content, density, space group, particles."""
    lines = []
    for index, phase in enumerate(built.model.phases):
        local = built.model.local(index, built.model.start)
        if isinstance(phase, CrystalPhase):
            lines.append(f"{phase.name}: {crystal_text(phase.crystal)}")
            lines.append(f"{phase.name}: {particle_text(phase, local)}")
            if isinstance(phase.order, Boundaries):
                lines += [f"{phase.name}: {text}" for text in boundary_texts(phase.order)]
        elif isinstance(phase, AtomListPhase):
            numbers = np.bincount(phase.site_of_atom, minlength=len(phase.ions))
            content = ", ".join(f"{n} {ion}" for n, ion in zip(numbers, phase.ions, strict=True))
            lines.append(f"{phase.name}: a list of {len(phase.positions)} atoms ({content})")
        else:
            lines.append(f"{phase.name}: stored pair distances of {', '.join(phase.ions)}")
    return lines


def surface_lines(built: BuiltModel) -> list[str]:
    """Notes on mean particles with another composition than their structure, unless they take long to count."""
    phases = [phase for phase in built.model.phases if isinstance(phase, CrystalPhase)]
    if not phases or evaluation_seconds(built) > COUNTED_SECONDS:
        return []
    start = built.model.start
    return [f"note: {text}" for text in composition_warnings(built, start, built.model.states(start))]


def crystal_text(crystal: Crystal) -> str:
    """Formula, Z, atoms per cell, volume, density, space group and operations of a crystal."""
    formula, units = chemical_formula(crystal)
    mass = sum(crystal.sites[site].occupancy * gemmi.Element(element_of(crystal.sites[site].ion)).weight
               for site in crystal.site_of_atom)
    group = crystal.space_group or "not named"
    known = gemmi.find_spacegroup_by_name(crystal.space_group) if crystal.space_group else None
    number = f", no. {known.number}" if known is not None else ""
    return (f"{formula.replace(' ', '')}, Z = {units}, {len(crystal.basis_atoms)} positions per cell, "
            f"V = {crystal.cell.volume:.2f} Å^3, density {DALTON * mass / crystal.cell.volume:.3f} "
            f"g/cm^3, space group {group}{number} ({len(crystal.operations)} operations)")


def particle_text(phase: CrystalPhase, local: dict[str, float]) -> str:
    """The mean number of atoms of a particle at the starting sizes."""
    if isinstance(phase, BulkPhase):
        return "large crystals, whose pattern consists of reflections"
    occupied = sum(phase.crystal.sites[site].occupancy for site in phase.crystal.site_of_atom)
    statistics = phase.size_statistics(local)
    cells = phase.family.mean_cells(phase.crystal, {
        name: local[name] for name in phase.family.parameters})
    return (f"about {occupied * cells:,.0f} atoms in the mean particle, edge "
            f"{statistics['edge']:.3g} nm (of a cube of equal volume)")


def boundary_texts(order: Boundaries) -> list[str]:
    """Which superstructure reflections the boundaries of each kind broaden, and which they leave as they are."""
    wave_vectors = {reflection_label(vector): vector for vector in order.variants.wave_vectors if vector.any()}
    found = []
    for planes in order.planes:
        changed = order.broadened(planes)
        number = "" if planes.number is None else f"exactly {planes.number} "
        kept = [label for label in wave_vectors if label not in changed]
        named = ", ".join(f"{label} ({' '.join(f'{x:.3g}' for x in wave_vectors[label])})" for label in changed)
        found.append(f"{number}boundaries '{planes.name}' broaden the superstructure reflections {named}"
                     + (f", and leave {', '.join(kept)} as they are" if kept else "")
                     + "; the vectors are those of the reciprocal parent lattice")
    return found


def cost_lines(built: BuiltModel) -> list[str]:
    """Lines with the time on one core and the memory of an evaluation and of the refinement."""
    seconds, memory = evaluation_seconds(built), evaluation_bytes(built)
    line = (f"cost on one core: about {seconds_text(seconds)} for one pattern with new distances, "
            f"{memory / 1e9:.1f} GB of memory")
    if built.measured and built.document.refinement is not None:
        line += f"; about {seconds_text(estimate_refinement(built).seconds)} for the refinement"
    return [line]


def seconds_text(seconds: float) -> str:
    """A time with two digits in s, min or h."""
    divisor, unit = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    return f"{float(f'{seconds / divisor:.2g}'):g} {unit}"
