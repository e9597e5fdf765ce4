"""Checks whether daemon workers receive their tasks, and recovers tasks lost by AiiDA's broker.

AiiDA's ZeroMQ broker (aiida-core 2.9) detects a killed worker by a single event of its socket, and
then tries once to reach every worker that has a task. If the event arrives before the socket has
registered the loss of the connection, this attempt succeeds and is not repeated, so that the tasks
of the dead worker (a tile, or the work chain itself) remain assigned to it. Every client that
disconnects causes the same event; connecting and disconnecting therefore makes the broker check
again.

If a daemon is stopped while a work chain submits a job, broker and workers end at the same time:
the process is stored, but the message that creates its task may be lost. The process would then
never run, and its work chain would wait forever, so a new task is created here.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

#: No subscriber has this name, so the broker replies with an error that contains it.
NOBODY = "aiida-dse-asks-whether-workers-are-gone"
ANSWER_SECONDS = 5.0
#: A process that changed less than this many seconds ago may still be about to receive its task.
YOUNG_SECONDS = 10.0


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
            f"'verdi -p {self.profile} daemon restart': finished work is retained, and unfinished "
            "work continues."
        )


def workers_of_daemon(profile: Any) -> Workers | None:
    """The workers of a running daemon; None if unknown. The broker's count is up to 5 s old."""
    from aiida.engine.daemon.client import DaemonException, get_daemon_client

    broker = _broker(profile)
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
    broker = _broker(profile)
    if broker is None or not broker.check_service_reachable():
        return False
    with broker:
        return _answers(broker)


def lost_processes(profile: Any) -> list[int]:
    """Unfinished jobs and work chains that have no task although their caller has one.

    Processes that run without the daemon are not included, since their callers have no task.
    """
    from aiida.common import timezone
    from aiida.orm import CalcJobNode, ProcessNode, QueryBuilder, WorkChainNode

    # the tasks are read first, so that a process that ends meanwhile does not count as lost
    tasks = _tasks(profile)
    if not tasks:
        return []
    query = QueryBuilder().append(ProcessNode, filters={"id": {"in": sorted(tasks)}}, tag="caller")
    query.append((CalcJobNode, WorkChainNode), with_incoming="caller", project="id", filters={
        "attributes.process_state": {"in": ["created", "waiting", "running"]},
        "mtime": {"<": timezone.now() - timedelta(seconds=YOUNG_SECONDS)},
    })
    return sorted(set(query.all(flat=True)) - tasks)


def give_tasks_to_the_lost(profile: Any) -> list[int]:
    """Create tasks for processes that have lost theirs, and return the PKs of the processes."""
    broker = _broker(profile)
    if broker is None or not broker.check_service_reachable() or not lost_processes(profile):
        return []
    with open(_broker_folder(profile) / "lost.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two clients must not create the same task
        found = lost_processes(profile)
        if found:
            _give_tasks(broker, found)
    return found


def _give_tasks(broker: Any, processes: Sequence[int]) -> None:
    from plumpy.process_comms import RemoteProcessThreadController

    with broker:
        controller = RemoteProcessThreadController(broker.get_communicator())
        for pk in processes:
            controller.continue_process(pk, nowait=False, no_reply=True)
        _answers(broker)  # messages are read in order, so a reply shows that the tasks are stored


def repair(profile: Any) -> str | None:
    """Reassign the tasks of dead workers, restore lost tasks, and return any remaining problem."""
    if stopped := _stopped(profile):
        return stopped
    workers = workers_of_daemon(profile)
    if workers is None:
        return None
    if workers.counted > workers.running:
        look_for_dead_workers(profile)
    give_tasks_to_the_lost(profile)
    return workers.trouble


def _stopped(profile: Any) -> str | None:
    """A message if the daemon does not run although analyses wait for it."""
    from aiida.engine.daemon.client import get_daemon_client

    if profile is None or profile.process_control_backend is None \
            or get_daemon_client(profile.name).is_daemon_running or not _unfinished():
        return None
    return (f"The daemon is not running, so unfinished analyses do not proceed. Start it with 'verdi "
            f"-p {profile.name} daemon start': finished work is retained, and the analyses continue.")


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


def _tasks(profile: Any) -> set[int]:
    """The processes for which the broker has a task.

    They are read from the broker's files, since AiiDA's own reader would move tasks in progress.
    """
    found = set()
    # "pending" is read twice so that a task that moves between the folders is not missed
    for part in ("pending", "processing", "pending"):
        for path in (_broker_folder(profile) / "storage" / "tasks" / part).glob("*.json"):
            try:
                found.add(int(json.loads(path.read_text())["body"]["args"]["pid"]))
            except (FileNotFoundError, KeyError, TypeError):
                continue  # finished or moved, or not the task of a process
    return found


def _broker_folder(profile: Any) -> Path:
    from aiida.manage.configuration import get_config

    return Path(get_config().filepaths(profile)["broker_service"]["dir"])


def _broker(profile: Any) -> Any:
    """A separate broker object, so that the connection of this process is not closed."""
    from aiida.brokers.zeromq import ZeromqBroker

    if profile is None or profile.process_control_backend != "core.zeromq":
        return None
    return ZeromqBroker(profile)
