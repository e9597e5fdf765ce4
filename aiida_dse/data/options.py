"""What jobs on a computer ask of its queue, unless told otherwise: kept on the computer's node."""

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


def job_options(
    computer: Any, *, walltime: int | None = None, threads: int | None = None,
    otherwise: int | None = None, protocol_walltime: int | None = None,
) -> dict[str, Any]:
    """`metadata.options` of a job: what is asked for, else what the computer's set-up says.

    walltime in s; `otherwise` and `protocol_walltime`: threads and walltime where neither specifies them. A
    queue gives a job the cores that it asks for, so there it asks for at least one; without a
    queue, a job that says nothing may use all.
    """
    kept = computer.get_property(JOBS, {})
    if computer.scheduler_type != "core.direct":
        otherwise = otherwise or 1
    resources: dict[str, int] = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
    if threads := threads or kept.get("threads") or otherwise:
        resources["num_cores_per_mpiproc"] = threads
    options: dict[str, Any] = {"resources": resources}
    for name, value in (("max_wallclock_seconds", walltime or kept.get("walltime")
                         or protocol_walltime),
                        ("queue_name", kept.get("partition")), ("account", kept.get("account"))):
        if value:
            options[name] = value
    return options
