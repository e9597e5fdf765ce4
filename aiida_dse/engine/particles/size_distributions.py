"""Log-normal size distributions of a nanocrystal population, of one or two edge lengths.

A distribution ends at `largest`, or earlier where only the fraction TAIL of it remains. It is
truncated there and renormalised, and the reported statistics are those of the truncated
distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.special import log_ndtr, ndtr, ndtri

from aiida_dse.engine.units import FloatArray

#: Fraction of the population, weighted with the volume squared (the small-angle intensity), that
#: may lie beyond the largest size considered.
TAIL = 1e-4


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[FloatArray, FloatArray]:
    """Nodes and weights (200,) on [-1, 1]; their computation takes longer than all the rest."""
    return leggauss(200)


@dataclass(frozen=True)
class LogNormal:
    """A number-weighted log-normal distribution of a length, with its mean and s.d. (nm).

    w = sqrt(log(1 + s^2/m^2)), x0 = m / sqrt(1 + s^2/m^2), density
    exp(-(log x - log x0)^2 / (2 w^2)) / (x w sqrt(2 pi)).
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        if not (self.mean > 0 and self.sd > 0 and np.isfinite(self.mean * self.sd)):
            raise ValueError(
                f"the log-normal size distribution has the mean {self.mean:g} nm and the standard "
                f"deviation {self.sd:g} nm; both must be above 0. For particles of one size, specify the "
                "size as a single number."
            )

    @property
    def width(self) -> float:
        """The standard deviation w of the logarithm of the length."""
        return float(np.sqrt(np.log1p((self.sd / self.mean) ** 2)))

    @property
    def median(self) -> float:
        """The median x0 in nm."""
        return float(self.mean / np.sqrt(1 + (self.sd / self.mean) ** 2))

    def density(self, length: FloatArray) -> FloatArray:
        """The probability density (1/nm) at lengths in nm; 0 for lengths that are not positive."""
        length = np.asarray(length, dtype=float)
        log_density = self.log_density(np.where(length > 0, length, 1.0))
        return np.where(length > 0, np.exp(log_density), 0.0)

    def log_density(self, length: FloatArray) -> FloatArray:
        """The logarithm of the density (1/nm) at positive lengths (nm)."""
        z = np.log(length / self.median) / self.width
        return np.asarray(-(z**2) / 2 - np.log(length * self.width * np.sqrt(2 * np.pi)))

    def survival(self, length: FloatArray) -> FloatArray:
        """The fraction of particles longer than `length` (nm)."""
        length = np.asarray(length, dtype=float)
        positive = np.where(length > 0, length, 1e-300)
        return np.asarray(ndtr(-np.log(positive / self.median) / self.width))

    def fraction_beyond(self, length: FloatArray, *, end: float) -> FloatArray:
        """The fraction of particles longer than `length` in the distribution truncated at `end`, in nm.

        (S(length) - S(end)) / (1 - S(end)), and 0 from `end` on; it is accurate also where `end`
        lies far below the distribution.
        """
        below, all_below = self._log_below(length), self._log_below(np.asarray(end))
        return np.asarray(-np.expm1(np.minimum(below - all_below, 0.0)))

    def beyond(self, length: float, *, power: float = 0.0) -> float:
        """The fraction of the untruncated distribution beyond `length` (nm), by length^power."""
        if not np.isfinite(length):
            return 0.0
        return float(ndtr(power * self.width - np.log(length / self.median) / self.width))

    def end(self, *, dimensions: int, largest: float = np.inf) -> float:
        """The end of the distribution (nm): `largest`, or the size beyond which only TAIL remains.

        TAIL is weighted with the volume squared; the volume is length^dimensions.
        """
        shift = 2 * dimensions * self.width**2
        return float(min(self.median * np.exp(shift - self.width * ndtri(TAIL)), largest))

    def moment(self, power: float, *, end: float = np.inf) -> float:
        """The mean of length^power (nm^power) in the distribution truncated at `end` (nm)."""
        whole = power * np.log(self.median) + (power * self.width) ** 2 / 2
        if np.isfinite(end):
            z = np.log(end / self.median) / self.width
            whole += log_ndtr(z - power * self.width) - log_ndtr(z)
        return float(np.exp(whole))

    def _log_below(self, length: FloatArray) -> FloatArray:
        """The logarithm of the fraction of particles up to `length` (nm)."""
        positive = np.maximum(np.asarray(length, dtype=float), 1e-300)
        return np.asarray(log_ndtr(np.log(positive / self.median) / self.width))


class Lengths(Protocol):
    """The distribution of a length in a population, as bodies with a random centre need it."""

    @property
    def end(self) -> float:
        """The largest length (nm)."""
        ...

    def moment_beyond(self, power: int, length: FloatArray) -> FloatArray:
        """The mean of x^power (nm^power) over the population, counting only lengths x beyond `length`."""
        ...

    @property
    def begin(self) -> float:
        """A length (nm) below which there are practically no particles."""
        ...

    @property
    def kinks(self) -> tuple[float, ...]:
        """Lengths (nm) where the density is not smooth."""
        ...

    def density(self, length: FloatArray) -> FloatArray:
        """The probability density (1/nm) at lengths between `begin` and `end`."""
        ...


@dataclass(frozen=True)
class OneLength:
    """A single length (nm)."""

    length: float

    @property
    def begin(self) -> float:
        return self.length

    def density(self, length: FloatArray) -> FloatArray:
        raise ValueError("a single length has no density.")

    @property
    def end(self) -> float:
        return self.length

    def moment_beyond(self, power: int, length: FloatArray) -> FloatArray:
        return np.where(np.asarray(length) < self.length, self.length**power, 0.0)

    @property
    def kinks(self) -> tuple[float, ...]:
        return ()


#: A log-normal distribution has practically no lengths so many widths below the median.
BEGIN = 8.0


@dataclass(frozen=True)
class TruncatedLogNormal:
    """A log-normal distribution that is truncated at `end` (nm) and renormalised."""

    law: LogNormal
    end: float

    def moment_beyond(self, power: int, length: FloatArray) -> FloatArray:
        width, median = self.law.width, self.law.median
        positive = np.clip(np.asarray(length, dtype=float), 1e-300, self.end)
        # logarithms, because the fraction of the particles below the end may be very small
        below = log_ndtr(np.log(positive / median) / width - power * width)
        last = np.log(self.end / median) / width
        whole = power * np.log(median) + (power * width) ** 2 / 2 + log_ndtr(last - power * width) - log_ndtr(last)
        return np.asarray(-np.exp(whole) * np.expm1(below - log_ndtr(last - power * width)))

    @property
    def begin(self) -> float:
        return float(min(self.law.median * np.exp(-BEGIN * self.law.width), 0.4 * self.end))

    def density(self, length: FloatArray) -> FloatArray:
        # logarithms, because the fraction below the end may be very small
        below = log_ndtr(np.log(self.end / self.law.median) / self.law.width)
        return np.asarray(np.exp(self.law.log_density(length) - below))

    @property
    def kinks(self) -> tuple[float, ...]:
        return ()

    @property
    def fraction(self) -> float:
        """The fraction of the untruncated distribution up to the end."""
        return float(ndtr(np.log(self.end / self.law.median) / self.law.width))


@dataclass(frozen=True)
class BivariateLogNormal:
    """A log-normal distribution of two lengths (nm), with axes rotated by `rotation` degrees.

    `first` and `second` are the distributions along the rotated axes; the lengths are independent
    if rotation = 0. The logarithms are normal with the covariance R diag(w_1^2, w_2^2) R^T.
    """

    first: LogNormal
    second: LogNormal
    rotation: float = 0.0

    @property
    def covariance(self) -> FloatArray:
        """The covariance (2, 2) of the logarithms of the lengths."""
        cos, sin = np.cos(np.radians(self.rotation)), np.sin(np.radians(self.rotation))
        axes = np.array([[cos, -sin], [sin, cos]])
        return np.asarray(axes @ np.diag([self.first.width**2, self.second.width**2]) @ axes.T)

    def ends(self, *, powers: tuple[int, int], largest: float = np.inf) -> tuple[float, float]:
        """The end of each length (nm): `largest`, or the smaller size beyond which TAIL remains.

        TAIL is weighted with the volume squared; the volume is length_1^powers[0]
        length_2^powers[1].
        """
        covariance = self.covariance
        shift = 2 * covariance @ powers
        ends = np.array([self.first.median, self.second.median]) * np.exp(
            shift - np.sqrt(np.diag(covariance)) * ndtri(TAIL))
        return float(min(ends[0], largest)), float(min(ends[1], largest))

    def beyond(self, length: float, *, powers: tuple[int, int] = (0, 0)) -> float:
        """The fraction of the untruncated distribution with a length beyond `length` (nm).

        It is weighted with length_1^powers[0] length_2^powers[1].
        """
        if not np.isfinite(length):
            return 0.0
        covariance = self.covariance
        width = np.sqrt(np.diag(covariance))
        limits = (np.log(length / np.array([self.first.median, self.second.median]))
                  - covariance @ powers) / width
        correlation = covariance[0, 1] / width.prod()
        top = float(np.clip(limits[0], -9.0, 9.0))
        nodes, weights = _gauss_legendre()
        z = (nodes + 1) * (top + 9.0) / 2 - 9.0
        inside = ndtr((limits[1] - correlation * z) / np.sqrt(max(1 - correlation**2, 1e-12)))
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        return float(np.clip(1 - (top + 9.0) / 2 * np.sum(weights * density * inside), 0.0, 1.0))

    def log_density(self, lengths_1: FloatArray, lengths_2: FloatArray) -> FloatArray:
        """The logarithm (n, m) of the density, up to a constant, at lengths (n,) and (m,) nm."""
        z1 = np.log(lengths_1 / self.first.median)[:, None]
        z2 = np.log(lengths_2 / self.second.median)[None, :]
        cos, sin = np.cos(np.radians(self.rotation)), np.sin(np.radians(self.rotation))
        along = (cos * z1 + sin * z2) / self.first.width
        across = (-sin * z1 + cos * z2) / self.second.width
        return np.asarray(-(along**2 + across**2) / 2
                          - np.log(lengths_1)[:, None] - np.log(lengths_2)[None, :])


def whole_lengths(step: float, end: float) -> tuple[FloatArray, FloatArray]:
    """The lengths N step (n,) nm of N = 1, 2, ... cells up to `end` (nm), and their weights (n,).

    N cells represent the lengths within half a step of N step. Where `end` lies among these, the
    weight of N is the fraction of them below `end`, so that no N enters or leaves a population with
    a jump.
    """
    n = max(1, int(np.ceil(end / step + 0.5)) - 1)
    lengths: FloatArray = np.arange(1.0, n + 1) * step
    counted = np.clip((end - lengths) / step + 0.5, 0.0, 1.0)
    if n == 1:
        counted[:] = 1.0
    return lengths, counted


def number_weights(log_density: FloatArray, counted: FloatArray) -> FloatArray:
    """The number weights exp(log_density) times `counted`, normalised to the sum 1.

    They are correct also where exp(log_density) would underflow everywhere: a distribution far from
    all lengths selects the nearest one.
    """
    chosen = log_density + np.log(np.maximum(counted, 1e-300))
    if chosen.max() == -np.inf:
        raise ValueError("the size distribution vanishes at all sizes of whole cells. Specify a broader range or more "
                         "points, or other weights.")
    density = np.exp(chosen - chosen.max())
    return np.asarray(density / density.sum())


@dataclass(frozen=True)
class EdgeStatistics:
    """Means and standard deviations of the two edge lengths (nm) of a population."""

    mean_ab: float
    sd_ab: float
    mean_c: float
    sd_c: float
    correlation: float
    volume_mean_ab: float
    volume_mean_c: float

    @classmethod
    def of(cls, number: FloatArray, length_ab: FloatArray, length_c: FloatArray) -> EdgeStatistics:
        """The statistics of number weights (n, m) at lengths (n,) and (m,) nm."""
        ab, c = np.broadcast_arrays(length_ab[:, None], length_c[None, :])
        mean = [float(np.sum(number * x)) for x in (ab, c)]
        variance = [
            float(np.sum(number * (x - m) ** 2)) for x, m in zip((ab, c), mean, strict=True)
        ]
        covariance = float(np.sum(number * (ab - mean[0]) * (c - mean[1])))
        spread = float(np.sqrt(variance[0] * variance[1]))
        volume = number * ab**2 * c
        volume = volume / volume.sum()
        return cls(
            mean[0], variance[0] ** 0.5, mean[1], variance[1] ** 0.5,
            covariance / spread if spread > 0 else 0.0,
            float(np.sum(volume * ab)), float(np.sum(volume * c)),
        )
