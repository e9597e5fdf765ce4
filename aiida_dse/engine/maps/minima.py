"""Minima of a GoF map: the interpolated minimum with its s.u., basins and saddles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numba import njit

from aiida_dse.engine.units import FloatArray

#: The paraboloid is fitted to the points within this many grid steps of the lowest point.
NEIGHBOURHOOD = 2
#: Largest distance (s.u.) of the point towards which Delta chi2 = 1 is interpolated.
COARSEST_RISE = 3.0
#: Smallest depth of a basin, in units of the lowest reduced chi2.
SHALLOWEST = 1.0


@dataclass(frozen=True)
class QuadraticMinimum:
    """The minimum of a paraboloid that is fitted to the points around the lowest one.

    The unscaled su (n_axes,) follow from the curvature of chi2: sqrt of the diagonal of 2 H^-1.
    They are conditional on every parameter that is neither on an axis nor refined at each point.
    """

    position: FloatArray
    su: FloatArray
    correlation: FloatArray
    chi2: float


@dataclass(frozen=True)
class Basin:
    """A basin of a map with its local minimum on the grid.

    `saddle` is the lowest point on the rim towards a deeper basin; the deepest basin has none.
    """

    at: tuple[int, ...]
    chi2: float
    saddle: tuple[int, ...] | None
    saddle_chi2: float | None


def quadratic_minimum(axes: Sequence[FloatArray], chi2: FloatArray) -> QuadraticMinimum | str:
    """The minimum of a paraboloid between the grid points, or the reason why there is none.

    axes holds the values of each axis; chi2 (n_1, ..., n_k) is nan where unknown. Axes with a
    single value are not fitted; their position and s.u. are nan.
    """
    lowest = tuple(int(i) for i in np.unravel_index(int(np.nanargmin(chi2)), chi2.shape))
    used = [k for k, axis in enumerate(axes) if len(axis) > 1]
    short = [k for k in used if len(axes[k]) < 3]
    if short or not used:
        return "a curvature needs at least 3 values on each axis"
    if any(lowest[k] in (0, len(axes[k]) - 1) for k in used):
        return "the lowest point lies at the edge of the grid"
    steps = {k: float(np.mean(np.diff(axes[k]))) for k in used}
    ranges = [
        range(max(0, at - NEIGHBOURHOOD), min(n, at + NEIGHBOURHOOD + 1))
        for at, n in zip(lowest, chi2.shape, strict=True)
    ]
    points = [point for point in product(*ranges) if np.isfinite(chi2[point])]
    x = np.array([[(axes[k][p[k]] - axes[k][lowest[k]]) / steps[k] for k in used] for p in points])
    y = np.array([chi2[p] for p in points]) - chi2[lowest]
    n = len(used)
    pairs = [(i, j) for i in range(n) for j in range(i, n)]
    design = np.column_stack(
        [np.ones(len(x)), x, *[x[:, i] * x[:, j] for i, j in pairs]]
    )
    if len(points) < design.shape[1]:
        return "too few points around the lowest one have a value"
    # chi2 is most nearly quadratic at the nearest points
    weight = np.exp(-0.25 * (x**2).sum(axis=1))
    coefficients = np.linalg.lstsq(design * weight[:, None], y * weight, rcond=None)[0]
    slope = coefficients[1 : 1 + n]
    hessian = np.zeros((n, n))
    for value, (i, j) in zip(coefficients[1 + n :], pairs, strict=True):
        hessian[i, j] += value
        hessian[j, i] += value
    if np.linalg.eigvalsh(hessian).min() <= 0:
        return "chi2 does not curve upwards in every direction around the lowest point"
    shift = -np.linalg.solve(hessian, slope)
    if np.abs(shift).max() > NEIGHBOURHOOD:
        return "the minimum of the paraboloid lies outside the points to which it was fitted"
    covariance = 2 * np.linalg.inv(hessian)
    deviation = np.sqrt(np.diag(covariance))
    position, su = np.full(len(axes), np.nan), np.full(len(axes), np.nan)
    correlation = np.full((len(axes), len(axes)), np.nan)
    for i, k in enumerate(used):
        position[k] = axes[k][lowest[k]] + shift[i] * steps[k]
        su[k] = deviation[i] * steps[k]
    correlation[np.ix_(used, used)] = covariance / np.outer(deviation, deviation)
    bottom = float(chi2[lowest] + coefficients[0] + slope @ shift / 2)
    return QuadraticMinimum(position, su, correlation, bottom)


@dataclass(frozen=True)
class ProfileInterval:
    """The interval of one axis in which chi2, minimised over the others, rises by less than 1.

    minus and plus are unscaled, in the unit of the axis; `missing` is the reason why one is None.
    """

    minus: float | None
    plus: float | None
    missing: str | None


def profile_interval(
    axes: Sequence[FloatArray], chi2: FloatArray, k: int, minimum: QuadraticMinimum
) -> ProfileInterval:
    """The s.u. of axis k from Delta chi2 = 1, on either side of the minimum.

    At each value of the axis, chi2 is minimised over the other axes, between their points where a
    paraboloid has a minimum. The interpolated function is sqrt(chi2 - minimum), which is linear
    for a parabola.
    """
    values = axes[k]
    others = [axis for i, axis in enumerate(axes) if i != k]
    profile = np.array([_lowest(others, np.take(chi2, i, axis=k)) for i in range(len(values))])
    rise = np.sqrt(np.maximum(profile - minimum.chi2, 0.0))
    centre = float(minimum.position[k])
    widths: list[float | None] = []
    reasons = []
    for sign, side in ((-1, "below"), (1, "above")):
        beyond = np.flatnonzero((sign * (values - centre) > 0) & np.isfinite(rise))[::sign]
        distance = np.concatenate([[0.0], sign * (values[beyond] - centre)])
        height = np.concatenate([[0.0], rise[beyond]])
        reached = np.flatnonzero(height >= 1)
        widths.append(None)
        if not len(reached):
            reasons.append(f"{side} the minimum, the grid ends before chi2 rises by 1")
            continue
        j = int(reached[0])
        if height[j] > COARSEST_RISE:
            reasons.append(
                f"{side} the minimum, the grid is too coarse (the next point is {height[j]:.3g} "
                "s.u. away)"
            )
            continue
        share = (1 - height[j - 1]) / (height[j] - height[j - 1])
        widths[-1] = float(distance[j - 1] + share * (distance[j] - distance[j - 1]))
    return ProfileInterval(widths[0], widths[1], "; ".join(reasons) or None)


def _lowest(axes: Sequence[FloatArray], chi2: FloatArray) -> float:
    """The lowest chi2 of a map, between its points where a paraboloid has a minimum."""
    if not np.isfinite(chi2).any():
        return float("nan")
    lowest = float(np.nanmin(chi2))
    if chi2.ndim == 0 or chi2.size == 1:
        return lowest
    minimum = quadratic_minimum(axes, chi2)
    return lowest if isinstance(minimum, str) else min(lowest, minimum.chi2)


def basins(chi2: FloatArray, n_dof: int) -> list[Basin]:
    """The basins of a map, the deepest first, with the saddles between them.

    Points are flooded in the order of chi2; the point where two floods meet is the saddle of the
    shallower basin. Basins less than SHALLOWEST lowest reduced chi2 deep are dropped; n_dof is the
    number of degrees of freedom.
    """
    # a frame of points without a value, so that every point has all neighbours
    framed = np.pad(np.where(np.isfinite(chi2), chi2, np.nan), 1, constant_values=np.nan)
    flat = framed.ravel()
    order = np.argsort(flat, kind="stable")[: int(np.isfinite(flat).sum())]
    strides = np.array(framed.strides) // framed.itemsize
    offsets = np.array([int(np.dot(step, strides))
                        for step in product((-1, 0, 1), repeat=chi2.ndim) if any(step)])
    floors, saddles = _flood(flat, order, offsets)
    deep = SHALLOWEST * float(np.nanmin(chi2)) / max(1, n_dof)
    found = []
    for floor, saddle in zip(floors, saddles, strict=True):
        if saddle < 0 or flat[saddle] - flat[floor] >= deep:
            found.append(Basin(
                _place(floor, framed.shape), float(flat[floor]),
                None if saddle < 0 else _place(saddle, framed.shape),
                None if saddle < 0 else float(flat[saddle])))
    return sorted(found, key=lambda basin: basin.chi2)


def _place(flat: int, framed: tuple[int, ...]) -> tuple[int, ...]:
    """The index on a map of a point of the framed map."""
    return tuple(int(i) - 1 for i in np.unravel_index(int(flat), framed))


@njit(cache=True, nogil=True)
def _flood(values, order, offsets):  # type: ignore[no-untyped-def]
    """The lowest point of every flood and the saddle where it ended, -1 for the last ones."""
    owner = np.full(len(values), -1, dtype=np.int64)
    parent = np.empty(len(order), dtype=np.int64)
    floors = np.empty(len(order), dtype=np.int64)
    saddles = np.full(len(order), -1, dtype=np.int64)
    near = np.empty(len(offsets), dtype=np.int64)
    n_floods = 0
    for at in order:
        n_near, deepest = 0, -1
        for offset in offsets:
            k = owner[at + offset]
            if k < 0:
                continue
            while parent[k] != k:
                parent[k] = parent[parent[k]]
                k = parent[k]
            owner[at + offset] = k
            seen = False
            for i in range(n_near):
                seen = seen or near[i] == k
            if not seen:
                near[n_near] = k
                n_near += 1
                if deepest < 0 or values[floors[k]] < values[floors[deepest]]:
                    deepest = k
        if n_near == 0:
            owner[at] = parent[n_floods] = n_floods
            floors[n_floods] = at
            n_floods += 1
            continue
        for i in range(n_near):
            k = near[i]
            if k != deepest:
                if saddles[k] < 0:
                    saddles[k] = at
                parent[k] = deepest
        owner[at] = deepest
    return floors[:n_floods], saddles[:n_floods]
