"""Figures of uncertainties: corner plot, profile curves, bootstrap histograms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aiida_dse.io.results import Result

from .figures import CALCULATED, LABEL, OBSERVED, PHASES, SMALL, fit_figure, head, new_figure

#: Colours of the least-squares value with its s.u., and of the samples.
REFINED, SAMPLED = CALCULATED, PHASES[0]
#: Largest number of points in a corner plot; more would not improve the histograms.
MOST_DRAWN = 20_000


def uncertainty_figure(result: Result[Any], what: str | None = None) -> Figure:
    """The figure `what` (corner, profile, bootstrap or fit); None: the first available one.

    Raises ValueError, which lists the available figures, for a figure without data.
    """
    figures: dict[str, tuple[str, Callable[[Result[Any]], Figure]]] = {
        "corner": ("posterior/samples", corner_figure),
        "profile": ("profile/", profile_figure),
        "bootstrap": ("bootstrap/values", bootstrap_figure),
        "fit": ("pattern/calculated", fit_figure),
    }
    there = [name for name, (path, _) in figures.items()
             if any(key.startswith(path) for key in result.arrays)]
    wanted = what or (there[0] if there else "fit")
    if wanted not in there:
        raise ValueError(
            f"this result of '{result.task}' has no data for the figure '{wanted}'; the available "
            f"figures are {', '.join(there) or 'none'}."
        )
    return figures[wanted][1](result)


def corner_figure(result: Result[Any]) -> Figure:
    """Corner plot of the posterior, with the refined values and their unscaled s.u."""
    import corner

    names = _names(result)
    samples = posterior_samples(result)
    moving = np.ptp(samples, axis=0) > 0
    names, samples = [n for n, m in zip(names, moving, strict=True) if m], samples[:, moving]
    n = len(names)
    size = max(3.6, 0.85 * n + 1.6)
    figure = FigureCanvasAgg(Figure(figsize=(size, size))).figure  # corner does its own layout
    corner.corner(
        samples[:: max(1, len(samples) // MOST_DRAWN)], bins=24, color=SAMPLED, fig=figure,
        labels=[""] * n, levels=(0.393, 0.865), plot_datapoints=False, fill_contours=True,
        max_n_ticks=3 if n < 8 else 2, hist_kwargs={"lw": 0.8}, contour_kwargs={"linewidths": 0.6},
    )
    panels = np.array(figure.axes).reshape(n, n)
    # a large plot is viewed from a larger distance
    small = SMALL if n < 8 else SMALL + 1
    for row in range(n):
        for column in range(row + 1):
            panel = panels[row, column]
            panel.tick_params(labelsize=small - 1, direction="in", length=2)
            value, su = _refined(result, names[column])
            panel.axvline(value, color=REFINED, lw=0.7)
            if row == column:
                for side in (-1, 1):
                    panel.axvline(value + side * su, color=REFINED, lw=0.7, ls="--")
            else:
                panel.axhline(_refined(result, names[row])[0], color=REFINED, lw=0.7)
            for axis in (panel.xaxis, panel.yaxis):
                if hasattr(axis.get_major_formatter(), "set_useOffset"):
                    axis.get_major_formatter().set_useOffset(False)
            for label in (*panel.get_xticklabels(), *panel.get_yticklabels()):
                label.set_fontsize(small - 1)
            if n >= 8:
                panel.tick_params(axis="x", labelrotation=90)
        panels[-1, row].set_xlabel(_label(result, names[row], "\n"), fontsize=small)
        panels[-1, row].xaxis.set_label_coords(0.5, -0.85 if n > 4 else -0.4)
        if row:
            panels[row, 0].set_ylabel(_label(result, names[row], "\n"), fontsize=small)
            panels[row, 0].yaxis.set_label_coords(-0.85 if n > 4 else -0.4, 0.5)
    edge = 1.25 if n > 4 else 1.0  # inches for labels
    figure.subplots_adjust(left=edge / size, bottom=edge / size, right=1 - 0.15 / size,
                           top=1 - 0.75 / size, wspace=0.06, hspace=0.06)
    row = result.summary.uncertainty.posterior
    verdict = "; NOT CONVERGED" if row.converged is False else ""
    head(figure, result, f"posterior of {row.n_walkers} walkers x {row.n_steps} steps"
         f"{verdict}; contours contain 39 and 86 %; orange: refined value, dashed: unscaled s.u.")
    return figure


def profile_figure(result: Result[Any]) -> Figure:
    """Rise of chi2 along each profile, with the parabola of the covariance."""
    rows = result.summary.uncertainty.profile
    figure, panels = _panels(len(rows))
    for panel, (name, row) in zip(panels, rows.items(), strict=False):
        x, rise = [row.value], [0.0]
        for side in ("below", "above"):
            at = f"profile/{name}/{side}"
            if f"{at}/value" in result.arrays:
                x += result.arrays[f"{at}/value"].tolist()
                rise += (result.arrays[f"{at}/chi2"] - row.chi2_min).tolist()
        order = np.argsort(x)
        along = np.linspace(min(x), max(x), 100)
        panel.plot(along, ((along - row.value) / row.su) ** 2, "--", color=REFINED, lw=0.9)
        places, height = np.array(x)[order], np.array(rise)[order]
        # between the points, sqrt(rise) is nearly straight
        root = np.sign(places - row.value) * np.sqrt(np.maximum(height, 0.0))
        panel.plot(along, np.interp(along, places, root) ** 2, color=SAMPLED, lw=0.9)
        panel.plot(places, height, "o", color=SAMPLED, ms=2.5)
        top = max(6.0, 1.05 * max(rise))
        for level in (1, 4):
            panel.axhline(level, color=OBSERVED, lw=0.5, ls=":")
        bounds = result.summary.parameters[name]
        for ended, bound in ((row.below, bounds.lower), (row.above, bounds.upper)):
            if ended == "bound":
                panel.axvline(bound, color="black", lw=1.2)
        panel.set_ylim(min(0.0, 1.05 * min(rise)) - 0.02 * top, top)
        _dress(panel, _label(result, name, " "))
    _outer_label(panels, len(rows), "Δχ²")
    head(figure, result, "rise of χ² (blue), parabola of the covariance (orange, dashed), levels "
         "of 68.3 and 95.4 % (dotted); a black line is a bound")
    return figure


def bootstrap_figure(result: Result[Any]) -> Figure:
    """Histograms of the bootstrap samples, with normal distributions of refined value and s.u."""
    names, row = _names(result), result.summary.uncertainty.bootstrap
    values = result.arrays["bootstrap/values"][result.arrays["bootstrap/outcome"] == 1]
    figure, panels = _panels(len(names))
    for k, (panel, name) in enumerate(zip(panels, names, strict=False)):
        value, su = _refined(result, name)
        panel.hist(values[:, k], bins=max(6, round(math.sqrt(len(values)))), density=True,
                   color=SAMPLED, alpha=0.6)
        along = np.linspace(min(values[:, k].min(), value - 3 * su),
                            max(values[:, k].max(), value + 3 * su), 100)
        if su > 0:
            normal = np.exp(-0.5 * ((along - value) / su) ** 2) / (su * math.sqrt(2 * math.pi))
            panel.plot(along, normal, color=REFINED, lw=0.9)
        else:  # at its bound
            panel.axvline(value, color=REFINED, lw=0.9)
        panel.set_yticks([])
        _dress(panel, _label(result, name, " "))
    _outer_label(panels, len(names), "density")
    head(figure, result, f"{row.n_refined} of {row.n_samples} bootstrap samples (blue), "
         "normal distribution of refined value and unscaled s.u. (orange)")
    return figure


def posterior_samples(result: Result[Any]) -> np.ndarray:
    """The samples (n, n_free) of the chain after its burn-in."""
    row, samples = result.summary.uncertainty.posterior, result.arrays["posterior/samples"]
    return samples[(row.burn_in or 0) // row.thin:].reshape(-1, samples.shape[2])


def _names(result: Result[Any]) -> list[str]:
    return list(result.summary.free)


def _refined(result: Result[Any], name: str) -> tuple[float, float]:
    row = result.summary.parameters[name]
    return row.value, row.su or 0.0


def _label(result: Result[Any], name: str, space: str) -> str:
    """The name of a parameter, without the only phase, and its unit."""
    unit = result.summary.parameters[name].unit
    _, name = result.summary.parts(name)
    return f"{name}{space}({unit.replace('^2', '²')})" if unit else name


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    columns = min(n, 3 if n <= 9 else 5)
    rows = -(-n // columns)
    width = max(3.6, 2.3 * columns if columns <= 3 else 1.75 * columns)
    figure = new_figure((width, 1.75 * rows + 0.8))
    return figure, [figure.add_subplot(rows, columns, k + 1) for k in range(n)]


def _dress(panel: Axes, label: str) -> None:
    panel.set_xlabel(label, fontsize=LABEL)
    panel.tick_params(labelsize=SMALL, direction="in")
    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.xaxis.get_major_formatter().set_useOffset(False)  # type: ignore[attr-defined]


def _outer_label(panels: list[Axes], n: int, text: str) -> None:
    columns = min(n, 3 if n <= 9 else 5)
    for panel in panels[::columns]:
        panel.set_ylabel(text, fontsize=LABEL)
