"""How long tests wait. Limits in seconds are those of a quiet machine.

They grow with the load of the machine, and by the factor DSE_TEST_PATIENCE (default 1).
"""

from __future__ import annotations

import os
import time


def patience():
    """By how much a limit is longer than on a quiet machine, at this moment."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    busy = max(os.getloadavg()[:2]) / cores
    return float(os.environ.get("DSE_TEST_PATIENCE", "1")) * max(1.0, busy)


def patient(seconds):
    """A limit, as long as the load of the machine requires."""
    return seconds * patience()


def wait_until(condition, explanation, seconds=30, every=0.3, progress=lambda: None):
    """Wait until a condition is met; its value.

    explanation() is the message of the error after `seconds` in which progress() did not change.
    """
    begin, last = time.monotonic(), progress()
    while not (found := condition()):
        if time.monotonic() - begin > patient(seconds):
            before, last = last, progress()
            if last == before:
                waited = time.monotonic() - begin
                raise TimeoutError(f"nothing happened for {waited:.0f} s: {explanation()}")
            begin = time.monotonic()
        time.sleep(every)
    return found
