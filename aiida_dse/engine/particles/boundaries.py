"""Coherent boundaries between translation variants, at random on planes of a finer lattice.

At each plane of a family, which cuts the whole particle, the variant changes by a given shift with a
probability p, independently of all other planes. The change between two cells then depends on their
difference U (in vectors of the finer lattice) only, and because the shifts form an abelian group, its
distribution is

    P(D | U) = 1/n sum_chi conj(chi(D)) prod_d lambda_{d,chi}^{U_d},   lambda_{d,chi} = 1 - p_d (1 - chi(s_d)),

with the complex conjugate of lambda for negative U_d (design: Bertolotti et al., ACS Nano 11 (2017) 3819, for
nanotwins of CsPbBr3). All variants are equally probable at the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.crystal.variants import Variants
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

    def domains(self, density: Mapping[str, float], matrix: FloatArray) -> dict[str, float]:
        """The mean thickness (nm) of the domains between boundaries of each kind; matrix (3, 3) Å.

        That of one family of planes, the first along which the boundaries follow each other.
        """
        reciprocal = np.linalg.inv(matrix @ np.array(self.variants.axes).T)
        spacing = 1 / np.linalg.norm(reciprocal, axis=1) / 10
        return {f"domain_{one.name}": float(spacing[one.along[0]] / max(density[one.parameter], 1e-9))
                for one in self.planes}

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
