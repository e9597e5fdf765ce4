"""Results as figures for print; matplotlib's objects only, no pyplot, no global state."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from aiida_dse.io.results import Result

#: Okabe and Ito's colours, told apart by colour-blind readers.
OBSERVED, CALCULATED, BACKGROUND, MINIMUM = "#4D4D4D", "#D55E00", "#8C8C8C", "#D55E00"
PHASES = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9")
TRACES = ("#E69F00", "#000000", "#009E73", "#CC79A7")
LABEL, SMALL = 8.0, 7.0  # pt
HATCH: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.7", "hatch": "////"}
MAX_PANELS = 12
GOF_LABEL = "GoF = √(reduced χ²)"
#: What each format writes beside the picture: no date, so that equal figures are equal files.
SUFFIXES: dict[str, dict[str, Any]] = {
    ".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
Size = tuple[float, float]


def fit_figure(result: Result, *, size: Size = (7.0, 5.0)) -> Figure:
    """Observed and calculated pattern, components, reflections and weighted residual.

    size: width and height in inches. The intensity axis is a square-root scale, on which Poisson
    noise has the same height everywhere. Raises ValueError for a scan.
    """
    _expect(result, "refine", "simulate")
    arrays, observed = result.arrays, result.arrays.get("pattern/observed")
    q, calculated = arrays["pattern/q"], arrays["pattern/calculated"]
    marked = [name for name in result.summary["phases"] if f"reflections/{name}" in arrays]
    figure = _new_figure(size)
    rows = [6.0] + [0.22 * len(marked)] * bool(marked) + [1.7] * (observed is not None)
    panels = list(figure.subplots(len(rows), squeeze=False, sharex=True, height_ratios=rows)[:, 0])
    top, handles = panels[0], []
    if observed is not None:
        handles += top.plot(q, observed, "o", ms=2.6 if len(q) < 1500 else 1.8, mfc="none",
                            mec=OBSERVED, mew=0.4, label="observed")
    handles += top.plot(q, calculated, color=CALCULATED, lw=1.0, zorder=3, label="calculated")
    colors = _component_colors(result)
    for name, color in colors.items():
        style = "-" if name in result.summary["phases"] else "--"
        top.plot(q, arrays[f"components/{name}"], style, color=color, lw=0.7, label=name)
        handles.append(Line2D(
            [], [], ls=style, color=color, lw=0.9, ms=7, marker="|" if name in marked else "",
            label=name.removeprefix("trace.") + ", reflections" * (name in marked)))
    top.set_xlim(q[0], q[-1])
    _square_root_axis(top, [np.asarray(line.get_ydata()) for line in top.lines])
    _two_theta_axis(top, arrays)
    for row, name in enumerate(marked):
        panels[1].vlines(arrays[f"reflections/{name}"], -row - 0.38, -row + 0.38, lw=0.4,
                         color=colors.get(name, PHASES[0]))
        panels[1].set(ylim=(0.5 - len(marked), 0.5), yticks=[])
        panels[1].tick_params(axis="x", length=0)
    if observed is not None:
        _draw_residual(panels[-1], q, (observed - calculated) / arrays["pattern/sigma"])
    for panel in panels:
        panel.tick_params(labelsize=SMALL, direction="in", labelbottom=panel is panels[-1])
    panels[-1].set_xlabel("$q$ (1/Å)", fontsize=LABEL)
    _legend(figure, top, handles, observed if observed is not None else calculated)
    fit = result.summary.get("agreement")
    _head(figure, result, "" if not fit else (
        rf"GoF = {fit['gof']:.3f},  $R_\mathrm{{wp}}$ = {100 * fit['r_wp']:.2f} %,  "
        rf"$R_\mathrm{{exp}}$ = {100 * fit['r_exp']:.2f} %"))
    return figure


def map_figure(result: Result, *, size: Size | None = None) -> Figure:
    """GoF over the scanned parameters: a curve, a map, or maps along the third parameter.

    size: width and height in inches; None chooses by the axes. Raises ValueError for a result
    that is no scan.
    """
    _expect(result, "scan")
    summary, names = result.summary, result.summary["axes"]
    gof = np.where(np.isfinite(result.arrays["scan/gof"]), result.arrays["scan/gof"], np.nan)
    axes = [np.asarray(result.arrays[f"scan/axis_{k}"]) for k in range(gof.ndim)]
    labels = [f"{_short(summary, name)} ({_unit(summary, name) or 'dimensionless'})"
              for name in names]
    lowest = None if np.isnan(gof).all() else np.unravel_index(int(np.nanargmin(gof)), gof.shape)
    norm, spans = _color_range(gof), np.array([np.ptp(axis) for axis in axes[:2]])
    units = {_unit(summary, name) for name in names[:2]}
    equal = (gof.ndim > 1 and len(units) == 1 and units <= {"fractional", "Å", "nm"}
             and 0.4 * spans.max() <= spans.min() > 0)
    if gof.ndim == 1:
        figure = _new_figure(size or (5.0, 3.8))
        _draw_curve(figure.add_subplot(), axes[0], gof, labels[0])
    elif gof.ndim == 2:
        scale = 3.4 / spans.max() if equal else np.nan
        figure = _new_figure(size or (tuple(spans * scale + (1.4, 1.1)) if equal else (5.2, 4.2)))
        panel = figure.add_subplot()
        mesh = _draw_map(panel, axes, gof, norm, labelled=True, equal=equal)
        _mark(panel, axes, lowest)
        panel.set_xlabel(labels[0], fontsize=LABEL)
        panel.set_ylabel(labels[1], fontsize=LABEL)
        _color_bar(figure, mesh, [panel], gof)
    else:
        figure = _new_figure(size or (7.0, 5.0))
        titles = [_value_text(summary, names[2], value) for value in axes[2]]
        _draw_small_multiples(figure, axes, gof, norm, lowest, labels, titles, equal)
    _head(figure, result)
    caption = _map_caption(summary, gof, norm.vmax)
    figure.supxlabel(_wrapped(caption, figure, SMALL), fontsize=SMALL, parse_math=False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as .png (200 dpi), .pdf or .svg; the folder must exist."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: a figure is written as {', '.join(SUFFIXES)}, not as "
                         f"'{suffix}'. Give the file one of these suffixes.")
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "aiida-dse"}):
        figure.savefig(path, dpi=200, metadata=SUFFIXES[suffix])


def _expect(result: Result, *tasks: str) -> None:
    if result.task not in tasks:
        raise ValueError(f"the result is of task '{result.task}'; this figure shows the task "
                         f"{' or '.join(tasks)}.")


def _new_figure(size: Size) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(  # type: ignore[union-attr]
        w_pad=0.04, h_pad=0.025, hspace=0.0, wspace=0.0)
    return figure


def _head(figure: Figure, result: Result, second: str = "") -> None:
    """Title and sample above the panels, wrapped to the width; `second` is a line of its own."""
    sample = result.summary.get("sample") or {}
    words = [str(sample[key]) for key in ("name", "ligand", "state") if sample.get(key)]
    if sample.get("temperature") is not None:
        words.append(f"{sample['temperature']:g} K")
    title = " · ".join(filter(None, [result.summary.get("title", ""), ", ".join(words)]))
    lines = [_wrapped(title.replace("$", r"\$"), figure, LABEL), second]
    figure.suptitle("\n".join(filter(None, lines)), fontsize=LABEL)


def _wrapped(text: str, figure: Figure, points: float) -> str:
    """Text broken at the figure's width; a character is about 0.54 of its size wide."""
    return textwrap.fill(text, int((figure.get_figwidth() - 0.2) * 72 / (0.54 * points)))


def _component_colors(result: Result) -> dict[str, str]:
    """Colour by component: the background, the measured traces, then the phases."""
    stored = [path.removeprefix("components/") for path in result.arrays
              if path.startswith("components/")]
    traces = [name for name in stored if name.startswith("trace.")]
    phases = [name for name in result.summary["phases"] if name in stored]
    found = {"background": BACKGROUND} if "background" in stored else {}
    found |= {name: TRACES[k % len(TRACES)] for k, name in enumerate(traces)}
    return found | {name: PHASES[k % len(PHASES)] for k, name in enumerate(phases)}


def _square_root_axis(panel: Axes, curves: Sequence[np.ndarray]) -> None:
    """sign(I) sqrt|I|, with ticks at 1, 2 and 4 times powers of ten where there is room."""
    low = min(0.0, *(float(np.nanmin(curve)) for curve in curves))
    high = max(float(np.nanmax(curve)) for curve in curves) or 1.0
    panel.set_yscale("function", functions=(
        lambda y: np.sign(y) * np.sqrt(np.abs(y)), lambda y: np.sign(y) * np.square(y)))
    panel.set_ylim(1.1 * low, 1.08 * high)
    decade, ticks = int(np.floor(np.log10(high))), [0.0]
    for tick in (m * 10.0**e for e in range(decade, decade - 4, -1) for m in (4, 2, 1)):
        if tick < 1.05 * high and min(abs(tick**0.5 - t**0.5) for t in ticks) > 0.11 * high**0.5:
            ticks.append(tick)
    power = 3 * (decade // 3) if not -2 <= decade <= 3 else 0
    panel.yaxis.set_major_locator(FixedLocator(ticks))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y / 10.0**power:g}"))
    unit = f"$10^{{{power}}}$ arb. units" if power else "arb. units"
    panel.set_ylabel(f"Intensity\n({unit}, √ scale)", fontsize=LABEL)


def _two_theta_axis(panel: Axes, arrays: dict[str, np.ndarray]) -> None:
    """2 theta (deg) on top, by 2 asin(wavelength q / 4 pi), where the result holds it."""
    q, two_theta = arrays["pattern/q"], arrays.get("pattern/two_theta")
    if two_theta is None or not np.isfinite(two_theta).all():
        return
    per_sine = q[-1] / np.sin(np.radians(two_theta[-1] / 2))  # 4 pi / wavelength, 1/Å
    axis = panel.secondary_xaxis("top", functions=(
        lambda x: 2 * np.degrees(np.arcsin(np.clip(np.asarray(x) / per_sine, -1, 1))),
        lambda angle: per_sine * np.sin(np.radians(np.asarray(angle) / 2))))
    axis.tick_params(labelsize=SMALL, direction="in")
    axis.set_xlabel("2θ (deg)", fontsize=LABEL)


def _draw_residual(panel: Axes, q: np.ndarray, residual: np.ndarray) -> None:
    panel.plot(q, residual, color=OBSERVED, lw=0.4, label="residual")
    panel.axhline(0, color="black", lw=0.7)
    for level in (-3, 3):
        panel.axhline(level, color=CALCULATED, lw=0.7, ls="--")
    reach = max(4.5, 1.08 * float(np.nanmax(np.abs(residual))))
    panel.set_ylim(-reach, reach)
    panel.yaxis.set_major_locator(FixedLocator([-3, 0, 3]) if reach < 6 else MaxNLocator(3))
    panel.set_ylabel("Obs − calc\n(σ)", fontsize=LABEL)


def _legend(figure: Figure, panel: Axes, handles: list[Line2D], pattern: np.ndarray) -> None:
    """In the panel's upper right corner where the pattern leaves it free, else below the panels."""
    width, height = figure.get_size_inches()
    beyond = pattern[int(len(pattern) * max(0.2, 1 - 2.4 / (width - 0.7))):]
    ceiling = np.sqrt(max(0.0, float(np.nanmax(beyond))) / panel.get_ylim()[1])
    free = ceiling + 0.16 * len(handles) / (0.52 * height) < 0.9
    place = {"loc": "upper right"} if free else {
        "loc": "outside lower center", "ncols": max(2, int(width / 1.3))}
    legend = (panel if free else figure).legend(
        handles=handles, frameon=False, fontsize=SMALL, handlelength=1.8, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _short(summary: dict[str, Any], parameter: str) -> str:
    """The parameter without its phase where there is only one."""
    return parameter.partition(".")[2] if len(summary["phases"]) == 1 else parameter


def _unit(summary: dict[str, Any], parameter: str) -> str:
    unit = str(summary["parameters"].get(parameter, {}).get("unit", ""))
    fractional = not unit and parameter.rpartition(".")[2] in ("x", "y", "z")
    return "fractional" if fractional else unit.replace("^2", "²").replace("^3", "³")


def _value_text(summary: dict[str, Any], parameter: str, value: float) -> str:
    unit = _unit(summary, parameter).replace("fractional", "")
    return f"{_short(summary, parameter)} = {value:.5g} {unit}".rstrip()


def _color_range(gof: np.ndarray) -> Normalize:
    """From the lowest GoF up to three times it, or to the first quartile where that is higher."""
    finite = gof[np.isfinite(gof)]
    if not finite.size:
        return Normalize(0, 1)
    low, high = float(finite.min()), float(finite.max())
    return Normalize(low, min(high, max(3 * low, float(np.quantile(finite, 0.25)))))


def _levels(norm: Normalize) -> list[float]:
    ticks = MaxNLocator(7).tick_values(norm.vmin, norm.vmax)
    return [float(tick) for tick in ticks if norm.vmin < tick < norm.vmax]


def _edges(values: np.ndarray) -> np.ndarray:
    """The cell borders of an axis; a single value has a cell of width 1."""
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])


def _draw_curve(panel: Axes, x: np.ndarray, gof: np.ndarray, label: str) -> None:
    panel.plot(x, gof, "o-", color=PHASES[0], ms=3, lw=1.0, label="GoF")
    edges = _edges(x)
    for k in np.flatnonzero(np.isnan(gof)):
        panel.axvspan(edges[k], edges[k + 1], lw=0, **HATCH)
    if not np.isnan(gof).all():
        _mark(panel, [x, gof], [int(np.nanargmin(gof))] * 2)
    panel.set_xlim(edges[0], edges[-1])
    panel.set_xlabel(label, fontsize=LABEL)
    panel.set_ylabel(GOF_LABEL, fontsize=LABEL)
    panel.tick_params(labelsize=SMALL)


def _draw_map(
    panel: Axes, axes: Sequence[np.ndarray], gof: np.ndarray, norm: Normalize, *,
    labelled: bool, equal: bool,
) -> QuadMesh:
    """Colours and contours of gof (n_x, n_y); cells without a value stay hatched."""
    shown = np.ma.masked_invalid(gof.T)
    if shown.mask.any():
        panel.patch.set(**HATCH)
    mesh = panel.pcolormesh(_edges(axes[0]), _edges(axes[1]), shown, norm=norm, cmap="cividis",
                            rasterized=True)
    levels = [v for v in _levels(norm) if shown.count() and shown.min() < v < shown.max()]
    if levels and min(gof.shape) > 1:
        drawn = panel.contour(axes[0], axes[1], shown, levels, linewidths=0.6,
                              colors=["white" if norm(v) < 0.55 else "black" for v in levels])
        if labelled:
            panel.clabel(drawn, fontsize=SMALL, fmt="%.4g")
    panel.set_aspect("equal" if equal else "auto")
    panel.tick_params(labelsize=SMALL)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(5 if labelled else 3))
    return mesh


def _mark(panel: Axes, axes: Sequence[np.ndarray], at: Any) -> None:
    if at is not None:
        panel.plot(axes[0][at[0]], axes[1][at[1]], "X", color=MINIMUM, mec="white", mew=0.7, ms=7,
                   label="minimum", zorder=5)


def _color_bar(figure: Figure, mesh: QuadMesh, panels: Sequence[Axes], gof: np.ndarray) -> None:
    """Its ticks are the contour levels."""
    over = bool(np.nanmax(gof, initial=-np.inf) > mesh.norm.vmax)
    bar = figure.colorbar(mesh, ax=panels, extend="max" if over else "neither", aspect=30)
    bar.set_ticks(_levels(mesh.norm))
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label(GOF_LABEL, fontsize=LABEL)


def _draw_small_multiples(
    figure: Figure, axes: Sequence[np.ndarray], gof: np.ndarray, norm: Normalize, lowest: Any,
    labels: Sequence[str], titles: Sequence[str], equal: bool,
) -> None:
    """A map per value of the third axis, then the lowest GoF of each map against that value."""
    n = min(MAX_PANELS, len(axes[2]))
    shown = np.linspace(0, len(axes[2]) - 1, n).round().astype(int)
    if lowest is not None:
        shown[np.argmin(np.abs(shown - lowest[2]))] = lowest[2]
    columns = max(2, round(np.sqrt((n + 1) * figure.get_figwidth() / figure.get_figheight())))
    grid = figure.add_gridspec(-(-(n + 1) // columns), columns)
    panels = [figure.add_subplot(grid[k // columns, k % columns]) for k in range(n + 1)]
    for k, panel in enumerate(panels[:-1]):
        mesh = _draw_map(panel, axes, gof[:, :, shown[k]], norm, labelled=False, equal=equal)
        panel.set_title(titles[shown[k]], fontsize=SMALL, pad=3)
        if lowest is not None and shown[k] == lowest[2]:
            _mark(panel, axes, lowest)
        left, bottom = k % columns == 0, k + columns >= n
        panel.tick_params(labelbottom=bottom, labelleft=left)
        panel.set_xlabel(labels[0].replace(" (", "\n(") * bottom, fontsize=LABEL)
        panel.set_ylabel(labels[1].replace(" (", "\n(") * left, fontsize=LABEL)
    _color_bar(figure, mesh, panels, gof)
    best = np.where(np.isnan(gof), np.inf, gof).min(axis=(0, 1))
    _draw_curve(panels[-1], axes[2], np.where(np.isinf(best), np.nan, best),
                labels[2].replace(" (", "\n("))
    panels[-1].set_title("lowest GoF", fontsize=SMALL, pad=3)
    panels[-1].set_ylabel("")


def _map_caption(summary: dict[str, Any], gof: np.ndarray, ceiling: float) -> str:
    parts = []
    if summary.get("minimum"):
        at = ", ".join(_value_text(summary, name, value)
                       for name, value in summary["minimum"].items() if name != "gof")
        parts.append(f"Lowest GoF {summary['minimum']['gof']:.4f} (cross) at {at}.")
    if missing := int(np.isnan(gof).sum()):
        parts.append(f"Hatched: {missing:,} of {gof.size:,} points without a value.")
    if gof.ndim > 1 and np.nanmax(gof, initial=-np.inf) > ceiling:
        parts.append(f"Colours end at GoF {ceiling:.3g}.")
    return " ".join(parts)
