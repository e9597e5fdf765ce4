"""dse.refine: a refinement that restarts itself where that can help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida.engine import (
    BaseRestartWorkChain,
    ProcessHandlerReport,
    calcfunction,
    process_handler,
    while_,
)
from aiida.engine.processes.workchains.workchain import WorkChainSpec
from aiida.orm import CalcJobNode, Dict, Int

from aiida_dse.calculations.engine import RefineCalculation, add_exits
from aiida_dse.data.pattern import PatternData
from aiida_dse.data.results import summary_from_node
from aiida_dse.documents.migration import current_document
from aiida_dse.documents.results import RefinementSummary, ScanSummary, Summary
from aiida_dse.documents.status import Failure, Status
from aiida_dse.workchains.protocol import DEFAULT, read_protocol, set_job, set_model


def model_continued(model: dict[str, Any], summary: Summary) -> dict[str, Any]:
    """A model document that starts at the values of a result, where it has these parameters."""
    model = current_document(model)
    starts = dict(model.get("parameters", {}))
    moved = set(summary.moved) | set(summary.refined) if isinstance(summary, ScanSummary) else set()
    for name, row in summary.parameters.items():
        if row.status.refined or name in starts or name in moved:
            given = starts.get(name)
            bounds = dict(given) if isinstance(given, dict) else {}
            starts[name] = bounds | {"value": row.value}
    return model | {"parameters": starts}


@calcfunction
def continued_model(model: Dict, result: Dict) -> Dict:
    """The model document with the values of an earlier analysis as its start."""
    return Dict(model_continued(model.get_dict(), summary_from_node(result)))


class RefineWorkChain(BaseRestartWorkChain):
    """Run dse.refine; go on from the last values after the walltime or without convergence."""

    _process_class = RefineCalculation

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:  # type: ignore[override]
        super().define(spec)
        spec.expose_inputs(RefineCalculation, namespace="refine")
        spec.expose_outputs(RefineCalculation)
        spec.outline(
            cls.setup,
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),
            cls.results,
            cls.summarise,
        )
        add_exits(spec, Status.NOT_CONVERGED, Status.UNDETERMINED, Failure.INVALID_INPUT)

    @classmethod
    def get_builder_from_protocol(
        cls, code: Any, model: Any, pattern: PatternData, structures: Mapping[str, Any],
        blanks: Mapping[str, Any] | None = None, protocol: str = DEFAULT,
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """A builder; what the model (a Dict or mapping) does not say itself, the protocol does."""
        settings = read_protocol(protocol, overrides)
        builder = cls.get_builder()
        set_job(builder.refine, code, settings)
        set_model(builder.refine, settings, model, structures, pattern, blanks)
        builder.max_iterations = Int(settings["max_iterations"])
        return builder

    def setup(self) -> None:
        super().setup()
        self.ctx.inputs = self.exposed_inputs(RefineCalculation, "refine")

    def summarise(self) -> None:
        """Report the outcome in one line."""
        summary = summary_from_node(self.outputs["result"])
        assert isinstance(summary, RefinementSummary)
        fit = summary.agreement
        self.report(
            f"{summary.title or 'refinement'}: {summary.status}, GoF {fit.gof:.4f}, "
            f"Rwp {100 * fit.r_wp:.2f} %, {summary.n_cycles} cycles, {summary.seconds:.0f} s"
        )

    @process_handler(priority=400, exit_codes=[RefineCalculation.exit_codes.ERROR_WALLTIME])
    def go_on_after_walltime(self, calculation: CalcJobNode) -> ProcessHandlerReport:
        """Continue from the values that were reached."""
        self._continue_from(calculation)
        self.report(f"{calculation.process_label}<{calculation.pk}> met its walltime: continuing")
        return ProcessHandlerReport(True)

    @process_handler(priority=390, exit_codes=[RefineCalculation.exit_codes.ERROR_NOT_CONVERGED])
    def go_on_until_converged(self, calculation: CalcJobNode) -> ProcessHandlerReport:
        """Continue once more; give up, with the outputs attached, where that changes little."""
        gof = calculation.outputs.result["agreement"]["gof"]
        previous = self.ctx.get("last_gof")
        self.ctx.last_gof = gof
        stuck = previous is not None and previous - gof < 1e-6
        if stuck or self.ctx.iteration >= self.inputs.max_iterations.value:
            self._attach(calculation)
            return ProcessHandlerReport(
                True, self.exit_codes.ERROR_NOT_CONVERGED.format(detail=f"GoF {gof:.4f}")
            )
        self._continue_from(calculation)
        self.report(f"not converged at GoF {gof:.4f}: continuing")
        return ProcessHandlerReport(True)

    @process_handler(priority=380, exit_codes=[RefineCalculation.exit_codes.ERROR_UNDETERMINED])
    def stop_at_undetermined(self, calculation: CalcJobNode) -> ProcessHandlerReport:
        """A restart cannot determine what the data do not: hand out the result as it is."""
        self._attach(calculation)
        detail = (calculation.exit_message or "").partition(": ")[2]
        return ProcessHandlerReport(True, self.exit_codes.ERROR_UNDETERMINED.format(detail=detail))

    @process_handler(priority=370, exit_codes=[RefineCalculation.exit_codes.ERROR_INVALID_INPUT])
    def stop_at_refused_input(self, calculation: CalcJobNode) -> ProcessHandlerReport:
        """The same input would be refused again."""
        detail = (calculation.exit_message or "").partition(": ")[2]
        return ProcessHandlerReport(True, self.exit_codes.ERROR_INVALID_INPUT.format(detail=detail))

    def _continue_from(self, calculation: CalcJobNode) -> None:
        self.ctx.inputs["model"] = continued_model(
            self.ctx.inputs["model"], calculation.outputs.result
        )

    def _attach(self, calculation: CalcJobNode) -> None:
        outputs: dict[str, Any] = self.exposed_outputs(calculation, RefineCalculation)
        self.out_many(outputs)
