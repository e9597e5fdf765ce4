"""Phases of nanocrystals with a crystal structure: their partial Debye sums at any parameter values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from aiida_dse.engine.crystal.disorder import EXCLUSION_DISTANCE, excluded_pairs
from aiida_dse.engine.crystal.structure import CELL_LENGTHS, COORDINATES, Crystal
from aiida_dse.engine.memo import Memo
from aiida_dse.engine.parameters import Changes, Kind, Parameter, ParameterName
from aiida_dse.engine.particles.boundaries import Order
from aiida_dse.engine.particles.directed_groups import ordered_pairs
from aiida_dse.engine.particles.family import Family, PairCounts
from aiida_dse.engine.particles.random_centre import RandomCentre
from aiida_dse.engine.particles.size_quantities import Rows
from aiida_dse.engine.particles.size_weighting import Weighting
from aiida_dse.engine.particles.vector_groups import VectorGroups
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.scattering.histograms import (
    group_histograms,
    lattice_histograms,
)
from aiida_dse.engine.scattering.pairs import (
    PairClass,
    PairWeights,
    by_direction,
    pair_classes,
    pair_weights,
    site_channels,
)
from aiida_dse.engine.scattering.variant_pairs import VariantClass, VariantPairs
from aiida_dse.engine.units import FloatArray

from .displacements import (
    Correlation,
    DisplacementModel,
    atom_tensors,
    cif_components,
    equivalent_b,
    site_tensor,
)
from .phase import PhaseState, PhaseWork, Sampling, Sites, occupancy_parameter, site_parameters

if TYPE_CHECKING:
    from aiida_dse.engine.scattering.anisotropic import TensorFields

#: Bytes per difference vector to group those of displacement tensors, and the time to add a group to the
#: histograms, in units of the time to count one pair.
DIRECTED_BYTES, DIRECTED_TIME = 80.0, 10.0


@dataclass(frozen=True)
class CrystalPhase(Sites):
    """A phase of nanocrystals with one crystal structure and one particle shape.

    `sizes` are the starting values of the size parameters, `exclusion_distance` (Å) is that of
    `excluded_pairs`, `displacements` are the models of sites with anisotropic displacements by label;
    with a `correlation` of the motion of near atoms, they contain all sites. `order` describes
    coherent boundaries between variants or split sites, for particles of whole cells.
    """

    name: str
    crystal: Crystal
    family: Family
    sizes: Mapping[str, float]
    exclusion_distance: float = EXCLUSION_DISTANCE
    displacements: Mapping[str, DisplacementModel] = field(default_factory=dict)
    correlation: Correlation | None = None
    order: Order | None = None
    _known_classes: Memo[tuple[PairClass, ...]] = field(
        default_factory=Memo, init=False, repr=False, compare=False)
    _known_excluded: Memo[np.ndarray] = field(
        default_factory=Memo, init=False, repr=False, compare=False)

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(site.label for site in self.crystal.sites)

    @cached_property
    def ions(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(site.ion for site in self.crystal.sites)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:  # type: ignore[override]
        """All non-linear parameters at their starting values, with default bounds."""
        parameters = [
            Parameter(
                ParameterName.of(self.name, name),
                Kind.CELL_LENGTH if name in CELL_LENGTHS else Kind.CELL_ANGLE,
                getattr(self.crystal.cell, name),
            )
            for name in self.crystal.free_cell_parameters
        ]
        for label in self.labels:
            position = self.crystal.special_position(label)
            for name in self.crystal.coordinate_freedom(label).independent:
                value = float(position[COORDINATES.index(name)])
                parameters.append(Parameter(
                    ParameterName.of(self.name, name, site=label), Kind.COORDINATE, value))
        for label in self.labels:
            site = self.crystal.site(label)
            if (model := self.displacements.get(label)) is None:
                parameters += site_parameters(self.name, label, site.b_iso, site.occupancy)
                continue
            parameters += [
                Parameter(ParameterName.of(self.name, name, site=label), model.kind, value,
                          lower=0.0 if name in ("U_11", "U_22", "U_33") else math.nan)
                for name, value in model.start.items()]
            parameters.append(occupancy_parameter(self.name, label, site.occupancy))
        if isinstance(self.family, RandomCentre):
            # no layer can be more than fully occupied
            highest = {f"{self.name}.{site.label}.occupancy": max(1 / most, site.occupancy) for site, most in zip(
                self.crystal.sites, self.family.occupancy_factors, strict=False) if most > 1}
            parameters = [p.changed(upper=highest[p.name]) if p.name in highest else p for p in parameters]
        if (motion := self.correlation) is not None:
            parameters.append(Parameter(
                ParameterName.of(self.name, motion.name), Kind.DELTA, motion.value, upper=motion.largest))
        if self.order is not None:
            parameters += [Parameter(ParameterName(f"{self.name}.{name}"), kind, value)
                           for name, (kind, value) in self.order.parameters.items()]
        parameters += [
            Parameter(ParameterName.of(self.name, name), kind, self.sizes[name])
            for name, kind in self.family.parameters.items()
        ]
        return tuple(parameters)

    def require_possible(self, values: Mapping[str, float]) -> None:
        """Raise ValueError for particles that do not exist or are too large to be computed."""
        if isinstance(self.family, RandomCentre):
            self.family.require_possible(self._with_cell(values), self._sizes(values))

    @cached_property
    def fixed_reasons(self) -> dict[str, str]:
        """The reasons why certain cell parameters and coordinates cannot be refined."""
        reasons = {}
        for name, rule in self.crystal.cell_constraints.items():
            reasons[name] = (
                f"symmetry makes {name} equal to {rule}; free {rule} instead"
                if isinstance(rule, str)
                else f"symmetry fixes {name} at {rule:g} degrees"
            )
        for label in self.labels:
            freedom = self.crystal.coordinate_freedom(label)
            reasons |= {f"{label}.{name}": reason for name, reason in freedom.reasons.items()}
        for label, model in self.displacements.items():
            if "B_iso" not in model.start:
                reasons[f"{label}.B_iso"] = (
                    f"{label} has anisotropic displacements; its parameters are {', '.join(model.start)}")
        return reasons

    def geometry(self, values: Mapping[str, float | FloatArray]) -> tuple[FloatArray, FloatArray]:
        """The lattice matrix (..., 3, 3) Å and fractional positions (..., n_atoms, 3) of one cell.

        The values are numbers, or arrays that broadcast against each other, which yield a geometry
        for each point.
        """
        return self._matrices(values), self.crystal.positions(self._site_positions(values))

    def site_positions(self, values: Mapping[str, float | FloatArray]) -> FloatArray:
        """The fractional positions (..., n_sites, 3) of the asymmetric unit."""
        return self._site_positions(values)

    def structure(self, values: Mapping[str, float]) -> Crystal:
        """The crystal at local parameter `values`, with positions, B_iso and occupancies."""
        positions = self._site_positions(values)
        moved = self.crystal.with_cell(
            **{name: values[name] for name in self.crystal.free_cell_parameters}
        )
        sites = tuple(
            replace(
                site,
                position=(float(at[0]), float(at[1]), float(at[2])),
                b_iso=equivalent_b(self.displacements, site.label, values, moved.cell.matrix),
                occupancy=values[f"{site.label}.occupancy"],
                u_aniso=cif_components(self.displacements, site.label, values, moved.cell.matrix),
            )
            for site, at in zip(self.crystal.sites, positions, strict=True)
        )
        return replace(moved, sites=sites)

    def occupancy_and_b(self, values: Mapping[str, float]) -> tuple[FloatArray, FloatArray]:
        """The occupancies and the B_iso (Å^2) of the sites, both (n_sites,).

        B_iso is 0 for sites with anisotropic displacements, which the sums of a state contain.
        """
        return (
            np.array([values[f"{label}.occupancy"] for label in self.labels]),
            np.array([0.0 if label in self.displacements else values[f"{label}.B_iso"]
                      for label in self.labels]),
        )

    def equivalent_b(self, label: str, values: Mapping[str, float]) -> float:
        return equivalent_b(self.displacements, label, values, self._with_cell(values).cell.matrix)

    def principal_displacements(self, values: Mapping[str, float]) -> dict[str, FloatArray]:
        """The eigenvalues (3,) in Å^2 of each anisotropic displacement tensor by label, in ascending order."""
        matrix = self._with_cell(values).cell.matrix
        return {label: np.asarray(
                    np.linalg.eigvalsh(site_tensor(self.displacements, label, values, matrix)), dtype=np.float64)
                for label in self.displacements}

    def size_statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """The size statistics of the population, by name."""
        return self.family.statistics(self._with_cell(values), self._sizes(values))

    def size_quantities(self, values: Mapping[str, float], *, of_population: bool) -> Rows:
        crystal = self._with_cell(values)
        rows = self.family.size_quantities(crystal, self._sizes(values), of_population=of_population)
        if self.order is not None:
            rows = [*rows, *((name, "nm", value) for name, value in
                             self.order.quantities(values, crystal.cell.matrix).items())]
        return rows

    def size_steps(self, values: Mapping[str, float]) -> dict[str, float]:
        return self.family.size_steps(self._with_cell(values))

    def with_reference(self, values: Mapping[str, float]) -> CrystalPhase:
        if not self.family.isotropic:
            return self
        moved = self.structure(values)
        if self.crystal.is_scaled(moved):
            return self  # the particles are those of the reference, on another scale
        sites = tuple(replace(site, b_iso=old.b_iso, occupancy=old.occupancy)
                      for site, old in zip(moved.sites, self.crystal.sites, strict=True))
        return self.with_crystal(replace(moved, sites=sites))

    def with_crystal(self, crystal: Crystal) -> CrystalPhase:
        """The phase with another reference crystal of the same sites."""
        order = None if self.order is None else self.order.with_crystal(crystal)
        return replace(self, crystal=crystal, order=order)

    def state(
        self, values: Mapping[str, float], sampling: Sampling, previous: PhaseState | None = None, *,
        cell: Mapping[str, float] | None = None, weighting: Weighting | None = None,
    ) -> PhaseState:
        """The sine sums at local `values`; unchanged channels are taken from `previous`.

        `cell` are other values of cell parameters, on which the distances depend but the particles do not;
        `weighting` weights the particles by their size.
        """
        stretched = {**values, **(cell or {})}
        crystal = self._with_cell(stretched)
        cell_key = tuple(stretched[name] for name in self.crystal.free_cell_parameters)
        counts_key, counts, weights = self._counts(
            self._with_cell(values), values, previous, sampling.resources, weighting)
        site_positions = self._site_positions(values)
        site_keys = [(*position, *self._split(label, values))
                     for label, position in zip(self.labels, site_positions, strict=True)]
        channels = site_channels(len(self.labels))
        motion = {} if self.correlation is None else {
            self.correlation.name: values[self.correlation.name]}
        damped = [(*motion.values(), *(values[f"{label}.{name}"] for name in self.displacements[label].start))
                  if label in self.displacements else () for label in self.labels]
        keys = tuple((counts_key, cell_key, site_keys[s], site_keys[t], damped[s], damped[t])
                     for s, t in channels)
        sums = np.empty((len(channels), len(sampling.q)))
        stale = list(range(len(channels)))
        if previous is not None:
            stale = [k for k in stale if previous.keys[k] != keys[k]]
            fresh = sorted(set(range(len(channels))) - set(stale))
            sums[fresh] = previous.sums[fresh]
        matrix, positions = crystal.cell.matrix, self._positions(site_positions, values)
        plain = [k for k in stale if not (damped[channels[k][0]] or damped[channels[k][1]])]
        if plain:
            histograms = self._histograms(
                matrix, positions, counts, weights, plain, sampling.step, sampling.resources)
            sums[plain] = debye.sine_sums(
                histograms, sampling.q, step=sampling.step, resources=sampling.resources
            )
        directed = previous.directed if previous is not None and previous.counts_key == counts_key else None
        if tensorial := sorted(set(stale) - set(plain)):
            if directed is None:
                directed = self._directed(counts)
            present, fields = self._tensor_fields(
                values, directed, tensorial, crystal, positions, sampling.step, sampling.resources)
            sums[tensorial] = 0.0
            sums[present] = fields.sums(sampling.q, step=sampling.step, resources=sampling.resources)
        atoms = self._atoms(counts.atoms)
        return PhaseState(keys, counts_key, counts, weights, sums, atoms, directed)

    def boundary_slope(
        self, values: Mapping[str, float], sampling: Sampling, state: PhaseState, name: str
    ) -> FloatArray:
        """The derivative (n_channels, n_q) of the sums of a state with respect to a probability of boundaries."""
        assert self.order is not None and state.counts is not None
        weights = self._variant_pairs.slopes(
            state.counts.tables[0], partial(self.order.powers, values), partial(self.order.slopes, values, name=name),
            sampling.resources)
        histograms = self._histograms(
            self._with_cell(values).cell.matrix, self._positions(self._site_positions(values), values), state.counts,
            weights, range(len(state.keys)), sampling.step, sampling.resources)
        return debye.sine_sums(histograms, sampling.q, step=sampling.step, resources=sampling.resources)

    def work(self, values: Mapping[str, float]) -> PhaseWork:
        """The work of computing a state at local `values`, without computing it."""
        crystal, sizes = self._with_cell(values), self._sizes(values)
        if self.displacements:
            n = self.family.vectors(crystal, sizes) * len(ordered_pairs(crystal))
            return PhaseWork(DIRECTED_TIME * n / len(crystal.symmetry), 0.0, DIRECTED_BYTES * n, n)
        if (cost := self.family.counting(crystal, sizes)) is not None:
            return PhaseWork(cost.distances, cost.each, cost.bytes, cost.once)
        _, counts, weights = self._counts(crystal, values, None, ONE_THREAD)
        assert weights is not None  # shapes whose pairs are counted have an estimate of their own
        distances = float(weights.shape.prod(axis=1).sum())
        return PhaseWork(distances, distances, float(counts.tables.nbytes))

    def histograms(
        self, values: Mapping[str, float], step: float, resources: Resources = ONE_THREAD
    ) -> tuple[FloatArray, FloatArray, tuple[list[int], TensorFields] | None]:
        """The histograms of 1/r of the mean particle at local `values`, and its atoms.

        Histograms (n_channels, n_bins) on a grid of `step` Å; atoms (n_sites,); with displacement tensors, the
        channels that they damp, and their expanded pairs.
        """
        crystal = self._with_cell(values)
        _, counts, weights = self._counts(crystal, values, None, resources)
        positions = self._positions(self._site_positions(values), values)
        channels = site_channels(len(self.labels))
        tensorial = [k for k, pair in enumerate(channels) if any(self.labels[s] in self.displacements for s in pair)]
        plain = sorted(set(range(len(channels))) - set(tensorial))
        parts = []
        if plain:
            parts.append((plain, self._histograms(
                crystal.cell.matrix, positions, counts, weights, plain, step, resources)))
        tensors = None
        if tensorial:
            tensors = self._tensor_fields(
                values, self._directed(counts), tensorial, crystal, positions, step, resources)
            parts.append((tensors[0], tensors[1].fields[:, 0]))
        histograms = np.zeros((len(channels), max(found.shape[1] for _, found in parts)))
        for own, found in parts:
            histograms[own, : found.shape[1]] = found
        return histograms, self._atoms(counts.atoms), tensors

    def _directed(self, counts: PairCounts) -> PairCounts:
        """The pairs by groups of vectors of the same direction, without those of atoms that never coexist."""
        directed = by_direction(self.crystal, counts)
        assert directed.groups is not None
        return replace(directed, tables=np.where(self._excluded(directed.groups), 0.0, directed.tables))

    def _tensor_fields(
        self, values: Mapping[str, float], directed: PairCounts, channels: Sequence[int], crystal: Crystal,
        positions: FloatArray, step: float, resources: Resources,
    ) -> tuple[list[int], TensorFields]:
        """Those of the channels that have pairs, and their pairs expanded in the displacement tensors."""
        # Python loads the module only where it is needed
        from aiida_dse.engine.scattering.anisotropic import TensorPairs, tensor_fields

        assert directed.groups is not None
        parts, matrix = self._parts(directed.groups), crystal.cell.matrix
        present = [k for k in channels if k in parts]
        motion = {} if self.correlation is None else {self.correlation.name: values[self.correlation.name]}
        pairs = TensorPairs(directed.groups, directed.tables, atom_tensors(
            self.crystal, self.displacements, values, matrix), self.crystal.site_of_atom, **motion)
        return present, tensor_fields(pairs, [parts[k] for k in present], matrix, positions, step=step,
                                      resources=resources)

    def _histograms(
        self, matrix: FloatArray, positions: FloatArray, counts: PairCounts,
        weights: PairWeights | None, channels: Sequence[int], step: float, resources: Resources,
    ) -> FloatArray:
        if counts.groups is None:
            assert weights is not None
            return lattice_histograms(matrix, positions, self._classes(counts), weights, channels,
                                      step=step, resources=resources)
        groups = counts.groups
        pairs = np.where(self._excluded(groups), 0.0, counts.tables)
        return group_histograms(groups.lengths(matrix, positions), pairs, self._parts(groups), channels,
                                step=step, resources=resources)

    def _parts(self, groups: VectorGroups) -> dict[int, slice]:
        """The groups of vectors of each channel."""
        n = len(self.labels)
        numbers = np.zeros((n, n), dtype=int)
        for k, (s, t) in enumerate(site_channels(n)):
            numbers[s, t] = numbers[t, s] = k
        return groups.parts(self.crystal.site_of_atom, numbers)

    def _excluded(self, groups: VectorGroups) -> np.ndarray:
        """A mask (n_groups,) of vectors at which two atoms never coexist."""
        return self._known_excluded.get((len(groups), groups.generic[-1]), lambda: groups.excluded(
            self.crystal, excluded_pairs(self.crystal, self.exclusion_distance)))

    def distances_in(self, state: PhaseState) -> FloatArray:
        """The numbers (n_channels,) of distances in a state, a measure of the work of making it."""
        assert state.counts is not None
        groups = state.counts.groups if state.directed is None else state.directed.groups
        if groups is not None:
            parts = self._parts(groups)
            return np.array([float(parts[k].stop - parts[k].start) if k in parts else 0.0
                             for k in range(len(state.keys))])
        assert state.weights is not None
        return np.bincount(
            [pair.channel for pair in self._classes(state.counts)],
            weights=state.weights.shape.prod(axis=1), minlength=len(state.keys),
        ).astype(float)

    def contents(self, state: PhaseState) -> FloatArray:
        counts = state.counts
        return state.atoms if counts is None or counts.contents is None \
            else self._atoms(counts.contents)

    def _atoms(self, of_basis: FloatArray) -> FloatArray:
        """The mean number (n_sites,) of atoms of each site per particle, from that of basis atoms."""
        site_of_atom = self.crystal.site_of_atom
        return np.bincount(
            site_of_atom, weights=np.broadcast_to(of_basis, len(site_of_atom)),
            minlength=len(self.labels),
        ).astype(float)

    def _counts(
        self, crystal: Crystal, values: Mapping[str, float], previous: PhaseState | None,
        resources: Resources, weighting: Weighting | None = None,
    ) -> tuple[object, PairCounts, PairWeights | None]:
        sizes, stretch = self._sizes(values), 1.0
        if self.family.isotropic:
            stretch = (crystal.cell.volume / self.crystal.cell.volume) ** (1 / 3)
            crystal = self.crystal
        cell = crystal.cell
        density = [] if self.order is None else [
            values[name] for name, (kind, _) in self.order.parameters.items()
            if kind.spec.changes is Changes.COUNTS]
        key = (weighting, tuple(sizes.values()), tuple(density),
               (stretch, *cell.parameters) if self.family.changes_with_cell else ())
        if previous is not None and previous.counts_key == key:
            assert previous.counts is not None
            return key, previous.counts, previous.weights
        counts = self.family.pair_counts(
            crystal, sizes, resources, stretch=stretch, united=not self.displacements, weighting=weighting)
        if self.order is not None:
            return key, counts, self._variant_pairs.weights(
                counts.tables[0], partial(self.order.powers, values), resources)
        grouped = counts.groups is not None or len(self.displacements) == len(self.labels)
        return key, counts, None if grouped else pair_weights(counts, self._plain_classes(counts))

    def _split(self, label: str, values: Mapping[str, float]) -> tuple[float, ...]:
        """The parameters of a site by which its atoms have several positions."""
        return () if self.order is None else tuple(
            values[name] for name, (kind, _) in self.order.parameters.items()
            if kind is Kind.SPLIT and name.rpartition(".")[0] == label)

    @cached_property
    def _variant_pairs(self) -> VariantPairs:
        assert self.order is not None
        return VariantPairs.of(self.order.variants, self.order.changes)

    def _positions(self, site_positions: FloatArray, values: Mapping[str, float]) -> FloatArray:
        """The fractional positions (n, 3) to which the classes of pairs refer, of sites at (n_sites, 3)."""
        if self.order is not None:
            return self.order.variants.positions(site_positions, values).reshape(-1, 3)
        return self.crystal.positions(site_positions)

    def _classes(self, counts: PairCounts) -> tuple[PairClass, ...] | tuple[VariantClass, ...]:
        """The classes of pairs, which depend on the shape but not on the sizes."""
        if self.order is not None:
            return self._variant_pairs.classes
        return self._plain_classes(counts)

    def _plain_classes(self, counts: PairCounts) -> tuple[PairClass, ...]:
        return self._known_classes.get((), lambda: pair_classes(
            self.crystal, counts, excluded_pairs(self.crystal, self.exclusion_distance)))

    def _with_cell(self, values: Mapping[str, float]) -> Crystal:
        return self.crystal.with_cell(
            **{name: values[name] for name in self.crystal.free_cell_parameters}
        )

    def _matrices(self, values: Mapping[str, float | FloatArray]) -> FloatArray:
        names = self.crystal.free_cell_parameters
        cells = np.stack(np.broadcast_arrays(*[values[name] for name in names]), axis=-1)
        rows, of = np.unique(cells.reshape(-1, len(names)), axis=0, return_inverse=True)
        # unreachable points of a grid have no cell
        matrices = np.array([
            self._with_cell(dict(zip(names, row.tolist(), strict=True))).cell.matrix
            if np.isfinite(row).all() else np.full((3, 3), np.nan) for row in rows
        ])
        return np.asarray(matrices[of.reshape(-1)].reshape(*cells.shape[:-1], 3, 3))

    def _sizes(self, values: Mapping[str, float]) -> dict[str, float]:
        return {name: values[name] for name in self.family.parameters}

    def _site_positions(self, values: Mapping[str, float | FloatArray]) -> FloatArray:
        names = [(index, f"{label}.{name}", COORDINATES.index(name), direction)
                 for index, label in enumerate(self.labels)
                 for name, direction in zip(self._freedom[index].independent,
                                            self._freedom[index].basis, strict=True)]
        start = self.crystal.site_positions
        shape = np.broadcast_shapes(*[np.shape(values[name]) for _, name, _, _ in names])
        positions = np.array(np.broadcast_to(start, (*shape, *start.shape)))
        for index, name, axis, direction in names:
            shift = np.asarray(values[name]) - start[index, axis]
            positions[..., index, :] += shift[..., None] * direction
        return positions

    @cached_property
    def _freedom(self):  # type: ignore[no-untyped-def]
        return [self.crystal.coordinate_freedom(label) for label in self.labels]

