"""Groups of difference vectors for properties that depend on directions, such as displacement tensors.

The vectors of a group join the same two sites, have equal lengths, and lie in the same direction with
respect to the displacement tensors of their two atoms, for any tensors that the site symmetry permits.
As for groups of equal length, this is decided in a displaced structure, with tensors drawn at random.
"""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

import numpy as np
from numba import njit

from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.crystal.tensors import symmetric, symmetrised
from aiida_dse.engine.memo import Memo
from aiida_dse.engine.units import FloatArray

from .vector_groups import DIRECTION, VectorGroups, generic_geometry, reach_of

#: Largest number of difference vectors that are grouped.
MOST_VECTORS = 4e7
#: Lengths (Å) and other numbers that differ by less are regarded as equal.
SAME = 1e-9
Reach = tuple[int, int, int]
#: If the size of the particles changes, a box is larger by this factor along each axis than required; a box of up
#: to LARGER times the required number of vectors is used as it is.
FURTHER, LARGER = 1.1, 2.0
#: The last box of each of the crystals that were used last.
_REACHES: dict[Crystal, Reach] = {}
_LOCK, MOST_KNOWN = Lock(), 8
#: The groups of the boxes and the balls that were computed last.
_BOXES: Memo[tuple[VectorGroups, np.ndarray]] = Memo(2)
_BALLS: Memo[VectorGroups] = Memo(2)


def require_possible(crystal: Crystal, n_cells: float) -> None:
    """Raise ValueError where too many vectors would have to be grouped."""
    n = n_cells * len(ordered_pairs(crystal))
    if n > MOST_VECTORS:
        raise ValueError(
            f"the particles have {n:.2g} difference vectors; with anisotropic displacements, the limit is "
            f"{MOST_VECTORS:.2g}. Use smaller particles, a narrower size distribution, or B_iso.")


@lru_cache(maxsize=32)
def ordered_pairs(crystal: Crystal) -> np.ndarray:
    """The pairs (n, 2) of basis atoms, each pair of different sites once and each pair of one site twice."""
    site = crystal.site_of_atom
    return np.array([(i, j) for i in range(len(site)) for j in range(len(site)) if site[i] <= site[j]])


def groups_in_box(crystal: Crystal, reach: Reach) -> tuple[VectorGroups, np.ndarray]:
    """The groups of all difference vectors up to a lattice vector `reach` at least.

    Returns the groups and the group (n_pairs, 2U+1, 2V+1, 2W+1) of the vector of each pair of
    `ordered_pairs` at each lattice vector up to (U, V, W).
    """
    covering = _covering(crystal, reach)
    return _BOXES.get((crystal, covering), lambda: _in_box(crystal, covering))


def _covering(crystal: Crystal, reach: Reach) -> Reach:
    """The box of the last call if it covers `reach`, so that a changed size does not group all vectors again.

    Otherwise, a box that is somewhat larger than `reach` if the size has changed before.
    """
    with _LOCK:
        known = _REACHES.get(crystal)
        if known is not None and (np.array(known) >= reach).all() and _size(known) < LARGER * _size(reach):
            return known
        u, v, w = reach if known is None else tuple(int(np.ceil(FURTHER * n)) for n in reach)
        if known is not None and _size((u, v, w)) * len(ordered_pairs(crystal)) > MOST_VECTORS:
            u, v, w = reach
        _REACHES[crystal] = (u, v, w)
        while len(_REACHES) > MOST_KNOWN:
            _REACHES.pop(next(iter(_REACHES)))
        return u, v, w


def _size(reach: Reach) -> float:
    """The number of lattice vectors of a box."""
    return float(np.prod(2 * np.array(reach) + 1))


def _in_box(crystal: Crystal, reach: tuple[int, int, int]) -> tuple[VectorGroups, np.ndarray]:
    length, mark, _ = _marked(crystal, reach, ())
    groups, number = _grouped(crystal, reach, length, (mark,), np.arange(length.size))
    return groups, number.reshape(length.shape)


def groups_in_ball(crystal: Crystal, radius: float, kept: tuple[int, ...]) -> VectorGroups:
    """The groups of all difference vectors up to a length of `radius` Å, and of some longer vectors.

    Only the symmetry operations `kept` may relate the vectors of a group.
    """
    return _BALLS.get((crystal, radius, kept), lambda: _in_ball(crystal, radius, kept))


def _in_ball(crystal: Crystal, radius: float, kept: tuple[int, ...]) -> VectorGroups:
    matrix, positions = generic_geometry(crystal)
    stretch = float(np.linalg.norm(matrix @ np.linalg.inv(crystal.cell.matrix), 2))
    moved = float(np.abs(positions - crystal.positions()).max(initial=0.0) * np.abs(matrix).sum())
    longest = radius * stretch + 2 * moved
    differences = positions[ordered_pairs(crystal)]
    span = int(np.ceil(np.abs(differences[:, 1] - differences[:, 0]).max()))
    u, v, w = (reach_of(matrix, longest) + span).tolist()
    length, mark, direction = _marked(crystal, (u, v, w), kept)
    chosen = np.flatnonzero(length.ravel() <= longest)
    return _grouped(crystal, (u, v, w), length, (mark, direction), chosen)[0]


def _marked(
    crystal: Crystal, reach: tuple[int, int, int], kept: tuple[int, ...]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The length of every vector, and numbers for its direction relative to the tensors and to the body."""
    pairs = ordered_pairs(crystal)
    box = (2 * reach[0] + 1, 2 * reach[1] + 1, 2 * reach[2] + 1)
    require_possible(crystal, float(np.prod(box)))
    matrix, positions = generic_geometry(crystal)
    inverse = np.linalg.inv(matrix)
    random = np.random.default_rng(7121)
    of_site = [symmetrised(crystal.with_cell(), site.label, symmetric(random.uniform(0.5, 1.5, 6)))
               for site in crystal.sites]
    # rotations in the displaced cell differ from those in the cell of the crystal
    change = matrix @ np.linalg.inv(crystal.cell.matrix)
    of_site = [change @ tensor @ change.T for tensor in of_site]
    tensors = np.array([(turn := matrix @ atom.rotation @ inverse) @ of_site[atom.site] @ turn.T
                        for atom in crystal.basis_atoms])
    # R d . direction = d . (R^T direction)
    turned = np.array([(matrix @ crystal.symmetry[k].rotation @ inverse).T @ DIRECTION for k in kept])
    length, mark, direction = np.empty((3, len(pairs), *box))
    _mark(pairs, matrix, positions, tensors, turned.reshape(-1, 3), np.array(reach), length, mark, direction)
    return length, mark, direction


def _grouped(
    crystal: Crystal, reach: tuple[int, int, int], length: FloatArray, marks: tuple[FloatArray, ...],
    chosen: np.ndarray,
) -> tuple[VectorGroups, np.ndarray]:
    """The groups of the chosen vectors, and the group of each; `number` counts them per cell."""
    pairs, site = ordered_pairs(crystal), crystal.site_of_atom
    of_pair = site[pairs[:, 0]] * len(crystal.sites) + site[pairs[:, 1]]
    known = np.unique(of_pair)
    own = np.searchsorted(known, np.repeat(of_pair, length[0].size)[chosen])
    keys = [np.round(one.ravel()[chosen] / SAME).astype(np.int64) for one in (length, *marks)]
    order = np.lexsort((*keys[::-1], own))
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.diff(own[order]) > 0
    for key in keys:
        new[1:] |= np.abs(np.diff(key[order])) > 1  # the last digit may be rounded differently
    number = np.empty(len(order), dtype=np.int32)
    number[order] = np.cumsum(new) - 1
    first = chosen[order[new]]
    pair, *place = np.unravel_index(first, length.shape)
    # pairs of atoms of one site are found from both of them
    weight = np.where(site[pairs[pair, 0]] == site[pairs[pair, 1]], 0.5, 1.0)
    return VectorGroups(
        pairs[pair, 0], pairs[pair, 1], np.stack(place, axis=1) - np.array(reach), length.ravel()[first],
        np.searchsorted(own[order[new]], np.arange(len(known) + 1)), np.zeros(0, dtype=int),
        weight * np.bincount(number)), number


@njit(cache=True, nogil=True)
def _mark(  # type: ignore[no-untyped-def]
    pairs, matrix, positions, tensors, turned, reach, length, mark, direction
):
    for c in range(len(pairs)):
        i, j = pairs[c]
        tensor = tensors[i] + tensors[j]
        shared = np.sum(tensors[i] * tensors[j])
        for u in range(2 * reach[0] + 1):
            a = u - reach[0] + positions[j, 0] - positions[i, 0]
            for v in range(2 * reach[1] + 1):
                b = v - reach[1] + positions[j, 1] - positions[i, 1]
                for w in range(2 * reach[2] + 1):
                    e = w - reach[2] + positions[j, 2] - positions[i, 2]
                    x = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * e
                    y = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * e
                    z = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * e
                    r = np.sqrt(x * x + y * y + z * z)
                    length[c, u, v, w] = r
                    r = max(r, 1e-6)
                    x, y, z = x / r, y / r, z / r
                    p = tensor[0, 0] * x + tensor[0, 1] * y + tensor[0, 2] * z
                    q = tensor[1, 0] * x + tensor[1, 1] * y + tensor[1, 2] * z
                    s = tensor[2, 0] * x + tensor[2, 1] * y + tensor[2, 2] * z
                    mark[c, u, v, w] = (p * x + q * y + s * z + 0.3711 * (p * p + q * q + s * s)
                                        + 0.2173 * shared)
                    total = 0.0
                    for k in range(len(turned)):
                        total += (x * turned[k, 0] + y * turned[k, 1] + z * turned[k, 2]) ** 4
                    direction[c, u, v, w] = total
