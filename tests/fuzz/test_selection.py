"""A short selection of generated bad inputs; `make fuzz` runs thousands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from waiting import patient

N_CASES = 25


def test_no_traceback_no_hang_and_no_excess_of_memory():
    script = Path(__file__).with_name("fuzz.py")
    done = subprocess.run([sys.executable, "-W", "ignore", script, "--cases", str(N_CASES), "--seconds", "160"],
                          capture_output=True, text=True, check=False, timeout=patient(300))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" cases, 0 wrong") == 11, done.stdout
