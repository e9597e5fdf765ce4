"""Fields of results that all tasks share: data, structures, parameters, versions and hashes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

import aiida_dse
from aiida_dse.documents import ModelDocument, SimultaneousDocument
from aiida_dse.documents.records import DataRow, LinearRow, ParameterRow, StructureRow, Tables
from aiida_dse.documents.status import Status
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.engine.fit.covariance import Covariance
from aiida_dse.engine.model.constraints import Constraint
from aiida_dse.engine.model.crystal_phase import CrystalPhase
from aiida_dse.engine.model.fixed_geometry import PairDistancesPhase
from aiida_dse.engine.model.pattern import Evaluation, PatternModel
from aiida_dse.engine.parameters import Parameter
from aiida_dse.engine.scattering.tables import tables_version

from .build import BuiltModel

#: Libraries whose versions results record.
LIBRARIES = ("numpy", "scipy", "numba", "finufft", "xraydb", "gemmi", "emcee")


def common(built: BuiltModel, status: Status, reason: str, seconds: float) -> dict[str, Any]:
    """The fields of a summary that all tasks of a single model share."""
    document = built.document
    structures = structure_rows(built)
    return {
        "status": status, "stop_reason": reason, "title": document.title,
        "sample": document.sample.model_dump(exclude_none=True),
        "phases": list(document.phases), "structures": structures,
        "space_groups": sorted({row.space_group for row in structures.values()} - {""}),
        "shapes": sorted({one.kind_of_particle for one in document.phases.values()}),
        "disorder_models": sorted({kind for one in document.phases.values() for kind in one.disorder}),
        "document_sha256": document_hash(document), "document": document.resolved(),
        "data": data_row(built), "seconds": seconds,
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "tables": scattering_tables(), "warnings": list(built.notes), **versions(),
    }


def versions() -> dict[str, Any]:
    """Time of creation and versions of the package and its numerics."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine_version": aiida_dse.__version__, "numerics_version": NUMERICS_VERSION,
    }


def data_row(built: BuiltModel) -> DataRow:
    """Number and range of the points used, wavelength, and SHA-256 of the files."""
    q = built.model.observation.q
    return DataRow(
        n_points=len(q), q_min=float(q[0]), q_max=float(q[-1]),
        wavelength=built.model.observation.wavelength, sha256=built.files,
    )


def structure_rows(built: BuiltModel) -> dict[str, StructureRow]:
    """Name and space group (Hermann-Mauguin without spaces, '' if unknown) of each phase."""
    rows = {}
    for phase in built.model.phases:
        rows[phase.name] = StructureRow(name="atom list")
        if isinstance(phase, CrystalPhase):
            rows[phase.name] = StructureRow(
                name=phase.crystal.name, space_group="".join(phase.crystal.space_group.split()))
        elif isinstance(phase, PairDistancesPhase):
            # name and space group of the structure from which the distances were computed
            rows[phase.name] = StructureRow(
                name=str(phase.stored.about.get("name", "")),
                space_group=str(phase.stored.about.get("space_group", "")))
    return rows


def scattering_tables() -> Tables:
    """The tables of form factors, and the version of the file that contains them."""
    return Tables(
        file=f"XrayDB {tables_version()}",
        f0="Waasmaier & Kirfel, Acta Cryst. A51 (1995) 416",
        f1_f2="Chantler, J. Phys. Chem. Ref. Data 29 (2000) 597",
    )


def engine_identity() -> str:
    """Versions of numerics and tables; engines with the same identity compute the same numbers."""
    return f"numerics {NUMERICS_VERSION}, {scattering_tables().file}"


def document_hash(document: ModelDocument | SimultaneousDocument) -> str:
    """SHA-256 of the canonical document, which decides whether one result can continue another.

    The title is excluded, and so is the plan of the uncertainty, so that an earlier result can be
    continued with more samples or a longer chain.
    """
    content = {k: v for k, v in document.canonical().items() if k not in ("title", "uncertainty")}
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def axis_arrays(model: PatternModel) -> dict[str, np.ndarray]:
    """q (n,) in 1/Å and two_theta (n,) in degrees by path."""
    return {"pattern/q": model.observation.q, "pattern/two_theta": model.observation.two_theta}


def pattern_arrays(model: PatternModel, evaluation: Evaluation) -> dict[str, np.ndarray]:
    """The observed and the calculated pattern and its components (n,) by path."""
    observation = model.observation
    arrays = axis_arrays(model) | {
        "pattern/observed": observation.intensity,
        "pattern/sigma": observation.sigma,
        "pattern/calculated": model.calculated(evaluation),
    }
    parts = model.components(evaluation)
    return arrays | {f"components/{name}": part for name, part in parts.items()}


def parameter_rows(
    parameters: Mapping[str, Parameter], start: Mapping[str, float],
    constraints: Sequence[Constraint] = (),
) -> dict[str, ParameterRow]:
    """All parameters with kind, value, unit, unscaled s.u., status, bounds and constraint."""
    expressions = {one.target: one.expression for one in constraints}
    found = {}
    for name, p in parameters.items():
        refined = p.status.refined
        found[str(name)] = ParameterRow(
            kind=p.kind, value=p.value, unit=p.unit, su=p.su, status=p.status,
            lower=p.lower if refined and math.isfinite(p.lower) else None,
            upper=p.upper if refined and math.isfinite(p.upper) else None,
            start=start[name] if refined else None, constraint=expressions.get(name),
        )
    return found


def linear_rows(linear: Sequence[Parameter]) -> dict[str, LinearRow]:
    """Scale factors, blanks and background terms."""
    return {str(p.name): LinearRow(kind=p.kind, value=p.value, su=p.su, status=p.status)
            for p in linear}


def unrefined_rows(model: PatternModel) -> dict[str, ParameterRow]:
    """All parameters at their starting values, none of them refined."""
    start = model.start
    parameters = {
        name: p.changed(value=start[name], lower=min(p.lower, start[name]),
                        upper=max(p.upper, start[name]))
        for name, p in model.parameters.items()
    }
    return parameter_rows(parameters, start, model.constraints)


def covariance_arrays(covariance: Covariance) -> dict[str, np.ndarray]:
    """Names and unscaled covariance (n, n) of refined parameters and linear coefficients."""
    return {"covariance/names": np.array(covariance.names, dtype=str),
            "covariance/matrix": covariance.matrix}
