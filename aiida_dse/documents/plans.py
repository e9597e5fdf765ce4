"""Document sections of the tasks: refinement, restraints, GoF maps and uncertainties."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from aiida_dse.sections import Finite, Name, Names, Positive, Section


class Start(Section):
    """Starting value and bounds of a parameter."""

    value: Finite | None = None
    lower: Finite | None = None
    upper: Finite | None = None


class RefinementPlan(Section):
    """Refinement in stages, each of which frees further parameters ('*' is a wildcard)."""

    stages: tuple[Annotated[tuple[Names, ...], Field(min_length=1)], ...] | None = None
    method: Literal["least_squares", "cobyqa", "differential_evolution"] = Field(
        "least_squares", description="cobyqa is derivative-free, differential_evolution is global"
    )
    starts: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="number of starting points of a search for other minima"
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        0, description="seed of the starting points or of the population"
    )
    max_cycles: Annotated[int, Field(ge=1, le=10000)] = 60
    tolerance: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01, description="convergence limit: largest shift of a parameter in units of its s.u."
    )
    weights: Literal["observed", "calculated"] = Field(
        "observed", description="'calculated' takes sigma of counts from the calculated pattern, for "
        "patterns with fewer than about 50 counts per point"
    )

    @model_validator(mode="after")
    def _one_search(self) -> RefinementPlan:
        if self.starts > 1 and self.method != "least_squares":
            raise ValueError(
                f"{self.starts} starts require the method least_squares; {self.method} has one "
                "start. Remove 'starts' or 'method'"
            )
        return self


class RestraintSection(Section):
    """A restraint on bonds, angles or a parameter: adds ((value - target) / sigma)^2 to chi2."""

    distance: tuple[str, str] | None = Field(
        None, description="two site labels; restrains all symmetry-independent bonds between "
        "them, Å"
    )
    angle: tuple[str, str, str] | None = Field(
        None, description="site, vertex, site; restrains all symmetry-independent angles near the "
        "target, degrees"
    )
    parameter: Names | None = Field(
        None, description="name of a parameter with a prior value, in the unit of the parameter"
    )
    phase: Name | None = Field(None, description="required if there are several phases")
    target: Finite
    sigma: Positive
    multiplicity: bool = Field(
        False, description="count a bond or angle as often as it occurs around one atom"
    )
    cutoff: Positive | None = Field(
        None, description="Å; longest bond (default: 1.25 times the shortest bond)"
    )
    coordination: Annotated[int, Field(ge=1, le=48)] | None = Field(
        None, description="number of nearest neighbours, as an alternative to 'cutoff'"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> RestraintSection:
        if sum(kind is not None for kind in (self.distance, self.angle, self.parameter)) != 1:
            raise ValueError("specify one of 'distance', 'angle' and 'parameter'")
        if self.parameter is not None and (
            self.multiplicity or self.cutoff is not None or self.coordination is not None
        ):
            raise ValueError(
                "'multiplicity', 'cutoff' and 'coordination' belong to a 'distance' or an 'angle'; "
                "remove them from the restraint on a parameter"
            )
        if self.cutoff is not None and self.coordination is not None:
            raise ValueError("'cutoff' and 'coordination' exclude each other; keep one of them")
        return self


class ScanAxis(Section):
    """One axis of a map: a parameter, a quantity or a path, and its values.

    The values are a list, or start, stop and step. Those of a path are fractions of its length,
    from 0 to 1.
    """

    parameter: Names | None = None
    unit: Literal["angstrom"] | None = Field(
        None, description="the values are displacements of a coordinate from its start along the "
        "cell edge, Å"
    )
    quantity: Names | None = Field(
        None, description="derived quantity as named in results: CsPbBr3.angle(Pb-Br_eq-Pb)_1"
    )
    vary: tuple[Names, ...] = Field(
        (), description="parameters that are adjusted until the quantity has its value"
    )
    hold: tuple[Names, ...] = Field((), description="quantities held at their starting values")
    equal: tuple[tuple[str, str], ...] = Field((), description="pairs of quantities kept equal")
    path: Annotated[tuple[dict[str, Finite], ...], Field(min_length=2)] | None = Field(
        None, description="parameter values at the corners; a parameter that a corner omits is "
        "at its start"
    )
    values: Annotated[tuple[Finite, ...], Field(min_length=1)] | None = None
    start: Finite | None = None
    stop: Finite | None = None
    step: Positive | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ScanAxis:
        if sum(kind is not None for kind in (self.parameter, self.quantity, self.path)) != 1:
            raise ValueError("specify one of 'parameter', 'quantity' and 'path'")
        if self.unit is not None and self.parameter is None:
            raise ValueError("a 'unit' requires a 'parameter' that is a coordinate")
        if self.quantity is not None and not self.vary:
            raise ValueError("a 'quantity' needs 'vary', the parameters that are adjusted to reach "
                             "its values")
        if self.quantity is None and (self.vary or self.hold or self.equal):
            raise ValueError("'vary', 'hold' and 'equal' require a 'quantity'")
        if self.path is not None and not self.moves:
            raise ValueError("no corner of the path names a parameter")
        return self

    @model_validator(mode="after")
    def _one_way(self) -> ScanAxis:
        start, stop = self.ends
        ends = (start, stop, self.step)
        if self.values is None and any(end is None for end in ends):
            raise ValueError("specify either 'values', or 'start', 'stop' and 'step'")
        if self.values is not None and (self.start, self.stop, self.step) != (None, None, None):
            raise ValueError("specify either 'values', or 'start', 'stop' and 'step', not both")
        if self.values is None:
            assert start is not None and stop is not None
            if stop < start:
                raise ValueError(f"stop ({stop:g}) is below start ({start:g})")
            assert self.step is not None
            if (stop - start) > 1e12 * self.step:
                raise ValueError(f"the step ({self.step:g}) is far too small for the range from "
                                 f"{start:g} to {stop:g}; use a larger step")
        elif any(b <= a for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ValueError("the values must increase")
        low, high = (self.values[0], self.values[-1]) if self.values else (start, stop)
        if self.path is not None and low is not None and high is not None \
                and not 0 <= low <= high <= 1:
            raise ValueError(
                f"the values run from {low:g} to {high:g}, but along a path they are fractions of "
                "its length, from 0 to 1"
            )
        return self

    @property
    def moves(self) -> tuple[str, ...]:
        """The parameters that the axis moves."""
        if self.parameter is not None:
            return (self.parameter,)
        corners = self.path or ()
        return self.vary or tuple(dict.fromkeys(name for corner in corners for name in corner))

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """start and stop, which default to 0 and 1 for a path."""
        if self.path is None:
            return self.start, self.stop
        return (0.0 if self.start is None else self.start,
                1.0 if self.stop is None else self.stop)

    @property
    def size(self) -> int:
        """The number of values."""
        if self.values is not None:
            return len(self.values)
        start, stop = self.ends
        assert start is not None and stop is not None and self.step is not None
        return int((stop - start) / self.step + 1e-9) + 1

    def points(self) -> np.ndarray:
        """The values (n,) in increasing order."""
        if self.values is not None:
            return np.array(self.values)
        start, _ = self.ends
        assert start is not None and self.step is not None
        return np.round(start + self.step * np.arange(self.size), 12)


class ScanPlan(Section):
    """A GoF map over one to four axes."""

    axes: Annotated[tuple[ScanAxis, ...], Field(min_length=1, max_length=4)]
    refine: tuple[Names, ...] = Field((), description="parameters refined at every point")
    method: Literal["auto", "direct"] = Field(
        "auto", description="'auto' interpolates the map from exact patterns where this saves time, and "
        "checks it against exact evaluations at other points; 'direct' computes every point"
    )
    adaptive: bool = Field(
        False, description="where every point has to be computed: refine the grid from coarse to "
        "fine, and interpolate where the GoF is high"
    )
    part_of_grid: bool = Field(
        False, description="part of a larger grid, in which no point needs to be reachable"
    )


class BootstrapPlan(Section):
    """Bootstrap: refinements of patterns resampled from the fitted one."""

    samples: Annotated[int, Field(ge=2, le=100_000)] = 200
    seed: Annotated[int, Field(ge=0)] = 0


class PosteriorPlan(Section):
    """Posterior sampled by Markov chain Monte Carlo with an ensemble of walkers."""

    walkers: Annotated[int, Field(ge=8, le=10_000)] | None = Field(
        None, description="at least two for each free parameter; default: 2 n + 4 for n free "
        "parameters, but at least 16"
    )
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        500, description="steps of each walker"
    )
    method: Literal["auto", "direct"] = Field(
        "auto", description="'auto' approximates the patterns around the minimum, and checks this at "
        "samples of the chain; 'direct' computes every pattern"
    )
    seed: Annotated[int, Field(ge=0)] = 0


class UncertaintyPlan(Section):
    """Uncertainties beyond the covariance: profiles, bootstrap and posterior, each optional."""

    profile: tuple[Names, ...] = Field(
        (), description="refined parameters ('*' is a wildcard) whose chi2 profile is computed"
    )
    bootstrap: BootstrapPlan | None = None
    posterior: PosteriorPlan | None = None
