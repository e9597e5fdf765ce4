"""Symmetry-independent bonds and angles of a crystal, with their multiplicities.

Two bonds are equivalent if a symmetry operation maps them onto each other, whatever their lengths:
lengths that agree by accident belong to different bonds, and starting coordinates of higher
symmetry do not merge bonds. Alternatives of one atom (split sites) are not neighbours.
"""

from __future__ import annotations

import numpy as np

from .disorder import EXCLUSION_DISTANCE, excluded_pairs
from .geometry import Bond, BondAngle, Geometry, angle
from .neighbours import NearPairs, SymmetryImages, pairs_within, symmetry_images
from .structure import Crystal

#: Without a cutoff, the neighbours of a kind are those within this factor of the shortest distance.
SHELL = 1.25
#: Radius (Å) at which the search for neighbours begins; doubled until enough of them are found.
SEARCH_RADIUS = 4.0
#: Lengths (Å) and angles (degrees) that agree to this many decimals are ordered by their atoms.
EQUAL_DIGITS = 6
#: Tolerance (Å) by which a cutoff equal to a length includes it.
CUTOFF_TOLERANCE = 1e-6


def bonds(
    crystal: Crystal, geometry: Geometry, first: str, second: str, *,
    cutoff: float | None = None, coordination: int | None = None,
    exclusion_distance: float = EXCLUSION_DISTANCE,
) -> list[Bond]:
    """The symmetry-independent bonds from an atom of `first` to its neighbours of `second`.

    The shortest bond at `geometry`, whose atoms are those of the cell of `crystal`, is the first.
    The neighbours are all atoms up to `cutoff` (Å), or the nearest `coordination` ones
    (alternatives of one atom count once), or else those within 1.25 times the shortest distance.
    `exclusion_distance` (Å) is that of `excluded_pairs`. Raises ValueError where there is no
    neighbour, or where symmetry makes a coordination number impossible.
    """
    search = _Search(crystal, geometry, exclusion_distance)
    return [group[0] for group in search.shell(first, second, cutoff, coordination)]


def angles(
    crystal: Crystal, geometry: Geometry, first: str, vertex: str, last: str, *,
    cutoff: float | None = None, coordination: int | None = None,
    exclusion_distance: float = EXCLUSION_DISTANCE,
) -> list[BondAngle]:
    """The symmetry-independent angles at an atom of `vertex` between its neighbours, largest first.

    Arguments and errors are those of `bonds`; `coordination` is the number of neighbours of each
    kind.
    """
    search = _Search(crystal, geometry, exclusion_distance)
    arms, others = (
        [bond for group in search.shell(vertex, end, cutoff, coordination) for bond in group]
        for end in (first, last)
    )
    groups: dict[tuple[int, ...], list[tuple[Bond, Bond]]] = {}
    for k, one in enumerate(arms):
        for m, other in enumerate(others):
            if (first == last and m <= k) or one == other or search.alternatives(one, other):
                continue
            groups.setdefault(search.angle_key(one, other), []).append((one, other))
    found = [(key, BondAngle(*pairs[0], multiplicity=len(pairs))) for key, pairs in groups.items()]
    found.sort(key=lambda row: (-round(float(angle(geometry, row[1])), EQUAL_DIGITS), row[0]))
    return [one for _, one in found]


class _Search:
    """The neighbours in one geometry of a crystal, grouped by symmetry."""

    def __init__(self, crystal: Crystal, geometry: Geometry, exclusion_distance: float) -> None:
        self.crystal, self.geometry = crystal, geometry
        self.images: SymmetryImages = symmetry_images(crystal)
        self.excluded = {
            (i, j, *u) for (i, j), cells in excluded_pairs(crystal, exclusion_distance).items()
            for u in cells.tolist()
        }
        self.excluded |= {(j, i, -u, -v, -w) for i, j, u, v, w in self.excluded}

    def alternatives(self, one: Bond, other: Bond) -> bool:
        """Whether the far atoms of two bonds from one atom are alternatives of one atom."""
        u, v, w = (b - a for a, b in zip(one.cell, other.cell, strict=True))
        return (one.second, other.second, u, v, w) in self.excluded

    def shell(
        self, centre: str, kind: str, cutoff: float | None, coordination: int | None
    ) -> list[list[Bond]]:
        """The bonds from one atom of `centre` to its neighbours of `kind`, grouped by symmetry."""
        if cutoff is not None and coordination is not None:
            raise ValueError(
                f"a cutoff of {cutoff:g} Å and a coordination number of {coordination} are both "
                f"specified for the neighbours of {centre}. Keep only one of them."
            )
        if cutoff is not None:
            found = self._groups(centre, kind, cutoff + CUTOFF_TOLERANCE)
            if not found:
                raise ValueError(
                    f"{self.crystal.name}: {centre} has no neighbour {kind} within the cutoff of "
                    f"{cutoff:g} Å. Raise the cutoff."
                )
            return found
        radius = SEARCH_RADIUS
        while True:
            found = self._groups(centre, kind, radius)
            if coordination is not None and self._count(found) >= coordination:
                return self._complete(found, centre, kind, coordination)
            if coordination is None and found:
                limit = SHELL * self._length(found[0]) + CUTOFF_TOLERANCE
                if limit <= radius:
                    return [group for group in found if self._length(group) <= limit]
                radius = limit
            else:
                radius *= 2

    def _complete(
        self, found: list[list[Bond]], centre: str, kind: str, coordination: int
    ) -> list[list[Bond]]:
        counts = [self._count(found[: k + 1]) for k in range(len(found))]
        if coordination not in counts:
            possible = ", ".join(str(count) for count in counts[:4])
            raise ValueError(
                f"{self.crystal.name}: {centre} cannot have {coordination} neighbours {kind}, "
                "because symmetry makes several of them equivalent; the smallest possible numbers "
                f"are {possible}. Correct the coordination number, or specify a cutoff."
            )
        return found[: counts.index(coordination) + 1]

    def _count(self, groups: list[list[Bond]]) -> int:
        """The number of neighbours that can coexist: alternatives of one atom count once."""
        kept: list[Bond] = []
        for bond in (bond for group in groups for bond in group):
            if not any(self.alternatives(one, bond) for one in kept):
                kept.append(bond)
        return len(kept)

    def _groups(self, centre: str, kind: str, radius: float) -> list[list[Bond]]:
        """Bonds up to a radius (Å) in groups that are equivalent by symmetry, shortest first."""
        labels = self.geometry.labels
        pairs: NearPairs = pairs_within(
            self.geometry.matrix, self.geometry.positions, radius, [labels.index(centre)])
        groups: dict[tuple[int, ...], list[Bond]] = {}
        for i, j, cell in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.cells.tolist(),
                              strict=True):
            if labels[j] == kind and (i, j, *cell) not in self.excluded:
                groups.setdefault(self._bond_key(i, j, cell), []).append(Bond(i, j, tuple(cell)))
        rows = []
        for key, members in groups.items():
            members.sort(key=lambda bond: (bond.second, bond.cell))
            rows.append((key, [Bond(b.first, b.second, b.cell, len(members)) for b in members]))
        rows.sort(key=lambda row: (round(self._length(row[1]), EQUAL_DIGITS), row[0]))
        return [members for _, members in rows]

    def _length(self, group: list[Bond]) -> float:
        return float(self.geometry.length(group[0]))

    def _bond_key(self, i: int, j: int, cell: list[int]) -> tuple[int, ...]:
        """The smallest image of a bond under the symmetry operations, in either direction."""
        first, second = self.images.atoms[:, i], self.images.atoms[:, j]
        cells = self.images.cells(i, j, cell)
        rows = np.vstack([np.column_stack([first, second, cells]),
                          np.column_stack([second, first, -cells])])
        return min(map(tuple, rows.tolist()))

    def angle_key(self, one: Bond, other: Bond) -> tuple[int, ...]:
        """The smallest image of an angle at its vertex, with its arms in either order."""
        same = self.images.atoms[:, one.first] == one.first
        arms = []
        for bond in (one, other):
            cells = self.images.cells(bond.first, bond.second, bond.cell)
            rows = np.column_stack([self.images.atoms[:, bond.second], cells])
            arms.append([tuple(row) for row in rows[same].tolist()])
        return min((*min(pair), *max(pair)) for pair in zip(*arms, strict=True))
