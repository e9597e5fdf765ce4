"""Soft restraints on distances, angles and parameters.

Each adds ((value - target) / sigma)^2 to the sum of squares that a refinement minimises. The
figures of merit stay those of the pattern; what the restraints add is reported beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.crystal.bonds import angles, bonds
from aiida_dse.engine.crystal.geometry import Bond, BondAngle, Geometry, angle
from aiida_dse.engine.parameters import Changes
from aiida_dse.engine.units import FloatArray

from .pattern import PatternModel
from .phase import CrystalPhase

Values = Mapping[str, float]
#: Angles that start further (degrees) from the target of a restraint are of another kind.
ANGLE_REACH = 45.0
#: An angle that a change of all cell parameters and coordinates moves by less is fixed (degrees).
FIXED_ANGLE = 1e-8


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
    model: PatternModel, phase: CrystalPhase, sites: tuple[str, str], target: float, sigma: float,
    *, multiplicity: bool = False, cutoff: float | None = None, coordination: int | None = None,
) -> list[Restraint]:
    """One restraint (Å) for each symmetry-independent bond between two sites.

    Neighbours and their numbering are those of the starting values, as of derived quantities;
    `cutoff` (Å) and `coordination` as of `crystal.bonds.bonds`. With `multiplicity` a bond counts as
    often as it occurs around one atom of the first site: its sigma is divided by the root of that.
    """
    for label in sites:
        phase.crystal.site(label)
    geometry = geometry_of(model, phase)
    found = bonds(phase.crystal, geometry(model.start), *sites, cutoff=cutoff,
                  coordination=coordination, exclusion_distance=phase.exclusion_distance)

    def length(bond: Bond) -> Callable[[Values], float]:
        return lambda values: float(geometry(values).length(bond))

    return [
        Restraint(f"{phase.name} d({'-'.join(sites)})_{k + 1}", target,
                  _weighted(sigma, bond, multiplicity), "Å", length(bond))
        for k, bond in enumerate(found)
    ]


def angle_restraints(
    model: PatternModel, phase: CrystalPhase, sites: tuple[str, str, str], target: float,
    sigma: float, *, multiplicity: bool = False, cutoff: float | None = None,
    coordination: int | None = None,
) -> list[Restraint]:
    """One restraint (degrees) for each symmetry-independent angle first-vertex-last.

    Arguments as of `distance_restraints`. Angles that start further than ANGLE_REACH from the
    target are of another kind (trans instead of cis) and stay free, as do those that symmetry
    fixes. Raises ValueError where no angle is left.
    """
    for label in sites:
        phase.crystal.site(label)
    geometry = geometry_of(model, phase)
    start = geometry(model.start)
    found = angles(phase.crystal, start, *sites, cutoff=cutoff, coordination=coordination,
                   exclusion_distance=phase.exclusion_distance)
    values = [float(angle(start, between)) for between in found]
    elsewhere = geometry(_moved(model, phase))
    fixed = [abs(float(angle(elsewhere, between)) - value) < FIXED_ANGLE
             for between, value in zip(found, values, strict=True)]

    def span(between: BondAngle) -> Callable[[Values], float]:
        return lambda values: float(angle(geometry(values), between))

    chosen = [
        Restraint(f"{phase.name} angle({'-'.join(sites)})_{k + 1}", target,
                  _weighted(sigma, between, multiplicity), "deg", span(between))
        for k, (between, value, is_fixed) in enumerate(zip(found, values, fixed, strict=True))
        if not is_fixed and abs(value - target) <= ANGLE_REACH
    ]
    if not chosen:
        listed = ", ".join(f"{value:.2f}" + " (fixed by symmetry)" * is_fixed
                           for value, is_fixed in zip(values, fixed, strict=True))
        raise ValueError(
            f"no angle {'-'.join(sites)} can be restrained to {target:g} degrees: those at the start "
            f"are {listed or 'none'}, and only variable ones within {ANGLE_REACH:g} degrees of the "
            "target are restrained. Correct the sites or the target."
        )
    return chosen


def _weighted(sigma: float, counted: Bond | BondAngle, multiplicity: bool) -> float:
    return sigma / float(np.sqrt(counted.multiplicity)) if multiplicity else sigma


def _moved(model: PatternModel, phase: CrystalPhase) -> dict[str, float]:
    """The start with cell and coordinates of a phase moved, which changes what can vary."""
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
