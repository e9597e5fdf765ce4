"""GoF maps of the 5 nm CsPbBr3 example over angles, distances and paths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.documents import DocumentError, load_document, parse_document
from aiida_dse.io.results import read_result, write_result
from aiida_dse.report.tables import result_report, validation_report
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import map_of, run_scan
from aiida_dse.tasks.simulation import run_simulate

EXAMPLE = Path(__file__).parents[2] / "examples" / "cspbbr3"
P = "CsPbBr3."
X, Y, B = P + "Br_eq.x", P + "Br_eq.y", P + "Br_eq.B_iso"
ANGLE, SHORT, LONG = P + "angle(Pb-Br_eq-Pb)_1", P + "d(Pb-Br_eq)_1", P + "d(Pb-Br_eq)_2"
B_AXIS = {"parameter": B, "values": [1.5, 2.0, 2.5]}


def document(*axes, every=12, parameters=None, **plan):
    """The example with the parameter values of its synthetic pattern."""
    truth = json.loads((EXAMPLE / "truth_05nm.json").read_text())
    content = load_document(EXAMPLE / "refine.yaml").canonical()
    values = dict(zip(("a", "b", "c"), truth["cell"], strict=True))
    for site in ("Cs", "Br_ax", "Br_eq"):
        values |= {f"{site}.{x}": v for x, v in zip("xyz", truth[site], strict=True)}
    values |= {f"{site}.B_iso": value for site, value in truth["B"].items()}
    values |= {name: truth[name] for name in ("L_ab", "sd_ab", "L_c", "sd_c")}
    for fixed in ("Br_ax.z", "Cs.z"):
        del values[fixed]
    content["parameters"] = {P + name: value for name, value in values.items()} | (parameters or {})
    content["pattern"]["every"] = every
    content["scan"] = {"axes": list(axes), **plan}
    return content


def built_from(*axes, **options):
    return build(parse_document(document(*axes, **options)), EXAMPLE)


def angle_axis(values, **more):
    return {"quantity": ANGLE, "vary": [X, Y], "values": list(values), **more}


def test_a_map_of_an_angle_agrees_with_simulations(tmp_path):
    built = built_from(angle_axis([159, 161, 163], equal=[[SHORT, LONG]]), B_AXIS)
    result = run_scan(built)
    summary, arrays = result.summary, result.arrays
    assert [(axis.name, axis.unit) for axis in summary.axes] == [(ANGLE, "deg"), (B, "Å^2")]
    moved = {name: arrays[f"scan/moved_{k}"] for k, name in enumerate(summary.moved)}
    for i, j in ((0, 0), (1, 1), (2, 0)):
        values = {X: float(moved[X][i, 0]), Y: float(moved[Y][i, 0]), B: B_AXIS["values"][j]}
        alone = build(parse_document(document(B_AXIS, parameters=values)), EXAMPLE)
        single = run_simulate(alone).summary
        assert arrays["scan/gof"][i, j] == pytest.approx(single.agreement.gof, rel=1e-9)
        rows = single.derived["CsPbBr3"].quantities
        for k, quantity in enumerate(summary.quantities):
            stored = np.broadcast_to(arrays[f"scan/quantity_{k}"], (3, 3))[i, j]
            # bonds of equal length are listed once
            row = rows.get(quantity.name.removeprefix(P), rows[SHORT.removeprefix(P)])
            assert stored == pytest.approx(row.value, abs=1e-8)
            assert quantity.unit == row.unit
    lowest = summary.minimum
    assert lowest[ANGLE] == 161 and lowest[B] == 2.0
    assert summary.minimum_quantities[ANGLE] == pytest.approx(161, abs=1e-8)
    assert summary.minimum_quantities[SHORT] == pytest.approx(
        summary.minimum_quantities[LONG], abs=1e-8)
    write_result(result, tmp_path)
    again = run_scan(built, finished=read_result(tmp_path))
    assert_allclose(again.arrays["scan/gof"], arrays["scan/gof"])
    assert f"{ANGLE} = 161" in result_report(result)
    assert f"{ANGLE} = 159 ... 163 deg" in validation_report(built)


def test_the_true_values_are_recovered_along_the_paths_of_the_paper():
    """Angle at equal distances, and distance at constant angle, within about 3 s.u."""
    for axis, true, far in (
        (angle_axis(np.arange(160, 162.1, 0.25), equal=[[SHORT, LONG]]), 161.0, 0.3),
        ({"quantity": SHORT, "vary": [X, Y], "hold": [ANGLE], "start": 2.95, "stop": 3.0,
          "step": 0.005}, 2.9728, 0.01),
    ):
        found = run_scan(built_from(axis, every=3)).summary
        row = found.quadratic.position[axis["quantity"]]
        assert row.value == pytest.approx(true, abs=far)
        interval = found.quadratic.delta_chi2[axis["quantity"]]
        sides = [side for side in (interval.minus, interval.plus) if side is not None]
        assert sides or interval.missing
        for side in sides:
            assert side == pytest.approx(row.su, rel=0.1)


def test_a_path_is_scaled_to_its_length(tmp_path):
    path = {"path": [{X: 0.25, Y: 0.25}, {X: 0.32, Y: 0.18}], "step": 0.25}
    result = run_scan(built_from(path))
    length = np.hypot(0.07 * 8.207, 0.07 * 8.407)
    assert_allclose(result.arrays["scan/axis_0"], length * np.arange(5) / 4)
    (axis,) = result.summary.axes
    assert axis.unit == "Å" and axis.scale == pytest.approx(length)
    assert result.summary.minimum[X] == pytest.approx(0.285)


def test_the_adaptive_map_of_a_and_b_finds_both_basins_of_the_full_one(tmp_path):
    axes = [{"parameter": P + edge, "start": 8.10, "stop": 8.52, "step": 0.02} for edge in "ab"]
    full, thin = (run_scan(built_from(*axes, adaptive=adaptive)) for adaptive in (False, True))
    assert len(full.summary.basins) == 2, "a and b can be interchanged"
    for one, other in zip(full.summary.basins, thin.summary.basins, strict=True):
        assert other.at == one.at and other.gof == pytest.approx(one.gof)
        if one.saddle is not None:
            assert other.saddle.gof == pytest.approx(one.saddle.gof, rel=1e-3)
    assert thin.summary.minimum == pytest.approx(full.summary.minimum)
    for name, row in full.summary.quadratic.position.items():
        assert vars(thin.summary.quadratic.position[name]) == pytest.approx(vars(row))
    saved = thin.summary.adaptive
    assert saved.n_evaluated == thin.arrays["scan/evaluated"].sum()
    assert saved.n_interpolated > 0.3 * full.summary.n_done
    assert f"{saved.n_evaluated} points computed" in result_report(thin)
    # interpolated points do not count as computed in a continuation
    built = built_from(*axes, adaptive=True)
    assert map_of(built, thin).evaluated.sum() == saved.n_evaluated


@pytest.mark.parametrize(
    ("axes", "where", "what"),
    [
        ([angle_axis([160]) | {"quantity": P + "angle(Pb-Br_eq-Pb)_2"}], "scan.axes.0:",
         "did you mean"),
        ([B_AXIS, angle_axis([160], hold=["CsPbBr3.d(Pb-Br)_1"])], "scan.axes.1:", "did you mean"),
        ([angle_axis([185])], "scan.axes:", "only values from 0 to 180"),
        ([angle_axis([160]) | {"vary": [P + "Br_eq.q"]}], "scan.axes:", "no parameter"),
        ([angle_axis([160]) | {"vary": [P + "Pb.x"]}], "scan.axes:", "special position"),
        ([angle_axis([160], hold=[SHORT, LONG])], "scan.axes:", "3 conditions"),
        ([angle_axis([160]), {"parameter": X, "values": [0.2]}], "scan.axes:", "two axes"),
        ([{"quantity": ANGLE, "values": [160]}], "scan.axes.0", "needs 'vary'"),
        ([{"parameter": X, "vary": [Y], "values": [0.2]}], "scan.axes.0", "require a 'quantity'"),
        ([{"parameter": X, "quantity": ANGLE, "values": [1]}], "scan.axes.0", "specify one of"),
        ([{"values": [1]}], "scan.axes.0", "specify one of"),
        ([{"path": [{X: 0.2}], "step": 0.1}], "scan.axes.0.path", "at least 2"),
        ([{"path": [{}, {}], "step": 0.1}], "scan.axes.0", "no corner"),
        ([{"path": [{}, {X: 0.2}], "stop": 3, "step": 0.1}], "scan.axes.0", "from 0 to 1"),
        ([{"path": [{}, {X: 0.2}]}], "scan.axes.0", "'step'"),
        ([{"path": [{}, {P + "Br_eq.q": 0.2}], "step": 0.1}], "scan.axes:", "no parameter"),
        ([{"parameter": P + "a", "unit": "angstrom", "values": [0.1]}], "scan.axes:",
         "is not a fractional coordinate"),
        ([{"parameter": X, "unit": "nm", "values": [0.1]}], "scan.axes.0.unit", "angstrom"),
    ],
    ids=str,
)
def test_invalid_axes_are_refused_when_built(axes, where, what):
    with pytest.raises(DocumentError) as problem:
        built_from(*axes)
    assert where in str(problem.value) and what in str(problem.value)


def test_a_tile_may_be_unreachable_but_not_a_whole_grid():
    far = {"quantity": SHORT, "vary": [X, Y], "values": [4.5]}
    with pytest.raises(DocumentError, match="no point of the grid can be reached"):
        built_from(far)
    result = run_scan(built_from(far, part_of_grid=True))
    assert result.status == "complete" and result.summary.n_unreachable == 1
