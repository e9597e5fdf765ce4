"""Profile likelihood: chi2 against one parameter, with all other parameters refined.

    chi2_p(x) = min over all other parameters of chi2 at p = x

The 68.3 % interval of one parameter ends where chi2_p = min + 1, the 95.4 % interval where
chi2_p = min + 4. In the limit of many points the intervals are exact without the quadratic
approximation of a covariance, and they are asymmetric where the problem is (W. A. Rolke et al.,
Nucl. Instrum. Meth. A 551 (2005) 493; "MINOS" of Minuit).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aiida_dse.engine.model.agreement import su_scale
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import PhaseState
from aiida_dse.engine.model.restraints import Restraint, deviations
from aiida_dse.engine.parameters import Parameter, ParameterStatus
from aiida_dse.engine.resources import ONE_THREAD, Resources, StopCheck, spread
from aiida_dse.engine.units import FloatArray

from .refine import Refinement, refine

#: A profile is followed until chi2 has risen by this much (times max(1, GoF)^2).
RISE = 6.0
#: Rise of sqrt(chi2 - min) at which each step aims: about half an s.u.
STEP = 0.5
MAX_POINTS = 30
#: A point whose chi2 is lower than the minimum by more than this lies in another minimum.
LOWER = 0.05


@dataclass(frozen=True)
class Ray:
    """One side of a profile: points outwards from the best value, which is not included."""

    parameter: str
    side: int  # -1 below the best value, +1 above it
    values: FloatArray  # (n_points,) values of the parameter
    chi2: FloatArray  # (n_points,) with restraints
    refined: FloatArray  # (n_points, n_free) all free parameters at each point
    ended: str  # "risen", "bound", "flat" or why it failed; "" if it was interrupted


@dataclass(frozen=True)
class Profile:
    """The profile of one parameter: chi2 on both sides of its best value."""

    parameter: Parameter  # at the best value, with its s.u.
    chi2_min: float
    below: Ray
    above: Ray

    def interval(self, rise: float) -> tuple[float | None, float | None]:
        """The interval in which chi2 rises by less than `rise`, limited by the bounds.

        An end is None where the profile did not reach that rise.
        """
        return self._end(self.below, rise), self._end(self.above, rise)

    def _end(self, ray: Ray, rise: float) -> float | None:
        # sqrt(chi2 - min) is nearly linear, so it is accurately interpolated
        heights = np.sqrt(np.maximum(ray.chi2 - self.chi2_min, 0.0))
        beyond = np.flatnonzero(heights >= np.sqrt(rise))
        if not len(beyond):
            if ray.ended != "bound":
                return None
            return self.parameter.lower if ray.side < 0 else self.parameter.upper
        from scipy.interpolate import PchipInterpolator  # slow to load

        at = np.concatenate([[self.parameter.value], ray.values[: beyond[0] + 1]])
        heights = np.concatenate([[0.0], heights[: beyond[0] + 1]])
        # interpolation needs rising heights: points inside a dip of the profile are left out
        rim = np.concatenate([[-1.0], np.maximum.accumulate(heights)[:-1]])
        keep = heights > rim
        return float(PchipInterpolator(heights[keep], at[keep])(np.sqrt(rise)))

    @property
    def lowest(self) -> tuple[float, FloatArray] | None:
        """(chi2, refined (n_free,)) of a point whose chi2 is lower than the best; None if none."""
        rays = [ray for ray in (self.below, self.above) if len(ray.chi2)]
        if not rays:
            return None
        ray = min(rays, key=lambda side: side.chi2.min())
        k = int(ray.chi2.argmin())
        if ray.chi2[k] > self.chi2_min - LOWER:
            return None
        return float(ray.chi2[k]), ray.refined[k]


@dataclass(frozen=True)
class Profiles:
    """The profiles of several parameters, finished or not."""

    names: tuple[str, ...]  # all free parameters
    profiles: dict[str, Profile]
    seconds: float
    stop_reason: str

    @property
    def complete(self) -> bool:
        return all(p.below.ended and p.above.ended for p in self.profiles.values())


def profile_likelihood(
    model: PatternModel,
    best: Refinement,
    wanted: Sequence[str],
    *,
    restraints: Sequence[Restraint] = (),
    finished: Sequence[Ray] = (),
    resources: Resources = ONE_THREAD,
    on_ray: Callable[[Profiles, int, int], None] | None = None,
    should_stop: StopCheck | None = None,
) -> Profiles:
    """The profiles of the free parameters `wanted`, all others refined anew at every point.

    Steps are about half an s.u.; each point starts from its neighbour's values, moved along the
    covariance. Rays in `finished` are kept, and continued where they were interrupted. `on_ray`
    receives the profiles so far, the number of finished rays and the number of all rays. A
    parameter that is undetermined to first order is followed from its natural step. Raises
    ValueError for a parameter that is not free or is at a bound.
    """
    clock = time.monotonic()
    free: dict[str, Parameter] = {p.name: p for p in best.free}
    for name in wanted:
        if name not in free or free[name].status is ParameterStatus.AT_BOUND:
            why = "at a bound" if name in free else "not refined"
            raise ValueError(f"{name} cannot be profiled, because it is {why}. "
                             "Free it, widen its bounds or omit it.")
    extra = deviations(restraints, best.values)
    minimum = best.agreement.chi2 + float(extra @ extra)
    rays = {(name, side): Ray(name, side, np.empty(0), np.empty(0), np.empty((0, len(free))), "")
            for name in wanted for side in (-1, 1)}
    rays |= {(ray.parameter, ray.side): ray for ray in finished
             if (ray.parameter, ray.side) in rays}
    limit = RISE * su_scale(best.agreement.gof) ** 2

    def profiles(reason: str) -> Profiles:
        return Profiles(
            tuple(free),
            {n: Profile(free[n], minimum, rays[n, -1], rays[n, 1]) for n in wanted},
            time.monotonic() - clock, reason,
        )

    todo = [ray for ray in rays.values() if not ray.ended]
    worker_model = model.with_resources(resources.share(resources.workers(len(todo))))

    def work(ray: Ray, stopping: StopCheck) -> Ray:
        return _followed(worker_model, best, ray, minimum, limit, restraints, stopping)

    def keep(_: Ray, ray: Ray) -> None:
        rays[ray.parameter, ray.side] = ray
        if on_ray:
            done = sum(bool(side.ended) for side in rays.values())
            on_ray(profiles("running"), done, len(rays))

    reason = spread(work, todo, on_done=keep, should_stop=should_stop, resources=resources)
    return profiles(reason)


def _followed(
    model: PatternModel, best: Refinement, ray: Ray, minimum: float, limit: float,
    restraints: Sequence[Restraint], stopping: StopCheck,
) -> Ray:
    """The ray, continued until chi2 has risen by `limit` or it ends for another reason."""
    names: list[str] = [p.name for p in best.free]
    column = names.index(ray.parameter)
    parameter = best.free[column]
    others = [name for name in names if name != ray.parameter]
    moving: list[str] = [p.name for p in best.free if p.su is not None]
    slope = np.zeros(len(names))
    if ray.parameter in moving:
        row = best.covariance.block(moving)[moving.index(ray.parameter)]
        slope[[names.index(name) for name in moving]] = row / row[moving.index(ray.parameter)]
    centre = np.array([p.value for p in best.free])
    end = parameter.upper if ray.side > 0 else parameter.lower
    room = 1e-6 * max(abs(parameter.value), float(parameter.su or 0.0))
    states: Sequence[PhaseState] = best.evaluation.states
    while not ray.ended and not stopping():
        at = ray.refined[-1] if len(ray.values) else centre
        if len(ray.values) >= MAX_POINTS:
            return replace(ray, ended="flat")
        if (end - at[column]) * ray.side <= room:
            return replace(ray, ended="bound")
        step = _next_step(ray, parameter, minimum) * ray.side
        x = at[column] + step
        if (end - x) * ray.side < room:
            x = end
        start = dict(best.values) | dict(zip(names, at + slope * (x - at[column]), strict=True))
        start[ray.parameter] = x
        try:
            point = _held(model, start, others, restraints, states, stopping)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as problem:
            return replace(ray, ended=f"failed at {x:.6g}: {problem}")
        if point is None:
            return ray
        values, chi2, states = point
        ray = replace(
            ray, values=np.append(ray.values, x), chi2=np.append(ray.chi2, chi2),
            refined=np.vstack([ray.refined, [values[name] for name in names]]),
            ended="risen" if chi2 - minimum > limit else "",
        )
    return ray


def _next_step(ray: Ray, parameter: Parameter, minimum: float) -> float:
    """The distance to the next point: half an s.u., then for an even rise of sqrt(chi2 - min)."""
    at = np.concatenate([[parameter.value], ray.values])
    heights = np.sqrt(np.maximum(np.concatenate([[minimum], ray.chi2]) - minimum, 0.0))
    step = STEP * (parameter.su or parameter.shift)
    if len(at) > 1:
        last = abs(at[-1] - at[-2])
        step = last * float(np.clip(STEP / max(heights[-1] - heights[-2], 1e-9), 0.5, 2.0))
    return step


def _held(
    model: PatternModel, start: Mapping[str, float], others: Sequence[str],
    restraints: Sequence[Restraint], states: Sequence[PhaseState], stopping: StopCheck,
) -> tuple[Mapping[str, float], float, Sequence[PhaseState]] | None:
    """Values, chi2 and states with the other parameters refined; None if it was interrupted."""
    if others:
        refined = refine(
            model, [list(others)], start=start, previous=states, restraints=restraints,
            tolerance=0.02, should_stop=stopping,
        )
        if not refined.converged:
            if stopping():
                return None
            raise ValueError(f"the other parameters did not converge ({refined.stop_reason})")
        values, evaluation = refined.values, refined.evaluation
    else:
        values = model.constrained(start)
        evaluation = model.evaluate(values, states)
    extra = deviations(restraints, values)
    return values, evaluation.chi2 + float(extra @ extra), evaluation.states
