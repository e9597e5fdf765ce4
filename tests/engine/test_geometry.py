"""Distances, angles, strains and their propagated uncertainties."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from aiida_dse.engine.crystal.bonds import angles, bonds
from aiida_dse.engine.crystal.geometry import (
    Geometry,
    angle,
    irreducible_strain,
    propagated,
    pseudo_cubic_edge,
    reflections,
)
from aiida_dse.engine.crystal.structure import Cell, Crystal


def geometry_of(crystal):
    labels = tuple(crystal.sites[k].label for k in crystal.site_of_atom)
    return Geometry(crystal.cell.matrix, crystal.positions(), labels)


def test_the_distances_and_angles_of_the_paper(small):
    """PHYSICS.md sec. 5: d = 2.983, 2.973 Å, 161.0°; axial 2.971 Å, 163.2°."""
    crystal = small.pbnm()
    geometry = geometry_of(crystal)
    equatorial = bonds(crystal, geometry, "Pb", "Br_eq")
    assert [float(geometry.length(b)) for b in equatorial] == pytest.approx([2.973, 2.983], abs=6e-4)
    (axial,) = bonds(crystal, geometry, "Pb", "Br_ax")
    assert geometry.length(axial) == pytest.approx(2.971, abs=1e-3)
    assert [b.multiplicity for b in (*equatorial, axial)] == [2, 2, 2]  # an octahedron
    (tilt,) = [angle(geometry, pair) for pair in angles(crystal, geometry, "Pb", "Br_eq", "Pb")]
    assert tilt == pytest.approx(161.0, abs=0.1)
    (tilt,) = [angle(geometry, pair) for pair in angles(crystal, geometry, "Pb", "Br_ax", "Pb")]
    off_axis = np.hypot(0.052 * 8.207, 0.006 * 8.407)  # 0.430 Å; the paper's 0.435 gives 163.2
    assert tilt == pytest.approx(2 * np.degrees(np.arctan2(11.756 / 4, off_axis)), abs=1e-9)


def test_the_pseudo_cubic_edge_and_strain_of_the_paper():
    cell = (8.207, 8.407, 11.756)
    assert pseudo_cubic_edge(*cell) == pytest.approx(5.8750, abs=5e-5)
    assert irreducible_strain(*cell) == pytest.approx(-0.01204, abs=5e-6)
    assert irreducible_strain(8.1982, 8.2440, 11.7351) == pytest.approx(-0.0028, abs=5e-5)


def test_reflections_obey_the_extinctions(small):
    """Pbnm: 0kl with k odd, h0l with h + l odd are absent, so are 001 and 100."""
    cell = (8.2, 8.4, 11.7)
    found = reflections(small.pbnm(cell=cell), 3.0)
    expected = set()
    for h in range(5):
        for k in range(5):
            for m in range(7):
                q = 2 * np.pi * np.linalg.norm(np.array([h, k, m]) / cell)
                absent = (h == 0 and k % 2) or (k == 0 and (h + m) % 2)
                absent = absent or (h == k == 0 and m % 2) or (k == m == 0 and h % 2)
                if 0 < q <= 3.0 and not absent:
                    expected.add(round(q, 5))
    assert np.round(found, 5).tolist() == pytest.approx(sorted(expected), abs=2e-5)


def present(crystal, hkl):
    """Whether the structure factor of points in general positions vanishes: no rules used."""
    random = np.random.default_rng(4)
    points = [op(x) for x in random.uniform(size=(3, 3)) for op in crystal.symmetry]
    return np.abs(np.exp(2j * np.pi * hkl @ np.array(points).T).sum(axis=1)) > 1e-9


@pytest.mark.parametrize(
    ("symbol", "cell"),
    [("P 63 m c", (4.3, 4.3, 7.0, 90, 90, 120)), ("F d -3 m:1", (5.4, 5.4, 5.4, 90, 90, 90)),
     ("I a -3 d", (10.1, 10.1, 10.1, 90, 90, 90)), ("P 1 21/n 1", (5.4, 5.7, 7.7, 90, 93, 90)),
     ("P n m a", (8.4, 11.7, 8.2, 90, 90, 90)), ("P -1", (6.1, 7.3, 8.4, 78, 97, 110))],
)
def test_reflections_are_those_with_a_structure_factor(symbol, cell, small):
    crystal = small.crystal(symbol, cell, [("O", "O2-", (0.1, 0.2, 0.3), 1.0, 1.0)])
    expected = brute_reflections(crystal, 5.0)
    assert reflections(crystal, 5.0) == pytest.approx(expected, abs=1e-9)


def test_reflections_of_a_setting_that_no_table_holds(small):
    """Pbnm with its origin shifted by (0.1, 0, 0): the operations as they are listed decide."""
    moved = []
    for triplet in small.pbnm().operations:
        op = gemmi.Op(triplet)
        sign = op.rot[0][0] // op.DEN
        op.tran = [op.tran[0] + round(0.125 * op.DEN * (1 - sign)), *op.tran[1:]]
        moved.append(op.wrap().triplet())
    assert gemmi.find_spacegroup_by_ops(gemmi.GroupOps([gemmi.Op(t) for t in moved])) is None
    shifted = Crystal(Cell(8.2, 8.4, 11.7), tuple(moved), small.pbnm().sites[:1])
    assert reflections(shifted, 4.0) == pytest.approx(brute_reflections(shifted, 4.0), abs=1e-9)
    assert reflections(shifted, 4.0) == pytest.approx(
        reflections(small.pbnm(cell=(8.2, 8.4, 11.7)), 4.0), abs=1e-9)


def brute_reflections(crystal, q_max):
    axes = [np.arange(-20, 21)] * 3
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    q = 2 * np.pi * np.linalg.norm(hkl @ np.linalg.inv(crystal.cell.matrix), axis=1)
    inside = (q > 1e-9) & (q <= q_max)
    hkl, q = hkl[inside], np.sort(q[inside][present(crystal, hkl[inside])])
    return q[np.diff(q, prepend=0.0) > 1e-5]


def test_uncertainties_propagate_like_a_random_sample():
    covariance = np.array([[4e-6, 1e-6], [1e-6, 9e-6]])
    values = {"a": 8.2, "b": 8.4}

    def quantities(v):
        return [("area", v["a"] * v["b"], "Å^2"), ("ratio", v["a"] / v["b"], ""), ("one", 1.0, "")]

    area, ratio, one = propagated(quantities, values, ["a", "b"], covariance, [1e-4, 1e-4])
    random = np.random.default_rng(1).multivariate_normal([8.2, 8.4], covariance, 200_000)
    assert area.su == pytest.approx((random[:, 0] * random[:, 1]).std(), rel=0.01)
    assert ratio.su == pytest.approx((random[:, 0] / random[:, 1]).std(), rel=0.01)
    assert one.su is None and one.value == 1.0


def test_an_uncertainty_that_rests_on_an_undetermined_parameter_is_none():
    """A volume that hangs on an edge without s.u. has none either; 0 would be a lie."""
    covariance = np.full((1, 1), np.nan)
    (edge,) = propagated(lambda v: [("d", v["a"], "Å")], {"a": 1.0}, ["a"], covariance, [1e-4])
    assert edge.su is None
