"""Progress displays of tasks, on a terminal and in a log."""

from __future__ import annotations

import sys
import time
from math import isnan
from types import TracebackType
from typing import Self

from aiida_dse.engine.fit.leastsquares import Cycle
from aiida_dse.engine.fit.minimisers import Evaluations
from aiida_dse.engine.fit.multistart import SearchProgress
from aiida_dse.engine.maps.gof_map import ScanProgress
from aiida_dse.tasks.uncertainty import UncertaintyProgress

#: Seconds between two lines of a log for steps that are many and short.
LOG_INTERVAL = 5.0


class NoProgress:
    """No progress display; base class of the displays, with one method per kind of progress."""

    def cycle(self, cycle: Cycle) -> None:
        """Display nothing."""

    def scan(self, progress: ScanProgress) -> None:
        """Display nothing."""

    def search(self, progress: SearchProgress) -> None:
        """Display nothing."""

    def uncertainty(self, progress: UncertaintyProgress) -> None:
        """Display nothing."""

    def descent(self, progress: Evaluations) -> None:
        """Display nothing."""

    def terminations(self, done: int, total: int) -> None:
        """Display nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class LogProgress(NoProgress):
    """Progress as lines of a log: one per cycle, and one per tenth of longer tasks."""

    def __init__(self) -> None:
        self._last = -1
        self._part = ""
        self._printed = 0.0

    def cycle(self, cycle: Cycle) -> None:
        print(_cycle_line(cycle), file=sys.stderr, flush=True)

    def search(self, progress: SearchProgress) -> None:
        print(_search_line(progress), file=sys.stderr, flush=True)

    def descent(self, progress: Evaluations) -> None:
        if progress.elapsed - self._printed > LOG_INTERVAL:
            self._printed = progress.elapsed
            print(_descent_line(progress), file=sys.stderr, flush=True)

    def terminations(self, done: int, total: int) -> None:
        tenth = 10 * done // max(1, total)
        if tenth > self._last:
            self._last = tenth
            print(f"{done} of {total} terminations", file=sys.stderr, flush=True)

    def scan(self, progress: ScanProgress) -> None:
        tenth = 10 * progress.done // max(1, progress.total)
        if tenth > self._last:
            self._last = tenth
            print(_scan_line(progress), file=sys.stderr, flush=True)

    def uncertainty(self, progress: UncertaintyProgress) -> None:
        if progress.part != self._part:
            self._part, self._last = progress.part, -1
        tenth = 10 * progress.done // max(1, progress.total)
        if tenth > self._last:
            self._last = tenth
            print(_uncertainty_line(progress), file=sys.stderr, flush=True)


class TerminalProgress(NoProgress):
    """Progress on a terminal, as a line that is rewritten in place."""

    def __init__(self) -> None:
        self._shown = 0.0

    def cycle(self, cycle: Cycle) -> None:
        self._write(_cycle_line(cycle))

    def search(self, progress: SearchProgress) -> None:
        self._write(_search_line(progress))

    def descent(self, progress: Evaluations) -> None:
        self._write(_descent_line(progress))

    def terminations(self, done: int, total: int) -> None:
        self._write(f"{done} of {total} terminations")

    def scan(self, progress: ScanProgress) -> None:
        if time.monotonic() - self._shown > 0.1 or progress.done == progress.total:
            self._shown = time.monotonic()
            self._write(_scan_line(progress))

    def uncertainty(self, progress: UncertaintyProgress) -> None:
        if time.monotonic() - self._shown > 0.1 or progress.done == progress.total:
            self._shown = time.monotonic()
            self._write(_uncertainty_line(progress))

    def _write(self, line: str) -> None:
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stderr.write("\n")


def _cycle_line(cycle: Cycle) -> str:
    if cycle.derivatives is not None:
        done, total = cycle.derivatives
        gof = "" if isnan(cycle.gof) else f"  GoF {cycle.gof:8.4f}"
        return (f"stage {cycle.stage}/{cycle.n_stages}  cycle {cycle.cycle:2d}{gof}  derivative {done} of "
                f"{total} for the next cycle  {cycle.elapsed:5.1f} s")
    return (
        f"stage {cycle.stage}/{cycle.n_stages}  cycle {cycle.cycle:2d}  GoF {cycle.gof:8.4f}  "
        f"largest shift {cycle.largest_shift:8.2f} s.u. ({cycle.largest_name})  "
        f"{cycle.elapsed:5.1f} s"
    )


def _scan_line(progress: ScanProgress) -> str:
    if isnan(progress.best_gof):
        return (f"computed geometries: {progress.computed:,} (from these, {progress.total:,} points are "
                f"interpolated)  {progress.elapsed:.0f} s")
    at = ", ".join(f"{value:.5g}" for value in progress.best_at)
    return (
        f"{progress.done:,} of {progress.total:,} points  best GoF {progress.best_gof:.4f} at "
        f"({at})  {progress.elapsed:.0f} s, about {progress.remaining:.0f} s left"
    )


def _search_line(progress: SearchProgress) -> str:
    return (
        f"{progress.done} of {progress.total} starting points  {progress.n_minima} "
        f"{'minimum' if progress.n_minima == 1 else 'minima'}  best GoF {progress.best_gof:.4f}  "
        f"{progress.elapsed:.0f} s, about {progress.remaining:.0f} s left"
    )


def _uncertainty_line(progress: UncertaintyProgress) -> str:
    return (
        f"{progress.part}: {progress.done:,} of {progress.total:,} {progress.unit}"
        + (f" ({progress.note})" if progress.note else "")
        + f"  {progress.elapsed:.0f} s, about {progress.remaining:.0f} s left"
    )


def _descent_line(progress: Evaluations) -> str:
    return (
        f"{progress.method}: {progress.evaluations:,} evaluations (at most {progress.limit:,})  "
        f"best GoF {progress.best_gof:.4f}  {progress.elapsed:.0f} s"
    )
