"""Typed results: the numbers in result.json and in result nodes.

Arrays (patterns, maps, covariances, chains) are kept beside them, in HDF5. All s.u. are unscaled:
`su_scale` is the factor that reports print them with.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aiida_dse.engine.model.agreement import Agreement, SerialCorrelation, su_scale
from aiida_dse.engine.parameters import Kind, ParameterName, ParameterStatus

from .status import Status, Task

RESULT_SCHEMA = "aiida-dse/result/2"


def _number(value: Any) -> Any:
    """JSON has no nan and infinity: they are written as null."""
    return float("nan") if value is None else value


#: A number that may be nan, which JSON files and nodes hold as null.
Number = Annotated[float, BeforeValidator(_number)]


def _numbers(value: Any) -> Any:
    return {key: _number(item) for key, item in value.items()} if isinstance(value, dict) else value


#: Figures of merit; a pattern that is met exactly has no Durbin-Watson statistic (nan).
StoredAgreement = Annotated[Agreement, BeforeValidator(_numbers)]


class Record(BaseModel):
    """A part of a result."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Value(Record):
    """A number with its unit and unscaled s.u. (None where it has none)."""

    value: Number
    unit: str = ""
    su: float | None = None


class ParameterRow(Value):
    """A parameter: how it took part, between which bounds (None: unbounded), from which start."""

    kind: Kind
    status: ParameterStatus
    lower: float | None = None
    upper: float | None = None
    start: float | None = None
    constraint: str | None = None
    #: In a simultaneous refinement: one value for all patterns, or given by a constraint over them.
    shared: bool = False
    parametric_constraint: str | None = None


class LinearRow(Value):
    """A linear coefficient: scale factor, blank or background term."""

    kind: Kind
    status: ParameterStatus


class SiteRow(Record):
    """A site of a refined structure."""

    x: float
    y: float
    z: float
    ion: str
    B_iso: float | None
    occupancy: float


class PhaseRow(Record):
    """Derived quantities of one phase.

    `sizes` are statistics of the population; `quantities` the cell, sizes, displacements, and the
    requested distances and angles. Their joint covariance is an array of the result.
    """

    sizes: dict[str, Value] = {}
    quantities: dict[str, Value] = {}
    cell: dict[str, float] | None = None
    sites: dict[str, SiteRow] = {}
    #: Ion: mean number per particle.
    composition: dict[str, float] = {}


class StructureRow(Record):
    """The structure of a phase: its name and space group (Hermann-Mauguin without spaces)."""

    name: str
    space_group: str = ""


class RestraintRow(Record):
    value: float
    target: float
    sigma: float
    unit: str
    chi2: float


class DataRow(Record):
    """The data of a task: points used, range of q (1/Å), wavelength (Å), SHA-256 of the files."""

    n_points: int
    q_min: float | None = None
    q_max: float | None = None
    wavelength: float | None = None
    sha256: dict[str, str] = {}


class Tables(Record):
    """Sources of form factors and dispersion corrections."""

    file: str
    f0: str
    f1_f2: str


class Summary(Record):
    """Fields that every result has."""

    schema_: Literal["aiida-dse/result/2"] = Field("aiida-dse/result/2", alias="schema")
    task: Task
    status: Status
    stop_reason: str
    title: str = ""
    sample: dict[str, Any] = {}
    phases: list[str] = []
    structures: dict[str, StructureRow] = {}
    #: A list beside them: a search need not know the names of the phases.
    space_groups: list[str] = []
    document_sha256: str | None = None
    #: The document with its defaults written out.
    document: dict[str, Any] | None = None
    data: DataRow | None = None
    seconds: float = 0.0
    created: str = ""
    engine_version: str = ""
    numerics_version: int = 0
    libraries: dict[str, str] = {}
    tables: Tables | None = None
    warnings: list[str] = []
    parameters: dict[str, ParameterRow] = {}

    @property
    def temperature(self) -> float | None:
        """K, of the sample."""
        found = self.sample.get("temperature")
        return None if found is None else float(found)

    @property
    def free(self) -> dict[str, ParameterRow]:
        """The parameters that were refined."""
        return {name: row for name, row in self.parameters.items() if row.status.refined}

    def parts(self, name: str) -> tuple[str, str]:
        """The phase of a parameter or quantity and its name inside it, as shown for one phase."""
        parsed = ParameterName(name)
        return parsed.phase, parsed.local if self.phases == [parsed.phase] else str(parsed)


class Fitted(Summary):
    """A result that has been compared with data."""

    agreement: StoredAgreement

    @property
    def su_scale(self) -> float:
        """max(1, GoF): the factor by which printed s.u. are larger than stored ones."""
        return su_scale(self.agreement.gof)

    def scaled(self, su: float | None) -> float | None:
        """An s.u. as printed."""
        return None if su is None else su * self.su_scale


class MinimumRow(Record):
    """One minimum of a search from many starting points."""

    gof: float
    chi2: float
    starts: list[int]
    converged: bool
    values: dict[str, float]


class SearchRow(Record):
    """A search from many starting points; the lowest minimum first."""

    n_starts: int
    n_tried: int
    seed: int
    stop_reason: str
    minima: list[MinimumRow]
    failures: dict[str, str] = {}


class RefinementSummary(Fitted):
    """A refinement of one pattern."""

    task: Literal[Task.REFINE, Task.UNCERTAINTY] = Task.REFINE
    linear: dict[str, LinearRow]
    derived: dict[str, PhaseRow]
    restraints: dict[str, RestraintRow] = {}
    method: str = "least_squares"
    n_cycles: int
    n_evaluations: int
    serial_correlation: SerialCorrelation | None = None
    search: SearchRow | None = None
    #: Phase: the refined structure as a CIF; kept as nodes of their own in AiiDA.
    cif: dict[str, str] = {}

    @property
    def undetermined(self) -> list[str]:
        return [name for name, row in self.parameters.items()
                if row.status is ParameterStatus.UNDETERMINED]


class SimulationSummary(Summary):
    """A pattern at given values; `agreement` where it was compared with data."""

    task: Literal[Task.SIMULATE] = Task.SIMULATE
    derived: dict[str, PhaseRow]
    agreement: StoredAgreement | None = None


class PatternRow(Record):
    """One pattern of a simultaneous refinement, as if refined by itself."""

    sample: dict[str, Any] = {}
    data: DataRow
    agreement: StoredAgreement
    parameters: dict[str, ParameterRow]
    linear: dict[str, LinearRow]
    derived: dict[str, PhaseRow]
    restraints: dict[str, RestraintRow] = {}
    cif: dict[str, str] = {}


class SimultaneousSummary(Fitted):
    """A refinement of several patterns together; `parameters` are those of the whole."""

    task: Literal[Task.SIMULTANEOUS] = Task.SIMULTANEOUS
    parametric_constraints: dict[str, str] = {}
    patterns: dict[str, PatternRow]
    undetermined: list[str] = []
    n_cycles: int
    n_evaluations: int


class AxisRow(Record):
    """An axis of a map; `scale` multiplies the document's values (the length of a path)."""

    name: str
    unit: str = ""
    kind: Kind | None = None
    scale: float = 1.0


class QuantityRow(Record):
    """A derived quantity stored along a map, and whether it varies there."""

    name: str
    unit: str = ""
    varies: bool = False


class PointRow(Record):
    """A grid point."""

    at: dict[str, float]
    gof: Number


class BasinRow(PointRow):
    """A local minimum of a map and the saddle towards a deeper one."""

    saddle: PointRow | None = None


class DeltaChi2Row(Record):
    """Interval of an axis in which chi2, lowest over the other axes, rises by less than 1."""

    minus: float | None = None
    plus: float | None = None
    missing: str | None = None


class QuadraticRow(Record):
    """The paraboloid through the lowest points of a map, or the reason why there is none."""

    missing: str = ""
    chi2: float | None = None
    position: dict[str, Value] = {}
    widest_step_in_su: Number | None = None
    correlation: dict[str, float] = {}
    delta_chi2: dict[str, DeltaChi2Row] = {}


class AdaptiveRow(Record):
    n_evaluated: int
    n_interpolated: int


class ScanSummary(Summary):
    """A GoF map. `minimum` is its lowest point: axes, moved and refined parameters, and 'gof'."""

    task: Literal[Task.SCAN] = Task.SCAN
    axes: list[AxisRow]
    shape: list[int]
    n_done: int
    n_unreachable: int = 0
    n_points_pattern: int
    moved: list[str] = []
    refined: list[str] = []
    quantities: list[QuantityRow] = []
    minimum: dict[str, float] | None = None
    minimum_quantities: dict[str, Number] = {}
    quadratic: QuadraticRow | None = None
    basins: list[BasinRow] = []
    adaptive: AdaptiveRow | None = None

    @property
    def lowest_gof(self) -> float:
        """nan for a map without a point."""
        return float("nan") if self.minimum is None else self.minimum["gof"]

    @property
    def su_scale(self) -> float:
        """max(1, GoF) at the lowest point."""
        return 1.0 if self.minimum is None else su_scale(self.minimum["gof"])


class ProfileRow(Record):
    """The chi2 curve of one parameter: limits where it has risen by 1 (68 %) and 4 (95 %)."""

    value: float
    su: float | None
    chi2_min: float
    below: str
    above: str
    n_points: int
    interval_68: tuple[float | None, float | None]
    interval_95: tuple[float | None, float | None]
    scaled_68: tuple[float | None, float | None]
    scaled_95: tuple[float | None, float | None]
    lower_minimum: dict[str, Any] | None = None


class SpreadRow(Record):
    """Statistics of samples of one quantity; diagnostics of a chain where they come from one."""

    median: Number
    mean: Number
    sd: Number
    interval_68: tuple[Number, Number]
    interval_95: tuple[Number, Number]
    bias: Number | None = None
    r_hat: Number | None = None
    autocorrelation_time: Number | None = None
    effective_samples: Number | None = None


class BootstrapRow(Record):
    n_samples: int
    seed: int
    n_refined: int
    n_not_converged: int
    n_failed: int
    n_pending: int
    failures: dict[str, str] = {}
    parameters: dict[str, SpreadRow] = {}


class PosteriorRow(Record):
    n_walkers: int
    n_steps: int
    thin: int
    seed: int
    acceptance: float
    n_impossible: int
    burn_in: int | None = None
    n_kept: int | None = None
    converged: bool | None = None
    reasons: list[str] = []
    parameters: dict[str, SpreadRow] = {}


class DerivedSpread(Value):
    """A derived quantity with its spread over samples."""

    bootstrap: SpreadRow | None = None
    posterior: SpreadRow | None = None


class UncertaintyRow(Record):
    """Uncertainties beyond the covariance."""

    profile: dict[str, ProfileRow] = {}
    bootstrap: BootstrapRow | None = None
    posterior: PosteriorRow | None = None
    derived: dict[str, dict[str, DerivedSpread]] = {}


class UncertaintySummary(RefinementSummary):
    """A refinement with profiles, bootstrap and posterior around its minimum."""

    task: Literal[Task.UNCERTAINTY] = Task.UNCERTAINTY
    uncertainty: UncertaintyRow = UncertaintyRow()


class DistancesRow(Record):
    """The pair distances of one phase; lengths in Å, sizes in nm, q in 1/Å."""

    name: str
    space_group: str
    sites: dict[str, str]
    atoms: float
    sizes: dict[str, float]
    values: dict[str, float]
    step: float
    n_channels: int
    n_bins: int
    r_max: float
    q_max: float
    tolerance: float


class BuildSummary(Summary):
    """Pair distances of every phase."""

    task: Literal[Task.BUILD] = Task.BUILD
    distances: dict[str, DistancesRow]


class ModelRow(Record):
    """One model of a comparison."""

    gof: float
    r_wp: float
    r_wp_background_subtracted: float
    chi2: float
    n_parameters: int
    n_points: int
    aic: float
    bic: float
    delta_aic: float = 0.0
    delta_bic: float = 0.0
    durbin_watson: Number
    status: Status
    title: str = ""
    phases: list[str]
    document_sha256: str | None = None


class ComparisonSummary(Fitted):
    """Models of one pattern; `agreement` is that of the best by BIC."""

    task: Literal[Task.COMPARE] = Task.COMPARE
    best: str
    ranking: list[str]
    models: dict[str, ModelRow]


class ScaledValue(Value):
    """A number of a law; `su_scaled` allows for the scatter of the points about the law."""

    su_scaled: float | None = None
    at_bound: bool = False


class LawRow(Record):
    """A law through the points of a series; residuals in s.u. of the points."""

    numbers: dict[str, ScaledValue]
    correlation: float | None = None
    chi2: float
    chi2_red: Number
    r_squared: float | None = None
    n: int
    residuals: dict[str, float]
    outliers: dict[str, float] = {}


class SeriesSummary(Summary):
    """Fields that the analyses of all kinds of series have."""

    phase: str
    refinements: list[str]
    used: list[str]
    excluded: dict[str, str] = {}
    options: dict[str, Any] = {}
    su: str = ""
    numbers: dict[str, ScaledValue] = {}
    lines: dict[str, LawRow] = {}


class TemperatureRange(Record):
    """K."""

    lowest: float
    highest: float
    reference: float


class StaticRow(Record):
    """Whether B_static of a site is above zero, and by how many s.u."""

    n_su: float
    above_zero: bool
    text: str


class DisplacementLaw(LawRow):
    """Einstein's or Debye's law of the displacements of a site."""

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
        return self.einstein if self.better == "einstein" else self.debye


class DifferenceRow(Record):
    difference: float
    su_scaled: float
    n_su: float


class EvidenceRow(Record):
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
    source: str


class StrainPoint(Record):
    value: float
    su_scaled: Number
    inverse_length: float  # 1/nm


class StrainThroughBulk(Record):
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
    name: str
    at: float | None


class DifferentialRow(Record):
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


SUMMARIES: dict[Task, type[Summary]] = {
    Task.SIMULATE: SimulationSummary, Task.REFINE: RefinementSummary,
    Task.SIMULTANEOUS: SimultaneousSummary, Task.SCAN: ScanSummary,
    Task.UNCERTAINTY: UncertaintySummary, Task.BUILD: BuildSummary,
    Task.COMPARE: ComparisonSummary, Task.TEMPERATURE_SERIES: TemperatureSummary,
    Task.SIZE_SERIES: SizeSummary, Task.SIZING_CURVE: SizingSummary,
    Task.DIFFERENTIAL: DifferentialSummary,
}
