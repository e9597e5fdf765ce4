"""What version 0.1 left in databases: opened, drawn, found, traced and gone on with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from aiida.engine import run_get_node
from aiida.orm import Dict, ProcessNode, QueryBuilder, load_node
from click.testing import CliRunner
from numpy.testing import assert_allclose

from aiida_dse.calculations.documents import continued_model
from aiida_dse.calculations.series import size_series, temperature_series
from aiida_dse.cli.main import main
from aiida_dse.data.archives import opened_archive
from aiida_dse.data.exits import exit_word
from aiida_dse.data.jobs import ModelNodes, model_of_nodes
from aiida_dse.data.query import find_rows, paths_of
from aiida_dse.data.results import result_of, summary_from_node
from aiida_dse.documents import parse_document
from aiida_dse.documents.result_migration import current_result, kind_of
from aiida_dse.documents.results import SUMMARIES, ScanSummary
from aiida_dse.documents.status import Status, Task
from aiida_dse.engine.parameters import Changes, Kind, ParameterStatus
from aiida_dse.io.results import content_of, read_result, summary_of

DATA = Path(__file__).parents[1] / "data"
ARCHIVE = DATA / "archive_0_1_0.aiida"
EXPECTED = json.loads((DATA / "archive_0_1_0.json").read_text(encoding="utf-8"))["analyses"]
WITH_RESULT = [row for row in EXPECTED if "result" in row]
#: One analysis of each task (and of each kind of map), by PK.
EACH_TASK = [next(row["pk"] for row in WITH_RESULT if row["result"]["task"] == task)
             for task in dict.fromkeys(row["result"]["task"] for row in WITH_RESULT)] + [50, 79]
TASKS = {"joint": "simultaneous"}
NUMBERS = {"alpha_V": "thermal_expansion_V", "alpha_a": "thermal_expansion_a",
           "alpha_b": "thermal_expansion_b", "alpha_c": "thermal_expansion_c",
           "gamma": "surface_energy", "gamma_through_bulk": "surface_energy_through_bulk"}
QUANTITIES = {"B": "B_iso", "phi": "size_axes_rotation", "expansion": "lattice_scale"}


def todays(name):
    """The new name of a parameter, by a rule that the package does not know."""
    head, _, last = name.rpartition(".")
    head = "global" if head == "joint" else head
    return f"{head}.{QUANTITIES.get(last, last)}" if head else name


def flat(nested, before=""):
    """{'P.Br.B': 2.0} of the nested copies of values that 0.1 kept for searches."""
    found = {}
    for key, value in (nested or {}).items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


@pytest.fixture(scope="module")
def cli():
    def run(*arguments):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def archive(own_storage):
    """The archive as the loaded profile."""
    with opened_archive(ARCHIVE):
        yield


def old_results():
    return QueryBuilder().append(
        Dict, filters={"attributes.schema": "aiida-dse/result/1"}).all(flat=True)


# --- every result -------------------------------------------------------------------------------


def test_every_result_has_the_numbers_that_version_0_1_wrote(archive):
    """Against the copies for searches, which the new code does not read."""
    nodes, compared = old_results(), 0
    assert len(nodes) == 55
    for node in nodes:
        raw, summary = node.get_dict(), summary_from_node(node)
        assert type(summary) is SUMMARIES[Task(TASKS.get(raw["task"], raw["task"]))]
        assert summary.numerics_version == 0
        assert summary.status == raw["status"]
        values = {name: row.value for name, row in summary.parameters.items()}
        su = {name: row.su for name, row in summary.parameters.items() if row.su is not None}
        if isinstance(summary, ScanSummary):  # the copies hold the axes too
            values |= {name: value for name, value in (summary.minimum or {}).items()
                       if name != "gof"}
        rename = todays
        if hasattr(summary, "numbers"):
            rename = ({name: name for name in summary.numbers} | NUMBERS).get
            values = {name: row.value for name, row in summary.numbers.items()}
            su = {name: row.su for name, row in summary.numbers.items() if row.su is not None}
        if "values" in raw:
            assert values == {rename(name): value for name, value in flat(raw["values"]).items()}
            assert su == {rename(name): value for name, value in flat(raw.get("su")).items()}
            compared += len(values)
        for name, row in raw.get("patterns", {}).items() if raw["task"] == "joint" else ():
            own = {key: one.value for key, one in summary.patterns[name].parameters.items()}
            assert own == {todays(key): value for key, value in flat(row["values"]).items()}
    assert compared > 800


def test_every_result_is_written_and_read_as_one_of_today(archive):
    for node in old_results():
        summary = summary_from_node(node)
        content = json.loads(json.dumps(content_of(summary)))
        assert content["schema"] == "aiida-dse/result/2"
        assert "values" not in content and "su_serial" not in json.dumps(content)
        assert content_of(summary_of(content)) == content


def test_every_result_equals_what_0_1_0_found(archive):
    for row in WITH_RESULT:
        expected, summary = row["result"], result_of(load_node(row["pk"])).summary
        assert summary.task == TASKS.get(expected["task"], expected["task"])
        assert summary.status == expected["status"]
        assert summary.title == expected["title"]
        if "gof" in expected:
            found = summary.lowest_gof if isinstance(summary, ScanSummary) \
                else summary.agreement.gof
            assert found == expected["gof"]
        for name, value in expected.get("minimum", {}).items():
            assert summary.minimum[todays(name)] == value
        for phase, quantities in expected.get("derived", {}).items():
            found = summary.derived[phase].quantities
            assert {name: found[name].value for name in quantities} == quantities
        if expected["task"].endswith(("series", "curve")):
            assert {name: [one.value, one.su] for name, one in summary.numbers.items()} == {
                NUMBERS.get(name, name): numbers for name, numbers in expected["numbers"].items()}


def test_every_parameter_has_a_kind_with_its_unit(archive):
    seen = set()
    for node in old_results():
        for name, row in summary_from_node(node).parameters.items():
            assert row.kind.spec.unit == row.unit, name
            seen.add(row.kind)
    later = {Kind.ASPECT, Kind.THICKNESS, Kind.B_DAMPED, Kind.DELTA, Kind.U_ISO, Kind.U_ANISO,
             Kind.BOUNDARY_PROBABILITY, Kind.SPLIT, Kind.SIZE_WEIGHT, Kind.LATTICE_CHANGE, Kind.B_CHANGE,
             Kind.OCCUPANCY_CHANGE, Kind.DECAY, Kind.MICROSTRAIN}
    later |= {kind for kind in Kind if kind.spec.changes is Changes.MEASUREMENT}
    assert seen == set(Kind) - later - {Kind.CELL_ANGLE, Kind.SCALE, Kind.BLANK, Kind.BACKGROUND}


@pytest.mark.parametrize("name", ["P.Br.U", "P.a_k", "P.L"])
def test_what_is_no_parameter_of_0_1_has_no_kind(name):
    with pytest.raises(ValueError, match="no parameter of version"):
        kind_of(name, "")


def test_linear_coefficients_have_kinds_and_sites_have_todays_key(archive):
    summary = result_of(load_node(194)).summary  # PbS in toluene
    kinds = {name: row.kind for name, row in summary.linear.items()}
    assert kinds["PbS.scale"] is Kind.SCALE
    assert kinds["background.chebyshev_0"] is Kind.BACKGROUND
    assert [kind for name, kind in kinds.items() if name.startswith("blank.")] == [Kind.BLANK]
    sites = summary.derived["PbS"].sites
    assert sites["Pb1"].B_iso == summary.parameters["PbS.Pb1.B_iso"].value


def test_roles_of_parameters(archive):
    summary = result_of(load_node(238)).summary  # three temperatures together
    pattern = summary.patterns["T100"].parameters
    assert pattern["CsPbBr3.Br_ax.B_iso"].status is ParameterStatus.CONSTRAINED
    assert pattern["CsPbBr3.Br_ax.B_iso"].constraint == "1.5 * CsPbBr3.Br_eq.B_iso"
    assert pattern["CsPbBr3.c"].status is ParameterStatus.CONSTRAINED
    assert pattern["CsPbBr3.c"].parametric_constraint == summary.parametric_constraints[
        "CsPbBr3.c"] == "global.c0 * (1 + global.alpha * (sample.temperature - 300))"
    assert pattern["CsPbBr3.L_ab"].shared and not pattern["CsPbBr3.a"].shared
    assert pattern["CsPbBr3.Cs.x"].status is ParameterStatus.FIXED
    assert summary.parameters["global.alpha"].kind is Kind.GLOBAL
    turned = result_of(load_node(157)).summary.parameters["CsPbBr3.size_axes_rotation"]
    assert turned.status is ParameterStatus.AT_BOUND


def test_a_map_has_the_values_of_its_lowest_point(archive):
    node = load_node(50)  # an angle against B, the displacement of lead refined at each point
    result = result_of(node)
    summary = result.summary
    assert [axis.name for axis in summary.axes] == [
        "CsPbBr3.angle(Pb-Br_eq-Pb)_1", "CsPbBr3.Br_eq.B_iso"]
    assert [axis.kind for axis in summary.axes] == [None, Kind.B_ISO]
    assert summary.refined == ["CsPbBr3.Pb.B_iso"]
    refined = result.arrays["scan/refined/CsPbBr3.Pb.B_iso"]
    assert refined.shape == result.arrays["scan/gof"].shape
    at = np.unravel_index(np.nanargmin(result.arrays["scan/gof"]), refined.shape)
    row = summary.parameters["CsPbBr3.Pb.B_iso"]
    assert row.value == pytest.approx(refined[at], rel=1e-12) and row.value != row.start
    assert set(result.arrays) == {
        f"scan/{'refined/CsPbBr3.Pb.B_iso' if name.startswith('refined') else name}"
        for name in node.outputs.map.get_arraynames()}


def test_arrays_have_todays_paths(archive):
    blanks = result_of(load_node(194)).arrays
    assert any(path.startswith("components/blank.") for path in blanks)
    together = result_of(load_node(238)).arrays
    assert "T300:CsPbBr3.Cs.B_iso" in together["covariance/names"]
    assert "global.alpha" in together["covariance/names"]
    assert "patterns/T300/covariance/matrix" in together
    profiles = result_of(load_node(123)).arrays
    assert "profile/CsPbBr3.Br_eq.B_iso/below/chi2" in profiles
    series = result_of(load_node(280)).arrays
    assert "table/values/B_iso(Pb)" in series and "table/values/1/L" in series
    assert "B_iso(Pb)" in series["covariance_names/T100"]
    for arrays in (blanks, together, profiles, series):
        assert not any(re.search(r"\.B(/|$)|refinement/|trace|B\(", path) for path in arrays)


def test_the_covariance_is_that_of_the_standard_uncertainties(archive):
    for pk in (7, 123, 238):
        result = result_of(load_node(pk))
        names = [str(name) for name in result.arrays["covariance/names"]]
        su = np.sqrt(np.diag(result.arrays["covariance/matrix"]))
        expected = [result.summary.patterns[name.split(":")[0]].parameters[name.split(":")[1]].su
                    if ":" in name else result.summary.parameters[name].su for name in names]
        assert_allclose(su, expected, rtol=1e-9)


# --- commands on the archive --------------------------------------------------------------------


def test_list_words_processes_as_today(cli, own_storage):
    lines = cli("list", "--archive", ARCHIVE, "-n", 100).output.splitlines()
    by_pk = {line.split()[0]: line for line in lines if line.split()[0].isdigit()}
    listed = [row for row in EXPECTED if str(row["pk"]) in by_pk]
    assert len(listed) == 38 == len(by_pk)
    assert "sizing_curve" in by_pk["483"]
    assert "exit 401: not converged" in by_pk["258"]
    assert "exit 430: posterior not converged" in by_pk["123"]
    assert "Simultaneous" in by_pk["238"] and "done" in by_pk["238"]
    for row in listed:
        if "gof" in row.get("result", {}):
            assert f"{row['result']['gof']:.4f}" in by_pk[str(row["pk"])]


@pytest.mark.parametrize("pk", [*EACH_TASK, 258])
def test_show_plot_and_trace(cli, own_storage, tmp_path, pk):
    shown = cli("show", pk, "--archive", ARCHIVE)
    assert shown.exit_code == 0, shown.output
    expected = next(row["result"] for row in EXPECTED if row["pk"] == pk)
    if "gof" in expected:
        assert f"{expected['gof']:.4f}" in shown.output
    assert not re.search(r"\.B\b|\bjoint\b|\btrace\.", shown.output)
    figure = tmp_path / "figure.png"
    drawn = cli("plot", pk, "--archive", ARCHIVE, "-o", figure)
    assert drawn.exit_code == 0, drawn.output
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 8000
    traced = json.loads(cli("trace", pk, "--archive", ARCHIVE, "--json").output)
    assert traced["facts"]["task"] == TASKS.get(expected["task"], expected["task"])
    assert traced["facts"]["engine_version"] == "0.1.0"


@pytest.mark.parametrize("what", ["fit", "corner", "profile", "bootstrap"])
def test_every_figure_of_an_uncertainty_is_drawn(cli, own_storage, tmp_path, what):
    figure = tmp_path / "figure.png"
    drawn = cli("plot", 123, "--archive", ARCHIVE, "--what", what, "-o", figure)
    assert drawn.exit_code == 0, drawn.output
    assert figure.stat().st_size > 8000


def test_show_words_the_exit_and_a_study(cli, own_storage):
    shown = cli("show", 258, "--archive", ARCHIVE).output
    assert "exit 401 (not converged): The refinement did not converge" in shown
    study = cli("show", 341, "--archive", ARCHIVE).output
    assert "thermal_expansion_V = 0.0001100(7) 1/K" in study
    assert "surface_energy = -3.10(5) eV/nm^2" in study
    traced = json.loads(cli("trace", 258, "--archive", ARCHIVE, "--json").output)
    made = [row["facts"].get("outcome") for row in traced["from"]]
    assert made == ["not converged"]


def test_query_finds_old_values_by_todays_names(cli, own_storage):
    name = "CsPbBr3.Br_eq.B_iso"
    rows = json.loads(cli("query", "--archive", ARCHIVE, "--where", f"{name}<1.9",
                          "--show", name, "--show", f"{name}.su", "--json").output)
    expected = {
        row["result"]["pk"]: (row["result"]["values"]["CsPbBr3.Br_eq.B"],
                              (row["result"]["su"] or {}).get("CsPbBr3.Br_eq.B"))
        for row in WITH_RESULT
        if row["result"].get("values", {}).get("CsPbBr3.Br_eq.B", 9) < 1.9}
    assert {row["pk"]: (row[name], row[f"{name}.su"]) for row in rows} == expected
    assert len(expected) == 7
    everything = json.loads(cli("query", "--archive", ARCHIVE, "--where", f"{name}<3",
                                "--json").output)
    assert {row["pk"] for row in everything} > set(expected)


def test_query_still_understands_the_old_name(archive):
    by_old = {row["pk"] for row in find_rows(where=["CsPbBr3.Br_eq.B<1.9"])}
    assert by_old == {row["pk"] for row in find_rows(where=["CsPbBr3.Br_eq.B_iso<1.9"])} != set()


def test_query_of_other_names(archive):
    (row,) = find_rows(where=["CsPbBr3.size_axes_rotation>1"], show=["engine"])
    assert row["engine"] == "0.1.0" and row["gof"] == pytest.approx(2.76487, rel=1e-5)
    together = find_rows(task="simultaneous", show=["global.alpha"])
    assert len(together) == 3 and {row["task"] for row in together} == {"simultaneous"}
    assert all(3e-5 < row["global.alpha"] < 4e-5 for row in together)
    assert len(find_rows(where=["thermal_expansion_V=1e-4:1.2e-4"])) == 2
    assert len(find_rows(where=["surface_energy<0"])) == 1
    lead = find_rows(show=["CsPbBr3.B_iso(Pb)", "CsPbBr3.Pb.B_iso"], task="refine")
    assert all(row["CsPbBr3.B_iso(Pb)"] == row["CsPbBr3.Pb.B_iso"] for row in lead)
    assert any(row["CsPbBr3.B_iso(Pb)"] for row in lead)


def test_the_paths_of_a_quantity_of_the_whole():
    assert "attributes.values.joint.alpha" in paths_of("global.alpha")


# --- singular and other words -------------------------------------------------------------------


def test_an_old_singular_is_found_as_undetermined(own_storage):
    with opened_archive(ARCHIVE):
        content = load_node(7).outputs.result.get_dict()
    content["status"] = "singular"
    content["parameters"]["CsPbBr3.Cs.x"] |= {"insensitive": True, "su": None}
    content["sample"] = {"name": "singular of 0.1"}
    node = Dict(content).store()
    rows = find_rows(status="undetermined", sample="singular of 0.1")
    assert [(row["pk"], row["status"]) for row in rows] == [(node.pk, "undetermined")]
    assert not find_rows(status="converged", sample="singular of 0.1")
    summary = summary_from_node(node)
    assert summary.status is Status.UNDETERMINED and summary.status.is_minimum
    assert summary.undetermined == ["CsPbBr3.Cs.x"]
    assert summary.parameters["CsPbBr3.Cs.x"].su is None


@pytest.mark.parametrize(
    ("process", "version", "number", "word"),
    [
        ("aiida.workflows:dse.refine", "0.1.0", 401, "not converged"),
        ("aiida.workflows:dse.refine", "0.1.0", 402, "undetermined"),
        ("aiida.workflows:dse.refine", "0.1.0", 403, "invalid input"),
        ("aiida.workflows:dse.grid_search", "0.1.0", 402, "some failed"),
        ("aiida.workflows:dse.compare_models", "0.1.0", 401, "nothing finished"),
        ("aiida.workflows:dse.size_series", "0.1.0", 403, "no analysis"),
        ("aiida.workflows:dse.temperature_series", "0.1.0", 404, "simultaneous failed"),
        ("aiida.workflows:dse.study", "0.1.0", 402, "some failed"),
        ("aiida.workflows:dse.build_model", "0.1.0", 401, "invalid input"),
        ("aiida.calculations:dse.refine", "0.1.0", 410, "not converged"),
        ("aiida.calculations:dse.joint", "0.1.0", 420, "undetermined"),
        ("aiida.workflows:dse.refine", "0.2.0", 401, ""),  # AiiDA's restart work chain
        ("aiida.workflows:dse.refine", "0.2.0", 410, "not converged"),
        ("aiida.workflows:dse.refine", "0.2.0", 420, "undetermined"),
        ("aiida.calculations:dse.refine", "0.2.0", 400, "walltime"),
        ("aiida.workflows:dse.refine", "0.1.0", 0, ""), (None, None, None, ""),
        ("aiida.calculations:core.arithmetic.add", "2.7", 410, ""),
    ],
)
def test_exit_codes_are_worded_by_process_and_version(process, version, number, word):
    assert exit_word(process, version, number) == word


def test_every_process_of_the_archive_has_its_version(archive):
    query = QueryBuilder().append(
        ProcessNode, filters={"process_type": {"like": "%:dse.%"}},
        project="attributes.version.plugin")
    assert set(query.all(flat=True)) == {"0.1.0"}


def test_results_that_no_analysis_of_the_archive_has():
    """Keys that version 0.1 wrote in cases which the archive does not hold."""
    row = {"value": 1.0, "unit": "Å^2", "su": 0.1, "su_serial": 0.2, "free": True, "lower": 0.0,
           "upper": 3.0, "at_bound": False, "insensitive": False, "start": 2.0}
    found = summary_of({
        "schema": "aiida-dse/result/1", "task": "refine", "status": "walltime",
        "stop_reason": "walltime", "phases": ["P"], "sample": {}, "warnings": ["P.Br.B is odd."],
        "seconds": 1.0, "created": "2026-01-01T00:00:00+00:00", "engine_version": "0.1.0",
        "agreement": {"n_points": 10, "n_parameters": 2, "chi2": 8.0, "r_p": 0.1, "r_wp": 0.1,
                      "r_exp": 0.1, "gof": 1.0, "r_wp_background_subtracted": 0.1,
                      "durbin_watson": None},
        "parameters": {"P.Br.B": row}, "derived": {"P": {"sizes": {"atoms": 9.0}}},
        "linear": {"trace.air": {"value": 0.0, "su": None, "at_zero": True}},
        "restraints": {"P.Br.B": {"value": 1.0, "target": 1.1, "sigma": 0.1, "unit": "Å^2",
                                  "chi2": 1.0}},
        "serial_correlation": {"autocorrelation_time": 4.0, "n_effective": 2.5, "su_factor": 2.0},
        "search": {"n_starts": 2, "n_tried": 2, "seed": 0, "stop_reason": "complete",
                   "failures": {"1": "lost"},
                   "minima": [{"gof": 1.0, "chi2": 8.0, "starts": [0], "converged": True,
                               "values": {"P.Br.B": 1.0}}]},
        "method": "least_squares", "n_cycles": 3, "n_evaluations": 9,
    })
    assert found.status is Status.WALLTIME and found.status.is_unfinished
    assert found.search.minima[0].values == {"P.Br.B_iso": 1.0}
    assert list(found.restraints) == ["P.Br.B_iso"]
    assert found.linear["blank.air"].status is ParameterStatus.AT_BOUND
    assert found.serial_correlation.su_factor == 2.0
    assert found.derived["P"].sizes["atoms"].unit == ""
    assert found.warnings == ["P.Br.B_iso is odd."]
    assert np.isnan(found.agreement.durbin_watson)


def test_a_result_folder_of_the_engine_is_read(archive, tmp_path):
    process = load_node(123)
    content = process.outputs.result.get_dict()
    for copy in ("values", "su", "posterior_sd", "bootstrap_sd"):
        content.pop(copy, None)  # only nodes had them
    (tmp_path / "result.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "result.h5").write_bytes(process.outputs.arrays.get_content(mode="rb"))
    found, stored = read_result(tmp_path), result_of(process)
    assert found.summary == stored.summary
    assert found.arrays.keys() == stored.arrays.keys()


def test_what_is_of_today_is_left_alone():
    content = {"schema": "aiida-dse/result/2", "task": "refine"}
    assert current_result(content) is content


# --- going on with old results ------------------------------------------------------------------


@pytest.fixture(scope="module")
def imported(cli, own_storage_of_module, aiida_config, aiida_profile_factory):
    """A new profile that holds the archive; only the last tests of this module use it."""
    with aiida_profile_factory(aiida_config, storage_backend="core.sqlite_dos"):
        done = cli("import", ARCHIVE)
        assert done.exit_code == 0 and "55 of them results" in done.output, done.output
        yield


def by_label(label, process="aiida.workflows:dse.refine"):
    query = QueryBuilder().append(
        ProcessNode, filters={"label": label, "process_type": process}, tag="p")
    return query.order_by({"p": {"id": "asc"}}).first(flat=True)


def test_an_old_result_is_the_start_of_a_new_analysis(imported):
    old = by_label("CsPbBr3 5 nm, Pbnm")
    inputs = old.inputs.refine
    before = inputs.model.get_dict()
    model, node = run_get_node(continued_model, model=inputs.model, result=old.outputs.result)
    assert node.is_finished_ok and inputs.model.get_dict() == before
    content = model.get_dict()
    assert content["schema"] == "aiida-dse/model/2"
    document = parse_document(content)
    summary = summary_from_node(old.outputs.result)
    for name, row in summary.free.items():
        given = document.parameters[name]
        assert getattr(given, "value", given) == row.value
    built = model_of_nodes(content, ModelNodes(inputs.pattern, dict(inputs.structures)))
    assert {name: built.model.start[name] for name in summary.free} == {
        name: row.value for name, row in summary.free.items()}
    fit = built.model.agreement(built.model.evaluate(built.model.start), len(summary.free))
    # 1.3e-6 lower: since 0.2 a size law is normalised over the sizes that `largest` leaves
    assert fit.gof == pytest.approx(summary.agreement.gof, rel=1e-5)


def test_bounds_of_an_old_document_stay_with_the_new_start(imported):
    old = by_label("CsCl near-cubes")
    model, _ = run_get_node(
        continued_model, model=old.inputs.refine.model, result=old.outputs.result)
    value = summary_from_node(old.outputs.result).parameters["salt.Cl1.B_iso"].value
    assert model.get_dict()["parameters"]["salt.Cl1.B_iso"] == {"value": value, "lower": 0.2}


def members(process):
    """What the analysis of a series took in, by the name of its input."""
    (analysis,) = [node for node in process.called if "analysis" in (node.process_type or "")]
    return {name: getattr(analysis.inputs, name) for name in analysis.inputs}


@pytest.mark.parametrize(
    ("label", "kind", "function", "number"),
    [("cooling", "temperature_series", temperature_series, "thermal_expansion_V"),
     ("sizes", "size_series", size_series, "surface_energy")],
)
def test_old_refinements_are_members_of_a_new_series(imported, label, kind, function, number):
    old = by_label(label, f"aiida.workflows:dse.{kind}")
    _, node = run_get_node(function, **members(old))
    assert node.is_finished_ok
    new, before = (result_of(one).summary for one in (node, old))
    assert new.numerics_version > 0 == before.numerics_version
    assert new.used == before.used
    assert set(new.numbers) == set(before.numbers) and number in new.numbers
    for name, row in before.numbers.items():
        # the surface energy follows from surface-to-volume ratios since 0.2 (6e-4 apart here)
        energy = name.startswith("surface_energy")
        assert new.numbers[name].value == pytest.approx(row.value, rel=2e-3 if energy else 1e-7)
        if row.su is not None:
            assert new.numbers[name].su == pytest.approx(row.su, rel=2e-2 if energy else 1e-7)
    assert set(new.lines) == set(before.lines)
    arrays, earlier = result_of(node).arrays, result_of(old).arrays
    row = before.used[0]
    order = [list(arrays[f"covariance_names/{row}"]).index(name)
             for name in earlier[f"covariance_names/{row}"]]
    assert_allclose(arrays[f"covariance/{row}"][np.ix_(order, order)],
                    earlier[f"covariance/{row}"], rtol=1e-5, atol=1e-14)


def test_a_launch_starts_from_an_old_result(cli, imported, tmp_path):
    documents = DATA / "documents_0_1"
    old = by_label("CsCl near-cubes")
    tried = cli("launch", "refine", documents / "near_cubes.yaml", "--start-from", old.pk,
                "--dry-run")
    assert tried.exit_code == 0, tried.output
