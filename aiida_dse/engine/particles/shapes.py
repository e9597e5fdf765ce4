"""Particle families: how many pairs of atoms share each lattice difference.

A population of particles enters the Debye equation only through C_st(u), the mean number of
pairs (atom s in one cell, atom t in the cell at lattice difference u) per particle. Prisms have
it in closed form, spheres by counting around the symmetry of their centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.units import FloatArray

from .size_laws import LogNormal, SizeStatistics, bivariate_log_normal, discrete_weights
from .sphere_counting import MergedPairs, count_sphere_pairs

#: Refuse particles that would need more cells along an edge than this.
MAX_CELLS_ALONG_EDGE = 200
#: Cell pairs rarer than this share of the cells of a population are not visited.
NEGLIGIBLE_PAIRS = 1e-9


@dataclass(frozen=True)
class PairCounts:
    """Mean numbers of pairs and atoms per particle.

    `tables` (n_tables, 2U-1, 2V-1, 2W-1) holds C(u) for u = -(U-1) ... U-1 and so on. With
    `merged` None one table, even in each component of u, serves all pairs of basis atoms (whole
    cells); otherwise there is one table per class of pairs, each unordered pair counted once.
    `atoms` (n_atoms,), or (1,) where all are alike, is the mean number of each basis atom.
    """

    tables: FloatArray
    atoms: FloatArray
    merged: MergedPairs | None = None

    @property
    def reach(self) -> tuple[int, int, int]:
        """Largest |u| along each axis."""
        _, n_u, n_v, n_w = self.tables.shape
        return (n_u // 2, n_v // 2, n_w // 2)


class Family(Protocol):
    """A particle family: named size parameters in, pair counts out."""

    #: The size parameters, with their kinds.
    parameters: ClassVar[Mapping[str, Kind]]
    #: Membership is that of the reference crystal, scaled isotropically with the cell.
    isotropic: ClassVar[bool]

    def pair_counts(self, crystal: Crystal, sizes: Mapping[str, float]) -> PairCounts: ...

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]: ...


@dataclass(frozen=True)
class SingleParallelepiped:
    """One parallelepiped of whole cells, n_a x n_b x n_c."""

    cells: tuple[int, int, int]
    parameters: ClassVar[Mapping[str, Kind]] = {}
    isotropic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if min(self.cells) < 1:
            raise ValueError(
                f"a parallelepiped of {self.cells} cells has no cell along an edge; give whole numbers "
                "of at least 1."
            )
        _check_extent(max(self.cells))

    def pair_counts(self, crystal: Crystal, sizes: Mapping[str, float]) -> PairCounts:
        n_a, n_b, n_c = self.cells
        table = (
            _overlap(n_a, n_a)[:, None, None]
            * _overlap(n_b, n_b)[None, :, None]
            * _overlap(n_c, n_c)[None, None, :]
        )
        return _shared_table(table, float(n_a * n_b * n_c))

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        edges = np.array(self.cells) * (crystal.cell.a, crystal.cell.b, crystal.cell.c) / 10
        return {"L_a": float(edges[0]), "L_b": float(edges[1]), "L_c": float(edges[2])}


@dataclass(frozen=True)
class ParallelepipedPopulation:
    """Prisms of N_ab x N_ab x N_c cells with a bivariate log-normal law of L_ab and L_c.

    L_ab = N_ab sqrt(a b), L_c = N_c c; size parameters in nm, size_axes_rotation in degrees. No particle has an
    edge beyond `largest` nm.
    """

    largest: float = np.inf
    parameters: ClassVar[Mapping[str, Kind]] = {
        "L_ab": Kind.SIZE, "sd_ab": Kind.SIZE_SD, "L_c": Kind.SIZE, "sd_c": Kind.SIZE_SD,
        "size_axes_rotation": Kind.SIZE_ROTATION,
    }
    isotropic: ClassVar[bool] = False

    def number_weights(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Number weights (n_ab, n_c) and the lengths (n_ab,), (n_c,) in nm they stand on."""
        law_ab = LogNormal(sizes["L_ab"], sizes["sd_ab"])
        law_c = LogNormal(sizes["L_c"], sizes["sd_c"])
        rotation = sizes["size_axes_rotation"]
        step_ab = float(np.sqrt(crystal.cell.a * crystal.cell.b)) / 10
        step_c = crystal.cell.c / 10
        turn = abs(np.sin(np.radians(rotation)))
        top = self.largest
        reach_ab = max(law_ab.largest(dimensions=2, limit=top),
                       turn * law_c.largest(dimensions=3, limit=top))
        reach_c = max(law_c.largest(dimensions=1, limit=top),
                      turn * law_ab.largest(dimensions=3, limit=top))
        n_ab = _check_extent(max(1, int(np.ceil(reach_ab / step_ab))))
        n_c = _check_extent(max(1, int(np.ceil(reach_c / step_c))))
        length_ab: FloatArray = np.arange(1.0, n_ab + 1) * step_ab
        length_c: FloatArray = np.arange(1.0, n_c + 1) * step_c
        return (
            bivariate_log_normal(law_ab, law_c, length_ab, length_c, rotation), length_ab, length_c
        )

    def pair_counts(self, crystal: Crystal, sizes: Mapping[str, float]) -> PairCounts:
        number, _, _ = self.number_weights(crystal, sizes)
        return _parallelepiped_counts(number)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        return vars(SizeStatistics.of(*self.number_weights(crystal, sizes))).copy()


@dataclass(frozen=True)
class QuasiCubePopulation:
    """Quasi-cubes: N cells along a and b, round(N sqrt(ab) / c) along c, one log-normal law of L.

    L is the edge N sqrt(a b); size parameters in nm, none beyond `largest` nm.
    """

    largest: float = np.inf
    parameters: ClassVar[Mapping[str, Kind]] = {"L": Kind.SIZE, "sd_L": Kind.SIZE_SD}
    isotropic: ClassVar[bool] = False

    def number_weights(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        law = LogNormal(sizes["L"], sizes["sd_L"])
        step_ab = float(np.sqrt(crystal.cell.a * crystal.cell.b)) / 10
        step_c = crystal.cell.c / 10
        top = law.largest(dimensions=3, limit=self.largest)
        n_ab = _check_extent(max(1, int(np.ceil(top / step_ab))))
        length_ab: FloatArray = np.arange(1.0, n_ab + 1) * step_ab
        heights = np.maximum(1, np.round(length_ab / step_c)).astype(int)
        number = np.zeros((n_ab, _check_extent(int(heights[-1]))))
        number[np.arange(n_ab), heights - 1] = discrete_weights(law, length_ab)
        return number, length_ab, np.arange(1.0, number.shape[1] + 1) * step_c

    def pair_counts(self, crystal: Crystal, sizes: Mapping[str, float]) -> PairCounts:
        number, _, _ = self.number_weights(crystal, sizes)
        return _parallelepiped_counts(number)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        return vars(SizeStatistics.of(*self.number_weights(crystal, sizes))).copy()


@dataclass(frozen=True)
class SingleSphere:
    """All atoms within diameter/2 (nm) of a point of the crystal (fractional coordinates)."""

    diameter: float
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    parameters: ClassVar[Mapping[str, Kind]] = {}
    isotropic: ClassVar[bool] = True

    def pair_counts(self, crystal: Crystal, sizes: Mapping[str, float]) -> PairCounts:
        return _sphere_counts(crystal, self.centre, self.diameter, None)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        _check_sphere(crystal, self.diameter)
        return {"D": self.diameter}


@dataclass(frozen=True)
class SpherePopulation:
    """Spheres cut by atom distance around one point, with a log-normal law of the diameter.

    The law is continuous: a pair counts with the share of particles that reach its outer atom,
    so the size grid is as fine as the atom shells. Size parameters in nm, none beyond `largest`.
    """

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    largest: float = np.inf
    parameters: ClassVar[Mapping[str, Kind]] = {"D": Kind.SIZE, "sd_D": Kind.SIZE_SD}
    isotropic: ClassVar[bool] = True

    def pair_counts(self, crystal: Crystal, sizes: Mapping[str, float]) -> PairCounts:
        law = LogNormal(sizes["D"], sizes["sd_D"])
        top = law.largest(dimensions=3, limit=self.largest)
        return _sphere_counts(crystal, self.centre, top, law)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        law = LogNormal(sizes["D"], sizes["sd_D"])
        _check_sphere(crystal, law.largest(dimensions=3, limit=self.largest))
        return {"mean_D": law.mean, "sd_D": law.sd, "volume_mean_D": law.volume_weighted_mean}


def _overlap(n_cells: int, extent: int) -> FloatArray:
    """(N - |u|)+ for u = -(extent-1) ... extent-1."""
    return np.asarray(np.maximum(0.0, n_cells - np.abs(np.arange(1 - extent, extent))))


def _parallelepiped_counts(number: FloatArray) -> PairCounts:
    """Counts of a population of N_ab x N_ab x N_c parallelepipeds from number weights (n_ab, n_c)."""
    n_ab, n_c = number.shape
    overlap_ab = np.array([_overlap(n, n_ab) for n in range(1, n_ab + 1)])
    overlap_c = np.array([_overlap(n, n_c) for n in range(1, n_c + 1)])
    quadrant = overlap_ab[:, n_ab - 1 :]
    pairs_ab = (quadrant[:, :, None] * quadrant[:, None, :]).reshape(n_ab, -1)
    octant = (pairs_ab.T @ (number @ overlap_c[:, n_c - 1 :])).reshape(n_ab, n_ab, n_c)
    octant[octant < NEGLIGIBLE_PAIRS * octant[0, 0, 0]] = 0.0
    u = np.abs(np.arange(1 - n_ab, n_ab))
    w = np.abs(np.arange(1 - n_c, n_c))
    return _shared_table(octant[np.ix_(u, u, w)], float(octant[0, 0, 0]))


def _shared_table(table: FloatArray, cells: float) -> PairCounts:
    return PairCounts(np.ascontiguousarray(table)[None], np.array([cells]))


def _sphere_counts(
    crystal: Crystal, centre: tuple[float, float, float], largest: float, law: LogNormal | None
) -> PairCounts:
    _check_sphere(crystal, largest)
    tables, merged, atoms = count_sphere_pairs(
        crystal, crystal.generic_positions, centre, largest, law
    )
    return PairCounts(tables, atoms, merged)


def _check_sphere(crystal: Crystal, diameter: float) -> None:
    if not diameter > 0:
        raise ValueError(f"the sphere's diameter is {diameter:g} nm; it must be above 0.")
    edge = min(crystal.cell.a, crystal.cell.b, crystal.cell.c) / 10
    _check_extent(int(np.ceil(diameter / edge)))


def _check_extent(n_cells: int) -> int:
    if n_cells > MAX_CELLS_ALONG_EDGE:
        raise ValueError(
            f"the largest particle would have {n_cells} cells along an edge; the limit is "
            f"{MAX_CELLS_ALONG_EDGE}. Are the sizes in nm? Lower the mean or the width, or give "
            "them an upper bound."
        )
    return n_cells
