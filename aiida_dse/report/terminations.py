"""Tables of the terminations of a document: faces, dipole moments and fits."""

from __future__ import annotations

from collections.abc import Callable

from aiida_dse.documents import DocumentError
from aiida_dse.engine.crystal.terminations import Termination, terminations
from aiida_dse.engine.fit.leastsquares import Cycle
from aiida_dse.engine.fit.refine import Refinement, default_stages, refine
from aiida_dse.engine.resources import StopCheck
from aiida_dse.tasks.build import BuiltModel
from aiida_dse.tasks.terminations import (
    TerminationFit,
    compare_terminations,
    corner_text,
    faces_text,
    of_whole_cells,
)

#: Terminations that a table shows beyond the refined ones, unless all are requested.
SHOWN = 5


def termination_tables(
    built: BuiltModel, *, refined: int, every: bool,
    on_cycle: Callable[[Cycle], None] | None = None,
    on_done: Callable[[int, int], None] | None = None, should_stop: StopCheck | None = None,
) -> str:
    """A table of the terminations of each phase of whole cells.

    Raises DocumentError if there is no such phase, or if the refinement does not converge.
    """
    phases = of_whole_cells(built.model)
    if not phases:
        raise DocumentError(
            "no phase consists of whole cells, so there is no choice of the termination. Only "
            "parallelepipeds and quasi-cubes have terminations.")
    found: Refinement | None = None
    if built.measured:
        found = refine(built.model, built.stages or default_stages(built.model),
                       on_cycle=on_cycle, should_stop=should_stop, restraints=built.restraints)
        if not found.converged:
            raise DocumentError(
                f"the refinement of the document did not converge ({found.stop_reason}), so its "
                "terminations cannot be compared. Improve its starting values.")
    parts = []
    for phase in phases:
        if found is None:
            parts.append(_listed(phase.name, terminations(phase.crystal), every))
            continue
        fits = compare_terminations(
            built, found, phase, refined=refined, on_done=on_done, should_stop=should_stop)
        parts.append(_compared(phase.name, phase.crystal.termination, found, fits, every))
    return "\n\n".join(parts)


def _listed(phase: str, rows: tuple[Termination, ...], every: bool) -> str:
    shown = rows if every else rows[:4 * SHOWN]
    lines = [f"{phase}: {len(rows)} terminations that differ by symmetry; the first one is that of "
             "the document.", f"{'termination':26}{'dipole/e Å':>11}  layers at the faces"]
    lines += [f"{corner_text(one.corner):26}{_dipole(one):>11}  {faces_text(one)}" for one in shown]
    return "\n".join(lines + _rest(len(rows) - len(shown)))


def _compared(
    phase: str, own: tuple[float, float, float], found: Refinement,
    fits: list[TerminationFit], every: bool,
) -> str:
    n_refined = sum(fit.refined is not None for fit in fits)
    shown = fits if every else fits[:n_refined + SHOWN]
    lines = [
        f"{phase}: {len(fits)} terminations that differ by symmetry. chi2 is that of a refinement, "
        "or, in parentheses, its expected value.",
        f"{'termination':26}{'chi2':>12}{'change':>10}{'GoF':>9}{'dipole/e Å':>11}  "
        "layers at the faces",
    ]
    for fit in shown:
        one, chi2 = fit.termination, f"{fit.chi2:.1f}"
        gof = "" if fit.refined is None else f"{fit.refined.agreement.gof:.4f}"
        lines.append(
            f"{corner_text(one.corner):26}{chi2 if fit.refined else f'({chi2})':>12}"
            f"{fit.chi2 - found.agreement.chi2:+10.1f}{gof:>9}{_dipole(one):>11}  {faces_text(one)}"
            + ("  <- document" if one.corner == tuple(map(float, own)) else ""))
    lines += _rest(len(fits) - len(shown))
    best = fits[0].termination.corner
    if best != tuple(map(float, own)):
        lines.append(f"To use the best one, specify 'termination: {corner_text(best)}' in the "
                     f"phase {phase}.")
    return "\n".join(lines)


def _dipole(one: Termination) -> str:
    return "-" if one.dipole is None else f"{one.dipole:.2f}"


def _rest(number: int) -> list[str]:
    return [f"... and {number} more; --all prints them."] if number > 0 else []
