"""Comparison of models of one pattern: agreement, information criteria and residuals."""

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

#: GoF above which a model omits something that no information criterion can judge.
GOOD_FIT = 1.2


def compare(results: Mapping[str, Result[RefinementSummary]]) -> Result[ComparisonSummary]:
    """Compare refinements of several models, by name; the best model is the first.

    AIC = chi2 + 2 k and BIC = chi2 + k ln n, with k parameters (linear coefficients included) and n
    points; sigma is taken as known, so -2 ln L = chi2 + const. Akaike, IEEE Trans. Autom. Control
    19 (1974) 716; Schwarz, Ann. Stat. 6 (1978) 461. There are warnings for restrained models,
    because restraints enter neither chi2 nor n while their parameters count in k, and for different
    data or backgrounds, because chi2 of different points cannot be compared. Raises ValueError for
    fewer than two models, and for results that are not refinements.
    """
    if len(results) < 2:
        raise ValueError(
            f"the number of models is {len(results)}; a comparison needs at least two.")
    for name, result in results.items():
        if result.task is not Task.REFINE:
            raise ValueError(
                f"'{name}' is the result of the task '{result.task}', not of a refinement. Pass "
                "only results of 'dse-engine refine'."
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
        shapes=sorted({shape for result in results.values() for shape in result.summary.shapes}),
        disorder_models=sorted({one for result in results.values() for one in result.summary.disorder_models}),
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
    """Warnings about models with other data or another background than the reference."""
    warnings = []
    base = results[reference]
    for name, result in results.items():
        if name == reference:
            continue
        pairs = [(base.arrays[f"pattern/{key}"], result.arrays[f"pattern/{key}"])
                 for key in ("q", "observed", "sigma")]
        if any(a.shape != b.shape or not np.allclose(a, b, rtol=1e-9) for a, b in pairs):
            warnings.append(
                f"{name} and {reference} were refined against different data "
                f"({_data(result.summary.data)} and {_data(base.summary.data)}), so their chi2, "
                "AIC and BIC cannot be compared. Use the same pattern, range and sigma for both."
            )
        terms = [_background(r) for r in (base, result)]
        if terms[0] != terms[1]:
            warnings.append(
                f"{name} and {reference} have different backgrounds "
                f"({', '.join(sorted(terms[0] ^ terms[1]))}), to which part of the difference is "
                "due."
            )
    return warnings


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
        f"{', '.join(restrained)}: AIC and BIC are too severe for models that were refined under "
        "restraints, because restraints do not count while their parameters do. Compare these "
        "models with refinements without restraints, or with the parameters fixed."
    ]


def _fit_warnings(rows: Mapping[str, ModelRow], ranked: list[str]) -> list[str]:
    warnings = [f"{name} ended as '{rows[name].status}', so its numbers may not be those of its "
                "best fit." for name in ranked if not rows[name].status.is_minimum]
    best = rows[ranked[0]]
    if best.gof > GOOD_FIT:
        warnings.append(
            f"Even the best model has a GoF of {best.gof:.2f}. AIC and BIC rank the models but "
            "overstate the evidence, because none describes the data within sigma."
        )
    return warnings
