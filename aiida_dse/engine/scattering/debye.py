"""The Debye scattering equation: intensity from sampled pair distances.

I(q) = sum_s n_s o_s |f_s|^2 + 2 sum_{s<=t} o_s o_t Re(f_s f_t*) T_s T_t S_st(q), with
S_st(q) = sum over unordered pairs of sin(q r)/(q r) and T_s = exp(-B_s q^2 / (16 pi^2)).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import finufft
import numpy as np
from numba import njit

from aiida_dse.engine.resources import ONE_THREAD, Resources
from aiida_dse.engine.units import ComplexArray, FloatArray

from .form_factors import ScatteringFactor
from .histograms import GRID_MARGIN, SPLINE_ORDER
from .pairs import site_channels

#: Relative accuracy of the non-uniform FFT; far below any gridding tolerance.
NUFFT_TOLERANCE = 1e-10


def sine_sums(
    histograms: FloatArray, q: FloatArray, *, step: float, resources: Resources = ONE_THREAD
) -> FloatArray:
    """The sine sums S(q) = sum_k sin(q r_k) / (q r_k) (n_channels, n_q), from histograms of 1/r.

    histograms (n_channels, n_bins) on the grid r_k = (k - GRID_MARGIN) step; q (n_q,) 1/Å with any
    spacing. They are computed by a type-2 non-uniform FFT, which is exact at these q apart from the
    gridding error. Each channel is transformed by one thread, so its values do not depend on the
    number of threads.
    """
    if len(histograms) == 0:
        return np.zeros((0, len(q)))
    transform = _transformed(histograms, q * step, resources)
    return np.asarray(transform.imag / (q * _spline_transform(q * step)))


def packed_sums(
    rows: FloatArray, sines: np.ndarray, q: FloatArray, *, step: float, resources: Resources = ONE_THREAD,
    tolerance: float | None = None,
) -> FloatArray:
    """The sums of w_k sin(q r_k) or w_k cos(q r_k) (n_rows, n_q) over grid points, from spline histograms of w.

    rows (n_rows, n_bins) on the grid r_k = (k - GRID_MARGIN) step; `sines` (n_rows,) are those whose sines are
    summed. Two rows are transformed as the real and the imaginary part of one, and separated by their values at
    -q, which saves a third of the time.
    """
    n, n_pairs = len(q), (len(rows) + 1) // 2
    pairs = np.zeros((n_pairs, rows.shape[1]), dtype=np.complex128)
    pairs.real = rows[:n_pairs]
    pairs[: len(rows) - n_pairs].imag = rows[n_pairs:]
    both = _transformed(pairs, np.concatenate([q, -q]) * step, resources, tolerance)
    spline = 0.5 / _spline_transform(q * step)
    found = np.empty((len(rows), n))
    for row, sine in enumerate(sines):
        forward, backward = both[row % n_pairs, :n], both[row % n_pairs, n:]
        if row < n_pairs:
            found[row] = forward.imag - backward.imag if sine else forward.real + backward.real
        else:
            found[row] = backward.real - forward.real if sine else forward.imag + backward.imag
        found[row] *= spline
    return found


def _transformed(
    rows: FloatArray | ComplexArray, q_step: FloatArray, resources: Resources,
    tolerance: float | None = None,
) -> ComplexArray:
    """The transforms (n_rows, n_q) of rows on the grid, with that of the spline as a factor."""
    n_rows, n_bins = rows.shape

    def transformed(part: np.ndarray) -> ComplexArray:
        with _plans.lent(len(part), n_bins, q_step, tolerance or NUFFT_TOLERANCE) as plan:
            return np.asarray(plan.execute(part.astype(np.complex128))).reshape(len(part), -1)

    parts = np.array_split(rows, resources.workers(n_rows))
    transform = np.concatenate(list(resources.ordered(transformed, parts)))
    first_mode = -(n_bins // 2)
    transform *= np.exp(1j * q_step * (-GRID_MARGIN - first_mode))
    return transform


def _spline_transform(q_step: FloatArray) -> FloatArray:
    return np.asarray(np.sinc(q_step / (2 * np.pi)) ** SPLINE_ORDER)


class _Plans:
    """A cache of plans of non-uniform FFTs with sorted points, each for one thread at a time."""

    #: Largest number of idle plans.
    KEPT = 24

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle: OrderedDict[int, tuple[tuple[int, int, bytes, float], finufft.Plan]] = OrderedDict()

    @contextmanager
    def lent(
        self, n_channels: int, n_bins: int, q_step: FloatArray, tolerance: float
    ) -> Iterator[finufft.Plan]:
        """A plan for the sole use of the calling thread."""
        key = (n_channels, n_bins, q_step.tobytes(), tolerance)
        with self._lock:
            name = next((name for name, (of, _) in self._idle.items() if of == key), None)
            plan = self._idle.pop(name)[1] if name is not None else None
        if plan is None:
            plan = finufft.Plan(
                2, (n_bins,), n_trans=n_channels, eps=tolerance, isign=1, nthreads=1,
                dtype="complex128",
            )
            plan.setpts(q_step)
        yield plan
        with self._lock:
            self._idle[id(plan)] = (key, plan)
            if len(self._idle) > self.KEPT:
                self._idle.popitem(last=False)


_plans = _Plans()


def debye_waller(b_iso: FloatArray, q: FloatArray) -> FloatArray:
    """The Debye-Waller factors T = exp(-B q^2 / (16 pi^2)) (n_sites, n_q), B (n_sites,) in Å^2."""
    return np.asarray(np.exp(-np.outer(b_iso, q * q / (16 * np.pi**2))))


def pair_form_factors(factors: list[ScatteringFactor]) -> FloatArray:
    """The products Re(f_s f_t*) (n_channels, n_q) of every pair of sites, in channel order."""
    return np.array(
        [
            factors[s].real * factors[t].real + factors[s].imaginary * factors[t].imaginary
            for s, t in site_channels(len(factors))
        ]
    )


def debye_intensity(
    sums: FloatArray,
    pair_factors: FloatArray,
    atoms: FloatArray,
    occupancy: FloatArray,
    b_iso: FloatArray,
    q: FloatArray,
    damping: FloatArray | None = None,
) -> FloatArray:
    """The intensity I(q) (n_q,) of the mean particle in electron units.

    sums, pair_factors (n_channels, n_q); atoms, occupancy, b_iso (n_sites,), B in Å^2; `damping`
    (n_sites, n_q) are known Debye-Waller factors, which saves computing the exponentials.
    """
    if damping is None:
        damping = debye_waller(b_iso, q)
    intensity = np.zeros(len(q))
    _sum_channels(sums, pair_factors, atoms, occupancy, damping, intensity)
    return intensity


def b_derivative(
    sums: FloatArray,
    pair_factors: FloatArray,
    occupancy: FloatArray,
    b_iso: FloatArray,
    q: FloatArray,
    site: int,
) -> FloatArray:
    """The derivative dI/dB (n_q,) with respect to B_iso of one site."""
    damping = debye_waller(b_iso, q) * occupancy[:, None]
    total = np.zeros(len(q))
    for k, (s, t) in enumerate(site_channels(len(b_iso))):
        if site in (s, t):
            twice = 2.0 if s == t else 1.0
            total += twice * sums[k] * pair_factors[k] * damping[s] * damping[t]
    return -q * q / (16 * np.pi**2) * 2 * total


def occupancy_derivative(
    sums: FloatArray,
    pair_factors: FloatArray,
    atoms: FloatArray,
    occupancy: FloatArray,
    b_iso: FloatArray,
    q: FloatArray,
    site: int,
) -> FloatArray:
    """The derivative dI/do (n_q,) with respect to the occupancy of one site."""
    damping = debye_waller(b_iso, q)
    total = np.zeros(len(q))
    for k, (s, t) in enumerate(site_channels(len(b_iso))):
        if s == t == site:
            total += atoms[site] * pair_factors[k]
            total += 4 * occupancy[site] * sums[k] * pair_factors[k] * damping[s] ** 2
        elif site in (s, t):
            other = t if s == site else s
            total += 2 * occupancy[other] * sums[k] * pair_factors[k] * damping[s] * damping[t]
    return total


@njit(cache=True, nogil=True, fastmath=True)
def _sum_channels(  # type: ignore[no-untyped-def]
    sums, pair_factors, atoms, occupancy, damping, intensity
):
    channel = 0
    for s in range(len(atoms)):
        for t in range(s, len(atoms)):
            factor = 2.0 * occupancy[s] * occupancy[t]
            own = atoms[s] * occupancy[s] if s == t else 0.0
            for k in range(len(intensity)):
                intensity[k] += pair_factors[channel, k] * (
                    own + factor * damping[s, k] * damping[t, k] * sums[channel, k]
                )
            channel += 1
