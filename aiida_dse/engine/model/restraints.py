"""Soft restraints on distances, angles and parameters.

Each restraint adds ((value - target) / sigma)^2 to the sum of squares that a refinement minimises.
The agreement factors are those of the pattern alone; the sum of the restraints is reported beside
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.crystal.bonds import angles, bonds
from aiida_dse.engine.crystal.geometry import Bond, BondAngle, Geometry, angle
from aiida_dse.engine.parameters import Changes
from aiida_dse.engine.units import FloatArray

from .crystal_phase import CrystalPhase
from .pattern import PatternModel

Values = Mapping[str, float]
#: Angles that start further than this (degrees) from the target of a restraint are of another kind.
ANGLE_REACH = 45.0
#: An angle counts as fixed if a change of cell and coordinates changes it by less (degrees).
FIXED_ANGLE = 1e-8


@dataclass(frozen=True)
class Restraint:
    """A restraint: a target with its standard deviation for a function of the parameters.

    Raises ValueError where target or sigma is not finite, or sigma is not above 0.
    """

    name: str
    target: float
    sigma: float
    unit: str
    value: Callable[[Values], float]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.target) and np.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(
                f"the restraint on {self.name} has the target {self.target:g} and sigma "
                f"{self.sigma:g} {self.unit}; both must be finite, and sigma above 0."
            )

    def deviation(self, values: Values) -> float:
        """The deviation (value - target) / sigma."""
        return (self.value(values) - self.target) / self.sigma


def geometry_of(model: PatternModel, phase: CrystalPhase) -> Callable[[Values], Geometry]:
    """The geometry of one cell of a phase as a function of the parameters of the model."""
    index = model.phases.index(phase)
    labels = tuple(phase.labels[s] for s in phase.crystal.site_of_atom)

    def geometry(values: Values) -> Geometry:
        return Geometry(*phase.geometry(model.local(index, model.constrained(values))), labels)

    return geometry


def distance_restraints(
    model: PatternModel, phase: CrystalPhase, sites: tuple[str, str], target: float, sigma: float,
    *, multiplicity: bool = False, cutoff: float | None = None, coordination: int | None = None,
) -> list[Restraint]:
    """One restraint (Å) for each symmetry-independent bond between two sites.

    Neighbours and their numbering are those at the starting values, as for derived quantities;
    `cutoff` (Å) and `coordination` are those of `crystal.bonds.bonds`. With `multiplicity`, a bond
    counts as often as it occurs around one atom of the first site: its sigma is divided by the
    square root of its multiplicity.
    """
    for label in sites:
        phase.crystal.site(label)
    geometry = geometry_of(model, phase)
    independent = bonds(phase.crystal, geometry(model.start), *sites, cutoff=cutoff,
                        coordination=coordination, exclusion_distance=phase.exclusion_distance)

    def length(bond: Bond) -> Callable[[Values], float]:
        return lambda values: float(geometry(values).length(bond))

    return [
        Restraint(f"{phase.name} d({'-'.join(sites)})_{k + 1}", target,
                  _weighted(sigma, bond, multiplicity), "Å", length(bond))
        for k, bond in enumerate(independent)
    ]


def angle_restraints(
    model: PatternModel, phase: CrystalPhase, sites: tuple[str, str, str], target: float,
    sigma: float, *, multiplicity: bool = False, cutoff: float | None = None,
    coordination: int | None = None,
) -> list[Restraint]:
    """One restraint (degrees) for each symmetry-independent angle first-vertex-last.

    The arguments are those of `distance_restraints`. Angles that start further than ANGLE_REACH
    from the target are of another kind (trans instead of cis) and are not restrained, nor are those
    that symmetry fixes. Raises ValueError where no angle remains.
    """
    for label in sites:
        phase.crystal.site(label)
    geometry = geometry_of(model, phase)
    start = geometry(model.start)
    independent = angles(phase.crystal, start, *sites, cutoff=cutoff, coordination=coordination,
                         exclusion_distance=phase.exclusion_distance)
    values = [float(angle(start, between)) for between in independent]
    elsewhere = geometry(_moved(model, phase))
    fixed = [abs(float(angle(elsewhere, between)) - value) < FIXED_ANGLE
             for between, value in zip(independent, values, strict=True)]

    def span(between: BondAngle) -> Callable[[Values], float]:
        return lambda values: float(angle(geometry(values), between))

    chosen = [
        Restraint(f"{phase.name} angle({'-'.join(sites)})_{k + 1}", target,
                  _weighted(sigma, between, multiplicity), "deg", span(between))
        for k, (between, value, is_fixed) in enumerate(
            zip(independent, values, fixed, strict=True))
        if not is_fixed and abs(value - target) <= ANGLE_REACH
    ]
    if not chosen:
        listed = ", ".join(f"{value:.2f}" + " (fixed by symmetry)" * is_fixed
                           for value, is_fixed in zip(values, fixed, strict=True))
        raise ValueError(
            f"no angle {'-'.join(sites)} can be restrained to {target:g} degrees. The angles at "
            f"the start are {listed or 'none'}, and only variable ones within {ANGLE_REACH:g} "
            "degrees of the target are restrained. Correct the sites or the target."
        )
    return chosen


def _weighted(sigma: float, counted: Bond | BondAngle, multiplicity: bool) -> float:
    return sigma / float(np.sqrt(counted.multiplicity)) if multiplicity else sigma


def _moved(model: PatternModel, phase: CrystalPhase) -> dict[str, float]:
    """The starting values with cell and coordinates of a phase moved at random."""
    random = np.random.default_rng(20063)
    moved = model.start
    for p in phase.parameters:
        if p.kind.spec.changes is Changes.DISTANCES:
            moved[p.name] += p.shift * random.uniform(1, 3)
    return moved


def parameter_restraint(
    model: PatternModel, name: str, target: float, sigma: float
) -> Restraint:
    """A Gaussian prior on one parameter."""
    unit = model.require(name).unit
    return Restraint(
        name, target, sigma, unit, lambda values: float(model.constrained(values)[name]))


def deviations(restraints: Sequence[Restraint], values: Values) -> FloatArray:
    """The deviations (n_restraints,) of all restraints, in units of their sigma."""
    return np.array([restraint.deviation(values) for restraint in restraints])


def deviation_slopes(
    restraints: Sequence[Restraint], values: Values, free: Sequence[str], steps: Sequence[float]
) -> FloatArray:
    """The derivatives (n_restraints, n_free) of the deviations, by central differences."""
    slopes = np.zeros((len(restraints), len(free)))
    for column, (name, step) in enumerate(zip(free, steps, strict=True)):
        ends = [
            deviations(restraints, {**values, name: values[name] + sign * step})
            for sign in (1, -1)
        ]
        slopes[:, column] = (ends[0] - ends[1]) / (2 * step)
    return slopes
