"""Processes that have lost their task: nothing would ever continue them.

A submitted process is continued by the worker that receives its task from the broker. A task can get
lost, for example if the database or the broker fails while a worker handles it, or if a daemon that
was killed is believed to run. AiiDA then leaves the process as it is, for ever.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

#: A process that changed less than this many seconds ago may still be about to receive its task.
YOUNG_SECONDS = 10.0
#: Seconds within which a worker must reply, and between two looks at a process that seems lost.
ANSWER_SECONDS, AGAIN_SECONDS = 5.0, 1.5
#: Number of processes that are examined at a time.
MOST_ASKED = 20
STATES = ["created", "waiting", "running"]


def lost_processes(profile: Any) -> list[int]:
    """Unfinished jobs and work chains without a task, which no worker runs either.

    Processes that run without the daemon have no checkpoint and are not included.
    """
    candidates = _without_task(profile)
    if not candidates:
        return []
    with communicator_of(profile) as communicator:
        lost = [pk for pk in candidates[:MOST_ASKED] if not _runs(communicator, pk)]
        if not lost:
            return []
        # a task on its way from the broker to a worker belongs to neither
        time.sleep(AGAIN_SECONDS)
        again = set(_without_task(profile))
        return [pk for pk in lost if pk in again and not _runs(communicator, pk)]


def give_tasks_to_the_lost(profile: Any) -> list[int]:
    """Create tasks for processes that have lost theirs, and return the PKs of the processes."""
    from aiida.manage.configuration import get_config
    from plumpy.process_comms import RemoteProcessThreadController

    if not lost_processes(profile):
        return []
    with open(Path(get_config().dirpath) / f"dse-lost-{profile.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two clients must not create the same task
        found = lost_processes(profile)
        if found:
            with communicator_of(profile) as communicator:
                controller = RemoteProcessThreadController(communicator)
                for pk in found:
                    controller.continue_process(pk, nowait=False, no_reply=True)
                # messages are read in order, so a reply shows that the tasks are stored
                _runs(communicator, 0)
    return found


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


def _runs(communicator: Any, pk: int) -> bool:
    """Whether a worker, or another program, runs the process. A late reply counts as yes."""
    from kiwipy import UnroutableError
    from plumpy.process_comms import MessageBuilder

    try:
        communicator.rpc_send(pk, MessageBuilder.status()).result(ANSWER_SECONDS)
    except (TimeoutError, ConnectionError):
        return True
    except UnroutableError:
        return False
    except Exception as answer:  # AiiDA's ZeroMQ client raises an error reply as a bare Exception
        return "Recipient not found" not in str(answer)
    return True


def zeromq_broker(profile: Any) -> Any:
    """A separate broker object, so that the connection of this process is not closed."""
    from aiida.brokers.zeromq import ZeromqBroker

    if profile is None or profile.process_control_backend != "core.zeromq":
        return None
    return ZeromqBroker(profile)
