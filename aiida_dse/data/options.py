"""Options and threads of jobs on a computer, from the settings stored with the computer."""

from __future__ import annotations

from typing import Any

#: Property of a Computer that contains partition, account, walltime (s), number of threads, and
#: the computing time (s) per distance.
JOBS = "dse_jobs"
SPEED = "seconds_per_distance"


def speed_of(code: Any) -> float | None:
    """Computing time (s) per distance on the computer of a code, as measured during set-up."""
    speed: float | None = code.computer.get_property(JOBS, {}).get(SPEED)
    return speed


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
