"""Weight fractions of a mixture: value and s.u. against repeated measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aiida_dse.documents import ModelDocument
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simulation import run_simulate

CIF = """data_x
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
{first} {first} 0 0 0 1.0
{second} {second} 0.5 0.5 0.5 1.5
"""
#: Atomic weights (IUPAC).
CSCL, TLBR = 132.90545 + 35.45, 204.38 + 79.904


def document(folder: Path, **sections):
    (folder / "CsCl.cif").write_text(CIF.format(a=4.12, first="Cs", second="Cl"))
    (folder / "TlBr.cif").write_text(CIF.format(a=3.98, first="Tl", second="Br"))
    return ModelDocument.model_validate({
        "schema": "aiida-dse/model/2",
        "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.7},
        "phases": {
            "CsCl": {"structure": "CsCl.cif",
                     "particle": {"shape": "parallelepiped", "cells": [4, 4, 4]}},
            "TlBr": {"structure": "TlBr.cif", "particle": {
                "shape": "quasi_cube", "L": {"mean": 2.0, "sd": 0.4}}}},
        **sections})


@pytest.fixture(scope="module")
def patterns(tmp_path_factory):
    """q, the patterns of one mean particle of each phase, and the mean cells of TlBr."""
    folder = tmp_path_factory.mktemp("mixture")
    grid = {"start": 0.8, "stop": 9.0, "step": 0.06}
    result = run_simulate(build(document(folder, pattern={
        "axis": "q_inverse_angstrom", "wavelength": 0.7, "grid": grid}), folder))
    composition = result.summary.derived["TlBr"].composition
    return (result.arrays["pattern/q"], result.arrays["components/CsCl"],
            result.arrays["components/TlBr"], composition["Tl"])


def test_weight_fractions_and_their_su(tmp_path, patterns):
    """The s.u. over many draws is judged by tests/validation/test_pulls.py."""
    q, first, second, cells = patterns
    scale = 3e4 / (first + 0.4 * second).max()
    mass = 64 * CSCL, 0.4 * cells * TLBR
    truth = mass[0] / sum(mass)
    pulls = []
    for seed in range(6):
        counts = np.random.default_rng(seed).poisson(scale * (first + 0.4 * second) + 100)
        np.savetxt(tmp_path / "d.xye", np.c_[q, counts, np.sqrt(np.maximum(counts, 1))])
        found = run_refine(build(document(
            tmp_path, background={"chebyshev": 1},
            pattern={"axis": "q_inverse_angstrom", "wavelength": 0.7, "file": "d.xye"},
            refinement={"stages": [["*.a", "*.B_iso", "TlBr.L", "TlBr.sd_L"]]}), tmp_path)).summary
        one, other = (found.derived[name].weight_fraction for name in ("CsCl", "TlBr"))
        assert one.value + other.value == pytest.approx(1)
        assert one.su == pytest.approx(other.su) and one.su < 0.05
        pulls.append((one.value - truth) / one.su)
    # the sum of squares of six pulls is between 0.7 and 22 in 99.5 % of all cases
    assert 0.7 < np.sum(np.square(pulls)) < 22


def test_a_single_phase_has_no_weight_fraction(tmp_path, patterns):
    q, first, _, _ = patterns
    np.savetxt(tmp_path / "d.xye", np.c_[q, first, np.sqrt(first)])
    section = document(tmp_path, pattern={
        "axis": "q_inverse_angstrom", "wavelength": 0.7, "file": "d.xye"},
        refinement={"stages": [["CsCl.a"]]})
    section = section.model_copy(update={"phases": {"CsCl": section.phases["CsCl"]}})
    found = run_refine(build(section, tmp_path)).summary
    assert found.derived["CsCl"].weight_fraction is None
