"""Typed results of all tasks: the numbers in result.json and in result nodes."""

from __future__ import annotations

from typing import Any, Literal

from aiida_dse.engine.model.agreement import SerialCorrelation, su_scale
from aiida_dse.engine.parameters import Kind, ParameterStatus

from .records import (
    DataRow,
    Fitted,
    LinearRow,
    Number,
    ParameterRow,
    PhaseRow,
    Record,
    RestraintRow,
    StoredAgreement,
    Summary,
    Value,
)
from .series_results import (
    DifferentialSummary,
    SizeSummary,
    SizingSummary,
    TemperatureSummary,
)
from .status import Status, Task


class MinimumRow(Record):
    """One minimum of a search from several starting points."""

    gof: float
    chi2: float
    starts: list[int]
    converged: bool
    values: dict[str, float]


class SearchRow(Record):
    """A search from several starting points, with the lowest minimum first."""

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
    #: Phase -> refined structure as a CIF, which AiiDA stores as a separate node.
    cif: dict[str, str] = {}

    @property
    def undetermined(self) -> list[str]:
        """Names of the parameters that the data do not determine."""
        return [name for name, row in self.parameters.items()
                if row.status is ParameterStatus.UNDETERMINED]


class SimulationSummary(Summary):
    """A pattern at the starting values, with an `agreement` if there are data."""

    task: Literal[Task.SIMULATE] = Task.SIMULATE
    derived: dict[str, PhaseRow]
    agreement: StoredAgreement | None = None


class PatternRow(Record):
    """One pattern of a simultaneous refinement, with the fields of a single refinement."""

    sample: dict[str, Any] = {}
    data: DataRow
    agreement: StoredAgreement
    parameters: dict[str, ParameterRow]
    linear: dict[str, LinearRow]
    derived: dict[str, PhaseRow]
    restraints: dict[str, RestraintRow] = {}
    cif: dict[str, str] = {}


class SimultaneousSummary(Fitted):
    """A simultaneous refinement; `parameters` are the shared and the global ones."""

    task: Literal[Task.SIMULTANEOUS] = Task.SIMULTANEOUS
    parametric_constraints: dict[str, str] = {}
    patterns: dict[str, PatternRow]
    undetermined: list[str] = []
    n_cycles: int
    n_evaluations: int


class AxisRow(Record):
    """An axis of a map; `scale` multiplies the values of the document (length of a path)."""

    name: str
    unit: str = ""
    kind: Kind | None = None
    scale: float = 1.0


class QuantityRow(Record):
    """A derived quantity stored with a map, and whether it varies over the map."""

    name: str
    unit: str = ""
    varies: bool = False


class PointRow(Record):
    """A grid point with its GoF."""

    at: dict[str, float]
    gof: Number


class BasinRow(PointRow):
    """A local minimum of a map and the saddle towards a deeper one."""

    saddle: PointRow | None = None


class DeltaChi2Row(Record):
    """Interval of an axis in which chi2, minimised over the other axes, rises by less than 1."""

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
    """Numbers of computed and interpolated points of an adaptive map."""

    n_evaluated: int
    n_interpolated: int


class InterpolationRow(Record):
    """How a map was interpolated from exact patterns, see `engine.maps.gof_map.Interpolation`.

    nodes: by axis, null for axes that keep their own values; empty for a map merged from tiles.
    """

    nodes: list[int | None]
    n_exact: int
    n_checked: int
    error: float


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
    #: chi2 at the lowest point, and the number of parameters that its GoF counts.
    minimum_chi2: float | None = None
    n_counted: int | None = None
    minimum_quantities: dict[str, Number] = {}
    quadratic: QuadraticRow | None = None
    basins: list[BasinRow] = []
    adaptive: AdaptiveRow | None = None
    #: How the map was interpolated, or why every point was computed; both empty in earlier versions.
    interpolation: InterpolationRow | None = None
    direct_reason: str = ""

    @property
    def lowest_gof(self) -> float:
        """The GoF at the lowest point; nan for an empty map."""
        return float("nan") if self.minimum is None else self.minimum["gof"]

    @property
    def su_scale(self) -> float:
        """max(1, GoF) at the lowest point."""
        return 1.0 if self.minimum is None else su_scale(self.minimum["gof"])


class ProfileRow(Record):
    """The chi2 profile of one parameter: limits where it has risen by 1 (68 %) and 4 (95 %)."""

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
    """Statistics of the samples of one quantity, with diagnostics if a chain produced them."""

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
    """Bootstrap samples by outcome, and the statistics of the refined ones."""

    n_samples: int
    seed: int
    n_refined: int
    n_not_converged: int
    n_failed: int
    n_pending: int
    failures: dict[str, str] = {}
    parameters: dict[str, SpreadRow] = {}


class PosteriorRow(Record):
    """Chain of the posterior, verdict on its convergence, and statistics after the burn-in."""

    n_walkers: int
    n_steps: int
    thin: int
    seed: int
    acceptance: float
    n_impossible: int
    #: Number of exact patterns behind an approximated log p, number of samples at which it was
    #: checked, and its error there; null for a chain of exact patterns.
    n_exact: int | None = None
    n_checked: int | None = None
    error: float | None = None
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
    """Comparison of models of one pattern; `agreement` is that of the best model by BIC."""

    task: Literal[Task.COMPARE] = Task.COMPARE
    best: str
    ranking: list[str]
    models: dict[str, ModelRow]


SUMMARIES: dict[Task, type[Summary]] = {
    Task.SIMULATE: SimulationSummary, Task.REFINE: RefinementSummary,
    Task.SIMULTANEOUS: SimultaneousSummary, Task.SCAN: ScanSummary,
    Task.UNCERTAINTY: UncertaintySummary, Task.BUILD: BuildSummary,
    Task.COMPARE: ComparisonSummary, Task.TEMPERATURE_SERIES: TemperatureSummary,
    Task.SIZE_SERIES: SizeSummary, Task.SIZING_CURVE: SizingSummary,
    Task.DIFFERENTIAL: DifferentialSummary,
}
