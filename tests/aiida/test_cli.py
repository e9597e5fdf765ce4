"""aiida-dse and verdi data dse: what they print, refuse and leave behind."""

from __future__ import annotations

import copy
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from aiida.manage import get_manager
from aiida.orm import Node, ProcessNode, QueryBuilder, WorkChainNode, load_node
from click.testing import CliRunner
from waiting import patient

from aiida_dse.cli.data import dse
from aiida_dse.cli.main import main
from aiida_dse.data import listing

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cli():
    """A function: exit code and all output of aiida-dse."""
    def run(*arguments):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="module")
def analyses(cli, started, code, write_case, tmp_path_factory, case):
    """PKs of a refinement and a map, launched from documents."""
    folder = tmp_path_factory.mktemp("analyses")
    path = write_case(folder, {"refinement": {"stages": [["salt.a", "salt.*.B_iso"]]}})
    grid = cli("launch", "grid-search", path, "--threads", 1, "--axis", "salt.a=4.104:4.144:0.01",
               "--axis", "salt.Cl_a.B_iso=1.5:3:0.5")
    fit = cli("launch", "refine", path, "--wait")
    assert (grid.exit_code, fit.exit_code) == (0, 0), grid.output + fit.output
    return {
        "refine": re.search(r"RefineWorkChain<(\d+)>", fit.output)[1],
        "grid": re.search(r"GridSearchWorkChain<(\d+)>", grid.output)[1],
        "folder": folder, "output": fit.output,
    }


def counts():
    return tuple(QueryBuilder().append(kind).count() for kind in (ProcessNode, Node))


def test_a_dry_run_reports_and_stores_nothing(cli, started, code, write_case, tmp_path):
    before = counts()
    result = cli("launch", "refine", write_case(tmp_path), "--dry-run")
    assert result.exit_code == 0, result.output
    assert "The document is valid" in result.output
    assert "salt.Cs1.B_iso" in result.output
    assert counts() == before


def test_a_dry_run_needs_no_daemon(cli, code, stopped_daemon_client, write_case, tmp_path):
    result = cli("launch", "refine", write_case(tmp_path), "--dry-run")
    assert result.exit_code == 0, result.output


def test_without_the_daemon_nothing_is_submitted(
    cli, code, stopped_daemon_client, start_anew, write_case, tmp_path
):
    try:
        before = counts()
        result = cli("launch", "refine", write_case(tmp_path))
        assert result.exit_code != 0
        assert f"'aiida-dse -p {stopped_daemon_client.profile.name} doctor --fix'" in result.output
        assert counts() == before
    finally:
        start_anew(stopped_daemon_client)


GRID = [{"parameter": "salt.a", "start": 4.0, "stop": 4.2, "step": 1e-5},
        {"parameter": "salt.Cs1.B_iso", "start": 0.0, "stop": 5.0, "step": 1e-4}]


def _section(**changes):
    def change(document):
        document["pattern"] |= changes
    return change


@pytest.mark.parametrize(
    ("command", "change", "message"),
    [
        ("refine", _section(wavelength=709.3), "709.3"),
        ("refine", _section(wavelength=-1), "pattern.wavelength"),
        ("refine", _section(axis="q_inverse_angstrom"), "1/nm"),
        ("refine", _section(file="missing.xye"), "missing.xye"),
        ("refine", lambda d: d["phases"]["salt"].update(structure="nowhere.cif"), "nowhere.cif"),
        ("refine", lambda d: d.update(parameters={"salt.aa": 4}), "salt.aa"),
        ("refine", lambda d: d["background"].update(chebishev=3), "did you mean 'chebyshev'"),
        ("grid-search", lambda d: None, "scan"),
        ("grid-search", lambda d: d.update(scan={"axes": [GRID[0] | {"parameter": "salt.q"}]}),
         "salt.q"),
        ("grid-search", lambda d: d.update(scan={"axes": GRID}), "limit"),
    ],
    ids=["wavelength", "negative", "q in 1/nm", "no pattern", "no cif", "parameter", "key",
         "no scan", "axis", "10^9 points"],
)
def test_bad_documents_are_refused(
    cli, started, code, write_case, tmp_path, case, command, change, message
):
    import yaml

    document = copy.deepcopy(case.document)
    change(document)
    path = write_case(tmp_path)
    path.write_text(yaml.safe_dump(document))
    before = counts()
    result = cli("launch", command, path)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output
    assert counts() == before


def test_a_cif_without_a_label_is_refused(cli, started, code, write_case, tmp_path, case):
    before = counts()
    path = write_case(tmp_path, cif=case.cif.replace("Cl_a Cl1-", ". Cl1-"))
    result = cli("launch", "refine", path)
    assert result.exit_code != 0
    assert "_atom_site_label" in result.output
    assert counts() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row of numbers"), ("four 5 1\nfive 6 1\n", "row of numbers"),
        ("1 5 1\n2 nan 1\n3 7 1\n", "too few points"), ("1 5 0\n2 6 0\n3 7 0\n4 8 0\n", "sigma"),
    ],
    ids=["empty", "words", "nan", "sigma 0"],
)
def test_an_unreadable_pattern_is_refused(cli, started, code, write_case, tmp_path, text, message):
    before = counts()
    result = cli("launch", "refine", write_case(tmp_path, pattern=text))
    assert result.exit_code != 0
    assert message in result.output
    assert counts() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--axis", "salt.a=4:5"], "START:STOP:STEP"),
        (["--axis", "salt.q=4:5:0.1"], "salt.q"),
        (["--axis", "salt.a=5:4:0.1"], "below start"),
        (["--axis", "salt.a=4:5:0"], "step"),
        (["--axis", "salt.a=4:5:nan"], "step"),
        (["--axis", "salt.a=4:5:1e-9"], "limit"),
        (["--axis", "salt.a=4:4.1:0.01", "--refine", "salt.Xx.B_iso"], "salt.Xx.B_iso"),
        (["--axis", "salt.a=4:4.1:0.01", "--code", "nobody@localhost"], "nobody@localhost"),
        (["--axis", "salt.a=4:4.1:0.01", "--pattern", "99999999"], "99999999"),
        (["--axis", "salt.a=4:4.1:0.01", "--start-from", "99999999"], "99999999"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_bad_options_are_refused(cli, started, code, write_case, tmp_path, options, message):
    before = counts()
    result = cli("launch", "grid-search", write_case(tmp_path), *options)
    assert result.exit_code != 0
    assert message in result.output
    assert counts() == before


def test_refining_without_axes_on_the_command_line_is_not_ignored(
    cli, started, code, write_case, tmp_path, case
):
    """--refine belongs to --axis: alone it must not be dropped without a word."""
    path = write_case(tmp_path, {"scan": case.scan})
    result = cli("launch", "grid-search", path, "--refine", "salt.Xx.B_iso", "--dry-run")
    assert result.exit_code != 0


def test_a_refinement_is_listed_shown_and_plotted(cli, analyses, tmp_path):
    assert "converged" in analyses["output"]
    listed = cli("list").output
    row = next(x for x in listed.splitlines() if x.split()[:1] == [analyses["refine"]])
    assert "Refine" in row and "T1" in row and "293" in row and "done" in row
    shown = cli("show", analyses["refine"])
    assert shown.exit_code == 0
    assert "salt.Cs1.B_iso" in shown.output and "GoF" in shown.output
    target = tmp_path / "fit.png"
    result = cli("plot", analyses["refine"], "-o", target)
    assert result.exit_code == 0, result.output
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_finished_refinement_can_be_inspected_and_is_cleaned(analyses):
    from aiida.cmdline.commands.cmd_calcjob import calcjob_inputcat
    from aiida.tools.visualization import Graph

    node = load_node(int(analyses["refine"]))
    (job,) = node.called
    assert job.outputs.remote_folder.is_cleaned
    document = CliRunner().invoke(calcjob_inputcat, [str(job.pk)])
    assert document.exit_code == 0 and '"aiida-dse/model/2"' in document.output
    refined = node.outputs.structures.salt
    assert refined.get_formulae() == ["Cl Cs"]
    assert refined.get_spacegroup_numbers() == [221] or refined.get_spacegroup_numbers() == ["221"]
    graph = Graph()
    graph.recurse_ancestors(node.outputs.result)
    assert "RefineCalculation" in graph.graphviz.source


def test_the_same_fit_is_computed_once_whatever_its_files_are_called(
    cli, started, code, write_case, tmp_path
):
    """Other names of the files, another title, another number of threads."""
    jobs = []
    for number, (cif, pattern) in enumerate((("CsCl.cif", "salt.xye"), ("a b.cif", "copy.xye")), 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write_case(folder, {"title": f"Attempt {number}", "refinement": {
            "stages": [["salt.a"]], "max_cycles": 43}})
        (folder / "CsCl.cif").rename(folder / cif)
        (folder / "salt.xye").rename(folder / pattern)
        path.write_text(path.read_text().replace("CsCl.cif", cif).replace("salt.xye", pattern))
        result = cli("launch", "refine", path, "--threads", number, "--wait")
        assert result.exit_code == 0, result.output
        chain = load_node(int(re.search(r"RefineWorkChain<(\d+)>", result.output)[1]))
        (job,) = chain.called
        jobs.append(job)
        assert job.label == chain.label == f"Attempt {number}"
    assert [job.base.caching.is_created_from_cache for job in jobs] == [False, True]


def test_an_uncertainty_goes_on_from_a_refinement_and_from_itself(
    cli, analyses, write_case, tmp_path
):
    """Launched, listed, shown, plotted; more samples are added to those there are."""
    def launched(samples, start):
        path = write_case(tmp_path, {
            "refinement": {"stages": [["salt.a", "salt.*.B_iso"]]},
            "uncertainty": {"profile": ["salt.a"], "bootstrap": {"samples": samples}},
        })
        result = cli("launch", "uncertainty", path, "--threads", 1, "--start-from", start, "--wait")
        assert result.exit_code == 0, result.output
        return result.output, re.search(r"UncertaintyWorkChain<(\d+)>", result.output)[1]

    output, first = launched(4, analyses["refine"])
    assert "4 of 4 samples refined" in output and "continuing from" not in output
    output, second = launched(6, first)
    assert f"continuing from the finished parts of {first}" in output
    assert "6 of 6 samples refined" in output
    row = next(x for x in cli("list").output.splitlines() if x.split()[:1] == [second])
    assert "Uncertainty" in row and "done" in row
    assert "profile intervals" in cli("show", second).output
    for what in ("profile", "bootstrap", "fit"):
        target = tmp_path / f"{what}.png"
        assert cli("plot", second, "-o", target, "--what", what).exit_code == 0
        assert target.stat().st_size > 10_000
    refused = cli("plot", second, "-o", tmp_path / "x.png", "--what", "corner")
    assert refused.exit_code and "figures are profile, bootstrap, fit" in refused.output


def test_a_map_is_shown_and_plotted(cli, analyses, finish, tmp_path):
    from aiida.orm import load_node

    node = finish(load_node(int(analyses["grid"])))
    assert node.is_finished_ok, node.exit_message
    shown = cli("show", analyses["grid"])
    assert "lowest GoF" in shown.output
    target = tmp_path / "map.png"
    result = cli("plot", analyses["grid"], "-o", target)
    assert result.exit_code == 0, result.output
    assert target.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["fit.xyz", "no/such/folder/fit.png"])
def test_a_figure_that_cannot_be_written_is_reported(cli, analyses, tmp_path, name):
    result = cli("plot", analyses["refine"], "-o", tmp_path / name)
    assert result.exit_code != 0
    assert "cannot be written" in result.output


@pytest.mark.parametrize("command", ["show", "plot"])
def test_a_node_that_is_no_analysis_is_refused(cli, analyses, command, tmp_path):
    from aiida.orm import Int

    more = ["-o", tmp_path / "x.png"] if command == "plot" else []
    number = Int(1).store()
    for pk, message in ((999999, "there is no node"), ("zzz", "there is no node"),
                     (number.pk, "not an analysis")):
        result = cli(command, pk, *more)
        assert result.exit_code != 0
        assert message in result.output


def test_the_same_data_enter_the_database_once(analyses):
    from aiida.orm import load_node

    fit, grid = (load_node(int(analyses[name])) for name in ("refine", "grid"))
    assert fit.inputs.refine.pattern.pk == grid.inputs.scan.pattern.pk
    assert fit.inputs.refine.structures.salt.pk == grid.inputs.scan.structures.salt.pk


def test_a_map_starts_from_a_refinement(cli, analyses, finish):
    from aiida.orm import load_node

    finish(load_node(int(analyses["grid"])))
    before = counts()
    result = cli("launch", "grid-search", analyses["folder"] / "model.yaml", "--dry-run",
                 "--start-from", analyses["refine"], "--axis", "salt.a=4.1:4.14:0.01")
    assert result.exit_code == 0, result.output
    start = float(re.search(r"salt\.Cs1\.B_iso\s+(\S+)", result.output)[1])
    assert start == pytest.approx(1.9, abs=0.4) and start != 1.5
    assert counts() == before


def test_a_refused_start_from_leaves_nothing(cli, analyses, finish):
    """The document has no 'scan': 'Nothing was submitted' must also mean that nothing is stored."""
    from aiida.orm import load_node

    finish(load_node(int(analyses["grid"])))
    before = counts()
    result = cli("launch", "grid-search", analyses["folder"] / "model.yaml",
                 "--start-from", analyses["refine"])
    assert result.exit_code != 0
    assert counts() == before


def test_a_finished_refinement_can_be_archived(analyses, tmp_path):
    target = tmp_path / "fit.aiida"
    done = subprocess.run(
        [BIN / "verdi", "archive", "create", "-N", analyses["refine"], "--", target],
        capture_output=True, text=True, timeout=patient(60), check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert target.stat().st_size > 1000


# --- verdi data dse pattern -------------------------------------------------------------------


def data(*arguments):
    return CliRunner().invoke(dse, ["pattern", *[str(a) for a in arguments]])


def test_a_pattern_is_imported_listed_shown_and_exported(write_case, tmp_path):
    write_case(tmp_path)
    imported = data(
        "import", tmp_path / "salt.xye", "--axis", "two_theta", "--wavelength", 0.7093,
        "--sigma", "column", "--sample", "cli sample", "--temperature", 77, "--tag", "run=8",
    )
    assert imported.exit_code == 0, imported.output
    pk = re.search(r"PatternData<(\d+)>", imported.output)[1]
    row = next(x for x in data("list").output.splitlines() if x.split()[:1] == [pk])
    assert "cli sample" in row and "77" in row and "salt.xye" in row
    shown = data("show", pk).output
    assert re.search(r"wavelength\s+0.7093", shown) and "run" in shown
    target = tmp_path / "out.xye"
    assert data("export", pk, "-o", target).exit_code == 0
    np.testing.assert_array_equal(
        np.loadtxt(target), np.loadtxt(tmp_path / "salt.xye")
    )
    # what is exported says its axis and wavelength: it can be imported without options
    again = data("import", target)
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "axis"), (["--axis", "two_theta"], "wavelength"),
        (["--axis", "two_theta", "--wavelength", "0.7", "--range", "90", "99"], "range"),
        (["--axis", "q_inverse_angstrom", "--wavelength", "0.7"], "1/nm"),
    ],
)
def test_a_pattern_of_unknown_meaning_is_not_imported(write_case, tmp_path, options, message):
    write_case(tmp_path)
    before = counts()
    result = data("import", tmp_path / "salt.xye", *options)
    assert result.exit_code != 0
    assert message in result.output
    assert counts() == before


def test_a_pattern_file_that_is_missing_is_reported(tmp_path):
    result = data("import", tmp_path / "nowhere.xye", "--axis", "two_theta")
    assert result.exit_code != 0
    assert "nowhere.xye" in result.output


# --- aiida-dse setup, in a folder of its own --------------------------------------------------


@pytest.mark.slow
def test_setup_is_idempotent_and_reports_what_it_created(tmp_path):
    environment = os.environ | {"AIIDA_PATH": str(tmp_path)}

    def run(*arguments):
        return subprocess.run(
            [BIN / "aiida-dse", *arguments], env=environment, capture_output=True, text=True,
            timeout=patient(300), check=False,
        )

    nothing = run("list")
    assert nothing.returncode != 0
    assert "aiida-dse setup" in nothing.stderr
    first = run("setup", "--no-daemon")
    assert first.returncode == 0, first.stderr
    assert "profile 'dse' was created" in first.stdout and "self-test" in first.stdout
    second = run("setup", "--no-daemon")
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("already exists") == 3
    # AiiDA's 2 s end 'verdi daemon restart' between stop and start
    assert '"daemon.timeout": 60' in (tmp_path / ".aiida" / "config.json").read_text()
    listed = run("list")
    assert listed.returncode == 0 and "There are no analyses yet" in listed.stdout


def test_models_are_compared_from_documents(cli, started, code, write_case, tmp_path, case):
    """Two documents of one pattern are ranked and drawn; of two patterns they are refused."""
    import yaml

    stages = {"refinement": {"stages": [["salt.a", "salt.*.B_iso"]]}}
    full = write_case(tmp_path, stages)
    stiff = tmp_path / "stiff.yaml"
    stiff.write_text(yaml.safe_dump(
        case.document | {"refinement": {"stages": [["salt.a"]]}, "parameters": {"salt.Cs1.B_iso": 9.0}}
    ))
    message = cli("launch", "compare", full, stiff, "--wait")
    assert message.exit_code == 0, message.output
    assert message.output.index("\nmodel ") < message.output.rindex("model ")
    pk = re.search(r"CompareModelsWorkChain<(\d+)>", message.output)[1]
    assert re.search(rf"^ *{pk} .*CompareModels.*done", cli("list").output, re.M)
    figure = tmp_path / "compare.png"
    assert cli("plot", pk, "-o", figure).exit_code == 0
    assert figure.stat().st_size > 10_000
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(
        case.document | {"sample": {"name": "another"}} | stages
    ))
    before = counts()
    refused = cli("launch", "compare", full, other)
    assert refused.exit_code != 0 and "do not have the same pattern" in refused.output
    refused = cli("launch", "compare", full)
    assert refused.exit_code != 0 and "at least two documents" in refused.output
    assert counts() == before


def test_finished_refinements_are_analysed_together(cli, analyses, tmp_path):
    """The analysis is stored, listed, shown and drawn like every other."""
    options = tmp_path / "options.yaml"
    options.write_text("reference: cold\nparameter: salt.Cs1.B_iso\n", encoding="utf-8")
    pk = analyses["refine"]
    done = cli("analyse", "differential", f"cold={pk}", f"hot={pk}", "--options", options)
    assert done.exit_code == 0, done.output
    made = re.search(r"stored as node (\d+)", done.output)[1]
    node = load_node(int(made))
    assert node.process_type == "aiida.calculations:dse.analysis.differential"
    assert {link.link_label for link in node.base.links.get_incoming()} == {
        "options", "cold_result", "cold_arrays", "hot_result", "hot_arrays"}
    assert re.search(rf"^ *{made} ", cli("list").output, re.M)
    assert "hot" in cli("show", made).output
    assert cli("plot", made, "-o", tmp_path / "figure.png").exit_code == 0


@pytest.mark.parametrize(("sources", "options", "message"), [
    (("a={refine}", "a={refine}"), "reference: a", "only 1 different names (a)"),
    (("a b={refine}", "{refine}"), "reference: a", "'a b' is not a valid name"),
    (("a={refine}", "b={grid}"), "reference: a", "not a refinement or a simulation"),
    (("a={refine}", "b={refine}"), "reference: c", "'c' is not one of the results"),
    (("a={refine}", "b={refine}"), "baseline: a", "options.baseline: unknown key"),
    (("a={refine}", "b=0"), "reference: a", "no node '0'"),
])
def test_an_analysis_that_cannot_be_computed_is_refused_and_stores_nothing(
    cli, analyses, tmp_path, sources, options, message
):
    (tmp_path / "options.yaml").write_text(options, encoding="utf-8")
    before = counts()
    done = cli("analyse", "differential", *(one.format(**analyses) for one in sources), "--options",
               tmp_path / "options.yaml")
    assert done.exit_code != 0 and message in done.output, done.output
    assert counts() == before


def test_the_database_file_and_aiida_list_the_same(cli, analyses):
    """Refinements, maps and analyses of results, with the same values from both."""
    profile = get_manager().get_profile()
    assert profile.storage_backend == "core.sqlite_dos"
    database = Path(profile.storage_config["filepath"]) / "database.sqlite"
    quick, _ = listing._from_file(database, 100)
    slow = listing._from_aiida(100)
    assert quick == slow
    assert {"RefineWorkChain", "GridSearchWorkChain"} <= {one.label for one in quick}
    assert any(one.gof for one in quick) and any(one.minimum for one in quick)
    assert [one.pk for one in listing._from_file(database, 2)[0]] == [one.pk for one in slow[:2]]
    # tables of another version are left to AiiDA
    copied = database.with_name("copied.sqlite")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copied)) as copy_:
        source.backup(copy_)
        copy_.execute("UPDATE alembic_version SET version_num = 'main_0003'")
        copy_.commit()
    with pytest.raises(ValueError, match="another version"):
        listing._from_file(copied, 2)
    copied.unlink()


def test_a_list_knows_whether_a_process_is_unfinished(cli, analyses):
    profile = get_manager().get_profile()
    before = listing.newest_analyses(profile, 1)[1]
    node = WorkChainNode()
    node.set_process_state("waiting")
    node.store()
    assert listing.newest_analyses(profile, 1)[1]
    node.set_process_state("killed")
    assert listing.newest_analyses(profile, 1)[1] == before
