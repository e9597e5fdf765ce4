"""The functions simulate, evaluate, refine, scan and to_document for notebooks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel

from aiida_dse.documents.model import AxisKind
from aiida_dse.engine.fit.leastsquares import Cycle
from aiida_dse.engine.maps.gof_map import ScanProgress
from aiida_dse.engine.resources import Resources
from aiida_dse.engine.units import FloatArray, q_from_two_theta
from aiida_dse.io.patterns import MeasuredPattern
from aiida_dse.tasks.build import BuiltModel
from aiida_dse.tasks.partials import partial_patterns
from aiida_dse.tasks.peak_positions import check_axis
from aiida_dse.tasks.run import run_refine, run_scan
from aiida_dse.tasks.simulation import run_simulate

from .model import PATTERN_FILE, Inputs, Model, as_model, as_section, inputs_of, simulated_inputs
from .pattern import Pattern, Polarisation, measurement_section
from .phase import Phase
from .results import PatternResult, RefinementResult, ScanResult

#: Lists of parameter names or wildcards, one list per stage; a plain list of names is one stage.
Stages = Sequence[str] | Sequence[Sequence[str]]
#: Parameter -> values, or a list of axes as in documents.
Axes = Mapping[str, ArrayLike] | Sequence[Mapping[str, Any] | BaseModel]


@overload
def simulate(
    q: ArrayLike, model: Model | Phase, *, wavelength: float, axis: AxisKind = ...,
    polarisation: Polarisation = ..., measurement: Mapping[str, Any] | None = ..., parts: None = None,
    threads: int | None = None,
) -> FloatArray: ...


@overload
def simulate(
    q: ArrayLike, model: Model | Phase, *, wavelength: float, axis: AxisKind = ...,
    polarisation: Polarisation = ..., measurement: Mapping[str, Any] | None = ...,
    parts: Literal["phases", "sites"],
    threads: int | None = None,
) -> dict[str, FloatArray]: ...


def simulate(
    q: ArrayLike, model: Model | Phase, *, wavelength: float,
    axis: AxisKind = "q_inverse_angstrom", polarisation: Polarisation = "none",
    measurement: Mapping[str, Any] | None = None,
    parts: Literal["phases", "sites"] | None = None, threads: int | None = None,
) -> FloatArray | dict[str, FloatArray]:
    """I(q) (n,) of the model at its starting values, in electron units per mean particle.

    q: (n,), increasing, in 1/Å unless `axis` is 'two_theta' (degrees) or 'q_inverse_nm';
    wavelength: Å. Background and blanks are omitted; the scale of a phase is 1 unless the model's
    `scales` specify it. parts: 'phases' returns the pattern of each phase by name, 'sites' the
    partial Debye sum of each pair of sites by 'phase.site-site' (self-scattering included); the
    parts add up to I(q). polarisation, measurement: as for a Pattern.

    Raises ValueError if the wavelength cannot reach the axis or the model is invalid.
    """
    points = _points(q, axis, wavelength)
    section = {"file": PATTERN_FILE, "axis": axis, "wavelength": wavelength,
               "polarisation": polarisation, **measurement_section(measurement)}
    inputs = simulated_inputs(as_model(model), section, points)
    built = replace(inputs.built(threads), measured=False)
    if parts == "sites":
        return partial_patterns(built)
    if parts not in (None, "phases"):
        raise ValueError(f"parts is {parts!r}; it must be None, 'phases' or 'sites'.")
    arrays = run_simulate(built).arrays
    if parts is None:
        return np.asarray(arrays["pattern/calculated"])
    return {phase.name: arrays[f"components/{phase.name}"] for phase in as_model(model).all_phases}


def evaluate(
    pattern: Pattern, model: Model | Phase, *, threads: int | None = None
) -> PatternResult:
    """Compare a model at its starting values with a pattern.

    Only scales, blanks and background are fitted. Raises ValueError if the model is invalid or the
    peak positions contradict the axis.
    """
    model = as_model(model)
    inputs = inputs_of(model, pattern)
    return PatternResult(run_simulate(_checked(inputs, threads)), model, inputs)


def refine(
    pattern: Pattern, model: Model | Phase, stages: Stages | None = None, *,
    method: Literal["least_squares", "cobyqa", "differential_evolution"] = "least_squares",
    starts: int = 1, seed: int = 0, max_cycles: int = 60, tolerance: float = 0.01,
    weights: Literal["observed", "calculated"] = "observed",
    on_cycle: Callable[[Cycle], None] | None = None, threads: int | None = None,
) -> RefinementResult:
    """Refine the parameters of a model against a pattern.

    stages: lists of parameter names ('*' is a wildcard), each freed in addition to the earlier ones
    (None: cell and sizes, then B_iso and widths, then coordinates). method, starts, seed,
    max_cycles, tolerance: as in the document's 'refinement'; weights: 'calculated' takes sigma from the
    calculated pattern, for fewer than about 50 counts; on_cycle is called after every cycle, and
    with `derivatives` during cycles that last longer than 5 s.
    A refinement that did not converge returns a result, too; check `.converged`.

    Raises ValueError for unknown parameters (with the nearest names), for coordinates that symmetry
    fixes, and if the peak positions contradict the axis.
    """
    model = as_model(model)
    inputs = inputs_of(model, pattern, refinement=_refinement(
        stages, method=method, starts=starts, seed=seed, max_cycles=max_cycles,
        tolerance=tolerance, weights=weights))
    result = run_refine(_checked(inputs, threads), on_cycle=on_cycle)
    return RefinementResult(result, model.continued(result.summary), inputs)


def scan(
    pattern: Pattern, model: Model | Phase, axes: Axes, *, refine: Sequence[str] = (),
    method: Literal["auto", "direct"] = "auto", adaptive: bool = False,
    on_progress: Callable[[ScanProgress], None] | None = None, threads: int | None = None,
) -> ScanResult:
    """Compute a GoF map over one to four axes.

    axes: parameter -> values ({"CsPbBr3.a": np.linspace(8.1, 8.3, 21)}), or mappings as in the
    document's 'scan' for angles, distances and paths; refine: parameters refined at every point;
    method: 'auto' interpolates the map from exact patterns where this saves time, and checks it
    against exact evaluations at other points; 'direct' computes every point; adaptive: where every
    point has to be computed, refine the grid from coarse to fine, and interpolate where the GoF is
    high.

    Raises ValueError for unknown parameters and for grids without a reachable point.
    """
    model = as_model(model)
    inputs = inputs_of(model, pattern, scan=_scan(axes, refine, method, adaptive))
    result = run_scan(_checked(inputs, 1), on_progress=on_progress,
                      resources=Resources.from_environment(threads))
    return ScanResult(result, model.continued(result.summary), inputs)


def to_document(
    folder: str | Path, pattern: Pattern | ArrayLike, model: Model | Phase, *,
    stages: Stages | None = None, axes: Axes | None = None, wavelength: float | None = None,
    axis: AxisKind = "q_inverse_angstrom", polarisation: Polarisation = "none",
    measurement: Mapping[str, Any] | None = None,
) -> Path:
    """Write model.yaml and its files for `dse-engine` and `aiida-dse launch`; return its path.

    pattern: a Pattern, or the regular axis of a simulation, which also requires a wavelength;
    stages and axes: as in `refine` and `scan`. Results have a method of the same name. Raises
    ValueError if the folder contains such files already or the document is invalid.
    """
    model = as_model(model)
    if isinstance(pattern, Pattern):
        inputs = inputs_of(
            model, pattern, refinement=None if stages is None else _refinement(stages),
            scan=None if axes is None else _scan(axes))
    else:
        if wavelength is None:
            raise ValueError("the document of a simulation needs the wavelength; specify it in Å.")
        section = {"axis": axis, "wavelength": wavelength, "polarisation": polarisation,
                   "grid": _grid(pattern), **measurement_section(measurement)}
        inputs = simulated_inputs(model, section, None)
    inputs.built()
    return inputs.write(folder)


def _checked(inputs: Inputs, threads: int | None) -> BuiltModel:
    """Build the model and check its peak positions; warn of small deviations."""
    built = inputs.built(threads)
    if remark := check_axis(built):
        warnings.warn(remark, stacklevel=3)
    return built


def _refinement(stages: Stages | None, **plan: Any) -> dict[str, Any]:
    """The document's 'refinement'."""
    if stages is not None:
        names = [stages] if isinstance(stages, str) else list(stages)
        flat = [isinstance(one, str) for one in names]
        if not names:
            raise ValueError("stages is empty. Omit it for the default stages, or use evaluate, "
                             "which refines nothing.")
        if any(flat) and not all(flat):
            raise ValueError(f"stages mixes names and lists of names: {names}. Specify each stage "
                             "as a list.")
        plan["stages"] = [names] if any(flat) else [list(stage) for stage in names]
    return plan


def _scan(
    axes: Axes, refine: Sequence[str] = (), method: str = "auto", adaptive: bool = False
) -> dict[str, Any]:
    """The document's 'scan'."""
    if isinstance(axes, Mapping):
        sections = [{"parameter": name, "values": np.asarray(values, dtype=float)}
                    for name, values in axes.items()]
    else:
        sections = [as_section(one) for one in axes]
    return {"axes": sections, "refine": list(refine), "method": method, "adaptive": adaptive}


def _points(x: ArrayLike, axis: AxisKind, wavelength: float) -> MeasuredPattern:
    """The points of a simulation; intensity and sigma are ones, because they are not used."""
    values = np.array(x, dtype=float, ndmin=1)
    if values.ndim != 1:
        raise ValueError(f"the axis has the shape {values.shape}, but it must be one-dimensional.")
    by_angle = axis == "two_theta"
    q = q_from_two_theta(values, wavelength) if by_angle else \
        values / (10.0 if axis == "q_inverse_nm" else 1.0)
    ones = np.ones(len(q))
    return MeasuredPattern(q, values if by_angle else None, ones, ones, axis, wavelength, "", "")


def _grid(x: ArrayLike) -> dict[str, float]:
    """The document's 'grid' of a regular axis. Raises ValueError if it is not regular."""
    values = np.asarray(x, dtype=float)
    steps = np.diff(values)
    if len(steps) == 0 or not np.allclose(steps, steps[0], rtol=1e-6, atol=0):
        raise ValueError(
            "the document of a simulation needs a regular axis (start, step, stop), but the points "
            "are not equally spaced. Use np.linspace or np.arange."
        )
    return {"start": float(values[0]), "stop": float(values[-1]),
            "step": float((values[-1] - values[0]) / len(steps))}
