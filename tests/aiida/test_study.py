"""A study from its document to its summary, protocols, and what a dry run tells."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml
from aiida.orm import CalcJobNode, Dict, Group, QueryBuilder, WorkChainNode, load_node
from aiida.tools.archive.abstract import get_format
from click.testing import CliRunner

from aiida_dse.cli.main import main
from aiida_dse.data.jobs import nodes_of_document
from aiida_dse.data.pattern import PatternData
from aiida_dse.data.query import find_rows
from aiida_dse.documents import load_document, parse_document
from aiida_dse.documents.status import EXITS, PartsFailed
from aiida_dse.tasks.tiles import tile_documents
from aiida_dse.workchains.compare_models import CompareModelsWorkChain
from aiida_dse.workchains.grid_search import GridSearchWorkChain
from aiida_dse.workchains.protocol import protocol_names, with_protocol
from aiida_dse.workchains.refine import RefineWorkChain
from aiida_dse.workchains.study import StudyWorkChain
from aiida_dse.workchains.temperature_series import TemperatureSeriesWorkChain

TEMPERATURES = (120.0, 240.0)
STAGES = {"stages": [["salt.a", "salt.*.B_iso"]]}


def truth_at(temperature):
    return {"salt.a": 4.11 + 4e-5 * temperature, "salt.Cs1.B_iso": 0.3 + 0.005 * temperature,
            "salt.Cl_a.B_iso": 0.5 + 0.006 * temperature}


@pytest.fixture(scope="module")
def content(case):
    base = copy.deepcopy(case.document)
    del base["pattern"]["file"], base["sample"]
    axes = [{"parameter": "salt.a", "start": 4.10, "stop": 4.13, "step": 0.01},
            {"parameter": "salt.Cs1.B_iso", "values": [0.5, 1.0]}]
    return {
        "schema": "aiida-dse/study/2", "name": "salts", "defaults": base | {"refinement": STAGES},
        "samples": {f"T{t:.0f}": {"pattern": {"file": f"T{t:.0f}.xye"},
                                  "sample": {"temperature": t, "ligand": "oleate"}}
                    for t in TEMPERATURES} | {"alone": {
                        "pattern": {"file": "salt.xye"}, "sample": {"name": "lone salt"}}},
        "series": {"warming": {"kind": "temperature", "samples": "T*",
                               "options": {"analysis": {"reference_temperature": 200}}}},
        "maps": [{"sample": "T120", "axes": axes}],
        "compare": [{"sample": "alone", "models": {
            "full": {}, "stiff": {"refinement": {"stages": [["salt.a"]]}}}}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_case, pattern_of):
    made = tmp_path_factory.mktemp("study")
    write_case(made)
    for k, temperature in enumerate(TEMPERATURES):
        (made / f"T{temperature:.0f}.xye").write_text(pattern_of(truth_at(temperature), k + 40))
    return made


def written(folder, content, name="study.yaml"):
    path = folder / name
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def cli(*arguments, exit_code=0):
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == exit_code, done.output
    return done.output


def launched(message):
    return load_node(int(message.split("WorkChain<")[1].split(">")[0]))


def jobs_of(node):
    return [job for job in node.called_descendants if isinstance(job, CalcJobNode)]


def executed(node):
    return [job for job in jobs_of(node) if not job.base.caching.is_created_from_cache]


def step_of(job):
    """The study's step that a job belongs to."""
    at = job
    while at.caller.process_label != "StudyWorkChain":
        at = at.caller
    return at.base.links.get_incoming(node_class=WorkChainNode).first().link_label


@pytest.fixture(scope="module")
def finished(started, folder, content, code, long_maps):
    with long_maps():
        message = cli("launch", "study", written(folder, content), "--wait")
    return launched(message), message


def test_a_dry_run_reports_the_cost_and_stores_nothing(folder, content, code):
    # not all nodes: the daemon may still be at work for earlier tests
    kinds = (PatternData, WorkChainNode)
    before = [QueryBuilder().append(kind).count() for kind in kinds]
    message = cli("launch", "study", written(folder, content), "--dry-run")
    for words in ("3 samples, 1 series, 1 map, 1 comparison", "series warming: temperature",
                  "refine T120", "map map_T120", "compare compare_alone", "Dry run"):
        assert words in message, message
    assert [QueryBuilder().append(kind).count() for kind in kinds] == before


def test_a_study_runs_everything_and_sums_it_up(finished, content):
    node, message = finished
    assert node.is_finished_ok, node.exit_message
    summary = node.outputs.summary.get_dict()
    assert list(summary["samples"]) == ["alone"] and not summary["failures"]
    assert summary["samples"]["alone"]["gof"] == pytest.approx(1.0, abs=0.15)
    series = summary["series"]["warming"]
    assert series["used"] == ["T120", "T240"]
    alpha = series["numbers"]["thermal_expansion_V"]
    assert abs(alpha["value"] - 3 * 4e-5 / 4.118) < 4 * alpha["su_scaled"]
    assert load_node(series["uuid"]).label == "warming"
    assert summary["maps"]["map_T120"]["shape"] == [4, 2]
    assert summary["compare"]["compare_alone"]["ranking"] == ["full", "stiff"]
    assert "thermal_expansion_V" in message and "map map_T120" in message
    # the map starts at the refined values, through a calcfunction
    scan = load_node(summary["maps"]["map_T120"]["uuid"]).inputs.scan.model
    assert scan.creator.process_label == "continued_model"
    assert node.pk in {one.pk for one in Group.collection.get(label="dse/study/salts").nodes}
    labels = set(QueryBuilder().append(Group, project="label").all(flat=True))
    assert {"dse/series/warming", "dse/sample/lone salt", "dse/sample/T240"} <= labels


def test_an_export_of_one_sample_does_not_disclose_the_others(finished, tmp_path):
    (pk,) = {row["pk"] for row in find_rows(sample="lone salt", task="refine", latest=True)}
    for options, wanted in (((), {"lone salt"}), (("--with-studies",), {"lone salt", "T120", "T240"})):
        file = tmp_path / f"{len(options)}.aiida"
        cli("export", pk, "-o", file, *options)
        with get_format().open(file, "r") as archive:  # without loading it as a profile
            results = archive.querybuilder().append(Dict, project="attributes.sample.name").all(flat=True)
            names = archive.querybuilder().append(
                WorkChainNode, project="attributes.process_label").all(flat=True)
        assert {name for name in results if name} == wanted
        assert ("StudyWorkChain" in names) == bool(options) and "RefineWorkChain" in names


def test_watching_a_study_knows_how_many_steps_there_are(finished):
    from aiida_dse.data.steps import steps_of

    top = steps_of(finished[0].pk)
    assert (top.done, top.expected) == (4, 4)
    (series,) = [step for step in top.steps if step.name == "TemperatureSeriesWorkChain"]
    assert (series.done, series.expected) == (2, 2)


def test_a_study_that_is_extended_costs_only_what_is_new(finished, folder, content, long_maps):
    """A wider map, another background of one sample: the rest comes from the cache."""
    wide = copy.deepcopy(content)
    wide["maps"][0]["axes"][0]["stop"] = 4.15
    wide["samples"]["alone"]["background"] = {"chebyshev": 2}
    wide["series"] = {}
    del wide["samples"]["T240"]
    with long_maps():
        message = cli("launch", "study", written(folder, wide), "--wait")
    node = launched(message)
    assert node.is_finished_ok, node.exit_message
    # 4 values were two tiles of 2 (2 jobs at a time); 6 are three: one is new. The sample's own
    # refinement is that of the comparison's 'full' model
    assert sorted(step_of(job) for job in executed(node)) == [
        "compare_compare_alone", "map_map_T120", "sample_alone"], executed(node)
    assert len(jobs_of(node)) == 7


def test_a_sample_that_cannot_be_read_is_left_out_and_named(started, folder, content, code):
    broken = {key: content[key] for key in ("schema", "name", "defaults", "series")}
    broken["samples"] = {k: v for k, v in content["samples"].items() if k != "alone"} | {
        "T300": {"pattern": {"file": "lost.xye"}, "sample": {"temperature": 300}}}
    path = written(folder, broken, "broken.yaml")
    message = cli("launch", "series", path, "--wait", exit_code=1)
    node = launched(message)
    assert node.exit_status == EXITS[PartsFailed.SOME_FAILED].number and "T300" in node.exit_message
    assert "T300 is left out" in message and node.outputs.result["used"] == ["T120", "T240"]
    # without a reason to go on nothing is submitted
    broken["series"]["warming"] = copy.deepcopy(content["series"]["warming"])
    broken["series"]["warming"]["options"]["on_failure"] = "stop"
    message = cli("launch", "series", written(folder, broken, "broken.yaml"), exit_code=1)
    assert "samples.T300" in message and "Nothing was submitted" in message


def test_the_document_wins_over_the_protocol(write_case, tmp_path):
    path = write_case(tmp_path, {"refinement": {"tolerance": 0.01}})
    document = load_document(path)
    settings = {name: RefineWorkChain.get_protocol_inputs(name)["refine"]["model"]
                for name in protocol_names()}
    assert set(settings) == set(RefineWorkChain.get_available_protocols())
    for wanted in settings.values():
        made = with_protocol(document, wanted)
        assert made.refinement.tolerance == 0.01
        assert made.refinement.max_cycles == wanted["refinement"]["max_cycles"]
    assert with_protocol(document, settings["fast"]).pattern.every == 4
    assert with_protocol(document, settings["standard"]).canonical() == document.canonical()
    over = with_protocol(document, settings["fast"], {"refinement": {"tolerance": 0.5}})
    assert over.refinement.tolerance == 0.5
    one_way = document.model_dump(mode="json", exclude_unset=True, by_alias=True)
    one_way["refinement"] = {"method": "cobyqa"}
    again = with_protocol(parse_document(one_way), settings["publication"])
    assert again.refinement.starts == 1
    with pytest.raises(ValueError, match="the protocols are fast, publication, standard"):
        RefineWorkChain.get_protocol_inputs("hasty")
    with pytest.raises(ValueError, match="has no input 'tiles'"):
        RefineWorkChain.get_protocol_inputs("fast", {"tiles": 3})
    for overrides, named in (({"refine": {"metadata": {"optoins": {}}}}, "'optoins' cannot be"),
                             ({"refine": {"metadata": {"label": "x"}}}, "'label' cannot be"),
                             ({"metadata": {"label": "x"}}, "overrides.metadata cannot be")):
        with pytest.raises(ValueError, match=named):
            RefineWorkChain.get_protocol_inputs("fast", overrides)
    assert RefineWorkChain.get_default_protocol() == "standard"


def test_builders_from_a_protocol(write_case, tmp_path, code, case):
    path = write_case(tmp_path, {"scan": case.scan})
    model = load_document(path)
    nodes = nodes_of_document(model, tmp_path)
    pattern, structures = nodes.pattern, nodes.structures
    refine = RefineWorkChain.get_builder_from_protocol(
        code, model, pattern, structures, protocol="fast", threads=1,
        overrides={"max_iterations": 3, "refine": {"metadata": {"options": {"priority": "high"}}}},
        options={"queue_name": "debug"})
    assert refine.max_iterations.value == 3 and refine.refine.threads == 1
    assert refine.refine.metadata.options.priority == "high"
    assert refine.refine.metadata.options.queue_name == "debug"
    assert refine.refine.model["pattern"]["every"] == 4
    assert refine.refine.metadata.options.max_wallclock_seconds == 1800
    grid = GridSearchWorkChain.get_builder_from_protocol(
        code, Dict(model.canonical()), pattern, structures, protocol="publication")
    assert grid.scan.model["tolerance"] == 1e-6 and grid.tile_seconds.value == 300
    members = {name: {"model": model, "pattern": pattern, "structures": structures}
               for name in ("one", "other")}
    series = TemperatureSeriesWorkChain.get_builder_from_protocol(
        code, members, {"mode": "sequential"}, protocol="fast")
    assert series.members["one"]["model"]["pattern"]["every"] == 4
    assert series.plan["mode"] == "sequential"
    compare = CompareModelsWorkChain.get_builder_from_protocol(
        code, {"one": model, "other": model}, pattern, {"one": structures, "other": structures},
        protocol="fast")
    assert compare.models["other"]["pattern"]["every"] == 4
    assert CompareModelsWorkChain.spec().inputs.validate(compare._inputs(prune=True)) is None


def test_a_study_is_built_from_its_document(folder, content, code):
    """As 'launch study' does, for those who submit from Python."""
    path = written(folder, content, "again.yaml")
    builder = StudyWorkChain.get_builder_from_protocol(code, path, protocol="fast")
    assert sorted(builder.samples) == ["T120", "T240", "alone"]
    assert builder.samples["T120"]["model"]["pattern"]["every"] == 4
    assert builder.plan["maps"]["map_T120"]["seconds"] > 0
    assert builder.metadata.label == "salts"
    assert StudyWorkChain.spec().inputs.validate(builder._inputs(prune=True)) is None


def test_tiles_of_a_wider_grid_are_those_of_the_narrower_one():
    def tiles(start, stop, n):
        axes = [{"parameter": "salt.a", "start": start, "stop": stop, "step": 0.01}]
        return [tuple(tile["scan"]["axes"][0]["values"]) for tile in tile_documents(
            {"phases": {"salt": {"atoms": "a.xyz"}}, "pattern": {
                "grid": {"start": 1, "stop": 2, "step": 0.1}, "axis": "two_theta",
                "wavelength": 1.0}, "scan": {"axes": axes}}, n, 0)]

    narrow = tiles(4.00, 4.31, 8)
    assert sorted(x for tile in narrow for x in tile) == pytest.approx(
        [4 + 0.01 * k for k in range(32)])
    for wide in (tiles(4.00, 4.39, 10), tiles(3.92, 4.31, 10)):
        assert set(narrow) <= set(wide)


def test_the_python_example_of_the_readme_makes_a_builder(code, monkeypatch):
    """Section "In Python, with AiiDA", but for the profile and the submission itself."""
    root = Path(__file__).parents[2]
    text = (root / "README.md").read_text(encoding="utf-8")
    section = text.partition("## In Python, with AiiDA\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.S)
    submitted = []
    monkeypatch.setattr("aiida.load_profile", lambda: None)
    monkeypatch.setattr("aiida.engine.submit", submitted.append)
    monkeypatch.chdir(root / "examples" / "cspbbr3")
    exec(compile(block, "README.md", "exec"), {})
    (builder,) = submitted
    assert builder.refine.model["tolerance"] == 1e-7 and builder.refine.threads == 2
    assert builder.refine.model["refinement"]["starts"] == 6  # of the protocol 'publication'
    assert builder.refine.metadata.options.max_wallclock_seconds == 3600
    assert RefineWorkChain.spec().inputs.validate(builder._inputs(prune=True)) is None
