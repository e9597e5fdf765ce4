"""Run the commands on generated bad inputs, and print every traceback, hang and excess of memory.

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
os.environ["AIIDA_PATH"] = tempfile.mkdtemp(prefix="dse-fuzz-")
sys.path.insert(0, str(Path(__file__).parent))

import cases  # noqa: E402
from click.testing import CliRunner  # noqa: E402

#: Limits of a case: seconds of processor time, and bytes of memory beyond those of the program.
LONGEST, MOST_MEMORY = 10, 1_000_000_000


def run(kind: str, seed: int, made: Path) -> str:
    """Run one case in this process; what is wrong with it, '' for nothing."""
    if kind in cases.WITH_AIIDA:
        from aiida_dse.cli.main import main
    else:
        from aiida_dse.cli.engine import main
    draw = random.Random(f"{kind} {seed}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more: tuple[Any, ...] = (made,) if kind == "results" else ()
        commands = cases.KINDS[kind](draw, folder, *more)
        os.chdir(folder)
        found = [wrong for command in ([commands] if isinstance(commands[0], str) else commands)
                 if (wrong := run_command(main, command))]
        os.chdir("/")
    return "; ".join(found)


def run_command(main: Any, arguments: list[str]) -> str:
    """Run one command; what is wrong with it, '' for nothing."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    outcome = CliRunner().invoke(main, arguments)
    used = time.process_time() - begin
    memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
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


def isolated(kind: str, seeds: list[int], made: Path) -> list[str]:
    """Run cases in a forked process with limits; what is wrong with each."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        reader.close()
        most = (LONGEST + 5) * (1 if len(seeds) == 1 else len(seeds) // 2)
        resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            writer.send([f"{kind}, seed {seed}: {wrong}" for seed in seeds if (wrong := run(kind, seed, made))])
        except BaseException as problem:
            writer.send([f"{kind}, seeds {seeds}: the case failed: {problem!r}"])
        finally:
            os._exit(0)
    writer.close()
    _, status = os.waitpid(pid, 0)
    try:
        found: list[str] = reader.recv()
    except EOFError:
        found = [f"{kind}, seeds {seeds}: ended with the exit status {status}"]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        what = "hang" if number in (signal.SIGXCPU, signal.SIGKILL) else f"killed by signal {number}"
        return [f"{kind}, seeds {seeds}: {what}"]
    return found


def make_profile() -> None:
    """A default profile in memory, in the configuration folder of this process."""
    from aiida.manage.configuration import get_config
    from aiida.storage.sqlite_temp import SqliteTempBackend

    config = get_config(create=True)
    if not config.profile_names:
        config.add_profile(SqliteTempBackend.create_profile("fuzz"))
        config.set_default_profile("fuzz", overwrite=True)
        config.store()


def fuzz(kinds: list[str], n_cases: int, seed: int, seconds: float) -> list[str]:
    """What is wrong, for every case of the kinds, which share the time; the slow kinds are the last ones."""
    found: list[str] = []
    kinds = sorted(kinds, key=lambda kind: kind in cases.WITH_AIIDA)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        made = cases.make_result(Path(name))
        cases.compile_kernels(Path(name))
        for k, kind in enumerate(kinds):
            left = begin + seconds - time.monotonic()
            if kind in cases.WITH_AIIDA:  # loaded once, before the cases are forked
                import aiida_dse.cli.main
                import aiida_dse.data.archives
                import aiida_dse.workchains.study  # noqa: F401
                make_profile()
            end, done = time.monotonic() + left / (len(kinds) - k), 0
            bad: list[str] = []
            while done < n_cases and time.monotonic() < end:
                # loading AiiDA takes longer than a case, so several share a process
                batch = min(25, n_cases - done) if kind in cases.WITH_AIIDA else 1
                bad += isolated(kind, [seed + done + k for k in range(batch)], made)
                done += batch
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
