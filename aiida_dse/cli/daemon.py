"""Whether the daemon's workers get their work, and what mends it when they do not.

AiiDA's ZeroMQ broker (aiida-core 2.9) learns of a killed worker from one event of its socket and
then tries once to reach every worker that holds a task. The event may come a moment before the
socket knows that the connection is gone: the trial succeeds, is not repeated, and the tasks of the
dead worker (a tile, or the work chain itself) stay with it. Every client that leaves the broker
is such an event too, so that a passing client makes it look again, now in vain no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Nobody subscribes to this name: the broker answers so, and tells it in its log.
NOBODY = "aiida-dse-asks-whether-workers-are-gone"
ANSWER_SECONDS = 5.0


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
        try:
            broker.get_communicator().rpc_send(NOBODY, None).result(ANSWER_SECONDS)
        except (TimeoutError, ConnectionError):
            return False
        except Exception as answer:  # AiiDA's client raises the broker's answer as this
            return NOBODY in str(answer)
    return True


def mended(profile: Any) -> str | None:
    """Look whether all workers get work, mend what can be mended, tell what cannot."""
    workers = workers_of_daemon(profile)
    if workers is None:
        return None
    if workers.counted > workers.running:
        look_for_dead_workers(profile)
    return workers.trouble


def _broker(profile: Any) -> Any:
    """A broker object of our own, not the one whose connection this process keeps."""
    from aiida.brokers.zeromq import ZeromqBroker

    if profile is None or profile.process_control_backend != "core.zeromq":
        return None
    return ZeromqBroker(profile)
