"""Other terminations of the particles of a refinement, and how well they would fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aiida_dse.documents.plans import RefinementPlan
from aiida_dse.engine.crystal.terminations import (
    Corner,
    Termination,
    describe,
    neighbours,
    terminations,
)
from aiida_dse.engine.fit.refine import PatternProblem, Refinement, refine
from aiida_dse.engine.model.agreement import su_scale
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.engine.model.phase import Phase, PhaseState
from aiida_dse.engine.resources import StopCheck
from aiida_dse.engine.scattering.debye import debye_waller
from aiida_dse.engine.scattering.pairs import site_channels
from aiida_dse.engine.units import FloatArray

from .build import BuiltModel

#: Decrease of chi2 (times max(1, GoF)^2) above which another termination fits better by more than
#: chance, although the best of a few dozen is considered.
MORE_THAN_CHANCE = 20.0
#: Cycles of the refinement that confirms a better termination.
CONFIRMATION_CYCLES = 20


@dataclass(frozen=True)
class TerminationFit:
    """The fit of one termination of a phase.

    `expected` is the chi2 that a refinement would reach in a linear approximation, `refined` the
    refinement itself, None where there was none.
    """

    phase: str
    termination: Termination
    expected: float
    refined: Refinement | None = None

    @property
    def chi2(self) -> float:
        return self.expected if self.refined is None else self.refined.agreement.chi2


def of_whole_cells(model: PatternModel) -> list[CrystalPhase]:
    """The phases whose particles consist of whole cells."""
    return [phase for phase in model.phases
            if isinstance(phase, CrystalPhase) and phase.family.whole_cells]


def compare_terminations(
    built: BuiltModel, found: Refinement, phase: CrystalPhase, *, refined: int = 5,
    on_done: Callable[[int, int], None] | None = None, should_stop: StopCheck | None = None,
) -> list[TerminationFit]:
    """All distinct terminations of a phase by chi2; the best `refined` of them are refined.

    `found` is the refinement of the model as it is. `on_done` receives the number of terminations
    computed and their total number.
    """
    every = terminations(phase.crystal)
    basis = _tangent(built.model, found)
    fits = []
    for number, one in enumerate(every, 1):
        if should_stop and should_stop():
            break
        fits.append(TerminationFit(
            phase.name, one, expected_chi2(built.model, found, basis, phase, one.corner)))
        if on_done:
            on_done(number, len(every))
    fits[0] = replace(fits[0], refined=found)  # the first one is that of the model
    order = sorted(range(1, len(fits)), key=lambda k: fits[k].expected)
    for k in order[:refined]:
        if should_stop and should_stop():
            break
        fits[k] = replace(fits[k], refined=_refined(
            built, found, phase, fits[k].termination.corner, should_stop=should_stop))
    return sorted(fits, key=lambda fit: (fit.refined is None, fit.chi2))


def termination_warnings(built: BuiltModel, found: Refinement) -> list[str]:
    """A warning for each phase with a termination that fits better by more than chance.

    Only terminations that differ along one axis are considered; the best one is refined before the
    warning.
    """
    if not found.converged:
        return []
    warnings = []
    limit = MORE_THAN_CHANCE * su_scale(found.agreement.gof) ** 2
    basis: FloatArray | None = None
    for phase in of_whole_cells(built.model):
        corners = neighbours(phase.crystal)
        if not corners:
            continue
        basis = _tangent(built.model, found) if basis is None else basis
        chi2 = [expected_chi2(built.model, found, basis, phase, corner) for corner in corners]
        best = int(np.argmin(chi2))
        if found.agreement.chi2 - chi2[best] < limit:
            continue
        other = _refined(built, found, phase, corners[best], max_cycles=CONFIRMATION_CYCLES)
        gain = found.agreement.chi2 - other.agreement.chi2
        if gain > limit:
            own = describe(phase.crystal, phase.crystal.termination)
            warnings.append(
                f"{phase.name}: particles with the termination {corner_text(corners[best])} "
                f"({faces_text(describe(phase.crystal, corners[best]))} at the faces) fit better "
                f"than those with {corner_text(own.corner)} ({faces_text(own)}): chi2 decreases by "
                f"{gain:.0f}, and {limit:.0f} is more than chance. Compare all terminations with "
                "'dse-engine terminations'.")
    return warnings


def corner_text(corner: Corner) -> str:
    return "[" + ", ".join(f"{value + 0.0:g}" for value in corner) + "]"


def faces_text(termination: Termination) -> str:
    """The layers at the faces: 'a: CsBr | PbBr2, b: ...'."""
    return ", ".join(f"{axis}: {first} | {last}"
                     for axis, (first, last) in zip("abc", termination.faces, strict=True))


def with_termination(model: PatternModel, phase: Phase, corner: Corner) -> PatternModel:
    """The model with another termination of one phase."""
    return model.with_phases(tuple(
        one.with_crystal(replace(one.crystal, termination=corner))
        if one is phase and isinstance(one, CrystalPhase) else one for one in model.phases))


def _tangent(model: PatternModel, found: Refinement) -> FloatArray:
    """An orthonormal basis (n_points, k) of the changes of the weighted pattern with parameters."""
    problem = PatternProblem(model)
    moving = [p.name for p in found.free if p.su is not None]
    evaluation = found.evaluation
    columns = model.linear_columns(evaluation)[:, evaluation.linear.active]
    slopes = np.hstack([problem.derivatives(evaluation, moving),
                        columns / model.observation.sigma[:, None]])
    length = np.linalg.norm(slopes, axis=0)
    basis, singular, _ = np.linalg.svd(slopes / np.where(length > 0, length, 1.0),
                                       full_matrices=False)
    return np.asarray(basis[:, singular > 1e-5 * singular[0]])


def expected_chi2(
    model: PatternModel, found: Refinement, basis: FloatArray, phase: Phase, corner: Corner
) -> float:
    """The chi2 of another termination after a refinement, in a linear approximation with the tangent `basis`."""
    if isinstance(phase, CrystalPhase) and phase.displacements:
        index = model.phases.index(phase)
        states = list(found.evaluation.states)
        states[index] = _state_of_termination(model, found, phase, states[index], corner)
        residual = model.evaluate_at(states, found.values, model.fixed_scales).linear.residual
    else:
        residual = with_termination(model, phase, corner).evaluate(found.values).linear.residual
    rest = residual - basis @ (basis.T @ residual)
    return float(rest @ rest)


def _state_of_termination(
    model: PatternModel, found: Refinement, phase: CrystalPhase, own: PhaseState, corner: Corner
) -> PhaseState:
    """The state of a phase with anisotropic displacements for another termination.

    The change of the sums is computed with isotropic displacements, since grouping the difference vectors
    of each termination by direction would take minutes.
    """
    local = model.local(model.phases.index(phase), found.values)
    plain = CrystalPhase(phase.name, phase.crystal, phase.family, phase.sizes, phase.exclusion_distance)
    other = plain.with_crystal(replace(plain.crystal, termination=corner))
    before, after = (one.state(local, model.sampling).sums for one in (plain, other))
    b_iso = np.array([phase.equivalent_b(label, local) if label in phase.displacements else 0.0
                      for label in phase.labels])
    damping = debye_waller(b_iso, model.sampling.q)
    factors = np.array([damping[s] * damping[t] for s, t in site_channels(len(phase.labels))])
    return replace(own, sums=own.sums + factors * (after - before))


def _refined(
    built: BuiltModel, found: Refinement, phase: Phase, corner: Corner, *,
    max_cycles: int | None = None, should_stop: StopCheck | None = None,
) -> Refinement:
    plan = built.document.refinement or RefinementPlan()
    stages: Sequence[Sequence[str]] = [[p.name for p in found.free]]
    return refine(
        with_termination(built.model, phase, corner), stages, start=found.values,
        restraints=built.restraints, max_cycles=max_cycles or plan.max_cycles,
        tolerance=plan.tolerance, should_stop=should_stop)
