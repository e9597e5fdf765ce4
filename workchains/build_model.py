"""dse.build_model: structures and particle families, or atom lists, become stores of distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida.engine import BaseRestartWorkChain, ProcessHandlerReport, process_handler, while_
from aiida.engine.processes.workchains.workchain import WorkChainSpec
from aiida.orm import CalcJobNode, Int

from aiida_dse.calculations.engine import BuildCalculation, add_exits
from aiida_dse.documents.status import Failure
from aiida_dse.workchains.protocol import DEFAULT, read_protocol, set_job, set_model


class BuildModelWorkChain(BaseRestartWorkChain):
    """Run dse.build; once more where a job left nothing behind."""

    _process_class = BuildCalculation

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:  # type: ignore[override]
        super().define(spec)
        spec.expose_inputs(BuildCalculation, namespace="build")
        spec.expose_outputs(BuildCalculation)
        spec.outline(
            cls.setup,
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),
            cls.results,
            cls.summarise,
        )
        add_exits(spec, Failure.INVALID_INPUT)

    @classmethod
    def get_builder_from_protocol(
        cls, code: Any, model: Any, structures: Mapping[str, Any], pattern: Any = None,
        protocol: str = DEFAULT, overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """A builder; what the model (a Dict or mapping) does not say itself, the protocol does.

        The pattern, measured or the model's 'grid', says up to which q the distances serve.
        """
        settings = read_protocol(protocol, overrides)
        builder = cls.get_builder()
        set_job(builder.build, code, settings)
        set_model(builder.build, settings, model, structures, pattern)
        builder.max_iterations = Int(settings["max_iterations"])
        return builder

    def setup(self) -> None:
        super().setup()
        self.ctx.inputs = self.exposed_inputs(BuildCalculation, "build")

    def summarise(self) -> None:
        """Report what was built."""
        for name, row in self.outputs["result"]["distances"].items():
            self.report(f"{name}: {row['atoms']:.0f} atoms, distances up to {row['r_max']:.1f} Å, "
                        f"good up to q = {row['q_max']:.3g} 1/Å")

    @process_handler(priority=400, exit_codes=[
        BuildCalculation.exit_codes.ERROR_NO_RESULT,
        BuildCalculation.exit_codes.ERROR_DAMAGED_RESULT,
    ])
    def try_again(self, calculation: CalcJobNode) -> ProcessHandlerReport:
        """A node that died may not die again."""
        self.report(f"{calculation.process_label}<{calculation.pk}> left nothing: running it again")
        return ProcessHandlerReport(True)

    @process_handler(priority=390, exit_codes=[BuildCalculation.exit_codes.ERROR_INVALID_INPUT])
    def stop_at_refused_input(self, calculation: CalcJobNode) -> ProcessHandlerReport:
        """The same input would be refused again."""
        detail = (calculation.exit_message or "").partition(": ")[2]
        return ProcessHandlerReport(True, self.exit_codes.ERROR_INVALID_INPUT.format(detail=detail))
