"""The spheres that DebUsSy makes of rock salt, and its Compton scattering.

As read in DebUsSy 2.2 and in the input files of the PbS patterns. The k-th sphere has k^3
primitive cells and the diameter of a sphere of that volume. Cells are taken shell by shell around
one of them; the last shell is occupied evenly, and in part. A cell is Pb with an eighth of S on
each of its eight corners, so S fades out at the surface. A partly occupied atom scatters with its
mean amplitude: its self term has the square of the occupancy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import ClassVar

import numpy as np
import xraylib
from scipy.fft import irfftn, next_fast_len, rfftn

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import CrystalPhase
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.particles.shapes import PairCounts
from aiida_dse.engine.particles.size_distributions import LogNormal
from aiida_dse.engine.particles.size_distributions import number_weights as normalised
from aiida_dse.engine.particles.size_statistics import sphere_measures
from aiida_dse.engine.particles.sphere_counting import MergedPairs
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray, photon_energy
from aiida_dse.tasks.build import BuiltModel

#: Edge (Å) of the primitive cell that DebUsSy was given, all angles 60 degrees.
PRIMITIVE_EDGE = 4.196
PRIMITIVE_CELL = f"""data_PbS
_cell_length_a {PRIMITIVE_EDGE}
_cell_length_b {PRIMITIVE_EDGE}
_cell_length_c {PRIMITIVE_EDGE}
_cell_angle_alpha 60
_cell_angle_beta 60
_cell_angle_gamma 60
_space_group_name_H-M_alt 'R -3 m :R'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
Pb Pb 0 0 0 1.0
S S 0.5 0.5 0.5 1.0
"""
N_SPHERES = 44
#: Diameter over edge of a sphere with the volume of the primitive cell.
STEP = (6 / np.pi / np.sqrt(2)) ** (1 / 3)
#: nm
DIAMETERS = np.arange(1, N_SPHERES + 1) * STEP * PRIMITIVE_EDGE / 10
#: Spheres rarer than this fraction do not decide how far the pair tables reach.
NEGLIGIBLE = 1e-12
ELECTRON_REST_ENERGY = 510998.95  # eV


@dataclass(frozen=True)
class DebussySpheres:
    """Log-normal population over the series of spheres; takes PRIMITIVE_CELL."""

    parameters: ClassVar[Mapping[str, Kind]] = {"D": Kind.SIZE, "sd_D": Kind.SIZE_SD}
    isotropic: ClassVar[bool] = False  # the diameters stay when the cell expands

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0,
    ) -> PairCounts:
        number = number_weights(sizes)
        pairs = np.einsum("k,ckd->cd", number, _pairs_by_square())
        largest = 1 + int(np.flatnonzero(number > NEGLIGIBLE)[-1])
        lattice, shifted = _squares(2 * _reach(largest))
        tables = []
        for row, squares, fraction in ((0, lattice, 0.5), (1, shifted, 1.0), (2, lattice, 0.5)):
            alike = np.bincount(squares.ravel(), minlength=pairs.shape[1])
            tables.append((fraction * pairs[row] / np.maximum(alike, 1))[squares])
        merged = MergedPairs(
            np.array([[0, 1], [-1, 2]]), np.zeros((2, 2, 3), dtype=np.int64),
            np.array([0, 0, 1]), np.array([0, 1, 1]),
        )
        return PairCounts(np.array(tables), pairs[[0, 2], 0], merged)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        number = number_weights(sizes)
        mean = float(number @ DIAMETERS)
        sd = float(number @ (DIAMETERS - mean) ** 2) ** 0.5
        return {"mean_D": mean, "sd_D": sd} | sphere_measures(mean)

    def limit(self, crystal: Crystal) -> float:
        return float(DIAMETERS[-1])

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        return mean_cells(sizes)

    def counting(
        self, crystal: Crystal, sizes: Mapping[str, float]
    ) -> tuple[float, float, float] | None:
        return None

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        return {"sd_D": float(DIAMETERS[0])}


def number_weights(sizes: Mapping[str, float]) -> FloatArray:
    distribution = LogNormal(sizes["D"], sizes["sd_D"])
    return normalised(distribution.log_density(DIAMETERS), np.ones(N_SPHERES))


def mean_cells(sizes: Mapping[str, float]) -> float:
    """Mean number of PbS per particle."""
    return float(number_weights(sizes) @ np.arange(1.0, N_SPHERES + 1) ** 3)


def with_debussy_spheres(built: BuiltModel) -> BuiltModel:
    """The same model with its one phase, spheres of PRIMITIVE_CELL, made as DebUsSy makes them."""
    phase = built.model.phases[0]
    assert isinstance(phase, CrystalPhase)
    model = PatternModel(
        built.model.observation, [replace(phase, family=DebussySpheres())], built.model.background
    )
    return replace(built, model=model)


def compton(q: FloatArray, wavelength: float) -> FloatArray:
    """Compton scattering per PbS (n_q,), electron units: EPDL97, Klein-Nishina unpolarised part."""
    s = q / (4 * np.pi)
    scattered = np.array([xraylib.SF_Compt(82, x) + xraylib.SF_Compt(16, x) for x in s])
    recoil = photon_energy(wavelength) / ELECTRON_REST_ENERGY
    ratio = 1 / (1 + recoil * 2 * (s * wavelength) ** 2)
    return np.asarray(scattered * ratio**2 * (ratio + 1 / ratio) / 2)


@lru_cache(maxsize=4)
def _squares(reach: int) -> tuple[np.ndarray, np.ndarray]:
    """|n|^2 and |n + (1/2, 1/2, 1/2)|^2 on the primitive lattice, in units of edge^2 / 2: whole."""
    n = np.arange(-reach, reach + 1)
    found = []
    for half in (0.0, 0.5):
        x, y, z = np.meshgrid(n + half, n + half, n + half, indexing="ij", sparse=True)
        found.append(np.rint(2 * (x * x + y * y + z * z + x * y + y * z + z * x)).astype(int))
    return found[0], found[1]


def _reach(k: int) -> int:
    """Largest component of a lattice vector in the k-th sphere, and some to spare."""
    return int(np.sqrt(1.5) * k * STEP / 2) + 3


@lru_cache(maxsize=1)
def _pairs_by_square() -> FloatArray:
    """(3, n_spheres, n_squares): ordered Pb-Pb, Pb-S, S-S pairs of each sphere by distance squared.

    A pair counts with the product of its occupancies.
    """
    n_squares = 1 + max(int(squares.max()) for squares in _squares(2 * _reach(N_SPHERES)))
    found = np.zeros((3, N_SPHERES, n_squares))
    for k in range(1, N_SPHERES + 1):
        reach = _reach(k)
        squares, _ = _squares(reach)
        shells = np.bincount(squares.ravel())
        inside = np.cumsum(shells)
        last = int(np.searchsorted(inside, k**3))
        fraction = 1 - (inside[last] - k**3) / shells[last]
        cells = (squares < last) + fraction * (squares == last)
        # S number n lies on the common corner of the cells n ... n + (1, 1, 1)
        corners = [np.roll(cells, shift, (0, 1, 2)) for shift in product((0, -1), repeat=3)]
        sulphur = np.mean(corners, axis=0)
        size = next_fast_len(4 * reach + 1, real=True)
        waves = [rfftn(part, (size,) * 3) for part in (cells, sulphur)]
        differences = np.arange(-2 * reach, 2 * reach + 1)
        wide = _squares(2 * reach)
        for row, (a, b) in enumerate(((0, 0), (0, 1), (1, 1))):
            count = irfftn(np.conj(waves[a]) * waves[b], (size,) * 3)
            count = count[np.ix_(differences, differences, differences)]
            count[np.abs(count) < 1e-7] = 0.0  # rounding of the transform
            found[row, k - 1] = np.bincount(
                wide[row % 2].ravel(), count.ravel(), minlength=n_squares
            )
    return found
