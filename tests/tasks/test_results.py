"""Results of all tasks survive writing and reading, with their types and values."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from aiida_dse.analysis.comparison import compare
from aiida_dse.analysis.differential import differential
from aiida_dse.analysis.size_series import size_series, sizing_curve
from aiida_dse.analysis.temperature_series import temperature_series
from aiida_dse.documents import load_simultaneous
from aiida_dse.documents.records import Summary
from aiida_dse.documents.results import SUMMARIES
from aiida_dse.documents.series import Bulk, DifferentialOptions, SizeOptions, SizingOptions
from aiida_dse.documents.status import Status, Task
from aiida_dse.io.results import (
    JSON_NAME,
    Result,
    content_of,
    read_result,
    summary_of,
    write_result,
)
from aiida_dse.tasks.distances import run_build
from aiida_dse.tasks.run import run_refine, run_scan
from aiida_dse.tasks.simulation import run_simulate
from aiida_dse.tasks.simultaneous import build_simultaneous, run_simultaneous
from aiida_dse.tasks.uncertainty import run_uncertainty

STAGES = {"stages": [["P.Cs.B_iso", "P.Cl.B_iso"]]}


def refined(folder, **keys):
    return run_refine(folder.build(**{"refinement": STAGES, "parameters": {"P.a": 4.12}} | keys))


def searched(folder):
    """A search with restraints, a constraint, a parameter at its bound and several starts."""
    return run_refine(folder.build(
        refinement={"stages": [["P.a", "P.Cs.B_iso", "P.Cs.occupancy"]], "starts": 2},
        restraints=[{"distance": ["Cs", "Cl"], "target": 3.57, "sigma": 0.05}],
        constraints={"P.Cl.B_iso": "2 * P.Cs.B_iso"}, sample__tags={"batch": 7, "good": True},
        parameters={"P.a": 4.12, "P.Cs.occupancy": {"value": 0.7, "upper": 0.75}}, scan=None))


def undetermined(folder):
    return run_refine(folder.build(
        phases__Q=folder.document()["phases"]["P"], scales={"Q": 1e-30},
        refinement={"stages": [["P.a", "Q.a"]]}))


def simulated(folder, **keys):
    grid = {"axis": "q_inverse_angstrom", "wavelength": 0.7,
            "grid": {"start": 1.0, "step": 0.1, "stop": 9.0}}
    return run_simulate(folder.build(pattern=grid, refinement=None, scan=None, **keys))


def adaptive(folder):
    axes = [{"parameter": "P.a", "start": 4.08, "stop": 4.16, "step": 0.01},
            {"parameter": "P.Cs.B_iso", "values": [0.5, 1.0, 1.5, 2.0, 2.5]}]
    return run_scan(folder.build(scan={"axes": axes, "adaptive": True, "refine": ["P.Cl.B_iso"]}))


def stopped(folder):
    """A map without any point."""
    return run_scan(folder.build(), should_stop=lambda: "walltime")


def sampled(folder):
    plan = {"profile": ["P.Cl.*"], "bootstrap": {"samples": 3},
            "posterior": {"steps": 16, "walkers": 10}}
    return run_uncertainty(folder.build(uncertainty=plan, refinement=STAGES))


def simultaneous(folder):
    model = folder.document(refinement=None, scan=None)
    rows = folder.columns.copy()
    for k, name in enumerate(("cold", "warm")):
        rows[:, 1] = np.random.default_rng(k).poisson(rows[:, 1])
        np.savetxt(folder.path / f"{name}.xye", rows, fmt="%.8g")
    del model["pattern"]["file"], model["schema"]
    path = folder.path / "simultaneous.yaml"
    path.write_text(yaml.safe_dump({
        "schema": "aiida-dse/simultaneous/2", "model": model, "shared": ["P.Cl.B_iso"],
        "patterns": {"cold": {"pattern": {"file": "cold.xye"}, "sample": {"temperature": 100}},
                     "warm": {"pattern": {"file": "warm.xye"}, "sample": {"temperature": 200}}},
        "parameters": {"global.a0": 4.12},
        "parametric_constraints": {"P.a": "global.a0 + 0 * sample.temperature"},
        "refinement": {"stages": [["P.a", "P.*.B_iso"]]},
    }))
    return run_simultaneous(build_simultaneous(load_simultaneous(path), path.parent))


def compared(folder):
    return compare({"one": refined(folder), "other": refined(folder, parameters={"P.a": 4.13})})


def built(folder):
    return run_build(folder.build(), folder.path / "built")


def of_temperature(folder, temperatures):
    return temperature_series(temperatures)[1]


def of_three_temperatures(folder, temperatures):
    """A minimal series: laws without degrees of freedom, B_static at zero."""
    few = {name: temperatures[name] for name in ("T6", "T300")}
    return temperature_series(few)[1]


def of_size(folder, sizes):
    return size_series(sizes, SizeOptions(bulk=Bulk(volume=793.1, source="test")))[1]


def of_two_sizes(folder, sizes):
    return size_series({name: sizes[name] for name in ("L5", "L6")})[1]


def of_excitons(folder, sizes):
    measured = {name: {"value": 2.5, "su": 0.01} for name in sizes}
    return sizing_curve(sizes, SizingOptions(measured=measured))[1]


def differences(folder):
    return differential(
        {"one": simulated(folder), "two": simulated(folder, scales={"P": 2.0})},
        DifferentialOptions(reference="one", parameter="P.a"))


MADE = [
    (Task.REFINE, refined), (Task.REFINE, searched), (Task.REFINE, undetermined),
    (Task.SIMULATE, simulated),
    (Task.SIMULATE, lambda folder: run_simulate(folder.build())), (Task.SCAN, adaptive),
    (Task.SCAN, lambda folder: run_scan(folder.build())), (Task.SCAN, stopped),
    (Task.UNCERTAINTY, sampled), (Task.SIMULTANEOUS, simultaneous), (Task.BUILD, built),
    (Task.COMPARE, compared), (Task.TEMPERATURE_SERIES, of_temperature),
    (Task.TEMPERATURE_SERIES, of_three_temperatures), (Task.SIZE_SERIES, of_size),
    (Task.SIZE_SERIES, of_two_sizes), (Task.SIZING_CURVE, of_excitons),
    (Task.DIFFERENTIAL, differences),
]


def fields(value):
    """Plain values with nan as a text, so that it equals nan but neither a number nor None."""
    if isinstance(value, BaseModel):
        return {name: fields(getattr(value, name)) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value):
        return {f.name: fields(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: fields(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fields(item) for item in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def test_every_task_is_tested():
    assert {task for task, _ in MADE} == set(Task) == set(SUMMARIES)


@pytest.mark.parametrize(("task", "make"), MADE, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_result_survives_writing_and_reading(folder, task, make, request, tmp_path):
    wanted = make.__code__.co_varnames[1: make.__code__.co_argcount]
    result = make(folder, *(request.getfixturevalue(name) for name in wanted))
    assert type(result.summary) is SUMMARIES[task] and result.task is task
    content = json.loads(json.dumps(content_of(result.summary), allow_nan=False))
    again = summary_of(content)
    assert type(again) is SUMMARIES[task]
    assert fields(again) == fields(result.summary)
    assert content_of(again) == content
    assert content["schema"] == "aiida-dse/result/2" and content["task"] == task.value
    write_result(result, tmp_path / "written")
    found = read_result(tmp_path / "written")
    assert fields(found.summary) == fields(result.summary)
    assert set(found.arrays) == set(result.arrays)
    for path, values in result.arrays.items():
        np.testing.assert_array_equal(found.arrays[path], values, path)


def test_a_perfect_fit_survives_writing_and_reading(folder, tmp_path):
    """Residuals of zero have no Durbin-Watson statistic."""
    result = refined(folder)
    perfect = dataclasses.replace(
        result.summary.agreement, chi2=0.0, gof=0.0, r_wp=0.0, durbin_watson=math.nan)
    write_result(result.changed(agreement=perfect), tmp_path / "written")
    assert math.isnan(read_result(tmp_path / "written").summary.agreement.durbin_watson)


@pytest.mark.parametrize("questions", range(0, 34, 3))
def test_an_uncertainty_interrupted_at_any_point_can_be_continued(
    folder, tmp_path, questions
):
    plan = {"profile": ["P.Cl.*"], "bootstrap": {"samples": 4}, "posterior": {"steps": 10}}
    model = folder.build(uncertainty=plan, refinement=STAGES, parameters={"P.a": 4.12})
    asked = iter(range(questions))
    part = run_uncertainty(model,
                           should_stop=lambda: "walltime" if next(asked, None) is None else None)
    assert part.status is Status.WALLTIME
    write_result(part, tmp_path / "part")
    found = run_uncertainty(model, finished=read_result(tmp_path / "part"))
    assert found.summary.uncertainty.posterior.n_steps == 10


@pytest.mark.parametrize(("damage", "message"), [
    (lambda content: content.pop("agreement"), "agreement: Field required"),
    (lambda content: content["parameters"]["P.a"].update(value="x"), r"parameters\.P\.a\.value"),
    (lambda content: content["parameters"]["P.a"].update(kind="size_of_it"), "kind"),
    (lambda content: content.update(status="well"), "status"),
    (lambda content: content.update(surprise=1), "surprise"),
    (lambda content: content.update(task="cook"), "not a result of aiida-dse"),
    (lambda content: content.update(schema="aiida-dse/result/3"), "schema"),
    (lambda content: content.clear(), "not a result of aiida-dse"),
], ids=range(8))
def test_damaged_content_is_reported_with_its_place(folder, damage, message):
    content = content_of(refined(folder).summary)
    damage(content)
    with pytest.raises(ValueError, match=message) as problem:
        summary_of(content, "result.json")
    assert "result.json" in str(problem.value)
    assert not isinstance(problem.value, ValidationError)


@pytest.mark.parametrize("content", [None, [], "x", 3], ids=str)
def test_content_that_is_no_mapping_is_no_result(content):
    with pytest.raises(ValueError, match="not a result of aiida-dse"):
        summary_of(content)


def test_a_summary_is_immutable(folder):
    summary: Summary = refined(folder).summary
    with pytest.raises(ValidationError, match="frozen"):
        summary.title = "another"


def test_a_crash_during_writing_preserves_the_earlier_result(folder, tmp_path, monkeypatch):
    result, place = refined(folder), tmp_path / "kept"
    write_result(result, place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def crash(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError, match="No space"):
        write_result(Result(result.summary, dict(result.arrays) | {"more": np.arange(9)}), place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert json.loads((place / JSON_NAME).read_text())["task"] == "refine"


def test_the_covariance_of_the_linear_coefficients_is_marginal(folder):
    """The s.u. of scale and constant, from the inverse of the complete normal matrix."""
    built_ = folder.build(refinement={"stages": [["P.a", "P.*.B_iso"]]})
    result = run_refine(built_)
    model, summary = built_.model, result.summary
    names = result.arrays["covariance/names"].tolist()
    free = list(summary.free)
    values = copy.copy(dict(model.start)) | {n: summary.parameters[n].value for n in free}
    best = model.evaluate(values)
    sigma = model.observation.sigma
    # derivative of the pattern at fixed coefficients
    columns = model.linear_columns(best) / sigma[:, None]
    jacobian = []
    for name in free:
        step = 1e-3 * model.parameters[name].shift
        ends = [model.linear_columns(model.evaluate(values | {name: values[name] + s * step}))
                @ best.linear.coefficients for s in (1, -1)]
        jacobian.append((ends[0] - ends[1]) / (2 * step) / sigma)
    whole = np.column_stack([*jacobian, columns])
    length = np.linalg.norm(whole, axis=0)
    expected = np.linalg.inv((whole / length).T @ (whole / length)) / np.outer(length, length)
    order = [names.index(name) for name in (*free, *model.linear_names)]
    found = result.arrays["covariance/matrix"][np.ix_(order, order)]
    spread = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(found / np.outer(spread, spread),
                               expected / np.outer(spread, spread), atol=2e-4)
    for name in model.linear_names:
        assert summary.linear[name].su == pytest.approx(
            np.sqrt(found[(at := (*free, *model.linear_names).index(name)), at]))
