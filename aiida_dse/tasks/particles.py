"""Particles and their starting sizes from the particle section of a document."""

from __future__ import annotations

import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.particles.bodies import spread_name
from aiida_dse.engine.particles.family import Family
from aiida_dse.engine.particles.parallelepipeds import QuasiCubePopulation
from aiida_dse.engine.particles.random_centre import RandomCentre
from aiida_dse.engine.particles.size_statistics import truncation_warning
from aiida_dse.io.notes import note
from aiida_dse.shapes import Shape

#: Smallest fraction of a size distribution that must lie above half the edge of a cell.
LEAST_FRACTION = 1e-9
#: Mean size (nm) above which a size may be in another unit, or a property of the instrument.
LARGE = 40.0


def shape_and_sizes(crystal: Crystal, particle: Shape) -> tuple[Family, dict[str, float]]:
    """The particles of a section, and the starting values (nm) of their size parameters.

    Raises ValueError for mean sizes above 'largest', for distributions below half a cell, and for
    particles beyond the limit of the model.
    """
    for section in particle.distributions.values():
        if particle.largest is not None and section.mean >= particle.largest:
            raise ValueError(
                f"the mean size {section.mean:g} nm is not below 'largest', {particle.largest:g} "
                "nm. Check that the sizes are in nm, and lower the mean or raise 'largest'."
            )
    family, sizes = particle.family(crystal), particle.start()
    for name, section in particle.distributions.items():
        if section.law != "log_normal" and not isinstance(family, RandomCentre | QuasiCubePopulation):
            raise ValueError(
                f"{name} has the law '{section.law}', which is available for quasi-cubes, and for all shapes but "
                "parallelepipeds and spheres around a point. Use 'log_normal' here, or another shape.")
    _require_particles(crystal, particle, family)
    for name, size in particle.fixed_sizes.items():
        _note_size(crystal.name, name, size)
    for name, section in particle.distributions.items():
        _note_size(crystal.name, name, section.mean)
    _require_limit(crystal, particle, family, sizes)
    if isinstance(family, RandomCentre) and (cells := family.mean_cells(crystal, sizes)) < 1:
        raise ValueError(
            f"the mean particle has the volume of {cells:.2g} unit cells; it must have at least that of one. "
            "Check that the sizes are in nm, and raise them."
        )
    return family, sizes


def _require_limit(crystal: Crystal, particle: Shape, family: Family, sizes: dict[str, float]) -> None:
    """Raise ValueError for particles that are larger than the model can compute."""
    limit = family.limit(crystal)
    if fixed := particle.fixed_sizes:
        beyond = limit < max(fixed.values())
        what = f"the {particle.name.replace('_', ' ')} of {max(fixed.values()):g} nm is"
    else:
        statistics = family.statistics(crystal, sizes)
        beyond = limit < (particle.largest or np.inf) and truncation_warning("", statistics) is not None
        what = "the size distribution reaches sizes that are"
    if beyond:
        raise ValueError(
            f"{what} larger than the largest particle of this shape and "
            f"structure that the model can compute, {limit:.3g} nm. Check that the sizes are in nm, "
            "and use smaller or less widely distributed particles; 'largest' truncates the "
            "distribution." + "".join(
                f" The standard deviation of {name}, {section.sd:g} nm, is larger than the mean, "
                f"{section.mean:g} nm. It is in nm, not in per cent."
                for name, section in particle.distributions.items() if section.sd > section.mean)
        )


def _note_size(file: str, name: str, mean: float) -> None:
    """Add a note about a size that may be in another unit."""
    if mean > LARGE:
        note(f"{file}: {name} = {mean:g} nm is large for the Debye equation. The peaks of such "
             f"particles have a width (FWHM) of about {0.18 * np.pi / mean:.2g} 1/Å, below the "
             "resolution of most instruments, which the model does not include. Check that the "
             "sizes are in nm.")


def _require_particles(crystal: Crystal, particle: Shape, family: Family) -> None:
    """Raise ValueError for size distributions that lie below half the edge of a unit cell."""
    steps = family.size_steps(crystal)
    for name, section in particle.distributions.items():
        step = steps.get(spread_name(name), 0.0)
        law = section.length_law().distribution(name, section.start(name))
        if step and law.beyond(step / 2) < LEAST_FRACTION:
            raise ValueError(
                f"the size distribution of {name}, mean {section.mean:g} nm and s.d. "
                f"{section.sd:g} nm, lies below half the edge of one cell, "
                f"{step / 2:.3g} nm, so no particle size has any weight. Check "
                "that the sizes are in nm, and raise the mean."
            )
