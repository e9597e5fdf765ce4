"""Particle shapes for notebooks: Parallelepiped, QuasiCube and Sphere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from aiida_dse.documents.model import SHAPES
from aiida_dse.documents.reading import validated
from aiida_dse.io.results import plain

#: Mean and standard deviation (nm) of a number-weighted log-normal distribution.
SizeDistribution = tuple[float, float]


@dataclass(frozen=True, kw_only=True, repr=False)
class Shape:
    """Base class of the shapes. Raises DocumentError (a ValueError) if a value is invalid."""

    shape: ClassVar[str]
    #: The fields that are size distributions.
    distributions: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        validated(self.content(), SHAPES[self.shape])

    def __repr__(self) -> str:
        given = ((f.name, getattr(self, f.name)) for f in fields(self)
                 if getattr(self, f.name) != f.default)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given)})"

    def content(self) -> dict[str, Any]:
        """The section 'particle' of a document."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        distributions = {name: _distribution(name, given[name]) for name in self.distributions}
        content = {name: plain(value) for name, value in (given | distributions).items()
                   if value is not None}
        return {"shape": self.shape} | content


@dataclass(frozen=True, kw_only=True, repr=False)
class Parallelepiped(Shape):
    """Parallelepipeds of whole cells: one of `cells` (n_a, n_b, n_c), or a population L_ab x L_c.

    L_ab, L_c: (mean, sd) in nm of the edges along a and b, and of the height along c;
    size_axes_rotation: degrees by which the axes of the bivariate size distribution are rotated;
    largest: length in nm at which the distribution is truncated (by default it is not).
    """

    shape: ClassVar[str] = "parallelepiped"
    distributions: ClassVar[tuple[str, ...]] = ("L_ab", "L_c")
    cells: tuple[int, int, int] | None = None
    L_ab: SizeDistribution | None = None
    L_c: SizeDistribution | None = None
    size_axes_rotation: float = 0.0
    largest: float | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class QuasiCube(Shape):
    """Quasi-cubes of whole cells, as high as they are wide: a population of edge L.

    L: (mean, sd) in nm; largest: length in nm at which the distribution is truncated (by default it
    is not).
    """

    shape: ClassVar[str] = "quasi_cube"
    distributions: ClassVar[tuple[str, ...]] = ("L",)
    L: SizeDistribution
    largest: float | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Sphere(Shape):
    """Spheres of diameter D about a point of the crystal.

    D: nm for one size, or (mean, sd) in nm for a population; largest: diameter in nm at which the
    distribution is truncated (by default it is not); centre: fractional coordinates, or the label of
    a site; whole_cells: build the spheres of whole primitive cells, as DebUsSy does, instead of all
    atoms within the radius (only for a population).
    """

    shape: ClassVar[str] = "sphere"
    D: SizeDistribution | float
    largest: float | None = None
    centre: tuple[float, float, float] | str = (0.0, 0.0, 0.0)
    whole_cells: bool = False

    def content(self) -> dict[str, Any]:
        distribution = isinstance(self.D, Sequence)
        return super().content() | ({"D": _distribution("D", self.D)} if distribution else {})


def _distribution(name: str, distribution: Any) -> dict[str, float] | None:
    """The size distribution of (mean, sd) in a document. Raises ValueError for other values."""
    if distribution is None:
        return None
    try:
        mean, sd = distribution
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} = {distribution!r} is not a size distribution; specify the mean and the standard "
            "deviation in nm, "
            f"such as {name}=(5.0, 0.7)."
        ) from None
    return {"mean": float(mean), "sd": float(sd)}
