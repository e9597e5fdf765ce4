"""A user with a home and a configuration of AiiDA of their own, who works with the commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import patient, wait_until

BIN = Path(sys.executable).parent


@contextmanager
def small_disk_at(folder, megabytes):
    """Mount an empty disk of this size at a folder; skip the test where this is not possible."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0 or subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True,
            check=False).returncode:
        pytest.skip("mounting a small disk requires root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class User:
    """Somebody with a home of their own: AiiDA's and ssh's configuration."""

    def __init__(self, home):
        self.home = home
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "SLURM", "SSH_"))}
        # psql finds no password file and no service file either
        self.environment = keep | {"HOME": str(home), "AIIDA_PATH": str(home)}

    def tries(self, *arguments, **more):
        return subprocess.run(
            [BIN / "aiida-dse", *map(str, arguments)], env=self.environment, capture_output=True,
            text=True, timeout=patient(300), check=False, **more)

    def runs(self, *arguments):
        done = self.tries(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def config(self):
        return self.home / ".aiida" / "config.json"


def finished(output, kind):
    """PK of the work chain of a launch that waited."""
    return re.search(rf"submitted {kind}<(\d+)>", output)[1]


def python_in(user, code):
    """What a few lines on the user's default profile print."""
    head = "from aiida import load_profile, orm\nload_profile()\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + code], text=True, env=user.environment,
        capture_output=True, timeout=patient(100), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def settled(user, pk):
    """List, and apply the remedy that is printed, until an analysis has ended; what was printed."""
    log = []

    def ended():
        shown = user.tries("list")
        log.append(shown.stdout + shown.stderr)
        if "doctor --fix" in shown.stderr:
            fixed = user.tries("doctor", "--fix")
            log.append(fixed.stdout + fixed.stderr)
        return "True" in python_in(user, f"print(orm.load_node({pk}).is_terminated)")

    wait_until(ended, lambda: "\n".join(log), seconds=240, every=2)
    return log
