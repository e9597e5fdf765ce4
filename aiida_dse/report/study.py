"""Text tables of studies: cost estimate before the launch, and summary of the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida_dse.documents import StudyDocument
from aiida_dse.engine.formatting import with_su
from aiida_dse.tasks.estimate import Estimate


def plan_report(
    study: StudyDocument, costs: Mapping[str, Estimate], data_bytes: int, max_concurrent: int
) -> str:
    """The steps of a study with estimated evaluations, seconds on one thread and storage."""
    lines = [f"{study.name}: {_counted(len(study.samples), 'sample')}, {len(study.series)} series, "
             f"{_counted(len(study.maps), 'map')}, {_counted(len(study.compare), 'comparison')}"]
    for name, series in study.series.items():
        plan = series.options
        lines.append(f"series {name}: {series.kind}, {plan.mode}: "
                     + ", ".join(study.members_of(name))
                     + ("; then a simultaneous refinement" if plan.simultaneous else ""))
    lines += ["", f"{'step':32}{'evaluations':>12}{'seconds':>10}{'stored':>10}"]
    for name, cost in costs.items():
        lines.append(f"{name:32}{cost.evaluations:12,}{cost.seconds:10.0f}"
                     f"{_size(cost.bytes_stored):>10}")
    seconds = sum(cost.seconds for cost in costs.values())
    stored = data_bytes + sum(cost.bytes_stored for cost in costs.values())
    lines.append(f"{'total, including data':32}{sum(c.evaluations for c in costs.values()):12,}"
                 f"{seconds:10.0f}{_size(stored):>10}")
    lines.append(f"about {seconds / max_concurrent / 60:.1f} min with {max_concurrent} concurrent "
                 "jobs (estimate within a factor of about two; cached jobs cost nothing)")
    return "\n".join(lines)


def study_report(summary: Mapping[str, Any]) -> str:
    """The table of a study's results: samples with GoF, series, maps, comparisons, failures."""
    lines = []
    if summary["samples"]:
        lines.append(f"{'sample':24}{'T/K':>8}{'GoF':>10}{'Rwp/%':>8}  PK")
    for name, row in summary["samples"].items():
        temperature = (row.get("sample") or {}).get("temperature")
        fit = f"{row['gof']:10.4f}{100 * row['r_wp']:8.2f}" if "gof" in row else f"{'-':>10}{'':8}"
        lines.append(f"{name:24}{'-' if temperature is None else f'{temperature:g}':>8}{fit}  "
                     f"{row['pk'] or '-'}")
    for name, row in summary["series"].items():
        lines.append(f"series {name} <{row['pk'] or '-'}>: "
                     + (f"{len(row['used'])} used" if "used" in row else "no analysis"))
        for key in ("thermal_expansion_V", "surface_energy"):
            if (number := row.get("numbers", {}).get(key)) is not None:
                su = number.get("su_scaled")
                lines.append(f"  {key} = {with_su(number['value'], su)} {number['unit']}")
        lines += [f"  {verdict}" for verdict in row.get("disorder", ())]
    for name, row in summary["maps"].items():
        lowest = row.get("minimum") or {}
        lines.append(f"map {name} <{row['pk'] or '-'}>: " + (
            ", ".join(f"{key} = {value:.6g}" for key, value in lowest.items()) or "no minimum"))
    for name, row in summary["compare"].items():
        lines.append(f"comparison {name} <{row['pk'] or '-'}>: " + ", ".join(
            f"{model} (GoF {row['models'][model]['gof']:.4f})" for model in row.get("ranking", ())))
    lines += [f"failed: {key.replace('_', ' ', 1)}: {reason}"
              for key, reason in summary["failures"].items()]
    return "\n".join(lines)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
