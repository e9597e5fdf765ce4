"""Start of the daemon without the traces of a killed one, and from an empty folder.

A ZeroMQ broker that was killed (a power cut, kill -9) leaves the address of its socket in a file. A
new worker that reads this file before the new broker has replaced it connects to a socket that no
longer exists, and never receives a task. The file with the process ID of the broker is not checked
either: if another program has the same ID by now, AiiDA starts no broker at all. Both files are
therefore removed before the daemon is started.

A broker also deletes the folder of its previous socket when it starts. If the disk was full, the file
with the address is empty, and the broker takes the empty address for the folder in which the daemon
was started. In a test, it deleted a whole project. It is started again whenever it ends, so the
daemon is started in an empty folder, which contains nothing to delete.
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


def launch_daemon(profile: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run 'verdi daemon start' after the traces of a killed broker have been removed."""
    remove_traces_of_a_killed_broker(profile)
    return run_verdi(profile, "daemon", "start", seconds=seconds)


def remove_traces_of_a_killed_broker(profile: str) -> None:
    """Remove the files in which a ZeroMQ broker that no longer runs keeps its socket and process ID.

    The tasks in its queue remain.
    """
    from aiida.brokers.zeromq.service import PID_SENTINEL, ZeromqBrokerService
    from aiida.manage.configuration import get_config

    config = get_config()
    folder = Path(config.filepaths(config.get_profile(profile))["broker_service"]["dir"])
    files = ZeromqBrokerService.FilepathLayout(folder)
    if _is_broker(files.pid_file, PID_SENTINEL, folder):
        return
    try:
        sockets = Path(files.sockets_file.read_text().strip())
        # other content of the file, or a folder of somebody else, is left as it is
        if sockets.is_absolute() and sockets.name.startswith("aiida_zeromq_"):
            (sockets / "router.sock").unlink(missing_ok=True)
            sockets.rmdir()
    except (OSError, ValueError):
        pass
    for path in (files.sockets_file, files.status_file, files.pid_file):
        path.unlink(missing_ok=True)


def _is_broker(pid_file: Path, sentinel: str, folder: Path) -> bool:
    """Whether the process in a file runs, and is the broker whose files are in `folder`."""
    import psutil

    try:
        number = pid_file.read_text().strip().removeprefix(sentinel)
        process = psutil.Process(int(number))
        command = " ".join(process.cmdline())
        return process.status() != psutil.STATUS_ZOMBIE and (str(folder) in command or str(folder.resolve()) in command)
    except psutil.AccessDenied:
        return True
    except (psutil.Error, OSError, ValueError, OverflowError):
        return False


def start_daemon(profile: str) -> None:
    """Start the daemon of a profile unless it is running."""
    from aiida.manage.configuration import get_config

    from .daemon import daemon_runs

    if daemon_runs(get_config().get_profile(profile)):
        echo("the daemon is already running")
        return
    started = launch_daemon(profile)
    if started.returncode:
        raise Refusal(f"the daemon did not start:\n{started.stdout}{started.stderr}\nSee 'verdi -p "
                      f"{profile} daemon logshow'.")
    echo("the daemon was started")
