"""aiida-dse query, trace, export and import."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from aiida_dse.documents.model import DISORDER
from aiida_dse.documents.printable import printable
from aiida_dse.shapes import SHAPES

from .terminal import Refusal, echo

#: Significant digits in tables; CSV and JSON output has full precision.
_DIGITS = 6
#: First characters of a text that a spreadsheet evaluates as a formula.
_FORMULA = tuple("=+-@\t\r")
#: Tasks that produce results.
TASKS = ("refine", "scan", "compare", "uncertainty", "simultaneous", "temperature_series", "size_series",
         "sizing_curve", "differential", "simulate", "build")


def query_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the filter options of 'query' and 'export' to a command."""
    for option in reversed([
        click.option("--task", type=click.Choice(TASKS), help="Only results of this task."),
        click.option("--status", help="Only results with this status: converged, not_converged, "
                     "complete, ..."),
        click.option("--sample", help="Only results of the sample with this name."),
        click.option("--ligand", help="Only samples with this ligand."),
        click.option("--state", help="Only samples in this state: colloid, powder, film, ..."),
        click.option("--temperature", metavar="LOW:HIGH", help=(
            "Range of the temperature in K. Either limit may be omitted.")),
        click.option("--phase", help="Only models that contain this phase."),
        click.option("--space-group", help=(
            "Space group of a phase as written in its CIF, for example Pbnm.")),
        click.option("--shape", type=click.Choice(sorted(SHAPES)),
                     help="Only models with particles of this shape."),
        click.option("--disorder", type=click.Choice(DISORDER),
                     help="Only models with this kind of disorder."),
        click.option("--max-gof", type=float, help="Maximum GoF."),
        click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]",
                     help="Only samples with this tag. The option can be repeated."),
        click.option("--where", multiple=True, metavar="CONDITION",
                     help="Condition on a value, for example 'CsPbBr3.a>8.2', "
                     "'CsPbBr3.L_ab=5:8' (a range, in nm) or 'r_wp<0.1'. The option can be "
                     "repeated."),
        click.option("--group", help=(
            "Only results of work chains in this group: dse/sample/NAME, ...")),
        click.option("--latest", is_flag=True, help="Only the newest result of each sample and "
                     "task, excluding the rival models of a comparison."),
        click.option("--parts", is_flag=True, help=(
            "Include tiles of maps and interrupted attempts.")),
    ]):
        command = option(command)
    return command


def print_query(
    filters: Mapping[str, Any], show: tuple[str, ...], sort: str, limit: int | None, form: str
) -> None:
    """Print the results that match, as 'table', 'csv' or 'json'."""
    from aiida_dse.data.query import find_rows

    rows = refusing(find_rows, **filters, show=show, sort=sort, limit=limit)
    if form == "json":
        echo(json.dumps(rows, indent=1, default=_json_value))
    elif form == "csv":
        if rows:
            writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: _csv_cell(v) for k, v in row.items()} for row in rows)
    elif rows:
        import tabulate

        echo(tabulate.tabulate(
            [[_cell(value) for value in row.values()] for row in rows], headers=list(rows[0]),
            disable_numparse=True,
        ))
    else:
        echo("No result matches. List all results with 'aiida-dse query' without options.")


def print_trace(pk: str, as_json: bool) -> None:
    """Print the provenance of a node as a tree or as JSON."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_node

    from aiida_dse.data.trace import trace

    try:
        node = load_node(pk)
    except (NotExistent, MultipleObjectsError, ValueError):
        raise Refusal(
            f"there is no node '{pk}'. List the results with 'aiida-dse query'."
        ) from None
    found = trace(node)
    if as_json:
        echo(json.dumps(found, indent=1, default=_json_value))
        return
    for line in trace_lines(found):
        echo(line)


def trace_lines(row: Mapping[str, Any], stem: str = "", last: bool = True, top: bool = True) -> \
        list[str]:
    """The lines of a tree. They are not truncated, so that hashes can be compared."""
    head = f"{row['role']}: " if row["role"] else ""
    pk = f"<{row['pk']}>" if "pk" in row else ""
    again = " (see above)" if row.get("again") else ""
    lines = [f"{stem}{'' if top else '└─ ' if last else '├─ '}{head}{row['kind']}{pk}{again}"]
    below = stem if top else stem + ("   " if last else "│  ")
    sources = row.get("from", [])
    bar = "│  " if sources else "   "
    lines += [f"{below}{bar}{key} {_fact(value)}" for key, value in row.get("facts", {}).items()]
    for k, source in enumerate(sources):
        lines += trace_lines(source, below, k == len(sources) - 1, False)
    return lines


def export_results(
    pks: tuple[str, ...], filters: Mapping[str, Any], output: Path, with_studies: bool = False
) -> None:
    """Write the specified nodes and all matching results with their provenance to an archive.

    Series and studies to which they belong are included only `with_studies`.
    """
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import Group, load_node

    from aiida_dse.data.archives import write_archive
    from aiida_dse.data.query import find_rows

    filters = {key: value for key, value in filters.items() if value not in (None, (), False)}
    if not pks and not filters:
        raise click.UsageError("Specify PKs, or filters as for 'aiida-dse query' (--phase NAME, "
                               "...). To export an entire profile, use 'verdi archive create "
                               "--all'.")
    nodes = []
    for pk in pks:
        try:
            nodes.append(load_node(pk))
        except (NotExistent, MultipleObjectsError, ValueError):
            raise Refusal(f"there is no node '{pk}'. Nothing was written.") from None
    groups: list[Any] = []
    if filters:
        nodes += [load_node(row["pk"]) for row in refusing(find_rows, **filters)]
        if set(filters) == {"group"}:  # export the group itself as well
            groups = [g for g in Group.collection.find({"label": filters["group"]})]
    running = [node for node in nodes if getattr(node, "is_sealed", True) is False]
    if running:
        raise Refusal(
            f"{running[0].process_label}<{running[0].pk}> is still running. Wait until it "
            "has ended. Nothing was written."
        )
    refusing(write_archive, nodes, output, groups=groups, with_studies=with_studies)
    echo(f"wrote {output}: {output.stat().st_size / 1e6:.2f} MB. List its results "
               f"with 'aiida-dse query --archive {output}'.")


def import_results(file: Path) -> None:
    """Import an archive into the profile."""
    from aiida_dse.data.archives import read_archive

    added = refusing(read_archive, file)
    if added.nodes:
        echo(f"{added.nodes} nodes were imported from {file}, {added.results} of them "
                   "results. List the results with 'aiida-dse query'.")
    else:
        echo(f"{file} contains nothing new: all its nodes exist in the profile.")
    if added.changed:
        echo(f"warning: the numbers of these results were changed after they were computed: "
             f"{', '.join(map(str, added.changed))}. They do not agree with their signatures, so they are "
             "not used in any analysis.", err=True)


def refusing(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the function; report a ValueError as an error message without a traceback."""
    try:
        return function(*arguments, **options)
    except ValueError as problem:
        raise Refusal(str(problem)) from None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{_DIGITS}g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _csv_cell(value: Any) -> Any:
    """The value of a CSV cell. A text that a spreadsheet would take for a formula is quoted by '."""
    value = json.dumps(value) if isinstance(value, list | dict) else _json_value(value)
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + printable(value).replace("\t", "\ufffd")


def _json_value(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_fact(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
