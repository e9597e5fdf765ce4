"""Populations whose particles are weighted by a function of their size, as laws against size need them.

The size is the diameter D (nm) of the sphere of equal volume. A weighted population is not a
distribution: the weights may be negative, and do not sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from aiida_dse.engine.memo import Memo
from aiida_dse.engine.units import FloatArray

from .length_laws import INTERVALS, Quadrature
from .size_distributions import Lengths

#: Weights (n,) at diameters D (n,) in nm.
Weighting = Callable[[FloatArray], FloatArray]
#: Fractions of the atoms and of the intensity (volume squared) of a population that may lie below and above
#: the range of sizes of a law. Beyond its ends, a law has the value at the end.
BEYOND = 1e-5
#: The last integrals over the lengths of populations, without weighting.
_NODES_OF: Memo[tuple[Quadrature, FloatArray]] = Memo(8)


def equivalent_diameter(volume: FloatArray) -> FloatArray:
    """The diameter of the sphere of this volume."""
    return np.asarray(np.cbrt(6 / np.pi * np.asarray(volume)))


def range_of(diameters: FloatArray, number: FloatArray) -> tuple[float, float]:
    """The range of the diameters (n,) of particles with number weights (n,), apart from BEYOND."""
    order = np.argsort(diameters, axis=None)
    d, n = np.ravel(diameters)[order], np.ravel(number)[order]
    atoms, intensity = np.cumsum(n * d**3), np.cumsum((n * d**6)[::-1])[::-1]
    first = int(np.searchsorted(atoms, BEYOND * atoms[-1]))
    last = len(d) - 1 - int(np.searchsorted(intensity[::-1], BEYOND * intensity[0]))
    return float(d[min(first, len(d) - 1)]), float(d[max(first, last, 0)])


def range_of_lengths(length: Lengths, factor: float) -> tuple[float, float]:
    """The range of the diameters `factor` times a length that has a density."""
    lengths = np.geomspace(length.begin, length.end, 10 * INTERVALS)
    return range_of(factor * lengths, length.density(lengths) * lengths)


@dataclass(frozen=True)
class WeightedLengths:
    """A distribution of a length, weighted with a function of the diameters `factor` times the length."""

    lengths: Lengths
    weighting: Weighting
    factor: float = 1.0
    _known: Memo[tuple[Quadrature, FloatArray]] = field(
        default_factory=lambda: Memo(4), init=False, repr=False, compare=False)

    @property
    def begin(self) -> float:
        return self.lengths.begin

    @property
    def end(self) -> float:
        return self.lengths.end

    @property
    def kinks(self) -> tuple[float, ...]:
        """Lengths (nm) where the density is not smooth."""
        return self.lengths.kinks

    def density(self, length: FloatArray) -> FloatArray:
        length = np.asarray(length, dtype=float)
        return np.asarray(self.lengths.density(length) * self.weighting(self.factor * length))

    def moment_beyond(self, power: int, length: FloatArray) -> FloatArray:
        at, (nodes, values) = np.asarray(length, dtype=float), self._quadrature(length)
        for _ in range(power):
            values = values * nodes.at
        return nodes.beyond(values).reshape(at.shape)

    def _quadrature(self, length: FloatArray) -> tuple[Quadrature, FloatArray]:
        """The integral from lengths (n,) to the end, and the weighted density at its nodes, for all powers."""
        at = np.asarray(length, dtype=float).ravel()
        key = at.tobytes()
        # all nodes of a law have the same lengths
        nodes, density = _NODES_OF.get((self.lengths, key), lambda: self._unweighted(at))
        return self._known.get(key, lambda: (nodes, density * self.weighting(self.factor * nodes.at)))

    def _unweighted(self, at: FloatArray) -> tuple[Quadrature, FloatArray]:
        nodes = Quadrature.of(self.begin, self.end, at, self.kinks)
        return nodes, nodes.weights * self.lengths.density(nodes.at)
