"""What a finished GoF map says, as plain values: the same for one job or many tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from aiida_dse.engine.maps.minima import LARGEST_FLOOD, basins, profile_interval, quadratic_minimum
from aiida_dse.engine.units import FloatArray


def map_analysis(
    summary: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What the arrays of a finished map say besides its lowest point: see `analysed`; the derived
    quantities there ('minimum_quantities'); of an adaptive map, how many points were computed."""
    gof, chi2 = arrays["scan/gof"], arrays["scan/chi2"]
    axes = [arrays[f"scan/axis_{k}"] for k in range(gof.ndim)]
    found = analysed(summary["axes"], axes, gof, chi2, summary["n_points_pattern"])
    lowest = np.unravel_index(int(np.nanargmin(gof)), gof.shape)
    found["minimum_quantities"] = {
        row["name"]: float(np.broadcast_to(arrays[f"scan/quantity_{k}"], gof.shape)[lowest])
        for k, row in enumerate(summary["quantities"])
    }
    found["quantities"] = [
        row | {"varies": _varies(arrays[f"scan/quantity_{k}"])}
        for k, row in enumerate(summary["quantities"])
    ]
    if "scan/evaluated" in arrays:
        computed = int(arrays["scan/evaluated"].sum())
        found["adaptive"] = {"n_evaluated": computed,
                             "n_interpolated": summary["n_done"] - computed}
    return found


def _varies(values: np.ndarray) -> bool:
    """Whether a quantity changes over the map by more than rounding."""
    known = values[np.isfinite(values)]
    return bool(len(known) and np.ptp(known) > 1e-9 * max(1.0, float(np.abs(known).max())))


def analysed(
    names: Sequence[str], axes: Sequence[FloatArray], gof: FloatArray, chi2: FloatArray,
    n_points: int,
) -> dict[str, Any]:
    """'quadratic': position, s.u. and correlation of the minimum, and its s.u. from Delta chi2 = 1,
    or the reason for none; 'basins': the local minima with the saddles towards deeper ones."""
    found: dict[str, Any] = {}
    minimum = quadratic_minimum(axes, chi2)
    if isinstance(minimum, str):
        found["quadratic"] = {"missing": minimum}
    else:
        found["quadratic"] = {
            "chi2": minimum.chi2,
            "position": {
                name: {"value": float(value), "su": float(su)}
                for name, value, su in zip(names, minimum.position, minimum.su, strict=True)
                if np.isfinite(value)
            },
            # a paraboloid through points many s.u. apart is not the bottom of the valley
            "widest_step_in_su": max(
                float(np.diff(axis).mean() / su)
                for axis, su in zip(axes, minimum.su, strict=True) if np.isfinite(su)
            ),
            "correlation": {
                f"{names[i]}, {names[j]}": float(minimum.correlation[i, j])
                for j in range(len(names)) for i in range(j)
                if np.isfinite(minimum.correlation[i, j])
            },
            "delta_chi2": {
                name: asdict(profile_interval(axes, chi2, k, minimum))
                for k, name in enumerate(names) if np.isfinite(minimum.position[k])
            },
        }
    if gof.size <= LARGEST_FLOOD:
        found["basins"] = [
            _point(names, axes, gof, basin.at)
            | ({} if basin.saddle is None
               else {"saddle": _point(names, axes, gof, basin.saddle)})
            for basin in basins(chi2, n_points)[:20]
        ]
    return found


def _point(
    names: Sequence[str], axes: Sequence[FloatArray], gof: FloatArray, at: tuple[int, ...]
) -> dict[str, Any]:
    where = {name: float(axis[i]) for name, axis, i in zip(names, axes, at, strict=True)}
    return {"at": where, "gof": float(gof[at])}
