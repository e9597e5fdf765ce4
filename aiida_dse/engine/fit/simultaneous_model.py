"""Simultaneous model of several patterns, with shared parameters and parametric constraints."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from aiida_dse.engine.model.constraints import (
    Constraint,
    constraint_gradient,
    followers,
    ordered_constraints,
)
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.restraints import Restraint
from aiida_dse.engine.parameters import (
    Parameter,
    ParameterName,
    is_pattern,
    require_possible,
    select,
)
from aiida_dse.engine.resources import Resources
from aiida_dse.engine.units import FloatArray

from .refine import default_stages

#: The name of a pattern's temperature (K) in parametric constraints.
TEMPERATURE = "sample.temperature"


class SimultaneousModel:
    """Models of several patterns with shared, local and parametrically constrained parameters.

    A shared parameter has the name that it has in the models ('P.L'), a local parameter of one
    pattern has the prefix of the pattern ('T300:P.a'), and global parameters keep their names
    ('global.a0'). Each of the `parametric_constraints` computes a parameter of every pattern by
    arithmetic from the global parameters, other parameters of the same pattern and
    `constants[pattern]`. Raises ValueError for contradictory specifications.
    """

    def __init__(
        self,
        models: Mapping[str, PatternModel],
        *,
        shared: Iterable[str] = (),
        parametric_constraints: Mapping[str, str] | None = None,
        global_parameters: Iterable[Parameter] = (),
        constants: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        if len(models) < 2:
            raise ValueError(f"the number of patterns is {len(models)}; a simultaneous refinement "
                             "needs at least two.")
        self.models = dict(models)
        self.constants = {name: dict((constants or {}).get(name, {})) for name in models}
        self.global_parameters = {p.name: p for p in global_parameters}
        first = next(iter(self.models.values()))
        self._refuse_different_models(first)
        self.local_names = tuple(first.parameters)
        self.constrained = frozenset(constraint.target for constraint in first.constraints)
        self.parametric_constraints = self._parametric_constraints(
            parametric_constraints or {}, first)
        self.shared = self._shared(tuple(shared), first)
        self.parameters = self._collect()
        self._refuse_idle_global_parameters()

    def with_resources(self, resources: Resources) -> SimultaneousModel:
        """A copy of the model that evaluates each pattern with these resources."""
        return self.with_models({
            name: model.with_resources(resources) for name, model in self.models.items()})

    def with_models(self, models: Mapping[str, PatternModel]) -> SimultaneousModel:
        """A copy with other models of the same patterns, which have the same parameters."""
        other = copy.copy(self)
        other.models = dict(models)
        return other

    def _refuse_different_models(self, first: PatternModel) -> None:
        for name, model in self.models.items():
            different = set(model.parameters) ^ set(first.parameters)
            if different or model.constraints != first.constraints:
                raise ValueError(
                    f"the models of {name} and {next(iter(self.models))} have different parameters "
                    f"or constraints ({', '.join(sorted(different)) or 'constraints'}). Use the "
                    "same model for all patterns."
                )

    def _parametric_constraints(
        self, parametric_constraints: Mapping[str, str], first: PatternModel
    ) -> dict[str, Constraint]:
        known = [*self.local_names, *self.global_parameters, TEMPERATURE]
        found = {}
        for target, text in parametric_constraints.items():
            first.require(target)
            if target in self.constrained:
                raise ValueError(
                    f"{target} has a parametric constraint and a constraint in the model. Remove "
                    "one of the two."
                )
            found[target] = Constraint.parse(target, text, known)
            for pattern, constants in self.constants.items():
                if TEMPERATURE in found[target].sources and TEMPERATURE not in constants:
                    raise ValueError(
                        f"the parametric constraint of {target} uses {TEMPERATURE}, but pattern "
                        f"{pattern} has no temperature. Specify it in 'sample' of the pattern."
                    )
        self._order = ordered_constraints([*first.constraints, *found.values()])
        return found

    def _shared(self, patterns: tuple[str, ...], first: PatternModel) -> tuple[str, ...]:
        chosen = set()
        for pattern in patterns:
            exact = not is_pattern(pattern)
            if exact:
                first.require(pattern)
            for name in select([pattern], self.local_names):
                if name in self.parametric_constraints:
                    raise ValueError(f"{name} is shared and has a parametric constraint. Remove "
                                     "one of the two.")
                if name not in self.constrained:
                    chosen.add(name)
                elif exact:
                    raise ValueError(f"{name} cannot be shared, because it is constrained in the "
                                     "model. Share the parameters in its constraint instead.")
        for name in chosen:
            for pattern, model in self.models.items():
                p, q = first.parameters[name], model.parameters[name]
                if (p.value, p.lower, p.upper) != (q.value, q.lower, q.upper):
                    raise ValueError(
                        f"{name} is shared, but it starts at {q.value:g} "
                        f"({q.lower:g} ... {q.upper:g}) in {pattern} and at {p.value:g} "
                        f"({p.lower:g} ... {p.upper:g}) in {next(iter(self.models))}. Specify it "
                        "once, in the model."
                    )
        return tuple(name for name in self.local_names if name in chosen)

    def _collect(self) -> dict[str, Parameter]:
        first = next(iter(self.models.values()))
        parameters = {name: first.parameters[name] for name in self.shared} | self.global_parameters
        not_local = {*self.shared, *self.parametric_constraints, *self.constrained}
        for pattern, model in self.models.items():
            for name, p in model.parameters.items():
                if name not in not_local:
                    own = self.own_name(pattern, name)
                    parameters[own] = p.changed(name=ParameterName(own))
        return parameters

    def _refuse_idle_global_parameters(self) -> None:
        start = self.start
        for pattern in self.models:
            self.local(pattern, start)
        for name in self.global_parameters:
            # steps to both sides, because a constraint may be stationary at the starting value
            step = self.parameters[name].shift
            ends = [start | {name: start[name] + s * step} for s in (1, -1)]
            if all(self._computed(k, end) == self._computed(k, start)
                   for k in self.models for end in ends):
                users = [target for target, constraint in self.parametric_constraints.items()
                         if name in constraint.sources]
                remedy = (f"Check the parametric constraint of {', '.join(users)}, in which it "
                          "cancels or is multiplied by zero, or remove it." if users else
                          "Use it in a parametric constraint, or remove it.")
                raise ValueError(
                    f"{name} has no effect on any parameter of any pattern. {remedy}"
                )

    @property
    def start(self) -> dict[str, float]:
        """The starting values of all parameters of the simultaneous model."""
        return {name: p.value for name, p in self.parameters.items()}

    def local(self, pattern: str, values: Mapping[str, float]) -> dict[str, float]:
        """All parameter values of one pattern's model at `values` of the simultaneous model.

        Raises ValueError where a parametric constraint yields a value that is impossible for a
        crystal or particle.
        """
        full = self._computed(pattern, values)
        for name in self.parametric_constraints:
            try:
                parameter = self.models[pattern].parameters[name]
                require_possible(name, parameter.kind, full[name], full[name])
            except ValueError:
                raise ValueError(
                    f"the parametric constraint {name} = "
                    f"'{self.parametric_constraints[name].expression}' yields {full[name]:g} "
                    f"{parameter.unit} in pattern {pattern}, which is impossible. Correct the "
                    "constraint, or the starting values and bounds of its parameters."
                ) from None
        return full

    def _computed(self, pattern: str, values: Mapping[str, float]) -> dict[str, float]:
        context = self._context(pattern, values)
        return {name: context[name] for name in self.models[pattern].parameters}

    def _context(self, pattern: str, values: Mapping[str, float]) -> dict[str, float]:
        """The values of a pattern's parameters, the global ones and the constants."""
        model = self.models[pattern]
        full = {name: p.value for name, p in model.parameters.items()}
        for name in full:
            own = self.own_name(pattern, name)
            if own in values:
                full[name] = values[own]
        context = full | self.constants[pattern] | {n: values[n] for n in self.global_parameters}
        for constraint in self._order:
            context[constraint.target] = float(constraint.value(context))
        return context

    def own_name(self, pattern: str, name: str) -> str:
        """The name that a parameter of one pattern has in the simultaneous model."""
        return name if name in self.shared else f"{pattern}:{name}"

    def followers(self, pattern: str, free: Sequence[str]) -> list[str]:
        """The parameters of a pattern that the free parameters of the simultaneous model change.

        Parameters that are constrained in the pattern's own model are left out.
        """
        moved = set(self._acting(pattern, free).values())
        moved |= set(followers(self._order, moved))
        return [name for name in self.local_names if name in moved and name not in self.constrained]

    def slopes(
        self, pattern: str, values: Mapping[str, float], free: Sequence[str]
    ) -> FloatArray:
        """Derivatives (n_followers, n_free) of `followers` with respect to the free parameters."""
        names, acting = self.followers(pattern, free), self._acting(pattern, free)
        rows = dict(zip(acting.values(), np.eye(len(acting)), strict=True))
        context = self._context(pattern, values)
        rows |= constraint_gradient(self._order, context, list(acting.values()))
        matrix = np.zeros((len(names), len(free)))
        columns = [list(free).index(name) for name in acting]
        for row, name in enumerate(names):
            matrix[row, columns] = rows[name]
        return matrix

    def _acting(self, pattern: str, free: Sequence[str]) -> dict[str, str]:
        """The free parameters that act on a pattern, with their names in the pattern's model."""
        parsed = {name: ParameterName(name) for name in free}
        return {name: p.shared for name, p in parsed.items() if p.pattern in ("", pattern)}

    def free_names(self, stages: Sequence[Sequence[str]]) -> list[str]:
        """The parameters that any of the stages refines, in the order of `parameters`.

        The name of a model's parameter ('P.a', or a wildcard) frees this parameter in all patterns
        or, where it has a parametric constraint, the global parameters of the constraint. Raises
        ValueError for unknown names.
        """
        chosen: set[str] = set()
        names = [*self.parameters, *(n for n in self.local_names if n not in self.parameters)]
        for pattern in (text for stage in stages for text in stage):
            if not (pattern in names or is_pattern(pattern) or ParameterName(pattern).pattern):
                next(iter(self.models.values())).require(pattern)
            for name in select([pattern], names):
                if name in self.parameters:
                    chosen.add(name)
                elif name in self.parametric_constraints:
                    sources = set(self.parametric_constraints[name].sources)
                    chosen.update(sources & set(self.global_parameters))
                else:
                    chosen.update(f"{k}:{name}" for k in self.models)
        return [name for name in self.parameters if name in chosen]

    def require_points(self, free: Sequence[str]) -> None:
        """Raise ValueError where a pattern, or all together, has no more points than parameters."""
        points = {name: len(model.observation.q) for name, model in self.models.items()}
        linear = {name: len(model.linear_names) for name, model in self.models.items()}
        counts = [(f"pattern {name}", points[name], len(self.followers(name, free)) + linear[name])
                  for name in self.models]
        counts.append(("the simultaneous refinement", sum(points.values()),
                       len(free) + sum(linear.values())))
        for what, n_points, n_parameters in counts:
            if n_points <= n_parameters:
                raise ValueError(
                    f"{what} has {n_points} points for {n_parameters} parameters, linear "
                    "coefficients included. Widen the range, or fix or share parameters."
                )

    def default_stages(self) -> list[list[str]]:
        """The default stages, which are those of a single pattern."""
        return default_stages(next(iter(self.models.values())))

    def distinct_restraints(
        self, restraints: Mapping[str, Sequence[Restraint]]
    ) -> dict[str, list[Restraint]]:
        """Restraints by pattern; those on shared parameters only are kept in the first pattern."""
        kept: dict[str, list[Restraint]] = {}
        for k, (pattern, model) in enumerate(self.models.items()):
            start = self.local(pattern, self.start)
            names = [n for n in self.local_names if n not in self.constrained]
            moved = {n: [start | {n: start[n] + s * 1e-2 * model.parameters[n].shift}
                         for s in (1, -1)] for n in names}
            kept[pattern] = []
            for restraint in restraints.get(pattern, ()):
                acting = {n for n in names for end in moved[n]
                          if restraint.value(end) != restraint.value(start)}
                if k == 0 or not acting or not acting <= set(self.shared):
                    kept[pattern].append(restraint)
        return kept
