"""dse.grid_search: a GoF map in tiles that run side by side, merged into one map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida.engine import ExitCode, ToContext, WorkChain, calcfunction, while_
from aiida.engine.processes.workchains.workchain import WorkChainSpec
from aiida.orm import ArrayData, Dict, Float, Int

from aiida_dse.calculations.engine import ScanCalculation, add_exits
from aiida_dse.data.jobs import built_from_nodes
from aiida_dse.data.options import speed_of
from aiida_dse.data.pattern import PatternData
from aiida_dse.data.results import arrays_of, map_node, summary_from_node, summary_node
from aiida_dse.documents import parse_document
from aiida_dse.documents.plans import ScanAxis, ScanPlan
from aiida_dse.documents.results import ScanSummary
from aiida_dse.documents.status import EXITS, Failure, PartsFailed, Status
from aiida_dse.tasks.estimate import seconds_per_point
from aiida_dse.tasks.map_analysis import map_analysis
from aiida_dse.workchains.protocol import DEFAULT, read_protocol, set_job, set_model

#: Axes that a scan sweeps without touching distances; never the ones to cut.
CHEAP_SUFFIXES = (".B_iso", ".occupancy", ".scale")
#: A tile adds six nodes to the database: it has so many points along the axis that is cut, unless
#: more tiles are to run at the same time.
LEAST_POINTS = 16


def tile_models(model: dict[str, Any], n_tiles: int) -> list[dict[str, Any]]:
    """The document cut into about n_tiles, along its longest axis that moves distances.

    Every tile is a document of its own whose axes list their values, so that a tile computed
    before is found again in the cache. An adaptive grid is one tile: parts of it would not know
    each other's lowest point.
    """
    plan = parse_document(model).scan
    assert plan is not None
    if plan.adaptive:
        return [model]
    values = [axis.points().tolist() for axis in plan.axes]
    cut = _cut_axis(plan)
    # a tile may have no point that its quantities reach, although the grid has some
    partial = {"part_of_grid": True} if any(axis.quantity for axis in plan.axes) else {}
    tiles = []
    for part in _parts(plan.axes[cut], n_tiles):
        axes = [
            {key: value for key, value in axis.items() if key not in ("start", "stop", "step")}
            | {"values": part if k == cut else values[k]}
            for k, axis in enumerate(model["scan"]["axes"])
        ]
        tiles.append(model | {"scan": {**model["scan"], "axes": axes, **partial}})
    return tiles


def _cut_axis(plan: ScanPlan) -> int:
    """The longest axis that moves distances."""
    costly = [k for k, axis in enumerate(plan.axes) if _moves_distances(plan, axis)]
    return max(costly or range(len(plan.axes)), key=lambda k: plan.axes[k].size)


def _parts(axis: ScanAxis, n_parts: int) -> list[list[float]]:
    """An axis in at least n_parts parts of 2^k points, or as many as it has points.

    The parts of an axis with a step begin at multiples of their length from the axis' zero, so a
    grid that is made wider has the parts of the narrower one.
    """
    points = axis.points().tolist()
    first = 0
    if axis.step is not None:
        start, _ = axis.ends
        assert start is not None
        first = round(start / axis.step)
    length = 2 ** max(0, int(math.log2(len(points) / n_parts)))
    parts: dict[int, list[float]] = {}
    for k, point in enumerate(points):
        parts.setdefault((first + k) // length, []).append(point)
    return list(parts.values())


def _moves_distances(plan: ScanPlan, axis: ScanAxis) -> bool:
    """As far as the document tells: constraints may make an axis cost more."""
    return bool(plan.refine or axis.quantity) or not all(
        name.endswith(CHEAP_SUFFIXES) for name in axis.moves)


@calcfunction
def cut_grid(model: Dict, n_tiles: Int) -> dict[str, Dict]:
    """The tiles of a grid, as model documents tile_0, tile_1, ..."""
    tiles = tile_models(model.get_dict(), n_tiles.value)
    return {f"tile_{k}": Dict(tile) for k, tile in enumerate(tiles)}


@calcfunction
def merge_tiles(model: Dict, **tiles: Any) -> dict[str, Any]:
    """The whole map from its tiles: the arrays of a scan's result, and its summary.

    Arrays are named as in result.h5 without 'scan/': gof, chi2, axis_<k>, moved_<k> and
    quantity_<k> (in the order of the summary's lists), refined_<parameter>. Tiles come as
    tile_<n>_arrays and tile_<n>_result; a missing tile leaves nan.
    """
    plan = parse_document(model.get_dict()).scan
    assert plan is not None
    results = {key: summary_from_node(tiles[key.removesuffix("_arrays") + "_result"])
               for key in tiles if key.endswith("_arrays")}
    if not results:
        raise ValueError("no tile finished: there is nothing to merge")
    summary = next(iter(results.values()))
    assert isinstance(summary, ScanSummary)
    axes = [row.scale * axis.points() for row, axis in zip(summary.axes, plan.axes, strict=True)]
    merged = _merged(axes, [arrays_of(tiles[key]) for key in sorted(results)])
    gof = merged["scan/gof"]
    n_done = int(np.isfinite(gof).sum())
    unreachable = sum(one.n_unreachable for one in results.values() if isinstance(one, ScanSummary))
    whole = summary.model_copy(update={
        "status": Status.COMPLETE if n_done + unreachable == gof.size else Status.PARTIAL,
        "stop_reason": f"{n_done} of {gof.size} points", "shape": list(gof.shape),
        "n_done": n_done, "n_unreachable": unreachable, "warnings": [], "minimum": None,
        "quadratic": None, "basins": [], "adaptive": None, "document": None,
        "document_sha256": None,
        "seconds": sum(one.seconds for one in results.values()),
        # those at the start: of the lowest point is found anew
        "parameters": {
            name: row if row.start is None else row.model_copy(
                update={"value": row.start, "start": None})
            for name, row in summary.parameters.items()
        },
    })
    if n_done:
        whole = map_analysis(whole, merged)
    return {"map": map_node(whole, merged), "result": summary_node(whole)}


def _merged(
    axes: list[np.ndarray], tiles: list[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of a whole grid by path, nan where no tile has a value."""
    merged: dict[str, np.ndarray] = {f"scan/axis_{k}": axis for k, axis in enumerate(axes)}
    for arrays in tiles:
        own = [arrays[f"scan/axis_{k}"] for k in range(len(axes))]
        cut = [len(part) < len(axis) for part, axis in zip(own, axes, strict=True)]
        for path, values in arrays.items():
            if path.startswith("scan/axis_"):
                continue
            # arrays have length 1 along axes that do not matter, but may differ between tiles
            long = [is_cut or n > 1 for is_cut, n in zip(cut, values.shape, strict=True)]
            shape = [len(axis) if keep else 1 for axis, keep in zip(axes, long, strict=True)]
            where = np.ix_(*[np.searchsorted(axis, part - 1e-12) if keep else np.array([0])
                             for axis, part, keep in zip(axes, own, long, strict=True)])
            merged.setdefault(path, np.full(shape, np.nan))[where] = values
    for path, values in merged.items():
        if path.startswith(("scan/moved_", "scan/quantity_")):
            for k in range(values.ndim):
                first = values.take([0], axis=k)
                if np.array_equal(values, np.broadcast_to(first, values.shape)):
                    values = first
            merged[path] = values
    return merged


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
        add_exits(spec, PartsFailed.NOTHING_FINISHED, PartsFailed.SOME_FAILED)

    @classmethod
    def get_builder_from_protocol(
        cls, code: Any, model: Any, pattern: PatternData, structures: Mapping[str, Any],
        blanks: Mapping[str, Any] | None = None, protocol: str = DEFAULT,
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """A builder; what the model (a Dict or mapping) does not say itself, the protocol does."""
        settings = read_protocol(protocol, overrides)
        builder = cls.get_builder()
        set_job(builder.scan, code, settings)
        set_model(builder.scan, settings, model, structures, pattern, blanks)
        builder.max_concurrent = Int(settings["max_concurrent"])
        builder.tile_seconds = Float(settings["tile_seconds"])
        built = built_from_nodes(
            builder.scan.model.get_dict(), pattern, structures, blanks or {})
        builder.seconds_per_point = Float(seconds_per_point(built, speed_of(builder.scan.code)))
        return builder

    def cut(self) -> None:
        """Choose tiles of about tile_seconds, at least one for every concurrent job."""
        model = self.inputs.scan.model
        plan = parse_document(model.get_dict()).scan
        assert plan is not None
        outer = math.prod(axis.size for axis in plan.axes if _moves_distances(plan, axis))
        seconds = outer * self.inputs.seconds_per_point.value
        wanted = math.ceil(seconds / self.inputs.tile_seconds.value)
        longest = plan.axes[_cut_axis(plan)].size
        most = max(1, longest // LEAST_POINTS)
        tiles = cut_grid(model, Int(max(min(wanted, most), self.inputs.max_concurrent.value)))
        n_tiles = len(tiles)
        self.ctx.tiles = [tiles[f"tile_{k}"] for k in range(n_tiles)]
        # the largest first: those that run side by side are then of a size
        sizes = [_points(tile) for tile in self.ctx.tiles]
        self.ctx.waiting = sorted(range(n_tiles), key=lambda k: -sizes[k])
        self.ctx.done = {}
        self.ctx.partial = {}
        self.ctx.attempts = [0] * n_tiles
        self.ctx.failures = {}
        points = math.prod(axis.size for axis in plan.axes)
        if plan.adaptive:
            self.report(f"{points} points, coarse to fine: one tile, since tiles would not know "
                        f"each other's lowest point; at most about {seconds:.0f} s of computing")
        else:
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
            if calculation.exit_status == EXITS[Status.WALLTIME].number:
                self.ctx.partial[index] = calculation
            final = calculation.exit_status == EXITS[Failure.INVALID_INPUT].number
            if final or self.ctx.attempts[index] >= self.inputs.max_attempts.value:
                self.ctx.failures[index] = why
                self.report(f"tile {index} is given up: {why}")
            else:
                self.ctx.waiting.append(index)
                self.report(f"tile {index} runs again: {why}")
        # a tile without a point in reach has no minimum
        found = [self.ctx[f"finished_{k}"].outputs.result.get_dict().get("minimum")
                 for k in self.ctx.done]
        best = min((minimum["gof"] for minimum in found if minimum), default=math.nan)
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
            return self.exit_codes.ERROR_NOTHING_FINISHED.format(detail=failures)
        merged = merge_tiles(self.inputs.scan.model, **tiles)
        self.out("map", merged["map"])
        self.out("result", merged["result"])
        minimum = merged["result"].get_dict().get("minimum") or {"gof": math.nan}
        at = ", ".join(f"{name} = {value:.6g}" for name, value in minimum.items() if name != "gof")
        self.report(f"lowest GoF {minimum['gof']:.4f} at {at}")
        if failures:
            return self.exit_codes.ERROR_SOME_FAILED.format(detail=failures)
        return None


def _points(model: Dict) -> int:
    """Points of a document's grid."""
    plan = parse_document(model.get_dict()).scan
    assert plan is not None
    return math.prod(axis.size for axis in plan.axes)


def _positive(node: Float, _: Any) -> str | None:
    return None if node.value > 0 else f"{node.value} is too small; give seconds above 0."


def _at_least_one(node: Int, _: Any) -> str | None:
    return None if node.value >= 1 else f"{node.value} is too small; give at least 1."
