"""dse.grid_search: the work chain that computes a GoF map, in concurrent tiles if it is long."""

from __future__ import annotations

import math
from typing import Any

from aiida.engine import ExitCode, ToContext, WorkChain, while_
from aiida.orm import ArrayData, Dict, Float, Int, to_aiida_type

from aiida_dse.calculations.documents import continued_model, cut_grid, merge_tiles
from aiida_dse.calculations.engine import ScanCalculation, add_exits
from aiida_dse.data.results import summary_from_node
from aiida_dse.data.roles import name_result
from aiida_dse.documents import parse_document
from aiida_dse.documents.results import ScanSummary
from aiida_dse.documents.status import PartsFailed
from aiida_dse.tasks.build import BuiltModel
from aiida_dse.tasks.estimate import seconds_of_map
from aiida_dse.tasks.tiles import cut_axis, scan_of
from aiida_dse.workchains.ports import (
    at_least_one,
    clean_working_directories,
    define_clean_workdir,
    define_count,
    define_start_from,
    define_tile_seconds,
    not_negative,
)
from aiida_dse.workchains.protocol import SingleModelProtocol
from aiida_dse.workchains.remedies import Remedy, fewer_threads, remedy_for, why_failed

#: Minimum number of points of a tile along the axis that is divided, since every tile adds six
#: nodes to the database. Tiles are smaller if max_concurrent requires more of them.
LEAST_POINTS = 16
#: Default of the maximum number of jobs per tile.
ATTEMPTS = 3


class GridSearchWorkChain(SingleModelProtocol, WorkChain):
    """Compute a GoF map in a single job, or divide a long map into tiles that run concurrently."""

    NAMESPACE = "scan"
    NOUN = "GoF map"
    SIDE_BY_SIDE = True

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.expose_inputs(ScanCalculation, namespace="scan", exclude=("finished",))
        define_start_from(spec)
        define_count(spec, "max_concurrent", 2, "Maximum number of concurrent tiles.")
        spec.input("max_attempts", valid_type=Int, serializer=to_aiida_type, required=False,
                   validator=at_least_one,
                   help=f"Maximum number of jobs per tile, including restarts (default: {ATTEMPTS}).")
        define_tile_seconds(spec)
        spec.input("seconds", valid_type=Float, serializer=to_aiida_type, required=False,
                   validator=not_negative, help=(
                       "Estimated computing time of the map on a typical core (s). Without it, the "
                       "grid is not divided."))
        spec.input("cut_axis", valid_type=Int, serializer=to_aiida_type, required=False,
                   validator=not_negative, help=(
                       "Index, starting at 0, of the axis along which the grid is divided "
                       "(default: the longest axis)."))
        define_clean_workdir(spec)
        spec.outline(
            cls.cut,
            while_(cls.tiles_left)(cls.run_tiles, cls.inspect_tiles),  # type: ignore[arg-type]
            cls.merge,
        )
        spec.output("map", valid_type=ArrayData,
                    help="GoF, chi2, axes and refined values at all points.")
        spec.output("result", valid_type=Dict, help="Minimum, axes, sample and versions.")
        spec.default_output_node = "result"
        add_exits(spec, PartsFailed.NOTHING_FINISHED, PartsFailed.SOME_FAILED)

    @classmethod
    def check_model(cls, built: BuiltModel) -> tuple[str, ...]:
        scan_of(built.document)
        return super().check_model(built)

    @classmethod
    def complete(cls, builder: Any, built: BuiltModel) -> None:
        """Set the estimated computing time and the axis along which a long map is divided."""
        plan = tiling(built)
        if plan["seconds"] > builder.tile_seconds:
            builder.seconds, builder.cut_axis = Float(plan["seconds"]), Int(plan["cut_axis"])

    def cut(self) -> None:
        """Divide the grid into tiles of about tile_seconds; a short map is a single job."""
        model = self.inputs.scan.model
        if "start_from" in self.inputs:
            model = continued_model(model, self.inputs.start_from)
        self.ctx.model = model
        plan = scan_of(parse_document(model.get_dict()))
        sizes = [axis.size for axis in plan.axes]
        axis = self.inputs.cut_axis.value if "cut_axis" in self.inputs else sizes.index(max(sizes))
        seconds = self.inputs.seconds.value if "seconds" in self.inputs else 0.0
        wanted = math.ceil(seconds / self.inputs.tile_seconds.value)
        if wanted > 1:
            most = max(1, sizes[axis] // LEAST_POINTS)
            n_tiles = max(min(wanted, most), self.inputs.max_concurrent.value)
            tiles = cut_grid(model, Int(n_tiles), Int(axis))
            self.ctx.tiles = [tiles[f"tile_{k}"] for k in range(len(tiles))]
        else:
            self.ctx.tiles = [model]
        n_tiles = len(self.ctx.tiles)
        # the largest tiles first, so that concurrent tiles have similar sizes
        points = [_points(tile) for tile in self.ctx.tiles]
        self.ctx.waiting = sorted(range(n_tiles), key=lambda k: -points[k])
        self.ctx.done = {}
        self.ctx.partial = {}
        self.ctx.threads = {}
        self.ctx.attempts = [0] * n_tiles
        self.ctx.failures = {}
        known = f", about {seconds:.0f} s of computing time" if seconds else ""
        if n_tiles == 1 and wanted <= 1:
            self.report(f"{math.prod(sizes)} points in a single job{known}")
        elif plan.adaptive:
            self.report(f"{math.prod(sizes)} points in a single tile, because the tiles of an adaptive "
                        f"map would require the minimum of all the others{known}")
        else:
            self.report(f"{math.prod(sizes)} points in {n_tiles} tiles{known}")

    def tiles_left(self) -> bool:
        return bool(self.ctx.waiting)

    def run_tiles(self) -> ToContext:
        """Submit the next tiles; an interrupted tile receives its finished points as input."""
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
            metadata = inputs.setdefault("metadata", {})
            metadata["call_link_label"] = f"tile_{index}"
            metadata["label"] = f"{self.node.label} tile {index}".strip()
            metadata["description"] = self.node.description
            if index in self.ctx.threads:
                inputs["threads"] = self.ctx.threads[index]
            self.ctx.attempts[index] += 1
            running[f"tile_{index}"] = self.submit(ScanCalculation, **inputs)
        return ToContext(**running)

    def inspect_tiles(self) -> None:
        """Collect the finished tiles, and restart the others if another attempt can succeed."""
        for index in self.ctx.running:
            calculation = self.ctx[f"tile_{index}"]
            self.ctx.waiting.remove(index)
            if calculation.is_finished_ok:
                self.ctx.done[index] = calculation.pk
                self.ctx[f"finished_{index}"] = calculation
                continue
            self._again_or_given_up(index, calculation)
        # a tile without valid points has no minimum
        found = [self.ctx[f"finished_{k}"].outputs.result.get_dict().get("minimum")
                 for k in self.ctx.done]
        best = min((minimum["gof"] for minimum in found if minimum), default=math.nan)
        self.report(f"{len(self.ctx.done)} of {len(self.ctx.tiles)} tiles finished, lowest GoF "
                    f"{best:.4f}")

    def _again_or_given_up(self, index: int, calculation: Any) -> None:
        remedy, why = remedy_for(calculation), why_failed(calculation)
        if remedy is not Remedy.NONE and "result" in calculation.outputs:
            self.ctx.partial[index] = calculation
        if remedy is Remedy.FEWER_THREADS:
            threads = fewer_threads(self._threads(index))
            remedy = remedy if threads else Remedy.NONE
            self.ctx.threads[index] = threads
        most = self.inputs.max_attempts.value if "max_attempts" in self.inputs else ATTEMPTS
        if remedy is Remedy.NONE or self.ctx.attempts[index] >= most:
            self.ctx.failures[index] = why
            self.report(f"tile {index} was abandoned after {self.ctx.attempts[index]} attempts: "
                        f"{why}")
        else:
            self.ctx.waiting.append(index)
            self.report(f"tile {index} is restarted: {why}")

    def _threads(self, index: int) -> int | None:
        given: int | None = self.inputs.scan.get("threads")
        return self.ctx.threads.get(index, given)

    def merge(self) -> ExitCode | None:
        """Merge the tiles into one map, which contains nan at the points of missing tiles."""
        tiles = {}
        for index in range(len(self.ctx.tiles)):
            source = self.ctx.get(f"finished_{index}") or self.ctx.partial.get(index)
            if source is not None:
                tiles[f"tile_{index}_arrays"] = source.outputs.arrays
                tiles[f"tile_{index}_result"] = source.outputs.result
        failures = "; ".join(f"tile {k}: {why}" for k, why in self.ctx.failures.items())
        if not tiles:
            return self.exit_codes.ERROR_NOTHING_FINISHED.format(detail=failures)
        merged = merge_tiles(self.ctx.model, **tiles)
        name_result(merged["result"], self.node.label)
        merged["map"].label = self.node.label or merged["map"].label
        self.out("map", merged["map"])
        self.out("result", merged["result"])
        summary = summary_from_node(merged["result"])
        assert isinstance(summary, ScanSummary)
        if summary.minimum is not None:
            at = ", ".join(f"{name} = {value:.6g}" for name, value in summary.minimum.items()
                           if name != "gof")
            self.report(f"lowest GoF {summary.minimum['gof']:.4f} at {at}")
        if failures:
            return self.exit_codes.ERROR_SOME_FAILED.format(detail=failures)
        return None

    def on_terminated(self) -> None:
        super().on_terminated()
        clean_working_directories(self)


def tiling(built: BuiltModel) -> dict[str, Any]:
    """The inputs 'seconds' and 'cut_axis' for a map. They do not depend on the computer."""
    assert built.grid is not None
    return {"seconds": seconds_of_map(built), "cut_axis": cut_axis(built.grid)}


def _points(model: Dict) -> int:
    """Number of grid points of a document."""
    return math.prod(axis.size for axis in scan_of(parse_document(model.get_dict())).axes)
