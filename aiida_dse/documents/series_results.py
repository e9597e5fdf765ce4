"""Typed results of series and differential patterns."""

from __future__ import annotations

from typing import Any, Literal

from .records import (
    Number,
    Record,
    Summary,
    Value,
)
from .status import Task


class ScaledValue(Value):
    """A number of a law; `su_scaled` allows for the scatter of the points about the law."""

    su_scaled: float | None = None
    at_bound: bool = False


class LawRow(Record):
    """A law fitted to the points of a series; residuals in s.u. of the points."""

    numbers: dict[str, ScaledValue]
    correlation: float | None = None
    chi2: float
    chi2_red: Number
    r_squared: float | None = None
    n: int
    residuals: dict[str, float]
    outliers: dict[str, float] = {}


class SeriesSummary(Summary):
    """Fields common to the analyses of all kinds of series."""

    phase: str
    refinements: list[str]
    used: list[str]
    excluded: dict[str, str] = {}
    options: dict[str, Any] = {}
    su: str = ""
    numbers: dict[str, ScaledValue] = {}
    lines: dict[str, LawRow] = {}


class TemperatureRange(Record):
    """Lowest, highest and reference temperature in K."""

    lowest: float
    highest: float
    reference: float


class StaticRow(Record):
    """Whether B_static of a site is above zero, and by how many s.u."""

    n_su: float
    above_zero: bool
    text: str


class DisplacementLaw(LawRow):
    """Einstein's or Debye's law fitted to the displacements of a site."""

    static: StaticRow


class DisplacementRow(Record):
    """B_iso(T) of one site under both laws."""

    element: str | None
    mass: float
    einstein: DisplacementLaw
    debye: DisplacementLaw
    better: Literal["einstein", "debye"]
    delta_chi2: float

    @property
    def best(self) -> DisplacementLaw:
        """The law with the lower chi2."""
        return self.einstein if self.better == "einstein" else self.debye


class DifferenceRow(Record):
    """A difference of two values, with its s.u. and its ratio to the s.u."""

    difference: float
    su_scaled: float
    n_su: float


class EvidenceRow(Record):
    """Numbers on which a verdict on static disorder is based."""

    law: str
    limit_su: float
    chi2_red: dict[str, Number]
    B_static: dict[str, ScaledValue]
    theta: dict[str, ScaledValue]
    covariance: float
    by_law: dict[str, DifferenceRow]


class DisorderRow(DifferenceRow):
    """Static disorder of one site against another, with the evidence."""

    sites: list[str]
    unit: str
    static_disorder: bool
    site: str | None
    verdict: str
    evidence: EvidenceRow


class TemperatureSummary(SeriesSummary):
    """Thermal expansion, displacements and static disorder."""

    task: Literal[Task.TEMPERATURE_SERIES] = Task.TEMPERATURE_SERIES
    temperatures: TemperatureRange
    displacements: dict[str, DisplacementRow] = {}
    disorder: list[DisorderRow] = []


class BulkRow(Value):
    """A property of the bulk crystal, with its source."""

    source: str


class StrainPoint(Record):
    """Volumetric strain of one refinement at its 1/L."""

    value: float
    su_scaled: Number
    inverse_length: float  # 1/nm


class StrainThroughBulk(Record):
    """The line of the strain that is forced through the bulk."""

    slope: ScaledValue
    chi2_red: Number
    r_squared: float | None
    surface_energy: ScaledValue


class StrainRow(Record):
    """Volumetric strain against size, and the surface energy that follows from it."""

    law: str
    slope: ScaledValue
    intercept: ScaledValue
    surface_energy: ScaledValue
    surface_energy_SI: ScaledValue
    V_bulk: BulkRow
    K: BulkRow
    r_squared: float | None
    chi2_red: Number
    n: int
    points: dict[str, StrainPoint]
    through_bulk: StrainThroughBulk | None = None


class SizeSummary(SeriesSummary):
    """Strain, surface energy and distortions against size."""

    task: Literal[Task.SIZE_SERIES] = Task.SIZE_SERIES
    strain: StrainRow | None = None


class ExcitonRow(Record):
    """A predicted first exciton energy (eV) at the confinement diameter d (nm)."""

    value: float
    unit: str
    su_scaled: Number
    spread: Number
    d: float


class SizingSummary(SeriesSummary):
    """First exciton energies from refined sizes."""

    task: Literal[Task.SIZING_CURVE] = Task.SIZING_CURVE
    predicted: dict[str, ExcitonRow] = {}
    fitted: LawRow | None = None


class ReferenceRow(Record):
    """The reference pattern of differential patterns, and its value of the swept parameter."""

    name: str
    at: float | None


class DifferentialRow(Record):
    """One differential pattern: value of the swept parameter, largest deviation and r.m.s."""

    at: float | None
    largest: float
    q_of_largest: float
    rms: float


class DifferentialSummary(Summary):
    """(I - I0)/I0 of several patterns."""

    task: Literal[Task.DIFFERENTIAL] = Task.DIFFERENTIAL
    reference: ReferenceRow
    parameter: str | None
    unit: str = ""
    patterns: dict[str, DifferentialRow]
    options: dict[str, Any] = {}
