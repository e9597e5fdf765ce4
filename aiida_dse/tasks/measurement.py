"""The measurement of a document: corrections, instrument and Compton scattering, from the section of the pattern."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiida_dse.documents.measurement import AbsorptionSection, InstrumentSection
from aiida_dse.documents.model import Pattern
from aiida_dse.engine.measurement.compton import compton_scattering
from aiida_dse.engine.measurement.corrections import (
    LARGEST_MU_R,
    CapillaryAbsorption,
    Correction,
    Polarisation,
    SynchrotronPolarisation,
)
from aiida_dse.engine.measurement.instrument import (
    Instrument,
    InstrumentMeasurement,
    Measurement,
    direct,
)
from aiida_dse.engine.measurement.profiles import Profile, Widths
from aiida_dse.engine.model.bulk_phase import BulkPhase
from aiida_dse.engine.model.fixed_geometry import AtomListPhase, PairDistancesPhase
from aiida_dse.engine.model.pattern import ObservedPattern
from aiida_dse.engine.model.phase import Phase
from aiida_dse.engine.particles.size_statistics import UNITS
from aiida_dse.engine.scattering.form_factors import element_of
from aiida_dse.engine.units import FloatArray, photon_energy
from aiida_dse.io.notes import note

#: The grid of angles is fine enough for distances of so many times the largest size of the phases at the start.
LONGER = 2.0
#: The profile of a pattern is narrow if its width is less than this share of the step of the points.
NARROW = 0.2


def measurement(section: Pattern, observation: ObservedPattern, phases: Sequence[Phase]) -> Measurement:
    """The relation of the observed points to the intensity of the sample.

    Raises ValueError for corrections and instruments that are not possible.
    """
    before, after = _polarisation(section), _absorption(section, observation.wavelength)
    bulk = [phase.name for phase in phases if isinstance(phase, BulkPhase)]
    if section.instrument is None and bulk:
        raise ValueError(f"the reflections of {' and '.join(bulk)} are as wide as the profile of the instrument, which "
                         "is missing. Specify it, as in instrument: {profile: {W: 0.01}}.")
    if section.instrument is None:
        return direct(observation.q, observation.wavelength, [*before, *after])
    found = InstrumentMeasurement(
        _instrument(section.instrument, observation.wavelength), observation.two_theta, _longest(phases), before, after,
        reflections=bool(bulk))
    if bulk and found.instrument.profile.narrow:
        raise ValueError(f"instrument.profile: the reflections of {' and '.join(bulk)} have no width. Specify the "
                         "widths of the profile, as in profile: {W: 0.01}.")
    _check(found)
    return found


def compton(section: Pattern, phases: Sequence[Phase], measured: Measurement, wavelength: float
            ) -> list[FloatArray] | None:
    """The Compton scattering (n_sites, n_q) of the atoms of each phase; None if it is not asked for."""
    if section.compton is None:
        return None
    known: dict[str, FloatArray] = {}
    found = []
    for phase in phases:
        elements = [element_of(ion) for ion in phase.ions]
        for element in elements:
            if element not in known:
                known[element] = compton_scattering(
                    element, measured.q, wavelength, integrating=section.compton == "integrating")
        found.append(np.array([known[element] for element in elements]))
    return found


def _polarisation(section: Pattern) -> list[Correction]:
    given = section.polarisation
    if given == "none":
        return []
    if given == "unpolarised":
        return [Polarisation()]
    if given.source == "laboratory":
        return [Polarisation(given.monochromator or 0.0, given.crystal == "perfect")]
    assert given.horizontal is not None
    return [SynchrotronPolarisation(given.horizontal, given.plane or "vertical")]


def _absorption(section: Pattern, wavelength: float) -> list[Correction]:
    if section.absorption is None:
        return []
    mu_r = mu_times_radius(section.absorption, wavelength)
    if mu_r > LARGEST_MU_R:
        raise ValueError(f"absorption: mu R is {mu_r:.3g}, but at most {LARGEST_MU_R:g} is possible; "
                         "hardly anything would be transmitted. Check the density and the diameter, in g/cm^3 and mm.")
    if section.absorption.mu_R is None:
        note(f"The sample absorbs with mu R = {mu_r:.4g} (composition {section.absorption.composition}, "
             f"{section.absorption.density:g} g/cm^3, diameter {section.absorption.diameter:g} mm).")
    return [CapillaryAbsorption(mu_r)]


def mu_times_radius(section: AbsorptionSection, wavelength: float) -> float:
    """mu R of a section, from the composition where it is not specified."""
    if section.mu_R is not None:
        return section.mu_R
    import xraydb  # slow to load

    assert section.composition and section.density and section.diameter
    try:
        mu = float(xraydb.material_mu(section.composition, photon_energy(wavelength), density=section.density))
    except Exception as problem:  # xraydb raises several types for formulas that it cannot read
        raise ValueError(f"absorption: '{section.composition}' is not a chemical formula ({problem}). Write it like "
                         "CsPbBr3 or C7H8.") from None
    return mu * section.diameter / 20  # 1/cm, and the radius in cm


def _instrument(section: InstrumentSection, wavelength: float) -> Instrument:
    lines = [(line.wavelength, line.weight) for line in section.lines] or [(wavelength, 1.0)]
    if abs(lines[0][0] / wavelength - 1) > 1e-3:
        raise ValueError(f"instrument.lines: the first wavelength is {lines[0][0]:g} Å, but that of the pattern is "
                         f"{wavelength:g} Å. The first line must be that of the pattern.")
    if (spread := max(line for line, _ in lines) / min(line for line, _ in lines)) > 1.2:
        raise ValueError(f"instrument.lines: the wavelengths differ by a factor of {spread:.3g}; the limit is 1.2, "
                         "because the form factors are those of the first one.")
    profile = section.profile
    widths = Widths(profile.U, profile.V, profile.W, profile.P, profile.X, profile.Y)
    axial, tube, moved = section.axial_divergence, section.capillary, section.displacement
    return Instrument(
        tuple(lines), Profile(
            profile.shape, widths, profile.q_width, (axial.sample, axial.detector) if axial else (0.0, 0.0),
            (tube.diameter / 2, tube.radius) if tube else None),
        section.zero, (moved.along, moved.across) if moved else (0.0, 0.0), moved.radius if moved else np.nan)


def _check(measured: InstrumentMeasurement) -> None:
    """Raise ValueError for widths that are negative within the pattern; note a profile narrower than the points."""
    angles, profile = measured.two_theta, measured.instrument.profile
    profile.widths.require_possible(angles)
    _ = measured.grid  # raises for shifts beyond the range of angles
    if not profile.narrow and len(angles) > 1:
        width = float(profile.width(angles, measured.instrument.wavelength).max())
        step = float(np.median(np.diff(angles)))
        if width < NARROW * step:
            note(f"The profile of the instrument has a width of {width:.3g} degrees at most, far below the step of the "
                 f"points, {step:.3g} degrees, so that it hardly changes the pattern. Are the widths in degrees?")


def _longest(phases: Sequence[Phase]) -> float:
    """The longest distance (Å) for which the grid of angles is fine enough."""
    return max([20.0, *map(_longest_of, phases)])


def _longest_of(phase: Phase) -> float:
    if isinstance(phase, BulkPhase):
        return 0.0
    if isinstance(phase, AtomListPhase):
        return float(np.linalg.norm(np.ptp(phase.positions.reshape(-1, 3), axis=0)))
    if isinstance(phase, PairDistancesPhase):
        return float(phase.stored.histograms.shape[1] * phase.stored.step)
    values = {p.name.local: p.value for p in phase.parameters}
    return 10 * LONGER * max(float(value) for name, value in phase.size_statistics(values).items()
                             if name not in UNITS and np.isfinite(value))
