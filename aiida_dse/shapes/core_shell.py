"""Spheres whose occupancies change from a core to the surface, in steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from aiida_dse.sections import Positive, Section, Size

from .axes import Share
from .base import LARGEST, Shape, SizeDistribution
from .sphere import Ball

if TYPE_CHECKING:
    from aiida_dse.engine.crystal.structure import Crystal
    from aiida_dse.engine.parameters import Kind
    from aiida_dse.engine.particles.bodies import Overlap
    from aiida_dse.engine.particles.family import Family
    from aiida_dse.engine.particles.size_distributions import Lengths
    from aiida_dse.engine.resources import Resources
    from aiida_dse.engine.units import FloatArray


class Layer(Section):
    """A spherical layer with its own occupancies."""

    thickness: Annotated[float, Field(gt=0, le=1000)] = Field(description="starting value, nm")
    occupancy: dict[str, Share] = Field({}, description="site label -> occupancy; others as in the structure")


class CoreShell(Shape):
    """Spheres of outer diameter D with coherent layers, from the surface to the core.

    All layers continue the crystal of the core. Atoms of a shell that replace those of the core are sites at
    the same positions in the structure.
    """

    name: ClassVar[str] = "core_shell"
    shape: Literal["core_shell"]
    D: SizeDistribution | Size
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=4)] = Field(
        description="from the outermost layer inwards")
    core: dict[str, Share] = Field({}, description="site label -> occupancy in the core; others as in the structure")
    largest: Positive | None = Field(None, description=LARGEST)
    size_fields: ClassVar[tuple[str, ...]] = ("D",)

    def family(self, crystal: Crystal) -> Family:
        outer = self.D.mean if isinstance(self.D, SizeDistribution) else self.D
        total = sum(layer.thickness for layer in self.layers)
        if 2 * total >= outer:
            raise ValueError(f"the total thickness of the layers, {total:g} nm, must be below the outer radius, "
                             f"{outer / 2:g} nm. Specify thinner layers or a larger D, and check that the sizes are "
                             "in nm.")
        rows = []
        for occupancy in (*(layer.occupancy for layer in self.layers), self.core):
            for label in occupancy:
                crystal.site(label)
            rows.append([occupancy.get(site.label, site.occupancy) / site.occupancy for site in crystal.sites])
        for k, site in enumerate(crystal.sites):
            if not any(row[k] for row in rows):
                raise ValueError(f"the site {site.label} is empty in all layers. Remove it from the structure, or "
                                 "specify an occupancy above 0.")
        return self.random_centre(CoreShellBody(tuple(map(tuple, rows))))

    def start(self) -> dict[str, float]:
        return super().start() | {f"thickness_{k + 1}": layer.thickness for k, layer in enumerate(self.layers)}


@dataclass(frozen=True)
class CoreShellBody(Ball):
    """The layered sphere; `profile` (n_layers + 1, n_sites) are occupancies from outside inwards, relative to
    those of the structure."""

    profile: tuple[tuple[float, ...], ...] = ()

    @property
    def parameters(self) -> Mapping[str, Kind]:  # type: ignore[override]
        from aiida_dse.engine.parameters import Kind

        return {f"thickness_{k + 1}": Kind.THICKNESS for k in range(len(self.profile) - 1)}

    def _depths(self, others: Mapping[str, float]) -> FloatArray:
        """How much smaller (nm) the diameter of each nested sphere is than the outer one."""
        return 2 * np.cumsum([0.0, *(others[name] for name in self.parameters)])

    @property
    def steps(self) -> FloatArray:
        """The change (n_spheres, n_sites) of the occupancies at the surface of each nested sphere, inwards."""
        rows = np.array(self.profile)
        return np.vstack([rows[:1], np.diff(rows, axis=0)])

    def volumes(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> FloatArray:
        """The mean volume (n_spheres,) in nm^3 of the nested spheres.

        Raises ValueError if the mean particle has no core.
        """
        from aiida_dse.engine.particles.bodies import mean_power

        outer, depth = mean_power(lengths["D"], 1), float(self._depths(others)[-1])
        if depth >= outer:
            raise ValueError(f"the total thickness of the layers, {depth / 2:.4g} nm, must be below the mean outer "
                             f"radius, {outer / 2:.4g} nm. Specify thinner layers or a larger D, or bounds of the "
                             "thicknesses.")
        found = [_mean(self._depths(others)[[k, k]], np.zeros(1), lengths["D"])[0]
                 for k in range(len(self.profile))]
        return np.array(found)

    @property
    def occupancy_factors(self) -> tuple[float, ...]:
        return tuple(map(max, zip(*self.profile, strict=True)))

    def contents(self, lengths: Mapping[str, Lengths], others: Mapping[str, float]) -> FloatArray:
        """The mean relative occupancy (n_sites,) of each site, integrated over the body, in nm^3."""
        return self.volumes(lengths, others) @ self.steps

    def overlaps(
        self, vectors: FloatArray, others: Mapping[str, float], lengths: Mapping[str, Lengths]
    ) -> dict[tuple[int, int], FloatArray]:
        """The mean volume (n,) in nm^3 that two nested spheres share, shifted by vectors of lengths (n,) nm."""
        depths = self._depths(others)
        return {(k, m): _mean(depths[[k, m]], vectors, lengths["D"])
                for k in range(len(depths)) for m in range(k, len(depths))}

    def overlap(self, vectors: FloatArray, others: Mapping[str, float], resources: Resources) -> Overlap:
        return LayeredOverlap(self, np.linalg.norm(vectors, axis=1), dict(others))

    def measures(self, lengths: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        core = max(lengths["D"] - float(self._depths(others)[-1]), 0.0)
        return super().measures(lengths, others) | {"core_diameter": core, "confinement_diameter": core}


@dataclass(frozen=True, eq=False)
class LayeredOverlap:
    """The overlaps of the nested spheres, at vectors of these lengths (n,) in nm."""

    body: CoreShellBody
    length: FloatArray
    others: Mapping[str, float]

    def mean(self, lengths: Mapping[str, Lengths]) -> FloatArray:
        """The overlap of the outer sphere; that of each pair of sites is `of_sites`."""
        return self.body.overlaps(self.length, self.others, lengths)[0, 0]

    def of_sites(self, lengths: Mapping[str, Lengths], first: np.ndarray, second: np.ndarray) -> FloatArray:
        """The mean product (n,) of the occupancies of sites (n,) in nm^3, integrated over the body."""
        steps, total = self.body.steps, np.zeros(len(self.length))
        for (k, m), overlap in self.body.overlaps(self.length, self.others, lengths).items():
            weight = steps[k, first] * steps[m, second]
            if k != m:
                weight = weight + steps[m, first] * steps[k, second]
            total += weight * overlap
        return total


def _mean(depths: FloatArray, distance: FloatArray, diameter: Lengths) -> FloatArray:
    """The mean volume (n,) that two spheres, smaller than the outer one by `depths` (2,), share at distances (n,)."""
    from aiida_dse.engine.particles.bodies import tabulated

    def shared(r: FloatArray, outer: FloatArray) -> FloatArray:
        return lens(r, (outer - depths[0]) / 2, (outer - depths[1]) / 2)

    return tabulated(shared, diameter, distance)


def lens(distance: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """The volume that two spheres of these radii share at a distance of their centres; 0 for negative radii."""
    larger, smaller = np.maximum(np.maximum(first, second), 0.0), np.maximum(np.minimum(first, second), 0.0)
    d = np.abs(distance)
    inside = 4 / 3 * np.pi * smaller**3
    total = larger + smaller
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.pi * (total - d) ** 2 * (d * d + 2 * d * total - 3 * (larger - smaller) ** 2) / (12 * d)
    return np.where(d <= larger - smaller, inside, np.where(d < total, part, 0.0))

