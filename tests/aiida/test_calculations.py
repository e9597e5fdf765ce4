"""The calculation jobs before anything is submitted: what is refused, what is written."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from aiida.common.folders import SandboxFolder
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.orm import Dict, Node, ProcessNode, QueryBuilder, SinglefileData

from aiida_dse.calculations.engine import (
    RefineCalculation,
    ScanCalculation,
    SimulateCalculation,
    UncertaintyCalculation,
)
from aiida_dse.data.jobs import ModelNodes, model_of_nodes
from aiida_dse.data.results import result_nodes, summary_from_node
from aiida_dse.documents import parse_document
from aiida_dse.documents.status import EXITS, JOB_FAILURES
from aiida_dse.io.results import content_of, summary_of
from aiida_dse.parsers.engine import EngineParser, RefineParser
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_scan
from aiida_dse.tasks.uncertainty import run_uncertainty
from aiida_dse.workchains.grid_search import GridSearchWorkChain
from aiida_dse.workchains.refine import RefineWorkChain
from aiida_dse.workchains.uncertainty import UncertaintyWorkChain

PROCESSES = {
    "simulate": SimulateCalculation, "refine": RefineCalculation, "scan": ScanCalculation,
    "uncertainty": UncertaintyCalculation,
}
PLAN = {"bootstrap": {"samples": 3}}


@pytest.fixture
def inputs(case_nodes, code):
    return case_nodes() | {"code": code}


def instantiated(process, inputs):
    """The process, validated and stored, without a broker."""
    runner = get_manager().create_runner(communicator=None)
    return instantiate_process(runner, process, **inputs)


@pytest.fixture
def prepare(tmp_path):
    """A function: the CalcInfo of a job and the folder it would upload."""
    def prepared(process, inputs):
        instance = instantiated(process, inputs)
        folder = SandboxFolder(tmp_path)
        return instance.prepare_for_submission(folder), folder

    return prepared


def changed(inputs, **sections):
    """The inputs with sections of the document replaced."""
    content = copy.deepcopy(inputs["model"].get_dict()) | sections
    return inputs | {"model": Dict(content)}


def refusal(process, inputs):
    """The message with which a process refuses its inputs; no process node may stay behind."""
    before = QueryBuilder().append(ProcessNode).count()
    with pytest.raises(ValueError) as expected:
        instantiated(process, inputs)
    assert QueryBuilder().append(ProcessNode).count() == before
    return str(expected.value)


def refused_builder(chain, inputs):
    """The message with which a work chain refuses to make a builder; nothing may be stored."""
    before = QueryBuilder().append(Node).count()
    given = {key: inputs[key] for key in ("code", "model", "pattern", "structures")}
    with pytest.raises(ValueError) as refusal:
        chain.get_builder_from_protocol(**given)
    assert QueryBuilder().append(Node).count() == before
    return str(refusal.value)


def without(inputs, name):
    return {key: value for key, value in inputs.items() if key != name}


@pytest.mark.parametrize("task", PROCESSES)
def test_the_plugins_are_found_by_their_names(task):
    from aiida.plugins import CalculationFactory, ParserFactory

    assert CalculationFactory(f"dse.{task}") is PROCESSES[task]
    parser = ParserFactory(f"dse.{task}")
    assert issubclass(parser, EngineParser)
    assert ("structures" in PROCESSES[task].spec().outputs) is issubclass(parser, RefineParser)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"parameters": {"salt.aa": 4.1}}, "salt.aa"),
        ({"parameters": {"salt.b": 4.1}}, "symmetry makes b equal to a"),
        ({"refinement": {"stages": [["salt.Cs2.B_iso"]]}}, "salt.Cs2.B_iso"),
        ({"constraints": {"salt.Cs1.B_iso": "salt.Br.B_iso"}}, "salt.Br.B_iso"),
        ({"phasess": {}}, "unknown key"),
        ({"schema": "aiida-dse/model/9"}, "aiida-dse/model/9"),
        ({"background": {"chebyshev": -1}}, "chebyshev"),
        ({"derived": {"salt": {"distances": [["Cs1", "Br"]]}}}, "Br"),
    ],
    ids=["parameter", "bound by symmetry", "stage", "constraint", "key", "schema", "background", "label"],
)
def test_a_bad_document_is_refused_before_submission(inputs, sections, expected):
    assert expected in refused_builder(RefineWorkChain, changed(inputs, **sections))


@pytest.mark.parametrize(
    ("sections", "expected"),
    [({"phasess": {}}, "unknown key"), ({"schema": "aiida-dse/model/9"}, "aiida-dse/model/9"),
     ({"background": {"chebyshev": -1}}, "chebyshev")],
)
def test_what_is_no_document_is_refused_by_the_job_itself(inputs, sections, expected):
    assert expected in refusal(RefineCalculation, changed(inputs, **sections))


def test_the_ports_are_checked_without_building_the_model(inputs, monkeypatch):
    def built(*_, **__):
        raise AssertionError("the model was built")

    monkeypatch.setattr("aiida_dse.tasks.build._built", built)
    instantiated(RefineCalculation, inputs)


def test_refine_and_scan_need_a_pattern(inputs, case):
    grid = {"axis": "two_theta", "wavelength": case.wavelength,
            "grid": {"start": 5, "step": 0.5, "stop": 40}}
    bare = without(changed(inputs, pattern=grid, scan=case.scan), "pattern")
    assert "the input 'pattern' is missing" in refusal(RefineCalculation, bare)
    assert "the input 'pattern' is missing" in refusal(ScanCalculation, bare)
    assert "there is no 'pattern' node" in refusal(RefineCalculation, without(inputs, "pattern"))


def test_a_scan_needs_axes(inputs):
    assert "no 'scan'" in refused_builder(GridSearchWorkChain, inputs)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ({"parameter": "salt.q", "values": [1.0, 2.0]}, "salt.q"),
        ({"parameter": "salt.a", "start": 4.0, "stop": 5.0, "step": 1e-9}, "limit"),
        ({"parameter": "salt.Cs1.B_iso", "values": [-1.0, 1.0]}, "only values from 0 to 1000 are possible"),
    ],
)
def test_a_grid_that_cannot_be_scanned_is_refused(inputs, axis, expected):
    assert expected in refused_builder(GridSearchWorkChain, changed(inputs, scan={"axes": [axis]}))


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (None, "uncertainty: nothing is requested"),
        ({"profile": ["salt.Cs1.x"]}, "uncertainty.profile"),
        ({"posterior": {"walkers": 3}}, "uncertainty.posterior.walkers"),
    ],
)
def test_an_uncertainty_that_cannot_be_found_is_refused(inputs, plan, expected):
    changes = {} if plan is None else {"uncertainty": plan}
    assert expected in refused_builder(UncertaintyWorkChain, changed(inputs, **changes))


def test_a_structure_without_a_phase_is_refused(inputs):
    renamed = inputs | {"structures": {"brine": inputs["structures"]["salt"]}}
    assert "missing: salt" in refusal(RefineCalculation, renamed)


def test_structures_are_required(inputs):
    assert "structures" in refusal(RefineCalculation, without(inputs, "structures"))


@pytest.mark.parametrize("task", PROCESSES)
def test_the_uploaded_document_can_be_built_in_its_folder(inputs, case, prepare, task):
    inputs = changed(inputs, scan=case.scan, uncertainty=PLAN)
    information, folder = prepare(PROCESSES[task], inputs)
    assert set(folder.get_content_list()) == {"model.json", "pattern.xye", "salt.cif"}
    uploaded = Path(folder.abspath)
    content = json.loads((uploaded / "model.json").read_text())
    built = build(parse_document(content), uploaded)
    assert built.measured and len(built.axes) == 2
    assert information.retrieve_temporary_list == [
        "results/result.json", "results/result.h5", "results/outcome.json"]
    assert information.retrieve_list == ["engine.out", "engine.err"]
    # the nodes hold the data: the job's node keeps the document only
    assert set(information.provenance_exclude_list) == {"pattern.xye", "salt.cif"}
    (one,) = information.codes_info
    assert one.cmdline_params == [task, "model.json", "--output", "results"]
    assert (one.stdout_name, one.stderr_name) == ("engine.out", "engine.err")


def test_threads_and_walltime_reach_the_command(inputs, case, prepare):
    options = {"max_wallclock_seconds": 1000}
    inputs = inputs | {"metadata": {"options": options}, "threads": 2}
    information, _ = prepare(RefineCalculation, inputs)
    command = information.codes_info[0].cmdline_params
    assert command[-4:] == ["--threads", "2", "--walltime", "900"]


def test_a_simulation_has_no_walltime_option(inputs, prepare):
    inputs = inputs | {"metadata": {"options": {"max_wallclock_seconds": 1000}}}
    information, _ = prepare(SimulateCalculation, inputs)
    assert "--walltime" not in information.codes_info[0].cmdline_params


def test_a_simulation_needs_no_pattern(inputs, case, prepare):
    grid = {"axis": "two_theta", "wavelength": case.wavelength,
            "grid": {"start": 5, "step": 0.5, "stop": 40}}
    _, folder = prepare(SimulateCalculation, without(changed(inputs, pattern=grid), "pattern"))
    assert set(folder.get_content_list()) == {"model.json", "salt.cif"}


@pytest.mark.parametrize("task", ["scan", "uncertainty"])
def test_an_interrupted_job_is_sent_with_what_it_had(inputs, case, prepare, task):
    inputs = changed(inputs, scan=case.scan, uncertainty=PLAN)
    built = model_of_nodes(
        inputs["model"].get_dict(), ModelNodes(inputs["pattern"], inputs["structures"]))
    run = {"scan": run_scan, "uncertainty": run_uncertainty}[task]
    partial = run(built, should_stop=lambda: "walltime")
    result, arrays = (node.store() for node in result_nodes(partial))
    inputs |= {"finished": {"result": result, "arrays": arrays}}
    information, folder = prepare(PROCESSES[task], inputs)
    assert information.codes_info[0].cmdline_params[-1] == "--continue"
    assert information.local_copy_list == [(arrays.uuid, "result.h5", "results/result.h5")]
    with folder.open("results/result.json") as handle:
        sent = json.load(handle)
    assert set(sent.pop("signature")) == {"numbers", "arrays"}
    kept = content_of(summary_of(sent))
    assert kept == content_of(summary_from_node(result))
    assert kept["status"] == "walltime"


def test_half_of_an_interrupted_scan_is_refused(inputs, case):
    """Arrays without their result (or the reverse) cannot be continued."""
    from io import BytesIO

    inputs = changed(inputs, scan=case.scan)
    arrays = SinglefileData(file=BytesIO(b"arrays"), filename="result.h5")
    assert refusal(ScanCalculation, inputs | {"finished": {"arrays": arrays}})


@pytest.mark.parametrize("process", PROCESSES.values())
def test_the_exit_codes_are_those_of_the_table(process):
    """The same outcome would come again only where the table says so: the rest is not cached."""
    codes = process.exit_codes
    for one in {EXITS[outcome] for outcome in (*JOB_FAILURES, *process.ENDINGS)}:
        if one.number:
            found = codes[one.label]
            assert (found.status, found.invalidates_cache) == (one.number, not one.cachable)


def test_only_what_would_end_in_the_same_way_is_answered_from_the_cache():
    cached = {one.number for one in EXITS.values() if one.cachable}
    assert {0, 410, 420} <= cached
    # a worker, a disk, a walltime or an engine of another version may be the reason
    assert not cached & {300, 310, 311, 312, 313, 314, 320, 400, 405}


def test_an_uncertainty_has_the_codes_of_its_refinement_and_one_of_its_own():
    own = {code.status for code in UncertaintyCalculation.exit_codes.values()}
    assert own - {code.status for code in RefineCalculation.exit_codes.values()} == {430}
