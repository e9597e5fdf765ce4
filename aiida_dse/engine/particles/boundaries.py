"""Coherent boundaries between translation variants, at random on planes of a finer lattice.

At each plane of a family, which cuts the whole particle, the variant changes by a given shift with a
probability p, independently of all other planes. The change between two cells then depends on their
difference U (in vectors of the finer lattice) only, and because the shifts form an abelian group, its
distribution is

    P(D | U) = 1/n sum_chi conj(chi(D)) prod_d lambda_{d,chi}^{U_d},   lambda_{d,chi} = 1 - sum_f p_f (1 - chi(s_f)),

with f the kinds of boundaries along the vector d, and the complex conjugate of lambda for negative U_d. (See
Bertolotti et al., ACS Nano 11 (2017) 3819, for nanotwins of CsPbBr3.) All variants are equally probable at the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from aiida_dse.engine.crystal.splitting import SplitSites
from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.crystal.variants import Ordering, Variants
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.units import FloatArray


@dataclass(frozen=True)
class BoundaryPlanes:
    """Planes with boundaries: `name`, the axes of the finer lattice along which they are counted (0, 1, 2),
    and the shift at a boundary in vectors of the finer lattice."""

    name: str
    along: tuple[int, ...]
    shift: tuple[int, int, int]

    @property
    def parameter(self) -> str:
        """The name of the parameter p, the probability of a boundary at each plane."""
        return f"boundary_{self.name}"


class Order(Protocol):
    """Correlated alternatives of the positions of atoms, as a phase uses them."""

    @property
    def variants(self) -> Ordering: ...

    @property
    def changes(self) -> tuple[int, ...]:
        """The elements of the group by which the alternatives of two atoms may differ."""
        ...

    @property
    def parameters(self) -> Mapping[str, tuple[Kind, float]]:
        """The kind and the starting value of each parameter, by its local name."""
        ...

    def factors(self, values: Mapping[str, float]) -> np.ndarray:
        """The transfer factors (3, n_characters), complex, of one step along each axis of the parent lattice."""
        ...

    def quantities(self, values: Mapping[str, float], matrix: FloatArray) -> dict[str, float]:
        """Lengths (nm) to report; matrix (3, 3) Å: the lattice vectors."""
        ...

    def with_crystal(self, crystal: Crystal) -> Order:
        """The same for another crystal of the same sites."""
        ...


@dataclass(frozen=True)
class Boundaries:
    """The boundaries of a phase: the variants, the planes, and the starting probabilities by parameter."""

    variants: Variants
    planes: tuple[BoundaryPlanes, ...]
    density: Mapping[str, float]

    @property
    def changes(self) -> tuple[int, ...]:
        """The variants that occur relative to the first one."""
        found = {0}
        while True:
            more = {self.variants.element_of(self.variants.elements[k] + np.array(one.shift))
                    for k in found for one in self.planes} | found
            if more == found:
                return tuple(sorted(found))
            found = more

    @property
    def parameters(self) -> Mapping[str, tuple[Kind, float]]:
        return {name: (Kind.BOUNDARY_PROBABILITY, value) for name, value in self.density.items()}

    def quantities(self, density: Mapping[str, float], matrix: FloatArray) -> dict[str, float]:
        """The mean distance (nm) between boundaries of each kind along its first vector; matrix (3, 3) Å."""
        reciprocal = np.linalg.inv(matrix @ np.array(self.variants.axes).T)
        spacing = 1 / np.linalg.norm(reciprocal, axis=1) / 10
        return {f"domain_{one.name}": float(spacing[one.along[0]] / max(density[one.parameter], 1e-9))
                for one in self.planes}

    def with_crystal(self, crystal: Crystal) -> Boundaries:
        return replace(self, variants=replace(self.variants, crystal=crystal))

    def factors(self, density: Mapping[str, float]) -> np.ndarray:
        """The transfer factors (3, n_characters) at probabilities by parameter."""
        return transfer(self.variants, self.planes, density)


def transfer(
    variants: Variants, planes: Sequence[BoundaryPlanes], density: Mapping[str, float]
) -> np.ndarray:
    """The factors lambda (3, n_characters), complex, of one step along each axis of the finer lattice."""
    factors = np.ones((3, len(variants.characters)), dtype=complex)
    for one in planes:
        value = variants.characters[:, variants.element_of(np.array(one.shift))]
        for axis in one.along:
            factors[axis] -= density[one.parameter] * (1 - value)
    return factors


@dataclass(frozen=True)
class SplitOrder:
    """Split sites, their starting amplitudes (Å) by parameter, and the correlation of the signs.

    `correlation` is the mean product of the signs of neighbours along each axis of the parent lattice.
    """

    variants: SplitSites
    amplitudes: Mapping[str, float]
    correlation: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def changes(self) -> tuple[int, ...]:
        return (0, 1)

    @property
    def parameters(self) -> Mapping[str, tuple[Kind, float]]:
        return {name: (Kind.SPLIT, value) for name, value in self.amplitudes.items()}

    def factors(self, values: Mapping[str, float]) -> np.ndarray:
        return np.stack([np.ones(3), np.array(self.correlation)], axis=1).astype(complex)

    def quantities(self, values: Mapping[str, float], matrix: FloatArray) -> dict[str, float]:
        return {}

    def with_crystal(self, crystal: Crystal) -> SplitOrder:
        return replace(self, variants=replace(self.variants, crystal=crystal))
