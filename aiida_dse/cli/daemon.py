"""Whether the daemon's workers get their work, and what mends it when they do not.

AiiDA's ZeroMQ broker (aiida-core 2.9) learns of a killed worker from one event of its socket and
then tries once to reach every worker that holds a task. The event may come a moment before the
socket knows that the connection is gone: the trial succeeds, is not repeated, and the tasks of the
dead worker (a tile, or the work chain itself) stay with it. Every client that leaves the broker
is such an event too, so that a passing client makes it look again, now in vain no more.

A daemon that is stopped while a work chain submits ends its broker and its workers at once: the
process is stored, but the message that makes its task may find no broker. Nobody would ever run it,
and its work chain would wait for ever, so such processes get their task here.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

#: Nobody subscribes to this name: the broker answers so, and tells it in its log.
NOBODY = "aiida-dse-asks-whether-workers-are-gone"
ANSWER_SECONDS = 5.0
#: A process that changed later than this may only be about to get its task.
YOUNG_SECONDS = 10.0


@dataclass(frozen=True)
class Workers:
    """The daemon's workers: processes that run, those the broker counts, tasks that wait."""

    profile: str
    running: int
    counted: int
    pending: int

    @property
    def trouble(self) -> str | None:
        """What is wrong and does not mend itself; None if all is well.

        A worker too many in the broker's count is a dead one without tasks: harmless.
        """
        if self.counted >= self.running:
            return None
        return (
            f"AiiDA's broker gives work to {self.counted} of {self.running} daemon workers "
            f"({self.pending} tasks wait). If this stays so for a minute, run 'verdi -p "
            f"{self.profile} daemon restart': finished work is kept, unfinished work goes on."
        )


def workers_of_daemon(profile: Any) -> Workers | None:
    """The workers of a running daemon as its broker sees them, up to 5 s ago; None if unknown."""
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
        return None  # a daemon that is being restarted answers without it
    # circus tells of a process that is gone by a sentence in place of its numbers
    running = sum(isinstance(told, dict) for told in answer["info"].values())
    return Workers(
        profile.name, running, status.get("task_subscribers", 0), status.get("pending_tasks", 0)
    )


def look_for_dead_workers(profile: Any) -> bool:
    """Make the broker look for workers that are gone and give their tasks to others.

    Connects, asks and leaves; whether the broker answered. Nothing happens to workers that live.
    """
    broker = _broker(profile)
    if broker is None or not broker.check_service_reachable():
        return False
    with broker:
        return _answers(broker)


def lost_processes(profile: Any) -> list[int]:
    """Unfinished jobs and work chains without a task that a process with a task has called.

    What is run without the daemon has no task, and nor has its caller: it is none of them.
    """
    from aiida.common import timezone
    from aiida.orm import CalcJobNode, ProcessNode, QueryBuilder, WorkChainNode

    tasks = _tasks(profile)  # before the processes: who ends meanwhile is not taken for lost
    if not tasks:
        return []
    query = QueryBuilder().append(ProcessNode, filters={"id": {"in": sorted(tasks)}}, tag="caller")
    query.append((CalcJobNode, WorkChainNode), with_incoming="caller", project="id", filters={
        "attributes.process_state": {"in": ["created", "waiting", "running"]},
        "mtime": {"<": timezone.now() - timedelta(seconds=YOUNG_SECONDS)},
    })
    return sorted(set(query.all(flat=True)) - tasks)


def give_tasks_to_the_lost(profile: Any) -> list[int]:
    """Make the daemon go on with processes that lost their task; these."""
    broker = _broker(profile)
    if broker is None or not broker.check_service_reachable() or not lost_processes(profile):
        return []
    with open(_broker_folder(profile) / "lost.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two of us must not give two tasks
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
        _answers(broker)  # it reads in order: when it answers, it has stored the tasks


def mended(profile: Any) -> str | None:
    """Look whether all workers get work, mend what can be mended, tell what cannot."""
    workers = workers_of_daemon(profile)
    if workers is None:
        return None
    if workers.counted > workers.running:
        look_for_dead_workers(profile)
    give_tasks_to_the_lost(profile)
    return workers.trouble


def _answers(broker: Any) -> bool:
    try:
        broker.get_communicator().rpc_send(NOBODY, None).result(ANSWER_SECONDS)
    except (TimeoutError, ConnectionError):
        return False
    except Exception as answer:  # AiiDA's client raises the broker's answer as this
        return NOBODY in str(answer)
    return True


def _tasks(profile: Any) -> set[int]:
    """The processes that the broker has a task for.

    Read from its files: AiiDA's own reader would move tasks that are being worked on.
    """
    found = set()
    # one that moves from one folder to the other meanwhile is seen all the same
    for part in ("pending", "processing", "pending"):
        for path in (_broker_folder(profile) / "storage" / "tasks" / part).glob("*.json"):
            try:
                found.add(int(json.loads(path.read_text())["body"]["args"]["pid"]))
            except (FileNotFoundError, KeyError, TypeError):
                continue  # done or moved, or not about a process
    return found


def _broker_folder(profile: Any) -> Path:
    from aiida.manage.configuration import get_config

    return Path(get_config().filepaths(profile)["broker_service"]["dir"])


def _broker(profile: Any) -> Any:
    """A broker object of our own, not the one whose connection this process keeps."""
    from aiida.brokers.zeromq import ZeromqBroker

    if profile is None or profile.process_control_backend != "core.zeromq":
        return None
    return ZeromqBroker(profile)
