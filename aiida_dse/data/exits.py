"""Exit codes of stored processes in words, also those of processes that version 0.1 ran."""

from __future__ import annotations

from aiida_dse.documents.status import EXITS, Failure, Outcome, PartsFailed, Status

#: Version 0.1 numbered the exits of work chains from 401 on, each kind of work chain in its own way
#: (today 401 and 402 are those of AiiDA's restart work chain). Its jobs had today's numbers.
_PARTS: dict[int, Outcome] = {401: PartsFailed.NOTHING_FINISHED, 402: PartsFailed.SOME_FAILED}
_SERIES = _PARTS | {403: PartsFailed.NO_ANALYSIS, 404: PartsFailed.SIMULTANEOUS_FAILED}
OLD_EXITS: dict[str, dict[int, Outcome]] = {
    "aiida.workflows:dse.refine": {
        401: Status.NOT_CONVERGED, 402: Status.UNDETERMINED, 403: Failure.INVALID_INPUT},
    "aiida.workflows:dse.build_model": {401: Failure.INVALID_INPUT},
    "aiida.workflows:dse.grid_search": _PARTS,
    "aiida.workflows:dse.compare_models": _PARTS,
    "aiida.workflows:dse.study": _PARTS,
    "aiida.workflows:dse.temperature_series": _SERIES,
    "aiida.workflows:dse.size_series": _SERIES,
}
#: Of two outcomes with the same number (a task that still runs has none), the later one.
_OUTCOMES: dict[int, Outcome] = {row.number: outcome for outcome, row in EXITS.items() if row.number}


def exit_word(process_type: str | None, version: str | None, number: int | None) -> str:
    """'not converged': what an exit status means for a process; '' for AiiDA's own and for 0.

    version: of the plugin that ran it, as AiiDA notes it.
    """
    if not number or ":dse." not in (process_type or ""):
        return ""
    outcome = None
    if (version or "").startswith("0.1."):
        outcome = OLD_EXITS.get(process_type or "", {}).get(number)
    outcome = outcome or _OUTCOMES.get(number)
    return "" if outcome is None else outcome.value.replace("_", " ")
