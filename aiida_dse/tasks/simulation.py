"""The task 'simulate', in a module of its own, which loads neither refinements nor maps."""

from __future__ import annotations

import time

import numpy as np

from aiida_dse.documents.results import SimulationSummary
from aiida_dse.documents.status import Status
from aiida_dse.engine.model.agreement import Agreement
from aiida_dse.io.results import Result

from .build import BuiltModel
from .derived import phase_rows
from .summary import axis_arrays, common, pattern_arrays, unrefined_rows


def run_simulate(built: BuiltModel) -> Result[SimulationSummary]:
    """Simulate the pattern at the starting values.

    If there is a measured pattern, scales and background are fitted to it.
    """
    model = built.model
    clock = time.monotonic()
    if built.measured:
        evaluation = model.evaluate(model.start)
        arrays = pattern_arrays(model, evaluation)
        fit: Agreement | None = model.agreement(evaluation, 0)
    else:
        scales = {phase.name: built.document.scales.get(phase.name, 1.0) for phase in model.phases}
        evaluation = model.with_fixed_scales(scales).evaluate(model.start)
        arrays = axis_arrays(model)
        parts = {
            phase.name: scales[phase.name] * model.intensity(k, evaluation.states[k], model.start)
            for k, phase in enumerate(model.phases)
        }
        arrays |= {f"components/{name}": part for name, part in parts.items()}
        arrays["pattern/calculated"] = np.sum(list(parts.values()), axis=0)
        fit = None
    derived, _ = phase_rows(built, model.start, evaluation.states)
    return Result(SimulationSummary(
        **common(built, Status.COMPLETE, "complete", time.monotonic() - clock),
        parameters=unrefined_rows(model), derived=derived, agreement=fit,
    ), arrays)
