"""dse.study: the work chain for the samples, series, maps and comparisons of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiida.engine import ExitCode, ToContext, WorkChain, while_
from aiida.orm import CifData, Dict, Float, Int, SinglefileData, StructureData, load_node, to_aiida_type

from aiida_dse.calculations.documents import continued_model
from aiida_dse.calculations.engine import RefineCalculation, ScanCalculation, add_exits
from aiida_dse.calculations.study import KINDS, study_summary
from aiida_dse.data.grouping import put_into_group
from aiida_dse.data.jobs import model_node
from aiida_dse.data.pattern import PatternData
from aiida_dse.data.same_content import NodesByContent
from aiida_dse.data.studies import ReadStudy, read_study
from aiida_dse.documents import StudyDocument, load_study
from aiida_dse.documents.status import PartsFailed
from aiida_dse.workchains.compare_models import CompareModelsWorkChain, check_comparison
from aiida_dse.workchains.grid_search import GridSearchWorkChain, tiling
from aiida_dse.workchains.members import (
    MEMBER_INPUTS,
    for_any_task,
    member_inputs,
    sample_of,
)
from aiida_dse.workchains.ports import (
    define_clean_workdir,
    define_count,
    define_iterations,
    define_tile_seconds,
)
from aiida_dse.workchains.protocol import ProtocolMixin
from aiida_dse.workchains.refine import RefineWorkChain
from aiida_dse.workchains.remedies import why_failed
from aiida_dse.workchains.size_series import SizeSeriesWorkChain
from aiida_dse.workchains.temperature_series import TemperatureSeriesWorkChain

SERIES = {"temperature": TemperatureSeriesWorkChain, "size": SizeSeriesWorkChain}


class StudyWorkChain(ProtocolMixin, WorkChain):
    """Run all refinements of single samples, then all series, maps and comparisons of a study.

    Up to max_concurrent jobs run at a time. Steps that fail are reported; all others are run.
    """

    NAMESPACE = "refine"
    NOUN = "Study"
    SIDE_BY_SIDE = True

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        nodes = (Dict, PatternData, CifData, StructureData, SinglefileData)
        spec.expose_inputs(RefineCalculation, namespace="refine", exclude=MEMBER_INPUTS)
        spec.input_namespace(
            "samples", dynamic=True, valid_type=nodes,
            help="Inputs 'model', 'pattern', 'structures' and 'blanks' of dse.refine, by sample.",
        )
        spec.input("plan", valid_type=Dict, serializer=to_aiida_type, help=(
            "'series': {name: {kind, samples, options}}, 'maps': {name: {sample, seconds, "
            "cut_axis}}, 'compare': {name: sample}. All keys are optional."))
        spec.input_namespace("maps", valid_type=Dict, dynamic=True, required=False,
                             help="Model documents with a section 'scan', by map.")
        spec.input_namespace("compare", valid_type=nodes, dynamic=True, required=False,
                             help="Inputs 'models' and 'structures', by comparison and model.")
        spec.input("left_out", valid_type=Dict, serializer=to_aiida_type, required=False,
                   help="Reasons why members of series could not be read, by sample.")
        define_count(spec, "max_concurrent", 2, "Maximum number of concurrent jobs.")
        define_iterations(spec)
        define_tile_seconds(spec)
        define_clean_workdir(spec)
        spec.inputs.validator = cls.check_inputs
        spec.outline(
            cls.start,
            while_(cls.steps_left)(cls.run_steps, cls.inspect_steps),  # type: ignore[arg-type]
            cls.summarise,
        )
        spec.output("summary", valid_type=Dict, help="Outcomes and numerical results of all steps.")
        spec.default_output_node = "summary"
        add_exits(spec, PartsFailed.NOTHING_FINISHED, PartsFailed.SOME_FAILED)

    @classmethod
    def get_builder_from_protocol(
        cls, code: Any, study: Path | str | ReadStudy, protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None, *,
        threads: int | None = None, label: str | None = None,
    ) -> Any:
        """A builder for a study, given as the path of its document or as a ReadStudy from `read`.

        The other arguments are those of `dse.refine`. Raises DocumentError if the study cannot run.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        read = study if isinstance(study, ReadStudy) else cls.read(
            load_study(Path(study)), Path(study).parent, protocol, overrides)
        builder: Any = cls.get_builder()
        cls.set_job(builder.refine, code, inputs, overrides, options, threads)
        cls.set_chain(builder, inputs)
        for name, value in _inputs_of(read).items():
            setattr(builder, name, value)
        cls.set_names(builder, label, read.document.name, protocol)
        return builder

    @classmethod
    def read(
        cls, document: StudyDocument, folder: Path, protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> ReadStudy:
        """Read and check a study document, whose paths are relative to `folder`, in full.

        Nothing is stored. Raises DocumentError.
        """
        jobs = (overrides or {}).get(cls.NAMESPACE, {})
        return read_study(
            document, folder,
            sample=lambda model, nodes: RefineWorkChain.checked(
                model, nodes, protocol, {RefineWorkChain.NAMESPACE: jobs}),
            map_=lambda model, nodes: GridSearchWorkChain.checked(
                model, nodes, protocol, {GridSearchWorkChain.NAMESPACE: jobs}))

    def start(self) -> None:
        plan = self.inputs.plan.get_dict()
        series = plan.get("series", {})
        taken = {name for one in series.values() for name in one["samples"]}
        alone = [name for name in sorted(self.inputs.samples) if name not in taken]
        parts = {"sample": alone, "series": series, "map": plan.get("maps", {}),
                 "compare": plan.get("compare", {})}
        self.ctx.waiting = [f"{kind}_{name}" for kind in KINDS for name in parts[kind]]
        self.ctx.steps = {}
        self.ctx.refined = {}  # UUIDs of results, by sample
        if self.node.label:
            put_into_group("study", self.node.label, [self.node])
        self.report(f"{len(alone)} single samples, {len(series)} series, {len(parts['map'])} maps, "
                    f"{len(parts['compare'])} comparisons")

    def steps_left(self) -> bool:
        return bool(self.ctx.waiting)

    def run_steps(self) -> ToContext:
        """Submit the next refinements, or the next series, map or comparison."""
        kind = self.ctx.waiting[0].split("_", 1)[0]
        count = self.inputs.max_concurrent.value if kind == "sample" else 1
        chosen = [key for key in self.ctx.waiting if key.startswith(f"{kind}_")][:count]
        self.ctx.running = []
        running = {}
        for key in chosen:
            self.ctx.waiting.remove(key)
            name = key.split("_", 1)[1]
            try:
                process, inputs = getattr(self, f"_{kind}_inputs")(name)
                inputs["metadata"] = {"call_link_label": key, "label": name,
                                      "description": f"Part of: {self.node.description or self.NOUN}"}
                running[key] = self.submit(process, **inputs)
            except ValueError as problem:
                self._ended(key, None, " ".join(str(problem).split()))
                continue
            self.ctx.running.append(key)
            if self.node.label:
                put_into_group("study", self.node.label, [running[key]])
            if kind != "series":
                self._into_sample_group(key, name, running[key])
        return ToContext(**running)

    def _into_sample_group(self, key: str, name: str, node: Any) -> None:
        plan = self.inputs.plan.get_dict()
        sample = {"map": lambda: plan["maps"][name]["sample"],
                  "compare": lambda: plan["compare"][name]}.get(key.split("_")[0], lambda: name)()
        label = sample_of(self.inputs.samples[sample]).get("name") or sample
        put_into_group("sample", label, [node])

    def _sample_inputs(self, name: str) -> tuple[Any, dict[str, Any]]:
        return RefineWorkChain, {"refine": self._job(name), **self._common("max_iterations")}

    def _common(self, *names: str) -> dict[str, Any]:
        """The inputs that a step shares with the study."""
        return {name: self.inputs[name] for name in (*names, "clean_workdir")}

    def _series_inputs(self, name: str) -> tuple[Any, dict[str, Any]]:
        one = self.inputs.plan.get_dict()["series"][name]
        left_out = self.inputs.left_out.get_dict() if "left_out" in self.inputs else {}
        own = {member: why for member, why in left_out.items() if member in one["samples"]}
        inputs = {
            "refine": self.exposed_inputs(RefineCalculation, "refine"),
            "members": {member: dict(self.inputs.samples[member]) for member in one["samples"]
                        if member in self.inputs.samples},
            "plan": Dict(one.get("options", {})),
            **self._common("max_concurrent", "max_iterations"),
        }
        return SERIES[one["kind"]], inputs | ({"left_out": Dict(own)} if own else {})

    def _map_inputs(self, name: str) -> tuple[Any, dict[str, Any]]:
        one = self.inputs.plan.get_dict()["maps"][name]
        job = for_any_task(self._job(one["sample"]))
        job["model"] = continued_model(self.inputs.maps[name], self._refined(one["sample"]))
        inputs = {"scan": job, **self._common("max_concurrent", "tile_seconds")}
        if "seconds" in one:
            inputs |= {"seconds": Float(one["seconds"]), "cut_axis": Int(one["cut_axis"])}
        return GridSearchWorkChain, inputs

    def _compare_inputs(self, name: str) -> tuple[Any, dict[str, Any]]:
        job = self._job(self.inputs.plan.get_dict()["compare"][name])
        del job["model"], job["structures"]
        own = self.inputs.compare[name]
        return CompareModelsWorkChain, {
            "refine": job, "models": dict(own["models"]),
            "structures": {model: dict(nodes) for model, nodes in own["structures"].items()},
            **self._common("max_concurrent", "max_iterations"),
        }

    def _job(self, sample: str) -> dict[str, Any]:
        job: dict[str, Any] = self.exposed_inputs(RefineCalculation, "refine")
        if sample not in self.inputs.samples:
            raise ValueError(f"the sample '{sample}' could not be read")
        return {**job, **self.inputs.samples[sample]}

    def _refined(self, sample: str) -> Dict:
        if sample not in self.ctx.refined:
            raise ValueError(f"the refinement of the sample '{sample}' has no result that could "
                             "provide the starting values")
        return load_node(self.ctx.refined[sample])  # type: ignore[return-value]

    def inspect_steps(self) -> None:
        for key in self.ctx.running:
            process = self.ctx[key]
            kind, name = key.split("_", 1)
            why = "" if process.is_finished_ok else why_failed(process)
            if kind == "sample" and "result" in process.outputs:
                self.ctx.refined[name] = process.outputs.result.uuid
            if kind == "series" and "refined" in process.outputs:
                for member in process.outputs.refined:
                    self.ctx.refined[member] = process.outputs.refined[member].uuid
            self._ended(key, process, why)

    def _ended(self, key: str, process: Any, why: str) -> None:
        self.ctx.steps[key] = {
            "pk": None if process is None else process.pk,
            "uuid": None if process is None else process.uuid,
            "exit_status": None if process is None else process.exit_status, "problem": why,
        }
        kind, name = key.split("_", 1)
        self.report(f"{kind} {name}: {why or 'done'}")

    def summarise(self) -> ExitCode | None:
        """Store a summary of all steps; the exit message lists the failures."""
        results = {}
        for key, step in self.ctx.steps.items():
            if step["pk"] is not None and "result" in self.ctx[key].outputs:
                results[key] = self.ctx[key].outputs.result
        self.out("summary", study_summary(Dict(self.ctx.steps), **results))
        problems = "; ".join(f"{key.replace('_', ' ', 1)}: {step['problem'].rstrip('.')}"
                             for key, step in self.ctx.steps.items() if step["problem"])
        if not results:
            return self.exit_codes.ERROR_NOTHING_FINISHED.format(detail=problems)
        if problems:
            return self.exit_codes.ERROR_SOME_FAILED.format(detail=problems)
        return None

    @classmethod
    def check_inputs(cls, inputs: Any, _: Any = None) -> str | None:
        """Check the plan and the inputs of all steps without building models."""
        plan, samples = inputs["plan"].get_dict(), inputs.get("samples", {})
        left_out = inputs["left_out"].get_dict() if "left_out" in inputs else {}
        unknown = sorted(set(plan) - {"series", "maps", "compare"})
        if unknown:
            return f"plan: unknown key '{unknown[0]}'; the known keys are series, maps and compare."
        taken = set()
        for name, one in plan.get("series", {}).items():
            if one.get("kind") not in SERIES:
                return (f"plan.series.{name}.kind is '{one.get('kind')}'; it must be temperature "
                        "or size.")
            known = {*samples, *left_out}
            if missing := sorted(set(one["samples"]) - known):
                return f"plan.series.{name}.samples: there is no sample '{missing[0]}'."
            taken |= set(one["samples"])
            why = SERIES[one["kind"]].check_inputs({
                "members": {member: samples[member] for member in one["samples"]
                            if member in samples},
                "plan": Dict(one.get("options", {})),
                "left_out": Dict({k: v for k, v in left_out.items() if k in one["samples"]})})
            if why:
                return f"plan.series.{name}: {why}"
        for name in sorted(set(samples) - taken):
            if why := RefineCalculation.check_ports({**samples[name]}):
                return f"samples.{name}: {why}"
        for name, one in plan.get("maps", {}).items():
            if name not in inputs.get("maps", {}):
                return f"maps.{name}: the model document is missing."
            if one["sample"] not in samples:
                return f"plan.maps.{name}.sample: there is no sample '{one['sample']}'."
            why = ScanCalculation.check_ports(
                {**samples[one["sample"]], "model": inputs["maps"][name]})
            if why:
                return f"maps.{name}: {why}"
        return _check_comparisons(plan, samples, inputs)


def _check_comparisons(plan: Any, samples: Any, inputs: Any) -> str | None:
    for name, sample in plan.get("compare", {}).items():
        if sample not in samples:
            return f"plan.compare.{name}: there is no sample '{sample}'."
        if name not in inputs.get("compare", {}):
            return f"compare.{name}: the models are missing."
        own = inputs["compare"][name]
        common = {key: samples[sample][key] for key in ("pattern", "blanks")
                  if key in samples[sample]}
        why = check_comparison(
            {"models": own["models"], "structures": own["structures"], "refine": common})
        if why:
            return f"compare.{name}: {why}"
    return None


def _inputs_of(read: ReadStudy) -> dict[str, Any]:
    """The inputs that follow from a study document."""
    known, study = NodesByContent(), read.document
    plan: dict[str, Any] = {
        "series": {name: {"kind": one.kind, "samples": list(study.members_of(name)),
                          "options": one.options.model_dump(mode="json", exclude_unset=True)}
                   for name, one in study.series.items()},
        "maps": {name: {"sample": part.sample, **tiling(read.maps[name].built)}
                 for name, part in study.named_maps().items()},
        "compare": {name: part.sample for name, part in study.named_comparisons().items()},
    }
    inputs: dict[str, Any] = {
        "samples": {name: member_inputs(one, known) for name, one in read.samples.items()},
        "plan": Dict({key: value for key, value in plan.items() if value}),
    }
    if read.maps:
        inputs["maps"] = {name: model_node(one.content) for name, one in read.maps.items()}
    if read.compare:
        inputs["compare"] = {
            name: {"models": {model: model_node(one.content) for model, one in models.items()},
                   "structures": {model: known.each(dict(one.nodes.structures))
                                  for model, one in models.items()}}
            for name, models in read.compare.items()
        }
    if read.left_out:
        inputs["left_out"] = Dict(read.left_out)
    return inputs
