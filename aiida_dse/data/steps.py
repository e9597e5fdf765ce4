"""The steps of an analysis as a tree of work chains and jobs, with one query per level."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .jobs import STDERR

#: Inputs of a work chain that correspond to one step each.
_STEP_INPUTS = ("models__%", "members__%__model")
#: Maximum width and height of a map of characters.
MAP_WIDTH, MAP_HEIGHT = 60, 20
#: Characters from the lowest to the highest GoF.
SHADES = "@#*+=-. "


@dataclass
class Step:
    """A process and the processes called by it; `gof` is that of its own result, or None."""

    pk: int
    name: str  # process label
    label: str  # of the call link
    state: str
    exit_status: int | None
    began: datetime
    changed: datetime
    gof: float | None = None
    expected: int | None = None  # number of steps that it calls, if known
    is_job: bool = False
    progress: str = ""  # last line of the engine's log while a job is running
    steps: list[Step] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "excepted", "killed")

    @property
    def failed(self) -> bool:
        return self.ended and (self.state != "finished" or bool(self.exit_status))

    @property
    def worked(self) -> list[Step]:
        """The steps that are work chains or jobs, i.e. not calcfunctions."""
        return [step for step in self.steps if step.is_job or step.name.endswith("WorkChain")]

    @property
    def best_gof(self) -> float | None:
        """The lowest GoF of this step and of all steps below it."""
        known = [self.gof, *(step.best_gof for step in self.steps)]
        return min((gof for gof in known if gof is not None), default=None)

    @property
    def done(self) -> int:
        return sum(step.ended and not step.failed for step in self.worked)

    @property
    def elapsed(self) -> float:
        """Elapsed time (s) or, if the process has ended, its duration."""
        end = self.changed if self.ended else datetime.now(UTC)
        return (end - self.began).total_seconds()

    @property
    def remaining(self) -> float | None:
        """Remaining time (s), estimated from the fraction of finished steps; None if unknown."""
        if self.ended or not self.expected or not self.done or self.done > self.expected:
            return None
        return self.elapsed * (self.expected - self.done) / self.done


def steps_of(pk: int) -> Step:
    """The tree of steps of a process. Raises ValueError if the process does not exist."""
    from aiida.common.links import LinkType
    from aiida.orm import ProcessNode, QueryBuilder

    fields = ["id", "attributes.process_label", "attributes.process_state",
              "attributes.exit_status", "ctime", "mtime", "node_type"]
    first = QueryBuilder().append(ProcessNode, filters={"id": pk}, project=fields).first()
    if first is None:
        raise ValueError(f"there is no process '{pk}'. List the analyses with 'aiida-dse list'.")
    top = _step(first, "")
    level = {top.pk: top}
    everything = dict(level)
    while level:
        query = QueryBuilder().append(ProcessNode, tag="above", filters={"id": {"in": list(level)}},
                                      project="id")
        query.append(
            ProcessNode, tag="below", with_incoming="above", project=fields, edge_project="label",
            edge_filters={"type": {"in": [LinkType.CALL_CALC.value, LinkType.CALL_WORK.value]}},
        ).order_by({"below": "id"})
        below = {}
        for above, *values, label in query.all():
            step = _step(values, label)
            level[above].steps.append(step)
            below[step.pk] = step
        everything |= below
        level = below
    _read_results(everything)
    _read_expected(everything)
    return top


def read_progress(top: Step, most: int = 8) -> None:
    """Read the last line that the engine has printed in each of the first `most` running jobs.

    On another computer, this opens a connection for each job.
    """
    running = [step for step in (top, *below(top)) if step.is_job and not step.ended]
    for step in running[:most]:
        step.progress = _last_line(step.pk)


def below(step: Step) -> Iterator[Step]:
    """All steps below a step, depth first."""
    for one in step.steps:
        yield one
        yield from below(one)


def _last_line(pk: int) -> str:
    """The last line of the log of a running job; '' if it has none yet, or cannot be reached."""
    from aiida.orm import load_node

    outputs = load_node(pk).outputs
    if "remote_folder" not in outputs:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        try:
            outputs.remote_folder.getfile(STDERR, str(log))
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        except Exception:  # transports raise many kinds, and the display must go on without a log
            return ""
    printed = [line.strip() for line in lines if line.strip()]
    # a log must not control the terminal on which it is displayed
    return "".join(c for c in " ".join(printed[-1].split()) if c.isprintable()) if printed else ""


def _step(values: Any, label: str) -> Step:
    pk, name, state, exit_status, began, changed, kind = values
    return Step(pk, name or "process", label, state or "created", exit_status, began, changed,
                is_job="calcjob" in (kind or ""))


def _read_results(steps: dict[int, Step]) -> None:
    from aiida.orm import Dict, ProcessNode, QueryBuilder

    query = QueryBuilder().append(ProcessNode, tag="p", filters={"id": {"in": list(steps)}},
                                  project="id")
    query.append(Dict, with_incoming="p", edge_filters={"label": "result"},
                 project=["attributes.agreement.gof", "attributes.minimum.gof"])
    for pk, gof, lowest in query.all():
        steps[pk].gof = lowest if gof is None else gof


def _read_expected(steps: dict[int, Step]) -> None:
    """Set the expected number of steps: those of tiles, or one step for each input."""
    from aiida.orm import Data, ProcessNode, QueryBuilder

    cuts = {below.pk: step for step in steps.values() for below in step.steps
            if below.name == "cut_grid"}
    if cuts:
        query = QueryBuilder().append(ProcessNode, tag="p", filters={"id": {"in": list(cuts)}},
                                      project="id")
        query.append(Data, with_incoming="p", edge_filters={"label": {"like": "tile%"}},
                     project="id")
        for pk, _ in query.all():
            cuts[pk].expected = (cuts[pk].expected or 0) + 1
    for step in steps.values():
        if step.name == "GridSearchWorkChain" and step.expected is None and step.worked:
            step.expected = 1  # a short map is a single job
    chains = [pk for pk, step in steps.items()
              if step.name.endswith("WorkChain") and step.expected is None]
    query = QueryBuilder().append(Data, tag="input", project="id")
    query.append(
        ProcessNode, with_incoming="input", filters={"id": {"in": chains}}, project="id",
        edge_filters={"or": [{"label": {"like": name}} for name in _STEP_INPUTS]},
    )
    for _, pk in query.all() if chains else []:
        steps[pk].expected = (steps[pk].expected or 0) + 1
    for pk in chains:
        if steps[pk].name == "StudyWorkChain":
            steps[pk].expected = _parts_of_study(pk)


def _parts_of_study(pk: int) -> int:
    """Number of series, maps, comparisons and samples that do not belong to a series."""
    from aiida.orm import load_node

    inputs: Any = load_node(pk).inputs
    plan = inputs.plan.get_dict()
    taken = {name for one in plan.get("series", {}).values() for name in one["samples"]}
    alone = [name for name in inputs.samples if name not in taken]
    return len(alone) + sum(len(plan.get(key, ())) for key in ("series", "maps", "compare"))


def map_so_far(step: Step) -> list[str]:
    """The GoF of the finished tiles of a grid search as lines of characters.

    Rows represent the first axis (downwards) and columns the second; of a third axis, the lowest
    GoF is used. '?' represents unfinished tiles. Empty if the process is not a grid search or no
    tile has finished.
    """
    from aiida.orm import load_node

    from aiida_dse.documents import parse_document

    from .results import arrays_of

    tiles = [below for below in step.steps if below.is_job and below.gof is not None]
    if not tiles:
        return []
    inputs: Any = load_node(step.pk).inputs
    if "scan" not in inputs:
        return []
    plan = parse_document(inputs.scan.model.get_dict()).scan
    if plan is None:
        return []
    axes = [axis.points() for axis in plan.axes]
    gof = np.full([len(axis) for axis in axes], np.nan)
    for tile in tiles:
        outputs = load_node(tile.pk).outputs
        arrays = arrays_of(outputs.arrays)
        where = np.ix_(*[np.searchsorted(axis, arrays[f"scan/axis_{k}"] - 1e-12)
                         for k, axis in enumerate(axes)])
        gof[where] = arrays["scan/gof"]
    return shaded(gof)


def shaded(gof: np.ndarray) -> list[str]:
    """Lines of characters for a GoF array of one to four axes: dark for low GoF, '?' for nan."""
    flat = np.where(np.isnan(gof), np.inf, gof)
    flat = flat.reshape(1, -1) if flat.ndim == 1 else flat.reshape(*flat.shape[:2], -1).min(axis=2)
    known = np.isfinite(flat)
    if not known.any():
        return []
    for axis, most in ((0, MAP_HEIGHT), (1, MAP_WIDTH)):
        parts = np.array_split(flat, min(most, flat.shape[axis]), axis=axis)
        flat = np.stack([part.min(axis=axis) for part in parts], axis=axis)
    known = np.isfinite(flat)
    logs = np.log(np.where(known, np.maximum(flat, 1e-12), 1.0))
    low, high = logs[known].min(), logs[known].max()
    place = (logs - low) / ((high - low) or 1.0) * (len(SHADES) - 1)
    return ["".join(SHADES[round(float(p))] if k else "?" for p, k in zip(*row, strict=True))
            for row in zip(place, known, strict=True)]
