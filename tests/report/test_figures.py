"""Figures of fits, maps and comparisons show the numbers of a result with their units."""

from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.testing import assert_allclose

from aiida_dse.documents.records import ParameterRow, Value
from aiida_dse.documents.results import (
    AxisRow,
    BasinRow,
    ComparisonSummary,
    ModelRow,
    PointRow,
    QuadraticRow,
    QuantityRow,
    RefinementSummary,
    ScanSummary,
    SimulationSummary,
)
from aiida_dse.documents.status import Status
from aiida_dse.engine.model.agreement import Agreement
from aiida_dse.engine.parameters import Kind, ParameterStatus
from aiida_dse.io.results import Result
from aiida_dse.report.figures import fit_figure, save_figure
from aiida_dse.report.map_figures import curves_figure, map_figure
from aiida_dse.report.slices import sliced

WAVELENGTH = 0.56  # Å
FIT = Agreement(
    n_points=900, n_parameters=9, chi2=1356.8, r_p=0.04, r_wp=0.0512, r_exp=0.0415, gof=1.234,
    r_wp_background_subtracted=0.06, durbin_watson=2.0)


def refined(n_phases: int = 2, *, observed: bool = True, reflections: bool = True) -> Result:
    q = np.linspace(0.5, 18, 900)
    names = [f"P{k}" for k in range(n_phases)]
    phases = {n: 4e4 * np.exp(-q / (2 + k)) for k, n in enumerate(names)}
    parts = {"background": 300 + 0 * q, "blank.solvent": 90 * np.exp(-((q - 2) ** 2))} | phases
    calculated = np.sum(list(parts.values()), axis=0)
    arrays = {
        "pattern/q": q, "pattern/calculated": calculated,
        "pattern/two_theta": 2 * np.degrees(np.arcsin(q * WAVELENGTH / (4 * np.pi))),
    } | {f"components/{name}": part for name, part in parts.items()}
    common = {"title": "Dots", "phases": names, "derived": {}, "stop_reason": "",
              "sample": {"name": "a_5nm", "temperature": 298.0}}
    if reflections:
        arrays |= {f"reflections/{name}": np.linspace(1, 6, 40) for name in names}
    if observed:
        noise = np.random.default_rng(1).normal(size=len(q))
        sigma = np.sqrt(calculated)
        arrays |= {"pattern/observed": calculated + sigma * noise, "pattern/sigma": sigma}
        return Result(RefinementSummary(
            status=Status.CONVERGED, agreement=FIT, linear={}, n_cycles=1, n_evaluations=1,
            **common), arrays)
    return Result(SimulationSummary(status=Status.COMPLETE, **common), arrays)


KINDS = {"P.a": Kind.CELL_LENGTH, "P.b": Kind.CELL_LENGTH, "P.Br.x": Kind.COORDINATE,
         "P.Br.y": Kind.COORDINATE, "P.Br.B_iso": Kind.B_ISO, "P.L": Kind.SIZE}


def scanned(*axes: tuple[str, np.ndarray], steep: float = 1.0) -> Result:
    """A GoF bowl with its minimum at the third value of each axis."""
    mesh = np.meshgrid(*(np.arange(len(values)) - 2.0 for _, values in axes), indexing="ij")
    gof = 1.1 + steep * 0.05 * np.sum(np.square(mesh), axis=0)
    minimum = {name: float(values[2]) for name, values in axes} | {"gof": 1.1}
    summary = ScanSummary(
        status=Status.COMPLETE, stop_reason="complete", title="Map", phases=["P"],
        axes=[AxisRow(name=name, unit=KINDS[name].spec.unit, kind=KINDS[name])
              for name, _ in axes],
        shape=list(gof.shape), n_done=gof.size, n_points_pattern=900, minimum=minimum,
        parameters={name: ParameterRow(kind=kind, value=0.0, unit=kind.spec.unit,
                                       status=ParameterStatus.FIXED)
                    for name, kind in KINDS.items()},
    )
    return Result(summary, {"scan/gof": gof} | {
        f"scan/axis_{k}": values for k, (_, values) in enumerate(axes)})


A, B = ("P.a", np.linspace(8.1, 8.2, 6)), ("P.b", np.linspace(8.3, 8.4, 7))
B_ISO = ("P.Br.B_iso", np.linspace(1, 3, 5))


def holed(result: Result, where: tuple) -> Result:
    gof = result.arrays["scan/gof"].copy()
    gof[where] = np.nan
    return Result(result.summary, result.arrays | {"scan/gof": gof})


def labelled(figure: Figure, label: str) -> list:
    """The lines with this label that contain points."""
    return [line for panel in figure.axes for line in panel.lines
            if line.get_label() == label and len(line.get_xdata())]


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def test_a_fit_shows_every_component_and_the_weighted_residual():
    result = refined()
    figure = fit_figure(result)
    top, ticks, residual = figure.axes
    assert [line.get_label() for line in top.lines] == [
        "observed", "calculated", "background", "blank.solvent", "P0", "P1"]
    for path, label in (("components/P1", "P1"), ("pattern/calculated", "calculated")):
        assert_allclose(labelled(figure, label)[0].get_ydata(), result.arrays[path])
    expected = ((result.arrays["pattern/observed"] - result.arrays["pattern/calculated"])
                / result.arrays["pattern/sigma"])
    assert_allclose(residual.lines[0].get_ydata(), expected)
    assert [line.get_ydata()[0] for line in residual.lines[1:]] == [-3, 0, 3]
    low, high = residual.get_ylim()
    assert low < expected.min() and expected.max() < high
    assert len(ticks.collections) == 2  # a row of marks per phase


def test_a_fit_has_labels_with_units_and_the_agreement():
    figure = fit_figure(refined())
    top, residual = figure.axes[0], figure.axes[-1]
    assert residual.get_xlabel() == "$q$ (1/Å)"
    assert "arb. units" in top.get_ylabel() and "√ scale" in top.get_ylabel()
    (above,) = top.child_axes
    assert above.get_xlabel() == "2θ (deg)"
    for part in ("Dots", "a_5nm", "298 K", "1.234", "5.12 %", "4.15 %"):
        assert part in figure.get_suptitle()


def test_the_two_theta_axis_follows_braggs_law():
    result = refined()
    figure = fit_figure(result)
    figure.canvas.draw()
    (above,) = figure.axes[0].child_axes
    assert_allclose(above.get_xlim(), result.arrays["pattern/two_theta"][[0, -1]], rtol=1e-9)


@pytest.mark.parametrize("n_phases", [1, 4])
def test_a_simulation_is_drawn_without_data_or_reflections(n_phases):
    result = refined(n_phases, observed=False, reflections=False)
    del result.arrays["pattern/two_theta"]
    figure = fit_figure(result)
    (top,) = figure.axes
    assert len(top.lines) == n_phases + 3 and not top.child_axes
    assert not labelled(figure, "observed")
    figure.canvas.draw()


@pytest.mark.parametrize("size", [(7.0, 5.0), (3.4, 3.8)])
@pytest.mark.parametrize("result", [
    refined(1), refined(4), scanned(A), scanned(A, B), scanned(A, B, B_ISO),
], ids=["1 phase", "4 phases", "1D", "2D", "3D"])
def test_text_is_legible_and_inside_the_page(result, size):
    draw = map_figure if result.task == "scan" else fit_figure
    figure = draw(result, size=size)
    figure.canvas.draw()
    width, height = figure.bbox.size
    for text in figure.findobj(matplotlib.text.Text):
        if not text.get_visible() or not text.get_text().strip():
            continue
        assert text.get_fontsize() >= 7
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_the_legend_leaves_the_corner_if_the_pattern_fills_it():
    low, flat = refined(1), refined(1)
    flat.arrays["pattern/observed"] = np.full(900, 3e4)  # far from what is calculated
    assert fit_figure(low).axes[0].get_legend() and not fit_figure(low).legends
    assert fit_figure(flat).legends and not fit_figure(flat).axes[0].get_legend()


def test_a_curve_marks_its_minimum():
    figure = map_figure(scanned(A))
    (panel,) = figure.axes
    (mark,) = labelled(figure, "minimum")
    assert_allclose([mark.get_xdata()[0], mark.get_ydata()[0]], [A[1][2], 1.1])
    assert panel.get_xlabel() == "a (Å)" and panel.get_ylabel().startswith("GoF")


def test_a_map_has_its_first_axis_across_and_marks_its_minimum():
    result = scanned(A, B)
    figure = map_figure(result)
    panel, bar = figure.axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("a (Å)", "b (Å)")
    assert_allclose(panel.collections[0].get_array(), result.arrays["scan/gof"].T)
    (mark,) = labelled(figure, "minimum")
    assert_allclose([mark.get_xdata()[0], mark.get_ydata()[0]], [A[1][2], B[1][2]])
    assert "1.1000 (cross) at a = 8.14 Å, b = 8.3333 Å" in caption(figure)
    assert "GoF" in bar.get_ylabel()
    assert panel.get_aspect() == 1 and panel.texts  # same units; labelled contours


def test_axes_of_different_units_have_no_common_scale():
    axes = ("P.Br.x", np.linspace(0.2, 0.3, 5)), ("P.L", np.linspace(4, 6, 5))
    panel = map_figure(scanned(*axes)).axes[0]
    assert panel.get_aspect() == "auto"
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("Br.x (fractional)", "L (nm)")


def test_cells_without_a_value_are_hatched_and_counted():
    result = holed(scanned(A, B), (slice(4, 6), slice(0, 3)))
    figure = map_figure(result)
    panel = figure.axes[0]
    assert panel.patch.get_hatch()
    assert int(panel.collections[0].get_array().mask.sum()) == 6
    assert "6 of 42 points without a value" in caption(figure)
    complete = map_figure(scanned(A, B))
    assert not complete.axes[0].patch.get_hatch() and "Hatched" not in caption(complete)
    curve = map_figure(holed(scanned(A), (5,)))
    assert [patch.get_hatch() for patch in curve.axes[0].patches] == ["////"]


@pytest.mark.parametrize("axes", [(A,), (A, B), (A, B, B_ISO)], ids=["1D", "2D", "3D"])
def test_a_map_without_any_value_has_no_minimum(axes):
    result = holed(scanned(*axes), (...,))
    figure = map_figure(result.changed(minimum=None))
    figure.canvas.draw()
    assert not labelled(figure, "minimum")
    assert "without a value" in caption(figure)


def test_the_caption_states_the_limit_of_the_colours():
    steep, shallow = map_figure(scanned(A, B, steep=20)), map_figure(scanned(A, B, steep=0.1))
    assert "Colours end at GoF" in caption(steep)
    assert "Colours end" not in caption(shallow)
    gof = scanned(A, B, steep=20).arrays["scan/gof"]
    low, high = steep.axes[0].collections[0].get_clim()
    assert low == gof.min() and 3 * gof.min() <= high < gof.max()


def test_maps_along_the_third_axis_share_colours_and_have_a_profile():
    result = scanned(A, B, B_ISO)
    figure = map_figure(result)
    *maps, profile, _ = figure.axes
    assert [panel.get_title() for panel in maps] == [
        f"Br.B_iso = {value:g} Å²" for value in B_ISO[1]]
    assert len({panel.collections[0].get_clim() for panel in maps}) == 1
    assert_allclose(profile.lines[0].get_ydata(), result.arrays["scan/gof"].min(axis=(0, 1)))
    first, last = labelled(figure, "minimum")
    assert first.axes is maps[2] and last.axes is profile
    assert_allclose(last.get_xdata(), B_ISO[1][2])


def test_a_selection_of_maps_contains_that_of_the_minimum():
    figure = map_figure(scanned(A, B, ("P.Br.B_iso", np.linspace(1, 5, 41))))
    *maps, profile, _ = figure.axes
    assert len(maps) == 12 and len(profile.lines[0].get_xdata()) == 41
    assert [bool(panel.lines[0].get_xdata().size) for panel in maps].count(True) == 1
    assert any(panel.get_title() == "Br.B_iso = 1.2 Å²" for panel in maps)


def test_an_axis_of_one_value_is_drawn():
    result = scanned(A, B)
    arrays = {"scan/gof": result.arrays["scan/gof"][:, 2:3], "scan/axis_0": A[1],
              "scan/axis_1": B[1][2:3]}
    figure = map_figure(Result(result.summary, arrays))
    figure.canvas.draw()
    assert labelled(figure, "minimum")


def test_a_figure_refuses_results_of_other_tasks():
    with pytest.raises(ValueError, match="map_figure"):
        fit_figure(scanned(A))
    with pytest.raises(ValueError, match="fit_figure"):
        map_figure(refined())


@pytest.mark.parametrize(("name", "magic"), [
    ("f.png", b"\x89PNG"), ("f.pdf", b"%PDF"), ("f.SVG", b"<?xml")])
def test_figures_are_written_in_every_format(tmp_path: Path, name, magic):
    settings = dict(matplotlib.rcParams)
    save_figure(map_figure(scanned(A, B)), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert dict(matplotlib.rcParams) == settings


def test_other_suffixes_and_missing_folders_are_refused(tmp_path: Path):
    figure = map_figure(scanned(A))
    with pytest.raises(ValueError, match=r"\.png, \.pdf or \.svg"):
        save_figure(figure, tmp_path / "f.jpg")
    with pytest.raises(OSError):
        save_figure(figure, tmp_path / "none" / "f.png")
    assert not list(tmp_path.iterdir())


def with_landmarks(*axes):
    """A map with a second basin, a saddle, a minimum with s.u. and two derived quantities."""
    result = scanned(*axes)
    at = {name: float(values[2]) for name, values in axes}
    place = {name: float(values[4]) for name, values in axes}
    between = {name: float(values[3]) for name, values in axes}
    names = [name for name, _ in axes]
    found = result.changed(
        quadratic=QuadraticRow(
            position={n: Value(value=at[n], su=0.5 * float(v[1] - v[0])) for n, v in axes},
            correlation={f"{a}, {b}": 0.6 for a, b in pairwise(names)},
        ),
        basins=[BasinRow(at=at, gof=1.1),
                BasinRow(at=place, gof=1.234, saddle=PointRow(at=between, gof=1.456))],
        quantities=[QuantityRow(name="P.volume", unit="Å^3"),
                    QuantityRow(name="P.angle(Pb-Br-Pb)_1", unit="deg", varies=True)],
    )
    shape = result.arrays["scan/gof"].shape
    angle = 160 + np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1)) ** 2.0
    arrays = {"scan/quantity_0": np.full((1,) * len(shape), 800.0), "scan/quantity_1": angle}
    return Result(found.summary, result.arrays | arrays)


def test_other_minima_and_saddles_are_marked_with_their_gof():
    figure = map_figure(with_landmarks(A, B))
    panel = figure.axes[0]
    for label, at, gof in (("other minimum", 4, "1.234"), ("saddle", 3, "1.456")):
        (mark,) = labelled(figure, label)
        assert_allclose([mark.get_xdata()[0], mark.get_ydata()[0]], [A[1][at], B[1][at]])
        assert gof in [text.get_text() for text in panel.texts]
    assert "saddles" in caption(figure)
    stack = map_figure(with_landmarks(A, B, B_ISO))
    (mark,) = labelled(stack, "other minimum")
    assert mark.axes.get_title() == "Br.B_iso = 3 Å²"  # only in the plane in which it lies


def test_the_ellipse_of_the_minimum_follows_from_its_covariance():
    """Its points have unit Mahalanobis distance, with s.u. scaled by GoF."""
    figure = map_figure(with_landmarks(A, B))
    (ellipse,) = [p for p in figure.axes[0].patches if isinstance(p, Ellipse)]
    around = ellipse.get_patch_transform().transform_path(ellipse.get_path()).vertices
    away = around - [A[1][2], B[1][2]]
    su = 1.1 * 0.5 * np.array([A[1][1] - A[1][0], B[1][1] - B[1][0]])
    covariance = np.outer(su, su) * np.array([[1, 0.6], [0.6, 1]])
    distance = np.einsum("ki,ij,kj->k", away, np.linalg.inv(covariance), away)
    # the ends of the Bezier segments lie on the ellipse
    assert_allclose(distance[::3], 1, rtol=1e-3)


def test_a_quantity_that_varies_is_drawn_as_contours():
    result = with_landmarks(A, B)
    plain, drawn = map_figure(result), map_figure(result, quantity="P.angle(Pb-Br-Pb)_1")
    flat = map_figure(result, quantity="P.volume")
    count = [len(figure.axes[0].collections) for figure in (plain, drawn, flat)]
    assert count[1] == count[0] + 1 and count[2] == count[0]
    assert "angle(Pb-Br-Pb)_1 (deg)" in caption(drawn)
    with pytest.raises(
            ValueError, match=r"no quantity 'P\.x'; its quantities are P\.volume, P\.angle"):
        map_figure(result, quantity="P.x")


def test_there_is_a_curve_for_each_value_of_the_second_axis():
    result = with_landmarks(A, B_ISO)
    figure = curves_figure(result)
    panel, bar = figure.axes
    curves = panel.lines[: len(B_ISO[1])]
    for k, curve in enumerate(curves):
        assert_allclose(curve.get_xdata(), A[1])
        assert_allclose(curve.get_ydata(), result.arrays["scan/gof"][:, k])
    assert len({curve.get_color() for curve in curves}) == len(curves)
    assert "Br.B_iso" in bar.get_ylabel()
    (mark,) = labelled(figure, "minimum")
    assert_allclose([mark.get_xdata()[0], mark.get_ydata()[0]], [A[1][2], 1.1])
    against = curves_figure(result, quantity="P.angle(Pb-Br-Pb)_1").axes[0]
    assert_allclose(against.lines[0].get_xdata(), 160 + np.arange(6) ** 2)
    assert against.get_xlabel() == "angle(Pb-Br-Pb)_1 (deg)"
    assert len(curves_figure(with_landmarks(A)).axes) == 1
    with pytest.raises(ValueError, match="more axes"):
        curves_figure(with_landmarks(A, B, B_ISO))
    with pytest.raises(ValueError, match="fit_figure"):
        curves_figure(refined())


def test_a_comparison_has_a_panel_for_each_model():
    from aiida_dse.report.comparison import comparison_figure

    q, noise = np.linspace(1, 10, 200), np.random.default_rng(2).normal(size=(2, 200))
    row = ModelRow(
        gof=1.0, r_wp=0.02, r_wp_background_subtracted=0.03, chi2=195.0, n_parameters=5,
        n_points=200, aic=205.0, bic=221.5, durbin_watson=2.0, status=Status.CONVERGED, phases=[])
    models = {"right": row, "wrong": row.model_copy(update={"delta_bic": 1234.5})}
    result = Result(
        ComparisonSummary(
            status=Status.COMPLETE, stop_reason="complete", sample={"name": "T1"}, agreement=FIT,
            best="right", ranking=list(models), models=models),
        {f"models/{name}/{key}": values for name, part in zip(models, noise, strict=True)
         for key, values in (("q", q), ("residual", part))},
    )
    figure = comparison_figure(result)
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert [title.partition(":")[0] for title in titles] == ["right", "wrong"]
    assert "1,234" in titles[1]
    with pytest.raises(ValueError, match="'scan'"):
        comparison_figure(scanned(A))


# --- slices of maps of four axes --------------------------------------------------------------------

FOUR = (A, B, ("P.Br.x", np.linspace(0.02, 0.06, 4)), B_ISO)


def whole_map(*axes) -> Result:
    """A map with everything that its analysis needs."""
    result = scanned(*axes)
    gof = result.arrays["scan/gof"]
    names = [name for name, _ in axes]
    summary = result.summary.model_copy(update={"moved": names})
    return Result(summary, result.arrays | {
        "scan/chi2": 890 * gof**2, "scan/n_active": np.full(gof.shape, 10.0)} | {
        f"scan/moved_{k}": values.reshape([-1 if k == i else 1 for i in range(len(axes))])
        for k, (_, values) in enumerate(axes)})


def test_a_slice_is_a_map_of_its_own():
    whole = whole_map(*FOUR)
    part, fixed = sliced(whole, {"Br.x": 0.034, "P.Br.B_iso": 3.0})
    assert fixed == {"P.Br.x": pytest.approx(0.1 / 3), "P.Br.B_iso": 3.0}
    assert_allclose(part.arrays["scan/gof"], whole.arrays["scan/gof"][:, :, 1, 4])
    assert [axis.name for axis in part.summary.axes] == ["P.a", "P.b"]
    assert part.summary.shape == [6, 7] and part.summary.n_done == 42
    assert part.summary.minimum["gof"] == part.arrays["scan/gof"].min() > 1.1
    assert part.summary.minimum["P.a"] == A[1][2] and part.summary.minimum["P.Br.B_iso"] == 3.0


@pytest.mark.parametrize(("at", "words"), [
    ({"P.c": 1.0}, "no axis 'P.c'"), ({"P.a": 9.0}, "outside the map"),
    ({name: float(values[0]) for name, values in FOUR}, "must remain")])
def test_slices_that_are_not_possible(at, words):
    with pytest.raises(ValueError, match=words):
        sliced(whole_map(*FOUR), at)


def test_a_map_of_four_axes_is_drawn_at_the_lowest_gof_of_the_last_one():
    figure = map_figure(whole_map(*FOUR))
    panels = [panel for panel in figure.axes if panel.get_title().startswith("Br.x")]
    assert len(panels) == 4
    assert "Slice of the map at Br.B_iso = 2 Å²" in caption(figure)
    (mark,) = labelled(figure, "minimum")[:1]
    assert_allclose([mark.get_xdata()[0], mark.get_ydata()[0]], [A[1][2], B[1][2]])
    other = map_figure(whole_map(*FOUR), at={"P.Br.B_iso": 1.0, "P.Br.x": 0.02})
    assert len([p for p in other.axes if p.get_xlabel()]) == 1
    assert "Br.B_iso = 1 Å²" in caption(other) and "Br.x = 0.02" in caption(other)


def test_only_maps_have_slices():
    with pytest.raises(ValueError, match="only maps have slices"):
        sliced(refined(), {"P.a": 8.1})
