"""Pairs of atoms in particles with coherent boundaries between translation variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numba import njit

from aiida_dse.engine.crystal.variants import Variants
from aiida_dse.engine.particles.boundaries import change_probabilities
from aiida_dse.engine.units import FloatArray

from .pairs import PairWeights, folded, mirror, points_back, site_channels

#: (change, offset, sign, shift, weight), see `VariantClass`.
Member = tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], float]


@dataclass(frozen=True)
class VariantClass:
    """Pairs of atoms in two variants that have the same set of distances |A (v + kappa)| by symmetry.

    kappa = sign (y_second - y_first - cell), with y the position of atom number `first` or `second` in the
    list of the atoms of all variants. Each member (change, offset, sign, shift, weight) contributes
    weight C(u) P(change | u, offset) pairs at v, with u = sign (v - shift).
    """

    channel: int
    first: int
    second: int
    sign: tuple[int, int, int]
    cell: tuple[int, int, int]
    members: tuple[Member, ...]
    fold: tuple[str, str, str]
    hole: bool


def variant_classes(variants: Variants, changes: Sequence[int]) -> tuple[VariantClass, ...]:
    """The classes of pairs of basis atoms in any two variants that differ by one of `changes`."""
    crystal = variants.crystal
    index = {pair: k for k, pair in enumerate(site_channels(len(crystal.sites)))}
    generic = variants.positions(crystal.generic_sites)
    n_variants, n_atoms = generic.shape[:2]
    sites = np.array([[atom.site for atom in row] for row in variants.atoms])
    right_angles = all(
        crystal.cell_constraints.get(angle) == 90 for angle in ("alpha", "beta", "gamma"))
    found: dict[tuple[object, ...], VariantClass] = {}
    for i, j in zip(*np.triu_indices(n_atoms), strict=True):
        offset = tuple((variants.cells[j] - variants.cells[i]).tolist())
        for a, b in product(range(n_variants), repeat=2):
            change = variants.element_of(variants.elements[b] - variants.elements[a])
            if change not in changes:
                continue
            difference = generic[b, j] - generic[a, i]
            sign, cell, fold = np.ones(3, dtype=int), np.zeros(3, dtype=int), ("", "", "")
            if right_angles:
                sign, cell, fold = mirror(difference)
            elif (i != j or a != b) and points_back(difference):
                sign = -sign
            kappa = np.round(sign * (difference - cell), 6) + 0.0
            s, t = sorted((int(sites[a, i]), int(sites[b, j])))
            # an atom is paired with itself at u = 0, and every other pair of equal atoms found twice
            hole = bool(i == j and a == b)
            weight = (0.5 if i == j else 1.0) / n_variants
            member = (change, offset, tuple(sign.tolist()), tuple((sign * cell).tolist()), weight)
            key = (index[s, t], tuple(kappa), hole)
            known = found.get(key)
            members = (member,) if known is None else (*known.members, member)
            found[key] = VariantClass(
                index[s, t], int(a * n_atoms + i), int(b * n_atoms + j), tuple(sign.tolist()),
                tuple(cell.tolist()), members, fold, hole) if known is None else replace(known, members=members)
    return tuple(sorted(
        (replace(one, members=_summed(one.members)) for one in found.values()), key=lambda one: one.channel))


def _summed(members: Sequence[Member]) -> tuple[Member, ...]:
    total: dict[tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]], float] = {}
    for change, offset, sign, shift, weight in members:
        key = (change, offset, sign, shift)
        total[key] = total.get(key, 0.0) + weight
    return tuple((*key, weight) for key, weight in sorted(total.items()))


def variant_weights(
    counts: FloatArray, classes: Sequence[VariantClass], variants: Variants, factors: np.ndarray
) -> PairWeights:
    """The weights of each class, for C(u) (2U-1, 2V-1, 2W-1) and the transfer factors of the planes."""
    u, v, w = (np.array(counts.shape) // 2).tolist()
    reach = np.array([u, v, w])
    tables: dict[tuple[int, ...], FloatArray] = {}
    known: dict[tuple[object, ...], int] = {}
    distinct: list[VariantClass] = []
    table_of_class = []
    for one in classes:
        key = (one.members, one.fold, one.hole)
        if key not in known:
            known[key] = len(distinct)
            distinct.append(one)
        table_of_class.append(known[key])
        for _, offset, *_ in one.members:
            if offset not in tables:
                tables[offset] = counts * change_probabilities(variants, factors, (u, v, w), np.array(offset))
    start = np.empty((len(distinct), 3), dtype=np.int64)
    shape = np.empty((len(distinct), 3), dtype=np.int64)
    for k, one in enumerate(distinct):
        end = reach + max(max(map(abs, shift)) for _, _, _, shift, _ in one.members)
        start[k] = np.where([bool(fold) for fold in one.fold], 0, -end)
        shape[k] = end - start[k] + 1
    offsets = np.concatenate([[0], np.cumsum(shape.prod(axis=1))])
    flat = np.zeros(offsets[-1])
    for k, one in enumerate(distinct):
        fold = np.array([("", "zero", "half").index(kind) for kind in one.fold])
        table = flat[offsets[k] : offsets[k + 1]].reshape(shape[k])
        for change, offset, sign, shift, weight in one.members:
            _add(tables[offset][change], np.array(sign), np.array(shift), weight, fold, start[k], table)
        if one.hole:
            table[tuple(-start[k])] = 0.0
    chosen = np.array(table_of_class)
    return PairWeights(flat, offsets[chosen], shape[chosen], start[chosen])


@njit(cache=True, nogil=True)
def _add(counts, sign, shift, weight, fold, start, table):  # type: ignore[no-untyped-def]
    """Add the pairs at u to v = sign u + shift, folded."""
    reach = np.array([n // 2 for n in counts.shape])
    for x in range(counts.shape[0]):
        a = folded(sign[0] * (x - reach[0]) + shift[0], fold[0]) - start[0]
        for y in range(counts.shape[1]):
            b = folded(sign[1] * (y - reach[1]) + shift[1], fold[1]) - start[1]
            source, target = counts[x, y], table[a, b]
            for z in range(len(source)):
                target[folded(sign[2] * (z - reach[2]) + shift[2], fold[2]) - start[2]] += weight * source[z]
