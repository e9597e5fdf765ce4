"""State of the daemon, its workers and its broker: the same message for all commands, and repair.

AiiDA's ZeroMQ broker (aiida-core 2.9) detects a killed worker by a single event of its socket, and
then tries once to reach every worker that has a task. If the event arrives before the socket has
registered the loss of the connection, this attempt succeeds and is not repeated, so that the tasks
of the dead worker (a tile, or the work chain itself) remain assigned to it. Every client that
disconnects causes the same event; connecting and disconnecting therefore makes the broker check
again. Processes without a task are given one (lost_tasks.py).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiida_dse.data.storage_trouble import storage_trouble

from .lost_tasks import give_tasks_to_the_lost, stalled_processes, zeromq_broker

#: No subscriber has this name, so the broker replies with an error that contains it.
NOBODY = "aiida-dse-asks-whether-workers-are-gone"
ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Workers:
    """Numbers of running workers, of workers counted by the broker, and of pending tasks."""

    profile: str
    running: int
    counted: int
    pending: int

    @property
    def trouble(self) -> str | None:
        """A problem that persists without intervention; None if there is none.

        A broker that counts too many workers still includes a dead one, which has no tasks; this
        is harmless.
        """
        if self.counted >= self.running:
            return None
        return (
            f"Only {self.counted} of {self.running} daemon workers receive tasks from AiiDA's "
            f"broker ({self.pending} tasks are pending). If this lasts longer than a minute, run "
            f"'aiida-dse -p {self.profile} doctor --fix': finished work is retained, and unfinished "
            "work continues."
        )


def workers_of_daemon(profile: Any) -> Workers | None:
    """The workers of a running daemon; None if unknown. The broker's count is up to 5 s old."""
    from aiida.engine.daemon.client import DaemonException, get_daemon_client

    broker = zeromq_broker(profile)
    if broker is None or not broker.check_service_reachable():
        return None
    status = broker.probe_service_status()
    try:
        answer = get_daemon_client(profile.name).get_worker_info(timeout=3)
    except DaemonException:
        return None
    if status.get("error") or not isinstance(answer.get("info"), dict):
        return None  # the reply of a daemon that is being restarted lacks the information
    # for a process that has ended, circus returns a sentence instead of a mapping
    running = sum(isinstance(info, dict) for info in answer["info"].values())
    return Workers(
        profile.name, running, status.get("task_subscribers", 0), status.get("pending_tasks", 0)
    )


def look_for_dead_workers(profile: Any) -> bool:
    """Make the broker look for dead workers and reassign their tasks.

    Connects, sends a request and disconnects. Returns whether the broker replied. Running workers
    are not affected.
    """
    broker = zeromq_broker(profile)
    if broker is None or not broker.check_service_reachable():
        return False
    with broker:
        return _answers(broker)


def repair(profile: Any) -> str | None:
    """Reassign the tasks of dead workers, restore lost tasks, and return any remaining problem."""
    if profile is None or profile.process_control_backend is None or not _unfinished():
        return None
    if state := daemon_trouble(profile):
        return state
    try:
        return _repaired(profile)
    except Exception as problem:  # the client libraries of brokers raise their own exceptions
        if found := storage_trouble(problem):
            return f"{found[0].upper()}{found[1:]}"
        return (f"AiiDA's broker cannot be reached ({type(problem).__name__}), so unfinished analyses do not "
                "proceed. Check its service, and run "
                f"'aiida-dse -p {profile.name} doctor' for the remedy.")


def _repaired(profile: Any) -> str | None:
    workers = workers_of_daemon(profile)
    if workers is not None and workers.counted > workers.running:
        look_for_dead_workers(profile)
    if workers is not None or profile.process_control_backend != "core.zeromq":
        found = give_tasks_to_the_lost(profile)
        # what has just received a task is about to continue
        stuck = (*found.silent, *(pk for pk in stalled_processes() if pk not in found.lost))
        if stuck:
            return (f"The daemon worker of the process {stuck[0]} does not continue it, for example after a "
                    "lost connection to the database or to the computer. If this lasts longer than a "
                    f"minute, run 'aiida-dse -p {profile.name} doctor --fix': finished work is retained, "
                    "and unfinished work continues.")
    return None if workers is None else workers.trouble


def daemon_process(profile: Any) -> Any | None:
    """The process of the daemon (psutil.Process); None if it has ended.

    AiiDA only checks the file with the process ID, which the system may since have assigned to
    another program.
    """
    import psutil
    from aiida.engine.daemon.client import get_daemon_client

    pid = get_daemon_client(profile.name).get_daemon_pid()
    try:
        process = None if pid is None else psutil.Process(pid)
        return process if process is not None and "start-circus" in process.cmdline() else None
    except (psutil.Error, ValueError, OverflowError):
        return None


def daemon_runs(profile: Any) -> bool:
    """Whether the process of the daemon exists."""
    return daemon_process(profile) is not None


def end_daemon(profile: Any) -> None:
    """End the processes of a daemon that does not reply; the jobs that they started continue."""
    import psutil
    from aiida.engine.daemon.client import get_daemon_client

    daemon = daemon_process(profile)
    if daemon is None:
        return
    own = daemon.children()  # workers and broker, but not the jobs of the workers
    daemon.kill()  # first, since it would restart the others
    for process in own:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    for process in psutil.wait_procs([daemon, *own], timeout=ANSWER_SECONDS)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    # other commands of AiiDA take this file for a running daemon
    Path(get_daemon_client(profile.name).circus_pid_file).unlink(missing_ok=True)


def daemon_trouble(profile: Any) -> str | None:
    """Why the daemon does not run analyses, with the remedy; None if it runs.

    A file with the number of its process is no proof: the daemon must reply.
    """
    from aiida.engine.daemon.client import DaemonException, get_daemon_client

    client = get_daemon_client(profile.name)
    if not daemon_runs(profile):
        return (f"The daemon is not running, so unfinished analyses do not proceed. Start it with "
                f"'aiida-dse -p {profile.name} doctor --fix': finished work is retained, and the analyses "
                "continue.")
    try:
        client.get_status(timeout=int(ANSWER_SECONDS))
    except DaemonException:
        return (f"The daemon does not respond, so unfinished analyses do not proceed. Repair it with "
                f"'aiida-dse -p {profile.name} doctor --fix': finished work is retained, and the "
                "analyses continue.")
    return None


def _unfinished() -> bool:
    """Whether any job or work chain has not ended."""
    from aiida.orm import CalcJobNode, QueryBuilder, WorkChainNode

    return QueryBuilder().append((CalcJobNode, WorkChainNode), project="id", filters={
        "attributes.process_state": {"in": ["created", "waiting", "running"]}}).first() is not None


def _answers(broker: Any) -> bool:
    try:
        broker.get_communicator().rpc_send(NOBODY, None).result(ANSWER_SECONDS)
    except (TimeoutError, ConnectionError):
        return False
    except Exception as answer:  # AiiDA's client raises an error reply as a bare Exception
        return NOBODY in str(answer)
    return True
