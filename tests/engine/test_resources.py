"""Resources decide how fast a result comes, never what it is or which inputs are accepted."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.maps.axes import Axis
from aiida_dse.engine.maps.scan import scan
from aiida_dse.engine.memo import Memo
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import AtomListPhase
from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.particles import sphere_counting, sphere_shells, vector_groups
from aiida_dse.engine.particles.parallelepipeds import ParallelepipedPopulation
from aiida_dse.engine.particles.spheres import SpherePopulation
from aiida_dse.engine.resources import Resources, spread

THREADS = [1, 2, 3, 5]
BLOCK = {"L_ab": 3.5, "sd_ab": 0.6, "L_c": 3.8, "sd_c": 0.6, "size_axes_rotation": 0.0}


def phase_of(small, kind):
    crystal = small.pbnm()
    if kind == "parallelepipeds":
        return CrystalPhase("P", crystal, ParallelepipedPopulation(), BLOCK)
    if kind == "spheres":
        shape = SpherePopulation((0.1, 0.3, 0.4))
        return CrystalPhase("P", crystal, shape, {"D": 2.0, "sd_D": 0.3})
    cells = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    atoms = (cells[:, None] + crystal.positions()).reshape(-1, 3) @ crystal.cell.matrix.T
    return AtomListPhase(
        "P", tuple(s.label for s in crystal.sites), tuple(s.ion for s in crystal.sites),
        np.tile(crystal.site_of_atom, len(cells)), atoms, (1.0,) * 4, (1.0,) * 4,
    )


def bits(*arrays):
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


@pytest.mark.parametrize("kind", ["parallelepipeds", "spheres", "atoms"])
def test_patterns_are_the_same_bit_by_bit_for_any_number_of_threads(kind, small):
    q = np.linspace(0.5, 17.0, 800)
    known = set()
    for threads in THREADS:
        phase = phase_of(small, kind)
        sampling = Sampling(q, 0.7, resources=Resources(threads))
        values = dict(phase.start)
        state = phase.state(values, sampling)
        model = small.model(q, np.ones(len(q)), np.ones(len(q)), [phase],
                            resources=Resources(threads))
        found = [state.sums, state.atoms, model.intensity(0, state, model.start)]
        if isinstance(phase, CrystalPhase):
            found += [state.counts.tables, *phase.histograms(values, 0.011, Resources(threads))]
        else:
            found.append(phase.histograms(0.011, Resources(threads)))
        known.add(bits(*found))
    assert len(known) == 1


def test_channels_are_the_same_whether_computed_alone_or_together(small):
    """A moved site recomputes its channels only; they are those of a fresh start, bit by bit."""
    phase = phase_of(small, "parallelepipeds")
    q = np.linspace(0.5, 17.0, 300)
    values = dict(phase.start)
    before = phase.state(values, Sampling(q, 0.7))
    moved = values | {"Br_ax.x": values["Br_ax.x"] + 0.01}
    fresh = phase.state(moved, Sampling(q, 0.7, resources=Resources(2)))
    assert bits(phase.state(moved, Sampling(q, 0.7), before).sums) == bits(fresh.sums)


def test_the_work_is_really_cut_into_pieces(small, monkeypatch):
    """Otherwise the equality of bits above would compare nothing."""
    from aiida_dse.engine.scattering import histograms

    pieces = []
    original = Resources.ordered

    def counted(self, work, items, **options):
        pieces.append(len(items))
        return original(self, work, items, **options)

    monkeypatch.setattr(Resources, "ordered", counted)
    monkeypatch.setattr(histograms, "DISTANCES_PER_BIN", 2)
    for kind in ("parallelepipeds", "spheres", "atoms"):
        pieces.clear()
        sphere_shells._known.clear()
        phase_of(small, kind).state(dict(phase_of(small, kind).start),
                                    Sampling(np.linspace(0.5, 9, 50), 0.7, resources=Resources(2)))
        assert max(pieces) > 4, kind


@pytest.fixture(scope="module")
def map_model(small):
    q = np.linspace(0.8, 9.0, 200)
    intensity, sigma = small.counts(small.cscl_intensity(q, n=3))
    return small.model(q, intensity, sigma, [small.phase(small.cscl())],
                       background=small.background(2))


@pytest.mark.parametrize("refined", [(), ("P.Cl.B_iso",)])
def test_maps_are_the_same_bit_by_bit_for_any_number_of_threads(refined, map_model):
    axes = [Axis("P.a", np.linspace(4.10, 4.14, 41)),
            Axis("P.Cs.B_iso", np.linspace(0.8, 1.2, 3))]
    known = {
        bits(found.chi2, found.n_active, *found.refined.values())
        for threads in THREADS
        for found in [scan(map_model, axes, refine_at_each_point=refined,
                           resources=Resources(threads))]
    }
    assert len(known) == 1


def test_a_refinement_is_the_same_bit_by_bit(small):
    q = np.linspace(0.8, 9.0, 200)
    intensity, sigma = small.counts(small.cscl_intensity(q, n=3))
    known = set()
    for threads in THREADS:
        model = small.model(q, intensity, sigma, [small.phase(small.cscl(a=4.13))],
                            resources=Resources(threads))
        found = refine(model, [["P.a", "P.*.B_iso"]])
        known.add(bits(np.array(list(found.values.values())), found.covariance.matrix))
    assert len(known) == 1


def test_the_environment_decides_nothing_inside_the_engine(small, monkeypatch):
    """More threads than cores, little memory, any environment: the same spheres are accepted."""
    for name in ("DSE_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "512")
    phase = phase_of(small, "spheres")
    found = {
        bits(phase.family.pair_counts(phase.crystal, phase.sizes, resources).tables)
        for resources in (Resources(1), Resources(64), Resources(3, memory=1.0))
    }
    assert len(found) == 1


def test_one_table_of_pairs_has_a_limit_of_its_own(small, monkeypatch):
    phase = phase_of(small, "spheres")
    monkeypatch.setattr(sphere_shells, "MOST_BYTES", 0.0)
    monkeypatch.setattr(sphere_shells, "_known", [])
    monkeypatch.setattr(sphere_counting, "MAX_TABLE_BYTES", 1e4)
    for threads in THREADS:
        with pytest.raises(ValueError, match="GB of pair tables; the limit"):
            phase.family.pair_counts(phase.crystal, phase.sizes, Resources(threads))


def test_no_more_threads_run_than_were_given(small, monkeypatch):
    """Sphere counting included, and nested work does not multiply them."""
    seen = set()
    most = 0
    lock = threading.Lock()
    original = vector_groups._count_by_shell

    def watched(*arguments):
        nonlocal most
        with lock:
            seen.add(threading.get_ident())
            most = max(most, len(seen))
        original(*arguments)
        time.sleep(1e-4)
        with lock:
            seen.discard(threading.get_ident())

    monkeypatch.setattr(vector_groups, "_count_by_shell", watched)
    phase = phase_of(small, "spheres")
    for threads in (1, 2, 3):
        most = 0
        sphere_shells._known.clear()
        phase.family.pair_counts(phase.crystal, phase.sizes, Resources(threads))
        assert most == threads
    q = np.linspace(0.8, 9.0, 60)
    model = small.model(q, np.ones(60), np.ones(60), [phase], resources=Resources(4))
    most = 0
    sphere_shells._known.clear()
    scan(model, [Axis("P.D", np.linspace(1.9, 2.1, 6))], resources=Resources(2))
    assert 1 <= most <= 2


def test_little_memory_means_fewer_workers():
    assert Resources(8, memory=1e9).workers(100, 3e8) == 3
    assert Resources(8, memory=1e9).workers(100, 1e12) == 1
    assert Resources(8, memory=1e9).workers(2) == 2
    assert Resources(8, memory=1e9).share(4) == Resources(2, 2.5e8)
    assert Resources(2, memory=1e9).share(8) == Resources(1, 1.25e8)


def test_ordered_work_keeps_its_order_and_waits_to_be_taken():
    started = []

    def work(item):
        started.append(item)
        time.sleep(0.002 * (5 - item % 5))
        return item

    found = []
    for item in Resources(3).ordered(work, range(20)):
        assert len(started) <= item + 3 + 1
        found.append(item)
    assert found == list(range(20))


def test_resources_from_the_environment():
    made = Resources.from_environment
    assert made(3, {"DSE_NUM_THREADS": "7"}).threads == 3
    assert made(None, {"DSE_NUM_THREADS": "7", "OMP_NUM_THREADS": "5"}).threads == 7
    assert made(None, {"DSE_NUM_THREADS": "none", "OMP_NUM_THREADS": "5"}).threads == 5
    assert made(None, {}).threads >= 1
    assert made(None, {"DSE_MEMORY": "2.5"}).memory == 2.5e9
    with pytest.raises(ValueError, match="DSE_MEMORY is '8GB'"):
        made(None, {"DSE_MEMORY": "8GB"})
    with pytest.raises(ValueError, match="at least 1"):
        Resources(0)
    with pytest.raises(ValueError, match="above 0"):
        Resources(1, 0.0)


def test_an_error_in_spread_work_is_raised():
    def work(item, stopping):
        raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError):
        spread(work, [1, 2, 3], on_done=lambda *_: None, resources=Resources(2))


def test_a_memo_computes_once_and_forgets_the_oldest():
    memo, computed = Memo(2), []

    def compute(key):
        time.sleep(0.01)
        computed.append(key)
        return key * 10

    threads = [threading.Thread(target=lambda: memo.get(1, lambda: compute(1))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [1]
    assert [memo.get(key, lambda key=key: compute(key)) for key in (2, 1, 3, 1, 2)] \
        == [20, 10, 30, 10, 20]
    assert computed == [1, 2, 3, 2] and len(memo) == 2
    with pytest.raises(ZeroDivisionError):
        memo.get(9, lambda: 1 / 0)
    assert memo.get(9, lambda: 90) == 90


def test_threads_of_a_scan_share_one_sampling_of_an_atom_list(small, monkeypatch):
    from aiida_dse.engine.model import fixed_geometry

    calls = []
    original = fixed_geometry.atom_histograms

    def counted(*arguments, **options):
        calls.append(1)
        time.sleep(0.05)
        return original(*arguments, **options)

    monkeypatch.setattr(fixed_geometry, "atom_histograms", counted)
    q = np.linspace(0.8, 9.0, 60)
    model = small.model(q, np.ones(60), np.ones(60), [phase_of(small, "atoms")])
    scan(model, [Axis("P.lattice_scale", np.linspace(0.99, 1.01, 8))],
         resources=Resources(4))
    assert len(calls) == 1


def test_a_scan_keeps_a_bounded_number_of_damping_factors(map_model, monkeypatch):
    from aiida_dse.engine.maps import points as module

    memos = []

    class Watched(Memo):
        def __init__(self, size):
            super().__init__(size)
            memos.append(self)

    monkeypatch.setattr(module, "Memo", Watched)
    monkeypatch.setattr(module, "DAMPING_KEPT", 4)
    axes = [Axis("P.a", np.linspace(4.1, 4.14, 3)),
            Axis("P.Cs.B_iso", np.linspace(0.5, 2, 30))]
    scan(map_model, axes)
    assert memos and all(0 < len(memo) <= 4 for memo in memos)
