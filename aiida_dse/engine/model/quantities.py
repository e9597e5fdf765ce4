"""Derived quantities of a structure: volume, distances, angles, pseudo-cubic edge and strain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from aiida_dse.engine.crystal.bonds import angles, bonds
from aiida_dse.engine.crystal.geometry import (
    Bond,
    BondAngle,
    Geometry,
    angle,
    irreducible_strain,
    pseudo_cubic_edge,
)
from aiida_dse.engine.parameters import closest
from aiida_dse.engine.units import FloatArray

from .constraints import Numbers
from .crystal_phase import CrystalPhase
from .pattern import PatternModel


@dataclass(frozen=True)
class CrystalQuantity:
    """A derived quantity of one phase as a function of its geometry; results report its `name`."""

    phase: str
    name: str
    unit: str
    of: Callable[[Geometry], FloatArray]

    @property
    def full_name(self) -> str:
        """The name with its phase, 'phase.name', as for parameters."""
        return f"{self.phase}.{self.name}"

    @property
    def limits(self) -> tuple[float, float]:
        """The limits of the quantity in any crystal."""
        if self.unit == "deg":
            return 0.0, 180.0
        return (0.0, np.inf) if self.unit else (-np.inf, np.inf)


def crystal_quantities(
    model: PatternModel, phase: CrystalPhase, reference: Mapping[str, float], *,
    distances: Sequence[tuple[str, str]] = (), angles_: Sequence[tuple[str, str, str]] = (),
    pseudo_cubic: bool = False, cutoff: float | None = None,
) -> list[CrystalQuantity]:
    """The volume, bonds between pairs of sites, angles site-vertex-site, and a_k and zeta.

    The `reference` values determine which atoms are neighbours, and the numbering of bonds
    (shortest first) and angles (largest first). Bonds and angles that are equivalent by symmetry
    are one quantity. `cutoff` (Å) is the largest length of a bond; without it, neighbours are
    within 1.25 times the shortest distance.
    """
    start = geometries_of(model, phase, reference)

    def quantity(name: str, unit: str, of: Callable[[Geometry], FloatArray]) -> CrystalQuantity:
        return CrystalQuantity(phase.name, name, unit, of)

    quantities = [quantity("volume", "Å^3", lambda geometry: geometry.volume)]
    for first, second in distances:
        for k, bond in enumerate(bonds(phase.crystal, start, first, second, cutoff=cutoff,
                                       exclusion_distance=phase.exclusion_distance)):
            quantities.append(
                quantity(f"d({first}-{second})_{k + 1}", "Å", partial(_length, bond)))
    for sites in angles_:
        for k, between in enumerate(angles(phase.crystal, start, *sites, cutoff=cutoff,
                                           exclusion_distance=phase.exclusion_distance)):
            quantities.append(
                quantity(f"angle({'-'.join(sites)})_{k + 1}", "deg", partial(_span, between)))
    if pseudo_cubic:
        quantities.append(
            quantity("a_k", "Å", lambda geometry: pseudo_cubic_edge(*geometry.edges)))
        quantities.append(
            quantity("zeta", "", lambda geometry: irreducible_strain(*geometry.edges)))
    return quantities


def _length(bond: Bond, geometry: Geometry) -> FloatArray:
    return geometry.length(bond)


def _span(between: BondAngle, geometry: Geometry) -> FloatArray:
    return angle(geometry, between)


def geometries_of(
    model: PatternModel, phase: CrystalPhase, values: Mapping[str, Numbers]
) -> Geometry:
    """The geometry of one cell at `values`, or the geometries at arrays that broadcast."""
    labels = tuple(phase.labels[s] for s in phase.crystal.site_of_atom)
    full = model.constrained_grid(values)
    local = {p.name.local: full[p.name] for p in phase.parameters}
    return Geometry(*phase.geometry(local), labels)


def require_quantity(
    name: str, known: Mapping[str, CrystalQuantity]
) -> CrystalQuantity:
    """The quantity with that name; ValueError with the nearest names if there is none."""
    if name not in known:
        raise ValueError(
            f"there is no quantity '{name}'{closest(name, known)}. The quantities are the volume "
            "and those specified under 'derived'."
        )
    return known[name]


def evaluated(
    model: PatternModel, quantities: Sequence[CrystalQuantity], values: Mapping[str, Numbers]
) -> list[FloatArray]:
    """The quantities, in their order, at `values` (numbers, or arrays that broadcast)."""
    geometries = {
        phase.name: geometries_of(model, phase, values) for phase in model.phases
        if isinstance(phase, CrystalPhase) and any(q.phase == phase.name for q in quantities)
    }
    return [np.asarray(q.of(geometries[q.phase])) for q in quantities]

