"""dse.simultaneous: what is uploaded and refused, and one run from the command line to its outputs."""

from __future__ import annotations

import copy
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from aiida.common.folders import SandboxFolder
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.orm import CalcJobNode, Dict, Node, QueryBuilder, load_node
from aiida.plugins import CalculationFactory, ParserFactory
from click.testing import CliRunner
from numpy.testing import assert_allclose

from aiida_dse.calculations.engine import SimultaneousCalculation
from aiida_dse.cli.main import main
from aiida_dse.data.jobs import nodes_of_simultaneous, simultaneous_job_document
from aiida_dse.documents import load_simultaneous, parse_simultaneous
from aiida_dse.parsers.engine import RefineParser
from aiida_dse.tasks.simultaneous import build_simultaneous
from aiida_dse.workchains.refine import SimultaneousWorkChain


@pytest.fixture(scope="module")
def document(tmp_path_factory, write_case, pattern_text):
    """The path of a simultaneous document: the salt measured twice, its displacements shared."""
    folder = tmp_path_factory.mktemp("simultaneous")
    write_case(folder)
    rows = np.loadtxt(io.StringIO(pattern_text))
    rows[:, 1] += rows[:, 2] * np.random.default_rng(9).normal(size=len(rows))
    rows[:, 2] *= np.sqrt(2)
    np.savetxt(folder / "again.xye", rows, fmt="%.12g")
    path = folder / "global.yaml"
    path.write_text(yaml.safe_dump({
        "schema": "aiida-dse/simultaneous/2", "title": "salt twice", "model": "model.yaml",
        "patterns": {
            "warm": {"pattern": {"file": "salt.xye"}, "sample": {"name": "T1", "temperature": 293}},
            "hot": {"pattern": {"file": "again.xye"},
                    "sample": {"name": "T1", "temperature": 310}},
        },
        "shared": ["salt.*.B_iso"], "refinement": {"stages": [["salt.a", "salt.*.B_iso"]]},
    }))
    return path


@pytest.fixture(scope="module")
def nodes(document):
    read = load_simultaneous(document)
    patterns, common = nodes_of_simultaneous(read, document.parent)
    model = simultaneous_job_document(read, patterns, common.structures, common.blanks)
    return {"model": Dict(model), "patterns": patterns, "structures": common.structures}


def instantiated(inputs):
    runner = get_manager().create_runner(communicator=None)
    return instantiate_process(runner, SimultaneousCalculation, **inputs)


def changed(inputs, **sections):
    return inputs | {"model": Dict(copy.deepcopy(inputs["model"].get_dict()) | sections)}


def test_the_plugins_are_found_by_their_names():
    assert CalculationFactory("dse.simultaneous") is SimultaneousCalculation
    assert ParserFactory("dse.simultaneous") is RefineParser


def test_the_uploaded_document_can_be_built_in_its_folder(nodes, code, tmp_path, document):
    process = instantiated(nodes | {"code": code})
    folder = SandboxFolder(tmp_path)
    (one,) = process.prepare_for_submission(folder).codes_info
    assert one.cmdline_params == ["simultaneous", "model.json", "--output", "results"]
    assert set(folder.get_content_list()) == {
        "model.json", "pattern_warm.xye", "pattern_hot.xye", "salt.cif"}
    uploaded = Path(folder.abspath)
    content = parse_simultaneous(json.loads((uploaded / "model.json").read_text()))
    sent = build_simultaneous(content, uploaded)
    written = build_simultaneous(load_simultaneous(document), document.parent)
    for name, one in sent.patterns.items():
        mine, own = written.patterns[name].model, one.model
        assert_allclose(own.observation.intensity, mine.observation.intensity)
        assert own.start == mine.start
        assert one.document.sample == written.patterns[name].document.sample
    assert sent.model.shared == written.model.shared and sent.stages == written.stages


def test_what_cannot_run_is_refused_before_it_is_stored(nodes, code):
    complete = nodes | {"code": code}
    cases = [
        (complete | {"patterns": {"warm": nodes["patterns"]["warm"]}}, "missing: hot"),
        ({k: v for k, v in complete.items() if k != "structures"}, "structures"),
        ({k: v for k, v in complete.items() if k != "patterns"}, "patterns"),
    ]
    before = QueryBuilder().append(CalcJobNode).count()
    for inputs, message in cases:
        with pytest.raises(ValueError, match=message):
            instantiated(inputs)
    assert QueryBuilder().append(CalcJobNode).count() == before


def test_models_that_cannot_run_have_no_builder(nodes, code):
    complete = nodes | {"code": code}
    cases = [
        (changed(complete, shared=["salt.q"]), "no parameter 'salt.q'"),
        (changed(complete, parametric_constraints={"salt.a": "global.a"}),
         "parametric_constraints.salt.a"),
        (complete | {"patterns": dict.fromkeys(("warm", "hot"), nodes["patterns"]["warm"])},
         "same points"),
    ]
    before = QueryBuilder().append(Node).count()
    for inputs, message in cases:
        with pytest.raises(ValueError, match=message):
            SimultaneousWorkChain.get_builder_from_protocol(**inputs)
    assert QueryBuilder().append(Node).count() == before


@pytest.mark.parametrize("text", ["schema: aiida-dse/model/2", "schema: aiida-dse/simultaneous/2"])
def test_bad_documents_are_refused_at_the_command_line(document, code, tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    done = CliRunner().invoke(main, ["launch", "simultaneous", str(path)])
    assert done.exit_code == 1 and "Nothing was submitted" in done.output


def test_a_dry_run_stores_nothing(document, code):
    before = QueryBuilder().append(Node).count()
    done = CliRunner().invoke(main, ["launch", "simultaneous", str(document), "--dry-run"])
    assert done.exit_code == 0 and "warm: 200 points" in done.output, done.output
    assert QueryBuilder().append(Node).count() == before


def test_a_simultaneous_refinement_from_document_to_figure(document, code, started, case, tmp_path):
    def cli(*arguments):
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    message = cli("launch", "simultaneous", document, "--threads", 1, "--wait")
    node = load_node(int(re.search(r"SimultaneousWorkChain<(\d+)>", message)[1]))
    assert node.process_type == "aiida.workflows:dse.simultaneous" and node.is_finished_ok
    result = node.outputs.result.get_dict()
    # numbers that a query reaches by a path of names
    assert_allclose(result["parameters"]["salt"]["Cs1"]["B_iso"]["value"], case.truth["salt.Cs1.B_iso"], atol=0.3)
    for name in ("warm", "hot"):
        row = result["patterns"][name]["parameters"]["salt"]["a"]
        a, su = row["value"], row["su"]
        assert abs(a - case.truth["salt.a"]) < 5 * su
        crystal = node.outputs.structures[f"{name}_salt"]
        found = float(re.search(r"_cell_length_a\s+([\d.]+)", crystal.get_content())[1])
        assert_allclose(found, a, atol=1e-5)
    query = QueryBuilder().append(Dict, filters={
        "attributes.task": "simultaneous", "attributes.patterns.hot.parameters.salt.a.value": {">": 4.1}})
    assert query.count() == 1
    row = next(x for x in cli("list").splitlines() if x.split()[:1] == [str(node.pk)])
    assert "Simultaneous" in row and "done" in row and "T1" in row and "salt twice" in row
    shown = cli("show", node.pk)
    assert "salt.Cs1.B_iso" in shown and "hot" in shown and "310" in shown
    target = tmp_path / "global.png"
    cli("plot", node.pk, "-o", target)
    assert target.read_bytes().startswith(b"\x89PNG")
