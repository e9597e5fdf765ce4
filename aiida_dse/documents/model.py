"""The model document: pattern, phases, background, parameters and tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import ConfigDict, Field, field_validator, model_validator

from aiida_dse.sections import Expression, Finite, Fractional, Name, Names, Positive, Section
from aiida_dse.shapes import SHAPES, Shape

from .disorder import (
    BoundariesSection,
    CorrelatedMotion,
    Displacement,
    SizeLawSection,
    SplitSection,
)
from .measurement import AbsorptionSection, Corrected, InstrumentSection, PolarisationSection
from .plans import RefinementPlan, RestraintSection, ScanPlan, Start, UncertaintyPlan

MODEL_SCHEMA = "aiida-dse/model/2"
AxisKind = Literal["two_theta", "q_inverse_angstrom", "q_inverse_nm"]


class Sample(Section):
    """Metadata of the measured sample, copied to every result for queries."""

    name: str | None = None
    ligand: str | None = None
    state: str | None = Field(None, description="colloid, powder, film, ...")
    temperature: Annotated[float, Field(ge=0, le=5000)] | None = Field(None, description="K")
    beamline: str | None = None
    tags: dict[str, str | Finite | bool] = Field({})


class AxisGrid(Section):
    """A regular axis, for simulations and for files that contain intensities only."""

    start: Positive
    step: Positive
    stop: Positive | None = None


class CurveFile(Section):
    """A file with a measured curve, and the meaning of its columns."""

    file: str | None = Field(None, min_length=1)
    axis: AxisKind | None = Field(None, description="required unless the file specifies it")
    wavelength: Positive | None = Field(
        None, description="Å; required unless the file specifies it"
    )
    sigma: str | None = Field(
        None, description="s.u. of the intensities: 'column', 'counts', 'counts / N' or 'p %'; "
        "default: the column of the file that contains them"
    )
    grid: AxisGrid | None = None
    intensity_column: int | str | None = None
    sigma_column: int | str | None = None
    range: tuple[Finite, Finite] | None = Field(
        None, description="lower and upper limit of the points used, in units of the axis"
    )
    exclude: tuple[tuple[Finite, Finite], ...] = Field(
        (), description="regions [low, high] whose points are not used, in units of the axis"
    )

    @field_validator("range", mode="before")
    @classmethod
    def _one_range(cls, given: Any) -> Any:
        if isinstance(given, list | tuple) and any(isinstance(x, list | tuple) for x in given):
            raise ValueError("the range is one pair of numbers, [low, high]; leave out regions inside "
                             "it with 'exclude: [[low, high], ...]'")
        return given

    @model_validator(mode="after")
    def _regions(self) -> Self:
        for low, high in (*([self.range] if self.range else []), *self.exclude):
            if low >= high:
                raise ValueError(
                    f"a range starts at {low:g} and ends at {high:g}; the smaller value must come "
                    "first"
                )
        return self


class Pattern(CurveFile):
    """The observed pattern, or the grid on which to simulate one."""

    every: Annotated[int, Field(ge=1)] = Field(1, description="use every n-th point")
    polarisation: Literal["none", "unpolarised"] | PolarisationSection = Field(
        "none", description="'none' for corrected data; 'unpolarised' multiplies the model by "
        "(1 + cos^2 2theta)/2; or {source: laboratory, monochromator} or {source: synchrotron, horizontal}"
    )
    absorption: AbsorptionSection | None = None
    compton: Literal["counting", "integrating"] | None = Field(
        None, description="add the Compton scattering of the phases, as detectors that count photons or integrate "
        "their energy measure it")
    corrected: tuple[Corrected, ...] = Field(
        (), description="corrections that were applied to the data before: polarisation, absorption, compton")
    instrument: InstrumentSection | None = None
    axis_confirmed: bool = Field(
        False, description="skip the comparison of the peak positions with the structures"
    )

    @model_validator(mode="after")
    def _corrected_once(self) -> Pattern:
        asked = {"polarisation": self.polarisation != "none", "absorption": self.absorption is not None,
                 "compton": self.compton is not None}
        if twice := [name for name in self.corrected if asked[name]]:
            raise ValueError(f"the data were corrected for {' and '.join(twice)}, and the model would contain the "
                             f"same. Remove {' and '.join(twice)}, or correct 'corrected'.")
        return self

    @model_validator(mode="after")
    def _has_points(self) -> Pattern:
        if self.file is None and (self.grid is None or self.grid.stop is None):
            raise ValueError(
                "there is neither a 'file' nor a complete 'grid'. Specify the measured file, or "
                "grid: {start, stop, step} to simulate"
            )
        if self.file is None and (self.axis is None or self.wavelength is None):
            raise ValueError("a simulation needs 'axis' and 'wavelength' (Å)")
        if self.file is None and (self.range is not None or self.exclude or self.every != 1):
            raise ValueError(
                "'range', 'exclude' and 'every' select points of a measured file; remove them, or change "
                "the start, stop and step of the 'grid'"
            )
        return self


if TYPE_CHECKING:
    Particle = Shape
else:
    Particle = Annotated[Union[tuple(SHAPES.values())], Field(discriminator="shape")]  # noqa: UP007


class Bulk(Section):
    """Large crystals, whose pattern consists of reflections."""

    size: Annotated[float, Field(gt=0, le=1e4)] | None = Field(
        None, description="nm; mean column length, if it broadens the reflections")
    strain: Annotated[float, Field(ge=0, le=0.05)] = Field(
        0.0, description="root mean square of the relative deviations of the lattice")


#: Keys of a phase that describe disorder.
DISORDER = ("displacements", "correlated_motion", "boundaries", "split")


class Phase(Section):
    """One kind of nanocrystal: a structure and its particles, a list of atoms, or distances."""

    structure: str | None = Field(
        None, description="CIF file, or POSCAR, extended XYZ, XSF or GEN file of a crystal", min_length=1)
    block: str | None = Field(None, description="data block of the CIF, if it has several")
    atoms: str | None = Field(
        None, description="XYZ file with one particle, or with several frames of it", min_length=1)
    frames: Literal["average"] | None = Field(
        None, description="'average': average the patterns of all frames of the XYZ file"
    )
    distances: str | None = Field(
        None, description="HDF5 file of pair distances stored by 'dse-engine build'", min_length=1
    )
    particle: Particle | None = None
    bulk: Bulk | None = Field(None, description="large crystals instead of particles; requires an instrument")
    ions: dict[str, str] = Field({}, description="site label or element -> ion, e.g. Pb: Pb2+")
    B_iso: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        {}, description="site label or element -> starting B_iso, Å^2"
    )
    displacements: dict[str, Displacement | Literal["anisotropic"]] = Field(
        {}, description="site label or element -> 'anisotropic', or {model, along, parallel, perpendicular}"
    )
    correlated_motion: CorrelatedMotion | None = None
    boundaries: BoundariesSection | None = None
    split: SplitSection | None = None
    size_laws: dict[str, SizeLawSection] = Field(
        {}, description="'cell', a cell length, or B_iso or occupancy of a site (Br.B_iso) -> its change with the size "
        "of the particle")
    termination: tuple[Fractional, Fractional, Fractional] = Field(
        (0.0, 0.0, 0.0), description="fractional coordinates of the corner of the box whose atoms "
        "form one unit cell; determines the termination of the faces of particles of whole cells"
    )
    exclusion_distance: Positive = Field(
        1.2, description="Å; partially occupied positions that are closer exclude each other"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Phase:
        if sum(source is not None for source in self.sources.values()) != 1:
            raise ValueError(
                "a phase needs one of 'structure' (CIF), 'atoms' (XYZ) and 'distances' (HDF5)"
            )
        if self.bulk and (self.particle or self.structure is None):
            raise ValueError("'bulk' requires a 'structure' without a 'particle'")
        if self.bulk and (self.disorder or self.size_laws):
            raise ValueError("'bulk' crystals have isotropic displacements only; remove "
                             f"{' and '.join([*self.disorder, *(['size_laws'] if self.size_laws else [])])}")
        if not self.bulk and (self.structure is None) != (self.particle is None):
            raise ValueError(
                f"a 'structure' needs a 'particle' (shape: {', '.join(SHAPES)}); 'atoms' and "
                "'distances' describe complete particles, so remove 'particle' there"
            )
        if self.frames is not None and self.atoms is None:
            raise ValueError("'frames' refers to the frames of an XYZ file under 'atoms'; remove it")
        given = self.disorder
        unused = [*given, *(["size_laws"] if self.size_laws else [])]
        if self.structure is None and unused:
            raise ValueError(f"{' and '.join(unused)} require a 'structure'; remove them")
        if (self.boundaries or self.split) and len(given) > 1:
            raise ValueError(f"{' and '.join(given)} cannot be combined; remove all but one of them")
        return self

    @property
    def disorder(self) -> list[str]:
        """The keys of the models of disorder that the phase has."""
        return [name for name in DISORDER if getattr(self, name)]

    @property
    def kind_of_particle(self) -> str:
        """The name of the shape, or 'atoms' or 'distances' for a phase without a shape."""
        if self.bulk:
            return "bulk"
        return self.particle.name if self.particle else next(
            kind for kind, file in self.sources.items() if file is not None)

    @property
    def sources(self) -> dict[str, str | None]:
        """The file of the phase by kind of source; None for kinds that are not specified."""
        return {"structure": self.structure, "atoms": self.atoms, "distances": self.distances}

    @property
    def file(self) -> str:
        """The file of the phase."""
        return next(source for source in self.sources.values() if source is not None)


class Background(Section):
    """Background terms, whose coefficients are solved linearly in every evaluation."""

    chebyshev: Annotated[int, Field(ge=0, le=40)] = Field(
        0, description="number of Chebyshev terms over the range in 2theta; 1 is a constant"
    )
    inverse_q: tuple[Annotated[int, Field(ge=1, le=6)], ...] = Field(
        (), description="powers p of 1/q^p; 4 is Porod's law"
    )
    blanks: dict[Name, CurveFile] = Field(
        {}, description="measured blanks (solvent, capillary, air), each with a scale >= 0"
    )


class Derived(Section):
    """Quantities to report with propagated standard uncertainties."""

    distances: tuple[tuple[str, str], ...] = Field((), description="pairs of site labels")
    angles: tuple[tuple[str, str, str], ...] = Field(
        (), description="site labels: site, vertex, site"
    )
    cutoff: Positive | None = Field(
        None, description="Å; longest bond (default: 1.25 times the shortest bond of the pair)"
    )
    pseudo_cubic: bool = Field(
        False, description="report a_k and zeta of an orthorhombic perovskite"
    )


class ModelDocument(Section):
    """A complete analysis of one pattern."""

    model_config = ConfigDict(defer_build=True, 
        extra="forbid", frozen=True, populate_by_name=True, str_strip_whitespace=True
    )

    schema_: Literal["aiida-dse/model/2"] = Field("aiida-dse/model/2", alias="schema")
    title: str = ""
    sample: Sample = Sample()
    pattern: Pattern
    phases: Annotated[dict[Name, Phase], Field(min_length=1)]
    background: Background = Background()
    parameters: dict[Names, Finite | Start] = Field({})
    constraints: dict[Names, Expression] = Field(
        {}, description="parameter -> arithmetic expression in other parameters"
    )
    scales: dict[Name, Annotated[float, Field(ge=0)]] = Field(
        {}, description="phase -> fixed scale; the scales of all other phases are solved"
    )
    tolerance: Annotated[float, Field(gt=0, lt=1e-2)] = Field(
        1e-5, description="relative error of the contribution of one distance at q_max"
    )
    refinement: RefinementPlan | None = None
    restraints: tuple[RestraintSection, ...] = ()
    scan: ScanPlan | None = None
    uncertainty: UncertaintyPlan | None = None
    derived: dict[Name, Derived] = Field({}, description="phase -> quantities to report")

    @field_validator("phases")
    @classmethod
    def _reserved(cls, phases: dict[str, Phase]) -> dict[str, Phase]:
        for name in phases:
            if name in ("background", "blank", "global", "sample"):
                raise ValueError(
                    f"the name '{name}' is reserved; choose another name for the phase"
                )
        return phases

    @model_validator(mode="after")
    def _known_phases(self) -> ModelDocument:
        for key, names in (("scales", self.scales), ("derived", self.derived)):
            for name in names:
                if name not in self.phases:
                    raise ValueError(
                        f"{key} names the phase '{name}', but the phases are "
                        f"{', '.join(self.phases)}"
                    )
        return self

    def canonical(self) -> dict[str, Any]:
        """The document as plain JSON values without defaults, as nodes store it."""
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return {"schema": MODEL_SCHEMA, **content}

    def resolved(self) -> dict[str, Any]:
        """The document as plain JSON values with all defaults, as results store it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
