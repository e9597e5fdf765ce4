"""Models of the anisotropic displacements of a site, with their parameters.

A site with such a model has the parameters of the model instead of B_iso. The displacements are
independent and Gaussian; a pair of atoms with the mean distance vector r n is damped by the average
of exp(-q^2 m.(U_1 + U_2).m / 2) over the orientations m of the particle (scattering/anisotropic.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.crystal.tensors import (
    components_of,
    free_components,
    symmetric,
    symmetrised,
    to_cartesian,
)
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.units import FloatArray, b_from_u, u_from_b

#: Smallest mean square cosine between the bonds of a site and their common direction.
ALONG = 0.7


class DisplacementModel(Protocol):
    """The tensor of a site as a function of parameters."""

    @property
    def start(self) -> Mapping[str, float]:
        """The starting values (Å^2) by the name of the parameter."""
        ...

    @property
    def kind(self) -> Kind: ...

    def tensor(self, values: Mapping[str, float], matrix: FloatArray) -> FloatArray:
        """The Cartesian tensor (3, 3) in Å^2 at parameter values; matrix (3, 3): the lattice vectors."""
        ...


class NamedModel(DisplacementModel, Protocol):
    """A displacement model that documents name, see `MODELS`."""

    #: Whether the model requires a direction (the key 'along').
    directed: ClassVar[bool]

    @classmethod
    def of(
        cls, crystal: Crystal, label: str, cartesian: FloatArray, direction: FloatArray | None = None
    ) -> NamedModel:
        """The model of a site that starts from a Cartesian tensor (3, 3) in Å^2; `direction` (3,) is fractional."""
        ...


@dataclass(frozen=True)
class Damped:
    """B_iso of a site whose pairs are damped one by one, as for correlated motion."""

    b_iso: float
    kind: Kind = Kind.B_DAMPED

    @property
    def start(self) -> Mapping[str, float]:
        return {"B_iso": self.b_iso}

    def tensor(self, values: Mapping[str, float], matrix: FloatArray) -> FloatArray:
        return np.asarray(u_from_b(values["B_iso"]) * np.eye(3))


@dataclass(frozen=True)
class Correlation:
    """Correlated motion: `name` is delta_1 (Å) or delta_2 (Å^2), with its start and its largest value."""

    name: str
    value: float
    largest: float

    @classmethod
    def of(cls, name: str, value: float, shortest: float) -> Correlation:
        """Raises ValueError if hardly any displacement of pairs at the shortest distance (Å) would be left."""
        largest = LARGEST_CORRELATION * shortest ** (1 if name == "delta_1" else 2)
        if not 0 <= value <= largest:
            unit = "Å" if name == "delta_1" else "Å^2"
            raise ValueError(
                f"{name} = {value:g} {unit} must lie between 0 and {largest:.3g} {unit}, since the shortest "
                f"distance of the structure is {shortest:.3g} Å. Specify a smaller {name}.")
        return cls(name, value, largest)


#: Largest fraction of the displacements that nearest neighbours may share.
LARGEST_CORRELATION = 0.95


@dataclass(frozen=True)
class Anisotropic:
    """The components U_ij of a CIF that the site symmetry leaves free."""

    names: tuple[str, ...]
    basis: tuple[tuple[float, ...], ...]
    values: tuple[float, ...]
    kind: Kind = Kind.U_ANISO
    directed: ClassVar[bool] = False

    @classmethod
    def of(
        cls, crystal: Crystal, label: str, cartesian: FloatArray, direction: FloatArray | None = None
    ) -> Anisotropic:
        """The model of a site that starts from a Cartesian tensor."""
        names, basis = free_components(crystal, label)
        inverse = np.linalg.inv(to_cartesian(crystal.cell.matrix))
        components = inverse @ symmetrised(crystal, label, cartesian) @ inverse.T
        values = tuple(float(components[int(name[2]) - 1, int(name[3]) - 1]) for name in names)
        return cls(names, tuple(map(tuple, basis.tolist())), values)

    @property
    def start(self) -> Mapping[str, float]:
        return dict(zip(self.names, self.values, strict=True))

    def tensor(self, values: Mapping[str, float], matrix: FloatArray) -> FloatArray:
        components = np.array([values[name] for name in self.names]) @ np.array(self.basis)
        change = to_cartesian(matrix)
        return np.asarray(change @ symmetric(components) @ change.T)


@dataclass(frozen=True)
class Uniaxial:
    """Displacements of different size along a direction (fractional) and perpendicular to it."""

    direction: tuple[float, float, float]
    parallel: float
    perpendicular: float
    kind: Kind = Kind.U_ISO
    directed: ClassVar[bool] = True

    @classmethod
    def of(
        cls, crystal: Crystal, label: str, cartesian: FloatArray, direction: FloatArray | None = None
    ) -> Uniaxial:
        """The model that starts from the mean square displacements of a tensor along a direction and across it."""
        assert direction is not None
        along = unit_vector(crystal.cell.matrix, direction)
        parallel = float(along @ cartesian @ along)
        x, y, z = np.asarray(direction, dtype=float).tolist()
        return cls((x, y, z), parallel, float((np.trace(cartesian) - parallel) / 2))

    @property
    def start(self) -> Mapping[str, float]:
        return {"U_parallel": self.parallel, "U_perpendicular": self.perpendicular}

    def tensor(self, values: Mapping[str, float], matrix: FloatArray) -> FloatArray:
        along = unit_vector(matrix, self.direction)
        parallel, perpendicular = values["U_parallel"], values["U_perpendicular"]
        return np.asarray(perpendicular * np.eye(3) + (parallel - perpendicular) * np.outer(along, along))


#: The models that documents can name.
MODELS: dict[str, type[NamedModel]] = {"anisotropic": Anisotropic, "uniaxial": Uniaxial}


def unit_vector(matrix: FloatArray, direction: ArrayLike) -> FloatArray:
    """The Cartesian unit vector (3,) along a fractional direction; matrix (3, 3): the lattice vectors."""
    along = matrix @ np.asarray(direction, dtype=float)
    return np.asarray(along / np.linalg.norm(along))


def bond_direction(crystal: Crystal, label: str, neighbour: str) -> FloatArray:
    """The fractional direction (3,) of the bonds of a site to its nearest neighbours of a kind.

    `neighbour` is a site label or an ion. For several neighbours at about the same distance, it is the
    direction along which the bonds lie as far as possible, such as that of the chain Pb-Br-Pb. Raises
    ValueError where there is no neighbour, or the site symmetry permits no single direction.
    """
    matrix = crystal.cell.matrix
    centre = crystal.special_position(label)
    wanted = [k for k, atom in enumerate(crystal.basis_atoms)
              if neighbour in (crystal.sites[atom.site].label, crystal.sites[atom.site].ion,
                               crystal.sites[atom.site].ion.rstrip("0123456789+-"))]
    if not wanted:
        raise ValueError(f"there is no neighbour '{neighbour}' of {label}. Specify a site or an element.")
    shifts = np.stack(np.meshgrid(*[range(-1, 2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = (crystal.positions()[wanted][:, None] + shifts - np.round(centre) - (
        centre - np.round(centre))).reshape(-1, 3) @ matrix.T
    lengths = np.linalg.norm(vectors, axis=1)
    vectors, lengths = vectors[lengths > 0.5], lengths[lengths > 0.5]
    near = vectors[lengths < 1.15 * lengths.min()] / lengths[lengths < 1.15 * lengths.min(), None]
    sizes, axes = np.linalg.eigh(symmetrised(crystal, label, near.T @ near))
    if sizes[2] < ALONG * sizes.sum():
        raise ValueError(f"the bonds of {label} to {neighbour} have no common direction: at most "
                         f"{sizes[2] / sizes.sum():.0%} of their squared lengths lie along one; at least {ALONG:.0%} "
                         "are required. Use 'anisotropic' without 'along', 'parallel' and 'perpendicular', or B_iso.")
    return np.asarray(np.linalg.solve(matrix, axes[:, 2]))


def checked(label: str, model: DisplacementModel, matrix: FloatArray) -> DisplacementModel:
    """The model itself. Raises ValueError for a start that is no possible displacement."""
    smallest = float(np.linalg.eigvalsh(model.tensor(model.start, matrix)).min())
    if smallest <= 0:
        raise ValueError(
            f"the displacement tensor of {label} has the eigenvalue {smallest:.3g} Å^2, but all must be above "
            "0. Correct its components, or use 'model: uniaxial' with U_parallel and U_perpendicular.")
    return model


def site_tensor(
    models: Mapping[str, DisplacementModel], label: str, values: Mapping[str, float], matrix: FloatArray
) -> FloatArray:
    """The Cartesian tensor (3, 3) in Å^2 of a site with a model, at the local values of its phase."""
    model = models[label]
    return model.tensor({name: values[f"{label}.{name}"] for name in model.start}, matrix)


def equivalent_b(
    models: Mapping[str, DisplacementModel], label: str, values: Mapping[str, float], matrix: FloatArray
) -> float:
    """B_iso (Å^2) of a site; that of the mean over directions if it has a model."""
    if label not in models:
        return values[f"{label}.B_iso"]
    return b_from_u(float(np.trace(site_tensor(models, label, values, matrix))) / 3)


def cif_components(
    models: Mapping[str, DisplacementModel], label: str, values: Mapping[str, float], matrix: FloatArray
) -> tuple[float, ...] | None:
    """The components U_ij (6) in Å^2 of a CIF; None for an isotropic site."""
    if label not in models:
        return None
    inverse = np.linalg.inv(to_cartesian(matrix))
    tensor = site_tensor(models, label, values, matrix)
    return tuple(components_of(inverse @ tensor @ inverse.T).tolist())


def atom_tensors(
    crystal: Crystal, models: Mapping[str, DisplacementModel], values: Mapping[str, float], matrix: FloatArray
) -> FloatArray:
    """The tensors (n_atoms, 3, 3) in Å^2 of the atoms of the cell; 0 for isotropic sites."""
    inverse = np.linalg.inv(matrix)
    found = np.zeros((len(crystal.basis_atoms), 3, 3))
    own = {label: site_tensor(models, label, values, matrix) for label in models}
    for k, atom in enumerate(crystal.basis_atoms):
        if (label := crystal.sites[atom.site].label) in own:
            turn = matrix @ atom.rotation @ inverse
            found[k] = turn @ own[label] @ turn.T
    return found
