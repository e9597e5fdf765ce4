"""dse.grid_search: a GoF map in tiles that run side by side, merged into one map."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from aiida.engine import ExitCode, ToContext, WorkChain, calcfunction, while_
from aiida.engine.processes.workchains.workchain import WorkChainSpec
from aiida.orm import ArrayData, Dict, Float, Int

from aiida_dse.calculations.engine import ScanCalculation
from aiida_dse.data.results import arrays_of, best_rows, nested_values
from aiida_dse.documents import parse_document
from aiida_dse.tasks.maps import analysed

#: Axes that a scan sweeps without touching distances; never the ones to cut.
CHEAP_SUFFIXES = (".B", ".occupancy", ".scale")
MAX_TILES = 200


def tile_models(model: dict[str, Any], n_tiles: int) -> list[dict[str, Any]]:
    """The document cut into at most n_tiles, along its longest axis that moves distances.

    Every tile is a document of its own whose axes list their values, so that a tile computed
    before is found again in the cache.
    """
    plan = parse_document(model).scan
    assert plan is not None
    values = [axis.points().tolist() for axis in plan.axes]
    costly = [k for k, axis in enumerate(plan.axes)
              if plan.refine or not axis.parameter.endswith(CHEAP_SUFFIXES)]
    cut = max(costly or range(len(values)), key=lambda k: len(values[k]))
    tiles = []
    for part in np.array_split(values[cut], min(n_tiles, len(values[cut]))):
        axes = [
            {"parameter": axis.parameter, "values": part.tolist() if k == cut else values[k]}
            for k, axis in enumerate(plan.axes)
        ]
        tiles.append(model | {"scan": {**model["scan"], "axes": axes}})
    return tiles


@calcfunction
def cut_grid(model: Dict, n_tiles: Int) -> dict[str, Dict]:
    """The tiles of a grid, as model documents tile_0, tile_1, ..."""
    tiles = tile_models(model.get_dict(), n_tiles.value)
    return {f"tile_{k}": Dict(tile) for k, tile in enumerate(tiles)}


@calcfunction
def merge_tiles(model: Dict, **tiles: Any) -> dict[str, Any]:
    """The whole map from its tiles: arrays gof, chi2, axis_<k> and refined values, and a summary.

    Tiles come as tile_<n>_arrays and tile_<n>_result; a missing tile leaves nan.
    """
    plan = parse_document(model.get_dict()).scan
    assert plan is not None
    axes = [axis.points() for axis in plan.axes]
    shape = tuple(len(axis) for axis in axes)
    merged: dict[str, np.ndarray] = {}
    seconds, summary = 0.0, {}
    for key in sorted(name for name in tiles if name.endswith("_arrays")):
        arrays = arrays_of(tiles[key])
        summary = tiles[key.removesuffix("_arrays") + "_result"].get_dict()
        seconds += summary["seconds"]
        where = np.ix_(
            *[np.searchsorted(axis, arrays[f"scan/axis_{k}"] - 1e-12)
              for k, axis in enumerate(axes)]
        )
        for path, values in arrays.items():
            if path.startswith("scan/axis_"):
                continue
            name = path.removeprefix("scan/").replace("/", "_").replace(".", "_")
            merged.setdefault(name, np.full(shape, np.nan))[where] = values
    if not merged:
        raise ValueError("no tile finished: there is nothing to merge")
    node = ArrayData()
    for name, values in merged.items():
        node.set_array(name, values)
    for k, axis in enumerate(axes):
        node.set_array(f"axis_{k}", axis)
    names = [axis.parameter for axis in plan.axes]
    node.base.attributes.set("axes", names)
    at = np.unravel_index(int(np.nanargmin(merged["gof"])), shape)
    minimum = {name: float(axis[i]) for name, axis, i in zip(names, axes, at, strict=True)}
    edge = [name for name, axis, i in zip(names, axes, at, strict=True)
            if len(axis) > 2 and i in (0, len(axis) - 1)]
    for name in summary["refined"]:
        minimum[name] = float(merged["refined_" + name.replace(".", "_")][at])
    kept = ("schema", "title", "sample", "phases", "structures", "space_groups", "data",
            "engine_version", "libraries", "tables", "refined", "parameters", "n_points_pattern")
    n_done = int(np.isfinite(merged["gof"]).sum())
    warnings = [f"the minimum lies at the edge of the axis {name}: extend it" for name in edge]
    result = {key: summary[key] for key in kept if key in summary} | {
        "task": "scan", "status": "complete" if n_done == math.prod(shape) else "partial",
        "stop_reason": f"{n_done} of {math.prod(shape)} points", "axes": names,
        "shape": list(shape), "n_done": n_done, "seconds": seconds,
        "minimum": minimum | {"gof": float(merged["gof"][at])}, "warnings": warnings,
    } | analysed(names, axes, merged["gof"], merged["chi2"], summary["n_points_pattern"])
    result["values"] = nested_values(best_rows(result))
    return {"map": node, "result": Dict(result)}


class GridSearchWorkChain(WorkChain):
    """Cut the grid into tiles, run up to max_concurrent of them at a time, merge them."""

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:  # type: ignore[override]
        super().define(spec)
        spec.expose_inputs(ScanCalculation, namespace="scan", exclude=("finished",))
        spec.input("max_concurrent", valid_type=Int, default=lambda: Int(2),
                   help="Tiles that run at the same time.")
        spec.input("tile_seconds", valid_type=Float, default=lambda: Float(60.0),
                   help="Aimed duration of a tile.")
        spec.input("seconds_per_point", valid_type=Float, default=lambda: Float(0.01),
                   help="Estimated cost of a grid point that moves distances.")
        spec.input("max_attempts", valid_type=Int, default=lambda: Int(3),
                   help="Runs of a tile before it is given up.")
        spec.inputs["max_concurrent"].validator = _at_least_one
        spec.inputs["max_attempts"].validator = _at_least_one
        spec.inputs["tile_seconds"].validator = _positive
        spec.inputs["seconds_per_point"].validator = _positive
        spec.outline(
            cls.cut,
            while_(cls.tiles_left)(cls.run_tiles, cls.inspect_tiles),
            cls.merge,
        )
        spec.output("map", valid_type=ArrayData, help="gof, chi2, axis_0 ... and refined values.")
        spec.output("result", valid_type=Dict, help="Minimum, axes, sample and versions.")
        spec.default_output_node = "result"
        spec.exit_code(401, "ERROR_NO_TILE_FINISHED", message="No tile finished: {detail}")
        spec.exit_code(402, "ERROR_SOME_TILES_FAILED",
                       message="The map has holes where tiles failed: {detail}")

    def cut(self) -> None:
        """Choose tiles of about tile_seconds, at least one for every concurrent job."""
        model = self.inputs.scan.model
        plan = parse_document(model.get_dict()).scan
        assert plan is not None
        outer = math.prod(
            axis.size for axis in plan.axes
            if plan.refine or not axis.parameter.endswith(CHEAP_SUFFIXES)
        )
        seconds = outer * self.inputs.seconds_per_point.value
        wanted = math.ceil(seconds / self.inputs.tile_seconds.value)
        wanted = min(MAX_TILES, max(wanted, self.inputs.max_concurrent.value))
        tiles = cut_grid(model, Int(wanted))
        n_tiles = len(tiles)
        self.ctx.tiles = [tiles[f"tile_{k}"] for k in range(n_tiles)]
        self.ctx.waiting = list(range(n_tiles))
        self.ctx.done = {}
        self.ctx.partial = {}
        self.ctx.attempts = [0] * n_tiles
        self.ctx.failures = {}
        points = math.prod(axis.size for axis in plan.axes)
        self.report(f"{points} points in {n_tiles} tiles, about {seconds:.0f} s of computing")

    def tiles_left(self) -> bool:
        return bool(self.ctx.waiting)

    def run_tiles(self) -> ToContext:
        """Submit the next tiles, interrupted ones with what they had finished."""
        running = {}
        chosen = self.ctx.waiting[: self.inputs.max_concurrent.value]
        self.ctx.running = chosen
        for index in chosen:
            inputs = self.exposed_inputs(ScanCalculation, "scan")
            inputs["model"] = self.ctx.tiles[index]
            if index in self.ctx.partial:
                before = self.ctx.partial[index]
                inputs["finished"] = {"result": before.outputs.result,
                                      "arrays": before.outputs.arrays}
            inputs.setdefault("metadata", {})["call_link_label"] = f"tile_{index}"
            self.ctx.attempts[index] += 1
            running[f"tile_{index}"] = self.submit(ScanCalculation, **inputs)
        return ToContext(**running)

    def inspect_tiles(self) -> None:
        """Keep finished tiles; run the others again, unless that failed too often."""
        for index in self.ctx.running:
            calculation = self.ctx[f"tile_{index}"]
            self.ctx.waiting.remove(index)
            if calculation.is_finished_ok:
                self.ctx.done[index] = calculation.pk
                self.ctx[f"finished_{index}"] = calculation
                continue
            why = calculation.exit_message or f"state {calculation.process_state}"
            codes = ScanCalculation.exit_codes
            if calculation.exit_status == codes.ERROR_WALLTIME.status:
                self.ctx.partial[index] = calculation
            final = calculation.exit_status == codes.ERROR_INVALID_INPUT.status
            if final or self.ctx.attempts[index] >= self.inputs.max_attempts.value:
                self.ctx.failures[index] = why
                self.report(f"tile {index} is given up: {why}")
            else:
                self.ctx.waiting.append(index)
                self.report(f"tile {index} runs again: {why}")
        best = min(
            (self.ctx[f"finished_{k}"].outputs.result["minimum"]["gof"] for k in self.ctx.done),
            default=math.nan,
        )
        self.report(f"{len(self.ctx.done)} of {len(self.ctx.tiles)} tiles, best GoF {best:.4f}")

    def merge(self) -> ExitCode | None:
        """One map node, with nan where a tile is missing, and the minimum."""
        tiles = {}
        for index in range(len(self.ctx.tiles)):
            source = self.ctx.get(f"finished_{index}") or self.ctx.partial.get(index)
            if source is not None:
                tiles[f"tile_{index}_arrays"] = source.outputs.arrays
                tiles[f"tile_{index}_result"] = source.outputs.result
        failures = "; ".join(f"tile {k}: {why}" for k, why in self.ctx.failures.items())
        if not tiles:
            return self.exit_codes.ERROR_NO_TILE_FINISHED.format(detail=failures)
        merged = merge_tiles(self.inputs.scan.model, **tiles)
        self.out("map", merged["map"])
        self.out("result", merged["result"])
        minimum = merged["result"]["minimum"]
        at = ", ".join(f"{name} = {value:.6g}" for name, value in minimum.items() if name != "gof")
        self.report(f"lowest GoF {minimum['gof']:.4f} at {at}")
        if failures:
            return self.exit_codes.ERROR_SOME_TILES_FAILED.format(detail=failures)
        return None


def _positive(node: Float, _: Any) -> str | None:
    return None if node.value > 0 else f"{node.value} is too small; give seconds above 0."


def _at_least_one(node: Int, _: Any) -> str | None:
    return None if node.value >= 1 else f"{node.value} is too small; give at least 1."
