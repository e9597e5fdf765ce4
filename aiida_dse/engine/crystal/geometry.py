"""Distances, angles and strains of a refined crystal, with propagated uncertainties."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.units import FloatArray

from .structure import Crystal

Lengths = FloatArray | float
#: Neighbours of a kind are those within this factor of the nearest one.
SHELL = 1.25


@dataclass(frozen=True)
class Quantity:
    """A derived number with its unscaled standard uncertainty (None where nothing was free)."""

    name: str
    value: float
    unit: str
    su: float | None


@dataclass(frozen=True)
class Geometry:
    """Atoms of one cell: matrix (..., 3, 3) Å, positions (..., n, 3) fractional, labels (n,).

    Leading dimensions hold many geometries at once; what is computed has the same ones.
    """

    matrix: FloatArray
    positions: FloatArray
    labels: tuple[str, ...]

    def vector(self, bond: Bond) -> FloatArray:
        """From the first to the second atom of a bond (..., 3) Å."""
        x = self.positions
        step = x[..., bond.second, :] + np.array(bond.cell) - x[..., bond.first, :]
        return np.asarray((self.matrix @ step[..., None])[..., 0])

    def length(self, bond: Bond) -> FloatArray:
        """(...,) Å."""
        return np.asarray(np.linalg.norm(self.vector(bond), axis=-1))

    @property
    def edges(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Cell edges a, b, c (...,) Å."""
        a, b, c = np.moveaxis(np.linalg.norm(self.matrix, axis=-2), -1, 0)
        return a, b, c

    @property
    def volume(self) -> FloatArray:
        """(...,) Å^3."""
        return np.asarray(np.linalg.det(self.matrix))


@dataclass(frozen=True)
class Bond:
    """Atom `first` of the home cell and atom `second` of another."""

    first: int
    second: int
    cell: tuple[int, int, int]


def bonds(geometry: Geometry, first: str, second: str) -> list[Bond]:
    """The bonds from one atom of `first` to its nearest shell of `second`, shortest first.

    Bonds of the same length (within 1e-4 Å) are listed once.
    """
    shell = _shell(geometry, first, second)
    lengths = np.array([geometry.length(bond) for bond in shell])
    return [shell[k] for k in _distinct(lengths, 1e-4)]


def angles(geometry: Geometry, first: str, vertex: str, last: str) -> list[tuple[Bond, Bond]]:
    """Pairs of bonds from an atom of `vertex` that span distinct angles, largest first."""
    one, other = _shell(geometry, vertex, first), _shell(geometry, vertex, last)
    pairs = [(u, v) for u in one for v in other if u != v]
    values = np.array([angle(geometry, pair) for pair in pairs])
    return [pairs[k] for k in _distinct(values, 1e-3)][::-1]


def angle(geometry: Geometry, pair: tuple[Bond, Bond]) -> FloatArray:
    """The angle (degrees) that two bonds from one atom span."""
    u, v = geometry.vector(pair[0]), geometry.vector(pair[1])
    lengths = np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1)
    return np.asarray(np.degrees(np.arccos(np.clip((u * v).sum(axis=-1) / lengths, -1, 1))))


def pseudo_cubic_edge(a: Lengths, b: Lengths, c: Lengths) -> FloatArray:
    """a_k = (a b c / 4)^(1/3) in Å of a Pbnm perovskite cell."""
    return np.asarray((a * b * c / 4) ** (1 / 3))


def irreducible_strain(a: Lengths, b: Lengths, c: Lengths) -> FloatArray:
    """zeta = (eps_aa - eps_bb) / 2, eps = (edge - sqrt2 a_k) / (sqrt2 a_k).

    Bertolotti et al., Small Structures (2023).
    """
    return np.asarray((a - b) / (2 * np.sqrt(2) * pseudo_cubic_edge(a, b, c)))


def reflections(crystal: Crystal, q_max: float) -> FloatArray:
    """Distinct q (1/Å) of the reflections up to q_max that the symmetry does not extinguish."""
    reciprocal = 2 * np.pi * np.linalg.inv(crystal.cell.matrix)
    reach = np.floor(q_max / (2 * np.pi) * np.linalg.norm(crystal.cell.matrix, axis=0)).astype(int)
    axes = [np.arange(-n, n + 1) for n in reach]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    q = np.linalg.norm(hkl @ reciprocal, axis=1)
    inside = (q > 1e-9) & (q <= q_max)
    hkl, q = hkl[inside], q[inside]
    present = np.ones(len(hkl), dtype=bool)
    for op in crystal.symmetry:
        unmoved = (hkl @ op.rotation == hkl).all(axis=1)
        phase = hkl @ op.translation
        present &= ~(unmoved & (np.abs(phase - np.round(phase)) > 1e-6))
    found = q[present]
    return np.asarray(found[_distinct(found, 1e-5)])


def propagated(
    quantities: Callable[[Mapping[str, float]], Sequence[tuple[str, float, str]]],
    values: Mapping[str, float],
    free: Sequence[str],
    covariance: FloatArray,
    steps: Sequence[float],
) -> list[Quantity]:
    """Quantities at `values` with s.u. = sqrt(g C g^T), g by central differences.

    quantities maps parameter values to (name, value, unit) rows; covariance (n_free, n_free).
    """
    rows = list(quantities(values))
    spread = np.diag(propagated_covariance(quantities, values, free, covariance, steps))
    return [
        Quantity(name, value, unit, float(np.sqrt(variance)) if np.isfinite(variance) else None)
        for (name, value, unit), variance in zip(rows, spread, strict=True)
    ]


def propagated_covariance(
    quantities: Callable[[Mapping[str, float]], Sequence[tuple[str, float, str]]],
    values: Mapping[str, float],
    free: Sequence[str],
    covariance: FloatArray,
    steps: Sequence[float],
) -> FloatArray:
    """g C g^T (n, n) of n quantities, g by central differences.

    Rows and columns of quantities that nothing moves, or that depend on a parameter without s.u.,
    are nan. Arguments as of `propagated`.
    """
    rows = list(quantities(values))
    gradient = np.zeros((len(rows), len(free)))
    for k, (name, step) in enumerate(zip(free, steps, strict=True)):
        ends = []
        for sign in (1, -1):
            moved = dict(values)
            moved[name] = values[name] + sign * step
            ends.append(np.array([value for _, value, _ in quantities(moved)]))
        gradient[:, k] = (ends[0] - ends[1]) / (2 * step)
    known = np.isfinite(np.diag(covariance)) if len(free) else np.zeros(0, dtype=bool)
    moves = np.abs(gradient[:, known]).sum(axis=1) > 0
    moves &= ~(np.abs(gradient[:, ~known]) > 0).any(axis=1)
    inner = covariance[np.ix_(known, known)]
    found = np.asarray(gradient[:, known] @ inner @ gradient[:, known].T)
    np.fill_diagonal(found, np.maximum(np.diag(found), 0.0))  # rounding may leave -1e-30
    found[~moves] = np.nan
    found[:, ~moves] = np.nan
    return found


def _shell(geometry: Geometry, centre: str, kind: str) -> list[Bond]:
    """Bonds from one atom of `centre` to its nearest shell of `kind`."""
    first = geometry.labels.index(centre)
    cells = np.stack(np.meshgrid(*[(-2, -1, 0, 1, 2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    found = [
        (float(np.linalg.norm(geometry.vector(bond))), bond)
        for second, label in enumerate(geometry.labels)
        if label == kind
        for cell in cells
        if (bond := Bond(first, second, (int(cell[0]), int(cell[1]), int(cell[2]))))
    ]
    found = sorted((row for row in found if row[0] > 0.3), key=lambda row: row[0])
    return [bond for length, bond in found if length <= SHELL * found[0][0]]


def _distinct(values: FloatArray, tolerance: float) -> np.ndarray:
    """Indices of distinct values in increasing order."""
    order = np.argsort(values)
    if not len(order):
        return order
    keep = np.concatenate([[True], np.diff(values[order]) > tolerance])
    return np.asarray(order[keep])
