"""Pulls of shapes and of static disorder, on patterns of explicit atoms with Poisson noise.

The particles of a population have a size drawn from the log-normal law and a centre drawn uniformly over
the unit cell (a Sobol sequence); split atoms are drawn as two half-occupied positions that never coexist. The
mean pattern is computed by the direct double sum of tests/physics/direct.py, which imports nothing of the
package, and refined under 30 draws of Poisson noise from a displaced start. A pull is the error divided by the s.u.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numba import njit, prange
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
#: Factors of the counts: nine parameters of displacements and cell need a better pattern.
MORE_COUNTS = {"anisotropic_displacements": 400}
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


def population(structure, law, chosen, reach, n_particles=N_PARTICLES):
    """The mean pattern over particles; chosen(atoms, relative xyz, size in Å) are the atoms of one particle."""
    direct = direct_sum()
    mean, sd = 10 * law["mean"], 10 * law["sd"]
    width = np.sqrt(np.log1p((sd / mean) ** 2))
    around = direct.sphere(structure, (0.5, 0.5, 0.5), reach)
    total = np.zeros(len(Q))
    for u in qmc.Sobol(4, seed=7).random(n_particles):
        size = mean * np.exp(width * norm.ppf(u[3]) - width**2 / 2)
        mask = chosen(around, around.xyz - u[:3] @ structure.vectors, size)
        total += direct.intensity(around.chosen(mask), Q, WAVELENGTH)
    return total / n_particles


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


def cores_with_shells():
    """CdSe in ZnS, zinc blende, on one lattice: the element of a place depends on the distance from the centre."""
    direct, law, thickness = direct_sum(), {"mean": 2.6, "sd": 0.2}, 0.5
    corners, centres = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)], []
    centres = [tuple(np.add(one, 0.25)) for one in corners]
    structure = direct.Structure.of((5.80,) * 3, [("Cd2+", 1.0, 1.2, corners), ("Zn2+", 1.0, 1.2, corners),
                                                  ("Se", 1.0, 1.0, centres), ("S", 1.0, 1.0, centres)])

    def chosen(atoms, x, size):
        r = np.linalg.norm(x, axis=1)
        of_core = (atoms.site == 0) | (atoms.site == 2)
        return (r <= size / 2) & (of_core == (r <= size / 2 - 10 * thickness))

    pattern = population(structure, law, chosen, 26.0, 512)
    cif = HEAD.format(5.80, 5.80, 5.80, "F -4 3 m") + """Cd Cd2+ 0 0 0 0.5 1.2
Zn Zn2+ 0 0 0 0.5 1.2
Se Se 0.25 0.25 0.25 0.5 1.0
S S 0.25 0.25 0.25 0.5 1.0
"""
    particle = {"shape": "core_shell", "D": law, "core": {"Cd": 1, "Zn": 0, "Se": 1, "S": 0},
                "layers": [{"thickness": thickness, "occupancy": {"Cd": 0, "Zn": 1, "Se": 0, "S": 1}}]}
    return cif, pattern, particle, {"D": 2.6, "sd_D": 0.2, "thickness_1": thickness, "a": 5.80}, [
        "a", "D", "sd_D", "thickness_1"], {}


@njit(parallel=True)
def _pairs_of_variants(q, xyz, cells, real, imaginary, odd):
    """2 sum over pairs of Re(f f*) <sin(qr)/(qr)> over the variants; xyz (2, 2, n, 3) by the bits of the variant.

    odd[k, m]: the probability that the first bit changes between cells that differ by k and m layers.
    """
    n = xyz.shape[2]
    result = np.zeros(len(q))
    parts = np.zeros((n, len(q)))
    for i in prange(n):
        for j in range(i):
            change = odd[abs(cells[i, 0] - cells[j, 0]), abs(cells[i, 1] - cells[j, 1])]
            for v in range(2):
                for w in range(2):
                    for other in range(2):
                        d = xyz[v, w, i] - xyz[other, w, j]
                        r = np.sqrt(np.sum(d * d))
                        weight = 0.25 * (change if other != v else 1 - change)
                        for k in range(len(q)):
                            parts[i, k] += weight * np.sin(q[k] * r) / (q[k] * r) * (
                                real[k, i] * real[k, j] + imaginary[k, i] * imaginary[k, j])
    for i in range(n):
        result += 2 * parts[i]
    return result


def twins():
    """5 nm with boundaries on (110) and (1-10), p = 0.1: all pairs of atoms in all variants, with the probabilities of
    a Markov chain from layer to layer."""
    direct, tools = direct_sum(), _helpers("boundaries")
    structure, p, size = direct.cspbbr3_pbnm(), 0.1, (6, 6, 4)
    members = tools.atoms_of_block(structure, size, np.zeros(3))
    cells = np.array([cell for cell, _ in members])
    xyz = np.array([[tools.particle(
        direct, structure, members,
        lambda cell, v=v, w=w: ((cell[0] + cell[1] + v) % 2, (cell[2] + w) % 2)).xyz for w in (0, 1)] for v in (0, 1)])
    sites = tools.particle(direct, structure, members, lambda cell: (sum(cell[:2]) % 2, cell[2] % 2)).site
    step = np.array([[1 - p, p], [p, 1 - p]])
    layers = np.ptp(cells, axis=0)
    odd = np.array([[(np.linalg.matrix_power(step, k) @ np.linalg.matrix_power(step, m))[0, 1]
                     for m in range(layers[1] + 1)] for k in range(layers[0] + 1)])
    f = direct.form_factors(structure.ions, Q, WAVELENGTH)
    amplitude = (f * np.exp(-np.outer(structure.b, Q**2) / (16 * np.pi**2)))[sites].T
    pattern = _pairs_of_variants(Q, xyz, cells, np.ascontiguousarray(amplitude.real),
                                 np.ascontiguousarray(amplitude.imag), odd)
    pattern += np.bincount(sites, minlength=4) @ np.abs(f) ** 2
    return PEROVSKITE, pattern, {"shape": "parallelepiped", "cells": list(size)}, {
        "boundary_ab": p, "a": 8.207, "b": 8.407, "Br_eq.B_iso": 2.3, "Br_eq.x": 0.2908}, [
            "a", "b", "boundary_ab", "Br_eq.B_iso", "Br_eq.x"], {
                "boundaries": {"planes": {"ab": {"along": [1, 2], "shift": [1, 0, 0], "probability": 0.08}}}}


@njit(parallel=True)
def _mean_over_directions(q, cell, xyz, vectors, size, tensors, real, imaginary, n_angles):
    """<|F|^2> over the hemisphere of directions m, with F = sum f exp(-q^2 m.U.m / 2) exp(i q m.r) over all atoms of
    size (3,) cells: a lattice sum times the sum over the atoms of one cell. `cell` are pairs of cos(polar angle) and
    weight; real, imaginary (n_q, n_atoms) are the form factors."""
    total = np.zeros(len(q))
    for k in prange(len(q)):
        for a in range(len(cell)):
            z = cell[a, 0]
            s = np.sqrt(1 - z * z)
            mean = 0.0
            for b in range(n_angles):
                angle = 2 * np.pi * (b + 0.5) / n_angles
                m = np.array([s * np.cos(angle), s * np.sin(angle), z])
                lattice = 1.0
                for axis in range(3):
                    half = q[k] * (vectors[axis] @ m) / 2
                    lattice *= (np.sin(size[axis] * half) / np.sin(half)) ** 2 if abs(np.sin(half)) > 1e-9 \
                        else size[axis] ** 2
                first, second = 0j, 0j
                for n in range(len(xyz)):
                    form = np.exp(-q[k] * q[k] / 2 * (m @ (tensors[n] @ m))) * np.exp(1j * q[k] * (xyz[n] @ m))
                    first += real[k, n] * form
                    second += imaginary[k, n] * form
                mean += lattice * (abs(first) ** 2 + abs(second) ** 2)
            total[k] += cell[a, 1] * mean / n_angles
    return total


def anisotropic_displacements():
    """4 nm with U_ij like those of the bulk: the mean of the squared amplitude over all directions."""
    direct, tools = direct_sum(), _helpers("anisotropic")
    structure, size = direct.cspbbr3_pbnm(), (5, 5, 3)
    one = direct.block(structure, 1, 1, 1)
    tensors = tools.bulk_like(structure, one.place, tools.chains(structure))
    vectors = np.diag([8.207, 8.407, 11.756])
    assert np.allclose(direct.block(structure, 2, 1, 1).xyz[:, 0].max() - one.xyz[:, 0].max(), vectors[0, 0])
    coarse = Q[::4]
    f = direct.form_factors(structure.ions, coarse, WAVELENGTH)
    amplitude = f[one.site].T
    bandwidth = int(coarse[-1] * np.linalg.norm(vectors.sum(axis=0) * size)) + 60
    polar, weight = np.polynomial.legendre.leggauss(bandwidth // 2 * 2)
    upper = np.c_[polar, weight][polar > 0]
    pattern = _mean_over_directions(
        coarse, upper, one.xyz, vectors, np.array(size), tensors, np.ascontiguousarray(amplitude.real),
        np.ascontiguousarray(amplitude.imag), bandwidth)
    # every atom scatters |f|^2 itself, of which the mean of exp(-q^2 m.U.m) is already there
    directions, own = np.polynomial.legendre.leggauss(40)
    angle = 2 * np.pi * (np.arange(40) + 0.5) / 40
    side = np.sqrt(1 - directions**2)
    m = np.stack([np.outer(side, np.cos(angle)), np.outer(side, np.sin(angle)),
                  np.repeat(directions[:, None], 40, axis=1)], axis=-1)
    for n, tensor in enumerate(tensors):
        damped = np.exp(-np.multiply.outer(coarse**2, np.einsum("abi,ij,abj->ab", m, tensor, m)))
        pattern += np.prod(size) * np.abs(amplitude[:, n]) ** 2 * (1 - damped.mean(axis=2) @ own / 2)
    truth = {"Br_ax.U_parallel": tools.BR_ALONG, "Br_ax.U_perpendicular": tools.BR_ACROSS,
             "Br_eq.U_parallel": tools.BR_ALONG, "Br_eq.U_perpendicular": tools.BR_ACROSS,
             "Pb.B_iso": 8 * np.pi**2 * tools.PB, "a": 8.207, "b": 8.407}
    bromine = {"model": "uniaxial", "along": "Pb", "parallel": 0.03, "perpendicular": 0.07}
    cs = dict(zip(("U_11", "U_22", "U_33"), tools.CS, strict=True))
    return PEROVSKITE, (coarse, pattern), {"shape": "parallelepiped", "cells": list(size)}, truth, list(truth), {
        "displacements": {"Br_ax": bromine, "Br_eq": bromine, "Cs": "anisotropic"}}, {
            **{f"P.Cs.{name}": value for name, value in cs.items()}, "P.Cs.U_12": 0.0,
            "P.Pb.B_iso": 8 * np.pi**2 * tools.PB}


def _helpers(name):
    """The reference calculations of tests/physics/test_<name>.py."""
    path = Path(__file__).parents[1] / "physics" / f"test_{name}.py"
    spec = importlib.util.spec_from_file_location(f"_reference_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CASES = [octahedra, ellipsoids, split_sites, cores_with_shells, twins, anisotropic_displacements]


@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_refined_values_and_their_standard_uncertainties(case, tmp_path):
    cif, pattern, particle, truth, free, more, *fixed = case()
    q, pattern = pattern if isinstance(pattern, tuple) else (Q, pattern)
    more_counts = MORE_COUNTS.get(case.__name__, 1)
    expected = more_counts * (PEAK * pattern / pattern.max() + CONSTANT)
    (tmp_path / "x.cif").write_text(cif)
    content = {
        "schema": "aiida-dse/model/2",
        "pattern": {"file": "d.xye", "axis": "q_inverse_angstrom", "wavelength": WAVELENGTH, "sigma": "column",
                    "axis_confirmed": True},
        "phases": {"P": {"structure": "x.cif", "particle": particle, **more}},
        "background": {"chebyshev": 1},
        "parameters": (fixed[0] if fixed else {}) | {
            f"P.{name}": 1.03 * truth[name] for name in free if name not in ("a", "b", "Br_ax.split", "Br_eq.x")},
        "refinement": {"weights": "calculated", "stages": [[f"P.{name}" for name in free]]},
    }
    pulls = {name: [] for name in truth}
    for seed in range(N_DRAWS):
        counts = np.random.default_rng(2000 + seed).poisson(expected)
        np.savetxt(tmp_path / "d.xye", np.c_[q, counts, np.sqrt(counts)])
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
