"""Axes besides parameters, against cells and coordinates worked out with plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.maps.axes import Axis, PathAxis, QuantityAxis
from aiida_dse.engine.maps.grid import grid_of, quantities_on
from aiida_dse.engine.maps.scan import scan
from aiida_dse.engine.model.quantities import crystal_quantities

XY = ("P.Br_eq.x", "P.Br_eq.y")
ANGLE, SHORT, LONG, VOLUME = "angle(Pb-Br_eq-Pb)_1", "d(Pb-Br_eq)_1", "d(Pb-Br_eq)_2", "volume"


@pytest.fixture(scope="module")
def model(small, q):
    data = small.counts(small.pbnm_intensity(q), background=200 + 0 * q)
    return small.model(q, *data, [small.phase(small.pbnm(br_ax=(0.052, 0.006, 0.75)), (2, 2, 2))],
                       background=small.background(1))


@pytest.fixture(scope="module")
def known(model):
    found = crystal_quantities(
        model, model.phases[0], model.start, distances=[("Pb", "Br_eq"), ("Pb", "Br_ax")],
        angles_=[("Pb", "Br_eq", "Pb"), ("Pb", "Br_ax", "Pb")], pseudo_cubic=True,
    )
    return {quantity.name: quantity for quantity in found}


def bridge(values):
    """d_1, d_2 (Å) and the angle (deg) of Br_eq between its two Pb, in the cell's own metric.

    Pbnm, Pb at (0, 0, 1/2) and (1/2, 1/2, 1/2).
    """
    edges = np.array([values["P.a"], values["P.b"], values["P.c"]])
    bromine = np.array([values["P.Br_eq.x"], values["P.Br_eq.y"], values["P.Br_eq.z"]])
    one, other = [(np.array(lead) - bromine) * edges for lead in ((0, 0, 0.5), (0.5, 0.5, 0.5))]
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    return sorted(lengths), np.degrees(np.arccos(one @ other / np.prod(lengths)))


def points(model, grid):
    """(index, all parameter values) of every grid point."""
    for index in np.ndindex(grid.shape):
        yield index, model.constrained(model.start | grid.at(index))


def test_an_angle_axis_has_that_angle(model, known):
    angles = np.array([157.0, 160.0, 161.0, 164.0])
    grid = grid_of(model, [QuantityAxis(known[ANGLE], angles, XY)])
    assert set(grid.moved) == set(XY) and grid.axes[0].unit == "deg"
    for (i,), values in points(model, grid):
        assert bridge(values)[1] == pytest.approx(angles[i], abs=1e-7)


def test_of_all_solutions_the_nearest_is_taken(model, known):
    """No other point of the same angle lies nearer to the start, in Å."""
    grid = grid_of(model, [QuantityAxis(known[ANGLE], np.array([158.0]), XY)])
    edges = np.array([model.start["P.a"], model.start["P.b"]])
    start = np.array([model.start[name] for name in XY])
    found = np.array([grid.at((0,))[name] for name in XY])
    distance = np.linalg.norm((found - start) * edges)
    for direction in np.linspace(0, 2 * np.pi, 721):
        step = 0.999 * distance * np.array([np.cos(direction), np.sin(direction)])
        moved = model.start | dict(zip(XY, start + step / edges, strict=True))
        assert bridge(moved)[1] > 158.0


def test_held_distances_stay_and_equal_ones_are_equal(model, known):
    (short, long), _ = bridge(model.start)
    held = grid_of(model, [QuantityAxis(known[ANGLE], np.linspace(158, 164, 7), XY,
                                        hold=(known[SHORT],))])
    equal = grid_of(model, [QuantityAxis(known[ANGLE], np.linspace(158, 164, 7), XY,
                                         equal=((known[SHORT], known[LONG]),))])
    assert long - short > 5e-3
    for (i,), values in points(model, held):
        lengths, angle = bridge(values)
        assert angle == pytest.approx(158 + i, abs=1e-7)
        assert min(abs(np.array(lengths) - short)) < 1e-8
    for (i,), values in points(model, equal):
        lengths, angle = bridge(values)
        assert angle == pytest.approx(158 + i, abs=1e-7) and np.ptp(lengths) < 1e-8


def test_quantities_are_met_in_the_cell_of_the_other_axes(model, known):
    """Volume through c, an angle and a distance together, in every cell of an edge's axis."""
    axes = [Axis("P.a", np.array([8.15, 8.207, 8.25])),
            QuantityAxis(known[ANGLE], np.array([159.0, 162.0]), XY),
            QuantityAxis(known[SHORT], np.array([2.95, 2.97]), XY)]
    grid = grid_of(model, axes)
    first = known[SHORT]
    for (i, j, k), values in points(model, grid):
        assert values["P.a"] == axes[0].values[i]
        lengths, angle = bridge(values)
        assert angle == pytest.approx(axes[1].values[j], abs=1e-7)
        assert min(abs(np.array(lengths) - axes[2].values[k])) < 1e-8
    volume = grid_of(model, [QuantityAxis(known[VOLUME], np.array([800.0, 815.0]), ("P.c",))])
    for (i,), values in points(model, volume):
        assert values["P.a"] * values["P.b"] * values["P.c"] == pytest.approx([800, 815][i])
    (distances,) = quantities_on(model, grid, [first], {}, model.start)
    assert_allclose(distances, np.broadcast_to(axes[2].values, (3, 2, 2)), atol=1e-8)


def test_a_quantity_does_not_depend_on_how_the_grid_is_cut(model, known):
    def moved(values):
        grid = grid_of(model, [QuantityAxis(known[ANGLE], values, XY)])
        return np.array([grid.moved[name] for name in XY])

    angles = np.linspace(156, 166, 11)
    parts = np.concatenate([moved(angles[:4]), moved(angles[4:5]), moved(angles[5:])], axis=1)
    assert_allclose(parts, moved(angles), atol=1e-10)


def test_a_displacement_is_the_fraction_of_the_edge(model):
    shifts = np.array([-0.1, 0.0, 0.05])
    edges = np.array([8.1, 8.3])
    grid = grid_of(model, [Axis("P.Br_eq.x", shifts, displacement=True), Axis("P.a", edges)])
    for (i, j), values in points(model, grid):
        expected = model.start["P.Br_eq.x"] + shifts[i] / edges[j]
        assert values["P.Br_eq.x"] == pytest.approx(expected, abs=1e-12)
    alone = scan(model, [Axis("P.Br_eq.x", shifts, displacement=True)])
    fractions = model.start["P.Br_eq.x"] + shifts / model.start["P.a"]
    assert_allclose(alone.gof, scan(model, [Axis("P.Br_eq.x", fractions)]).gof, rtol=1e-10)


def test_the_length_of_a_path_is_the_sum_of_its_cartesian_lines(model):
    corners = ({"P.Br_eq.x": 0.25, "P.Br_eq.y": 0.25}, {"P.Br_eq.x": 0.29},
               {"P.Br_eq.x": 0.31, "P.Br_eq.y": 0.20, "P.Cs.x": 0.5})
    start = model.start
    edges = np.array([start["P.a"], start["P.b"], start["P.a"]])
    full = np.array([[c.get(n, start[n]) for n in ("P.Br_eq.x", "P.Br_eq.y", "P.Cs.x")]
                     for c in corners])
    lines = np.sqrt((np.diff(full, axis=0) ** 2 * edges**2).sum(axis=1))
    grid = grid_of(model, [PathAxis(corners, np.linspace(0, 1, 11))])
    assert grid.axes[0].unit == "Å"
    assert_allclose(grid.axes[0].values, lines.sum() * np.linspace(0, 1, 11))
    walked = np.array([grid.moved[n] for n in ("P.Br_eq.x", "P.Br_eq.y", "P.Cs.x")]).T
    assert_allclose(walked[[0, -1]], full[[0, -1]])
    corner = np.interp(lines[0], grid.axes[0].values, np.arange(11))
    steps = np.sqrt((np.diff(walked, axis=0) ** 2 * edges**2).sum(axis=1))
    whole = [k for k in range(10) if not k < corner < k + 1]
    assert_allclose(steps[whole], lines.sum() / 10)


def test_a_map_along_a_path_is_point_by_point_evaluation(model, known):
    axes = [PathAxis(({"P.Br_eq.x": 0.28, "P.Br_eq.y": 0.22}, {}), np.linspace(0, 1, 4)),
            Axis("P.Br_eq.B_iso", np.array([1.0, 2.0]))]
    found = scan(model, axes)
    assert found.grid.inner == (1,)
    for index, values in points(model, found.grid):
        evaluation = model.evaluate(values)
        gof = model.agreement(evaluation, 0).gof
        assert found.gof[index] == pytest.approx(gof, rel=1e-9)
    angle = scan(model, [QuantityAxis(known[ANGLE], np.array([158.0, 161.0]), XY)])
    for index, values in points(model, angle.grid):
        assert angle.chi2[index] == pytest.approx(model.evaluate(values).chi2, rel=1e-9)
    assert angle.minimum.keys() == {known[ANGLE].full_name, *XY, "gof"}


def test_constraints_follow_point_by_point(small, q):
    data = small.counts(small.pbnm_intensity(q))
    model = small.model(q, *data, [small.phase(small.pbnm(), (2, 2, 2))],
                        constraints={"P.Cs.x": "0.5 + P.Br_eq.x / 10", "P.b": "P.a + 0.2"})
    x = np.array([[0.28], [0.3]])
    full = model.constrained_grid(model.start | {"P.Br_eq.x": x, "P.a": np.array([8.2, 8.3])})
    assert_allclose(full["P.Cs.x"], 0.5 + x / 10)
    assert_allclose(full["P.b"], [8.4, 8.5])


def test_a_constrained_parameter_is_not_varied(small, q, known):
    data = small.counts(small.pbnm_intensity(q))
    model = small.model(q, *data, [small.phase(small.pbnm(), (2, 2, 2))],
                        constraints={"P.Br_eq.y": "0.5 - P.Br_eq.x"})
    with pytest.raises(ValueError, match="constrained to"):
        grid_of(model, [QuantityAxis(known[ANGLE], np.array([160.0]), XY)])
    # through the constraint the other follows
    grid = grid_of(model, [QuantityAxis(known[ANGLE], np.array([160.0]), XY[:1])])
    (_, values), = points(model, grid)
    assert values["P.Br_eq.y"] == pytest.approx(0.5 - values["P.Br_eq.x"])
    assert bridge(values)[1] == pytest.approx(160, abs=1e-7)


def test_points_out_of_reach_are_left_empty_and_counted(model, known):
    axis = QuantityAxis(known[SHORT], np.array([2.97, 4.5]), XY)
    grid = grid_of(model, [axis, Axis("P.Br_eq.B_iso", np.array([1.0, 2.0, 3.0]))])
    assert grid.unreachable.tolist() == [[False] * 3, [True] * 3]
    found = scan(model, grid)
    assert found.complete and np.isfinite(found.gof[0]).all() and np.isnan(found.gof[1]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda k: [QuantityAxis(k[ANGLE], np.array([181.0]), XY)], r"only values from 0 to 180 are possible"),
        (lambda k: [QuantityAxis(k[SHORT], np.array([4.5]), XY)],
         r"no point of the grid can be reached.*at the start and"),
        (lambda k: [QuantityAxis(k[SHORT], np.array([2.9]), ("P.Br_ax.x",))], "does not change"),
        (lambda k: [QuantityAxis(k[SHORT], np.array([2.9]), ())], "has no 'vary'"),
        (lambda k: [QuantityAxis(k[SHORT], np.array([2.9]), ("P.Pb.x",))], "special position"),
        (lambda k: [QuantityAxis(k[SHORT], np.array([2.9]), ("P.Br.x",))], "did you mean"),
        (lambda k: [QuantityAxis(k[SHORT], np.array([2.9]), XY, hold=(k[ANGLE], k[LONG]))],
         "3 conditions .* 2 parameters"),
        (lambda k: [QuantityAxis(k[SHORT], np.array([2.9]), XY, equal=((k[ANGLE], k[LONG]),))],
         "cannot be equal"),
        (lambda k: [QuantityAxis(k[SHORT], np.array([2.9]), XY),
                    Axis("P.Br_eq.x", np.array([0.28]))], "scanned on two axes"),
        (lambda k: [QuantityAxis(k[SHORT], np.array([2.9]), XY)] * 2, "scanned on two axes"),
        (lambda k: [PathAxis(({"P.Br_eq.x": 0.2},), np.array([0.0]))], "must have at least two"),
        (lambda k: [PathAxis(({"P.Br_eq.x": 0.2}, {"P.Br_eq.x": 0.2}), np.array([0.0]))],
         "same point"),
        (lambda k: [PathAxis(({"P.Br_eq.x": 0.2}, {"P.a": 8.3}), np.array([0.0]))],
         "no common unit"),
        (lambda k: [Axis("P.a", np.array([0.1]), displacement=True)], "not a fractional coordinate"),
    ],
)
def test_axes_that_make_no_sense(model, known, make, message):
    with pytest.raises(ValueError, match=message):
        grid_of(model, make(known))


@pytest.mark.parametrize("axis", ["quantity", "displacement"])
def test_what_would_carry_an_axis_away_is_not_refined(model, known, axis):
    made = (QuantityAxis(known[ANGLE], np.array([160.0, 161.0]), XY) if axis == "quantity"
            else Axis("P.Br_eq.x", np.array([0.0, 0.1]), displacement=True))
    with pytest.raises(ValueError, match=r"'P\.a' is refined at every point"):
        grid_of(model, [made], refined=["P.a"])
    assert grid_of(model, [made], refined=["P.*.B_iso"]).inner == ()
