"""Sections of a phase about disorder: displacements, boundaries, split sites, and laws against size."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aiida_dse.sections import Finite, Name, Positive, Section


class Displacement(Section):
    """Anisotropic displacements of a site, in place of B_iso."""

    model: str = Field(
        "anisotropic", max_length=100, description="'anisotropic': the components U_ij that the site symmetry permits; "
        "'uniaxial': U_parallel and U_perpendicular, with respect to the bonds to the neighbours 'along'"
    )
    along: str | None = Field(
        None, description="site label or element of the neighbours whose bonds define the direction"
    )
    parallel: Positive | None = Field(None, description="starting value along the direction, Å^2")
    perpendicular: Positive | None = Field(
        None, description="starting value perpendicular to the direction, Å^2"
    )

    @model_validator(mode="after")
    def _direction(self) -> Displacement:
        from aiida_dse.engine.model.displacements import MODELS

        if self.model not in MODELS:
            raise ValueError(f"there is no displacement model '{self.model}'; the models are {', '.join(MODELS)}")
        if (self.parallel is None) != (self.perpendicular is None):
            raise ValueError("specify 'parallel' and 'perpendicular' together (Å^2), or neither of them")
        if self.along is None and (MODELS[self.model].directed or self.parallel is not None):
            raise ValueError("the direction is missing: specify the neighbours under 'along', such as along: Pb")
        return self


class CorrelatedMotion(Section):
    """Correlated motion of near atoms: U (1 - delta_1/r - delta_2/r^2) instead of U."""

    delta_1: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="Å; starting value, for high temperatures")
    delta_2: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="Å^2; starting value, for low temperatures")

    @model_validator(mode="after")
    def _one(self) -> CorrelatedMotion:
        if (self.delta_1 is None) == (self.delta_2 is None):
            raise ValueError("specify either 'delta_1' (Å) or 'delta_2' (Å^2), but not both, because the data do not "
                             "distinguish between them")
        return self


Correlated = Annotated[float, Field(ge=-1, le=1)]


class Planes(Section):
    """Planes of the parent lattice that may be boundaries."""

    along: Annotated[tuple[Literal[1, 2, 3], ...], Field(min_length=1, max_length=3)] = Field(
        description="vectors of the parent lattice along which the planes follow each other, such as [1, 2]")
    shift: tuple[int, int, int] = Field(
        description="shift of the structure at a boundary, in vectors of the parent lattice")
    probability: Annotated[float, Field(ge=0, le=0.5)] | None = Field(
        None, description="starting value of the probability that a plane is a boundary")
    number: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="exact number of boundaries in every particle, at random positions, instead of a probability")

    @model_validator(mode="after")
    def _one_density(self) -> Planes:
        if (self.probability is None) == (self.number is None):
            raise ValueError("specify either 'probability' or 'number'")
        return self


Vector = tuple[Finite, Finite, Finite]
PARENT_LATTICE = ("vectors of the parent lattice, the finer lattice on which the structure is a superstructure, in "
                  "fractional coordinates; default: the pseudo-cubic lattice of a perovskite in the setting Pbnm")
PSEUDO_CUBIC = ((0.5, 0.5, 0.0), (-0.5, 0.5, 0.0), (0.0, 0.0, 0.5))


class SplitPositions(Section):
    """Two positions of every atom of a site, on both sides of its coordinates."""

    direction: Vector = Field(description="lattice direction [u, v, w] from one position to the other")
    amplitude: Annotated[float, Field(ge=0, le=3)] = Field(
        description="starting value of the distance of each position from the mean, Å")
    fixed: bool = Field(False, description="the direction is the same for all atoms of the site, instead of "
                        "turning with the symmetry operations")


class SplitSection(Section):
    """Static disorder: sites that are split into two positions, with correlated signs."""

    sites: Annotated[dict[str, SplitPositions], Field(min_length=1)]
    correlation: Literal["independent", "columns", "alternating_columns", "layers"] | tuple[
        Correlated, Correlated, Correlated] = Field(
        "independent", description="correlation of the signs: none; equal signs in columns along the third vector of "
        "the parent lattice, or alternating signs there; equal signs in layers of the first two vectors; or the mean "
        "product of the signs of neighbours along each vector")
    parent_lattice: tuple[Vector, Vector, Vector] = Field(PSEUDO_CUBIC, description=PARENT_LATTICE)


class BoundariesSection(Section):
    """Coherent boundaries between domains that are shifted by vectors of a finer lattice (nanotwins)."""

    parent_lattice: tuple[Vector, Vector, Vector] = Field(PSEUDO_CUBIC, description=PARENT_LATTICE)
    planes: Annotated[dict[Name, Planes], Field(min_length=1)]

    @model_validator(mode="after")
    def _possible(self) -> BoundariesSection:
        for axis in (1, 2, 3):
            total = sum(one.probability or 0.0 for one in self.planes.values() if axis in one.along)
            if total > 0.5:
                raise ValueError(
                    f"the probabilities of the boundaries along vector {axis} of the parent lattice sum to {total:g}, "
                    "but the sum must not exceed 0.5. Specify smaller values of 'probability'")
        return self


class SizeLawSection(Section):
    """The change of a property with the size D of the particle, the diameter (nm) of the sphere of equal volume.

    change size / D, or, with 'decay', change exp(-D / decay). The value of the parameter itself is that
    of infinitely large particles.
    """

    change: Finite = Field(
        description="starting value: relative for cell lengths and occupancies, in Å^2 for B_iso; for particles with "
        "the diameter 'size', or for vanishing particles if 'decay' is specified")
    size: Positive = Field(5.0, description="diameter to which 'change' refers, nm")
    decay: Positive | None = Field(None, description="starting value of the size over which the change decays, nm")

    @model_validator(mode="after")
    def _one_form(self) -> SizeLawSection:
        if self.decay is not None and "size" in self.model_fields_set:
            raise ValueError("specify either 'size', for a change proportional to 1/D, or 'decay', for an exponential "
                             "one")
        return self
