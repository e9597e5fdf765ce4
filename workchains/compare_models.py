"""dse.compare_models: the work chain that refines several models of one pattern and ranks them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiida.engine import ExitCode, ToContext, WorkChain, while_
from aiida.orm import CifData, Dict, SinglefileData, StructureData

from aiida_dse.calculations.analysis import compare_refinements
from aiida_dse.calculations.engine import RefineCalculation, add_exits
from aiida_dse.data.jobs import ModelNodes, model_node
from aiida_dse.data.results import summary_from_node
from aiida_dse.data.roles import RIVAL, name_result, set_role
from aiida_dse.data.same_content import NodesByContent
from aiida_dse.documents.results import ComparisonSummary
from aiida_dse.documents.status import PartsFailed
from aiida_dse.workchains.ports import (
    define_clean_workdir,
    define_count,
    define_iterations,
)
from aiida_dse.workchains.protocol import ProtocolMixin, label_of
from aiida_dse.workchains.refine import RefineWorkChain
from aiida_dse.workchains.remedies import why_failed


class CompareModelsWorkChain(ProtocolMixin, WorkChain):
    """Refine several models of one pattern with dse.refine, and compare those with a result.

    Up to max_concurrent models are refined at a time. The inputs are those of dse.refine except for
    'models' (documents by model) and 'structures' (structures by model and phase). All models share
    pattern, blanks and code.
    """

    NAMESPACE = "refine"
    NOUN = "Comparison of models"
    SIDE_BY_SIDE = True

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.expose_inputs(RefineCalculation, namespace="refine",
                           exclude=("model", "structures"))
        spec.input_namespace("models", valid_type=Dict, dynamic=True,
                             help="Model documents, by name of the model.")
        spec.input_namespace(
            "structures", valid_type=(CifData, StructureData, SinglefileData), dynamic=True,
            help="Structures, by model and phase.",
        )
        define_count(spec, "max_concurrent", 2, "Maximum number of concurrent refinements.")
        define_iterations(spec)
        define_clean_workdir(spec)
        spec.inputs.validator = check_comparison
        spec.outline(
            cls.start,
            while_(cls.models_left)(cls.refine_models, cls.inspect_models),  # type: ignore[arg-type]
            cls.compare,
        )
        spec.output("result", valid_type=Dict, help="Ranking, figures of merit, AIC and BIC.")
        spec.output("arrays", valid_type=SinglefileData, help="Residuals of all models, as HDF5.")
        spec.default_output_node = "result"
        add_exits(spec, PartsFailed.NOTHING_FINISHED, PartsFailed.SOME_FAILED)

    @classmethod
    def get_builder_from_protocol(
        cls, code: Any, models: Mapping[str, Any], pattern: Any,
        structures: Mapping[str, Mapping[str, Any]], blanks: Mapping[str, Any] | None = None,
        protocol: str | None = None, overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None, *, threads: int | None = None,
        label: str | None = None,
    ) -> Any:
        """A builder for models (documents, mappings or Dict) and their structures, both by name.

        The other arguments are those of `dse.refine`. Every model is checked in full. Raises
        ValueError (DocumentError) if a model cannot be refined.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        checked = {}
        for name, model in models.items():
            nodes = ModelNodes(pattern, dict(structures.get(name, {})), dict(blanks or {}))
            try:
                checked[name] = RefineWorkChain.checked(model, nodes, protocol, overrides)
            except ValueError as problem:
                raise ValueError(f"models.{name}: {problem}") from None
        builder: Any = cls.get_builder()
        cls.set_job(builder.refine, code, inputs, overrides, options, threads)
        cls.set_chain(builder, inputs)
        known = NodesByContent()
        common = known.data(ModelNodes(pattern, {}, dict(blanks or {})))
        builder.refine.pattern = common["pattern"]
        if "blanks" in common:
            builder.refine.blanks = common["blanks"]
        builder.models = {name: model_node(one.content) for name, one in checked.items()}
        builder.structures = {name: known.each(dict(structures[name])) for name in models}
        first = next(iter(checked.values())).document
        cls.set_names(builder, label, label_of(first), protocol)
        return builder

    def start(self) -> None:
        self.ctx.waiting = sorted(self.inputs.models)
        self.ctx.failures = {}
        self.ctx.done = []
        self.report(f"{len(self.ctx.waiting)} models: {', '.join(self.ctx.waiting)}")

    def models_left(self) -> bool:
        return bool(self.ctx.waiting)

    def refine_models(self) -> ToContext:
        """Submit the next refinements."""
        count = self.inputs.max_concurrent.value
        self.ctx.running, self.ctx.waiting = self.ctx.waiting[:count], self.ctx.waiting[count:]
        running = {}
        for name in self.ctx.running:
            inputs = self.exposed_inputs(RefineCalculation, "refine")
            inputs["model"] = self.inputs.models[name]
            inputs["structures"] = self.inputs.structures[name]
            running[f"model_{name}"] = self.submit(
                RefineWorkChain, refine=inputs, max_iterations=self.inputs.max_iterations,
                clean_workdir=self.inputs.clean_workdir,
                metadata={"call_link_label": f"refine_{name}", "label": name,
                          "description": f"Rival in: {self.node.description or self.NOUN}"},
            )
        return ToContext(**running)

    def inspect_models(self) -> None:
        """Collect the models with a result, even if the data do not determine all parameters."""
        for name in self.ctx.running:
            process = self.ctx[f"model_{name}"]
            if "result" in process.outputs and "arrays" in process.outputs:
                self.ctx.done.append(name)
                set_role(process.outputs.result, RIVAL, self.node)
                gof = process.outputs.result["agreement"]["gof"]
                self.report(f"{name}: GoF {gof:.4f}"
                            + (f" ({process.exit_message})" if process.exit_status else ""))
            else:
                self.ctx.failures[name] = why_failed(process)
                self.report(f"{name} failed: {self.ctx.failures[name]}")

    def compare(self) -> ExitCode | None:
        """Rank the models and return an exit code whose message lists those that failed."""
        failures = "; ".join(f"{name}: {why}" for name, why in self.ctx.failures.items())
        if len(self.ctx.done) < 2:
            return self.exit_codes.ERROR_NOTHING_FINISHED.format(detail=failures or "none")
        nodes: dict[str, Any] = {}
        for name in self.ctx.done:
            outputs = self.ctx[f"model_{name}"].outputs
            nodes |= {f"{name}_result": outputs.result, f"{name}_arrays": outputs.arrays}
        found = compare_refinements(**nodes)
        name_result(found["result"], self.node.label)
        self.out("result", found["result"])
        self.out("arrays", found["arrays"])
        summary = summary_from_node(found["result"])
        assert isinstance(summary, ComparisonSummary)
        ranking = summary.ranking
        self.report(f"ranking by BIC: {', '.join(ranking)}")
        if failures:
            return self.exit_codes.ERROR_SOME_FAILED.format(detail=failures)
        return None


def check_comparison(inputs: Any, _: Any = None) -> str | None:
    """Check that there are at least two models, and nodes for all data to which they refer."""
    models, structures = inputs.get("models", {}), inputs.get("structures", {})
    if len(models) < 2:
        return f"'models' contains {len(models)} models; a comparison requires at least two."
    for name, model in models.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            return (f"'{name}' is not a valid name of a model; a name must start with a letter and "
                    "consist of letters, digits and _.")
        if name not in structures:
            return f"'structures' contains no entry for the model '{name}'; add its structures."
        common = {key: value for key, value in inputs.get("refine", {}).items()
                  if key in ("pattern", "blanks")}
        why = RefineCalculation.check_ports(
            {"model": model, "structures": structures[name], **common})
        if why:
            return f"models.{name}: {why}"
    return None
