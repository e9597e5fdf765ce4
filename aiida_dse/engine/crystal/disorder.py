"""Split sites (disorder): pairs of positions that are alternatives of one atom."""

from __future__ import annotations

from collections.abc import Mapping

import gemmi
import numpy as np

from aiida_dse.engine.units import FloatArray

from .neighbours import pairs_within
from .structure import Crystal, Site

#: Default distance (Å) below which two partially occupied positions are alternatives.
EXCLUSION_DISTANCE = 1.2
#: Distances below this fraction of the sum of the covalent radii are impossibly short.
SHORT = 0.65
#: Excess over 1 of a sum of occupancies that rounded values may have.
OCCUPANCY_TOLERANCE = 0.02


def excluded_pairs(
    crystal: Crystal, exclusion_distance: float = EXCLUSION_DISTANCE
) -> dict[tuple[int, int], np.ndarray]:
    """Lattice differences (n, 3) at which basis atoms (i, j), i <= j, are alternatives.

    Two partially occupied positions nearer than `exclusion_distance` (Å) are alternatives, but
    _atom_site_disorder_assembly and _group take precedence: the atoms of one group coexist, the
    groups of one assembly exclude each other within the same symmetry image, and near symmetry
    images of a negative group are alternatives. Raises ValueError where a fully occupied position
    is that close to another, and where the occupancies of alternatives sum to more than 1.
    """
    near = pairs_within(crystal.cell.matrix, crystal.positions(), exclusion_distance)
    declared = _declared_alternatives(crystal)
    excluded: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for i, j, cell, distance in zip(near.first.tolist(), near.second.tolist(), near.cells.tolist(),
                                    near.lengths.tolist(), strict=True):
        if i > j:
            continue
        first = crystal.sites[crystal.basis_atoms[i].site]
        second = crystal.sites[crystal.basis_atoms[j].site]
        if _coexist(first, second):
            continue
        if first.occupancy >= 1 or second.occupancy >= 1:
            raise ValueError(
                f"{crystal.name}: {first.label} (occupancy {first.occupancy:g}) and "
                f"{second.label} (occupancy {second.occupancy:g}) are only {distance:.3f} Å "
                f"apart; the limit is {exclusion_distance:g} Å. Correct the coordinates, lower "
                "both occupancies (alternatives of one atom), or lower 'exclusion_distance'."
            )
        excluded.setdefault((i, j), []).append((cell[0], cell[1], cell[2]))
    _check_sums(crystal, excluded)
    for (i, j), differences in declared.items():
        known = excluded.setdefault((i, j), [])
        known.extend(u for u in differences if u not in known)
    return {pair: np.array(sorted(set(us)), dtype=np.int64) for pair, us in excluded.items() if us}


def short_contacts(
    crystal: Crystal, excluded: Mapping[tuple[int, int], np.ndarray]
) -> list[tuple[str, str, float, float]]:
    """Pairs of sites nearer than SHORT times the sum of their covalent radii.

    Each is (label, label, distance, sum of radii) in Å, the shortest distance of a pair of sites.
    Alternatives, which exclude each other, and hydrogen are left out. Covalent radii: gemmi (Cordero
    et al., Dalton Trans. (2008) 2832).
    """
    radii = [gemmi.Element(site.ion.rstrip("0123456789.+-")).covalent_r for site in crystal.sites]
    near = pairs_within(crystal.cell.matrix, crystal.positions(), 2 * SHORT * max(radii))
    found: dict[tuple[str, str], float] = {}
    for i, j, cell, distance in zip(near.first.tolist(), near.second.tolist(), near.cells.tolist(),
                                    near.lengths.tolist(), strict=True):
        s, t = crystal.basis_atoms[i].site, crystal.basis_atoms[j].site
        first, second = crystal.sites[s], crystal.sites[t]
        if i > j or distance >= SHORT * (radii[s] + radii[t]) or "H" in (first.ion, second.ion):
            continue
        if cell in excluded.get((i, j), np.zeros((0, 3))).tolist():
            continue
        key = (first.label, second.label) if s <= t else (second.label, first.label)
        found[key] = min(distance, found.get(key, distance))
    sums = {site.label: radius for site, radius in zip(crystal.sites, radii, strict=True)}
    return [(a, b, distance, sums[a] + sums[b]) for (a, b), distance in found.items()]


def shortest_distance(
    crystal: Crystal, excluded: Mapping[tuple[int, int], np.ndarray]
) -> float:
    """The shortest distance (Å) between two atoms that may be present together."""
    reach = float(min(crystal.cell.a, crystal.cell.b, crystal.cell.c))
    near = pairs_within(crystal.cell.matrix, crystal.positions(), reach * (1 + 1e-9))
    return min((
        distance for i, j, cell, distance in zip(near.first.tolist(), near.second.tolist(), near.cells.tolist(),
                                                 near.lengths.tolist(), strict=True)
        if i <= j and cell not in excluded.get((i, j), np.zeros((0, 3))).tolist()), default=reach)


def _check_sums(
    crystal: Crystal, excluded: Mapping[tuple[int, int], list[tuple[int, int, int]]]
) -> None:
    """Raise ValueError for alternatives of one atom whose occupancies sum to more than 1.

    Every set of positions that exclude each other pairwise may contain one atom at most. It is
    enlarged from each pair, one position after the other.
    """
    near: dict[tuple[int, tuple[int, int, int]], set[tuple[int, tuple[int, int, int]]]] = {}
    for (i, j), cells in excluded.items():
        for cell in cells:
            back = (-cell[0], -cell[1], -cell[2])
            near.setdefault((i, (0, 0, 0)), set()).add((j, cell))
            near.setdefault((j, (0, 0, 0)), set()).add((i, back))
    occupancy = [crystal.sites[atom.site].occupancy for atom in crystal.basis_atoms]
    labels = [crystal.sites[atom.site].label for atom in crystal.basis_atoms]

    def exclude(one: tuple[int, tuple[int, ...]], other: tuple[int, tuple[int, ...]]) -> bool:
        u = tuple(b - a for a, b in zip(one[1], other[1], strict=True))
        return (other[0], u) in near.get((one[0], (0, 0, 0)), set())

    for start, others in near.items():
        for first in others:
            together = [start, first]
            for other in sorted(others - {first}, key=lambda at: -occupancy[at[0]]):
                if all(exclude(member, other) for member in together[1:]):
                    together.append(other)
            total = sum(occupancy[at[0]] for at in together)
            if total > 1 + OCCUPANCY_TOLERANCE:
                names = " + ".join(
                    f"{labels[at[0]]} ({occupancy[at[0]]:g})" for at in together)
                raise ValueError(
                    f"{crystal.name}: the occupancies of positions that exclude each other sum to "
                    f"{total:g}: {names}; the limit is 1. Correct the occupancies, or lower "
                    "'exclusion_distance' if the atoms can be present together."
                )


def _coexist(first: Site, second: Site) -> bool:
    """Whether two sites belong to one positive disorder group of one assembly."""
    return first.group > 0 and (first.assembly, first.group) == (second.assembly, second.group)


def _declared_alternatives(
    crystal: Crystal,
) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
    """Alternatives by CIF disorder groups: different groups of one assembly, image by image."""
    alternatives: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    points = crystal.site_positions
    for s, first in enumerate(crystal.sites):
        for t in range(s + 1, len(crystal.sites)):
            second = crystal.sites[t]
            same = first.group and second.group and first.assembly == second.assembly
            if not same or first.group == second.group:
                continue
            for op in crystal.symmetry:
                i, shift_i = _locate(crystal, s, op(points[s]))
                j, shift_j = _locate(crystal, t, op(points[t]))
                u = shift_j - shift_i
                alternatives.setdefault((i, j), []).append((int(u[0]), int(u[1]), int(u[2])))
    return alternatives


def _locate(crystal: Crystal, site: int, point: FloatArray) -> tuple[int, np.ndarray]:
    """The basis atom to which a position of a site belongs, and the lattice translation to it."""
    positions = crystal.positions()
    candidates = np.flatnonzero(crystal.site_of_atom == site)
    shifts = np.round(point - positions[candidates])
    offsets = np.linalg.norm(point - positions[candidates] - shifts, axis=1)
    best = int(np.argmin(offsets))
    return int(candidates[best]), shifts[best].astype(np.int64)
