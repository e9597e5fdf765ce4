"""The numbers of the engine do not move without a new NUMERICS_VERSION.

`golden_patterns.json` holds patterns of small particles, computed with made-up smooth form factors
(no table of another package decides on them), and the version they were computed with. This finds
that numbers moved, not that they are right: tests/physics compares with independent sums.

    python tests/engine/test_golden_patterns.py

writes the file anew. It refuses while numbers differ and NUMERICS_VERSION is still the stored one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import AtomListPhase
from aiida_dse.engine.model.phase import Sampling
from aiida_dse.engine.particles.parallelepipeds import (
    ParallelepipedPopulation,
    QuasiCubePopulation,
    SingleParallelepiped,
)
from aiida_dse.engine.particles.spheres import SpherePopulation
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.scattering.form_factors import ScatteringFactor

FILE = Path(__file__).with_name("golden_patterns.json")
#: Relative difference that is a change of the numbers; the NUFFT is good to 1e-10 of its maximum.
MOVED = 1e-7
Q = np.concatenate([np.linspace(0.2, 3.0, 12), np.linspace(3.3, 15.0, 12)])
PBNM = ("x,y,z", "-x,-y,z+1/2", "x+1/2,-y+1/2,-z", "-x+1/2,y+1/2,-z+1/2",
        "-x,-y,-z", "x,y,-z+1/2", "-x+1/2,y+1/2,z", "x+1/2,-y+1/2,z+1/2")
CUBIC = ("x,y,z", "x,y+1/2,z+1/2", "x+1/2,y,z+1/2", "x+1/2,y+1/2,z")


def factors(labels):
    """f(q) of a made-up atom for each site, electron units: Z exp(-q^2 (1 + k) / 200) + f''."""
    return [ScatteringFactor(label, (30.0 + 20 * k) * np.exp(-Q**2 * (1 + k) / 200), 1.0 + k)
            for k, label in enumerate(labels)]


def perovskite(br_ax=(0.052, 0.006, 0.75), occupancy=1.0):
    return Crystal(Cell(8.207, 8.407, 11.756), PBNM, (
        Site("Cs", "Cs1+", (0.4914, 0.0225, 0.25), 1.0, 3.9),
        Site("Pb", "Pb2+", (0.0, 0.0, 0.5), 1.0, 1.1),
        Site("Br_eq", "Br1-", (0.2908, 0.2120, 0.486), 1.0, 2.3),
        Site("Br_ax", "Br1-", br_ax, occupancy, 3.1),
    ), "CsPbBr3", termination=(0.0, 0.0, 0.005))


def phases():
    """The phases, by name."""
    rock_salt = Crystal(Cell(5.936, 5.936, 5.936), CUBIC, (
        Site("Pb", "Pb2+", (0.0, 0.0, 0.0), 1.0, 1.3), Site("S", "S", (0.5, 0.5, 0.5), 1.0, 0.9),
    ), "PbS")
    random = np.random.default_rng(11)
    atoms = rock_salt.cell.a / 2 * np.stack(np.meshgrid(*[np.arange(5.0)] * 3), -1).reshape(-1, 3)
    atoms = atoms + 0.05 * random.normal(size=atoms.shape)
    block = {"L_ab": 3.1, "sd_ab": 0.5, "L_c": 3.4, "sd_c": 0.6, "size_axes_rotation": 12.0}
    return {
        "parallelepiped": CrystalPhase("P", perovskite(), SingleParallelepiped((4, 3, 2)), {}),
        "parallelepipeds": CrystalPhase("P", perovskite(), ParallelepipedPopulation(), block),
        "cut parallelepipeds": CrystalPhase(
            "P", perovskite(), ParallelepipedPopulation(largest=4.0), block),
        "quasi-cubes": CrystalPhase(
            "P", perovskite(), QuasiCubePopulation(), {"L": 3.2, "sd_L": 0.5}),
        "spheres": CrystalPhase("P", rock_salt, SpherePopulation(), {"D": 2.6, "sd_D": 0.4}),
        "cut spheres": CrystalPhase(
            "P", rock_salt, SpherePopulation(largest=2.8), {"D": 2.6, "sd_D": 0.4}),
        "atom list": AtomListPhase(
            "P", ("Pb", "S"), ("Pb2+", "S"), np.arange(len(atoms)) % 2, atoms, (1.3, 0.9),
            (1.0, 1.0)),
        # two alternatives of one bromine 0.6 Å apart, related by the mirror at z = 3/4
        "split site": CrystalPhase(
            "P", perovskite((0.052, 0.006, 0.7755), 0.5), SingleParallelepiped((3, 3, 2)), {}),
    }


def pattern(phase):
    """I(q) (n_q,) at the starting values."""
    sampling = Sampling(Q, 0.7)
    state = phase.state(phase.start, sampling)
    occupancy, b_iso = phase.occupancy_and_b(phase.start)
    pair_factors = debye.pair_form_factors(factors(phase.labels))
    return debye.debye_intensity(state.sums, pair_factors, state.atoms, occupancy, b_iso, Q)


def stored():
    return json.loads(FILE.read_text(encoding="utf-8"))


def differences(content):
    """Largest relative difference of each pattern from the stored ones."""
    known = content["patterns"]
    return {name: float(np.max(np.abs(pattern(phase) / known[name] - 1))) if name in known
            else np.inf for name, phase in phases().items()}


@pytest.mark.parametrize("name", phases())
def test_patterns_move_only_with_the_version_of_the_numbers(name):
    content = stored()
    assert content["numerics_version"] == NUMERICS_VERSION, (
        f"NUMERICS_VERSION is {NUMERICS_VERSION}, but {FILE.name} holds the patterns of version "
        f"{content['numerics_version']}. Write it anew: python tests/engine/{Path(__file__).name}"
    )
    assert name in content["patterns"], f"{name} is new: python tests/engine/{Path(__file__).name}"
    moved = float(np.max(np.abs(pattern(phases()[name]) / content["patterns"][name] - 1)))
    assert moved < MOVED, (
        f"the pattern of '{name}' moved by {moved:.1e} (relative); the limit is {MOVED:g}. If this "
        f"is meant, raise NUMERICS_VERSION in aiida_dse/engine/__init__.py (now "
        f"{NUMERICS_VERSION}), so that no cached result of other numbers is used again, and run "
        f"python tests/engine/{Path(__file__).name}. If it is not meant, find out why."
    )


def test_the_patterns_are_no_trivial_ones():
    """Every pattern depends on its phase by far more than the limit."""
    found = {name: pattern(phase) for name, phase in phases().items()}
    names = list(found)
    for k, name in enumerate(names):
        assert (found[name] > 0).all()
        for other in names[:k]:
            assert np.max(np.abs(found[name] / found[other] - 1)) > 1e3 * MOVED


def test_the_split_site_is_split():
    from aiida_dse.engine.crystal.disorder import excluded_pairs

    assert excluded_pairs(phases()["split site"].crystal, 1.2)


def write():
    """Write the file anew; refuse where numbers moved under the same version."""
    if FILE.exists():
        content = stored()
        moved = {name: by for name, by in differences(content).items()
                 if name in content["patterns"] and by >= MOVED}
        if moved and content["numerics_version"] == NUMERICS_VERSION:
            sys.exit(f"patterns moved ({', '.join(moved)}): raise NUMERICS_VERSION, now "
                     f"{NUMERICS_VERSION}, in aiida_dse/engine/__init__.py first")
    content = {
        "numerics_version": NUMERICS_VERSION,
        "patterns": {name: [float(f"{value:.12g}") for value in pattern(phase)]
                     for name, phase in phases().items()},
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
