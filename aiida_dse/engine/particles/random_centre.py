"""Particles whose centre lies anywhere in the unit cell, with equal probability.

Nanocrystals of rounded or faceted shape have no preferred centre. If the centre is distributed
uniformly over the cell, the mean number of pairs of two basis atoms at the difference vector r is
exactly V gamma(r) / V_cell, with V gamma(r) the volume that the body shares with its copy shifted by
r, and the mean number of each basis atom is V / V_cell. This is smooth in all sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.memo import Memo
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.resources import ONE_THREAD, Resources

from .bodies import Body, LayeredBody, LayeredOverlap, Overlap, spread_name
from .directed_groups import groups_in_ball
from .family import MAX_CELLS_ALONG_EDGE, Counting, PairCounts
from .length_laws import LOG_NORMAL, Distribution, LengthLaw
from .size_distributions import Lengths, OneLength
from .size_quantities import Rows
from .size_weighting import WeightedLengths, Weighting, equivalent_diameter, range_of_lengths
from .sphere_counting import merge_translations, rounded_up
from .vector_groups import VectorGroups, reach_of, vector_groups

#: Largest number of groups of vectors.
MOST_GROUPS = 2e7
#: Smallest fraction of the untruncated distribution that must lie below the largest size.
LEAST_FRACTION = 1e-6
#: The reach of the vectors is rounded up to a power of this, so that small changes of sizes reuse them.
FURTHER = 1.15
#: Vectors (nm) without symmetry, by which the symmetry of a body is recognised.
GENERIC = np.array([[0.31, 0.17, 0.09], [-0.11, 0.27, 0.19], [0.07, -0.23, 0.37]])


@dataclass(frozen=True)
class RandomCentre:
    """A population of bodies with a random centre.

    `single` are the lengths (nm) that all bodies have in common; the other lengths of the body have a
    distribution that is truncated at `largest` nm, by default a log-normal one. Size parameters are in nm.
    The numbers of pairs belong to the reference crystal, and change with the cell only by its mean scale.
    """

    body: Body
    single: Mapping[str, float] = field(default_factory=dict)
    largest: float = np.inf
    laws: Mapping[str, LengthLaw] = field(default_factory=dict)
    isotropic: ClassVar[bool] = True
    whole_cells: ClassVar[bool] = False
    directed: ClassVar[bool] = True
    changes_with_cell: ClassVar[bool] = True
    _known: Memo[tuple[VectorGroups, Overlap]] = field(
        default_factory=lambda: Memo(2), init=False, repr=False, compare=False)
    _symmetry: Memo[tuple[int, ...]] = field(
        default_factory=lambda: Memo(4), init=False, repr=False, compare=False)

    @cached_property
    def parameters(self) -> Mapping[str, Kind]:
        found: dict[str, Kind] = {}
        for name in self._distributed:
            found |= self._law(name).parameters(name)
        return found | dict(self.body.parameters)

    @property
    def _distributed(self) -> list[str]:
        return [name for name in self.body.powers if name not in self.single]

    def _law(self, name: str) -> LengthLaw:
        return self.laws.get(name, LOG_NORMAL)

    def distributions(self, sizes: Mapping[str, float]) -> dict[str, Distribution]:
        """The untruncated distributions by the name of the length."""
        return {name: self._law(name).distribution(name, sizes) for name in self._distributed}

    def lengths(
        self, crystal: Crystal, sizes: Mapping[str, float], stretch: float = 1.0
    ) -> dict[str, Lengths]:
        """The lengths (nm), divided by `stretch`, as they are distributed in the population."""
        largest = min(self.largest, self.limit(crystal))
        found: dict[str, Lengths] = {
            name: OneLength(value / stretch) for name, value in self.single.items()}
        for name, law in self.distributions(sizes).items():
            end = law.end(dimensions=self.body.powers[name], largest=largest)
            if not (fraction := 1 - law.beyond(end)) >= LEAST_FRACTION:
                of = ", ".join(f"{one} = {sizes[one]:.4g}" for one in self._law(name).parameters(name))
                raise ValueError(
                    f"{of}: only the fraction {fraction:.1g} of the particles is smaller than the largest size of the "
                    f"model, {largest:.3g} nm; the limit is {LEAST_FRACTION:g}. Lower the mean size, or specify its "
                    "bounds.")
            found[name] = law.truncated(end, stretch)
        return found

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        lengths, others = self.lengths(crystal, sizes, stretch), self._others(sizes, stretch)
        whole = lengths
        if weighting is not None:
            lengths = {name: WeightedLengths(one, weighting, stretch * self._diameter(others))
                       for name, one in lengths.items()}
        per_cell, site = 1e3 / crystal.cell.volume, crystal.site_of_atom
        if isinstance(self.body, LayeredBody):
            atoms = self.body.contents(lengths, others)[site] * per_cell
        else:
            atoms = np.full(len(site), self.body.volume(lengths, others) * per_cell)
        radius = rounded_up(10 * self._extent(whole, others), FURTHER)
        groups, overlap = self._known.get(
            (crystal, radius, tuple(others.items()), united),
            lambda: self._vectors(crystal, radius, others, resources, united))
        if isinstance(overlap, LayeredOverlap):
            shared = overlap.of_sites(lengths, site[groups.first], site[groups.second])
        else:
            shared = overlap.mean(lengths)
        return PairCounts(groups.number * shared * per_cell, atoms, merge_translations(crystal), groups=groups)

    def diameters(self, crystal: Crystal, sizes: Mapping[str, float]) -> tuple[float, float] | None:
        if len(self.body.powers) > 1 or self.single or isinstance(self.body, LayeredBody):
            return None
        (length,) = self.lengths(crystal, sizes).values()
        return range_of_lengths(length, self._diameter(self._others(sizes)))

    def _diameter(self, others: Mapping[str, float]) -> float:
        """The diameter of the sphere of equal volume of the body with the length 1, if it has one length."""
        return float(equivalent_diameter(np.asarray(self.body.volume(
            {name: OneLength(1.0) for name in self.body.powers}, others))))

    def _vectors(
        self, crystal: Crystal, radius: float, others: Mapping[str, float], resources: Resources,
        united: bool,
    ) -> tuple[VectorGroups, Overlap]:
        kept = None if self.body.spherical else self._common_symmetry(crystal, others)
        _require_countable(crystal, radius / 10, len(crystal.symmetry if kept is None else kept))
        if united:
            groups = vector_groups(crystal, radius, kept)
        else:
            groups = groups_in_ball(
                crystal, radius, tuple(range(len(crystal.symmetry))) if kept is None else kept)
        positions = crystal.positions()
        difference = groups.cell + positions[groups.second] - positions[groups.first]
        return groups, self.body.overlap(difference @ crystal.cell.matrix.T / 10, others, resources)

    def _common_symmetry(self, crystal: Crystal, others: Mapping[str, float]) -> tuple[int, ...]:
        """The symmetry operations of the crystal that leave the overlap of the body as it is."""
        return self._symmetry.get((crystal, tuple(others.items())), lambda: self._kept(crystal, others))

    def _kept(self, crystal: Crystal, others: Mapping[str, float]) -> tuple[int, ...]:
        lengths: dict[str, Lengths] = {
            name: OneLength(1.0 + 0.13 * k) for k, name in enumerate(self.body.powers)}
        matrix = crystal.cell.matrix
        inverse = np.linalg.inv(matrix)
        # so short that all of the vectors, however oriented, lie well inside the body
        vectors, volume = GENERIC, self.body.volume(lengths, others)
        while (expected := self.body.overlap(vectors, others, ONE_THREAD).mean(lengths)).min() < 0.05 * volume:
            vectors = vectors / 2
        kept = []
        for k, op in enumerate(crystal.symmetry):
            turned = vectors @ (matrix @ op.rotation @ inverse).T
            found = self.body.overlap(turned, others, ONE_THREAD).mean(lengths)
            if np.allclose(found, expected, rtol=1e-6, atol=0):
                kept.append(k)
        return tuple(kept)

    @property
    def occupancy_factors(self) -> tuple[float, ...]:
        """The highest occupancy of each site in any layer, relative to that of the structure; () without layers."""
        return self.body.occupancy_factors if isinstance(self.body, LayeredBody) else ()

    def _others(self, sizes: Mapping[str, float], stretch: float = 1.0) -> dict[str, float]:
        return {name: sizes[name] / (stretch if kind is Kind.THICKNESS else 1.0)
                for name, kind in self.body.parameters.items()}

    def _extent(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> float:
        return self.body.extent({name: one.end for name, one in lengths.items()}, others)

    def require_possible(self, crystal: Crystal, sizes: Mapping[str, float]) -> None:
        """Raise ValueError for bodies that do not exist, and for those that are larger than can be computed."""
        lengths, others = self.lengths(crystal, sizes), self._others(sizes)
        if isinstance(self.body, LayeredBody):
            self.body.contents(lengths, others)
        kept = crystal.symmetry if self.body.spherical else self._common_symmetry(crystal, others)
        _require_countable(crystal, rounded_up(10 * self._extent(lengths, others), FURTHER) / 10, len(kept))

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        lengths, others = self.lengths(crystal, sizes), self._others(sizes)
        zero, mean = np.zeros(1), dict(self.single)
        found: dict[str, float] = {}
        for name in self._distributed:
            power = self.body.powers[name]
            moment = [float(lengths[name].moment_beyond(k, zero)[0]) for k in range(power + 2)]
            second = float(lengths[name].moment_beyond(2, zero)[0])
            mean[name] = moment[1]
            short = name.partition("_")[2] or name
            found |= {f"mean_{short}": moment[1], f"sd_{short}": max(second - moment[1] ** 2, 0.0) ** 0.5,
                      f"volume_mean_{short}": moment[power + 1] / moment[power]}
        found |= dict(self.single) | self.body.measures(mean, others)
        if not self._distributed:
            return found
        largest = min(self.largest, self.limit(crystal))
        inside, inside_squared = 1.0, 1.0
        for name, law in self.distributions(sizes).items():
            inside *= 1 - law.beyond(largest)
            inside_squared *= 1 - law.beyond(largest, power=2 * self.body.powers[name])
        return found | {"truncated_fraction": 1 - inside, "truncated_fraction_volume_squared": 1 - inside_squared}

    def size_quantities(
        self, crystal: Crystal, sizes: Mapping[str, float], *, of_population: bool
    ) -> Rows:
        statistics = self.statistics(crystal, sizes)
        mean, square = dict(self.single), 0.0
        for name in self._distributed:
            short = name.partition("_")[2] or name
            if of_population or name not in sizes:
                mean[name], sd = statistics[f"mean_{short}"], statistics[f"sd_{short}"]
            else:
                mean[name], sd = sizes[name], sizes[spread_name(name)]
            square += (self.body.powers[name] / 3) ** 2 * float(np.log1p((sd / mean[name]) ** 2))
        measures = self.body.measures(mean, self._others(sizes))
        edge = measures["edge"]
        rows: Rows = [*((name, "nm", value) for name, value in mean.items()), ("L", "nm", edge)]
        if self._distributed:
            rows.append(("sd_L", "nm", edge * float(np.sqrt(np.expm1(square)))))
        return [*rows, ("1/L", "1/nm", 1 / edge),
                ("surface_to_volume", "1/nm", measures["surface_to_volume"]),
                ("confinement_diameter", "nm", measures["confinement_diameter"])]

    def limit(self, crystal: Crystal) -> float:
        return _limit(crystal)

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        return self.body.volume(self.lengths(crystal, sizes), self._others(sizes)) * 1e3 / crystal.cell.volume

    def counting(self, crystal: Crystal, sizes: Mapping[str, float]) -> Counting | None:
        lengths, others = self.lengths(crystal, sizes), self._others(sizes)
        vectors = _n_vectors(crystal, self._extent(lengths, others))
        operations = len({op.rotation.tobytes() for op in crystal.symmetry} if self.body.spherical
                         else self._common_symmetry(crystal, others))
        groups = vectors / operations
        return Counting(vectors + self.body.cost * groups, 0.0, 5 * groups, 100 * groups)

    def vectors(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        lengths, others = self.lengths(crystal, sizes), self._others(sizes)
        reach = reach_of(crystal.cell.matrix, rounded_up(10 * self._extent(lengths, others), FURTHER))
        return float(np.prod(2 * reach + 3.0))

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        return {}


def _n_vectors(crystal: Crystal, extent: float) -> float:
    """The number of difference vectors up to a length of `extent` nm."""
    return float(4 / 3 * np.pi * (10 * extent) ** 3 / crystal.cell.volume * len(
        merge_translations(crystal).first))


def _require_countable(crystal: Crystal, extent: float, operations: int) -> None:
    """Raise ValueError if the vectors up to a length of `extent` nm have too many groups."""
    groups = _n_vectors(crystal, extent) / operations
    if groups > 2 * MOST_GROUPS:
        raise ValueError(
            f"particles that extend over {extent:.3g} nm have {groups:.1e} distinct difference vectors; the limit is "
            f"{2 * MOST_GROUPS:.0e}. Lower the size or the ratio of the longest to the shortest dimension.")


@lru_cache(maxsize=32)
def _limit(crystal: Crystal) -> float:
    """The largest length (nm) for which the vectors can be stored, even without any symmetry."""
    edge = min(crystal.cell.a, crystal.cell.b, crystal.cell.c) / 10
    return min(MAX_CELLS_ALONG_EDGE * edge, float((MOST_GROUPS / _n_vectors(crystal, 1.0)) ** (1 / 3)))
