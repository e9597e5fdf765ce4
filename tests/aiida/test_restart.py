"""The restart work chains: what becomes of every known end of a job."""

from __future__ import annotations

import copy
import io
import json

import numpy as np
import pytest
import yaml
from aiida.common import LinkType
from aiida.engine import submit
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.manage.caching import disable_caching
from aiida.orm import CalcJobNode, Dict, Int
from aiida.plugins import WorkflowFactory
from aiida.plugins.entry_point import format_entry_point_string

from aiida_dse import __version__
from aiida_dse.data.jobs import nodes_of_simultaneous, simultaneous_job_document
from aiida_dse.data.results import summary_node
from aiida_dse.documents import load_simultaneous
from aiida_dse.documents.status import EXITS, Failure, Status
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.tasks.run import run_refine
from aiida_dse.workchains.build_model import BuildModelWorkChain
from aiida_dse.workchains.refine import RefineWorkChain, SimultaneousWorkChain
from aiida_dse.workchains.uncertainty import UncertaintyWorkChain

STAGES = {"stages": [["salt.a", "salt.*.B_iso"]]}
CHAINS = (BuildModelWorkChain, RefineWorkChain, SimultaneousWorkChain, UncertaintyWorkChain)
AGAIN = 0  # the work chain submits another job
#: AiiDA's exit statuses of what a scheduler found.
MEMORY, WALLTIME, NODE = 110, 120, 140


@pytest.fixture(scope="module")
def simultaneous_inputs(write_case, pattern_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simultaneous")
    write_case(folder)
    rows = np.loadtxt(io.StringIO(pattern_text))
    rows[:, 1] += 1
    np.savetxt(folder / "again.xye", rows)
    path = folder / "simultaneous.yaml"
    path.write_text(yaml.safe_dump({
        "schema": "aiida-dse/simultaneous/2", "model": "model.yaml", "shared": ["salt.*.B_iso"],
        "patterns": {"one": {"pattern": {"file": "salt.xye"}},
                     "two": {"pattern": {"file": "again.xye"}}}}))
    document = load_simultaneous(path)
    patterns, nodes = nodes_of_simultaneous(document, folder)
    content = simultaneous_job_document(document, patterns, nodes.structures, nodes.blanks)
    return {"model": Dict(content), "patterns": patterns, "structures": nodes.structures}


@pytest.fixture(scope="module")
def inputs_of(case_nodes, simultaneous_inputs, code):
    """A function: the inputs of a work chain of one of the classes."""
    def make(chain, threads=None, code=code, **more):
        job = dict(simultaneous_inputs) if chain is SimultaneousWorkChain else case_nodes(
            {"refinement": STAGES, "uncertainty": {"bootstrap": {"samples": 2}}})
        job |= {"code": code} | ({} if threads is None else {"threads": threads})
        return {chain.NAMESPACE: job, **more}

    return make


@pytest.fixture(scope="module")
def process_of(inputs_of):
    """A function: a work chain of a class before its first job; the same one for all tests."""
    made = {}

    def make(chain, threads):
        if (chain, threads) not in made:
            runner = get_manager().create_runner(communicator=None)
            made[chain, threads] = instantiate_process(runner, chain, **inputs_of(chain, threads))
        made[chain, threads].setup()
        return made[chain, threads]

    return make


@pytest.fixture
def after(process_of, computer):
    """A function: the work chain whose job ended with a status, and its verdict."""
    def inspected(chain, status, *, result=None, iteration=1, threads=None):
        process = process_of(chain, threads)
        process.ctx.iteration = iteration
        process_type = chain._process_class.build_process_type()
        job = CalcJobNode(computer=computer, process_type=process_type)
        job.set_option("resources", {"num_machines": 1, "num_mpiprocs_per_machine": 1})
        job.set_process_state("finished")
        job.set_process_label("Job")
        job.set_exit_status(status)
        job.set_exit_message("reason: the details")
        with disable_caching():
            job.store()
        if result is not None:
            result.base.links.add_incoming(job, link_type=LinkType.CREATE, link_label="result")
            result.store()
        process.ctx.children = [job] * iteration
        return process, process.inspect_process()

    return inspected


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.NAMESPACE)
@pytest.mark.parametrize("status", [
    *(EXITS[failure].number for failure in (Failure.NO_RESULT, Failure.DAMAGED_RESULT)), NODE,
    WALLTIME, EXITS[Status.WALLTIME].number, EXITS[Status.INTERRUPTED].number])
def test_a_lost_or_interrupted_job_is_run_again(after, chain, status):
    _, verdict = after(chain, status)
    assert verdict.status == AGAIN


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.NAMESPACE)
@pytest.mark.parametrize("failure", [
    Failure.INVALID_INPUT, Failure.OTHER_ENGINE, Failure.DISK_FULL, Failure.INTERNAL])
def test_what_another_job_would_meet_again_ends_the_work_chain(after, chain, failure):
    """With the number and the message of the job."""
    _, verdict = after(chain, EXITS[failure].number)
    assert verdict.status == EXITS[failure].number and "the details" in verdict.message


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.NAMESPACE)
@pytest.mark.parametrize("status", [MEMORY, EXITS[Failure.OUT_OF_MEMORY].number])
@pytest.mark.parametrize(("threads", "then"), [(None, 1), (8, 4), (2, 1), (1, None)])
def test_a_job_without_memory_is_run_with_fewer_threads(after, chain, status, threads, then):
    process, verdict = after(chain, status, threads=threads)
    if then is None:
        assert verdict.status == status  # the verdict of the scheduler, or that of the engine
    else:
        assert verdict.status == AGAIN and process.ctx.inputs["threads"] == then


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.NAMESPACE)
@pytest.mark.parametrize("number", [100, 110, 120, 131, 140])
def test_the_last_attempt_ends_with_the_verdict_of_the_scheduler(after, chain, number):
    _, verdict = after(chain, number, iteration=5)
    assert verdict.status == number and "the details" in verdict.message


@pytest.mark.parametrize("status", [MEMORY, NODE, WALLTIME, EXITS[Failure.NO_RESULT].number])
def test_a_terminated_job_is_continued_from_its_checkpoint(after, inputs_of, case_nodes, status):
    from aiida_dse.data.jobs import ModelNodes, model_of_nodes

    inputs = case_nodes({"refinement": STAGES | {"max_cycles": 1}})
    summary = run_refine(model_of_nodes(
        inputs["model"].get_dict(), ModelNodes(inputs["pattern"], inputs["structures"]))).summary
    result = summary_node(summary.model_copy(update={"status": Status.RUNNING}))
    process, verdict = after(RefineWorkChain, status, result=result, threads=8)
    assert verdict.status == AGAIN
    start = process.ctx.inputs["model"].get_dict()["parameters"]["salt.a"]["value"]
    assert start == summary.parameters["salt.a"].value
    assert process.ctx.inputs["threads"] == (4 if status == MEMORY else 8)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.NAMESPACE)
@pytest.mark.parametrize("failure", [Failure.NO_RESULT, Failure.OUT_OF_MEMORY, Status.WALLTIME])
def test_the_last_try_ends_with_the_number_of_the_job(after, chain, failure):
    _, verdict = after(chain, EXITS[failure].number, iteration=5)
    assert verdict.status == EXITS[failure].number


@pytest.mark.parametrize(("chain", "status", "iteration"), [
    *((chain, Status.UNDETERMINED, 1) for chain in (RefineWorkChain, SimultaneousWorkChain)),
    *((chain, Status.NOT_CONVERGED, 5) for chain in (RefineWorkChain, SimultaneousWorkChain)),
    *((UncertaintyWorkChain, status, 1) for status in UncertaintyWorkChain.OWN_ENDINGS)],
    ids=lambda value: getattr(value, "NAMESPACE", str(value)))
def test_an_ending_that_another_job_would_not_change_is_returned_with_the_result(
        after, case_nodes, chain, status, iteration):
    """A refinement that does not converge in the last attempt, and one with undetermined parameters."""
    from aiida_dse.data.jobs import ModelNodes, model_of_nodes

    inputs = case_nodes({"refinement": STAGES | {"max_cycles": 1}})
    summary = run_refine(model_of_nodes(
        inputs["model"].get_dict(), ModelNodes(inputs["pattern"], inputs["structures"]))).summary
    result = summary_node(summary.model_copy(update={"status": status}))
    process, verdict = after(chain, EXITS[status].number, result=result, iteration=iteration)
    assert verdict.status == EXITS[status].number and "the details" in verdict.message
    assert process.outputs["result"].uuid == result.uuid


def test_the_exit_codes_of_a_work_chain_are_those_of_its_job():
    for chain in CHAINS:
        codes, own = chain.exit_codes, chain._process_class.exit_codes
        assert len({code.status for code in codes.values()}) == len(codes)
        for failure in Failure:
            label = EXITS[failure].label
            assert codes[label].status == own[label].status


def test_a_refinement_out_of_time_is_continued_from_its_last_values(after, inputs_of, case_nodes):
    from aiida_dse.data.jobs import ModelNodes, model_of_nodes

    inputs = case_nodes({"refinement": STAGES | {"max_cycles": 1}})
    summary = run_refine(model_of_nodes(
        inputs["model"].get_dict(), ModelNodes(inputs["pattern"], inputs["structures"]))).summary
    result = summary_node(summary.model_copy(update={"status": Status.WALLTIME}))
    process, verdict = after(RefineWorkChain, EXITS[Status.WALLTIME].number, result=result)
    assert verdict.status == AGAIN
    start = process.ctx.inputs["model"].get_dict()["parameters"]["salt.a"]["value"]
    assert start == summary.parameters["salt.a"].value != case_nodes()["model"].get_dict().get(
        "parameters", {}).get("salt.a")


def test_a_simultaneous_refinement_and_an_uncertainty_survive_lost_jobs(
    started, inputs_of, make_code, finish, tmp_path_factory
):
    """The first job of each runs out of memory, the second is lost."""
    outcome = json.dumps({"state": "failed", "failure": "out_of_memory", "message": "full",
                          "engine_version": __version__, "numerics_version": NUMERICS_VERSION})
    nodes = []
    for chain in (SimultaneousWorkChain, UncertaintyWorkChain):
        folder = tmp_path_factory.mktemp(chain.NAMESPACE)
        code = make_code(f"unlucky-{chain.NAMESPACE}", "\n".join([
            f"if mkdir '{folder}/first' 2>/dev/null; then mkdir -p results",
            f"echo '{outcome}' > results/outcome.json; exit 12; fi",
            f"if mkdir '{folder}/second' 2>/dev/null; then exit 1; fi"]))
        nodes.append(submit(chain, **inputs_of(
            chain, 2, code, max_iterations=Int(4), metadata={"label": "unlucky"})))
    for node in nodes:
        assert finish(node).is_finished_ok, node.exit_message
        jobs = sorted(node.called, key=lambda job: job.pk)
        assert [job.exit_status for job in jobs] == [312, 310, 0]
        assert [job.get_metadata_inputs()["threads"] for job in jobs] == [2, 1, 1]
        assert node.outputs.result.label == "unlucky"


def test_the_work_chains_are_found_by_their_names():
    names = ("build_model", "refine", "simultaneous", "uncertainty")
    for name, chain in zip(names, CHAINS, strict=True):
        assert WorkflowFactory(f"dse.{name}") is chain
        assert chain.build_process_type() == format_entry_point_string(
            "aiida.workflows", f"dse.{name}")
        assert copy.copy(chain.get_protocol_inputs("fast"))[chain.NAMESPACE]["metadata"]
