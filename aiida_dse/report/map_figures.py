"""Figures of GoF maps: curves, maps with minima and saddles, slices along a third axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from aiida_dse.documents.results import PointRow, QuadraticRow, ScanSummary
from aiida_dse.documents.status import Task
from aiida_dse.engine.formatting import with_su
from aiida_dse.engine.parameters import Kind
from aiida_dse.io.results import Result

from .figures import LABEL, PHASES, SMALL, Pair, head, new_figure, wrapped
from .slices import sliced

MINIMUM, QUANTITY, OTHER = "#D55E00", "#CC79A7", "#56B4E9"
HATCH: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.7", "hatch": "////"}
MAX_PANELS, N_LEVELS = 12, 7
GOF_LABEL = "GoF = √(reduced χ²)"


def map_figure(
    result: Result[Any], *, size: Pair | None = None, quantity: str | None = None,
    at: Mapping[str, float] | None = None,
) -> Figure:
    """GoF over the axes of a scan: a curve, a map, or maps along the third axis.

    `at` fixes axes at their grid values nearest to the given ones; a map of four axes is drawn at
    the value of the last axis at which GoF is lowest, unless `at` fixes another one.

    The lowest point, the s.u. ellipse of the minimum between the points, other minima and the
    saddles towards them are marked. quantity: a derived quantity drawn as contours. size: width and
    height in inches (None: by number and units of the axes). Raises ValueError for results of other
    tasks and unknown quantities.
    """
    at = dict(at or {})
    if result.task is Task.SCAN and len(result.summary.axes) - len(at) > 3:
        last = next(axis.name for axis in reversed(result.summary.axes)
                    if not {axis.name, result.summary.parts(axis.name)[1]} & set(at))
        at[last] = (result.summary.minimum or {}).get(last, float(result.arrays["scan/axis_3"][0]))
    whole, fixed = result.summary, dict[str, float]()
    if at:
        result, fixed = sliced(result, at)
    summary, gof, axes = _map_of(result)
    names = [axis.name for axis in summary.axes]
    levels_of = None if quantity is None else _quantity(result, quantity)
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
        panel = figure.add_subplot()
        _draw_curve(panel, axes[0], gof, labels[0], GOF_LABEL)
        _draw_interval(panel, summary)
    else:
        if gof.ndim == 2:
            panel = figure.add_subplot()
            mesh = _draw_map(panel, axes, gof, limits, lowest, labels, equal)
            _draw_landmarks(panel, summary, {})
            if levels_of is not None:
                _draw_quantity(panel, axes, levels_of)
        else:
            mesh = _draw_maps(figure, axes, gof, limits, lowest, labels, summary, equal, levels_of)
        above = bool(np.nanmax(gof, initial=-np.inf) > limits[1])
        bar = figure.colorbar(mesh, ax=figure.axes, extend="max" if above else "neither",
                              aspect=30, ticks=MaxNLocator(N_LEVELS))
        bar.set_label(GOF_LABEL, fontsize=LABEL)
    caption = _map_caption(summary, gof, limits[1], landmarks=gof.ndim > 1)
    if quantity is not None and gof.ndim > 1:
        text = f"{_name_and_unit(summary, quantity)[0]} ({_name_and_unit(summary, quantity)[1]})"
        caption += f" Dashed: {text}."
    if fixed:
        values = ", ".join(_value_text(whole, name, value) for name, value in fixed.items())
        caption = f"Slice of the map at {values}. {caption}"
    return _finished(figure, result, caption)


def curves_figure(
    result: Result[Any], *, quantity: str | None = None, size: Pair = (5.0, 3.8)
) -> Figure:
    """GoF along the first axis, one curve for each value of the second (often a B_iso).

    quantity: a derived quantity on the abscissa in place of the first axis. Raises ValueError for
    results of other tasks, maps of more axes and unknown quantities.
    """
    summary, gof, axes = _map_of(result)
    if gof.ndim > 2:
        raise ValueError(
            "curves are drawn along one axis for each value of a second one, but this map has "
            "more axes. Draw it as a map."
        )
    x = np.broadcast_to(axes[0].reshape(-1, *(1,) * (gof.ndim - 1)), gof.shape)
    if quantity is not None:
        x = _quantity(result, quantity)
    curves, x = gof.reshape(len(axes[0]), -1), x.reshape(len(axes[0]), -1)
    figure = new_figure(size)
    panel = figure.add_subplot()
    ends = (axes[1][0], axes[1][-1]) if gof.ndim == 2 else (0.0, 1.0)
    # omit the palest tenth of the colours, which is invisible on white
    colors = ScalarMappable(Normalize(ends[0], ends[1] + 0.1 * (ends[1] - ends[0])), "viridis")
    for k in range(curves.shape[1]):
        color = colors.to_rgba(axes[1][k]) if gof.ndim == 2 else PHASES[0]
        panel.plot(x[:, k], curves[:, k], "o-", color=color, ms=2, lw=0.9,
                   label=_value_text(summary, summary.axes[1].name, axes[1][k])
                   if gof.ndim == 2 else "GoF")
    if np.isfinite(gof).any():
        at = np.unravel_index(int(np.nanargmin(curves)), curves.shape)
        _mark(panel, x[at], curves[at])
    name, unit = _name_and_unit(summary, quantity or summary.axes[0].name)
    panel.set_xlabel(f"{name} ({unit})", fontsize=LABEL)
    panel.set_ylabel(GOF_LABEL, fontsize=LABEL)
    if gof.ndim == 2:
        bar = figure.colorbar(colors, ax=panel, aspect=30)
        bar.ax.set_ylim(*ends)
        bar.set_label("{} ({})".format(*_name_and_unit(summary, summary.axes[1].name)),
                      fontsize=LABEL)
    caption = _map_caption(summary, gof, np.inf, hatched=False, landmarks=False)
    return _finished(figure, result, caption)


def _map_of(result: Result[Any]) -> tuple[ScanSummary, np.ndarray, list[np.ndarray]]:
    if result.task is not Task.SCAN:
        raise ValueError(f"the result is of task '{result.task}'; draw it with fit_figure.")
    gof = np.where(np.isfinite(result.arrays["scan/gof"]), result.arrays["scan/gof"], np.nan)
    axes = [np.asarray(result.arrays[f"scan/axis_{k}"]) for k in range(gof.ndim)]
    return result.summary, gof, axes


def _quantity(result: Result[Any], name: str) -> np.ndarray:
    """A derived quantity at every point of the grid."""
    known = [row.name for row in result.summary.quantities]
    if name not in known:
        raise ValueError(
            f"the map has no quantity '{name}'; its quantities are {', '.join(known) or 'none'}."
        )
    values = result.arrays[f"scan/quantity_{known.index(name)}"]
    return np.broadcast_to(values, result.arrays["scan/gof"].shape)


def _finished(figure: Figure, result: Result[Any], caption: str) -> Figure:
    for panel in figure.axes:
        panel.tick_params(labelsize=SMALL)
    head(figure, result)
    figure.supxlabel(wrapped(caption, figure, SMALL), fontsize=SMALL, parse_math=False)
    return figure


def _name_and_unit(summary: ScanSummary, name: str) -> tuple[str, str]:
    """Displayed name (without the only phase) and unit of an axis, parameter or quantity."""
    units = {axis.name: axis.unit for axis in summary.axes}
    units |= {row.name: row.unit for row in summary.quantities}
    kinds: dict[str, Kind | None] = {axis.name: axis.kind for axis in summary.axes}
    units |= {key: row.unit for key, row in summary.parameters.items()}
    kinds |= {key: row.kind for key, row in summary.parameters.items()}
    unit = units.get(name, "").replace("^2", "²").replace("^3", "³")
    plain = "fractional" if kinds.get(name) is Kind.COORDINATE else "dimensionless"
    return summary.parts(name)[1], unit or plain


def _value_text(summary: ScanSummary, parameter: str, value: float) -> str:
    short, unit = _name_and_unit(summary, parameter)
    return f"{short} = {value:.5g}" + f" {unit}" * (unit not in ("fractional", "dimensionless"))


def _map_caption(
    summary: ScanSummary, gof: np.ndarray, ceiling: float, *, hatched: bool = True,
    landmarks: bool = True,
) -> str:
    parts = []
    if minimum := summary.minimum:
        at = ", ".join(_value_text(summary, k, v) for k, v in minimum.items() if k != "gof")
        chi2 = "" if summary.minimum_chi2 is None else (
            f"; χ² = {summary.minimum_chi2:.1f}, {summary.n_counted} parameters counted")
        parts.append(f"Lowest GoF {summary.lowest_gof:.4f} (cross) at {at}{chi2}.")
    if summary.quadratic and (position := summary.quadratic.position):
        factor = summary.su_scale
        at = ", ".join(
            f"{_name_and_unit(summary, k)[0]} = {with_su(row.value, (row.su or 0.0) * factor)}"
            for k, row in position.items()
        )
        shape = (" (ellipse: 1 s.u., conditional on the fixed parameters; it may be hidden by the "
                 "cross)") if landmarks else ""
        parts.append(f"Minimum between the points{shape}: {at}, s.u. scaled by GoF.")
    others = summary.basins[1:]
    if landmarks and others:
        parts.append("Circles: other minima with their GoF; diamonds: saddles towards them.")
    if missing := int(np.isnan(gof).sum()):
        lead = "Hatched: " if hatched else ""
        parts.append(f"{lead}{missing:,} of {gof.size:,} points without a value.")
    if row := summary.interpolation:
        parts.append(f"Interpolated from the exact patterns of {row.n_exact:,} geometries; largest relative "
                     f"error of the GoF at {row.n_checked:,} checked points: {row.error:.1e}.")
    if saved := summary.adaptive:
        parts.append(f"{saved.n_interpolated:,} points are interpolated.")
    if gof.ndim > 1 and np.nanmax(gof, initial=-np.inf) > ceiling:
        parts.append(f"Colours end at GoF {ceiling:.3g}.")
    return " ".join(parts)


def _color_limits(gof: np.ndarray) -> Pair:
    """From the lowest GoF to three times this value, or to the first quartile if it is higher."""
    finite = gof[np.isfinite(gof)] if np.isfinite(gof).any() else np.array([0.0, 1.0])
    low = float(finite.min())
    return low, float(min(finite.max(), max(3 * low, np.quantile(finite, 0.25))))


def _edges(values: np.ndarray) -> np.ndarray:
    """The borders (n + 1,) of the grid cells of an axis; a single value has a cell of width 1."""
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


def _draw_interval(panel: Axes, summary: ScanSummary) -> None:
    """Draw the s.u. (scaled by GoF) of the minimum of a curve as an error bar."""
    position = summary.quadratic.position if summary.quadratic else {}
    for row in position.values():
        width = (row.su or 0.0) * summary.su_scale
        panel.errorbar(row.value, summary.lowest_gof, xerr=width, color=MINIMUM,
                       capsize=2, lw=1.0, zorder=4)


def _draw_landmarks(panel: Axes, summary: ScanSummary, at: dict[str, float]) -> None:
    """Draw the ellipse of the minimum, other minima and saddles that lie in the plane `at`."""
    x, y = (axis.name for axis in summary.axes[:2])
    quadratic = summary.quadratic or QuadraticRow()
    position = quadratic.position
    if x in position and y in position and _in_plane(summary.minimum or {}, at):
        # principal axes of the covariance in the units of the panel
        factor = summary.su_scale
        r = quadratic.correlation.get(f"{x}, {y}", 0.0)
        su = np.array([position[x].su or 0.0, position[y].su or 0.0]) * factor
        values, vectors = np.linalg.eigh(np.outer(su, su) * np.array([[1, r], [r, 1]]))
        panel.add_patch(Ellipse(
            (position[x].value, position[y].value), *2 * np.sqrt(values),
            angle=float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))), fill=False,
            ec=MINIMUM, lw=1.0, zorder=6))
    for basin in summary.basins[1:]:
        places: tuple[tuple[PointRow | None, str, str], ...] = (
            (basin, "o", "other minimum"), (basin.saddle, "D", "saddle"))
        for place, marker, label in places:
            if place is None or not _in_plane(place.at, at):
                continue
            panel.plot(place.at[x], place.at[y], marker, color=OTHER, mec="black", mew=0.6,
                       ms=5 if marker == "o" else 4, label=label, zorder=5)
            panel.annotate(f"{place.gof:.4g}", (place.at[x], place.at[y]), (4, 3),
                           textcoords="offset points", fontsize=SMALL, zorder=6,
                           bbox={"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 0.6})


def _in_plane(place: dict[str, float], at: dict[str, float]) -> bool:
    return all(place.get(name) == value for name, value in at.items())


def _draw_quantity(
    panel: Axes, axes: list[np.ndarray], values: np.ndarray, *, label: bool = True
) -> None:
    """Draw contours of a derived quantity (n_x, n_y)."""
    if min(values.shape) < 2 or not np.nanmax(values) > np.nanmin(values):
        return
    drawn = panel.contour(axes[0], axes[1], np.ma.masked_invalid(values.T), N_LEVELS,
                          linewidths=0.8, linestyles="--", colors=QUANTITY)
    if label:
        for text in panel.clabel(drawn, fontsize=SMALL, fmt="%.6g", colors="black"):
            text.set_bbox({"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 0.4})


def _draw_map(
    panel: Axes, axes: list[np.ndarray], gof: np.ndarray, limits: Pair, lowest: np.ndarray,
    labels: list[str], equal: bool, *, n_ticks: int = 5, label_contours: bool = True,
) -> QuadMesh:
    """Draw gof (n_x, n_y) as colours and contours; cells without a value are hatched."""
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
    labels: list[str], summary: ScanSummary, equal: bool, quantity: np.ndarray | None,
) -> QuadMesh:
    """Draw a map for each value of the third axis, and the lowest GoF against this axis."""
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
        _draw_landmarks(panel, summary, {summary.axes[2].name: float(axes[2][slice_])})
        if quantity is not None:
            _draw_quantity(panel, axes, quantity[:, :, slice_], label=slice_ in lowest[:, 2])
        panel.tick_params(labelbottom=bottom, labelleft=left)
        panel.set_title(_value_text(summary, summary.axes[2].name, axes[2][slice_]),
                        fontsize=SMALL, pad=3)
    best = np.fmin.reduce(gof, axis=(0, 1))
    _draw_curve(panels[-1], axes[2], best, labels[2], "")
    panels[-1].set_title("lowest GoF", fontsize=SMALL, pad=3)
    panels[-1].yaxis.tick_right()  # on the left, the ticks would widen the gap between columns
    return mesh
