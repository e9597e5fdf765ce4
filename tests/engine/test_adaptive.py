"""Coarse-to-fine maps against full ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from aiida_dse.engine.maps.adaptive import filled, levels, rounds
from aiida_dse.engine.maps.axes import Axis, QuantityAxis
from aiida_dse.engine.maps.grid import grid_of
from aiida_dse.engine.maps.minima import basins, quadratic_minimum
from aiida_dse.engine.maps.scan import scan
from aiida_dse.engine.model.quantities import crystal_quantities


def walked(chi2, reachable=None, n_dof=100):
    """Which points of a known map an adaptive scan would compute, and the map it would give."""
    reachable = np.ones(chi2.shape, dtype=bool) if reachable is None else reachable
    seen = np.zeros(chi2.shape, dtype=bool)
    for points in rounds(lambda: np.where(seen, chi2, np.nan), reachable, n_dof):
        for at in points:
            assert not seen[at] and reachable[at], "asked for twice, or out of reach"
            seen[at] = True
    return seen, filled(np.where(seen, chi2, 0.0), seen | ~reachable, levels(chi2.shape))


def two_valleys(n=65, m=51, tilt=0.7):
    """Narrow, tilted valleys whose floors differ."""
    x, y = np.meshgrid(np.linspace(-2, 2, n), np.linspace(-1.5, 1.5, m), indexing="ij")
    u, v = x + tilt * y, y - tilt * x
    return 1000 + 900 * (u**2 - 1) ** 2 + 4000 * v**2 + 150 * u


@pytest.mark.parametrize("tilt", [0.0, 0.7, -1.3])
def test_minima_saddles_and_their_surroundings_are_those_of_the_full_map(tilt):
    chi2 = two_valleys(tilt=tilt)
    seen, map_ = walked(chi2)
    full, found = basins(chi2, 100), basins(map_, 100)
    assert len(full) == 2
    assert [b.at for b in found] == [b.at for b in full]
    assert found[1].saddle == full[1].saddle and seen[found[1].saddle]
    assert_array_equal(map_[seen], chi2[seen])
    assert (~seen).mean() > 0.5
    axes = [np.linspace(-2, 2, 65), np.linspace(-1.5, 1.5, 51)]
    one, other = quadratic_minimum(axes, chi2), quadratic_minimum(axes, map_)
    assert_allclose(other.position, one.position, atol=1e-12)
    assert_allclose(other.su, one.su)


def test_interpolated_points_are_never_the_lowest_and_close_to_the_truth():
    chi2 = two_valleys()
    seen, map_ = walked(chi2)
    assert map_[~seen].min() > chi2.min()
    assert np.median(np.abs(map_ / chi2 - 1)[~seen]) < 0.05


def test_points_out_of_reach_are_never_asked_for():
    chi2 = two_valleys()
    reachable = np.ones(chi2.shape, dtype=bool)
    reachable[:12, 30:] = False
    seen, _ = walked(np.where(reachable, chi2, np.nan), reachable)
    assert not (seen & ~reachable).any()
    assert seen[np.unravel_index(np.argmin(np.where(reachable, chi2, np.inf)), chi2.shape)]


def test_an_axis_of_few_points_is_computed_whole():
    for shape in ((5,), (1, 7), (4, 3)):
        assert len(levels(shape)) == 1
    assert [len(grid[0]) for grid in levels((100,))] == [14, 26, 51, 100]


@pytest.fixture(scope="module")
def model(small, q):
    data = small.counts(small.cscl_intensity(q, occupancy=0.8), background=300 + 0 * q, seed=9)
    return small.model(q, *data, [small.phase(small.cscl(occupancy=0.8))],
                       background=small.background(2))


AXES = [Axis("P.a", np.linspace(4.0, 4.3, 61)), Axis("P.Cs.B_iso", np.array([0.5, 1.0, 1.5, 2.0]))]


def test_an_adaptive_scan_agrees_with_the_full_one(model):
    full, found = scan(model, AXES), scan(model, AXES, adaptive=True)
    assert found.complete and found.minimum == full.minimum
    assert_allclose(found.chi2[found.evaluated], full.chi2[found.evaluated], rtol=1e-9)
    assert 0 < found.evaluated.sum() < 0.8 * full.chi2.size
    assert full.evaluated is None
    # a point's whole sweep over B is computed, or none of it
    assert_array_equal(found.evaluated.all(axis=1), found.evaluated.any(axis=1))


def test_an_adaptive_scan_that_was_stopped_goes_on(model):
    blocks = []
    part = scan(model, AXES, adaptive=True, on_block=blocks.append,
                should_stop=lambda: "walltime" if len(blocks) >= 5 else None)
    assert part.stop_reason == "walltime" and not part.complete
    done = np.isfinite(part.chi2).sum()
    counts = []
    found = scan(model, AXES, adaptive=True, finished=part,
                 on_progress=lambda progress: counts.append(progress.done))
    whole = scan(model, AXES, adaptive=True)
    assert 0 < done < counts[0] <= counts[-1] == whole.evaluated.sum()
    assert_array_equal(found.evaluated, whole.evaluated)
    assert_allclose(found.chi2, whole.chi2, rtol=1e-9)
    # a finished one computes nothing
    again = scan(model, AXES, adaptive=True, finished=found, on_block=blocks.clear)
    assert len(blocks) >= 5
    assert_allclose(again.chi2, found.chi2)


def test_a_scan_of_cheap_axes_alone_is_never_thinned(model):
    axis = Axis("P.Cs.B_iso", np.linspace(0.5, 2, 40))
    found = scan(model, [axis], adaptive=True)
    assert_allclose(found.gof, scan(model, [axis]).gof)


def test_unreachable_points_stay_empty(small, q):
    data = small.counts(small.pbnm_intensity(q))
    model = small.model(q, *data, [small.phase(small.pbnm(), (2, 2, 2))])
    known = crystal_quantities(model, model.phases[0], model.start, distances=[("Pb", "Br_eq")])
    values = np.concatenate([np.linspace(2.9, 3.0, 41), [4.4, 4.5, 4.6]])
    grid = grid_of(model, [QuantityAxis(known[1], values, ("P.Br_eq.x", "P.Br_eq.y"))])
    found = scan(model, grid, adaptive=True)
    assert found.complete and np.isnan(found.gof[-3:]).all() and np.isfinite(found.gof[:-3]).all()
    assert found.evaluated.sum() < 41
