"""Options of the analyses of series, with the sources of their default values."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from aiida_dse.sections import Finite, Name, Positive, Section

from .reading import DocumentError
from .status import Task

Text = Annotated[str, Field(min_length=1)]
Uncertainty = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SeriesOptions(Section):
    """Selection of the refinements that the analysis of a series uses."""

    title: str = ""
    phase: Name | None = Field(None, description="required if the refinements have several phases")
    exclude: tuple[str, ...] = Field((), description="refinements that are listed but not used")
    max_gof: Positive | None = Field(
        None, description="refinements with a higher GoF are not used"
    )


class TemperatureOptions(SeriesOptions):
    """Options of a temperature series: thermal expansion, displacements and disorder."""

    reference_temperature: Annotated[float, Field(ge=0)] = Field(
        300.0, description="K; V_ref of thermal_expansion_V is the value of the line there"
    )
    disorder: tuple[tuple[str, str], ...] | None = Field(
        None, description="pairs of sites whose B_static are compared; default: all pairs of "
        "sites of the same element"
    )
    masses: dict[str, Positive] = Field(
        {}, description="site -> mass in u; default: mass of the element"
    )
    significance: Positive = Field(
        3.0, description="difference in s.u. above which disorder is regarded as static"
    )


class Bulk(Section):
    """The bulk crystal, to which the strain refers."""

    volume: Positive = Field(description="Å^3; volume of the same unit cell in the bulk")
    volume_su: Uncertainty = 0.0
    source: Text


class BulkModulus(Section):
    """Bulk modulus K in dV/V = -4 gamma / (K L)."""

    value: Positive = Field(description="GPa")
    su: Uncertainty = 0.0
    source: Text


#: Not a measured value: the K that relates the published gamma to the published strain.
DEFAULT_BULK_MODULUS = BulkModulus(
    value=15.0,
    source="default for CsPbBr3, inferred: with K near 15 GPa a strain of 2.3 % at 5 nm "
           "corresponds to the -2.7 eV/nm^2 of Bertolotti et al., Small Structures (2023)",
)


class SizeOptions(SeriesOptions):
    """Options of a size series: strain, surface energy and distortions against 1/L."""

    bulk: Bulk | None = Field(None, description="default: value of the fitted line at 1/L = 0")
    bulk_modulus: BulkModulus = DEFAULT_BULK_MODULUS


class Energy(Section):
    """A measured first exciton energy, eV."""

    value: Positive
    su: Positive


class SizingOptions(SeriesOptions):
    """Options of a sizing curve (first exciton energy against size); defaults for CsPbBr3."""

    gap: Positive = Field(2.38, description="E0, eV")
    permittivity: Positive = 7.3
    alpha: Positive = 0.7
    decay_length: Positive = Field(6.1, description="d0 of the predicted curve, nm")
    source: Text = "CsPbBr3: Bertolotti et al., Small Structures (2023)"
    measured: dict[str, Energy] = Field(
        {}, description="refinement -> measured E1; d0 is then fitted to these energies"
    )


class DifferentialOptions(Section):
    """Options of differential patterns, (I - I0)/I0 for the values of a swept parameter."""

    title: str = ""
    reference: Text = Field(description="name of the result whose pattern is I0")
    parameter: str | None = Field(
        None, description="name of the swept parameter, which labels the curves"
    )
    background: bool = Field(False, description="keep background and blanks in I and I0")
    q_range: tuple[Finite, Finite] | None = Field(None, description="range of q, 1/Å")


#: Options of each analysis, by the name of its calcfunction in aiida_dse.calculations.series.
ANALYSES: dict[str, type[Section]] = {
    Task.TEMPERATURE_SERIES: TemperatureOptions, Task.SIZE_SERIES: SizeOptions,
    Task.SIZING_CURVE: SizingOptions, Task.DIFFERENTIAL: DifferentialOptions,
}

Options = TypeVar("Options", bound=Section)


def parse_options(kind: type[Options], content: Any) -> Options:
    """Parse options from plain JSON values. Raises DocumentError with key, value and reason."""
    try:
        return kind.model_validate(content or {})
    except ValidationError as problem:
        from .explaining import explained

        raise DocumentError("\n".join(
            f"options.{line}" for line in explained(problem, kind))) from None
