"""Phases of fixed geometry: lists of atoms and stored pair distances, with a lattice_scale."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_dse.engine.crystal.disorder import EXCLUSION_DISTANCE
from aiida_dse.engine.memo import Memo
from aiida_dse.engine.parameters import LATTICE_SCALE_RANGE, Kind, Parameter, ParameterName
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.scattering.histograms import (
    LARGEST_STEP,
    SPLINE_ORDER,
    atom_histograms,
    grid_step,
)
from aiida_dse.engine.scattering.pairs import site_channels
from aiida_dse.engine.units import FloatArray

from .crystal_phase import CrystalPhase
from .phase import PhaseState, PhaseWork, Sampling, Sites, site_parameters

if TYPE_CHECKING:
    from aiida_dse.engine.scattering.anisotropic import TensorFields


class FixedGeometryPhase(Sites):
    """A phase whose distances all scale with one parameter, 'lattice_scale'.

    B_iso and occupancies are parameters as in crystals.
    """

    name: str
    b_iso: tuple[float | None, ...]
    occupancy: tuple[float, ...]

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:  # type: ignore[override]
        name = ParameterName.of(self.name, "lattice_scale")
        parameters = [Parameter(name, Kind.LATTICE_SCALE, 1.0)]
        for label, b_iso, occupancy in zip(self.labels, self.b_iso, self.occupancy, strict=True):
            parameters += site_parameters(self.name, label, b_iso, occupancy)
        return tuple(parameters)

    @property
    def fixed_reasons(self) -> dict[str, str]:
        return {}

    def state(
        self, values: Mapping[str, float], sampling: Sampling, previous: PhaseState | None = None
    ) -> PhaseState:
        """The sine sums at the local `values`; `previous` where lattice_scale is unchanged."""
        scale = values["lattice_scale"]
        keys = (scale,) * len(site_channels(len(self.labels)))
        if previous is not None and previous.keys == keys:
            return previous
        return PhaseState(keys, None, None, None, self.sums(sampling, scale), self.atoms)

    def sums(self, sampling: Sampling, scale: float) -> FloatArray:
        """The sums (n_channels, n_q) of all distances times `scale`."""
        # S(q) of the scaled particle is that of the original at q times the scale
        histograms, step = self.sampled(sampling)
        return debye.sine_sums(histograms, sampling.q * scale, step=step, resources=sampling.resources)

    def sampled(self, sampling: Sampling) -> tuple[FloatArray, float]:
        """The histograms (n_channels, n_bins) of 1/r, and the step of their grid (Å)."""
        raise TypeError(f"{type(self).__name__} does not sample its distances")

    @property
    def atoms(self) -> FloatArray:
        """The mean number (n_sites,) of atoms of each site per particle."""
        raise TypeError(f"{type(self).__name__} does not count its atoms")


@dataclass(frozen=True)
class AtomListPhase(FixedGeometryPhase):
    """A phase from any list of atoms (relaxed, twinned, from a simulation), pair by pair.

    positions (n_atoms, 3) Å, or (n_frames, n_atoms, 3) for several configurations whose patterns are
    averaged; site_of_atom (n_atoms,) indices of the labels. Raises ValueError
    where an atom that is fully occupied is nearer than `exclusion_distance` (Å) to another.
    """

    name: str
    labels: tuple[str, ...]
    ions: tuple[str, ...]
    site_of_atom: np.ndarray
    positions: FloatArray
    b_iso: tuple[float | None, ...]
    occupancy: tuple[float, ...]
    exclusion_distance: float = EXCLUSION_DISTANCE
    _known_histograms: Memo[FloatArray] = field(
        default_factory=lambda: Memo(2), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from scipy.spatial import cKDTree  # slow to load; other phases do not need it

        occupancy = np.array(self.occupancy)[self.site_of_atom]
        for number, frame in enumerate(self.frames):
            near = cKDTree(frame).query_pairs(self.exclusion_distance, output_type="ndarray")
            # two near positions may both be partially occupied: they are alternatives of one atom
            near = near[(occupancy[near] >= 1).any(axis=1)]
            if not len(near):
                continue
            i, j = (int(k) for k in min(near.tolist()))
            distance = float(np.linalg.norm(frame[i] - frame[j]))
            where = f"frame {number + 1}, " if len(self.frames) > 1 else ""
            raise ValueError(
                f"{self.name}: {where}atoms {i + 1} ({self.labels[self.site_of_atom[i]]}, occupancy "
                f"{occupancy[i]:g}) and {j + 1} ({self.labels[self.site_of_atom[j]]}, occupancy "
                f"{occupancy[j]:g}) are {distance:.3f} Å apart; the limit is "
                f"{self.exclusion_distance:g} Å. Check that the coordinates are in Å, lower both "
                "occupancies (alternatives of one atom), or lower 'exclusion_distance'."
            )

    def size_statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        return {"atoms": float(len(self.site_of_atom))}

    def work(self, values: Mapping[str, float]) -> PhaseWork:
        # the histograms of all pairs of sites of each thread, on a grid of about 0.01 Å
        longest = float(np.linalg.norm(np.ptp(self.positions.reshape(-1, 3), axis=0)))
        histograms = 8.0 * len(site_channels(len(self.labels))) * longest / 0.01
        return PhaseWork(len(self.frames) * len(self.site_of_atom) ** 2 / 2, 0.0, 4 * histograms)

    @property
    def frames(self) -> FloatArray:
        """The positions (n_frames, n_atoms, 3) in Å."""
        return np.asarray(self.positions, dtype=float).reshape(-1, len(self.site_of_atom), 3)

    @property
    def atoms(self) -> FloatArray:
        return np.bincount(self.site_of_atom, minlength=len(self.labels)).astype(float)

    def sampled(self, sampling: Sampling) -> tuple[FloatArray, float]:
        step = sampling.step / LATTICE_SCALE_RANGE[1]
        histograms = self._known_histograms.get(
            step, lambda: self.histograms(step, sampling.resources))
        return histograms, step

    def histograms(self, step: float, resources: Resources = ONE_THREAD) -> FloatArray:
        """The histograms (n_channels, n_bins) of 1/r on a grid of `step` Å."""
        channels = site_channels(len(self.labels))
        channel_of_pair = np.zeros((len(self.labels),) * 2, dtype=np.int64)
        for k, (s, t) in enumerate(channels):
            channel_of_pair[s, t] = channel_of_pair[t, s] = k
        partial = np.array(self.occupancy)[self.site_of_atom] < 1
        found = [atom_histograms(
            np.ascontiguousarray(frame), channel_of_pair, self.site_of_atom, len(channels), step=step,
            excluded=self.exclusion_distance, partial=partial, resources=resources) for frame in self.frames]
        n_bins = max(histograms.shape[1] for histograms in found)
        padded = [np.pad(histograms, ((0, 0), (0, n_bins - histograms.shape[1]))) for histograms in found]
        return np.asarray(padded[0] if len(padded) == 1 else np.mean(padded, axis=0))


#: Limits of stored distances: the smallest step (Å), and the largest B_iso (Å^2), as in documents.
SMALLEST_STEP, LARGEST_B = 1e-4, 100.0


@dataclass(frozen=True)
class PairDistances:
    """Stored pair distances: the sampled distances of the mean particle of a phase.

    histograms (n_channels, n_bins) of 1/r on r_k = (k - GRID_MARGIN) step, step in Å, for the
    pairs of sites in the order of `site_channels`; atoms (n_sites,) per particle; starting values
    b_iso (Å^2) and occupancy (n_sites,). `sizes` holds size statistics of the population in nm,
    `about` the origin of the distances as plain values. The pairs of `tensor_channels` are damped by
    the `tensors`, to which B_iso is added. Raises ValueError for arrays that do not fit each other,
    values that are not finite, and too large a step.
    """

    labels: tuple[str, ...]
    ions: tuple[str, ...]
    b_iso: tuple[float, ...]
    occupancy: tuple[float, ...]
    atoms: FloatArray
    histograms: FloatArray
    step: float
    sizes: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    tensor_channels: tuple[int, ...] = ()
    tensors: TensorFields | None = None

    def __post_init__(self) -> None:
        n = len(self.labels)
        if not (n == len(self.ions) == len(self.b_iso) == len(self.occupancy) == len(self.atoms)
                > 0 and self.histograms.ndim == 2
                and len(self.histograms) == len(site_channels(n))):
            raise ValueError(
                f"pair distances of {n} sites must have {len(site_channels(n))} channels and {n} "
                f"ions, B_iso, occupancies and numbers of atoms, but have {len(self.histograms)} "
                f"channels, {len(self.ions)} ions, {len(self.b_iso)} B_iso, {len(self.occupancy)} "
                f"occupancies and {len(self.atoms)} numbers of atoms."
            )
        if not (np.isfinite(self.histograms).all() and np.isfinite(self.atoms).all()
                and SMALLEST_STEP <= self.step <= LARGEST_STEP):
            raise ValueError(
                f"the histograms or numbers of atoms contain values that are not finite, or the "
                f"step of {self.step:g} Å does not lie between {SMALLEST_STEP:g} and "
                f"{LARGEST_STEP:g} Å."
            )
        if len(set(self.labels)) < n or not all(re.fullmatch(r"[^\s.:*?\[\]]{1,40}", label)
                                                for label in self.labels):
            raise ValueError(f"the labels {', '.join(map(repr, self.labels))[:100]} of the sites must be "
                             "different, without blanks, dots and wildcards.")
        if not (all(number > 0 for number in self.atoms)
                and all(0 < share <= 1 for share in self.occupancy)
                and all(0 <= b <= LARGEST_B for b in self.b_iso)):
            raise ValueError(
                "the numbers of atoms must be positive, the occupancies between 0 and 1, and the "
                f"B_iso between 0 and {LARGEST_B:g} Å^2.")

        chosen = self.tensor_channels
        if len(chosen) != (0 if self.tensors is None else len(self.tensors.fields)) or \
                len(set(chosen)) < len(chosen) or not all(0 <= k < len(self.histograms) for k in chosen):
            raise ValueError(f"the displacement tensors belong to the channels {list(chosen)[:10]}, which do not fit.")

    def q_max(self, tolerance: float) -> float:
        """The q (1/Å) up to which the error per distance is below `tolerance`.

        It allows for the largest lattice_scale.
        """
        root = tolerance ** (1 / SPLINE_ORDER)
        return float(2 * np.pi * root / (1 + root) / self.step / LATTICE_SCALE_RANGE[1])


@dataclass(frozen=True)
class PairDistancesPhase(FixedGeometryPhase):
    """A phase from stored pair distances; of its geometry, only lattice_scale can vary."""

    name: str
    stored: PairDistances
    ions: tuple[str, ...]
    b_iso: tuple[float, ...]

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.stored.labels

    @property
    def occupancy(self) -> tuple[float, ...]:  # type: ignore[override]
        return self.stored.occupancy

    @property
    def atoms(self) -> FloatArray:
        return self.stored.atoms

    @property
    def fixed_reasons(self) -> dict[str, str]:
        """Why parameters of the original phase cannot be varied: their values are stored."""
        known = {parameter.name.local for parameter in self.parameters}
        return {
            name: f"the pair distances are stored for {name} = {value:g}: specify the structure of "
                  "the phase instead, or vary 'lattice_scale'"
            for name, value in self.stored.about.get("values", {}).items() if name not in known
        }

    def size_statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """The stored statistics; like a refined size, they do not depend on lattice_scale."""
        return dict(self.stored.sizes)

    def sampled(self, sampling: Sampling) -> tuple[FloatArray, float]:
        return self.stored.histograms, self.stored.step

    def sums(self, sampling: Sampling, scale: float) -> FloatArray:
        sums = super().sums(sampling, scale)
        if self.stored.tensors is not None:
            sums[list(self.stored.tensor_channels)] = self.stored.tensors.sums(
                sampling.q, step=self.stored.step, lattice_scale=scale, resources=sampling.resources)
        return sums

    def require_reach(self, sampling: Sampling) -> None:
        """Raise ValueError where the pattern requires a finer grid than the stored one."""
        q_max, reach = float(sampling.q.max()), self.stored.q_max(sampling.tolerance)
        if q_max > reach * (1 + 1e-6):
            raise ValueError(
                f"the distances are stored on a grid of {self.stored.step:.4g} Å, which is "
                f"accurate up to q = {reach:.4g} 1/Å at the tolerance {sampling.tolerance:g}, but "
                f"the pattern reaches {q_max:.4g} 1/Å. Rebuild the distances for this pattern "
                "('dse-engine build'), limit pattern.range, or raise 'tolerance'."
            )


def sample(
    phase: CrystalPhase | AtomListPhase, values: Mapping[str, float], sampling: Sampling,
    about: Mapping[str, Any] | None = None,
) -> PairDistances:
    """The pair distances of a phase at its local `values`, on a grid that serves `sampling`.

    The grid is fine enough for every lattice_scale within its bounds. `about` is stored with them.
    """
    step = grid_step(float(sampling.q.max()), sampling.tolerance) / LATTICE_SCALE_RANGE[1]
    tensors = None
    if isinstance(phase, CrystalPhase):
        histograms, atoms, tensors = phase.histograms(values, step, sampling.resources)
    else:
        expanded = dataclasses.replace(phase, positions=phase.positions * values["lattice_scale"])
        histograms, atoms = expanded.histograms(step, sampling.resources), phase.atoms
    occupancy, b_iso = phase.occupancy_and_b(values)
    return PairDistances(
        tuple(phase.labels), tuple(phase.ions), tuple(b_iso.tolist()), tuple(occupancy.tolist()),
        atoms, histograms, step, phase.size_statistics(values),
        {"values": dict(values), **(about or {})}, *(() if tensors is None else (tuple(tensors[0]), tensors[1])),
    )
