"""Base class of series: refinement of all members, analysis, simultaneous refinement."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from aiida.engine import ExitCode, ToContext, WorkChain, if_, while_
from aiida.orm import CifData, Dict, SinglefileData, StructureData, to_aiida_type

from aiida_dse.calculations.documents import continued_model, simultaneous_model
from aiida_dse.calculations.engine import RefineCalculation, SimultaneousCalculation, add_exits
from aiida_dse.data.grouping import put_into_group
from aiida_dse.data.jobs import CheckedModel, model_node
from aiida_dse.data.pattern import PatternData
from aiida_dse.data.results import summary_from_node
from aiida_dse.data.roles import MEMBER, set_role
from aiida_dse.data.same_content import NodesByContent
from aiida_dse.documents.continuation import simultaneous_document_of
from aiida_dse.documents.series_results import SeriesSummary
from aiida_dse.documents.status import EXITS, PartsFailed, Status
from aiida_dse.documents.study import SeriesPlan, SeriesSimultaneous, parse_plan
from aiida_dse.workchains.members import (
    MEMBER_INPUTS,
    for_any_task,
    member_inputs,
    nodes_of_member,
    poor_fits,
    problem_of,
    sample_of,
    simultaneous_data,
)
from aiida_dse.workchains.ports import (
    define_clean_workdir,
    define_count,
    define_iterations,
)
from aiida_dse.workchains.protocol import ProtocolMixin
from aiida_dse.workchains.refine import RefineWorkChain, SimultaneousWorkChain
from aiida_dse.workchains.remedies import why_failed

#: Exit statuses of refinements that reached a minimum.
MINIMUM_EXITS = tuple(EXITS[status].number for status in Status if status.is_minimum)


class SeriesWorkChain(ProtocolMixin, WorkChain):
    """Refine all members with dse.refine, and analyse those with a result.

    Up to max_concurrent members are refined at a time. A sequential series proceeds from its anchor
    in both directions; every member starts from the values of the nearest preceding member with a
    good fit. Failures are listed in the report and in the exit message.
    """

    NAMESPACE = "refine"
    SIDE_BY_SIDE = True
    #: 'temperature' or 'size'.
    KIND: ClassVar[str] = ""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.expose_inputs(RefineCalculation, namespace="refine", exclude=MEMBER_INPUTS)
        spec.input_namespace(
            "members", dynamic=True,
            valid_type=(Dict, PatternData, CifData, StructureData, SinglefileData),
            help="Inputs 'model', 'pattern', 'structures' and 'blanks' of dse.refine, by member.",
        )
        spec.input("plan", valid_type=Dict, serializer=to_aiida_type, default=lambda: Dict({}),
                   help=(
                       "Settings 'mode', 'anchor', 'on_failure', 'analysis' and 'simultaneous', "
                       "as in a study document."))
        spec.input("left_out", valid_type=Dict, serializer=to_aiida_type, required=False,
                   help="Reasons why members cannot be refined, by member.")
        define_count(spec, "max_concurrent", 2, "Maximum number of concurrent refinements.")
        define_iterations(spec)
        define_clean_workdir(spec)
        spec.inputs.validator = cls.check_inputs
        spec.outline(
            cls.start,
            while_(cls.members_left)(cls.refine_members, cls.inspect_members),  # type: ignore[arg-type]
            cls.analyse,
            if_(cls.simultaneous_wanted)(cls.refine_simultaneously, cls.inspect_simultaneous),  # type: ignore[arg-type]
            cls.conclude,
        )
        spec.output("table", valid_type=Dict, required=False,
                    help="Quantities of all members with their s.u.")
        spec.output("result", valid_type=Dict, required=False,
                    help="Numerical results of the analysis.")
        spec.output("arrays", valid_type=SinglefileData, required=False,
                    help="Columns of the table, covariances and curves, as HDF5.")
        spec.output_namespace("refined", valid_type=Dict, dynamic=True,
                              help="Results of the refinements, by member.")
        spec.expose_outputs(SimultaneousWorkChain, namespace="simultaneous",
                            namespace_options={"required": False})
        spec.default_output_node = "result"
        add_exits(spec, *PartsFailed)

    @classmethod
    def get_builder_from_protocol(
        cls, code: Any, members: Mapping[str, Mapping[str, Any] | CheckedModel],
        plan: Mapping[str, Any] | None = None, protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None, *,
        threads: int | None = None, label: str | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> Any:
        """A builder for members, as {name: {model, pattern, structures, blanks}}.

        plan: a SeriesPlan as a mapping. Every member is checked in full. A member that cannot run
        is left out if the series skips failures; otherwise ValueError is raised. The other
        arguments are those of `dse.refine`.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        read = parse_plan(dict(plan or {}), cls.KIND, (*members, *(left_out or {})))
        checked, wrong = {}, {}
        for name, member in members.items():
            try:
                checked[name] = member if isinstance(member, CheckedModel) else \
                    RefineWorkChain.checked(member["model"], nodes_of_member(member), protocol,
                                            overrides)
            except ValueError as problem:
                wrong[name] = str(problem)
        if wrong and (read.on_failure == "stop" or len(checked) < 2):
            raise ValueError("\n".join(f"members.{name}: {why}" for name, why in wrong.items()))
        if read.simultaneous is not None:
            cls._check_simultaneous(read.simultaneous, checked)
        builder: Any = cls.get_builder()
        cls.set_job(builder.refine, code, inputs, overrides, options, threads)
        cls.set_chain(builder, inputs)
        known = NodesByContent()
        builder.members = {name: member_inputs(one, known) for name, one in checked.items()}
        builder.plan = Dict(dict(plan or {}))
        if wrong or left_out:
            builder.left_out = Dict({**(left_out or {}), **wrong})
        cls.set_names(builder, label, label or "", protocol)
        return builder

    @classmethod
    def _check_simultaneous(
        cls, plan: SeriesSimultaneous, members: Mapping[str, CheckedModel]
    ) -> None:
        """Raise ValueError if the members cannot be refined simultaneously."""
        content = simultaneous_document_of(
            plan.model_dump(mode="json", exclude_unset=True),
            {name: one.content for name, one in members.items()})
        first = next(iter(members.values())).nodes
        try:
            SimultaneousWorkChain.checked_patterns(
                content, {name: one.nodes.pattern for name, one in members.items()}, first)
        except ValueError as problem:
            raise ValueError(f"plan.simultaneous: {problem}") from None

    @classmethod
    @abstractmethod
    def analysis(cls) -> Any:
        """The calcfunction that returns table, result and arrays."""

    @classmethod
    @abstractmethod
    def order(cls, members: Mapping[str, Any]) -> list[str]:
        """The members in the order of the series. Raises ValueError if the order is undefined."""

    @property
    def plan(self) -> SeriesPlan:
        return parse_plan(self.inputs.plan.get_dict(), self.KIND, self._named)

    @property
    def _named(self) -> tuple[str, ...]:
        """All members, including those left out."""
        return (*self.inputs.members, *self._left_out)

    @property
    def _left_out(self) -> dict[str, str]:
        return self.inputs.left_out.get_dict() if "left_out" in self.inputs else {}

    def start(self) -> None:
        self.ctx.order = self.order(self.inputs.members)
        self.ctx.waiting = list(self.ctx.order)
        self.ctx.failures = {}
        self.ctx.ended = []  # with a result
        self.ctx.gofs = {}  # of members that reached a minimum
        if self.node.label:
            put_into_group("series", self.node.label, [self.node])
        self.report(f"{len(self.ctx.order)} members, {self.plan.mode}: "
                    f"{', '.join(self.ctx.order)}")
        for name, why in self._left_out.items():
            self._failed(name, why)

    def members_left(self) -> bool:
        if self.ctx.failures and self.plan.on_failure == "stop":
            for name in self.ctx.waiting:
                self.ctx.failures[name] = (
                    "not started, because the series stops at the first failure")
            self.ctx.waiting = []
        return bool(self.ctx.waiting)

    def refine_members(self) -> ToContext:
        """Submit the next refinements."""
        self.ctx.running = self._next()
        running = {}
        for name in list(self.ctx.running):
            self.ctx.waiting.remove(name)
            try:
                running[f"member_{name}"] = self._submitted(name)
            except ValueError as problem:
                self.ctx.running.remove(name)
                # omit the location of the nested port, which is of no use to the user
                self._failed(name, re.sub(r"^Error occurred validating port '[^']*': ", "",
                                          str(problem)))
        return ToContext(**running)

    def _submitted(self, name: str) -> Any:
        inputs = self.exposed_inputs(RefineCalculation, "refine")
        inputs.update(self.inputs.members[name])
        neighbour = self._neighbour(name)
        if neighbour is not None:
            inputs["model"] = continued_model(
                inputs["model"], self.ctx[f"member_{neighbour}"].outputs.result)
            self.report(f"{name} starts from the refined values of {neighbour}")
        node = self.submit(
            RefineWorkChain, refine=inputs, max_iterations=self.inputs.max_iterations,
            clean_workdir=self.inputs.clean_workdir,
            metadata={"call_link_label": f"refine_{name}", "label": name,
                      "description": f"Member of: {self.node.description or self.NOUN}"},
        )
        put_into_group("sample", sample_of(self.inputs.members[name]).get("name") or name, [node])
        return node

    def _next(self) -> list[str]:
        """The members that can be submitted now."""
        waiting, count = self.ctx.waiting, self.inputs.max_concurrent.value
        if self.plan.mode == "independent":
            return waiting[:count]
        at = self._anchor
        if self.ctx.order[at] in waiting:
            return [self.ctx.order[at]]
        sides = ([name for name in reversed(self.ctx.order[:at]) if name in waiting],
                 [name for name in self.ctx.order[at + 1:] if name in waiting])
        return [side[0] for side in sides if side][:count]

    @property
    def _anchor(self) -> int:
        """The position of the anchor of a sequential series; by default, the last member."""
        wanted = self.plan.anchor
        order = self.ctx.order
        return order.index(wanted) if wanted in order else len(order) - 1

    def _neighbour(self, name: str) -> str | None:
        """The nearest member towards the anchor with a good fit, which provides starting values."""
        if self.plan.mode == "independent":
            return None
        at, order = self._anchor, self.ctx.order
        place = order.index(name)
        between = order[at:place][::-1] if place > at else order[place + 1:at + 1]
        good = set(self.ctx.gofs) - set(poor_fits(self.ctx.gofs))
        return next((other for other in between if other in good), None)

    def inspect_members(self) -> None:
        """Collect the members with a result, and record why the others failed."""
        for name in self.ctx.running:
            process = self.ctx[f"member_{name}"]
            why = why_failed(process)
            if "result" in process.outputs and "arrays" in process.outputs:
                self.ctx.ended.append(name)
                self.out(f"refined.{name}", process.outputs.result)
                set_role(process.outputs.result, MEMBER, self.node)
                gof = process.outputs.result["agreement"]["gof"]
                if process.exit_status in MINIMUM_EXITS:
                    self.ctx.gofs[name] = gof
                    self.report(f"{name}: GoF {gof:.4f}"
                                + (f" ({why})" if process.exit_status else ""))
                    continue
            self._failed(name, why)

    def _failed(self, name: str, why: str) -> None:
        self.ctx.failures[name] = " ".join(why.split())
        self.report(f"{name} failed: {why}")

    def analyse(self) -> ExitCode | None:
        """Analyse the members with a good fit; poor fits are recorded as failures."""
        self.ctx.problem = None
        if not self.ctx.gofs:
            return self.exit_codes.ERROR_NOTHING_FINISHED.format(detail=self._account())
        options = dict(self.plan.analysis)
        own = set(options.get("exclude", ()))
        excluded = {name for name in own if name in self.ctx.ended}
        if options.get("max_gof") is None:
            for name, why in poor_fits(self.ctx.gofs).items():
                if name not in own:
                    self._failed(name, why)
                    excluded.add(name)
        used = self._of_the_phase(options.get("phase"))
        options["exclude"] = sorted(excluded & set(used))
        options.setdefault("title", self.node.label)
        nodes: dict[str, Any] = {}
        for name in used:
            outputs = self.ctx[f"member_{name}"].outputs
            nodes |= {f"{name}_result": outputs.result, f"{name}_arrays": outputs.arrays}
        try:
            found = self.analysis()(options=Dict(options), **nodes)
        except ValueError as problem:
            self.ctx.problem = " ".join(str(problem).split())
            self.report(f"the analysis failed: {problem}")
            return None
        for key in ("table", "result", "arrays"):
            self.out(key, found[key])
        summary = summary_from_node(found["result"])
        assert isinstance(summary, SeriesSummary)
        for name, why in summary.excluded.items():
            if name not in own and name not in self.ctx.failures:
                self._failed(name, why)
        self.report(self.account_of(summary))
        return None

    def account_of(self, summary: SeriesSummary) -> str:
        """A summary of the analysis in one line."""
        return f"{len(summary.used)} of {len(summary.refinements)} members were used"

    def _of_the_phase(self, phase: str | None) -> list[str]:
        """The members that contain the phase of the series; the others are recorded as failed."""
        phases = {name: self.ctx[f"member_{name}"].outputs.result["phases"]
                  for name in self.ctx.ended}
        if phase is None:
            counted = [one for names in phases.values() for one in names]
            phase = max(dict.fromkeys(counted), key=counted.count)
            if len({tuple(names) for names in phases.values()}) == 1:
                return list(phases)
        for name, names in phases.items():
            if phase not in names and name not in self.ctx.failures:
                self._failed(name, f"it does not contain the phase '{phase}' (phases: "
                                   f"{', '.join(names)})")
        return [name for name, names in phases.items() if phase in names]

    def simultaneous_wanted(self) -> bool:
        return self.plan.simultaneous is not None

    def refine_simultaneously(self) -> ToContext:
        """Submit a simultaneous refinement of all good members, starting from their last values."""
        good = [name for name in self.ctx.order
                if name in self.ctx.gofs and name not in self.ctx.failures]
        members = {name: self.inputs.members[name] for name in good}
        nodes = {f"{name}_model": member["model"] for name, member in members.items()}
        nodes |= {f"{name}_result": self.ctx[f"member_{name}"].outputs.result for name in good}
        plan = self.plan.simultaneous
        assert plan is not None
        try:
            document = simultaneous_model(
                Dict(plan.model_dump(mode="json", exclude_unset=True)), **nodes)
            inputs = for_any_task(self.exposed_inputs(RefineCalculation, "refine"))
            return ToContext(simultaneous=self.submit(
                SimultaneousWorkChain,
                simultaneous=inputs | simultaneous_data(members) | {"model": document},
                max_iterations=self.inputs.max_iterations,
                clean_workdir=self.inputs.clean_workdir,
                metadata={"call_link_label": "simultaneous", "label": self.node.label},
            ))
        except ValueError as problem:
            self.ctx.simultaneous_problem = " ".join(str(problem).split())
            return ToContext()

    def inspect_simultaneous(self) -> None:
        process = self.ctx.get("simultaneous")
        if process is None:
            self.report("the simultaneous refinement was not started: "
                        f"{self.ctx.simultaneous_problem}")
            return
        self.out_many(self.exposed_outputs(
            process, SimultaneousWorkChain, namespace="simultaneous"))
        if "result" in process.outputs:
            gof = process.outputs.result["agreement"]["gof"]
            self.report(f"simultaneous refinement: GoF {gof:.4f}")
        if process.exit_status not in MINIMUM_EXITS:
            self.ctx.simultaneous_problem = why_failed(process)

    def conclude(self) -> ExitCode | None:
        """Return an exit code whose message lists the failures."""
        codes = self.exit_codes
        if self.ctx.problem:
            return codes.ERROR_NO_ANALYSIS.format(detail=self._account(self.ctx.problem))
        if self.ctx.get("simultaneous_problem"):
            return codes.ERROR_SIMULTANEOUS_FAILED.format(
                detail=self._account(self.ctx.simultaneous_problem))
        if self.ctx.failures:
            return codes.ERROR_SOME_FAILED.format(detail=self._account())
        return None

    def _account(self, *problems: str) -> str:
        """Problems of the series and failures of its members in one line."""
        failures = (f"{name}: {why}" for name, why in self.ctx.failures.items())
        return "; ".join(part.rstrip(".") for part in (*problems, *failures))

    @classmethod
    def check_inputs(cls, inputs: Any, _: Any = None) -> str | None:
        """Check the plan and the inputs of all members without building models."""
        members = inputs.get("members", {})
        left_out = inputs["left_out"].get_dict() if "left_out" in inputs else {}
        if len(members) < 2:
            return (f"'members' contains {len(members)} members that can run; a series requires at "
                    "least two.")
        try:
            plan = parse_plan(inputs["plan"].get_dict(), cls.KIND, (*members, *left_out))
            problems = {name: problem_of(name, member) for name, member in members.items()}
            wrong = {name: why for name, why in problems.items() if why}
            if wrong and (plan.on_failure == "stop" or len(members) - len(wrong) < 2):
                return "\n".join(f"members.{name}: {why}" for name, why in wrong.items())
            cls.order(members)
            if plan.simultaneous is not None:
                good = {name: members[name] for name in members if name not in wrong}
                content = simultaneous_document_of(
                    plan.simultaneous.model_dump(mode="json", exclude_unset=True),
                    {name: member["model"].get_dict() for name, member in good.items()})
                why = SimultaneousCalculation.check_ports(
                    {"model": model_node(content), **simultaneous_data(good)})
                return why and f"plan.simultaneous: {why}"
        except ValueError as problem:
            return str(problem)
        return None
