"""Models of the same pattern side by side: agreement, information criteria, residuals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

import aiida_dse
from aiida_dse.io.results import RESULT_SCHEMA, Result

#: A fit worse than this leaves something out that no information criterion can judge.
GOOD_FIT = 1.2


def compare(results: Mapping[str, Result]) -> Result:
    """The models in `results` (name: a refinement), the best first.

    AIC = chi2 + 2 k and BIC = chi2 + k ln n (k parameters, linear ones included; n points; sigma
    taken as known, so -2 ln L = chi2 + const.). Akaike, IEEE Trans. Autom. Control 19 (1974) 716;
    Schwarz, Ann. Stat. 6 (1978) 461. Warns where data or background differ: chi2 of other points
    cannot be compared. Raises ValueError for fewer than two models or what is no refinement.
    """
    if len(results) < 2:
        raise ValueError(f"{len(results)} model is no comparison: give at least two.")
    for name, result in results.items():
        if result.task != "refine":
            raise ValueError(
                f"'{name}' is the result of '{result.task}', not of a refinement. Compare "
                "refinements: 'dse-engine refine' makes one."
            )
    rows = {name: _row(result) for name, result in results.items()}
    ranked = sorted(rows, key=lambda name: float(rows[name]["bic"]))
    best = rows[ranked[0]]
    for row in rows.values():
        row["delta_aic"] = row["aic"] - best["aic"]
        row["delta_bic"] = row["bic"] - best["bic"]
    first = results[ranked[0]].summary
    warnings = [*_differences(results, ranked[0]), *_fit_warnings(rows, ranked)]
    summary: dict[str, Any] = {
        "schema": RESULT_SCHEMA, "task": "compare", "status": "complete",
        "stop_reason": "complete", "title": first.get("title", ""),
        "sample": first.get("sample", {}), "phases": first["phases"],
        "structures": first.get("structures", {}), "space_groups": first.get("space_groups", []),
        "best": ranked[0], "ranking": ranked,
        "models": {name: rows[name] for name in ranked}, "data": first["data"],
        "agreement": first["agreement"],
        "seconds": sum(float(result.summary["seconds"]) for result in results.values()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine_version": aiida_dse.__version__, "warnings": warnings,
    }
    arrays = {}
    for name in ranked:
        source = results[name].arrays
        for key in ("q", "two_theta", "observed", "sigma", "calculated"):
            arrays[f"models/{name}/{key}"] = source[f"pattern/{key}"]
        arrays[f"models/{name}/residual"] = (
            (source["pattern/observed"] - source["pattern/calculated"]) / source["pattern/sigma"]
        )
    return Result(summary, arrays)


def _row(result: Result) -> dict[str, Any]:
    fit, summary = result.summary["agreement"], result.summary
    chi2, k, n = float(fit["chi2"]), int(fit["n_parameters"]), int(fit["n_points"])
    return {
        "gof": fit["gof"], "r_wp": fit["r_wp"], "chi2": chi2, "n_parameters": k, "n_points": n,
        "r_wp_background_subtracted": fit["r_wp_background_subtracted"],
        "aic": chi2 + 2 * k, "bic": chi2 + k * math.log(n),
        "durbin_watson": fit["durbin_watson"], "status": summary["status"],
        "title": summary.get("title", ""), "phases": summary["phases"],
        "document_sha256": summary["document_sha256"],
    }


def _differences(results: Mapping[str, Result], reference: str) -> list[str]:
    """Warnings where a model was judged on other data or another background than the best one."""
    found = []
    base = results[reference]
    for name, result in results.items():
        if name == reference:
            continue
        pairs = [(base.arrays[f"pattern/{key}"], result.arrays[f"pattern/{key}"])
                 for key in ("q", "observed", "sigma")]
        if any(a.shape != b.shape or not np.allclose(a, b, rtol=1e-9) for a, b in pairs):
            one, other = base.summary["data"], result.summary["data"]
            found.append(
                f"{name} and {reference} were refined against different data "
                f"({_data(other)} against {_data(one)}): their chi2, AIC and BIC cannot be "
                "compared. Give both the same pattern, range and sigma."
            )
        terms = [_background(r) for r in (base, result)]
        if terms[0] != terms[1]:
            found.append(
                f"{name} and {reference} have different backgrounds "
                f"({', '.join(sorted(terms[0] ^ terms[1]))}): part of the difference is theirs."
            )
    return found


def _data(data: Mapping[str, Any]) -> str:
    return (f"{data['n_points']} points, q {data['q_min']:.3f}-{data['q_max']:.3f} 1/Å, "
            f"{data['wavelength']:g} Å")


def _background(result: Result) -> set[str]:
    return {name for name in result.summary["linear"]
            if name.startswith(("background.", "blank."))}


def _fit_warnings(rows: Mapping[str, Mapping[str, Any]], ranked: list[str]) -> list[str]:
    found = [f"{name} ended as '{rows[name]['status']}': its numbers may not be those of its best "
             "fit" for name in ranked if rows[name]["status"] not in ("converged", "singular")]
    best = rows[ranked[0]]
    if best["gof"] > GOOD_FIT:
        found.append(
            f"even the best model has GoF {best['gof']:.2f}: AIC and BIC rank the models but "
            "overstate the evidence, since none describes the data within sigma."
        )
    return found
