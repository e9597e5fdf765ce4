"""Slices of GoF maps: the same map at chosen values of some of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aiida_dse.documents.results import ScanSummary
from aiida_dse.documents.status import Task
from aiida_dse.engine.parameters import closest
from aiida_dse.io.results import Result
from aiida_dse.tasks.map_analysis import map_analysis


def sliced(
    result: Result[Any], at: Mapping[str, float]
) -> tuple[Result[ScanSummary], dict[str, float]]:
    """The map at the grid values nearest to `at` (by axis), with its own minimum and basins.

    Also these grid values, by axis. Raises ValueError for results of other tasks, unknown
    axes, values outside the grid, and where no axis would remain.
    """
    if result.task is not Task.SCAN:
        raise ValueError(f"the result is of task '{result.task}'; only maps have slices.")
    summary: ScanSummary = result.summary
    names = [axis.name for axis in summary.axes]
    chosen: dict[int, int] = {}
    for name, value in at.items():
        full = next((one for one in names if name in (one, summary.parts(one)[1])), None)
        if full is None:
            raise ValueError(f"the map has no axis '{name}'{closest(name, names)}; its axes are "
                             f"{', '.join(names)}.")
        k = names.index(full)
        values = result.arrays[f"scan/axis_{k}"]
        half = np.abs(np.diff(values)).max() / 2 if len(values) > 1 else 0.0
        if not values.min() - half - 1e-9 <= value <= values.max() + half + 1e-9:
            raise ValueError(f"{full} = {value:g} is outside the map, whose values of this axis range "
                             f"from {values.min():g} to {values.max():g}. Choose a value in this range.")
        chosen[k] = int(np.argmin(np.abs(values - value)))
    kept = [k for k in range(len(names)) if k not in chosen]
    if not kept:
        raise ValueError("at least one axis of the map must remain. Fix fewer axes.")
    arrays: dict[str, np.ndarray] = {}
    for path, values in result.arrays.items():
        if path.startswith("scan/axis_"):
            k = int(path.rpartition("_")[2])
            if k in kept:
                arrays[f"scan/axis_{kept.index(k)}"] = values
        elif path.startswith("scan/"):
            # arrays have length 1 along axes that do not change them
            index = tuple(slice(None) if k in kept else min(chosen[k], n - 1)
                          for k, n in enumerate(values.shape))
            arrays[path] = values[index]
    gof = arrays["scan/gof"]
    done = int(np.isfinite(gof).sum())
    part = summary.model_copy(update={
        "axes": [summary.axes[k] for k in kept], "shape": list(gof.shape), "n_done": done,
        "minimum": None, "quadratic": None, "basins": [], "warnings": [],
        "parameters": {
            name: row if row.start is None else row.model_copy(
                update={"value": row.start, "start": None})
            for name, row in summary.parameters.items()},
    })
    fixed = {names[k]: float(result.arrays[f"scan/axis_{k}"][i]) for k, i in chosen.items()}
    return Result(map_analysis(part, arrays) if done else part, arrays), fixed
