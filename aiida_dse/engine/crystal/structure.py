"""Crystal structures in the setting of the user: cell, symmetry operations and labelled sites.

The setting and the site labels of the input are kept as they are; nothing is standardised.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property

import gemmi
import numpy as np

from aiida_dse.engine.units import FloatArray

CELL_LENGTHS = ("a", "b", "c")
CELL_ANGLES = ("alpha", "beta", "gamma")
CELL_PARAMETERS = (*CELL_LENGTHS, *CELL_ANGLES)
COORDINATES = ("x", "y", "z")
#: Two images of a site nearer than this (Å) are the same atom on a special position.
SAME_POSITION = 0.02


@dataclass(frozen=True)
class Cell:
    """A unit cell: edges in Å and angles in degrees."""

    a: float
    b: float
    c: float
    alpha: float = 90.0
    beta: float = 90.0
    gamma: float = 90.0

    def __post_init__(self) -> None:
        if not min(self.parameters) > 0 or not np.isfinite(self.volume):
            raise ValueError(
                f"the cell {self} has no volume. Edges must be positive lengths in Å, and angles "
                "in degrees must close a cell."
            )

    def __str__(self) -> str:
        return " ".join(f"{getattr(self, name):g}" for name in CELL_PARAMETERS)

    @cached_property
    def matrix(self) -> FloatArray:
        """The lattice vectors a, b, c as columns, (3, 3) Å; a lies along x, b in the xy plane."""
        return np.array(gemmi.UnitCell(*self.parameters).orth.mat.tolist())

    @property
    def parameters(self) -> tuple[float, ...]:
        """a, b, c in Å and alpha, beta, gamma in degrees."""
        return self.a, self.b, self.c, self.alpha, self.beta, self.gamma

    @property
    def volume(self) -> float:
        """The cell volume in Å^3; nan where the angles do not close a cell."""
        volume = gemmi.UnitCell(*self.parameters).volume
        return volume if volume > 1e-9 else float("nan")


@dataclass(frozen=True)
class Site:
    """One site of the asymmetric unit."""

    label: str
    ion: str
    position: tuple[float, float, float]
    occupancy: float = 1.0
    b_iso: float | None = None  # Å^2
    assembly: str = ""
    group: int = 0
    u_aniso: tuple[float, ...] | None = None  # U11 U22 U33 U12 U13 U23 of a CIF, Å^2


@dataclass(frozen=True)
class Operation:
    """A symmetry operation x -> rotation x + translation, in fractional coordinates."""

    rotation: FloatArray  # (3, 3)
    translation: FloatArray  # (3,)
    triplet: str

    @classmethod
    def from_triplet(cls, triplet: str) -> Operation:
        op = gemmi.Op(triplet)
        return cls(
            np.array(op.rot, dtype=float) / op.DEN,
            np.array(op.tran, dtype=float) / op.DEN,
            op.triplet(),
        )

    def __call__(self, position: FloatArray) -> FloatArray:
        return self.rotation @ position + self.translation


@dataclass(frozen=True)
class CoordinateFreedom:
    """The coordinates of a site that may move without leaving its special position."""

    independent: tuple[str, ...]
    basis: FloatArray  # (n_free, 3) the shift of the position with each independent coordinate
    reasons: dict[str, str] = field(default_factory=dict)  # why the others cannot be free


@dataclass(frozen=True)
class BasisAtom:
    """An atom of the unit cell: rotation @ site position + translation."""

    site: int
    rotation: FloatArray
    translation: FloatArray


@dataclass(frozen=True)
class Crystal:
    """A crystal structure: a cell, symmetry operations as triplets, and labelled sites.

    `termination` (fractional) is the corner of the box of atoms that counts as one cell in
    particles of whole cells; it determines the atoms at their faces. Raises ValueError for missing
    or repeated labels and for occupancies that are not above 0 and at most 1.
    """

    cell: Cell
    operations: tuple[str, ...]
    sites: tuple[Site, ...]
    name: str = "crystal"
    space_group: str = ""
    termination: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not self.sites:
            raise ValueError(f"{self.name}: the structure has no atom sites.")
        labels = Counter(site.label for site in self.sites)
        for site in self.sites:
            if not site.label.strip():
                raise ValueError(
                    f"{self.name}: a site of {site.ion} at {site.position} has no label. Every "
                    "site needs its own _atom_site_label, because parameters are named by it."
                )
            if labels[site.label] > 1:
                raise ValueError(
                    f"{self.name}: the label '{site.label}' names {labels[site.label]} "
                    "sites. Give every site its own label."
                )
            if not 0 < site.occupancy <= 1:
                raise ValueError(
                    f"{self.name}: site {site.label} has occupancy {site.occupancy:g}; it must "
                    "be above 0 and at most 1."
                )

    @cached_property
    def symmetry(self) -> tuple[Operation, ...]:
        return tuple(Operation.from_triplet(triplet) for triplet in self.operations)

    def site(self, label: str) -> Site:
        for site in self.sites:
            if site.label == label:
                return site
        raise ValueError(
            f"{self.name} has no site '{label}'; its sites are "
            f"{', '.join(site.label for site in self.sites)}."
        )

    @cached_property
    def cell_constraints(self) -> dict[str, str | float]:
        """The symmetry constraints on the cell parameters that are not free.

        Maps the name of a parameter to that of the parameter which it equals ('b' -> 'a') or to its
        fixed value ('gamma' -> 120.0). The constraints are derived from the metric tensor that the
        rotations leave invariant, so they hold in any setting.
        """
        edges, angles = self._invariant_cell(Cell(5.1, 6.7, 8.9, 83.0, 97.0, 101.0))
        _, others = self._invariant_cell(Cell(6.3, 5.9, 7.7, 94.0, 86.0, 105.0))
        constraints: dict[str, str | float] = {}
        for i, j in ((0, 1), (0, 2), (1, 2)):
            if abs(edges[i] - edges[j]) < 1e-6 and CELL_LENGTHS[j] not in constraints:
                constraints[CELL_LENGTHS[j]] = CELL_LENGTHS[i]
        names = CELL_ANGLES
        for name, angle, other in zip(names, angles, others, strict=True):
            if abs(angle - other) < 1e-6:
                constraints[name] = float(np.round(angle, 10))
        for i, j in ((0, 1), (0, 2), (1, 2)):
            if abs(angles[i] - angles[j]) < 1e-6 and not {names[i], names[j]} & set(constraints):
                constraints[names[j]] = names[i]
        metrics = [
            op.rotation.T[:, None, :, None] * op.rotation.T[None, :, None, :]
            for op in self.symmetry
        ]
        symmetric = 0.5 * (np.eye(9) + np.eye(9).reshape(3, 3, 9).swapaxes(0, 1).reshape(9, 9))
        invariant = symmetric @ np.mean(metrics, axis=0).reshape(9, 9) @ symmetric
        if len(CELL_PARAMETERS) - len(constraints) != round(float(np.trace(invariant))):
            raise ValueError(
                f"{self.name}: in this setting, symmetry relates edges and angles of the cell to "
                "each other in a way that cannot be refined. Use the conventional (centred) cell "
                "of the structure."
            )
        return constraints

    def _invariant_cell(self, generic: Cell) -> tuple[FloatArray, list[float]]:
        """Edges and angles of a cell averaged over the rotations."""
        matrix = generic.matrix
        metric = np.mean(
            [op.rotation.T @ matrix.T @ matrix @ op.rotation for op in self.symmetry], axis=0
        )
        edges = np.sqrt(np.diag(metric))
        cosines = [metric[i, j] / (edges[i] * edges[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
        return edges, [float(np.degrees(np.arccos(cosine))) for cosine in cosines]

    @property
    def free_cell_parameters(self) -> tuple[str, ...]:
        return tuple(name for name in CELL_PARAMETERS if name not in self.cell_constraints)

    def with_cell(self, **values: float) -> Crystal:
        """A copy with other independent cell parameters; symmetry determines the dependent ones."""
        full = {name: getattr(self.cell, name) for name in CELL_PARAMETERS} | values
        for name, rule in self.cell_constraints.items():
            full[name] = full[rule] if isinstance(rule, str) else rule
        return replace(self, cell=Cell(**full))

    def is_scaled(self, other: Crystal) -> bool:
        """Whether another structure of the same sites differs only in scale, if at all."""
        edges = [getattr(other.cell, name) / getattr(self.cell, name) for name in CELL_LENGTHS]
        angles = [getattr(other.cell, name) - getattr(self.cell, name)
                  for name in CELL_PARAMETERS if name not in CELL_LENGTHS]
        return bool(np.ptp(edges) < 1e-12 and not np.any(angles) and all(
            one.position == two.position
            for one, two in zip(self.sites, other.sites, strict=True)))

    def checked_cell(self) -> Crystal:
        """The crystal with a cell that obeys its symmetry exactly.

        Raises ValueError for a parameter that deviates by more than 0.01 Å or 0.01 degrees.
        """
        for name, rule in self.cell_constraints.items():
            value = getattr(self.cell, name)
            wanted = getattr(self.cell, rule) if isinstance(rule, str) else rule
            if abs(value - wanted) > 0.01:
                what = f"equal {rule} = {wanted:g}" if isinstance(rule, str) else f"be {wanted:g}"
                raise ValueError(
                    f"{self.name}: {name} = {value:g}, but the symmetry operations require it to "
                    f"{what}. Correct the cell or the space group of the structure."
                )
        return self.with_cell()

    def stabiliser(self, point: FloatArray) -> list[tuple[Operation, FloatArray]]:
        """The operations, with their lattice translations, that leave a fractional point fixed."""
        fixing = []
        for op in self.symmetry:
            moved = op(point)
            shift = np.round(point - moved)
            if np.linalg.norm(self.cell.matrix @ (moved + shift - point)) < SAME_POSITION:
                fixing.append((op, shift))
        return fixing

    def special_position(self, label: str) -> FloatArray:
        """The position (3,) of a site, moved exactly onto its special position."""
        point = np.array(self.site(label).position, dtype=float)
        images = [op(point) + shift for op, shift in self.stabiliser(point)]
        return np.asarray(np.mean(images, axis=0))

    def coordinate_freedom(self, label: str) -> CoordinateFreedom:
        """Directions in which a site may move without leaving its special position."""
        point = self.special_position(label)
        stabiliser = self.stabiliser(point)
        projector = np.mean([op.rotation for op, _ in stabiliser], axis=0)
        basis = _row_echelon(projector.T)
        pivots = [int(np.flatnonzero(np.abs(row) > 1e-9)[0]) for row in basis]
        reasons = {}
        for axis, name in enumerate(COORDINATES):
            if axis in pivots:
                continue
            follows = [
                f"{row[axis]:+g} {COORDINATES[pivot]}"
                for row, pivot in zip(basis, pivots, strict=True)
                if abs(row[axis]) > 1e-9
            ]
            if follows:
                reasons[name] = (
                    f"{label} lies on a special position where {name} follows "
                    f"{' '.join(follows).lstrip('+')}; free that coordinate instead"
                )
            else:
                fixing = next(
                    (op for op, _ in stabiliser if abs(op.rotation[axis, axis] - 1) > 1e-9),
                    stabiliser[-1][0],
                )
                reasons[name] = (
                    f"{label} lies on a special position, {name} = {point[axis]:.6g}: the "
                    f"operation '{fixing.triplet}' maps the site onto itself, so {name} cannot "
                    "move without doubling the atom"
                )
        return CoordinateFreedom(tuple(COORDINATES[p] for p in pivots), basis, reasons)

    @cached_property
    def basis_atoms(self) -> tuple[BasisAtom, ...]:
        """All atoms of the unit cell, site by site: termination <= coordinate < termination + 1.

        The choice of these atoms determines the faces of a particle of whole cells. It is made
        once, from the starting coordinates: an atom that later moves across a face of the cell
        still belongs to that cell.
        """
        atoms: list[BasisAtom] = []
        for index, site in enumerate(self.sites):
            point = self.special_position(site.label)
            images: list[FloatArray] = []
            for op in self.symmetry:
                moved = op(point)
                if any(self._same_modulo_lattice(moved, image) for image in images):
                    continue
                images.append(moved)
                shift = -np.floor(np.round(moved - np.array(self.termination), 6))
                atoms.append(BasisAtom(index, op.rotation, op.translation + shift))
        return tuple(atoms)

    def positions(self, site_positions: FloatArray | None = None) -> FloatArray:
        """Fractional positions (..., n_atoms, 3) of the atoms of the cell.

        `site_positions` (..., n_sites, 3) are by default those of the crystal.
        """
        if site_positions is None:
            site_positions = self.site_positions
        rotations, translations = self._stacked_basis
        images = np.einsum("nij,...nj->...ni", rotations, site_positions[..., self.site_of_atom, :])
        return np.asarray(images + translations)

    @cached_property
    def _stacked_basis(self) -> tuple[FloatArray, FloatArray]:
        atoms = self.basis_atoms
        return np.array([a.rotation for a in atoms]), np.array([a.translation for a in atoms])

    @cached_property
    def site_positions(self) -> FloatArray:
        """Fractional positions (n_sites, 3) of the sites, exactly on their special positions."""
        return np.array([self.special_position(site.label) for site in self.sites])

    @cached_property
    def site_of_atom(self) -> np.ndarray:
        """The index (n_atoms,) of the site to which each atom of the cell belongs."""
        return np.array([atom.site for atom in self.basis_atoms], dtype=np.int64)

    @cached_property
    def generic_positions(self) -> FloatArray:
        """Positions (n_atoms, 3) of the atoms, displaced at random along the free coordinates.

        Difference vectors between these positions agree by symmetry only, not by accident.
        """
        return self.positions(self.generic_sites)

    @cached_property
    def generic_sites(self) -> FloatArray:
        """Positions (n_sites, 3) of the sites, displaced at random along the free coordinates."""
        random = np.random.default_rng(20061)
        moved = self.site_positions.copy()
        for index, site in enumerate(self.sites):
            basis = self.coordinate_freedom(site.label).basis
            moved[index] += random.uniform(0.01, 0.05, len(basis)) @ basis
        return moved

    def _same_modulo_lattice(self, first: FloatArray, second: FloatArray) -> bool:
        difference = first - second
        difference -= np.round(difference)
        return bool(np.linalg.norm(self.cell.matrix @ difference) < SAME_POSITION)


def _row_echelon(rows: FloatArray) -> FloatArray:
    """Reduced row echelon form without the zero rows."""
    matrix = np.array(rows, dtype=float)
    rank = 0
    for column in range(matrix.shape[1]):
        pivot = rank + int(np.argmax(np.abs(matrix[rank:, column]))) if rank < len(matrix) else -1
        if pivot < 0 or abs(matrix[pivot, column]) < 1e-9:
            continue
        matrix[[rank, pivot]] = matrix[[pivot, rank]]
        matrix[rank] /= matrix[rank, column]
        for row in range(len(matrix)):
            if row != rank:
                matrix[row] -= matrix[row, column] * matrix[rank]
        rank += 1
    return matrix[:rank]
