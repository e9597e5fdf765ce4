"""Figure of a simultaneous refinement: fits, and refined parameters against temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aiida_dse.documents.results import SimultaneousSummary
from aiida_dse.documents.status import Task
from aiida_dse.engine.parameters import Kind, ParameterName
from aiida_dse.io.results import Result

from .figures import B_SYMBOL, CALCULATED, LABEL, OBSERVED, PHASES, SMALL, head, new_figure

#: Largest number of panels of parameters next to the fits.
MAX_PARAMETERS = 12
Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def simultaneous_figure(result: Result[Any], *, size: tuple[float, float] | None = None) -> Figure:
    """All fits in a stack, and the parameters that differ between patterns against temperature.

    size: width and height in inches (None: by number of patterns). Each pattern is divided by its
    largest intensity and drawn on a square-root scale, with its weighted residual below. The s.u.
    of parameters are scaled by max(1, GoF); parametric constraints are drawn as lines. Raises
    ValueError for results of other tasks.
    """
    if result.task is not Task.SIMULTANEOUS:
        raise ValueError(f"the result is of task '{result.task}'; draw it with fit_figure.")
    patterns = result.summary.patterns
    curves = _parameters(result.summary)
    columns = 1 if len(curves) < 5 else 2
    n_rows = -(-len(curves) // columns)
    figure = new_figure(size or (3.6 + 2.1 * columns * bool(curves),
                                 max(4.5, 0.85 * len(patterns) + 0.8, 1.05 * n_rows + 0.8)))
    widths = (3.4, 2.1 * columns)[: 1 + bool(curves)]
    parts = np.ravel(figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False))
    _stack(parts[0].add_subplot(), result)
    if curves:
        _draw_parameters(parts[1], curves, columns, n_rows, _temperatures(result.summary))
    head(figure, result)
    return figure


def _stack(panel: Any, result: Result[Any]) -> None:
    """Draw the patterns by temperature, with the coldest at the bottom."""
    temperatures = _temperatures(result.summary)
    names = list(result.summary.patterns)
    order = range(len(names)) if temperatures is None else np.argsort(temperatures, kind="stable")
    step = 1.5
    for row, name in enumerate(names[k] for k in order):
        part = {key: result.arrays[f"patterns/{name}/pattern/{key}"]
                for key in ("q", "observed", "sigma", "calculated")}
        top = max(float(np.max(part["observed"])), 1e-300)

        def scaled(intensity: np.ndarray, top: float = top) -> np.ndarray:
            return np.sqrt(np.maximum(intensity, 0.0) / top)

        base = step * row
        panel.plot(part["q"], base + scaled(part["observed"]), "o", ms=1.2, mfc="none",
                   mec=OBSERVED, mew=0.3, rasterized=True, label="observed" if row == 0 else "")
        panel.plot(part["q"], base + scaled(part["calculated"]), color=CALCULATED, lw=0.7,
                   label="calculated" if row == 0 else "")
        residual = (part["observed"] - part["calculated"]) / part["sigma"]
        panel.plot(part["q"], base - 0.2 + np.clip(residual, -6, 6) / 40, color=PHASES[0], lw=0.25,
                   label="(obs − calc) / σ, ± 6 at most" if row == 0 else "")
        rows = result.summary.patterns[name]
        t = rows.sample.get("temperature")
        label = name + (f", {t:g} K" if t is not None else "")
        panel.annotate(f"{label}, GoF {rows.agreement.gof:.3f}", (0.98, base + 0.62),
                       xycoords=("axes fraction", "data"), ha="right", fontsize=SMALL)
    panel.set(ylim=(-0.45, step * len(names) - 0.3), yticks=[])
    panel.set_xlabel("$q$ (1/Å)", fontsize=LABEL)
    panel.set_ylabel("Intensity / maximum (√ scale, stacked)", fontsize=LABEL)
    panel.tick_params(labelsize=SMALL, direction="in")
    panel.margins(x=0)
    panel.legend(frameon=False, fontsize=SMALL, loc="upper center", ncols=3, handlelength=1.2,
                 columnspacing=1.0, bbox_to_anchor=(0.5, -0.06 - 0.25 / len(names)))


def _draw_parameters(
    figure: Any, curves: dict[str, dict[str, Points]], columns: int, n_rows: int,
    temperatures: np.ndarray | None,
) -> None:
    panels = figure.subplots(n_rows, columns, squeeze=False, sharex=True)
    for k, panel in enumerate(panels.T.flat):
        if k >= len(curves):
            panel.set_visible(False)
            continue
        title, group = list(curves.items())[k]
        for (name, (values, su, law)), color in zip(group.items(), PHASES * 3, strict=False):
            x = np.arange(len(values)) if temperatures is None else temperatures
            order = np.argsort(x, kind="stable")
            panel.errorbar(x[order], values[order], su[order], fmt="o", ms=2.5, lw=0.8, color=color,
                           label=name)
            if law.any():
                panel.plot(x[order], values[order], lw=0.8, color=color)
        panel.set_title(title, fontsize=SMALL, pad=2)
        panel.tick_params(labelsize=SMALL, direction="in")
        panel.yaxis.set_major_locator(MaxNLocator(4))
        panel.margins(x=0.06)
        if len(group) > 1:
            panel.legend(fontsize=SMALL - 1, frameon=False, handlelength=0.8, ncols=2,
                         labelspacing=0.2, columnspacing=0.6)
        panel.tick_params(labelbottom=k % n_rows == n_rows - 1 or k == len(curves) - 1)
    figure.supxlabel("pattern" if temperatures is None else "T (K)", fontsize=LABEL)


def _temperatures(summary: SimultaneousSummary) -> np.ndarray | None:
    found = [row.sample.get("temperature") for row in summary.patterns.values()]
    return None if any(t is None for t in found) else np.array(found, dtype=float)


def _parameters(summary: SimultaneousSummary) -> dict[str, dict[str, Points]]:
    """Curves by panel: all B_iso of a phase share a panel, other varying parameters have their own.

    Each curve has values (n,), scaled s.u. (n,), and whether a constraint determines them (n,).
    """
    patterns = list(summary.patterns.values())
    single = len(summary.phases) == 1
    panels: dict[str, dict[str, Points]] = {}
    for name, first in patterns[0].parameters.items():
        rows = [pattern.parameters[name] for pattern in patterns]
        varies = any(row.status.refined or row.parametric_constraint for row in rows)
        if first.shared or not varies:
            continue
        parsed, (_, short) = ParameterName(name), summary.parts(name)
        unit = first.unit.replace("^2", "²")
        if first.kind is Kind.B_ISO:
            title = (B_SYMBOL if single else f"{parsed.phase} {B_SYMBOL}") + " (Å²)"
            curve = parsed.site
        else:
            title, curve = short + (f" ({unit})" if unit else ""), short
        values = np.array([row.value for row in rows])
        su = np.array([np.nan if row.su is None else row.su * summary.su_scale for row in rows])
        panels.setdefault(title, {})[curve] = (
            values, su, np.array([row.parametric_constraint is not None for row in rows]))
    return dict(list(panels.items())[:MAX_PARAMETERS])
