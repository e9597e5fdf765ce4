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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

import numpy as np

from aiida_dse.engine.parameters import Kind, Parameter, ParameterName
from aiida_dse.engine.particles.size_quantities import Rows
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.scattering.pairs import site_channels
from aiida_dse.engine.units import FloatArray

from .crystal_phase import CrystalPhase
from .phase import PhaseState, PhaseWork, Sampling

#: Error of the interpolation, relative to the largest contribution of a pair, as a share of the tolerance.
SHARE = 0.05
#: Largest number of nodes.
MOST_NODES = 40
#: The B_iso (Å^2) of sites for which the interpolation is accurate, if theirs is larger.
LEAST_B = 0.3
#: Distances in diameters of the largest particle, for which the interpolation is accurate in relation to the
#: numbers of pairs at these distances, of a sphere relative to the bulk.
DISTANCES = {x: 1 - 1.5 * x + 0.5 * x**3 for x in (0.2, 0.4, 0.6, 0.8, 0.95)}


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
class _Factors:
    """The factors of the amplitudes of the sites at the nodes: occupancy (n_nodes, n_sites) relative to that without
    the law, damping (n_nodes, n_sites, n_q), and the sites (n_sites,) whose damping varies."""

    occupancy: FloatArray
    damping: FloatArray
    varies: np.ndarray

    def _sites(self, channels: Sequence[int]) -> np.ndarray:
        return np.array(site_channels(self.occupancy.shape[1]))[list(channels)].reshape(-1, 2).T

    def damped(self, channels: Sequence[int]) -> np.ndarray:
        """The channels (n_channels,) that have a damping of their own at each node."""
        return np.asarray(self.varies[self._sites(channels)].any(axis=0))

    def of_histograms(self, channels: Sequence[int]) -> FloatArray:
        """The products (n_nodes, n_channels) of the occupancies."""
        s, t = self._sites(channels)
        return self.occupancy[:, s] * self.occupancy[:, t]

    def of_sums(self, m: int, channels: Sequence[int]) -> FloatArray:
        """The products (n_channels, n_q) of all factors at a node."""
        s, t = self._sites(channels)
        return np.asarray(
            (self.occupancy[m, s] * self.occupancy[m, t])[:, None] * self.damping[m, s] * self.damping[m, t])


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
        cells = [{name: values[name] * (1 + changes[name][m]) for name in self.crystal.free_cell_parameters
                  if name in changes} for m in range(len(nodes))]
        occupancy, b_iso = (np.array([changes.get(f"{label}.{name}", np.zeros(len(nodes))) for label in self.labels])
                            for name in ("occupancy", "B_iso"))
        earlier: list[PhaseState | None] = [None] * len(nodes)
        if isinstance(previous, SizedState) and len(previous.parts) == len(nodes):
            earlier = list(previous.parts)
        else:
            previous = None
        damping = np.exp(-b_iso.T[:, :, None] * (sampling.q / (4 * np.pi)) ** 2)  # (n_nodes, n_sites, n_q)
        factors = _Factors(1 + occupancy.T, damping, np.asarray(b_iso.any(axis=1)))
        # one node for each thread; the work of a node is too little for several
        resources = sampling.resources
        alone = replace(sampling, resources=resources.share(resources.workers(len(nodes))))

        def part(m: int) -> PhaseState:
            if self.displacements:
                return super(SizeLawPhase, self).state(
                    values, alone, earlier[m], cell=cells[m], weighting=weightings[m])
            return self._particles(values, alone, cells[m], earlier[m], weightings[m])

        parts = list(resources.ordered(part, range(len(nodes))))
        own = tuple(values[name] for law in self.laws for name in law.parameters)
        keys = tuple((own, *(part.keys[k] for part in parts)) for k in range(len(parts[0].keys)))
        sums: FloatArray = np.zeros((len(keys), len(sampling.q)))
        stale = [k for k, key in enumerate(keys) if previous is None or previous.keys[k] != key]
        if previous is not None:
            sums = previous.sums.copy()
        if self.displacements:
            sums[stale] = np.sum([factors.of_sums(m, stale) * part.sums[stale] for m, part in enumerate(parts)], axis=0)
        elif stale:
            sums[stale] = self._sums(values, sampling, cells, parts, factors, stale)
        atoms = np.sum([part.atoms * factors.occupancy[m] for m, part in enumerate(parts)], axis=0)
        return SizedState(keys, tuple(part.counts_key for part in parts), parts[0].counts, parts[0].weights, sums,
                          atoms, parts=tuple(parts))

    def _particles(
        self, values: Mapping[str, float], sampling: Sampling, cell: Mapping[str, float],
        previous: PhaseState | None, weighting: Node,
    ) -> PhaseState:
        """The pairs of the particles with the weights of a node, without sums."""
        counts_key, counts, weights = self._counts(
            self._with_cell(values), values, previous, sampling.resources, weighting)
        edges = tuple({**values, **cell}[name] for name in self.crystal.free_cell_parameters)
        places = [(*position, *self._split(label, values))
                  for label, position in zip(self.labels, self._site_positions(values), strict=True)]
        keys = tuple((counts_key, edges, places[s], places[t]) for s, t in site_channels(len(self.labels)))
        return PhaseState(keys, counts_key, counts, weights, np.zeros((0, len(sampling.q))), self._atoms(counts.atoms))

    def _sums(
        self, values: Mapping[str, float], sampling: Sampling, cells: Sequence[Mapping[str, float]],
        parts: Sequence[PhaseState], factors: _Factors, channels: Sequence[int],
    ) -> FloatArray:
        """The sums (n_channels, n_q) of the channels over all nodes.

        The histograms of the nodes are added before the transform where no node has a damping of its own.
        """
        positions = self._positions(self._site_positions(values), values)
        resources = sampling.resources
        alone = resources.share(resources.workers(len(parts)))

        def histograms_of(m: int) -> FloatArray:
            counts = parts[m].counts
            assert counts is not None
            return self._histograms(self._with_cell({**values, **cells[m]}).cell.matrix, positions, counts,
                                    parts[m].weights, channels, sampling.step, alone)

        found = list(resources.ordered(histograms_of, range(len(parts))))
        n_bins = max(one.shape[1] for one in found)
        histograms = np.array([np.pad(one, ((0, 0), (0, n_bins - one.shape[1]))) for one in found])
        damped = factors.damped(channels)
        added = np.einsum("mk,mkb->kb", factors.of_histograms(channels), histograms)
        apart = histograms[:, damped].reshape(-1, n_bins)
        sums = debye.sine_sums(np.concatenate([added[~damped], apart]), sampling.q, step=sampling.step,
                               resources=sampling.resources)
        result = np.empty((len(channels), len(sampling.q)))
        result[~damped] = sums[: len(sums) - len(apart)]
        own = sums[len(sums) - len(apart) :].reshape(len(parts), -1, len(sampling.q))
        chosen = [k for k, one in zip(channels, damped, strict=True) if one]
        result[damped] = np.sum([factors.of_sums(m, chosen) * one for m, one in enumerate(own)], axis=0)
        return result

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
    ) -> NoReturn:
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

    def _range(self, values: Mapping[str, float]) -> tuple[float, float]:
        """The range of 1/D (1/nm). Raises ValueError if a law has impossible values in it."""
        # the largest size is that of the structure whose pairs are counted
        crystal = self.crystal if self.family.isotropic else self._with_cell(values)
        found = self.family.diameters(crystal, self._sizes(values))
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
        targets = self._contributions(inverse, values, q_max, 10 / low)
        for n in range(1, MOST_NODES + 1):
            nodes = (low + high) / 2 - (high - low) / 2 * np.cos(np.pi * (np.arange(n) + 0.5) / n)
            weights = np.array([Node(tuple(nodes.tolist()), m, low, high)(1 / inverse) for m in range(n)])
            at_nodes = self._contributions(nodes, values, q_max, 10 / low)
            if np.abs(at_nodes @ weights - targets).max() < tolerance:
                return np.asarray(nodes)
        raise ValueError(
            f"{self.name}: the laws against size change the pattern too much between particles of {1 / high:.3g} and "
            f"{1 / low:.3g} nm to be interpolated with {MOST_NODES} sizes. Lower the change or the width of the size "
            "distribution.")

    def _contributions(
        self, inverse: FloatArray, values: Mapping[str, float], q_max: float, diameter: float
    ) -> FloatArray:
        """Examples (n_examples, n) of contributions of pairs to the pattern, at inverse sizes (n,).

        diameter (Å) is that of the largest particle.
        """
        changes = self._changes(inverse, values)
        lattice = np.array([change for name, change in changes.items() if name in self.crystal.free_cell_parameters])
        none = np.zeros(len(inverse))
        q = q_max * np.array([0.25, 0.5, 1.0])
        distance, share = np.array(list(DISTANCES.items())).T
        phase = np.multiply.outer(np.multiply.outer(q, distance * diameter), lattice.reshape(-1, len(inverse)))
        shape = (len(q), -1, len(inverse))
        waves = np.concatenate([np.ones((len(q), 1, len(inverse))), *(
            (share[:, None, None] * wave(phase)).reshape(shape) for wave in (np.cos, np.sin))], axis=1)
        found = []
        for label in self.labels:
            # B_iso may be varied without computing the sums again, so its value must not matter
            start = 0.0 if label in self.displacements else min(values[f"{label}.B_iso"], LEAST_B)
            b_iso = start + changes.get(f"{label}.B_iso", none)
            square = np.exp(-2 * np.multiply.outer((q / (4 * np.pi)) ** 2, b_iso)) * (
                1 + changes.get(f"{label}.occupancy", none)) ** 2
            found.append((square[:, None] * waves).reshape(-1, len(inverse)))
        return np.concatenate(found)
