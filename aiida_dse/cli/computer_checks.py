"""The checks of 'aiida-dse doctor' that concern computers, and the engines installed on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from aiida_dse.data.options import JOBS, SPEED, learnt_speed

#: Free space (bytes) on a scratch disk below which doctor issues a warning.
LITTLE_SPACE = 2e9
#: Number of working directories of one computer above which doctor issues a warning.
MANY_DIRECTORIES = 500
_VERSION = re.compile(r"version (\S+?), (numerics .*)")
#: Prints the free space (kB) in a folder that may not exist yet, and whether it is writable.
_SPACE = """d={folder}; while [ ! -e "$d" ]; do d=$(dirname "$d"); done
test -w "$d" && echo writable; df -Pk "$d" | tail -1"""


class Check(NamedTuple):
    """One line of the report: outcome ('ok', 'warn' or 'fail'), finding and remedy."""

    name: str
    outcome: str
    found: str
    remedy: str = ""


def computer_checks(computer: Any) -> Iterator[Check]:
    """Whether jobs can run on a computer: configuration, speed, space, working directories."""
    name = f"'{computer.label}' ({computer.transport_type}, {computer.scheduler_type})"
    if not computer.is_configured:
        yield Check("computer", "fail", f"The computer {name} is not configured for this user.",
                    f"verdi computer configure {computer.transport_type} {computer.label}")
        return
    if not computer.is_user_enabled(_user()):
        yield Check("computer", "fail", f"The computer {name} is disabled, so jobs are not "
                    "submitted to it.",
                    f"verdi computer enable {computer.label} {_user().email}")
        return
    yield Check("computer", "ok", name)
    yield _speed(computer)
    yield _space(computer)
    yield _directories(computer)


def _speed(computer: Any) -> Check:
    found = {task: learnt_speed(computer, task) for task in ("refine", "scan")}
    learnt = [f"{1e9 * one[0]:.3g} ns per distance in the last {one[1]} jobs of dse.{task}"
              for task, one in found.items() if one]
    at_setup = computer.get_property(JOBS, {}).get(SPEED)
    if at_setup is not None:
        learnt.append(f"{1e9 * at_setup:.3g} ns measured during set-up")
    if learnt:
        return Check("speed", "ok", f"{computer.label}: {', '.join(learnt)}")
    return Check("speed", "warn", f"The speed of {computer.label} was not measured, so estimated times "
                 "are those of a typical computer.",
                 "aiida-dse setup (for a remote computer: aiida-dse setup FILE), or run three jobs")


def _space(computer: Any) -> Check:
    """Free space where the computer keeps the working directories of jobs."""
    label = computer.label
    try:
        with computer.get_transport() as transport:
            folder = computer.get_workdir().format(username=transport.whoami())
            _, out, err = transport.exec_command_wait(_SPACE.format(folder=shlex.quote(folder)))
    except Exception as problem:  # the libraries of transports raise their own exceptions
        return Check("scratch", "fail", f"The computer {label} cannot be reached ({problem}).",
                     f"verdi computer test {label}")
    lines = out.strip().splitlines()
    fields = lines[-1].split() if lines else []
    if len(fields) < 4 or not fields[3].isdigit():
        return Check("scratch", "warn", f"The free space in {folder} on {label} is unknown: {err.strip()}",
                     f"df -h on {label}")
    if "writable" not in lines:
        return Check("scratch", "fail", f"{folder} on {label} is not writable.", f"chmod u+w '{folder}'")
    free = 1024 * int(fields[3])
    space = f"{free / 1e9:.1f} GB are free in {folder} on {label}"
    if free < LITTLE_SPACE:
        return Check("scratch", "warn", space, f"verdi calcjob cleanworkdir -Y {label} -o 7 (removes the "
                     "working directories of all jobs, also of other plugins, that are older than a week; "
                     "results remain in the database)")
    return Check("scratch", "ok", space)


def _directories(computer: Any) -> Check:
    """Number of working directories that jobs of the engine have left on a computer."""
    from aiida.orm import CalcJobNode, Computer, QueryBuilder, RemoteData

    query = QueryBuilder().append(Computer, filters={"uuid": computer.uuid}, tag="computer")
    query.append(CalcJobNode, with_computer="computer", tag="job", project="attributes.exit_status",
                 filters={"process_type": {"like": "aiida.calculations:dse.%"}})
    query.append(RemoteData, with_incoming="job", project=f"extras.{RemoteData.KEY_EXTRA_CLEANED}")
    kept = [status for status, cleaned in query.all() if not cleaned]
    failed = sum(status not in (0, None) for status in kept)
    found = f"{len(kept)} working directories on {computer.label}, {failed} of them of failed jobs"
    if len(kept) > MANY_DIRECTORIES:
        return Check("directories", "warn", found, f"verdi calcjob cleanworkdir -Y {computer.label} -o 7 "
                     "(also removes those of other plugins; results remain in the database)")
    return Check("directories", "ok", found)


def compared(label: str, executable: str, answer: str) -> Check:
    """Whether an engine has the numerics of this plugin; answer: the output of --version."""
    import aiida_dse
    from aiida_dse.tasks.summary import engine_identity

    parts = _VERSION.search(answer)
    version, identity = parts.groups() if parts else (" ".join(answer.split()[-1:]), "")
    own = engine_identity()
    if identity != own:
        return Check(
            "code", "fail",
            f"{label} has aiida-dse {version} ({identity or 'numerics unknown'}), but the plugin "
            f"has {aiida_dse.__version__} ({own}). The plugin rejects the results of this engine.",
            f"install aiida-dse {aiida_dse.__version__} and the plugin's version of xraydb in the "
            f"environment of {executable}")
    return Check("code", "ok", f"{label}: version {version}, {identity}, identical to the plugin")


def other_engines(label: str) -> Iterator[Check]:
    """The same for the other computers that this user may use, and the versions of their engines."""
    from aiida.orm import Computer, InstalledCode, QueryBuilder

    query = QueryBuilder().append(Computer, tag="computer").append(
        InstalledCode, with_computer="computer", project="*",
        filters={"attributes.input_plugin": {"like": "dse.%"}})
    codes = [code for code in query.all(flat=True) if not code.is_hidden
             and code.computer.is_configured and code.computer.is_user_enabled(_user())]
    named = [code for code in codes if label in (code.label, code.full_label, code.uuid, str(code.pk))]
    checked = {code.computer.uuid for code in named}
    for code in codes:
        computer = code.computer
        if code in named and computer.transport_type == "core.local":
            continue
        if computer.uuid not in checked:
            checked.add(computer.uuid)
            space = _space(computer)
            yield space
            if space.outcome != "fail":
                yield _directories(computer)
        yield _engine_of(code)


def _engine_of(code: Any) -> Check:
    """The version of an engine, queried through AiiDA."""
    executable = str(code.filepath_executable)
    command = f"{code.prepend_text or 'true'}\n{shlex.quote(executable)} --version"
    try:
        with code.computer.get_transport() as transport:
            status, out, err = transport.exec_command_wait(command)
    except Exception as problem:  # the libraries of transports raise their own exceptions
        label = code.computer.label
        return Check("code", "fail", f"{code.full_label}: the computer {label} cannot be reached "
                     f"({problem}).", f"verdi computer test {label}")
    if status:
        return Check("code", "fail", f"{code.full_label}: {executable} --version ended with "
                     f"status {status}: {(err or out).strip()}", "reinstall aiida-dse there")
    return compared(code.full_label, executable, out)


def _user() -> Any:
    from aiida.orm import User

    return User.collection.get_default()
