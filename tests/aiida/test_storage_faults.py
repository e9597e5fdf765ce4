"""A locked database and a full disk, while a job runs; each for real, in a user's own folders."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess

import psutil
import pytest
from user import User, finished, python_in, settled, small_disk_at
from waiting import patient, wait_until

STAGES = {"refinement": {"stages": [["salt.a", "salt.*.B_iso"]]}}
#: Size (MB) of the disk that is filled.
DISK = 300


@contextlib.contextmanager
def installed(home):
    """A user with a daemon, and a code whose jobs wait while the file 'hold' exists."""
    user = User(home)
    try:
        user.runs("setup")
        python_in(user, "code = orm.load_code('dse-engine@localhost')\n"
                  f"wait = \"while [ -e '{home}/hold' ]; do sleep 0.1; done\"\n"
                  "orm.InstalledCode(label='held', computer=code.computer, default_calc_job_plugin='dse.refine',\n"
                  "    prepend_text=code.prepend_text + '\\n' + wait,\n"
                  "    filepath_executable=str(code.filepath_executable)).store()")
        yield user
    finally:
        (home / "hold").unlink(missing_ok=True)
        user.tries("setup", "--undo", "--delete-data")


@pytest.fixture
def user(tmp_path):
    with installed(tmp_path) as made:
        yield made


@pytest.fixture
def small_disk(tmp_path):
    """The same on a small disk of its own."""
    home = tmp_path / "disk"
    home.mkdir()
    with small_disk_at(home, DISK), installed(home) as made:
        yield made


def refine(user, case, code):
    """PK of a refinement that was submitted."""
    output = user.runs("launch", "refine", case / "model.yaml", "--threads", 1, "--code", code)
    return finished(output, "RefineWorkChain")


def wait_for_job(user, pk):
    wait_until(lambda: "job state RUNNING" in _processes(user), lambda: _processes(user), seconds=60, every=1)


def _processes(user):
    return subprocess.run(["verdi", "process", "list", "-r"], env=user.environment, capture_output=True, text=True,
                          check=False).stdout


def numbers(user, pk):
    """Values and s.u. of a refinement's parameters; None if it has no result."""
    found = json.loads(python_in(user, (
        f"import json; node = orm.load_node({pk})\n"
        "print(json.dumps({'ok': node.is_finished_ok, 'parameters': node.outputs.result.get_dict()['parameters']\n"
        "    if node.is_finished_ok else None}))")))
    return found["parameters"]


def assert_without_traceback(done, *words):
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    for word in words:
        assert word in text, text


@pytest.mark.slow  # AiiDA notices the loss after two minutes
def test_a_locked_database_costs_no_analysis(user, write_case, tmp_path):
    case = tmp_path / "case"
    case.mkdir()
    write_case(case, STAGES)
    expected = refine(user, case, "dse-engine@localhost")
    settled(user, expected)
    (user.home / "hold").touch()
    python_in(user, "from aiida.manage.configuration import get_config\n"
              "config = get_config(); config.unset_option('caching.enabled_for', scope='dse'); config.store()")
    pk = refine(user, case, "held@localhost")
    wait_for_job(user, pk)
    (database,) = (user.home / ".aiida" / "repository").glob("*/database.sqlite")
    logs = user.home / ".aiida" / "daemon" / "log"

    def seen():
        return any("database is locked" in path.read_text(errors="replace") for path in logs.glob("*.log"))

    lock = sqlite3.connect(database, timeout=patient(60), isolation_level=None)
    try:
        lock.execute("begin exclusive")
        (user.home / "hold").unlink()
        wait_until(seen, lambda: "no worker met the lock", seconds=60)
        locked = user.tries("list")
        assert locked.returncode == 1
        assert_without_traceback(locked, "another program keeps the database locked", "doctor --fix")
    finally:
        lock.execute("rollback")
        lock.close()
    settled(user, pk)
    assert numbers(user, pk) == numbers(user, expected)


def test_a_full_disk_costs_no_analysis_and_no_file(small_disk, write_case, tmp_path):
    """AiiDA's folder, the repository, the database and the working directories are on the full disk."""
    user = small_disk
    case = tmp_path / "case"
    case.mkdir()
    write_case(case, STAGES)
    expected = refine(user, case, "dse-engine@localhost")
    settled(user, expected)
    values = numbers(user, expected)
    (user.home / "hold").touch()
    pk = refine(user, case, "held@localhost")
    wait_for_job(user, pk)
    daemon = psutil.Process(int(next((user.home / ".aiida" / "daemon").glob("circus-*.pid")).read_text()))
    assert daemon.cwd() == str(user.home / ".aiida" / "daemon" / "empty")
    with contextlib.suppress(OSError), (user.home / "big").open("wb", buffering=0) as big:
        while True:
            big.write(bytes(4096))
    (user.home / "hold").unlink()
    refused = 0
    for command in (("list",), ("watch", pk, "--once"), ("show", pk), ("query",)):
        done = user.tries(*command)
        # a process that ends may have freed some bytes
        assert_without_traceback(done, *(("no space is left", "doctor --fix") if done.returncode else ()))
        refused += done.returncode
    assert refused
    for command in (("doctor",), ("doctor", "--fix")):
        assert_without_traceback(user.tries(*command), "MB are free", "doctor --fix")
    done = user.tries("launch", "refine", case / "model.yaml")
    assert_without_traceback(done, "space")
    assert done.returncode == 1
    # the broker ends when it cannot write its state, and starts again
    wait_until(lambda: "No space left" in _broker_log(user), lambda: _broker_log(user), seconds=60)
    (user.home / "big").unlink()
    fixed = user.tries("doctor", "--fix")
    assert_without_traceback(fixed)
    settled(user, pk)
    if numbers(user, pk) is None:  # the job itself met the full disk
        shown = user.runs("show", pk)
        assert "The disk of the computer is full" in shown, shown
        pk = refine(user, case, "held@localhost")
        settled(user, pk)
    assert numbers(user, pk) == values


def _broker_log(user):
    return "".join(path.read_text(errors="replace") for path in (user.home / ".aiida" / "broker").glob("*/*.log"))


def test_a_daemon_in_a_folder_with_files_is_reported_and_restarted_elsewhere(user, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "data.xye").write_text("1 2 3\n")
    for command in ("stop", "start"):
        subprocess.run(["verdi", "daemon", command], env=user.environment, cwd=mine, check=True,
                       capture_output=True)
    rows = {row["name"]: row for row in json.loads(user.tries("doctor", "--json").stdout)}
    assert rows["daemon"]["outcome"] == "warn" and str(mine) in rows["daemon"]["found"]
    assert rows["daemon"]["remedy"] == "aiida-dse -p dse doctor --fix"
    user.tries("doctor", "--fix")
    rows = {row["name"]: row for row in json.loads(user.tries("doctor", "--json").stdout)}
    assert rows["daemon"]["outcome"] == "ok"
    assert (mine / "data.xye").exists()
