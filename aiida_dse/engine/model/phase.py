"""Phases of a model: the scattering of a phase as a function of its named parameters.

The local parameter names are the cell parameters 'a' ... 'gamma', 'Site.x' 'Site.y' 'Site.z',
'Site.B_iso', 'Site.occupancy' and the size parameters of the shape. Phases whose distances only
scale as a whole are in fixed_geometry.py, crystals in crystal_phase.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from aiida_dse.engine.parameters import Kind, Parameter, ParameterName
from aiida_dse.engine.particles.family import PairCounts
from aiida_dse.engine.particles.size_quantities import Rows, size_quantities
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.scattering.form_factors import scattering_factor
from aiida_dse.engine.scattering.histograms import (
    grid_step,
)
from aiida_dse.engine.scattering.pairs import (
    PairWeights,
)
from aiida_dse.engine.units import FloatArray

#: Default relative error of the contribution of a single distance at q_max.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Sampling:
    """The q (1/Å) of a pattern, and the tolerance and resources of its calculation."""

    q: FloatArray
    wavelength: float
    tolerance: float = TOLERANCE
    resources: Resources = ONE_THREAD

    @cached_property
    def step(self) -> float:
        """The step (Å) of the grid on which distances are sampled."""
        return grid_step(float(self.q.max()), self.tolerance)


@dataclass(frozen=True)
class PhaseState:
    """The partial Debye sums of a phase at one geometry, with the keys on which each depends."""

    keys: tuple[object, ...]
    counts_key: object
    counts: PairCounts | None
    weights: PairWeights | None
    sums: FloatArray  # (n_channels, n_q)
    atoms: FloatArray  # (n_sites,) mean number of atoms of each site per particle
    directed: PairCounts | None = None  # those of `counts` by groups of vectors of the same direction


@dataclass(frozen=True)
class PhaseWork:
    """The work of computing a state: distances, pairs to count, and bytes of the pair tables.

    `once` are pairs that are counted for the first state only.
    """

    distances: float
    counted: float
    bytes: float
    once: float = 0.0


class Phase(Protocol):
    """The interface of a phase, as the model of a pattern uses it."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def parameters(self) -> tuple[Parameter, ...]: ...

    @property
    def fixed_reasons(self) -> dict[str, str]: ...

    def state(
        self, values: Mapping[str, float], sampling: Sampling, previous: PhaseState | None = None
    ) -> PhaseState: ...

    @property
    def ions(self) -> tuple[str, ...]: ...

    def size_statistics(self, values: Mapping[str, float]) -> dict[str, float]: ...

    def size_quantities(self, values: Mapping[str, float], *, of_population: bool) -> Rows: ...

    def size_steps(self, values: Mapping[str, float]) -> dict[str, float]: ...

    def work(self, values: Mapping[str, float]) -> PhaseWork: ...

    def with_reference(self, values: Mapping[str, float]) -> Phase: ...

    def contents(self, state: PhaseState) -> FloatArray: ...

    def pair_factors(self, sampling: Sampling) -> FloatArray: ...

    def occupancy_and_b(self, values: Mapping[str, float]) -> tuple[FloatArray, FloatArray]: ...

    def equivalent_b(self, label: str, values: Mapping[str, float]) -> float: ...


class Sites:
    """Base class of phases: B_iso, occupancies and form factors of the sites."""

    labels: tuple[str, ...]
    ions: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    def size_steps(self, values: Mapping[str, float]) -> dict[str, float]:
        """The steps (nm) of the sizes at local `values`, see `Family.size_steps`."""
        return {}

    def size_statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """The size statistics of the population, by name."""
        raise TypeError(f"{type(self).__name__} has no size statistics")

    def size_quantities(self, values: Mapping[str, float], *, of_population: bool) -> Rows:
        """The sizes that results report, as rows (name, unit, value), see `Family.size_quantities`."""
        return size_quantities(values, self.size_statistics(values), of_population=of_population)

    def work(self, values: Mapping[str, float]) -> PhaseWork:
        """The work of a state with known distances: nothing is counted again."""
        return PhaseWork(0.0, 0.0, 0.0)

    def with_reference(self, values: Mapping[str, float]) -> Phase:
        """The phase with particles of the atoms of the structure at local `values`."""
        return self  # type: ignore[return-value]

    def contents(self, state: PhaseState) -> FloatArray:
        """The mean number (n_sites,) of atoms of each site per particle, for its composition."""
        return state.atoms

    def pair_factors(self, sampling: Sampling) -> FloatArray:
        """The products Re(f_s f_t*) (n_channels, n_q) of form factors."""
        factors = [scattering_factor(ion, sampling.q, sampling.wavelength) for ion in self.ions]
        return debye.pair_form_factors(factors)

    def occupancy_and_b(self, values: Mapping[str, float]) -> tuple[FloatArray, FloatArray]:
        """The occupancies and the B_iso (Å^2) of the sites, both (n_sites,)."""
        return (
            np.array([values[f"{label}.occupancy"] for label in self.labels]),
            np.array([values[f"{label}.B_iso"] for label in self.labels]),
        )

    def equivalent_b(self, label: str, values: Mapping[str, float]) -> float:
        """B_iso (Å^2) of a site; for anisotropic displacements, that of their mean over directions."""
        return values[f"{label}.B_iso"]

    @property
    def start(self) -> dict[str, float]:
        """The starting values under the local names of the parameters."""
        return {p.name.local: p.value for p in self.parameters}


def site_parameters(
    phase: str, label: str, b_iso: float | None, occupancy: float
) -> list[Parameter]:
    """The parameters B_iso and occupancy of a site; ValueError for a site without B_iso."""
    if b_iso is None:
        raise ValueError(
            f"site {label} of {phase} has no displacement parameter. Specify it in Å^2 under "
            f"'B_iso' of the phase, for example as B_iso: {{{label}: 1.0}}, or in the CIF."
        )
    return [
        Parameter(ParameterName.of(phase, "B_iso", site=label), Kind.B_ISO, b_iso),
        occupancy_parameter(phase, label, occupancy),
    ]


def occupancy_parameter(phase: str, label: str, occupancy: float) -> Parameter:
    return Parameter(ParameterName.of(phase, "occupancy", site=label), Kind.OCCUPANCY, occupancy)
