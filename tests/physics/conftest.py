"""The direct double sum, the engine's side of each comparison, and the crystals of both."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import gemmi
import numpy as np
import pytest

from aiida_dse.engine.crystal.structure import Cell, Crystal, Site
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import AtomListPhase
from aiida_dse.engine.model.phase import TOLERANCE, Sampling
from aiida_dse.engine.scattering import debye

WAVELENGTH = 0.56456  # Å


def _load(name):
    known = f"_physics_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


@pytest.fixture(scope="session")
def direct():
    """The reference: tests/physics/direct.py, which imports nothing of the package."""
    return _load("direct")


def operations(symbol):
    """Symmetry triplets of a space group, centring included."""
    return tuple(op.triplet() for op in gemmi.SpaceGroup(symbol).operations())


def crystal(symbol, cell, sites, **more):
    """sites: (label, ion, position, occupancy, B[, assembly, group])."""
    return Crystal(
        Cell(*cell), operations(symbol), tuple(Site(*site) for site in sites),
        name=symbol, space_group=symbol, **more,
    )


def values_of(phase, **changes):
    """Starting values of a phase; changes as Label__B_iso=..., since dots make no keywords."""
    values = phase.start
    for name, value in changes.items():
        name = name.replace("__", ".")
        assert name in values, name
        values[name] = value
    return values


def intensity(phase, q, *, wavelength=WAVELENGTH, tolerance=TOLERANCE, **changes):
    """The engine's I(q) of a phase."""
    values = values_of(phase, **changes)
    sampling = Sampling(np.asarray(q, dtype=float), wavelength, tolerance=tolerance)
    state = phase.state(values, sampling)
    occupancy, b_iso = phase.occupancy_and_b(values)
    return debye.debye_intensity(
        state.sums, phase.pair_factors(sampling), state.atoms, occupancy, b_iso, sampling.q
    )


def atom_list(atoms, **more):
    """The engine's general route on atoms of the reference."""
    structure = atoms.structure
    labels = tuple(f"S{k}" for k in range(len(structure.ions)))
    return AtomListPhase(
        "atoms", labels, structure.ions, atoms.site.astype(np.int64), atoms.xyz,
        tuple(map(float, structure.b)), tuple(map(float, structure.occupancy)), **more,
    )


def _crystals():
    pbnm = crystal(
        "P b n m", (8.207, 8.407, 11.756),
        [
            ("Cs", "Cs1+", (0.4914, 0.0225, 0.25), 1.0, 3.9),
            ("Pb", "Pb2+", (0, 0, 0.5), 1.0, 1.1),
            ("Br_eq", "Br1-", (0.2908, 0.2120, 0.486), 1.0, 2.3),
            ("Br_ax", "Br1-", (0.052, 0.006, 0.75), 0.9, 3.1),
        ],
    )
    wurtzite = crystal(
        "P 63 m c", (4.2985, 4.2985, 7.0152, 90, 90, 120),
        [
            ("Cd", "Cd2+", (0.33333, 0.66667, 0), 1.0, 1.2),
            ("Se", "Se", (0.33333, 0.66667, 0.3767), 0.95, 0.9),
        ],
    )
    triclinic = crystal(
        "P -1", (6.13, 7.29, 8.41, 77.9, 97.3, 109.6),
        [
            ("Bi", "Bi3+", (0.131, 0.242, 0.077), 1.0, 0.8),
            ("Fe", "Fe3+", (0.613, 0.318, 0.402), 0.85, 1.7),
            ("O", "O2-", (0.377, 0.871, 0.287), 1.0, 2.6),
        ],
    )
    rock_salt = crystal(
        "F m -3 m", (5.936, 5.936, 5.936),
        [("Pb", "Pb2+", (0, 0, 0), 1.0, 1.3), ("S", "S", (0.5, 0.5, 0.5), 1.0, 0.9)],
    )
    split = crystal(
        "P m -3 m", (5.87, 5.87, 5.87),
        [
            ("Pb", "Pb2+", (0, 0, 0), 1.0, 1.0),
            ("Cs", "Cs1+", (0.5, 0.5, 0.5), 1.0, 4.0),
            ("Br", "Br1-", (0.5, 0.07, 0), 0.25, 2.0),
        ],
    )
    return {
        "pbnm": pbnm, "wurtzite": wurtzite, "triclinic": triclinic, "rock_salt": rock_salt,
        "split": split,
    }


REFERENCES = {
    "pbnm": "cspbbr3_pbnm", "wurtzite": "cdse_wurtzite", "triclinic": "triclinic",
    "rock_salt": "pbs_rock_salt", "split": "split_cubic",
}


def uneven_q(n, low=0.3, high=20.0, seed=4):
    """Non-uniform, increasing q (n,) in 1/Å from low to high."""
    inner = np.random.default_rng(seed).uniform(low, high, n - 2)
    return np.sort(np.concatenate([[low, high], inner]))


def worst(found, expected):
    """The largest relative deviation of two patterns."""
    return float(np.max(np.abs(np.asarray(found) / np.asarray(expected) - 1)))


@pytest.fixture(scope="session")
def dse(direct):
    """Everything the tests share: engine calls, crystals and their references by name."""
    return SimpleNamespace(
        wavelength=WAVELENGTH, crystal=crystal, crystals=_crystals(), operations=operations,
        structures={name: getattr(direct, maker)() for name, maker in REFERENCES.items()},
        values=values_of, intensity=intensity, atom_list=atom_list, phase=_phase,
        uneven_q=uneven_q, worst=worst,
    )


def _phase(crystal, family, sizes=None, **more):
    return CrystalPhase("phase", crystal, family, sizes or {}, **more)
