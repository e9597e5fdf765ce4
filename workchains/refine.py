"""dse.refine and dse.simultaneous: the work chains for refinements, with automatic restarts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida.engine import ProcessHandlerReport, process_handler
from aiida.orm import CalcJobNode, Dict

from aiida_dse.calculations.engine import RefineCalculation, SimultaneousCalculation
from aiida_dse.data.jobs import (
    ModelNodes,
    model_node,
    simultaneous_job_document,
    simultaneous_of_nodes,
)
from aiida_dse.data.results import summary_from_node
from aiida_dse.data.same_content import NodesByContent
from aiida_dse.documents import SimultaneousDocument, parse_simultaneous
from aiida_dse.documents.continuation import simultaneous_continued
from aiida_dse.documents.records import Fitted
from aiida_dse.documents.results import SimultaneousSummary
from aiida_dse.documents.status import EXITS, Status
from aiida_dse.engine.fit.freedom import check_freedom
from aiida_dse.tasks.build import BuiltModel
from aiida_dse.tasks.simultaneous import BuiltSimultaneous, check_axes_of
from aiida_dse.workchains.protocol import simultaneous_with_protocol
from aiida_dse.workchains.restart import EngineRestartWorkChain

#: A refinement has stalled if a continuation lowers the GoF by less than this.
STALLED = 1e-6


class RefineWorkChain(EngineRestartWorkChain):
    """Run dse.refine, and continue it if it reached the walltime or did not converge."""

    _process_class = RefineCalculation
    NAMESPACE = "refine"
    NOUN = "Refinement"
    OWN_ENDINGS = (Status.NOT_CONVERGED, Status.UNDETERMINED)

    @classmethod
    def check_model(cls, built: BuiltModel) -> tuple[str, ...]:
        remarks = super().check_model(built)
        check_freedom(built.model, built.stages)
        return remarks

    def line(self, result: Any) -> str:
        summary = summary_from_node(result)
        assert isinstance(summary, Fitted)
        fit = summary.agreement
        cycles = getattr(summary, "n_cycles", 0)
        return (f"{summary.title or 'refinement'}: {summary.status}, GoF {fit.gof:.4f}, "
                f"Rwp {100 * fit.r_wp:.2f} %, {cycles} cycles, {summary.seconds:.0f} s")

    @process_handler(priority=390)
    def go_on_until_converged(self, calculation: CalcJobNode) -> ProcessHandlerReport | None:
        """Continue from the last values until convergence, or until the GoF has stalled."""
        if calculation.exit_status != EXITS[Status.NOT_CONVERGED].number:
            return None
        gof = calculation.outputs.result["agreement"]["gof"]
        previous = self.ctx.get("last_gof")
        self.ctx.last_gof = gof
        stuck = previous is not None and previous - gof < STALLED
        if stuck or self.ctx.iteration >= self.inputs.max_iterations.value:
            return self.ended(calculation, EXITS[Status.NOT_CONVERGED].label)
        self.continue_from(calculation)
        self.report(f"not converged (GoF {gof:.4f}), so the refinement is continued")
        return ProcessHandlerReport(True)

    @process_handler(priority=380)
    def stop_at_undetermined(self, calculation: CalcJobNode) -> ProcessHandlerReport | None:
        """Return the result, since a restart cannot determine more parameters."""
        if calculation.exit_status != EXITS[Status.UNDETERMINED].number:
            return None
        return self.ended(calculation, EXITS[Status.UNDETERMINED].label)


class SimultaneousWorkChain(RefineWorkChain):
    """Run dse.simultaneous, and continue it under the same conditions as dse.refine.

    'model' is a simultaneous document. With parametric constraints, this is a parametric
    refinement.
    """

    _process_class = SimultaneousCalculation  # type: ignore[assignment]
    NAMESPACE = "simultaneous"
    NOUN = "Simultaneous refinement"

    @classmethod
    def get_builder_from_protocol(  # type: ignore[override]
        cls, code: Any, model: Any, patterns: Mapping[str, Any],
        structures: Mapping[str, Any], blanks: Mapping[str, Any] | None = None,
        protocol: str | None = None, overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None, *, threads: int | None = None,
        start_from: Dict | None = None, label: str | None = None,
    ) -> Any:
        """A builder for a simultaneous document (or mapping, or Dict) and its patterns by name.

        The other arguments are those of `dse.refine`. Raises ValueError if it cannot run.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        nodes = ModelNodes(None, dict(structures), dict(blanks or {}))
        document, _, _ = cls.checked_patterns(
            model, patterns, nodes, protocol, overrides, start_from)
        builder: Any = cls.get_builder()
        namespace = builder[cls.NAMESPACE]
        cls.set_job(namespace, code, inputs, overrides, options, threads)
        cls.set_chain(builder, inputs)
        known = NodesByContent()
        namespace.patterns = known.each(dict(patterns))
        for key, value in known.data(nodes).items():
            namespace[key] = value
        namespace.model = model_node(
            simultaneous_job_document(document, patterns, nodes.structures, nodes.blanks))
        if start_from is not None:
            builder.start_from = start_from
        cls.set_names(builder, label, document.title, protocol)
        return builder

    @classmethod
    def checked_patterns(
        cls, model: Any, patterns: Mapping[str, Any], nodes: ModelNodes,
        protocol: str | None = None, overrides: Mapping[str, Any] | None = None,
        start_from: Dict | None = None,
    ) -> tuple[SimultaneousDocument, BuiltSimultaneous, list[str]]:
        """The document with the settings of a protocol, its models, and remarks on them.

        nodes: the data common to all patterns. Nothing is stored. Raises ValueError if the
        refinement cannot run.
        """
        content = model.get_dict() if isinstance(model, Dict) else model
        document = content if isinstance(content, SimultaneousDocument) \
            else parse_simultaneous(dict(content))
        document = simultaneous_with_protocol(document, *cls.model_settings(protocol, overrides))
        found = simultaneous_job_document(document, patterns, nodes.structures, nodes.blanks)
        if start_from is not None:
            summary = summary_from_node(start_from)
            assert isinstance(summary, SimultaneousSummary)
            found = simultaneous_continued(found, summary)
        built = simultaneous_of_nodes(found, patterns, nodes.structures, nodes.blanks)
        return document, built, check_axes_of(built)
