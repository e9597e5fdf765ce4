"""Spheres of atoms around a point of the crystal, whose pairs are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.resources import ONE_THREAD, Resources

from .family import MAX_CELLS_ALONG_EDGE, Counting, NamedSizes, PairCounts, check_extent
from .size_distributions import LogNormal, TruncatedLogNormal
from .size_statistics import sphere_measures
from .size_weighting import WeightedLengths, Weighting, range_of_lengths
from .sphere_counting import (
    count_sphere_pairs,
    largest_sphere,
    merge_translations,
    sphere_cost,
)
from .sphere_shells import matrix_size, pairs_of_spheres


@dataclass(frozen=True)
class SingleSphere(NamedSizes):
    """One sphere: all atoms within diameter/2 (nm) of its centre (fractional coordinates)."""

    diameter: float
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    parameters: ClassVar[Mapping[str, Kind]] = {}
    isotropic: ClassVar[bool] = True
    whole_cells: ClassVar[bool] = False
    directed: ClassVar[bool] = False
    changes_with_cell: ClassVar[bool] = False

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        return _sphere_counts(crystal, self.centre, self.diameter, None, resources)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        _check_sphere(crystal, self.diameter)
        return {"D": self.diameter} | sphere_measures(self.diameter)

    def limit(self, crystal: Crystal) -> float:
        return _widest_sphere(crystal, self.centre)

    def counting(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> Counting | None:
        return _counting(crystal, self.centre, self.diameter)

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        return {}

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        return float(np.pi / 6 * (10 * self.diameter) ** 3 / crystal.cell.volume)


@dataclass(frozen=True)
class SpherePopulation(NamedSizes):
    """Spheres of atoms around one centre, with a log-normal distribution of the diameter.

    The distribution is continuous: the weight of a pair is the fraction of particles that contain
    its outer atom, so the size grid is as fine as the atom shells. Size parameters in nm. The
    distribution is truncated at `largest` nm, or at the limit of the model, and renormalised: the
    fraction of particles that contain an atom at r is (S(2r) - S(largest)) / (1 - S(largest)), with
    S the survival function of the untruncated distribution.
    """

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    largest: float = np.inf
    parameters: ClassVar[Mapping[str, Kind]] = {"D": Kind.SIZE, "sd_D": Kind.SIZE_SD}
    isotropic: ClassVar[bool] = True
    whole_cells: ClassVar[bool] = False
    directed: ClassVar[bool] = False
    changes_with_cell: ClassVar[bool] = True

    def distribution(self, sizes: Mapping[str, float]) -> LogNormal:
        """The untruncated distribution of the diameter."""
        return LogNormal(sizes["D"], sizes["sd_D"])

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        distribution = LogNormal(sizes["D"] / stretch, sizes["sd_D"] / stretch)
        end = distribution.end(
            dimensions=3, largest=min(self.largest / stretch, self.limit(crystal)))
        weighted = None if weighting is None else WeightedLengths(
            TruncatedLogNormal(distribution, end), weighting, stretch)
        return _sphere_counts(crystal, self.centre, end, distribution, resources, weighted)

    def diameters(self, crystal: Crystal, sizes: Mapping[str, float]) -> tuple[float, float] | None:
        law, largest = self.distribution(sizes), min(self.largest, self.limit(crystal))
        return range_of_lengths(TruncatedLogNormal(law, law.end(dimensions=3, largest=largest)), 1.0)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        distribution, largest = self.distribution(sizes), min(self.largest, self.limit(crystal))
        end = distribution.end(dimensions=3, largest=largest)
        _check_sphere(crystal, end)
        mean, square, cube, fourth = (distribution.moment(power, end=end) for power in (1, 2, 3, 4))
        return {
            "mean_D": mean, "sd_D": max(square - mean**2, 0.0) ** 0.5,
            "volume_mean_D": fourth / cube,
        } | sphere_measures(mean) | {
            "truncated_fraction": distribution.beyond(largest),
            "truncated_fraction_volume_squared": distribution.beyond(largest, power=6),
        }

    def limit(self, crystal: Crystal) -> float:
        return _widest_sphere(crystal, self.centre)

    def counting(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> Counting | None:
        largest = min(self.largest, self.limit(crystal))
        end = self.distribution(sizes).end(dimensions=3, largest=largest)
        return _counting(crystal, self.centre, end)

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        return {}

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        distribution = self.distribution(sizes)
        end = distribution.end(dimensions=3, largest=min(self.largest, self.limit(crystal)))
        return float(np.pi / 6 * 1e3 * distribution.moment(3, end=end) / crystal.cell.volume)


def _widest_sphere(crystal: Crystal, centre: tuple[float, float, float]) -> float:
    """The diameter (nm) of the largest sphere that the model can compute."""
    edge = min(crystal.cell.a, crystal.cell.b, crystal.cell.c) / 10
    return min(MAX_CELLS_ALONG_EDGE * edge, largest_sphere(crystal, centre))


def _counting(crystal: Crystal, centre: tuple[float, float, float], diameter: float) -> Counting:
    pairs, vectors, size = sphere_cost(crystal, centre, diameter)
    if (elements := matrix_size(crystal, centre, diameter)) is None:
        return Counting(0.0, pairs, vectors, size)
    operations = len({op.rotation.tobytes() for op in crystal.symmetry})
    return Counting(pairs / 2, 0.0, vectors / operations, 8.0 * elements)


def _sphere_counts(
    crystal: Crystal, centre: tuple[float, float, float], largest: float,
    distribution: LogNormal | None, resources: Resources, weighted: WeightedLengths | None = None,
) -> PairCounts:
    _check_sphere(crystal, largest)
    known = pairs_of_spheres(crystal, centre, largest, resources)
    if known is None:
        if weighted is not None:
            raise ValueError(
                f"spheres around a point with diameters up to {largest:.3g} nm are too large for laws against size. "
                "Lower the size, or use the random centre (remove 'centre').")
        tables, merged, atoms = count_sphere_pairs(
            crystal, centre, largest, distribution, resources)
        return PairCounts(tables, atoms, merged)
    if distribution is None:
        fraction = (known.radius <= 5 * largest * (1 + 1e-9)).astype(float)
    elif weighted is not None:
        fraction = weighted.moment_beyond(0, known.radius / 5)
    else:
        fraction = distribution.fraction_beyond(known.radius / 5, end=largest)
    return PairCounts(fraction @ known.pairs, fraction @ known.atoms, merge_translations(crystal),
                      groups=known.groups)


def _check_sphere(crystal: Crystal, diameter: float) -> None:
    if not diameter > 0:
        raise ValueError(f"the diameter of the sphere is {diameter:g} nm; it must be above 0.")
    edge = min(crystal.cell.a, crystal.cell.b, crystal.cell.c) / 10
    check_extent(int(np.ceil(diameter / edge)))
