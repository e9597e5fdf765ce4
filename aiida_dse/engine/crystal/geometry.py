"""Distances, angles and strains of a refined crystal, with propagated uncertainties."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import gemmi
import numpy as np

from aiida_dse.engine.units import FloatArray

from .structure import Crystal

Lengths = FloatArray | float


@dataclass(frozen=True)
class Quantity:
    """A derived quantity with its unscaled standard uncertainty (None where nothing was free)."""

    name: str
    value: float
    unit: str
    su: float | None


@dataclass(frozen=True)
class Geometry:
    """The atoms of one cell: matrix (..., 3, 3) Å, positions (..., n, 3) fractional, labels (n,).

    Leading dimensions hold many geometries at once; computed quantities have the same dimensions.
    """

    matrix: FloatArray
    positions: FloatArray
    labels: tuple[str, ...]

    def vector(self, bond: Bond) -> FloatArray:
        """The vector (..., 3) Å from the first to the second atom of a bond."""
        x = self.positions
        step = x[..., bond.second, :] + np.array(bond.cell) - x[..., bond.first, :]
        return np.asarray((self.matrix @ step[..., None])[..., 0])

    def length(self, bond: Bond) -> FloatArray:
        """The length (...,) of a bond in Å."""
        return np.asarray(np.linalg.norm(self.vector(bond), axis=-1))

    @property
    def edges(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The cell edges a, b, c (...,) in Å."""
        a, b, c = np.moveaxis(np.linalg.norm(self.matrix, axis=-2), -1, 0)
        return a, b, c

    @property
    def volume(self) -> FloatArray:
        """The cell volume (...,) in Å^3."""
        return np.asarray(np.linalg.det(self.matrix))


@dataclass(frozen=True)
class Bond:
    """A bond from atom `first` of the home cell to atom `second` of the cell `cell`.

    `multiplicity` is the number of bonds from the first atom that are equivalent by symmetry, this
    one included.
    """

    first: int
    second: int
    cell: tuple[int, int, int]
    multiplicity: int = field(default=1, compare=False)


@dataclass(frozen=True)
class BondAngle:
    """The angle between two bonds from one atom.

    `multiplicity` is the number of angles at that atom that are equivalent by symmetry, this one
    included.
    """

    first: Bond
    last: Bond
    multiplicity: int = field(default=1, compare=False)


def angle(geometry: Geometry, between: BondAngle) -> FloatArray:
    """The angle (...,) in degrees between two bonds u, v from one atom: atan2(|u x v|, u.v).

    It is accurate to rounding at all angles; the arc cosine loses half the digits near 180 degrees.
    """
    u, v = geometry.vector(between.first), geometry.vector(between.last)
    across = np.linalg.norm(np.cross(u, v), axis=-1)
    return np.asarray(np.degrees(np.arctan2(across, (u * v).sum(axis=-1))))


def pseudo_cubic_edge(a: Lengths, b: Lengths, c: Lengths) -> FloatArray:
    """The pseudo-cubic edge a_k = (a b c / 4)^(1/3) in Å of a Pbnm perovskite cell."""
    return np.asarray((a * b * c / 4) ** (1 / 3))


def irreducible_strain(a: Lengths, b: Lengths, c: Lengths) -> FloatArray:
    """The irreducible strain of a Pbnm perovskite cell, zeta = (eps_aa - eps_bb) / 2.

    eps = (edge - sqrt2 a_k) / (sqrt2 a_k), with the pseudo-cubic edge a_k.

    Bertolotti et al., Small Structures (2023).
    """
    return np.asarray((a - b) / (2 * np.sqrt(2) * pseudo_cubic_edge(a, b, c)))


def reflections(crystal: Crystal, q_max: float) -> FloatArray:
    """Distinct q (1/Å) of the reflections up to q_max that are not systematically absent.

    The absences follow from the listed symmetry operations, so any setting is possible.
    """
    cell = gemmi.UnitCell(*crystal.cell.parameters)
    group = gemmi.GroupOps([gemmi.Op(triplet) for triplet in crystal.operations])
    # space group P 1 keeps one reflection of each Friedel pair and applies no other symmetry
    hkl = gemmi.make_miller_array(cell, gemmi.SpaceGroup("P 1"), 2 * np.pi / q_max)
    present = np.ascontiguousarray(hkl[~group.systematic_absences(hkl)])
    q = np.sort(2 * np.pi * np.sqrt(cell.calculate_1_d2_array(present)))
    return np.asarray(q[np.diff(q, prepend=0.0) > 1e-5])


def propagated(
    quantities: Callable[[Mapping[str, float]], Sequence[tuple[str, float, str]]],
    values: Mapping[str, float],
    free: Sequence[str],
    covariance: FloatArray,
    steps: Sequence[float],
) -> list[Quantity]:
    """Derived quantities at `values` with s.u. = sqrt(g C g^T), g by central differences.

    `quantities` maps parameter values to rows of (name, value, unit). `covariance` (n_free, n_free)
    is that of the parameters `free`; `steps` (n_free,) are their steps in the differences.
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
    """The covariance g C g^T (n, n) of n derived quantities, g by central differences.

    Rows and columns of quantities that no free parameter moves, or that depend on a parameter
    without an s.u., are nan. The arguments are those of `propagated`.
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
    carried = np.asarray(gradient[:, known] @ inner @ gradient[:, known].T)
    np.fill_diagonal(carried, np.maximum(np.diag(carried), 0.0))  # rounding may leave -1e-30
    carried[~moves] = np.nan
    carried[:, ~moves] = np.nan
    return carried
