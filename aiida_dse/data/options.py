"""What jobs on a computer ask of its queue, unless specified otherwise: kept on its node."""

from __future__ import annotations

from typing import Any

#: The property of a Computer that holds partition, account, walltime (s), threads, and its speed
#: as seconds for a distance.
JOBS = "dse_jobs"
SPEED = "seconds_per_distance"


def speed_of(code: Any) -> float | None:
    """Seconds for a distance on the computer of a code, as measured at its set-up."""
    speed: float | None = code.computer.get_property(JOBS, {}).get(SPEED)
    return speed


def queue_options(computer: Any) -> dict[str, Any]:
    """`metadata.options` of a job as the set-up of the computer has them.

    The number of threads is not among them, since it changes nothing about a result: a queue
    gives a job the cores that the computer's default number of processes asks for.
    """
    kept = computer.get_property(JOBS, {})
    resources: dict[str, int] = {"num_machines": 1}
    if computer.get_default_mpiprocs_per_machine() is None:
        resources["num_mpiprocs_per_machine"] = 1
    named = {"max_wallclock_seconds": kept.get("walltime"), "queue_name": kept.get("partition"),
             "account": kept.get("account")}
    return {"resources": resources} | {key: value for key, value in named.items() if value}


def job_threads(computer: Any, threads: int | None, *, side_by_side: bool) -> int | None:
    """Threads of a job: as asked for, else as set up; None for all cores.

    Jobs that run side by side and jobs in a queue use one thread by default. Raises ValueError
    for more threads than a queue gives cores to a job.
    """
    has_queue = computer.scheduler_type != "core.direct"
    kept = computer.get_property(JOBS, {}).get("threads")
    if has_queue:
        cores = computer.get_default_mpiprocs_per_machine() or kept or 1
        if threads is not None and threads > cores:
            raise ValueError(
                f"{threads} threads were asked for, but a job on {computer.label} gets {cores} "
                "cores from its queue. Raise 'threads' in the set-up of the computer."
            )
    if threads is not None:
        return threads
    if has_queue:
        return min(kept or 1, cores)
    return kept or (1 if side_by_side else None)
