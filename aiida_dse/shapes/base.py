"""What all particle shapes have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_type_hints

from pydantic import Field, model_validator

from aiida_dse.sections import Fractional, Section, Size

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.particles.bodies import Body
    from aiida_dse.engine.particles.family import Family
    from aiida_dse.engine.particles.length_laws import LengthLaw

#: Description of the key 'largest'.
LARGEST = "nm; size at which the distribution is truncated (default: it is not truncated)"


#: Where the centre of a body lies, and the description of the key 'centre'.
Centre = tuple[Fractional, Fractional, Fractional] | str
CENTRE = ("'random': anywhere in the unit cell, with equal probability; or a point: fractional coordinates, or a site "
          "label")


class SizeDistribution(Section):
    """Number-weighted size distribution: mean and standard deviation in nm.

    A histogram has free weights at equally spaced sizes; the mean and the standard deviation are those
    of the log-normal distribution from which the weights start.
    """

    mean: Size
    sd: Size
    law: Literal["log_normal", "normal", "histogram"] = "log_normal"
    range: tuple[Size, Size] | None = Field(
        None, description="first and last size of a histogram, nm (default: mean - 2.5 sd and mean + 3.5 sd)")
    points: Annotated[int, Field(ge=4, le=60)] | None = Field(
        None, description="number of sizes of a histogram (default: 15)")
    smoothness: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="standard deviation of the second differences of the weights of a histogram, relative to the "
        "mean weight (default: 1); smaller values make it smoother")

    @model_validator(mode="after")
    def _of_histogram(self) -> SizeDistribution:
        given = [name for name in ("range", "points", "smoothness") if getattr(self, name) is not None]
        if given and self.law != "histogram":
            raise ValueError(f"{' and '.join(given)} belong to 'law: histogram'; remove them, or specify this law")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"the range {list(self.range)} is empty; its first size must be below the last one")
        return self

    @property
    def lengths(self) -> tuple[float, ...]:
        """The sizes (nm) of a histogram."""
        n = self.points or 15
        first, last = self.range or (max(self.mean - 2.5 * self.sd, 0.2 * self.mean), self.mean + 3.5 * self.sd)
        return tuple(first + (last - first) * k / (n - 1) for k in range(n))

    def length_law(self) -> LengthLaw:
        """How the distribution depends on its parameters."""
        from aiida_dse.engine.particles.length_laws import FreeWeights, MeanAndSd

        return FreeWeights(self.lengths) if self.law == "histogram" else MeanAndSd(self.law == "normal")

    def start(self, name: str) -> dict[str, float]:
        """The starting values of the parameters of the length `name`."""
        from aiida_dse.engine.particles.bodies import spread_name

        if self.law != "histogram":
            return {name: self.mean, spread_name(name): self.sd}
        width = math.sqrt(math.log1p((self.sd / self.mean) ** 2))
        median = self.mean / math.sqrt(1 + (self.sd / self.mean) ** 2)
        exponents = [-math.log(x / median) ** 2 / (2 * width**2) - math.log(x) for x in self.lengths]
        density = [math.exp(one - max(exponents)) for one in exponents]
        return {f"{name}_weight_{k}": one / sum(density) for k, one in enumerate(density, 1)}


class Shape(Section):
    """The section 'particle' of a phase, for one kind of particle.

    A subclass has a field `shape` with the name of the shape, and fields for its sizes. The modules
    of the engine are imported inside `family`, because documents are often read without a
    calculation.
    """

    #: The name of the shape in documents.
    name: ClassVar[str]
    #: The fields that are sizes, or distributions of sizes.
    size_fields: ClassVar[tuple[str, ...]]
    if TYPE_CHECKING:  # a field of each subclass, in its own place among the keys
        largest: float | None

    @classmethod
    def accepts_number(cls, name: str) -> bool:
        """Whether a size may be a number instead of a distribution."""
        return float in _members(get_type_hints(cls)[name])

    @property
    def distributions(self) -> dict[str, SizeDistribution]:
        """The size distributions by the name of the size."""
        found = {name: getattr(self, name) for name in self.size_fields}
        return {name: one for name, one in found.items() if isinstance(one, SizeDistribution)}

    @property
    def fixed_sizes(self) -> dict[str, float]:
        """The single sizes (nm) by their names."""
        found = {name: getattr(self, name) for name in self.size_fields}
        return {name: float(one) for name, one in found.items() if isinstance(one, float | int)}

    def family(self, crystal: Crystal) -> Family:
        """The particles of a crystal."""
        raise NotImplementedError

    def around(self, centre: Centre, body: Body, crystal: Crystal) -> Family:
        """The population of a body with one length around a point, or with a random centre."""
        from aiida_dse.engine.particles.fixed_centre import FixedCentre

        if centre == "random":
            return self.random_centre(body)
        x, y, z = crystal.special_position(centre).tolist() if isinstance(centre, str) else centre
        return FixedCentre(body, self.fixed_sizes, self.largest or math.inf, {
            name: one.length_law() for name, one in self.distributions.items()}, (x, y, z))

    def random_centre(self, body: Body) -> Family:
        """The population of a body whose centre lies anywhere in the unit cell."""
        from aiida_dse.engine.particles.random_centre import RandomCentre

        return RandomCentre(body, self.fixed_sizes, self.largest or math.inf, {
            name: one.length_law() for name, one in self.distributions.items()})

    def start(self) -> dict[str, float]:
        """The starting values of the size parameters of the family, in nm."""
        return {parameter: value for name, one in self.distributions.items()
                for parameter, value in one.start(name).items()}


def _members(hint: Any) -> list[Any]:
    """The types in a type hint."""
    return [hint, *(one for part in get_args(hint) for one in _members(part))]
