"""Several patterns whose parameters are one for all, follow laws, or are each pattern's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from aiida_dse.engine.model.derivatives import typical_shift
from aiida_dse.engine.model.parameters import Parameter, Tie, ordered_ties, require_possible, select
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.restraints import Restraint
from aiida_dse.engine.units import FloatArray

from .refine import default_stages

#: Between the pattern's name and the parameter's in the name of a pattern's own parameter.
SEPARATOR = ":"
#: Laws may name the temperature (K) of the pattern.
TEMPERATURE = "sample.temperature"


class JointModel:
    """Pattern models whose parameters are shared, given by laws, or their own.

    Names of the whole: a shared parameter as in its models ('P.L'), a pattern's own one after the
    pattern ('T300:P.a'), the parameters of laws as given ('joint.a0'). `laws` give a parameter of
    every pattern by tie arithmetic in the parameters of laws, in other parameters of the same
    pattern and in `constants[pattern]`. Raises ValueError for what contradicts itself.
    """

    def __init__(
        self,
        models: Mapping[str, PatternModel],
        *,
        shared: Iterable[str] = (),
        laws: Mapping[str, str] | None = None,
        law_parameters: Iterable[Parameter] = (),
        constants: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        if len(models) < 2:
            raise ValueError(f"{len(models)} pattern: at least two are refined together.")
        self.models = dict(models)
        self.constants = {name: dict((constants or {}).get(name, {})) for name in models}
        self.law_parameters = {p.name: p for p in law_parameters}
        first = next(iter(self.models.values()))
        self._refuse_different_models(first)
        self.local_names = tuple(first.parameters)
        self.tied = frozenset(tie.target for tie in first.ties)
        self.laws = self._laws(laws or {}, first)
        self.shared = self._shared(tuple(shared), first)
        self.parameters = self._collect()
        self._refuse_idle_law_parameters()

    def _refuse_different_models(self, first: PatternModel) -> None:
        for name, model in self.models.items():
            different = set(model.parameters) ^ set(first.parameters)
            if different or model.ties != first.ties:
                raise ValueError(
                    f"the model of {name} has other parameters or ties than that of "
                    f"{next(iter(self.models))}: {', '.join(sorted(different)) or 'ties'}."
                )

    def _laws(self, laws: Mapping[str, str], first: PatternModel) -> dict[str, Tie]:
        known = [*self.local_names, *self.law_parameters, TEMPERATURE]
        found = {}
        for target, text in laws.items():
            first.require(target)
            if target in self.tied:
                raise ValueError(
                    f"the law of {target}: it is tied in the model already. Remove the tie or the "
                    "law."
                )
            found[target] = Tie.parse(target, text, known)
            for pattern, constants in self.constants.items():
                if TEMPERATURE in found[target].sources and TEMPERATURE not in constants:
                    raise ValueError(
                        f"the law of {target} uses {TEMPERATURE}, but pattern {pattern} has none. "
                        "Give it in the pattern's 'sample'."
                    )
        self._order = ordered_ties([*first.ties, *found.values()])
        return found

    def _shared(self, patterns: tuple[str, ...], first: PatternModel) -> tuple[str, ...]:
        chosen = set()
        for pattern in patterns:
            exact = not any(c in pattern for c in "*?[")
            if exact:
                first.require(pattern)
            for name in select([pattern], self.local_names):
                if name in self.laws:
                    raise ValueError(f"{name} is shared and has a law; it can be only one of them.")
                if name not in self.tied:
                    chosen.add(name)
                elif exact:
                    raise ValueError(f"{name} is tied in the model, so it cannot be shared; share "
                                     "the parameters of its tie.")
        for name in chosen:
            for pattern, model in self.models.items():
                p, q = first.parameters[name], model.parameters[name]
                if (p.value, p.lower, p.upper) != (q.value, q.lower, q.upper):
                    raise ValueError(
                        f"{name} is shared, but {pattern} starts it at {q.value:g} "
                        f"({q.lower:g} ... {q.upper:g}) and {next(iter(self.models))} at "
                        f"{p.value:g} ({p.lower:g} ... {p.upper:g}). Give it once, in the model."
                    )
        return tuple(name for name in self.local_names if name in chosen)

    def _collect(self) -> dict[str, Parameter]:
        first = next(iter(self.models.values()))
        found = {name: first.parameters[name] for name in self.shared} | self.law_parameters
        for pattern, model in self.models.items():
            for name, p in model.parameters.items():
                if name not in self.shared and name not in self.laws and name not in self.tied:
                    own = self.own_name(pattern, name)
                    found[own] = replace(p, name=own)
        return found

    def _refuse_idle_law_parameters(self) -> None:
        start = self.start
        for pattern in self.models:
            self.local(pattern, start)
        for name in self.law_parameters:
            # a step to either side: at its start a law may be flat in a parameter
            ends = [start | {name: start[name] + s * self.typical_shift(name)} for s in (1, -1)]
            if all(self._computed(k, end) == self._computed(k, start)
                   for k in self.models for end in ends):
                raise ValueError(
                    f"{name} has no effect on any parameter of any pattern. Use it in a law, or "
                    "remove it."
                )

    @property
    def start(self) -> dict[str, float]:
        """Starting values of the whole."""
        return {name: p.value for name, p in self.parameters.items()}

    def local(self, pattern: str, values: Mapping[str, float]) -> dict[str, float]:
        """The complete values of one pattern's model at values of the whole.

        Raises ValueError where a law gives what no crystal or particle can have.
        """
        full = self._computed(pattern, values)
        for name in self.laws:
            try:
                unit = self.models[pattern].parameters[name].unit
                require_possible(name, unit, full[name], full[name])
            except ValueError:
                raise ValueError(
                    f"the law {name} = '{self.laws[name].expression}' gives {full[name]:g} {unit} "
                    f"in pattern {pattern}, which is impossible. Correct the law, or the starts "
                    "and bounds of its parameters."
                ) from None
        return full

    def _computed(self, pattern: str, values: Mapping[str, float]) -> dict[str, float]:
        model = self.models[pattern]
        full = {name: p.value for name, p in model.parameters.items()}
        for name in full:
            own = self.own_name(pattern, name)
            if own in values:
                full[name] = values[own]
        context = full | self.constants[pattern] | {n: values[n] for n in self.law_parameters}
        for tie in self._order:
            context[tie.target] = full[tie.target] = tie.value(context)
        return full

    def own_name(self, pattern: str, name: str) -> str:
        """The name that a parameter of one pattern has in the whole."""
        return name if name in self.shared else f"{pattern}{SEPARATOR}{name}"

    def _split(self, name: str) -> tuple[str, str]:
        """The pattern that owns a parameter of the whole ('' for none), and its name there."""
        owner, _, local = name.partition(SEPARATOR)
        return (owner, local) if owner in self.models else ("", name)

    def followers(self, pattern: str, free: Sequence[str]) -> list[str]:
        """The parameters of a pattern that the free ones of the whole move, ties left out."""
        moved = {local for owner, local in map(self._split, free) if owner in ("", pattern)}
        for tie in self._order:
            if moved & set(tie.sources):
                moved.add(tie.target)
        return [name for name in self.local_names if name in moved and name not in self.tied]

    def slopes(
        self, pattern: str, values: Mapping[str, float], free: Sequence[str]
    ) -> FloatArray:
        """Derivatives of a pattern's followers by the free parameters (n_followers, n_free).

        Laws by central differences of their arithmetic.
        """
        names = self.followers(pattern, free)
        matrix = np.zeros((len(names), len(free)))
        for column, name in enumerate(free):
            owner, local = self._split(name)
            if owner not in ("", pattern):
                continue
            if local in names:
                matrix[names.index(local), column] = 1.0
            # arithmetic is exact to rounding: a small step costs nothing
            step = 1e-3 * self.typical_shift(name)
            ends = [self._computed(pattern, {**values, name: values[name] + s})
                    for s in (step, -step)] if self.laws else []
            for law in set(names) & set(self.laws):
                matrix[names.index(law), column] = (ends[0][law] - ends[1][law]) / (2 * step)
        return matrix

    def typical_shift(self, name: str) -> float:
        """A natural step of a parameter of the whole."""
        if name not in self.law_parameters:
            return typical_shift(self.parameters[name])
        p = self.law_parameters[name]
        if p.value != 0:
            return 1e-2 * abs(p.value)
        span = p.upper - p.lower
        return 1e-2 * span if np.isfinite(span) and span > 0 else 1e-6

    def free_names(self, stages: Sequence[Sequence[str]]) -> list[str]:
        """What the stages free together, in the order of the whole; ValueError for unknown names.

        A model's parameter ('P.a', or a wildcard) frees it in all patterns or, where a law gives
        it, the parameters of that law; names of the whole are taken as they are.
        """
        chosen: set[str] = set()
        names = [*self.parameters, *(n for n in self.local_names if n not in self.parameters)]
        for pattern in (text for stage in stages for text in stage):
            if not (pattern in names or any(c in pattern for c in f"*?[{SEPARATOR}")):
                next(iter(self.models.values())).require(pattern)
            for name in select([pattern], names):
                if name in self.parameters:
                    chosen.add(name)
                elif name in self.laws:
                    chosen.update(set(self.laws[name].sources) & set(self.law_parameters))
                else:
                    chosen.update(f"{k}{SEPARATOR}{name}" for k in self.models)
        return [name for name in self.parameters if name in chosen]

    def require_points(self, free: Sequence[str]) -> None:
        """Raise ValueError where a pattern, or the whole, has no more points than parameters."""
        points = {name: len(model.observation.q) for name, model in self.models.items()}
        linear = {name: len(model.linear_names) for name, model in self.models.items()}
        counts = [(f"pattern {name}", points[name], len(self.followers(name, free)) + linear[name])
                  for name in self.models]
        counts.append(("the whole", sum(points.values()), len(free) + sum(linear.values())))
        for what, n_points, n_parameters in counts:
            if n_points <= n_parameters:
                raise ValueError(
                    f"{what} has {n_points} points for {n_parameters} parameters, linear ones "
                    "included. Widen the range, or fix or share parameters."
                )

    def default_stages(self) -> list[list[str]]:
        """Those of a single pattern."""
        return default_stages(next(iter(self.models.values())))

    def distinct_restraints(
        self, restraints: Mapping[str, Sequence[Restraint]]
    ) -> dict[str, list[Restraint]]:
        """Restraints by pattern, those on nothing but shared parameters kept in the first only."""
        kept: dict[str, list[Restraint]] = {}
        for k, (pattern, model) in enumerate(self.models.items()):
            start = self.local(pattern, self.start)
            names = [n for n in self.local_names if n not in self.tied]
            moved = {n: [start | {n: start[n] + s * 1e-2 * typical_shift(model.parameters[n])}
                         for s in (1, -1)] for n in names}
            kept[pattern] = []
            for restraint in restraints.get(pattern, ()):
                acting = {n for n in names for end in moved[n]
                          if restraint.value(end) != restraint.value(start)}
                if k == 0 or not acting or not acting <= set(self.shared):
                    kept[pattern].append(restraint)
        return kept
