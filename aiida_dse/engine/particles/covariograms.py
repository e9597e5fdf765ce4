"""Covariograms of convex polyhedra: the volume that a body shares with its shifted copy.

Along a direction, the volume V(s) that the body {x: n_k.x <= h_k} shares with its copy shifted by s
is {x: n_k.x <= h_k + min(0, s n_k.d)}, whose faces move linearly with s. It is therefore a cubic
polynomial between the shifts at which vertices appear or vanish, and is stored as these shifts and
polynomials. The covariogram of a body L times as large is L^3 V(s / L), so its mean over a
population needs only incomplete moments of the distribution of sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numba import njit

from aiida_dse.engine.resources import Resources
from aiida_dse.engine.units import FloatArray

from .size_distributions import Lengths

#: Shifts and distances below this fraction of the body are regarded as equal.
SAME = 1e-9
#: Largest ratio of the distances of two faces from the centre.
MOST_RATIO = 100.0


#: Volumes smaller than this fraction of the largest one are rounding errors.
ROUNDING = 1e-14


@dataclass(frozen=True)
class Polyhedron:
    """A convex body {x: normals.x <= distances} around the origin.

    normals (n, 3) are unit vectors, distances (n,) in units of the size of the body. Raises ValueError
    for bodies that are not closed or do not contain the origin.
    """

    normals: FloatArray
    distances: FloatArray

    def __post_init__(self) -> None:
        if not (self.distances > 0).all():
            raise ValueError("the distances of the faces from the centre must be above 0.")
        if (ratio := float(self.distances.max() / self.distances.min())) > MOST_RATIO:
            raise ValueError(
                f"the ratio of the largest to the smallest distance of the faces is {ratio:.4g}; the limit is "
                f"{MOST_RATIO:g}. Specify less different distances.")
        if not np.isfinite(self.volume) or self.volume <= 0:
            raise ValueError("the faces do not enclose a body. Add another form; in point groups without inversion, "
                             "(hkl) and (-h-k-l) are different forms.")

    @property
    def volume(self) -> float:
        """The volume in units of the size cubed; infinite for an open body."""
        return float(_volume(self.normals, self.distances, np.zeros((64, 3)), np.zeros((64, 3))))

    @property
    def surface(self) -> float:
        """The surface in units of the size squared."""
        areas = _areas(self.normals, self.distances, np.zeros((64, 3)), np.zeros((64, 3)))
        return float(areas.sum())

    @property
    def extent(self) -> float:
        """The largest distance between two points, in units of the size."""
        corners = self.corners()
        return float(np.linalg.norm(corners[:, None] - corners[None, :], axis=-1).max())

    def corners(self) -> FloatArray:
        """The corners (n, 3) in units of the size; some occur several times."""
        found = []
        for chosen in combinations(range(len(self.normals)), 3):
            matrix = self.normals[list(chosen)]
            if abs(np.linalg.det(matrix)) > 1e-9:
                found.append(np.linalg.solve(matrix, self.distances[list(chosen)]))
        points = np.array(found)
        return np.asarray(points[(points @ self.normals.T <= self.distances + 1e-7).all(axis=1)])

    def areas(self) -> FloatArray:
        """The areas (n,) of the faces in units of the size squared; 0 for faces outside the body."""
        return np.asarray(_areas(self.normals, self.distances, np.zeros((64, 3)), np.zeros((64, 3))))


@dataclass(frozen=True)
class Rays:
    """The covariogram along several directions.

    Direction k has the pieces begin[k] ... begin[k + 1] - 1; piece j is the polynomial
    `coefficients[j] . (1, s, s^2, s^3)` for lower[j] <= s <= upper[j].
    """

    begin: np.ndarray  # (n + 1,)
    lower: FloatArray  # (n_pieces,)
    upper: FloatArray
    coefficients: FloatArray  # (n_pieces, 4)

    def mean_overlap(self, lengths: FloatArray, sizes: Lengths, dimension: int = 3) -> FloatArray:
        """The mean covariogram (n,) in nm^3 at vectors of these lengths (n,) in nm along the directions.

        For a prism of unit height and directions in its base, `dimension` 2 yields that of the base in
        nm^2.
        """
        shift = np.repeat(lengths, np.diff(self.begin))
        with np.errstate(divide="ignore"):
            largest = np.where(self.lower > 0, shift / np.maximum(self.lower, 1e-300), np.inf)
            smallest = shift / self.upper
        total = np.zeros(len(shift))
        for power in range(dimension + 1):
            inside = sizes.moment_beyond(dimension - power, smallest) - sizes.moment_beyond(
                dimension - power, largest)
            total += self.coefficients[:, power] * shift**power * inside
        summed = np.concatenate([[0.0], np.cumsum(total)])
        found = summed[self.begin[1:]] - summed[self.begin[:-1]]
        # rounding errors beyond the largest body would be counted as pairs
        return np.where(np.abs(found) > ROUNDING * np.abs(found).max(initial=0.0), found, 0.0)


def rays(body: Polyhedron, directions: FloatArray, resources: Resources) -> Rays:
    """The covariogram along unit vectors (n, 3)."""
    parts = np.array_split(directions, max(1, min(len(directions), 4 * resources.threads)))
    most = 4 + 2 * len(body.normals)

    def traced(part: FloatArray) -> tuple[np.ndarray, FloatArray, FloatArray]:
        number = np.zeros(len(part), dtype=np.int64)
        limits = np.zeros((len(part), most + 1))
        coefficients = np.zeros((len(part), most, 4))
        if _trace(body.normals, body.distances, part, number, limits, coefficients):
            raise ValueError(f"a body with {len(body.normals)} faces is too complex. Specify fewer forms.")
        return number, limits, coefficients

    found = list(resources.ordered(traced, parts))
    number = np.concatenate([one[0] for one in found])
    used = [np.arange(most) < n[:, None] for n, *_ in found]
    lower = [limits[:, :-1][mask] for (_, limits, _), mask in zip(found, used, strict=True)]
    upper = [limits[:, 1:][mask] for (_, limits, _), mask in zip(found, used, strict=True)]
    coefficients = [values[mask] for (*_, values), mask in zip(found, used, strict=True)]
    return Rays(np.concatenate([[0], np.cumsum(number)]), np.concatenate(lower), np.concatenate(upper),
                np.concatenate(coefficients))


@njit(cache=True, nogil=True)
def _trace(normals, distances, directions, number, limits, coefficients):  # type: ignore[no-untyped-def]
    """Fill the pieces of each direction; 1 if there are too many."""
    most = coefficients.shape[1]
    events = np.zeros(4096)
    polygon, other = np.zeros((64, 3)), np.zeros((64, 3))
    moved = np.zeros(len(distances))
    at, values, matrix = np.zeros(4), np.zeros(4), np.zeros((4, 4))
    for k in range(len(directions)):
        rates = np.zeros(len(normals))
        for f in range(len(normals)):
            along = (normals[f, 0] * directions[k, 0] + normals[f, 1] * directions[k, 1]
                     + normals[f, 2] * directions[k, 2])
            rates[f] = min(0.0, along)
        n_events = _events(normals, distances, rates, events)
        if n_events < 0:
            return 1
        sorted_events = np.sort(events[:n_events])
        last, n = 0.0, 0
        for e in range(n_events):
            end = sorted_events[e]
            if end - last < 1e-6:
                continue
            if n == most:
                return 1
            for p in range(4):
                at[p] = last + (end - last) * (p + 0.5) / 4
                for f in range(len(normals)):
                    moved[f] = distances[f] + rates[f] * at[p]
                values[p] = _volume(normals, moved, polygon, other)
                power = 1.0
                for c in range(4):
                    matrix[p, c] = power
                    power *= (at[p] - last) / (end - last)
            local = np.linalg.solve(matrix, values)
            # from powers of (s - last) / (end - last) to powers of s
            scale = 1.0 / (end - last)
            a1, a2, a3 = local[1] * scale, local[2] * scale**2, local[3] * scale**3
            coefficients[k, n, 0] = local[0] - a1 * last + a2 * last**2 - a3 * last**3
            coefficients[k, n, 1] = a1 - 2 * a2 * last + 3 * a3 * last**2
            coefficients[k, n, 2] = a2 - 3 * a3 * last
            coefficients[k, n, 3] = a3
            limits[k, n], limits[k, n + 1] = last, end
            last = end
            n += 1
        number[k] = n
    return 0


@njit(cache=True, nogil=True)
def _events(normals, distances, rates, events):  # type: ignore[no-untyped-def]
    """The shifts at which vertices of the common body appear or vanish; the largest is where it ends.

    Returns their number; -1 if there are too many.
    """
    n, n_events = len(normals), 0
    for i in range(n):
        for j in range(i + 1, n):
            c0 = normals[i, 1] * normals[j, 2] - normals[i, 2] * normals[j, 1]
            c1 = normals[i, 2] * normals[j, 0] - normals[i, 0] * normals[j, 2]
            c2 = normals[i, 0] * normals[j, 1] - normals[i, 1] * normals[j, 0]
            for k in range(j + 1, n):
                det = c0 * normals[k, 0] + c1 * normals[k, 1] + c2 * normals[k, 2]
                if abs(det) < 1e-9:
                    continue
                # x = (h_i n_j x n_k + h_j n_k x n_i + h_k n_i x n_j) / det
                a0 = normals[j, 1] * normals[k, 2] - normals[j, 2] * normals[k, 1]
                a1 = normals[j, 2] * normals[k, 0] - normals[j, 0] * normals[k, 2]
                a2 = normals[j, 0] * normals[k, 1] - normals[j, 1] * normals[k, 0]
                b0 = normals[k, 1] * normals[i, 2] - normals[k, 2] * normals[i, 1]
                b1 = normals[k, 2] * normals[i, 0] - normals[k, 0] * normals[i, 2]
                b2 = normals[k, 0] * normals[i, 1] - normals[k, 1] * normals[i, 0]
                x0 = (distances[i] * a0 + distances[j] * b0 + distances[k] * c0) / det
                x1 = (distances[i] * a1 + distances[j] * b1 + distances[k] * c1) / det
                x2 = (distances[i] * a2 + distances[j] * b2 + distances[k] * c2) / det
                y0 = (rates[i] * a0 + rates[j] * b0 + rates[k] * c0) / det
                y1 = (rates[i] * a1 + rates[j] * b1 + rates[k] * c1) / det
                y2 = (rates[i] * a2 + rates[j] * b2 + rates[k] * c2) / det
                low, high = 0.0, 1e9
                for f in range(n):
                    excess = (normals[f, 0] * x0 + normals[f, 1] * x1 + normals[f, 2] * x2
                              - distances[f])
                    rate = (normals[f, 0] * y0 + normals[f, 1] * y1 + normals[f, 2] * y2 - rates[f])
                    if abs(rate) < 1e-11:
                        if excess > SAME:
                            high = -1.0
                            break
                    elif rate > 0:
                        high = min(high, (SAME - excess) / rate)
                    else:
                        low = max(low, (excess - SAME) / -rate)
                    if high < low:
                        break
                if high >= low and high < 1e8:
                    for s in (low, high):
                        if s > 1e-7:
                            if n_events == len(events):
                                return -1
                            events[n_events] = s
                            n_events += 1
    return n_events


@njit(cache=True, nogil=True)
def _volume(normals, distances, polygon, other):  # type: ignore[no-untyped-def]
    """The volume of {x: normals.x <= distances}; 0 for an empty and inf for an open body."""
    total = 0.0
    for f in range(len(normals)):
        area = _area(normals, distances, f, polygon, other)
        if area == np.inf:
            return np.inf
        total += area * distances[f] / 3
    return max(total, 0.0)


@njit(cache=True, nogil=True)
def _areas(normals, distances, polygon, other):  # type: ignore[no-untyped-def]
    return np.array([_area(normals, distances, f, polygon, other) for f in range(len(normals))])


@njit(cache=True, nogil=True)
def _area(normals, distances, f, polygon, other):  # type: ignore[no-untyped-def]
    """The area of one face: a large square, clipped by all other faces."""
    n0, n1, n2 = normals[f]
    # two unit vectors in the plane of the face
    if abs(n0) < 0.6:
        u0, u1, u2 = 0.0, n2, -n1
    else:
        u0, u1, u2 = -n2, 0.0, n0
    length = np.sqrt(u0 * u0 + u1 * u1 + u2 * u2)
    u0, u1, u2 = u0 / length, u1 / length, u2 / length
    v0, v1, v2 = n1 * u2 - n2 * u1, n2 * u0 - n0 * u2, n0 * u1 - n1 * u0
    size = 1e3
    count = 4
    polygon[0, 0], polygon[0, 1] = -size, -size
    polygon[1, 0], polygon[1, 1] = size, -size
    polygon[2, 0], polygon[2, 1] = size, size
    polygon[3, 0], polygon[3, 1] = -size, size
    for g in range(len(normals)):
        if g == f:
            continue
        m0, m1, m2 = normals[g]
        a = m0 * u0 + m1 * u1 + m2 * u2
        b = m0 * v0 + m1 * v1 + m2 * v2
        limit = distances[g] - distances[f] * (m0 * n0 + m1 * n1 + m2 * n2)
        if abs(a) + abs(b) < 1e-10:  # parallel faces
            if limit < 0 or (limit <= 0 and g < f):
                return 0.0
            continue
        kept = 0
        for p in range(count):
            q = (p + 1) % count
            inside = a * polygon[p, 0] + b * polygon[p, 1] - limit
            next_inside = a * polygon[q, 0] + b * polygon[q, 1] - limit
            if inside <= 0:
                other[kept, 0], other[kept, 1] = polygon[p, 0], polygon[p, 1]
                kept += 1
            if (inside < 0 < next_inside) or (next_inside < 0 < inside):
                t = inside / (inside - next_inside)
                other[kept, 0] = polygon[p, 0] + t * (polygon[q, 0] - polygon[p, 0])
                other[kept, 1] = polygon[p, 1] + t * (polygon[q, 1] - polygon[p, 1])
                kept += 1
        count = kept
        if count < 3:
            return 0.0
        for p in range(count):
            polygon[p, 0], polygon[p, 1] = other[p, 0], other[p, 1]
    area = 0.0
    for p in range(count):
        if abs(polygon[p, 0]) > 0.99 * size or abs(polygon[p, 1]) > 0.99 * size:
            return np.inf
        q = (p + 1) % count
        area += polygon[p, 0] * polygon[q, 1] - polygon[q, 0] * polygon[p, 1]
    return area / 2
