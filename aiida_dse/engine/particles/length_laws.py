"""Distributions of a length in a population: log-normal, normal, or a free histogram.

Log-normal distributions have closed forms (size_distributions.py). The moments of the others are
integrals over Gauss-Legendre nodes in intervals that are equal in the logarithm of the length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.units import FloatArray

from .bodies import spread_name
from .size_distributions import TAIL, Lengths, LogNormal, TruncatedLogNormal

#: Nodes and weights of the integral over one interval, and the number of intervals over all lengths.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
INTERVALS = 300
#: A normal distribution is negligible so many standard deviations from its mean.
FAR = 8.0
#: The smallest length of a normal distribution, as a fraction of its end.
SMALLEST = 1e-7


@dataclass(frozen=True)
class Quadrature:
    """Integrals of functions of a length from given lengths to the end of all lengths, interval by interval.

    `at` (n_intervals, n_nodes) are the nodes, `weights` those of the integral over the length, and `place` the first
    interval of each of the given lengths.
    """

    at: FloatArray
    weights: FloatArray
    place: np.ndarray

    @classmethod
    def of(cls, begin: float, end: float, length: FloatArray, kinks: tuple[float, ...] = ()) -> Quadrature:
        """From lengths (n,) to `end`; `kinks` are lengths where the functions are not smooth."""
        low = np.clip(np.asarray(length, dtype=float), begin, end)
        edges = np.unique(np.concatenate([
            np.geomspace(begin, end, INTERVALS), low.ravel(), np.clip(kinks, begin, end)]))
        half = np.diff(np.log(edges))[:, None] / 2
        at = np.exp(np.log(edges[:-1])[:, None] + half * (_NODES + 1))
        return cls(at, half * _WEIGHTS * at, np.searchsorted(edges, low))

    def beyond(self, values: FloatArray) -> FloatArray:
        """The integrals (n,) of a function with these values, times the weights, at the nodes."""
        parts = values.sum(axis=1)
        return np.asarray(np.append(np.cumsum(parts[::-1])[::-1], 0.0)[self.place])


def moments_beyond(
    density: Callable[[FloatArray], FloatArray], begin: float, end: float, power: int, length: FloatArray,
    kinks: tuple[float, ...] = (),
) -> FloatArray:
    """The integral (n,) of density x^power from lengths (n,) to `end`; `kinks` are lengths where it is not smooth."""
    nodes = Quadrature.of(begin, end, length, kinks)
    return nodes.beyond(nodes.weights * density(nodes.at) * nodes.at**power)


class Distribution(Protocol):
    """The untruncated distribution of a length (nm), weighted by number."""

    def log_density(self, length: FloatArray) -> FloatArray:
        """The logarithm of the density at positive lengths (nm), up to a constant."""
        ...

    def beyond(self, length: float, *, power: float = 0.0) -> float:
        """The fraction beyond `length` (nm), weighted with length^power."""
        ...

    def end(self, *, dimensions: int, largest: float = np.inf) -> float:
        """The end (nm): `largest`, or the length beyond which only TAIL remains, weighted with the volume squared."""
        ...

    def truncated(self, end: float, scale: float = 1.0) -> Lengths:
        """The distribution up to `end` (nm), renormalised, of the lengths divided by `scale`."""
        ...


@dataclass(frozen=True)
class LogNormalLength:
    """A log-normal distribution."""

    law: LogNormal

    def log_density(self, length: FloatArray) -> FloatArray:
        return self.law.log_density(length)

    def beyond(self, length: float, *, power: float = 0.0) -> float:
        return self.law.beyond(length, power=power)

    def end(self, *, dimensions: int, largest: float = np.inf) -> float:
        return self.law.end(dimensions=dimensions, largest=largest)

    def truncated(self, end: float, scale: float = 1.0) -> Lengths:
        return TruncatedLogNormal(LogNormal(self.law.mean / scale, self.law.sd / scale), end / scale)


class Integrated:
    """Base class of distributions whose moments are integrated."""

    #: The lengths (nm) between which the density is not negligible, and lengths where it is not smooth.
    begin: float
    last: float
    kinks: tuple[float, ...] = ()

    def log_density(self, length: FloatArray) -> FloatArray:
        raise NotImplementedError

    def density(self, length: FloatArray) -> FloatArray:
        """The density up to a constant."""
        return np.asarray(np.exp(self.log_density(length)))

    def beyond(self, length: float, *, power: float = 0.0) -> float:
        if length >= self.last:
            return 0.0
        whole, rest = (float(moments_beyond(
            lambda x: self.density(x) * x**power, self.begin, self.last, 0, np.array([low]), self.kinks)[0])
            for low in (self.begin, length))
        return rest / whole

    def end(self, *, dimensions: int, largest: float = np.inf) -> float:
        lengths = np.geomspace(self.begin, self.last, 10 * INTERVALS)
        left = moments_beyond(self.density, self.begin, self.last, 2 * dimensions, lengths, self.kinks)
        kept = lengths[left > TAIL * left[0]]
        return float(min(kept[-1] if len(kept) else self.last, largest))

    def truncated(self, end: float, scale: float = 1.0) -> Lengths:
        return Truncated(self, end, scale)


@dataclass(frozen=True)
class Truncated:
    """A distribution up to `limit` (nm), renormalised, of the lengths divided by `scale`."""

    law: Integrated
    limit: float
    scale: float

    @property
    def begin(self) -> float:
        return min(self.law.begin, 0.99 * self.limit) / self.scale

    @property
    def end(self) -> float:
        return min(self.limit, self.law.last) / self.scale

    @property
    def kinks(self) -> tuple[float, ...]:
        """Lengths (nm) where the density is not smooth."""
        return tuple(x / self.scale for x in self.law.kinks)

    @cached_property
    def _whole(self) -> float:
        return float(moments_beyond(lambda x: self.law.density(self.scale * x), self.begin, self.end, 0,
                                    np.array([self.begin]), self.kinks)[0])

    def density(self, length: FloatArray) -> FloatArray:
        return np.asarray(self.law.density(self.scale * np.asarray(length, dtype=float)) / self._whole)

    def moment_beyond(self, power: int, length: FloatArray) -> FloatArray:
        return moments_beyond(self.density, self.begin, self.end, power, length, self.kinks)


@dataclass(frozen=True)
class Normal(Integrated):
    """A normal distribution with a mean and a standard deviation (nm), truncated at 0."""

    mean: float
    sd: float

    def __post_init__(self) -> None:
        if not (self.mean > 0 and self.sd > 0 and np.isfinite(self.mean * self.sd)):
            raise ValueError(
                f"the normal size distribution has the mean {self.mean:g} nm and the standard deviation "
                f"{self.sd:g} nm; both must be above 0. For particles of one size, specify the size as a single "
                "number.")

    @property
    def last(self) -> float:  # type: ignore[override]
        return self.mean + FAR * self.sd

    @property
    def begin(self) -> float:  # type: ignore[override]
        return max(self.mean - FAR * self.sd, SMALLEST * self.last)

    def log_density(self, length: FloatArray) -> FloatArray:
        return np.asarray(-(((np.asarray(length, dtype=float) - self.mean) / self.sd) ** 2) / 2)


@dataclass(frozen=True)
class Histogram(Integrated):
    """A density with any values at the `lengths` (nm, increasing), linear between them, and 0 at both ends.

    The values are proportional to `weights`; the density vanishes one step beyond the first and the last length.
    """

    lengths: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (min(self.weights) >= 0 and max(self.weights) > 0):
            raise ValueError("the weights of the size distribution must not be negative, and at least one of them must "
                             "be above 0. Specify other starting values or bounds.")

    @property
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]
        return self.lengths

    @property
    def begin(self) -> float:  # type: ignore[override]
        return max(2 * self.lengths[0] - self.lengths[1], SMALLEST * self.last)

    @property
    def last(self) -> float:  # type: ignore[override]
        return 2 * self.lengths[-1] - self.lengths[-2]

    def density(self, length: FloatArray) -> FloatArray:
        places = [2 * self.lengths[0] - self.lengths[1], *self.lengths, self.last]
        return np.asarray(np.interp(length, places, [0.0, *self.weights, 0.0], left=0.0, right=0.0))

    def log_density(self, length: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.density(length)))


class LengthLaw(Protocol):
    """How the distribution of a length depends on size parameters."""

    def parameters(self, name: str) -> Mapping[str, Kind]:
        """The size parameters of the length `name`."""
        ...

    def distribution(self, name: str, sizes: Mapping[str, float]) -> Distribution:
        """The distribution at the values of the size parameters."""
        ...


@dataclass(frozen=True)
class MeanAndSd:
    """A log-normal, or a normal distribution, with its mean and its standard deviation as parameters."""

    normal: bool = False

    def parameters(self, name: str) -> Mapping[str, Kind]:
        return {name: Kind.SIZE, spread_name(name): Kind.SIZE_SD}

    def distribution(self, name: str, sizes: Mapping[str, float]) -> Distribution:
        mean, sd = sizes[name], sizes[spread_name(name)]
        return Normal(mean, sd) if self.normal else LogNormalLength(LogNormal(mean, sd))


@dataclass(frozen=True)
class FreeWeights:
    """A histogram whose weights at fixed lengths (nm) are the parameters."""

    lengths: tuple[float, ...]

    def names(self, name: str) -> tuple[str, ...]:
        """The names of the weights of the length `name`."""
        return tuple(f"{name}_weight_{k}" for k in range(1, len(self.lengths) + 1))

    def parameters(self, name: str) -> Mapping[str, Kind]:
        return dict.fromkeys(self.names(name), Kind.SIZE_WEIGHT)

    def distribution(self, name: str, sizes: Mapping[str, float]) -> Distribution:
        return Histogram(self.lengths, tuple(sizes[one] for one in self.names(name)))


LOG_NORMAL = MeanAndSd()
