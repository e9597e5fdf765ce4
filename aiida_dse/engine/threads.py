"""How many threads the engine may use: the cores the job was given, no more."""

from __future__ import annotations

import os


def thread_count() -> int:
    """DSE_NUM_THREADS, else OMP_NUM_THREADS, else the cores this process may run on."""
    for name in ("DSE_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
