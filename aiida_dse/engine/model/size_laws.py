"""Phases whose lattice, displacements or occupancies depend on the size of the particle.

The size is D (nm), the diameter of the sphere of equal volume, and every law is a smooth function of
s = 1/D. The contribution F(D, s(D)) of the particles of size D to the pattern is therefore interpolated
in s by Lagrange polynomials l_m at a few Chebyshev nodes s_m,

    I(q) = sum_D n(D) F(D, s(D)) = sum_m [sum_D n(D) l_m(s(D)) F(D, s_m)],

which is the sum over nodes of the pattern of the same phase, with the values of the laws at the node
and with particles that are weighted with l_m. The number of nodes follows from the laws, the range of
sizes and q. Laws change neither the sizes nor the numbers of the particles, which refer to the cell
without the laws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from aiida_dse.engine.parameters import Kind, Parameter, ParameterName
from aiida_dse.engine.particles.size_quantities import Rows
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.scattering.pairs import site_channels
from aiida_dse.engine.units import FloatArray

from .crystal_phase import CrystalPhase
from .phase import PhaseState, PhaseWork, Sampling

#: Error of the interpolation, relative to the largest contribution of a pair, as a share of the tolerance.
SHARE = 1.0
#: Largest number of nodes.
MOST_NODES = 40
#: Longest distance (in diameters of the largest particle) for which the interpolation is accurate. There are
#: hardly any pairs at longer distances.
LONGEST = 1.0


#: The unit of the properties of each kind of law, and their limits: for cell lengths, relative to the start.
UNITS = {Kind.LATTICE_CHANGE: "Å", Kind.B_CHANGE: "Å^2", Kind.OCCUPANCY_CHANGE: ""}
LIMITS = {
    Kind.LATTICE_CHANGE: (0.5, 2.0, "within a factor of two of its value without the law"),
    Kind.B_CHANGE: (0.0, np.inf, "at least 0"), Kind.OCCUPANCY_CHANGE: (0.0, 1.0, "between 0 and 1"),
}


@dataclass(frozen=True)
class SizeLaw:
    """A law for a property: relative for cell lengths and occupancies, additive (Å^2) for B_iso.

    change size / D with `size` in nm, or, with a `decay` in nm, change exp(-D / decay). `name` is that of
    the property in documents, and `of` the local names of the parameters that it changes.
    """

    name: str
    of: tuple[str, ...]
    kind: Kind
    change: float
    size: float = 5.0
    decay: float | None = None

    @property
    def parameters(self) -> dict[str, tuple[Kind, float]]:
        """Kind and starting value of each parameter of the law, by its local name."""
        found = {f"{self.name}_change": (self.kind, self.change)}
        if self.decay is not None:
            found[f"{self.name}_decay"] = (Kind.DECAY, self.decay)
        return found

    def changed(self, name: str, inverse: FloatArray, values: Mapping[str, float]) -> FloatArray:
        """The values (n,) of a parameter that the law changes, at inverse sizes 1/D (n,) in 1/nm."""
        change = self.at(inverse, values)
        return values[name] + change if self.kind is Kind.B_CHANGE else values[name] * (1 + change)

    def at(self, inverse: FloatArray, values: Mapping[str, float]) -> FloatArray:
        """The change at inverse sizes 1/D (n,) in 1/nm."""
        change = values[f"{self.name}_change"]
        if self.decay is None:
            return np.asarray(change * self.size * inverse)
        return np.asarray(change * np.exp(-1 / (inverse * values[f"{self.name}_decay"])))


@dataclass(frozen=True)
class Node:
    """The Lagrange polynomial of one of the nodes (n,) in 1/D, as a weighting of particles by D."""

    nodes: tuple[float, ...]
    index: int
    low: float
    high: float

    def __call__(self, diameters: FloatArray) -> FloatArray:
        inverse = np.clip(1 / np.asarray(diameters, dtype=float), self.low, self.high)
        found = np.ones_like(inverse)
        for k, node in enumerate(self.nodes):
            if k != self.index:
                found *= (inverse - node) / (self.nodes[self.index] - node)
        return np.asarray(found)


@dataclass(frozen=True)
class SizedState(PhaseState):
    """The sums over all nodes, and the states of the nodes."""

    parts: tuple[PhaseState, ...] = ()


@dataclass(frozen=True)
class SizeLawPhase(CrystalPhase):
    """A crystalline phase with laws against size."""

    laws: tuple[SizeLaw, ...] = ()

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:  # type: ignore[override]
        return (*super().parameters, *(
            Parameter(ParameterName(f"{self.name}.{name}"), kind, value)
            for law in self.laws for name, (kind, value) in law.parameters.items()))

    def require_laws(self, values: Mapping[str, float]) -> None:
        """Raise ValueError for particles of one size, and for laws with impossible values."""
        self._range(values)

    def state(  # type: ignore[override]
        self, values: Mapping[str, float], sampling: Sampling, previous: PhaseState | None = None
    ) -> SizedState:
        low, high = self._range(values)
        nodes = self._nodes(values, float(sampling.q[-1]), low, high, SHARE * sampling.tolerance)
        weightings = [Node(tuple(nodes.tolist()), m, low, high) for m in range(len(nodes))]
        changes = self._changes(nodes, values)
        earlier: list[PhaseState | None] = [None] * len(nodes)
        if isinstance(previous, SizedState) and len(previous.parts) == len(nodes):
            earlier = list(previous.parts)
        channels = site_channels(len(self.labels))
        sums: FloatArray = np.zeros((len(channels), len(sampling.q)))
        atoms: FloatArray = np.zeros(len(self.labels))
        parts = []
        for m, (weighting, before) in enumerate(zip(weightings, earlier, strict=True)):
            cell = {name: values[name] * (1 + changes[name][m]) for name in self.crystal.free_cell_parameters
                    if name in changes}
            part = super().state(values, sampling, before, cell=cell, weighting=weighting)
            occupancy, damping = self._of_sites(changes, m, sampling.q)
            atoms += part.atoms * occupancy
            for k, (s, t) in enumerate(channels):
                sums[k] += part.sums[k] * occupancy[s] * occupancy[t] * damping[s] * damping[t]
            parts.append(part)
        own = tuple(values[name] for law in self.laws for name in law.parameters)
        keys = tuple((own, *(part.keys[k] for part in parts)) for k in range(len(channels)))
        return SizedState(keys, tuple(part.counts_key for part in parts), parts[0].counts, parts[0].weights, sums,
                          atoms, parts=tuple(parts))

    def contents(self, state: PhaseState) -> FloatArray:
        """The mean number (n_sites,) of atoms of each site, those of a law relative to the occupancy without it."""
        assert isinstance(state, SizedState)
        if len(state.parts) == 1:
            return super().contents(state.parts[0]) * (state.atoms / state.parts[0].atoms)
        # spheres of whole cells alone distinguish contents from the atoms that scatter
        plain = np.sum([super(SizeLawPhase, self).contents(part) for part in state.parts], axis=0)
        return np.asarray(plain * state.atoms / np.sum([part.atoms for part in state.parts], axis=0))

    def distances_in(self, state: PhaseState) -> FloatArray:
        assert isinstance(state, SizedState)
        return np.asarray(np.sum([super(SizeLawPhase, self).distances_in(part) for part in state.parts], axis=0))

    def work(self, values: Mapping[str, float]) -> PhaseWork:
        one = super().work(values)
        n = 8.0  # a typical number of nodes
        return replace(one, distances=n * one.distances, counted=n * one.counted)

    def histograms(
        self, values: Mapping[str, float], step: float, resources: Resources = ONE_THREAD
    ) -> tuple[FloatArray, FloatArray]:
        raise ValueError(
            f"{self.name}: stored distances are those of one lattice, so they cannot represent laws against size. "
            "Remove 'size_laws', or specify the structure instead of stored distances.")

    def size_quantities(self, values: Mapping[str, float], *, of_population: bool) -> Rows:
        """The sizes, and the properties of the particle with the mean size."""
        rows = super().size_quantities(values, of_population=of_population)
        edge = dict((name, value) for name, _, value in rows).get("L")
        if edge is None:
            return rows
        inverse = np.array([1 / (edge * (6 / np.pi) ** (1 / 3))])
        return [*rows, *((f"{name}_at_mean_size", UNITS[law.kind], float(law.changed(name, inverse, values)[0]))
                         for law in self.laws for name in law.of)]

    def _changes(self, inverse: FloatArray, values: Mapping[str, float]) -> dict[str, FloatArray]:
        """The change (n,) of each parameter that has a law, at inverse sizes (n,) in 1/nm."""
        return {name: law.at(inverse, values) for law in self.laws for name in law.of}

    def _of_sites(
        self, changes: Mapping[str, FloatArray], m: int, q: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """The factors of the amplitudes of the sites at a node: of occupancy (n_sites,) and damping (n_sites, n_q)."""
        zero = np.zeros(m + 1)
        occupancy = np.array([1 + changes.get(f"{label}.occupancy", zero)[m] for label in self.labels])
        b_iso = np.array([changes.get(f"{label}.B_iso", zero)[m] for label in self.labels])
        return occupancy, np.exp(-b_iso[:, None] * (np.asarray(q) / (4 * np.pi)) ** 2)

    def _range(self, values: Mapping[str, float]) -> tuple[float, float]:
        """The range of 1/D (1/nm). Raises ValueError if a law has impossible values in it."""
        found = self.family.diameters(self._with_cell(values), self._sizes(values))
        if found is None:
            raise ValueError(
                f"{self.name}: laws against size require a population: parallelepipeds, or a shape with a single "
                "length that has a distribution (not core_shell, cylinder, box or hexagonal_prism). Specify such "
                "particles, or remove 'size_laws'.")
        smallest, largest = found
        ends = np.array([1 / largest, 1 / smallest])
        for law in self.laws:
            low, high, limit = LIMITS[law.kind]
            for name in law.of:
                start = values[name] if law.kind is Kind.LATTICE_CHANGE else 1.0
                found_at = law.changed(name, ends, values).tolist()
                for diameter, value in zip((largest, smallest), found_at, strict=True):
                    if not low <= value / start <= high * (1 + 1e-9):
                        raise ValueError(
                            f"{self.name}: the law of {name} yields {value:.4g} for particles with a diameter of "
                            f"{diameter:.3g} nm, but it must be {limit}. Correct the change, or specify its bounds.")
        return float(ends[0]), float(ends[1])

    def _nodes(
        self, values: Mapping[str, float], q_max: float, low: float, high: float, tolerance: float
    ) -> FloatArray:
        """The Chebyshev nodes in 1/D with which the contributions of all pairs are interpolated."""
        inverse = np.linspace(low, high, 65)
        targets = self._contributions(inverse, values, q_max, LONGEST * 10 / low)
        for n in range(1, MOST_NODES + 1):
            nodes = (low + high) / 2 - (high - low) / 2 * np.cos(np.pi * (np.arange(n) + 0.5) / n)
            at_nodes = self._contributions(nodes, values, q_max, LONGEST * 10 / low)
            weights = np.array([Node(tuple(nodes.tolist()), m, low, high)(1 / inverse) for m in range(n)])
            error = max(float(np.abs(one @ weights - target).max()) for one, target in zip(
                at_nodes, targets, strict=True))
            if error < tolerance:
                return np.asarray(nodes)
        raise ValueError(
            f"{self.name}: the laws against size change the pattern too much between particles of {1 / high:.3g} and "
            f"{1 / low:.3g} nm to be interpolated with {MOST_NODES} sizes. Lower the change or the width of the size "
            "distribution.")

    def _contributions(
        self, inverse: FloatArray, values: Mapping[str, float], q_max: float, longest: float
    ) -> list[FloatArray]:
        """Examples (n,) of contributions of a pair to the pattern, at inverse sizes (n,)."""
        changes = self._changes(inverse, values)
        lattice = [change for name, change in changes.items() if name in self.crystal.free_cell_parameters]
        sites = [label for label in self.labels
                 if f"{label}.B_iso" in changes or f"{label}.occupancy" in changes]
        none = np.zeros(len(inverse))
        found = []
        for q in (q_max / 2, q_max):
            squares = []
            for label in sites:
                start = 0.0 if label in self.displacements else values[f"{label}.B_iso"]
                b_iso = start + changes.get(f"{label}.B_iso", none)
                squares.append(np.exp(-2 * b_iso * (q / (4 * np.pi)) ** 2)
                               * (1 + changes.get(f"{label}.occupancy", none)) ** 2)
            for square in squares or [none + 1]:
                for change in lattice or [none]:
                    phase = q * longest * change
                    found += [square * np.cos(phase), square * np.sin(phase)]
        return found
