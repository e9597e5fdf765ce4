"""The sections that say what to do with a model: refine, restrain, scan, weigh uncertainty."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from .sections import Finite, Name, Positive, Section


class Start(Section):
    """Starting value and bounds of a parameter."""

    value: Finite | None = None
    lower: Finite | None = None
    upper: Finite | None = None


class RefinementPlan(Section):
    """Least squares: each stage frees its parameters ('*' is a wildcard) on top of the last."""

    stages: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] | None = None
    method: Literal["least_squares", "cobyqa", "differential_evolution"] = Field(
        "least_squares", description="cobyqa: without derivatives; differential_evolution: global"
    )
    starts: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="refine from so many starting points, to find other minima"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of starting points or population")
    max_cycles: Annotated[int, Field(ge=1, le=10000)] = 60
    tolerance: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01, description="converged when no parameter moves by more than this share of its s.u."
    )

    @model_validator(mode="after")
    def _one_search(self) -> RefinementPlan:
        if self.starts > 1 and self.method != "least_squares":
            raise ValueError(
                f"{self.starts} starts go with the method least_squares; {self.method} has one "
                "start. Leave out 'starts' or 'method'"
            )
        return self


class RestraintSection(Section):
    """Something known besides the pattern: adds ((value - target) / sigma)^2 to chi2."""

    distance: tuple[str, str] | None = Field(None, description="two site labels; Å")
    angle: tuple[str, str, str] | None = Field(None, description="site, vertex, site; degrees")
    parameter: str | None = Field(None, description="a prior, in the parameter's unit")
    phase: Name | None = Field(None, description="needed where there are several")
    target: Finite
    sigma: Positive

    @model_validator(mode="after")
    def _one_kind(self) -> RestraintSection:
        if sum(kind is not None for kind in (self.distance, self.angle, self.parameter)) != 1:
            raise ValueError("give one of 'distance', 'angle' and 'parameter'")
        return self


class ScanAxis(Section):
    """A parameter and its values: a list, or start, stop and step (ends included)."""

    parameter: str
    values: Annotated[tuple[Finite, ...], Field(min_length=1)] | None = None
    start: Finite | None = None
    stop: Finite | None = None
    step: Positive | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ScanAxis:
        ends = (self.start, self.stop, self.step)
        if (self.values is None) == any(end is None for end in ends) and self.values is None:
            raise ValueError("give either 'values', or 'start', 'stop' and 'step'")
        if self.values is not None and any(end is not None for end in ends):
            raise ValueError("give either 'values', or 'start', 'stop' and 'step', not both")
        if self.values is None:
            assert self.start is not None and self.stop is not None
            if self.stop < self.start:
                raise ValueError(f"stop ({self.stop:g}) lies below start ({self.start:g})")
            assert self.step is not None
            if (self.stop - self.start) > 1e12 * self.step:
                raise ValueError(f"the step ({self.step:g}) is far too small for this range")
        elif any(b <= a for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ValueError("the values must increase")
        return self

    @property
    def size(self) -> int:
        if self.values is not None:
            return len(self.values)
        assert self.start is not None and self.stop is not None and self.step is not None
        return int((self.stop - self.start) / self.step + 1e-9) + 1

    def points(self) -> np.ndarray:
        if self.values is not None:
            return np.array(self.values)
        assert self.start is not None and self.step is not None
        return np.round(self.start + self.step * np.arange(self.size), 12)


class ScanPlan(Section):
    """A GoF map over one to three parameters."""

    axes: Annotated[tuple[ScanAxis, ...], Field(min_length=1, max_length=3)]
    refine: tuple[str, ...] = Field((), description="parameters refined at every point")


class BootstrapPlan(Section):
    """Patterns resampled from the fitted one, each refined."""

    samples: Annotated[int, Field(ge=2, le=100_000)] = 200
    seed: Annotated[int, Field(ge=0)] = 0


class PosteriorPlan(Section):
    """Markov chain Monte Carlo with an ensemble of walkers."""

    walkers: Annotated[int, Field(ge=8, le=10_000)] | None = Field(
        None, description="at least two for each free parameter; default: 2 n + 4, 16 or more"
    )
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(500, description="of every walker")
    seed: Annotated[int, Field(ge=0)] = 0


class UncertaintyPlan(Section):
    """How far the refined values can be trusted, beyond the covariance; any of the three."""

    profile: tuple[str, ...] = Field(
        (), description="refined parameters ('*' is a wildcard) whose chi2 curve is traced"
    )
    bootstrap: BootstrapPlan | None = None
    posterior: PosteriorPlan | None = None
