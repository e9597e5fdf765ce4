"""Cost estimates: counted work, so that the same document always yields the same estimate."""

from __future__ import annotations

import pytest

from aiida_dse.tasks.estimate import (
    NOMINAL_SPEED,
    estimate_refinement,
    point_work,
    seconds_per_point,
)
from aiida_dse.tasks.selftest import selftest, speed

POPULATION = {"P": {"structure": "CsCl.cif",
                    "particle": {"shape": "quasi_cube", "L": {"mean": 2.0, "sd": 0.3}}}}


def axes(*names, n=3):
    values = {"P.a": 4.11, "P.Cl.B_iso": 2.0, "P.L": 2.0}
    return {"axes": [{"parameter": name, "values": [values[name] * (1 + 0.001 * k)
                                                    for k in range(n)]} for name in names]}


def work(folder, *names, n=3, refine=(), **changes):
    return point_work(folder.build(scan=axes(*names, n=n) | {"refine": list(refine)}, **changes))


def test_the_same_document_yields_the_same_estimate(folder):
    assert work(folder, "P.a") == work(folder, "P.a") > 0


def test_the_counted_distances_are_those_of_the_particle(folder):
    """3 x 3 x 3 cells: each of the three pairs of sites has distances of 0 to 2 cells per axis."""
    built = folder.build(scan=axes("P.a"))
    phase = built.model.phases[0]
    state = phase.state(built.model.local(0, built.model.start), built.model.sampling)
    assert phase.distances_in(state).tolist() == [27, 27, 27]


def test_larger_particles_and_more_axes_cost_more(folder):
    small = work(folder, "P.a")
    assert work(folder, "P.a", phases=POPULATION) > small
    assert work(folder, "P.L", phases=POPULATION) > 0
    swept = work(folder, "P.a", "P.Cl.B_iso", n=3)
    assert small < swept < 3 * small
    assert work(folder, "P.a", refine=["P.Cl.B_iso"]) > 10 * small


def test_seconds_are_work_times_speed(folder):
    built = folder.build(scan=axes("P.a"))
    assert seconds_per_point(built, 1e-6) == pytest.approx(1e-6 * point_work(built), rel=1e-3)
    assert seconds_per_point(built) == pytest.approx(NOMINAL_SPEED * point_work(built), abs=1e-6)


def test_the_cost_of_a_refinement_is_proportional_to_its_starts(folder):
    once = estimate_refinement(folder.build())
    often = estimate_refinement(folder.build(
        refinement={"stages": [["P.a"], ["P.*.B_iso"]], "starts": 4}))
    assert often.evaluations == 4 * once.evaluations
    assert often.seconds == pytest.approx(4 * once.seconds)
    twice = estimate_refinement(folder.build(), 2 * NOMINAL_SPEED)
    assert twice.seconds == pytest.approx(2 * once.seconds)


def test_the_measured_speed_is_plausible():
    selftest()
    assert 1e-10 < speed() < 1e-6
