"""aiida-dse setup: a profile that needs no service, this computer, the engine's code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

COMPUTER, CODE = "localhost", "dse-engine"
CACHED = "aiida.calculations:dse.*"
#: How long verdi waits for the daemon's answer.
DAEMON_SECONDS = 60


@click.command("setup")
@click.option("--profile", "name", default="dse", show_default=True, help="Name of the profile.")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True,
              help="Daemon workers.")
@click.option("--daemon/--no-daemon", default=True, help="Start the daemon.")
def setup(name: str, workers: int, daemon: bool) -> None:
    """Make a profile (SQLite + ZeroMQ broker), this computer and the code; start the daemon.

    Safe to repeat: what exists is kept.
    """
    from aiida.manage.configuration import create_profile, get_config, load_profile

    config = get_config(create=True)
    if name in config.profile_names:
        click.echo(f"profile '{name}' exists: kept")
    else:
        folder = Path(config.dirpath) / "repository" / name
        profile = create_profile(
            config, name=name, email="aiida@localhost", storage_backend="core.sqlite_dos",
            storage_config={"filepath": str(folder)}, broker_backend="core.zeromq",
            broker_config={},
        )
        config.set_option("runner.poll.interval", 1, scope=profile.name)
        config.set_option("daemon.default_workers", workers, scope=profile.name)
        # a job computed before, by this version of the engine, is not computed again
        config.set_option("caching.enabled_for", [CACHED], scope=profile.name)
        if config.default_profile_name is None:
            config.set_default_profile(profile.name)
        click.echo(f"profile '{name}' made (SQLite, ZeroMQ broker) in {config.dirpath}")
    # AiiDA's 2 s are less than workers may take to stop: 'verdi daemon restart' then fails half way
    if config.get_option("daemon.timeout", scope=name, default=False) is None:
        config.set_option("daemon.timeout", DAEMON_SECONDS, scope=name)
    config.store()
    profile = load_profile(name, allow_switch=True)
    computer = _computer(Path(config.dirpath) / "scratch" / name)
    _code(computer, Path(config.dirpath) / "numba")
    if daemon:
        start_daemon(name)
    if config.default_profile_name != name:
        click.echo(f"'{config.default_profile_name}' stays the default profile: use "
                   f"'aiida-dse -p {name}' and 'verdi -p {name}'.")


def start_daemon(profile: str) -> None:
    """Start the daemon of a profile, unless it runs."""
    from aiida.engine.daemon.client import get_daemon_client

    if get_daemon_client(profile).is_daemon_running:
        click.echo("the daemon runs")
        return
    # verdi need not be on the PATH of an environment that was not activated
    beside = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": os.pathsep.join([str(beside), os.environ.get("PATH", "")])
    }
    verdi = shutil.which("verdi", path=environment["PATH"]) or "verdi"
    started = subprocess.run(
        [verdi, "-p", profile, "daemon", "start"], env=environment, capture_output=True, text=True,
        check=False,
    )
    if started.returncode:
        raise click.ClickException(
            f"the daemon did not start:\n{started.stdout}{started.stderr}\nSee 'verdi -p "
            f"{profile} daemon logshow'."
        )
    click.echo("daemon started")


def _computer(scratch: Path) -> Any:
    from aiida.common.exceptions import NotExistent
    from aiida.orm import Computer, load_computer

    try:
        computer = load_computer(COMPUTER)
        click.echo(f"computer '{COMPUTER}' exists: kept")
    except NotExistent:
        computer = Computer(
            label=COMPUTER, hostname=COMPUTER, description="this computer",
            transport_type="core.local", scheduler_type="core.direct", workdir=str(scratch),
        ).store()
        computer.set_minimum_job_poll_interval(1)
        computer.set_default_mpiprocs_per_machine(1)
        click.echo(f"computer '{COMPUTER}' made")
    if not computer.is_configured:
        computer.configure(safe_interval=0, use_login_shell=False)
    return computer


def _code(computer: Any, cache: Path) -> None:
    from aiida.common.exceptions import NotExistent
    from aiida.orm import InstalledCode, load_code

    beside = Path(sys.executable).with_name(CODE)
    executable = str(beside) if beside.exists() else shutil.which(CODE)
    if executable is None:
        raise click.ClickException(
            f"the executable '{CODE}' is neither beside {sys.executable} nor on the PATH. "
            "Reinstall aiida-dse in this environment."
        )
    try:
        load_code(f"{CODE}@{COMPUTER}")
        click.echo(f"code '{CODE}@{COMPUTER}' exists: kept")
    except NotExistent:
        InstalledCode(
            label=CODE, computer=computer, filepath_executable=executable,
            default_calc_job_plugin="dse.refine",
            prepend_text=f"export NUMBA_CACHE_DIR='{cache}'",
            description="The Debye scattering engine",
        ).store()
        click.echo(f"code '{CODE}@{COMPUTER}' made ({executable})")
    click.echo("compiling the engine for this computer ...", nl=False)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    check = subprocess.run(
        [executable, "selftest"], env=environment, capture_output=True, text=True, check=False
    )
    if check.returncode:
        raise click.ClickException(f"the engine's self-test failed:\n{check.stdout}{check.stderr}")
    click.echo(f" {check.stdout.strip().splitlines()[-1]}")
