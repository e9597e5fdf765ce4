"""Comparison of models of one pattern: criteria, ranking, and warnings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from aiida_dse.analysis.comparison import compare
from aiida_dse.cli.engine import main
from aiida_dse.documents.status import Task
from aiida_dse.io.results import read_result
from aiida_dse.tasks.run import run_refine, run_scan

STAGES = {"stages": [["P.a"], ["P.*.B_iso"]]}


@pytest.fixture
def full(folder):
    """Refinement of the model with which the pattern was computed."""
    return run_refine(folder.build(refinement=STAGES))


@pytest.fixture
def stiff(folder):
    """Refinement of the same model with displacements fixed at wrong values."""
    return run_refine(
        folder.build(refinement={"stages": [["P.a"]]}, parameters={"P.Cs.B_iso": 6.0}))


def test_the_criteria_follow_from_the_residuals(full, stiff):
    found = compare({"stiff": stiff, "full": full})
    assert found.summary.ranking == ["full", "stiff"] and found.summary.best == "full"
    for name, k in (("full", 3 + 2), ("stiff", 1 + 2)):  # a, B, B; constant and scale
        residual = found.arrays[f"models/{name}/residual"]
        chi2, n = float(np.sum(residual**2)), len(residual)
        row = found.summary.models[name]
        assert row.n_parameters == k and row.n_points == n == 200
        assert row.chi2 == pytest.approx(chi2)
        assert row.aic == pytest.approx(chi2 + 2 * k)
        assert row.bic == pytest.approx(chi2 + k * np.log(n))
        assert row.gof == pytest.approx(np.sqrt(chi2 / (n - k)))
    rows = found.summary.models
    assert rows["full"].delta_bic == 0
    assert rows["stiff"].delta_bic == pytest.approx(rows["stiff"].bic - rows["full"].bic)
    assert found.summary.warnings == []


def test_bic_penalises_superfluous_background_terms(folder, full):
    """Ten Chebyshev terms for a constant background: chi2 falls, BIC rises."""
    rich = run_refine(folder.build(refinement=STAGES, background={"chebyshev": 10}))
    found = compare({"rich": rich, "full": full}).summary
    assert found.models["rich"].chi2 < found.models["full"].chi2
    assert found.ranking == ["full", "rich"]
    assert any("different backgrounds" in text and "chebyshev_9" in text
               for text in found.warnings)


@pytest.mark.parametrize("change", [{"pattern__range": [1.5, 9.0]}, {"pattern__every": 2},
                                    {"pattern__sigma": "5 %"}])
def test_a_comparison_of_different_data_is_reported(folder, full, change):
    other = run_refine(folder.build(refinement=STAGES, **change))
    (warning,) = [w for w in compare({"a": full, "b": other}).summary.warnings
                  if "different data" in w]
    assert "cannot be compared" in warning


def test_a_ranking_of_poor_models_is_reported(folder, stiff):
    other = run_refine(
        folder.build(refinement={"stages": [["P.a"]]}, parameters={"P.Cs.B_iso": 7.0}))
    found = compare({"a": stiff, "b": other}).summary
    assert found.models[found.best].gof > 1.2
    assert any("overstate" in text for text in found.warnings)


def test_a_single_model_or_a_map_cannot_be_compared(folder, full):
    with pytest.raises(ValueError, match="at least two"):
        compare({"full": full})
    with pytest.raises(ValueError, match="'scan'"):
        compare({"full": full, "map": run_scan(folder.build())})


def test_the_command_accepts_documents_and_finished_results(folder):
    path = folder.write(refinement=STAGES)
    shown = CliRunner().invoke(main, ["refine", str(path), "-o", str(folder.path / "kept"),
                                      "--quiet"])
    assert shown.exit_code == 0, shown.output
    path = folder.write(refinement={"stages": [["P.a"]]}, parameters={"P.Cs.B_iso": 6.0})
    out = folder.path / "out"
    shown = CliRunner().invoke(main, [
        "compare", f"full={folder.path / 'kept'}", f"stiff={path}", "-o", str(out), "--quiet"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.index("full") < shown.output.index("stiff ")
    assert read_result(out).summary.best == "full"
    assert json.loads((out / "stiff" / "result.json").read_text())["task"] == Task.REFINE


@pytest.mark.parametrize(("models", "message"), [
    (["model.yaml", "model.yaml"], "Two models are called 'model'"),
    (["a/b=model.yaml"], "consists of letters"),
    (["model.yaml", "x=missing.yaml"], "no such file"),
])
def test_invalid_lists_of_models_are_refused(folder, monkeypatch, models, message):
    folder.write()
    monkeypatch.chdir(folder.path)
    shown = CliRunner().invoke(main, ["compare", *models, "--quiet"])
    assert shown.exit_code == 2 and message in shown.output
    # the outcome is recorded for the parser of the job, but nothing was computed
    assert [path.name for path in (folder.path / "results").iterdir()] == ["outcome.json"]


def test_a_model_refined_under_restraints_is_reported(folder, full):
    prior = {"parameter": "P.Cs.B_iso", "target": 1.0, "sigma": 0.1}
    restrained = run_refine(folder.build(refinement=STAGES, restraints=[prior]))
    warnings = compare({"restrained": restrained, "full": full}).summary.warnings
    assert any(text.startswith("restrained: AIC and BIC are too severe") for text in warnings)
    warnings = compare({"a": full, "b": full}).summary.warnings
    assert not any("restraints" in text for text in warnings)
