"""Interpolated maps against exact evaluation of every point, and their certificate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.polynomial import chebyshev as polynomials
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import lsq_linear

from aiida_dse.engine.maps import certificate, chebyshev
from aiida_dse.engine.maps.axes import Axis, PathAxis, QuantityAxis
from aiida_dse.engine.maps.interpolated import Nodes
from aiida_dse.engine.maps.scan import scan
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.quantities import crystal_quantities
from aiida_dse.engine.particles.parallelepipeds import ParallelepipedPopulation
from aiida_dse.engine.resources import Resources

X, Y, Z, B = "P.Br_eq.x", "P.Br_eq.y", "P.Br_eq.z", "P.Br_eq.B_iso"


# --- the mathematics -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_a_polynomial_below_the_number_of_nodes_is_reproduced(n):
    coefficients = np.random.default_rng(n).normal(size=n)
    low, high = -0.3, 1.7
    at, points = chebyshev.nodes(low, high, n), np.linspace(low, high, 41)
    points[7] = at[n // 2]  # at a node, the barycentric formula divides by zero

    def value(x):
        return polynomials.chebval((2 * x - low - high) / (high - low), coefficients)

    assert_allclose(chebyshev.matrix(at, points) @ value(at), value(points), atol=1e-13)


def test_truncation_removes_the_last_terms():
    n, kept = 9, 6
    at = chebyshev.nodes(-1, 1, n)
    coefficients = np.random.default_rng(1).normal(size=n)
    found = chebyshev.truncation(n, kept) @ polynomials.chebval(at, coefficients)
    order = polynomials.chebval(at, coefficients[:kept])
    assert_allclose(found, order, atol=1e-13)


@pytest.mark.parametrize("n_phases", [1, 2, 4])
def test_chi2_from_products_is_that_of_a_bounded_solver(small, q, n_phases):
    rng = np.random.default_rng(n_phases)
    blanks = {"solvent": np.exp(-((q - 3) ** 2)), "air": 1 / q}
    model = small.model(q, 5 + rng.normal(size=len(q)), np.full(len(q), 0.7),
                        [small.phase(small.cscl())], background=small.background(3, (), blanks))
    patterns = rng.normal(size=(50, n_phases, len(q))) + 0.3
    projected, dependent = model.linear.projected(patterns)
    chi2, active, singular = model.linear.solved(model.linear.products(projected))
    assert not dependent.any() and not singular.any()
    fixed = {0: rng.uniform(0, 2, 50)}
    partly, _, _ = model.linear.solved(model.linear.products(projected), fixed)
    columns = np.column_stack([model.background.free_columns(model.observation)[1],
                               *blanks.values()])
    for k in range(50):
        for fixed_scale, found in ((None, chi2[k]), (fixed[0][k], partly[k])):
            own = patterns[k] if fixed_scale is None else patterns[k][1:]
            y = model.observation.intensity - (
                0 if fixed_scale is None else fixed_scale * patterns[k][0])
            design = np.column_stack([columns, *own]) / 0.7
            lower = np.r_[[-np.inf] * 3, np.zeros(design.shape[1] - 3)]
            solved = lsq_linear(design, y / 0.7, (lower, np.inf), method="bvls", tol=1e-14)
            assert found == pytest.approx(2 * solved.cost, rel=1e-9)
            if fixed_scale is None:
                assert active[k] == np.count_nonzero(solved.x[3:] > 1e-12) + 3


# --- maps -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noisy(small, q):
    pattern = small.pbnm_intensity(q)
    return small.counts(pattern, background=2000)


#: Relative error of a distance; at the default, patterns of so few atoms are rough at 1e-6.
FINE = 1e-7


@pytest.fixture(scope="module")
def model(small, q, noisy):
    return small.model(q, *noisy, [small.phase(small.pbnm(), (2, 2, 2))],
                       background=small.background(3), tolerance=FINE)


@pytest.fixture(scope="module")
def two_phases(small, q, noisy):
    blanks = {"solvent": 900 * np.exp(-((q - 2.2) ** 2)), "air": 300 / q}
    return small.model(
        q, *noisy, [small.phase(small.pbnm(), (2, 2, 2)), small.phase(small.cscl(), name="S")],
        background=small.background(2, (), blanks), tolerance=FINE)


def line(name, low, high, n):
    return Axis(name, np.linspace(low, high, n))


def angle(model, n, *, equal=True):
    quantities = {one.full_name: one for one in crystal_quantities(
        model, model.phases[0], model.start, distances=[("Pb", "Br_eq")],
        angles_=[("Pb", "Br_eq", "Pb")])}
    pair = (quantities["P.d(Pb-Br_eq)_1"], quantities["P.d(Pb-Br_eq)_2"])
    return QuantityAxis(quantities["P.angle(Pb-Br_eq-Pb)_1"], np.linspace(157, 167, n), (X, Y),
                        equal=(pair,) if equal else ())


def corners(*places):
    return tuple({X: x, Y: y} for x, y in places)


#: Axes of maps by name: model fixture, axes, and whether they are interpolated.
MAPS = {
    "x y B": ("model", [line(X, 0.27, 0.31, 20), line(Y, 0.19, 0.23, 20), line(B, 1, 3, 5)], True),
    "wide x": ("model", [line(X, 0.2, 0.35, 200), line(B, 1, 3, 3)], True),
    "a b": ("model", [line("P.a", 8.15, 8.25, 20), line("P.b", 8.35, 8.45, 20)], True),
    "many B": ("model", [line(X, 0.27, 0.31, 200), line(B, 0.5, 4, 40)], True),
    "joint B": ("model", [line("P.Cs.B_iso", 1, 6, 8), line(X, 0.27, 0.31, 160), line(B, 1, 3, 7)],
                True),
    "occupancy": ("model", [line("P.Br_ax.occupancy", 0.6, 1, 9), line(X, 0.27, 0.31, 160)], True),
    "scale": ("model", [line("P.scale", 0, 900, 5), line(X, 0.27, 0.31, 160)], True),
    "angle": ("model", None, True),
    "path": ("model", [PathAxis(corners((0.25, 0.25), (0.32, 0.18)), np.linspace(0, 1, 160)),
                       line(B, 1, 3, 4)], True),
    "path with a corner": ("model", [PathAxis(
        corners((0.27, 0.23), (0.29, 0.21), (0.31, 0.23)), np.linspace(0, 1, 161))], None),
    "two phases": ("two_phases", [line(X, 0.27, 0.31, 20), line("S.a", 4.0, 4.2, 20),
                                  line("S.Cs.B_iso", 0.5, 2, 3)], True),
    "few points": ("model", [line(X, 0.27, 0.31, 12), line(Y, 0.19, 0.23, 12)], False),
}


@pytest.fixture(params=MAPS)
def case(request):
    fixture, axes, way = MAPS[request.param]
    model = request.getfixturevalue(fixture)
    return model, [angle(model, 160), line(B, 1, 3, 3)] if axes is None else axes, way


def test_a_map_agrees_with_every_point(case):
    model, axes, way = case
    found, exact = scan(model, axes), scan(model, axes, direct=True)
    assert exact.interpolation is None and "direct" in exact.direct_reason
    assert found.complete
    assert_allclose(found.gof, exact.gof, rtol=1e-6)
    assert_array_equal(found.n_active, exact.n_active)
    assert found.lowest == exact.lowest
    assert found.minimum["gof"] == pytest.approx(exact.minimum["gof"], rel=1e-9)
    if way is not None:
        assert (found.interpolation is not None) is way, found.direct_reason
    if found.interpolation is None:
        assert found.direct_reason
        assert_array_equal(found.gof, exact.gof)
        return
    assert found.interpolation.error <= 1e-6 and found.interpolation.n_checked >= 32
    outer = np.prod([found.grid.shape[k] for k in found.grid.outer])
    assert found.interpolation.n_exact < 0.6 * outer


def test_ties_and_fixed_scales_are_followed(small, q, noisy):
    model = small.model(
        q, *noisy, [small.phase(small.pbnm(), (2, 2, 2))], background=small.background(3),
        constraints={Y: f"0.5 - {X}", "P.Br_ax.B_iso": f"{B} + 0.5"},
        fixed_scales={"P": 300.0}, tolerance=FINE)
    axes = [line(X, 0.27, 0.31, 200), line(B, 1, 3, 4)]
    found, exact = scan(model, axes), scan(model, axes, direct=True)
    assert found.interpolation is not None
    assert_allclose(found.gof, exact.gof, rtol=1e-6)


def test_sizes_are_interpolated_or_computed(small, q, noisy):
    phase = CrystalPhase("P", small.pbnm(), ParallelepipedPopulation(),
                         {"L_ab": 2.0, "sd_ab": 0.4, "L_c": 2.2, "sd_c": 0.4,
                          "size_axes_rotation": 0.0})
    model = small.model(q, *noisy, [phase], background=small.background(3))
    axes = [line("P.L_ab", 1.6, 2.4, 16), line(X, 0.27, 0.31, 16)]
    found, exact = scan(model, axes), scan(model, axes, direct=True)
    assert_allclose(found.gof, exact.gof, rtol=1e-6)


def test_four_axes(model):
    axes = [line(X, 0.27, 0.31, 15), line(Y, 0.19, 0.23, 14), line(Z, 0.47, 0.50, 13),
            line(B, 1, 3, 3)]
    found = scan(model, axes)
    assert found.interpolation is not None and found.gof.shape == (15, 14, 13, 3)
    rng = np.random.default_rng(3)
    for _ in range(12):
        at = tuple(int(rng.integers(n)) for n in found.gof.shape)
        single = [Axis(a.parameter, a.values[[i]]) for a, i in zip(axes, at, strict=True)]
        assert found.gof[at] == pytest.approx(scan(model, single, direct=True).gof.item(), rel=1e-6)


# --- the certificate -------------------------------------------------------------------------------


@pytest.fixture
def few_nodes(monkeypatch):
    """Three nodes on each interpolated axis, which are too few."""
    asked = []

    def few(exact, tolerance):
        asked.append(Nodes((3,) * len(exact.grid.shape)))
        return asked[-1]

    monkeypatch.setattr(certificate, "chosen_nodes", few)
    return asked


def test_a_map_with_too_few_nodes_fails_its_certificate_and_is_repaired(model, few_nodes):
    axes = [line(X, 0.27, 0.31, 40), line(Y, 0.19, 0.23, 40)]
    found, exact = scan(model, axes), scan(model, axes, direct=True)
    assert few_nodes == [Nodes((3, 3))]
    assert min(found.interpolation.nodes) > 3 and found.interpolation.error <= 1e-6
    assert_allclose(found.gof, exact.gof, rtol=1e-6)


def test_a_map_that_cannot_be_certified_is_computed_point_by_point(model, few_nodes):
    axes = [line(X, 0.2, 0.36, 15), line(Y, 0.14, 0.30, 15)]
    found, exact = scan(model, axes), scan(model, axes, direct=True)
    assert few_nodes and found.interpolation is None and found.direct_reason
    assert_allclose(found.gof, exact.gof, rtol=1e-9)


def test_a_map_that_is_rougher_than_the_certificate_permits_is_computed(model):
    axes = [line(X, 0.27, 0.31, 160)]
    found, exact = scan(model, axes, tolerance=1e-12), scan(model, axes, direct=True)
    assert found.interpolation is None and found.direct_reason
    assert_allclose(found.gof, exact.gof, rtol=1e-9)


def test_the_checked_points_are_spread_over_the_grid():
    found = np.array(certificate._spread([100, 80, 60], 33))
    assert len(found) == len({tuple(at) for at in found}) == 33
    assert {tuple(at) for at in found} >= {(0, 0, 0), (99, 79, 59), (0, 79, 0)}
    for k, size in enumerate((100, 80, 60)):  # every fifth of every axis is visited
        assert set((5 * found[:, k] // size).tolist()) == set(range(5))


# --- faults ----------------------------------------------------------------------------------------


def test_a_stopped_map_can_be_continued(model):
    axes = [line(X, 0.27, 0.31, 20), line(Y, 0.19, 0.23, 20)]
    asked = []

    def stop():
        asked.append(None)
        return "walltime" if len(asked) > 20 else None

    part = scan(model, axes, should_stop=stop)
    assert part.stop_reason == "walltime" and not part.complete
    whole = scan(model, axes, finished=part)
    assert whole.complete and whole.stop_reason == "complete"
    assert_allclose(whole.gof, scan(model, axes, direct=True).gof, rtol=1e-6)


def test_the_map_is_the_same_bit_by_bit_for_any_number_of_threads(model):
    axes = [line(X, 0.27, 0.31, 16), line(Y, 0.19, 0.23, 16), line(B, 1, 3, 4)]
    one, three = (scan(model, axes, resources=Resources(n)) for n in (1, 3))
    assert one.interpolation == three.interpolation is not None
    assert_array_equal(one.gof, three.gof)


def test_without_memory_for_the_nodes_every_point_is_computed(model):
    axes = [line(X, 0.27, 0.31, 16), line(Y, 0.19, 0.23, 16)]
    found = scan(model, axes, resources=Resources(1, memory=1e5))
    assert found.interpolation is None and "memory" in found.direct_reason


def test_progress_counts_the_geometries_and_then_the_points(model):
    seen = []
    scan(model, [line(X, 0.27, 0.31, 20), line(Y, 0.19, 0.23, 20)], on_progress=seen.append)
    counts = [one.computed for one in seen]
    assert counts == sorted(counts) and counts[-1] > 60
    assert all(one.total == 400 for one in seen) and np.isnan(seen[0].best_gof)


def test_a_pattern_that_equals_the_background_is_not_interpolated(small, q, noisy):
    """A phase whose pattern lies in the span of the background has no reliable normal equations."""
    smooth = small.phase(small.cscl(b=(90.0, 90.0)), (1, 1, 1))
    model = small.model(q, *noisy, [smooth], background=small.background(14))
    axes = [line("P.a", 4.0, 4.2, 160)]
    found, exact = scan(model, axes), scan(model, axes, direct=True)
    assert_allclose(found.gof, exact.gof, rtol=1e-6)


def test_finished_points_of_another_way_are_kept(model):
    axes = [line(X, 0.27, 0.31, 16), line(Y, 0.19, 0.23, 16)]
    exact = scan(model, axes, direct=True)
    chi2 = exact.chi2.copy()
    chi2[8:] = np.nan
    part = replace(exact, chi2=chi2, gof=np.where(np.isnan(chi2), np.nan, exact.gof))
    found = scan(model, axes, finished=part)
    assert "earlier" in found.direct_reason
    assert_array_equal(found.gof[:8], exact.gof[:8])
    assert_allclose(found.gof, exact.gof, rtol=1e-9)


def test_a_complete_map_is_not_computed_again_and_keeps_its_certificate(model, monkeypatch):
    axes = [line(X, 0.27, 0.31, 20), line(Y, 0.19, 0.23, 20)]
    whole = scan(model, axes)
    monkeypatch.setattr(type(model), "states", lambda *_: pytest.fail("a pattern was computed"))
    again = scan(model, axes, finished=whole)
    assert again.interpolation == whole.interpolation is not None
    assert_array_equal(again.gof, whole.gof)
