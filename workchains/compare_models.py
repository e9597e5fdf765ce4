"""dse.compare_models: several models refined against one pattern, ranked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiida.engine import ExitCode, ToContext, WorkChain, while_
from aiida.engine.processes.workchains.workchain import WorkChainSpec
from aiida.orm import CifData, Dict, Int, SinglefileData, StructureData

from aiida_dse.calculations.analysis import compare_refinements
from aiida_dse.calculations.engine import RefineCalculation, add_exits
from aiida_dse.data.pattern import PatternData
from aiida_dse.documents.status import PartsFailed
from aiida_dse.workchains.members import why_failed
from aiida_dse.workchains.protocol import DEFAULT, model_of, read_protocol, set_job
from aiida_dse.workchains.refine import RefineWorkChain


class CompareModelsWorkChain(WorkChain):
    """Refine every model with dse.refine, up to max_concurrent at a time; compare what ended.

    Inputs as of dse.refine, but for 'models' (name: model document) and 'structures' (name:
    phase: structure). All models share pattern, blanks and code.
    """

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:  # type: ignore[override]
        super().define(spec)
        spec.expose_inputs(RefineCalculation, namespace="refine",
                           exclude=("model", "structures"))
        spec.input_namespace("models", valid_type=Dict, dynamic=True,
                             help="Model documents under the names of the models.")
        spec.input_namespace(
            "structures", valid_type=(CifData, StructureData, SinglefileData), dynamic=True,
            help="Structures by model and phase.",
        )
        spec.input("max_concurrent", valid_type=Int, default=lambda: Int(2),
                   help="Refinements that run at the same time.")
        spec.inputs.validator = _check
        spec.outline(
            cls.start,
            while_(cls.models_left)(cls.refine_models, cls.inspect_models),
            cls.compare,
        )
        spec.output("result", valid_type=Dict, help="Ranking, figures of merit, AIC and BIC.")
        spec.output("arrays", valid_type=SinglefileData, help="Residuals of all models, as HDF5.")
        spec.default_output_node = "result"
        add_exits(spec, PartsFailed.NOTHING_FINISHED, PartsFailed.SOME_FAILED)

    @classmethod
    def get_builder_from_protocol(
        cls, code: Any, models: Mapping[str, Any], structures: Mapping[str, Mapping[str, Any]],
        pattern: PatternData, blanks: Mapping[str, Any] | None = None, protocol: str = DEFAULT,
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """A builder for models (Dict or mapping) and their structures, both by model.

        What a model does not say itself, the protocol does.
        """
        settings = read_protocol(protocol, overrides)
        builder = cls.get_builder()
        set_job(builder.refine, code, settings)
        builder.refine.pattern = pattern
        if blanks:
            builder.refine.blanks = dict(blanks)
        builder.models = {name: model_of(model, settings) for name, model in models.items()}
        builder.structures = {name: dict(nodes) for name, nodes in structures.items()}
        builder.max_concurrent = Int(settings["max_concurrent"])
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
                RefineWorkChain, refine=inputs,
                metadata={"call_link_label": f"refine_{name}", "label": name},
            )
        return ToContext(**running)

    def inspect_models(self) -> None:
        """Keep every model with a result, whether or not all its parameters were determined."""
        for name in self.ctx.running:
            process = self.ctx[f"model_{name}"]
            if "result" in process.outputs and "arrays" in process.outputs:
                self.ctx.done.append(name)
                gof = process.outputs.result["agreement"]["gof"]
                self.report(f"{name}: GoF {gof:.4f}"
                            + (f" ({process.exit_message})" if process.exit_status else ""))
            else:
                self.ctx.failures[name] = why_failed(process)
                self.report(f"{name} failed: {self.ctx.failures[name]}")

    def compare(self) -> ExitCode | None:
        """Rank the models; say which are missing."""
        failures = "; ".join(f"{name}: {why}" for name, why in self.ctx.failures.items())
        if len(self.ctx.done) < 2:
            return self.exit_codes.ERROR_NOTHING_FINISHED.format(detail=failures or "none")
        nodes: dict[str, Any] = {}
        for name in self.ctx.done:
            outputs = self.ctx[f"model_{name}"].outputs
            nodes |= {f"{name}_result": outputs.result, f"{name}_arrays": outputs.arrays}
        found = compare_refinements(**nodes)
        self.out("result", found["result"])
        self.out("arrays", found["arrays"])
        ranking = found["result"]["ranking"]
        self.report(f"best by BIC: {ranking[0]}; then {', '.join(ranking[1:])}")
        if failures:
            return self.exit_codes.ERROR_SOME_FAILED.format(detail=failures)
        return None


def _check(inputs: Any, _: Any) -> str | None:
    """Every model is checked as its refinement would be, before anything is submitted."""
    models, structures = inputs.get("models", {}), inputs.get("structures", {})
    if len(models) < 2:
        return f"{len(models)} model is no comparison: give at least two under 'models'."
    for name, model in models.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            return f"the model's name '{name}' must be letters, digits and _, a letter first."
        if name not in structures:
            return f"the model '{name}' has no entry under 'structures'."
        common = inputs.get("refine", {})
        why = RefineCalculation._check(
            {"model": model, "structures": structures[name], "pattern": common.get("pattern"),
             "blanks": common.get("blanks", {})}, None,
        )
        if why:
            return f"models.{name}: {why}"
    if inputs["max_concurrent"].value < 1:
        return f"max_concurrent is {inputs['max_concurrent'].value}; give at least 1."
    return None
