"""Tasks and the command dse-engine: results, exit statuses, errors and interruption."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from waiting import patient

from aiida_dse.cli.engine import main
from aiida_dse.documents import DocumentError
from aiida_dse.documents.status import EXITS, Failure, Status
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.parameters import ParameterStatus
from aiida_dse.io.outcome import (
    OUTCOME_NAME,
    RESERVED,
    EngineFailure,
    RunOutcome,
    read_outcome,
)
from aiida_dse.io.results import read_result
from aiida_dse.tasks.run import map_of, run_refine, run_scan
from aiida_dse.tasks.simulation import run_simulate

GRID = {"axis": "q_inverse_angstrom", "wavelength": 0.7,
        "grid": {"start": 1.0, "step": 0.1, "stop": 9.0}}


def run(*arguments):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return CliRunner().invoke(main, [str(a) for a in arguments])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def refused(outcome, *words):
    """Assert the exit status of invalid input and the words of its message."""
    assert outcome.exit_code == EXITS[Failure.INVALID_INPUT].command == 2, (
        outcome.exit_code, outcome.exception, outcome.output)
    assert "Error" in outcome.output
    for word in words:
        assert word in outcome.output


def test_validate_lists_the_content_of_a_document(folder):
    outcome = run("validate", folder.write(constraints={"P.Cs.B_iso": "0.5 * P.Cl.B_iso"}))
    assert outcome.exit_code == 0, outcome.output
    for text in ("valid", "200 points", "P.a", "= 0.5 * P.Cl.B_iso", "P.scale", "4 x 3 = 12 points",
                 "not a parameter: P.b"):
        assert text in outcome.output


def test_the_schema_requires_no_document(folder):
    outcome = run("validate", "--schema")
    assert outcome.exit_code == 0, outcome.output
    assert "phases" in json.loads(outcome.output)["properties"]


def test_the_schema_option_ignores_the_document(folder):
    outcome = run("validate", "--schema", folder.write())
    assert "schema" in json.loads(outcome.output)["properties"]


@pytest.mark.parametrize("command", ["validate", "simulate", "refine", "scan"])
def test_an_unreadable_document_is_refused(folder, tmp_path, command):
    refused(run(command, tmp_path / "none.yaml"), "there is no such file")
    refused(run(command, tmp_path), "is not a file")
    (tmp_path / "bad.yaml").write_text("a: [1")
    refused(run(command, tmp_path / "bad.yaml"), "not valid YAML")
    refused(run(command, folder.write(patern=1)), "did you mean 'pattern'?")


def test_simulate_computes_the_pattern_on_a_grid(folder, tmp_path):
    out = tmp_path / "out"
    document = folder.write(pattern=GRID, refinement=None, scan=None, scales={"P": 2.0})
    outcome = run("simulate", document, "-o", out)
    assert outcome.exit_code == 0, outcome.output
    result = read_result(out)
    assert (result.task, result.status) == ("simulate", "complete")
    assert result.summary.agreement is None and "pattern/observed" not in result.arrays
    assert len(result.arrays["pattern/q"]) == 81
    alone = run_simulate(folder.build(pattern=GRID, refinement=None, scan=None))
    np.testing.assert_allclose(
        result.arrays["pattern/calculated"], 2 * alone.arrays["pattern/calculated"], rtol=1e-12
    )


def test_simulate_with_data_fits_scale_and_background(folder):
    result = run_simulate(folder.build(parameters={"P.a": 4.12}))
    assert 0.85 < result.summary.agreement.gof < 1.15
    parts = [v for k, v in result.arrays.items() if k.startswith("components/")]
    np.testing.assert_allclose(sum(parts), result.arrays["pattern/calculated"], rtol=1e-9)


def test_refine_writes_values_su_and_covariance(folder, tmp_path):
    out = tmp_path / "out"
    outcome = run("refine", folder.write(), "-o", out, "--quiet", "--threads", 1)
    assert outcome.exit_code == 0, outcome.output
    assert "GoF" in outcome.output and str(out / "result.json") in outcome.output
    result = read_result(out)
    assert result.status == "converged"
    row = result.summary.parameters["P.a"]
    assert row.status.refined and abs(row.value - 4.12) < 4 * row.su and row.start == 4.11
    assert not result.summary.parameters["P.Cs.occupancy"].status.refined
    derived = result.summary.derived["P"].quantities
    bond, volume = derived["d(Cs-Cl)_1"], derived["volume"]
    assert bond.value == pytest.approx(row.value * np.sqrt(3) / 2, rel=1e-12)
    assert bond.su == pytest.approx(row.su * np.sqrt(3) / 2, rel=1e-4)
    assert volume.su == pytest.approx(3 * row.value**2 * row.su, rel=1e-4)
    assert result.arrays["covariance/names"].tolist() == [
        "P.a", "P.Cs.B_iso", "P.Cl.B_iso", "background.chebyshev_0", "P.scale"]
    json.loads((out / "result.json").read_text(), parse_constant=pytest.fail)


def test_a_refinement_that_did_not_converge_exits_with_3(folder, tmp_path):
    short = folder.write(refinement={"stages": [["P.a", "P.*.B_iso"]], "max_cycles": 1})
    assert run("refine", short, "-o", tmp_path / "a", "--quiet").exit_code == 3
    assert read_result(tmp_path / "a").status == "not_converged"


def test_a_walltime_preserves_the_values_and_exits_with_4(folder, tmp_path, monkeypatch):
    import aiida_dse.cli.engine as engine

    monkeypatch.setattr(engine, "stop_check", lambda walltime: lambda: "walltime")
    outcome = run("refine", folder.write(), "-o", tmp_path / "a", "--quiet", "--walltime", 5)
    assert outcome.exit_code == 4, outcome.output
    result = read_result(tmp_path / "a")
    assert result.status == "walltime" and result.summary.n_cycles == 1
    outcome = run("scan", folder.write(), "-o", tmp_path / "b", "--quiet")
    assert outcome.exit_code in (0, 4)  # four blocks: the last may have finished already


def test_an_undetermined_parameter_determines_the_status(folder):
    section = folder.document()["phases"]["P"]
    built = folder.build(
        phases__Q=section, scales={"Q": 1e-30}, refinement={"stages": [["P.a", "Q.a"]]}
    )
    result = run_refine(built)
    assert result.status is Status.UNDETERMINED
    row = result.summary.parameters["Q.a"]
    assert row.status is ParameterStatus.UNDETERMINED and row.su is None
    assert result.summary.undetermined == ["Q.a"]
    volume = result.summary.derived["Q"].quantities["volume"]
    assert volume.su is None


def test_a_scan_continues_only_for_the_same_document_and_files(folder, tmp_path):
    out = tmp_path / "out"
    document = folder.write()
    outcome = run("scan", document, "-o", out, "--quiet")
    assert outcome.exit_code == 0, outcome.output
    result = read_result(out)
    assert result.summary.n_done == 12 and result.summary.shape == [4, 3]
    assert result.summary.minimum["P.a"] == 4.12
    again = run("scan", document, "-o", out, "--quiet", "--continue")
    assert again.exit_code == 0
    np.testing.assert_array_equal(read_result(out).arrays["scan/chi2"], result.arrays["scan/chi2"])
    one = [{"parameter": "P.a", "values": [4.08, 4.10, 4.12, 4.14]}]
    refused(run("scan", folder.write(scan__axes=one), "-o", out, "--continue"), "another document")
    with (folder.path / "cubes.xye").open("a") as file:
        file.write("9.1 1000 30\n")
    refused(run("scan", folder.write(), "-o", out, "--continue"), "other files")


@pytest.mark.parametrize("paths", [
    {"scan__axes": [{"parameter": "P.a", "values": [4.0, 4.2, 4.3, 4.4]},
                    {"parameter": "P.Cl.B_iso", "values": [1.0, 2.0, 3.0]}]},
    {"parameters": {"P.a": 4.11, "P.Cs.B_iso": 5.0}},
    {"background__chebyshev": 4},
    {"scan__refine": ["P.Cs.B_iso"]},
], ids=["other values", "other parameters", "other background", "refined"])
def test_a_map_of_another_model_is_not_continued(folder, tmp_path, paths):
    out = tmp_path / "out"
    assert run("scan", folder.write(), "-o", out, "--quiet").exit_code == 0
    refused(run("scan", folder.write(**paths), "-o", out, "--quiet", "--continue"), "--output")


def test_a_damaged_map_is_refused_without_a_traceback(folder, tmp_path):
    out = tmp_path / "out"
    assert run("scan", folder.write(), "-o", out, "--quiet").exit_code == 0
    (out / "result.json").write_text('{"schema"')
    refused(run("scan", folder.write(), "-o", out, "--quiet", "--continue"), "damaged")


def test_a_continuation_computes_only_the_missing_points(folder, monkeypatch):
    built = folder.build()
    full = run_scan(built)
    partial = run_scan(built)
    for name in ("gof", "chi2", "n_active"):
        partial.arrays[f"scan/{name}"][1] = np.nan
    assert not map_of(folder.build(), partial).complete
    seen = []
    original = PatternModel.states

    def states(self, values, previous=None):
        seen.append(values["P.a"])
        return original(self, values, previous)

    monkeypatch.setattr(PatternModel, "states", states)
    found = run_scan(built, finished=partial)
    assert seen == [4.10] and found.status == "complete"
    np.testing.assert_allclose(found.arrays["scan/chi2"], full.arrays["scan/chi2"], rtol=1e-10)


def test_a_command_without_its_section_is_refused(folder):
    refused(run("refine", folder.write(pattern=GRID)), "no 'file'")
    refused(run("scan", folder.write(scan=None)), "no 'scan'")


def test_a_particle_that_is_too_large_is_refused_without_a_traceback(folder, tmp_path):
    particle = {"shape": "quasi_cube", "L": {"mean": 5000, "sd": 1}}
    document = folder.write(phases__P__particle=particle, pattern=GRID)
    refused(run("simulate", document, "-o", tmp_path / "o"), "larger than the largest particle")


def _engine(*arguments, **options):
    # children of a shell that runs the tests in the background ignore Ctrl-C
    code = ("import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from aiida_dse.cli.engine import main; main()")
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=os.environ | {"DSE_NUM_THREADS": "1"}, **options,
    )


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "walltime", 4)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_preserves_the_finished_points(folder, tmp_path, number, status, code):
    axes = [{"parameter": "P.a", "start": 4.0, "stop": 4.3, "step": 0.00002},
            {"parameter": "P.Cl.B_iso", "values": [1.0, 2.0, 3.0]}]
    document = folder.write(
        scan__axes=axes, scan__method="direct", phases__P__particle={"shape": "parallelepiped", "cells": [9, 9, 9]}
    )
    out = tmp_path / "out"
    process = _engine("scan", document, "-o", out)
    try:
        first = process.stderr.readline()  # the scan has begun
        assert "points" in first, first + process.stderr.read()
        time.sleep(0.2)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=patient(180))
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == code, stdout + stderr
    assert "Traceback" not in stderr
    result = read_result(out)
    assert result.status == status and EXITS[result.status].command == code
    assert read_outcome(out) == RunOutcome("finished")
    done = np.isfinite(result.arrays["scan/gof"])
    assert 0 < result.summary.n_done == done.sum() < done.size
    assert result.summary.minimum["gof"] == np.nanmin(result.arrays["scan/gof"])


#: Exceptions that end a task, and the failures that are reported for them.
FAILURES = [
    (DocumentError("pattern: this key is missing"), Failure.INVALID_INPUT),
    (MemoryError("Unable to allocate 9 TiB"), Failure.OUT_OF_MEMORY),
    (OSError(errno.ENOSPC, "No space left on device"), Failure.DISK_FULL),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), Failure.DISK_FULL),
    (np.linalg.LinAlgError("SVD did not converge"), Failure.INTERNAL),
    (ZeroDivisionError("division by zero"), Failure.INTERNAL),
    (EngineFailure(Failure.OTHER_ENGINE, "numerics 2"), Failure.OTHER_ENGINE),
]


@pytest.mark.parametrize(("problem", "failure"), FAILURES, ids=lambda x: type(x).__name__)
def test_a_failure_exits_with_its_status_and_records_its_reason(
    folder, tmp_path, monkeypatch, problem, failure
):
    def fails(*arguments, **options):
        raise problem

    monkeypatch.setattr("aiida_dse.tasks.run.run_refine", fails)
    outcome = run("refine", folder.write(), "-o", tmp_path / "o", "--quiet")
    assert outcome.exit_code == EXITS[failure].command
    if failure is Failure.INTERNAL:
        assert outcome.exception is problem  # shown with its traceback
    else:
        assert f"Error: {problem}" in outcome.stderr
    recorded = read_outcome(tmp_path / "o")
    assert (recorded.state, recorded.failure) == ("failed", failure.value)
    assert str(problem) in recorded.message
    assert [path.name for path in (tmp_path / "o").iterdir()] == [OUTCOME_NAME]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.RUNNING],
                         ids=str)
def test_the_exit_status_follows_from_the_status_of_the_result(
    folder, tmp_path, monkeypatch, status
):
    result = run_refine(folder.build()).changed(status=status)
    monkeypatch.setattr("aiida_dse.tasks.run.run_refine", lambda *a, **k: result)
    outcome = run("refine", folder.write(), "-o", tmp_path / "o", "--quiet")
    assert outcome.exit_code == EXITS[status].command
    assert read_result(tmp_path / "o").status is status
    assert read_outcome(tmp_path / "o") == RunOutcome("finished")


@pytest.mark.parametrize("name", ["result.json", "result.h5"])
def test_a_disk_that_is_full_at_the_end_of_a_task_is_reported(folder, tmp_path, name):
    """The device /dev/full refuses all data, as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    out = tmp_path / "o"
    out.mkdir()
    (out / f".{name}.part").symlink_to("/dev/full")
    process = _engine("refine", folder.write(), "-o", out, "--quiet")
    _, stderr = process.communicate(timeout=patient(180))
    assert process.returncode == EXITS[Failure.DISK_FULL].command, stderr
    assert "Error:" in stderr and "Traceback" not in stderr
    recorded = read_outcome(out)
    assert (recorded.state, recorded.failure) == ("failed", Failure.DISK_FULL.value)
    assert "No space left" in recorded.message and not (out / "result.json").exists()
    assert (out / OUTCOME_NAME).stat().st_size == RESERVED


def test_a_killed_task_is_recorded_as_running(folder, tmp_path):
    """After SIGKILL, a parser finds the state 'running'."""
    axes = [{"parameter": "P.a", "start": 4.0, "stop": 4.3, "step": 0.00002},
            {"parameter": "P.Cl.B_iso", "values": [1.0, 2.0, 3.0]}]
    out = tmp_path / "o"
    process = _engine("scan", folder.write(scan__axes=axes), "-o", out)
    try:
        assert "points" in process.stderr.readline()
    finally:
        process.kill()
        process.communicate(timeout=patient(60))
    assert read_outcome(out) == RunOutcome("running")


def test_restraints_are_reported_with_the_fit(folder, tmp_path):
    """The table lists them and the result stores their chi2; the GoF is that of the pattern."""
    wanted = [{"distance": ["Cs", "Cl"], "target": 3.5, "sigma": 0.05},
              {"parameter": "P.Cs.B_iso", "target": 1.0, "sigma": 0.5}]
    document = folder.write(restraints=wanted, refinement__stages=[["P.a", "P.Cs.B_iso"]])
    outcome = run("refine", document, "-o", tmp_path / "o")
    assert "restraints contribute" in outcome.output and "P d(Cs-Cl)_1" in outcome.output
    summary = read_result(tmp_path / "o").summary
    rows = summary.restraints
    assert set(rows) == {"P d(Cs-Cl)_1", "P.Cs.B_iso"}
    length = summary.parameters["P.a"].value * 3**0.5 / 2
    assert rows["P d(Cs-Cl)_1"].value == pytest.approx(length, rel=1e-9)
    assert rows["P d(Cs-Cl)_1"].chi2 == pytest.approx(((length - 3.5) / 0.05) ** 2, rel=1e-6)


def test_several_starts_are_reported_and_stored(folder, tmp_path):
    document = folder.write(refinement__stages=[["P.a", "P.Cs.B_iso"]], refinement__starts=4)
    outcome = run("refine", document, "-o", tmp_path / "o")
    assert "4 of 4 starting points tried: 1 distinct minimum, 0 failed" in outcome.output
    assert "4 of 4 starting points" in outcome.stderr
    result = read_result(tmp_path / "o")
    [minimum] = result.summary.search.minima
    assert minimum.starts == [0, 1, 2, 3]
    assert minimum.values["P.a"] == result.summary.parameters["P.a"].value
    assert result.arrays["search/starts"].shape == (4, 2)


def test_a_map_reports_its_minimum_between_the_points(folder, tmp_path):
    axes = [{"parameter": "P.a", "start": 4.08, "stop": 4.16, "step": 0.01},
            {"parameter": "P.Cs.B_iso", "values": [0.5, 1.0, 1.5, 2.0, 2.5]}]
    outcome = run("scan", folder.write(scan__axes=axes), "-o", tmp_path / "o", "--quiet")
    assert outcome.exit_code == 0, outcome.output
    summary = read_result(tmp_path / "o").summary
    position = summary.quadratic.position
    for name, step in (("P.a", 0.01), ("P.Cs.B_iso", 0.5)):
        assert abs(position[name].value - summary.minimum[name]) < step
        assert position[name].su > 0
    assert "Minimum of the fitted paraboloid: P.a = " in outcome.output
    assert summary.basins[0].gof == summary.minimum["gof"]
    assert summary.basins[0].at["P.a"] == summary.minimum["P.a"]


def test_the_parameters_of_a_map_have_the_values_of_its_lowest_point(folder):
    """Swept parameters and parameters refined at every point; the document has the start."""
    axes = [{"parameter": "P.a", "values": [4.10, 4.12, 4.14]}]
    result = run_scan(folder.build(
        scan={"axes": axes, "refine": ["P.Cl.B_iso"]}, refinement=None,
        parameters={"P.a": 4.11, "P.Cl.B_iso": 2.5}))
    summary = result.summary
    rows, at = summary.parameters, int(np.argmin(result.arrays["scan/gof"]))
    assert (rows["P.a"].value, rows["P.a"].start) == (4.12, 4.11)
    assert rows["P.Cl.B_iso"].value == result.arrays["scan/refined/P.Cl.B_iso"][at]
    assert rows["P.Cl.B_iso"].start == 2.5 and abs(rows["P.Cl.B_iso"].value - 2) < 0.1
    assert rows["P.Cs.B_iso"].start is None and rows["P.Cs.B_iso"].value == 1.0
    assert summary.minimum == {"P.a": 4.12, "P.Cl.B_iso": rows["P.Cl.B_iso"].value,
                               "gof": summary.lowest_gof}


@pytest.mark.parametrize(("values", "expected"), [
    ([4.14, 4.16, 4.18], True), ([4.06, 4.08, 4.10], True), ([4.10, 4.12, 4.14], False),
    ([4.14, 4.16], False),  # an axis of two values consists of edges
])
def test_a_lowest_point_at_an_edge_is_reported(folder, values, expected):
    axes = [{"parameter": "P.a", "values": values},
            {"parameter": "P.Cl.B_iso", "values": [1.0, 2.0, 3.0]}]
    found = run_scan(folder.build(scan={"axes": axes}, parameters={"P.a": 4.12}))
    assert any("edge of the axis P.a" in text for text in found.summary.warnings) is expected


def test_other_methods_reach_the_same_minimum(folder):
    """They reach the same minimum, and the result contains the method."""
    from aiida_dse.tasks.run import run_refine

    stages = {"stages": [["P.a"], ["P.*.B_iso"]]}
    usual = run_refine(folder.build(refinement=stages)).summary
    other = run_refine(folder.build(refinement=stages | {"method": "cobyqa"})).summary
    assert (usual.method, other.method) == ("least_squares", "cobyqa")
    for name, row in usual.parameters.items():
        if row.status.refined:
            assert abs(other.parameters[name].value - row.value) < 0.2 * row.su


def test_several_starts_require_least_squares(folder):
    with pytest.raises(DocumentError, match="4 starts require the method least_squares"):
        folder.build(refinement={"starts": 4, "method": "cobyqa"})


def test_a_long_pattern_is_announced_with_its_time_and_memory(folder, monkeypatch):
    """A list of more than 50 000 atoms takes longer than the limit; nothing is announced for small particles."""
    from aiida_dse.cli import engine_support
    from aiida_dse.tasks.estimate import evaluation_bytes, evaluation_seconds

    document = folder.write()
    for command in ("simulate", "refine", "scan"):
        assert "The first pattern" not in run(command, document, "-o", folder.path / "out").output
    monkeypatch.setattr(engine_support, "LONG_EVALUATION", 0.0)
    for command in ("simulate", "refine", "scan"):
        output = run(command, document, "-o", folder.path / "out").output
        assert "The first pattern of this model takes about" in output and "GB of memory" in output
    rows = "".join(f"Cs {4.12 * x} {4.12 * y} {4.12 * z}\n" for x, y, z in np.ndindex(37, 37, 37))
    (folder.path / "big.xyz").write_text(f"{37**3}\n\n{rows}")
    built = folder.build(phases={"P": {"atoms": "big.xyz", "B_iso": {"Cs": 1.0}}}, scan=None, derived=None,
                         parameters=None, refinement=None)
    assert evaluation_seconds(built) > 5.0 and 2e8 < evaluation_bytes(built) < 1e9
