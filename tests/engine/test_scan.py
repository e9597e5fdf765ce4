"""GoF maps against point-by-point evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import lsq_linear

from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.maps import points as points_module
from aiida_dse.engine.maps.axes import MAX_POINTS, Axis, check_axes
from aiida_dse.engine.maps.scan import scan
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.resources import Resources

AXES = {
    "P.a": np.array([4.09, 4.12, 4.15, 4.18]),
    "P.Cs.B_iso": np.array([0.5, 1.0, 1.7]),
    "P.Cl.occupancy": np.array([0.6, 0.8, 1.0]),
    "P.scale": np.array([20.0, 40.0, 60.0]),
}
CASES = [
    ["P.a"], ["P.Cs.B_iso"], ["P.scale"], ["P.a", "P.Cs.B_iso"], ["P.Cl.occupancy", "P.a"],
    ["P.Cs.B_iso", "P.a", "P.Cl.occupancy"], ["P.scale", "P.Cs.B_iso"], ["P.a", "P.scale", "P.Cs.B_iso"],
]


def axes_of(*names):
    return [Axis(name, AXES[name]) for name in names]


@pytest.fixture(scope="module")
def blanks(q):
    """A blank that is in the data, and one that could only come with a negative scale."""
    return {"solvent": 900 * np.exp(-((q - 2.2) ** 2)), "air": 300 / q}


@pytest.fixture(scope="module")
def data(small, q, blanks):
    pattern = 40 * small.cscl_intensity(q, occupancy=0.8)
    expected = pattern + 3000 + 2 * blanks["solvent"] - 1.5 * blanks["air"]
    counted = np.random.default_rng(2).poisson(expected).astype(float)
    return counted, np.sqrt(counted)


@pytest.fixture(scope="module")
def model(small, q, data, blanks):
    background = small.background(2, (), blanks)
    return small.model(
        q, *data, [small.phase(small.cscl(occupancy=0.8))], background=background
    )


def brute_force(model, axes, index):
    """(chi2, number of linear columns used) at one point, by a bounded solver of its own."""
    values, scale = dict(model.start), None
    for axis, i in zip(axes, index, strict=True):
        if axis.parameter == "P.scale":
            scale = axis.values[i]
        else:
            values[axis.parameter] = axis.values[i]
    values = model.constrained(values)
    pattern = model.intensity(0, model.states(values)[0], values)
    observation = model.observation
    _, free = model.background.free_columns(observation)
    columns = [*free.T, *model.background.blanks.values()]
    observed = observation.intensity.copy()
    if scale is None:
        columns.append(pattern)
    else:
        observed -= scale * pattern
    weighted = np.array(columns).T / observation.sigma[:, None]
    lower = np.r_[np.full(free.shape[1], -np.inf), np.zeros(len(columns) - free.shape[1])]
    found = lsq_linear(weighted, observed / observation.sigma, (lower, np.inf), method="bvls",
                       tol=1e-14)
    return 2 * found.cost, free.shape[1] + int((found.x[free.shape[1]:] > 0).sum())


@pytest.mark.parametrize("names", CASES, ids="-".join)
def test_a_map_is_point_by_point_evaluation(model, names):
    axes = axes_of(*names)
    found = scan(model, axes, resources=Resources(2))
    assert found.complete and found.stop_reason == "complete"
    held = 0
    for index in np.ndindex(found.gof.shape):
        chi2, active = brute_force(model, axes, index)
        assert found.chi2[index] == pytest.approx(chi2, rel=1e-7)
        assert found.n_active[index] == active
        gof = np.sqrt(chi2 / (len(model.observation.q) - active))
        assert found.gof[index] == pytest.approx(gof, rel=1e-7)
        held += active < len(model.linear_names)
    assert held, "non-negativity never acted"
    at = np.unravel_index(np.argmin(found.gof), found.gof.shape)
    expected = {axis.parameter: axis.values[i] for axis, i in zip(axes, at, strict=True)}
    assert found.minimum == expected | {"gof": found.gof[at]}


def test_the_map_is_lowest_at_the_truth(model):
    found = scan(model, axes_of("P.a", "P.Cs.B_iso", "P.Cl.occupancy"))
    assert found.minimum | {"gof": 1} == {
        "P.a": 4.12, "P.Cs.B_iso": 1.0, "P.Cl.occupancy": 0.8, "gof": 1
    }
    assert 0.85 < found.minimum["gof"] < 1.15


def test_without_background_or_blanks(small, q, data):
    model = small.model(q, *data, [small.phase(small.cscl(occupancy=0.8))])
    for names in (["P.a", "P.Cs.B_iso"], ["P.scale"], ["P.a", "P.scale"]):
        axes = axes_of(*names)
        found = scan(model, axes)
        for index in np.ndindex(found.gof.shape):
            assert found.chi2[index] == pytest.approx(brute_force(model, axes, index)[0], rel=1e-7)


def test_a_constrained_parameter_moves_along_with_its_source(small, q, data):
    phase = small.phase(small.cscl(occupancy=0.8))
    model = small.model(q, *data, [phase], constraints={"P.Cl.B_iso": "2 * P.Cs.B_iso", "P.Cs.occupancy": "1.0"})
    axes = axes_of("P.a", "P.Cs.B_iso")
    found = scan(model, axes)
    for index in np.ndindex(found.gof.shape):
        assert found.chi2[index] == pytest.approx(brute_force(model, axes, index)[0], rel=1e-7)


def test_a_constraint_that_moves_distances_makes_its_source_an_outer_axis(small, q, data):
    phase = small.phase(small.cscl(occupancy=0.8))
    model = small.model(q, *data, [phase], constraints={"P.a": "4.10 + 0.02 * P.Cs.B_iso"})
    axes = axes_of("P.Cs.B_iso", "P.Cl.occupancy")
    found = scan(model, axes)
    for index in np.ndindex(found.gof.shape):
        assert found.chi2[index] == pytest.approx(brute_force(model, axes, index)[0], rel=1e-7)


@pytest.mark.parametrize("names", [["P.a"], ["P.a", "P.Cl.occupancy"], ["P.a", "P.scale"]],
                         ids="-".join)
def test_local_refinement_never_raises_the_gof(model, names):
    axes = axes_of(*names)
    fixed = scan(model, axes)
    found = scan(model, axes, refine_at_each_point=["P.*.B_iso"])
    assert found.complete and set(found.refined) == {"P.Cs.B_iso", "P.Cl.B_iso"}
    assert (found.chi2 <= fixed.chi2 * (1 + 1e-9)).all()
    n = len(model.observation.q)
    assert_allclose(found.gof, np.sqrt(found.chi2 / (n - found.n_active)), rtol=1e-12)
    # what is stored for a point reproduces its chi2
    at = np.unravel_index(np.argmin(found.gof), found.gof.shape)
    if "P.scale" not in names:
        changed = {k: v for k, v in found.minimum.items() if k != "gof"}
        assert model.evaluate(model.start | changed).chi2 == pytest.approx(
            found.chi2[at], rel=1e-9
        )
        assert found.n_active[at] == 2 + model.evaluate(
            model.start | changed
        ).linear.active.sum()


def test_a_locally_refined_point_is_a_refinement(model):
    found = scan(model, axes_of("P.a"), refine_at_each_point=["P.Cs.B_iso"])
    alone = refine(model, [["P.Cs.B_iso"]], start=model.start | {"P.a": 4.15})
    assert found.chi2[2] == pytest.approx(alone.evaluation.chi2, rel=1e-6)
    assert found.refined["P.Cs.B_iso"][2] == pytest.approx(alone.values["P.Cs.B_iso"], rel=1e-3)


def test_a_scanned_parameter_is_not_refined(model):
    found = scan(model, axes_of("P.Cs.B_iso"), refine_at_each_point=["P.*.B_iso"])
    assert set(found.refined) == {"P.Cl.B_iso"}


def counted(monkeypatch):
    """Values of P.a at which sine sums were asked for, one entry per outer point."""
    seen = []
    original = PatternModel.states

    def states(self, values, previous=None):
        seen.append(values["P.a"])
        return original(self, values, previous)

    monkeypatch.setattr(PatternModel, "states", states)
    return seen


def without(found, index):
    """The map with some points not reached."""
    arrays = {name: getattr(found, name).copy() for name in ("gof", "chi2", "n_active")}
    for array in arrays.values():
        array[index] = np.nan
    return replace(found, **arrays, stop_reason="interrupted")


def test_continuing_computes_only_what_is_missing(model, monkeypatch):
    axes = axes_of("P.a", "P.Cs.B_iso")
    full = scan(model, axes)
    partial = without(full, (slice(1, 3), slice(None)))
    assert not partial.complete
    seen = counted(monkeypatch)
    found = scan(model, axes, finished=partial)
    assert sorted(seen) == [4.12, 4.15]
    assert found.complete
    assert_allclose(found.chi2, full.chi2, rtol=1e-10)
    assert_array_equal(found.n_active, full.n_active)
    assert np.isnan(partial.chi2).sum() == 6, "the earlier map was changed"


def test_continuing_a_complete_map_computes_nothing(model, monkeypatch):
    axes = axes_of("P.a", "P.Cs.B_iso")
    full = scan(model, axes)
    seen = counted(monkeypatch)
    found = scan(model, axes, finished=full)
    assert not seen and found.complete
    assert_array_equal(found.gof, full.gof)


def test_continuing_keeps_the_locally_refined_values(model, monkeypatch):
    axes = axes_of("P.a")
    full = scan(model, axes, refine_at_each_point=["P.Cs.B_iso"])
    calls = []
    original = points_module.refine
    monkeypatch.setattr(
        points_module, "refine",
        lambda *args, **kw: calls.append(kw["start"]["P.a"]) or original(*args, **kw),
    )
    found = scan(
        model, axes, refine_at_each_point=["P.Cs.B_iso"], finished=without(full, slice(2, 4))
    )
    assert sorted(calls) == [4.15, 4.18]
    assert_allclose(found.chi2, full.chi2, rtol=1e-6)
    assert_allclose(found.refined["P.Cs.B_iso"], full.refined["P.Cs.B_iso"], rtol=1e-3)


def test_a_map_over_other_values_is_not_continued(model):
    """Points of another grid are not points of this one."""
    first = scan(model, [Axis("P.a", np.array([4.0, 4.05]))])
    other = [Axis("P.a", np.array([4.12, 4.15]))]
    try:
        found = scan(model, other, finished=first)
    except ValueError as problem:
        assert "P.a" in str(problem)
    else:
        assert_allclose(found.chi2, scan(model, other).chi2, rtol=1e-9)


def test_a_stopped_scan_keeps_its_points_and_continues(model):
    axes = [Axis("P.a", np.linspace(4.0, 4.2, 24)), *axes_of("P.Cs.B_iso")]
    blocks = []
    found = scan(
        model, axes, on_block=blocks.append,
        should_stop=lambda: "walltime" if len(blocks) >= 2 else None,
    )
    assert found.stop_reason == "walltime" and not found.complete
    done = np.isfinite(found.gof)
    assert 0 < done.sum() < done.size
    assert (done.all(axis=1) | ~done.any(axis=1)).all()
    full = scan(model, axes)
    assert_allclose(found.chi2[done], full.chi2[done], rtol=1e-9)
    again = scan(model, axes, finished=found)
    assert_allclose(again.chi2, full.chi2, rtol=1e-9)
    assert np.isfinite(blocks[0].gof).sum() <= np.isfinite(blocks[1].gof).sum()


def test_the_keyboard_keeps_what_is_done(model):
    def interrupt(partial):
        raise KeyboardInterrupt

    axes = [Axis("P.a", np.linspace(4.0, 4.2, 24))]
    found = scan(model, axes, on_block=interrupt)
    assert found.stop_reason == "interrupted"
    assert 0 < np.isfinite(found.gof).sum() < 24


def test_progress_counts_points_and_reports_the_best(model):
    axes = [Axis("P.a", np.linspace(4.0, 4.2, 24)), *axes_of("P.Cs.B_iso")]
    seen = []
    found = scan(model, axes, on_progress=seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == found.gof.size and seen[-1].remaining == 0
    assert seen[-1].best_gof == found.minimum["gof"]
    assert seen[-1].best_at == (found.minimum["P.a"], found.minimum["P.Cs.B_iso"])


def test_the_number_of_threads_changes_nothing(model):
    axes = [Axis("P.a", np.linspace(4.0, 4.2, 9)), *axes_of("P.Cs.B_iso")]
    assert_allclose(scan(model, axes).chi2, scan(model, axes, resources=Resources(3)).chi2,
                    rtol=1e-11)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([], "must have one to four"),
        ([("P.a", [4.0])] * 2, "scanned on two axes"),
        ([("P.aa", [4.0])], "no parameter 'P.aa'"),
        ([("P.b", [4.0])], "equal to a"),
        ([("P.Cs.x", [0.1])], "special position"),
        ([("P.Cs.B_iso", [-0.1, 1.0])], "only values from 0 to 1000 are possible"),
        ([("P.scale", [-1.0, 1.0])], "cannot be negative"),
        ([("P.a", np.linspace(4, 5, 3000)), ("P.Cs.B_iso", np.linspace(1, 2, 2000))], "limit is"),
    ],
    ids=str,
)
def test_axes_that_make_no_sense(model, axes, message):
    with pytest.raises(ValueError, match=message):
        check_axes(model, [Axis(name, np.array(values)) for name, values in axes])
    assert MAX_POINTS == 5_000_000


@pytest.mark.parametrize(
    ("name", "values"),
    [("P.Cl.occupancy", [0.5, 1.5]), ("P.Cl.occupancy", [-0.5, 0.5]), ("P.a", [0.0, 4.1]),
     ("P.a", [-4.0, 4.1])],
    ids=str,
)
def test_impossible_values_are_refused_before_anything_is_computed(model, name, values):
    with pytest.raises(ValueError, match=name):
        check_axes(model, [Axis(name, np.array(values))])


def test_a_constrained_parameter_is_no_axis(small, q, data):
    model = small.model(q, *data, [small.phase(small.cscl())], constraints={"P.Cl.B_iso": "2 * P.Cs.B_iso"})
    with pytest.raises(ValueError, match=r"constrained to '2 \* P\.Cs\.B_iso'"):
        check_axes(model, [Axis("P.Cl.B_iso", np.array([1.0]))])
