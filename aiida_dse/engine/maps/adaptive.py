"""Adaptive grids of maps: computed from coarse to fine where chi2 is low, interpolated elsewhere.

The first grid has every 8th point of each axis; then the strides are halved. At each stride, the
points with a low interpolated chi2 and those around a local minimum are computed, until there are
no more of them; so every local minimum of the final map, and all points within two steps of it, are
computed. Finally, the points around the saddles between basins are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from aiida_dse.engine.units import FloatArray

from .minima import basins

#: The stride of the coarsest grid; smaller where an axis has too few points.
WIDEST_STRIDE = 8
#: Smallest number of steps of the coarsest grid along each axis that has as many.
COARSEST_STEPS = 5
#: chi2 is low up to this multiple of the lowest computed one.
LOW = 1.1

Levels = list[tuple[np.ndarray, ...]]


def levels(shape: tuple[int, ...]) -> Levels:
    """The indices along each axis, from the coarsest grid to all points, always with both ends."""
    widest = []
    for n in shape:
        stride = WIDEST_STRIDE
        while stride > 1 and (n - 1) / stride < COARSEST_STEPS:
            stride //= 2
        widest.append(stride)
    grids: Levels = []
    while True:
        grids.append(tuple(
            np.unique(np.append(np.arange(0, n, stride), n - 1))
            for n, stride in zip(shape, widest, strict=True)
        ))
        if max(widest) == 1:
            return grids
        widest = [max(1, stride // 2) for stride in widest]


def filled(values: FloatArray, known: np.ndarray, grids: Levels) -> FloatArray:
    """The values at the points of the last of `grids`, interpolated where they are not known.

    values (n_1, ..., n_k, ...), known (n_1, ..., n_k). The interpolation is piecewise cubic along
    each axis and does not overshoot (Fritsch and Carlson, SIAM J. Numer. Anal. 17 (1980) 238): it
    is never below the lowest of the neighbouring points.
    """
    from scipy.interpolate import PchipInterpolator  # slow to load; few maps need it

    field = values[np.ix_(*grids[0])]
    for coarse, fine in pairwise(grids):
        for k, (had, wanted) in enumerate(zip(coarse, fine, strict=True)):
            if len(had) < len(wanted):
                field = PchipInterpolator(had, field, axis=k)(wanted)
        here = np.ix_(*fine)
        mask = known[here].reshape(known[here].shape + (1,) * (values.ndim - known.ndim))
        field = np.where(mask, values[here], field)
    return np.asarray(field)


def rounds(
    best: Callable[[], FloatArray], reachable: np.ndarray, n_dof: int
) -> Iterator[list[tuple[int, ...]]]:
    """Yield the points to compute, round by round.

    best() returns the lowest chi2 (n_1, ..., n_k) at each point, with any value at points that are
    not computed; it must contain the chi2 of a round before the next one. Points that are not
    `reachable` are never requested. n_dof is the number of degrees of freedom, which scales chi2 to
    distinguish basins from ripples.
    """
    from scipy.ndimage import maximum_filter, minimum_filter  # slow to load

    grids = levels(reachable.shape)
    known = ~reachable
    for level, grid in enumerate(grids):
        here = np.ix_(*grid)
        while True:
            if level:
                values = best()
                ceiling = float(values[known & reachable].max(initial=0.0))
                field = filled(np.where(reachable, values, ceiling), known, grids[: level + 1])
                wanted = field <= LOW * float(values[known & reachable].min(initial=np.inf))
                minima = (field == minimum_filter(field, size=3, mode="nearest")) \
                    & (field < ceiling)
                wanted |= maximum_filter(minima, size=5, mode="constant", cval=0)
                if level == len(grids) - 1 and not (wanted & ~known).any():
                    for basin in basins(field, n_dof):
                        if basin.saddle is not None:
                            wanted[tuple(slice(max(0, i - 1), i + 2) for i in basin.saddle)] = True
            else:
                wanted = np.ones(known[here].shape, dtype=bool)
            wanted &= ~known[here]
            if not wanted.any():
                break
            points = np.stack([index[at] for index, at in zip(grid, np.nonzero(wanted),
                                                              strict=True)], axis=-1)
            known[tuple(points.T)] = True
            yield [tuple(int(i) for i in point) for point in points]
