"""aiida-dse watch: displays the steps of an analysis while it runs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from .submission import continues
from .terminal import Refusal, echo

if TYPE_CHECKING:
    from aiida_dse.data.steps import Step

#: Seconds between two updates of a terminal, and between two lines of other output.
LIVE_SECONDS, LINE_SECONDS = 2.0, 10.0
#: Of a work chain with more steps, only those that are running or have failed are shown.
MANY = 8


def watch_process(pk: str, once: bool) -> None:
    """Show a process once or until it ends: updated in place on a terminal, otherwise as lines."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import ProcessNode, load_node

    from aiida_dse.data.steps import read_progress, steps_of

    try:
        node = load_node(pk)
    except (NotExistent, MultipleObjectsError, ValueError):
        node = None
    if not isinstance(node, ProcessNode):
        raise Refusal(
            f"there is no process '{pk}'. List the analyses with 'aiida-dse list'."
        )
    number = node.pk
    assert number is not None
    top = steps_of(number)
    read_progress(top)
    if once or top.ended:
        echo("\n".join(lines_of(top)))
        if not top.ended and (trouble := _trouble()):
            echo(trouble, err=True)
        return
    try:
        if sys.stdout.isatty():
            _live(number)
        else:
            _log(number)
    except KeyboardInterrupt:
        echo(continues(top.name, number))


def _live(pk: int) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from aiida_dse.data.steps import read_progress, steps_of

    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            top = steps_of(pk)
            read_progress(top)
            trouble = None if top.ended else _trouble()
            lines = [*lines_of(top), *([trouble] if trouble else [])]
            live.update(Text("\n".join(lines)), refresh=True)
            if top.ended:
                return
            time.sleep(LIVE_SECONDS)


def _log(pk: int) -> None:
    """Print a line whenever something has changed."""
    from aiida_dse.data.steps import below, read_progress, steps_of

    last: Any = None
    reported = None
    while True:
        top = steps_of(pk)
        read_progress(top)
        steps = list(below(top))
        progress = (top.state, [(s.pk, s.state, s.progress) for s in steps])
        if progress != last:
            echo("; ".join([summary_line(top), *(s.progress for s in steps if s.progress)]))
            last = progress
        if top.ended:
            echo("\n".join(lines_of(top)))
            return
        if (trouble := _trouble()) != reported:
            reported = trouble
            if trouble:
                echo(trouble, err=True)
        time.sleep(LINE_SECONDS)


def _trouble() -> str | None:
    """Reassign the tasks of dead workers, and return any remaining problem of the daemon."""
    from aiida.manage import get_manager

    from .daemon import repair

    return repair(get_manager().get_profile())


def summary_line(step: Step) -> str:
    """One line with the state, the finished steps, the lowest GoF and the times."""
    parts = [f"{step.label + ': ' if step.label else ''}{step.name}<{step.pk}> {_state(step)}"]
    if step.expected or len(step.worked) > 1:
        parts.append(f"{step.done} of {step.expected or '?'} done")
        failed = sum(below.failed for below in step.worked)
        if failed:
            parts.append(f"{failed} failed")
    if step.best_gof is not None:
        parts.append(f"best GoF {step.best_gof:.4f}")
    parts.append(_duration(step.elapsed))
    if step.progress:
        parts.append(step.progress)
    if not step.ended and not step.is_job:
        left = step.remaining
        parts.append(f"about {_duration(left)} left" if left is not None else "time left unknown")
    return ", ".join(parts)


def lines_of(top: Step) -> list[str]:
    """The tree of steps and, for a grid search, the part of the map computed so far."""
    from aiida_dse.data.steps import map_so_far

    lines = _tree(top, "")
    if top.name.startswith("GridSearch") and (drawn := map_so_far(top)):
        lines += ["", "GoF so far (@ lowest, ? not yet computed):", *drawn]
    return lines


def _tree(step: Step, indent: str) -> list[str]:
    lines = [indent + summary_line(step)]
    worked = step.worked
    shown = worked
    if len(worked) > MANY:
        shown = [below for below in worked if not below.ended or below.failed]
        hidden = len(worked) - len(shown)
        if hidden:
            lines.append(f"{indent}  {hidden} finished steps are not shown")
    for below in shown:
        lines += _tree(below, indent + "  ")
    return lines


def _state(step: Step) -> str:
    if step.state == "finished":
        return "done" if not step.exit_status else f"failed (exit {step.exit_status})"
    return {"waiting": "running", "created": "queued"}.get(step.state, step.state)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
