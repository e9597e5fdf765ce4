"""Parameters of a model: structured names, kinds with their properties, values with bounds and s.u.

Everything that depends on the kind of a parameter (its unit, step, starting range and possible
values, what it changes, when it is refined, its CIF data name and its symbol) is a column of one
table, `KINDS`.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

Interval = tuple[float, float]
INFINITE: Interval = (-math.inf, math.inf)
#: The phase name of parameters that belong to no phase: those of parametric constraints.
GLOBAL = "global"


class ParameterName(str):
    """The name of a parameter, 'phase.quantity' or 'phase.site.quantity', with its parts.

    It is a string, so that it can be a key. In a simultaneous refinement the prefix 'pattern:'
    names the pattern to which the parameter belongs.
    """

    __slots__ = ()

    @classmethod
    def of(cls, phase: str, quantity: str, *, site: str = "", pattern: str = "") -> ParameterName:
        inside = f"{phase}.{site}.{quantity}" if site else f"{phase}.{quantity}"
        return cls(f"{pattern}:{inside}" if pattern else inside)

    @property
    def pattern(self) -> str:
        """The pattern to which the parameter belongs; '' where it belongs to the whole model."""
        return self.partition(":")[0] if ":" in self else ""

    @property
    def shared(self) -> ParameterName:
        """The name without the pattern."""
        return ParameterName(self.rpartition(":")[2])

    @property
    def phase(self) -> str:
        return self.shared.partition(".")[0]

    @property
    def local(self) -> str:
        """The name inside its phase: 'quantity' or 'site.quantity'."""
        return self.shared.partition(".")[2]

    @property
    def site(self) -> str:
        """The label of the site; '' for parameters of the whole phase."""
        return self.local.rpartition(".")[0]

    @property
    def quantity(self) -> str:
        return self.rpartition(".")[2]


class Changes(StrEnum):
    """The part of the calculation that a parameter changes, from the most to the least costly."""

    COUNTS = "counts"  # how many pairs share a difference vector
    DISTANCES = "distances"
    DAMPING = "damping"  # Debye-Waller factors
    AMPLITUDE = "amplitude"  # occupancies
    MEASUREMENT = "measurement"  # angles and profile of the instrument
    LINEAR = "linear"  # coefficients that are solved inside every evaluation

    @property
    def moves_distances(self) -> bool:
        """Whether the distance histograms must be recomputed."""
        return self in (Changes.COUNTS, Changes.DISTANCES)


class Kind(StrEnum):
    """Kind of a parameter."""

    CELL_LENGTH = "cell_length"
    CELL_ANGLE = "cell_angle"
    COORDINATE = "coordinate"
    B_ISO = "B_iso"
    B_DAMPED = "B_damped"  # B_iso of a site whose pairs move in correlation
    DELTA = "delta"  # correlated motion
    U_ISO = "U_iso"  # mean square displacement along one direction
    U_ANISO = "U_aniso"  # component U_ij of a displacement tensor
    OCCUPANCY = "occupancy"
    SIZE = "size"
    SIZE_SD = "size_sd"
    SIZE_ROTATION = "size_rotation"
    SIZE_WEIGHT = "size_weight"  # of one length in a free histogram
    ASPECT = "aspect"
    THICKNESS = "thickness"
    BOUNDARY_PROBABILITY = "boundary_probability"
    SPLIT = "split"  # distance of the positions of a split site from their mean
    LATTICE_CHANGE = "lattice_change"  # relative change of cell lengths with the size of the particle
    B_CHANGE = "B_change"
    OCCUPANCY_CHANGE = "occupancy_change"
    DECAY = "decay"  # size over which a change fades
    LATTICE_SCALE = "lattice_scale"
    MICROSTRAIN = "microstrain"
    ANGLE_SHIFT = "angle_shift"  # zero shift of the angles
    DISPLACEMENT = "displacement"  # of the sample from the centre of the instrument
    WAVELENGTH = "wavelength"
    SQUARED_WIDTH = "squared_width"  # of a Gaussian profile
    WIDTH = "width"  # of a Lorentzian profile
    Q_WIDTH = "q_width"  # of a Gaussian profile in q
    GLOBAL = "global"
    SCALE = "scale"
    BLANK = "blank"
    BACKGROUND = "background"

    @property
    def spec(self) -> KindSpec:
        return KINDS[self]


@dataclass(frozen=True)
class KindSpec:
    """The properties of a kind of parameter.

    `shift` is the natural step, by which the search and finite differences are scaled. `bounds` and
    `start_range` are the default bounds and the default range of starting points around a value;
    `possible` is the interval of values that a crystal or particle can have. `largest_su` is the
    s.u. above which a value is regarded as undetermined. `stage` is the
    position in the default stages of a refinement (None: not refined by default). `cif` is the CIF
    data name, with {} for the quantity. `symbol` is the LaTeX form for figures, '' where figures
    show the name itself.
    """

    unit: str
    shift: Callable[[float], float]
    bounds: Callable[[float], Interval]
    start_range: Callable[[float], Interval]
    possible: Interval
    largest_su: Callable[[float], float]
    changes: Changes
    stage: int | None = None
    cif: str = ""
    symbol: str = ""


def _fixed(step: float) -> Callable[[float], float]:
    return lambda value: step


def _relative(share: float) -> Callable[[float], float]:
    return lambda value: share * abs(value)


def _around(*, absolute: float = 0.0, relative: float = 0.0) -> Callable[[float], Interval]:
    def interval(value: float) -> Interval:
        half = absolute + relative * abs(value)
        return value - half, value + half

    return interval


def _between(lower: float, upper: float) -> Callable[[float], Interval]:
    return lambda value: (lower, upper)


def _factor_of_two(value: float) -> Interval:
    return value / 2, value * 2


#: Largest B_iso (Å^2) that a refinement may reach unless the document specifies another bound.
B_LIMIT = 30.0
#: Largest mean square displacement (Å^2) along one direction, as for B_LIMIT.
U_LIMIT = 0.4
#: Default bounds of the factor by which all distances of a fixed geometry are scaled.
LATTICE_SCALE_RANGE = (0.9, 1.1)
_LENGTH: Interval = (1e-6, 1e6)

KINDS: dict[Kind, KindSpec] = {
    Kind.CELL_LENGTH: KindSpec(
        "Å", _relative(1e-3), _around(relative=0.1), _around(relative=0.015), _LENGTH,
        _relative(0.1), Changes.DISTANCES, 0, "_cell.length_{}", "{}",
    ),
    Kind.CELL_ANGLE: KindSpec(
        "deg", _fixed(0.1), _around(absolute=10.0), _around(absolute=2.0), (1.0, 179.0),
        _fixed(10.0), Changes.DISTANCES, 0, "_cell.angle_{}", r"\{}",
    ),
    Kind.COORDINATE: KindSpec(
        "", _fixed(2e-3), _around(absolute=0.15), _around(absolute=0.03), INFINITE,
        _fixed(0.25), Changes.DISTANCES, 2, "_atom_site.fract_{}", "{}",
    ),
    Kind.B_ISO: KindSpec(
        "Å^2", _fixed(0.1), lambda value: (0.0, max(B_LIMIT, 2 * value)), _factor_of_two,
        (0.0, 1000.0), _fixed(B_LIMIT), Changes.DAMPING, 1, "_atom_site.B_iso_or_equiv", r"B_\mathrm{{iso}}",
    ),
    Kind.B_DAMPED: KindSpec(
        "Å^2", _fixed(0.1), lambda value: (0.0, max(B_LIMIT, 2 * value)), _factor_of_two,
        (0.0, 1000.0), _fixed(B_LIMIT), Changes.DISTANCES, 1, "_atom_site.B_iso_or_equiv", r"B_\mathrm{{iso}}",
    ),
    Kind.DELTA: KindSpec(
        "", _fixed(0.05), _between(0.0, 100.0), _factor_of_two, (0.0, 100.0), _fixed(100.0),
        Changes.DISTANCES, 1, "", r"\delta",
    ),
    Kind.U_ISO: KindSpec(
        "Å^2", _fixed(1e-3), lambda value: (0.0, max(U_LIMIT, 2 * value)), _factor_of_two,
        (0.0, 10.0), _fixed(U_LIMIT), Changes.DISTANCES, 1,
    ),
    Kind.U_ANISO: KindSpec(
        "Å^2", _fixed(1e-3), lambda value: (-max(U_LIMIT, 2 * value), max(U_LIMIT, 2 * value)),
        _around(absolute=5e-3, relative=0.5), (-10.0, 10.0), _fixed(U_LIMIT), Changes.DISTANCES, 1,
        "_atom_site_aniso.{}", "{}",
    ),
    Kind.OCCUPANCY: KindSpec(
        "", _fixed(0.02), _between(0.0, 1.0), _factor_of_two, (0.0, 1.0),
        _fixed(1.0), Changes.AMPLITUDE, None, "_atom_site.occupancy", "o",
    ),
    Kind.SIZE: KindSpec(
        "nm", _fixed(0.1), lambda value: (min(0.5, value), max(5 * value, 30.0)), _factor_of_two,
        _LENGTH, _relative(1.0), Changes.COUNTS, 0,
    ),
    Kind.SIZE_SD: KindSpec(
        "nm", _fixed(0.1), lambda value: (min(0.05, value), max(5.0, 3 * value)), _factor_of_two,
        _LENGTH, _relative(1.0), Changes.COUNTS, 1,
    ),
    Kind.SIZE_WEIGHT: KindSpec(
        "", _fixed(0.01), lambda value: (0.0, max(2.0, 2 * value)), _factor_of_two, (0.0, 1e3), _fixed(1.0),
        Changes.COUNTS, 1,
    ),
    Kind.SIZE_ROTATION: KindSpec(
        "deg", _fixed(0.1), _between(-90.0, 90.0), _between(-90.0, 90.0), (-90.0, 90.0),
        _fixed(90.0), Changes.COUNTS,
    ),
    Kind.THICKNESS: KindSpec(
        "nm", _fixed(0.05), lambda value: (min(0.05, value), max(5 * value, 10.0)), _factor_of_two, _LENGTH,
        _relative(1.0), Changes.COUNTS, 1,
    ),
    Kind.ASPECT: KindSpec(
        "", _relative(0.02), lambda value: (min(0.1, value), max(10.0, value)), _factor_of_two,
        (1e-2, 1e2), _relative(1.0), Changes.COUNTS, 1,
    ),
    # p and 1 - p are different structures, and p = 1/2 is full disorder
    Kind.BOUNDARY_PROBABILITY: KindSpec(
        "", _fixed(0.01), _between(0.0, 0.5), _between(0.0, 0.5), (0.0, 0.5), _fixed(0.5),
        Changes.COUNTS, 1,
    ),
    Kind.SPLIT: KindSpec(
        "Å", _fixed(0.02), lambda value: (0.0, max(1.0, 2 * value)), _factor_of_two, (0.0, 3.0), _fixed(1.0),
        Changes.DISTANCES, 1,
    ),
    Kind.LATTICE_CHANGE: KindSpec(
        "", _fixed(5e-4), _between(-0.1, 0.1), _around(absolute=5e-3), (-0.5, 0.5), _fixed(0.1),
        Changes.DISTANCES, 1,
    ),
    Kind.B_CHANGE: KindSpec(
        "Å^2", _fixed(0.1), _between(-B_LIMIT, B_LIMIT), _around(absolute=0.5), (-1000.0, 1000.0),
        _fixed(B_LIMIT), Changes.DISTANCES, 1,
    ),
    Kind.OCCUPANCY_CHANGE: KindSpec(
        "", _fixed(0.02), _between(-1.0, 1.0), _around(absolute=0.1), (-10.0, 10.0), _fixed(1.0),
        Changes.DISTANCES,
    ),
    Kind.DECAY: KindSpec(
        "nm", _fixed(0.1), lambda value: (min(0.1, value), max(5 * value, 30.0)), _factor_of_two, _LENGTH,
        _relative(1.0), Changes.DISTANCES,
    ),
    Kind.LATTICE_SCALE: KindSpec(
        "", _fixed(1e-3), _between(*LATTICE_SCALE_RANGE), _around(relative=0.015), (1e-3, 1e3),
        _fixed(0.1), Changes.DISTANCES, 0,
    ),
    Kind.MICROSTRAIN: KindSpec(
        "", _fixed(1e-4), lambda value: (0.0, max(0.05, 2 * value)), _factor_of_two, (0.0, 0.2), _fixed(0.05),
        Changes.DISTANCES,
    ),
    Kind.ANGLE_SHIFT: KindSpec(
        "deg", _fixed(1e-3), _around(absolute=0.25), _around(absolute=0.02), (-10.0, 10.0), _fixed(1.0),
        Changes.MEASUREMENT, None, "_pd_calib.2theta_offset",
    ),
    Kind.DISPLACEMENT: KindSpec(
        "mm", _fixed(0.01), _around(absolute=2.0), _around(absolute=0.2), (-100.0, 100.0), _fixed(10.0),
        Changes.MEASUREMENT,
    ),
    Kind.WAVELENGTH: KindSpec(
        "Å", _relative(1e-4), _around(relative=0.01), _around(relative=1e-3), (1e-3, 100.0), _relative(0.05),
        Changes.MEASUREMENT,
    ),
    Kind.SQUARED_WIDTH: KindSpec(
        "deg^2", _fixed(1e-5), _around(absolute=1.0, relative=1.0), _around(relative=0.5), (-100.0, 100.0),
        _fixed(10.0), Changes.MEASUREMENT,
    ),
    Kind.WIDTH: KindSpec(
        "deg", _fixed(1e-4), lambda value: (0.0, max(2.0, 2 * value)), _factor_of_two, (0.0, 20.0), _fixed(5.0),
        Changes.MEASUREMENT,
    ),
    Kind.Q_WIDTH: KindSpec(
        "1/Å", _fixed(1e-4), lambda value: (0.0, max(0.2, 2 * value)), _factor_of_two, (0.0, 1.0), _fixed(0.5),
        Changes.MEASUREMENT,
    ),
    Kind.GLOBAL: KindSpec(
        "", lambda value: 1e-2 * abs(value) or 1e-6, _between(*INFINITE), _factor_of_two, INFINITE,
        _fixed(math.inf), Changes.DISTANCES,
    ),
    Kind.SCALE: KindSpec(
        "", _relative(1e-2), _between(0.0, math.inf), _factor_of_two, (0.0, math.inf),
        _fixed(math.inf), Changes.LINEAR,
    ),
    Kind.BLANK: KindSpec(
        "", _relative(1e-2), _between(0.0, math.inf), _factor_of_two, (0.0, math.inf),
        _fixed(math.inf), Changes.LINEAR,
    ),
    Kind.BACKGROUND: KindSpec(
        "", _relative(1e-2), _between(*INFINITE), _factor_of_two, INFINITE,
        _fixed(math.inf), Changes.LINEAR,
    ),
}


class ParameterStatus(StrEnum):
    """Status of a parameter in a refinement."""

    FIXED = "fixed"
    FREE = "free"
    CONSTRAINED = "constrained"  # computed from other parameters
    AT_BOUND = "at_bound"  # refined, but held at the bound where it ended; it has no s.u.
    UNDETERMINED = "undetermined"  # refined, but the data do not determine it; it has no s.u.

    @property
    def refined(self) -> bool:
        """Whether the refinement was free to change the parameter."""
        return self in (ParameterStatus.FREE, ParameterStatus.AT_BOUND,
                        ParameterStatus.UNDETERMINED)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a model, in the unit of its kind. `su` is its unscaled standard uncertainty.

    Unspecified bounds are the default bounds of the kind, widened to include the value. Raises
    ValueError where the value is not finite or lies outside the bounds, or the bounds are swapped.
    """

    name: ParameterName
    kind: Kind
    value: float
    lower: float = math.nan
    upper: float = math.nan
    su: float | None = None
    status: ParameterStatus = ParameterStatus.FIXED

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", ParameterName(self.name))
        if not math.isfinite(self.value):
            raise ValueError(f"{self.name}: the value {self.value} is not a finite number.")
        lower, upper = self.kind.spec.bounds(self.value)
        if math.isnan(self.lower):
            object.__setattr__(self, "lower", min(lower, self.value))
        if math.isnan(self.upper):
            object.__setattr__(self, "upper", max(upper, self.value))
        if not self.lower <= self.upper:
            raise ValueError(
                f"{self.name}: the lower bound {self.lower:g} is above the upper bound "
                f"{self.upper:g} {self.unit}. Swap them."
            )
        if not self.lower <= self.value <= self.upper:
            raise ValueError(
                f"{self.name}: the value {self.value:g} {self.unit} lies outside its bounds "
                f"{self.lower:g} ... {self.upper:g}. Move the value or widen the bounds."
            )

    @property
    def unit(self) -> str:
        return self.kind.spec.unit

    @property
    def shift(self) -> float:
        """The natural step, by which the search and finite differences are scaled."""
        if self.kind is Kind.GLOBAL and self.value == 0:
            span = self.upper - self.lower
            return 1e-2 * span if math.isfinite(span) and span > 0 else 1e-6
        return self.kind.spec.shift(self.value)

    def start_range(self, value: float) -> Interval:
        """The default range of starting points around `value`, inside the bounds."""
        low, high = self.kind.spec.start_range(value)
        return max(low, self.lower), min(high, self.upper)

    def changed(self, **changes: object) -> Parameter:
        """A copy of the parameter with the fields `changes`."""
        return replace(self, **changes)  # type: ignore[arg-type]


def require_possible(name: str, kind: Kind, lower: float, upper: float) -> None:
    """Raise ValueError unless a crystal or particle can have every value from lower to upper."""
    low, high = kind.spec.possible
    if not low <= lower <= upper <= high:
        raise ValueError(
            f"{name} would run from {lower:g} to {upper:g}{kind.spec.unit and ' '}"
            f"{kind.spec.unit}, but only values from {low:g} to {high:g} are possible. "
            "Correct its value, bounds or constraint."
        )


def is_pattern(text: str) -> bool:
    """Whether a text selects parameters by wildcards instead of naming a single one."""
    return any(character in text for character in "*?[")


def select(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The names that the patterns select ('*' is a wildcard), in the order of `names`.

    Raises ValueError for a pattern that selects nothing; the message suggests the nearest names.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        hits = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not hits:
            raise ValueError(f"'{pattern}' matches no parameter{closest(pattern, names)}.")
        chosen.update(hits)
    return [name for name in names if name in chosen]


def closest(name: str, known: Iterable[str]) -> str:
    """A hint for error messages with the known names most similar to `name`; '' without any."""
    import difflib

    hits = difflib.get_close_matches(name[:80], list(known), n=3, cutoff=0.4)
    return f" (did you mean {' or '.join(hits)}?)" if hits else ""
