"""Text tables of simultaneous refinements: common parameters, then a column for each pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from aiida_dse.documents.records import Value
from aiida_dse.documents.results import PatternRow, SimultaneousSummary
from aiida_dse.engine.formatting import with_su
from aiida_dse.engine.parameters import ParameterStatus
from aiida_dse.tasks.simultaneous import BuiltSimultaneous

#: Largest number of patterns side by side in a table.
COLUMNS = 5
MARKS = {ParameterStatus.AT_BOUND: "at its bound", ParameterStatus.UNDETERMINED: "undetermined"}


def simultaneous_lines(summary: SimultaneousSummary) -> list[str]:
    """Common parameters, parametric constraints, and the parameters of every pattern.

    All s.u. are scaled by max(1, GoF).
    """
    factor = summary.su_scale
    lines = [f"{'common parameter':28} {'value':>16} unit   (s.u. scaled by max(1, GoF) = "
             f"{factor:.3f})"]
    for name, row in summary.parameters.items():
        if row.status.refined:
            lines.append(f"{name:28} {_shown(row, factor):>16} {row.unit:5} "
                         f"{MARKS.get(row.status, '')}".rstrip())
    lines += [f"parametric constraint: {name} = {text}"
              for name, text in summary.parametric_constraints.items()]
    patterns = list(summary.patterns.items())
    for begin in range(0, len(patterns), COLUMNS):
        lines += ["", *_columns(patterns[begin : begin + COLUMNS], factor)]
    for _, pattern in patterns:
        for name, one in pattern.restraints.items():
            lines.append(f"restraint {name:34} {one.value:10.5g} {one.unit:5} target "
                         f"{with_su(one.target, one.sigma)}, contributes {one.chi2:.3g} to chi2")
    return lines


def _columns(patterns: list[tuple[str, PatternRow]], factor: float) -> Iterator[str]:
    def line(head: str, cell: Callable[[PatternRow], str], tail: str = "") -> str:
        cells = " ".join(f"{cell(rows):>13}" for _, rows in patterns)
        return f"{head:28} {cells} {tail}".rstrip()

    yield f"{'':28} " + " ".join(f"{name:>13}" for name, _ in patterns)
    if any("temperature" in rows.sample for _, rows in patterns):
        yield line("temperature", lambda rows: f"{rows.sample.get('temperature', '')}", "K")
    yield line("GoF", lambda rows: f"{rows.agreement.gof:.4f}")
    yield line("Rwp", lambda rows: f"{100 * rows.agreement.r_wp:.2f}", "%")
    first = patterns[0][1]
    for name, row in first.parameters.items():
        own = row.status.refined and not row.shared
        if not (own or row.parametric_constraint or row.constraint):
            continue
        marks = [MARKS.get(rows.parameters[name].status, "") for _, rows in patterns]
        ends = "; ".join(f"{mark} in {pattern}" for (pattern, _), mark
                         in zip(patterns, marks, strict=True) if mark)
        by_constraint = "(parametric constraint)" if row.parametric_constraint else ""
        yield line(name, partial(_parameter, name, factor), f"{row.unit} {by_constraint} {ends}")
    for phase, derived in first.derived.items():
        for name, quantity in derived.quantities.items():
            yield line(f"{phase} {name}", partial(_quantity, phase, name, factor), quantity.unit)


def _parameter(name: str, factor: float, rows: PatternRow) -> str:
    return _shown(rows.parameters[name], factor)


def _quantity(phase: str, name: str, factor: float, rows: PatternRow) -> str:
    return _shown(rows.derived[phase].quantities.get(name), factor)


def _shown(row: Value | None, factor: float) -> str:
    if row is None:
        return "-"
    return with_su(row.value, None if row.su is None else row.su * factor)


def simultaneous_validation_report(built: BuiltSimultaneous) -> str:
    """Table of a simultaneous document: data, common parameters, constraints and stages."""
    model = built.model
    lines = ["The document is valid."]
    for name, one in built.patterns.items():
        q, t = one.model.observation.q, one.document.sample.temperature
        lines.append(f"{name}: {len(q)} points, q = {q[0]:.4g} ... {q[-1]:.4g} 1/Å, wavelength "
                     f"{one.model.observation.wavelength:g} Å" + (f", {t:g} K" if t else ""))
    lines += ["", f"{'common parameter':32} {'start':>12} {'lower':>10} {'upper':>10} unit"]
    for name in (*model.shared, *model.global_parameters):
        p = model.parameters[name]
        lines.append(f"{name:32} {p.value:12.6g} {p.lower:10.5g} {p.upper:10.5g} {p.unit}")
    for name, law in model.parametric_constraints.items():
        values = ", ".join(f"{model.local(k, model.start)[name]:.6g}" for k in model.models)
        lines.append(f"parametric constraint: {name} = {law.expression}; starting values {values}")
    free = model.free_names(built.stages)
    own = [name for name in free
           if name not in model.shared and name not in model.global_parameters]
    lines += ["", f"Free in the last stage: {len(free)} parameters, of which {len(own)} belong to "
              "a single pattern."]
    lines += [f"stage {k + 1}: {', '.join(stage)}" for k, stage in enumerate(built.stages)]
    return "\n".join(lines)
