"""Figures of series: temperature, size, sizing curve and differential patterns."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from aiida_dse.documents.series_results import ScaledValue
from aiida_dse.documents.status import Task
from aiida_dse.engine.formatting import with_su
from aiida_dse.io.results import Result

from .figures import B_SYMBOL, CALCULATED, LABEL, OBSERVED, SMALL, Pair, head, new_figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*"
#: Divisors of the edges of a Pbnm perovskite that yield pseudo-cubic edges, with their labels.
PSEUDO_CUBIC = {"a": (np.sqrt(2), "a/√2"), "b": (np.sqrt(2), "b/√2"), "c": (2.0, "c/2")}
T_LABEL, L_LABEL = "$T$ (K)", "$1/L$ (1/nm)"


def temperature_figure(result: Result[Any], *, size: Pair = (7.0, 8.0)) -> Figure:
    """V, cell edges, zeta, B_iso with both laws, distances and angles against T, where available.

    Straight lines and laws are those of the result; error bars are s.u. scaled by max(1, GoF);
    hollow points are excluded. Raises ValueError for results of other tasks.
    """
    _require(result, Task.TEMPERATURE_SERIES)
    figure = _panels_figure(result, size)
    x = result.arrays["table/temperature"]
    summary = result.summary
    for panel, (kind, names) in zip(figure.axes, _kinds(result, with_b=True), strict=True):
        if kind == "B":
            _draw_displacements(panel, result, names)
            continue
        _draw_lines(panel, result, kind, names, x, origin=summary.temperatures.reference)
        panel.set_xlabel(T_LABEL, fontsize=LABEL)
        if kind == "volume" and (alpha := summary.numbers.get("thermal_expansion_V")):
            shown = with_su(alpha.value * 1e6, (alpha.su_scaled or 0.0) * 1e6)
            _note(panel, f"$\\alpha_V$ = {shown} × 10$^{{-6}}$/K\n"
                         f"at {summary.temperatures.reference:g} K")
    head(figure, result)
    return figure


def displacement_figure(result: Result[Any], *, size: Pair = (5.6, 4.4)) -> Figure:
    """B_iso(T) of every site with Einstein's and Debye's law, and B_static at T = 0 (diamonds)."""
    _require(result, Task.TEMPERATURE_SERIES)
    figure = new_figure(size)
    names = [name for name in _quantities(result) if name.startswith("B_iso(")]
    if not names:
        raise ValueError("no B_iso was refined at two temperatures, so there is nothing to draw.")
    _draw_displacements(figure.add_subplot(), result, names)
    _finish(figure, result)
    return figure


def size_figure(result: Result[Any], *, size: Pair = (7.0, 8.0)) -> Figure:
    """Strain with its line, cell edges, zeta, distances and angles against 1/L.

    Error bars are as in temperature_figure. Raises ValueError for results of other tasks.
    """
    _require(result, Task.SIZE_SERIES)
    figure = _panels_figure(result, size)
    x, su_x = (result.arrays[f"table/{kind}/1/L"] for kind in ("values", "su_scaled"))
    for panel, (kind, names) in zip(figure.axes, _kinds(result, with_b=False), strict=True):
        if kind == "volume":
            _draw_strain(panel, result, x, su_x)
        else:
            _draw_lines(panel, result, kind, names, x, su_x=su_x, origin=0.0)
        panel.set_xlabel(L_LABEL, fontsize=LABEL)
        panel.set_xlim(left=0)
    head(figure, result)
    return figure


def sizing_figure(result: Result[Any], *, size: Pair = (5.6, 4.4)) -> Figure:
    """E1 against d: predicted curve with the refined sizes, or measured energies with their fit.

    Error bars of predicted points: s.u. of the mean size (thick), spread of the population (thin).
    """
    _require(result, Task.SIZING_CURVE)
    arrays, options = result.arrays, result.summary.options
    figure = new_figure(size)
    panel = figure.add_subplot()
    grid, d = arrays["curves/d"], arrays["sizing/d"]
    panel.plot(grid, arrays["curves/predicted"], color=COLORS[0], lw=1.0,
               label=f"predicted, $d_0$ = {options['decay_length']:g} nm")
    if "measured/value" not in arrays:
        panel.errorbar(d, arrays["sizing/E1"], arrays["sizing/spread_E1"], fmt="none", lw=0.6,
                       color=COLORS[0], capsize=2, label="spread of the population")
        panel.errorbar(d, arrays["sizing/E1"], arrays["sizing/su_E1"], arrays["sizing/su_d"],
                       fmt="o", ms=3.5, color=COLORS[0], lw=1.6, label="refined sizes")
    else:
        fitted = result.summary.fitted.numbers["d0"]
        shown = with_su(fitted.value, fitted.su_scaled)
        panel.plot(grid, arrays["curves/fitted"], color=CALCULATED, lw=1.0,
                   label=f"fitted, $d_0$ = {shown} nm")
        panel.errorbar(d, arrays["measured/value"], arrays["measured/su"], arrays["sizing/su_d"],
                       fmt="o", ms=3.5, color=OBSERVED, lw=0.8, capsize=2, label="measured")
    panel.axhline(options["gap"], color="0.6", lw=0.7, ls=":")
    panel.annotate(f"$E_0$ = {options['gap']:g} eV", (grid[0], options["gap"]), (4, 2),
                   textcoords="offset points", ha="left", fontsize=SMALL, color="0.4")
    panel.set_xlim(grid[0], grid[-1])
    panel.set_xlabel("$d = 2L/√3$ (nm)", fontsize=LABEL)
    panel.set_ylabel("first exciton energy $E_1$ (eV)", fontsize=LABEL)
    panel.legend(frameon=False, fontsize=SMALL)
    _finish(figure, result)
    return figure


def differential_figure(result: Result[Any], *, size: Pair = (7.0, 4.4)) -> Figure:
    """(I - I0)/I0 in per cent against q, with the reference pattern below."""
    _require(result, Task.DIFFERENTIAL)
    summary, arrays = result.summary, result.arrays
    figure = new_figure(size)
    top, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    q, rows = arrays["pattern/q"], summary.patterns
    ordered = sorted(rows, key=lambda name: (rows[name].at is None, rows[name].at or 0.0))
    tones = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(ordered)))
    swept = summary.parameter
    for name, tone in zip(ordered, tones, strict=True):
        value = rows[name].at
        label = name if value is None else f"{value:g} {summary.unit}".strip()
        top.plot(q, 100 * arrays[f"differential/{name}"], color=tone, lw=0.8, label=label)
    top.axhline(0, color="black", lw=0.6)
    top.set_ylabel("$(I - I_0)/I_0$ (%)", fontsize=LABEL)
    at = summary.reference.at
    head = "" if swept is None else f"{swept} ($I_0$: {at:g} {summary.unit}".rstrip() + ")"
    handles, labels = top.get_legend_handles_labels()
    entry = 0.54 * SMALL * (max(map(len, labels)) + 12) / 72  # inches, line and gap included
    figure.legend(handles, labels, loc="outside lower center", frameon=False,
                  ncols=max(1, min(len(labels), int(size[0] / entry))), fontsize=SMALL,
                  title=head or f"$I_0$: {summary.reference.name}", title_fontsize=SMALL)
    below.plot(q, arrays["reference/intensity"], color=OBSERVED, lw=0.8)
    below.set_yscale("log")
    below.set_ylabel("$I_0$\n(arb. units)", fontsize=LABEL)
    below.set_xlabel("$q$ (1/Å)", fontsize=LABEL)
    below.set_xlim(q[0], q[-1])
    _finish(figure, result)
    return figure


FIGURES = {
    Task.TEMPERATURE_SERIES: temperature_figure, Task.SIZE_SERIES: size_figure,
    Task.SIZING_CURVE: sizing_figure, Task.DIFFERENTIAL: differential_figure,
}


def _require(result: Result[Any], task: Task) -> None:
    if result.task is not task:
        raise ValueError(f"the result is of task '{result.task}', not {task}.")


def _finish(figure: Figure, result: Result[Any]) -> None:
    for panel in figure.axes:
        panel.tick_params(labelsize=SMALL, direction="in")
    head(figure, result)


def _quantities(result: Result[Any]) -> list[str]:
    """The quantities of the table; a name may contain a slash, such as 1/L."""
    head = "table/values/"
    return [path[len(head):] for path in result.arrays if path.startswith(head)]


def _kinds(result: Result[Any], *, with_b: bool) -> list[tuple[str, list[str]]]:
    """Kinds of panels with their quantities."""
    lines = result.summary.lines
    found = [("volume", [name for name in ("volume",) if name in lines]),
             ("edges", [name for name in "abc" if name in lines]),
             ("zeta", [name for name in ("zeta",) if name in lines])]
    if with_b:
        drawn = result.summary.displacements
        found.append(("B", [f"B_iso({site})" for site in drawn]))
    found += [("distances", [name for name in lines if name.startswith("d(")]),
              ("angles", [name for name in lines if name.startswith("angle(")])]
    return [(kind, names) for kind, names in found if names]


def _panels_figure(result: Result[Any], size: Pair) -> Figure:
    kinds = _kinds(result, with_b=result.task is Task.TEMPERATURE_SERIES)
    if not kinds:
        raise ValueError("the series has no quantity with an s.u. in two refinements, so there is "
                         "nothing to draw.")
    columns = 1 if len(kinds) == 1 else 2
    rows = -(-len(kinds) // columns)
    figure = new_figure((size[0] * columns / 2, 0.5 + (size[1] - 0.5) * rows / 3))
    for k in range(len(kinds)):
        panel = figure.add_subplot(rows, columns, k + 1)
        panel.tick_params(labelsize=SMALL, direction="in")
    layout = figure.get_layout_engine()
    assert isinstance(layout, ConstrainedLayoutEngine)
    layout.set(hspace=0.04, wspace=0.04)
    return figure


def _draw_lines(
    panel: Axes, result: Result[Any], kind: str, names: list[str], x: np.ndarray, *,
    su_x: np.ndarray | None = None, origin: float,
) -> None:
    """Draw each quantity as points with error bars and its straight line."""
    pseudo_cubic = kind == "edges" and "zeta" in _quantities(result)
    used = result.arrays["table/used"]
    ends = np.array([0.0 if su_x is not None else np.nanmin(x), np.nanmax(x)])
    for name, color, marker in zip(names, cycle(COLORS), cycle(MARKERS), strict=False):
        factor, label = PSEUDO_CUBIC[name] if pseudo_cubic else (1.0, _label(name))
        values = result.arrays[f"table/values/{name}"] / factor
        su = result.arrays[f"table/su_scaled/{name}"] / factor
        row = result.summary.lines[name]
        intercept, slope = (row.numbers[key].value for key in ("intercept", "slope"))
        panel.plot(ends, (intercept + slope * (ends - origin)) / factor, color=color, lw=0.8)
        _draw_points(panel, x, values, su, su_x, used, color, marker, label)
    panel.set_ylabel({
        "volume": "$V$ (Å³)", "zeta": "irreducible strain $\\zeta$",
        "edges": "pseudo-cubic edges (Å)" if pseudo_cubic else "cell edges (Å)",
        "distances": "distances (Å)", "angles": "angles (deg)",
    }[kind], fontsize=LABEL)
    if len(names) > 1:
        panel.legend(frameon=False, fontsize=SMALL)
    elif (r_squared := result.summary.lines[names[0]].r_squared) and kind == "zeta":
        _note(panel, f"$R^2$ = {r_squared:.3f}")


def _draw_points(
    panel: Axes, x: np.ndarray, y: np.ndarray, su: np.ndarray, su_x: np.ndarray | None,
    used: np.ndarray, color: str, marker: str, label: str,
) -> None:
    """Draw points with error bars; hollow points are excluded from the analysis."""
    for shown, face in ((used, color), (~used, "white")):
        if shown.any():
            panel.errorbar(x[shown], y[shown], su[shown], None if su_x is None else su_x[shown],
                           fmt=marker, ms=3.5, mfc=face, mec=color, color=color, lw=0.8,
                           capsize=2, label=label if face == color else None)


def _draw_strain(panel: Axes, result: Result[Any], x: np.ndarray, su_x: np.ndarray) -> None:
    """Draw the volumetric strain in per cent with its free line and the line through the bulk."""
    strain = result.summary.strain
    ends = np.array([0.0, np.nanmax(x)])
    slope, intercept = strain.slope.value, strain.intercept.value
    panel.plot(ends, 100 * (intercept + slope * ends), color=COLORS[0], lw=0.9)
    note = f"$R^2$ = {strain.r_squared:.4f}\n$\\gamma$ = {_gamma(strain.surface_energy)}"
    if through := strain.through_bulk:
        panel.plot(ends, 100 * through.slope.value * ends, color="0.5", lw=0.8, ls="--",
                   label="through the bulk")
        note += f"\nthrough the bulk (dashed): {_gamma(through.surface_energy)}"
    modulus = strain.K
    note += f"\n$K$ = {with_su(modulus.value, modulus.su or None)} GPa (fixed)"
    _draw_points(panel, x, 100 * result.arrays["strain/values"],
                 100 * result.arrays["strain/su_scaled"], su_x, result.arrays["table/used"],
                 COLORS[0], "o", "strain")
    panel.axhline(0, color="black", lw=0.6)
    panel.set_ylabel("$(V - V_{\\rm bulk})/V_{\\rm bulk}$ (%)", fontsize=LABEL)
    _note(panel, note)


def _gamma(row: ScaledValue) -> str:
    return f"{with_su(row.value, row.su_scaled)} eV/nm²".replace("-", "−")


def _draw_displacements(panel: Axes, result: Result[Any], names: list[str]) -> None:
    """Draw B_iso(T) as points, Einstein's (full) and Debye's law (dashed), B_static at T = 0."""
    x, arrays = result.arrays["table/temperature"], result.arrays
    used = arrays["table/used"]
    handles = []
    for name, color, marker in zip(names, cycle(COLORS), cycle(MARKERS), strict=False):
        site = name[len("B_iso("):-1]
        _draw_points(panel, x, arrays[f"table/values/{name}"], arrays[f"table/su_scaled/{name}"],
                     None, used, color, marker, site)
        handles.append(Line2D([], [], ls="", marker=marker, ms=3.5, color=color, label=site))
        rows = result.summary.displacements.get(site)
        if rows is None:
            continue
        for law, style in (("einstein", "-"), ("debye", "--")):
            panel.plot(arrays["curves/temperature"], arrays[f"curves/{law}/{site}"], style,
                       color=color, lw=0.8)
        static = rows.best.numbers["B_static"]
        panel.errorbar([0], [static.value], [static.su_scaled or 0.0], fmt="d", ms=5,
                       mfc="white", color=color, lw=0.8, capsize=2, zorder=4, clip_on=False)
    handles += [Line2D([], [], color="0.3", lw=0.8, label="Einstein"),
                Line2D([], [], color="0.3", lw=0.8, ls="--", label="Debye"),
                Line2D([], [], ls="", marker="d", ms=5, mfc="white", color="0.3",
                       label="$B_{\\rm static}$")]
    panel.legend(handles=handles, frameon=False, fontsize=SMALL, ncols=2, columnspacing=1.0)
    panel.set_xlim(-0.04 * np.nanmax(x), 1.05 * np.nanmax(x))
    panel.set_ylim(bottom=0)
    panel.set_xlabel(T_LABEL, fontsize=LABEL)
    panel.set_ylabel(f"{B_SYMBOL} (Å²)", fontsize=LABEL)


def _note(panel: Axes, text: str) -> None:
    """Write a text into the upper corner that rising or falling points leave free."""
    y = np.concatenate([np.atleast_1d(line.get_ydata()) for line in panel.lines[:1]])
    rising = y[-1] >= y[0]
    panel.text(0.04 if rising else 0.96, 0.95, text, transform=panel.transAxes, va="top",
               ha="left" if rising else "right", fontsize=SMALL)


def _label(name: str) -> str:
    """'d(Pb-Br_eq)_1' as 'Pb–Br_eq 1'; other names than bonds and angles are unchanged."""
    kind, bracket, rest = name.partition("(")
    if not bracket or kind not in ("d", "angle"):
        return name
    atoms, _, number = rest.rpartition(")_")
    return f"{atoms.replace('-', '–')} {number}"
