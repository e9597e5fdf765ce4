"""What jobs on a computer ask of its queue, unless told otherwise: kept on the computer's node."""

from __future__ import annotations

from typing import Any

#: The property of a Computer that holds partition, account, walltime (s) and threads.
JOBS = "dse_jobs"


def job_options(
    computer: Any, *, walltime: int | None = None, threads: int | None = None,
    otherwise: int | None = None, protocol_walltime: int | None = None,
) -> dict[str, Any]:
    """`metadata.options` of a job: what is asked for, else what the computer's set-up says.

    walltime in s; `otherwise` and `protocol_walltime`: threads and walltime where neither tells.
    """
    kept = computer.get_property(JOBS, {})
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
