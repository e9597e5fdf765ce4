"""outcome.json: the last words of a run, whatever ended it, also on a full disk."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel
from user import small_disk_at

from aiida_dse import __version__
from aiida_dse.documents import DocumentError
from aiida_dse.documents.status import Failure
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.io.outcome import (
    OUTCOME_NAME,
    RESERVED,
    EngineFailure,
    RunOutcome,
    failure_of,
    failure_without_outcome,
    read_outcome,
    reporting,
    write_outcome,
)
from aiida_dse.io.patterns import read_pattern


class Section(BaseModel):
    x: int


def refused():
    read_pattern(Path("no.xye"), axis="sin_theta", wavelength=1.0, sigma="column")


def invalid():
    Section(x="no number")


def inconsistent():
    np.zeros(3) + np.zeros(4)


def singular():
    np.linalg.inv(np.zeros((2, 2)))


def raised(problem):
    def run():
        raise problem

    return run


FAILURES = [
    (raised(DocumentError("pattern: no 'file'")), Failure.INVALID_INPUT, "pattern: no 'file'"),
    (refused, Failure.INVALID_INPUT, "sin_theta"),
    # what a library raises while a task runs is no fault of the input
    (invalid, Failure.INTERNAL, "x"),
    (inconsistent, Failure.INTERNAL, "broadcast"),
    (raised(MemoryError()), Failure.OUT_OF_MEMORY, "did not fit"),
    (raised(MemoryError("Unable to allocate 9 TiB")), Failure.OUT_OF_MEMORY, "9 TiB"),
    (raised(OSError(errno.ENOSPC, "No space left on device")), Failure.DISK_FULL, "No space"),
    (raised(OSError(errno.EDQUOT, "Disk quota exceeded")), Failure.DISK_FULL, "quota"),
    (raised(OSError(errno.EACCES, "Permission denied")), Failure.INTERNAL, "Permission denied"),
    # a ValueError by inheritance, but no fault of the input
    (singular, Failure.INTERNAL, "LinAlgError"),
    (raised(np.linalg.LinAlgError("SVD did not converge")), Failure.INTERNAL, "SVD"),
    (raised(ZeroDivisionError("division by zero")), Failure.INTERNAL, "ZeroDivisionError"),
    (raised(KeyError("P.a")), Failure.INTERNAL, "P.a"),
    (raised(KeyboardInterrupt()), Failure.NO_RESULT, "interrupted"),
    (raised(EngineFailure(Failure.OTHER_ENGINE, "numerics 2, not 1")), Failure.OTHER_ENGINE,
     "numerics 2"),
]


@pytest.mark.parametrize(("run", "failure", "expected"), FAILURES,
                         ids=lambda x: str(x) if isinstance(x, Failure) else "")
def test_a_failure_is_reported_by_its_class(tmp_path, run, failure, expected):
    with pytest.raises(BaseException) as problem, reporting(tmp_path):
        assert read_outcome(tmp_path).state == "running"
        run()
    assert failure_of(problem.value).failure is failure
    found = read_outcome(tmp_path)
    assert (found.state, found.failure) == ("failed", failure.value) and expected in found.message
    assert Failure(found.failure) is failure  # as a parser reads it


def test_a_run_that_ends_well_is_finished(tmp_path):
    with reporting(tmp_path / "new" / "folder"):
        first = read_outcome(tmp_path / "new" / "folder")
    assert first == RunOutcome("running")
    assert first.engine_version == __version__ and first.numerics_version == NUMERICS_VERSION
    assert read_outcome(tmp_path / "new" / "folder") == RunOutcome("finished")


def test_an_exit_after_the_last_words_leaves_them(tmp_path):
    """sys.exit with the status of a walltime is no failure."""
    with pytest.raises(SystemExit), reporting(tmp_path):
        write_outcome(tmp_path, RunOutcome("finished"))
        raise SystemExit(4)
    assert read_outcome(tmp_path).state == "finished"


@pytest.mark.parametrize("message", ["", "x", "Å" * 100, "Å" * 3000, "\n\"\\" * 3000, "𝛘" * 5000,
                                     "/data/\udce9t\udce9" * 500])
def test_the_file_never_changes_its_size(tmp_path, message):
    """What is reserved at the start holds any message: no block is asked of a full disk."""
    path = tmp_path / OUTCOME_NAME
    write_outcome(tmp_path, RunOutcome("running"))
    place = path.stat().st_ino
    write_outcome(tmp_path, RunOutcome("failed", Failure.DISK_FULL.value, message))
    assert path.stat().st_size == RESERVED and path.stat().st_ino == place
    found = json.loads(path.read_text(encoding="utf-8"))
    assert message.startswith(found["message"]) and bool(found["message"]) == bool(message)
    write_outcome(tmp_path, RunOutcome("finished"))
    assert path.stat().st_size == RESERVED and read_outcome(tmp_path).message == ""


def test_a_disk_that_refuses_the_words_hides_nothing(tmp_path, monkeypatch):
    """The first error is the one that is raised."""
    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match="the real reason"), reporting(tmp_path):
        monkeypatch.setattr(Path, "open", full)
        raise ValueError("the real reason")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running", "more": 1}', "\xff"])
def test_a_damaged_file_is_no_outcome(tmp_path, text):
    (tmp_path / OUTCOME_NAME).write_bytes(text.encode("latin-1"))
    assert read_outcome(tmp_path) is None
    assert read_outcome(tmp_path / "none") is None


def test_an_earlier_run_does_not_speak_for_this_one(tmp_path):
    write_outcome(tmp_path, RunOutcome("failed", Failure.INTERNAL.value, "long ago"))
    with reporting(tmp_path):
        found = read_outcome(tmp_path)
    assert found == RunOutcome("running") and not re.search("ago", found.message)


@pytest.mark.parametrize("kilobytes", [0, 4, 12, 32, 44])
def test_a_full_disk_is_recognised_wherever_it_stops_the_engine(tmp_path, kilobytes):
    """Before the outcome, before the arrays, within them, and before the numbers."""
    old = Path(__file__).parents[1] / "data" / "documents_0_1"
    for name in ("CsCl.cif", "CsCl_L.xye"):
        shutil.copy(old / name, tmp_path / name)
    (tmp_path / "m.yaml").write_text("""
schema: aiida-dse/model/2
pattern: {file: CsCl_L.xye, axis: q_inverse_nm, wavelength: 0.7093, sigma: column}
phases: {P: {structure: CsCl.cif, particle: {shape: quasi_cube, L: {mean: 1.6, sd: 0.2}}}}
refinement: {stages: [[P.a]], max_cycles: 2}
""")
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk_at(disk, 1):
        (disk / "fill").write_bytes(bytes(1_048_576 - 1024 * kilobytes))
        engine = subprocess.run([Path(sys.executable).with_name("dse-engine"), "refine", tmp_path / "m.yaml",
                                 "-o", disk / "out", "--quiet"], capture_output=True, text=True, check=False)
        outcome = read_outcome(disk / "out")
        failure = failure_without_outcome(disk / "out", "") if outcome is None else Failure(outcome.failure)
        assert failure is Failure.DISK_FULL, (outcome, engine.stderr)
        assert engine.returncode not in (0, 3) and "Traceback" not in engine.stderr
        assert not (disk / "out" / "result.json").exists()
