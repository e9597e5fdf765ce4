"""Solver for derived-quantity axes: parameter values that satisfy conditions at many points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.units import FloatArray

#: Largest distance (Å) of a solution from the start; beyond it lies another structure.
FARTHEST = 1.0
#: Length (Å) of the longest step.
LONGEST_STEP = 0.1
#: Shift (Å) to either side in a central difference.
DIFFERENCE = 1e-4
#: Number of steps after which a point counts as unsolved.
MAX_STEPS = 60
#: Largest error of a solution in the units of the conditions; its last step is at most 100 times
#: this value in Å.
CONVERGED = 1e-9


@dataclass(frozen=True)
class Solution:
    """Shifts of parameters that satisfy the conditions at each point."""

    shift: FloatArray  # (n_points, n); nan where there is no solution
    closest: FloatArray  # (n_conditions,) the values reached nearest to their targets
    undetermined: np.ndarray  # (n_conditions,) bool; True where no shift changes the condition


def nearest_solution(
    conditions: Callable[[FloatArray, np.ndarray], FloatArray], targets: FloatArray,
    metric: FloatArray,
) -> Solution:
    """The shift s of each point with c(s) = target and the least s G s.

    The steps are y <- J^+ (target - c(y) + J y) in the coordinates in which G is the unit matrix.
    At their end, y lies in the row space of J (the condition of a least distance) and c = target,
    so the solution does not depend on neighbouring points.

    conditions(shifts (k, n), points (k,)) -> (k, n_conditions); targets (n_points, n_conditions);
    metric G (n, n), Å^2.
    """
    n_points, n = len(targets), len(metric)
    back = np.linalg.inv(np.linalg.cholesky(metric))  # shift = y @ back
    y = np.zeros((n_points, n))
    best = np.full(n_points, np.inf)
    closest = np.full(targets.shape, np.nan)
    solved = np.zeros(n_points, dtype=bool)
    open_ = np.arange(n_points)
    undetermined = np.zeros(targets.shape[1], dtype=bool)
    for step_number in range(MAX_STEPS):
        here = y[open_]
        reached = conditions(here @ back, open_)
        slopes = np.stack([
            (conditions((here + shift) @ back, open_) - conditions((here - shift) @ back, open_))
            / (2 * DIFFERENCE) for shift in DIFFERENCE * np.eye(n)
        ], axis=-1)
        if step_number == 0:
            undetermined = np.abs(slopes).max(axis=(0, 2)) < 1e-6
            if undetermined.any():
                break
        missing = targets[open_] - reached
        error = np.abs(missing).max(axis=1)
        nearer = error < best[open_]
        best[open_[nearer]], closest[open_[nearer]] = error[nearer], reached[nearer]
        inverse = np.linalg.pinv(slopes, rcond=1e-8)
        wanted = (inverse @ (missing + (slopes @ here[..., None])[..., 0])[..., None])[..., 0]
        step = wanted - here
        length = np.linalg.norm(step, axis=1)
        y[open_] = here + step * np.minimum(1, LONGEST_STEP / np.maximum(length, 1e-300))[:, None]
        done = (error < CONVERGED) & (length < CONVERGED * 1e2)
        solved[open_[done]] = True
        lost = ~np.isfinite(length) | (np.linalg.norm(y[open_], axis=1) > FARTHEST)
        open_ = open_[~done & ~lost]
        if not len(open_):
            break
    shift = np.where(solved[:, None], y @ back, np.nan)
    nearest = closest[int(np.argmin(best))] if n_points else np.full(targets.shape[1], np.nan)
    return Solution(shift, nearest, undetermined)
