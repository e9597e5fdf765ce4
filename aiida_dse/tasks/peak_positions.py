"""Check of the peak positions, which detects a wrong wavelength or a wrong unit of the axis.

The observed pattern is compared with the Debye pattern of small particles of the same crystals as
a function of a factor on q. If the wavelength, the unit of the axis or the cell is wrong by more
than a few per cent, the agreement is far better at a factor other than one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aiida_dse.documents import DocumentError
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import AtomListPhase, PairDistancesPhase
from aiida_dse.engine.model.pattern import ObservedPattern, PatternModel
from aiida_dse.engine.model.phase import Phase, Sampling
from aiida_dse.engine.particles.parallelepipeds import SingleParallelepiped
from aiida_dse.engine.scattering import debye
from aiida_dse.engine.units import FloatArray, q_from_two_theta, two_theta_from_q

from .build import BuiltModel

#: Edge (Å) of the particles in the comparison; their broad peaks permit a coarse search.
EDGE = 40.0
#: Factors on q in the search; the range includes confusion of 1/nm with 1/Å.
FACTORS = np.exp(np.arange(-np.log(12.0), np.log(12.0), 0.004))
#: Deviation of the factor from one that a refinement of the cell can compensate for; the warning
#: begins at half of it.
NEAR = 0.03
#: The axis is refused if another factor explains at least the share CLEAR of the pattern without
#: its smooth part, and the specified axis less than CONTRAST times as much. Correct axes explained
#: 0.35 to 0.84 of measured patterns and of those of DebUsSy, wrong axes 0.2 or less, and
#: structures of another phase up to 0.28.
CLEAR, CONTRAST = 0.3, 0.5
#: Sum of squares per point, in units of sigma^2, above which a pattern has clear peaks.
CLEAR_SIGNAL = 10.0
#: Upper limit of q (1/Å) of the computed pattern.
Q_MAX = 12.0
#: Number of smooth terms, and number of points to which the pattern is reduced.
SMOOTH_TERMS, POINTS = 8, 1500
#: Lists of more atoms are not checked, because their patterns would take too long.
LARGEST_LIST = 30_000


@dataclass(frozen=True)
class AxisMatch:
    """Shares of the pattern without its smooth part that the structures explain (0 to 1)."""

    specified: float  # with the specified axis
    best: float  # with the best factor on q
    factor: float  # the best factor on q
    other_axis: str = ""  # the kind of axis with which the same numbers match, if another one does
    of_other: float = 0.0  # the share with that axis
    signal: float = np.inf  # sum of squares of the pattern without its smooth part, per point

    @property
    def explains_nothing(self) -> bool:
        """Whether the pattern has clear peaks, and the structures explain them at no scale of q."""
        return self.signal > CLEAR_SIGNAL and max(self.best, self.specified) < CLEAR

    @property
    def contradicts(self) -> bool:
        """Whether the specified axis is very unlikely."""
        return self._is_off(NEAR) and self.specified < CONTRAST * self.best

    @property
    def is_doubtful(self) -> bool:
        """Whether the peaks deviate by more than the usual error of starting cells."""
        return self._is_off(NEAR / 2)

    def _is_off(self, limit: float) -> bool:
        return bool(abs(np.log(self.factor)) > limit and self.best > CLEAR)


def check_axis(built: BuiltModel) -> str | None:
    """Compare the observed peak positions with the structures; return a warning or None.

    The warning reports deviations of a few per cent. Raises DocumentError if the peaks contradict
    the axis. Nothing is compared without a measured file or if pattern.axis_confirmed is set.
    """
    pattern = built.document.pattern
    if not built.measured or pattern.axis_confirmed:
        return None
    found = match_axis(built.model, built.axis)
    names = ", ".join(built.document.phases)
    if found is not None and found.other_axis:
        raise DocumentError(
            f"pattern.axis: with the axis '{built.axis}', the structures explain "
            f"{100 * found.specified:.0f} % of the intensity above the background, but "
            f"{100 * found.of_other:.0f} % with '{found.other_axis}'. Correct the axis; if it is "
            "correct, set pattern: {axis_confirmed: true}.")
    if found is not None and found.explains_nothing:
        return (f"{names} explain{'s' if len(built.document.phases) == 1 else ''} only "
                f"{100 * found.specified:.0f} % of the intensity above the background, and not more "
                "than 30 % at any other scale of q. Check the structure, the cell, the axis and the "
                "wavelength.")
    if found is None or not found.is_doubtful:
        return None
    wavelength = built.model.observation.wavelength
    off = (f"the observed Bragg peaks match {names} only if q is "
           f"multiplied by {found.factor:.3f}")
    if built.axis == "two_theta":
        remedy = (f"is the wavelength {wavelength / found.factor:.4g} Å instead of "
                  f"{wavelength:g} Å")
    elif abs(np.log(found.factor / 10)) < NEAR or abs(np.log(found.factor * 10)) < NEAR:
        remedy = "is the axis in the other unit (1/nm instead of 1/Å, or vice versa)"
    elif abs(np.log(found.factor / (2 * np.pi))) < NEAR:
        remedy = "is the axis 2 sin(theta)/lambda = q / 2 pi, which must be multiplied by 2 pi"
    else:
        remedy = "is the axis not q = 4 pi sin(theta)/lambda in the specified unit"
    if not found.contradicts:
        return f"{off}; {remedy}, or do the starting cell edges deviate by as much?"
    raise DocumentError(
        f"pattern: {off} (this would explain {100 * found.best:.0f} % of the intensity above the "
        f"background, instead of {100 * found.specified:.0f} %). {remedy[0].upper()}{remedy[1:]}, "
        "or is the cell or the structure wrong? Correct the error; if everything is correct, set "
        "pattern: {axis_confirmed: true}."
    )


@lru_cache(maxsize=4)
def match_axis(model: PatternModel, axis: str = "") -> AxisMatch | None:
    """Compare the observed peaks with those of the phases; None if no comparison is possible.

    With the kind of `axis`, the numbers of the axis are also compared as another kind.
    """
    observation = model.observation
    every = max(1, len(observation.q) // POINTS)
    q = observation.q[::every]
    columns = _reference_patterns(model)
    if columns is None or len(q) < 4 * SMOOTH_TERMS:
        return None
    grid, patterns = columns
    weight = 1 / observation.sigma[::every]
    scaled = np.log(q / q[0]) / np.log(q[-1] / q[0]) * 2 - 1
    smooth = [np.polynomial.chebyshev.chebval(scaled, np.eye(SMOOTH_TERMS)[k])
              for k in range(SMOOTH_TERMS)]
    smooth += [blank[::every] for blank in model.background.blanks.values()]
    basis = np.linalg.qr(np.array(smooth).T * weight[:, None])[0]
    observed = observation.intensity[::every] * weight
    observed = observed - basis @ (basis.T @ observed)
    total = float(observed @ observed)
    if not total > 0:
        return None
    explained = np.array([
        _explained(observed, basis, weight, grid, patterns, q * factor) for factor in FACTORS
    ]) / total
    near = np.abs(np.log(FACTORS)) <= NEAR
    best = int(np.argmax(explained))
    specified = float(explained[near].max())
    others = {kind: _explained(observed, basis, weight, grid, patterns, other[::every]) / total
              for kind, other in _other_axes(axis, observation).items()}
    other = max(others, key=lambda kind: others[kind], default="")
    clear = bool(other) and others[other] > CLEAR and specified < CONTRAST * others[other]
    return AxisMatch(
        specified, float(explained[best]), float(FACTORS[best]), other if clear else "",
        others.get(other, 0.0), total / len(q))


def _other_axes(axis: str, observation: ObservedPattern) -> dict[str, FloatArray]:
    """q (n,) in 1/Å of the numbers of the axis, interpreted as other kinds of axes."""
    if axis == "two_theta":
        degrees = two_theta_from_q(observation.q, observation.wavelength)
        return {"q_inverse_angstrom": degrees, "q_inverse_nm": degrees / 10}
    numbers = observation.q * (10.0 if axis == "q_inverse_nm" else 1.0)
    if axis and numbers.max() < 180:
        return {"two_theta": q_from_two_theta(numbers, observation.wavelength)}
    return {}


def _explained(
    observed: FloatArray, basis: FloatArray, weight: FloatArray, grid: FloatArray,
    patterns: FloatArray, q: FloatArray,
) -> float:
    """Largest reduction of the sum of squares by one of the patterns (n_phases, n_grid).

    The scale of the pattern is not negative.
    """
    columns = np.array([np.interp(q, grid, pattern, right=1.0) for pattern in patterns]).T
    columns = columns * weight[:, None]
    columns = columns - basis @ (basis.T @ columns)
    best = 0.0
    for column in columns.T:
        length = float(column @ column)
        if length > 0:
            best = max(best, max(0.0, float(column @ observed)) ** 2 / length)
    return best


def _reference_patterns(model: PatternModel) -> tuple[FloatArray, FloatArray] | None:
    """q grid (n,) and the patterns (n_phases, n), divided by their smooth self-scattering."""
    grid = np.linspace(0.3, Q_MAX, 3000)
    sampling = Sampling(grid, model.observation.wavelength, tolerance=1e-3)
    patterns = []
    for index, phase in enumerate(model.phases):
        values = model.local(index, model.start)
        small = _small(phase, values)
        if small is None:
            return None
        if isinstance(small, CrystalPhase):
            values = small.start
        state = small.state(values, sampling)
        occupancy, b_iso = small.occupancy_and_b(values)
        factors = small.pair_factors(sampling)
        pattern = debye.debye_intensity(state.sums, factors, state.atoms, occupancy, b_iso, grid)
        no_pairs = debye.debye_intensity(
            0 * state.sums, factors, state.atoms, occupancy, b_iso, grid
        )
        patterns.append(pattern / no_pairs)
    return grid, np.array(patterns)


def _small(phase: Phase, values: Mapping[str, float]) -> Phase | None:
    """A small particle of the structure of a phase at local values, with isotropic displacements."""
    if isinstance(phase, CrystalPhase):
        cell = phase.crystal.cell
        n_a, n_b, n_c = (max(1, round(EDGE / edge)) for edge in (cell.a, cell.b, cell.c))
        return CrystalPhase(phase.name, phase.structure(values), SingleParallelepiped((n_a, n_b, n_c)), {},
                            phase.exclusion_distance)
    if isinstance(phase, PairDistancesPhase):
        return phase
    if isinstance(phase, AtomListPhase) and phase.frames[..., 0].size <= LARGEST_LIST:
        return phase
    return None
