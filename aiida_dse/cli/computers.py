"""Creation, tests and removal of computers: this one, and computers over SSH or with Slurm."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from aiida_dse.data.options import JOBS, SPEED

from .setup_files import DIRECT, SLURM
from .terminal import Refusal, echo

COMPUTER, CODE = "localhost", "dse-engine"
POLL_SECONDS = 10.0
#: Walltime (minutes) of the self-test on a node.
SELFTEST_MINUTES = 15


def make_local(scratch: Path, cache: Path) -> None:
    """Create the computer 'localhost' and its code, and compile the engine."""
    from aiida.common.exceptions import NotExistent
    from aiida.orm import Computer, load_computer

    beside = Path(sys.executable).with_name(CODE)
    executable = str(beside) if beside.exists() else shutil.which(CODE)
    if executable is None:
        raise Refusal(
            f"the executable '{CODE}' is neither next to {sys.executable} nor on the PATH. "
            "Reinstall aiida-dse in this environment."
        )
    try:
        computer = load_computer(COMPUTER)
        echo(f"computer '{COMPUTER}' already exists and is used")
    except NotExistent:
        computer = Computer(
            label=COMPUTER, hostname=COMPUTER, description="this computer",
            transport_type="core.local", scheduler_type=DIRECT, workdir=str(scratch),
        ).store()
        computer.set_minimum_job_poll_interval(1)
        computer.set_default_mpiprocs_per_machine(1)
        echo(f"computer '{COMPUTER}' was created")
    if not computer.is_configured:
        computer.configure(safe_interval=0, use_login_shell=False)
    _make_code(computer, {"filepath_executable": executable,
                          "prepend_text": f"export NUMBA_CACHE_DIR='{cache}'"})
    echo("compiling the engine for this computer ...", nl=False)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    check = subprocess.run(
        [executable, "selftest"], env=environment, capture_output=True, text=True, check=False
    )
    if check.returncode:
        raise Refusal(f"the engine's self-test failed:\n{check.stdout}{check.stderr}")
    _keep(computer, {SPEED: _measured_speed(check.stdout)})
    echo(f" {check.stdout.strip()}")


def _measured_speed(out: str) -> float:
    """Computing time (s) per distance, from the output of the self-test."""
    found = re.search(r"speed: (\S+) ns", out)
    if found is None:
        raise Refusal("the self-test did not report a speed, because the engine on "
                                   "that computer is an older version. Install the version of the "
                                   f"plugin there. The output was:\n{out}")
    return float(found[1]) * 1e-9


def _keep(computer: Any, facts: dict[str, Any]) -> None:
    """Store the resources that jobs request, and the speed, as a property of the computer."""
    computer.set_property(JOBS, computer.get_property(JOBS, {}) | facts)


def make_remote(content: dict[str, Any]) -> None:
    """Create and test the computer of a file, compile the engine on it and create its code."""
    section, jobs = content["computer"], content.get("jobs") or {}
    computer, is_new = _stored(section)
    try:
        computer.configure(
            **{"host": computer.hostname, "use_login_shell": False, "safe_interval": 5.0}
            | (content.get("configure") or {})
        )
        _authinfo(computer).enabled = True
        speed = _selftest(computer, content["code"], jobs)
    except Exception as problem:
        if is_new:
            _delete(computer)
        if isinstance(problem, click.ClickException):
            raise
        raise Refusal(
            f"{section['label']} cannot be used ({problem}). 'ssh {section['hostname']} true' must "
            "work here without a prompt. This requires a Host entry in your ssh configuration, your "
            "key on that computer, and the computer's key among the known hosts"
        ) from None
    kept = {key: jobs[key] for key in ("partition", "account", "walltime", "threads")
            if jobs.get(key)}
    computer.set_property(JOBS, kept | {SPEED: speed})
    # a queue assigns one core to each process of a job
    computer.set_default_mpiprocs_per_machine(int(kept.get("threads", 1)))
    computer.set_minimum_job_poll_interval(float(jobs.get("poll_interval", POLL_SECONDS)))
    requested = ", ".join(f"{key} {value}" for key, value in kept.items())
    echo(f"jobs request: {requested or 'the defaults of the computer'}")
    code = _make_code(computer, content["code"])
    echo(f"use it with 'aiida-dse launch ... --code {code.full_label}'")


def _stored(section: dict[str, Any]) -> tuple[Any, bool]:
    """The stored computer, and whether it was just created."""
    from aiida.common.exceptions import NotExistent
    from aiida.orm import Computer, load_computer

    label = section["label"]
    try:
        found = load_computer(label)
    except NotExistent:
        computer = Computer(
            label=label, hostname=section["hostname"], transport_type=section["transport"],
            scheduler_type=section["scheduler"], workdir=section["work_dir"],
            description=section.get("description") or "",
        )
        computer.set_shebang(section.get("shebang") or "#!/bin/bash")
        computer.set_prepend_text(section.get("prepend_text") or "")
        computer.set_default_mpiprocs_per_machine(1)
        computer.store()
        echo(f"computer '{label}' was created")
        return computer, True
    for key, value in (("hostname", found.hostname), ("transport", found.transport_type),
                       ("scheduler", found.scheduler_type), ("work_dir", found.get_workdir())):
        if value != section[key]:
            raise Refusal(
                f"computer '{label}' already exists with {key} {value}, but the file specifies "
                f"{section[key]}. Remove the computer with --undo, or choose another label"
            )
    echo(f"computer '{label}' already exists and is used")
    return found, False


def _selftest(computer: Any, code: dict[str, Any], jobs: dict[str, Any]) -> float:
    """Compile the engine on a computer by running its self-test, through the queue if there is one.

    Returns the computing time (s) per distance. It is measured in the queue, since the processor of
    a compute node can differ from that of the login node.
    """
    engine = code["filepath_executable"]
    command = [engine, "selftest"]
    if computer.scheduler_type == SLURM:
        threads = jobs.get("threads") or 1
        ask = [f"--{key}={jobs[key]}" for key in ("partition", "account") if jobs.get(key)]
        command = ["srun", "--ntasks=1", f"--cpus-per-task={threads}",
                   f"--time={SELFTEST_MINUTES}", *ask, *command]
    with computer.get_transport() as transport:
        if not transport.isfile(engine):
            raise Refusal(
                f"{engine} does not exist on {computer.label}. Install the engine there with "
                "engine_only.py (copy it with 'aiida-dse setup engine_only.py --copy') and write "
                "the path that it prints into the set-up file"
            )
        where = "in the queue of" if command[0] == "srun" else "on"
        echo(f"compiling the engine {where} {computer.label} ...", nl=False)
        status, out, err = transport.exec_command_wait(
            f"{code.get('prepend_text') or 'true'}\n{shlex.join(command)}")
    if status:
        raise Refusal(
            f"'{shlex.join(command)}' ended with status {status} on {computer.label}:\n{out}{err}")
    speed = _measured_speed(out)
    echo(f" {out.strip()}")
    return speed


def _make_code(computer: Any, section: dict[str, Any]) -> Any:
    """The code of a computer, created unless it exists; a hidden code becomes visible again."""
    from aiida.common.exceptions import NotExistent
    from aiida.orm import InstalledCode, load_code

    label = f"{section.get('label') or CODE}@{computer.label}"
    try:
        code = load_code(label)
    except NotExistent:
        code = InstalledCode(
            label=section.get("label") or CODE, computer=computer,
            filepath_executable=section["filepath_executable"],
            default_calc_job_plugin="dse.refine", prepend_text=section.get("prepend_text") or "",
            description=section.get("description") or "The Debye scattering engine",
        ).store()
        echo(f"code '{label}' was created ({code.filepath_executable})")
        return code
    if str(code.filepath_executable) != section["filepath_executable"]:
        echo(f"code '{label}' already exists with {code.filepath_executable} and was not "
                   f"changed. To use {section['filepath_executable']}, choose another label")
    else:
        echo(f"code '{label}' already exists and is used")
    code.is_hidden = False
    return code


def undo_remote(content: dict[str, Any]) -> None:
    """Delete a computer and its code, or disable them if analyses have used them."""
    from aiida.common.exceptions import NotExistent
    from aiida.orm import InstalledCode, Node, QueryBuilder, load_computer
    from aiida.tools import delete_nodes

    label = content["computer"]["label"]
    try:
        computer = load_computer(label)
    except NotExistent:
        echo(f"there is no computer '{label}', so there is nothing to undo")
        return
    query = QueryBuilder().append(InstalledCode, filters={
        "dbcomputer_id": computer.pk, "label": content["code"].get("label") or CODE})
    codes = query.all(flat=True)
    used = QueryBuilder().append(Node, filters={
        "dbcomputer_id": computer.pk, "id": {"!in": [code.pk for code in codes] or [0]}}).count()
    if used:
        for code in codes:
            code.is_hidden = True
        _authinfo(computer).enabled = False
        echo(f"{used} nodes of your analyses refer to the computer '{label}'. It was "
                   "therefore disabled instead of deleted, and its code is hidden. Run setup again "
                   "to restore both")
        return
    delete_nodes([code.pk for code in codes], dry_run=False)
    _delete(computer)
    work = computer_work(content)
    echo(f"computer '{label}' and its code were removed. The files on that computer "
               f"remain: {work}")


def computer_work(content: dict[str, Any]) -> str:
    """The locations of the files of jobs and of the engine on a computer."""
    return (f"{content['computer']['work_dir']} (jobs), {content['code']['filepath_executable']} "
            "(engine)")


def _authinfo(computer: Any) -> Any:
    from aiida.orm import User

    return computer.get_authinfo(User.collection.get_default())


def _delete(computer: Any) -> None:
    from aiida.orm import Computer

    Computer.collection.delete(computer.pk)
