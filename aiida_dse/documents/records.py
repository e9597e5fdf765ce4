"""Typed results: base class of all summaries, and the rows that they share.

Arrays (patterns, maps, covariances, chains) are stored separately, in HDF5. All s.u. are unscaled;
reports multiply them by `su_scale`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aiida_dse.engine.model.agreement import Agreement, su_scale
from aiida_dse.engine.parameters import Kind, ParameterName, ParameterStatus

from .status import Status, Task

RESULT_SCHEMA = "aiida-dse/result/2"


def _number(value: Any) -> Any:
    """null as nan: JSON has neither nan nor infinity, so both are stored as null."""
    return float("nan") if value is None else value


#: A number that may be nan, stored as null in JSON files and nodes.
Number = Annotated[float, BeforeValidator(_number)]


def _numbers(value: Any) -> Any:
    return {key: _number(item) for key, item in value.items()} if isinstance(value, dict) else value


#: Figures of merit; the Durbin-Watson statistic of an exact fit is nan.
StoredAgreement = Annotated[Agreement, BeforeValidator(_numbers)]


class Record(BaseModel):
    """Immutable part of a result."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, populate_by_name=True)


class Value(Record):
    """A number with its unit and unscaled s.u. (None if it has none)."""

    value: Number
    unit: str = ""
    su: float | None = None


class ParameterRow(Value):
    """A parameter with its kind, status, bounds (None: unbounded) and starting value."""

    kind: Kind
    status: ParameterStatus
    lower: float | None = None
    upper: float | None = None
    start: float | None = None
    constraint: str | None = None
    #: In a simultaneous refinement: whether all patterns share one value, and the expression of
    #: a parametric constraint.
    shared: bool = False
    parametric_constraint: str | None = None


class LinearRow(Value):
    """A linear coefficient: scale factor of a phase or a blank, or background term."""

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
    U_aniso: tuple[float, ...] | None = None  # U11 U22 U33 U12 U13 U23, Å^2


class PhaseRow(Record):
    """Derived quantities of one phase.

    `sizes` are statistics of the population; `quantities` are the cell, sizes, displacements, and
    the requested distances and angles. Their joint covariance is an array of the result.
    """

    sizes: dict[str, Value] = {}
    quantities: dict[str, Value] = {}
    cell: dict[str, float] | None = None
    sites: dict[str, SiteRow] = {}
    #: Ion -> mean number per particle.
    composition: dict[str, float] = {}
    #: Of the crystalline phases of a refinement; None for a single phase.
    weight_fraction: Value | None = None


class StructureRow(Record):
    """The structure of a phase: its name and space group (Hermann-Mauguin without spaces)."""

    name: str
    space_group: str = ""


class RestraintRow(Record):
    """A restraint: value, target and sigma in its unit, and its contribution to chi2."""

    value: float
    target: float
    sigma: float
    unit: str
    chi2: float


class DataRow(Record):
    """Data of a task: number of points, range of q (1/Å), wavelength (Å), SHA-256 of the files."""

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
    """Fields of every result."""

    schema_: Literal["aiida-dse/result/2"] = Field("aiida-dse/result/2", alias="schema")
    task: Task
    status: Status
    stop_reason: str
    title: str = ""
    sample: dict[str, Any] = {}
    phases: list[str] = []
    structures: dict[str, StructureRow] = {}
    #: Repeated as a list, so that a search does not need the names of the phases.
    space_groups: list[str] = []
    #: The shapes of the particles, 'atoms' and 'distances', and the kinds of disorder of all phases.
    shapes: list[str] = []
    disorder_models: list[str] = []
    document_sha256: str | None = None
    #: The document with all defaults.
    document: dict[str, Any] | None = None
    data: DataRow | None = None
    seconds: float = 0.0
    #: Work that was estimated before the task, in distances, and the number of threads it ran on.
    work: float | None = None
    threads: int = 1
    created: str = ""
    engine_version: str = ""
    numerics_version: int = 0
    libraries: dict[str, str] = {}
    tables: Tables | None = None
    warnings: list[str] = []
    parameters: dict[str, ParameterRow] = {}

    @property
    def temperature(self) -> float | None:
        """Temperature of the sample in K."""
        temperature = self.sample.get("temperature")
        return None if temperature is None else float(temperature)

    @property
    def free(self) -> dict[str, ParameterRow]:
        """The parameters that were refined."""
        return {name: row for name, row in self.parameters.items() if row.status.refined}

    def parts(self, name: str) -> tuple[str, str]:
        """Phase and displayed name of a parameter or quantity.

        The displayed name omits the phase if it is the only one.
        """
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
        """The s.u. multiplied by `su_scale`, as printed."""
        return None if su is None else su * self.su_scale
