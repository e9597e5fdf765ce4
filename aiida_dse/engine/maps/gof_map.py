"""A GoF map and the progress of its computation, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.units import FloatArray

from .grid import Coordinate, Grid


@dataclass(frozen=True)
class ScanProgress:
    """Progress of a scan: points with a value, and geometries whose patterns were computed."""

    done: int
    total: int
    best_gof: float
    best_at: tuple[float, ...]
    elapsed: float
    computed: int = 0

    @property
    def remaining(self) -> float:
        """Estimated seconds to the end."""
        return self.elapsed / max(1, self.done) * (self.total - self.done)


@dataclass(frozen=True)
class Interpolation:
    """How a map was interpolated: nodes of each axis (None: own values), exact geometries, error.

    `error` is the largest relative difference in GoF between the interpolated map and n_checked
    points that were also computed exactly.
    """

    nodes: tuple[int | None, ...]
    n_exact: int
    n_checked: int
    error: float


@dataclass(frozen=True)
class GofMap:
    """A map of GoF and chi2 on a grid; nan at points without a value.

    gof, chi2 and n_active have the shape of the grid (n_1, ..., n_k), and so have the arrays in
    `refined`, the parameters refined at each point. n_active counts the linear coefficients and
    the parameters refined at each point. `evaluated` is a mask of the points that an adaptive scan
    computed rather than interpolated (None: all points with a value). `interpolation` describes a
    map that was interpolated from exact patterns; it is None where every point was computed, for
    the reason in `direct_reason`.
    """

    grid: Grid
    gof: FloatArray
    chi2: FloatArray
    n_active: FloatArray
    refined: dict[str, FloatArray]
    n_points: int
    seconds: float
    stop_reason: str
    evaluated: np.ndarray | None = None
    interpolation: Interpolation | None = None
    direct_reason: str = ""

    @property
    def axes(self) -> tuple[Coordinate, ...]:
        return self.grid.axes

    @property
    def complete(self) -> bool:
        """Whether every point that can be reached has a value."""
        return bool((np.isfinite(self.gof) | self.grid.unreachable).all())

    @property
    def lowest(self) -> tuple[int, ...]:
        """The index of the grid point with the lowest GoF."""
        return tuple(int(i) for i in
                     np.unravel_index(int(np.nanargmin(self.gof)), self.gof.shape))

    @property
    def minimum(self) -> dict[str, float]:
        """The values at the lowest GoF: axes, moved parameters, refined parameters and 'gof'."""
        at = self.lowest
        values = {axis.name: float(axis.values[k]) for axis, k in zip(self.axes, at, strict=True)}
        values |= self.grid.at(at)
        values |= {name: float(refined[at]) for name, refined in self.refined.items()}
        return values | {"gof": float(self.gof[at])}
