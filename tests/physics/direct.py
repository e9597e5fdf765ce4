"""The Debye scattering equation summed atom by atom, in float64: the reference of these tests.

Written from design/PHYSICS.md alone and importing nothing of aiida_dse. Atoms come from cell
parameters, explicit lists of fractional positions and lattice translations; no symmetry
operations are involved.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import xraydb
from numba import njit, prange

HC = 12398.41984332  # eV Å


def lattice_vectors(a, b, c, alpha=90.0, beta=90.0, gamma=90.0):
    """(3, 3) Å, rows a, b, c, from the Cholesky factor of the metric tensor."""
    ca, cb, cg = np.cos(np.radians([alpha, beta, gamma]))
    metric = np.array(
        [
            [a * a, a * b * cg, a * c * cb],
            [a * b * cg, b * b, b * c * ca],
            [a * c * cb, b * c * ca, c * c],
        ]
    )
    return np.linalg.cholesky(metric)


def form_factors(ions, q, wavelength):
    """f0(q) + f' + i f'' (n_ions, n_q), complex, straight from xraydb; those last used are kept."""
    q = np.asarray(q, dtype=float)
    key = (tuple(ions), q.tobytes(), wavelength)
    if key not in _known:
        if len(_known) > 20:
            _known.clear()
        _known[key] = _form_factors(ions, q, wavelength)
    return _known[key]


_known = {}


def _form_factors(ions, q, wavelength):
    energy = HC / wavelength
    rows = []
    for ion in ions:
        element = ion.rstrip("+-0123456789")
        anomalous = complex(
            xraydb.f1_chantler(element, energy), xraydb.f2_chantler(element, energy)
        )
        rows.append(xraydb.f0(ion, np.asarray(q) / (4 * np.pi)) + anomalous)
    return np.array(rows)


@dataclass(frozen=True)
class Structure:
    """A cell with all its atoms written out: (n, 3) positions, and per atom its site index.

    ions, occupancy and b (Å^2) are per site.
    """

    cell: tuple
    positions: np.ndarray
    site: np.ndarray
    ions: tuple
    occupancy: np.ndarray
    b: np.ndarray
    vectors: np.ndarray = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "vectors", lattice_vectors(*self.cell))

    @classmethod
    def of(cls, cell, sites):
        """sites: list of (ion, occupancy, B, list of fractional positions), put into [0, 1)."""
        positions = np.concatenate([np.array(at, dtype=float) for *_, at in sites])
        positions = positions - np.floor(positions + 1e-9)
        site = np.concatenate([[k] * len(s[3]) for k, s in enumerate(sites)]).astype(int)
        ions, occupancy, b = zip(*[s[:3] for s in sites], strict=True)
        return cls(
            tuple(cell), positions, site, ions, np.array(occupancy, float), np.array(b, float)
        )


@dataclass(frozen=True)
class Atoms:
    """xyz (n, 3) Å, per atom its site, its place in the cell list and its cell (n, 3)."""

    structure: Structure
    xyz: np.ndarray
    site: np.ndarray
    place: np.ndarray
    cell: np.ndarray

    def __len__(self):
        return len(self.xyz)

    def chosen(self, mask):
        parts = (self.xyz, self.site, self.place, self.cell)
        return Atoms(self.structure, *[x[mask] for x in parts])


def _cells(structure, cells):
    n = len(structure.positions)
    fractional = (cells[:, None, :] + structure.positions[None, :, :]).reshape(-1, 3)
    return Atoms(
        structure, fractional @ structure.vectors, np.tile(structure.site, len(cells)),
        np.tile(np.arange(n), len(cells)), np.repeat(cells, n, axis=0),
    )


def block(structure, n_a, n_b, n_c):
    """All atoms of n_a x n_b x n_c whole cells."""
    return _cells(structure, np.array([(u, v, w) for u in range(n_a) for v in range(n_b)
                                       for w in range(n_c)]))


def sphere(structure, centre, radius):
    """All atoms within radius (Å) of a point given in fractional coordinates."""
    spacing = 1 / np.linalg.norm(np.linalg.inv(structure.vectors), axis=0)
    n = np.ceil(radius / spacing).astype(int) + 2
    grid = np.stack(
        np.meshgrid(*[np.arange(-k, k + 1) for k in n], indexing="ij"), axis=-1
    ).reshape(-1, 3)
    atoms = _cells(structure, grid)
    away = np.linalg.norm(atoms.xyz - np.array(centre) @ structure.vectors, axis=1)
    return atoms.chosen(away <= radius + 1e-7)


def distances_from(atoms, centre):
    """(n,) Å from a point given in fractional coordinates."""
    return np.linalg.norm(atoms.xyz - np.array(centre) @ atoms.structure.vectors, axis=1)


@njit(parallel=True)
def _double_sum(q, distance, real, imaginary, self_term):
    """distance (n, n) Å, 0 where a pair does not count; real, imaginary (n_q, n)."""
    result = np.empty(len(q))
    n = len(distance)
    for k in prange(len(q)):
        total = 0.0
        for i in range(n):
            part = 0.0
            for j in range(i):
                r = distance[i, j]
                if r > 0.0:
                    weight = real[k, i] * real[k, j] + imaginary[k, i] * imaginary[k, j]
                    part += weight * np.sin(q[k] * r) / r
            total += part
        result[k] = self_term[k] + 2 * total / q[k]
    return result


def all_distances(xyz):
    """(n, n) Å."""
    return np.sqrt(sum((xyz[:, None, k] - xyz[None, :, k]) ** 2 for k in range(3)))


def intensity(atoms, q, wavelength, *, absent=None, occupancy=None, b=None):
    """I(q) = sum_i o_i |f_i|^2 + sum_{i != j} o_i o_j Re(f_i f_j*) T_i T_j sin(q r)/(q r).

    `absent` (n, n) bool marks pairs that never coexist; occupancy and b (per site) override the
    structure's.
    """
    structure, q = atoms.structure, np.asarray(q, dtype=float)
    occupancy = np.asarray(structure.occupancy if occupancy is None else occupancy, float)
    b = np.asarray(structure.b if b is None else b, float)
    f = form_factors(structure.ions, q, wavelength)
    amplitude = f * np.exp(-np.outer(b, q**2) / (16 * np.pi**2)) * occupancy[:, None]
    number = np.bincount(atoms.site, minlength=len(structure.ions))
    self_term = (number * occupancy) @ (np.abs(f) ** 2)
    per_atom = np.ascontiguousarray(amplitude[atoms.site].T)
    distance = all_distances(atoms.xyz)
    assert (distance[np.triu_indices(len(atoms), 1)] > 1e-3).all(), "atoms coincide"
    if absent is not None:
        distance[absent] = 0.0
    return _double_sum(
        q, distance, np.ascontiguousarray(per_atom.real), np.ascontiguousarray(per_atom.imag),
        self_term,
    )


def near(atoms, distance):
    """(n, n) bool: pairs of partially occupied atoms nearer than `distance` Å."""
    partial = atoms.structure.occupancy[atoms.site] < 1
    close = all_distances(atoms.xyz) < distance
    close &= partial[:, None] & partial[None, :]
    np.fill_diagonal(close, False)
    return close


# --- structures, every atom of the cell written out --------------------------------------------


def _shifted(points, shift):
    return [tuple(np.add(p, shift)) for p in points]


def cspbbr3_pbnm(occupancy_cs=1.0):
    """CsPbBr3, Pbnm, 20 atoms: Cs 4c, Pb 4b, Br_eq 8d, Br_ax 4c."""
    def four_c(x, y):
        """(x, y, 1/4) and its images in Pbnm."""
        return [(x, y, 0.25), (-x, -y, 0.75), (0.5 + x, 0.5 - y, 0.75), (0.5 - x, 0.5 + y, 0.25)]

    x, y, z = 0.2908, 0.2120, 0.486
    eight = [
        (x, y, z), (-x, -y, 0.5 + z), (0.5 + x, 0.5 - y, -z), (0.5 - x, 0.5 + y, 0.5 - z),
        (-x, -y, -z), (x, y, 0.5 - z), (0.5 - x, 0.5 + y, z), (0.5 + x, 0.5 - y, 0.5 + z),
    ]
    axial = [(0.052, 0.006, 0.75), (-0.052, -0.006, 0.25), (0.552, 0.494, 0.25),
             (0.448, 0.506, 0.75)]
    lead = [(0, 0, 0.5), (0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    return Structure.of(
        (8.207, 8.407, 11.756),
        [
            ("Cs1+", occupancy_cs, 3.9, four_c(0.4914, 0.0225)),
            ("Pb2+", 1.0, 1.1, lead),
            ("Br1-", 1.0, 2.3, eight),
            ("Br1-", 0.9, 3.1, axial),
        ],
    )


def cdse_wurtzite():
    """CdSe, P6_3mc, 4 atoms."""
    third, u = 1 / 3, 0.3767
    return Structure.of(
        (4.2985, 4.2985, 7.0152, 90, 90, 120),
        [
            ("Cd2+", 1.0, 1.2, [(third, 2 * third, 0), (2 * third, third, 0.5)]),
            ("Se", 0.95, 0.9, [(third, 2 * third, u), (2 * third, third, 0.5 + u)]),
        ],
    )


def triclinic():
    """A made-up P-1 crystal with three general sites."""
    def pair(x, y, z):
        return [(x, y, z), (-x, -y, -z)]

    return Structure.of(
        (6.13, 7.29, 8.41, 77.9, 97.3, 109.6),
        [
            ("Bi3+", 1.0, 0.8, pair(0.131, 0.242, 0.077)),
            ("Fe3+", 0.85, 1.7, pair(0.613, 0.318, 0.402)),
            ("O2-", 1.0, 2.6, pair(0.377, 0.871, 0.287)),
        ],
    )


def pbs_rock_salt():
    """PbS, Fm-3m, 8 atoms."""
    face = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    return Structure.of(
        (5.936, 5.936, 5.936),
        [("Pb2+", 1.0, 1.3, face), ("S", 1.0, 0.9, _shifted(face, (0.5, 0.5, 0.5)))],
    )


def split_cubic(y=0.07, edge=5.87):
    """Pm-3m CsPbBr3 with Br on 12h (1/2, y, 0) at occupancy 1/4, 14 positions."""
    bromine = []
    for half in range(3):
        for moved in range(3):
            if moved != half:
                for sign in (1, -1):
                    point = [0.0, 0.0, 0.0]
                    point[half], point[moved] = 0.5, sign * y
                    bromine.append(tuple(point))
    return Structure.of(
        (edge, edge, edge),
        [
            ("Pb2+", 1.0, 1.0, [(0, 0, 0)]),
            ("Cs1+", 1.0, 4.0, [(0.5, 0.5, 0.5)]),
            ("Br1-", 0.25, 2.0, bromine),
        ],
    )
