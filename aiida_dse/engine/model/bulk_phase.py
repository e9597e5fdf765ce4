"""Phases of large crystals, whose pattern consists of reflections: impurities, substrates and standards.

The mean over all orientations of an infinite crystal is, per unit cell,

    I(q) = sum over G of 2 pi^2 / (V G^2) |F(G)|^2 delta(q - G),

with the structure factor F. It is bilinear in the scattering factors, so it is computed as partial sums of the pairs
of sites, like the sums of particles: form factors, B_iso, occupancies and the diffuse scattering 1 - T^2 of
independent displacements are those of the Debye equation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NoReturn

import gemmi
import numpy as np
from numba import njit

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.measurement.profiles import width_and_share
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.particles.family import Counting, PairCounts
from aiida_dse.engine.particles.size_quantities import Rows
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.scattering.pairs import site_channels
from aiida_dse.engine.units import FloatArray

from .crystal_phase import CrystalPhase
from .phase import PhaseState, PhaseWork, Sampling

#: Largest number of reflections, symmetry-equivalent ones included.
MOST_REFLECTIONS = 2e6
#: Narrowest Gaussian width (FWHM) of a reflection in steps of the grid, which the sampling requires.
NARROWEST = 2.0
#: Widths (FWHM) at which a Gaussian and a Lorentzian are cut off.
GAUSSIAN_END, LORENTZIAN_END = 3.0, 200.0


@dataclass(frozen=True)
class BulkCrystals:
    """Crystals without a definite number of cells; all numbers of atoms are those of one cell.

    Parameters: the mean column length `size` (nm), if it broadens the reflections, and `strain`, the root mean
    square of the relative deviations of the lattice.
    """

    broadened: bool
    isotropic: ClassVar[bool] = False
    whole_cells: ClassVar[bool] = False
    directed: ClassVar[bool] = False
    changes_with_cell: ClassVar[bool] = False

    @property
    def parameters(self) -> Mapping[str, Kind]:
        size = {"size": Kind.SIZE} if self.broadened else {}
        return size | {"strain": Kind.MICROSTRAIN}

    def pair_counts(self, *arguments: object, **more: object) -> PairCounts:
        raise TypeError("bulk crystals have no pair counts")

    def diameters(self, crystal: Crystal, sizes: Mapping[str, float]) -> None:
        return None

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        return {}

    def size_quantities(
        self, crystal: Crystal, sizes: Mapping[str, float], *, of_population: bool
    ) -> Rows:
        return []

    def limit(self, crystal: Crystal) -> float:
        return np.inf

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        return 1.0

    def counting(self, crystal: Crystal, sizes: Mapping[str, float]) -> Counting | None:
        return None

    def vectors(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        return 0.0

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class BulkPhase(CrystalPhase):
    """A phase of large crystals with one structure; `family` are BulkCrystals."""

    def state(  # type: ignore[override]
        self, values: Mapping[str, float], sampling: Sampling, previous: PhaseState | None = None
    ) -> PhaseState:
        crystal = self._with_cell(values)
        site_positions = self._site_positions(values)
        widths = (values.get("size", np.inf), values["strain"])
        cell = (*crystal.cell.parameters, *widths)
        channels = site_channels(len(self.labels))
        keys = tuple((cell, tuple(site_positions[s]), tuple(site_positions[t])) for s, t in channels)
        if previous is not None and previous.keys == keys:
            return previous
        length, factors = self._reflections(crystal, site_positions, float(sampling.q.max()))
        atoms = np.bincount(self.crystal.site_of_atom, minlength=len(self.labels)).astype(float)
        weight = np.pi**2 / (crystal.cell.volume * length**2)  # half, because a sum counts unordered pairs
        intensities = np.array([
            (1 if s == t else 2) * weight * (factors[s] * factors[t].conj()).real for s, t in channels])
        # reflections of equal length are one
        groups, first = np.unique(np.round(length, 9), return_inverse=True)
        summed = np.array([np.bincount(first, weights=one, minlength=len(groups)) for one in intensities])
        sums = np.zeros((len(channels), len(sampling.q)))
        begins = [0, *(np.flatnonzero(np.diff(sampling.q) < 0) + 1).tolist(), len(sampling.q)]
        for begin, end in pairwise(begins):  # one part for each wavelength
            _add_reflections(groups, summed, np.ascontiguousarray(sampling.q[begin:end]), 0.4 / widths[0],
                             2.3548200450309493 * widths[1], sums[:, begin:end])
        for k, (s, t) in enumerate(channels):
            if s == t:
                sums[k] -= atoms[s] / 2  # the self-scattering is not a part of the pairs
        return PhaseState(keys, None, None, None, sums, atoms)

    def _reflections(
        self, crystal: Crystal, site_positions: FloatArray, q_max: float
    ) -> tuple[FloatArray, np.ndarray]:
        """The lengths (n,) in 1/Å of all reciprocal vectors, and the sums (n_sites, n) of exp(i G.r) over the atoms.

        Each of a pair G, -G is present once, with twice its weight in the factor sqrt(2).
        """
        q_max *= 1.02
        expected = 4 / 3 * np.pi * q_max**3 * crystal.cell.volume / (2 * np.pi) ** 3
        if expected > MOST_REFLECTIONS:
            raise ValueError(
                f"{self.name}: there are {expected:.2g} reflections up to q = {q_max:.3g} 1/Å; the limit is "
                f"{MOST_REFLECTIONS:.0e}. Limit the range of the pattern.")
        hkl = gemmi.make_miller_array(
            gemmi.UnitCell(*crystal.cell.parameters), gemmi.SpaceGroup("P 1"), 2 * np.pi / q_max)
        reciprocal = 2 * np.pi * np.linalg.inv(crystal.cell.matrix)
        length = np.linalg.norm(hkl @ reciprocal, axis=1)
        positions = self.crystal.positions(site_positions)
        found = np.zeros((len(self.labels), len(hkl)), dtype=complex)
        for site, position in zip(self.crystal.site_of_atom, positions, strict=True):
            found[site] += np.exp(2j * np.pi * (hkl @ position))
        return length, np.sqrt(2) * found

    def distances_in(self, state: PhaseState) -> FloatArray:
        return np.zeros(len(state.keys))

    def work(self, values: Mapping[str, float]) -> PhaseWork:
        return PhaseWork(1e4, 0.0, 0.0)

    def histograms(
        self, values: Mapping[str, float], step: float, resources: Resources = ONE_THREAD
    ) -> NoReturn:
        raise ValueError(f"{self.name}: bulk crystals have no list of distances to be stored. Remove the phase.")


@njit(cache=True, nogil=True)
def _add_reflections(length, intensity, q, lorentzian, strain, sums):  # type: ignore[no-untyped-def]
    """Add pseudo-Voigt functions at q = length with these integrals (n_channels, n) to sums (n_channels, n_q).

    The Lorentzian width (FWHM) is the same for all, the Gaussian one is `strain` times q.
    """
    for k in range(len(length)):
        at = length[k]
        near = min(max(np.searchsorted(q, at), 1), len(q) - 1)
        step = q[near] - q[near - 1]
        g = np.sqrt((NARROWEST * step) ** 2 + (strain * at) ** 2)
        width, share = width_and_share(g, lorentzian)
        end = max(GAUSSIAN_END * width, LORENTZIAN_END * width if share > 1e-6 else 0.0)
        first, last = np.searchsorted(q, at - end), np.searchsorted(q, at + end)
        for n in range(first, last):
            d = (q[n] - at) / width
            value = (share * 2 / (np.pi * width) / (1 + 4 * d * d)
                     + (1 - share) * 0.9394372786996513 / width * np.exp(-2.772588722239781 * d * d))
            for c in range(len(sums)):
                sums[c, n] += intensity[c, k] * value
