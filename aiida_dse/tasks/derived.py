"""Quantities derived from refined parameters: sizes, volume, distances, angles, strain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from aiida_dse.documents.model import Derived
from aiida_dse.engine.crystal import COORDINATES
from aiida_dse.engine.derivatives import typical_shift
from aiida_dse.engine.geometry import (
    angle,
    angles,
    bonds,
    irreducible_strain,
    propagated,
    pseudo_cubic_edge,
)
from aiida_dse.engine.parameters import Parameter
from aiida_dse.engine.phase import CrystalPhase
from aiida_dse.engine.restraints import frame_of

from .build import BuiltModel


def derived_rows(
    built: BuiltModel, values: Mapping[str, float], free: Sequence[Parameter],
    covariance: np.ndarray,
) -> dict[str, Any]:
    """Sizes, volume and the requested distances and angles of each phase, with unscaled s.u."""
    model = built.model
    found: dict[str, Any] = {}
    for index, phase in enumerate(model.phases):
        local = model.local(index, values)
        rows: dict[str, Any] = {"sizes": phase.size_statistics(local)}
        if isinstance(phase, CrystalPhase):
            quantities = propagated(
                quantities_of(built, index, values), values, [p.name for p in free], covariance,
                [typical_shift(p) * 1e-3 for p in free],
            )
            rows["quantities"] = {
                q.name: {"value": q.value, "unit": q.unit, "su": q.su} for q in quantities
            }
            crystal = phase.structure(local)
            rows["cell"] = asdict(crystal.cell)
            rows["sites"] = {
                site.label: dict(zip(COORDINATES, site.position, strict=True))
                | {"ion": site.ion, "B": site.b_iso, "occupancy": site.occupancy}
                for site in crystal.sites
            }
        found[phase.name] = rows
    return found


def quantities_of(
    built: BuiltModel, index: int, reference: Mapping[str, float]
) -> Callable[[Mapping[str, float]], list[tuple[str, float, str]]]:
    """A function of the parameter values; which atoms are neighbours is settled at `reference`."""
    model, phase = built.model, built.model.phases[index]
    assert isinstance(phase, CrystalPhase)
    wanted = built.document.derived.get(phase.name, Derived())
    frame_at = frame_of(model, phase)
    start = frame_at(reference)
    lengths = [
        (f"d({first}-{second})_{k + 1}", bond)
        for first, second in wanted.distances
        for k, bond in enumerate(bonds(start, first, second))
    ]
    spans = [
        (f"angle({first}-{vertex}-{last})_{k + 1}", pair)
        for first, vertex, last in wanted.angles
        for k, pair in enumerate(angles(start, first, vertex, last))
    ]

    def quantities(values: Mapping[str, float]) -> list[tuple[str, float, str]]:
        frame, cell = frame_at(values), phase.geometry(model.local(index, model.tied(values)))[2]
        rows = [("volume", cell.volume, "Å^3")]
        rows += [(name, float(np.linalg.norm(frame.vector(bond))), "Å") for name, bond in lengths]
        rows += [(name, angle(frame, pair), "deg") for name, pair in spans]
        if wanted.pseudo_cubic:
            rows.append(("a_k", pseudo_cubic_edge(cell), "Å"))
            rows.append(("zeta", irreducible_strain(cell), ""))
        return rows

    return quantities
