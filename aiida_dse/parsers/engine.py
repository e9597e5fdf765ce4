"""Parsers of the engine's tasks, which convert a result to output nodes and an exit code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiida.common.links import LinkType
from aiida.engine import ExitCode
from aiida.orm import SinglefileData
from aiida.parsers import Parser

import aiida_dse
from aiida_dse.calculations.engine import RESULT_FOLDER
from aiida_dse.data.distances import DistancesData
from aiida_dse.data.jobs import STDERR, cif_node
from aiida_dse.data.results import summary_node
from aiida_dse.documents import SIMULTANEOUS_SCHEMA, parse_document, parse_simultaneous
from aiida_dse.documents.records import Summary
from aiida_dse.documents.results import BuildSummary, RefinementSummary, SimultaneousSummary
from aiida_dse.documents.status import EXITS, Failure, Status
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.io.outcome import failure_without_outcome, read_outcome
from aiida_dse.io.results import HDF5_NAME, JSON_NAME, Result, read_result
from aiida_dse.tasks.distances import store_name
from aiida_dse.tasks.summary import document_hash, scattering_tables

#: Exit statuses with which AiiDA reports a failure found by the scheduler.
SCHEDULER_FAILURES = (110, 120, 131, 140)


class EngineParser(Parser):
    """Attach result and arrays, or return an exit code that explains their absence."""

    CACHE_VERSION = NUMERICS_VERSION

    def parse(self, **kwargs: Any) -> ExitCode | None:
        folder = Path(kwargs["retrieved_temporary_folder"]) / RESULT_FOLDER
        if not folder.exists():
            folder = folder.parent
        outcome = read_outcome(folder)
        try:
            result = read_result(folder)
        except ValueError as problem:
            return self._without_result(folder, str(problem))
        wanted = (self.node.process_type or "").rpartition(".")[2]
        if result.task != wanted:
            return self.exit(Failure.DAMAGED_RESULT,
                             f"it belongs to the task '{result.task}' instead of '{wanted}'")
        if result.summary.document_sha256 != self.document_hash():
            return self.exit(Failure.DAMAGED_RESULT, "it is the result of another document")
        if (different := other_engine(result.summary)) is not None:
            return self.exit(Failure.OTHER_ENGINE, different)
        arrays = SinglefileData(file=str(folder / HDF5_NAME), filename=HDF5_NAME)
        arrays.label = result.summary.title or result.task.value
        arrays.description = f"{result.task.value}: arrays of the result"
        self.out("result", summary_node(result.summary, arrays))
        self.out("arrays", arrays)
        try:
            self.report_extra_outputs(result, folder)
        except ValueError as problem:
            return self.exit(Failure.DAMAGED_RESULT, str(problem))
        if outcome is not None and outcome.state == "failed":
            # the result saved before the failure is attached; the exit code is that of the failure
            return self.exit(Failure(outcome.failure), outcome.message)
        if result.status is Status.RUNNING:
            # a checkpoint: the job did not end by itself, and the scheduler may know the reason
            if self.node.exit_status in SCHEDULER_FAILURES:
                return None
            return self.exit(
                Failure.NO_RESULT, "dse-engine was terminated externally after the checkpoint that "
                "is attached" + self._last_words())
        return self.exit(result.status, self.detail(result.summary))

    def document_hash(self) -> str:
        """The hash of the document of the job."""
        inputs = self.node.base.links.get_incoming(link_type=LinkType.INPUT_CALC).nested()
        job: Any = self.node.process_class
        content = job.job_document(inputs)
        parse = parse_simultaneous if content["schema"] == SIMULTANEOUS_SCHEMA else parse_document
        return document_hash(parse(content))

    def report_extra_outputs(self, result: Result[Any], folder: Path) -> None:
        """Attach further outputs of a task."""

    def detail(self, summary: Summary) -> str:
        """The detail for the message of the exit code."""
        if isinstance(summary, RefinementSummary | SimultaneousSummary) and summary.undetermined:
            return ", ".join(summary.undetermined)
        return summary.stop_reason

    def exit(self, outcome: Status | Failure, detail: str) -> ExitCode | None:
        """The exit code of an outcome; None for success."""
        one = EXITS[outcome]
        if one.number == 0:
            return None
        code: ExitCode = self.exit_codes[one.label]
        return code.format(detail=" ".join(detail.split()))

    def _without_result(self, folder: Path, problem: str) -> ExitCode | None:
        # the exit code of a failure found by the scheduler (memory, walltime, node) has precedence
        if self.node.exit_status in SCHEDULER_FAILURES:
            return None
        outcome = read_outcome(folder)
        if outcome is None and not (folder / JSON_NAME).exists():
            words = self._last_words()
            found = failure_without_outcome(folder, words) or Failure.NO_RESULT
            what = "did not start" if found is Failure.NO_RESULT else "could not write its outcome"
            return self.exit(found, f"dse-engine {what}{words}")
        if outcome is not None and outcome.state == "failed":
            return self.exit(Failure(outcome.failure), outcome.message)
        if outcome is not None and outcome.state == "running":
            words = self._last_words()
            found = failure_without_outcome(folder, words) or Failure.NO_RESULT
            return self.exit(found, "dse-engine was terminated externally" + words)
        return self.exit(Failure.DAMAGED_RESULT, problem.replace(f"{folder}/", ""))

    def _last_words(self) -> str:
        """The last line written by the shell or the engine in a job that ended without a result."""
        files = self.retrieved.base.repository
        names = (self.node.get_option("scheduler_stderr"), STDERR)
        texts = [files.get_object_content(str(name), "r") for name in names
                 if name in files.list_object_names()]
        lines = [line for text in texts for line in text.splitlines() if line.strip()]
        return f"; {lines[-1].strip()}" if lines else ""


def other_engine(summary: Summary) -> str | None:
    """How an engine differs numerically from this plugin; None if it does not."""
    if summary.numerics_version != NUMERICS_VERSION:
        return (f"its numerics have version {summary.numerics_version} (aiida-dse "
                f"{summary.engine_version}), but those of this plugin have version "
                f"{NUMERICS_VERSION} (aiida-dse {aiida_dse.__version__}); install the same version "
                "on the computer")
    own = scattering_tables()
    if summary.tables is not None and summary.tables != own:
        return (f"its form-factor tables are {summary.tables.file}, but those of this plugin are "
                f"{own.file}; install the same version of xraydb on the computer")
    return None


class BuildParser(EngineParser):
    """Parser that also attaches the pair distances of every phase."""

    def report_extra_outputs(self, result: Result[Any], folder: Path) -> None:
        summary = result.summary
        assert isinstance(summary, BuildSummary)
        for name, row in summary.distances.items():
            node = DistancesData.from_file(folder / store_name(name), row.tolerance)
            node.label = f"{name}, sampled by aiida-dse {aiida_dse.__version__}"
            self.out(f"distances.{name}", node)


class RefineParser(EngineParser):
    """Parser that also attaches the refined structures."""

    def report_extra_outputs(self, result: Result[Any], folder: Path) -> None:
        summary = result.summary
        if isinstance(summary, SimultaneousSummary):
            for name, pattern in summary.patterns.items():
                self._out_structures(pattern.cif, f"{name}_")
        elif isinstance(summary, RefinementSummary):
            self._out_structures(summary.cif)

    def _out_structures(self, texts: Mapping[str, str], prefix: str = "") -> None:
        for phase, text in texts.items():
            node = cif_node(text, f"{prefix}{phase}.cif")
            node.label = f"{prefix}{phase}, refined by aiida-dse {aiida_dse.__version__}"
            self.out(f"structures.{prefix}{phase}", node)
