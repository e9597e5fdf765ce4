"""Series of a small salt at several temperatures, from its members to exit codes and groups."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from aiida.engine import submit
from aiida.orm import CalcJobNode, Dict, Group, Int, Node, QueryBuilder
from aiida.plugins import WorkflowFactory

from aiida_dse.data.jobs import job_document, nodes_of_document
from aiida_dse.data.results import summary_from_node
from aiida_dse.documents import load_document
from aiida_dse.documents.status import EXITS, PartsFailed
from aiida_dse.workchains.members import poor_fits
from aiida_dse.workchains.temperature_series import TemperatureSeriesWorkChain

TEMPERATURES = (100.0, 200.0, 300.0, 400.0)
STAGES = {"stages": [["salt.a", "salt.*.B_iso"]]}


#: What the shell of a code does to lose the job of one member.
LOSE = "if grep -q '\"title\": \"{}\"' model.json; then echo lost >&2; exit 1; fi"


def truth_at(temperature):
    return {"salt.a": 4.11 + 4e-5 * temperature, "salt.Cs1.B_iso": 0.3 + 0.005 * temperature,
            "salt.Cl_a.B_iso": 0.5 + 0.006 * temperature}


@pytest.fixture(scope="module")
def members(write_case, pattern_of, tmp_path_factory):
    """The salt at four temperatures: T100 ... T400, with stored data."""
    found = {}
    for k, temperature in enumerate(TEMPERATURES):
        name = f"T{temperature:.0f}"
        path = write_case(
            tmp_path_factory.mktemp(name),
            {"sample": {"name": f"salt {name}", "ligand": "oleate", "temperature": temperature},
             "refinement": STAGES},
            pattern=pattern_of(truth_at(temperature), k + 20),
        )
        member = member_of(path)
        if found:
            member["structures"] = next(iter(found.values()))["structures"]
        for node in (member["pattern"], *member["structures"].values()):
            node.store()
        found[name] = member
    return found


def member_of(path):
    document = load_document(path)
    nodes = nodes_of_document(document, path.parent)
    return {"model": Dict(job_document(document, nodes)), **nodes.inputs()}


def changed(member, **sections):
    return member | {"model": Dict(copy.deepcopy(member["model"].get_dict()) | sections)}


def inputs_of(members, code, plan=None, **more):
    """One thread for every job: two of them share two cores."""
    return {
        "members": {name: dict(member) for name, member in members.items()},
        "plan": Dict(plan or {}), "max_concurrent": Int(2), "max_iterations": Int(2),
        "refine": {"code": code, "threads": 1},
    } | more


@pytest.fixture(scope="module")
def three(members):
    return {name: members[name] for name in ("T100", "T200", "T300")}


@pytest.fixture(scope="module")
def independent(started, three, code):
    simultaneous = {"shared": [], "parametric_constraints": {
        "salt.a": "global.a0 * (1 + global.alpha * sample.temperature)"},
             "parameters": {"global.a0": 4.1, "global.alpha": 1e-5}}
    return submit(TemperatureSeriesWorkChain, **inputs_of(
        three, code, {"simultaneous": simultaneous}, metadata={"label": "salt cooling"}))


def jobs_of(node):
    return [job for job in node.called_descendants if isinstance(job, CalcJobNode)]


def executed(node):
    return [job for job in jobs_of(node) if not job.base.caching.is_created_from_cache]


def test_the_plugins_are_found_by_their_names():
    assert WorkflowFactory("dse.temperature_series") is TemperatureSeriesWorkChain
    assert WorkflowFactory("dse.size_series").KIND == "size"


def test_an_independent_series_finds_what_the_patterns_were_made_with(independent, finish):
    node = finish(independent)
    assert node.is_finished_ok, node.exit_message
    table, result = node.outputs.table.get_dict(), node.outputs.result.get_dict()
    assert list(table["rows"]) == ["T100", "T200", "T300"]
    for name, row in table["rows"].items():
        a = row["quantities"]["a"]
        assert abs(a["value"] - truth_at(row["temperature"])["salt.a"]) < 4 * a["su_scaled"]
        # sample metadata travel from the pattern to the row
        sample = {"name": f"salt {name}", "ligand": "oleate", "temperature": row["temperature"]}
        assert row["sample"] | sample == row["sample"]
    alpha = result["numbers"]["thermal_expansion_a"]
    assert abs(alpha["value"] - 4e-5 / (4.11 + 0.012)) < 4 * alpha["su_scaled"]
    assert node.outputs.result.creator.process_label == "temperature_series"


def test_a_joint_refinement_follows_from_the_single_ones(independent, finish):
    node = finish(independent)
    simultaneous = node.outputs.simultaneous.result.get_dict()
    row = simultaneous["parameters"]["global"]["a0"]
    assert abs(row["value"] - 4.11) < 4 * row["su"]
    (job,) = [job for job in jobs_of(node) if job.process_label == "SimultaneousCalculation"]
    start = job.inputs.model.get_dict()["patterns"]["T100"]["parameters"]["salt.Cs1.B_iso"]["value"]
    assert start == node.outputs.refined.T100["parameters"]["salt"]["Cs1"]["B_iso"]["value"]
    assert job.inputs.model.creator.process_label == "simultaneous_model"


def test_series_and_samples_are_in_groups(independent, finish):
    node = finish(independent)
    found = Group.collection.get(label="dse/series/salt cooling").nodes
    assert [one.pk for one in found] == [node.pk]
    assert Group.collection.get(label="dse/series/salt cooling").description
    (refinement,) = Group.collection.get(label="dse/sample/salt T200").nodes
    assert refinement.label == "T200"


def test_a_temperature_more_costs_one_job(independent, finish, members, code):
    finish(independent)
    node = finish(submit(TemperatureSeriesWorkChain, **inputs_of(members, code)))
    assert node.is_finished_ok, node.exit_message
    assert len(jobs_of(node)) == 4
    (new,) = executed(node)
    assert new.caller.label == "T400"
    assert len(node.outputs.result["used"]) == 4


def test_a_sequential_series_goes_outward_and_finds_the_same(independent, finish, three, code):
    first = finish(independent)
    node = finish(submit(TemperatureSeriesWorkChain, **inputs_of(
        three, code, {"mode": "sequential", "anchor": "T200"})))
    assert node.is_finished_ok, node.exit_message
    middle = node.outputs.refined.T200["parameters"]["salt"]["a"]["value"]
    for name in ("T100", "T300"):
        (job,) = [job for job in jobs_of(node) if job.caller.label == name]
        assert job.inputs.model.get_dict()["parameters"]["salt.a"]["value"] == middle
        assert job.inputs.model.creator.process_label == "continued_model"
    for name in three:
        rows = summary_from_node(node.outputs.refined[name]).parameters
        for parameter, row in summary_from_node(first.outputs.refined[name]).parameters.items():
            other = rows[parameter].value
            assert abs(other - row.value) < 0.1 * (row.su or 1e-9), (name, parameter)


def test_what_fails_or_fits_poorly_is_named_and_the_rest_finish(
    started, members, make_code, finish
):
    """T100 has three points, T200's job is lost, the particle of hot is wrong, T050 has no file."""
    code = make_code("lossy", LOSE.format("T200"))
    broken = {
        "T100": without_points(members["T100"]),
        "T200": members["T200"],
        "T300": members["T300"], "T400": members["T400"],
        "hot": changed(members["T400"], sample={"name": "hot", "temperature": 500.0},
                       phases={"salt": {"structure": "CsCl.cif", "particle": {
                           "shape": "parallelepiped", "cells": [9, 1, 1]}}}),
    }
    node = finish(submit(TemperatureSeriesWorkChain, **inputs_of(
        broken, code, {"mode": "sequential", "anchor": "T300"},
        left_out=Dict({"T050": "there is no such file"}))))
    assert node.exit_status == EXITS[PartsFailed.SOME_FAILED].number
    for name, why in (("T100", "points"), ("T200", "lost"), ("hot", "the model does not describe"),
                      ("T050", "no such file")):
        assert f"{name}: " in node.exit_message and why in node.exit_message, node.exit_message
    result = node.outputs.result.get_dict()
    assert result["used"] == ["T300", "T400"] and list(result["excluded"]) == ["hot"]


def test_a_series_stops_at_a_failure_where_it_is_to_stop(started, members, make_code, finish):
    code = make_code("stopping", LOSE.format("T100"))
    broken = {name: members[name] for name in ("T100", "T200", "T300")}
    node = finish(submit(TemperatureSeriesWorkChain, **inputs_of(
        broken, code, {"mode": "sequential", "anchor": "T100", "on_failure": "stop"})))
    assert node.exit_status == EXITS[PartsFailed.NOTHING_FINISHED].number
    assert "T100: " in node.exit_message and "T300: not started" in node.exit_message
    assert {job.caller.label for job in jobs_of(node)} == {"T100"}


def without_points(member):
    """A member whose document leaves three points of the pattern."""
    pattern = {**member["model"]["pattern"], "range": [4.0, 4.6]}
    return changed(member, pattern=pattern)


@pytest.mark.parametrize(("plan", "message"), [
    ({"mode": "sideways"}, "mode"),
    ({"anchor": "T100"}, "sequential"),
    ({"mode": "sequential", "anchor": "T999"}, "T999"),
    ({"analysis": {"exclude": ["T9"]}}, "T9"),
    ({"analysis": {"refrence": 3}}, "unknown key"),
])
def test_a_bad_plan_is_refused(three, code, plan, message):
    before = QueryBuilder().append(Node).count()
    with pytest.raises(ValueError, match=message):
        submit(TemperatureSeriesWorkChain, **inputs_of(three, code, plan))
    with pytest.raises(ValueError, match=message):
        TemperatureSeriesWorkChain.get_builder_from_protocol(code, three, plan)
    assert QueryBuilder().append(Node).count() == before


@pytest.mark.parametrize(("plan", "message"), [
    ({"simultaneous": {"shared": ["salt.q"]}}, "plan.simultaneous: "),
    ({"on_failure": "stop"}, "members.T100: "),
])
def test_what_cannot_run_has_no_builder(three, code, plan, message):
    members = three if "simultaneous" in plan else three | {"T100": without_points(three["T100"])}
    before = QueryBuilder().append(Node).count()
    with pytest.raises(ValueError, match=message):
        TemperatureSeriesWorkChain.get_builder_from_protocol(code, members, plan)
    assert QueryBuilder().append(Node).count() == before


def test_a_member_that_cannot_run_is_left_out_by_the_builder(three, code):
    members = three | {"T100": without_points(three["T100"])}
    builder = TemperatureSeriesWorkChain.get_builder_from_protocol(code, members)
    assert sorted(builder.members) == ["T200", "T300"]
    assert "points" in builder.left_out["T100"]


def test_results_know_their_role(independent, finish):
    node = finish(independent)
    for result in node.outputs.refined.values():
        assert result.base.extras.get("role") == "member"
        assert result.base.extras.get("part_of") == "salt cooling"


def test_a_member_needs_its_temperature(three, code, write_case, tmp_path):
    path = write_case(tmp_path, {"sample": {"name": "T1"}})
    members = three | {"T1": member_of(path)}
    with pytest.raises(ValueError, match="temperature is not known"):
        submit(TemperatureSeriesWorkChain, **inputs_of(members, code))


def test_a_fit_far_worse_than_the_others_is_hopeless():
    assert poor_fits({"a": 1.0, "b": 1.1, "c": 9.0}).keys() == {"c"}
    assert poor_fits({"a": 4.0, "b": 5.0, "c": 6.0}) == {}  # real data: all are somewhat off
    assert poor_fits({"a": 1.0, "b": 9.0}).keys() == {"b"}
    assert poor_fits({"a": 0.3, "b": 1.2}) == {} and poor_fits({}) == {}
    assert poor_fits(dict.fromkeys("abc", np.float64(30.0))) == {}
