"""What every particle shape provides: numbers of atom pairs, statistics, limits and costs.

A population of particles enters the Debye equation only through C_st(u), the mean number per
particle of pairs of an atom s in one cell and an atom t in the cell at lattice difference u.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .size_quantities import Rows, size_quantities
from .size_weighting import Weighting
from .sphere_counting import MergedPairs
from .vector_groups import VectorGroups

#: Largest number of cells along an edge of a particle.
MAX_CELLS_ALONG_EDGE = 200


@dataclass(frozen=True)
class PairCounts:
    """The mean numbers of pairs and atoms per particle.

    `tables` (n_tables, 2U-1, 2V-1, 2W-1) holds C(u) for u = -(U-1) ... U-1 and so on. If `merged`
    is None, the particles consist of whole cells, and one table, even in each component of u,
    serves all pairs of basis atoms; otherwise there is one table for each class of pairs, with each
    unordered pair counted once. With `groups`, tables (n_groups,) holds the unordered pairs of each
    group of vectors instead. `atoms` (n_atoms,), or (1,) where all are equal, is the mean number
    of each basis atom, as it weights the self-scattering. `contents` (n_atoms,) is that of its
    composition, if the two differ because atoms are occupied in part.
    """

    tables: FloatArray
    atoms: FloatArray
    merged: MergedPairs | None = None
    contents: FloatArray | None = None
    groups: VectorGroups | None = None

    @property
    def reach(self) -> tuple[int, int, int]:
        """The largest |u| along each axis."""
        _, n_u, n_v, n_w = self.tables.shape
        return (n_u // 2, n_v // 2, n_w // 2)


@dataclass(frozen=True)
class Counting:
    """Estimated work of particles whose pairs are counted.

    `once` are the pairs that are counted once for all sizes, `each` those that are counted anew for each size,
    `distances` those of one pattern, `bytes` the memory of the pairs.
    """

    once: float
    each: float
    distances: float
    bytes: float


class Family(Protocol):
    """The interface of a particle shape: pair counts and statistics from named size parameters.

    The pair counts are continuous in every size parameter and in the cell.
    """

    @property
    def parameters(self) -> Mapping[str, Kind]:
        """The size parameters, with their kinds."""
        ...

    #: Whether the atoms of a particle are those of the reference crystal, scaled isotropically.
    isotropic: ClassVar[bool]

    #: Whether the particles consist of whole cells, so that all pairs of basis atoms have the same numbers.
    whole_cells: ClassVar[bool]
    #: Whether the pairs can be counted by the direction of their difference vectors.
    directed: ClassVar[bool]

    @property
    def changes_with_cell(self) -> bool:
        """Whether the numbers of pairs depend on the cell, as they do if a size is a length in nm."""
        ...

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        """The mean pair counts at `sizes` (nm).

        For an isotropic shape, `crystal` is the reference crystal and `stretch` the linear scale of
        the actual cell relative to it. Vectors of equal lengths may be united unless `united` is false,
        as it is if their directions matter. Particles may be weighted by their diameter, if the shape has
        `diameters`.
        """
        ...

    def diameters(self, crystal: Crystal, sizes: Mapping[str, float]) -> tuple[float, float] | None:
        """The range (nm) of the diameters of spheres of equal volume in the population.

        None if there is only one size, or if several lengths are distributed independently.
        """
        ...

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        """The size statistics by name, in nm or the unit in size_statistics.UNITS.

        `edge`, `surface_to_volume` and `confinement_diameter` are those of the particle with the
        number-weighted mean edges or diameter. Populations add `truncated_fraction` and
        `truncated_fraction_volume_squared`; all other statistics are those of the truncated
        distribution.
        """
        ...

    def size_quantities(
        self, crystal: Crystal, sizes: Mapping[str, float], *, of_population: bool
    ) -> Rows:
        """The sizes that results report, as rows (name, unit, value).

        L, in nm, is the edge of the cube of equal volume, and sd_L its standard deviation; `of_population`
        takes the particles that occur instead of the parameters of the distribution.
        """
        ...

    def limit(self, crystal: Crystal) -> float:
        """The size (nm) of the largest particle that the model can compute."""
        ...

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        """The mean number of unit cells of a particle; for spheres, that of their volume."""
        ...

    def counting(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> Counting | None:
        """The work of counting pairs; None for shapes with a closed form."""
        ...

    def vectors(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        """The number of lattice vectors between the cells of the largest particle."""
        ...

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        """The steps (nm) of the sizes, by the parameter that is the s.d. of the size.

        A distribution much narrower than the step consists of one or two sizes, and the pattern
        determines their fractions but neither the mean nor the s.d. Continuous sizes have no step.
        """
        ...


class NamedSizes:
    """Size quantities of the shapes whose size parameters are L_ab and L_c, L, or D."""

    def diameters(self, crystal: Crystal, sizes: Mapping[str, float]) -> tuple[float, float] | None:
        """None: by default, there is only one size."""
        return None

    def vectors(self: Family, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        """The number of lattice vectors between the cells of the largest particle."""
        return float(np.prod(self.pair_counts(crystal, sizes).tables.shape[1:]))

    def size_quantities(
        self: Family, crystal: Crystal, sizes: Mapping[str, float], *, of_population: bool
    ) -> Rows:
        """The sizes that results report, see `size_quantities.size_quantities`."""
        return size_quantities(
            sizes, self.statistics(crystal, sizes), crystal.cell, of_population=of_population)


def check_extent(n_cells: int) -> int:
    if n_cells > MAX_CELLS_ALONG_EDGE:
        raise ValueError(
            f"the largest particle would have {n_cells} cells along an edge; the limit is "
            f"{MAX_CELLS_ALONG_EDGE}. Check that the sizes are in nm, lower the mean or the width, "
            "or specify upper bounds for them."
        )
    return n_cells
