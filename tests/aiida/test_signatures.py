"""Results whose numbers or arrays were changed after they were computed are neither read nor reused."""

from __future__ import annotations

import json
import sqlite3
import zipfile

import numpy as np
import pytest
from aiida.orm import Dict, SinglefileData, load_node
from click.testing import CliRunner

from aiida_dse.calculations.engine import ScanCalculation
from aiida_dse.cli.main import main
from aiida_dse.data.archives import write_archive
from aiida_dse.data.results import result_nodes, result_of, summary_from_node, summary_node
from aiida_dse.data.signatures import SIGNATURE, changed_results, is_as_computed, is_unchanged, signed
from aiida_dse.documents import load_document
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine


@pytest.fixture(scope="module")
def computed(write_case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("computed")
    return run_refine(build(load_document(write_case(folder)), folder))


@pytest.mark.parametrize("value", [-0.0, 0.1 + 0.2, 1e16, 1e-320, 4.125064607458912345, 12345678901234567890, True,
                                   None, "é", [1, 1.0, {"x": [2.5]}]])
def test_what_aiida_stores_agrees_with_the_signature(value):
    """AiiDA rounds numbers, and stores large ones as integers."""
    node = Dict(signed({"a": value, "b": {"c": [value]}}, b"arrays"))
    assert is_unchanged(node.get_dict(), b"arrays")
    node.store()
    stored = load_node(node.pk)
    assert is_unchanged(stored.get_dict(), b"arrays")
    assert not is_unchanged(stored.get_dict(), b"other arrays")
    assert is_unchanged({"a": value}) is None


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
        assert changed_results([result, changed]) == [changed]
        with pytest.raises(ValueError, match=f"{changed.pk} was changed after it was computed"):
            summary_from_node(changed)


def test_arrays_of_another_result_are_noticed(computed):
    from types import SimpleNamespace

    result = summary_node(computed.summary, b"own").store()
    other = SinglefileData.from_string("other", filename="result.h5").store()

    class Outputs(dict):
        __getattr__ = dict.__getitem__

    with pytest.raises(ValueError, match=f"arrays of the result node {result.pk} belong to another result"):
        result_of(SimpleNamespace(outputs=Outputs(result=result, arrays=other)))
    inputs = {"model": Dict({}), "structures": {}, "finished": {"result": result, "arrays": other}}
    assert "'finished' was changed" in ScanCalculation.check_ports(inputs)


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
