"""Results found, explained and shared: query, trace, archives, groups."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
from aiida.orm import Dict, Group, Node, QueryBuilder, load_node
from aiida.tools import delete_nodes
from click.testing import CliRunner
from waiting import patient

from aiida_dse.cli import finding
from aiida_dse.cli.main import main
from aiida_dse.data.archives import opened_archive, read_archive, write_archive
from aiida_dse.data.grouping import group_label, put_into_group
from aiida_dse.data.query import condition, find, find_rows, number_range, paths_of
from aiida_dse.data.results import summary_from_node, summary_node
from aiida_dse.data.roles import RIVAL, set_role


@pytest.fixture(scope="module")
def cli():
    def run(*arguments):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="module")
def analyses(cli, started, code, write_case, tmp_path_factory, finish, long_maps):
    """A refinement at 77 K and a map at 293 K that starts from it; PKs."""
    folder = tmp_path_factory.mktemp("finding")
    path = write_case(folder, {
        "refinement": {"stages": [["salt.a", "salt.*.B_iso"]]},
        "derived": {"salt": {"distances": [["Cs1", "Cl_a"]]}},
        "sample": {"name": "F1", "ligand": "DDAB", "state": "colloid", "temperature": 77.0,
                   "tags": {"run": 7, "batch": "b"}},
    })
    fit = cli("launch", "refine", path, "--wait")
    assert fit.exit_code == 0, fit.output
    pk = int(re.search(r"RefineWorkChain<(\d+)>", fit.output)[1])
    path = write_case(folder, {"sample": {"name": "F2", "ligand": "oleate", "temperature": 293.0}})
    with long_maps():
        grid = cli("launch", "grid-search", path, "--threads", 1, "--start-from", pk, "--yes",
                   "--axis", "salt.a=4.104:4.144:0.01", "--axis", "salt.Cl_a.B_iso=1.5:3:0.5")
    assert grid.exit_code == 0, grid.output
    map_pk = int(re.search(r"GridSearchWorkChain<(\d+)>", grid.output)[1])
    assert finish(load_node(map_pk)).is_finished_ok
    return {"refine": pk, "grid": map_pk, "result": load_node(pk).outputs.result.pk,
            "map": load_node(map_pk).outputs.result.pk}


def pks(**options):
    return {row["pk"] for row in find_rows(**options)}


# --- the words of a query, without a database ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("CsPbBr3.a>8.2", ("CsPbBr3.a", {">": 8.2})), ("gof <= 2", ("gof", {"<=": 2.0})),
        ("x.Pb1.B_iso!=1e-3", ("x.Pb1.B_iso", {"!==": 1e-3})),
        ("x.L=5:8", ("x.L", {">=": 5.0, "<=": 8.0})), ("x.L=:8", ("x.L", {"<=": 8.0})),
        ("temperature=77", ("temperature", {">=": 77.0, "<=": 77.0})),
    ],
)
def test_conditions_are_read(text, meaning):
    assert condition(text) == meaning


@pytest.mark.parametrize(
    ("text", "message"),
    [("a>1", "neither a column"), ("salt.a", "condition"), ("salt.a>>1", "not a number"),
     ("salt.a=8:5", "empty"), ("salt.a=:", "range"), ("__import__('os')>1", "neither a column"),
     ("sample=3", "is not numerical"), ("salt.a<x", "not a number"), ("x.su.su.>1", "neither")],
)
def test_what_is_no_condition_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        condition(text)


def test_a_range_may_be_open():
    assert number_range("10:") == {">=": 10.0}
    with pytest.raises(ValueError, match="not a valid range"):
        number_range("warm")


def test_names_reach_parameters_sizes_derived_quantities_and_uncertainties():
    # the second is where version 0.1 kept it
    assert paths_of("p.Pb1.B_iso") == (
        "attributes.parameters.p.Pb1.B_iso.value", "attributes.values.p.Pb1.B")
    assert "attributes.derived.p.quantities.zeta.value" in paths_of("p.zeta")
    assert "attributes.derived.p.sizes.L_c" in paths_of("p.L_c")
    assert paths_of("p.Pb1.B_iso.su") == (
        "attributes.parameters.p.Pb1.B_iso.su", "attributes.su.p.Pb1.B")


# --- queries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"sample": "F1"}, {"ligand": "DDAB", "temperature": ":100", "max_gof": 2.0,
                           "space_group": "Pm-3m"},
        {"temperature": "70:80", "sample": "F1"}, {"sample": "F1", "state": "colloid"},
        {"sample": "F1", "phase": "salt", "space_group": "P m -3 m"}, {"tags": ["batch=b"]},
        {"tags": ["run=7", "batch"]}, {"sample": "F1", "where": ["salt.a=4.11:4.14", "r_wp<0.9"]},
        {"sample": "F1", "where": ["salt.L_a=1.6:1.7"]},
        {"sample": "F1", "where": ["salt.volume<71"]},
        {"sample": "F1", "task": "refine", "status": "converged"}, {"group": "dse/sample/F1"},
    ],
    ids=str,
)
def test_a_refinement_is_found(analyses, options):
    assert pks(**options) == {analyses["result"]}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": "78:"}, {"where": ["salt.a>4.2"]}, {"phase": "pepper"}, {"ligand": "ddab"},
        {"space_group": "Pbnm"}, {"tags": ["run=8"]}, {"tags": ["night"]}, {"max_gof": 1e-3},
        {"where": ["salt.volume>71"]}, {"where": ["salt.D>0"]}, {"group": "dse/sample/F2"},
        {"status": "not_converged"}, {"where": ["pepper.a>0"]}, {"phase": "pepper",
                                                                  "space_group": "Pm-3m"},
    ],
    ids=str,
)
def test_a_refinement_that_does_not_fit_is_not_found(analyses, options):
    assert analyses["result"] not in pks(**options)


def test_a_map_is_found_by_its_minimum_and_not_by_where_it_began(analyses):
    lowest = load_node(analyses["map"])["minimum"]
    start = load_node(analyses["map"])["parameters"]["salt"]["Cl_a"]["B_iso"]["start"]
    row = find_rows(sample="F2", show=["salt.Cl_a.B_iso"])[0]
    assert row["pk"] == analyses["map"] and row["gof"] == lowest["gof"]
    assert row["salt.Cl_a.B_iso"] == lowest["salt.Cl_a.B_iso"] != start
    assert analyses["map"] in pks(max_gof=lowest["gof"] + 1e-6, sample="F2")
    assert not pks(max_gof=lowest["gof"] - 1e-6, sample="F2")


def test_tiles_are_shown_on_demand_only(analyses):
    assert pks(sample="F2") == {analyses["map"]}
    assert len(pks(sample="F2", parts=True)) > 2


def test_columns_hold_the_numbers_of_the_result(analyses):
    result = load_node(analyses["result"])
    row = find_rows(sample="F1", show=["salt.Cs1.B_iso", "salt.Cs1.B_iso.su", "salt.d(Cs1-Cl_a)_1",
                                       "space_groups", "tags"])[0]
    cs = result["parameters"]["salt"]["Cs1"]["B_iso"]
    assert (row["salt.Cs1.B_iso"], row["salt.Cs1.B_iso.su"]) == (cs["value"], cs["su"])
    distance = result["derived"]["salt"]["quantities"]["d(Cs1-Cl_a)_1"]["value"]
    assert row["salt.d(Cs1-Cl_a)_1"] == distance
    assert row["salt.d(Cs1-Cl_a)_1"] == pytest.approx(4.123 * 3**0.5 / 2, abs=0.01)
    assert row["space_groups"] == ["Pm-3m"] and row["tags"] == {"run": 7, "batch": "b"}


def test_results_are_found_by_shape_and_disorder(analyses):
    result = load_node(analyses["result"])
    assert find_rows(sample="F1", show=["shapes", "disorder"])[0]["shapes"] == ["parallelepiped"]
    other = summary_from_node(result).model_copy(update={
        "shapes": ["octahedron", "sphere"], "disorder_models": ["boundaries", "displacements"]})
    node = summary_node(other).store()
    try:
        for asked in ({"shape": "sphere"}, {"shape": "octahedron"}, {"disorder": "boundaries"}):
            assert pks(**asked) == {node.pk}
        assert analyses["result"] in pks(shape="parallelepiped") and node.pk not in pks(shape="parallelepiped")
        assert analyses["result"] in pks(shape="parallelepiped", phase="salt")
        assert not pks(disorder="split") and not pks(disorder="boundaries", shape="parallelepiped")
        output = CliRunner().invoke(main, ["query", "--shape", "sphere", "--show", "disorder"]).output
        assert "boundaries, displacements" in output
    finally:
        delete_nodes([node.pk], dry_run=False)


def test_rows_are_sorted_and_limited(analyses):
    by_temperature = find_rows(phase="salt", where=["temperature>0"], sort="temperature")
    temperatures = [row["temperature"] for row in by_temperature]
    assert temperatures == sorted(temperatures) and len(set(temperatures)) > 1
    assert find_rows(where=["temperature>0"], sort="-temperature", limit=1)[0]["temperature"] == \
        temperatures[-1]


def test_a_query_is_three_statements_and_makes_no_node(analyses, monkeypatch):
    from aiida.manage import get_manager
    from sqlalchemy import event

    def refuse(*arguments, **options):
        raise AssertionError("a node was loaded")

    statements = []
    engine = get_manager().get_profile_storage().get_session().get_bind()
    listen = (engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    monkeypatch.setattr(Node, "initialize", refuse)
    monkeypatch.setattr(Node, "__init__", refuse)
    event.listen(*listen)
    try:
        rows = find_rows(phase="salt", where=["salt.a>4"], show=["salt.Cs1.B_iso"])
    finally:
        event.remove(*listen)
    assert rows
    selects = [text for text in statements if text.lstrip().upper().startswith("SELECT")]
    assert len(selects) == 3, selects
    with pytest.raises(AssertionError, match="a node was loaded"):  # the trap works
        load_node(analyses["result"])


def test_many_results_are_searched_quickly(analyses):
    """Three hundred further results: filtered by the database, not by us."""
    from aiida.manage import get_manager

    content = load_node(analyses["result"]).get_dict()
    with get_manager().get_profile_storage().transaction():
        for k in range(300):
            sample = {"name": "many", "temperature": float(k)}
            Dict(content | {"sample": sample}).store()
    begin = time.monotonic()
    assert len(find_rows(sample="many", temperature="100:109")) == 10
    assert time.monotonic() - begin < patient(2)


def test_find_returns_a_data_frame(analyses):
    frame = find(sample="F1", show=["salt.a"])
    assert frame["salt.a"].iloc[0] == pytest.approx(4.123, abs=0.01)
    assert frame.loc[0, "temperature"] == 77
    nothing = find(sample="nobody", where=["salt.a>4"])
    assert len(nothing) == 0 and "salt.a" in nothing and "gof" in nothing


def test_query_prints_a_table_csv_and_json(cli, analyses):
    table = cli("query", "--sample", "F1", "--show", "salt.a").output
    assert table.split("\n")[0].split()[-1] == "salt.a" and "DDAB" in table
    (row,) = csv.DictReader(io.StringIO(
        cli("query", "--sample", "F1", "--show", "salt.a", "--csv").output))
    (same,) = json.loads(cli("query", "--sample", "F1", "--show", "salt.a", "--json").output)
    assert float(row["salt.a"]) == same["salt.a"]
    assert same["salt.a"] == load_node(analyses["result"])["parameters"]["salt"]["a"]["value"]
    assert "No result matches" in cli("query", "--sample", "nobody").output
    assert json.loads(cli("query", "--sample", "nobody", "--json").output) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--where", "a>1"], "neither a column"), (["--temperature", "cold"], "not a valid range"),
     (["--show", "nothing"], "neither a column"), (["--sort", "+gof"], "neither a column"),
     (["--tag", "a.b=1"], "not a valid tag")],
)
def test_query_refuses_what_it_does_not_understand(cli, options, message):
    result = cli("query", *options)
    assert result.exit_code == 1 and message in result.output


def test_every_submission_is_in_the_group_of_its_sample(cli, analyses):
    members = {node.pk for node in Group.collection.get(label="dse/sample/F1").nodes}
    assert members == {analyses["refine"]}


def test_groups_have_predictable_names():
    node = Dict({}).store()
    assert put_into_group("study", " one  study\n", [node]) == "dse/study/one study"
    assert put_into_group("study", "one study", [node]) == "dse/study/one study"
    assert [n.pk for n in Group.collection.get(label="dse/study/one study").nodes] == [node.pk]
    for kind, name in (("studies", "x"), ("study", "  "), ("study", "x" * 250)):
        with pytest.raises(ValueError):
            group_label(kind, name)


# --- trace ----------------------------------------------------------------------------------------


def rows_of(row):
    yield row
    for source in row.get("from", []):
        yield from rows_of(source)


def test_a_map_is_traced_to_files_versions_and_the_refinement_it_began_from(cli, analyses, case):
    import aiida_dse

    printed = cli("trace", analyses["grid"], "--json")
    assert printed.exit_code == 0, printed.output
    rows = list(rows_of(json.loads(printed.output)))
    by_kind = {row["kind"]: row for row in rows if not row.get("again")}
    pattern = load_node(analyses["refine"]).inputs.refine.pattern
    assert by_kind["PatternData"]["facts"]["source_sha256"] == \
        pattern.base.attributes.get("source_sha256")
    assert by_kind["CifData"]["facts"]["sha256"] == hashlib.sha256(case.cif.encode()).hexdigest()
    assert {"merge_tiles", "cut_grid", "continued_model", "ScanCalculation"} <= by_kind.keys()
    # the model began at the values of the refinement, whose own way back follows
    refined = next(row for row in rows if row["pk"] == analyses["result"])
    assert refined["role"] == "result" and refined["from"][0]["kind"] == "RefineCalculation"
    assert refined["facts"]["engine_version"] == aiida_dse.__version__
    assert "numba" in refined["facts"]["libraries"]
    assert "Waasmaier" in refined["facts"]["form_factor_tables"]["f0"]
    assert re.fullmatch(r"XrayDB \d.*", refined["facts"]["form_factor_tables"]["file"])
    scan = by_kind["ScanCalculation"]["facts"]
    assert scan["computer"] == "localhost" and scan["scheduler_job"]
    assert f"GridSearchWorkChain<{analyses['grid']}>" in scan["called_by"]
    assert by_kind["InstalledCode"]["facts"]["executable"].endswith("dse-engine")


def test_a_refined_structure_is_traced_as_a_tree(cli, analyses):
    node = load_node(analyses["refine"]).outputs.structures.salt
    message = cli("trace", node.pk).output
    assert message.startswith(f"CifData<{node.pk}>")
    assert "made by: RefineCalculation<" in message and "source_sha256" in message
    assert cli("trace", 999999).exit_code == 1


def test_names_from_elsewhere_cannot_control_the_terminal(cli, analyses):
    node, result = load_node(analyses["refine"]), load_node(analyses["result"])
    hostile = "\x1b]0;owned\x07\x1b[31m\u202ered\r\n2"
    labels = node.label, result.label
    try:
        node.label = result.label = hostile
        node.description = hostile
        for arguments in (["list"], ["query"], ["show", node.pk], ["trace", result.pk], ["watch", node.pk],
                          ["query", "--csv"], ["query", "--json"]):
            output = cli(*arguments).output
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", output), arguments
    finally:
        node.label, result.label = labels


@pytest.mark.parametrize(("value", "cell"), [
    ("=1+2", "'=1+2"), ("@SUM(A1)", "'@SUM(A1)"), ("+x", "'+x"), ("-x", "'-x"), ("\tx", "'\ufffdx"),
    ("QD5", "QD5"), (-0.5, -0.5), (None, None), ([1], "[1]"),
])
def test_no_cell_of_a_table_is_a_formula(value, cell):
    assert finding._csv_cell(value) == cell


# --- archives -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(cli, analyses, tmp_path_factory):
    """The map, with the refinement that it began from, as a file."""
    target = tmp_path_factory.mktemp("archive") / "study.aiida"
    result = cli("export", "--sample", "F2", "-o", target)
    assert result.exit_code == 0, result.output
    return target


def content(node):
    """Attributes, repository and, of arrays, values: all that must survive."""
    files = {str(folder / name): node.base.repository.get_object_content(folder / name, mode="rb")
             for folder, _, names in node.base.repository.walk() for name in names}
    attributes = {k: v for k, v in node.base.attributes.all.items() if k != "checkpoints"}
    return node.node_type, node.label, attributes, files


def contents(uuids=None):
    filters = {} if uuids is None else {"uuid": {"in": sorted(uuids)}}
    return {node.uuid: content(node)
            for node in QueryBuilder().append(Node, filters=filters).all(flat=True)}


def test_an_archive_is_looked_into_without_import_and_stays_as_it_is(
    cli, own_storage, analyses, archive, tmp_path
):
    from aiida.manage import get_manager

    before = hashlib.sha256(archive.read_bytes()).hexdigest()
    profile = get_manager().get_profile()
    rows = json.loads(cli("query", "--archive", archive, "--json").output)
    assert {row["sample"] for row in rows} == {"F1", "F2"}
    pk = next(row["pk"] for row in rows if row["task"] == "scan")
    assert "GridSearch" in cli("list", "--archive", archive).output
    assert "lowest GoF" in cli("show", pk, "--archive", archive).output
    assert "continued_model" in cli("trace", pk, "--archive", archive).output
    figure = tmp_path / "map.png"
    drawn = cli("plot", pk, "--archive", archive, "-o", figure)
    assert drawn.exit_code == 0 and figure.read_bytes().startswith(b"\x89PNG")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == before
    assert get_manager().get_profile() is profile
    assert pks(sample="F1") == {analyses["result"]}  # of the profile again


def test_an_archive_holds_no_way_to_log_in(own_storage, archive):
    from aiida.orm import AuthInfo

    with opened_archive(archive):
        assert QueryBuilder().append(AuthInfo).count() == 0


@pytest.mark.parametrize("text", [None, b"", b"no archive"], ids=["missing", "empty", "words"])
def test_a_file_that_is_no_archive_is_refused(cli, own_storage, tmp_path, text):
    file = tmp_path / "x.aiida"
    if text is not None:
        file.write_bytes(text)
    for arguments in (["query", "--archive", file], ["import", file]):
        result = cli(*arguments)
        assert result.exit_code == 1 and "x.aiida" in result.output
    assert file.exists() == (text is not None)
    assert find_rows(limit=1) is not None  # the profile is back


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "Specify PKs, or filters"), (["--sample", "nobody"], "nothing to export"),
     (["999999"], "no node")],
)
def test_an_export_of_nothing_is_refused(cli, analyses, tmp_path, options, message):
    target = tmp_path / "x.aiida"
    result = cli("export", *options, "-o", target)
    assert result.exit_code != 0 and message in result.output and not target.exists()


def test_an_export_does_not_overwrite(cli, analyses, archive):
    before = archive.read_bytes()
    result = cli("export", analyses["refine"], "-o", archive)
    assert result.exit_code == 1 and "exists" in result.output
    assert archive.read_bytes() == before


def test_the_group_of_a_sample_goes_along(cli, own_storage, analyses, tmp_path):
    target = tmp_path / "group.aiida"
    assert cli("export", "--group", "dse/sample/F1", "-o", target).exit_code == 0
    with opened_archive(target):
        (label,) = QueryBuilder().append(Group, project="label").first()
        assert label == "dse/sample/F1"
        assert len(find_rows(group=label)) == 1


def _round_trip(cli, archive, analyses, folder):
    """Import into the loaded, empty profile; everything is as in the archive, figures redraw."""
    uuids = {analyses[key] for key in ("result_uuid", "map_uuid")}
    assert not find_rows()
    first = cli("import", archive)
    assert first.exit_code == 0 and "were imported" in first.output, first.output
    assert {row["uuid"] for row in find_rows(show=["uuid"])} == uuids
    assert "nothing new" in cli("import", archive).output
    for name in ("result", "map"):
        figure = folder / f"{name}.png"
        drawn = cli("plot", analyses[f"{name}_uuid"], "-o", figure)
        assert drawn.exit_code == 0, drawn.output
        assert figure.read_bytes().startswith(b"\x89PNG")
    return contents()


@pytest.fixture
def original(own_storage, analyses, archive):
    """What the first profile holds of the archive's nodes, and the uuids of the results."""
    with opened_archive(archive):
        uuids = set(QueryBuilder().append(Node, project="uuid").all(flat=True))
    known = {f"{name}_uuid": load_node(analyses[name]).uuid for name in ("result", "map")}
    arrays = load_node(analyses["grid"]).outputs.map
    assert arrays.uuid in uuids
    return contents(uuids), known


def _same(one, other):
    assert one.keys() == other.keys()
    for uuid, (kind, label, attributes, files) in one.items():
        assert (kind, label, attributes, files) == other[uuid], kind


def test_a_second_profile_holds_the_same_after_import(
    cli, original, archive, aiida_config, aiida_profile_factory, tmp_path
):
    with aiida_profile_factory(aiida_config, storage_backend="core.sqlite_dos"):
        imported = _round_trip(cli, archive, original[1], tmp_path)
        values = load_node(original[1]["map_uuid"]).creator.outputs.map.get_array("gof")
        assert np.isfinite(values).all()
    _same(original[0], imported)


def test_postgresql_holds_the_same_after_import(
    cli, original, archive, aiida_config, aiida_profile_factory, tmp_path
):
    with _database() as name, aiida_profile_factory(
        aiida_config, storage_backend="core.psql_dos",
        storage_config={"database_name": name, "database_username": name,
                        "database_password": name, "database_hostname": "localhost",
                        "database_port": 5432,
                        "repository_uri": f"file://{tmp_path / 'repository'}"},
    ):
        imported = _round_trip(cli, archive, original[1], tmp_path)
        found = find_rows(space_group="Pm-3m", temperature=":100", tags=["run=7"],
                          where=["salt.a>4", "salt.L_a=1:2"], show=["salt.a.su"])
        assert [row["sample"] for row in found] == ["F1"]
    _same(original[0], imported)


class _database:
    """A PostgreSQL role and database for one test; skips where none can be made."""

    name = "dse_round_trip"

    def _run(self, sql):
        command = ["psql", "-v", "ON_ERROR_STOP=1", "-qtA", "-d", "postgres", "-c", sql]
        if os.geteuid() == 0 and shutil.which("runuser"):
            command = ["runuser", "-u", "postgres", "--", *command]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=patient(30),
                                  check=False, cwd="/")
        except (OSError, subprocess.TimeoutExpired) as problem:
            pytest.skip(f"no PostgreSQL client: {problem}")

    def __enter__(self):
        asked = self._run("select 1")
        if asked.returncode:
            pytest.skip(f"no PostgreSQL on the local socket: {asked.stderr.strip()[:200]}")
        self._drop()
        for sql in (f"create role {self.name} login password '{self.name}'",
                    f"create database {self.name} owner {self.name} lc_collate 'C.UTF-8' "
                    "lc_ctype 'C.UTF-8' template template0"):
            made = self._run(sql)
            if made.returncode:
                self._drop()
                pytest.skip(f"no database could be made: {made.stderr.strip()[:200]}")
        return self.name

    def __exit__(self, *problem):
        self._drop()

    def _drop(self):
        self._run(f"drop database if exists {self.name} with (force)")
        self._run(f"drop role if exists {self.name}")


def test_python_functions_write_and_read_archives(analyses, tmp_path):
    target = tmp_path / "python.aiida"
    write_archive([load_node(analyses["result"])], target)
    assert target.stat().st_size > 1000 and read_archive(target).nodes == 0


def test_the_latest_result_of_a_sample_is_not_a_rival_model(analyses):
    from aiida.tools import delete_nodes

    original = load_node(analyses["result"])
    newer, rival = (Dict(original.get_dict()).store() for _ in range(2))
    try:
        set_role(rival, RIVAL, load_node(analyses["refine"]))
        rows = find_rows(sample="F1", show=["part_of"])
        assert [row["role"] for row in rows if row["pk"] == rival.pk] == ["rival"]
        assert {row["part_of"] for row in rows} == {None, load_node(analyses["refine"]).label}
        (row,) = find_rows(sample="F1", latest=True)
        assert row["pk"] == newer.pk
        assert {row["sample"] for row in find_rows(latest=True)} >= {"F1", "F2"}
    finally:
        delete_nodes([newer.pk, rival.pk], dry_run=False)


def test_an_import_joins_the_group_of_the_sample(
    cli, own_storage, analyses, aiida_config, aiida_profile_factory, tmp_path
):
    archive = tmp_path / "group.aiida"
    assert cli("export", "--group", "dse/sample/F1", "-o", archive).exit_code == 0
    uuid = load_node(analyses["refine"]).uuid
    with aiida_profile_factory(aiida_config, storage_backend="core.sqlite_dos"):
        mine = Dict({}).store()
        put_into_group("sample", "F1", [mine])
        assert cli("import", archive).exit_code == 0
        (label,) = QueryBuilder().append(
            Group, filters={"label": {"like": "dse/%"}}, project="label").all(flat=True)
        assert label == "dse/sample/F1"
        group = Group.collection.get(label=label)
        assert {node.uuid for node in group.nodes} >= {uuid, mine.uuid}
        # archives leave the hashes out: without them the cache would find nothing
        job = load_node(uuid).called[0]
        assert job.base.caching.get_hash() and job.base.caching.get_hash() == \
            job.base.caching.compute_hash()
