"""Soft restraints: what is known of distances, angles or parameters besides the pattern.

Each adds ((value - target) / sigma)^2 to the sum of squares that a refinement minimises. The
figures of merit stay those of the pattern; what the restraints add is reported beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.crystal.geometry import Geometry, angle, angles, bonds
from aiida_dse.engine.units import FloatArray

from .pattern import PatternModel
from .phase import CrystalPhase

Values = Mapping[str, float]


@dataclass(frozen=True)
class Restraint:
    """A target with its standard deviation for a function of the parameters."""

    name: str
    target: float
    sigma: float
    unit: str
    value: Callable[[Values], float]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.target) and np.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(
                f"the restraint on {self.name} has target {self.target:g} and sigma "
                f"{self.sigma:g} {self.unit}; sigma must be above 0."
            )

    def deviation(self, values: Values) -> float:
        """(value - target) / sigma."""
        return (self.value(values) - self.target) / self.sigma


def geometry_of(model: PatternModel, phase: CrystalPhase) -> Callable[[Values], Geometry]:
    """The atoms of one cell of a phase as a function of the model's parameters."""
    index = model.phases.index(phase)
    labels = tuple(phase.labels[s] for s in phase.crystal.site_of_atom)

    def geometry(values: Values) -> Geometry:
        return Geometry(*phase.geometry(model.local(index, model.constrained(values))), labels)

    return geometry


def distance_restraints(
    model: PatternModel, phase: CrystalPhase, sites: tuple[str, str], target: float, sigma: float
) -> list[Restraint]:
    """One restraint (Å) for each distinct bond between two sites at the starting values."""
    for label in sites:
        phase.crystal.site(label)
    geometry = geometry_of(model, phase)
    found = []
    for k, bond in enumerate(bonds(geometry(model.start), *sites)):
        def length(values: Values, bond=bond) -> float:  # type: ignore[no-untyped-def]
            return float(geometry(values).length(bond))

        name = f"{phase.name} d({sites[0]}-{sites[1]})_{k + 1}"
        found.append(Restraint(name, target, sigma, "Å", length))
    return found


def angle_restraints(
    model: PatternModel, phase: CrystalPhase, sites: tuple[str, str, str], target: float,
    sigma: float,
) -> list[Restraint]:
    """A restraint (degrees) on the widest angle first-vertex-last at the starting values."""
    for label in sites:
        phase.crystal.site(label)
    geometry = geometry_of(model, phase)
    pairs = angles(geometry(model.start), *sites)
    if not pairs:
        raise ValueError(f"no angle {'-'.join(sites)} is found: {sites[1]} has one such neighbour.")
    widest = pairs[0]
    name = f"{phase.name} angle({'-'.join(sites)})_1"

    def span(values: Values) -> float:
        return float(angle(geometry(values), widest))

    return [Restraint(name, target, sigma, "deg", span)]


def parameter_restraint(
    model: PatternModel, name: str, target: float, sigma: float
) -> Restraint:
    """A Gaussian prior on one parameter."""
    unit = model.require(name).unit
    return Restraint(name, target, sigma, unit, lambda values: float(model.constrained(values)[name]))


def deviations(restraints: Sequence[Restraint], values: Values) -> FloatArray:
    """(n_restraints,) residuals to append to those of the pattern."""
    return np.array([restraint.deviation(values) for restraint in restraints])


def deviation_slopes(
    restraints: Sequence[Restraint], values: Values, free: Sequence[str], steps: Sequence[float]
) -> FloatArray:
    """(n_restraints, n_free) derivatives of the deviations, by central differences."""
    slopes = np.zeros((len(restraints), len(free)))
    for column, (name, step) in enumerate(zip(free, steps, strict=True)):
        ends = [
            deviations(restraints, {**values, name: values[name] + sign * step})
            for sign in (1, -1)
        ]
        slopes[:, column] = (ends[0] - ends[1]) / (2 * step)
    return slopes
