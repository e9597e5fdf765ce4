"""Stores of distances in the graph: built by a job, used in place of a structure, found again."""

from __future__ import annotations

import copy

import pytest
from aiida.common.exceptions import ValidationError
from aiida.engine import submit
from aiida.orm import Dict, Float, Int, QueryBuilder, SinglefileData
from aiida.plugins import DataFactory, WorkflowFactory

from aiida_dse.calculations.engine import BuildCalculation, RefineCalculation, SimulateCalculation
from aiida_dse.data.distances import DistancesData
from aiida_dse.data.jobs import structure_node
from aiida_dse.data.same_content import stored_node_of_same_content
from aiida_dse.workchains.build_model import BuildModelWorkChain
from aiida_dse.workchains.grid_search import GridSearchWorkChain

B_SITES = "salt.*.B_iso"


@pytest.fixture(scope="module")
def built(started, case_nodes, code, finish):
    """A finished dse.build_model at a = 4.123."""
    kept = case_nodes({"parameters": {"salt.a": 4.123}})
    node = submit(BuildModelWorkChain, build=kept | {"code": code},
                  metadata={"label": "CsCl store"})
    return finish(node)


@pytest.fixture(scope="module")
def with_store(built, case_nodes, code):
    """A function: inputs whose phase comes from the store, with sections of the document."""
    kept = case_nodes()

    def make(**sections):
        model = copy.deepcopy(kept["model"].get_dict()) | sections
        model["phases"] = {"salt": {"distances": "salt.h5"}}
        return {"model": Dict(model), "pattern": kept["pattern"], "code": code,
                "structures": {"salt": built.outputs.distances.salt}}

    return make


def test_the_plugins_are_found_by_their_names():
    assert DataFactory("dse.distances") is DistancesData
    assert WorkflowFactory("dse.build_model") is BuildModelWorkChain


def test_a_model_is_built(built):
    assert built.is_finished_ok, built.exit_message
    store = built.outputs.distances.salt
    assert isinstance(store, DistancesData) and store.creator.process_type.endswith("dse.build")
    assert store.base.attributes.get("values")["a"] == 4.123
    assert store.base.attributes.get("atoms") == 2 * 4**3
    assert store.stored_distances().histograms.shape[0] == 3
    query = QueryBuilder().append(DistancesData, filters={
        "and": [{"attributes.values.a": 4.123}, {"attributes.q_max": {">": 4}}]})
    assert store.pk in [node.pk for node in query.all(flat=True)]


def test_the_same_model_is_built_once(built, case_nodes, code, finish):
    from aiida.manage.caching import enable_caching

    kept = case_nodes({"parameters": {"salt.a": 4.123}})
    with enable_caching(identifier="aiida.calculations:dse.build"):
        from aiida.engine import run_get_node

        _, again = run_get_node(BuildCalculation, **kept, code=code)
    assert again.base.caching.is_created_from_cache
    assert (again.outputs.distances.salt.base.attributes.get("content_sha256")
            == built.outputs.distances.salt.base.attributes.get("content_sha256"))


def test_a_store_simulates_refines_and_maps(with_store, finish, case):
    simulated = submit(SimulateCalculation, **with_store())
    stages = {"stages": [["salt.lattice_scale"], [B_SITES]]}
    refined = submit(RefineCalculation, **with_store(refinement=stages))
    scan = {"axes": [{"parameter": "salt.lattice_scale", "values": [0.998, 0.999, 1.0, 1.001]},
                     {"parameter": "salt.Cs1.B_iso", "values": [1.5, 2.0]}]}
    grid = submit(GridSearchWorkChain, scan=with_store(scan=scan), max_concurrent=Int(2),
                  tile_seconds=Float(0.02), seconds=Float(0.04))
    for node in (simulated, refined, grid):
        finish(node)
        assert node.is_finished_ok, node.exit_message
    scale = refined.outputs.result["parameters"]["salt"]["lattice_scale"]
    cell = scale["value"] * 4.123
    assert abs(cell - case.truth["salt.a"]) < 4 * scale["su"] * 4.123
    assert refined.outputs.result["structures"]["salt"]["space_group"] == "Pm-3m"
    assert grid.outputs.result["minimum"]["gof"] < 1.5
    assert grid.outputs.map.get_array("gof").shape == (4, 2)


def test_a_file_that_the_database_has_is_its_node(built, tmp_path):
    store = built.outputs.distances.salt
    path = tmp_path / "mine.h5"
    path.write_bytes(store.get_content(mode="rb"))
    node = structure_node(path)
    assert isinstance(node, DistancesData) and not node.is_stored
    assert stored_node_of_same_content(node).pk == store.pk


def test_what_is_no_store_is_not_kept(tmp_path):
    path = tmp_path / "no.h5"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as stored pair distances"):
        DistancesData.from_file(path)
    with pytest.raises(ValidationError, match="cannot be read as stored pair distances"):
        DistancesData(file=str(path)).store()


def test_other_files_do_not_pass_as_stores(with_store, tmp_path):
    path = tmp_path / "atoms.xyz"
    path.write_text("1\n\nCs 0 0 0\n")
    inputs = with_store()
    inputs["structures"] = {"salt": SinglefileData(file=str(path))}
    with pytest.raises(ValueError, match=r"salt has 'distances', which is a \.h5 file"):
        submit(SimulateCalculation, **inputs)
    with pytest.raises(ValueError, match="stored already"):
        BuildModelWorkChain.get_builder_from_protocol(**with_store())
