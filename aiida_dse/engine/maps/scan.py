"""GoF maps: the model evaluated on a grid of one to four axes.

Where this saves time, a map is interpolated from exact patterns at Chebyshev nodes (interpolated.py) and
certified by exact evaluations at other points; otherwise every point is computed. Axes that do not
change the distances (B_iso, occupancy, scale) are innermost and share the sine sums of their outer
point. The outer points are distributed over threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.restraints import Restraint
from aiida_dse.engine.resources import ONE_THREAD, Resources, spread

from .axes import MapAxis
from .certificate import TOLERANCE, interpolate
from .gof_map import GofMap, ScanProgress
from .grid import Grid, grid_of, refinable
from .interpolated import NotInterpolated, Stopped
from .points import MapPoints, blocks

#: Largest share of a map with values from which its interpolation begins again.
LARGEST_BEGUN = 0.2


def scan(
    model: PatternModel,
    axes: Sequence[MapAxis] | Grid,
    *,
    start: Mapping[str, float] | None = None,
    refine_at_each_point: Sequence[str] = (),
    restraints: Sequence[Restraint] = (),
    direct: bool = False,
    adaptive: bool = False,
    tolerance: float = TOLERANCE,
    on_progress: Callable[[ScanProgress], None] | None = None,
    on_block: Callable[[GofMap], None] | None = None,
    should_stop: Callable[[], str | None] | None = None,
    resources: Resources = ONE_THREAD,
    finished: GofMap | None = None,
) -> GofMap:
    """The GoF map of a model over the axes; other parameters stay at `start`.

    Where this saves time, the map is interpolated from exact patterns, with a largest relative error of
    GoF below `tolerance` at points that are also computed exactly; `direct` computes every point.
    `refine_at_each_point` names parameters (wildcards allowed) that are refined at every point,
    under the `restraints`; the map contains the chi2 of the pattern without restraints, and every
    point is computed. An `adaptive` scan of such points computes from coarse to fine and
    interpolates chi2 where it is high. `on_block` receives the unfinished map after every block of
    points. Ctrl-C, or a reason returned by `should_stop`, ends the scan with the points computed so
    far (of an interpolated map, only the checked ones); such an earlier map on the same axes can be
    passed as `finished`, and its points are not recomputed. Blocks of points share the `resources`,
    with one thread for each block where there are enough blocks. Raises ValueError for axes that
    cannot be scanned, and where `finished` has another grid.
    """
    grid = axes if isinstance(axes, Grid) else grid_of(
        model, axes, start=start, refined=refine_at_each_point)
    clock = time.monotonic()
    base = model.constrained(dict(start or model.start))
    local = refinable(model, grid.moved, refine_at_each_point)
    points = MapPoints(model, grid, base, local, restraints)
    if finished is not None:
        points.take(finished)

    def after_block(*_: object) -> None:
        if on_block:
            on_block(points.map(clock, "running"))
        if on_progress:
            on_progress(points.progress(clock))

    def after_nodes(computed: int) -> None:
        points.computed = computed
        if on_progress:
            on_progress(points.progress(clock))

    reason = "complete"
    try:
        if points.done == 1:
            return points.map(clock, reason)
        if direct:
            points.direct_reason = "'method: direct' was specified"
        elif local:
            points.direct_reason = "parameters are refined at every point"
        elif points.done > LARGEST_BEGUN:
            points.direct_reason = "a part of the map was computed earlier"
        else:
            try:
                interpolate(points, tolerance, resources, should_stop, after_nodes)
                return points.map(clock, reason)
            except NotInterpolated as why:
                points.direct_reason = str(why)
            except Stopped as stopped:
                return points.map(clock, str(stopped))
        for wanted in points.rounds(adaptive):
            parts = blocks(wanted)
            points.share(resources, len(parts))
            reason = spread(points.block, parts, on_done=after_block, should_stop=should_stop,
                            resources=resources)
            if reason != "complete":
                break
        if adaptive and points.outer and reason == "complete":
            points.interpolate()
    except KeyboardInterrupt:  # between two rounds
        reason = "interrupted"
    return points.map(clock, reason)
