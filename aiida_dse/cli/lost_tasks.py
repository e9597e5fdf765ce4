"""Processes that have lost their task: nothing would ever continue them.

A submitted process is continued by the worker that receives its task from the broker. A task can get
lost, for example if the database or the broker fails while a worker handles it, or if a daemon that
was killed is believed to run. AiiDA then leaves the process as it is, for ever.
"""

from __future__ import annotations

import fcntl
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

#: A process that changed less than this many seconds ago may still be about to receive its task.
YOUNG_SECONDS = 10.0
#: Seconds within which a worker must reply, and between two looks at a process that seems lost.
ANSWER_SECONDS, AGAIN_SECONDS = 5.0, 1.5
#: Seconds without a change after which a process counts as stalled; for a job at a scheduler, plus ten
#: intervals of polling.
STALLED_SECONDS = 60.0
#: Seconds that transfers of files to and from another computer may last; AiiDA waits up to 160 s between
#: attempts.
TRANSFER_SECONDS = 300.0
STATES = ["created", "waiting", "running"]


class Fate(Enum):
    """What became of a process that has no task in the queue of the broker."""

    RUNS = "a worker, or another program, runs it"
    LOST = "no worker knows it"
    SILENT = "a worker knows it, but does not reply"


@dataclass(frozen=True)
class Examined:
    """The processes that lost their task, and those whose worker does not reply."""

    lost: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()


def examine(profile: Any) -> Examined:
    """Examine the unfinished jobs and work chains that have no task in the queue.

    Processes that run without the daemon have no checkpoint and are not included.
    """
    candidates = _without_task(profile)
    if not candidates:
        return Examined()
    with communicator_of(profile) as communicator:
        fates = _fates(communicator, candidates)
        doubtful = [pk for pk, fate in fates.items() if fate is not Fate.RUNS]
        if not doubtful:
            return Examined()
        # a task on its way from the broker to a worker belongs to neither
        time.sleep(AGAIN_SECONDS)
        again = set(_without_task(profile))
        fates = _fates(communicator, [pk for pk in doubtful if pk in again])
    return Examined(*(tuple(pk for pk, fate in fates.items() if fate is wanted)
                      for wanted in (Fate.LOST, Fate.SILENT)))


def give_tasks_to_the_lost(profile: Any) -> Examined:
    """Create tasks for processes that have lost theirs; return what was found."""
    from aiida.manage.configuration import get_config
    from plumpy.process_comms import RemoteProcessThreadController

    found = examine(profile)
    if not found.lost:
        return found
    with open(Path(get_config().dirpath) / f"dse-lost-{profile.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two clients must not create the same task
        found = examine(profile)
        if found.lost:
            with communicator_of(profile) as communicator:
                controller = RemoteProcessThreadController(communicator)
                for pk in found.lost:
                    controller.continue_process(pk, nowait=False, no_reply=True)
                # messages are read in order, so a reply shows that the tasks are stored
                _fates(communicator, [0])
    return found


def stalled_processes() -> list[int]:
    """Processes that a worker keeps without continuing them, for example after a lost connection.

    These are jobs at a scheduler that nobody has asked about for long, work chains whose jobs have all
    ended, and processes that remain too long in a state that does not last. (A worker checks whether
    the jobs of a work chain have ended, but gives up when the database fails during a check.)
    """
    from aiida.orm import CalcJobNode, ProcessNode, QueryBuilder, WorkChainNode

    query = QueryBuilder().append((CalcJobNode, WorkChainNode), filters={
        "attributes.process_state": {"in": STATES}, "attributes": {"has_key": "checkpoints"}})
    found = []
    for node in query.all(flat=True):
        assert isinstance(node, ProcessNode) and node.pk is not None
        if not node.paused and _idle_seconds(node) > _allowed_seconds(node):
            found.append(node.pk)
    return found


def _idle_seconds(node: Any) -> float:
    """Seconds since something last happened to a process or to one of the processes that it called."""
    from aiida.common import timezone

    moments = [node.mtime, *(called.mtime for called in node.called)]
    checked = node.base.attributes.get("scheduler_lastchecktime", None)
    if isinstance(checked, str):
        moments.append(datetime.fromisoformat(checked))
    return float((timezone.now() - max(moments)).total_seconds())


def _allowed_seconds(node: Any) -> float:
    """Seconds that a process may last in its state without a change."""
    from aiida.orm import CalcJobNode

    if node.process_state.value != "waiting":
        return STALLED_SECONDS
    if isinstance(node, CalcJobNode):
        assert node.computer is not None
        if node.base.attributes.get("state", None) != "withscheduler":
            return STALLED_SECONDS if node.computer.transport_type == "core.local" else TRANSFER_SECONDS
        return float(STALLED_SECONDS + 10 * node.computer.get_minimum_job_poll_interval())
    return STALLED_SECONDS if all(called.is_terminated for called in node.called) else math.inf


def _without_task(profile: Any) -> list[int]:
    """Unfinished processes of the daemon for which the broker has no task that waits."""
    from aiida.common import timezone
    from aiida.orm import CalcJobNode, QueryBuilder, WorkChainNode

    # the tasks are read first, so that a process that ends meanwhile does not count as lost
    tasks = known_tasks(profile)
    query = QueryBuilder().append((CalcJobNode, WorkChainNode), project="id", filters={
        "attributes.process_state": {"in": STATES},
        "attributes": {"has_key": "checkpoints"},
        "mtime": {"<": timezone.now() - timedelta(seconds=YOUNG_SECONDS)},
    })
    return sorted(set(query.all(flat=True)) - tasks)


def known_tasks(profile: Any) -> set[int]:
    """The processes with a task: all of them for ZeroMQ, those in the queue for RabbitMQ."""
    from aiida.engine.processes.control import get_process_tasks
    from aiida.manage import get_manager

    if profile.process_control_backend == "core.zeromq":
        return _stored_tasks(profile)
    broker = get_manager().get_broker()
    assert broker is not None
    return set(get_process_tasks(broker))


def _stored_tasks(profile: Any) -> set[int]:
    """The processes for which the ZeroMQ broker has a task.

    They are read from the broker's files, since AiiDA's own reader would move tasks in progress.
    """
    found = set()
    # "pending" is read twice so that a task that moves between the folders is not missed
    for part in ("pending", "processing", "pending"):
        for path in (broker_folder(profile) / "storage" / "tasks" / part).glob("*.json"):
            try:
                found.add(int(json.loads(path.read_text())["body"]["args"]["pid"]))
            except (FileNotFoundError, KeyError, TypeError):
                continue  # finished or moved, or not the task of a process
    return found


def broker_folder(profile: Any) -> Path:
    from aiida.manage.configuration import get_config

    return Path(get_config().filepaths(profile)["broker_service"]["dir"])


@contextmanager
def communicator_of(profile: Any) -> Iterator[Any]:
    """A connection to the broker of the profile; for ZeroMQ, a separate one that is closed again."""
    from aiida.manage import get_manager

    broker = zeromq_broker(profile)
    if broker is None:
        yield get_manager().get_communicator()
        return
    with broker:
        yield broker.get_communicator()


def _fates(communicator: Any, processes: Sequence[int]) -> dict[int, Fate]:
    """Ask for the status of all processes at once; all replies share one time limit."""
    from plumpy.process_comms import MessageBuilder

    end = time.monotonic() + ANSWER_SECONDS

    def ask(pk: int) -> Future[Any]:
        try:
            sent: Future[Any] = communicator.rpc_send(pk, MessageBuilder.status())
        except Exception as problem:  # some brokers refuse at once what others refuse in a reply
            sent = Future()
            sent.set_exception(problem)
        return sent

    replies = {pk: ask(pk) for pk in processes}
    return {pk: _fate(reply, end) for pk, reply in replies.items()}


def _fate(reply: Any, end: float) -> Fate:
    from kiwipy import UnroutableError

    try:
        while hasattr(reply, "result"):  # the reply may be a promise of the reply
            reply = reply.result(max(0.05, end - time.monotonic()))
    except (TimeoutError, ConnectionError):
        return Fate.SILENT
    except UnroutableError:
        return Fate.LOST
    except Exception as answer:  # AiiDA's ZeroMQ client raises an error reply as a bare Exception
        return Fate.LOST if "Recipient not found" in str(answer) else Fate.RUNS
    return Fate.RUNS


def zeromq_broker(profile: Any) -> Any:
    """A separate broker object, so that the connection of this process is not closed."""
    from aiida.brokers.zeromq import ZeromqBroker

    if profile is None or profile.process_control_backend != "core.zeromq":
        return None
    return ZeromqBroker(profile)
