"""Fixtures: a folder with a CIF, a pattern by the direct double sum, and a document."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

CIF = """data_{name}
_cell_length_a 4.12
_cell_length_b 4.12
_cell_length_c 4.12
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
{symmetry}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_B_iso_or_equiv
Cs Cs1+ 0 0 0 1 1.0
{second} Cl1- 0.5 0.5 0.5 1 {b}
"""

DOCUMENT = {
    "schema": "aiida-dse/model/2",
    "pattern": {"file": "cubes.xye", "axis": "q_inverse_angstrom", "wavelength": 0.7,
                "sigma": "column"},
    "phases": {"P": {"structure": "CsCl.cif",
                     "particle": {"shape": "parallelepiped", "cells": [3, 3, 3]}}},
    "background": {"chebyshev": 1},
    "parameters": {"P.a": 4.11},
    "refinement": {"stages": [["P.a"], ["P.*.B_iso"]]},
    "scan": {"axes": [{"parameter": "P.a", "values": [4.08, 4.10, 4.12, 4.14]},
                      {"parameter": "P.Cl.B_iso", "values": [1.0, 2.0, 3.0]}]},
    "derived": {"P": {"distances": [["Cs", "Cl"]]}},
}


def cif(name="CsCl", symmetry="_space_group_name_H-M_alt 'P m -3 m'", second="Cl", b="2.0"):
    return CIF.format(name=name, symmetry=symmetry, second=second, b=b)


def _direct():
    if "_physics_direct" not in sys.modules:
        path = Path(__file__).parents[1] / "physics" / "direct.py"
        spec = importlib.util.spec_from_file_location("_physics_direct", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["_physics_direct"] = module
        spec.loader.exec_module(module)
    return sys.modules["_physics_direct"]


@pytest.fixture(scope="session")
def direct():
    """The direct double sum, which imports nothing of the package."""
    return _direct()


@pytest.fixture(scope="session")
def columns():
    """q, counts with Poisson noise, and sigma of a 3 x 3 x 3 CsCl cube."""
    direct = _direct()
    structure = direct.Structure.of(
        (4.12,) * 3, [("Cs1+", 1.0, 1.0, [(0, 0, 0)]), ("Cl1-", 1.0, 2.0, [(0.5, 0.5, 0.5)])]
    )
    q = np.linspace(0.8, 9.0, 200)
    pattern = direct.intensity(direct.block(structure, 3, 3, 3), q, 0.7)
    counted = np.random.default_rng(6).poisson(2e5 * pattern / pattern.max() + 1000).astype(float)
    return np.c_[q, counted, np.sqrt(counted)]


class Folder:
    """Writes and builds documents that differ from a valid one at 'a__b__c' keys."""

    def __init__(self, path, columns):
        self.path = path
        self.columns = columns
        (path / "CsCl.cif").write_text(cif())
        np.savetxt(path / "cubes.xye", columns, fmt="%.8g")

    def document(self, **paths):
        content = copy.deepcopy(DOCUMENT)
        for key, value in paths.items():
            *keys, last = key.split("__")
            place = content
            for name in keys:
                place = place.setdefault(name, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        return content

    def write(self, **paths):
        file = self.path / "model.yaml"
        file.write_text(yaml.safe_dump(self.document(**paths), sort_keys=False))
        return file

    def build(self, **paths):
        from aiida_dse.documents import load_document
        from aiida_dse.tasks.build import build

        return build(load_document(self.write(**paths)), self.path)

    cif = staticmethod(cif)


@pytest.fixture
def folder(tmp_path, columns):
    return Folder(tmp_path, columns)
