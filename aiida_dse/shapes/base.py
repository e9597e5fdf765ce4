"""What all particle shapes have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_type_hints

from aiida_dse.sections import Section, Size

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.particles.bodies import Body
    from aiida_dse.engine.particles.family import Family

#: Description of the key 'largest'.
LARGEST = "nm; size at which the distribution is truncated (default: it is not truncated)"


class SizeDistribution(Section):
    """Number-weighted log-normal size distribution: mean and standard deviation in nm."""

    mean: Size
    sd: Size


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

    def random_centre(self, body: Body) -> Family:
        """The population of a body whose centre lies anywhere in the unit cell."""
        from aiida_dse.engine.particles.random_centre import RandomCentre

        return RandomCentre(body, self.fixed_sizes, self.largest or math.inf)

    def start(self) -> dict[str, float]:
        """The starting values of the size parameters of the family, in nm."""
        from aiida_dse.engine.particles.bodies import spread_name

        return {parameter: value for name, one in self.distributions.items()
                for parameter, value in ((name, one.mean), (spread_name(name), one.sd))}


def _members(hint: Any) -> list[Any]:
    """The types in a type hint."""
    return [hint, *(one for part in get_args(hint) for one in _members(part))]
