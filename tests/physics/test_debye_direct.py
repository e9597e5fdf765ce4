"""The engine's intensity against the double sum over atoms, and the limits it must obey."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from waiting import patient

from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.particles.parallelepipeds import SingleParallelepiped
from aiida_dse.engine.particles.spheres import SingleSphere
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.scattering.histograms import atom_histograms, lattice_histograms
from aiida_dse.engine.scattering.pairs import pair_classes, pair_weights, site_channels

BLOCKS = {"pbnm": (5, 4, 5), "wurtzite": (9, 8, 7), "triclinic": (7, 8, 6)}


@pytest.fixture(scope="module", params=BLOCKS)
def large(request, dse, direct):
    """A block of 2000 atoms: its name, its atoms, q and the direct sum."""
    q = dse.uneven_q(200)
    atoms = direct.block(dse.structures[request.param], *BLOCKS[request.param])
    assert 2000 <= len(atoms) <= 3000
    return request.param, atoms, q, direct.intensity(atoms, q, dse.wavelength)


def test_a_parallelepiped_scatters_like_the_sum_over_its_atoms(large, dse):
    name, _, q, expected = large
    phase = dse.phase(dse.crystals[name], SingleParallelepiped(BLOCKS[name]))
    # measured: pbnm 7e-8, wurtzite 3e-7, triclinic 1.1e-7
    assert dse.worst(dse.intensity(phase, q), expected) < 1e-6


def test_an_atom_list_scatters_like_the_sum_over_its_atoms(large, dse):
    _, atoms, q, expected = large
    assert dse.worst(dse.intensity(dse.atom_list(atoms), q), expected) < 1e-6


@pytest.mark.parametrize("name", ["pbnm", "triclinic"])
def test_a_tighter_tolerance_comes_closer(name, dse, direct):
    q = dse.uneven_q(40)
    expected = direct.intensity(direct.block(dse.structures[name], 4, 3, 3), q, dse.wavelength)
    phase = dse.phase(dse.crystals[name], SingleParallelepiped((4, 3, 3)))
    loose = dse.worst(dse.intensity(phase, q, tolerance=1e-2 / 2), expected)
    tight = dse.worst(dse.intensity(phase, q, tolerance=1e-7), expected)
    # measured: 1.2e-5 and below 5e-10
    assert tight < 1e-8 < 1e-6 < loose < 1e-3


@pytest.mark.parametrize("name", ["pbnm", "wurtzite", "triclinic"])
def test_forward_scattering_counts_every_electron(name, dse, direct):
    """q -> 0: |sum o f|^2 + sum o (1 - o) |f|^2, less its Guinier term."""
    q = np.array([1e-3, 20.0])  # the second point sets the distance grid
    structure = dse.structures[name]
    atoms = direct.block(structure, 2, 3, 2)
    f = direct.form_factors(structure.ions, q, dse.wavelength)[:, 0][atoms.site]
    o = structure.occupancy[atoms.site]
    squared = direct.all_distances(atoms.xyz) ** 2
    guinier = (np.outer(o * f, o * f.conj()).real * squared).sum() * q[0] ** 2 / 6
    expected = abs(np.sum(o * f)) ** 2 - guinier + np.sum(o * (1 - o) * abs(f) ** 2)
    phase = dse.phase(dse.crystals[name], SingleParallelepiped((2, 3, 2)))
    # left out: the Debye-Waller factor, B q^2 / (8 pi^2) = 5e-8
    assert_allclose(dse.intensity(phase, q)[0], expected, rtol=1e-7)
    assert_allclose(dse.intensity(dse.atom_list(atoms), q)[0], expected, rtol=1e-7)


def test_the_tolerance_holds_at_small_angles(dse, direct):
    """A pattern that ends at 1e-3 1/Å: the tolerance is that of a single distance (3e-5)."""
    q = np.linspace(2e-4, 1e-3, 9)
    expected = direct.intensity(direct.block(dse.structures["pbnm"], 3, 3, 2), q, dse.wavelength)
    phase = dse.phase(dse.crystals["pbnm"], SingleParallelepiped((3, 3, 2)))
    assert dse.worst(dse.intensity(phase, q), expected) < 3e-5


@pytest.mark.parametrize(
    "family", [SingleParallelepiped((3, 2, 2)), SingleSphere(1.9)], ids=["parallelepiped", "sphere"]
)
def test_without_coherence_the_self_terms_remain(family, dse, direct):
    """B -> infinity damps every pair, but the self term carries no T and one power of o."""
    q = dse.uneven_q(30)
    crystal = dse.crystals["pbnm"]
    structure = dse.structures["pbnm"]
    phase = dse.phase(crystal, family)
    huge = {f"{label}__B_iso": 1e7 for label in phase.labels}
    atoms = (
        direct.block(structure, 3, 2, 2) if isinstance(family, SingleParallelepiped)
        else direct.sphere(structure, (0, 0, 0), 9.5)
    )
    f = direct.form_factors(structure.ions, q, dse.wavelength)
    number = np.bincount(atoms.site)
    expected = (number * structure.occupancy) @ abs(f) ** 2
    assert_allclose(dse.intensity(phase, q, **huge), expected, rtol=1e-12)


def test_one_atom_scatters_its_form_factor_squared(dse, direct):
    q = dse.uneven_q(30, high=25.0)
    f = direct.form_factors(["Pb2+"], q, dse.wavelength)[0]
    crystal = dse.crystal("P 1", (4, 5, 6, 80, 95, 100), [("Pb", "Pb2+", (0.1, 0.2, 0.3), 1, 2.0)])
    phase = dse.phase(crystal, SingleParallelepiped((1, 1, 1)))
    assert_allclose(dse.intensity(phase, q), abs(f) ** 2, rtol=1e-12)
    lead = direct.Structure.of((9, 9, 9), [("Pb2+", 1.0, 2.0, [(0, 0, 0)])])
    single = direct.block(lead, 1, 1, 1)
    assert_allclose(dse.intensity(dse.atom_list(single), q), abs(f) ** 2, rtol=1e-12)


def test_a_dimer_near_an_absorption_edge(dse, direct):
    """|f_1|^2 + |f_2|^2 + 2 Re(f_1 f_2*) T_1 T_2 sin(q r)/(q r); at 0.95 Å, above Pb L_III."""
    wavelength, r, b = 0.9500, 2.983, (1.1, 2.3)
    q = dse.uneven_q(50, high=12.0)
    f = direct.form_factors(["Pb2+", "Br1-"], q, wavelength)
    assert f[0, 0].imag > 5 and f[1, 0].imag < 5
    damping = np.exp(-sum(b) * q**2 / (16 * np.pi**2))
    expected = np.sum(abs(f) ** 2, axis=0) + 2 * (f[0] * f[1].conj()).real * damping * np.sin(
        q * r
    ) / (q * r)
    crystal = dse.crystal(
        "P 1", (10, 10, 10),
        [
            ("Pb", "Pb2+", (0.1, 0.1, 0.1), 1, b[0]),
            ("Br", "Br1-", (0.1 + r / 10, 0.1, 0.1), 1, b[1]),
        ],
    )
    phase = dse.phase(crystal, SingleParallelepiped((1, 1, 1)))
    # one distance: the gridding error (3e-5 of the pair term at q_max, falling as q^4) in full view
    assert dse.worst(dse.intensity(phase, q, wavelength=wavelength), expected) < 3e-5
    tight = dse.intensity(phase, q, wavelength=wavelength, tolerance=1e-9)
    assert dse.worst(tight, expected) < 1e-8


def test_occupancy_scales_self_terms_once_and_pairs_twice(dse):
    """I(o) = o S + o^2 P for a crystal of one site."""
    q = dse.uneven_q(40)
    crystal = dse.crystal("F m -3 m", (4.078, 4.078, 4.078), [("Au", "Au", (0, 0, 0), 1, 0.6)])
    phase = dse.phase(crystal, SingleParallelepiped((3, 3, 4)))
    full = dse.intensity(phase, q)
    own = dse.intensity(phase, q, Au__B_iso=1e7)
    for o in (0.9, 0.5, 0.1):
        partial = dse.intensity(phase, q, Au__occupancy=o)
        assert_allclose(partial, o * own + o**2 * (full - own), rtol=1e-10)


def test_scaling_all_occupancies_of_a_compound(dse):
    q = dse.uneven_q(40)
    phase = dse.phase(dse.crystals["triclinic"], SingleParallelepiped((3, 3, 3)))
    base = {"Bi__occupancy": 0.8, "Fe__occupancy": 0.6, "O__occupancy": 1.0}
    flat = {f"{label}__B_iso": 1e7 for label in phase.labels}
    half = {name: value / 2 for name, value in base.items()}
    full, own = dse.intensity(phase, q, **base), dse.intensity(phase, q, **base, **flat)
    assert_allclose(dse.intensity(phase, q, **half), own / 2 + (full - own) / 4, rtol=1e-10)


@pytest.mark.parametrize("name", ["pbnm", "split"])
def test_analytic_derivatives_match_differences(name, dse):
    q = dse.uneven_q(60)
    phase = dse.phase(dse.crystals[name], SingleParallelepiped((3, 3, 2)))
    values = dse.values(phase)
    sampling = Sampling(q, dse.wavelength)
    state = phase.state(values, sampling)
    factors = phase.pair_factors(sampling)
    occupancy, b_iso = phase.occupancy_and_b(values)

    def pattern(o, b):
        return debye.debye_intensity(state.sums, factors, state.atoms, o, b, q)

    for site in range(len(phase.labels)):
        step = np.eye(len(phase.labels))[site] * 1e-4
        slope = debye.b_derivative(state.sums, factors, occupancy, b_iso, q, site)
        difference = (pattern(occupancy, b_iso + step) - pattern(occupancy, b_iso - step)) / 2e-4
        assert_allclose(slope, difference, atol=1e-6 * abs(difference).max())
        slope = debye.occupancy_derivative(
            state.sums, factors, state.atoms, occupancy, b_iso, q, site
        )
        difference = (pattern(occupancy + step, b_iso) - pattern(occupancy - step, b_iso)) / 2e-4
        assert_allclose(slope, difference, atol=1e-6 * abs(difference).max())


@pytest.mark.parametrize(
    ("name", "cells"), [("pbnm", (3, 4, 2)), ("wurtzite", (5, 4, 4)), ("triclinic", (4, 3, 5))]
)
def test_difference_vectors_and_the_double_loop_fill_one_histogram(name, cells, dse, direct):
    """Both routes put the same distances on the same grid, channel by channel and bin by bin."""
    step = 0.02
    crystal, atoms = dse.crystals[name], direct.block(dse.structures[name], *cells)
    counts = SingleParallelepiped(cells).pair_counts(crystal, {})
    classes = pair_classes(crystal, counts, {})
    channels = site_channels(len(crystal.sites))
    by_vectors = lattice_histograms(
        crystal.cell.matrix, crystal.positions(), classes, pair_weights(counts, classes),
        list(range(len(channels))), step=step,
    )
    number = np.zeros((len(crystal.sites),) * 2, dtype=np.int64)
    for k, (s, t) in enumerate(channels):
        number[s, t] = number[t, s] = k
    by_pairs = atom_histograms(atoms.xyz, number, atoms.site, len(channels), step=step)
    n = min(by_vectors.shape[1], by_pairs.shape[1])
    assert abs(by_vectors[:, n:]).sum() == abs(by_pairs[:, n:]).sum() == 0
    # a distance on a bin edge may fall to either side: the spline is continuous there
    assert_allclose(by_vectors[:, :n], by_pairs[:, :n], atol=1e-9 * by_pairs.max())


OUTSIDE = """
import numpy as np, xraydb
from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.particles.parallelepipeds import SingleParallelepiped
crystal = Crystal(Cell(6, 7, 8), ("x,y,z",), (
    Site("A", "Pb2+", (0.05, 0.05, 0.05), 1, 0.0), Site("B", "Pb2+", (0.9, 0.9, 0.95), 1, 0.0)))
phase = CrystalPhase("p", crystal, SingleParallelepiped((1, 1, 1)), {})
values = phase.start
for axis in "xyz":
    values["A." + axis] -= 0.12
    values["B." + axis] += 0.12
for p in phase.parameters:
    assert p.lower <= values[p.name.local] <= p.upper
q = np.linspace(0.3, 20, 60)
sampling = Sampling(q, 0.56456)
state = phase.state(values, sampling)
r = np.linalg.norm(np.array([1.09, 1.09, 1.14]) * [6, 7, 8])
print(np.abs(state.sums[1] - np.sin(q * r) / (q * r)).max())
"""


def test_atoms_may_move_out_of_the_cell_they_started_in():
    """The longest distance then exceeds that of the starting cell corners; it must fit the grid.

    In a process of its own, because a distance beyond the grid is written beyond the array.
    """
    run = subprocess.run(
        [sys.executable, "-c", OUTSIDE], capture_output=True, text=True, timeout=patient(200)
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1e-5


# --- DebyeCalculator ---------------------------------------------------------------------------


def _debye_calculator(**options):
    try:
        from debyecalculator import DebyeCalculator
    except ImportError as problem:
        pytest.skip(f"DebyeCalculator cannot be imported: {str(problem).strip()[:80]}")
    return DebyeCalculator(device="cpu", qmin=0.5, qmax=18.0, qstep=0.05, **options)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_debye_calculator_yields_half_the_intensity(precision, dse, direct):
    """DebyeCalculator: f0 alone (no f', f''), one B for all, sum over i < j, half the self term.

    So the engine's sine sums and f0^2 stand in; the q are DebyeCalculator's own float32 values.
    """
    if precision == "float32":
        calculator = _debye_calculator(biso=1.4)
    else:
        torch = pytest.importorskip("torch")
        calculator = _debye_calculator(biso=1.4, dtype=torch.float64)
    structure = dse.structures["wurtzite"]
    atoms = direct.block(structure, 6, 6, 4)
    symbols = np.array(["Cd", "Se"])[atoms.site]
    theirs = calculator.iq((list(symbols), atoms.xyz))
    q = np.asarray(theirs.q, dtype=float)
    phase = dse.phase(dse.crystals["wurtzite"], SingleParallelepiped((6, 6, 4)))
    sampling = Sampling(q, dse.wavelength)
    state = phase.state(dse.values(phase), sampling)
    f0 = direct.form_factors(["Cd", "Se"], q, dse.wavelength)
    f0 = f0.real - np.array([
        direct.xraydb.f1_chantler(s, direct.HC / dse.wavelength) for s in ("Cd", "Se")
    ])[:, None]
    factors = np.array([f0[s] * f0[t] for s, t in site_channels(2)])
    ours = debye.debye_intensity(
        state.sums, factors, state.atoms, np.ones(2), np.full(2, 1.4), q
    )
    # measured 8e-6 and 4e-7: single-precision positions and sines of q r up to 650 set the first,
    # both codes' distance grids the second
    limit = {"float32": 1e-4, "float64": 2e-6}[precision]
    assert dse.worst(2 * np.asarray(theirs.i, dtype=float), ours) < limit
