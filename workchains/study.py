"""dse.study: all samples, series, maps and comparisons of a study document in one submission."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiida.engine import ExitCode, ToContext, WorkChain, calcfunction, while_
from aiida.engine.processes.workchains.workchain import WorkChainSpec
from aiida.orm import CifData, Dict, Float, Int, SinglefileData, StructureData

from aiida_dse.calculations.engine import RefineCalculation, ScanCalculation, add_exits
from aiida_dse.data.grouping import put_into_group
from aiida_dse.data.options import speed_of
from aiida_dse.data.pattern import PatternData
from aiida_dse.data.studies import read_study, study_inputs
from aiida_dse.documents import StudyDocument
from aiida_dse.documents.status import PartsFailed
from aiida_dse.workchains.compare_models import CompareModelsWorkChain
from aiida_dse.workchains.grid_search import GridSearchWorkChain
from aiida_dse.workchains.members import MEMBER_INPUTS, for_any_task, sample_of, why_failed
from aiida_dse.workchains.protocol import DEFAULT, read_protocol, set_job, with_protocol
from aiida_dse.workchains.refine import RefineWorkChain, continued_model
from aiida_dse.workchains.size_series import SizeSeriesWorkChain
from aiida_dse.workchains.temperature_series import TemperatureSeriesWorkChain

SERIES = {"temperature": TemperatureSeriesWorkChain, "size": SizeSeriesWorkChain}
#: The kinds of steps in the order in which they run.
KINDS = ("sample", "series", "map", "compare")


@calcfunction
def study_summary(steps: Dict, **results: Any) -> Dict:
    """What a study found, by its parts; `results` are those of the steps as <kind>_<name>."""
    found: dict[str, Any] = {kind: {} for kind in KINDS}
    failures = {}
    for key, step in steps.get_dict().items():
        kind, name = key.split("_", 1)
        result = results.get(key)
        found[kind][name] = dict(step) if result is None else {
            **step, "result": result.uuid, **_numbers(kind, result.get_dict())}
        if step["problem"]:
            failures[key] = step["problem"]
    return Dict({"task": "study", "samples": found["sample"], "series": found["series"],
                 "maps": found["map"], "compare": found["compare"], "failures": failures})


def _numbers(kind: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a step that the summary of a study repeats."""
    if kind == "sample":
        return {key: result["agreement"][key] for key in ("gof", "r_wp")} | {
            "status": result["status"], "sample": result.get("sample", {})}
    if kind == "series":
        return {key: result.get(key, {}) for key in (
            "task", "phase", "used", "excluded", "numbers")} | {
            "disorder": [row["verdict"] for row in result.get("disorder", ())]}
    if kind == "map":
        return {key: result.get(key) for key in ("axes", "shape", "n_done", "minimum", "status")}
    return {"ranking": result["ranking"], "models": {
        name: {key: row[key] for key in ("gof", "r_wp", "bic")}
        for name, row in result["models"].items()}}


class StudyWorkChain(WorkChain):
    """Refine the samples of no series, then the series, the maps and the comparisons.

    Up to max_concurrent jobs run at a time. A step that fails is named; the rest goes on.
    """

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:  # type: ignore[override]
        super().define(spec)
        nodes = (Dict, PatternData, CifData, StructureData, SinglefileData)
        spec.expose_inputs(RefineCalculation, namespace="refine", exclude=MEMBER_INPUTS)
        spec.input_namespace(
            "samples", dynamic=True, valid_type=nodes,
            help="By name: 'model', 'pattern', 'structures' and 'blanks' as of dse.refine.",
        )
        spec.input("plan", valid_type=Dict, help=(
            "'series': {name: {kind, samples, options}}, 'maps': {name: {sample, "
            "seconds_per_point}}, 'compare': {name: sample}, all of them optional."))
        spec.input_namespace("maps", valid_type=Dict, dynamic=True, required=False,
                             help="Model documents with their 'scan' by map.")
        spec.input_namespace("compare", valid_type=nodes, dynamic=True, required=False,
                             help="By comparison: 'models' and 'structures' by model.")
        spec.input("left_out", valid_type=Dict, required=False,
                   help="Members of series that could not be read, by name, with the reason.")
        spec.input("max_concurrent", valid_type=Int, default=lambda: Int(2),
                   help="Jobs that run at the same time.")
        spec.input("max_iterations", valid_type=Int, default=lambda: Int(5),
                   help="Jobs of one refinement: the first and its restarts.")
        spec.input("tile_seconds", valid_type=Float, default=lambda: Float(60.0),
                   help="Aimed duration of a tile of a map.")
        spec.inputs.validator = cls._check
        spec.outline(
            cls.start,
            while_(cls.steps_left)(cls.run_steps, cls.inspect_steps),
            cls.summarise,
        )
        spec.output("summary", valid_type=Dict, help="Every step with its outcome and numbers.")
        spec.default_output_node = "summary"
        add_exits(spec, PartsFailed.NOTHING_FINISHED, PartsFailed.SOME_FAILED)

    @classmethod
    def get_builder_from_protocol(
        cls, code: Any, document: StudyDocument, folder: Path, protocol: str = DEFAULT,
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """A builder for a study document whose files are named as seen from `folder`.

        What the models do not say themselves, the protocol does. Raises DocumentError.
        """
        settings = read_protocol(protocol, overrides)
        read = read_study(document, folder, lambda model: with_protocol(model, settings))
        builder = cls.get_builder()
        set_job(builder.refine, code, settings)
        for name, value in study_inputs(document, read, speed_of(builder.refine.code)).items():
            setattr(builder, name, value)
        builder.max_concurrent = Int(settings["max_concurrent"])
        builder.max_iterations = Int(settings["max_iterations"])
        builder.tile_seconds = Float(settings["tile_seconds"])
        builder.metadata.label = document.name
        return builder

    def start(self) -> None:
        plan = self.inputs.plan.get_dict()
        series = plan.get("series", {})
        taken = {name for one in series.values() for name in one["samples"]}
        alone = [name for name in sorted(self.inputs.samples) if name not in taken]
        parts = {"sample": alone, "series": series, "map": plan.get("maps", {}),
                 "compare": plan.get("compare", {})}
        self.ctx.waiting = [f"{kind}_{name}" for kind in KINDS for name in parts[kind]]
        self.ctx.steps = {}
        self.ctx.refined = {}  # sample: uuid of its result
        if self.node.label:
            put_into_group("study", self.node.label, [self.node])
        self.report(f"{len(alone)} samples alone, {len(series)} series, {len(parts['map'])} maps, "
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
                inputs["metadata"] = {"call_link_label": key, "label": name}
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
        return RefineWorkChain, {"refine": self._job(name),
                                 "max_iterations": self.inputs.max_iterations}

    def _series_inputs(self, name: str) -> tuple[Any, dict[str, Any]]:
        one = self.inputs.plan.get_dict()["series"][name]
        left_out = self.inputs.left_out.get_dict() if "left_out" in self.inputs else {}
        own = {member: why for member, why in left_out.items() if member in one["samples"]}
        inputs = {
            "refine": self.exposed_inputs(RefineCalculation, "refine"),
            "members": {member: dict(self.inputs.samples[member]) for member in one["samples"]
                        if member in self.inputs.samples},
            "options": Dict(one.get("options", {})),
            "max_concurrent": self.inputs.max_concurrent,
            "max_iterations": self.inputs.max_iterations,
        }
        return SERIES[one["kind"]], inputs | ({"left_out": Dict(own)} if own else {})

    def _map_inputs(self, name: str) -> tuple[Any, dict[str, Any]]:
        one = self.inputs.plan.get_dict()["maps"][name]
        job = for_any_task(self._job(one["sample"]))
        job["model"] = continued_model(self.inputs.maps[name], self._refined(one["sample"]))
        inputs = {"scan": job, "max_concurrent": self.inputs.max_concurrent,
                  "tile_seconds": self.inputs.tile_seconds}
        if "seconds_per_point" in one:
            inputs["seconds_per_point"] = Float(one["seconds_per_point"])
        return GridSearchWorkChain, inputs

    def _compare_inputs(self, name: str) -> tuple[Any, dict[str, Any]]:
        job = self._job(self.inputs.plan.get_dict()["compare"][name])
        del job["model"], job["structures"]
        own = self.inputs.compare[name]
        return CompareModelsWorkChain, {
            "refine": job, "models": dict(own["models"]),
            "structures": {model: dict(nodes) for model, nodes in own["structures"].items()},
            "max_concurrent": self.inputs.max_concurrent,
        }

    def _job(self, sample: str) -> dict[str, Any]:
        job: dict[str, Any] = self.exposed_inputs(RefineCalculation, "refine")
        if sample not in self.inputs.samples:
            raise ValueError(f"the sample {sample} could not be read")
        return {**job, **self.inputs.samples[sample]}

    def _refined(self, sample: str) -> Dict:
        from aiida.orm import load_node

        if sample not in self.ctx.refined:
            raise ValueError(f"the sample {sample} was not refined, so there is nothing to start "
                             "from")
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
        """One node with the numbers of every step; name what failed."""
        results = {}
        for key, step in self.ctx.steps.items():
            if step["pk"] is not None and "result" in self.ctx[key].outputs:
                results[key] = self.ctx[key].outputs.result
        self.out("summary", study_summary(Dict(self.ctx.steps), **results))
        told = "; ".join(f"{key.replace('_', ' ', 1)}: {step['problem'].rstrip('.')}"
                         for key, step in self.ctx.steps.items() if step["problem"])
        if not results:
            return self.exit_codes.ERROR_NOTHING_FINISHED.format(detail=told)
        if told:
            return self.exit_codes.ERROR_SOME_FAILED.format(detail=told)
        return None

    @classmethod
    def _check(cls, inputs: Any, _: Any) -> str | None:
        """Every step is checked as it would be, before anything is submitted."""
        plan, samples = inputs["plan"].get_dict(), inputs.get("samples", {})
        left_out = inputs["left_out"].get_dict() if "left_out" in inputs else {}
        common = {"max_concurrent": inputs["max_concurrent"],
                  "max_iterations": inputs["max_iterations"]}
        unknown = sorted(set(plan) - {"series", "maps", "compare"})
        if unknown:
            return f"plan: unknown key '{unknown[0]}'; known keys: series, maps, compare."
        taken = set()
        for name, one in plan.get("series", {}).items():
            if one.get("kind") not in SERIES:
                return f"plan.series.{name}.kind: '{one.get('kind')}'; it is temperature or size."
            known = {*samples, *left_out}
            if missing := sorted(set(one["samples"]) - known):
                return f"plan.series.{name}.samples: no sample is called '{missing[0]}'."
            taken |= set(one["samples"])
            why = SERIES[one["kind"]]._check(common | {
                "members": {member: samples[member] for member in one["samples"]
                            if member in samples},
                "options": Dict(one.get("options", {})),
                "left_out": Dict({k: v for k, v in left_out.items() if k in one["samples"]}),
                "refine": inputs.get("refine", {})}, None)
            if why:
                return f"plan.series.{name}: {why}"
        for name in sorted(set(samples) - taken):
            if why := RefineCalculation._check({**samples[name]}, None):
                return f"samples.{name}: {why}"
        for name, one in plan.get("maps", {}).items():
            if name not in inputs.get("maps", {}):
                return f"maps.{name}: its model document is missing."
            if one["sample"] not in samples:
                return f"plan.maps.{name}.sample: no sample is called '{one['sample']}'."
            why = ScanCalculation._check(
                {**samples[one["sample"]], "model": inputs["maps"][name]}, None)
            if why:
                return f"maps.{name}: {why}"
        return _check_comparisons(plan, samples, inputs)


def _check_comparisons(plan: Any, samples: Any, inputs: Any) -> str | None:
    from aiida_dse.workchains.compare_models import _check

    for name, sample in plan.get("compare", {}).items():
        if sample not in samples:
            return f"plan.compare.{name}: no sample is called '{sample}'."
        if name not in inputs.get("compare", {}):
            return f"compare.{name}: its models are missing."
        own = inputs["compare"][name]
        common = {key: samples[sample][key] for key in ("pattern", "blanks")
                  if key in samples[sample]}
        why = _check({"models": own["models"], "structures": own["structures"], "refine": common,
                      "max_concurrent": inputs["max_concurrent"]}, None)
        if why:
            return f"compare.{name}: {why}"
    return None
