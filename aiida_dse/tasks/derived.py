"""Derived quantities of a result with their joint covariance.

For each phase, these are the cell, the volume, sizes, displacements, statistics of the population,
and the distances and angles that the document requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from aiida_dse.documents.records import PhaseRow, SiteRow, Value
from aiida_dse.engine.crystal.structure import CELL_LENGTHS, CELL_PARAMETERS
from aiida_dse.engine.fit.covariance import Covariance
from aiida_dse.engine.fit.narrow import narrow_distributions
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.derivatives import DIFFERENCE
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import Phase, PhaseState
from aiida_dse.engine.model.quantities import CrystalQuantity, evaluated
from aiida_dse.engine.parameters import Kind, ParameterName
from aiida_dse.engine.particles.size_statistics import statistic_unit
from aiida_dse.engine.scattering.form_factors import charge_of
from aiida_dse.engine.units import FloatArray
from aiida_dse.io.structures import cif_text

from .build import BuiltModel
from .grids import known_quantities

#: Prefix of statistics of the population, which separates them from parameters of the size distribution.
SIZES = "sizes."
#: Measures of the particle that are quantities instead of statistics if there is a size distribution.
MEASURES = {"surface_to_volume", "confinement_diameter"}

#: Deviation of the composition of a particle from that of the structure that is reported.
NOT_STOICHIOMETRIC = 0.02


@dataclass(frozen=True)
class Quantities:
    """Derived quantities of one phase at one set of values.

    gradient (n, n_free) with respect to the refined parameters `free`; covariance (n, n),
    unscaled, nan for quantities without s.u.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    values: FloatArray
    free: tuple[str, ...]
    gradient: FloatArray
    covariance: FloatArray

    def rows(self, *, sizes: bool) -> dict[str, Value]:
        """The statistics of the population, or all other quantities, by name."""
        found = {}
        for k, (name, unit) in enumerate(zip(self.names, self.units, strict=True)):
            if name.startswith(SIZES) is sizes:
                variance = float(self.covariance[k, k])
                found[name.removeprefix(SIZES)] = Value(
                    value=float(self.values[k]), unit=unit,
                    su=float(np.sqrt(variance)) if np.isfinite(variance) else None)
        return found

    def arrays(self, phase: str) -> dict[str, np.ndarray]:
        """Names, gradient and covariance by their paths in a result."""
        return {
            f"quantities/{phase}/names": np.array(self.names, dtype=str),
            f"quantities/{phase}/free": np.array(self.free, dtype=str),
            f"quantities/{phase}/gradient": self.gradient,
            f"quantities/{phase}/covariance": self.covariance,
        }


#: Relative change of a quantity with a natural step of a parameter below which the quantity does not
#: depend on the parameter: the correlation of two independent size distributions is 1e-17, with a
#: slope that consists of rounding errors.
ROUNDING = 1e-10
#: Names and units of quantities, and their values at given parameter values.
Function = tuple[tuple[str, ...], tuple[str, ...], Callable[[Mapping[str, float]], FloatArray]]


def quantity_function(
    built: BuiltModel, phase: Phase, reference: Mapping[str, float],
    covariance: Covariance | None = None,
) -> Function:
    """The quantities of a phase as a function of the parameters.

    The neighbours of each atom are determined at `reference`. Sizes are those of the population
    if the data hardly determine the parameters of its distribution.
    """
    model, index = built.model, built.model.phases.index(phase)
    of_population = _few_sizes(model, phase, reference, covariance)
    wanted: list[CrystalQuantity] = []
    if isinstance(phase, CrystalPhase):
        quantities = known_quantities(built.document, model, dict(reference))
        wanted = [one for one in quantities.values() if one.phase == phase.name]

    def rows(values: Mapping[str, float]) -> list[tuple[str, str, float]]:
        local = model.local(index, values)
        found: list[tuple[str, str, float]] = []
        if isinstance(phase, CrystalPhase):
            cell = phase.structure(local).cell
            found += [(name, "Å" if name in CELL_LENGTHS else "deg", getattr(cell, name))
                      for name in CELL_PARAMETERS]
            found += [(one.name, one.unit, float(value))
                      for one, value in zip(wanted, evaluated(model, wanted, values), strict=True)]
        statistics = phase.size_statistics(local)
        found += phase.size_quantities(local, of_population=of_population)
        found += [(f"B_iso({label})", "Å^2", phase.equivalent_b(label, local)) for label in phase.labels]
        by_law = {name for name, _, _ in found} & MEASURES
        return found + [(SIZES + name, statistic_unit(name), value)
                        for name, value in statistics.items() if name not in by_law]

    start = rows(reference)
    names, units = tuple(row[0] for row in start), tuple(row[1] for row in start)
    return names, units, lambda values: np.array([row[2] for row in rows(values)])


def _few_sizes(
    model: PatternModel, phase: Phase, values: Mapping[str, float], covariance: Covariance | None
) -> bool:
    """Whether a refined size distribution is narrow, or a parameter of it has no s.u."""
    if covariance is None:
        return False
    sizes = {name for name in map(ParameterName, covariance.names)
             if name in model.parameters and name.phase == phase.name
             and model.parameters[name].kind in (Kind.SIZE, Kind.SIZE_SD)}
    return bool(sizes) and (
        any(covariance.su(name) is None for name in sizes)
        or any(name.phase == phase.name for name in narrow_distributions(model, values)))


def derived_quantities(
    built: BuiltModel, phase: Phase, values: Mapping[str, float], covariance: Covariance | None
) -> Quantities:
    """The quantities of a phase at complete `values`; s.u. propagated by central differences."""
    model = built.model
    names, units, function = quantity_function(built, phase, values, covariance)
    free = tuple(name for name in covariance.names if name in model.parameters) \
        if covariance is not None else ()
    gradient = np.zeros((len(names), len(free)))
    for k, name in enumerate(free):
        step = model.parameters[name].shift * DIFFERENCE
        ends = [function(model.constrained(dict(values) | {name: values[name] + sign * step}))
                for sign in (1, -1)]
        gradient[:, k] = (ends[0] - ends[1]) / (2 * step)
    found = function(values)
    shifts = np.array([model.parameters[name].shift for name in free])
    gradient[np.abs(gradient) * shifts <= ROUNDING * np.maximum(1.0, np.abs(found))[:, None]] = 0.0
    spread = np.full((len(names),) * 2, np.nan)
    if covariance is not None and free:
        spread = covariance.propagated(gradient, free)
    constant = ~gradient.any(axis=1)
    spread[constant, :] = spread[:, constant] = np.nan
    return Quantities(names, units, found, free, gradient, spread)


def phase_rows(
    built: BuiltModel, values: Mapping[str, float], states: Sequence[PhaseState],
    covariance: Covariance | None = None,
) -> tuple[dict[str, PhaseRow], dict[str, np.ndarray]]:
    """Derived quantities of every phase, and their arrays by path.

    states: states of the phases at these values.
    """
    model = built.model
    rows: dict[str, PhaseRow] = {}
    arrays: dict[str, np.ndarray] = {}
    for index, phase in enumerate(model.phases):
        local = model.local(index, values)
        found = derived_quantities(built, phase, values, covariance)
        arrays |= found.arrays(phase.name)
        row = PhaseRow(
            sizes=found.rows(sizes=True), quantities=found.rows(sizes=False),
            composition=composition(phase, local, phase.contents(states[index])),
        )
        if isinstance(phase, CrystalPhase):
            crystal = phase.structure(local)
            row = row.model_copy(update={
                "cell": asdict(crystal.cell),
                "sites": {
                    site.label: SiteRow(
                        x=site.position[0], y=site.position[1], z=site.position[2], ion=site.ion,
                        B_iso=site.b_iso, occupancy=site.occupancy, U_aniso=site.u_aniso)
                    for site in crystal.sites
                },
            })
        rows[phase.name] = row
    return rows, arrays


def composition(
    phase: Phase, local: Mapping[str, float], atoms: FloatArray
) -> dict[str, float]:
    """Ion -> mean number per particle, from the numbers of atoms (n_sites,) at full occupancy."""
    occupancy, _ = phase.occupancy_and_b(local)
    found: dict[str, float] = {}
    for ion, number in zip(phase.ions, atoms * occupancy, strict=True):
        found[ion] = found.get(ion, 0.0) + float(number)
    return found


def composition_warnings(
    built: BuiltModel, values: Mapping[str, float], states: Sequence[PhaseState]
) -> list[str]:
    """Warnings for phases whose mean particle has another composition than the structure.

    In a sphere of all atoms within a radius, the outermost layer decides which atoms are in excess.
    """
    found = []
    for index, phase in enumerate(built.model.phases):
        if not isinstance(phase, CrystalPhase):
            continue
        local = built.model.local(index, values)
        particle = composition(phase, local, phase.contents(states[index]))
        cell = composition(phase, local, np.bincount(phase.crystal.site_of_atom).astype(float))
        cells = {ion: particle[ion] / cell[ion] for ion in cell}
        mean = sum(particle.values()) / sum(cell.values())
        if max(cells.values()) - min(cells.values()) < NOT_STOICHIOMETRIC * mean:
            continue
        parts = ", ".join(f"{100 * (ratio / mean - 1):+.1f} % {ion}" for ion, ratio in cells.items())
        charge = sum(number * charge_of(ion) for ion, number in particle.items())
        of_cell = sum(number * charge_of(ion) for ion, number in cell.items())
        charged = f", and has a charge of {charge:+.0f} e" if abs(of_cell) < 0.01 < abs(charge) else ""
        found.append(
            f"The mean particle of {phase.name} deviates from the composition of the structure "
            f"({parts}){charged}. The deviation depends on its size. Particles of whole cells (parallelepipeds "
            "without 'extension', spheres with 'whole_cells: true') and bodies with a random centre have the "
            "composition of the structure; another 'centre', 'extension' or 'termination' changes the surface.")
    return found


def refined_cifs(built: BuiltModel, values: Mapping[str, float]) -> dict[str, str]:
    """Phase -> text of a CIF with its crystal at the values."""
    model = built.model
    return {phase.name: cif_text(phase.structure(model.local(index, values)))
            for index, phase in enumerate(model.phases) if isinstance(phase, CrystalPhase)}
