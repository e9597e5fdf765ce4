"""The parsers on canned results: outputs and exit codes."""

from __future__ import annotations

import re

import gemmi
import h5py
import numpy as np
import pytest
from aiida.common import LinkType
from aiida.orm import CalcJobNode, FolderData
from aiida.plugins import ParserFactory
from aiida.plugins.entry_point import format_entry_point_string

from aiida_dse.data.jobs import ModelNodes, model_of_nodes
from aiida_dse.data.results import flat, nested
from aiida_dse.documents.status import Failure, Status
from aiida_dse.engine.parameters import ParameterStatus
from aiida_dse.io.outcome import RunOutcome, write_outcome
from aiida_dse.io.results import Result, read_arrays, write_result
from aiida_dse.tasks.run import run_refine, run_scan
from aiida_dse.tasks.simulation import run_simulate
from aiida_dse.tasks.uncertainty import run_uncertainty

STAGES = {"stages": [["salt.a", "salt.*.B_iso"]]}
PLAN = {"bootstrap": {"samples": 3}, "posterior": {"steps": 8}}


@pytest.fixture(scope="module")
def inputs(case_nodes, case):
    found = case_nodes({"scan": case.scan, "refinement": STAGES, "uncertainty": PLAN})
    for node in (found["model"], found["pattern"], *found["structures"].values()):
        node.store()
    return found


@pytest.fixture(scope="module")
def built(inputs):
    return model_of_nodes(
        inputs["model"].get_dict(), ModelNodes(inputs["pattern"], inputs["structures"]))


@pytest.fixture(scope="module")
def refined(built):
    return run_refine(built)


@pytest.fixture
def parse(inputs, computer, tmp_path):
    """A function: outputs and exit code of a task's parser on a folder of results."""
    def parsed(task, *, result=None, json=None, outcome=None, stderr="", shell="", hdf5=True,
               scheduler=None, change=None):
        process_type = format_entry_point_string("aiida.calculations", f"dse.{task}")
        node = CalcJobNode(computer=computer, process_type=process_type)
        node.set_option("resources", {"num_machines": 1, "num_mpiprocs_per_machine": 1})
        node.set_option("scheduler_stderr", "_scheduler-stderr.txt")
        links = {"model": inputs["model"], "pattern": inputs["pattern"]}
        links |= {f"structures__{k}": v for k, v in inputs["structures"].items()}
        for label, source in links.items():
            node.base.links.add_incoming(source, link_type=LinkType.INPUT_CALC, link_label=label)
        node.store()
        if scheduler is not None:  # AiiDA sets the verdict of the scheduler before it parses
            node.set_exit_status(scheduler)
        retrieved = FolderData()
        retrieved.base.repository.put_object_from_bytes(b"", "engine.out")
        retrieved.base.repository.put_object_from_bytes(stderr.encode(), "engine.err")
        # what the shell itself says (a killed engine, a module that is missing)
        retrieved.base.repository.put_object_from_bytes(shell.encode(), "_scheduler-stderr.txt")
        retrieved.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="retrieved")
        retrieved.store()
        folder = tmp_path / "retrieved" / "results"
        if result is not None:
            write_result(result, folder)
            if not hdf5:
                (folder / "result.h5").unlink()
            if change is not None:
                change(folder)
        if json is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "result.json").write_text(json)
        if outcome == "":  # the disk was full before the engine started
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "outcome.json").touch()
        elif outcome is not None:
            write_outcome(folder, outcome)
        (tmp_path / "retrieved").mkdir(exist_ok=True)
        outputs, calcfunction = ParserFactory(f"dse.{task}").parse_from_node(
            node, store_provenance=False, retrieved_temporary_folder=str(tmp_path / "retrieved")
        )
        return outputs, calcfunction

    return parsed


def with_status(result, status, reason="said so"):
    return Result(result.summary.model_copy(
        update={"status": Status(status), "stop_reason": reason}), result.arrays)


def test_a_converged_refinement_has_all_outputs(parse, refined, case):
    outputs, node = parse("refine", result=refined)
    assert node.is_finished_ok, node.exit_message
    assert set(outputs) == {"result", "arrays", "structures"} or set(outputs) == {
        "result", "arrays", "structures.salt"
    }
    result = outputs["result"].get_dict()
    assert result["phases"] == ["salt"]
    assert result["agreement"]["gof"] == pytest.approx(1.0, abs=0.15)
    # by hand: four standard uncertainties around what the direct sum was made with
    for name, true in case.truth.items():
        row = flat(result["parameters"])[name]
        assert abs(row["value"] - true) < 4 * row["su"], name


def test_the_arrays_output_is_the_file_of_the_engine(parse, refined, tmp_path):
    outputs, _ = parse("refine", result=refined)
    path = tmp_path / "again.h5"
    path.write_bytes(outputs["arrays"].get_content(mode="rb"))
    arrays = read_arrays(path)
    assert set(arrays) == set(refined.arrays)
    for name, values in refined.arrays.items():
        np.testing.assert_array_equal(arrays[name], values)


def test_the_refined_crystal_keeps_labels_and_symmetry(parse, refined):
    outputs, _ = parse("refine", result=refined)
    node = outputs.get("structures.salt") or outputs["structures"]["salt"]
    block = gemmi.cif.read_string(node.get_content()).sole_block()
    assert list(block.find_values("_atom_site_label")) == ["Cs1", "Cl_a"]
    assert len(block.find_values("_space_group_symop_operation_xyz")) == 48
    a = float(block.find_value("_cell_length_a"))
    row = refined.summary.parameters["salt.a"]
    assert a == pytest.approx(row.value, abs=row.su / 20)
    b = [float(x) for x in block.find_values("_atom_site_B_iso_or_equiv")]
    assert b[0] == pytest.approx(refined.summary.parameters["salt.Cs1.B_iso"].value, rel=1e-4)


@pytest.mark.parametrize(
    ("status", "exit_status"),
    [("not_converged", 410), ("undetermined", 420), ("walltime", 400), ("interrupted", 405)],
)
def test_each_status_has_its_exit_code_and_keeps_the_outputs(parse, refined, status, exit_status):
    outputs, node = parse("refine", result=with_status(refined, status))
    assert node.exit_status == exit_status
    assert {"result", "arrays"} <= set(outputs)


def test_undetermined_parameters_are_named(parse, refined):
    rows = dict(refined.summary.parameters)
    name = "salt.Cs1.B_iso"
    rows[name] = rows[name].model_copy(update={"status": ParameterStatus.UNDETERMINED, "su": None})
    undetermined = Result(refined.summary.model_copy(update={
        "status": Status.UNDETERMINED, "parameters": rows, "undetermined": [name]}),
        refined.arrays)
    _, node = parse("refine", result=undetermined)
    assert node.exit_status == 420
    assert name in node.exit_message
    assert "salt.a" not in node.exit_message


def test_why_it_did_not_converge_is_reported(parse, refined):
    _, node = parse("refine", result=with_status(refined, "not_converged", "stopped after 2"))
    assert "stopped after 2" in node.exit_message


def test_a_scan_and_a_simulation_are_complete(parse, built):
    outputs, node = parse("scan", result=run_scan(built))
    assert node.is_finished_ok
    assert outputs["result"].get_dict()["shape"] == [6, 4]
    outputs, node = parse("simulate", result=run_simulate(built))
    assert node.is_finished_ok
    assert outputs["result"].get_dict()["parameters"]["salt"]["a"]["value"] == 4.12


def test_a_scan_out_of_time_keeps_its_points(parse, built):
    # on a busy machine, the other blocks may be finished before the first one is looked at
    partial = next(found for _ in range(50)
                   if (found := run_scan(built, should_stop=lambda: "walltime")).status == "walltime")
    outputs, node = parse("scan", result=partial)
    assert node.exit_status == 400
    assert 0 < outputs["result"].get_dict()["n_done"] < 24


RUNNING = RunOutcome("running")


def failed(failure, message):
    return RunOutcome("failed", failure.value, message)


@pytest.mark.parametrize(
    ("files", "exit_status", "expected"),
    [
        ({}, 310, "did not start"),
        ({"shell": "_aiidasubmit.sh: line 9: dse-engine: command not found"}, 310, "not found"),
        ({"stderr": "Traceback\nModuleNotFoundError: no module numba"}, 310, "no module numba"),
        ({"outcome": RUNNING, "shell": "_aiidasubmit.sh: line 9: 77 Killed    dse-engine"}, 310,
         "Killed"),
        ({"outcome": ""}, 313, "could not write its outcome"),
        ({"shell": "cannot create temp file for here-document: No space left on device"}, 313, "No space"),
        ({"stderr": "ImportError: libgfortran.so.5: failed to map segment from shared object"}, 312, "map segment"),
        ({"outcome": RUNNING, "shell": "terminate called after throwing 'std::bad_alloc'"}, 312, "bad_alloc"),
        ({"outcome": failed(Failure.INTERNAL, "ZeroDivisionError: 1/0")}, 300, "ZeroDivisionError"),
        ({"outcome": failed(Failure.OUT_OF_MEMORY, "Unable to allocate 8 GiB")}, 312, "8 GiB"),
        ({"outcome": failed(Failure.DISK_FULL, "No space left on device")}, 313, "No space left"),
        ({"outcome": failed(Failure.INVALID_INPUT, "there is no file 'salt.cif'\nhere")}, 320,
         "there is no file 'salt.cif'"),
        ({"outcome": RunOutcome("finished"), "json": '{"schema": "aiida-dse/resu'}, 311, "damaged"),
        ({"outcome": RunOutcome("finished"), "json": "[]"}, 311, "aiida-dse/result"),
        ({"outcome": RunOutcome("finished"), "json": '{"schema": "aiida-dse/result/7"}'}, 311,
         "aiida-dse/result"),
        ({"outcome": RunOutcome("finished")}, 311, "result.json"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_without_a_result_the_reason_is_found(parse, files, exit_status, expected):
    outputs, node = parse("refine", **files)
    assert node.exit_status == exit_status, node.exit_message
    assert expected in node.exit_message
    assert not outputs


def changed_digit(folder):
    path = folder / "result.json"
    path.write_text(re.sub(r'("value": \d\.\d)(\d)', lambda found: found[1] + str(
        (int(found[2]) + 1) % 10), path.read_text(), count=1))


def emptied(folder):
    with h5py.File(folder / "result.h5", "w"):
        pass


@pytest.mark.parametrize("change", [changed_digit, emptied])
def test_a_result_that_was_changed_is_not_stored(parse, refined, change):
    outputs, node = parse("refine", result=refined, change=change)
    assert node.exit_status == 311 and "signature" in node.exit_message and not outputs


def test_the_result_of_another_document_is_not_stored(parse, refined):
    other = refined.changed(document_sha256="0" * 64)
    outputs, node = parse("refine", result=other)
    assert node.exit_status == 311 and "another document" in node.exit_message and not outputs


def test_words_of_the_engine_decide_nothing(parse, refined):
    """A failure is a class in outcome.json; what stderr happens to contain is no class."""
    _, node = parse("refine", result=refined, stderr="MemoryError: No space left on device")
    assert node.is_finished_ok


@pytest.mark.parametrize("field", ["numerics_version", "tables"])
def test_a_result_of_another_engine_is_refused(parse, refined, field):
    summary = refined.summary
    other = summary.numerics_version + 1 if field == "numerics_version" else \
        summary.tables.model_copy(update={"file": "another"})
    _, node = parse("refine", result=Result(
        summary.model_copy(update={field: other}), refined.arrays))
    assert node.exit_status == 314
    assert "install the same version" in node.exit_message


def test_a_truncated_or_missing_hdf5_is_a_damaged_result(parse, refined):
    _, node = parse("refine", result=refined, hdf5=False)
    assert node.exit_status == 311


def test_a_result_of_another_task_is_damaged_and_does_not_except(parse, built):
    """A refine job that finds a simulation's result (a stale folder) must not be taken for good."""
    _, node = parse("refine", result=run_simulate(built))
    assert node.exit_status == 311


@pytest.fixture(scope="module")
def weighed(built):
    return run_uncertainty(built)


def test_a_short_posterior_is_reported_with_its_outputs(parse, weighed):
    outputs, node = parse("uncertainty", result=weighed)
    assert node.exit_status == 430 and "autocorrelation times" in node.exit_message
    result = outputs["result"].get_dict()
    assert result["uncertainty"]["posterior"]["converged"] is False
    # spreads can be queried by a path, beside the s.u.
    rows = result["uncertainty"]["bootstrap"]["parameters"]
    assert rows["salt.Cl_a.B_iso"]["sd"] > 0
    assert result["uncertainty"]["posterior"]["parameters"]["salt.a"]["sd"] > 0
    assert result["parameters"]["salt"]["a"]["su"] > 0
    # the chain is in the file only
    assert "samples" not in result["uncertainty"]["posterior"]
    assert "arrays" in outputs


@pytest.mark.parametrize(
    ("status", "exit_status"),
    [("complete", 0), ("not_converged", 410), ("undetermined", 420), ("walltime", 400),
     ("interrupted", 405), ("running", 310)],
)
def test_each_end_of_an_uncertainty_has_its_exit_code(parse, weighed, status, exit_status):
    outputs, node = parse("uncertainty", result=with_status(weighed, status))
    assert node.exit_status == exit_status
    assert {"result", "arrays"} <= set(outputs)


@pytest.mark.parametrize("scheduler", [110, 120, 131, 140])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_verdict_of_the_scheduler_is_kept(parse, weighed, scheduler, checkpoint):
    """With a checkpoint, which is attached, and without any result."""
    result = with_status(weighed, "running") if checkpoint else None
    outputs, node = parse("uncertainty", result=result, outcome=RUNNING, scheduler=scheduler)
    assert not node.exit_status  # the parser returns no exit code of its own
    assert ("result" in outputs) is checkpoint


def test_a_job_that_was_terminated_after_a_checkpoint_is_not_called_out_of_time(parse, weighed):
    outputs, node = parse("uncertainty", result=with_status(weighed, "running"), outcome=RUNNING,
                          shell="_aiidasubmit.sh: line 9: 77 Killed    dse-engine")
    assert node.exit_status == 310 and "result" in outputs
    assert "terminated externally" in node.exit_message and "Killed" in node.exit_message


def test_a_full_disk_after_a_checkpoint_keeps_the_checkpoint(parse, built):
    """A scan that dies with its disk full leaves its last checkpoint behind."""
    partial = with_status(run_scan(built, should_stop=lambda: "walltime"), "running")
    outputs, node = parse("scan", result=partial,
                          outcome=failed(Failure.DISK_FULL, "No space left on device"))
    assert node.exit_status == 313 and "result" in outputs


def test_parameters_nest_by_their_dots_and_come_back():
    rows = {"p.Br.x": {"value": 0.1, "kind": "coordinate"}, "p.a": {"value": 4.0, "kind": "cell"}}
    assert nested(rows) == {"p": {"Br": {"x": rows["p.Br.x"]}, "a": rows["p.a"]}}
    assert flat(nested(rows)) == rows
