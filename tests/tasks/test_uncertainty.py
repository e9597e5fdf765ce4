"""The task 'uncertainty': results, errors and continuation."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aiida_dse.documents import DocumentError
from aiida_dse.documents.results import UncertaintyRow
from aiida_dse.documents.status import Status
from aiida_dse.engine.fit import bootstrap as bootstrap_module
from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.parameters import ParameterStatus
from aiida_dse.io.results import read_result
from aiida_dse.tasks.run import refinement_result, run_refine
from aiida_dse.tasks.uncertainty import run_uncertainty

from .test_run import refused, run

PLAN = {"profile": ["P.Cl.*"], "bootstrap": {"samples": 6, "seed": 2},
        "posterior": {"steps": 16, "walkers": 10, "seed": 4}}
#: Two displacement parameters: the sine sums are computed once.
STAGES = [["P.Cs.B_iso", "P.Cl.B_iso"]]
FIXED = {"P.a": 4.12}


def document(folder, plan, **more):
    return folder.write(uncertainty=plan, refinement={"stages": STAGES}, parameters=FIXED, **more)


def built(folder, plan, **more):
    document(folder, plan, **more)
    return folder.build(uncertainty=plan, refinement={"stages": STAGES}, parameters=FIXED, **more)


def test_the_command_writes_all_parts_and_prints_their_table(folder, tmp_path):
    out = tmp_path / "out"
    outcome = run("uncertainty", document(folder, PLAN), "-o", out, "--threads", 1)
    # 16 steps are not enough for a posterior
    assert outcome.exit_code == 5, outcome.output
    for text in ("NOT CONVERGED", "6 of 6 samples refined", "profile intervals", "P volume",
                 "P.Cl.B_iso", "unscaled"):
        assert text in outcome.stdout, text
    for text in ("profile: 2 of 2 curve sides", "bootstrap: 6 of 6 samples",
                 "posterior: 16 of 16 steps"):
        assert text in outcome.stderr, text
    result = read_result(out)
    assert (result.task, result.status) == ("uncertainty", "posterior_not_converged")
    json.loads((out / "result.json").read_text(), parse_constant=pytest.fail)
    found, row = result.summary.uncertainty, result.summary.parameters["P.Cl.B_iso"]
    low, high = found.profile["P.Cl.B_iso"].interval_68
    assert (high - low) / 2 == pytest.approx(row.su, rel=0.02)
    # the scaled interval ends where chi2 has risen by GoF^2
    wide = found.profile["P.Cl.B_iso"].scaled_68
    factor = result.summary.su_scale
    assert (wide[1] - wide[0]) / (high - low) == pytest.approx(factor, rel=0.01)
    assert list(found.profile) == ["P.Cl.B_iso"]
    assert result.arrays["bootstrap/values"].shape == (6, 2)
    assert result.arrays["posterior/samples"].shape == (16, 10, 2)
    assert not found.posterior.converged and found.posterior.reasons


def test_derived_quantities_are_evaluated_on_the_samples(folder):
    """Only a is free, so that volume and distance of a sample follow from it."""
    plan = {"bootstrap": {"samples": 5}, "posterior": {"steps": 8}}
    model = folder.build(uncertainty=plan, refinement={"stages": [["P.a"]]})
    result = run_uncertainty(model)
    rows = result.summary.uncertainty.derived["P"]
    a = result.arrays["bootstrap/values"][:, 0]
    assert rows["volume"].bootstrap.sd == pytest.approx((a**3).std(ddof=1), rel=1e-9)
    assert rows["d(Cs-Cl)_1"].bootstrap.median == pytest.approx(
        np.median(a) * 3**0.5 / 2, rel=1e-9)
    assert rows["L_a"].bootstrap.mean == pytest.approx(a.mean() * 3 / 10, rel=1e-9)
    kept = result.arrays["posterior/samples"][
        result.summary.uncertainty.posterior.burn_in:]
    assert rows["volume"].posterior.median == pytest.approx(
        np.median(kept) ** 3, rel=1e-4)
    assert rows["volume"].su == pytest.approx(
        3 * result.summary.parameters["P.a"].value ** 2
        * result.summary.parameters["P.a"].su, rel=1e-4)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({}, "uncertainty: nothing is requested"),
        (None, "uncertainty: nothing is requested"),
        ({"profile": ["P.Cs.Bb"]}, "uncertainty.profile"),
        ({"profile": ["P.a"]}, "uncertainty.profile: 'P.a' is not refined"),
        ({"profile": ["P.*.occ*"]}, "uncertainty.profile: 'P.*.occ*' is not refined"),
        ({"posterior": {"walkers": 4}}, "uncertainty.posterior.walkers"),
        ({"bootstrap": {"samples": 1}}, "uncertainty.bootstrap.samples"),
        ({"bootstrap": {"sample": 10}}, "did you mean 'samples'?"),
    ],
)
def test_an_invalid_plan_is_refused_before_the_refinement(
    folder, tmp_path, monkeypatch, plan, message
):
    monkeypatch.setattr("aiida_dse.tasks.uncertainty.refine", pytest.fail)
    refused(run("uncertainty", document(folder, plan), "-o", tmp_path / "o"), message)


def test_too_few_walkers_for_the_parameters_are_refused(folder):
    stages = [["P.a", "P.*.B_iso", "P.*.occupancy"]]
    with pytest.raises(DocumentError, match="walkers: 8 walkers are too few for 5 parameters: at least 10"):
        folder.build(uncertainty={"posterior": {"walkers": 8}}, refinement={"stages": stages})


def test_a_refinement_that_did_not_converge_ends_the_task(folder, tmp_path):
    short = folder.write(uncertainty=PLAN,
                         refinement={"stages": [["P.a", "P.*.B_iso"]], "max_cycles": 1})
    outcome = run("uncertainty", short, "-o", tmp_path / "o", "--quiet")
    assert outcome.exit_code == 3, outcome.output
    result = read_result(tmp_path / "o")
    assert (result.status, result.summary.uncertainty) == (
        Status.NOT_CONVERGED, UncertaintyRow())


def test_undetermined_parameters_end_the_task(folder, tmp_path):
    """The B_iso of two identical phases cannot be distinguished."""
    path = folder.write(uncertainty={"bootstrap": {}}, scales={"P": 0.8157, "Q": 0.8157},
                        phases__Q=folder.document()["phases"]["P"],
                        parameters=FIXED | {"Q.a": 4.12},
                        refinement={"stages": [["P.Cs.B_iso", "Q.Cs.B_iso"]]})
    outcome = run("uncertainty", path, "-o", tmp_path / "o", "--quiet")
    assert outcome.exit_code == 6 and "Bootstrap and posterior were skipped" in outcome.output
    assert read_result(tmp_path / "o").status is Status.UNDETERMINED


def test_an_undetermined_parameter_has_a_profile(folder):
    """Two identical phases: chi2 hardly changes with one B_iso while the other compensates.

    Its interval is wide, but finite, because the sum of two Debye-Waller factors is not one.
    """
    common = {"uncertainty": {"profile": ["P.Cs.B_iso"]}, "scales": {"P": 0.8157, "Q": 0.8157},
              "phases__Q": folder.document()["phases"]["P"], "parameters": FIXED | {"Q.a": 4.12}}
    alone = run_uncertainty(folder.build(
        **common, refinement={"stages": [["P.Cs.B_iso"]]})).summary.parameters["P.Cs.B_iso"]
    summary = run_uncertainty(folder.build(
        **common, refinement={"stages": [["P.Cs.B_iso", "Q.Cs.B_iso"]]})).summary
    assert summary.status is Status.UNDETERMINED
    row = summary.uncertainty.profile["P.Cs.B_iso"]
    assert row.su is None and row.n_points > 2
    low, high = row.interval_68
    assert high - low > 10 * alone.su


def test_a_parameter_at_its_bound_has_samples_but_no_profile(folder):
    """B_iso(Cl) is bounded 25 s.u. above its best value; the other parameter is not affected."""
    model = built(folder, PLAN | {"profile": ["P.*.B_iso"]})
    bounded = folder.build(
        uncertainty=PLAN | {"profile": ["P.*.B_iso"]}, refinement={"stages": STAGES},
        parameters=FIXED | {"P.Cl.B_iso": {"value": 2.6, "lower": 2.5}})
    free, held = (run_uncertainty(one).summary for one in (model, bounded))
    assert set(free.uncertainty.profile) == {"P.Cs.B_iso", "P.Cl.B_iso"}
    assert held.parameters["P.Cl.B_iso"].status is ParameterStatus.AT_BOUND
    assert set(held.uncertainty.profile) == {"P.Cs.B_iso"}
    assert any("P.Cl.B_iso has no profile" in text for text in held.warnings)
    assert held.uncertainty.bootstrap.n_refined == 6
    assert held.uncertainty.posterior.parameters["P.Cl.B_iso"].median > 2.5
    # the s.u. of the other parameter is that with this one fixed at its bound
    fixed = run_refine(folder.build(refinement={"stages": [["P.Cs.B_iso"]]},
                                    parameters=FIXED | {"P.Cl.B_iso": 2.5})).summary
    assert held.parameters["P.Cs.B_iso"].su == pytest.approx(
        fixed.parameters["P.Cs.B_iso"].su, rel=1e-3)
    assert held.agreement.n_parameters == fixed.agreement.n_parameters == 1 + 2


class Clock:
    """A stop check that returns 'walltime' after a number of calls."""

    def __init__(self, questions):
        self.left = questions

    def __call__(self):
        self.left -= 1
        return "walltime" if self.left < 0 else None


@pytest.mark.parametrize("questions", [8, 26, 40], ids=["early", "middle", "late"])
def test_an_interrupted_task_continues_to_the_same_result(folder, questions):
    model = built(folder, PLAN)
    whole = run_uncertainty(model)
    part = run_uncertainty(model, should_stop=Clock(questions))
    assert part.status == "walltime"
    found = run_uncertainty(model, finished=part)
    assert found.status == whole.status == "posterior_not_converged"
    assert set(found.arrays) == set(whole.arrays)
    for name in whole.arrays:
        if name.startswith(("bootstrap", "posterior")):
            np.testing.assert_array_equal(found.arrays[name], whole.arrays[name], name)
    np.testing.assert_allclose(
        found.summary.uncertainty.profile["P.Cl.B_iso"].interval_68,
        whole.summary.uncertainty.profile["P.Cl.B_iso"].interval_68, rtol=1e-5,
    )


def test_a_walltime_during_the_refinement_preserves_the_earlier_result(folder):
    model = built(folder, PLAN)
    part = run_uncertainty(model, should_stop=Clock(40))
    again = run_uncertainty(model, should_stop=Clock(0), finished=part)
    assert again.status == "walltime" and again.summary.n_cycles == part.summary.n_cycles
    assert set(again.arrays) == set(part.arrays)
    assert "bootstrap/values" in again.arrays


def test_a_finished_result_can_be_extended(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    plan = {"bootstrap": {"samples": 3}, "posterior": {"steps": 5}}
    run("uncertainty", document(folder, plan), "-o", out, "--quiet", "--threads", 1)
    before = read_result(out)
    done = []
    monkeypatch.setattr(bootstrap_module, "refine",
                        lambda *a, **k: done.append(1) or refine(*a, **k))
    more = {"bootstrap": {"samples": 5}, "posterior": {"steps": 9}}
    run("uncertainty", document(folder, more), "-o", out, "--quiet", "--continue", "--threads", 1)
    after = read_result(out)
    assert len(done) == 2
    np.testing.assert_array_equal(after.arrays["bootstrap/values"][:3],
                                  before.arrays["bootstrap/values"])
    assert after.arrays["posterior/samples"].shape[0] == 9
    np.testing.assert_array_equal(after.arrays["posterior/samples"][:5],
                                  before.arrays["posterior/samples"])
    other = {"bootstrap": {"samples": 5, "seed": 9}}
    refused(run("uncertainty", document(folder, other), "-o", out, "--quiet", "--continue"),
            "the seed 0")
    moved = folder.write(uncertainty=more, refinement={"stages": STAGES},
                         parameters={"P.a": 4.121})
    refused(run("uncertainty", moved, "-o", out, "--quiet", "--continue"), "another document")
    run("refine", document(folder, more), "-o", tmp_path / "fit", "--quiet")
    refused(run("uncertainty", document(folder, more), "-o", tmp_path / "fit", "--quiet",
                "--continue"), "of the task 'refine'")


def test_a_checkpoint_can_be_continued(folder, tmp_path, monkeypatch):
    """The checkpoint of a killed task is continued to the same result."""
    monkeypatch.setattr("aiida_dse.tasks.uncertainty.CHECKPOINT_INTERVAL", 0.0)
    model = built(folder, PLAN)

    def killed(progress):
        if progress.part == "posterior" and progress.done == 9:
            raise MemoryError

    with pytest.raises(MemoryError):
        run_uncertainty(model, checkpoint=tmp_path / "o", on_progress=killed)
    kept = read_result(tmp_path / "o")
    assert kept.status == "running" and kept.summary.uncertainty.posterior.n_steps == 9
    found, whole = run_uncertainty(model, finished=kept), run_uncertainty(
        model)
    for name in ("bootstrap/values", "posterior/samples"):
        np.testing.assert_array_equal(found.arrays[name], whole.arrays[name])


def test_correlated_residuals_add_enlarged_su_to_the_table(folder):
    """The pattern contains a slow wave, so that Durbin-Watson is far below 1.5."""
    q, counts, sigma = folder.columns.T
    np.savetxt(folder.path / "cubes.xye",
               np.c_[q, counts + 6 * sigma * np.sin(3 * q), sigma], fmt="%.8g")
    model = folder.build(refinement={"stages": STAGES}, parameters=FIXED)
    result = run_refine(model)
    serial = result.summary.serial_correlation
    assert result.summary.agreement.durbin_watson < 1.5
    assert serial.su_factor > 1.5
    row = result.summary.parameters["P.Cs.B_iso"]
    covariance = result.arrays["covariance/matrix"]
    assert row.su == pytest.approx(np.sqrt(covariance[0, 0]))
    from aiida_dse.report.tables import result_report

    assert "serially corr." in result_report(result)


def test_uncorrelated_residuals_do_not_enlarge_the_su(folder):
    model = folder.build(refinement={"stages": STAGES}, parameters=FIXED)
    result = refinement_result(model, refine(model.model, STAGES))
    assert result.summary.serial_correlation is None
