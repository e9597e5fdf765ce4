"""Pulls of shapes and of static disorder, on patterns of explicit atoms with Poisson noise.

The particles of a population have a size drawn from the log-normal law and a centre drawn uniformly over
the unit cell (a Sobol sequence); split atoms are drawn as two half-occupied positions that never coexist. The
mean pattern is computed by the direct double sum of tests/physics/direct.py, which imports nothing of the
package, and refined under 30 draws of Poisson noise from a displaced start. A pull is the error divided by the s.u.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, qmc
from su_coverage import direct_sum

from aiida_dse.documents import parse_document
from aiida_dse.documents.status import Status
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine

N_DRAWS = 30
N_PARTICLES = 2048
WAVELENGTH = 0.7093  # Å
Q = np.linspace(0.8, 12.0, 400)
#: Counts at the maximum, and of the constant background.
PEAK, CONSTANT = 4e3, 200.0
HEAD = """data_x
_cell_length_a {0}
_cell_length_b {1}
_cell_length_c {2}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt '{3}'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_B_iso_or_equiv
"""
SALT = HEAD.format(5.936, 5.936, 5.936, "F m -3 m") + """Pb Pb2+ 0 0 0 1 1.3
S S 0.5 0.5 0.5 1 0.9
"""
PEROVSKITE = HEAD.format(8.207, 8.407, 11.756, "P b n m") + """Cs Cs1+ 0.4914 0.0225 0.25 1 3.9
Pb Pb2+ 0 0 0.5 1 1.1
Br_eq Br1- 0.2908 0.2120 0.486 1 2.3
Br_ax Br1- 0.052 0.006 0.75 1 3.1
"""


def unit_octahedron(x):
    """|x| + |y| + |z| relative to that of an octahedron of edge 1."""
    return np.abs(x).sum(axis=1) * np.sqrt(2)


def unit_ellipsoid(x):
    """The distance relative to an ellipsoid with the diameters 1, 1 and 1.4."""
    return 2 * np.linalg.norm(x / [1.0, 1.0, 1.4], axis=1)


def population(structure, law, chosen, reach):
    """The mean pattern over particles; chosen(atoms, relative xyz, size in Å) are the atoms of one particle."""
    direct = direct_sum()
    mean, sd = 10 * law["mean"], 10 * law["sd"]
    width = np.sqrt(np.log1p((sd / mean) ** 2))
    around = direct.sphere(structure, (0.5, 0.5, 0.5), reach)
    total = np.zeros(len(Q))
    for u in qmc.Sobol(4, seed=7).random(N_PARTICLES):
        size = mean * np.exp(width * norm.ppf(u[3]) - width**2 / 2)
        mask = chosen(around, around.xyz - u[:3] @ structure.vectors, size)
        total += direct.intensity(around.chosen(mask), Q, WAVELENGTH)
    return total / N_PARTICLES


def octahedra():
    law = {"mean": 2.4, "sd": 0.2}
    pattern = population(direct_sum().pbs_rock_salt(), law, lambda _, x, size: unit_octahedron(x) <= size, 40.0)
    return SALT, pattern, {"shape": "octahedron", "L_edge": law}, {
        "L_edge": 2.4, "sd_edge": 0.2, "a": 5.936, "Pb.B_iso": 1.3}, ["a", "L_edge", "sd_edge", "Pb.B_iso"], {}


def ellipsoids():
    law = {"mean": 1.8, "sd": 0.15}
    pattern = population(direct_sum().pbs_rock_salt(), law, lambda _, x, size: unit_ellipsoid(x) <= size, 40.0)
    return SALT, pattern, {"shape": "ellipsoid", "D": law, "aspect_3": 1.4}, {
        "D": 1.8, "sd_D": 0.15, "aspect_3": 1.4, "a": 5.936}, ["a", "D", "sd_D", "aspect_3"], {}


def split_sites():
    direct = direct_sum()
    structure = direct.cspbbr3_pbnm()
    atoms, cells = direct.block(structure, 3, 3, 2), {"shape": "parallelepiped", "cells": [3, 3, 2]}
    direction = np.array([0.6, -0.8, 0.0])
    shift = 0.28 * direction / np.linalg.norm(direction @ structure.vectors)
    # the images of Br_ax in the plane: (x, y), (-x, -y), (1/2 + x, 1/2 - y), (1/2 - x, 1/2 + y)
    turns = {0.052: (1, 1), 0.948: (-1, -1), 0.552: (1, -1), 0.448: (-1, 1)}
    fractional = atoms.xyz @ np.linalg.inv(structure.vectors)
    axial = np.flatnonzero(atoms.site == 3)
    own = np.array([shift * (*turns[round(float(fractional[k, 0] % 1), 3)], 1) for k in axial]) @ structure.vectors
    order = np.r_[np.arange(len(atoms)), axial]
    both = replace(atoms.chosen(order), structure=replace(structure, occupancy=np.array([1.0, 1.0, 1.0, 0.5])))
    both.xyz[axial] += own
    both.xyz[len(atoms):] -= own
    pattern = direct.intensity(both, Q, WAVELENGTH, absent=direct.near(both, 0.7))
    return PEROVSKITE, pattern, cells, {"Br_ax.split": 0.28, "a": 8.207, "b": 8.407, "Pb.B_iso": 1.1}, [
        "a", "b", "Pb.B_iso", "Br_ax.split"], {
            "split": {"sites": {"Br_ax": {"direction": [3, -4, 0], "amplitude": 0.22}}}}


@pytest.mark.parametrize("case", [octahedra, ellipsoids, split_sites], ids=lambda f: f.__name__)
def test_refined_values_and_their_standard_uncertainties(case, tmp_path):
    cif, pattern, particle, truth, free, more = case()
    expected = PEAK * pattern / pattern.max() + CONSTANT
    (tmp_path / "x.cif").write_text(cif)
    content = {
        "schema": "aiida-dse/model/2",
        "pattern": {"file": "d.xye", "axis": "q_inverse_angstrom", "wavelength": WAVELENGTH, "sigma": "column",
                    "axis_confirmed": True},
        "phases": {"P": {"structure": "x.cif", "particle": particle, **more}},
        "background": {"chebyshev": 1},
        "parameters": {f"P.{name}": 1.03 * truth[name] for name in free if name not in ("a", "b", "Br_ax.split")},
        "refinement": {"weights": "calculated", "stages": [[f"P.{name}" for name in free]]},
    }
    pulls = {name: [] for name in truth}
    for seed in range(N_DRAWS):
        counts = np.random.default_rng(2000 + seed).poisson(expected)
        np.savetxt(tmp_path / "d.xye", np.c_[Q, counts, np.sqrt(counts)])
        summary = run_refine(build(parse_document(content), tmp_path)).summary
        assert summary.status is Status.CONVERGED
        for name, true in truth.items():
            row = summary.parameters[f"P.{name}"]
            pulls[name].append((row.value - true) / row.su)
    for name, values in pulls.items():
        print(f"{name:14} mean {np.mean(values):+.2f}  s.d. {np.std(values, ddof=1):.2f}")
    # with 30 draws, the s.d. is uncertain by 0.13 and the mean by 0.18
    spread = [np.std(values, ddof=1) for values in pulls.values()]
    assert all(0.65 < one < 1.4 for one in spread) and 0.85 < np.mean(spread) < 1.15
    bias = [np.mean(values) * np.sqrt(N_DRAWS) for values in pulls.values()]
    assert all(abs(one) < 3.5 for one in bias) and sum(abs(one) > 2 for one in bias) <= 1
