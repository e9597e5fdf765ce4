"""Jobs and work chains through a daemon: results, restarts, the cache, a killed worker."""

from __future__ import annotations

import copy
import json
import os
import signal
import sqlite3
import threading
from pathlib import Path

import gemmi
import numpy as np
import pytest
from aiida.common import LinkType
from aiida.engine import submit
from aiida.orm import CalcJobNode, Dict, Float, Int, Node, QueryBuilder
from numpy.testing import assert_allclose, assert_array_equal
from waiting import patient, wait_until

from aiida_dse.calculations.engine import RefineCalculation, SimulateCalculation
from aiida_dse.cli.daemon import Workers, look_for_dead_workers, repair
from aiida_dse.cli.submission import wait_for
from aiida_dse.data.jobs import ModelNodes, model_of_nodes
from aiida_dse.data.pattern import PatternData
from aiida_dse.data.results import summary_from_node
from aiida_dse.documents.status import EXITS, PartsFailed
from aiida_dse.tasks.run import run_scan
from aiida_dse.workchains.grid_search import GridSearchWorkChain
from aiida_dse.workchains.refine import RefineWorkChain

STAGES = {"stages": [["salt.a", "salt.*.B_iso"]]}


@pytest.fixture(scope="module")
def stored(case_nodes):
    """A function: inputs for a document with changes; pattern and structures are stored once."""
    kept = case_nodes()
    for node in (kept["pattern"], *kept["structures"].values()):
        node.store()

    def make(code, **changes):
        model = copy.deepcopy(kept["model"].get_dict()) | changes
        return {
            "model": Dict(model), "pattern": kept["pattern"], "structures": kept["structures"],
            # one thread for every job: two of them share two cores
            "code": code, "threads": 1, "metadata": {"options": {}},
        }

    return make


@pytest.fixture(scope="module")
def flaky_code(make_code, tmp_path_factory):
    """A code whose first job ends before the engine starts."""
    flag = tmp_path_factory.mktemp("flaky") / "failed-once"
    return make_code("flaky", f"if mkdir '{flag}' 2>/dev/null; then echo lost >&2; exit 1; fi")


@pytest.fixture(scope="module")
def submitted(started, stored, code, flaky_code, case):
    """Independent processes, all submitted at once so that they fill both cores."""
    def grid(code, scan=case.scan, **more):
        return {"scan": stored(code, scan=scan), "max_concurrent": Int(2),
                "tile_seconds": Float(0.02), "seconds": Float(0.06)} | more

    few = STAGES | {"max_cycles": 3}
    far = {"salt.a": 4.05, "salt.Cs1.B_iso": 6.0, "salt.Cl_a.B_iso": 8.0}
    return {
        "simulate": submit(SimulateCalculation, **stored(code)),
        "refine": submit(RefineCalculation, **stored(code, refinement=STAGES)),
        "restart": submit(
            RefineWorkChain, refine=stored(code, refinement=few, parameters=far)
        ),
        "grid": submit(GridSearchWorkChain, **grid(flaky_code)),
        "make_grid": grid,
    }


def jobs_of(node):
    """The calculation jobs a process called, oldest first."""
    query = QueryBuilder().append(type(node), filters={"id": node.pk}, tag="caller")
    query.append(CalcJobNode, with_incoming="caller").order_by({CalcJobNode: "id"})
    return query.all(flat=True)


def assert_complete_map(node, inputs):
    """The map of a work chain is the one that run_scan computes in one go."""
    assert node.is_finished_ok, node.exit_message
    built = model_of_nodes(
        inputs["model"].get_dict(), ModelNodes(inputs["pattern"], inputs["structures"]))
    expected = run_scan(built)
    found = node.outputs.map
    for name in ("gof", "chi2", "n_active", "axis_0", "axis_1"):
        assert_allclose(found.get_array(name), expected.arrays[f"scan/{name}"], rtol=1e-9)
    assert found.base.attributes.get("axes") == [axis.name for axis in expected.summary.axes]
    result = node.outputs.result.get_dict()
    for name, value in expected.summary.minimum.items():
        assert result["minimum"][name] == pytest.approx(value, rel=1e-9)
    assert result["shape"] == expected.summary.shape


def test_a_simulation(submitted, finish):
    node = finish(submitted["simulate"])
    assert node.is_finished_ok, node.exit_message
    assert node.outputs.result.get_dict()["agreement"]["gof"] > 1


def test_a_refinement_finds_what_the_pattern_was_made_with(submitted, finish, case):
    node = finish(submitted["refine"])
    assert node.is_finished_ok, node.exit_message
    rows = summary_from_node(node.outputs.result).parameters
    for name, true in case.truth.items():
        assert abs(rows[name].value - true) < 4 * rows[name].su, name
    cif = gemmi.cif.read_string(node.outputs.structures.salt.get_content()).sole_block()
    assert list(cif.find_values("_atom_site_label")) == ["Cs1", "Cl_a"]


def test_refinements_are_found_by_outcome_and_sample(submitted, finish):
    node = finish(submitted["refine"])
    query = QueryBuilder()
    query.append(PatternData, filters={"attributes.temperature": {">": 200}}, tag="pattern")
    query.append(RefineCalculation, with_incoming="pattern", tag="job")
    query.append(
        Dict, with_incoming="job",
        filters={"and": [
            {"attributes.agreement.gof": {"<": 1.5}}, {"attributes.parameters.salt.a.value": {">": 4.1}},
            {"attributes.sample.temperature": 293.0}, {"attributes.phases": {"contains": ["salt"]}},
        ]},
        project=["attributes.parameters.salt.a.value", "attributes.agreement.gof"],
    )
    query.add_filter("job", {"id": node.pk})
    ((a, gof),) = query.all()
    assert a == pytest.approx(4.123, abs=0.01)
    assert gof == pytest.approx(1.0, abs=0.15)


def test_a_refinement_cut_short_is_continued_until_it_converges(submitted, finish, case):
    node = finish(submitted["restart"])
    jobs = jobs_of(node)
    assert node.is_finished_ok, (node.exit_message, [job.exit_status for job in jobs])
    assert [job.exit_status for job in jobs[:-1]] == [410] * (len(jobs) - 1)
    assert len(jobs) >= 2
    assert jobs[-1].exit_status == 0
    # the next job starts where the last one ended, through a calcfunction
    start = jobs[1].inputs.model.get_dict()["parameters"]["salt.a"]["value"]
    assert start == jobs[0].outputs.result["parameters"]["salt"]["a"]["value"]
    assert jobs[1].inputs.model.creator.process_label == "continued_model"
    row = node.outputs.result["parameters"]["salt"]["a"]
    assert abs(row["value"] - case.truth["salt.a"]) < 4 * row["su"]


def test_a_lost_tile_runs_again_and_the_map_is_complete(submitted, finish):
    node = finish(submitted["grid"])
    assert_complete_map(node, node.inputs.scan)
    jobs = jobs_of(node)
    assert len({job.base.extras.get("_aiida_hash") for job in jobs}) >= 3
    assert sorted(job.exit_status for job in jobs)[:-1] == [0] * (len(jobs) - 1)
    (lost,) = [job for job in jobs if job.exit_status]
    assert lost.exit_status == 310


def test_a_grid_computed_before_comes_from_the_cache(submitted, finish, flaky_code):
    first = finish(submitted["grid"])
    again = finish(submit(GridSearchWorkChain, **submitted["make_grid"](flaky_code)))
    assert again.is_finished_ok, again.exit_message
    jobs = jobs_of(again)
    assert len(jobs) >= 3
    assert [job for job in jobs if not job.base.caching.is_created_from_cache] == []
    assert_array_equal(again.outputs.map.get_array("gof"), first.outputs.map.get_array("gof"))


def test_a_widened_grid_reuses_tiles(submitted, finish, flaky_code, case):
    """Two values more on the axis that is cut: the old values need not be computed again."""
    finish(submitted["grid"])
    wide = copy.deepcopy(case.scan)
    wide["axes"][0]["stop"] = 4.17
    node = finish(submit(GridSearchWorkChain, **submitted["make_grid"](flaky_code, scan=wide)))
    jobs = jobs_of(node)
    cached = [job for job in jobs if job.base.caching.is_created_from_cache]
    assert_complete_map(node, node.inputs.scan)
    # seen: 3 of 4. Tiles of another length would share none.
    assert len(cached) >= 1


def test_a_large_map_adds_few_nodes_and_little_data(submitted, finish, stored, code):
    """100 x 100 points that would take hours, for all the work chain knows: < 60 nodes, < 5 MB."""
    finish(submitted["grid"])
    axes = [{"parameter": "salt.a", "start": 4.10, "stop": 4.1495, "step": 0.0005},
            {"parameter": "salt.Cl_a.B_iso", "start": 1.0, "stop": 3.97, "step": 0.03}]
    inputs = {"scan": stored(code, scan={"axes": axes}), "seconds": Float(10_000.0)}
    before = QueryBuilder().append(Node, project="id").all(flat=True)
    node = finish(submit(GridSearchWorkChain, **inputs))
    assert node.is_finished_ok, node.exit_message
    assert node.outputs.map.get_array("gof").shape == (100, 100)
    added = QueryBuilder().append(Node, filters={"id": {"!in": before}}).all(flat=True)
    held = sum(len(json.dumps(one.base.attributes.all)) for one in added)
    held += sum(one.base.repository.get_object_size(name) for one in added
                for name in one.base.repository.list_object_names())
    assert len(jobs_of(node)) == 7
    assert len(added) < 60 and held < 5e6, (len(added), held)


def test_a_short_map_is_a_single_job_with_few_nodes(submitted, finish, stored, code):
    """100 x 100 points, interpolated: at most 15 nodes with all inputs, and less than 5 MB."""
    finish(submitted["grid"])
    axes = [{"parameter": "salt.a", "start": 4.10, "stop": 4.1495, "step": 0.0005},
            {"parameter": "salt.Cl_a.B_iso", "start": 1.0, "stop": 3.97, "step": 0.03}]
    before = QueryBuilder().append(Node, project="id").all(flat=True)
    inputs = {"scan": stored(code, scan={"axes": axes})}
    node = finish(submit(GridSearchWorkChain, **inputs))
    assert node.is_finished_ok, node.exit_message
    assert len(jobs_of(node)) == 1
    assert_complete_map(node, node.inputs.scan)
    added = QueryBuilder().append(Node, filters={"id": {"!in": before}}).all(flat=True)
    held = sum(len(json.dumps(one.base.attributes.all)) for one in added)
    held += sum(one.base.repository.get_object_size(name) for one in added
                for name in one.base.repository.list_object_names())
    assert len(added) <= 15 and held < 5e6, ([str(one) for one in added], held)


@pytest.mark.slow
def test_a_scan_out_of_time_goes_on_where_it_stopped(submitted, finish, stored, make_code):
    """One tile, a second for each run: the map is complete, and grows from run to run."""
    slow = {
        "axes": [{"parameter": "salt.a", "start": 4.1, "stop": 4.15, "step": 0.0001}],
        "refine": ["salt.Cs1.B_iso", "salt.Cl_a.B_iso"],
    }
    inputs = stored(make_code("hurried"), scan=slow)
    inputs["metadata"]["options"]["max_wallclock_seconds"] = 2
    node = finish(submit(
        GridSearchWorkChain, scan=inputs, max_concurrent=Int(1), tile_seconds=Float(1e6),
        max_attempts=Int(100),
    ))
    jobs = jobs_of(node)
    assert node.is_finished_ok, node.exit_message
    assert jobs[0].exit_status == 400
    done = [job.outputs.result.get_dict()["n_done"] for job in jobs]
    assert done == sorted(done) and done[-1] == 501
    assert np.isfinite(node.outputs.map.get_array("gof")).all()


def test_models_are_refined_and_ranked(submitted, finish, stored, make_code):
    """Three models, the job of one of which fails: the others are compared, and it is reported."""
    from aiida_dse.workchains.compare_models import CompareModelsWorkChain

    finish(submitted["refine"])
    code = make_code("picky", "if grep -q 7.7777 model.json; then echo lost >&2; exit 1; fi")
    inputs = stored(code, refinement=STAGES)
    full, structures = inputs.pop("model").get_dict(), inputs.pop("structures")
    stiff = full | {"parameters": {"salt.Cs1.B_iso": 9.0}, "refinement": {"stages": [["salt.a"]]}}
    poor_fits = full | {"parameters": {"salt.Cs1.B_iso": 7.7777}}
    models = {"full": Dict(full), "stiff": Dict(stiff), "poor_fits": Dict(poor_fits)}
    node = finish(submit(
        CompareModelsWorkChain, refine=inputs, models=models,
        structures={name: structures for name in models},
    ))
    assert node.exit_status == EXITS[PartsFailed.SOME_FAILED].number and "poor_fits" in node.exit_message
    result = node.outputs.result.get_dict()
    assert result["ranking"] == ["full", "stiff"]
    assert result["models"]["full"]["gof"] == pytest.approx(1.0, abs=0.15)
    assert node.outputs.result.creator.process_label == "compare_refinements"
    # the refinement of the full model was known already
    query = QueryBuilder().append(type(node), filters={"id": node.pk}, tag="chain")
    query.append(RefineWorkChain, with_incoming="chain", filters={"label": "full"}, tag="model")
    query.append(RefineCalculation, with_incoming="model")
    assert len(query.all()) == 1
    ((model,),) = QueryBuilder().append(type(node), filters={"id": node.pk}, tag="chain").append(
        RefineWorkChain, with_incoming="chain", filters={"label": "stiff"}).all()
    assert model.outputs.result.base.extras.get("role") == "rival"
    # on its own it is no rival, and has its own name, although it comes from the cache
    again = finish(submit(
        RefineWorkChain, refine=inputs | {"model": Dict(stiff), "structures": structures},
        metadata={"label": "on its own"}))
    assert again.called[0].base.caching.is_created_from_cache
    result = again.outputs.result
    assert "role" not in result.base.extras.all and result.label == "on its own"
    assert summary_from_node(result).title == "on its own"


@pytest.mark.slow  # test_faults.py kills all workers while a study computes its map
@pytest.mark.parametrize("killed", [1, 2])
def test_killed_workers_cost_no_finished_tile(
    submitted, finish, mortal, workers_of, make_code, tmp_path, killed
):
    """kill -9 of one or of all workers in a grid's middle: no finished tile runs again.

    The grid is awaited as 'launch --wait' does, which makes AiiDA's broker look again for the dead.
    A work chain goes on from its last checkpoint, so a tile it was submitting may run twice.
    """
    for name in ("simulate", "refine", "restart", "grid"):
        finish(submitted[name])
    log = tmp_path / "runs.log"
    log.touch()
    code = make_code(f"logged-{killed}", f'echo "$PWD" >> "{log}"; sleep 1')
    low = 4.102 + 0.001 * killed  # a grid of its own: nothing comes from the cache
    scan = {"axes": [{"parameter": "salt.a", "start": low, "stop": low + 0.05, "step": 0.01},
                     {"parameter": "salt.Cl_a.B_iso", "values": [1.0, 2.0, 3.0]}]}
    node = submit(GridSearchWorkChain, **submitted["make_grid"](code, scan=scan))
    wait_until(lambda: any(job.is_finished_ok for job in jobs_of(node))
               and any(not job.is_terminated for job in jobs_of(node)),
               lambda: f"{node}: {jobs_of(node)}", seconds=120, every=0.05)
    assert not node.is_terminated
    kept = {job.pk for job in jobs_of(node) if job.is_finished_ok}
    workers = workers_of(mortal)
    for pid in workers[:killed]:
        os.kill(pid, signal.SIGKILL)
    wait_for(node, look_every=2)
    assert_complete_map(node, node.inputs.scan)
    # a worker killed while it stored a job leaves a node without a state, which never runs
    ran = [job for job in jobs_of(node) if job.process_state is not None]
    tiles = [
        job.base.links.get_incoming(link_type=LinkType.CALL_CALC).first().link_label for job in ran
    ]
    assert len(set(tiles)) >= 3, tiles
    once = [tile for job, tile in zip(ran, tiles, strict=True) if job.pk in kept]
    assert once and all(tiles.count(tile) == 1 for tile in once), tiles
    # AiiDA repeats a submission that it was killed in, so only unfinished commands may run twice
    folders = log.read_text().split()
    for job in ran:
        times = folders.count(job.get_remote_workdir())
        assert times == 1 if job.pk in kept else times <= 2, (job.pk, kept, folders)


def test_a_database_that_is_locked_for_longer_than_aiida_waits_costs_nothing(
    started, aiida_profile, stored, make_code, finish, tmp_path
):
    """The job ends while another program locks the database; the worker and a command wait."""
    hold = tmp_path / "hold"
    hold.touch()
    code = make_code("behind-a-lock", f'while [ -e "{hold}" ]; do sleep 0.05; done')
    node = submit(SimulateCalculation, **stored(code))
    try:
        wait_until(lambda: node.get_scheduler_state() is not None, lambda: str(node), seconds=60)
        log = Path(started.daemon_log_file)
        before = log.stat().st_size
        database = Path(aiida_profile.storage_config["filepath"]) / "database.sqlite"
        lock = sqlite3.connect(database, timeout=patient(30), isolation_level=None, check_same_thread=False)
        lock.execute("begin exclusive")
        release = threading.Timer(8.0, lambda: lock.execute("rollback"))  # AiiDA waits for 5 s
        release.start()
    finally:
        hold.unlink()
    note = Dict({"written": "meanwhile"}).store()
    release.join()
    lock.close()
    finish(node)
    assert node.is_finished_ok and note.is_stored
    assert "database is locked" not in log.read_text(errors="replace")[before:]


def test_the_broker_is_asked_for_dead_workers(started, aiida_profile, in_order):
    """A passing client is answered, and leaves behind it a daemon in order."""
    in_order(aiida_profile)
    assert look_for_dead_workers(aiida_profile)
    assert repair(aiida_profile) is None
    in_order(aiida_profile)


def test_workers_without_work_are_reported():
    """The broker that counts fewer workers than run will not mend itself."""
    assert Workers("dse", running=2, counted=2, pending=5).trouble is None
    assert Workers("dse", running=2, counted=3, pending=5).trouble is None
    message = Workers("dse", running=2, counted=1, pending=5).trouble
    assert "1 of 2" in message and "5 tasks" in message and "'aiida-dse -p dse doctor --fix'" in message


def test_a_refused_grid_starts_no_process(submitted, stored, code):
    """The work chain's own inputs are checked like those of its jobs."""
    from aiida.orm import ProcessNode

    before = QueryBuilder().append(ProcessNode).count()
    bad = {"axes": [{"parameter": "salt.q", "values": [1.0, 2.0]}]}
    inputs = stored(code, scan=bad)
    with pytest.raises(ValueError, match=r"salt\.q"):
        GridSearchWorkChain.get_builder_from_protocol(
            code, inputs["model"], inputs["pattern"], inputs["structures"])
    with pytest.raises(ValueError, match="at least 1"):
        submit(GridSearchWorkChain, **submitted["make_grid"](code, max_concurrent=Int(0)))
    assert QueryBuilder().append(ProcessNode).count() == before


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_tiles_must_last(stored, code, case, seconds):
    """No process may be stored only to end in a division by zero."""
    inputs = {"scan": stored(code, scan=case.scan), "tile_seconds": Float(seconds),
              "max_concurrent": Int(2), "max_attempts": Int(3)}
    refused = GridSearchWorkChain.spec().inputs.validate(inputs)
    assert refused is not None and "tile_seconds" in str(refused)
