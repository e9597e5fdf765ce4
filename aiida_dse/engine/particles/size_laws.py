"""Log-normal size laws of a nanocrystal population, on one or two edge lengths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from aiida_dse.engine.units import FloatArray

#: Share of the population, weighted with the volume squared (the small-angle intensity), that may
#: lie beyond the largest size considered.
TAIL = 1e-4


@dataclass(frozen=True)
class LogNormal:
    """Number-weighted log-normal law of a length, by its mean and standard deviation (nm).

    w = sqrt(log(1 + s^2/m^2)), x0 = m / sqrt(1 + s^2/m^2), density
    exp(-(log x - log x0)^2 / (2 w^2)) / (x w sqrt(2 pi)).
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        if not (self.mean > 0 and self.sd > 0 and np.isfinite(self.mean * self.sd)):
            raise ValueError(
                f"a log-normal size law needs mean and sd above 0 nm, not {self.mean:g} and "
                f"{self.sd:g}. For particles of one size give the size as a single number."
            )

    @property
    def width(self) -> float:
        return float(np.sqrt(np.log1p((self.sd / self.mean) ** 2)))

    @property
    def median(self) -> float:
        return float(self.mean / np.sqrt(1 + (self.sd / self.mean) ** 2))

    def density(self, length: FloatArray) -> FloatArray:
        """Probability density (1/nm) at lengths in nm; 0 at and below zero length."""
        length = np.asarray(length, dtype=float)
        positive = np.where(length > 0, length, 1.0)
        z = np.log(positive / self.median) / self.width
        density = np.exp(-(z**2) / 2) / (positive * self.width * np.sqrt(2 * np.pi))
        return np.where(length > 0, density, 0.0)

    def survival(self, length: FloatArray) -> FloatArray:
        """Share of particles longer than `length` (nm)."""
        length = np.asarray(length, dtype=float)
        positive = np.where(length > 0, length, 1e-300)
        return np.asarray(ndtr(-np.log(positive / self.median) / self.width))

    def largest(self, *, dimensions: int, limit: float = np.inf) -> float:
        """Length (nm) beyond which only TAIL of the law lies, weighted with the volume squared.

        `dimensions` is the number of edges that grow with this length; never above `limit`.
        """
        shift = 2 * dimensions * self.width**2
        return float(min(self.median * np.exp(shift - self.width * ndtri(TAIL)), limit))

    @property
    def volume_weighted_mean(self) -> float:
        """Mean length (nm) weighted with length^3."""
        return float(self.median * np.exp(3.5 * self.width**2))


def bivariate_log_normal(
    first: LogNormal, second: LogNormal, lengths_1: FloatArray, lengths_2: FloatArray, rotation: float
) -> FloatArray:
    """Density of a log-normal in two lengths, its log axes rotated by `rotation` degrees.

    lengths_1 (n,), lengths_2 (m,) nm -> (n, m), normalised to sum 1 over the grid. The laws are
    those along the rotated axes; rotation = 0 makes the lengths independent.
    """
    z1 = np.log(lengths_1 / first.median)[:, None]
    z2 = np.log(lengths_2 / second.median)[None, :]
    cos, sin = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    along = (cos * z1 + sin * z2) / first.width
    across = (-sin * z1 + cos * z2) / second.width
    density = np.exp(-(along**2 + across**2) / 2) / (lengths_1[:, None] * lengths_2[None, :])
    return _normalised(density)


def discrete_weights(law: LogNormal, lengths: FloatArray) -> FloatArray:
    """Number weights of equally spaced lengths (nm), normalised to sum 1."""
    return _normalised(law.density(lengths))


@dataclass(frozen=True)
class SizeStatistics:
    """Projected statistics of a population of particles with two edge lengths (nm)."""

    mean_ab: float
    sd_ab: float
    mean_c: float
    sd_c: float
    correlation: float
    volume_mean_ab: float
    volume_mean_c: float

    @classmethod
    def of(cls, number: FloatArray, length_ab: FloatArray, length_c: FloatArray) -> SizeStatistics:
        """From number weights (n, m) on lengths (n,) and (m,)."""
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


def _normalised(density: FloatArray) -> FloatArray:
    total = float(density.sum())
    if not total > 0:
        raise ValueError(
            "no particle size carries any weight: the mean is far below one unit cell, or the "
            "width is far below the spacing of the sizes. Start from a larger mean or sd."
        )
    return density / total
