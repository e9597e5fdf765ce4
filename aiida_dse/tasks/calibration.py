"""The instrument from the pattern of a standard: its document, and the instrument that results from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aiida_dse.documents import parse_document
from aiida_dse.documents.model import ModelDocument
from aiida_dse.documents.results import RefinementSummary
from aiida_dse.engine.measurement.instrument import INSTRUMENT
from aiida_dse.engine.parameters import Kind
from aiida_dse.engine.units import FloatArray, two_theta_from_q
from aiida_dse.io.patterns import MeasuredPattern, read_pattern

from .build import build

#: The name of the phase of a standard.
STANDARD = "standard"
#: Number of terms of the background of a standard.
TERMS = 6
#: The parameters of an instrument that results contain in its section 'profile'.
PROFILE = ("U", "V", "W", "P", "X", "Y", "q_width")


def standard_document(
    pattern: Path, cif: Path, curve: Mapping[str, Any], *, lines: tuple[tuple[float, float], ...] = (),
    constant_q: bool = False, refine_cell: bool = False, b_iso: float | None = None, blank: Path | None = None,
) -> ModelDocument:
    """The document of the refinement of a standard, whose profile starts with the width of the highest reflection.

    curve: axis, wavelength, sigma and range as in the section of a pattern; constant_q: the profile has a constant
    width in q, as that of area detectors; b_iso: starting value in Å^2 where the CIF has none.
    """
    measured = read_pattern(pattern, axis=curve.get("axis"), wavelength=curve.get("wavelength"),
                            sigma=curve.get("sigma"), range_=curve.get("range"))
    width = _width(measured, constant_q=constant_q)
    profile = {"q_width": width} if constant_q else {"W": width**2 / 2, "X": width / 2}
    instrument: dict[str, Any] = {"profile": profile}
    if lines:
        instrument["lines"] = [{"wavelength": wavelength, "weight": weight} for wavelength, weight in lines]
    background: dict[str, Any] = {"chebyshev": TERMS}
    if blank is not None:
        background["blanks"] = {"blank": {**curve, "file": str(blank.resolve())}}
    phase: dict[str, Any] = {"structure": str(cif.resolve()), "bulk": {}}
    content = {
        "schema": "aiida-dse/model/2", "title": f"calibration with {pattern.name}",
        "pattern": {**curve, "file": str(pattern.resolve()), "instrument": instrument},
        "phases": {STANDARD: phase}, "background": background,
    }
    if b_iso is not None:
        from aiida_dse.io.structures import read_cif

        phase["B_iso"] = {site.label: b_iso for site in read_cif(cif).sites if site.b_iso is None}
    model = build(parse_document(content), Path()).model
    own = [p.name for p in model.phases[0].parameters]
    cell = [name for name in own if model.parameters[name].kind.spec.stage == 0] if refine_cell else []
    displacements = [name for name in own if model.parameters[name].kind is Kind.B_ISO]
    if constant_q:
        stages = [[*cell, f"{INSTRUMENT}.q_width"], [f"{INSTRUMENT}.zero", *displacements], [f"{INSTRUMENT}.X"]]
    else:
        stages = [[*cell, f"{INSTRUMENT}.zero"], [f"{INSTRUMENT}.W", f"{INSTRUMENT}.X", *displacements],
                  [f"{INSTRUMENT}.U", f"{INSTRUMENT}.V", f"{INSTRUMENT}.Y"]]
    return parse_document(content | {"refinement": {"stages": stages}})


def _width(measured: MeasuredPattern, *, constant_q: bool) -> float:
    """The width (FWHM) of the highest reflection, in degrees or 1/Å."""
    axis: FloatArray = measured.q if constant_q else two_theta_from_q(measured.q, measured.wavelength)
    height = measured.intensity - np.percentile(measured.intensity, 20)
    top = int(np.argmax(height))
    half = np.flatnonzero(height < height[top] / 2)
    low, high = half[half < top], half[half > top]
    if not (len(low) and len(high)):
        raise ValueError("the highest point of the pattern is at its end, so it is no reflection of a standard. Limit "
                         "the range of the pattern.")
    return float(max(axis[high[0]] - axis[low[-1]] - (axis[1] - axis[0]), axis[1] - axis[0]))


def instrument_section(summary: RefinementSummary, document: ModelDocument) -> dict[str, Any]:
    """The section 'instrument' of documents, with the refined values.

    Raises ValueError for a document without an instrument.
    """
    given = document.pattern.instrument
    if given is None:
        raise ValueError("the refinement contains no instrument.")
    found = given.model_dump(mode="json", exclude_defaults=True)
    values = {name.removeprefix(f"{INSTRUMENT}."): row.value for name, row in summary.parameters.items()
              if name.startswith(f"{INSTRUMENT}.")}
    found["zero"] = values["zero"]
    if given.displacement is not None:
        found["displacement"] |= {axis: values[f"displacement_{axis}"] for axis in ("along", "across")}
    kept = {key: value for key, value in found.get("profile", {}).items() if key not in PROFILE}
    found["profile"] = kept | {name: values[name] for name in PROFILE if values.get(name)}
    return found
