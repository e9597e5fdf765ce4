"""Small nanocrystals whose data come from the direct double sum of tests/physics/direct.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest

from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.pattern import Background, ObservedPattern, PatternModel
from aiida_dse.engine.particles.parallelepipeds import QuasiCubePopulation, SingleParallelepiped

WAVELENGTH = 0.7  # Å


def load_direct():
    """The reference sum, by path: it imports nothing of the package."""
    if "_physics_direct" not in sys.modules:
        path = Path(__file__).parents[1] / "physics" / "direct.py"
        spec = importlib.util.spec_from_file_location("_physics_direct", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["_physics_direct"] = module
        spec.loader.exec_module(module)
    return sys.modules["_physics_direct"]


class Small:
    """CsCl (two sites) and CsPbBr3 (four): the engine's phases and the reference's patterns."""

    wavelength = WAVELENGTH
    direct = load_direct()

    @staticmethod
    def crystal(symbol, cell, sites):
        operations = tuple(op.triplet() for op in gemmi.SpaceGroup(symbol).operations())
        return Crystal(
            Cell(*cell), operations, tuple(Site(*s) for s in sites), symbol, space_group=symbol
        )

    def cscl(self, a=4.12, b=(1.0, 2.0), occupancy=1.0):
        sites = [("Cs", "Cs1+", (0, 0, 0), 1.0, b[0]),
                 ("Cl", "Cl1-", (0.5, 0.5, 0.5), occupancy, b[1])]
        return self.crystal("P m -3 m", (a, a, a), sites)

    def pbnm(self, cell=(8.207, 8.407, 11.756), br_ax=(0.052, 0.006, 0.75), b=None):
        b = b or (3.9, 1.1, 2.3, 3.1)
        sites = [("Cs", "Cs1+", (0.4914, 0.0225, 0.25), 1.0, b[0]),
                 ("Pb", "Pb2+", (0, 0, 0.5), 1.0, b[1]),
                 ("Br_eq", "Br1-", (0.2908, 0.2120, 0.486), 1.0, b[2]),
                 ("Br_ax", "Br1-", br_ax, 0.9, b[3])]
        return self.crystal("P b n m", cell, sites)

    @staticmethod
    def phase(crystal, cells=(3, 3, 3), name="P"):
        return CrystalPhase(name, crystal, SingleParallelepiped(cells), {})

    @staticmethod
    def cubes(crystal, mean, sd, name="P"):
        return CrystalPhase(name, crystal, QuasiCubePopulation(), {"L": mean, "sd_L": sd})

    def cscl_atoms(self, n, a=4.12, b=(1.0, 2.0), occupancy=1.0):
        structure = self.direct.Structure.of(
            (a, a, a), [("Cs1+", 1.0, b[0], [(0, 0, 0)]),
                        ("Cl1-", occupancy, b[1], [(0.5, 0.5, 0.5)])]
        )
        return self.direct.block(structure, *((n,) * 3 if np.isscalar(n) else n))

    def cscl_intensity(self, q, n=3, **structure):
        return self.direct.intensity(self.cscl_atoms(n, **structure), q, self.wavelength)

    def pbnm_intensity(self, q, cells=(2, 2, 2), **changes):
        atoms = self.direct.block(self.direct.cspbbr3_pbnm(), *cells)
        return self.direct.intensity(atoms, q, self.wavelength, **changes)

    @staticmethod
    def counts(pattern, *, peak=2e5, background=0.0, seed=5):
        """(intensity, sigma) with Poisson noise; background in counts."""
        expected = peak * pattern / pattern.max() + background
        counted = np.random.default_rng(seed).poisson(expected).astype(float)
        return counted, np.sqrt(np.maximum(counted, 1.0))

    def model(self, q, intensity, sigma, phases, *, background=None, **options):
        observation = ObservedPattern(q, intensity, sigma, self.wavelength)
        return PatternModel(observation, phases, background or Background(), **options)

    background = Background


@pytest.fixture(scope="session")
def small():
    return Small()


@pytest.fixture(scope="session")
def q():
    return np.linspace(0.8, 9.0, 240)
