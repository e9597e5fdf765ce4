"""Base class of work chains that run a job and restart it after failures."""

from __future__ import annotations

from typing import Any, ClassVar

from aiida.engine import BaseRestartWorkChain, ProcessHandlerReport, WorkChain, process_handler, while_
from aiida.orm import CalcJobNode

from aiida_dse.calculations.documents import continued_model
from aiida_dse.calculations.engine import EngineCalculation, add_exits
from aiida_dse.data.results import summary_from_node
from aiida_dse.data.roles import name_result
from aiida_dse.documents.status import EXITS, Failure, Outcome, Status
from aiida_dse.workchains.ports import clean_working_directories, define_start_from
from aiida_dse.workchains.protocol import SingleModelProtocol
from aiida_dse.workchains.remedies import (
    SCHEDULER_EXITS,
    Remedy,
    fewer_threads,
    remedy_for,
    why_failed,
)

#: Outcomes of the engine by exit status of a job.
JOB_OUTCOMES: dict[Any, Outcome] = {
    EXITS[outcome].number: outcome for outcome in (*Status, *Failure) if EXITS[outcome].number
}


class EngineRestartWorkChain(SingleModelProtocol, BaseRestartWorkChain):
    """Run a job of the engine and handle all known failures.

    The exit codes are identical to those of the job. A job that ran out of memory is restarted with
    half the number of threads, a job that reached its walltime is continued, and a job that was
    lost is restarted. Any other failure ends the work chain with the exit code of the job.
    """

    _process_class: type[EngineCalculation] = EngineCalculation
    #: Outcomes that are handled by the subclass.
    OWN_ENDINGS: ClassVar[tuple[Outcome, ...]] = ()

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.expose_inputs(cls._process_class, namespace=cls.NAMESPACE)
        define_start_from(spec)
        spec.expose_outputs(cls._process_class)
        spec.outline(
            cls.setup,
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),  # type: ignore[arg-type]
            cls.results,
            cls.summarise,
        )
        add_exits(spec, *Failure, *cls._process_class.ENDINGS)
        for number, (label, message) in SCHEDULER_EXITS.items():
            spec.exit_code(number, label, message=f"{message}: {{detail}}")

    def setup(self) -> None:
        super().setup()
        self.ctx.inputs = self.exposed_inputs(self._process_class, self.NAMESPACE)
        metadata = self.ctx.inputs.setdefault("metadata", {})
        metadata.setdefault("label", self.node.label)
        metadata.setdefault("description", self.node.description)
        if "start_from" in self.inputs:
            self.ctx.inputs["model"] = continued_model(
                self.ctx.inputs["model"], self.inputs.start_from)

    def summarise(self) -> None:
        """Label the result like the work chain, and report a summary of one line."""
        result = self.outputs["result"]
        name_result(result, self.node.label)
        self.report(self.line(result))

    def line(self, result: Any) -> str:
        """A summary of the result in one line."""
        summary = summary_from_node(result)
        return f"{summary.title or summary.task}: {summary.status}, {summary.seconds:.0f} s"

    @process_handler(priority=600)
    def handle_known_failures(self, calculation: CalcJobNode) -> ProcessHandlerReport | None:
        """Apply the remedy for a failed job or, if there is none, return its exit code."""
        outcome = JOB_OUTCOMES.get(calculation.exit_status)
        if calculation.is_finished_ok or outcome in self.OWN_ENDINGS:
            return None
        remedy, name = remedy_for(calculation), f"{calculation.process_label}<{calculation.pk}>"
        if remedy is Remedy.FEWER_THREADS:
            threads = fewer_threads(self.ctx.inputs.get("threads"))
            remedy = remedy if threads else Remedy.NONE
            self.ctx.inputs |= {"threads": threads} if threads else {}
        if remedy is Remedy.NONE or self.ctx.iteration >= self.inputs.max_iterations.value:
            if outcome is not None:
                return self.ended(calculation, EXITS[outcome].label)
            label, _ = SCHEDULER_EXITS.get(calculation.exit_status or 0, ("", ""))
            return self.ended(calculation, label) if label else None
        if "result" in calculation.outputs:  # also the checkpoint of a job that was terminated
            self.continue_from(calculation)
        self.report(f"{name}: {why_failed(calculation)} Remedy: {remedy.value}.")
        return ProcessHandlerReport(True)

    def on_terminated(self) -> None:
        """Remove the working directories, but not those of failed jobs, as the base class would."""
        WorkChain.on_terminated(self)
        clean_working_directories(self)

    def continue_from(self, calculation: CalcJobNode) -> None:
        """Use the last values of a job as starting values of the next one."""
        self.ctx.inputs["model"] = continued_model(
            self.ctx.inputs["model"], calculation.outputs.result)

    def inspect_process(self) -> Any:
        """Give a job the label of this work chain, which one from the cache would not have."""
        calculation = self.ctx.children[self.ctx.iteration - 1]
        metadata = self.ctx.inputs.get("metadata", {})
        calculation.label = metadata.get("label", "")
        calculation.description = metadata.get("description", "")
        return super().inspect_process()

    def ended(self, calculation: CalcJobNode, label: str) -> ProcessHandlerReport:
        """End the work chain with the exit code of this label and, if there are any, the outputs of a job."""
        if "result" in calculation.outputs:
            self.out_many(self.exposed_outputs(calculation, self._process_class))
            self.summarise()
        # otherwise AiiDA would return its own code after the last iteration
        self.ctx.is_finished = True
        message = calculation.exit_message or ""
        code = self.exit_codes[label]
        detail = message.partition(": ")[2] or message
        return ProcessHandlerReport(True, code.format(detail=detail))
