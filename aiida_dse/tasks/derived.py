"""Quantities derived from refined parameters: sizes, volume, distances, angles, strain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from aiida_dse.engine.crystal.geometry import propagated
from aiida_dse.engine.crystal.structure import COORDINATES
from aiida_dse.engine.fit.covariance import Covariance
from aiida_dse.engine.model.derivatives import DIFFERENCE
from aiida_dse.engine.model.phase import CrystalPhase
from aiida_dse.engine.model.quantities import evaluated

from .build import BuiltModel
from .grids import known_quantities


def derived_rows(
    built: BuiltModel, values: Mapping[str, float], covariance: Covariance | None
) -> dict[str, Any]:
    """Sizes, volume and the requested distances and angles of each phase, with unscaled s.u."""
    model = built.model
    found: dict[str, Any] = {}
    for index, phase in enumerate(model.phases):
        local = model.local(index, values)
        rows: dict[str, Any] = {"sizes": phase.size_statistics(local)}
        if isinstance(phase, CrystalPhase):
            names = [name for name in covariance.names if name in model.parameters] \
                if covariance is not None else []
            quantities = propagated(
                quantities_of(built, index, values), values, names,
                covariance.block(names) if covariance is not None else np.zeros((0, 0)),
                [model.parameters[name].shift * DIFFERENCE for name in names],
            )
            rows["quantities"] = {
                q.name: {"value": q.value, "unit": q.unit, "su": q.su} for q in quantities
            }
            crystal = phase.structure(local)
            rows["cell"] = asdict(crystal.cell)
            rows["sites"] = {
                site.label: dict(zip(COORDINATES, site.position, strict=True))
                | {"ion": site.ion, "B_iso": site.b_iso, "occupancy": site.occupancy}
                for site in crystal.sites
            }
        found[phase.name] = rows
    return found


def quantities_of(
    built: BuiltModel, index: int, reference: Mapping[str, float]
) -> Callable[[Mapping[str, float]], list[tuple[str, float, str]]]:
    """A function of the parameter values; which atoms are neighbours is settled at `reference`."""
    model, phase = built.model, built.model.phases[index]
    wanted = [q for q in known_quantities(built.document, model, dict(reference)).values()
              if q.phase == phase.name]

    def quantities(values: Mapping[str, float]) -> list[tuple[str, float, str]]:
        return [(q.name, float(value), q.unit)
                for q, value in zip(wanted, evaluated(model, wanted, values), strict=True)]

    return quantities
