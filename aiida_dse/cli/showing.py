"""aiida-dse list, show and plot: tables and figures of stored analyses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiida_dse.documents.status import Task

from .terminal import Refusal, echo

if TYPE_CHECKING:
    from aiida_dse.data.listing import Listed
    from aiida_dse.io.results import Result

#: Process labels of version 0.1 and their current equivalents.
OLD_LABELS = {"JointCalculation": "SimultaneousCalculation"}


def print_list(profile: Any, limit: int) -> bool:
    """Print the newest analyses with their state, sample and GoF.

    Returns whether any process may be unfinished. `profile` is None for an open archive.
    """
    import tabulate

    from aiida_dse.data.listing import newest_analyses

    found, unfinished = newest_analyses(profile, limit)
    rows = []
    for one in found:
        # an imported node may have attributes of any type
        gof = one.gof if one.gof is not None else one.minimum
        sample = one.sample if isinstance(one.sample, dict) else {}
        label = OLD_LABELS.get(_text(one.label), _text(one.label))
        rows.append([
            one.pk, one.created, label.removesuffix("WorkChain").removesuffix("Calculation"),
            _state(one), f"{gof:.4f}" if isinstance(gof, int | float) else "", sample.get("name", ""),
            sample.get("temperature", ""), one.title,
        ])
    echo(tabulate.tabulate(
        rows, headers=["PK", "created", "analysis", "state", "GoF", "sample", "T / K", "title"]
    ))
    if not rows:
        echo("There are no analyses yet. Start with 'aiida-dse launch refine model.yaml'.")
    return unfinished


def _state(one: Listed) -> Any:
    """The state of a process, or for one that has failed, its exit status in words."""
    if one.state != "finished":
        return one.state
    if one.exit_status == 0:
        return "done"
    from aiida_dse.data.exits import exit_word

    status = one.exit_status if isinstance(one.exit_status, int) else None
    word = exit_word(_text(one.process_type), _text(one.version), status)
    return f"exit {status}" + f": {word}" * bool(word)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def print_analysis(pk: str) -> None:
    from aiida_dse.data.exits import exit_word
    from aiida_dse.documents.result_migration import current_study
    from aiida_dse.report.study import study_report
    from aiida_dse.report.tables import result_report
    from aiida_dse.workchains.remedies import why_failed

    node, result = analysis_result(pk)
    label = OLD_LABELS.get(node.process_label, node.process_label)
    echo(f"{label}<{node.pk}> {node.label}".rstrip())
    if node.exit_status:
        version = node.base.attributes.get("version", {}).get("plugin")
        word = exit_word(node.process_type, version, node.exit_status)
        echo(f"exit {node.exit_status}" + f" ({word})" * bool(word) + f": {why_failed(node)}")
    if "summary" in node.outputs and result is None:
        echo(study_report(current_study(node.outputs.summary.get_dict())))
    if result is not None:
        echo(result_report(result))


def plot_analysis(
    pk: str, output: Path, curves: bool = False, quantity: str | None = None,
    what: str | None = None, fixed: tuple[str, ...] = (),
) -> None:
    from aiida_dse.report.comparison import comparison_figure
    from aiida_dse.report.figures import pairs_figure, save_figure
    from aiida_dse.report.map_figures import curves_figure, map_figure
    from aiida_dse.report.series_figures import FIGURES
    from aiida_dse.report.simultaneous_figure import simultaneous_figure
    from aiida_dse.report.slices import sliced
    from aiida_dse.report.uncertainty import uncertainty_figure

    node, result = analysis_result(pk)
    if result is None or not result.arrays:
        raise Refusal(
            f"{node.process_label}<{node.pk}> has no results that can be plotted (state: "
            f"{node.process_state.value if node.process_state else 'unknown'})."
        )
    draw: dict[Task, Any] = {Task.SIMULTANEOUS: simultaneous_figure, Task.COMPARE: comparison_figure,
            Task.BUILD: pairs_figure} | FIGURES
    try:
        at = dict(_axis_value(one) for one in fixed)
        if curves:
            figure = curves_figure(sliced(result, at)[0] if at else result, quantity=quantity)
        elif result.task is Task.SCAN:
            figure = map_figure(result, quantity=quantity, at=at)
        elif result.task in draw:
            figure = draw[result.task](result)
        else:
            figure = uncertainty_figure(result, what)
    except ValueError as problem:
        raise Refusal(str(problem)) from None
    try:
        save_figure(figure, output)
    except (OSError, ValueError) as problem:
        raise Refusal(f"{output} cannot be written: {problem}") from None
    echo(f"wrote {output}")


def _axis_value(text: str) -> tuple[str, float]:
    """The axis and the value in 'AXIS=VALUE'. Raises ValueError for other texts."""
    name, _, number = text.rpartition("=")
    try:
        if name:
            return name.strip(), float(number)
    except ValueError:
        pass
    raise ValueError(f"--at {text[:60]} is not of the form AXIS=VALUE, such as Br_eq.B_iso=1.8.")


def analysis_result(pk: str) -> tuple[Any, Result[Any] | None]:
    """The process of a node, and its result or None."""
    from aiida_dse.data.results import result_of

    process = process_of(pk)
    try:
        return process, result_of(process)
    except ValueError as problem:
        raise Refusal(str(problem)) from None


def process_of(pk: str) -> Any:
    """The process with this PK or UUID, or the one that created the result with it."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import ArrayData, Dict, ProcessNode, SinglefileData, load_node

    try:
        node = load_node(pk)
    except (NotExistent, MultipleObjectsError, ValueError):
        raise Refusal(
            f"there is no node '{pk}'. List the analyses with 'aiida-dse list'."
        ) from None
    if isinstance(node, Dict | ArrayData | SinglefileData) and node.creator is not None:
        node = node.creator
    if not isinstance(node, ProcessNode):
        raise Refusal(
            f"node {node.pk} is a {type(node).__name__}, not an analysis. List the analyses with "
            "'aiida-dse list'."
        )
    return node
