"""Cells, special positions and multiplicities, in the setting they were given in."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.crystal.structure import Cell, Crystal, Site

ATOM = [("A", "Pb2+", (0.13, 0.27, 0.39), 1.0, 1.0)]
RHOMBOHEDRAL = (6.1, 6.1, 6.1, 71, 71, 71)

CONSTRAINTS = [
    ("P -1", (5, 6, 7, 80, 95, 101), {}),
    ("P 1 21/c 1", (5, 6, 7, 90, 101, 90), {"alpha": 90, "gamma": 90}),
    ("P 1 1 21/b", (5, 6, 7, 90, 90, 101), {"alpha": 90, "beta": 90}),
    ("C 1 2/c 1", (5, 6, 7, 90, 101, 90), {"alpha": 90, "gamma": 90}),
    ("P b n m", (5, 6, 7), {"alpha": 90, "beta": 90, "gamma": 90}),
    ("I 4/m c m", (5, 5, 7), {"b": "a", "alpha": 90, "beta": 90, "gamma": 90}),
    ("P m -3 m", (5, 5, 5), {"b": "a", "c": "a", "alpha": 90, "beta": 90, "gamma": 90}),
    ("P 63 m c", (5, 5, 7, 90, 90, 120), {"b": "a", "alpha": 90, "beta": 90, "gamma": 120}),
    ("R -3 m:H", (5, 5, 7, 90, 90, 120), {"b": "a", "alpha": 90, "beta": 90, "gamma": 120}),
    ("R -3 m:R", RHOMBOHEDRAL, {"b": "a", "c": "a", "beta": "alpha", "gamma": "alpha"}),
]


@pytest.mark.parametrize(("symbol", "cell", "expected"), CONSTRAINTS, ids=lambda v: str(v)[:12])
def test_what_the_symmetry_makes_of_the_cell(symbol, cell, expected, dse):
    crystal = dse.crystal(symbol, cell, ATOM)
    assert crystal.cell_constraints == expected
    free = [n for n in ("a", "b", "c", "alpha", "beta", "gamma") if n not in expected]
    assert list(crystal.free_cell_parameters) == free
    # the cell obeys them, and a changed cell goes on obeying them
    assert crystal.checked_cell().cell == crystal.cell
    changed = crystal.with_cell(**{free[0]: getattr(crystal.cell, free[0]) * 1.01})
    metric = changed.cell.matrix.T @ changed.cell.matrix
    for op in crystal.symmetry:
        assert_allclose(op.rotation.T @ metric @ op.rotation, metric, atol=1e-9)


def test_tetragonal_with_its_axis_along_a(dse):
    """No standard setting: I 4/mcm with the fourfold axis along a (b = c)."""
    turned = tuple(
        gemmi.Op("z,x,y").combine(op).combine(gemmi.Op("y,z,x")).triplet()
        for op in gemmi.SpaceGroup("I 4/m c m").operations()
    )
    crystal = Crystal(Cell(11.0, 8.0, 8.0), turned, (Site(*ATOM[0]),))
    assert crystal.cell_constraints == {"c": "b", "alpha": 90, "beta": 90, "gamma": 90}


def _primitive(symbol, to_centred):
    """Triplets of a centred cubic group on its primitive cell."""
    inverse = np.linalg.inv(to_centred)
    triplets = set()
    for op in gemmi.SpaceGroup(symbol).operations().sym_ops:
        rotation = np.round(inverse @ (np.array(op.rot) / op.DEN) @ to_centred).astype(int)
        triplets.add(",".join(
            "".join(f"{n:+d}{axis}" for n, axis in zip(row, "xyz", strict=True) if n)
            .replace("1", "").lstrip("+") for row in rotation
        ))
    return tuple(triplets)


@pytest.mark.parametrize(
    ("symbol", "axes", "angle"),
    [
        ("F m -3 m", [[0, 1, 1], [1, 0, 1], [1, 1, 0]], 60.0),
        ("I m -3 m", [[-1, 1, 1], [1, -1, 1], [1, 1, -1]], np.degrees(np.arccos(-1 / 3))),
    ],
)
def test_the_primitive_cell_of_a_cubic_crystal_has_one_free_parameter(symbol, axes, angle):
    operations = _primitive(symbol, np.array(axes).T / 2)
    assert len(operations) == 48
    crystal = Crystal(
        Cell(2.5, 2.5, 2.5, angle, angle, angle), operations,
        (Site("Fe", "Fe", (0, 0, 0), 1.0, 0.5),),
    )
    metric = crystal.cell.matrix.T @ crystal.cell.matrix
    for op in crystal.symmetry:
        assert_allclose(op.rotation.T @ metric @ op.rotation, metric, atol=1e-9)
    assert crystal.free_cell_parameters == ("a",)


def test_a_cell_against_its_symmetry_is_refused(dse):
    with pytest.raises(ValueError, match="gamma = 119"):
        dse.crystal("P 63 m c", (5, 5, 7, 90, 90, 119), ATOM).checked_cell()
    with pytest.raises(ValueError, match="b = 6"):
        dse.crystal("P m -3 m", (5, 6, 5), ATOM).checked_cell()


@pytest.mark.parametrize(
    "cell",
    [(5, 6, 7, 80, 95, 101), (5, 6, 7), (4, 4, 7, 90, 90, 120), (6.1, 7.3, 8.4, 78, 97, 109)],
)
def test_the_cell_matrix_has_the_metric_of_the_cell(cell, direct):
    own = Cell(*cell).matrix
    reference = direct.lattice_vectors(*cell)
    assert_allclose(own.T @ own, reference @ reference.T, rtol=1e-12, atol=1e-12)
    assert Cell(*cell).volume == pytest.approx(abs(np.linalg.det(reference)), rel=1e-12)


def test_a_cell_without_volume_is_refused():
    with pytest.raises(ValueError, match="no volume"):
        Cell(5, 6, 7, 60, 60, 150)


FREEDOM = [
    ("P b n m", (8.2, 8.4, 11.7), (0.552, 0.494, 0.75), ("x", "y"), [[1, 0, 0], [0, 1, 0]], 4),
    ("P b n m", (8.2, 8.4, 11.7), (0, 0, 0.5), (), np.zeros((0, 3)), 4),
    ("P b n m", (8.2, 8.4, 11.7), (0.29, 0.21, 0.486), ("x", "y", "z"), np.eye(3), 8),
    ("P m -3 m", (5.87,) * 3, (0.5, 0.07, 0), ("y",), [[0, 1, 0]], 12),
    ("P m -3 m", (5.87,) * 3, (0.2, 0.2, 0.2), ("x",), [[1, 1, 1]], 8),
    ("P m -3 m", (5.87,) * 3, (0.5, 0, 0), (), np.zeros((0, 3)), 3),
    ("P m -3 m", (5.87,) * 3, (0.11, 0.23, 0.37), ("x", "y", "z"), np.eye(3), 48),
    ("P 21 3", (6.5,) * 3, (0.6, 0.4, -0.1), ("x",), [[1, -1, -1]], 4),
    ("P 63 m c", (8.3, 8.3, 7.0, 90, 90, 120), (0.15, 0.30, 0.2), ("x", "z"),
     [[1, 2, 0], [0, 0, 1]], 6),
    ("P 63 m c", (8.3, 8.3, 7.0, 90, 90, 120), (0.3333, 0.6667, 0.2), ("z",), [[0, 0, 1]], 2),
    ("F m -3 m", (5.9,) * 3, (0, 0, 0), (), np.zeros((0, 3)), 4),
    ("F d -3 m:2", (5.43,) * 3, (0.125, 0.125, 0.125), (), np.zeros((0, 3)), 8),
    ("I 41/a m d:2", (3.785, 3.785, 9.514), (0, 0.25, 0.208), ("z",), [[0, 0, 1]], 8),
    ("R -3 c:H", (5.9, 5.9, 14.4, 90, 90, 120), (0.55, 0, 0.25), ("x",), [[1, 0, 0]], 18),
    ("P -1", (5, 6, 7, 80, 95, 101), (0.5, 0, 0.5), (), np.zeros((0, 3)), 1),
]


@pytest.mark.parametrize(
    ("symbol", "cell", "position", "independent", "basis", "multiplicity"), FREEDOM
)
def test_special_positions(symbol, cell, position, independent, basis, multiplicity, dse):
    """International Tables: free coordinates and multiplicity of a position."""
    crystal = dse.crystal(symbol, cell, [("A", "Pb2+", position, 1.0, 1.0)])
    freedom = crystal.coordinate_freedom("A")
    assert freedom.independent == independent
    assert_allclose(freedom.basis, np.array(basis, dtype=float).reshape(-1, 3), atol=1e-12)
    assert set(freedom.reasons) == set("xyz") - set(independent)
    assert len(crystal.basis_atoms) == multiplicity
    if independent:
        # moved along the freedom it keeps its multiplicity and all images stay inequivalent
        along = np.array(position) + 0.0123 * np.sum(freedom.basis, axis=0)
        moved = dse.crystal(symbol, cell, [("A", "Pb2+", tuple(along), 1.0, 1.0)])
        assert len(moved.basis_atoms) == multiplicity
    positions = crystal.positions()
    assert positions.min() > -1e-6 and positions.max() < 1


def test_a_position_moves_with_its_special_position(dse):
    from aiida_dse.engine.particles.parallelepipeds import SingleParallelepiped

    crystal = dse.crystal(
        "P 63 m c", (8.3, 8.3, 7.0, 90, 90, 120), [("A", "Pb2+", (0.15, 0.30, 0.2), 1.0, 1.0)]
    )
    phase = dse.phase(crystal, SingleParallelepiped((1, 1, 1)))
    assert {"A.x", "A.z"} <= set(phase.start)
    moved = phase.structure(dse.values(phase, A__x=0.17))
    assert_allclose(moved.sites[0].position, (0.17, 0.34, 0.2), atol=1e-12)
    assert "A.y" in phase.fixed_reasons


def test_a_rounded_position_is_placed_on_its_special_position(dse):
    crystal = dse.crystal(
        "P 63 m c", (4.3, 4.3, 7.0, 90, 90, 120), [("A", "Se", (0.333, 0.667, 0.2), 1.0, 1.0)]
    )
    assert_allclose(crystal.special_position("A"), (1 / 3, 2 / 3, 0.2), atol=1e-12)


@pytest.mark.parametrize("name", ["pbnm", "wurtzite", "triclinic", "rock_salt", "split"])
def test_the_cell_holds_the_atoms_written_out_by_hand(name, dse):
    """Setting and labels are kept: Pbnm stays Pbnm, its c axis and its mirror at z = 1/4."""
    crystal, structure = dse.crystals[name], dse.structures[name]
    assert_allclose(
        [getattr(crystal.cell, n) for n in ("a", "b", "c")], structure.cell[:3], rtol=0
    )
    positions = crystal.positions()
    assert len(positions) == len(structure.positions)
    for site in range(len(crystal.sites)):
        own = positions[crystal.site_of_atom == site]
        reference = structure.positions[structure.site == site]
        offset = own[:, None, :] - reference[None, :, :]
        distance = np.abs(offset).max(axis=2)
        assert (distance < 1e-5).sum(axis=0).tolist() == [1] * len(reference)
        assert (distance < 1e-5).sum(axis=1).tolist() == [1] * len(reference)


def test_pbnm_is_not_standardised(dse):
    crystal = dse.crystals["pbnm"]
    assert crystal.space_group == "P b n m"
    assert [site.label for site in crystal.sites] == ["Cs", "Pb", "Br_eq", "Br_ax"]
    assert crystal.coordinate_freedom("Br_ax").independent == ("x", "y")
    assert "z" in crystal.coordinate_freedom("Cs").reasons
    assert (crystal.cell.a, crystal.cell.b, crystal.cell.c) == (8.207, 8.407, 11.756)


def test_the_origin_moves_the_box_not_the_crystal(dse):
    base = dse.crystals["rock_salt"]
    moved = dse.crystal(
        "F m -3 m", (5.936,) * 3,
        [("Pb", "Pb2+", (0, 0, 0), 1.0, 1.3), ("S", "S", (0.5, 0.5, 0.5), 1.0, 0.9)],
        termination=(-0.25, 0.1, 0.6),
    )
    positions = moved.positions()
    assert ((positions >= np.array(moved.termination) - 1e-6)
            & (positions < np.array(moved.termination) + 1)).all()
    key = lambda p: sorted(map(tuple, np.round(p - np.floor(p + 1e-9), 6)))  # noqa: E731
    assert key(positions) == key(base.positions())


def test_bad_sites_are_refused_by_name(dse):
    with pytest.raises(ValueError, match="no atom sites"):
        dse.crystal("P 1", (5, 6, 7), [])
    with pytest.raises(ValueError, match="'A' names 2"):
        dse.crystal("P 1", (5, 6, 7), [*ATOM, ATOM[0]])
    with pytest.raises(ValueError, match=r"occupancy 1\.2"):
        dse.crystal("P 1", (5, 6, 7), [("A", "Pb", (0, 0, 0), 1.2, 1.0)])


@pytest.mark.parametrize("parameters", [
    (5.87, 5.87, 5.87, 90, 90, 90), (4.2985, 4.2985, 7.0152, 90, 90, 120),
    (8.2, 5.7, 11.7, 90, 93.1, 90), (6.13, 7.29, 8.41, 77.9, 97.3, 109.6)])
def test_the_cell_matrix_is_the_cholesky_factor_of_the_metric(parameters, direct):
    """a along x and b in the xy plane: the one upper-triangular root with positive diagonal."""
    cell = Cell(*parameters)
    np.testing.assert_allclose(cell.matrix, direct.lattice_vectors(*parameters).T, atol=1e-13)
    assert cell.volume == pytest.approx(np.linalg.det(cell.matrix), rel=1e-13)


@pytest.mark.parametrize("parameters", [
    (5, 6, 7, 60, 60, 120), (5, 6, 7, 80, 97, 10), (5, 6, 7, 90, 90, 0), (5, 6, 7, 90, -90, 90),
    (5, -6, 7)])
def test_cells_that_do_not_close(parameters):
    with pytest.raises(ValueError, match="has no volume"):
        Cell(*parameters)
