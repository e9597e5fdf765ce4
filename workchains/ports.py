"""Ports and clean-up steps shared by several work chains."""

from __future__ import annotations

from typing import Any

from aiida.orm import Bool, CalcJobNode, Dict, Float, Int, RemoteData, to_aiida_type
from aiida.orm.utils.remote import clean_remote


def define_count(spec: Any, name: str, default: int, description: str) -> None:
    """Define a port for an integer of at least 1."""
    spec.input(name, valid_type=Int, serializer=to_aiida_type, default=lambda: Int(default),
               validator=at_least_one, help=description)


def define_iterations(spec: Any) -> None:
    """Define the port for the maximum number of jobs per refinement."""
    define_count(spec, "max_iterations", 5, (
        "Maximum number of jobs per refinement, including restarts."))


def define_tile_seconds(spec: Any) -> None:
    """Define the port for the target duration of a tile."""
    spec.input("tile_seconds", valid_type=Float, serializer=to_aiida_type,
               default=lambda: Float(60.0), validator=_positive,
               help="Target computing time of one tile of a map on a typical core (s).")


def define_start_from(spec: Any) -> None:
    """Define the port for the result that provides the starting values of an analysis."""
    spec.input("start_from", valid_type=Dict, required=False,
               help="Result of an earlier analysis that provides the starting values.")


def define_clean_workdir(spec: Any) -> None:
    """Define a port with the name and meaning of that of AiiDA's restart work chain."""
    spec.input("clean_workdir", valid_type=Bool, serializer=to_aiida_type,
               default=lambda: Bool(False),
               help="Whether to remove the working directories of the jobs at the end. Those of "
               "failed jobs are kept if the work chain fails.")


def clean_working_directories(chain: Any) -> None:
    """Remove the working directories of the jobs of a work chain if clean_workdir is set.

    If the work chain failed, the directories of failed jobs are kept, so that they can be examined.
    """
    if not chain.inputs.clean_workdir.value:
        return
    jobs = [job for job in chain.node.called_descendants
            if isinstance(job, CalcJobNode) and "remote_folder" in job.outputs
            and (job.is_finished_ok or chain.node.is_finished_ok)]
    if not jobs:
        return
    try:
        with jobs[0].get_transport() as transport:
            for job in jobs:
                folder = job.outputs.remote_folder
                clean_remote(transport, folder.get_remote_path())
                folder.base.extras.set(RemoteData.KEY_EXTRA_CLEANED, True)
    except OSError as problem:
        chain.report(f"some working directories of the jobs could not be removed: {problem}")


def not_negative(node: Float | Int, _: Any) -> str | None:
    return None if node.value >= 0 else f"the value is {node.value}; it must not be negative."


def at_least_one(node: Int, _: Any) -> str | None:
    return None if node.value >= 1 else f"the value is {node.value}; it must be at least 1."


def _positive(node: Float, _: Any) -> str | None:
    return None if node.value > 0 else f"the value is {node.value}; it must be positive."
