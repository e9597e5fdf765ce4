"""Checks of single inputs, and the end of work chains that several share."""

from __future__ import annotations

from typing import Any

from aiida.orm import CalcJobNode, Float, Int, RemoteData
from aiida.orm.utils.remote import clean_remote


def at_least_one(node: Int, _: Any) -> str | None:
    return None if node.value >= 1 else f"the value is {node.value}; it must be at least 1."


def positive(node: Float, _: Any) -> str | None:
    return None if node.value > 0 else f"the value is {node.value}; it must be above 0."


def not_negative(node: Float | Int, _: Any) -> str | None:
    return None if node.value >= 0 else f"the value is {node.value}; it must not be below 0."


def cleaned(chain: Any) -> None:
    """Remove the working directories of the jobs of a work chain, where it was asked to."""
    if not chain.inputs.clean_workdir.value:
        return
    jobs = [job for job in chain.node.called_descendants
            if isinstance(job, CalcJobNode) and "remote_folder" in job.outputs]
    if not jobs:
        return
    try:
        with jobs[0].get_transport() as transport:
            for job in jobs:
                folder = job.outputs.remote_folder
                clean_remote(transport, folder.get_remote_path())
                folder.base.extras.set(RemoteData.KEY_EXTRA_CLEANED, True)
    except OSError as problem:
        chain.report(f"not all working directories of the jobs were removed: {problem}")
