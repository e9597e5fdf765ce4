"""Parallelepipeds that extend beyond whole cells, so that opposite faces can have the same atoms.

Every basis atom fills a block of cells of its own: along each axis, it has one cell more than the others
if its coordinate, from the corner of the box, is below the extension of the particle. The numbers of
pairs of two basis atoms are those of two blocks, and have a closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import FloatArray

from .family import Counting, NamedSizes, PairCounts
from .parallelepipeds import ParallelepipedPopulation, SingleParallelepiped, diameters_of_cells
from .size_weighting import Weighting
from .sphere_counting import merge_translations

Axis = tuple[int, int]
#: Largest memory (bytes) of the numbers of pairs.
MOST_BYTES = 1e9


@dataclass(frozen=True)
class OpenParallelepiped(NamedSizes):
    """Parallelepipeds of N cells whose faces also contain the atoms up to `extension` (in cells) beyond them.

    Sizes and statistics are those of the N whole cells.
    """

    inner: SingleParallelepiped | ParallelepipedPopulation
    extension: tuple[float, float, float]
    isotropic: ClassVar[bool] = False
    whole_cells: ClassVar[bool] = False
    directed: ClassVar[bool] = False

    @property
    def parameters(self) -> Mapping[str, Kind]:
        return self.inner.parameters

    @property
    def changes_with_cell(self) -> bool:
        return self.inner.changes_with_cell

    def more(self, crystal: Crystal) -> np.ndarray:
        """Whether each basis atom (n_atoms, 3) has a cell more along each axis."""
        inside = np.round(crystal.positions() - np.array(crystal.termination), 6)
        return np.asarray(inside < np.array(self.extension) - 1e-9, dtype=np.int64)

    def pair_counts(
        self, crystal: Crystal, sizes: Mapping[str, float], resources: Resources = ONE_THREAD, *,
        stretch: float = 1.0, united: bool = True, weighting: Weighting | None = None,
    ) -> PairCounts:
        along, number = self._cells(crystal, sizes)
        if weighting is not None:
            number = number * weighting(diameters_of_cells(crystal, number))
        more, merged = self.more(crystal), merge_translations(crystal)
        reach = np.array([cells[-1] for cells in along]) + int(np.abs(merged.shift).max(initial=0))
        if (size := 8.0 * len(merged.first) * float(np.prod(2.0 * reach + 1))) > MOST_BYTES:
            most = " x ".join(str(cells[-1]) for cells in along)
            raise ValueError(
                f"parallelepipeds of up to {most} cells with an 'extension' need {size / 1e9:.1f} GB for their pairs; "
                f"the limit is {MOST_BYTES / 1e9:.0f} GB. Lower the size or the standard deviation, specify 'largest', "
                "or remove 'extension'.")
        tables = np.zeros((len(merged.first), *(2 * reach + 1)))
        known: dict[tuple[int, ...], FloatArray] = {}
        site = crystal.site_of_atom
        for s, t in np.argwhere(merged.class_of_pair >= 0):
            key = (*more[s].tolist(), *more[t].tolist())
            if key not in known:
                known[key] = _shared(along, number, [(key[k], key[k + 3]) for k in range(3)])
            shared, start = known[key], reach - np.array(known[key].shape) // 2 + merged.shift[s, t]
            place = tuple(slice(int(a), int(a) + n) for a, n in zip(start, shared.shape, strict=True))
            # pairs of one site are counted from both atoms
            tables[merged.class_of_pair[s, t]][place] += (0.5 if site[s] == site[t] else 1.0) * shared
        atoms = np.array([_sum(along, number, one) for one in more])
        return PairCounts(tables, atoms, merged)

    def _cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> tuple[list[np.ndarray], FloatArray]:
        """The numbers of cells along each axis, and the number weights (n_ab, n_c)."""
        if isinstance(self.inner, SingleParallelepiped):
            return [np.array([n]) for n in self.inner.cells], np.ones((1, 1))
        number, _, _ = self.inner.number_weights(crystal, sizes)
        n_ab, n_c = (np.arange(1, n + 1) for n in number.shape)
        return [n_ab, n_ab, n_c], number

    def diameters(self, crystal: Crystal, sizes: Mapping[str, float]) -> tuple[float, float] | None:
        return self.inner.diameters(crystal, sizes)

    def statistics(self, crystal: Crystal, sizes: Mapping[str, float]) -> dict[str, float]:
        return self.inner.statistics(crystal, sizes)

    def limit(self, crystal: Crystal) -> float:
        return self.inner.limit(crystal)

    def counting(self, crystal: Crystal, sizes: Mapping[str, float]) -> Counting | None:
        return None

    def size_steps(self, crystal: Crystal) -> dict[str, float]:
        return self.inner.size_steps(crystal)

    def mean_cells(self, crystal: Crystal, sizes: Mapping[str, float]) -> float:
        return self.inner.mean_cells(crystal, sizes)


def _overlap(cells: np.ndarray, more: Axis) -> FloatArray:
    """The numbers of pairs (n_sizes, 2 U + 1) of blocks of N + more cells along one axis, U = the largest N.

    For the cells 0 ... N - 1 + more[0] of the first and 0 ... N - 1 + more[1] of the second atom, at differences u.
    """
    u = np.arange(-cells[-1], cells[-1] + 1)
    last = np.minimum(cells[:, None] - 1 + more[0], cells[:, None] - 1 + more[1] - u)
    return np.asarray(np.maximum(last - np.maximum(0, -u) + 1, 0), dtype=float)


def _shared(along: list[np.ndarray], number: FloatArray, more: list[Axis]) -> FloatArray:
    """The mean numbers of pairs (2 U + 1, 2 V + 1, 2 W + 1) of two basis atoms."""
    a, b, c = (_overlap(cells, one) for cells, one in zip(along, more, strict=True))
    base = (a[:, :, None] * b[:, None, :]).reshape(len(number), -1)
    return np.asarray((base.T @ (number @ c)).reshape(a.shape[1], b.shape[1], c.shape[1]))


def _sum(along: list[np.ndarray], number: FloatArray, more: np.ndarray) -> float:
    """The mean number of a basis atom."""
    a, b, c = (cells + one for cells, one in zip(along, more, strict=True))
    return float((a * b) @ number @ c)
