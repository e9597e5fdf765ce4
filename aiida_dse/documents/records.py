"""Typed results: the base of all summaries, and the rows that they share.

Arrays (patterns, maps, covariances, chains) are stored beside them, in HDF5. All s.u. are unscaled:
`su_scale` is the factor by which reports multiply them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aiida_dse.engine.model.agreement import Agreement, su_scale
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
