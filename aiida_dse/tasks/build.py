"""Construction of the forward model from a document and its data."""

from __future__ import annotations

import fnmatch
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aiida_dse.documents import ModelDocument
from aiida_dse.documents.model import Bulk, CurveFile
from aiida_dse.documents.model import Phase as PhaseSection
from aiida_dse.documents.plans import RefinementPlan, RestraintSection, Start
from aiida_dse.documents.reading import located
from aiida_dse.engine.crystal.disorder import excluded_pairs, short_contacts
from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.fit.freedom import check_freedom
from aiida_dse.engine.fit.posterior import require_walkers
from aiida_dse.engine.fit.refine import default_stages, free_names
from aiida_dse.engine.fit.settling import counts_per_unit
from aiida_dse.engine.maps.grid import Coordinate, Grid
from aiida_dse.engine.measurement.instrument import Measurement
from aiida_dse.engine.model.bulk_phase import BulkCrystals, BulkPhase
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import (
    AtomListPhase,
    PairDistances,
    PairDistancesPhase,
)
from aiida_dse.engine.model.pattern import Background, ObservedPattern, PatternModel
from aiida_dse.engine.model.phase import Phase
from aiida_dse.engine.model.quantities import CrystalQuantity
from aiida_dse.engine.model.restraints import (
    Restraint,
    angle_restraints,
    distance_restraints,
    parameter_restraint,
)
from aiida_dse.engine.model.size_laws import SizeLawPhase
from aiida_dse.engine.parameters import Kind, Parameter, closest, require_possible
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.scattering.form_factors import element_of, ion_symbol, tabulated_ion
from aiida_dse.engine.units import FloatArray, q_from_two_theta, two_theta_from_q
from aiida_dse.io.notes import collecting_notes, note

from .boundaries import order_of
from .displacements import (
    correlated_motion,
    damped_sites,
    displacement_models,
    require_directions,
)
from .grids import check_names, grid_of_document, known_quantities
from .histograms import histogram_restraints
from .measurement import compton, measurement
from .particles import shape_and_sizes
from .plausibility import check_sites, check_start, note_equal_phases
from .size_laws import require_laws_on_grid, size_laws
from .sources import Atoms, FolderSource, Source, Structure


@dataclass(frozen=True)
class BuiltModel:
    """The forward model of a document, with the document, its grid and the hashes of its files."""

    document: ModelDocument
    model: PatternModel
    stages: list[list[str]] | None
    restraints: list[Restraint]
    quantities: dict[str, CrystalQuantity]  # of a map, by full name: volumes and 'derived'
    grid: Grid | None
    files: dict[str, str]  # file name -> SHA-256
    axis: str  # of the pattern: two_theta, q_inverse_angstrom, q_inverse_nm
    measured: bool
    sigma_origin: str = ""  # where sigma of the pattern comes from; "" without a pattern
    notes: tuple[str, ...] = ()  # remarks about the data, such as points left out

    @property
    def axes(self) -> tuple[Coordinate, ...]:
        """The axes of the scan; empty without a scan."""
        return self.grid.axes if self.grid else ()


def build(
    document: ModelDocument, source: Source | Path, *, resources: Resources = ONE_THREAD
) -> BuiltModel:
    """Build the forward model of a document from its data, and check the whole document.

    source: source of the data; a folder if file paths are relative to it. Models are memoised by
    document and data. Raises DocumentError with the key and the reason. No pattern is computed.
    """
    if isinstance(source, Path):
        source = FolderSource(source)
    if not source.digest:
        return _built(document, source, resources)
    key = (json.dumps(document.canonical(), sort_keys=True), source.digest, resources)
    with _lock:
        if key not in _known:
            _known[key] = _built(document, source, resources)
            while len(_known) > MOST_KEPT:
                _known.popitem(last=False)
        _known.move_to_end(key)
        return _known[key]


#: Number of models that are kept in memory.
MOST_KEPT = 8
_known: OrderedDict[tuple[str, str, Resources], BuiltModel] = OrderedDict()
_lock = threading.Lock()


def _built(document: ModelDocument, source: Source, resources: Resources) -> BuiltModel:
    with collecting_notes() as notes:
        built = _built_with_notes(document, source, resources)
    return replace(built, notes=tuple(notes))


def _built_with_notes(
    document: ModelDocument, source: Source, resources: Resources
) -> BuiltModel:
    pattern = document.pattern
    if pattern.file is not None:
        with located("pattern"):
            measured = source.pattern(pattern)
            axis, sigma_origin = measured.axis, measured.sigma_origin
            observation = ObservedPattern(
                measured.q, measured.intensity, measured.sigma, measured.wavelength,
            )
    else:
        axis, sigma_origin = pattern.axis or "", ""
        with located("pattern.grid"):
            observation = _simulated(document)
    phases = []
    for name, section in document.phases.items():
        with located(f"phases.{name}"):
            found = source.structure(name, section)
            check_sites(found, len(observation.q))
            phases.append(_phase(name, section, found))
    note_equal_phases(phases)
    blanks, blank_sigma = {}, {}
    for name, blank in document.background.blanks.items():
        with located(f"background.blanks.{name}"):
            blanks[name], blank_sigma[name] = _blank(source, name, blank, observation)
    with located("pattern"):
        measured_as = measurement(pattern, observation, phases)
        incoherent = compton(pattern, phases, measured_as, observation.wavelength)
    with located("parameters, constraints or background"):
        model = PatternModel(
            observation, phases,
            Background(document.background.chebyshev, document.background.inverse_q, blanks,
                       blank_sigma),
            overrides=_overrides(document, phases, measured_as), fixed_scales=document.scales,
            constraints=document.constraints, measurement=measured_as, compton=incoherent,
            tolerance=document.tolerance, resources=resources,
        )
    for phase in phases:
        if isinstance(phase, PairDistancesPhase):
            with located(f"phases.{phase.name}.distances"):
                phase.require_reach(model.sampling)
    with located("parameters or constraints"):
        start = model.start
        for constraint in model.constraints:
            name = constraint.target
            if any(name in stage for stage in (document.refinement or RefinementPlan()).stages or ()):
                note(f"{name} is listed in the stages of the refinement, but it is constrained and "
                     "therefore not refined.")
            require_possible(name, model.parameters[name].kind, start[name], start[name])
    for index, phase in enumerate(phases):
        with located(f"phases.{phase.name}.particle"):
            if isinstance(phase, CrystalPhase):
                phase.require_possible(model.local(index, start))
            phase.size_statistics(model.local(index, start))
        with located(f"phases.{phase.name}.size_laws"):
            if isinstance(phase, SizeLawPhase):
                phase.require_laws(model.local(index, start))
    stages = None
    if document.refinement and document.refinement.stages:
        stages = [list(stage) for stage in document.refinement.stages]
        with located("refinement.stages"):
            check_names(model, [name for stage in stages for name in stage])
    if document.refinement and pattern.file is not None:
        with located("refinement"):
            check_freedom(model, stages)
            if document.refinement.weights == "calculated":
                counts_per_unit(model.observation)
    restraints: list[Restraint] = []
    for k, restraint in enumerate(document.restraints):
        with located(f"restraints.{k}"):
            restraints += _restraints(restraint, model)
    if document.refinement is not None:
        restraints += histogram_restraints(document, model)
    if document.uncertainty:
        _check_uncertainty(document, model, stages)
    for name, derived in document.derived.items():
        with located(f"derived.{name}"):
            phase = next(p for p in phases if p.name == name)
            if not isinstance(phase, CrystalPhase):
                raise ValueError("distances and angles can be reported only for phases with a "
                                 "structure. Remove them.")
            for label in {x for row in (*derived.distances, *derived.angles) for x in row}:
                phase.crystal.site(label)
    # the search for neighbours takes time, and only maps refer to quantities
    quantities = known_quantities(document, model, start) if document.scan else {}
    grid = grid_of_document(document, model, quantities)
    if grid is not None:
        with located("scan"):
            require_laws_on_grid(model, grid)
    return BuiltModel(document, model, stages, restraints, quantities, grid, dict(source.files),
                      axis, pattern.file is not None, sigma_origin)


def _check_uncertainty(
    document: ModelDocument, model: PatternModel, stages: list[list[str]] | None
) -> None:
    plan = document.uncertainty
    assert plan is not None
    free = free_names(model, stages or default_stages(model))
    with located("uncertainty.profile"):
        for pattern in plan.profile:
            check_names(model, [pattern])
            if not any(fnmatch.fnmatchcase(name, pattern) for name in free):
                raise ValueError(
                    f"'{pattern}' is not refined, so it has no profile. Free it in the stages of "
                    "the refinement, or remove it."
                )
    with located("uncertainty.posterior.walkers"):
        if plan.posterior and plan.posterior.walkers:
            require_walkers(plan.posterior.walkers, len(free))


def _restraints(section: RestraintSection, model: PatternModel) -> list[Restraint]:
    if section.parameter is not None:
        return [parameter_restraint(model, section.parameter, section.target, section.sigma)]
    names = [phase.name for phase in model.phases]
    if section.phase is None and len(names) > 1:
        raise ValueError(f"specify the 'phase', one of {', '.join(names)}.")
    wanted = section.phase or names[0]
    if wanted not in names:
        raise ValueError(f"there is no phase '{wanted}'; the phases are {', '.join(names)}.")
    phase = model.phases[names.index(wanted)]
    if not isinstance(phase, CrystalPhase):
        raise ValueError("distances and angles can be restrained only in phases with a "
                         "structure. Remove the restraint.")
    target, sigma = section.target, section.sigma
    if section.distance is not None:
        return distance_restraints(
            model, phase, section.distance, target, sigma, multiplicity=section.multiplicity,
            cutoff=section.cutoff, coordination=section.coordination)
    assert section.angle is not None
    return angle_restraints(
        model, phase, section.angle, target, sigma, multiplicity=section.multiplicity,
        cutoff=section.cutoff, coordination=section.coordination)


def _simulated(document: ModelDocument) -> ObservedPattern:
    pattern = document.pattern
    assert pattern.grid and pattern.grid.stop and pattern.axis and pattern.wavelength
    n_points = (pattern.grid.stop - pattern.grid.start) / pattern.grid.step + 1 + 1e-9
    if not 2 <= n_points <= 1e6:
        raise ValueError(
            f"start, stop and step define {n_points:.3g} points, but 2 to 1e6 are allowed. Change "
            "the step or the range."
        )
    axis = np.asarray(pattern.grid.start + pattern.grid.step * np.arange(int(n_points)))
    if pattern.axis == "two_theta":
        q = q_from_two_theta(axis, pattern.wavelength)
    else:
        q = axis / (10.0 if pattern.axis == "q_inverse_nm" else 1.0)
    two_theta_from_q(q, pattern.wavelength)  # raises for q beyond the reach of the wavelength
    ones = np.ones(len(q))
    return ObservedPattern(q, ones, ones, pattern.wavelength)


def _blank(
    source: Source, name: str, section: CurveFile, observation: ObservedPattern
) -> tuple[FloatArray, FloatArray]:
    """A measured blank and its s.u. (n,), interpolated linearly to the q of the pattern (n,).

    Raises ValueError if the blank does not cover the pattern. The s.u. of a value between two
    points is overestimated by up to sqrt(2), which compensates for the noise that neighbouring
    values share.
    """
    if section.file is None:
        raise ValueError("a blank needs a 'file'.")
    blank = source.blank(name, section)
    if blank.q[0] > observation.q[0] * 1.001 or blank.q[-1] < observation.q[-1] * 0.999:
        raise ValueError(
            f"the blank covers q = {blank.q[0]:.3f} ... {blank.q[-1]:.3f} 1/Å, but the pattern "
            f"{observation.q[0]:.3f} ... {observation.q[-1]:.3f} 1/Å. Limit the 'range' of the "
            "pattern to that of the blank."
        )
    return (np.interp(observation.q, blank.q, blank.intensity),
            np.interp(observation.q, blank.q, blank.sigma))


def _phase(name: str, section: PhaseSection, found: Structure) -> Phase:
    if isinstance(found, Atoms):
        return _atom_list(name, section, found)
    if isinstance(found, PairDistances):
        return _pair_distances(name, section, found)
    if section.bulk is not None:
        return _bulk(name, section.bulk, _with_ions_and_b(found, section))
    assert section.particle is not None
    crystal = _with_ions_and_b(replace(found, termination=section.termination), section)
    family, sizes = shape_and_sizes(crystal, section.particle)
    excluded = excluded_pairs(crystal, section.exclusion_distance)
    displacements = displacement_models(crystal, section.displacements)
    correlation = None
    if section.correlated_motion is not None:
        correlation = correlated_motion(crystal, section.correlated_motion, excluded)
        displacements = damped_sites(crystal, displacements)
    require_directions(crystal, family, sizes, displacements)
    order = order_of(crystal, family, section, excluded)
    arguments = (name, crystal, family, sizes, section.exclusion_distance, displacements, correlation, order)
    laws = size_laws(crystal, section.size_laws, displacements)
    phase = SizeLawPhase(*arguments, laws=laws) if laws else CrystalPhase(*arguments)
    if laws:
        note(f"{name}: the parameters, the distances and the CIF are those of infinitely large particles, because "
             f"{', '.join(law.name for law in laws)} depend on the size; the results also list the values of the "
             "particle with the mean size ('..._at_mean_size').")
    phase.parameters  # noqa: B018 - raises if B_iso is missing
    for one, other, distance, radii in short_contacts(crystal, excluded):
        note(f"{crystal.name}: {one} and {other} are only {distance:.2f} Å apart, although their "
             f"covalent radii sum to {radii:.2f} Å. Check the cell, the coordinates and the space "
             "group.")
    return phase


def _bulk(name: str, section: Bulk, crystal: Crystal) -> BulkPhase:
    sizes = {"strain": section.strain} | ({"size": section.size} if section.size else {})
    phase = BulkPhase(name, crystal, BulkCrystals(broadened=section.size is not None), sizes)
    phase.parameters  # noqa: B018 - raises if B_iso is missing
    return phase


def _with_ions_and_b(crystal: Crystal, section: PhaseSection) -> Crystal:
    valid = {key for s in crystal.sites for key in (s.label, element_of(s.ion), s.ion)}
    for key in (*section.ions, *section.B_iso, *section.displacements):
        if key not in valid:
            raise ValueError(
                f"'{key}' is neither a site nor an element of {crystal.name}; its sites are "
                f"{', '.join(s.label for s in crystal.sites)}."
            )
    sites = []
    for site in crystal.sites:
        keys = (site.label, site.ion, element_of(site.ion))
        specified = next((section.ions[k] for k in keys if k in section.ions), None)
        b_iso = next((section.B_iso[k] for k in keys if k in section.B_iso), site.b_iso)
        ion = site.ion if specified is None else ion_symbol(specified)
        sites.append(replace(site, ion=ion, b_iso=b_iso))
    _note_replaced(crystal.name, {site.label: site.ion for site in sites})
    return replace(crystal, sites=tuple(sites))


def _note_replaced(file: str, ions: Mapping[str, str]) -> None:
    """Add a note for each ion that has no tabulated form factor; `ions` by label."""
    for ion in dict.fromkeys(ions.values()):
        if (used := tabulated_ion(ion)) != ion:
            labels = ", ".join(label for label, other in ions.items() if other == ion)
            note(f"{file}: there is no tabulated form factor of {ion} ({labels}); that of {used} is "
                 f"used. Another ion can be chosen under 'ions' of the phase.")


def _atom_list(name: str, section: PhaseSection, atoms: Atoms) -> AtomListPhase:
    kinds = list(Counter(atoms.labels))
    elements = [element_of(label) for label in kinds]
    _require_labels(section, kinds, elements)
    ions, b_iso = [], []
    for label, element in zip(kinds, elements, strict=True):
        specified = section.ions.get(label, section.ions.get(element))
        if specified is not None:
            ions.append(ion_symbol(specified))
        else:  # a label such as Pb2+ is an ion, one such as Pb1 an element and a number
            ions.append(ion_symbol(label if label[-1] in "+-" else element, tabulated=False))
        b_iso.append(section.B_iso.get(label, section.B_iso.get(element)))
    _note_replaced(section.file, dict(zip(kinds, ions, strict=True)))
    index = {label: k for k, label in enumerate(kinds)}
    phase = AtomListPhase(
        name, tuple(kinds), tuple(ions), np.array([index[label] for label in atoms.labels]),
        atoms.positions, tuple(b_iso), (1.0,) * len(kinds), section.exclusion_distance,
    )
    phase.parameters  # noqa: B018 - raises if B_iso is missing
    return phase


def _pair_distances(
    name: str, section: PhaseSection, stored: PairDistances
) -> PairDistancesPhase:
    elements = [element_of(ion) for ion in stored.ions]
    _require_labels(section, stored.labels, elements)
    ions, b_iso = [], []
    for label, element, ion, b in zip(stored.labels, elements, stored.ions, stored.b_iso,
                                      strict=True):
        ions.append(ion_symbol(section.ions.get(label, section.ions.get(element, ion))))
        b_iso.append(section.B_iso.get(label, section.B_iso.get(element, b)))
    return PairDistancesPhase(name, stored, tuple(ions), tuple(b_iso))


def _require_labels(
    section: PhaseSection, labels: Sequence[str], elements: Sequence[str]
) -> None:
    for key in (*section.ions, *section.B_iso):
        if key not in labels and key not in elements:
            raise ValueError(
                f"{section.file} has no label '{key}'; its labels are {', '.join(labels)}.")


def _overrides(
    document: ModelDocument, phases: list[Phase], measured: Measurement
) -> dict[str, Parameter]:
    defaults: dict[str, Parameter] = {p.name: p for phase in phases for p in phase.parameters}
    defaults |= {p.name: p for p in measured.parameters}
    reasons = {
        f"{phase.name}.{key}": why for phase in phases for key, why in phase.fixed_reasons.items()
    }
    overrides = {}
    for name, given in document.parameters.items():
        if name not in defaults:
            if name in reasons:
                raise ValueError(f"'{name}' cannot be set: {reasons[name]}.")
            raise ValueError(f"there is no parameter '{name}'{closest(name, defaults)}.")
        default = defaults[name]
        start = Start(value=given) if isinstance(given, float | int) else given
        value = default.value if start.value is None else start.value
        if start.lower is None and start.upper is None:
            check_start(default, value)
        lower = min(default.lower, value) if start.lower is None else start.lower
        upper = max(default.upper, value) if start.upper is None else start.upper
        if lower <= upper:
            require_possible(name, default.kind, lower, upper)
        if default.kind is Kind.OCCUPANCY and upper > default.upper < 1:
            raise ValueError(f"'{name}' can be at most {default.upper:.4g}, because the site is fully occupied in "
                             "one of the layers then. Lower its value or upper bound.")
        overrides[name] = default.changed(value=value, lower=lower, upper=upper)
    return overrides
