"""Tiles of a grid over quantities and paths are merged into the map of a single scan."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from aiida.orm import Dict
from numpy.testing import assert_allclose

from aiida_dse.calculations.documents import merge_tiles
from aiida_dse.data.results import result_nodes, summary_from_node
from aiida_dse.documents import load_document, parse_document
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_scan
from aiida_dse.tasks.tiles import cut_axis, tile_documents

EXAMPLE = Path(__file__).parents[2] / "examples" / "cspbbr3"
P = "CsPbBr3."
XY = [P + "Br_eq.x", P + "Br_eq.y"]
ANGLE, SHORT, LONG = P + "angle(Pb-Br_eq-Pb)_1", P + "d(Pb-Br_eq)_1", P + "d(Pb-Br_eq)_2"
B_AXIS = {"parameter": P + "Br_eq.B_iso", "start": 1.5, "stop": 2.5, "step": 0.5}


def document(*axes, **plan):
    content = load_document(EXAMPLE / "refine.yaml").canonical()
    content["pattern"]["every"] = 25
    content["phases"]["CsPbBr3"]["particle"] = {"shape": "parallelepiped", "cells": [4, 4, 3]}
    del content["refinement"]  # its sizes are none of a single parallelepiped
    content["scan"] = {"axes": list(axes), **plan}
    return content


def tiles_of(content, n_tiles):
    grid = build(parse_document(content), EXAMPLE).grid
    return tile_documents(content, n_tiles, cut_axis(grid))


def scanned(content):
    return run_scan(build(parse_document(content), EXAMPLE))


def merged(content, tiles):
    inputs = {}
    for k, tile in tiles.items():
        summary, arrays = result_nodes(scanned(tile))
        inputs |= {f"tile_{k}_result": summary, f"tile_{k}_arrays": arrays}
    found = merge_tiles(Dict(copy.deepcopy(content)), **inputs)
    return found["map"], summary_from_node(found["result"])


CASES = {
    "angle": [{"quantity": ANGLE, "vary": XY, "equal": [[SHORT, LONG]], "start": 160, "stop": 164,
               "step": 1}, B_AXIS],
    "out of reach": [B_AXIS, {"quantity": SHORT, "vary": XY, "values": [2.95, 2.97, 3.0, 4.5]}],
    "path": [{"path": [{XY[0]: 0.25, XY[1]: 0.25}, {XY[0]: 0.32, XY[1]: 0.18}], "step": 0.2},
             B_AXIS],
    "displacement": [{"parameter": P + "b", "values": [8.38, 8.4]},
                     {"parameter": XY[1], "unit": "angstrom", "start": -0.1, "stop": 0.1,
                      "step": 0.05}],
}


@pytest.mark.parametrize("name", CASES)
def test_tiles_merge_to_the_single_scan(name):
    content = document(*CASES[name])
    tiles = tiles_of(content, 3)
    assert len(tiles) >= 3
    single = scanned(content)
    found, summary = merged(content, dict(enumerate(tiles)))
    shape = single.arrays["scan/gof"].shape
    for path, values in single.arrays.items():
        other = found.get_array(path.removeprefix("scan/"))
        if path.startswith(("scan/axis_",)):
            assert_allclose(other, values, rtol=1e-12)
        else:
            assert_allclose(np.broadcast_to(other, shape), np.broadcast_to(values, shape),
                            rtol=1e-7)
    for row, other in zip(summary.axes, single.summary.axes, strict=True):
        assert row.scale == pytest.approx(other.scale)
        assert row.model_copy(update={"scale": other.scale}) == other
    for key in ("moved", "quantities", "shape", "n_done", "n_unreachable", "status"):
        assert getattr(summary, key) == getattr(single.summary, key), key
    assert summary.minimum == pytest.approx(single.summary.minimum)
    assert summary.minimum_quantities == pytest.approx(single.summary.minimum_quantities)
    assert summary.n_unreachable == (3 if name == "out of reach" else 0)


def test_a_missing_tile_leaves_a_hole():
    content = document(*CASES["angle"])
    tiles = dict(enumerate(tiles_of(content, 5)))
    del tiles[2]
    found, summary = merged(content, tiles)
    assert np.isnan(found.get_array("gof")[2]).all() and summary.status == "partial"
    assert summary.n_done == 12


def test_an_adaptive_grid_is_one_tile():
    content = document(*CASES["path"], adaptive=True)
    assert tiles_of(content, 20) == [content]


def test_an_axis_that_moves_distances_is_cut_and_not_the_longest():
    content = document(B_AXIS | {"step": 0.01}, CASES["angle"][0])
    cut = [parse_document(tile).scan.axes for tile in tiles_of(content, 2)]
    assert len(cut) >= 2 and all(first.size == 101 for first, _ in cut)
    whole = parse_document(content).scan.axes[1].points().tolist()
    assert [value for _, second in cut for value in second.points()] == whole
