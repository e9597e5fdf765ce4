"""Simultaneous refinements by dse-engine: results, tables, figures and errors."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from numpy.testing import assert_allclose

from aiida_dse.cli.engine import main
from aiida_dse.documents import DocumentError, load_simultaneous, parse_document
from aiida_dse.documents.status import Task
from aiida_dse.engine.parameters import ParameterStatus
from aiida_dse.engine.resources import Resources
from aiida_dse.io.results import content_of, read_result
from aiida_dse.report.simultaneous_figure import simultaneous_figure
from aiida_dse.report.tables import result_report
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simultaneous import build_simultaneous, run_simultaneous

EXPANSION = 4e-5
TEMPERATURES = {"T100": 100, "T200": 200, "T300": 300}
LAW = {
    "parametric_constraints": {
        "P.a": "global.a0 * (1 + global.alpha * (sample.temperature - 300))"},
    "parameters": {
        "global.a0": 4.11, "global.alpha": {"value": 0, "lower": -1e-3, "upper": 1e-3}},
}


@pytest.fixture(scope="module")
def measured(columns):
    """q, counts and sigma of a cube at each temperature, by the direct double sum."""
    direct = sys.modules["_physics_direct"]
    found = {}
    for k, (name, t) in enumerate(TEMPERATURES.items()):
        a = 4.12 * (1 + EXPANSION * (t - 300))
        structure = direct.Structure.of(
            (a,) * 3, [("Cs1+", 1.0, 1.0, [(0, 0, 0)]), ("Cl1-", 1.0, 2.0, [(0.5, 0.5, 0.5)])])
        pattern = direct.intensity(direct.block(structure, 3, 3, 3), columns[:, 0], 0.7)
        counted = np.random.default_rng(k).poisson(2e5 * pattern / pattern.max() + 1000.0)
        found[name] = np.c_[columns[:, 0], counted, np.sqrt(counted)]
    return found


@pytest.fixture
def series(folder, measured):
    """A function that writes the simultaneous document, with changes, and its files."""
    for name, rows in measured.items():
        np.savetxt(folder.path / f"{name}.xye", rows, fmt="%.8g")
    model = folder.document(refinement=None, scan=None)
    del model["pattern"]["file"], model["schema"]

    def write(**changes):
        content = {
            "schema": "aiida-dse/simultaneous/2", "title": "cubes",
            "model": copy.deepcopy(model),
            "patterns": {name: {"pattern": {"file": f"{name}.xye"}, "sample": {"temperature": t}}
                         for name, t in TEMPERATURES.items()},
            "shared": ["P.*.B_iso"], "refinement": {"stages": [["P.a"], ["P.*.B_iso"]]},
        }
        for key, value in changes.items():
            *keys, last = key.split("__")
            place = content
            for part in keys:
                place = place.setdefault(part, {})
            if value is None:
                del place[last]
            else:
                place[last] = value
        path = folder.path / "global.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def built(path):
    return build_simultaneous(load_simultaneous(path), path.parent, resources=Resources(2))


def test_a_parametric_constraint_applies_to_every_pattern(series, tmp_path):
    path, output = series(**LAW), tmp_path / "out"
    done = CliRunner().invoke(main, ["simultaneous", str(path), "-o", str(output)])
    assert done.exit_code == 0, done.output
    result = read_result(output)
    summary = result.summary
    assert summary.task == "simultaneous" and summary.status == "converged"
    rows = summary.parameters
    assert set(rows) == {"P.Cs.B_iso", "P.Cl.B_iso", "global.a0", "global.alpha"}
    for name, truth in {"global.a0": 4.12, "global.alpha": EXPANSION, "P.Cs.B_iso": 1.0}.items():
        assert abs(rows[name].value - truth) < 4 * rows[name].su, name
    for name, t in TEMPERATURES.items():
        own = summary.patterns[name]
        a = own.parameters["P.a"]
        line = rows["global.a0"].value * (1 + rows["global.alpha"].value * (t - 300))
        assert_allclose(a.value, line, rtol=1e-12)
        assert a.parametric_constraint == LAW["parametric_constraints"]["P.a"] and a.su > 0
        assert a.status is ParameterStatus.CONSTRAINED
        cs = own.parameters["P.Cs.B_iso"]
        assert cs.shared and cs.value == rows["P.Cs.B_iso"].value
        assert cs.su == pytest.approx(rows["P.Cs.B_iso"].su)
        # the bond is half the diagonal of a cube, so its s.u. follows from that of the cell
        (bond,) = [q for k, q in own.derived["P"].quantities.items() if k.startswith("d(")]
        assert_allclose([bond.value, bond.su],
                        np.array([a.value, a.su]) * np.sqrt(3) / 2, rtol=1e-4)
        residual = (result.arrays[f"patterns/{name}/pattern/observed"]
                    - result.arrays[f"patterns/{name}/pattern/calculated"]
                    ) / result.arrays[f"patterns/{name}/pattern/sigma"]
        assert_allclose(residual @ residual, own.agreement.chi2, rtol=1e-9)
    chi2 = sum(own.agreement.chi2 for own in summary.patterns.values())
    assert_allclose(summary.agreement.chi2, chi2, rtol=1e-9)
    assert summary.agreement.n_points == 3 * 200
    assert summary.agreement.n_parameters == 4 + 3 * 2
    assert list(result.arrays["covariance/names"]) == ["P.Cs.B_iso", "P.Cl.B_iso", "global.a0",
                                                       "global.alpha"]
    report = result_report(result)
    for message in ("global.alpha", "T100", "300.0 K", "parametric constraint: P.a =", "GoF"):
        assert message in report
    json.dumps(content_of(summary), allow_nan=False)


def test_all_patterns_have_the_instrument_of_a_file(series, tmp_path):
    """Its zero is one parameter of all patterns, which are those of an instrument without a shift."""
    path = series(model__pattern__instrument="instrument.yaml", shared=["P.*.B_iso", "instrument.zero"],
                  refinement={"stages": [["P.a", "instrument.zero"], ["P.*.B_iso"]]})
    (path.parent / "instrument.yaml").write_text("instrument: {zero: 0.02}\n")
    rows = run_simultaneous(built(path)).summary.parameters
    zero = rows["instrument.zero"]
    assert abs(zero.value) < 4 * zero.su < 0.02 and zero.kind == "angle_shift"


def test_the_figure_shows_every_pattern_and_the_parameters_that_differ(series):
    result = run_simultaneous(built(series(shared=["P.Cs.B_iso"])))
    figure = simultaneous_figure(result)
    texts = [t.get_text() for part in figure.subfigs for panel in part.axes for t in panel.texts]
    assert all(any(text.startswith(f"{name}, {t} K, GoF") for text in texts)
               for name, t in TEMPERATURES.items())
    titles = [panel.get_title() for panel in figure.subfigs[1].axes]
    assert titles == ["a (Å)", "$B_\\mathrm{iso}$ (Å²)"]
    (line, *_), values = figure.subfigs[1].axes[0].lines, result.summary.patterns
    assert_allclose(line.get_xdata(), list(TEMPERATURES.values()))
    assert_allclose(line.get_ydata(), [v.parameters["P.a"].value for v in values.values()])
    with pytest.raises(ValueError, match="draw it with fit_figure"):
        simultaneous_figure(result.changed(task=Task.REFINE))
    # if all parameters are common, the figure contains the fits only
    assert len(simultaneous_figure(run_simultaneous(built(series(shared=["P.*"])))).subfigs) == 1


def test_a_walltime_preserves_the_values(series, tmp_path):
    output = tmp_path / "out"
    done = CliRunner().invoke(main, ["simultaneous", str(series()), "-o", str(output), "--quiet"],
                              env={"DSE_NUM_THREADS": "1"})
    assert done.exit_code == 0
    few = series(refinement={"stages": [["P.*"]], "max_cycles": 2})
    done = CliRunner().invoke(main, ["simultaneous", str(few), "-o", str(output), "--quiet"])
    assert done.exit_code == 3 and read_result(output).status == "not_converged"
    stopped = run_simultaneous(built(few), should_stop=lambda: "walltime")
    assert stopped.status == "walltime" and set(stopped.summary.patterns) == set(TEMPERATURES)


def test_a_restraint_on_shared_parameters_is_counted_once(series):
    prior = [{"parameter": "P.Cs.B_iso", "target": 1.2, "sigma": 0.01},
             {"distance": ["Cs", "Cl"], "target": 3.57, "sigma": 0.01}]
    summary = run_simultaneous(built(series(model__restraints=prior))).summary
    counted = {name: [key.removesuffix("_1") for key in rows.restraints]
               for name, rows in summary.patterns.items()}
    assert counted == {"T100": ["P.Cs.B_iso", "P d(Cs-Cl)"], "T200": ["P d(Cs-Cl)"],
                       "T300": ["P d(Cs-Cl)"]}


def test_validate_reports_the_content_of_a_simultaneous_document(series):
    done = CliRunner().invoke(main, ["validate", str(series(**LAW))])
    assert done.exit_code == 0, done.output
    for message in ("T200: 200 points", "parametric constraint: P.a", "4.11, 4.11, 4.11",
                 "Free in the last stage: 4 parameters"):
        assert message in done.output


TWINS = {"T100": {"pattern": {"file": "T100.xye"}}, "again": {"pattern": {"file": "T100.xye"}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared": ["P.q"]}, r"^shared.*no parameter 'P.q'"),
        ({"shared": ["P.Cs"]}, r"no parameter 'P.Cs' \(did you mean .*P.Cs.B_iso"),
        ({"shared": ["P.a"], **LAW}, "P.a is shared and has a parametric constraint"),
        ({"model__constraints": {"P.Cl.B_iso": "2 * P.Cs.B_iso"},
          "parametric_constraints": {"P.Cl.B_iso": "2"}}, "constraint in the mod"),
        ({**LAW, "parametric_constraints": {"P.q": "global.a0"}},
         r"^parametric_constraints.P.q: there is no parameter"),
        ({**LAW, "parametric_constraints": {"P.a": "global.b0"}},
         r"^parametric_constraints.P.a: .*did you mean global.a0"),
        ({**LAW, "parametric_constraints": {"P.a": "global.a0 if 1 else 2"}},
         r"^parametric_constraints.P.a: .*not plain arithmetic"),
        ({"parametric_constraints": {"P.a": "4 + P.Cs.B_iso", "P.Cs.B_iso": "P.a"}, "shared": []},
         "are circular"),
        ({**LAW, "patterns__T200__sample": None}, r"^patterns.T200.sample.temperature: .*missing"),
        ({**LAW, "parametric_constraints": {"P.a": "global.a0"}},
         r"^parameters.global.alpha: no parametric constraint uses this parameter"),
        ({**LAW, "parametric_constraints": {"P.a": "global.a0 + 0 * global.alpha"}},
         "global.alpha has no effect"),
        ({**LAW, "parameters__global.a0": -4}, r"yields -4 Å in pattern T100, which is impossible"),
        ({**LAW, "parameters__global.a0": {"lower": 4}}, r"^parameters.global.a0.value: .*missing"),
        ({**LAW, "parameters__global.a0": {"value": 3, "lower": 4}}, "outside its bounds"),
        ({"patterns": TWINS}, r"^patterns.again.pattern.file: .*same points as that of T100"),
        ({"patterns__T100__pattern__file": "no.xye"}, r"^patterns.T100.pattern: .*no file"),
        ({"patterns__T100__parameters": {"P.Cs.B_iso": 3}}, "P.Cs.B_iso is shared, but"),
        ({"patterns__T100__parameters": {"P.q": 3}}, r"^patterns.T100.parameters.*no param.*P.q"),
        ({"refinement__stages": [["P.q"]]}, r"^refinement.stages: there is no parameter 'P.q'"),
        ({"refinement__stages": [["T400:P.a"]]}, r"^refinement.stages: 'T400:P.a' matches no"),
        ({"patterns__T100__pattern__range": [1, 1.15]}, r"T100 has 4 points for 5 parameters"),
        ({"model__derived": {"P": {"distances": [["Cs", "Br"]]}}}, "^model.derived.P: .*Br"),
    ],
)
def test_contradictions_are_refused_with_their_key_path(series, changes, message):
    with pytest.raises(DocumentError, match=message):
        built(series(**changes))


def test_a_wrong_axis_is_reported_with_the_name_of_its_pattern(series, measured):
    path = series()
    np.savetxt(path.parent / "T200.xye", measured["T200"] * [1.25, 1, 1], fmt="%.8g")
    done = CliRunner().invoke(main, ["simultaneous", str(path)])
    assert done.exit_code == 2 and done.output.startswith("Error: patterns.T200.pattern"), done


def test_the_other_commands_refer_to_dse_engine_simultaneous(series):
    done = CliRunner().invoke(main, ["refine", str(series())])
    assert done.exit_code == 2 and "dse-engine simultaneous" in done.output


def test_calculated_weights_are_those_of_the_separate_refinements(series, folder, measured):
    """Some 15 counts per point; nothing is shared, so the refinements are independent."""
    for name, rows in measured.items():
        counts = np.random.default_rng(1).poisson(rows[:, 1] * 15 / rows[:, 1].mean())
        np.savetxt(folder.path / f"{name}.xye",
                   np.c_[rows[:, 0], counts, np.sqrt(np.maximum(counts, 1))])
    plan = {"stages": [["P.a"], ["P.*.B_iso"]], "weights": "calculated", "tolerance": 1e-4}
    path = series(shared=[], refinement=plan)
    document = load_simultaneous(path)
    found = run_simultaneous(build_simultaneous(document, path.parent)).summary
    for name in TEMPERATURES:
        content = document.document_of(name).canonical() | {"refinement": plan}
        alone = run_refine(build(parse_document(content), path.parent)).summary
        for key, row in alone.parameters.items():
            together = found.patterns[name].parameters[key]
            assert_allclose(together.value, row.value, atol=0.01 * (row.su or 1e-9))
            if row.su:
                assert_allclose(together.su, row.su, rtol=5e-3)
        assert abs(found.patterns[name].agreement.gof - alone.agreement.gof) < 1e-3


def test_weights_cannot_be_calculated_from_a_sigma_that_is_not_that_of_counts(series, folder, measured):
    path = series(refinement__weights="calculated")
    rows = measured["T200"]
    np.savetxt(folder.path / "T200.xye", np.c_[rows[:, :2], np.full(len(rows), 30.0)])
    with pytest.raises(DocumentError, match=r"patterns\.T200\.pattern\.sigma.*square root of counts"):
        build_simultaneous(load_simultaneous(path), path.parent)
