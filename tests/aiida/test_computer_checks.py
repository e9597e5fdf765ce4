"""Speed, space and working directories of computers, and what 'doctor' reports about them."""

from __future__ import annotations

import json
import uuid
from types import SimpleNamespace

import pytest
from aiida.cmdline.commands.cmd_verdi import verdi
from aiida.common import LinkType
from aiida.engine import run_get_node
from aiida.manage.caching import disable_caching
from aiida.orm import CalcJobNode, Computer, Dict, InstalledCode, RemoteData
from aiida.plugins.entry_point import format_entry_point_string
from click.testing import CliRunner

from aiida_dse.cli import computer_checks as checks_module
from aiida_dse.cli.computer_checks import computer_checks, other_engines
from aiida_dse.cli.main import main
from aiida_dse.data.options import JOBS, LATEST_RESULTS, LEAST_RESULTS, SPEED, learnt_speed, speed_of
from aiida_dse.data.results import summary_node
from aiida_dse.tasks.summary import engine_identity
from aiida_dse.workchains.refine import RefineWorkChain


@pytest.fixture
def place(aiida_profile, tmp_path):
    """A computer of its own, without results."""
    made = Computer(label=f"place-{uuid.uuid4().hex[:8]}", hostname="localhost", transport_type="core.local",
                    scheduler_type="core.direct", workdir=str(tmp_path / "not" / "yet")).store()
    made.configure(safe_interval=0, use_login_shell=False)
    return made


def finished(computer, task="refine", status=0, cleaned=False, work=None, **extras):
    """A finished job on a computer with its working directory and its result."""
    job = CalcJobNode(computer=computer, process_type=format_entry_point_string(
        "aiida.calculations", f"dse.{task}"))
    job.set_option("resources", {"num_machines": 1, "num_mpiprocs_per_machine": 1})
    job.set_process_state("finished")
    job.set_exit_status(status)
    with disable_caching():
        job.store()
    made = {"result": Dict({} if work is None else {"work": work}),
            "remote_folder": RemoteData(remote_path="/scratch/x", computer=computer)}
    made["result"].base.extras.set_many(extras)
    for label, node in made.items():
        node.base.links.add_incoming(job, link_type=LinkType.CREATE, link_label=label)
        node.store()
    if cleaned:
        made["remote_folder"].base.extras.set(RemoteData.KEY_EXTRA_CLEANED, True)
    return job


def test_the_speed_is_learnt_from_results_of_the_same_task_and_computer(place, computer):
    code = SimpleNamespace(computer=place)
    found = {check.name: check for check in computer_checks(place)}
    assert found["speed"].outcome == "warn" and "aiida-dse setup" in found["speed"].remedy
    place.set_property(JOBS, {SPEED: 5e-8})
    assert speed_of(code, "refine") == 5e-8
    for k in range(LEAST_RESULTS):
        assert learnt_speed(place, "refine") is None
        finished(place, seconds=10.0 + k, work=1e9, threads=1)
    for bad in ({"status": 400}, {"task": "scan"}, {"seconds": 0.01}, {"work": None}):
        finished(place, **({"seconds": 500.0, "work": 1e9, "threads": 1} | bad))
    finished(computer, seconds=500.0, work=1e9, threads=1)
    assert learnt_speed(place, "refine") == (pytest.approx(11e-9), LEAST_RESULTS)
    assert speed_of(code, "refine") == pytest.approx(11e-9)
    assert speed_of(code, "scan") == 5e-8
    # a set-up or a job under load does not stay for ever
    for _ in range(LATEST_RESULTS):
        finished(place, seconds=2.0, work=1e9, threads=2)
    assert learnt_speed(place, "refine") == (pytest.approx(4e-9), LATEST_RESULTS)
    found = {check.name: check for check in computer_checks(place)}
    assert found["speed"].outcome == "ok"
    assert "4 ns per distance in the last 20 jobs of dse.refine" in found["speed"].found


def test_results_record_their_work_and_their_threads(folder_of_case):
    built, run_refine, run_scan, resources = folder_of_case
    for summary, threads in ((run_refine(built).summary, 1), (run_scan(built, resources=resources).summary, 2)):
        node = summary_node(summary)
        assert node.base.attributes.get("work") > 0 and node.base.extras.get("seconds") > 0
        assert node.base.extras.get("threads", 1) == threads


@pytest.fixture
def folder_of_case(write_case, tmp_path):
    from aiida_dse.documents import load_document
    from aiida_dse.engine.resources import Resources
    from aiida_dse.tasks.build import build
    from aiida_dse.tasks.run import run_refine, run_scan

    path = write_case(tmp_path, {"scan": {"axes": [{"parameter": "salt.a", "values": [4.11, 4.12]}]}})
    return build(load_document(path), tmp_path), run_refine, run_scan, Resources(2)


def test_space_and_directories_of_every_computer_are_reported(place, monkeypatch, tmp_path):
    finished(place, cleaned=True)
    finished(place)
    finished(place, status=310)
    engine = tmp_path / "engine"
    engine.write_text(f"#!/bin/sh\necho 'dse-engine, version 9.9, {engine_identity()}'\n")
    engine.chmod(0o755)
    InstalledCode(label="elsewhere", computer=place, filepath_executable=str(engine),
                  default_calc_job_plugin="dse.refine").store()

    def found():
        return {check.name: check for check in other_engines("nobody@localhost") if place.label in check.found}

    checks = found()
    assert {name: check.outcome for name, check in checks.items()} == {
        "scratch": "ok", "directories": "ok", "code": "ok"}
    assert "GB are free in" in checks["scratch"].found and str(tmp_path / "not") in checks["scratch"].found
    assert "2 working directories" in checks["directories"].found
    assert "1 of them of failed jobs" in checks["directories"].found

    monkeypatch.setattr(checks_module, "LITTLE_SPACE", 1e30)
    monkeypatch.setattr(checks_module, "MANY_DIRECTORIES", 1)
    checks = found()
    for name in ("scratch", "directories"):
        assert checks[name].outcome == "warn"
        accepted(checks[name].remedy)

    output = CliRunner().invoke(main, ["doctor", "--json", "--code", "nobody@localhost"]).output
    assert sum(place.label in row["found"] and row["name"] == "scratch" for row in json.loads(output)) == 1


def accepted(remedy):
    """verdi knows the command of a remedy and its options."""
    words = remedy.partition(" (")[0].split()
    assert words[0] == "verdi"
    outcome = CliRunner().invoke(verdi, [*words[1:], "--help"])
    assert outcome.exit_code == 0, outcome.output


def test_a_computer_that_cannot_be_reached_or_written_to_is_reported(place, monkeypatch):
    class Broken:
        def __enter__(self):
            raise OSError("no route to host")

        def __exit__(self, *_):
            return False

    with monkeypatch.context() as patch:
        patch.setattr(type(place), "get_transport", lambda self: Broken())
        found = {check.name: check for check in computer_checks(place)}
    assert found["scratch"].outcome == "fail" and "no route to host" in found["scratch"].found
    accepted(found["scratch"].remedy)
    place.set_workdir("/proc/sys")
    found = {check.name: check for check in computer_checks(place)}
    assert found["scratch"].outcome in ("fail", "warn"), found["scratch"]  # root may write everywhere


@pytest.mark.parametrize("succeeds", [False, True])
def test_directories_of_failed_jobs_are_kept_if_the_analysis_fails(case_nodes, code, place, tmp_path, succeeds):
    if not succeeds:
        engine = tmp_path / "failing"
        engine.write_text("#!/bin/sh\necho 'a reason' >&2\nexit 3\n")
        engine.chmod(0o755)
        code = InstalledCode(label="failing", computer=place, filepath_executable=str(engine)).store()
    with disable_caching():
        _, node = run_get_node(RefineWorkChain, refine=case_nodes() | {"code": code}, max_iterations=1,
                               clean_workdir=True)
    (job,) = node.called
    assert node.is_finished_ok is succeeds
    assert job.outputs.remote_folder.is_cleaned is succeeds
