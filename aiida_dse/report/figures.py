"""Figures of fits and of pair distances, and the style of all figures (without pyplot)."""

from __future__ import annotations

import io
import textwrap
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from aiida_dse.documents.status import Task
from aiida_dse.engine.parameters import Kind
from aiida_dse.io.results import Result
from aiida_dse.tasks.real_space import TotalScattering

#: Okabe and Ito's colours, which readers with colour blindness can distinguish.
OBSERVED, CALCULATED, BACKGROUND = "#4D4D4D", "#D55E00", "#8C8C8C"
PHASES = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9")
BLANKS = ("#E69F00", "#000000", "#009E73", "#CC79A7")
LABEL, SMALL = 8.0, 7.0  # pt
B_SYMBOL = f"${Kind.B_ISO.spec.symbol.format()}$"
Pair = tuple[float, float]


def fit_figure(result: Result[Any], *, size: Pair = (7.0, 5.0)) -> Figure:
    """Observed and calculated pattern, components, reflections and weighted residual.

    size: width and height in inches. The intensity axis has a square-root scale, on which Poisson
    noise has a constant height. Raises ValueError for a scan or a simultaneous refinement.
    """
    if result.task is Task.SCAN:
        raise ValueError("the result is a scan, which has no pattern; draw it with map_figure.")
    if result.task is Task.SIMULTANEOUS:
        raise ValueError("the result has several patterns; draw it with simultaneous_figure.")
    arrays, phases = result.arrays, result.summary.phases
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
            label=name.removeprefix("blank.") + ", reflections" * (name in marked)))
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


def pairs_figure(result: Result[Any], *, size: Pair = (7.0, 3.0)) -> Figure:
    """Pair-distance distributions, one curve for each phase of a result of the task 'build'."""
    figure = new_figure(size)
    panel, end = figure.subplots(), 0.0
    for (name, row), color in zip(result.summary.distances.items(), cycle(PHASES), strict=False):
        r, number = (result.arrays[f"pairs/{name}/{key}"] for key in ("r", "number"))
        panel.plot(r, number / 1000, color=color, lw=0.4,
                   label=f"{name}, {row.atoms:,.0f} atoms")
        end = max(end, r[np.flatnonzero(number > 1e-3 * number.max())[-1]])
    panel.set(xlim=(0, 1.02 * end), ylim=(0, None))
    panel.set_xlabel("distance (Å)", fontsize=LABEL)
    panel.set_ylabel("pairs of atoms\n(10³ per Å)", fontsize=LABEL)
    panel.tick_params(labelsize=SMALL, direction="in")
    panel.legend(frameon=False, fontsize=SMALL)
    head(figure, result)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as .png (200 dpi), .pdf or .svg into an existing folder.

    Raises ValueError for other suffixes.
    """
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{path.name}: the name of a figure must end in .png, .pdf or .svg.")
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # text that graphics editors can change
        figure.savefig(path, dpi=200)


def new_figure(size: Pair, *, compress: bool = False) -> Figure:
    """A figure of a size in inches with a constrained layout of panels and labels."""
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.025, hspace=0, wspace=0, compress=compress)
    return FigureCanvasAgg(ShownFigure(figsize=size, layout=layout)).figure


class ShownFigure(Figure):
    """A figure that notebooks display even if pyplot is not imported."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=110)
        return content.getvalue()


def head(
    figure: Figure, result: Result[Any], remark: str = "", *, with_fit: bool = True
) -> None:
    """Write title, sample, agreement and a remark above the panels, wrapped to the width."""
    summary = result.summary
    sample, fit = summary.sample, getattr(summary, "agreement", None)
    words = [f"{sample[key]:g} K" if key == "temperature" else str(sample[key])
             for key in ("name", "ligand", "state", "temperature") if sample.get(key) is not None]
    title = " · ".join(filter(None, [summary.title, ", ".join(words)]))
    title = wrapped(title.replace("$", r"\$"), figure, LABEL)
    if fit is not None and with_fit:
        title += (f"\nGoF = {fit.gof:.3f},  $R_{{\\rm wp}}$ = {100 * fit.r_wp:.2f} %,  "
                  f"$R_{{\\rm exp}}$ = {100 * fit.r_exp:.2f} %")
    if remark:
        title += "\n" + wrapped(remark, figure, LABEL)
    figure.suptitle(title.strip(), fontsize=LABEL)


def wrapped(text: str, figure: Figure, points: float) -> str:
    """Text wrapped to the width of a figure; a character is about 0.54 of the font size wide."""
    width = int((figure.get_figwidth() - 0.2) * 72 / (0.54 * points))
    return textwrap.fill(text, width, break_on_hyphens=False)  # names of angles have hyphens


def _component_colors(result: Result[Any]) -> dict[str, str]:
    """Component -> colour for the background, the measured blanks and the phases."""
    blanks = [path[11:] for path in result.arrays if path.startswith("components/blank.")]
    found = {"background": BACKGROUND} | dict(zip(blanks, cycle(BLANKS), strict=False))
    found |= dict(zip(result.summary.phases, cycle(PHASES), strict=False))
    return {name: found[name] for name in found if f"components/{name}" in result.arrays}


def _square_root_axis(panel: Axes, curves: np.ndarray) -> None:
    """Scale the intensity axis by sign(I) sqrt|I|, with ticks at 1, 2 and 4 times powers of ten."""
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
    """Add an axis of 2 theta = 2 asin(wavelength q / 4 pi) in degrees at the top."""
    per_sine = q[-1] / np.sin(np.radians(two_theta[-1] / 2))  # 4 pi / wavelength, 1/Å
    axis = panel.secondary_xaxis("top", functions=(
        lambda x: 2 * np.degrees(np.arcsin(np.clip(np.asarray(x) / per_sine, -1, 1))),
        lambda angle: per_sine * np.sin(np.radians(np.asarray(angle) / 2))))
    axis.tick_params(labelsize=SMALL, direction="in")
    axis.set_xlabel("2θ (deg)", fontsize=LABEL)


def _draw_legend(figure: Figure, panel: Axes, handles: list[Line2D], pattern: np.ndarray) -> None:
    """Draw the legend in the upper right corner if the pattern leaves it free, or else below."""
    width, height = figure.get_size_inches()
    corner = pattern[int(len(pattern) * max(0.2, 1 - 2.4 / (width - 0.7))):]
    ceiling = np.sqrt(max(0.0, float(np.nanmax(corner))) / panel.get_ylim()[1])
    free = ceiling + 0.16 * len(handles) / (0.52 * height) < 0.9
    (panel if free else figure).legend(
        handles=handles, frameon=False, fontsize=SMALL, handlelength=1.8,
        loc="upper right" if free else "outside lower center",
        ncols=1 if free else max(2, int(width / 1.3)))


def total_scattering_figure(found: TotalScattering, *, size: Pair = (7.0, 5.0)) -> Figure:
    """F(Q) above G(r), observed and calculated; size: width and height in inches."""
    figure = new_figure(size)
    top, bottom = figure.subplots(2, 1)
    reduced = None if found.observed_structure_factor is None else found.q * (found.observed_structure_factor - 1)
    for panel, x, observed, calculated, labels in (
        (top, found.q, reduced, found.reduced, ("Q (Å$^{-1}$)", "F(Q) (Å$^{-1}$)")),
        (bottom, found.r, found.observed_pair_distribution, found.pair_distribution, ("r (Å)", "G(r) (Å$^{-2}$)")),
    ):
        if observed is not None:
            panel.plot(x, observed, "o", ms=1.8, mfc="none", mec=OBSERVED, mew=0.4, label="observed")
            spread = float(np.ptp(calculated))
            panel.plot(x, observed - calculated - 0.7 * spread, color=OBSERVED, lw=0.4, label="difference")
        panel.plot(x, calculated, color=CALCULATED, lw=0.9, label="calculated")
        panel.set(xlabel=labels[0], ylabel=labels[1], xlim=(x[0], x[-1]))
    top.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)
    return figure
