"""The grid of a map: the values of the moved parameters at every point.

A scan depends on these values only, not on the kinds of axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aiida_dse.engine.crystal.structure import COORDINATES
from aiida_dse.engine.model.constraints import Numbers
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.quantities import (
    CrystalQuantity,
    evaluated,
    geometries_of,
)
from aiida_dse.engine.parameters import Changes, Kind, ParameterName, is_pattern, select
from aiida_dse.engine.units import FloatArray

from .axes import (
    Axis,
    MapAxis,
    PathAxis,
    QuantityAxis,
    along_path,
    check_axes,
    is_cheap,
    metric,
    path_unit,
    require_coordinate,
)
from .solving import nearest_solution


@dataclass(frozen=True)
class Coordinate:
    """One axis of a grid: name, values (n,) and unit.

    scale is the length of a path, by which its shares were multiplied, and 1 for other axes.
    """

    name: str
    values: FloatArray
    unit: str
    scale: float = 1.0


@dataclass(frozen=True)
class Grid:
    """The axes of a map, and the values of all parameters that they move.

    Each array of values is broadcastable to the shape of the grid and nan where quantity axes have
    no solution. The `inner` axes do not change the distances. `sources` are the axes from which the
    grid was made; empty if they are unknown.
    """

    axes: tuple[Coordinate, ...]
    moved: dict[str, FloatArray]
    inner: tuple[int, ...]
    sources: tuple[MapAxis, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def outer(self) -> tuple[int, ...]:
        return tuple(k for k in range(len(self.axes)) if k not in self.inner)

    @cached_property
    def unreachable(self) -> np.ndarray:
        """A mask, of the shape of the grid, of points at which quantity axes have no solution."""
        mask = np.zeros(self.shape, dtype=bool)
        for values in self.moved.values():
            mask |= np.isnan(values)
        return mask

    def at(self, index: tuple[int, ...]) -> dict[str, float]:
        """The values of the moved parameters at a grid point."""
        return {
            name: float(values[tuple(i if n > 1 else 0
                                     for i, n in zip(index, values.shape, strict=True))])
            for name, values in self.moved.items()
        }

    def same_points(self, other: Grid) -> bool:
        """Whether both grids have the same axes with the same values."""
        return [a.name for a in self.axes] == [a.name for a in other.axes] and all(
            np.array_equal(a.values, b.values)
            for a, b in zip(self.axes, other.axes, strict=True)
        )


def grid_of(
    model: PatternModel, axes: Sequence[MapAxis], *, start: Mapping[str, float] | None = None,
    refined: Sequence[str] = (), partial: bool = False,
) -> Grid:
    """The grid over the axes; parameters that they do not move stay at `start`.

    `refined` lists the parameters that are refined at every point. Raises ValueError for axes that
    cannot be scanned (see `check_axes`), and for quantities that have no solution at any point,
    unless the grid is `partial`, a tile of a larger one.
    """
    check_axes(model, axes)
    base = model.constrained(dict(start or model.start))
    moving = {name for axis in axes for name in axis.moves}
    local = refinable(model, moving, refined)
    inner = () if local else tuple(
        k for k, axis in enumerate(axes) if all(is_cheap(model, name) for name in axis.moves)
    )
    moved: dict[str, FloatArray] = {}
    named: list[Coordinate] = []
    for k, axis in enumerate(axes):
        along = tuple(-1 if i == k else 1 for i in range(len(axes)))
        if isinstance(axis, PathAxis):
            length, rows = along_path(model, axis, base)
            moved |= {name: values.reshape(along) for name, values in rows.items()}
            name = "path" if not any(a.name == "path" for a in named) else f"path_{k + 1}"
            unit = path_unit(model, axis)
            named.append(Coordinate(name, axis.shares * length, unit, length))
        elif isinstance(axis, QuantityAxis):
            named.append(Coordinate(axis.quantity.full_name, axis.values, axis.quantity.unit))
        elif axis.displacement:
            named.append(Coordinate(f"{axis.parameter} displacement", axis.values, "Å"))
        else:
            moved[axis.parameter] = axis.values.reshape(along)
            parameter = model.parameters.get(axis.parameter)  # None for scales
            unit = parameter.unit if parameter else ""
            named.append(Coordinate(axis.parameter, axis.values, unit))
    for k, axis in enumerate(axes):
        if isinstance(axis, Axis) and axis.displacement:
            along = tuple(-1 if i == k else 1 for i in range(len(axes)))
            edge = _edge(model, axis.parameter, {**base, **moved}, local)
            moved[axis.parameter] = base[axis.parameter] + axis.values.reshape(along) / edge
    sought = [(k, axis) for k, axis in enumerate(axes) if isinstance(axis, QuantityAxis)]
    if sought:
        shape = tuple(1 if k in inner else len(axis.values) for k, axis in enumerate(named))
        moved |= _solved(model, sought, base, moved, shape, local, partial)
    return Grid(tuple(named), moved, inner, tuple(axes))


def refinable(model: PatternModel, moving: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The parameters that `patterns` select for refinement at every point of a grid.

    Parameters that the grid moves or that are constrained are left out. Raises ValueError for
    unknown names.
    """
    for pattern in patterns:
        if not is_pattern(pattern):
            model.require(pattern)
    blocked = set(moving) | {constraint.target for constraint in model.constraints}
    return [n for n in select(patterns, list(model.parameters)) if n not in blocked]


def _edge(
    model: PatternModel, name: str, values: Mapping[str, Numbers], local: Sequence[str]
) -> FloatArray:
    """The length (Å) of the cell edge along a coordinate, at each point."""
    phase = require_coordinate(model, name)
    edges = geometries_of(model, phase, values).edges
    for other in local:
        if model.parameters[other].kind is Kind.CELL_LENGTH and model.phase_of(other) is phase:
            raise ValueError(
                f"'{other}' is refined at every point, which would change the displacement of "
                f"'{name}'. Scan the coordinate '{name}' itself: omit the 'unit' of its axis."
            )
    return edges[COORDINATES.index(ParameterName(name).quantity)]


def _solved(
    model: PatternModel, sought: Sequence[tuple[int, QuantityAxis]], base: Mapping[str, float],
    moved: Mapping[str, FloatArray], shape: tuple[int, ...], local: Sequence[str], partial: bool,
) -> dict[str, FloatArray]:
    """The varied parameters (of `shape`) at which all quantity axes have their values.

    Raises ValueError for more conditions than varied parameters, for quantities that do not change
    to first order and, unless the grid is `partial`, where no point has a solution.
    """
    axes = [axis for _, axis in sought]
    names = list(dict.fromkeys(name for axis in axes for name in axis.vary))
    held = list({q.full_name: q for axis in axes for q in axis.hold}.values())
    pairs = list({(a.full_name, b.full_name): (a, b) for axis in axes for a, b in axis.equal}
                 .values())
    quantities = [*[axis.quantity for axis in axes], *held, *[q for pair in pairs for q in pair]]
    n_targets = len(axes) + len(held)
    n_conditions = n_targets + len(pairs)
    if n_conditions > len(names):
        raise ValueError(
            f"{n_conditions} conditions ({', '.join(q.full_name for q in quantities)}) cannot be "
            f"met by moving only {len(names)} parameters ({', '.join(names)}). Vary more "
            "parameters, or hold fewer quantities."
        )

    def conditions(values: Mapping[str, Numbers]) -> list[FloatArray]:
        computed = evaluated(model, quantities, values)
        differences = [computed[n_targets + 2 * k] - computed[n_targets + 2 * k + 1]
                       for k in range(len(pairs))]
        return [*computed[:n_targets], *differences]

    _check_unmoved(model, quantities, base, local)
    targets = [np.broadcast_to(axis.values.reshape(tuple(-1 if i == k else 1
                                                         for i in range(len(shape)))), shape)
               for k, axis in sought]
    at_start = conditions(base)
    targets += [np.full(shape, float(value)) for value in at_start[len(axes):n_targets]]
    targets += [np.zeros(shape)] * len(pairs)
    others = {
        name: np.broadcast_to(values, shape).ravel() for name, values in moved.items()
        if name in model.parameters and all(n == 1 or s > 1 for n, s in
                                            zip(values.shape, shape, strict=True))
    }

    def along(shift: FloatArray, points: np.ndarray) -> FloatArray:
        values = dict(base) | {name: column[points] for name, column in others.items()} | {
            name: base[name] + shift[:, i] for i, name in enumerate(names)
        }
        columns = [np.broadcast_to(c, (len(points),)) for c in conditions(values)]
        return np.stack(columns, axis=-1)

    wanted = np.stack([t.ravel() for t in targets], axis=-1)
    solution = nearest_solution(along, wanted, metric(model, names, base))
    for k, axis in enumerate(axes):
        if solution.undetermined[k]:
            raise ValueError(
                f"'{axis.quantity.full_name}' does not change, to first order, when "
                f"{', '.join(names)} move from their starting values. Vary other parameters, or "
                "start away from the symmetric position."
            )
    if not partial and not np.isfinite(solution.shift).any():
        reached = ", ".join(
            f"{axis.quantity.full_name} is {float(at_start[k]):.6g} at the start and at best "
            f"{solution.closest[k]:.6g} {axis.quantity.unit}"
            for k, axis in enumerate(axes)
        )
        raise ValueError(
            f"no point of the grid can be reached by moving {', '.join(names)}: {reached}. Choose "
            "values nearer to these, or vary more parameters."
        )
    return {name: (base[name] + solution.shift[:, i]).reshape(shape)
            for i, name in enumerate(names)}


def _check_unmoved(
    model: PatternModel, quantities: Sequence[CrystalQuantity], base: Mapping[str, float],
    local: Sequence[str],
) -> None:
    """Raise ValueError for parameters refined at every point that would change the quantities."""
    for name in local:
        if model.parameters[name].kind.spec.changes is not Changes.DISTANCES:
            continue
        moved = dict(base) | {name: base[name] + model.parameters[name].shift}
        for quantity, before, after in zip(
            quantities, evaluated(model, quantities, base), evaluated(model, quantities, moved),
            strict=True,
        ):
            if abs(float(after - before)) > 1e-9 * max(1.0, abs(float(before))):
                raise ValueError(
                    f"'{name}' is refined at every point, which would change "
                    f"'{quantity.full_name}'. Remove it from 'refine', or add it to 'vary'."
                )


def quantities_on(
    model: PatternModel, grid: Grid, quantities: Sequence[CrystalQuantity],
    refined: Mapping[str, FloatArray], start: Mapping[str, float],
) -> list[FloatArray]:
    """Each quantity over the grid, with length 1 along the axes that do not change it."""
    moved = {name: values for name, values in (grid.moved | dict(refined)).items()
             if name in model.parameters}
    values = model.constrained_grid({**start, **moved})
    computed = evaluated(model, quantities, values)
    return [f if f.ndim else f.reshape((1,) * len(grid.axes)) for f in computed]
