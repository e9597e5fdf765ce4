"""Anisotropic displacement tensors: CIF components, site symmetry, and symmetry copies.

The components U_ij of a CIF (Å^2) refer to reciprocal axes of unit length. In the Cartesian axes of
the cell, U = M N U_ij N M^T, with M the lattice vectors as columns and N = diag(a*, b*, c*).
"""

from __future__ import annotations

import numpy as np

from aiida_dse.engine.units import FloatArray

from .structure import Crystal

#: Indices of the components, in the order of the CIF data names.
COMPONENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def symmetric(components: FloatArray) -> FloatArray:
    """The matrices (..., 3, 3) of components (..., 6) in the order of COMPONENTS."""
    components = np.asarray(components, dtype=float)
    matrix = np.empty((*components.shape[:-1], 3, 3))
    for k, (i, j) in enumerate(COMPONENTS):
        matrix[..., i, j] = matrix[..., j, i] = components[..., k]
    return matrix


def components_of(matrix: FloatArray) -> FloatArray:
    """The components (..., 6) of symmetric matrices (..., 3, 3)."""
    return np.stack([matrix[..., i, j] for i, j in COMPONENTS], axis=-1)


def to_cartesian(matrix: FloatArray) -> FloatArray:
    """The matrix M N (3, 3) that turns CIF components into Cartesian ones, for lattice vectors M."""
    reciprocal = np.linalg.norm(np.linalg.inv(matrix), axis=1)
    return np.asarray(matrix * reciprocal)


def free_components(crystal: Crystal, label: str) -> tuple[tuple[str, ...], FloatArray]:
    """The components that the site symmetry leaves free, and a basis (n_free, 6) of all components.

    The basis vector of a free component has the value 1 for it and 0 for the other free components.
    """
    change = to_cartesian(crystal.cell.matrix)
    inverse = np.linalg.inv(change)
    fixing = crystal.stabiliser(crystal.special_position(label))
    averaged = np.zeros((6, 6))
    for op, _ in fixing:
        turn = inverse @ crystal.cell.matrix @ op.rotation @ np.linalg.inv(crystal.cell.matrix) @ change
        averaged += components_of(turn @ symmetric(np.eye(6)) @ turn.T) / len(fixing)
    rows = averaged.copy()
    basis: list[FloatArray] = []
    names: list[str] = []
    for column, (i, j) in enumerate(COMPONENTS):
        pivot = max(range(len(basis), 6), key=lambda row: abs(rows[row, column]))
        if abs(rows[pivot, column]) < 1e-6:
            continue
        rows[[len(basis), pivot]] = rows[[pivot, len(basis)]]
        rows[len(basis)] /= rows[len(basis), column]
        for row in range(6):
            if row != len(basis):
                rows[row] -= rows[row, column] * rows[len(basis)]
        basis.append(rows[len(basis)])
        names.append(f"U_{i + 1}{j + 1}")
    found = rows[: len(basis)].copy()
    found[np.abs(found) < 1e-9] = 0.0
    return tuple(names), found


def symmetrised(crystal: Crystal, label: str, cartesian: FloatArray) -> FloatArray:
    """The part (3, 3) of a Cartesian tensor at a site that its site symmetry permits."""
    matrix = crystal.cell.matrix
    inverse = np.linalg.inv(matrix)
    turns = [matrix @ op.rotation @ inverse
             for op, _ in crystal.stabiliser(crystal.special_position(label))]
    return np.asarray(np.mean([turn @ cartesian @ turn.T for turn in turns], axis=0))
