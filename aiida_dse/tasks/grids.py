"""Grids of scans, constructed from documents, checked and solved before any computation."""

from __future__ import annotations

import numpy as np

from aiida_dse.documents import ModelDocument
from aiida_dse.documents.model import Derived
from aiida_dse.documents.plans import ScanAxis
from aiida_dse.documents.reading import located
from aiida_dse.engine.maps.axes import MAX_POINTS, Axis, MapAxis, PathAxis, QuantityAxis
from aiida_dse.engine.maps.grid import Grid, grid_of
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.quantities import CrystalQuantity, crystal_quantities, require_quantity
from aiida_dse.engine.parameters import is_pattern, select


def known_quantities(
    document: ModelDocument, model: PatternModel, reference: dict[str, float]
) -> dict[str, CrystalQuantity]:
    """The volume of every crystal and the quantities requested in 'derived', by full name."""
    found = []
    for phase in model.phases:
        if isinstance(phase, CrystalPhase):
            wanted = document.derived.get(phase.name, Derived())
            found += crystal_quantities(
                model, phase, reference, distances=wanted.distances, angles_=wanted.angles,
                pseudo_cubic=wanted.pseudo_cubic, cutoff=wanted.cutoff,
            )
    return {quantity.full_name: quantity for quantity in found}


def grid_of_document(
    document: ModelDocument, model: PatternModel, quantities: dict[str, CrystalQuantity]
) -> Grid | None:
    """The grid of the document's scan, None without a scan. Raises DocumentError if invalid."""
    plan = document.scan
    if plan is None:
        return None
    with located("scan.axes"):
        _refuse_huge(document)
    axes = []
    for k, section in enumerate(plan.axes):
        with located(f"scan.axes.{k}"):
            axes.append(_axis(section, quantities))
    with located("scan.refine"):
        check_names(model, plan.refine)
    with located("scan.axes"):
        return grid_of(model, axes, refined=plan.refine, partial=plan.part_of_grid)


def _axis(section: ScanAxis, quantities: dict[str, CrystalQuantity]) -> MapAxis:
    if section.parameter is not None:
        return Axis(section.parameter, section.points(), section.unit == "angstrom")
    if section.path is not None:
        return PathAxis(section.path, section.points())
    assert section.quantity is not None
    hold = tuple(require_quantity(name, quantities) for name in section.hold)
    equal = tuple((require_quantity(first, quantities), require_quantity(second, quantities))
                  for first, second in section.equal)
    return QuantityAxis(require_quantity(section.quantity, quantities), section.points(),
                        section.vary, hold, equal)


def check_names(model: PatternModel, patterns: list[str] | tuple[str, ...]) -> None:
    """Raise ValueError for names and wildcards that select no parameter of the model."""
    for pattern in patterns:
        if not is_pattern(pattern):
            model.require(pattern)
        select([pattern], list(model.parameters))


def _refuse_huge(document: ModelDocument) -> None:
    assert document.scan is not None
    sizes = [axis.size for axis in document.scan.axes]
    total = float(np.prod([float(size) for size in sizes]))
    if total > MAX_POINTS:
        shape = " x ".join(f"{size:,}" for size in sizes)
        raise ValueError(
            f"the grid has {shape} = {total:.3g} points; the limit is {MAX_POINTS:.3g}. Use larger "
            "steps or a smaller range, and then a finer grid around the minimum."
        )
