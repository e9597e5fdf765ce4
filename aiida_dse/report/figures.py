"""Results as figures for print; matplotlib's objects only, no pyplot, no global state."""

from __future__ import annotations

import textwrap
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from aiida_dse.io.results import Result

#: Okabe and Ito's colours, told apart by colour-blind readers.
OBSERVED, CALCULATED, BACKGROUND, MINIMUM = "#4D4D4D", "#D55E00", "#8C8C8C", "#D55E00"
PHASES = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9")
TRACES = ("#E69F00", "#000000", "#009E73", "#CC79A7")
LABEL, SMALL = 8.0, 7.0  # pt
HATCH: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.7", "hatch": "////"}
MAX_PANELS, N_LEVELS = 12, 7
GOF_LABEL = "GoF = √(reduced χ²)"
Pair = tuple[float, float]


def fit_figure(result: Result, *, size: Pair = (7.0, 5.0)) -> Figure:
    """Observed and calculated pattern, components, reflections and weighted residual.

    size: width and height in inches. The intensity axis is a square-root scale, on which Poisson
    noise has the same height everywhere. Raises ValueError for a scan.
    """
    if result.task == "scan":
        raise ValueError("the result is a scan, without a pattern; draw it with map_figure.")
    arrays, phases = result.arrays, result.summary["phases"]
    q, calculated = arrays["pattern/q"], arrays["pattern/calculated"]
    observed = arrays.get("pattern/observed")
    marked = [name for name in phases if f"reflections/{name}" in arrays]
    figure = new_figure(size)
    rows = [6.0] + [0.22 * len(marked)] * bool(marked) + [1.7] * (observed is not None)
    panels = list(figure.subplots(len(rows), squeeze=False, sharex=True, height_ratios=rows)[:, 0])
    top, handles = panels[0], []
    if observed is not None:
        handles += top.plot(q, observed, "o", ms=2.6 if len(q) < 1500 else 1.8, mfc="none",
                            mec=OBSERVED, mew=0.4, label="observed")
        residual = (observed - calculated) / arrays["pattern/sigma"]
        panels[-1].plot(q, residual, color=OBSERVED, lw=0.4)
        for level, style in ((-3, "--"), (0, "-"), (3, "--")):
            panels[-1].axhline(level, lw=0.7, ls=style, color=CALCULATED if level else "black")
        reach = max(4.5, 1.08 * float(np.nanmax(np.abs(residual))))
        ticks = [-3, 0, 3] if reach < 6 else MaxNLocator(3).tick_values(-reach, reach)
        panels[-1].set(yticks=ticks, ylim=(-reach, reach))
        panels[-1].set_ylabel("(obs − calc)\n/ σ", fontsize=LABEL)
    handles += top.plot(q, calculated, color=CALCULATED, lw=1.0, zorder=3, label="calculated")
    for name, color in (colors := _component_colors(result)).items():
        style = "-" if name in phases else "--"
        top.plot(q, arrays[f"components/{name}"], style, color=color, lw=0.7, label=name)
        handles.append(Line2D(
            [], [], ls=style, color=color, lw=0.9, ms=7, marker="|" if name in marked else "",
            label=name.removeprefix("trace.") + ", reflections" * (name in marked)))
    for row, name in enumerate(marked):
        panels[1].vlines(arrays[f"reflections/{name}"], -row - 0.4, 0.4 - row, colors[name], lw=0.4)
        panels[1].set(ylim=(0.5 - len(marked), 0.5), yticks=[])
        panels[1].tick_params(axis="x", length=0)
    top.set_xlim(q[0], q[-1])
    _square_root_axis(top, curves := np.array([line.get_ydata() for line in top.lines]))
    if np.isfinite(two_theta := arrays.get("pattern/two_theta", np.array(np.nan))).all():
        _two_theta_axis(top, q, two_theta)
    for panel in panels:
        panel.tick_params(labelsize=SMALL, direction="in", labelbottom=panel is panels[-1])
    panels[-1].set_xlabel("$q$ (1/Å)", fontsize=LABEL)
    _draw_legend(figure, top, handles, np.nanmax(curves, axis=0))
    head(figure, result)
    return figure


def map_figure(result: Result, *, size: Pair | None = None) -> Figure:
    """GoF over the scanned parameters: a curve, a map, or maps along the third parameter.

    size: width and height in inches; None chooses. Raises ValueError for other tasks.
    """
    if result.task != "scan":
        raise ValueError(f"the result is of task '{result.task}'; draw it with fit_figure.")
    summary, names = result.summary, result.summary["axes"]
    gof = np.where(np.isfinite(result.arrays["scan/gof"]), result.arrays["scan/gof"], np.nan)
    axes = [np.asarray(result.arrays[f"scan/axis_{k}"]) for k in range(gof.ndim)]
    short, units = zip(*(_name_and_unit(summary, name) for name in names), strict=True)
    labels = [f"{name} ({unit})" for name, unit in zip(short, units, strict=True)]
    limits, spans = _color_limits(gof), np.array([np.ptp(axis) for axis in axes[:2]])
    lowest = np.argwhere(gof == limits[0])[:1]  # (1, n_axes), or (0, n_axes) without any value
    equal = bool(len(set(units[:2])) == 1 and units[0] in ("fractional", "Å", "nm")
                 and 0.4 * spans.max() <= spans.min() > 0)
    single = 3.4 * spans / spans.max() + (1.4, 1.1) if equal else (5.2, 4.2)
    figure = new_figure(size or {1: (5.0, 3.8), 2: tuple(single), 3: (7.0, 5.0)}[gof.ndim],
                         compress=equal and gof.ndim == 2)
    if gof.ndim == 1:
        _draw_curve(figure.add_subplot(), axes[0], gof, labels[0], GOF_LABEL)
    else:
        if gof.ndim == 2:
            mesh = _draw_map(figure.add_subplot(), axes, gof, limits, lowest, labels, equal)
        else:
            titles = [_value_text(summary, names[2], value) for value in axes[2]]
            mesh = _draw_maps(figure, axes, gof, limits, lowest, labels, titles, equal)
        above = bool(np.nanmax(gof, initial=-np.inf) > limits[1])
        bar = figure.colorbar(mesh, ax=figure.axes, extend="max" if above else "neither",
                              aspect=30, ticks=MaxNLocator(N_LEVELS))
        bar.set_label(GOF_LABEL, fontsize=LABEL)
    for panel in figure.axes:
        panel.tick_params(labelsize=SMALL)
    head(figure, result)
    caption = _wrapped(_map_caption(summary, gof, limits[1]), figure, SMALL)
    figure.supxlabel(caption, fontsize=SMALL, parse_math=False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as .png (200 dpi), .pdf or .svg; the folder must exist."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{path.name}: a figure's name ends in .png, .pdf or .svg.")
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # outlines that editors can change
        figure.savefig(path, dpi=200)


def new_figure(size: Pair, *, compress: bool = False) -> Figure:
    """A figure of a size in inches whose panels and labels make room for each other."""
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.025, hspace=0, wspace=0, compress=compress)
    return FigureCanvasAgg(Figure(figsize=size, layout=layout)).figure


def head(figure: Figure, result: Result, remark: str = "") -> None:
    """Title, sample, agreement and a remark above the panels, wrapped to the width."""
    sample, fit = result.summary.get("sample") or {}, result.summary.get("agreement")
    words = [f"{sample[key]:g} K" if key == "temperature" else str(sample[key])
             for key in ("name", "ligand", "state", "temperature") if sample.get(key) is not None]
    title = " · ".join(filter(None, [result.summary.get("title"), ", ".join(words)]))
    title = _wrapped(title.replace("$", r"\$"), figure, LABEL)
    if fit:
        title += (f"\nGoF = {fit['gof']:.3f},  $R_{{\\rm wp}}$ = {100 * fit['r_wp']:.2f} %,  "
                  f"$R_{{\\rm exp}}$ = {100 * fit['r_exp']:.2f} %")
    if remark:
        title += "\n" + _wrapped(remark, figure, LABEL)
    figure.suptitle(title.strip(), fontsize=LABEL)


def _wrapped(text: str, figure: Figure, points: float) -> str:
    """Text broken at the figure's width; a character is about 0.54 of its size wide."""
    return textwrap.fill(text, int((figure.get_figwidth() - 0.2) * 72 / (0.54 * points)))


def _component_colors(result: Result) -> dict[str, str]:
    """Colour by component: the background, the measured traces, then the phases."""
    traces = [path[11:] for path in result.arrays if path.startswith("components/trace.")]
    found = {"background": BACKGROUND} | dict(zip(traces, cycle(TRACES), strict=False))
    found |= dict(zip(result.summary["phases"], cycle(PHASES), strict=False))
    return {name: found[name] for name in found if f"components/{name}" in result.arrays}


def _square_root_axis(panel: Axes, curves: np.ndarray) -> None:
    """sign(I) sqrt|I|, with ticks at 1, 2 and 4 times powers of ten where there is room."""
    low, high = min(0.0, float(np.nanmin(curves))), max(1e-12, float(np.nanmax(curves)))
    panel.set_yscale("function", functions=(
        lambda y: np.sign(y) * np.sqrt(np.abs(y)), lambda y: np.sign(y) * np.square(y)))
    panel.set_ylim(1.1 * low, 1.08 * high)
    decade, ticks = int(np.floor(np.log10(high))), [0.0]
    for tick in (m * 10.0**e for e in range(decade, decade - 4, -1) for m in (4, 2, 1)):
        if tick < 1.05 * high and min(abs(tick**0.5 - t**0.5) for t in ticks) > 0.11 * high**0.5:
            ticks.append(tick)
    power = 3 * (decade // 3) if not -2 <= decade <= 3 else 0
    panel.set_yticks(ticks, [f"{tick / 10.0**power:g}" for tick in ticks])
    unit = f"$10^{{{power}}}$ arb. units" if power else "arb. units"
    panel.set_ylabel(f"Intensity\n({unit}, √ scale)", fontsize=LABEL)


def _two_theta_axis(panel: Axes, q: np.ndarray, two_theta: np.ndarray) -> None:
    """2 theta (deg) on top, by 2 asin(wavelength q / 4 pi)."""
    per_sine = q[-1] / np.sin(np.radians(two_theta[-1] / 2))  # 4 pi / wavelength, 1/Å
    axis = panel.secondary_xaxis("top", functions=(
        lambda x: 2 * np.degrees(np.arcsin(np.clip(np.asarray(x) / per_sine, -1, 1))),
        lambda angle: per_sine * np.sin(np.radians(np.asarray(angle) / 2))))
    axis.tick_params(labelsize=SMALL, direction="in")
    axis.set_xlabel("2θ (deg)", fontsize=LABEL)


def _draw_legend(figure: Figure, panel: Axes, handles: list[Line2D], pattern: np.ndarray) -> None:
    """In the upper right corner where the pattern leaves it free, else below the panels."""
    width, height = figure.get_size_inches()
    corner = pattern[int(len(pattern) * max(0.2, 1 - 2.4 / (width - 0.7))):]
    ceiling = np.sqrt(max(0.0, float(np.nanmax(corner))) / panel.get_ylim()[1])
    free = ceiling + 0.16 * len(handles) / (0.52 * height) < 0.9
    (panel if free else figure).legend(
        handles=handles, frameon=False, fontsize=SMALL, handlelength=1.8,
        loc="upper right" if free else "outside lower center",
        ncols=1 if free else max(2, int(width / 1.3)))


def _name_and_unit(summary: dict[str, Any], parameter: str) -> tuple[str, str]:
    """The parameter, without its phase where there is only one, and its unit in words."""
    unit = summary["parameters"].get(parameter, {}).get("unit", "").replace("^2", "²")
    plain = "fractional" if parameter.endswith((".x", ".y", ".z")) else "dimensionless"
    short = parameter.partition(".")[2] if len(summary["phases"]) == 1 else parameter
    return short, unit or plain


def _value_text(summary: dict[str, Any], parameter: str, value: float) -> str:
    short, unit = _name_and_unit(summary, parameter)
    return f"{short} = {value:.5g}" + f" {unit}" * (unit not in ("fractional", "dimensionless"))


def _map_caption(summary: dict[str, Any], gof: np.ndarray, ceiling: float) -> str:
    parts = []
    if minimum := summary.get("minimum"):
        at = ", ".join(_value_text(summary, k, v) for k, v in minimum.items() if k != "gof")
        parts.append(f"Lowest GoF {minimum['gof']:.4f} (cross) at {at}.")
    if missing := int(np.isnan(gof).sum()):
        parts.append(f"Hatched: {missing:,} of {gof.size:,} points without a value.")
    if gof.ndim > 1 and np.nanmax(gof, initial=-np.inf) > ceiling:
        parts.append(f"Colours end at GoF {ceiling:.3g}.")
    return " ".join(parts)


def _color_limits(gof: np.ndarray) -> Pair:
    """From the lowest GoF up to three times it, or to the first quartile where that is higher."""
    finite = gof[np.isfinite(gof)] if np.isfinite(gof).any() else np.array([0.0, 1.0])
    low = float(finite.min())
    return low, float(min(finite.max(), max(3 * low, np.quantile(finite, 0.25))))


def _edges(values: np.ndarray) -> np.ndarray:
    """The cell borders of an axis; a single value has a cell of width 1."""
    half = np.diff(values) / 2 if len(values) > 1 else np.array([0.5])
    return np.concatenate([values[:1] - half[0], values[:-1] + half[: len(values) - 1],
                           values[-1:] + half[-1]])


def _mark(panel: Axes, x: np.ndarray, y: np.ndarray) -> None:
    panel.plot(x, y, "X", color=MINIMUM, mec="white", mew=0.7, ms=7, label="minimum", zorder=5)


def _draw_curve(panel: Axes, x: np.ndarray, gof: np.ndarray, x_label: str, y_label: str) -> None:
    panel.plot(x, gof, "o-", color=PHASES[0], ms=3, lw=1.0, label="GoF")
    edges, lowest = _edges(x), np.flatnonzero(gof == _color_limits(gof)[0])[:1]
    for k in np.flatnonzero(np.isnan(gof)):
        panel.axvspan(edges[k], edges[k + 1], lw=0, **HATCH)
    _mark(panel, x[lowest], gof[lowest])
    panel.set_xlim(edges[0], edges[-1])
    panel.set_xlabel(x_label, fontsize=LABEL)
    panel.set_ylabel(y_label, fontsize=LABEL)


def _draw_map(
    panel: Axes, axes: list[np.ndarray], gof: np.ndarray, limits: Pair, lowest: np.ndarray,
    labels: list[str], equal: bool, *, n_ticks: int = 5, label_contours: bool = True,
) -> QuadMesh:
    """Colours and contours of gof (n_x, n_y); cells without a value stay hatched."""
    shown = np.ma.masked_invalid(gof.T)
    if shown.mask.any():
        panel.patch.set(**HATCH)
    mesh = panel.pcolormesh(_edges(axes[0]), _edges(axes[1]), shown, vmin=limits[0],
                            vmax=limits[1], cmap="cividis", rasterized=True)
    levels = [v for v in MaxNLocator(N_LEVELS).tick_values(*limits)
              if shown.count() and shown.min() < v < min(shown.max(), limits[1])]
    if levels and min(gof.shape) > 1:
        tones = ["white" if v < 0.45 * limits[0] + 0.55 * limits[1] else "black" for v in levels]
        drawn = panel.contour(axes[0], axes[1], shown, levels, linewidths=0.6, colors=tones)
        if label_contours:
            panel.clabel(drawn, fontsize=SMALL, fmt="%.4g")
    _mark(panel, axes[0][lowest[:, 0]], axes[1][lowest[:, 1]])
    panel.set_aspect("equal" if equal else "auto")
    panel.locator_params(nbins=n_ticks)
    panel.set_xlabel(labels[0], fontsize=LABEL)
    panel.set_ylabel(labels[1], fontsize=LABEL)
    return mesh


def _draw_maps(
    figure: Figure, axes: list[np.ndarray], gof: np.ndarray, limits: Pair, lowest: np.ndarray,
    labels: list[str], titles: list[str], equal: bool,
) -> QuadMesh:
    """A map per value of the third axis, then the lowest GoF of each map against that value."""
    n, (width, height) = min(MAX_PANELS, len(axes[2])), figure.get_size_inches()
    shown = np.linspace(0, len(axes[2]) - 1, n).round().astype(int)
    for at in lowest[:, 2]:
        shown[np.argmin(np.abs(shown - at))] = at
    columns = max(2, int(np.ceil(np.sqrt((n + 1) * width / height) - 0.2)))
    panels = [figure.add_subplot(-(-(n + 1) // columns), columns, k + 1) for k in range(n + 1)]
    labels = [label.replace(" (", "\n(") for label in labels]
    for k, (panel, slice_) in enumerate(zip(panels, shown, strict=False)):
        left, bottom = k % columns == 0, k + columns > n
        mesh = _draw_map(panel, axes, gof[:, :, slice_], limits, lowest[lowest[:, 2] == slice_],
                         [labels[0] * bottom, labels[1] * left], equal,
                         n_ticks=4 if width / columns > 2 else 2, label_contours=False)
        panel.tick_params(labelbottom=bottom, labelleft=left)
        panel.set_title(titles[slice_], fontsize=SMALL, pad=3)
    best = np.fmin.reduce(gof, axis=(0, 1))
    _draw_curve(panels[-1], axes[2], best, labels[2], "")
    panels[-1].set_title("lowest GoF", fontsize=SMALL, pad=3)
    return mesh
