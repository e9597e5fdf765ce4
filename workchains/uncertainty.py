"""dse.uncertainty: the work chain for profiles, bootstrap and posterior."""

from __future__ import annotations

from aiida.engine import ProcessHandlerReport, process_handler
from aiida.orm import CalcJobNode

from aiida_dse.calculations.engine import UncertaintyCalculation
from aiida_dse.documents.status import EXITS, Status
from aiida_dse.engine.fit.freedom import check_freedom
from aiida_dse.tasks.build import BuiltModel
from aiida_dse.tasks.uncertainty import require_uncertainty
from aiida_dse.workchains.restart import JOB_OUTCOMES, EngineRestartWorkChain

#: Outcomes that another job cannot change.
SETTLED = (Status.NOT_CONVERGED, Status.UNDETERMINED, Status.POSTERIOR_NOT_CONVERGED)


class UncertaintyWorkChain(EngineRestartWorkChain):
    """Run dse.uncertainty; after the walltime, continue from the finished parts."""

    _process_class = UncertaintyCalculation
    NAMESPACE = "uncertainty"
    NOUN = "Uncertainty analysis"
    OWN_ENDINGS = SETTLED

    @classmethod
    def check_model(cls, built: BuiltModel) -> tuple[str, ...]:
        remarks = super().check_model(built)
        check_freedom(built.model, built.stages)
        require_uncertainty(built)
        return remarks

    def continue_from(self, calculation: CalcJobNode) -> None:
        self.ctx.inputs["finished"] = {
            "result": calculation.outputs.result, "arrays": calculation.outputs.arrays}

    @process_handler(priority=390)
    def stop_when_settled(self, calculation: CalcJobNode) -> ProcessHandlerReport | None:
        """Return the result with the exit code of the job; the user can then request more steps."""
        outcome = JOB_OUTCOMES.get(calculation.exit_status)
        return self.ended(calculation, EXITS[outcome].label) if outcome in SETTLED else None
