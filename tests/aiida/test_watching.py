"""aiida-dse watch and doctor: what they see of work that runs and of an installation."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from aiida.common.datastructures import CalcJobState
from aiida.common.links import LinkType
from aiida.orm import (
    CalcJobNode,
    Computer,
    InstalledCode,
    ProcessNode,
    QueryBuilder,
    User,
    WorkChainNode,
    load_computer,
    load_node,
)
from click.testing import CliRunner
from waiting import patient, wait_until

from aiida_dse.cli import daemon, launching, lost_tasks, submission, watching
from aiida_dse.cli import doctor as doctor_module
from aiida_dse.cli.main import main
from aiida_dse.data.options import learnt_speed
from aiida_dse.data.steps import Step, shaded, steps_of

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cli():
    def run(*arguments):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="module")
def grid(cli, started, code, write_case, tmp_path_factory, long_maps):
    """PK of a grid search of four tiles, one at a time, that has just been submitted."""
    path = write_case(tmp_path_factory.mktemp("watched"))
    with long_maps():
        message = cli("launch", "grid-search", path, "--threads", 1, "--max-concurrent", 2, "--yes",
                      "--axis", "salt.a=4.105:4.145:0.01", "--axis", "salt.Cl_a.B_iso=1.6:3.1:0.5")
    assert message.exit_code == 0, message.output
    assert "aiida-dse watch" in message.output
    return int(re.search(r"GridSearchWorkChain<(\d+)>", message.output)[1])


# --- watch ----------------------------------------------------------------------------------------


def test_a_running_grid_is_watched_left_and_watched_to_its_end(cli, grid, finish, monkeypatch):
    once = cli("watch", grid, "--once")
    assert once.exit_code == 0 and f"GridSearchWorkChain<{grid}>" in once.output
    if "done" not in once.output.split(",")[0]:
        assert re.search(r"running|queued|created", once.output)

        def interrupted(seconds):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(watching.time, "sleep", interrupted)
            left = cli("watch", grid)
        assert left.exit_code == 0
        assert load_node(grid).is_terminated or "continues" in left.output
        # what has no result yet is listed all the same
        assert any(row.split()[:1] == [str(grid)] for row in cli("list").output.splitlines())
    monkeypatch.setattr(watching, "LINE_SECONDS", 0.2)
    watched = cli("watch", grid)
    assert finish(load_node(grid)).is_finished_ok
    assert re.search(r"done, (\d+) of \1 done, best GoF", watched.output)
    assert "GoF so far" in watched.output and "?" not in watched.output.split("computed):")[1]


def test_who_stops_waiting_is_told_that_the_analysis_continues(
    cli, started, code, write_case, finish, tmp_path, monkeypatch
):
    def interrupted(node):
        raise KeyboardInterrupt

    monkeypatch.setattr(submission, "wait_for", interrupted)
    message = cli("launch", "refine", write_case(tmp_path), "--code", code.full_label,
                  "--threads", 1, "--wait")
    pk = int(re.search(r"RefineWorkChain<(\d+)>", message.output)[1])
    assert message.exit_code == 130 and f"RefineWorkChain<{pk}> continues" in message.output
    assert f"aiida-dse watch {pk}" in message.output and "Aborted" not in message.output
    assert finish(load_node(pk)).is_finished


def test_a_map_that_takes_long_must_be_confirmed(cli, started, code, write_case, tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "LONG_MAP", 0.0)
    axis = ("--axis", "salt.a=4.105:4.145:0.01")
    given = ("launch", "grid-search", write_case(tmp_path), "--code", code.full_label, *axis)
    before = QueryBuilder().append(ProcessNode).count()
    message = cli(*given)
    assert message.exit_code == 1 and re.search(r"takes about .* on one core", message.output)
    assert "--yes" in message.output and "Nothing was submitted" in message.output
    assert cli(*given, "--dry-run").exit_code == 0
    assert QueryBuilder().append(ProcessNode).count() == before


def test_the_progress_of_a_running_job_is_shown(
    cli, started, make_code, write_case, finish, tmp_path
):
    """A held job whose log contains a line; afterwards the log contains those of the engine."""
    hold = tmp_path / "hold"
    hold.touch()
    code = make_code("held", f"printf '\\033[31mstage 1/2  cycle  3  GoF   1.5000\\n' > engine.err\n"
                             f"while [ -e '{hold}' ]; do sleep 0.05; done")
    path = write_case(tmp_path, {"refinement": {"stages": [["salt.a"], ["salt.*.B_iso"]]}})
    try:
        message = cli("launch", "refine", path, "--code", code.full_label, "--threads", 1).output
        pk = int(re.search(r"RefineWorkChain<(\d+)>", message)[1])
        shown = wait_until(
            lambda: (text := cli("watch", pk, "--once").output) and "cycle" in text and text,
            lambda: cli("watch", pk, "--once").output, seconds=60, every=0.5)
        assert "RefineCalculation" in shown and "stage 1/2 cycle 3 GoF 1.5000" in shown
        assert "\x1b" not in shown
    finally:
        hold.unlink()
    node = finish(load_node(pk))
    assert "cycle" not in cli("watch", pk).output
    (job,) = node.called
    log = job.outputs.retrieved.get_object_content("engine.err")
    assert re.search(r"stage 2/2  cycle +1  GoF +[0-9.]+", log)


def test_steps_know_what_was_computed(grid, finish):
    node = finish(load_node(grid))
    top = steps_of(grid)
    assert top.ended and not top.failed and top.expected == top.done >= 2
    assert {step.label for step in top.worked} == {f"tile_{k}" for k in range(top.done)}
    assert top.best_gof == node.outputs.result["minimum"]["gof"]
    drawn = watching.lines_of(top)[-5:]
    assert [len(row) for row in drawn] == [4] * 5
    at = np.unravel_index(int(np.nanargmin(node.outputs.map.get_array("gof"))), (5, 4))
    assert drawn[at[0]][at[1]] == "@"


def _step(**changes):
    now = datetime.now(UTC)
    return Step(**{"pk": 1, "name": "GridSearchWorkChain", "label": "", "state": "waiting",
                   "exit_status": None, "began": now - timedelta(seconds=100), "changed": now}
                | changes)


def _tile(pk, state="finished", exit_status=0, gof=None):
    return _step(pk=pk, name="ScanCalculation", label=f"tile_{pk}", state=state, is_job=True,
                 exit_status=exit_status, gof=gof)


def test_the_time_left_follows_from_the_share_done():
    top = _step(steps=[_tile(2, gof=1.5), _tile(3, gof=1.2), _tile(4, "waiting", None),
                       _tile(5, exit_status=400)], expected=10)
    assert top.remaining == pytest.approx(400, abs=2)
    assert top.best_gof == 1.2
    line = watching.summary_line(top)
    assert "2 of 10 done, 1 failed, best GoF 1.2000" in line and "about 7 min left" in line
    top.steps = []
    assert top.remaining is None and "time left unknown" in watching.summary_line(top)


def test_of_many_steps_only_those_that_run_or_failed_are_shown():
    steps = [_tile(k) for k in range(2, 42)]
    steps += [_tile(50, "waiting", None), _tile(51, exit_status=310)]
    lines = watching._tree(_step(steps=steps, expected=60), "")
    assert len(lines) == 4 and "40 finished steps" in lines[1]
    assert "failed (exit 310)" in lines[3]


def test_a_map_of_any_size_fits_the_terminal():
    gof = np.full((200, 300, 3), np.nan)
    gof[:100] = 1.0 + np.hypot(*np.mgrid[-50:50, -150:150])[..., None] / 100 + np.arange(3)
    rows = shaded(gof)
    assert len(rows) == 20 and {len(row) for row in rows} == {60}
    assert set("".join(rows[10:])) == {"?"} and "?" not in "".join(rows[:10])
    assert "@" in rows[4] or "@" in rows[5]
    assert shaded(np.full((3, 3), np.nan)) == []
    assert shaded(np.ones(4)) == ["@@@@"]


def test_what_is_no_process_cannot_be_watched(cli):
    from aiida.orm import Int

    for pk in (999999, "zzz", Int(1).store().pk):
        message = cli("watch", pk, "--once")
        assert message.exit_code == 1 and "no process" in message.output


# --- doctor ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warm(computer, tmp_path_factory):
    """A code with a cache folder of its own, as 'aiida-dse setup' makes it."""
    cache = tmp_path_factory.mktemp("numba")
    return InstalledCode(
        label="warm", computer=computer, prepend_text=f"export NUMBA_CACHE_DIR='{cache}'",
        filepath_executable=str(BIN / "dse-engine"),
    ).store()


@pytest.fixture
def no_selftest(monkeypatch):
    """The self-test compiles for a while; one test runs it."""
    real = doctor_module._ask

    def ask(command, seconds, environment=None):
        if command[1:] == ["selftest"]:
            return subprocess.CompletedProcess(command, 0, "passed", "")
        return real(command, seconds, environment)

    monkeypatch.setattr(doctor_module, "_ask", ask)


def outcomes(message):
    return {row["name"]: row for row in json.loads(message.output)}


def test_a_sound_installation_is_called_so(cli, grid, aiida_profile, in_order):
    in_order(aiida_profile)
    message = cli("doctor", "--json")
    found = outcomes(message)
    assert message.exit_code == 0, message.output
    assert {name for name, row in found.items() if row["outcome"] == "fail"} == set()
    assert {"versions", "profile", "storage", "daemon", "broker", "caching", "computer", "scratch",
            "code", "self-test"} <= found.keys()
    assert "2 workers" in found["broker"]["found"]
    # this profile of the tests caches scans only, and its code has no cache of numba
    assert found["caching"]["outcome"] == found["numba"]["outcome"] == "warn"
    assert "caching.enabled_for" in found["caching"]["remedy"]
    # this computer was made by hand: its speed is known only if three jobs have finished
    learnt = any(learnt_speed(load_computer("localhost"), task) for task in ("refine", "scan"))
    assert found["speed"]["outcome"] == ("ok" if learnt else "warn")


def test_each_trouble_is_reported_with_its_remedy(cli, warm, no_selftest, computer, monkeypatch):
    sound = outcomes(cli("doctor", "--code", warm.full_label, "--json"))
    assert sound["numba"]["outcome"] == "ok" and sound["code"]["outcome"] == "ok"

    def trouble(name, *arguments):
        message = cli("doctor", *arguments)
        assert message.exit_code == 1, message.output
        lines = message.output.splitlines()
        at = next(k for k, line in enumerate(lines) if re.match(rf"fail +{name} ", line))
        return lines[at], lines[at + 1]

    found, remedy = trouble("code", "--code", "nobody@localhost")
    assert "nobody" in found and "aiida-dse setup" in remedy
    gone = InstalledCode(label="gone", computer=computer,
                         filepath_executable="/no/such/dse-engine").store()
    found, remedy = trouble("code", "--code", gone.full_label)
    assert "does not exist" in found and f"verdi code delete {gone.pk}" in remedy
    # an interpreter answers --version too, with another version than the plugin's
    other = InstalledCode(label="other", computer=computer,
                          filepath_executable=sys.executable).store()
    found, remedy = trouble("code", "--code", other.full_label)
    assert "Python" not in found and "the plugin" in found and "install aiida-dse" in remedy
    user = User.collection.get_default()
    info = computer.get_authinfo(user)
    info.enabled = False
    try:
        found, remedy = trouble("computer", "--code", warm.full_label)
        assert f"verdi computer enable localhost {user.email}" in remedy
    finally:
        info.enabled = True


def test_workers_without_work_are_a_failure(cli, warm, no_selftest, grid, monkeypatch):
    from aiida_dse.cli import daemon

    for counted in (1, 0):
        seen = daemon.Workers("p", 2, counted, 5)
        monkeypatch.setattr(daemon, "workers_of_daemon", lambda profile, seen=seen: seen)
        message = cli("doctor", "--code", warm.full_label, "--json")
        row = outcomes(message)["broker"]
        assert message.exit_code == 1 and row["outcome"] == "fail"
        assert f"{counted} of 2 workers receive tasks (5 tasks are pending)" in row["found"]
        assert row["remedy"].endswith("doctor --fix")


def test_a_daemon_that_does_not_run_is_a_failure(
    cli, warm, no_selftest, stopped_daemon_client, start_anew, monkeypatch
):
    waiting = WorkChainNode()
    waiting.set_process_state("waiting")
    waiting.store()
    start = f"aiida-dse -p {stopped_daemon_client.profile.name} doctor --fix"
    try:
        message = cli("doctor", "--code", warm.full_label)
        assert message.exit_code == 1
        assert start in message.output
        for command in (("list",), ("watch", waiting.pk, "--once")):
            message = cli(*command)
            assert "The daemon is not running, so unfinished analyses do not proceed" in message.output
            assert start in message.output
        monkeypatch.setattr(daemon, "_unfinished", lambda: False)
        assert "daemon" not in cli("list").output
    finally:
        waiting.set_process_state("killed")
        start_anew(stopped_daemon_client)


def test_without_a_profile_the_doctor_names_the_set_up(tmp_path):
    message = subprocess.run(
        [BIN / "aiida-dse", "doctor", "--json"], capture_output=True, text=True,
        timeout=patient(60), env=os.environ | {"AIIDA_PATH": str(tmp_path)}, check=False,
    )
    rows = {row["name"]: row for row in json.loads(message.stdout)}
    assert message.returncode == 1
    assert rows["profile"]["outcome"] == "fail" and rows["profile"]["remedy"] == "aiida-dse setup"
    assert rows["versions"]["outcome"] == "ok"


def process(state, called_by=None, job_state=None, computer=None):
    """A stored process in a state, with a checkpoint as those of the daemon have."""
    kind = WorkChainNode if job_state is None else CalcJobNode
    node = kind(computer=computer) if computer else kind()
    node.set_process_state(state)
    node.set_checkpoint("checkpoint")
    if job_state is not None:
        node.set_state(job_state)
    if called_by is not None:
        node.base.links.add_incoming(
            called_by, LinkType.CALL_WORK if job_state is None else LinkType.CALL_CALC, "called")
    return node.store()


def test_processes_that_nobody_continues_are_stalled(aiida_profile, computer, monkeypatch):
    """A work chain whose jobs have ended, and states that do not last; but not one that waits for a job."""
    chain, waiting, created = process("waiting"), process("waiting"), process("created")
    ended = process("finished", chain, CalcJobState.PARSING, computer)
    at_scheduler = process("waiting", waiting, CalcJobState.WITHSCHEDULER, computer)
    uploads = process("waiting", None, CalcJobState.UPLOADING, computer)
    elsewhere = process("waiting", None, CalcJobState.UPLOADING, Computer(
        label="elsewhere", hostname="elsewhere", transport_type="core.ssh", scheduler_type="core.direct",
        workdir="/tmp").store())
    paused = process("created")
    paused.pause()
    made = (chain, waiting, created, ended, at_scheduler, uploads, elsewhere, paused)
    everything = {node.pk for node in made}

    def stalled():
        return everything & set(lost_tasks.stalled_processes())

    assert 0 <= lost_tasks._idle_seconds(created) < patient(60)
    # a job at the scheduler is asked about every 0.3 s, so it is given ten times as long in addition
    expected = {30.0: set(), 62.0: {chain, created, uploads}, 100.0: {chain, created, uploads, at_scheduler},
                400.0: {chain, created, uploads, at_scheduler, elsewhere}}
    for idle, nodes in expected.items():
        monkeypatch.setattr(lost_tasks, "_idle_seconds", lambda node, idle=idle: idle)
        assert stalled() == {node.pk for node in nodes}, idle
    for node in made:
        node.set_process_state("killed")
