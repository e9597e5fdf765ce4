"""Comparison of models of one pattern: agreement, information criteria, residuals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

import aiida_dse
from aiida_dse.documents.records import DataRow
from aiida_dse.documents.results import ComparisonSummary, ModelRow, RefinementSummary
from aiida_dse.documents.status import Status, Task
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.engine.parameters import Kind
from aiida_dse.io.results import Result

#: A fit worse than this leaves something out that no information criterion can judge.
GOOD_FIT = 1.2


def compare(results: Mapping[str, Result[RefinementSummary]]) -> Result[ComparisonSummary]:
    """The models in `results` (name: a refinement), the best first.

    AIC = chi2 + 2 k and BIC = chi2 + k ln n (k parameters, linear ones included; n points; sigma
    taken as known, so -2 ln L = chi2 + const.). Restraints enter neither chi2 nor n, while the
    parameters that they hold count in k, so restrained models are warned about. Akaike, IEEE Trans.
    Autom. Control 19 (1974) 716; Schwarz, Ann. Stat. 6 (1978) 461. Warns where data or background
    differ: chi2 of other points cannot be compared. Raises ValueError for fewer than two models or
    what is no refinement.
    """
    if len(results) < 2:
        raise ValueError(f"{len(results)} model cannot be compared: at least two are needed.")
    for name, result in results.items():
        if result.task is not Task.REFINE:
            raise ValueError(
                f"'{name}' is the result of '{result.task}', not of a refinement. Compare "
                "refinements, as 'dse-engine refine' makes them."
            )
    rows = {name: _row(result.summary) for name, result in results.items()}
    ranked = sorted(rows, key=lambda name: rows[name].bic)
    best = rows[ranked[0]]
    rows = {name: rows[name].model_copy(update={
        "delta_aic": rows[name].aic - best.aic, "delta_bic": rows[name].bic - best.bic})
        for name in ranked}
    first = results[ranked[0]].summary
    summary = ComparisonSummary(
        status=Status.COMPLETE, stop_reason="complete", title=first.title, sample=first.sample,
        phases=first.phases, structures=first.structures, space_groups=first.space_groups,
        best=ranked[0], ranking=ranked, models=rows, data=first.data, agreement=first.agreement,
        seconds=sum(result.summary.seconds for result in results.values()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        engine_version=aiida_dse.__version__, numerics_version=NUMERICS_VERSION,
        warnings=[*_differences(results, ranked[0]), *_restraint_warnings(results, ranked),
                  *_fit_warnings(rows, ranked)],
    )
    arrays = {}
    for name in ranked:
        source = results[name].arrays
        for key in ("q", "two_theta", "observed", "sigma", "calculated"):
            arrays[f"models/{name}/{key}"] = source[f"pattern/{key}"]
        arrays[f"models/{name}/residual"] = (
            (source["pattern/observed"] - source["pattern/calculated"]) / source["pattern/sigma"]
        )
    return Result(summary, arrays)


def _row(summary: RefinementSummary) -> ModelRow:
    fit = summary.agreement
    chi2, k, n = fit.chi2, fit.n_parameters, fit.n_points
    return ModelRow(
        gof=fit.gof, r_wp=fit.r_wp, chi2=chi2, n_parameters=k, n_points=n,
        r_wp_background_subtracted=fit.r_wp_background_subtracted,
        aic=chi2 + 2 * k, bic=chi2 + k * math.log(n), durbin_watson=fit.durbin_watson,
        status=summary.status, title=summary.title, phases=summary.phases,
        document_sha256=summary.document_sha256,
    )


def _differences(results: Mapping[str, Result[RefinementSummary]], reference: str) -> list[str]:
    """Warnings where a model was judged on other data or another background than the best one."""
    found = []
    base = results[reference]
    for name, result in results.items():
        if name == reference:
            continue
        pairs = [(base.arrays[f"pattern/{key}"], result.arrays[f"pattern/{key}"])
                 for key in ("q", "observed", "sigma")]
        if any(a.shape != b.shape or not np.allclose(a, b, rtol=1e-9) for a, b in pairs):
            one, other = base.summary.data, result.summary.data
            found.append(
                f"{name} and {reference} were refined against different data "
                f"({_data(other)} against {_data(one)}): their chi2, AIC and BIC cannot be "
                "compared. Use the same pattern, range and sigma for both."
            )
        terms = [_background(r) for r in (base, result)]
        if terms[0] != terms[1]:
            found.append(
                f"{name} and {reference} have different backgrounds "
                f"({', '.join(sorted(terms[0] ^ terms[1]))}): part of the difference is due to "
                f"them."
            )
    return found


def _data(data: DataRow | None) -> str:
    if data is None:
        return "unknown points"
    return (f"{data.n_points} points, q {data.q_min or 0:.3f}-{data.q_max or 0:.3f} 1/Å, "
            f"{data.wavelength or 0:g} Å")


def _background(result: Result[RefinementSummary]) -> set[str]:
    return {name for name, row in result.summary.linear.items() if row.kind is not Kind.SCALE}


def _restraint_warnings(
    results: Mapping[str, Result[RefinementSummary]], ranked: list[str]
) -> list[str]:
    restrained = [name for name in ranked if results[name].summary.restraints]
    if not restrained:
        return []
    return [
        f"{', '.join(restrained)}: refined under restraints, which AIC and BIC do not count, while k "
        "counts the parameters that they hold. The criteria are too severe for these models; compare "
        "them with refinements without restraints or with the parameters fixed."
    ]


def _fit_warnings(rows: Mapping[str, ModelRow], ranked: list[str]) -> list[str]:
    found = [f"{name} ended as '{rows[name].status}': its numbers may not be those of its best "
             "fit." for name in ranked if not rows[name].status.is_minimum]
    best = rows[ranked[0]]
    if best.gof > GOOD_FIT:
        found.append(
            f"Even the best model has GoF {best.gof:.2f}: AIC and BIC rank the models but "
            "overstate the evidence, since none describes the data within sigma."
        )
    return found
