"""The observed pattern and its forward model: phases, blanks and background."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.polynomial import chebyshev

from aiida_dse.engine.measurement.instrument import INSTRUMENT, DirectMeasurement, Measurement
from aiida_dse.engine.memo import Memo
from aiida_dse.engine.parameters import Kind, Parameter, ParameterName, closest
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.units import FloatArray, two_theta_from_q

from .agreement import Agreement, agreement
from .constraints import Constraint, Numbers, ordered_constraints
from .linear import LinearProblem, LinearSolution
from .phase import TOLERANCE, Phase, PhaseState, Sampling


@dataclass(frozen=True)
class ObservedPattern:
    """An observed pattern: intensities with standard uncertainties at increasing q (1/Å).

    The wavelength is in Å. Raises ValueError for arrays of different lengths, and for values that
    are not finite or not positive where they must be.
    """

    q: FloatArray
    intensity: FloatArray
    sigma: FloatArray
    wavelength: float

    def __post_init__(self) -> None:
        if not (len(self.q) == len(self.intensity) == len(self.sigma) > 0):
            raise ValueError(
                f"the pattern has {len(self.q)} values of q, {len(self.intensity)} intensities and "
                f"{len(self.sigma)} values of sigma; these numbers must be equal and at least 1."
            )
        if not (np.all(np.diff(self.q) > 0) and self.q[0] > 0):
            raise ValueError(
                "the q of the pattern must be positive and increase from point to point."
            )
        if not (np.all(np.isfinite(self.intensity)) and np.all(self.sigma > 0)):
            raise ValueError(
                "the pattern contains intensities that are not finite, or values of sigma that are "
                "not above 0. Correct or remove these points."
            )

    @cached_property
    def two_theta(self) -> FloatArray:
        """The scattering angles (n_points,) in degrees."""
        return two_theta_from_q(self.q, self.wavelength)


@dataclass(frozen=True)
class Background:
    """The background: Chebyshev terms over the range in 2theta, powers of 1/q, and blanks.

    `blanks` holds the intensities (n_points,) of each blank and `blank_sigma` their s.u., which
    do not enter chi2; a refinement warns where they are comparable to those of the pattern.
    """

    chebyshev: int = 0
    inverse_q: tuple[int, ...] = ()
    blanks: Mapping[str, FloatArray] = field(default_factory=dict)
    blank_sigma: Mapping[str, FloatArray] = field(default_factory=dict)

    def free_columns(self, observation: ObservedPattern) -> tuple[list[str], FloatArray]:
        """The names and columns (n_points, n) of the terms whose coefficients have any sign."""
        angle = observation.two_theta
        span = angle[-1] - angle[0]
        scaled = (2 * angle - angle[0] - angle[-1]) / span if span > 0 else np.zeros(len(angle))
        names = [f"background.chebyshev_{k}" for k in range(self.chebyshev)]
        columns = list(chebyshev.chebvander(scaled, max(0, self.chebyshev - 1)).T[: self.chebyshev])
        for power in self.inverse_q:
            names.append(f"background.inverse_q{power}")
            columns.append((observation.q[0] / observation.q) ** power)
        return names, np.array(columns).reshape(len(names), len(angle)).T


#: Names such as those of size parameters: D, H, L_ab, L_12, sd_D.
SIZE_NAME = re.compile(r"(sd_\w+|[DHL](_\w+)?|size_axes_rotation)")


@dataclass(frozen=True)
class Evaluation:
    """The model of a pattern evaluated at one set of parameter values."""

    values: Mapping[str, float]
    states: tuple[PhaseState, ...]
    columns: FloatArray  # (n_points, n_scaled) patterns of the phases whose scale is solved
    offset: FloatArray | None  # (n_points,) pattern of the phases whose scale is fixed
    linear: LinearSolution

    @property
    def chi2(self) -> float:
        return self.linear.chi2


class PatternModel:
    """The forward model of one observed pattern: phases, background, constraints and scales.

    `overrides` replaces parameters of the phases (values and bounds); `fixed_scales` lists the
    scales that are not solved, by phase. Raises ValueError for repeated phase names, unknown
    parameters, and constraints that cannot be applied.
    """

    def __init__(
        self,
        observation: ObservedPattern,
        phases: Sequence[Phase],
        background: Background | None = None,
        *,
        constraints: Mapping[str, str] | None = None,
        overrides: Mapping[str, Parameter] | None = None,
        fixed_scales: Mapping[str, float] | None = None,
        measurement: Measurement | None = None,
        compton: Sequence[FloatArray] | None = None,
        tolerance: float = TOLERANCE,
        resources: Resources = ONE_THREAD,
    ) -> None:
        names = [phase.name for phase in phases]
        if INSTRUMENT in names and measurement is not None and measurement.parameters:
            raise ValueError(f"a phase has the name '{INSTRUMENT}', which is that of the instrument. Use another name.")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two phases have the name '{name}'. Use different names.")
        self.observation = observation
        self.phases = tuple(phases)
        self.background = background or Background()
        self.measurement = measurement or DirectMeasurement(observation.q, np.ones(len(observation.q)))
        self.sampling = Sampling(
            self.measurement.q, observation.wavelength, tolerance=tolerance, resources=resources
        )
        self.fixed_scales = dict(fixed_scales or {})
        self.parameters = self._collect(overrides or {})
        self.constraints = ordered_constraints(
            [Constraint.parse(target, text, self.parameters)
             for target, text in (constraints or {}).items()]
        )
        for constraint in self.constraints:
            self.require(constraint.target)
        self._local_names = [
            [(p.name.local, p.name) for p in phase.parameters] for phase in self.phases
        ]
        self.pair_factors = [phase.pair_factors(self.sampling) for phase in self.phases]
        #: The Compton scattering (n_sites, n_q) of the atoms of each phase; None without.
        self.compton = None if compton is None else list(compton)
        self.free_names, free = self.background.free_columns(observation)
        self.blank_names = list(self.background.blanks)
        blanks = np.array([self.background.blanks[name] for name in self.blank_names])
        self._free = free
        self._blanks = blanks.reshape(len(self.blank_names), len(observation.q)).T
        self.linear = LinearProblem(
            observation.intensity, observation.sigma, free, self._blanks
        )

    def _collect(self, overrides: Mapping[str, Parameter]) -> dict[str, Parameter]:
        parameters: dict[str, Parameter] = {
            parameter.name: parameter for phase in self.phases for parameter in phase.parameters
        }
        parameters |= {parameter.name: parameter for parameter in self.measurement.parameters}
        for name, parameter in overrides.items():
            if name not in parameters:
                raise ValueError(self._unknown(name, parameters))
            parameters[name] = parameter
        return parameters

    def require(self, name: str) -> Parameter:
        """The parameter with that name; ValueError with the reason if there is none."""
        if name not in self.parameters:
            raise ValueError(self._unknown(name, self.parameters))
        return self.parameters[name]

    def _unknown(self, name: str, known: Mapping[str, Parameter]) -> str:
        parsed = ParameterName(name)
        for phase in self.phases:
            if phase.name == parsed.phase and parsed.local in phase.fixed_reasons:
                return f"'{name}' cannot be varied: {phase.fixed_reasons[parsed.local]}."
        hint = closest(name, known)
        if SIZE_NAME.fullmatch(parsed.local):
            sizes = [other for other in known if ParameterName(other).phase == parsed.phase
                     and known[other].kind in (Kind.SIZE, Kind.SIZE_SD)]
            hint = f" (the size parameters of this phase are {', '.join(sizes)})" if sizes else hint
        return (
            f"there is no parameter '{name}'{hint}. 'dse-engine validate' lists "
            "the parameters."
        )

    @property
    def linear_kinds(self) -> dict[str, Kind]:
        """The kinds of the linear coefficients by name, in the order in which they are solved."""
        kinds: dict[str, Kind] = dict.fromkeys(self.free_names, Kind.BACKGROUND)
        kinds |= {f"blank.{name}": Kind.BLANK for name in self.blank_names}
        return kinds | {self.scale_name(phase): Kind.SCALE for phase in self.phases
                        if phase.name not in self.fixed_scales}

    @property
    def linear_names(self) -> list[str]:
        """The names of the linear coefficients, in the order in which they are solved."""
        return list(self.linear_kinds)

    @staticmethod
    def scale_name(phase: Phase) -> ParameterName:
        """The name of a phase's scale factor."""
        return ParameterName.of(phase.name, "scale")

    def linear_columns(self, evaluation: Evaluation) -> FloatArray:
        """The patterns (n_points, n_linear) of the linear coefficients, in their order."""
        return np.hstack([self._free, self._blanks, evaluation.columns])

    def phase_of(self, name: str) -> Phase:
        """The phase to which a parameter belongs."""
        owner = ParameterName(name).phase
        return next(phase for phase in self.phases if phase.name == owner)

    @property
    def start(self) -> dict[str, float]:
        """The starting values with the constraints applied."""
        return self.constrained({name: p.value for name, p in self.parameters.items()})

    def constrained(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values with the constraints applied."""
        full = dict(values)
        for constraint in self.constraints:
            full[constraint.target] = float(constraint.value(full))
        return full

    def constrained_grid(self, values: Mapping[str, Numbers]) -> dict[str, Numbers]:
        """The values with the constraints applied, for arrays point by point."""
        full = dict(values)
        for constraint in self.constraints:
            full[constraint.target] = constraint.value(full)
        return full

    def local(self, index: int, values: Mapping[str, float]) -> dict[str, float]:
        """The values of one phase under its local names."""
        return {local: values[name] for local, name in self._local_names[index]}

    @property
    def n_points(self) -> int:
        """The number of observed points."""
        return len(self.observation.q)

    def intensity(self, index: int, state: PhaseState, values: Mapping[str, float]) -> FloatArray:
        """The observed pattern (n_points,) of one phase per particle."""
        return self.measurement.observe(self._of_sample(index, state, values), values)

    def _of_sample(
        self, index: int, state: PhaseState, values: Mapping[str, float], damping: FloatArray | None = None
    ) -> FloatArray:
        """The intensity (n_q,) of one phase per particle before it is measured."""
        occupancy, b_iso = self.phases[index].occupancy_and_b(self.local(index, values))
        pattern = debye.debye_intensity(
            state.sums, self.pair_factors[index], state.atoms, occupancy, b_iso, self.sampling.q, damping
        )
        if self.compton is not None:
            pattern += (state.atoms * occupancy) @ self.compton[index]
        return pattern

    def states(
        self, values: Mapping[str, float], previous: Sequence[PhaseState] | None = None
    ) -> tuple[PhaseState, ...]:
        """The partial Debye sums of all phases; unchanged channels are taken from `previous`."""
        return tuple(
            phase.state(
                self.local(index, values), self.sampling, previous[index] if previous else None
            )
            for index, phase in enumerate(self.phases)
        )

    def evaluate(
        self, values: Mapping[str, float], previous: Sequence[PhaseState] | None = None
    ) -> Evaluation:
        """The patterns and the linear solution at `values` (complete, with constraints applied).

        Unchanged channels are taken from the `previous` states.
        """
        return self.evaluate_at(self.states(values, previous), values, self.fixed_scales)

    def evaluate_at(
        self, states: Sequence[PhaseState], values: Mapping[str, float],
        scales: Mapping[str, float],
    ) -> Evaluation:
        """The evaluation from known partial Debye sums; `scales` lists fixed scales by phase."""
        patterns = [self.intensity(k, state, values) for k, state in enumerate(states)]
        columns, offset = [], None
        for phase, pattern in zip(self.phases, patterns, strict=True):
            if phase.name in scales:
                part = scales[phase.name] * pattern
                offset = part if offset is None else offset + part
            else:
                columns.append(pattern)
        stacked = np.array(columns).reshape(len(columns), self.n_points).T
        return Evaluation(
            values, tuple(states), stacked, offset, self.linear.solve(stacked, offset)
        )

    def sweep(
        self, states: Sequence[PhaseState], many: Sequence[Mapping[str, float]],
        damping: Memo[FloatArray],
    ) -> tuple[FloatArray, FloatArray]:
        """chi2 and numbers of active columns (n_sweep,) at many values that share the sine sums.

        All scales of the model must be solved. `damping` caches Debye-Waller factors by B_iso.
        """
        return self.linear.sweep(self.patterns(states, many, damping))

    def patterns(
        self, states: Sequence[PhaseState], many: Sequence[Mapping[str, float]],
        damping: Memo[FloatArray],
    ) -> FloatArray:
        """The patterns (n_sweep, n_phases, n_points) at many values that share the sine sums."""
        patterns = np.empty((len(many), len(self.phases), self.n_points))
        for row, values in enumerate(many):
            intensities = np.empty((len(self.phases), len(self.sampling.q)))
            for k, (phase, state) in enumerate(zip(self.phases, states, strict=True)):
                _, b_iso = phase.occupancy_and_b(self.local(k, values))
                factors = [damping.get(float(b), partial(self._damping, float(b))) for b in b_iso]
                intensities[k] = self._of_sample(k, state, values, np.array(factors))
            patterns[row] = self.measurement.observe(intensities, values)
        return patterns

    def _damping(self, b_iso: float) -> FloatArray:
        """The Debye-Waller factor T (n_q,) of one B_iso (Å^2)."""
        return np.asarray(debye.debye_waller(np.array([b_iso]), self.sampling.q)[0])

    def with_resources(self, resources: Resources) -> PatternModel:
        """A copy of the model that is evaluated with other resources."""
        other = copy.copy(self)
        other.sampling = replace(self.sampling, resources=resources)
        return other

    def with_reference(self, values: Mapping[str, float]) -> PatternModel:
        """A copy of the model whose spheres consist of the atoms of the structure at `values`.

        Parameters, starting values and bounds are unchanged. A model without spheres is returned
        itself.
        """
        phases = tuple(phase.with_reference(self.local(k, values))
                       for k, phase in enumerate(self.phases))
        if all(new is old for new, old in zip(phases, self.phases, strict=True)):
            return self
        return self.with_phases(phases)

    def with_phases(self, phases: tuple[Phase, ...]) -> PatternModel:
        """A copy of the model with changed phases that have the same names and parameters."""
        other = copy.copy(self)
        other.phases = phases
        return other

    def with_fixed_scales(self, scales: Mapping[str, float]) -> PatternModel:
        """A copy of the model with the scales of some phases fixed."""
        other = copy.copy(self)
        other.fixed_scales = dict(scales)
        return other

    def with_intensity(self, intensity: FloatArray) -> PatternModel:
        """A copy of the model with other observed intensities (n_points,) and the same sigma."""
        other = copy.copy(self)
        other.observation = replace(self.observation, intensity=intensity)
        other.linear = LinearProblem(
            intensity, self.observation.sigma, self._free, self._blanks
        )
        return other

    def with_sigma(self, sigma: FloatArray) -> PatternModel:
        """A copy of the model with other standard uncertainties (n_points,) of the intensities."""
        other = copy.copy(self)
        other.observation = replace(self.observation, sigma=sigma)
        other.linear = LinearProblem(
            self.observation.intensity, sigma, self._free, self._blanks
        )
        return other

    def components(self, evaluation: Evaluation) -> dict[str, FloatArray]:
        """The pattern (n_points,) of every component: background, each blank and each phase."""
        coefficients = dict(
            zip(self.linear_names, evaluation.linear.coefficients, strict=True)
        )
        parts = {
            "background": self._free @ evaluation.linear.coefficients[: len(self.free_names)]
        }
        for k, name in enumerate(self.blank_names):
            parts[f"blank.{name}"] = coefficients[f"blank.{name}"] * self._blanks[:, k]
        for k, phase in enumerate(self.phases):
            scale = self.fixed_scales.get(phase.name, coefficients.get(self.scale_name(phase), 0.0))
            parts[phase.name] = scale * self.intensity(k, evaluation.states[k], evaluation.values)
        return parts

    def below_phases(self, evaluation: Evaluation) -> FloatArray:
        """The intensity (n_points,) of background and blanks."""
        parts = self.components(evaluation)
        phases = {phase.name for phase in self.phases}
        return np.asarray(
            np.sum([part for name, part in parts.items() if name not in phases], axis=0)
        )

    def blank_noise(self, evaluation: Evaluation) -> dict[str, float]:
        """The scaled s.u. of each blank relative to that of the pattern, root mean square.

        Blanks without an s.u. are left out.
        """
        coefficients = dict(zip(self.linear_names, evaluation.linear.coefficients, strict=True))
        return {
            name: float(coefficients[f"blank.{name}"]
                        * np.sqrt(np.mean((sigma / self.observation.sigma) ** 2)))
            for name, sigma in self.background.blank_sigma.items()
        }

    def calculated(self, evaluation: Evaluation) -> FloatArray:
        """The calculated intensities (n_points,)."""
        return np.asarray(
            self.observation.intensity - evaluation.linear.residual * self.observation.sigma
        )

    def agreement(self, evaluation: Evaluation, n_free: int) -> Agreement:
        """The agreement with the observation; n_free counts the non-linear free parameters."""
        return agreement(
            observed=self.observation.intensity,
            calculated=self.calculated(evaluation),
            sigma=self.observation.sigma,
            n_refined=n_free + int(evaluation.linear.active.sum()),
            background=self.below_phases(evaluation),
        )
