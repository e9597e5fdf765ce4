"""Size statistics of a population: names, units, surface-to-volume and confinement diameter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aiida_dse.engine.crystal.structure import Cell

#: Units of the size statistics whose unit is not nm.
UNITS: Mapping[str, str] = {
    "correlation": "",  # of L_ab and L_c in the population
    "surface_to_volume": "1/nm",  # of the particle with the mean edges or diameter
    "truncated_fraction": "",  # of the particles, beyond `largest`
    "truncated_fraction_volume_squared": "",  # weighted by V^2 (intensity)
    "atoms": "",
}
#: Largest fraction of a distribution, weighted with the volume squared, that is truncated without a
#: warning.
MOST_TRUNCATED = 1e-3


def statistic_unit(name: str) -> str:
    """The unit of a size statistic."""
    return UNITS.get(name, "nm")


def block_measures(cell: Cell, n_a: float, n_b: float, n_c: float) -> dict[str, float]:
    """Measures of a parallelepiped of n_a x n_b x n_c cells; these numbers need not be integers.

    `edge` (nm) is that of the cube of equal volume. `surface_to_volume` (1/nm) is
    2 sum 1/(n_i d_i) with d_i the distance between opposite faces of the cell, or 4/L_ab + 2/L_c
    for right angles and a = b. `confinement_diameter` (nm) is 2 edge/sqrt(3), the size of a cuboid
    in the sizing curve.
    """
    numbers = np.array([n_a, n_b, n_c])
    edge = float((numbers.prod() * cell.volume) ** (1 / 3)) / 10
    inverse_spacing = np.linalg.norm(np.linalg.inv(cell.matrix), axis=1)
    return {
        "edge": edge,
        "surface_to_volume": float(20 * np.sum(inverse_spacing / numbers)),
        "confinement_diameter": 2 * edge / float(np.sqrt(3)),
    }


def sphere_measures(diameter: float) -> dict[str, float]:
    """Measures of a sphere of `diameter` nm: A/V = 6/D, and the confinement diameter D."""
    return {
        "edge": float((np.pi / 6) ** (1 / 3)) * diameter,
        "surface_to_volume": 6 / diameter,
        "confinement_diameter": diameter,
    }


def truncation_warning(phase: str, statistics: Mapping[str, float]) -> str | None:
    """A warning if the size distribution of a phase is truncated noticeably, or None."""
    fraction = statistics.get("truncated_fraction_volume_squared", 0.0)
    if fraction <= MOST_TRUNCATED:
        return None
    return (
        f"{phase}: {100 * statistics['truncated_fraction']:.3g} % of the particles of the size "
        f"distribution, and {100 * fraction:.3g} % of its intensity (volume squared), lie beyond "
        "'largest' or the limit of the model, where the distribution is truncated; "
        f"{100 * MOST_TRUNCATED:g} % of the intensity is tolerated. Raise or remove 'largest' of the "
        "particle, or check the sizes."
    )
