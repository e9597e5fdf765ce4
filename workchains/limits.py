"""Checks of single inputs, and the end of work chains that several share."""

from __future__ import annotations

from typing import Any

from aiida.orm import CalcJobNode, Float, Int


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
    for job in chain.node.called_descendants:
        if isinstance(job, CalcJobNode) and "remote_folder" in job.outputs:
            try:
                job.outputs.remote_folder._clean()
            except OSError as problem:
                chain.report(f"the working directory of {job.process_label}<{job.pk}> was not "
                             f"removed: {problem}")
