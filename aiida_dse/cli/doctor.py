"""aiida-dse doctor: checks of an installation, each with the command that solves a problem."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

from aiida_dse.data.storage_trouble import storage_trouble

from .computer_checks import LITTLE_SPACE, Check, compared, computer_checks, other_engines
from .terminal import Refusal, echo

#: Time limits (s) for the version query of an engine and for its self-test, which may compile it.
VERSION_SECONDS, SELFTEST_SECONDS = 60, 300
#: Free space (bytes) below which AiiDA cannot work, and the daemon must not be started.
NO_SPACE = 2e7
#: Time limit (s) for a command of '--fix'.
FIX_SECONDS = 180
#: Time limit (s) for the broker of a new daemon to reply.
START_SECONDS = 20
_CACHE = re.compile(r"NUMBA_CACHE_DIR=(?:'([^']*)'|\"([^\"]*)\"|(\S+))")


@click.command("doctor")
@click.option("--code", "code_label", default="dse-engine@localhost", show_default=True,
              help="AiiDA code to check, together with its computer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--fix", is_flag=True, help=(
    "First restart what does not run or respond: the daemon, its workers and its broker, and continue "
    "unfinished analyses."))
@click.pass_obj
def doctor(profile: str | None, code_label: str, as_json: bool, fix: bool) -> None:
    """Check profile, daemon, broker, codes, computers, caches and versions, and list remedies."""
    if fix:
        _fix(profile)
    found = []
    for check in checks(profile, code_label):
        found.append(check)
        if not as_json:
            echo(f"{check.outcome:5}{check.name:12}{check.found}")
            if check.outcome != "ok" and check.remedy:
                echo(f"{'':17}-> {check.remedy}")
    if as_json:
        echo(json.dumps([check._asdict() for check in found], indent=1))
    if any(check.outcome == "fail" for check in found):
        raise SystemExit(1)


def _fix(name: str | None) -> None:
    """Restart the daemon, its workers and its broker if they do not work, and restore lost tasks."""
    from .daemon import daemon_runs, daemon_trouble, end_daemon, repair, workers_of_daemon
    from .daemon_start import launch_daemon, run_verdi

    loaded, _ = _profile(name)
    if loaded is None or loaded.process_control_backend is None:
        return
    for check in (_disk(loaded), _storage(loaded)):
        if check.outcome == "fail":
            raise Refusal(f"{check.found.rstrip('.')}. Nothing was restarted. Remedy: {check.remedy}")
    wrong = [check for check in _daemon(loaded) if check.outcome != "ok"]
    if any(check.remedy.startswith("aiida-dse ") for check in wrong):
        existed = daemon_runs(loaded)
        if existed and daemon_trouble(loaded):
            echo("ending the processes of the daemon, which does not respond", err=True)
            end_daemon(loaded)
        stop = (("daemon", "stop"),) if daemon_runs(loaded) else ()
        # a daemon that failed may have left tasks behind that only AiiDA's own repair finds
        tidy = (("process", "repair", "-f"),) if existed and any(c.outcome == "fail" for c in wrong) else ()
        for command in (*stop, *tidy, ("daemon", "start")):
            text = f"verdi -p {loaded.name} {' '.join(command)}"
            echo(f"running {text}", err=True)
            try:
                start = command == ("daemon", "start")
                done = launch_daemon(loaded.name, FIX_SECONDS) if start else \
                    run_verdi(loaded.name, *command, seconds=FIX_SECONDS)
                reason = f"{done.stdout}{done.stderr}".strip() if done.returncode else ""
            except (OSError, subprocess.TimeoutExpired) as problem:
                reason = str(problem)
            if reason:
                raise Refusal(f"{text} failed ({reason}). End the processes of the daemon, and repeat this "
                              "command.")
        until = time.monotonic() + START_SECONDS
        while loaded.process_control_backend == "core.zeromq" and workers_of_daemon(loaded) is None \
                and time.monotonic() < until:
            time.sleep(0.3)
    repair(loaded)


def checks(profile: str | None, code_label: str) -> Iterator[Check]:
    """All checks, ordered by their dependencies."""
    yield _versions()
    loaded, check = _profile(profile)
    yield check
    if loaded is None:
        return
    for storage in (_disk(loaded), _storage(loaded)):
        yield storage
        if storage.outcome == "fail":
            return
    yield from _daemon(loaded)
    yield from _rabbitmq(loaded)
    yield _caching(loaded)
    yield from _code(code_label)
    yield from other_engines(code_label)


def _versions() -> Check:
    import importlib.metadata

    import aiida_dse

    named = ("aiida-core", "numpy", "numba", "scipy", "xraydb")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in named)
    return Check("versions", "ok", f"aiida-dse {aiida_dse.__version__}, {versions}")


def _profile(name: str | None) -> tuple[Any, Check]:
    from aiida.common.exceptions import AiidaException
    from aiida.manage.configuration import load_profile

    try:
        loaded = load_profile(name)
    except AiidaException as problem:
        return None, Check("profile", "fail", f"no profile could be loaded ({problem})",
                           "aiida-dse setup")
    backend = loaded.process_control_backend or "no broker"
    return loaded, Check("profile", "ok", f"{loaded.name} ({loaded.storage_backend}, {backend})")


def _disk(profile: Any) -> Check:
    """Free space for the data of a profile and for the files of the broker."""
    from aiida.manage.configuration import get_config

    folders = [get_config().dirpath, profile.storage_config.get("filepath") or
               url2pathname(urlsplit(str(profile.storage_config.get("repository_uri", ""))).path)]
    free, folder = min((shutil.disk_usage(folder).free, folder) for folder in folders
                       if folder and os.path.isdir(folder))
    found = f"{free / 1e6:,.0f} MB are free in {folder}"
    if free < LITTLE_SPACE:
        return Check("disk", "fail" if free < NO_SPACE else "warn", found,
                     f"free space there; afterwards, aiida-dse -p {profile.name} doctor --fix")
    return Check("disk", "ok", found)


def _storage(profile: Any) -> Check:
    from aiida.common.exceptions import IncompatibleStorageSchema
    from aiida.manage import get_manager

    try:
        storage = get_manager().get_profile_storage()
        version = storage.version_profile(profile)
    except Exception as problem:  # the libraries of the databases raise their own exceptions
        reason = " ".join(str(problem).split())[:300]
        remedy = "check the database service and the disk, then repeat this command"
        if isinstance(problem, IncompatibleStorageSchema):
            remedy = f"verdi -p {profile.name} storage migrate"
        elif found := storage_trouble(problem):
            reason, remedy = found, "repeat this command afterwards"
        return Check("storage", "fail", f"The storage cannot be opened: {reason}", remedy)
    return Check("storage", "ok", f"schema {version}; this AiiDA requires {storage.version_head()}")


def _daemon(profile: Any) -> Iterator[Check]:
    from .daemon import daemon_runs, daemon_trouble, repair, workers_of_daemon
    from .daemon_start import danger, folder_in_danger

    fix = f"aiida-dse -p {profile.name} doctor --fix"
    if profile.process_control_backend is None:
        yield Check("daemon", "warn", "The profile has no broker, so analyses cannot be submitted.",
                    "aiida-dse setup (creates a profile with a broker)")
        return
    if not daemon_runs(profile):
        yield Check("daemon", "fail", "The daemon is not running, so submitted analyses do not "
                    "start.", fix)
        return
    if daemon_trouble(profile):
        yield Check("daemon", "fail", "The daemon does not respond, so submitted analyses do not "
                    "start.", fix)
        return
    if folder := folder_in_danger(profile):
        yield Check("daemon", "warn", danger(folder), fix)
    else:
        yield Check("daemon", "ok", "running")
    if profile.process_control_backend != "core.zeromq":
        for check in _answering(profile, fix):
            yield check
            if check.outcome == "ok" and (trouble := repair(profile)):
                yield Check("workers", "fail", trouble, fix)
        return
    workers = workers_of_daemon(profile)
    if workers is None:
        yield Check("broker", "fail", "The broker does not respond.", fix)
        return
    trouble = repair(profile)  # reassigns the tasks of a killed worker
    if trouble and trouble != workers.trouble:
        yield Check("workers", "fail", trouble, fix)
        return
    if workers.running == 0:
        yield Check("workers", "fail", "The daemon has no workers.", fix)
    elif workers.trouble:
        yield Check("broker", "fail", f"Only {workers.counted} of {workers.running} workers "
                    f"receive tasks ({workers.pending} tasks are pending).", fix)
    else:
        yield Check("broker", "ok", f"{workers.running} workers, {workers.pending} pending tasks")


def _answering(profile: Any, fix: str) -> Iterator[Check]:
    """Whether a broker other than ZeroMQ (RabbitMQ) can be reached."""
    from aiida.manage import get_manager

    try:
        broker: Any = get_manager().get_broker()
        broker.get_communicator()
    except Exception as problem:  # the client libraries of brokers raise their own exceptions
        yield Check("broker", "fail", f"The broker cannot be reached: {problem}",
                    f"start the service of the broker, then {fix}")
        return
    yield Check("broker", "ok", str(broker))


def _rabbitmq(profile: Any) -> Iterator[Check]:
    if profile.process_control_backend == "core.rabbitmq":
        yield Check(
            "timeout", "warn", "RabbitMQ 3.8.15 and later end tasks that last longer than "
            "consumer_timeout, by default 30 minutes. Its value cannot be read from here.",
            "rabbitmqctl eval 'application:set_env(rabbit, consumer_timeout, undefined).' "
            "(and the same setting in advanced.config)",
        )


def _caching(profile: Any) -> Check:
    from aiida.manage.caching import get_use_cache

    names = [f"aiida.calculations:dse.{task}" for task in ("refine", "scan", "simulate")]
    off = [name for name in names if not get_use_cache(identifier=name)]
    if off:
        return Check("caching", "warn", "Caching is disabled: identical jobs are computed again.",
                     f"verdi -p {profile.name} config set -a caching.enabled_for "
                     "'aiida.calculations:dse.*'")
    return Check("caching", "ok", "enabled for the jobs of the engine")


def _code(label: str) -> Iterator[Check]:
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code

    try:
        code: Any = load_code(label)
    except (NotExistent, MultipleObjectsError, ValueError) as problem:
        yield Check("code", "fail", f"The code '{label}' cannot be loaded: {problem}",
                    "aiida-dse setup (or choose another code with --code)")
        return
    yield from computer_checks(code.computer)
    if code.computer.transport_type != "core.local":
        return
    executable = str(code.filepath_executable)
    if not os.access(executable, os.X_OK) or not os.path.isfile(executable):
        why = "is not executable" if os.path.exists(executable) else "does not exist"
        yield Check("code", "fail", f"{executable} {why}.", f"reinstall aiida-dse there, or verdi "
                    f"code delete {code.pk}; aiida-dse setup")
        return
    yield _engine_version(label, executable)
    cache = next((next(filter(None, found)) for found in _CACHE.findall(code.prepend_text)), None)
    yield from _numba(executable, cache)


def _engine_version(label: str, executable: str) -> Check:
    answer = _ask([executable, "--version"], VERSION_SECONDS)
    if isinstance(answer, str):
        return Check("code", "fail", f"{executable} --version {answer}.",
                     "reinstall aiida-dse there")
    return compared(label, executable, answer.stdout)


def _numba(executable: str, cache: str | None) -> Iterator[Check]:
    if cache is None:
        yield Check("numba", "warn", "The code does not set NUMBA_CACHE_DIR, so jobs may have to "
                    "compile the engine.",
                    "add 'export NUMBA_CACHE_DIR=FOLDER' to the prepend_text of the code")
    else:
        folder = Path(cache).expanduser()
        nearest = next(p for p in (folder, *folder.parents) if p.exists())
        if not os.access(nearest, os.W_OK):
            yield Check("numba", "fail", f"{folder} is not writable, so every job has to "
                        "compile the engine.",
                        f"chmod u+w '{nearest}'")
            return
        yield Check("numba", "ok", f"cache in {folder}")
    environment = os.environ | ({"NUMBA_CACHE_DIR": cache} if cache else {})
    answer = _ask([executable, "selftest"], SELFTEST_SECONDS, environment)
    if isinstance(answer, str):
        yield Check("self-test", "fail", f"{executable} selftest {answer}.",
                    "reinstall aiida-dse and delete the folder in NUMBA_CACHE_DIR")
    else:
        yield Check("self-test", "ok", "; ".join(answer.stdout.strip().splitlines()))


def _ask(
    command: list[str], seconds: float, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str] | str:
    """The completed command, or the reason for its failure as the predicate of a sentence."""
    try:
        completed = subprocess.run(command, env=environment, capture_output=True, text=True,
                              timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"did not respond within {seconds:.0f} s"
    except OSError as problem:
        return f"cannot be started: {problem}"
    if completed.returncode:
        last = (completed.stderr or completed.stdout).strip().splitlines()[-1:] or ["no message"]
        return f"ended with status {completed.returncode}: {last[0]}"
    return completed
