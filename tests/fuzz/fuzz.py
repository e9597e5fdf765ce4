"""Run dse-engine on generated bad inputs, and print every traceback, hang and excess of memory.

    python tests/fuzz/fuzz.py [--cases 1000] [--kind documents] [--seed 0] [--seconds 1200]

Each case runs in a process of its own with limits of processor time and memory. The exit status is 1
if a case broke the rules; its kind and seed repeat it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "DSE_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import cases  # noqa: E402
from click.testing import CliRunner  # noqa: E402

#: Limits of a case: seconds of processor time, and bytes of memory beyond those of the program.
LONGEST, MOST_MEMORY = 10, 1_000_000_000


def run(kind: str, seed: int, made: Path) -> str:
    """Run one case in this process; what is wrong with it, '' for nothing."""
    from aiida_dse.cli.engine import main

    draw = random.Random(f"{kind} {seed}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more: tuple[Any, ...] = (made,) if kind == "results" else ()
        arguments = cases.KINDS[kind](draw, folder, *more)
        os.chdir(folder)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.process_time()
        outcome = CliRunner().invoke(main, arguments)
        used = time.process_time() - begin
        memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        os.chdir("/")
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        lines = traceback.format_exception(outcome.exception)
        return "traceback: " + " | ".join(line.strip() for line in lines[-2:])[:400]
    if "\x1b" in outcome.output:
        return "escape sequence in the output"
    if used > LONGEST:
        return f"{used:.0f} s of processor time"
    if memory > MOST_MEMORY:
        return f"{memory / 1e9:.1f} GB of memory"
    return ""


def isolated(kind: str, seed: int, made: Path) -> str:
    """Run one case in a forked process with limits."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        reader.close()
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST + 5, LONGEST + 10))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            writer.send(run(kind, seed, made))
        except BaseException as problem:
            writer.send(f"the case failed: {problem!r}")
        finally:
            os._exit(0)
    writer.close()
    _, status = os.waitpid(pid, 0)
    try:
        found = reader.recv()
    except EOFError:
        found = f"ended with the exit status {status}"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "hang" if number in (signal.SIGXCPU, signal.SIGKILL) else f"killed by signal {number}"
    return str(found)


def fuzz(kinds: list[str], n_cases: int, seed: int, seconds: float) -> list[str]:
    """What is wrong, for every case of the kinds; the time is divided evenly among them."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        made = cases.make_result(Path(name))
        for kind in kinds:
            end, done = time.monotonic() + seconds / len(kinds), 0
            bad: list[str] = []
            while done < n_cases and time.monotonic() < end:
                if wrong := isolated(kind, seed + done, made):
                    bad.append(f"{kind}, seed {seed + done}: {wrong}")
                done += 1
            print(f"{kind:14} {done:5} cases, {len(bad)} wrong", flush=True)
            print("\n".join(bad), end="\n" if bad else "", flush=True)
            found += bad
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--kind", choices=list(cases.KINDS), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    given = parser.parse_args()
    sys.exit(bool(fuzz(given.kind or list(cases.KINDS), given.cases, given.seed, given.seconds)))
