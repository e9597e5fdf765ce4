"""Self-test of the engine against the direct double sum, which also compiles the engine."""

from __future__ import annotations

import time

import gemmi
import numpy as np

from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import AtomListPhase
from aiida_dse.engine.model.pattern import ObservedPattern, PatternModel
from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.particles.parallelepipeds import ParallelepipedPopulation, SingleParallelepiped
from aiida_dse.engine.particles.spheres import SingleSphere, SpherePopulation
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.scattering.form_factors import scattering_factor
from aiida_dse.engine.scattering.pairs import site_channels
from aiida_dse.engine.units import FloatArray

from .estimate import work_between

#: Largest relative error in I(q) with which the self-test passes.
LIMIT = 1e-6


def selftest() -> float:
    """Largest relative error of the engine for a small CsCl crystal; it must be below LIMIT."""
    crystal = _crystal()
    sampling = Sampling(np.linspace(0.5, 15.0, 60), 0.7)
    cells = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    atoms = ((cells[:, None] + crystal.positions()).reshape(-1, 3)) @ crystal.cell.matrix.T
    kinds = np.tile(crystal.site_of_atom, len(cells))
    reference = _direct(atoms, kinds, sampling)
    parallelepiped = CrystalPhase("parallelepiped", crystal, SingleParallelepiped((4, 4, 4)), {})
    listed = AtomListPhase(
        "atoms", ("Cs", "Cl"), ("Cs1+", "Cl1-"), kinds, atoms, (1.0, 2.0), (1.0, 1.0)
    )
    errors = []
    for phase in (parallelepiped, listed):
        errors.append(np.abs(_intensity(phase, sampling) / reference - 1).max())
    for family, sizes in (
        (ParallelepipedPopulation(), {"L_ab": 1.5, "sd_ab": 0.3, "L_c": 1.5, "sd_c": 0.3,
                                      "size_axes_rotation": 0.0}),
        (SpherePopulation(), {"D": 1.5, "sd_D": 0.3}), (SingleSphere(1.6), {}),
    ):
        _intensity(CrystalPhase("compiled", crystal, family, sizes), sampling)
    return float(max(errors))


def speed() -> float:
    """Seconds per distance of work on one thread: the best of five patterns of a parallelepiped.

    Call it after `selftest`, which compiles the engine.
    """
    phase = CrystalPhase("speed", _crystal(), SingleParallelepiped((40, 40, 40)), {})
    q = np.linspace(0.5, 17.0, 6000)
    model = PatternModel(ObservedPattern(q, np.ones(len(q)), np.ones(len(q)), 0.7), [phase])
    before, best = model.states(model.start), np.inf
    for step in range(5):
        values = model.start | {"speed.a": 4.13 + 0.001 * step}
        begin = time.perf_counter()
        after = model.states(values, before)
        best = min(best, (time.perf_counter() - begin) / work_between(model, before, after))
    return float(best)


def _crystal() -> Crystal:
    sites = (
        Site("Cs", "Cs1+", (0.0, 0.0, 0.0), 1.0, 1.0),
        Site("Cl", "Cl1-", (0.5, 0.5, 0.5), 1.0, 2.0),
    )
    operations = tuple(op.triplet() for op in gemmi.SpaceGroup("P m -3 m").operations())
    return Crystal(Cell(4.12, 4.12, 4.12), operations, sites)


def _intensity(phase: CrystalPhase | AtomListPhase, sampling: Sampling) -> FloatArray:
    values = phase.start
    state = phase.state(values, sampling)
    occupancy, b_iso = phase.occupancy_and_b(values)
    return debye.debye_intensity(
        state.sums, phase.pair_factors(sampling), state.atoms, occupancy, b_iso, sampling.q
    )


def _direct(atoms: FloatArray, kinds: np.ndarray, sampling: Sampling) -> FloatArray:
    """I(q) (n_q,) by the direct double sum over all pairs of atoms."""
    q = sampling.q
    factors = [scattering_factor(ion, q, sampling.wavelength) for ion in ("Cs1+", "Cl1-")]
    damping = debye.debye_waller(np.array([1.0, 2.0]), q)
    r = np.linalg.norm(atoms[:, None] - atoms, axis=2)
    total = np.zeros(len(q))
    for s, t in site_channels(2):
        pair = factors[s].real * factors[t].real + factors[s].imaginary * factors[t].imaginary
        block = r[np.ix_(kinds == s, kinds == t)].ravel()
        block = block[block > 0]
        twice = 1.0 if s == t else 2.0
        sums = np.sinc(np.outer(q, block) / np.pi).sum(axis=1)
        total += twice * pair * damping[s] * damping[t] * sums
        if s == t:
            total += pair * (kinds == s).sum()
    return total
