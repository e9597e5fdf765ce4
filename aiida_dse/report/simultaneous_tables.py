"""A simultaneous refinement as text: what is common, then a column for each pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from aiida_dse.tasks.simultaneous import BuiltSimultaneous

from .numbers import with_su

#: Patterns side by side in a table.
COLUMNS = 5


def simultaneous_lines(summary: dict[str, Any]) -> list[str]:
    """Common parameters and parametric_constraints; own and law-given parameters by pattern. s.u. scaled by GoF."""
    factor = max(1.0, summary["agreement"]["gof"])
    lines = [f"{'common parameter':28} {'value':>16} unit   (s.u. scaled by max(1, GoF) = "
             f"{factor:.3f})"]
    for name, row in summary["parameters"].items():
        if row["free"]:
            lines.append(f"{name:28} {_shown(row, factor):>16} {row['unit']:5} {_flags(row)}"
                         .rstrip())
    lines += [f"law: {name} = {law}" for name, law in summary["parametric_constraints"].items()]
    patterns = list(summary["patterns"].items())
    for begin in range(0, len(patterns), COLUMNS):
        lines += ["", *_columns(patterns[begin : begin + COLUMNS], factor)]
    for name, row in ((n, r) for _, rows in patterns for n, r in rows["restraints"].items()):
        lines.append(f"restraint {name:34} {row['value']:10.5g} {row['unit']:5} asked for "
                     f"{with_su(row['target'], row['sigma'])}, adds {row['chi2']:.3g} to chi2")
    return lines


def _columns(patterns: list[tuple[str, dict[str, Any]]], factor: float) -> Iterator[str]:
    def line(head: str, cell: Callable[[dict[str, Any]], str], tail: str = "") -> str:
        cells = " ".join(f"{cell(rows):>13}" for _, rows in patterns)
        return f"{head:28} {cells} {tail}".rstrip()

    yield f"{'':28} " + " ".join(f"{name:>13}" for name, _ in patterns)
    if any("temperature" in rows["sample"] for _, rows in patterns):
        yield line("temperature", lambda rows: f"{rows['sample'].get('temperature', '')}", "K")
    yield line("GoF", lambda rows: f"{rows['agreement']['gof']:.4f}")
    yield line("Rwp", lambda rows: f"{100 * rows['agreement']['r_wp']:.2f}", "%")
    first = patterns[0][1]
    for name, row in first["parameters"].items():
        if (row["free"] and not row.get("shared")) or "parametric_constraint" in row or "constraint" in row:
            told = [_flags(rows["parameters"][name]) for _, rows in patterns]
            ends = "; ".join(f"{flag} in {pattern}" for (pattern, _), flag
                             in zip(patterns, told, strict=True) if flag)
            yield line(name, partial(_parameter, name, factor),
                       f"{row['unit']} {'(law)' if 'law' in row else ''} {ends}")
    for phase, quantities in first["derived"].items():
        for name, row in quantities.get("quantities", {}).items():
            yield line(f"{phase} {name}", partial(_quantity, phase, name, factor), row["unit"])


def _parameter(name: str, factor: float, rows: dict[str, Any]) -> str:
    return _shown(rows["parameters"][name], factor)


def _quantity(phase: str, name: str, factor: float, rows: dict[str, Any]) -> str:
    return _shown(rows["derived"][phase]["quantities"].get(name), factor)


def _shown(row: dict[str, Any] | None, factor: float) -> str:
    if row is None:
        return "-"
    return with_su(row["value"], None if row["su"] is None else row["su"] * factor)


def _flags(row: dict[str, Any]) -> str:
    flags = [text for key, text in (("at_bound", "at its bound"), ("undetermined", "undetermined"))
             if row.get(key)]
    return "; ".join(flags)


def simultaneous_validation_report(built: BuiltSimultaneous) -> str:
    """What a simultaneous document would do: data, common parameters, parametric_constraints, what is free."""
    model = built.model
    lines = ["The document is valid."]
    for name, one in built.patterns.items():
        q, t = one.model.sampling.q, one.document.sample.temperature
        lines.append(f"{name}: {len(q)} points, q = {q[0]:.4g} ... {q[-1]:.4g} 1/Å, wavelength "
                     f"{one.model.observation.wavelength:g} Å" + (f", {t:g} K" if t else ""))
    lines += ["", f"{'common parameter':32} {'start':>12} {'lower':>10} {'upper':>10} unit"]
    for name in (*model.shared, *model.global_parameters):
        p = model.parameters[name]
        lines.append(f"{name:32} {p.value:12.6g} {p.lower:10.5g} {p.upper:10.5g} {p.unit}")
    for name, law in model.parametric_constraints.items():
        values = ", ".join(f"{model.local(k, model.start)[name]:.6g}" for k in model.models)
        lines.append(f"law: {name} = {law.expression}; at the start {values}")
    free = model.free_names(built.stages)
    own = [name for name in free if name not in model.shared and name not in model.global_parameters]
    lines += ["", f"free in the end: {len(free)} parameters, {len(own)} of them patterns' own"]
    lines += [f"stage {k + 1}: {', '.join(stage)}" for k, stage in enumerate(built.stages)]
    return "\n".join(lines)
