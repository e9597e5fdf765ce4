"""The parts that the results of all tasks share."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xraydb

import aiida_dse
from aiida_dse.documents import JointDocument, ModelDocument
from aiida_dse.engine.model.fixed_geometry import StoredPhase
from aiida_dse.engine.model.parameters import Parameter
from aiida_dse.engine.model.pattern import Evaluation, PatternModel
from aiida_dse.engine.model.phase import CrystalPhase
from aiida_dse.io.results import RESULT_SCHEMA

from .build import BuiltModel


def common_summary(
    built: BuiltModel, task: str, status: str, reason: str, seconds: float
) -> dict[str, Any]:
    """What every result says: task, outcome, sample, structures, data, versions, tables."""
    document, q = built.document, built.model.sampling.q
    structures = structure_rows(built)
    libraries = ("numpy", "scipy", "numba", "finufft", "xraydb", "gemmi")
    return {
        "schema": RESULT_SCHEMA,
        "task": task,
        "status": status,
        "stop_reason": reason,
        "title": document.title,
        "sample": document.sample.model_dump(exclude_none=True),
        "phases": list(document.phases),
        "structures": structures,
        # a list beside them: a search need not know the phases' names
        "space_groups": sorted({row["space_group"] for row in structures.values()} - {""}),
        "document_sha256": document_hash(document),
        "data": {
            "n_points": len(q), "q_min": float(q[0]), "q_max": float(q[-1]),
            "wavelength": built.model.observation.wavelength, "sha256": built.files,
        },
        "seconds": seconds,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine_version": aiida_dse.__version__,
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
        "tables": scattering_tables(),
        "warnings": [],
    }


def structure_rows(built: BuiltModel) -> dict[str, dict[str, str]]:
    """Name and space group (Hermann-Mauguin without spaces, '' if unknown) of each phase."""
    rows = {}
    for phase in built.model.phases:
        rows[phase.name] = {"name": "atom list", "space_group": ""}
        if isinstance(phase, CrystalPhase):
            rows[phase.name] = {"name": phase.crystal.name,
                                "space_group": "".join(phase.crystal.space_group.split())}
        elif isinstance(phase, StoredPhase):
            # as of what the distances were sampled from
            rows[phase.name] = {key: str(phase.stored.about.get(key, ""))
                                for key in ("name", "space_group")}
    return rows


def scattering_tables() -> dict[str, str]:
    """Which tables the form factors came from, and the version of the file that holds them."""
    told = re.search(r"XrayDB Version:\s*([^\s,]+)", xraydb.get_xraydb().get_version())
    return {
        "file": f"XrayDB {told[1] if told else 'of unknown version'}",
        "f0": "Waasmaier & Kirfel, Acta Cryst. A51 (1995) 416",
        "f1_f2": "Chantler, J. Phys. Chem. Ref. Data 29 (2000) 597",
    }


def document_hash(document: ModelDocument | JointDocument) -> str:
    """SHA-256 of the canonical document: what two results must share to be parts of one.

    What is to be found out about the uncertainty is left out: more samples or a longer chain of
    the same refinement go on from an earlier result.
    """
    content = {k: v for k, v in document.canonical().items() if k != "uncertainty"}
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def axis_arrays(model: PatternModel) -> dict[str, np.ndarray]:
    """q (n,) 1/Å and two_theta (n,) degrees under their paths."""
    return {"pattern/q": model.sampling.q, "pattern/two_theta": model.observation.two_theta}


def pattern_arrays(model: PatternModel, evaluation: Evaluation) -> dict[str, np.ndarray]:
    """The observed and calculated pattern and its components (n,) under their paths."""
    observation = model.observation
    arrays = axis_arrays(model) | {
        "pattern/observed": observation.intensity,
        "pattern/sigma": observation.sigma,
        "pattern/calculated": model.calculated(evaluation),
    }
    parts = model.components(evaluation)
    return arrays | {f"components/{name}": part for name, part in parts.items()}


def parameter_rows(
    model: PatternModel, values: Mapping[str, float], free: Sequence[Parameter]
) -> dict[str, dict[str, Any]]:
    """Every parameter with value, unit, unscaled s.u., bounds, flags and tie."""
    refined = {p.name: p for p in free}
    tied = {tie.target: tie.expression for tie in model.ties}
    found = {}
    for name, start in model.parameters.items():
        p = refined.get(name, start)
        row: dict[str, Any] = {
            "value": values[name], "unit": p.unit, "su": p.su, "free": name in refined,
        }
        if name in refined:
            row |= {"lower": p.lower, "upper": p.upper, "at_bound": p.at_bound,
                    "insensitive": p.insensitive, "start": start.value}
        if name in tied:
            row["tie"] = tied[name]
        found[name] = row
    return found
