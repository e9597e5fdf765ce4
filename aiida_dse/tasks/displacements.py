"""Models of anisotropic displacements from the section 'displacements' of a phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from aiida_dse.documents.disorder import CorrelatedMotion, Displacement
from aiida_dse.engine.crystal.disorder import shortest_distance
from aiida_dse.engine.crystal.structure import Crystal, Site
from aiida_dse.engine.crystal.tensors import symmetric, to_cartesian
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.displacements import (
    MODELS,
    Correlation,
    Damped,
    DisplacementModel,
    Uniaxial,
    bond_direction,
    checked,
)
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.particles.directed_groups import require_possible
from aiida_dse.engine.particles.family import Family
from aiida_dse.engine.scattering.form_factors import element_of
from aiida_dse.engine.units import FloatArray, u_from_b

#: Difference (Å^2) of the principal values of a tensor up to which the calculated pattern is accurate.
ACCURATE = 0.1

Sections = Mapping[str, Displacement | Literal["anisotropic"]]


def displacement_models(crystal: Crystal, sections: Sections) -> dict[str, DisplacementModel]:
    """The model of every site with anisotropic displacements, by label; the label precedes the element.

    Raises ValueError for sites without any displacement to start from, for neighbours that do not
    exist, and for tensors that are not positive definite.
    """
    found: dict[str, DisplacementModel] = {}
    for site in crystal.sites:
        keys = (site.label, site.ion, element_of(site.ion))
        section = next((sections[key] for key in keys if key in sections), None)
        if section is not None:
            found[site.label] = checked(site.label, _model(crystal, site, section), crystal.cell.matrix)
    return found


def _model(
    crystal: Crystal, site: Site, section: Displacement | Literal["anisotropic"]
) -> DisplacementModel:
    section = Displacement(model=section) if isinstance(section, str) else section
    direction = None if section.along is None else bond_direction(crystal, site.label, section.along)
    if section.parallel is not None and section.perpendicular is not None:
        assert direction is not None
        x, y, z = direction.tolist()
        uniaxial = Uniaxial((x, y, z), section.parallel, section.perpendicular)
        tensor = uniaxial.tensor(uniaxial.start, crystal.cell.matrix)
    else:
        tensor = _start(crystal, site)
        if direction is not None and not MODELS[section.model].directed:
            # with a direction, U_ij start from displacements that are equal across it
            uniaxial = Uniaxial.of(crystal, site.label, tensor, direction)
            tensor = uniaxial.tensor(uniaxial.start, crystal.cell.matrix)
    return MODELS[section.model].of(crystal, site.label, tensor, direction)


def _start(crystal: Crystal, site: Site) -> FloatArray:
    """The Cartesian tensor (3, 3) of a CIF, or else that of B_iso."""
    if site.u_aniso is not None:
        change = to_cartesian(crystal.cell.matrix)
        return np.asarray(change @ symmetric(np.array(site.u_aniso)) @ change.T)
    if site.b_iso is None:
        raise ValueError(
            f"site {site.label} of {crystal.name} has no displacement parameter to start from. Specify "
            f"'parallel' and 'perpendicular' (Å^2) with 'along', B_iso: {{{site.label}: 1.0}}, or U_ij in the "
            "CIF.")
    return np.asarray(u_from_b(site.b_iso) * np.eye(3))


def damped_sites(
    crystal: Crystal, displacements: Mapping[str, DisplacementModel]
) -> dict[str, DisplacementModel]:
    """The models of all sites; sites with B_iso are damped pair by pair as well."""
    found = dict(displacements)
    for site in crystal.sites:
        if site.label not in found:
            found[site.label] = Damped(_b_iso(crystal, site))
    return found


def correlated_motion(
    crystal: Crystal, section: CorrelatedMotion, excluded: Mapping[tuple[int, int], np.ndarray]
) -> Correlation:
    """The correlated motion of a section. Raises ValueError for values beyond the shortest distance."""
    name = "delta_1" if section.delta_1 is not None else "delta_2"
    value = section.delta_1 if section.delta_1 is not None else section.delta_2
    assert value is not None
    return Correlation.of(name, value, shortest_distance(crystal, excluded))


def _b_iso(crystal: Crystal, site: Site) -> float:
    if site.b_iso is None:
        raise ValueError(
            f"site {site.label} of {crystal.name} has no displacement parameter. Specify it in Å^2 under "
            f"'B_iso' of the phase, for example as B_iso: {{{site.label}: 1.0}}, or in the CIF.")
    return site.b_iso


def require_directions(
    crystal: Crystal, family: Family, sizes: Mapping[str, float], displacements: Mapping[str, DisplacementModel]
) -> None:
    """Raise ValueError where anisotropic displacements are not available for the particles."""
    if not displacements:
        return
    if not family.directed:
        raise ValueError(
            "anisotropic displacements and correlated motion are not available for bodies around a point and for "
            "parallelepipeds with an 'extension'. Use 'centre: random', or B_iso alone.")
    require_possible(crystal, family.vectors(crystal, sizes))


def displacement_warnings(model: PatternModel, values: Mapping[str, float]) -> list[str]:
    """Warnings for displacement tensors that are not positive definite or very anisotropic at these values."""
    warnings = []
    for index, phase in enumerate(model.phases):
        if not isinstance(phase, CrystalPhase):
            continue
        for label, principal in phase.principal_displacements(model.local(index, values)).items():
            smallest, largest = float(principal[0]), float(principal[-1])
            if largest - smallest > ACCURATE:
                warnings.append(
                    f"the principal values of the displacement tensor of {phase.name}.{label} differ by "
                    f"{largest - smallest:.2g} Å^2. Above {ACCURATE:g} Å^2, the calculated pattern may be wrong by "
                    "more than 0.1 %, and displacements of this size are rarely Gaussian. Compare a model with split "
                    "sites.")
            if smallest <= 0:
                warnings.append(
                    f"the displacement tensor of {phase.name}.{label} is not positive definite (smallest "
                    f"eigenvalue {smallest:.3g} Å^2), so the data may not determine its components. Use 'model: "
                    "uniaxial' for this site, or B_iso.")
    return warnings
