"""The task 'simultaneous': model and refinement of several patterns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aiida_dse.documents import DocumentError, SimultaneousDocument
from aiida_dse.documents.plans import Start
from aiida_dse.documents.reading import located
from aiida_dse.documents.records import DataRow
from aiida_dse.documents.results import PatternRow, SimultaneousSummary
from aiida_dse.engine.fit.leastsquares import Cycle
from aiida_dse.engine.fit.settling import (
    Models,
    counts_per_unit,
    with_calculated_weights,
    with_refined_members,
)
from aiida_dse.engine.fit.simultaneous_fit import SimultaneousRefinement, refine_simultaneous
from aiida_dse.engine.fit.simultaneous_model import TEMPERATURE, SimultaneousModel
from aiida_dse.engine.model.constraints import Constraint
from aiida_dse.engine.parameters import Kind, Parameter, ParameterName, closest
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.io.results import Result

from .build import BuiltModel, build
from .peak_positions import check_axis
from .run import StopCheck, refinement_result, status_of
from .sources import Source
from .summary import common, covariance_arrays, document_hash, parameter_rows


@dataclass(frozen=True)
class BuiltSimultaneous:
    """The forward models of a simultaneous document, with their common model and stages."""

    document: SimultaneousDocument
    patterns: dict[str, BuiltModel]
    model: SimultaneousModel
    stages: list[list[str]]
    resources: Resources


def build_simultaneous(
    document: SimultaneousDocument, source: Callable[[str], Source] | Path, *,
    resources: Resources = ONE_THREAD,
) -> BuiltSimultaneous:
    """Build the forward model of a simultaneous document from its data, and check the document.

    source: function from the name of a pattern to its source of data, or the folder to which file
    paths are relative. Raises DocumentError with the key and the reason. Nothing is refined.
    """
    patterns: dict[str, BuiltModel] = {}
    for name in document.patterns:
        own = document.document_of(name)
        try:
            patterns[name] = build(
                own, source if isinstance(source, Path) else source(name))
        except DocumentError as problem:
            raise DocumentError(document.placed(name, str(problem))) from None
    _refuse_repeated_patterns(document, patterns)
    models = {name: built.model for name, built in patterns.items()}
    global_parameters = [_global_parameter(name, given)
                         for name, given in document.parameters.items()]
    _check_parametric_constraints(document, patterns, global_parameters)
    with located("shared, parametric_constraints or parameters"):
        simultaneous = SimultaneousModel(
            models, shared=document.shared,
            parametric_constraints=document.parametric_constraints,
            global_parameters=global_parameters,
            constants={name: _constants(built) for name, built in patterns.items()},
        )
    stages = [list(stage) for stage in document.refinement.stages or simultaneous.default_stages()]
    with located("refinement.stages"):
        free = simultaneous.free_names(stages)
        simultaneous.require_points(free)
    if document.refinement.weights == "calculated":
        for name, built in patterns.items():
            with located(f"patterns.{name}.pattern.sigma"):
                counts_per_unit(built.model.observation)
    # a restraint on shared parameters only must be counted once, not once for each pattern
    restraints = simultaneous.distinct_restraints(
        {name: built.restraints for name, built in patterns.items()})
    patterns = {name: replace(built, restraints=restraints[name])
                for name, built in patterns.items()}
    return BuiltSimultaneous(document, patterns, simultaneous, stages, resources)


def check_axes_of(built: BuiltSimultaneous) -> list[str]:
    """Warnings for patterns whose peaks deviate.

    Raises DocumentError if the peaks of a pattern contradict its axis.
    """
    remarks = []
    for name, one in built.patterns.items():
        try:
            remark = check_axis(one)
        except ValueError as problem:
            raise DocumentError(built.document.placed(name, str(problem))) from None
        if remark:
            remarks.append(f"{name}: {remark}")
    return remarks


def _global_parameter(name: str, given: float | Start) -> Parameter:
    start = Start(value=given) if isinstance(given, float | int) else given
    if start.value is None:
        raise DocumentError(f"parameters.{name}.value: this key is missing; add it")
    with located(f"parameters.{name}"):
        return Parameter(
            ParameterName(name), Kind.GLOBAL, start.value,
            -np.inf if start.lower is None else start.lower,
            np.inf if start.upper is None else start.upper,
        )


def _constants(built: BuiltModel) -> dict[str, float]:
    temperature = built.document.sample.temperature
    return {} if temperature is None else {TEMPERATURE: temperature}


def _check_parametric_constraints(
    document: SimultaneousDocument, patterns: Mapping[str, BuiltModel], parameters: list[Parameter]
) -> None:
    """Raise DocumentError, with its key, for the first parametric constraint that is invalid."""
    first = next(iter(patterns.values())).model
    names = [*first.parameters, *(p.name for p in parameters), TEMPERATURE]
    used: set[str] = set()
    for target, text in document.parametric_constraints.items():
        with located(f"parametric_constraints.{target}"):
            first.require(target)
            sources = Constraint.parse(target, text, names).sources
        used.update(sources)
        if TEMPERATURE in sources:
            for name, built in patterns.items():
                if not _constants(built):
                    raise DocumentError(
                        f"patterns.{name}.{TEMPERATURE}: this key is missing, but the parametric "
                        f"constraint of {target} uses it; add it (K)")
    for p in parameters:
        if p.name not in used:
            raise DocumentError(
                f"parameters.{p.name}: no parametric constraint uses this parameter"
                f"{closest(p.name, used)}. Use it in one of the 'parametric_constraints', or "
                "remove it."
            )


def _refuse_repeated_patterns(
    document: SimultaneousDocument, patterns: Mapping[str, BuiltModel]
) -> None:
    seen: dict[str, str] = {}
    for name, built in patterns.items():
        observation = built.model.observation
        # hash the points, not the file: two ranges of one measurement are different patterns
        content = hashlib.sha256(
            np.concatenate([observation.q, observation.intensity]).tobytes()
        ).hexdigest()
        if content in seen:
            raise DocumentError(
                f"patterns.{name}.pattern.file: '{built.document.pattern.file}' contains the same "
                f"points as that of {seen[content]}, which would be counted twice. Correct the "
                "path, or remove one of the patterns."
            )
        seen[content] = name


def run_simultaneous(
    built: BuiltSimultaneous, *, on_cycle: Callable[[Cycle], None] | None = None,
    should_stop: StopCheck | None = None,
) -> Result[SimultaneousSummary]:
    """Refine the patterns of the document simultaneously from its starting values.

    The refinement is repeated until the atoms of spheres, and sigma if the weights are those of the
    calculated patterns, no longer change.
    """
    plan = built.document.refinement
    together = [[name for stage in built.stages for name in stage]]

    def refined(
        model: SimultaneousModel, stages: list[list[str]], start: Mapping[str, float],
    ) -> SimultaneousRefinement:
        return refine_simultaneous(
            model, stages, start=start, on_cycle=on_cycle, should_stop=should_stop,
            restraints={name: one.restraints for name, one in built.patterns.items()},
            max_cycles=plan.max_cycles, tolerance=plan.tolerance, resources=built.resources)

    def again(models: Models, last: SimultaneousRefinement) -> SimultaneousRefinement:
        return refined(built.model.with_models(models), together, last.values)

    models, found = with_refined_members(
        built.model.models, refined(built.model, built.stages, built.model.start), again)
    if plan.weights == "calculated":
        models, found = with_calculated_weights(models, found, again)
    patterns = {name: replace(one, model=models[name]) for name, one in built.patterns.items()}
    return simultaneous_result(
        replace(built, patterns=patterns, model=built.model.with_models(models)), found)


def simultaneous_result(
    built: BuiltSimultaneous, found: SimultaneousRefinement
) -> Result[SimultaneousSummary]:
    """The result of a simultaneous refinement: typed numbers and arrays.

    The arrays of each pattern are those of a single refinement, below 'patterns/NAME'.
    """
    patterns: dict[str, PatternRow] = {}
    arrays: dict[str, np.ndarray] = {}
    constraints = {name: one.expression
                   for name, one in built.model.parametric_constraints.items()}
    for name, one in built.patterns.items():
        own = refinement_result(one, found.patterns[name])
        summary, data = own.summary, own.summary.data
        assert data is not None
        patterns[name] = PatternRow(
            sample=summary.sample, data=data, agreement=summary.agreement, linear=summary.linear,
            derived=summary.derived, restraints=summary.restraints, cif=summary.cif,
            parameters={
                local: row.model_copy(update={
                    "shared": local in built.model.shared,
                    "parametric_constraint": constraints.get(local)})
                for local, row in summary.parameters.items()
            },
        )
        arrays |= {f"patterns/{name}/{path}": array for path, array in own.arrays.items()}
    status = status_of(found.converged, found.undetermined, found.stop_reason)
    first = next(iter(built.patterns.values()))
    samples = [row.sample for row in patterns.values()]
    common_names = (*built.model.shared, *built.model.global_parameters)
    fields = common(first, status, found.stop_reason, found.seconds) | {
        "title": built.document.title, "document_sha256": document_hash(built.document),
        "document": built.document.resolved(), "warnings": list(found.warnings),
        "sample": {key: value for key, value in samples[0].items()
                   if all(sample.get(key) == value for sample in samples)},
        "data": DataRow(
            n_points=found.agreement.n_points,
            sha256={file: sha for one in built.patterns.values()
                    for file, sha in one.files.items()}),
    }
    return Result(SimultaneousSummary(
        **fields, agreement=found.agreement,
        # parameters that belong to no single pattern: shared and global ones
        parameters=parameter_rows({name: found.parameters[name] for name in common_names},
                                  built.model.start),
        parametric_constraints=constraints, patterns=patterns,
        undetermined=list(found.undetermined), n_cycles=found.n_cycles,
        n_evaluations=found.n_evaluations,
    ), arrays | covariance_arrays(found.covariance))
