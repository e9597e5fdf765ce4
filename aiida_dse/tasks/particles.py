"""Particle shapes and starting sizes from the particle section of a document."""

from __future__ import annotations

import numpy as np

from aiida_dse.documents.model import Parallelepiped, QuasiCube, SizeDistribution, Sphere
from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.particles.shapes import (
    CellSpherePopulation,
    Family,
    ParallelepipedPopulation,
    QuasiCubePopulation,
    SingleParallelepiped,
    SingleSphere,
    SpherePopulation,
)
from aiida_dse.engine.particles.size_distributions import LogNormal
from aiida_dse.engine.particles.size_statistics import truncation_warning
from aiida_dse.io.notes import note

#: Smallest fraction of a size distribution that must lie above half the edge of a cell.
LEAST_FRACTION = 1e-9
#: Mean size (nm) above which a size may be in another unit, or a property of the instrument.
LARGE = 40.0


def shape_and_sizes(
    crystal: Crystal, particle: Parallelepiped | QuasiCube | Sphere
) -> tuple[Family, dict[str, float]]:
    """The shape of the particles, and the starting values (nm) of its size parameters.

    Raises ValueError for mean sizes above 'largest', for distributions below half a cell, and for
    particles beyond the limit of the model.
    """
    sections = [getattr(particle, name, None) for name in ("L_ab", "L_c", "L", "D")]
    for section in sections:
        if isinstance(section, SizeDistribution) and particle.largest is not None \
                and section.mean >= particle.largest:
            raise ValueError(
                f"the mean size {section.mean:g} nm is not below 'largest', {particle.largest:g} "
                "nm. Check that the sizes are in nm, and lower the mean or raise 'largest'."
            )
    _require_particles(crystal, particle)
    family, sizes = _family(crystal, particle)
    for name in ("L_ab", "L_c", "L", "D"):
        _note_size(crystal.name, name, getattr(particle, name, None))
    limit = family.limit(crystal)
    largest = particle.largest or np.inf
    if isinstance(particle, Sphere) and not isinstance(particle.D, SizeDistribution):
        beyond, what = limit < particle.D, f"the sphere of {particle.D:g} nm is"
    else:
        statistics = family.statistics(crystal, sizes)
        beyond = limit < largest and truncation_warning("", statistics) is not None
        what = "the size distribution reaches sizes that are"
    if beyond:
        raise ValueError(
            f"{what} larger than the largest particle of this shape and "
            f"structure that the model can compute, {limit:.3g} nm. Check that the sizes are in nm, "
            "and use smaller or less widely distributed particles; 'largest' truncates the "
            "distribution." + "".join(
                f" The standard deviation of {name}, {section.sd:g} nm, is larger than the mean, "
                f"{section.mean:g} nm. It is in nm, not in per cent."
                for name, section in zip(("L_ab", "L_c", "L", "D"), sections, strict=True)
                if isinstance(section, SizeDistribution) and section.sd > section.mean)
        )
    return family, sizes


def _note_size(file: str, name: str, section: SizeDistribution | float | None) -> None:
    """Add a note about a size that may be in another unit."""
    mean = section.mean if isinstance(section, SizeDistribution) else section
    if mean is not None and mean > LARGE:
        note(f"{file}: {name} = {mean:g} nm is large for the Debye equation. The peaks of such "
             f"particles have a width (FWHM) of about {0.18 * np.pi / mean:.2g} 1/Å, below the "
             "resolution of most instruments, which the model does not include. Check that the "
             "sizes are in nm.")


def _family(
    crystal: Crystal, particle: Parallelepiped | QuasiCube | Sphere
) -> tuple[Family, dict[str, float]]:
    largest = particle.largest or np.inf
    if isinstance(particle, Parallelepiped):
        if particle.cells is not None:
            return SingleParallelepiped(particle.cells), {}
        assert particle.L_ab is not None and particle.L_c is not None
        return ParallelepipedPopulation(largest), {
            "L_ab": particle.L_ab.mean, "sd_ab": particle.L_ab.sd,
            "L_c": particle.L_c.mean, "sd_c": particle.L_c.sd,
            "size_axes_rotation": particle.size_axes_rotation,
        }
    if isinstance(particle, QuasiCube):
        return QuasiCubePopulation(largest), {"L": particle.L.mean, "sd_L": particle.L.sd}
    if isinstance(particle.centre, str):
        at = crystal.special_position(particle.centre)
        centre = (float(at[0]), float(at[1]), float(at[2]))
    else:
        centre = particle.centre
    if isinstance(particle.D, SizeDistribution):
        population = CellSpherePopulation if particle.whole_cells else SpherePopulation
        return population(centre, largest), {"D": particle.D.mean, "sd_D": particle.D.sd}
    return SingleSphere(particle.D, centre), {}


def _require_particles(
    crystal: Crystal, particle: Parallelepiped | QuasiCube | Sphere
) -> None:
    """Raise ValueError for size distributions that lie below half the edge of a unit cell."""
    cell = crystal.cell
    step_ab = float(np.sqrt(cell.a * cell.b)) / 10
    for name, step in (("L_ab", step_ab), ("L", step_ab), ("L_c", cell.c / 10)):
        section = getattr(particle, name, None)
        if not isinstance(section, SizeDistribution):
            continue
        if LogNormal(section.mean, section.sd).beyond(step / 2) < LEAST_FRACTION:
            raise ValueError(
                f"the size distribution of {name}, mean {section.mean:g} nm and s.d. "
                f"{section.sd:g} nm, lies below half the edge of one cell, "
                f"{step / 2:.3g} nm, so no particle size has any weight. Check "
                "that the sizes are in nm, and raise the mean."
            )
