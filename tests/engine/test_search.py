"""Many starts find the minima there are, and tell them apart."""

from __future__ import annotations

import pytest

from aiida_dse.engine.fit.multistart import multi_start


@pytest.fixture(scope="module")
def model(small, q):
    """CsCl made with a = 4.12 Å, B = 1 and 2 Å^2."""
    data = small.counts(small.cscl_intensity(q, 4), peak=1e5, background=100 + 0 * q, seed=5)
    return small.model(q, *data, [small.phase(small.cscl(a=4.13), cells=(4, 4, 4))],
                       background=small.background(1))


def test_starts_of_one_valley_are_one_minimum(model):
    found = multi_start(model, [["P.a"], ["P.*.B_iso"]], 5, seed=1)
    assert len(found.minima) == 1 and found.minima[0].starts == (0, 1, 2, 3, 4)
    best = found.minima[0].refinement
    assert abs(best.values["P.a"] - 4.12) < 4 * best.free[0].su
    assert not found.failures and found.stop_reason == "complete"
    assert found.starts[0].tolist() == [model.start[name] for name in found.names]


def test_the_interchange_of_a_and_b_is_a_minimum_of_its_own(small, q):
    """A pseudo-cubic perovskite fits with a and b interchanged, and worse."""
    intensity = small.pbnm_intensity(q, cells=(3, 3, 2))
    data = small.counts(intensity, peak=1e5, background=100 + 0 * q, seed=5)
    model = small.model(q, *data, [small.phase(small.pbnm(), cells=(3, 3, 2))],
                        background=small.background(1))
    true = {name: model.start[name] for name in ("P.a", "P.b")}
    box = (min(true.values()) - 0.05, max(true.values()) + 0.05)
    found = multi_start(model, [["P.[ab]"], ["P.Br_eq.[xyz]", "P.Br_ax.[xy]", "P.Cs.[xy]"]], 16,
                        seed=1, boxes={"P.a": box, "P.b": box})
    assert len(found.minima) > 1
    best = found.minima[0].refinement.values
    assert {name: best[name] for name in true} == pytest.approx(true, abs=0.02)
    chi2 = [minimum.chi2 for minimum in found.minima]
    assert chi2 == sorted(chi2) and chi2[1] > 2 * chi2[0]
    assert any(m.refinement.values["P.a"] > m.refinement.values["P.b"] for m in found.minima[1:])
    assert sorted(k for m in found.minima for k in m.starts) == list(range(16))


def test_the_same_seed_yields_the_same_starts(model):
    one, other = (multi_start(model, [["P.a"]], 3, seed=7) for _ in range(2))
    assert (one.starts == other.starts).all()
    assert (one.starts != multi_start(model, [["P.a"]], 3, seed=8).starts).any()


def test_a_stop_keeps_what_was_found(model):
    found = multi_start(model, [["P.a"]], 8, should_stop=lambda: "walltime")
    assert found.stop_reason == "walltime" and len(found.minima) == 1


def test_starts_lie_within_the_bounds(model):
    for name, parameter in model.parameters.items():
        low, high = parameter.start_range(model.start[name])
        assert parameter.lower <= low < high <= parameter.upper


def test_refusals(model):
    with pytest.raises(ValueError, match="does not lie within its bounds"):
        multi_start(model, [["P.a"]], 2, boxes={"P.a": (1.0, 9.0)})
    with pytest.raises(ValueError, match="at least 1"):
        multi_start(model, [["P.a"]], 0)
