"""Quantities of refinements of version 0.1 with their covariance.

These results list distances, angles and strain with s.u.; cell, sizes and B_iso, with their
covariance, are computed from the parameters and the covariance of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from aiida_dse.documents.records import ParameterRow, PhaseRow
from aiida_dse.documents.results import RefinementSummary
from aiida_dse.engine.crystal.geometry import irreducible_strain, pseudo_cubic_edge
from aiida_dse.engine.crystal.structure import Cell
from aiida_dse.engine.fit.covariance import Covariance
from aiida_dse.engine.model.constraints import Constraint, ordered_constraints
from aiida_dse.engine.parameters import Kind, ParameterName
from aiida_dse.engine.particles.size_quantities import size_quantities
from aiida_dse.engine.units import FloatArray

#: Step of central differences, as a fraction of the natural step of the parameter.
STEP = 1e-3
#: The names, values and units of quantities.
Rows = list[tuple[str, float, str]]


def old_quantities(
    summary: RefinementSummary, arrays: Mapping[str, np.ndarray], phase: str
) -> tuple[Rows, FloatArray]:
    """The quantities (n) of a phase and their unscaled covariance (n, n), nan without an s.u.

    Distances and angles depend on the symmetry, which these results do not contain: they have the
    s.u. of the refinement, and zero covariance with other quantities.
    """
    free = [str(text) for text in arrays.get("covariance/names", ())]
    covariance = np.asarray(arrays.get("covariance/matrix", np.zeros((0, 0))))
    parameters, derived = summary.parameters, summary.derived[phase]
    values = {name: row.value for name, row in parameters.items()}
    quantities = _function(parameters, derived, phase)
    rows = quantities(values)
    gradient = np.zeros((len(rows), len(free)))
    for k, name in enumerate(free):
        step = STEP * parameters[name].kind.spec.shift(values[name])
        above, below = (
            np.array([value for _, value, _ in quantities(values | {name: values[name] + end})])
            for end in (step, -step))
        gradient[:, k] = (above - below) / (2 * step)
    matrix = Covariance(tuple(free), covariance).propagated(gradient)
    still = ~(np.abs(gradient) > 0).any(axis=1)
    matrix[still, :] = matrix[:, still] = np.nan
    known = {name for name, _, _ in rows}
    listed = [(name, row) for name, row in derived.quantities.items() if name not in known]
    full = np.full((len(rows) + len(listed),) * 2, 0.0)
    full[:len(rows), :len(rows)] = matrix
    for k, (_, row) in enumerate(listed, len(rows)):
        full[k, k] = np.nan if row.su is None else row.su**2
    return rows + [(name, row.value, row.unit) for name, row in listed], full


def _function(
    parameters: Mapping[str, ParameterRow], derived: PhaseRow, phase: str
) -> Callable[[Mapping[str, float]], Rows]:
    """The quantities that can be computed from the parameters, as a function of their values."""
    constraints = ordered_constraints([
        Constraint.parse(name, row.constraint, parameters)
        for name, row in parameters.items() if row.constraint is not None])
    cell_of = _cell(parameters, derived, phase)
    pseudo_cubic = "zeta" in derived.quantities
    statistics = {name: row.value for name, row in derived.sizes.items()}
    head = f"{phase}."
    named = {ParameterName(name): row.kind for name, row in parameters.items()}
    sites = [name.site for name, kind in named.items()
             if name.phase == phase and kind is Kind.B_ISO]

    def quantities(values: Mapping[str, float]) -> Rows:
        full = dict(values)
        for constraint in constraints:
            full[constraint.target] = float(constraint.value(full))
        local = {name[len(head):]: value for name, value in full.items() if name.startswith(head)}
        rows: Rows = []
        cell = None if cell_of is None else cell_of(local)
        if cell is not None:
            rows += [("a", cell.a, "Å"), ("b", cell.b, "Å"), ("c", cell.c, "Å"),
                     ("volume", cell.volume, "Å^3")]
            if pseudo_cubic:
                rows += [("a_k", float(pseudo_cubic_edge(cell.a, cell.b, cell.c)), "Å"),
                         ("zeta", float(irreducible_strain(cell.a, cell.b, cell.c)), "")]
        rows += [(name, value, unit) for name, unit, value in size_quantities(local, statistics, cell)]
        return rows + [(f"B_iso({site})", local[f"{site}.B_iso"], "Å^2") for site in sites]

    return quantities


def _cell(
    parameters: Mapping[str, ParameterRow], derived: PhaseRow, phase: str
) -> Callable[[Mapping[str, float]], Cell] | None:
    """The cell as a function of the local parameters of the phase; None for a list of atoms.

    A length or angle that is not a parameter follows the one to which the crystal system makes it
    equal; angles of 90 and 120 degrees are constants.
    """
    stored = derived.cell
    if stored is None:
        return None
    leader = {}
    for name, others in (("b", "a"), ("c", "ab"), ("beta", ("alpha",)),
                         ("gamma", ("alpha", "beta"))):
        if f"{phase}.{name}" in parameters:
            continue
        equal = [other for other in others
                 if f"{phase}.{other}" in parameters and abs(stored[name] - stored[other]) < 1e-9]
        if equal:
            leader[name] = equal[0]

    def cell(local: Mapping[str, float]) -> Cell:
        return Cell(**{name: local.get(leader.get(name, name), value)
                       for name, value in stored.items()})

    return cell
