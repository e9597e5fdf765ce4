"""Results whose numbers or arrays were changed after they were computed are neither read nor reused."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from aiida.orm import Dict, SinglefileData, load_node
from click.testing import CliRunner

from aiida_dse.calculations.engine import ScanCalculation
from aiida_dse.calculations.series import _results
from aiida_dse.cli.main import main
from aiida_dse.data.archives import write_archive
from aiida_dse.data.results import map_node, result_from_nodes, result_nodes, result_of, summary_from_node, summary_node
from aiida_dse.data.signatures import SIGNATURE, is_as_computed, is_changed_result, signed
from aiida_dse.documents import load_document
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine, run_scan


@pytest.fixture(scope="module")
def computed(write_case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("computed")
    return run_refine(build(load_document(write_case(folder)), folder))


@pytest.mark.parametrize("value", [-0.0, 0.1 + 0.2, 1e16, 1e-320, 4.125064607458912345, 12345678901234567890, True,
                                   None, "é", [1, 1.0, {"x": [2.5]}]])
def test_what_aiida_stores_agrees_with_the_signature(value):
    """AiiDA rounds numbers, and stores large ones as integers."""
    arrays, other = (SinglefileData.from_string(text, filename="result.h5") for text in ("arrays", "other"))
    node = Dict(signed({"a": value, "b": {"c": [value]}}, arrays))
    assert is_as_computed(node, arrays)
    stored = load_node(node.store().pk)
    assert is_as_computed(stored) and is_as_computed(stored, arrays.store())
    assert is_as_computed(stored, other) is False
    assert is_as_computed(Dict({"a": value})) is None


def test_a_changed_digit_or_field_is_noticed(computed):
    result, arrays = (node.store() for node in result_nodes(computed))
    assert is_as_computed(result, arrays)
    assert summary_from_node(result).parameters == summary_from_node(load_node(result.pk)).parameters
    content = result.get_dict()
    gof = content["agreement"]["gof"]
    for change in ({"agreement": content["agreement"] | {"gof": float(f"{gof:.12g}") + 1e-9}}, {"status": "complete"},
                   {"n_cycles": content["n_cycles"] + 1}, {"new": 1}, {SIGNATURE: "x"},
                   {SIGNATURE: content[SIGNATURE] | {"numbers": "0" * 64}}):
        changed = Dict(content | change).store()
        assert is_as_computed(changed) is False
        assert is_changed_result(changed) and not is_changed_result(result)
        with pytest.raises(ValueError, match=f"{changed.pk} was changed after it was computed"):
            summary_from_node(changed)


def test_arrays_of_another_result_are_noticed(computed):
    result = result_nodes(computed)[0].store()
    other = SinglefileData.from_string("other", filename="result.h5").store()

    class Outputs(dict):
        __getattr__ = dict.__getitem__

    for read in (lambda: result_of(SimpleNamespace(outputs=Outputs(result=result, arrays=other))),
                 lambda: result_from_nodes(result, other),
                 lambda: _results({"a_result": result, "a_arrays": other})):
        with pytest.raises(ValueError, match=f"arrays of the result node {result.pk} belong to another result"):
            read()
    inputs = {"model": Dict({}), "structures": {}, "finished": {"result": result, "arrays": other}}
    assert "'finished' was changed" in ScanCalculation.check_ports(inputs)


def test_the_arrays_of_a_map_are_signed(write_case, tmp_path):
    path = write_case(tmp_path, {"scan": {"axes": [{"parameter": "salt.a", "values": [4.11, 4.12]}]}})
    found = run_scan(build(load_document(path), tmp_path))
    arrays = map_node(found.summary, found.arrays)
    result = summary_node(found.summary, arrays).store()
    arrays.store()
    assert result_from_nodes(result, arrays).arrays.keys() == found.arrays.keys()
    changed = dict(found.arrays) | {"scan/gof": found.arrays["scan/gof"] * 0.9}
    with pytest.raises(ValueError, match="belong to another result"):
        result_from_nodes(result, map_node(found.summary, changed).store())


def test_a_node_of_another_plugin_is_no_changed_result():
    assert not is_changed_result(Dict({"signature": "x"}).store())


@pytest.mark.parametrize("content", [
    {"x": 10**400}, {"x": json.loads("[" * 900 + "]" * 900)}, {SIGNATURE: []}, {SIGNATURE: {}}])
def test_content_that_nobody_computed_is_changed_and_no_error(content):
    attributes = SimpleNamespace(all={SIGNATURE: {"numbers": "0", "arrays": None}} | content)
    assert is_as_computed(SimpleNamespace(base=SimpleNamespace(attributes=attributes))) is False


def test_the_import_of_a_changed_result_is_reported(computed, tmp_path, own_storage):
    result, arrays = (node.store() for node in result_nodes(computed))
    sound, file = tmp_path / "sound.aiida", tmp_path / "changed.aiida"
    write_archive([result, arrays], sound)
    with zipfile.ZipFile(sound) as source:
        source.extractall(tmp_path / "x")
    database = sqlite3.connect(tmp_path / "x" / "db.sqlite3")
    (text,) = database.execute("select attributes from db_dbnode where uuid = ?", (result.uuid.replace("-", ""),)
                               ).fetchone() or database.execute(
        "select attributes from db_dbnode where uuid = ?", (result.uuid,)).fetchone()
    content = json.loads(text)
    content["agreement"]["gof"] = 0.9
    new = "b" * 8 + result.uuid[8:]  # a node that the profile does not have
    database.execute("update db_dbnode set attributes = ?, uuid = ? where uuid in (?, ?)", (
        json.dumps(content), new, result.uuid, result.uuid.replace("-", "")))
    database.commit()
    database.close()
    with zipfile.ZipFile(file, "w") as target:
        for path in sorted((tmp_path / "x").rglob("*")):
            if path.is_file():
                target.write(path, str(path.relative_to(tmp_path / "x")))
    output = CliRunner().invoke(main, ["import", str(sound)])
    assert output.exit_code == 0 and "warning" not in output.output
    output = CliRunner().invoke(main, ["import", str(file)])
    assert output.exit_code == 0, output.output
    assert f"were changed after they were computed: {load_node(new).pk}" in output.output
    assert np.isfinite(summary_from_node(result).agreement.gof)
