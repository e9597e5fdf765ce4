"""Options and threads of jobs on a computer, from the settings on its node."""

from __future__ import annotations

from typing import Any

#: The property of a Computer that holds partition, account, walltime (s), threads, and its speed
#: in seconds for a distance.
JOBS = "dse_jobs"
SPEED = "seconds_per_distance"


def speed_of(code: Any) -> float | None:
    """Seconds for a distance on the computer of a code, as measured at its set-up."""
    speed: float | None = code.computer.get_property(JOBS, {}).get(SPEED)
    return speed


def queue_options(computer: Any) -> dict[str, Any]:
    """`metadata.options` of a job from the set-up of the computer.

    They do not contain the number of threads, which does not change a result: a queue assigns as
    many cores to a job as the default number of processes of the computer.
    """
    kept = computer.get_property(JOBS, {})
    resources: dict[str, int] = {"num_machines": 1}
    if computer.get_default_mpiprocs_per_machine() is None:
        resources["num_mpiprocs_per_machine"] = 1
    named = {"max_wallclock_seconds": kept.get("walltime"), "queue_name": kept.get("partition"),
             "account": kept.get("account")}
    return {"resources": resources} | {key: value for key, value in named.items() if value}


def job_threads(computer: Any, threads: int | None, *, side_by_side: bool) -> int | None:
    """Threads of a job: the requested number, or that of the set-up; None for all cores.

    Jobs that run side by side and jobs in a queue use one thread by default. Raises ValueError
    where more threads are requested than a queue assigns cores to a job.
    """
    has_queue = computer.scheduler_type != "core.direct"
    kept = computer.get_property(JOBS, {}).get("threads")
    if has_queue:
        cores = computer.get_default_mpiprocs_per_machine() or kept or 1
        if threads is not None and threads > cores:
            raise ValueError(
                f"{threads} threads were requested, but the queue of {computer.label} assigns {cores} "
                "cores to a job. Raise 'threads' in the set-up of the computer."
            )
    if threads is not None:
        return threads
    if has_queue:
        return min(kept or 1, cores)
    return kept or (1 if side_by_side else None)
