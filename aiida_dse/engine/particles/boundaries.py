"""Coherent boundaries between translation variants, at random on planes of a finer lattice.

At each plane of a family, which cuts the whole particle, the variant changes by a given shift with a
probability p, independently of all other planes. The change between two cells then depends on their
difference U (in vectors of the finer lattice) only, and because the shifts form an abelian group, its
distribution is

    P(D | U) = 1/n sum_chi conj(chi(D)) prod_d lambda_{d,chi}^{U_d},   lambda_{d,chi} = 1 - sum_f p_f (1 - chi(s_f)),

with f the kinds of boundaries along the vector d, and the complex conjugate of lambda for negative U_d. (See
Bertolotti et al., ACS Nano 11 (2017) 3819, for nanotwins of CsPbBr3.) All variants are equally probable at the start.

If every particle has exactly K boundaries at random among its L - 1 planes of a kind, lambda^m is replaced by the
mean of chi(s)^k, with k the number of boundaries among m planes, which has a hypergeometric distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
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
    and the shift at a boundary in vectors of the finer lattice.

    With a `number`, a particle has exactly so many boundaries along each axis, among the planes between its
    `layers` (3,) along each axis; otherwise, they have a probability.
    """

    name: str
    along: tuple[int, ...]
    shift: tuple[int, int, int]
    number: int | None = None
    layers: tuple[int, int, int] = (0, 0, 0)

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

    def powers(self, values: Mapping[str, float], longest: int) -> np.ndarray:
        """The transfer factors (3, longest + 1, n_characters), complex, of m steps along each axis of the parent
        lattice."""
        ...

    def slopes(self, values: Mapping[str, float], longest: int, name: str) -> dict[int, np.ndarray]:
        """The derivatives (longest + 1, n_characters) of `powers` with respect to a parameter, by axis."""
        ...

    def quantities(self, values: Mapping[str, float], matrix: FloatArray) -> dict[str, float]:
        """Lengths (nm) to report; matrix (3, 3) Å: the lattice vectors."""
        ...

    def with_crystal(self, crystal: Crystal) -> Order:
        """The same for another crystal of the same sites."""
        ...


@dataclass(frozen=True)
class Boundaries:
    """The boundaries of a phase: the variants, the planes, and the starting probabilities by parameter.

    `cells` are those of a particle of one size, as exact numbers of boundaries require.
    """

    variants: Variants
    planes: tuple[BoundaryPlanes, ...]
    density: Mapping[str, float]
    cells: tuple[int, int, int] | None = None

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

    @property
    def _random(self) -> tuple[BoundaryPlanes, ...]:
        """The planes that are boundaries with a probability."""
        return tuple(one for one in self.planes if one.number is None)

    def quantities(self, density: Mapping[str, float], matrix: FloatArray) -> dict[str, float]:
        """Lengths (nm) perpendicular to the planes of each kind, along its first vector; matrix (3, 3) Å.

        These are the mean distance between boundaries, and the coherence lengths -d / ln |lambda| of the
        superstructure reflections that the boundaries broaden, with d the distance of the planes.
        """
        reciprocal = np.linalg.inv(matrix @ np.array(self.variants.axes).T)
        spacing = 1 / np.linalg.norm(reciprocal, axis=1) / 10
        found = {f"domain_{one.name}": float(spacing[one.along[0]] / max(density[one.parameter], 1e-9))
                 for one in self._random}
        for one in self._random:
            for label, value in self.broadened(one).items():
                left = abs(1 - density[one.parameter] * (1 - value))
                found[f"coherence_{label}_{one.name}"] = float(
                    spacing[one.along[0]] / max(-np.log(max(left, 1e-300)), 1e-9))
        return found

    def broadened(self, planes: BoundaryPlanes) -> dict[str, complex]:
        """The character of the shift at a boundary for the superstructure reflections that it changes, by label."""
        values = self.variants.characters[:, self.variants.element_of(np.array(planes.shift))]
        return {reflection_label(vector): complex(value) for vector, value in zip(
            self.variants.wave_vectors, values, strict=True) if abs(value - 1) > 1e-9}

    def with_crystal(self, crystal: Crystal) -> Boundaries:
        variants = replace(self.variants, crystal=crystal)
        if self.cells is None:
            return replace(self, variants=variants)
        # the layers depend on the atoms that form a cell
        layers = layers_of(variants, self.cells)
        return replace(self, variants=variants, planes=tuple(replace(one, layers=layers) for one in self.planes))

    def powers(self, density: Mapping[str, float], longest: int) -> np.ndarray:
        random = transfer(self.variants, self._random, density)[:, None, :] ** np.arange(longest + 1)[:, None]
        return np.asarray(random * self._exact(longest))

    def slopes(self, density: Mapping[str, float], longest: int, name: str) -> dict[int, np.ndarray]:
        (one,) = (one for one in self._random if one.parameter == name)
        value = self.variants.characters[:, self.variants.element_of(np.array(one.shift))]
        factors, exact = transfer(self.variants, self._random, density), self._exact(longest)
        steps = np.arange(longest + 1)[:, None]
        lower = np.maximum(steps - 1, 0)
        return {axis: np.asarray(steps * factors[axis] ** lower * (value - 1) * exact[axis]) for axis in one.along}

    def _exact(self, longest: int) -> np.ndarray:
        """The transfer factors (3, longest + 1, n_characters) of the boundaries whose number is exact."""
        found = np.ones((3, longest + 1, len(self.variants.characters)), dtype=complex)
        for one in self.planes:
            if one.number is not None:
                values = self.variants.characters[:, self.variants.element_of(np.array(one.shift))]
                for axis in one.along:
                    found[axis] *= exactly(one.number, one.layers[axis], values, longest)
        return found


def reflection_label(vector: FloatArray) -> str:
    """The name of superstructure reflections: M, R or X for halves of two, three or one vectors, else fractions."""
    halves = int((np.abs(vector - 0.5) < 1e-6).sum())
    if halves and np.abs(vector[np.abs(vector - 0.5) >= 1e-6]).max(initial=0.0) < 1e-6:
        return "XMR"[halves - 1]
    return "_".join(str(Fraction(float(x)).limit_denominator(64)).replace("/", "over") for x in vector)


def layers_of(variants: Variants, cells: tuple[int, int, int]) -> tuple[int, int, int]:
    """The numbers of layers along each axis of the finer lattice, of a block of cells."""
    corners = np.array(list(product(*[(0, n - 1) for n in cells]))) @ variants.lattice
    extent = np.ptp(corners, axis=0) + np.ptp(variants.cells, axis=0) + 1
    return int(extent[0]), int(extent[1]), int(extent[2])


def exactly(number: int, layers: int, values: np.ndarray, longest: int) -> np.ndarray:
    """The mean (longest + 1, n) of values^k, with k of exactly `number` boundaries among m planes of a particle.

    The boundaries are at random among the layers - 1 planes; values (n,) are the characters of the shift.
    Raises ValueError for more boundaries than planes.
    """
    from scipy.stats import hypergeom  # slow to load; few particles have an exact number of boundaries

    planes = layers - 1
    if not 0 <= number <= planes:
        raise ValueError(f"the particle has {planes} planes of this kind, so it cannot have {number} boundaries. "
                         f"Specify a number from 0 to {max(planes, 0)}, or larger particles.")
    among = np.minimum(np.arange(longest + 1), planes)[:, None]
    k = np.arange(number + 1)
    return np.asarray(hypergeom.pmf(k, planes, number, among) @ values ** k[:, None])


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

    def powers(self, values: Mapping[str, float], longest: int) -> np.ndarray:
        factors = np.stack([np.ones(3), np.array(self.correlation)], axis=1).astype(complex)
        return np.asarray(factors[:, None, :] ** np.arange(longest + 1)[:, None])

    def slopes(self, values: Mapping[str, float], longest: int, name: str) -> dict[int, np.ndarray]:
        raise ValueError(f"{name} does not change the correlation of the signs.")

    def quantities(self, values: Mapping[str, float], matrix: FloatArray) -> dict[str, float]:
        return {}

    def with_crystal(self, crystal: Crystal) -> SplitOrder:
        return replace(self, variants=replace(self.variants, crystal=crystal))
