"""Where it runs: PostgreSQL and RabbitMQ, SSH, Slurm, a computer without AiiDA; each for real.

Nothing here touches the configuration of the person who runs the tests: AiiDA, ssh and Slurm get
folders, keys and ports of their own, and every server that is started here is stopped here. The
database servers are those that DSE_TEST_POSTGRES and DSE_TEST_RABBITMQ name (HOST:PORT), the engine
alone is in the folder that DSE_TEST_ENGINE names; `.ci/run` sets all three.
"""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from user import User, finished, python_in, settled
from waiting import patient, wait_until

from aiida_dse.cli import postgres

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "setup_profiles"
STAGES = {"refinement": {"stages": [["salt.a", "salt.*.B_iso"]]}}
NEEDS_SERVERS = "set DSE_TEST_POSTGRES and DSE_TEST_RABBITMQ to servers (HOST:PORT) for tests"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(command, log, **more):
    """A server in the foreground, ended whatever happens."""
    with log.open("w") as output:
        process = subprocess.Popen([str(c) for c in command], stdout=output, stderr=output, **more)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(patient(10))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- the files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["embedded", "production", "computer-ssh", "computer-slurm"])
def test_the_files_that_are_shipped_can_be_read(name):
    from aiida_dse.cli.setup_files import NO_FILE, read_file

    content = read_file(PROFILES / f"{name}.yaml")
    if name == "embedded":
        assert content.items() >= NO_FILE.items()


@pytest.mark.parametrize("section, key, value, message", [
    ("computer", "hostnam", "x", "unknown key 'hostnam'"),
    ("computer", "work_dir", None, "'work_dir' is missing"),
    ("computer", "scheduler", "core.pbs", "core.slurm and core.direct"),
    ("code", "filepath_executable", "dse-engine", "absolute path"),
    ("jobs", "walltime", "1h", "'1h', but must be a number of at least 60"),
    ("jobs", "partition", "short", "requires the scheduler core.slurm"),
    (None, "database_password", "secret", "Do not store passwords in this file"),
    (None, "broker", "rabbit", "core.rabbitmq"),
])
def test_a_file_that_cannot_be_used_is_refused(tmp_path, section, key, value, message):
    from click import ClickException

    from aiida_dse.cli.setup_files import read_file

    name = "computer-ssh" if section else "production"
    content = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
    (content[section] if section else content)[key] = value
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ClickException) as refused:
        read_file(path)
    assert message in refused.value.message
    assert "secret" not in refused.value.message


@pytest.mark.parametrize("name", [".", "..", "../new", "a/b", "-x", "a\nb", "a'b", "x" * 61, "a b"])
def test_a_profile_cannot_lie_outside_the_folder_of_profiles(name):
    """'setup --profile . --undo --delete-data' would otherwise delete the data of all profiles."""
    from click.testing import CliRunner

    from aiida_dse.cli.main import main

    for options in ([], ["--undo"], ["--undo", "--delete-data"]):
        message = CliRunner().invoke(main, ["setup", f"--profile={name}", "--no-daemon", *options])
        assert message.exit_code == 1 and "not a valid name of a profile" in message.output


def test_only_data_that_set_up_created_are_deleted(tmp_path):
    from click import ClickException

    from aiida_dse.cli.profile_removal import _delete

    config = SimpleNamespace(dirpath=str(tmp_path), profiles=[])
    (tmp_path / "repository" / "other").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for folder in ("repository", "repository/other", "elsewhere", "repository/mine/../other"):
        with pytest.raises(ClickException, match="did not create them"):
            _delete(config, {"profile": "mine", "folder": str(tmp_path / folder)})
    assert (tmp_path / "elsewhere").exists() and (tmp_path / "repository" / "other").exists()


# --- PostgreSQL and RabbitMQ ------------------------------------------------------------------


@pytest.fixture
def production(tmp_path):
    """A user, and the file of a profile on the servers for tests; nothing is left on them."""
    servers = [os.environ.get(f"DSE_TEST_{name}", "") for name in ("POSTGRES", "RABBITMQ")]
    if not all(servers):
        pytest.skip(NEEDS_SERVERS)
    (pg_host, pg_port), (mq_host, mq_port) = (text.rsplit(":", 1) for text in servers)
    content = yaml.safe_load((PROFILES / "production.yaml").read_text())
    name = f"dse_test_{os.getpid()}"
    content |= {"profile": name, "database_name": name, "database_username": name,
                "database_hostname": pg_host, "database_port": int(pg_port),
                "broker_host": mq_host, "broker_port": int(mq_port)}
    path = tmp_path / "production.yaml"
    path.write_text(yaml.safe_dump(content))
    user = User(tmp_path)
    yield user, path, content
    user.tries("setup", path, "--undo", "--delete-data")
    database = postgres.Database(pg_host, int(pg_port), name, name, "")
    postgres.drop(database, postgres.made_by_setup(database))


def files_with(text, folder):
    """Files that contain a text."""
    return [path for path in folder.rglob("*")
            if path.is_file() and text.encode() in path.read_bytes()]


def test_a_refinement_on_postgresql_and_rabbitmq(production, write_case, tmp_path):
    """Set up twice, refined through the daemon, removed in two steps; the password stays hidden."""
    user, path, content = production
    first = user.runs("setup", path)
    assert f"database '{content['database_name']}' was created" in first
    stored = json.loads(user.config.read_text())["profiles"][content["profile"]]
    password = stored["storage"]["config"]["database_password"]
    assert (stored["storage"]["backend"], stored["process_control"]["backend"]) == (
        "core.psql_dos", "core.rabbitmq")
    assert stored["options"]["caching.enabled_for"] == ["aiida.calculations:dse.*"]
    assert stored["options"]["warnings.rabbitmq_version"] is False
    assert [f for f in user.config.parent.glob("config.json*") if f.stat().st_mode & 0o077] == []
    second = user.runs("setup", path)
    assert second.count("already exists") == 3
    assert "the daemon is already running" in second
    launched = user.runs("launch", "refine", write_case(tmp_path, STAGES), "--threads", 1, "--wait")
    pk = finished(launched, "RefineWorkChain")
    assert files_with(password, user.config.parent)
    kept = user.runs("setup", path, "--undo")
    assert "daemon was stopped" in kept and "the data were retained" in kept
    assert files_with(password, user.home) == []
    # the database is found again by whoever has set a password of the role
    again = user.tries("setup", path, "--no-daemon", input=f"{password}\n")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"database '{content['database_name']}' already exists and is used" in again.stdout
    assert "salt.Cs1.B_iso" in user.runs("show", pk)
    assert "the data were retained" in user.runs("setup", path, "--undo")
    repository = user.config.parent / "repository" / content["profile"]
    assert any(repository.iterdir())
    # the profile is gone, its data are found all the same
    gone = user.runs("setup", path, "--undo", "--delete-data")
    name = content["database_name"]
    assert f"deleted: the database '{name}', the role '{name}', {repository}" in gone
    assert not repository.exists()
    database = postgres.Database(content["database_hostname"], content["database_port"], name, name,
                                 "")
    assert not postgres.exists(database) and postgres.made_by_setup(database) == set()
    assert "nothing to undo" in user.runs("setup", path, "--undo", "--delete-data")
    shown = first + second + launched + kept + again.stdout + again.stderr + gone
    for log in (user.home / ".aiida" / "daemon").rglob("*.log"):
        shown += log.read_text()
    assert password not in shown
    assert files_with(password, user.home) == []


def test_terminated_connections_to_the_database_cost_no_analysis(production, write_case, tmp_path):
    """PostgreSQL ends all connections while a job runs; AiiDA then forgets the tasks."""
    import psycopg

    user, path, content = production
    user.runs("setup", path)
    password = json.loads(user.config.read_text())["profiles"][content["profile"]]["storage"]["config"][
        "database_password"]
    python_in(user, "code = orm.load_code('dse-engine@localhost')\n"
              "orm.InstalledCode(label='slow', computer=code.computer, prepend_text='sleep 6',\n"
              "    filepath_executable=str(code.filepath_executable)).store()")
    launched = user.runs("launch", "refine", write_case(tmp_path, STAGES), "--threads", 1,
                         "--code", "slow@localhost")
    pk = finished(launched, "RefineWorkChain")
    wait_until(lambda: "RefineCalculation" in user.runs("watch", pk, "--once"),
               lambda: user.runs("watch", pk, "--once"), seconds=60)
    for _ in range(4):
        with psycopg.connect(
            host=content["database_hostname"], port=content["database_port"], password=password,
            dbname=content["database_name"], user=content["database_username"],
        ) as connection:
            connection.execute("select pg_terminate_backend(pid) from pg_stat_activity "
                               "where usename = current_user and pid <> pg_backend_pid()")
        time.sleep(1.5)
    settled(user, pk)
    assert "salt.Cs1.B_iso" in user.runs("show", pk)


def test_data_that_another_profile_uses_are_not_deleted(production):
    """Two profiles on one database: undo of the one with --delete-data is refused."""
    user, path, content = production
    user.runs("setup", path, "--no-daemon")
    config = json.loads(user.config.read_text())
    first = config["profiles"][content["profile"]]
    config["profiles"]["second"] = first | {"PROFILE_UUID": "0" * 32}
    user.config.write_text(json.dumps(config))
    refused = user.tries("setup", path, "--undo", "--delete-data")
    assert refused.returncode == 1 and "another profile uses the same data" in refused.stderr
    # nor after an undo that keeps them
    user.runs("setup", path, "--undo")
    refused = user.tries("setup", path, "--undo", "--delete-data")
    assert refused.returncode == 1 and "another profile uses the same data" in refused.stderr
    database = postgres.Database(content["database_hostname"], content["database_port"],
                                 content["database_name"], content["database_username"], "")
    assert postgres.exists(database)


def test_a_password_is_stored_as_its_scram_verifier():
    """Salted, so that no two are alike, and without the password in it."""
    first, second = (postgres.scram_verifier("dse", "a password") for _ in range(2))
    assert re.fullmatch(r"SCRAM-SHA-256\$\d{4,}:[^$]{24}\$[^:]{44}:.{44}", first), first
    assert first != second and "password" not in first


def test_a_broker_that_does_not_answer_leaves_nothing_behind(production):
    user, path, content = production
    path.write_text(yaml.safe_dump(content | {"broker_port": free_port()}))
    refused = user.tries("setup", path)
    assert refused.returncode == 1 and "does not respond" in refused.stderr
    database = postgres.Database(content["database_hostname"], content["database_port"],
                                 content["database_name"], content["database_username"], "")
    assert postgres.made_by_setup(database) == set()


# --- SSH and Slurm ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of one node; the path of its configuration."""
    where = f"/usr/sbin:/usr/local/sbin:{os.environ['PATH']}"
    found = {name: shutil.which(name, path=where)
             for name in ("munged", "slurmctld", "slurmd", "srun", "sinfo")}
    missing = [name for name, path in found.items() if path is None]
    if missing or os.geteuid() != 0:
        why = f"{', '.join(missing)} is missing" if missing else "only root can start a Slurm"
        pytest.skip(f"no Slurm: {why} (Debian: munge slurmctld slurmd slurm-client)")
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().split(".")[0]
    munge = folder / "munge.socket"
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text("\n".join([
        "ClusterName=dse-test", f"SlurmctldHost={host}(127.0.0.1)", "SlurmUser=root",
        f"SlurmctldPort={free_port()}", f"SlurmdPort={free_port()}", "AuthType=auth/munge",
        f"AuthInfo=socket={munge}", "CredType=cred/munge", f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool", f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd.pid", "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none", "MpiDefault=none", "ReturnToService=2",
        "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0",
        "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core",
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN",
        f"PartitionName=short Nodes={host} Default=YES MaxTime=60 State=UP", "",
    ]))
    environment = os.environ | {"SLURM_CONF": str(config)}
    with ExitStack() as stack:
        logs = {name: folder / f"{name}.log" for name in ("munged", "slurmctld", "slurmd")}
        for name, arguments in (
            ("munged", ["--foreground", "--force", f"--socket={munge}",
                        f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid",
                        f"--seed-file={folder}/munged.seed"]),
            ("slurmctld", ["-D"]), ("slurmd", ["-D"]),
        ):
            stack.enter_context(server([found[name], *arguments], logs[name], env=environment))
            if name == "munged":
                wait_until(munge.exists, logs[name].read_text)

        def idle():
            asked = subprocess.run([found["sinfo"], "-h", "-o", "%T"], env=environment, text=True,
                                   capture_output=True, check=False)
            return asked.stdout.strip() == "idle"

        wait_until(idle, lambda: "\n".join(log.read_text() for log in logs.values()))
        yield config


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """Somebody with the profile without services, and its daemon."""
    user = User(tmp_path_factory.mktemp("user"))
    try:
        user.runs("setup")
        yield user
    finally:
        kept = user.runs("setup", "--undo")
        assert "daemon was stopped" in kept and "the data were retained in" in kept
        assert any((user.home / ".aiida" / "repository").iterdir())
        assert "deleted: " in user.runs("setup", "--undo", "--delete-data")
        assert not any((user.home / ".aiida" / "repository").iterdir())
        assert "nothing to undo" in user.runs("setup", "--undo", "--delete-data")


@contextmanager
def ssh_host(user, name, folder, environment=None):
    """An ssh server on this computer that this user reaches as `name`, with a key of its own."""
    if not os.environ.get("DSE_TEST_SSH"):
        pytest.skip("set DSE_TEST_SSH=1 to start an ssh server for this test")
    program = shutil.which("sshd", path=f"/usr/sbin:/usr/local/sbin:{os.environ['PATH']}")
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh server: sshd is missing (Debian: openssh-server)")
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("no ssh server: as root it needs the folder /run/sshd")
    port = free_port()
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key],
                       check=True)
    config = folder / "sshd_config"
    config.write_text("\n".join([
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host_key",
        f"PidFile {folder}/sshd.pid", f"AuthorizedKeysFile {folder}/user_key.pub",
        "AuthenticationMethods publickey", "PermitRootLogin prohibit-password", "UsePAM no",
        "StrictModes no", "Subsystem sftp internal-sftp",
        *(f"SetEnv {key}={value}" for key, value in (environment or {}).items()), "",
    ]))
    ssh = user.home / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    kind, key = (folder / "host_key.pub").read_text().split()[:2]
    with (ssh / "known_hosts").open("a") as known:
        known.write(f"[127.0.0.1]:{port} {kind} {key}\n")
    with (ssh / "config").open("a") as hosts:
        hosts.write(f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n"
                    f"  User {getpass.getuser()}\n  IdentityFile {folder}/user_key\n")
    log = folder / "sshd.log"
    with server([program, "-D", "-e", "-f", config], log):
        wait_until(lambda: listens(port), log.read_text)
        yield


def computer_file(path, kind, name, folder):
    """A shipped file with this test's computer in it."""
    content = yaml.safe_load((PROFILES / f"computer-{kind}.yaml").read_text())
    alone = os.environ.get("DSE_TEST_ENGINE")
    engine = Path(alone) / "bin" / "dse-engine" if alone else BIN / "dse-engine"
    cache = Path(alone) / "numba" if alone else folder / "numba"
    content["computer"] |= {"label": name, "hostname": name, "work_dir": str(folder / "work")}
    content["configure"] = {"safe_interval": 0}
    content["code"] |= {"filepath_executable": str(engine.absolute()),
                        "prepend_text": f"export NUMBA_CACHE_DIR='{cache.absolute()}'"}
    content["jobs"] |= {"threads": 1, "poll_interval": 1}
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_refinement_over_ssh(user, write_case, tmp_path):
    with ssh_host(user, "lab", tmp_path):
        path = computer_file(tmp_path / "lab.yaml", "ssh", "lab", tmp_path)
        first = user.runs("setup", path)
        assert "computer 'lab' was created" in first and "self-test" in first
        assert user.runs("setup", path).count("already exists") == 2
        output = user.runs("launch", "refine", write_case(tmp_path, STAGES), "--wait",
                         "--code", "dse-engine@lab")
        pk = finished(output, "RefineWorkChain")
        shown = python_in(user, f"""
job = orm.load_node({pk}).called[0]
print(job.computer.label, job.exit_status, job.get_metadata_inputs()['threads'])
print(job.get_remote_workdir())
""").split()
        assert shown[:3] == ["lab", "0", "1"]
        assert shown[3].startswith(str(tmp_path / "work"))
        # its provenance stays true, so the computer is put aside and comes back on demand
        aside = user.runs("setup", path, "--undo")
        assert "disabled" in aside
        back = user.runs("setup", path)
        assert back.count("already exists") == 2
        assert python_in(user, "print(orm.load_code('dse-engine@lab').is_hidden)") == "False\n"


def test_a_computer_that_cannot_be_reached_is_reported_and_not_kept(user, tmp_path):
    path = computer_file(tmp_path / "away.yaml", "ssh", "nowhere.invalid", tmp_path)
    refused = user.tries("setup", path)
    assert refused.returncode == 1 and "'ssh nowhere.invalid true' must work" in refused.stderr
    assert "nothing to undo" in user.runs("setup", path, "--undo")


def test_a_computer_without_the_engine_is_reported_and_not_kept(user, tmp_path):
    with ssh_host(user, "bare", tmp_path):
        path = computer_file(tmp_path / "bare.yaml", "ssh", "bare", tmp_path)
        content = yaml.safe_load(path.read_text())
        content["code"]["filepath_executable"] = str(tmp_path / "dse-engine")
        path.write_text(yaml.safe_dump(content))
        refused = user.tries("setup", path)
        assert refused.returncode == 1 and "engine_only.py" in refused.stderr
        assert "nothing to undo" in user.runs("setup", path, "--undo")


def test_a_grid_search_on_slurm_over_ssh(user, slurm, write_case, tmp_path, case):
    """Every tile is a job of the queue, with what the computer's file asks for."""
    with ssh_host(user, "cluster", tmp_path, {"SLURM_CONF": slurm}):
        path = computer_file(tmp_path / "cluster.yaml", "slurm", "cluster", tmp_path)
        made = user.runs("setup", path)
        assert "compiling the engine in the queue of cluster" in made and "self-test" in made
        document = write_case(tmp_path, {"scan": case.scan})
        output = user.runs("launch", "grid-search", document, "--tile-seconds", 1, "--wait",
                         "--code", "dse-engine@cluster")
        pk = finished(output, "GridSearchWorkChain")
        shown = json.loads(python_in(user, f"""
import json
node = orm.load_node({pk})
jobs = [called for called in node.called if isinstance(called, orm.CalcJobNode)]
job = jobs[0]
print(json.dumps(dict(
    ok=node.is_finished_ok, shape=node.outputs.map.get_array('gof').shape,
    gof=float(node.outputs.map.get_array('gof').min()),
    queue=[each.get_job_id() for each in jobs],
    script=job.base.repository.get_object_content('_aiidasubmit.sh'))))
"""))
        assert shown["ok"] and shown["shape"] == [6, 4] and shown["gof"] < 1.3
        # the self-test was the queue's first job
        assert shown["queue"] and all(int(number) > 1 for number in shown["queue"])
        for line in ("--partition=short", "--account=my_project", "--time=01:00:00",
                     "--ntasks-per-node=1"):
            assert f"#SBATCH {line}" in shown["script"]


def test_a_computer_that_nothing_used_is_removed(user, tmp_path):
    with ssh_host(user, "idle", tmp_path):
        path = computer_file(tmp_path / "idle.yaml", "ssh", "idle", tmp_path)
        user.runs("setup", path)
        assert "computer 'idle' and its code were removed" in user.runs("setup", path, "--undo")
        assert "nothing to undo" in user.runs("setup", path, "--undo")


# --- the engine alone -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone():
    """The folder of an engine that setup_profiles/engine_only.py installed."""
    folder = os.environ.get("DSE_TEST_ENGINE")
    if not folder:
        pytest.skip("set DSE_TEST_ENGINE to a folder made by setup_profiles/engine_only.py")
    return Path(folder).absolute()


@pytest.fixture(scope="module")
def engine_only():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("engine_only", PROFILES / "engine_only.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_engine_works_where_aiida_is_not_installed(alone, write_case, tmp_path, case):
    absent = "import importlib.util as u; print(*[u.find_spec(n) for n in ('aiida', 'pymatgen')])"
    found = subprocess.check_output([alone / "bin" / "python", "-c", absent], text=True)
    assert found.split() == ["None", "None"]
    document = write_case(tmp_path, STAGES | {"scan": case.scan})
    environment = os.environ | {"NUMBA_CACHE_DIR": str(alone / "numba")}
    for command in (["selftest"], ["refine", document, "-o", tmp_path / "fit", "--quiet"],
                    ["scan", document, "-o", tmp_path / "map", "--quiet"]):
        subprocess.run([alone / "bin" / "dse-engine", *command], env=environment, check=True,
                       cwd=tmp_path, timeout=patient(120))
    fit = json.loads((tmp_path / "fit" / "result.json").read_text())
    row = fit["parameters"]["salt.a"]
    assert abs(row["value"] - case.truth["salt.a"]) < 4 * row["su"]
    assert json.loads((tmp_path / "map" / "result.json").read_text())["shape"] == [6, 4]


def test_the_script_touches_no_folder_of_others(engine_only, tmp_path):
    kept = tmp_path / "mine.txt"
    kept.touch()
    with pytest.raises(SystemExit, match="contains other files"):
        engine_only.install(tmp_path, "aiida-dse")
    with pytest.raises(SystemExit, match="was not created by this script"):
        engine_only.remove(tmp_path)
    assert kept.exists()
    made = tmp_path / "made"
    made.mkdir()
    (made / engine_only.MARK).touch()
    engine_only.remove(made)
    assert not made.exists()
