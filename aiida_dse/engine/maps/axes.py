"""Axes of a map: parameters, displacements, paths and derived quantities.

Displacements and paths move parameters along given lines; the values of a derived quantity (angle,
distance, volume) are reached by solving for the parameters that yield them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.model.constraints import followers
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.quantities import CrystalQuantity
from aiida_dse.engine.parameters import Kind, require_possible
from aiida_dse.engine.units import FloatArray

#: Largest number of points of the grid of one scan.
MAX_POINTS = 5_000_000


@dataclass(frozen=True)
class Axis:
    """An axis of a parameter, with its values (n,) in the unit of the parameter.

    With `displacement` the values are displacements in Å of a coordinate from its starting value
    along its cell edge, in the cell of the grid point.
    """

    parameter: str
    values: FloatArray
    displacement: bool = False

    @property
    def moves(self) -> tuple[str, ...]:
        return (self.parameter,)


@dataclass(frozen=True)
class PathAxis:
    """An axis along straight lines from corner to corner; `shares` (n,) of its length, 0 to 1.

    Parameters that a corner does not name have their starting value there. The length of a path of
    coordinates is Cartesian (Å), measured in the starting cell: sqrt(sum over sites |A dx|^2) for
    each line; that of other parameters, all of one unit, is Euclidean in this unit.
    """

    corners: tuple[Mapping[str, float], ...]
    shares: FloatArray

    @property
    def moves(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for corner in self.corners for name in corner))


@dataclass(frozen=True)
class QuantityAxis:
    """An axis of a derived quantity; its values (n,) are reached by moving the parameters `vary`.

    The quantities `hold` keep their starting values, and the two quantities of each pair in `equal`
    stay equal. All quantity axes of a grid are solved together, after the other axes have moved the
    cell, and the solution is that nearest to the starting values (Cartesian distance for
    coordinates).
    """

    quantity: CrystalQuantity
    values: FloatArray
    vary: tuple[str, ...]
    hold: tuple[CrystalQuantity, ...] = ()
    equal: tuple[tuple[CrystalQuantity, CrystalQuantity], ...] = ()

    @property
    def moves(self) -> tuple[str, ...]:
        return self.vary


MapAxis = Axis | PathAxis | QuantityAxis


def check_axes(model: PatternModel, axes: Sequence[MapAxis]) -> None:
    """Raise ValueError for axes that cannot be scanned.

    These are unknown, constrained or repeated parameters, impossible values and too large grids.
    """
    if not 1 <= len(axes) <= 4:
        raise ValueError(f"the scan has {len(axes)} axes; it must have one to four.")
    n_points = np.prod([float(len(_numbers(axis))) for axis in axes])
    if n_points > MAX_POINTS:
        raise ValueError(
            f"the grid has {n_points:.3g} points; the limit is {MAX_POINTS:.3g}. Use larger steps "
            "or a smaller range, and then a finer grid around the minimum."
        )
    constrained = {constraint.target: constraint for constraint in model.constraints}
    scales = {model.scale_name(phase) for phase in model.phases}
    taken: dict[str, MapAxis] = {}
    for axis in axes:
        for name in axis.moves:
            if name in taken and not (
                isinstance(axis, QuantityAxis) and isinstance(taken[name], QuantityAxis)
            ):
                raise ValueError(f"'{name}' is scanned on two axes. Use different ones.")
            taken[name] = axis
            if name in scales and isinstance(axis, Axis) and not axis.displacement:
                if np.min(axis.values) < 0:
                    raise ValueError(
                        f"{name} is a scale and cannot be negative, but its values start at "
                        f"{np.min(axis.values):g}. Correct the values."
                    )
                continue
            parameter = model.require(name)
            if name in constrained:
                raise ValueError(
                    f"'{name}' is constrained to '{constrained[name].expression}'. Scan a "
                    "parameter of that expression, or remove the constraint."
                )
            if isinstance(axis, Axis) and axis.displacement:
                require_coordinate(model, name)
            else:
                values = (axis.values if isinstance(axis, Axis) else
                          [c[name] for c in axis.corners if name in c]
                          if isinstance(axis, PathAxis) else [parameter.value])
                require_possible(name, parameter.kind, float(np.min(values)), float(np.max(values)))
        if isinstance(axis, QuantityAxis):
            _check_quantity(axis)
    names = [axis.quantity.full_name for axis in axes if isinstance(axis, QuantityAxis)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is scanned on two axes. Use different ones.")


def _numbers(axis: MapAxis) -> FloatArray:
    return axis.shares if isinstance(axis, PathAxis) else axis.values


def require_coordinate(model: PatternModel, name: str) -> CrystalPhase:
    """The phase of a fractional coordinate; ValueError where `name` is another parameter."""
    if model.require(name).kind is not Kind.COORDINATE:
        raise ValueError(
            f"'{name}' is not a fractional coordinate, so it cannot be displaced in Å. Omit the "
            "'unit' of the axis."
        )
    phase = model.phase_of(name)
    assert isinstance(phase, CrystalPhase)
    return phase


def _check_quantity(axis: QuantityAxis) -> None:
    name, (low, high) = axis.quantity.full_name, axis.quantity.limits
    if not low <= np.min(axis.values) <= np.max(axis.values) <= high:
        raise ValueError(
            f"{name} would run from {np.min(axis.values):g} to {np.max(axis.values):g} "
            f"{axis.quantity.unit}, but only values from {low:g} to {high:g} are possible. Correct "
            "the values."
        )
    if not axis.vary:
        raise ValueError(
            f"the axis of '{name}' has no 'vary'. Specify there the parameters that are moved to "
            "reach a value."
        )
    for first, second in axis.equal:
        if first.unit != second.unit:
            raise ValueError(
                f"'{first.full_name}' ({first.unit}) and '{second.full_name}' ({second.unit}) "
                "cannot be equal, because their units differ. Name two quantities of one unit."
            )


def along_path(
    model: PatternModel, axis: PathAxis, base: Mapping[str, float]
) -> tuple[float, dict[str, FloatArray]]:
    """The length of a path, and the values of its parameters at the points of the axis.

    Raises ValueError for fewer than two corners, and for two successive corners that are equal.
    """
    if len(axis.corners) < 2:
        raise ValueError(f"the path has {len(axis.corners)} corners; it must have at least two.")
    names = axis.moves
    corners = np.array([[corner.get(name, base[name]) for name in names]
                        for corner in axis.corners])
    steps = np.diff(corners, axis=0)
    lengths = np.sqrt(np.einsum("ki,ij,kj->k", steps, _path_metric(model, axis, base), steps))
    if not (lengths > 1e-9).all():
        k = int(np.argmin(lengths))
        raise ValueError(
            f"corners {k + 1} and {k + 2} of the path are the same point. Remove one of them."
        )
    reached = np.concatenate([[0.0], np.cumsum(lengths)])
    at = axis.shares * reached[-1]
    return float(reached[-1]), {
        name: np.interp(at, reached, corners[:, i]) for i, name in enumerate(names)
    }


def path_unit(model: PatternModel, axis: PathAxis) -> str:
    """The unit of the length of a path; ValueError for parameters without a common unit."""
    units = {"coordinate" if _is_coordinate(model, name) else model.parameters[name].unit
             for name in axis.moves}
    if len(units) > 1:
        raise ValueError(
            f"the path has no length, because the parameters {', '.join(axis.moves)} have no "
            "common unit. Move only coordinates, or only parameters of one unit, and constrain the "
            "others to them."
        )
    unit = units.pop()
    return "Å" if unit == "coordinate" else unit


def _path_metric(
    model: PatternModel, axis: PathAxis, base: Mapping[str, float]
) -> FloatArray:
    if _is_coordinate(model, axis.moves[0]) and path_unit(model, axis) == "Å":
        return metric(model, axis.moves, base)
    return np.eye(len(axis.moves))


def _is_coordinate(model: PatternModel, name: str) -> bool:
    return model.parameters[name].kind is Kind.COORDINATE


def metric(model: PatternModel, names: Sequence[str], base: Mapping[str, float]) -> FloatArray:
    """The metric G (n, n) of parameter shifts: |shift|^2 = shift G shift in Å^2.

    Shifts of coordinates are Cartesian shifts of their sites, those of cell edges are in Å, and
    the natural step of any other parameter counts as 0.01 Å.
    """
    tensor = np.zeros((len(names), len(names)))
    columns: dict[int, FloatArray] = {}
    for i, name in enumerate(names):
        parameter = model.parameters[name]
        if parameter.kind is not Kind.COORDINATE:
            is_length = parameter.kind is Kind.CELL_LENGTH
            tensor[i, i] = 1.0 if is_length else (1e-2 / parameter.shift) ** 2
            continue
        phase, local = model.phase_of(name), parameter.name.local
        assert isinstance(phase, CrystalPhase)
        here = model.local(model.phases.index(phase), base)
        step = phase.site_positions(here | {local: here[local] + 1.0}) - phase.site_positions(here)
        columns[i] = (step @ phase.geometry(here)[0].T).ravel()
        for j, other in columns.items():
            if model.phase_of(names[j]) is phase:
                tensor[i, j] = tensor[j, i] = columns[i] @ other
    return tensor


def is_cheap(model: PatternModel, name: str) -> bool:
    """Whether neither a parameter nor those constrained to it change the distances."""
    if name not in model.parameters:
        return True
    touched = [name, *followers(model.constraints, [name])]
    return not any(model.parameters[n].kind.spec.changes.moves_distances for n in touched)
