"""Parallelepipeds and quasi-cubes of whole cells, whose pairs have a closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .family import MAX_CELLS_ALONG_EDGE, Counting, NamedSizes, PairCounts, check_extent
from .length_laws import LOG_NORMAL, Distribution, LengthLaw
from .size_distributions import (
    BivariateLogNormal,
    EdgeStatistics,
    LogNormal,
    number_weights,
    whole_lengths,
)
from .size_statistics import block_measures
from .size_weighting import Weighting, equivalent_diameter, range_of

#: Cell pairs rarer than this fraction of the cells of a population are neglected; up to twice the
#: fraction their weight rises from 0 to 1, so that none appears with a jump.
NEGLIGIBLE_PAIRS = 1e-9


@dataclass(frozen=True)
class SingleParallelepiped(NamedSizes):
    """One parallelepiped of n_a x n_b x n_c whole cells; ValueError for fewer than one cell."""

    cells: tuple[int, int, int]
    parameters: ClassVar[Mapping[str, Kind]] = {}
    isotropic: ClassVar[bool] = False
    whole_cells: ClassVar[bool] = True
    directed: ClassVar[bool] = True
    changes_with_cell: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if min(self.cells) < 1:
            raise ValueError(
                f"the parallelepiped has {self.cells} cells along its edges; these numbers must be "
                "at least 1."
            )
        check_extent(max(self.cells))

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        n_a, n_b, n_c = self.cells
        table = (
            _overlap(n_a, n_a)[:, None, None]
            * _overlap(n_b, n_b)[None, :, None]
            * _overlap(n_c, n_c)[None, None, :]
        )
        return _shared_table(table, float(n_a * n_b * n_c))

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        edges = np.array(self.cells) * (crystal.cell.a, crystal.cell.b, crystal.cell.c) / 10
        return {"L_a": float(edges[0]), "L_b": float(edges[1]), "L_c": float(edges[2])} \
            | block_measures(crystal.cell, *self.cells)

    def limit(self, crystal: Crystal) -> float:
        return _longest_edge(crystal)

    def counting(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> Counting | None:
        return None

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        return {}

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        return float(np.prod(self.cells))


@dataclass(frozen=True)
class ParallelepipedPopulation(NamedSizes):
    """Parallelepipeds of N_ab x N_ab x N_c cells, L_ab and L_c with a bivariate log-normal distribution.

    L_ab = N_ab sqrt(a b), L_c = N_c c; size parameters in nm, size_axes_rotation in degrees. The
    distribution is truncated at `largest` nm, or at the limit of the model, along each edge (within
    half a cell, see `whole_lengths`) and renormalised.
    """

    largest: float = np.inf
    parameters: ClassVar[Mapping[str, Kind]] = {
        "L_ab": Kind.SIZE, "sd_ab": Kind.SIZE_SD, "L_c": Kind.SIZE, "sd_c": Kind.SIZE_SD,
        "size_axes_rotation": Kind.SIZE_ROTATION,
    }
    isotropic: ClassVar[bool] = False
    whole_cells: ClassVar[bool] = True
    directed: ClassVar[bool] = True
    changes_with_cell: ClassVar[bool] = True
    #: Powers of L_ab and L_c in the volume L_ab^2 L_c.
    powers: ClassVar[tuple[int, int]] = (2, 1)

    def distribution(self, sizes: Mapping[str, float]) -> BivariateLogNormal:
        """The untruncated distribution of L_ab and L_c."""
        return BivariateLogNormal(
            LogNormal(sizes["L_ab"], sizes["sd_ab"]), LogNormal(sizes["L_c"], sizes["sd_c"]),
            sizes["size_axes_rotation"],
        )

    def number_weights(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The number weights (n_ab, n_c), and their lengths (n_ab,) and (n_c,) in nm."""
        distribution = self.distribution(sizes)
        step_ab, step_c = _steps(crystal)
        # one cell beyond the end, because each number of cells represents the lengths around it
        largest = min(self.largest, self.limit(crystal))
        end_ab, end_c = (min(end + step, largest) for end, step in zip(
            distribution.ends(powers=self.powers), (step_ab, step_c), strict=True))
        length_ab, counted_ab = whole_lengths(step_ab, end_ab)
        length_c, counted_c = whole_lengths(step_c, end_c)
        number = number_weights(
            distribution.log_density(length_ab, length_c), counted_ab[:, None] * counted_c[None, :])
        return number, length_ab, length_c

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        number, _, _ = self.number_weights(crystal, sizes)
        weights = None if weighting is None else weighting(diameters_of_cells(crystal, number))
        return _parallelepiped_counts(number, weights)

    def diameters(self, crystal: Crystal, sizes: Mapping[str, float]) -> tuple[float, float] | None:
        number, _, _ = self.number_weights(crystal, sizes)
        return range_of(diameters_of_cells(crystal, number), number)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        distribution, (first, second) = self.distribution(sizes), self.powers
        largest = min(self.largest, self.limit(crystal))
        return _block_statistics(crystal, *self.number_weights(crystal, sizes)) | {
            "truncated_fraction": distribution.beyond(largest),
            "truncated_fraction_volume_squared": distribution.beyond(
                largest, powers=(2 * first, 2 * second)),
        }

    def limit(self, crystal: Crystal) -> float:
        return _longest_edge(crystal)

    def counting(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> Counting | None:
        return None

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        step_ab, step_c = _steps(crystal)
        return {"sd_ab": step_ab, "sd_c": step_c}

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        return _mean_cells(self.number_weights(crystal, sizes)[0])


@dataclass(frozen=True)
class QuasiCubePopulation(NamedSizes):
    """Quasi-cubes of N x N x N sqrt(ab)/c cells with a distribution of the edge L, by default a log-normal one.

    L is the edge N sqrt(a b); size parameters in nm. The distribution is truncated at `largest` nm,
    or at the limit of the model (within half a cell), and renormalised. The number of cells
    N sqrt(ab) / c along c is not an integer, so the particles of each N are distributed linearly
    over the two neighbouring heights: their mean height is L, and the pattern is continuous in the
    cell. Rounding would instead change the height of all particles of an N at once where
    N sqrt(ab) / c crosses a half-integer.
    """

    largest: float = np.inf
    law: LengthLaw = LOG_NORMAL
    isotropic: ClassVar[bool] = False
    whole_cells: ClassVar[bool] = True
    directed: ClassVar[bool] = True
    changes_with_cell: ClassVar[bool] = True

    @property
    def parameters(self) -> Mapping[str, Kind]:
        return self.law.parameters("L")

    def distribution(self, sizes: Mapping[str, float]) -> Distribution:
        """The untruncated distribution of L."""
        return self.law.distribution("L", sizes)

    def number_weights(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The number weights (n_ab, n_c), and their lengths (n_ab,) and (n_c,) in nm."""
        distribution = self.distribution(sizes)
        step_ab, step_c = _steps(crystal)
        # one cell beyond the end, because each number of cells represents the lengths around it
        end = min(distribution.end(dimensions=3) + step_ab, self.largest, self.limit(crystal))
        length_ab, counted = whole_lengths(step_ab, end)
        by_length = number_weights(distribution.log_density(length_ab), counted)
        heights = np.maximum(1.0, length_ab / step_c)
        lower = np.floor(heights).astype(int)
        number = np.zeros((len(length_ab), int(np.ceil(heights[-1]))))
        rows = np.arange(len(length_ab))
        number[rows, lower - 1] = by_length * (1 - (heights - lower))
        upper = np.minimum(lower, number.shape[1] - 1)  # beyond the table the weight is zero
        number[rows, upper] += by_length * (heights - lower)
        return number, length_ab, np.arange(1.0, number.shape[1] + 1) * step_c

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        number, _, _ = self.number_weights(crystal, sizes)
        weights = None if weighting is None else weighting(diameters_of_cells(crystal, number))
        return _parallelepiped_counts(number, weights)

    def diameters(self, crystal: Crystal, sizes: Mapping[str, float]) -> tuple[float, float] | None:
        number, _, _ = self.number_weights(crystal, sizes)
        return range_of(diameters_of_cells(crystal, number), number)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        distribution, largest = self.distribution(sizes), min(self.largest, self.limit(crystal))
        return _block_statistics(crystal, *self.number_weights(crystal, sizes)) | {
            "truncated_fraction": distribution.beyond(largest),
            "truncated_fraction_volume_squared": distribution.beyond(largest, power=6),
        }

    def limit(self, crystal: Crystal) -> float:
        return _longest_edge(crystal)

    def counting(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> Counting | None:
        return None

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        return {"sd_L": _steps(crystal)[0]} if "sd_L" in self.parameters else {}

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        return _mean_cells(self.number_weights(crystal, sizes)[0])


def diameters_of_cells(crystal: Crystal, number: FloatArray) -> FloatArray:
    """The diameters (nm) of spheres of the volumes of N_ab x N_ab x N_c cells, in the shape of `number`."""
    n_ab, n_c = (np.arange(1, n + 1) for n in number.shape)
    return equivalent_diameter(n_ab[:, None] ** 2 * n_c[None, :] * crystal.cell.volume / 1e3)


def _mean_cells(number: FloatArray) -> float:
    """The mean of N_ab^2 N_c over number weights (n_ab, n_c)."""
    n_ab, n_c = (np.arange(1, n + 1) for n in number.shape)
    return float(np.sum(number * n_ab[:, None] ** 2 * n_c[None, :]))


def _longest_edge(crystal: Crystal) -> float:
    """The longest edge (nm) of a parallelepiped of at most MAX_CELLS_ALONG_EDGE cells."""
    return MAX_CELLS_ALONG_EDGE * min(_steps(crystal))


def _steps(crystal: Crystal) -> tuple[float, float]:
    """The steps sqrt(a b) and c of the edges in nm."""
    return float(np.sqrt(crystal.cell.a * crystal.cell.b)) / 10, crystal.cell.c / 10


def _block_statistics(
    crystal: Crystal, number: FloatArray, length_ab: FloatArray, length_c: FloatArray
) -> dict[str, float]:
    edges = EdgeStatistics.of(number, length_ab, length_c)
    step_ab, step_c = _steps(crystal)
    n_ab, n_c = edges.mean_ab / step_ab, edges.mean_c / step_c
    return vars(edges) | block_measures(crystal.cell, n_ab, n_ab, n_c)


def _overlap(n_cells: int, extent: int) -> FloatArray:
    """The numbers of pairs (N - |u|)+ of N cells in a row for u = -(extent-1) ... extent-1."""
    return np.asarray(np.maximum(0.0, n_cells - np.abs(np.arange(1 - extent, extent))))


def _parallelepiped_counts(number: FloatArray, weights: FloatArray | None = None) -> PairCounts:
    """The pair counts of N_ab x N_ab x N_c parallelepipeds with number weights (n_ab, n_c).

    With `weights` (n_ab, n_c), each particle counts that many times.
    """
    n_ab, n_c = number.shape
    overlap_ab = np.array([_overlap(n, n_ab) for n in range(1, n_ab + 1)])
    overlap_c = np.array([_overlap(n, n_c) for n in range(1, n_c + 1)])
    quadrant = overlap_ab[:, n_ab - 1 :]
    pairs_ab = (quadrant[:, :, None] * quadrant[:, None, :]).reshape(n_ab, -1).T

    def octant(of_size: FloatArray) -> FloatArray:
        return np.asarray((pairs_ab @ (of_size @ overlap_c[:, n_c - 1 :])).reshape(n_ab, n_ab, n_c))

    pairs = octant(number)
    kept = np.clip(pairs / (NEGLIGIBLE_PAIRS * pairs[0, 0, 0]) - 1, 0.0, 1.0)
    if weights is not None:
        pairs = octant(number * weights)
    pairs *= kept
    u = np.abs(np.arange(1 - n_ab, n_ab))
    w = np.abs(np.arange(1 - n_c, n_c))
    return _shared_table(pairs[np.ix_(u, u, w)], float(pairs[0, 0, 0]))


def _shared_table(table: FloatArray, cells: float) -> PairCounts:
    return PairCounts(np.ascontiguousarray(table)[None], np.array([cells]))
