"""Start of the daemon from an empty folder, so that AiiDA's broker cannot delete files.

The ZeroMQ broker of aiida-core 2.9 keeps the path of a temporary folder in a file, and deletes that
folder when it starts again. If the disk is full, this file is empty; the broker takes the empty
path for the folder in which the daemon was started, and deletes the content of that folder. In a
test, it deleted a whole project. An empty folder contains nothing to delete.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .terminal import Refusal, echo


def empty_folder() -> Path:
    """The folder in which the daemon is started; it is created if necessary, and remains empty."""
    from aiida.manage.configuration import get_config

    folder = Path(get_config().dirpath) / "daemon" / "empty"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def folder_in_danger(profile: Any) -> Path | None:
    """The folder whose content the broker would delete if the disk became full; None if there is none."""
    import psutil
    from aiida.engine.daemon.client import get_daemon_client

    if profile.process_control_backend != "core.zeromq":
        return None
    pid = get_daemon_client(profile.name).get_daemon_pid()
    if pid is None:
        return None
    try:
        folder = Path(psutil.Process(pid).cwd())
        safe = folder.samefile(empty_folder()) or not any(folder.iterdir())
    except (psutil.Error, OSError, ValueError):
        return None  # the daemon has ended, its folder no longer exists, or it cannot be seen
    return None if safe else folder


def danger(folder: Path) -> str:
    """The warning about `folder_in_danger`."""
    return (f"The daemon was started in {folder}. If the disk became full, AiiDA's broker would delete the "
            "content of that folder.")


def with_verdi() -> dict[str, str]:
    """The environment in which verdi is found, even if the virtual environment is not active."""
    beside = str(Path(sys.executable).parent)
    return os.environ | {"PATH": os.pathsep.join([beside, os.environ.get("PATH", "")])}


def run_verdi(profile: str, *arguments: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of verdi in the empty folder. Raises subprocess.TimeoutExpired and OSError."""
    from aiida.manage.configuration import get_config

    environment = with_verdi()
    # relative paths would have another meaning in the empty folder
    environment["AIIDA_PATH"] = str(Path(get_config().dirpath).resolve().parent)
    if paths := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(one) for one in paths.split(os.pathsep) if one)
    verdi = shutil.which("verdi", path=environment["PATH"]) or "verdi"
    return subprocess.run([verdi, "-p", profile, *arguments], env=environment, capture_output=True,
                          text=True, check=False, timeout=seconds, cwd=empty_folder())


def start_daemon(profile: str) -> None:
    """Start the daemon of a profile unless it is running."""
    from aiida.engine.daemon.client import get_daemon_client

    if get_daemon_client(profile).is_daemon_running:
        echo("the daemon is already running")
        return
    started = run_verdi(profile, "daemon", "start")
    if started.returncode:
        raise Refusal(f"the daemon did not start:\n{started.stdout}{started.stderr}\nSee 'verdi -p "
                      f"{profile} daemon logshow'.")
    echo("the daemon was started")
