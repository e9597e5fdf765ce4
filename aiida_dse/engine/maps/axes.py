"""Axes of a map: parameters, displacements, paths and derived quantities.

A path and a displacement are coordinates of the parameters they move; a quantity (angle,
distance, volume) takes its values by moving parameters until it has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.model.constraints import followers
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import CrystalPhase
from aiida_dse.engine.model.quantities import CrystalQuantity
from aiida_dse.engine.parameters import Kind, require_possible
from aiida_dse.engine.units import FloatArray

#: The largest grid one scan accepts.
MAX_POINTS = 5_000_000


@dataclass(frozen=True)
class Axis:
    """A parameter and the values it takes, (n,) in the parameter's unit.

    With `displacement` the values are Å from the coordinate's starting value along its cell edge,
    at the cell of the grid point.
    """

    parameter: str
    values: FloatArray
    displacement: bool = False

    @property
    def moves(self) -> tuple[str, ...]:
        return (self.parameter,)


@dataclass(frozen=True)
class PathAxis:
    """Straight lines from corner to corner; `shares` (n,) of the whole length, 0 to 1.

    Parameters that a corner does not name are at their start there. The length of a path of
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
    """A derived quantity and the values it takes, (n,), met by moving the parameters `vary`.

    The quantities `hold` keep their starting value and the pairs `equal` are equal to each other.
    All quantity axes of a grid are met together, by the solution nearest to the start (Cartesian
    distance for coordinates), once the other axes have moved the cell.
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
    """Raise ValueError for axes that cannot be scanned: unknown, constrained, repeated, out of reach."""
    if not 1 <= len(axes) <= 3:
        raise ValueError(f"a scan has one to three axes, not {len(axes)}.")
    n_points = np.prod([float(len(_numbers(axis))) for axis in axes])
    if n_points > MAX_POINTS:
        raise ValueError(
            f"the grid has {n_points:.3g} points; the limit is {MAX_POINTS:.3g}. Use larger steps "
            "or a smaller range, then refine the grid around the minimum."
        )
    constrained = {constraint.target: constraint for constraint in model.constraints}
    scales = {model.scale_name(phase) for phase in model.phases}
    taken: dict[str, MapAxis] = {}
    for axis in axes:
        for name in axis.moves:
            if name in taken and not (
                isinstance(axis, QuantityAxis) and isinstance(taken[name], QuantityAxis)
            ):
                raise ValueError(f"'{name}' is scanned on two axes; each needs its own.")
            taken[name] = axis
            if name in scales and isinstance(axis, Axis) and not axis.displacement:
                if np.min(axis.values) < 0:
                    raise ValueError(f"{name} cannot be negative ({np.min(axis.values):g}).")
                continue
            parameter = model.require(name)
            if name in constrained:
                raise ValueError(
                    f"'{name}' is constrained to '{constrained[name].expression}'; scan one of its sources, or "
                    "remove the constraint."
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
            raise ValueError(f"'{name}' is scanned on two axes; each needs its own.")


def _numbers(axis: MapAxis) -> FloatArray:
    return axis.shares if isinstance(axis, PathAxis) else axis.values


def require_coordinate(model: PatternModel, name: str) -> CrystalPhase:
    """The phase whose fractional coordinate it is."""
    if model.require(name).kind is not Kind.COORDINATE:
        raise ValueError(
            f"'{name}' is not a fractional coordinate, so it cannot be displaced in Å. Leave out "
            "the axis's 'unit'."
        )
    phase = model.phase_of(name)
    assert isinstance(phase, CrystalPhase)
    return phase


def _check_quantity(axis: QuantityAxis) -> None:
    name, (low, high) = axis.quantity.full_name, axis.quantity.limits
    if not low <= np.min(axis.values) <= np.max(axis.values) <= high:
        raise ValueError(
            f"{name} would run from {np.min(axis.values):g} to {np.max(axis.values):g} "
            f"{axis.quantity.unit}, but only {low:g} to {high:g} is possible. Correct the values."
        )
    if not axis.vary:
        raise ValueError(f"'{name}' needs 'vary': the parameters that are moved to reach a value.")
    for first, second in axis.equal:
        if first.unit != second.unit:
            raise ValueError(
                f"'{first.full_name}' ({first.unit}) and '{second.full_name}' ({second.unit}) "
                "cannot be equal. Name two quantities of one unit."
            )


def along_path(
    model: PatternModel, axis: PathAxis, base: Mapping[str, float]
) -> tuple[float, dict[str, FloatArray]]:
    """The path's length and the values of its parameters at the axis's points."""
    if len(axis.corners) < 2:
        raise ValueError(f"a path has at least two corners, not {len(axis.corners)}.")
    names = axis.moves
    corners = np.array([[corner.get(name, base[name]) for name in names]
                        for corner in axis.corners])
    steps = np.diff(corners, axis=0)
    lengths = np.sqrt(np.einsum("ki,ij,kj->k", steps, _path_metric(model, axis, base), steps))
    if not (lengths > 1e-9).all():
        k = int(np.argmin(lengths))
        raise ValueError(f"corners {k + 1} and {k + 2} of the path are the same point.")
    reached = np.concatenate([[0.0], np.cumsum(lengths)])
    at = axis.shares * reached[-1]
    return float(reached[-1]), {
        name: np.interp(at, reached, corners[:, i]) for i, name in enumerate(names)
    }


def path_unit(model: PatternModel, axis: PathAxis) -> str:
    units = {"coordinate" if _is_coordinate(model, name) else model.parameters[name].unit
             for name in axis.moves}
    if len(units) > 1:
        raise ValueError(
            f"the path moves {', '.join(axis.moves)}, which have no unit in common, so it has no "
            "length. Move coordinates only or parameters of one unit, and constrain the others to "
            "them."
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
    """G (n, n) with |shift|^2 = shift G shift in Å^2: Cartesian for the sites of coordinates.

    Cell edges count as they are, other parameters by their natural step for 1e-3 of an edge.
    """
    found = np.zeros((len(names), len(names)))
    columns: dict[int, FloatArray] = {}
    for i, name in enumerate(names):
        parameter = model.parameters[name]
        if parameter.kind is not Kind.COORDINATE:
            is_length = parameter.kind is Kind.CELL_LENGTH
            found[i, i] = 1.0 if is_length else (1e-2 / parameter.shift) ** 2
            continue
        phase, local = model.phase_of(name), parameter.name.local
        assert isinstance(phase, CrystalPhase)
        here = model.local(model.phases.index(phase), base)
        step = phase.site_positions(here | {local: here[local] + 1.0}) - phase.site_positions(here)
        columns[i] = (step @ phase.geometry(here)[0].T).ravel()
        for j, other in columns.items():
            if model.phase_of(names[j]) is phase:
                found[i, j] = found[j, i] = columns[i] @ other
    return found


def is_cheap(model: PatternModel, name: str) -> bool:
    """Whether a parameter, and all that is constrained to it, leaves the distances alone."""
    if name not in model.parameters:
        return True
    touched = [name, *followers(model.constraints, [name])]
    return not any(model.parameters[n].kind.spec.changes.moves_distances for n in touched)
