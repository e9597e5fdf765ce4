"""Options and threads of jobs on a computer, from the settings stored with the computer."""

from __future__ import annotations

from statistics import median
from typing import Any

#: Property of a Computer that contains partition, account, walltime (s), number of threads, and
#: the computing time (s) per distance.
JOBS = "dse_jobs"
SPEED = "seconds_per_distance"


#: The speed follows from the latest results of a computer, at least LEAST_RESULTS of them, whose
#: tasks lasted longer than SHORT_TASK (s).
LATEST_RESULTS, LEAST_RESULTS, SHORT_TASK = 20, 3, 0.2


def speed_of(code: Any, task: str) -> float | None:
    """Core time (s) per distance of estimated work for a task on the computer of a code.

    It is the median of the latest results of the task, else the speed measured during set-up.
    """
    found = learnt_speed(code.computer, task)
    return found[0] if found else code.computer.get_property(JOBS, {}).get(SPEED)


def learnt_speed(computer: Any, task: str) -> tuple[float, int] | None:
    """Median core time (s) per distance of the latest results, and their number; None if too few."""
    from aiida.orm import CalcJobNode, Computer, Dict, QueryBuilder

    query = QueryBuilder()
    query.append(Computer, filters={"uuid": computer.uuid}, tag="computer")
    query.append(CalcJobNode, with_computer="computer", tag="job", filters={
        "process_type": f"aiida.calculations:dse.{task}", "attributes.exit_status": 0,
        "extras": {"!has_key": "_aiida_cached_from"}})
    query.append(Dict, with_incoming="job", edge_filters={"label": "result"}, tag="result",
                 filters={"attributes.work": {">": 0}, "extras.seconds": {">": SHORT_TASK}},
                 project=["extras.seconds", "extras.threads", "attributes.work"])
    query.order_by({"job": {"id": "desc"}}).limit(LATEST_RESULTS)
    speeds = [seconds * (threads or 1) / work for seconds, threads, work in query.all()
              if isinstance(threads, int | None)]  # imported results may have extras of any type
    return (median(speeds), len(speeds)) if len(speeds) >= LEAST_RESULTS else None


def queue_options(computer: Any) -> dict[str, Any]:
    """The `metadata.options` of a job that follow from the set-up of the computer.

    They do not contain the number of threads, which does not affect the result. A queue assigns
    to a job as many cores as the default number of processes of the computer.
    """
    kept = computer.get_property(JOBS, {})
    resources: dict[str, int] = {"num_machines": 1}
    if computer.get_default_mpiprocs_per_machine() is None:
        resources["num_mpiprocs_per_machine"] = 1
    named = {"max_wallclock_seconds": kept.get("walltime"), "queue_name": kept.get("partition"),
             "account": kept.get("account")}
    return {"resources": resources} | {key: value for key, value in named.items() if value}


def job_threads(computer: Any, threads: int | None, *, side_by_side: bool) -> int | None:
    """Number of threads of a job: as requested, or from the set-up; None for all cores.

    Concurrent jobs and jobs in a queue use one thread by default. Raises ValueError if the number
    of requested threads exceeds the number of cores that a queue assigns to a job.
    """
    has_queue = computer.scheduler_type != "core.direct"
    kept = computer.get_property(JOBS, {}).get("threads")
    if has_queue:
        cores = computer.get_default_mpiprocs_per_machine() or kept or 1
        if threads is not None and threads > cores:
            raise ValueError(
                f"{threads} threads were requested, but the queue of {computer.label} assigns only "
                f"{cores} cores to a job. Request fewer threads, or increase 'threads' in the "
                "set-up file of the computer."
            )
    if threads is not None:
        return threads
    if has_queue:
        return min(kept or 1, cores)
    return kept or (1 if side_by_side else None)
