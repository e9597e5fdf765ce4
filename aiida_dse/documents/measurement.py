"""Sections of a pattern that describe the measurement: polarisation, absorption, Compton scattering, instrument."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aiida_dse.sections import Positive, Section

Width = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]
SquaredWidth = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
#: What may have been corrected in the data before.
Corrected = Literal["polarisation", "absorption", "compton"]


class PolarisationSection(Section):
    """The polarisation of the source and of its monochromator."""

    source: Literal["laboratory", "synchrotron"] = Field(
        description="'laboratory': unpolarised; 'synchrotron': polarised in the horizontal plane")
    monochromator: Annotated[float, Field(ge=0, lt=180)] | None = Field(
        None, description="degrees; 2theta of the reflection of the monochromator of a laboratory source")
    crystal: Literal["mosaic", "perfect"] | None = Field(None, description="crystal of the monochromator; mosaic")
    horizontal: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="share of the intensity of a synchrotron that is polarised horizontally, such as 0.98")
    plane: Literal["vertical", "horizontal"] | None = Field(
        None, description="plane of scattering at a synchrotron; vertical")

    @model_validator(mode="after")
    def _of_the_source(self) -> PolarisationSection:
        others = ("horizontal", "plane") if self.source == "laboratory" else ("monochromator", "crystal")
        if unused := [name for name in others if getattr(self, name) is not None]:
            raise ValueError(f"{' and '.join(unused)} cannot be specified for a {self.source} source; remove "
                             f"{'them' if len(unused) > 1 else 'it'}")
        if self.source == "synchrotron" and self.horizontal is None:
            raise ValueError("a synchrotron source requires 'horizontal', the share of horizontal polarisation, such "
                             "as 0.98")
        if self.crystal and not self.monochromator:
            raise ValueError("'crystal' requires the angle of the 'monochromator'")
        return self


class AbsorptionSection(Section):
    """Absorption in a capillary: mu R, or the composition, density and diameter of the sample."""

    mu_R: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="linear absorption coefficient times the radius")
    composition: str | None = Field(None, max_length=200, description="chemical formula, such as CsPbBr3")
    density: Positive | None = Field(None, description="g/cm^3, of the sample as it is packed")
    diameter: Positive | None = Field(None, description="inner diameter of the capillary in mm")

    @model_validator(mode="after")
    def _either(self) -> AbsorptionSection:
        from_sample = {"composition": self.composition, "density": self.density, "diameter": self.diameter}
        missing = [name for name, value in from_sample.items() if value is None]
        if (self.mu_R is None and missing) or (self.mu_R is not None and len(missing) < len(from_sample)):
            lacking = f"; {' and '.join(missing)} is missing" if self.mu_R is None and len(missing) < 3 else ""
            raise ValueError(f"specify either mu_R, or composition, density and diameter{lacking}")
        return self


class Line(Section):
    """One wavelength of the source."""

    wavelength: Positive = Field(description="Å")
    weight: Positive = 1.0


class Displacement(Section):
    """The displacement of the sample from the centre of the instrument, in mm."""

    along: Annotated[float, Field(ge=-100, le=100)] = Field(0.0, description="along the beam")
    across: Annotated[float, Field(ge=-100, le=100)] = Field(0.0, description="across the beam")
    radius: Positive = Field(description="distance of the detector in mm")


class ProfileSection(Section):
    """The profile: full widths at half maximum as functions of theta."""

    shape: Literal["voigt", "tch"] = Field(
        "voigt", description="'tch': pseudo-Voigt function of Thompson, Cox and Hastings")
    U: SquaredWidth = Field(0.0, description="degrees^2; Gaussian: U tan^2 + V tan + W + P / cos^2")
    V: SquaredWidth = 0.0
    W: SquaredWidth = 0.0
    P: SquaredWidth = 0.0
    X: Width = Field(0.0, description="degrees; Lorentzian: X tan + Y / cos")
    Y: Width = 0.0
    q_width: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="1/Å; Gaussian width in q")


class AxialSection(Section):
    """Axial divergence: half-lengths divided by the distance between sample and detector."""

    sample: Annotated[float, Field(ge=0, le=0.2)] = Field(description="of the illuminated sample, S/L")
    detector: Annotated[float, Field(ge=0, le=0.2)] = Field(description="of the detector slit, H/L")


class CapillarySection(Section):
    """The width of the sample as the detector sees it."""

    diameter: Positive = Field(description="mm")
    radius: Positive = Field(description="distance of the detector in mm")

    @model_validator(mode="after")
    def _thin(self) -> CapillarySection:
        if self.diameter > 0.1 * self.radius:
            raise ValueError(f"a capillary of {self.diameter:g} mm at {self.radius:g} mm from the detector is wider "
                             "than a tenth of this distance. Specify both in mm.")
        return self


class InstrumentSection(Section):
    """The instrument: lines of the source, angles and profile."""

    lines: tuple[Line, ...] = Field(
        (), max_length=12, description="wavelengths with their relative weights, that of the pattern first")
    zero: Annotated[float, Field(ge=-10, le=10)] = Field(
        0.0, description="degrees; the scattering angle is the measured angle minus the zero shift")
    displacement: Displacement | None = None
    profile: ProfileSection = ProfileSection()
    axial_divergence: AxialSection | None = None
    capillary: CapillarySection | None = None


