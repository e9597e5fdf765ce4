"""Bodies whose centre lies anywhere in the unit cell: what a shape provides.

The mean number of pairs at a difference vector r is then the volume that a body shares with its copy
shifted by r, divided by the volume of the cell, and no lattice sum is needed (random_centre.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from numba import njit

from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.resources import Resources
from aiida_dse.engine.units import FloatArray

from .size_distributions import Lengths

#: Number of points of tables of functions of one length.
TABLE = 2000
#: Nodes and weights of the integrals over the size.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(80)
#: The same within each eighth of an interval between kinks of a density.
_FEW_NODES, _FEW_WEIGHTS = np.polynomial.legendre.leggauss(8)


class Overlap(Protocol):
    """The volume that a body shares with its copies shifted by given vectors."""

    def mean(self, lengths: Mapping[str, Lengths]) -> FloatArray:
        """The mean (n,) over the population in nm^3."""
        ...


@runtime_checkable
class LayeredOverlap(Protocol):
    """The overlap of a body whose occupancies are not the same everywhere."""

    def of_sites(self, lengths: Mapping[str, Lengths], first: np.ndarray, second: np.ndarray) -> FloatArray:
        """The mean product (n,) of the relative occupancies of two sites (n,), integrated over the body, nm^3."""
        ...


@runtime_checkable
class LayeredBody(Protocol):
    """A body whose occupancies are not the same everywhere."""

    @property
    def occupancy_factors(self) -> tuple[float, ...]:
        """The highest occupancy of each site in any layer, relative to that of the structure."""
        ...

    def contents(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> FloatArray:
        """The mean relative occupancy (n_sites,) of each site, integrated over the body, in nm^3.

        Raises ValueError if there is no such body.
        """
        ...


class Body(Protocol):
    """A body with one or several lengths, in nm, that are distributed independently of each other."""

    @property
    def powers(self) -> Mapping[str, int]:
        """The power of each length in the volume."""
        ...

    @property
    def parameters(self) -> Mapping[str, Kind]:
        """Other parameters of the shape than its lengths, such as an aspect ratio."""
        ...

    @property
    def spherical(self) -> bool:
        """Whether the overlap depends only on the length of the vector."""
        ...

    def volume(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> float:
        """The mean volume in nm^3."""
        ...

    def extent(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> float:
        """The largest distance (nm) between two points of the body with these lengths (nm)."""
        ...

    def overlap(self, vectors: FloatArray, others: Mapping[str, float], resources: Resources) -> Overlap:
        """The overlap at vectors (n, 3) in nm, in the Cartesian axes of the cell."""
        ...

    @property
    def cost(self) -> float:
        """The time to prepare one vector, in units of the time to count one pair."""
        ...

    def measures(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        """edge, surface_to_volume, confinement_diameter and other measures of one body."""
        ...


@dataclass(frozen=True)
class ComputedOverlap:
    """An overlap that is a function of the distribution of lengths."""

    function: Callable[[Mapping[str, Lengths]], FloatArray]

    def mean(self, lengths: Mapping[str, Lengths]) -> FloatArray:
        return self.function(lengths)


def spread_name(name: str) -> str:
    """The name of the standard deviation of a length: sd_ab for L_ab, and sd_D for D."""
    return f"sd_{name.partition('_')[2] or name}"


def mean_power(length: Lengths, power: int) -> float:
    """The mean of a power of a length over the population."""
    return float(length.moment_beyond(power, np.zeros(1))[0])


def compact_measures(volume: float, surface: float) -> dict[str, float]:
    """Measures of a body of this volume (nm^3) and surface (nm^2).

    `edge` is that of the cube of equal volume; the confinement diameter is that of the sphere of equal
    volume.
    """
    return {
        "edge": volume ** (1 / 3), "surface_to_volume": surface / volume,
        "confinement_diameter": (6 * volume / np.pi) ** (1 / 3),
    }


def tabulated(
    function: Callable[[FloatArray, FloatArray], FloatArray], size: Lengths, at: FloatArray
) -> FloatArray:
    """The mean over a population of function(distance, size) at distances (n,), all in nm.

    The function vanishes where the distance exceeds the size. For a single size it is evaluated itself;
    otherwise its mean is interpolated in a table by cubic polynomials.
    """
    if size.begin == size.end:
        return np.asarray(function(at, np.asarray(size.end)))
    step = size.end / (TABLE - 1)
    grid = (np.arange(-1, TABLE + 3) * step)[:, None]
    if size.kinks:
        edges = np.unique(np.clip([size.begin, *size.kinks, size.end], size.begin, size.end))
        edges = np.concatenate([*(np.linspace(a, b, 9)[:-1] for a, b in pairwise(edges)), edges[-1:]])
        half = np.diff(edges)[:, None] / 2
        sizes = (edges[:-1, None] + half * (_FEW_NODES + 1)).ravel()[None, :]
        shares = (half * _FEW_WEIGHTS).ravel() * size.density(sizes[0])
        table = np.asarray(np.sum(function(np.asarray(grid, dtype=np.float64), sizes) * shares, axis=1))
        return interpolated(np.ascontiguousarray(table, dtype=np.float64), step, at)
    # the square removes the root that the overlap of rounded bodies contains at its end
    low = np.clip(grid, size.begin, size.end)
    share = (_NODES + 1) / 2
    sizes = np.asarray(low + (size.end - low) * share**2, dtype=np.float64)
    weights: FloatArray = _WEIGHTS * share * (size.end - low) * size.density(sizes)
    table = np.asarray(np.sum(function(np.asarray(grid, dtype=np.float64), sizes) * weights, axis=1), dtype=np.float64)
    return interpolated(table, step, at)


def interpolated(table: FloatArray, step: float, at: FloatArray) -> FloatArray:
    """The function with the values `table` (n,) at -step, 0, step, ..., interpolated at points >= 0.

    It is interpolated by cubic polynomials, and has the third last value of the table beyond its end.
    """
    found = np.empty(len(at))
    _interpolate(table, step, at, found)
    return found


@njit(cache=True, nogil=True)
def _interpolate(table, step, at, found):  # type: ignore[no-untyped-def]
    last = len(table) - 4
    for n in range(len(at)):
        place = min(at[n] / step, last)
        k = np.int64(place)
        t = place - k
        found[n] = (-t * (t - 1) * (t - 2) / 6 * table[k] + (t + 1) * (t - 1) * (t - 2) / 2 * table[k + 1]
                    - (t + 1) * t * (t - 2) / 2 * table[k + 2] + (t + 1) * t * (t - 1) / 6 * table[k + 3])
