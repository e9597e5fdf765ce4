"""A study whose daemon is stopped and started, or whose workers are killed, in its middle."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from aiida.common import LinkType
from aiida.manage import get_manager
from aiida.manage.configuration import get_config, get_profile
from aiida.orm import CalcJobNode, load_node
from click.testing import CliRunner
from numpy.testing import assert_allclose
from waiting import patient, wait_until

from aiida_dse.cli.main import main
from aiida_dse.cli.submission import wait_for

TEMPERATURES = (120.0, 240.0, 360.0)
#: What only one job reads: that of the second of three refinements, that of the second tile.
REFINEMENT, TILE = "salt at 240 K", "4.1375"


@pytest.fixture(scope="module")
def study(case, write_case, pattern_of, tmp_path_factory):
    """A series of three samples and a map of two tiles, as a file."""
    folder = tmp_path_factory.mktemp("faults")
    write_case(folder)
    samples = {}
    for k, kelvin in enumerate(TEMPERATURES):
        truth = {"salt.a": 4.11 + 4e-5 * kelvin, "salt.Cs1.B_iso": 0.3 + 0.005 * kelvin,
                 "salt.Cl_a.B_iso": 0.5 + 0.006 * kelvin}
        (folder / f"T{k}.xye").write_text(pattern_of(truth, k + 60))
        samples[f"T{k}"] = {
            "pattern": {"file": f"T{k}.xye"},
            "sample": {"name": f"salt at {kelvin:.0f} K", "temperature": kelvin}}
    base = copy.deepcopy(case.document)
    del base["pattern"]["file"], base["sample"]
    content = {
        "schema": "aiida-dse/study/2", "name": "interrupted", "samples": samples,
        "defaults": base | {"refinement": {"stages": [["salt.a", "salt.*.B_iso"]]}},
        "series": {"warming": {"kind": "temperature", "samples": "T*"}},
        "maps": [{"sample": "T0", "axes": [
            {"parameter": "salt.a", "values": [4.1025, float(TILE)]},
            {"parameter": "salt.Cs1.B_iso", "values": [0.5, 1.0]}]}],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def launched(started, study, make_code, tmp_path_factory, long_maps):
    """A function: the study with a code of its own, so that nothing comes from the cache.

    Every job adds its folder to `log`; the one that reads `held` waits while the file `hold` is
    there.
    """
    holds = []

    def launch(label, held=None):
        folder = tmp_path_factory.mktemp(label)
        hold, log = folder / "hold", folder / "runs.log"
        lines = [f'echo "$PWD" >> "{log}"']
        if held:
            hold.touch()
            holds.append(hold)
            lines.append(f"if grep -q '{held}' model.json; then "
                         f"while [ -e '{hold}' ]; do sleep 0.05; done; fi")
        code = make_code(label, "\n".join(lines))
        with long_maps():
            done = CliRunner().invoke(
                main, ["launch", "study", str(study), "--code", code.full_label, "--threads", "1"])
        assert done.exit_code == 0, done.output
        node = load_node(int(re.search(r"StudyWorkChain<(\d+)>", done.output)[1]))
        return SimpleNamespace(node=node, hold=hold, log=log)

    yield launch
    for hold in holds:
        hold.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def undisturbed(launched, finish):
    node = finish(launched("undisturbed").node)
    assert node.is_finished_ok, node.exit_message
    assert len(jobs_of(node)) == 5
    return node


def jobs_of(node):
    return [one for one in node.called_descendants if isinstance(one, CalcJobNode)]


def place(node):
    """The labels of the calls that lead from the study to a process."""
    links = node.base.links.get_incoming(link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)).all()
    return () if not links else (*place(links[0].node), links[0].link_label)


def drop_task_of(pk):
    """As if the message to the broker had been lost."""
    folder = Path(get_config().filepaths(get_profile())["broker_service"]["dir"])
    (task,) = [path for path in (folder / "storage" / "tasks").glob("*/*.json")
               if json.loads(path.read_text())["body"]["args"]["pid"] == pk]
    task.unlink()


def wait_until_only_the_held_job_runs(node):
    """The jobs that have finished by then."""
    def others():
        assert not node.is_terminated, node.exit_message
        jobs = jobs_of(node)
        finished = [job for job in jobs if job.is_finished_ok and job.caller.is_terminated]
        left = [job for job in jobs if not job.is_terminated]
        waits = len(left) == 1 and left[0].get_scheduler_state() is not None
        return finished if waits else []

    return wait_until(others, lambda: f"{node}: {jobs_of(node)}", seconds=120, every=0.5)


def assert_equal_numbers(found, expected, path=""):
    """Two results agree; names of nodes and durations are not compared."""
    if isinstance(expected, Mapping):
        assert set(found) == set(expected), path  # a restored work chain sorts its rows
        for key in expected:
            if key not in ("uuid", "pk", "result", "seconds"):
                assert_equal_numbers(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for k, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal_numbers(*pair, f"{path}.{k}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, nan_ok=True), path
    else:
        assert found == expected, path


def part(study, kind, name):
    return load_node(study.outputs.summary.get_dict()[kind][name]["uuid"])


def assert_same_results(found, expected):
    assert found.exit_status == expected.exit_status, found.exit_message
    assert_equal_numbers(found.outputs.summary.get_dict(), expected.outputs.summary.get_dict())
    series, other = (part(one, "series", "warming").outputs for one in (found, expected))
    assert_equal_numbers(series.table.get_dict(), other.table.get_dict())
    for name in ("T0", "T1", "T2"):
        assert_equal_numbers(
            series.refined[name].get_dict()["parameters"],
            other.refined[name].get_dict()["parameters"], name)
    name = next(iter(found.outputs.summary["maps"]))
    map_, other = (part(one, "maps", name).outputs.map for one in (found, expected))
    assert set(map_.get_arraynames()) == set(other.get_arraynames())
    for name in map_.get_arraynames():
        assert_allclose(map_.get_array(name), other.get_array(name), rtol=1e-9, err_msg=name)


def assert_every_step_ran_once(run, undisturbed, before):
    """The same jobs as without a fault, each one once and in one folder; `before`: those kept."""
    jobs = jobs_of(run.node)
    assert sorted(map(place, jobs)) == sorted(map(place, jobs_of(undisturbed)))
    assert all(job.is_finished_ok and not job.base.caching.is_created_from_cache for job in jobs)
    assert len({job.base.extras.get("_aiida_hash") for job in jobs}) == len(jobs)
    assert {job.pk for job in before} < {job.pk for job in jobs}
    assert sorted(run.log.read_text().split()) == sorted(job.get_remote_workdir() for job in jobs)


@pytest.mark.parametrize(
    "lost",
    [pytest.param("", id="whole", marks=pytest.mark.slow),
     pytest.param("job", marks=pytest.mark.slow), "study"])
def test_a_study_goes_on_when_its_daemon_is_started_again(
    undisturbed, launched, daemon_client, start_anew, lost
):
    """The job that ran when the daemon was stopped ends while there is none.

    `lost`: the task of the job, or that of the whole study, is gone too, as happens to what is
    submitted while the daemon stops.
    """
    run = launched(f"lost-{lost}" if lost else "stopped", held=REFINEMENT)
    before = wait_until_only_the_held_job_runs(run.node)
    (held,) = [job for job in jobs_of(run.node) if not job.is_terminated]

    def meanwhile():
        run.hold.unlink()
        if lost:
            drop_task_of(held.pk if lost == "job" else run.node.pk)

    start_anew(daemon_client, meanwhile)
    wait_for(run.node, look_every=2)
    assert_same_results(run.node, undisturbed)
    assert_every_step_ran_once(run, undisturbed, before)


@pytest.mark.parametrize(
    ("killed", "held"), [pytest.param(1, REFINEMENT, marks=pytest.mark.slow), (2, TILE)])
def test_a_study_survives_killed_workers(
    undisturbed, launched, mortal, workers_of, killed, held
):
    """kill -9 of one worker while the samples are refined, of all while the map is computed."""
    run = launched(f"killed-{killed}", held=held)
    before = wait_until_only_the_held_job_runs(run.node)
    for pid in workers_of(mortal)[:killed]:
        os.kill(pid, signal.SIGKILL)
    run.hold.unlink()
    wait_for(run.node, look_every=2)
    assert_same_results(run.node, undisturbed)
    assert_every_step_ran_once(run, undisturbed, before)


def test_a_study_survives_a_power_cut(undisturbed, launched, mortal, study):
    """kill -9 of circus, broker and workers at once, which leaves the file of a running daemon."""
    run = launched("power-cut", held=REFINEMENT)
    before = wait_until_only_the_held_job_runs(run.node)
    circus = psutil.Process(mortal.get_daemon_pid())
    for process in (circus, *circus.children(recursive=True)):
        if "dse-engine" not in " ".join(process.cmdline()):
            process.kill()
    psutil.wait_procs([circus], timeout=patient(20))
    manager = get_manager()
    manager.reset_broker()
    manager.reset_runner()
    run.hold.unlink()
    remedy = "doctor --fix"
    refused = CliRunner().invoke(
        main, ["launch", "study", str(study), "--code", "power-cut@localhost"])
    assert refused.exit_code == 1 and "Nothing was submitted" in refused.output
    assert remedy in refused.output
    for command in (["list"], ["watch", str(run.node.pk), "--once"]):
        output = CliRunner().invoke(main, command).output
        assert remedy in output
    CliRunner().invoke(main, ["doctor", "--fix"])
    manager.reset_broker()
    manager.reset_runner()
    wait_for(run.node, look_every=2)
    assert_same_results(run.node, undisturbed)
    assert_every_step_ran_once(run, undisturbed, before)


#: Python starts with this file; a broker that takes longer to start than its workers.
SLOW_BROKER = """import sys, time
if "broker" in sys.orig_argv:
    time.sleep(8)
"""


@pytest.mark.parametrize("reused", [False, True], ids=["free", "reused"])
def test_workers_find_the_broker_that_is_started_after_a_power_cut(
        aiida_profile, mortal, in_order, tmp_path, reused):
    """The address of the killed broker is left; `reused`: another program now has its process ID."""
    circus = psutil.Process(mortal.get_daemon_pid())
    family = (circus, *circus.children(recursive=True))
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=patient(20))
    files = Path(get_config().filepaths(aiida_profile)["broker_service"]["dir"])
    left = Path((files / "broker.sockets").read_text())
    assert left.exists()
    if reused:
        (files / "broker.pid").write_text(f"aiida-zeromq-broker {os.getpid()}")
    (tmp_path / "sitecustomize.py").write_text(SLOW_BROKER)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(
            [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
        CliRunner().invoke(main, ["doctor", "--fix"])
    in_order(aiida_profile)
    assert not left.exists()
    assert Path((files / "broker.sockets").read_text()).exists()


def test_a_study_survives_a_daemon_that_does_not_reply(undisturbed, launched, mortal, study):
    """circus exists, but is stopped: only its file and its process suggest a daemon that works."""
    run = launched("silent", held=REFINEMENT)
    before = wait_until_only_the_held_job_runs(run.node)
    circus = psutil.Process(mortal.get_daemon_pid())
    family = (circus, *circus.children(recursive=True))
    circus.suspend()
    try:
        refused = CliRunner().invoke(
            main, ["launch", "study", str(study), "--code", "silent@localhost"])
        assert refused.exit_code == 1 and "Nothing was submitted" in refused.output
        assert "does not respond" in refused.output and "doctor --fix" in refused.output
        watched = CliRunner().invoke(main, ["watch", str(run.node.pk), "--once"]).output
        assert "doctor --fix" in watched
        run.hold.unlink()
        fixed = CliRunner().invoke(main, ["doctor", "--fix"])
        assert "Error" not in fixed.output and "does not respond." not in fixed.output, fixed.output
        assert not circus.is_running()
    finally:
        for process in family:
            if process.is_running() and process.status() == psutil.STATUS_STOPPED:
                process.resume()
    get_manager().reset_broker()
    get_manager().reset_runner()
    wait_for(run.node, look_every=2)
    assert_same_results(run.node, undisturbed)
    assert_every_step_ran_once(run, undisturbed, before)
