"""The measured pattern of a sample: where its intensity is computed, and what the instrument makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
from numba import njit

from aiida_dse.engine.memo import Memo
from aiida_dse.engine.parameters import Kind, Parameter, ParameterName
from aiida_dse.engine.units import FloatArray, q_from_two_theta, two_theta_from_q

from .corrections import Correction
from .profiles import Profile, Widths

#: The name before the dot of the parameters of an instrument.
INSTRUMENT = "instrument"
#: Points of the grid per finest oscillation of the intensity.
POINTS_PER_OSCILLATION = 14
#: Points of the grid per width of a reflection.
POINTS_PER_WIDTH = 30
#: Number of angles whose profiles are blended.
NODES = 16
#: Widths of the profile by which the grid is longer than the pattern at both ends, and the limits of this margin (deg).
MARGIN, MARGINS = 30.0, (0.3, 5.0)
#: Largest number of points of the grid.
MOST_POINTS = 400_000


class Measurement(Protocol):
    """The relation between the intensity of the sample and the measured points."""

    @property
    def q(self) -> FloatArray:
        """The q (n_q,) in 1/Å at which the intensity is to be computed."""
        ...

    @property
    def parameters(self) -> tuple[Parameter, ...]: ...

    def observe(self, intensity: FloatArray, values: Mapping[str, float]) -> FloatArray:
        """The measured patterns (..., n_points) of intensities (..., n_q), at the values of all parameters."""
        ...


@dataclass(frozen=True)
class DirectMeasurement:
    """The intensity at the measured points, times corrections (n_points,)."""

    q: FloatArray
    correction: FloatArray
    parameters: ClassVar[tuple[Parameter, ...]] = ()

    def observe(self, intensity: FloatArray, values: Mapping[str, float]) -> FloatArray:
        return np.asarray(intensity * self.correction)


@dataclass(frozen=True)
class Instrument:
    """Wavelengths, angles and profile of an instrument.

    wavelengths: (wavelength in Å, weight) of all lines, that of the pattern first; `zero` in degrees; displacement
    (along, across the beam) of the sample in mm, at `radius` mm from the detector.
    """

    wavelengths: tuple[tuple[float, float], ...]
    profile: Profile = field(default_factory=Profile)
    zero: float = 0.0
    displacement: tuple[float, float] = (0.0, 0.0)
    radius: float = np.nan

    @property
    def wavelength(self) -> float:
        return self.wavelengths[0][0]

    @property
    def parameters(self) -> dict[str, tuple[Kind, float]]:
        """The kind and the starting value of each parameter by its name without 'instrument.'."""
        found = {"zero": (Kind.ANGLE_SHIFT, self.zero), "wavelength": (Kind.WAVELENGTH, self.wavelength)}
        if np.isfinite(self.radius):
            found |= {"displacement_along": (Kind.DISPLACEMENT, self.displacement[0]),
                      "displacement_across": (Kind.DISPLACEMENT, self.displacement[1])}
        if not self.profile.narrow:
            found |= {name: (Kind.SQUARED_WIDTH, getattr(self.profile.widths, name)) for name in "UVWP"}
            found |= {name: (Kind.WIDTH, getattr(self.profile.widths, name)) for name in "XY"}
            if self.profile.q_width:
                found["q_width"] = (Kind.Q_WIDTH, self.profile.q_width)
        return found

    def at(self, values: Mapping[str, float]) -> Instrument:
        """The instrument at values of its parameters, by their names without 'instrument.'."""
        widths = Widths(**{name: values[name] for name in "UVWPXY" if name in values})
        factor = values["wavelength"] / self.wavelength
        return replace(
            self, zero=values["zero"],
            wavelengths=tuple((factor * wavelength, weight) for wavelength, weight in self.wavelengths),
            displacement=(values.get("displacement_along", 0.0), values.get("displacement_across", 0.0)),
            profile=replace(self.profile, widths=widths, q_width=values.get("q_width", 0.0)))

    def true_angles(self, two_theta: FloatArray) -> FloatArray:
        """The scattering angles (n,) in degrees of measured angles (n,)."""
        along, across = self.displacement
        shifted = np.asarray(two_theta - self.zero)
        if along or across:
            angle = np.radians(two_theta)
            shifted = shifted - np.degrees((across * np.cos(angle) - along * np.sin(angle)) / self.radius)
        return shifted


@dataclass(frozen=True)
class InstrumentMeasurement:
    """A pattern that was measured at `two_theta` (n_points,) degrees with an instrument.

    The intensity is computed on a uniform grid of scattering angles, for every wavelength, multiplied by the
    `before` factors, blended with the profile, interpolated at the scattering angles of the points, and multiplied
    by the `after` factors. `longest` (Å) is the longest distance in the particles, which determines the grid; with
    `reflections` of bulk crystals, it also has POINTS_PER_WIDTH points per width of the profile.
    """

    instrument: Instrument
    two_theta: FloatArray
    longest: float
    before: Sequence[Correction] = ()
    after: Sequence[Correction] = ()
    reflections: bool = False
    _known: Memo[_Convolution] = field(default_factory=lambda: Memo(4), init=False, repr=False, compare=False)

    @cached_property
    def grid(self) -> FloatArray:
        """The uniform grid (n_grid,) of scattering angles in degrees."""
        own, wavelength = self.instrument, self.instrument.wavelength
        true = own.true_angles(self.two_theta)
        width = float(own.profile.width(self.two_theta, wavelength).max())
        margin = float(np.clip(MARGIN * width, *MARGINS))
        step = float(np.degrees(wavelength / (POINTS_PER_OSCILLATION * self.longest)))
        if self.reflections:
            step = min(step, float(own.profile.width(self.two_theta, wavelength).min()) / POINTS_PER_WIDTH)
        low, high = max(true[0] - margin, true[0] / 3), min(true[-1] + margin, 179.0)
        if not low > 0:
            raise ValueError(f"the first point of the pattern is at a scattering angle of {true[0]:.4g} degrees; it "
                             "must be above 0. Correct the zero shift, or limit the range of the pattern.")
        if (n := int((high - low) / step) + 12) > MOST_POINTS:
            raise ValueError(
                f"particles with distances up to {self.longest / 10:.3g} nm, or the narrow profile, would require {n} "
                f"angles; the limit with an instrument is {MOST_POINTS}. Use smaller particles, or a wider profile.")
        return np.asarray(low + step * np.arange(-5, n) if low > 6 * step else low + step * np.arange(n + 5))

    @cached_property
    def q(self) -> FloatArray:
        """The q of the grid for every wavelength, one after the other."""
        return np.concatenate([q_from_two_theta(self.grid, one) for one, _ in self.instrument.wavelengths])

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(Parameter(ParameterName.of(INSTRUMENT, name), kind, value)
                     for name, (kind, value) in self.instrument.parameters.items())

    def observe(self, intensity: FloatArray, values: Mapping[str, float]) -> FloatArray:
        own = {name: values[f"{INSTRUMENT}.{name}"] for name in self.instrument.parameters}
        instrument = self.instrument.at(own)
        lines = intensity.reshape(*intensity.shape[:-1], len(instrument.wavelengths), len(self.grid))
        weights = np.array([weight for _, weight in instrument.wavelengths])
        summed = np.einsum("...ln,l->...n", lines, weights / weights.sum())
        for correction in self._before:
            summed = summed * correction
        if not instrument.profile.narrow:
            summed = self._known.get(instrument.profile, lambda: _Convolution(
                self.grid, instrument.profile, self.instrument.wavelength))(summed)
        true = instrument.true_angles(self.two_theta)
        # the grid belongs to the starting wavelength
        ratio = self.instrument.wavelength / instrument.wavelength
        at = np.degrees(2 * np.arcsin(np.clip(np.sin(np.radians(true) / 2) * ratio, -1, 1))) if ratio != 1 else true
        if at.min() < self.grid[0] or at.max() > self.grid[-1]:
            raise ValueError(
                f"the scattering angles run from {at.min():.4g} to {at.max():.4g} degrees, beyond the angles that are "
                f"computed, {self.grid[0]:.4g} to {self.grid[-1]:.4g} degrees. The shifts of the angles are too large: "
                "correct their starting values or bounds.")
        found = interpolated(summed, (at - self.grid[0]) / (self.grid[1] - self.grid[0]))
        for correction in self._after:
            found = found * correction
        return found

    @cached_property
    def _before(self) -> list[FloatArray]:
        return [one.factor(self.grid) for one in self.before]

    @cached_property
    def _after(self) -> list[FloatArray]:
        return [one.factor(self.two_theta) for one in self.after]

    @property
    def points_q(self) -> FloatArray:
        """The q (n_points,) of the points at the starting values of the instrument."""
        return q_from_two_theta(self.instrument.true_angles(self.two_theta), self.instrument.wavelength)


class _Convolution:
    """The convolution with a profile that varies slowly with the angle.

    The intensity is split into parts with Lagrange weights in log tan theta; each part is convolved with the
    profile of one node.
    """

    def __init__(self, grid: FloatArray, profile: Profile, wavelength: float) -> None:
        from scipy.fft import next_fast_len  # few models need it

        self._n = len(grid)
        step = grid[1] - grid[0]
        place = np.log(np.tan(np.radians(grid) / 2))
        nodes = np.linspace(place[0], place[-1], NODES)
        self._weights = _lagrange(nodes, place)
        width = float(profile.width(grid, wavelength).max())
        self._pad = int(min(max(4 * MARGIN * width / step, 64), self._n)) + 1
        self._length = next_fast_len(self._n + 2 * self._pad, real=True)
        self._transforms = np.array([
            profile.transform(self._length // 2 + 1, 2 * np.pi / (self._length * step), angle, wavelength)
            for angle in np.degrees(2 * np.arctan(np.exp(nodes))).tolist()])

    def __call__(self, intensity: FloatArray) -> FloatArray:
        """The convolved patterns (..., n); beyond its ends, the intensity is constant."""
        from scipy.fft import irfft, rfft

        parts = intensity[..., None, :] * self._weights
        edges = [(0, 0)] * (parts.ndim - 1)
        padded = np.pad(parts, [*edges, (self._pad, self._length - self._n - self._pad)], mode="edge")
        # the end that follows the last points returns to the first ones
        found = irfft((rfft(padded) * self._transforms).sum(axis=-2), self._length)
        return np.asarray(found[..., self._pad : self._pad + self._n])


def _lagrange(nodes: FloatArray, at: FloatArray) -> FloatArray:
    """The cubic Lagrange weights (n_nodes, n) of uniform nodes at points (n,) between them."""
    place = (at - nodes[0]) / (nodes[1] - nodes[0])
    first = np.clip(np.floor(place).astype(int) - 1, 0, len(nodes) - 4)
    t = place - first
    weights = np.zeros((len(nodes), len(at)))
    for k in range(4):
        others = [m for m in range(4) if m != k]
        weights[first + k, np.arange(len(at))] = np.prod([(t - m) / (k - m) for m in others], axis=0)
    return weights


def interpolated(values: FloatArray, at: FloatArray) -> FloatArray:
    """Values (..., n) on a uniform grid, interpolated at places (m,) in units of the grid by six points."""
    flat = np.ascontiguousarray(values.reshape(-1, values.shape[-1]))
    found = np.empty((len(flat), len(at)))
    _interpolate(flat, at, found)
    return found.reshape(*values.shape[:-1], len(at))


@njit(cache=True, nogil=True)
def _interpolate(values, at, found):  # type: ignore[no-untyped-def]
    weights = np.empty(6)
    for n in range(len(at)):
        first = min(max(np.int64(np.floor(at[n])) - 2, 0), values.shape[1] - 6)
        t = at[n] - first
        for k in range(6):
            weights[k] = 1.0
            for m in range(6):
                if m != k:
                    weights[k] *= (t - m) / (k - m)
        for row in range(len(values)):
            total = 0.0
            for k in range(6):
                total += weights[k] * values[row, first + k]
            found[row, n] = total


def direct(q: FloatArray, wavelength: float, corrections: Sequence[Correction]) -> DirectMeasurement:
    """The measurement of corrected data at q (n_points,) in 1/Å, apart from these corrections."""
    factor: FloatArray = np.ones(len(q))
    for correction in corrections:
        factor = factor * correction.factor(two_theta_from_q(q, wavelength))
    return DirectMeasurement(q, factor)
