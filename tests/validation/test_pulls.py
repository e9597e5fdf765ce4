"""Pulls of a mixture: scales, weight fractions, blanks, split occupancies and derived quantities.

A mixture of two phases with a blank and a constant is computed by the direct double sum of
tests/physics/direct.py, which imports nothing of the package, and refined under 40 draws of Poisson
noise, each from the same displaced start. A pull is the error divided by the s.u.; its standard
deviation over the draws is 1 and its mean 0 if values and s.u. are right. Both are themselves
uncertain: with 40 draws, the s.d. by 0.11 and the mean by 0.16.
"""

from __future__ import annotations

import numpy as np
import pytest
from su_coverage import direct_sum

from aiida_dse.documents import parse_document
from aiida_dse.documents.status import Status
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine

N_DRAWS = 40
WAVELENGTH = 0.7093  # Å
Q = np.linspace(0.8, 14.0, 700)
HEAD = """data_x
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {c}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt '{group}'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_B_iso_or_equiv
"""
SPLIT = HEAD.format(a=4.01, c=4.36, group="P 4 m m") + """Pb Pb2+ 0 0 0 1 1.3
Br1 Br1- 0.5 0.5 0.57 0.5 2.0
Br2 Br1- 0.5 0.5 0.44 0.5 2.0
"""
SALT = HEAD.format(a=5.92, c=5.92, group="F m -3 m") + """Pb Pb2+ 0 0 0 1 1.0
S S 0.5 0.5 0.5 1 1.0
"""
CELLS = {"split": (5, 5, 4), "salt": (3, 3, 3)}
TRUTH = {
    "split.a": 4.02, "split.c": 4.35, "split.Br1.z": 0.575, "split.Br2.z": 0.435,
    "split.Br1.occupancy": 0.62, "split.Pb.B_iso": 1.1, "split.Br1.B_iso": 1.7,
    "salt.a": 5.936, "salt.Pb.B_iso": 1.3, "salt.S.B_iso": 0.9,
}
#: Counts of the first phase at its maximum, the maximum of the salt relative to it, and the counts of
#: the blank and the constant.
PEAK, SALT_SHARE, BLANK, CONSTANT = 3e4, 0.3, 2500.0, 400.0
#: Atomic weights, IUPAC.
PB, BR, S = 207.2, 79.904, 32.06


@pytest.fixture(scope="module")
def mixture():
    """Expected counts (n_q,), the blank (n_q,) and the true scales of both phases."""
    direct = direct_sum()
    o = TRUTH["split.Br1.occupancy"]
    split = direct.Structure.of(
        (TRUTH["split.a"], TRUTH["split.a"], TRUTH["split.c"]),
        [("Pb2+", 1.0, TRUTH["split.Pb.B_iso"], [(0, 0, 0)]),
         ("Br1-", o, TRUTH["split.Br1.B_iso"], [(0.5, 0.5, TRUTH["split.Br1.z"])]),
         ("Br1-", 1 - o, TRUTH["split.Br1.B_iso"], [(0.5, 0.5, TRUTH["split.Br2.z"])])])
    salt = direct.pbs_rock_salt()
    assert (salt.cell[0], *salt.b) == tuple(TRUTH[f"salt.{n}"] for n in ("a", "Pb.B_iso", "S.B_iso"))
    atoms = direct.block(split, *CELLS["split"])
    first = direct.intensity(atoms, Q, WAVELENGTH, absent=direct.near(atoms, 1.0))
    second = direct.intensity(direct.block(salt, *CELLS["salt"]), Q, WAVELENGTH)
    scale = PEAK / first.max()
    other = SALT_SHARE * scale * first.max() / second.max()
    blank = np.exp(-((Q - 1.9) ** 2) / 0.5) + 0.3 * np.exp(-((Q - 3.1) ** 2) / 2)
    expected = scale * first + other * second + BLANK * blank + CONSTANT
    return expected, blank, {"split.scale": scale, "salt.scale": other}


def truths(scales):
    """The true value of everything that is judged, by name."""
    a, c, z1, z2 = (TRUTH[f"split.{n}"] for n in ("a", "c", "Br1.z", "Br2.z"))
    side = a / np.sqrt(2)
    masses = (scales["split.scale"] * np.prod(CELLS["split"]) * (PB + BR),
              scales["salt.scale"] * np.prod(CELLS["salt"]) * 4 * (PB + S))
    return TRUTH | scales | {
        "split.Br2.occupancy": 1 - TRUTH["split.Br1.occupancy"],
        "blank.solvent": BLANK, "background.chebyshev_0": CONSTANT,
        "split volume": a * a * c, "salt volume": TRUTH["salt.a"] ** 3,
        "split d(Pb-Br1)_1": np.hypot(side, (1 - z1) * c),
        "split d(Pb-Br2)_1": np.hypot(side, z2 * c),
        "split weight fraction": masses[0] / sum(masses),
    }


def refined(folder):
    document = parse_document({
        "schema": "aiida-dse/model/2",
        "pattern": {"file": "d.xye", "axis": "q_inverse_angstrom", "wavelength": WAVELENGTH,
                    "sigma": "column", "axis_confirmed": True},
        "phases": {name: {"structure": f"{name}.cif", "particle": {
            "shape": "parallelepiped", "cells": list(cells)}} for name, cells in CELLS.items()},
        "background": {"chebyshev": 1, "blanks": {"solvent": {
            "file": "blank.xy", "axis": "q_inverse_angstrom", "wavelength": WAVELENGTH}}},
        "constraints": {"split.Br2.occupancy": "1 - split.Br1.occupancy",
                        "split.Br2.B_iso": "split.Br1.B_iso"},
        "derived": {"split": {"distances": [["Pb", "Br1"], ["Pb", "Br2"]]}},
        "refinement": {"stages": [["*.a", "split.c"],
                                  ["*.B_iso", "split.Br*.z", "split.Br1.occupancy"]]},
    })
    return run_refine(build(document, folder)).summary


def found_in(summary):
    """Value and s.u. of everything that is judged, by name."""
    rows = dict(summary.parameters) | dict(summary.linear)
    for phase, row in summary.derived.items():
        rows |= {f"{phase} {name}": one for name, one in row.quantities.items()}
        rows[f"{phase} weight fraction"] = row.weight_fraction
    return rows


@pytest.fixture(scope="module")
def pulls(mixture, tmp_path_factory):
    """The pulls (n_draws,) of each quantity."""
    expected, blank, scales = mixture
    folder = tmp_path_factory.mktemp("pulls")
    (folder / "split.cif").write_text(SPLIT)
    (folder / "salt.cif").write_text(SALT)
    np.savetxt(folder / "blank.xy", np.c_[Q, blank])
    wanted = truths(scales)
    found = {name: [] for name in wanted}
    for seed in range(N_DRAWS):
        counts = np.random.default_rng(1000 + seed).poisson(expected)
        np.savetxt(folder / "d.xye", np.c_[Q, counts, np.sqrt(counts)])
        summary = refined(folder)
        assert summary.status is Status.CONVERGED
        rows = found_in(summary)
        for name, truth in wanted.items():
            found[name].append((rows[name].value - truth) / rows[name].su)
    table = {name: np.array(values) for name, values in found.items()}
    for name, values in table.items():
        print(f"{name:26} mean {values.mean():+.2f}  s.d. {values.std(ddof=1):.2f}")
    return table


def test_the_standard_uncertainties_are_those_of_repeated_measurements(pulls):
    spread = {name: values.std(ddof=1) for name, values in pulls.items()}
    assert not {name: value for name, value in spread.items() if not 0.75 < value < 1.3}
    assert 0.9 < np.mean(list(spread.values())) < 1.1


def test_no_value_is_biased(pulls):
    bias = {name: values.mean() * np.sqrt(N_DRAWS) for name, values in pulls.items()}
    # of 20 quantities, one is expected beyond 2 standard errors by chance, and none beyond 3.5
    assert not {name: value for name, value in bias.items() if abs(value) > 3.5}
    assert sum(abs(value) > 2 for value in bias.values()) <= 3
