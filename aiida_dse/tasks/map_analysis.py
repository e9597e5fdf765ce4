"""Analysis of GoF maps, whole or merged from tiles: minima, saddles and uncertainties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aiida_dse.documents.records import Value
from aiida_dse.documents.results import (
    AdaptiveRow,
    BasinRow,
    DeltaChi2Row,
    PointRow,
    QuadraticRow,
    ScanSummary,
)
from aiida_dse.engine.maps.minima import (
    basins,
    profile_interval,
    quadratic_minimum,
)
from aiida_dse.engine.units import FloatArray

#: Largest number of local minima that are listed.
MOST_BASINS = 20


def map_analysis(summary: ScanSummary, arrays: Mapping[str, np.ndarray]) -> ScanSummary:
    """Add the lowest point, the minimum between the points and the basins to a map's summary.

    arrays: arrays of the map by path. Parameters that the map moves or refines get their values at
    the lowest point.
    """
    gof, chi2 = arrays["scan/gof"], arrays["scan/chi2"]
    axes = [arrays[f"scan/axis_{k}"] for k in range(gof.ndim)]
    names = [axis.name for axis in summary.axes]
    at = tuple(int(i) for i in np.unravel_index(int(np.nanargmin(gof)), gof.shape))

    def there(path: str) -> float:
        return float(np.broadcast_to(arrays[path], gof.shape)[at])

    moved = {name: there(f"scan/moved_{k}") for k, name in enumerate(summary.moved)}
    moved |= {name: there(f"scan/refined/{name}") for name in summary.refined}
    minimum = {name: float(axis[i]) for name, axis, i in zip(names, axes, at, strict=True)}
    quantities = [
        row.model_copy(update={"varies": _varies(arrays[f"scan/quantity_{k}"])})
        for k, row in enumerate(summary.quantities)
    ]
    parameters = {
        name: row.model_copy(update={"value": moved[name], "start": row.value})
        if name in moved else row for name, row in summary.parameters.items()
    }
    adaptive = None
    if "scan/evaluated" in arrays:
        computed = int(arrays["scan/evaluated"].sum())
        adaptive = AdaptiveRow(n_evaluated=computed, n_interpolated=summary.n_done - computed)
    edges = [name for name, axis, i in zip(names, axes, at, strict=True)
             if len(axis) > 2 and i in (0, len(axis) - 1)]
    return summary.model_copy(update={
        "minimum": minimum | moved | {"gof": float(gof[at])},
        "minimum_chi2": float(chi2[at]), "n_counted": int(arrays["scan/n_active"][at]),
        "minimum_quantities": {row.name: there(f"scan/quantity_{k}")
                               for k, row in enumerate(quantities)},
        "quantities": quantities, "parameters": parameters, "adaptive": adaptive,
        "quadratic": quadratic_row(names, axes, chi2),
        "basins": basin_rows(names, axes, gof, chi2, summary.n_points_pattern),
        "warnings": [*summary.warnings, *(
            f"The lowest point lies at the edge of the axis {name}. Extend this axis."
            for name in edges)],
    })


def _varies(values: np.ndarray) -> bool:
    """Whether a quantity changes over the map by more than rounding errors."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) and np.ptp(finite) > 1e-9 * max(1.0, float(np.abs(finite).max())))


def quadratic_row(
    names: Sequence[str], axes: Sequence[FloatArray], chi2: FloatArray
) -> QuadraticRow:
    """The minimum of a paraboloid through the lowest points, or the reason why there is none.

    Position, s.u. and correlation follow from the paraboloid, further s.u. from Delta chi2 = 1.
    """
    minimum = quadratic_minimum(axes, chi2)
    if isinstance(minimum, str):
        return QuadraticRow(missing=minimum)
    found = [k for k in range(len(names)) if np.isfinite(minimum.position[k])]
    intervals = {names[k]: profile_interval(axes, chi2, k, minimum) for k in found}
    return QuadraticRow(
        chi2=minimum.chi2,
        position={names[k]: Value(value=float(minimum.position[k]), su=float(minimum.su[k]))
                  for k in found},
        # a paraboloid through points that are many s.u. apart may miss the minimum
        widest_step_in_su=max(
            float(np.diff(axis).mean() / su)
            for axis, su in zip(axes, minimum.su, strict=True) if np.isfinite(su)
        ),
        correlation={
            f"{names[i]}, {names[j]}": float(minimum.correlation[i, j])
            for j in range(len(names)) for i in range(j)
            if np.isfinite(minimum.correlation[i, j])
        },
        delta_chi2={name: DeltaChi2Row(minus=one.minus, plus=one.plus, missing=one.missing)
                    for name, one in intervals.items()},
    )


def basin_rows(
    names: Sequence[str], axes: Sequence[FloatArray], gof: FloatArray, chi2: FloatArray,
    n_points: int,
) -> list[BasinRow]:
    """The local minima, the lowest first, with the saddles towards deeper minima."""

    def where(at: tuple[int, ...]) -> dict[str, float]:
        return {name: float(axis[i]) for name, axis, i in zip(names, axes, at, strict=True)}

    return [
        BasinRow(
            at=where(basin.at), gof=float(gof[basin.at]),
            saddle=None if basin.saddle is None else PointRow(
                at=where(basin.saddle), gof=float(gof[basin.saddle])))
        for basin in basins(chi2, n_points)[:MOST_BASINS]
    ]
