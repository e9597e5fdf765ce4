"""A work chain of one job that is run again where another try can help."""

from __future__ import annotations

from typing import Any, ClassVar

from aiida.engine import BaseRestartWorkChain, ProcessHandlerReport, process_handler, while_
from aiida.engine.processes.workchains.workchain import WorkChainSpec
from aiida.orm import CalcJobNode

from aiida_dse.calculations.documents import continued_model
from aiida_dse.calculations.engine import EngineCalculation, add_exits
from aiida_dse.data.results import summary_from_node
from aiida_dse.documents.status import EXITS, Failure, Outcome, Status
from aiida_dse.workchains.protocol import SingleModelProtocol

#: AiiDA's exit statuses of what the scheduler found.
OUT_OF_MEMORY, OUT_OF_WALLTIME, NODE_FAILURE = 110, 120, 140
#: Another try cannot help: the same input or the same computer would fail again.
FINAL = (Failure.INVALID_INPUT, Failure.OTHER_ENGINE, Failure.DISK_FULL, Failure.INTERNAL)
#: A node that died or a file that was lost may not do so again.
LOST = (Failure.NO_RESULT, Failure.DAMAGED_RESULT)


class EngineRestartWorkChain(SingleModelProtocol, BaseRestartWorkChain):
    """Run a job of the engine; handle everything that is known to end one.

    The exit codes are those of the job: the same number for the same thing. A job that ran out of
    memory is tried with half its threads, one that met its walltime goes on where it was, one that
    was lost is run again. What cannot be mended ends the work chain with the job's own code.
    """

    _process_class: ClassVar[type[EngineCalculation]] = EngineCalculation

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:  # type: ignore[override]
        super().define(spec)
        spec.expose_inputs(cls._process_class, namespace=cls.NAMESPACE)
        spec.expose_outputs(cls._process_class)
        spec.outline(
            cls.setup,
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),
            cls.results,
            cls.summarise,
        )
        add_exits(spec, *Failure, *cls._process_class.ENDINGS)

    def setup(self) -> None:
        super().setup()
        self.ctx.inputs = self.exposed_inputs(self._process_class, self.NAMESPACE)
        metadata = self.ctx.inputs.setdefault("metadata", {})
        metadata.setdefault("label", self.node.label)

    def summarise(self) -> None:
        """Name the result after the work chain and report it in one line."""
        result = self.outputs["result"]
        if self.node.label:
            result.label = self.node.label
        self.report(self.line(result))

    def line(self, result: Any) -> str:
        """The outcome in one line."""
        summary = summary_from_node(result)
        return f"{summary.title or summary.task}: {summary.status}, {summary.seconds:.0f} s"

    @process_handler(priority=600)
    def handle_known_failures(self, calculation: CalcJobNode) -> ProcessHandlerReport | None:
        """Walltime, memory, lost jobs, and what no restart can mend."""
        status = calculation.exit_status
        name = f"{calculation.process_label}<{calculation.pk}>"
        if status in (EXITS[Status.WALLTIME].number, EXITS[Status.INTERRUPTED].number,
                      OUT_OF_WALLTIME):
            if "result" in calculation.outputs:
                self.continue_from(calculation)
            self.report(f"{name} met its walltime: continuing")
            return ProcessHandlerReport(True)
        if status in (OUT_OF_MEMORY, EXITS[Failure.OUT_OF_MEMORY].number):
            return self._with_fewer_threads(calculation, name)
        if status == NODE_FAILURE or status in {EXITS[one].number for one in LOST}:
            self.report(f"{name} left no result ({calculation.exit_message}): running it again")
            return ProcessHandlerReport(True)
        for failure in FINAL:
            if status == EXITS[failure].number:
                return self.ended(calculation, failure)
        return None

    def _with_fewer_threads(self, calculation: CalcJobNode, name: str) -> ProcessHandlerReport:
        """Half the threads hold half the tables; a single thread cannot be helped."""
        metadata = self.ctx.inputs["metadata"]
        threads = metadata.get("threads") or 0
        if threads == 1 or self.ctx.iteration >= self.inputs.max_iterations.value:
            return self.ended(calculation, Failure.OUT_OF_MEMORY)
        metadata["threads"] = threads // 2 if threads > 1 else 1
        self.report(f"{name} ran out of memory: trying with {metadata['threads']} threads")
        return ProcessHandlerReport(True)

    def continue_from(self, calculation: CalcJobNode) -> None:
        """Prepare the next job to go on from what this one left: its last values."""
        self.ctx.inputs["model"] = continued_model(
            self.ctx.inputs["model"], calculation.outputs.result)

    def ended(self, calculation: CalcJobNode, outcome: Outcome) -> ProcessHandlerReport:
        """End the work chain with the job's own exit code and the outputs that there are."""
        if "result" in calculation.outputs:
            self.out_many(self.exposed_outputs(calculation, self._process_class))
            self.summarise()
        message = calculation.exit_message or ""
        code = self.exit_codes[EXITS[outcome].label]
        detail = message.partition(": ")[2] or message
        return ProcessHandlerReport(True, code.format(detail=detail))
