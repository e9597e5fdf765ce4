"""Meanings of exit statuses of stored processes, including those of version 0.1."""

from __future__ import annotations

from aiida_dse.documents.status import EXITS, Failure, Outcome, PartsFailed, Status

#: In version 0.1, the exit codes of work chains started at 401 and depended on the kind of work
#: chain (401 and 402 are now those of AiiDA's restart work chain). Codes of jobs are unchanged.
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
#: Outcomes by exit status; of two with the same status, the later one in the table.
_OUTCOMES: dict[int, Outcome] = {row.number: outcome for outcome, row in EXITS.items() if row.number}


def exit_word(process_type: str | None, version: str | None, number: int | None) -> str:
    """The meaning of an exit status, such as 'not converged'; '' for 0 and for codes of AiiDA.

    version: the version of the plugin that ran the process, as recorded by AiiDA.
    """
    if not number or ":dse." not in (process_type or ""):
        return ""
    outcome = None
    if (version or "").startswith("0.1."):
        outcome = OLD_EXITS.get(process_type or "", {}).get(number)
    outcome = outcome or _OUTCOMES.get(number)
    return "" if outcome is None else outcome.value.replace("_", " ")
