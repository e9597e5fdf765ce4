"""Figure of a comparison: residuals of all models on one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aiida_dse.documents.status import Task
from aiida_dse.io.results import Result

from .figures import CALCULATED, LABEL, OBSERVED, SMALL, head, new_figure

#: Number of points over which the residual is averaged for the line of the running r.m.s.
WINDOW = 25


def comparison_figure(result: Result[Any], *, width: float = 7.0) -> Figure:
    """Weighted residuals against q, one panel per model, with the best model by BIC on top.

    Grey: (obs - calc) / sigma; line: running root mean square, which is 1 for a model that
    describes the data. width in inches. Raises ValueError for results of other tasks.
    """
    if result.task is not Task.COMPARE:
        raise ValueError(f"the result is of task '{result.task}', not a comparison.")
    models = result.summary.models
    figure = new_figure((width, 1.1 + 1.35 * len(models)))
    panels = figure.subplots(len(models), squeeze=False, sharex=True)[:, 0]
    for panel, (name, row) in zip(panels, models.items(), strict=True):
        q = result.arrays[f"models/{name}/q"]
        residual = result.arrays[f"models/{name}/residual"]
        window = min(WINDOW, len(q))
        mean = np.convolve(residual**2, np.ones(window) / window, mode="same")
        panel.plot(q, residual, color=OBSERVED, lw=0.3, alpha=0.7)
        panel.plot(q, np.sqrt(mean), color=CALCULATED, lw=1.0)
        panel.axhline(0, color="black", lw=0.6)
        reach = max(4.5, 1.05 * float(np.quantile(np.abs(residual), 0.999)))
        panel.set(ylim=(-reach, reach), xlim=(q[0], q[-1]))
        panel.set_ylabel("(obs − calc) / σ", fontsize=SMALL)
        panel.tick_params(labelsize=SMALL, direction="in")
        panel.set_title(
            f"{name}:  GoF {row.gof:.3f},  $R_{{\\rm wp}}$ {100 * row.r_wp:.2f} %,  "
            f"{row.n_parameters} parameters,  BIC − best {row.delta_bic:,.0f}",
            fontsize=LABEL, loc="left", pad=3,
        )
    panels[-1].set_xlabel("$q$ (1/Å)", fontsize=LABEL)
    head(figure, result.changed(title=""), with_fit=False, remark=
         f"orange: root mean square over {WINDOW} points (1 where the model describes the data)")
    return figure
