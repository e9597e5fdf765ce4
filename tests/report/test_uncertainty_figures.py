"""Corner, profile and bootstrap figures show the numbers of a result."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_dse.documents.records import ParameterRow
from aiida_dse.documents.results import (
    BootstrapRow,
    PosteriorRow,
    ProfileRow,
    UncertaintyRow,
    UncertaintySummary,
)
from aiida_dse.documents.status import Status
from aiida_dse.engine.model.agreement import Agreement
from aiida_dse.engine.parameters import Kind, ParameterStatus
from aiida_dse.io.results import Result
from aiida_dse.report.figures import save_figure
from aiida_dse.report.uncertainty import posterior_samples, uncertainty_figure

NAMES = ["P.a", "P.Br_eq.B_iso", "P.Br_eq.x"]
VALUES, SU = [8.2, 2.0, 0.29], [0.001, 0.1, 0.0005]
KINDS = [Kind.CELL_LENGTH, Kind.B_ISO, Kind.COORDINATE]


def made(*parts):
    """A result with independent, normally distributed parameters and the requested parts."""
    random = np.random.default_rng(1)
    found, arrays = {}, {}
    if "posterior" in parts:
        found["posterior"] = PosteriorRow(
            n_walkers=12, n_steps=90, thin=2, seed=0, acceptance=0.4, n_impossible=0, burn_in=20,
            converged=False)
        arrays["posterior/samples"] = VALUES + SU * random.normal(size=(45, 12, 3))
        arrays["posterior/samples"][:10] = 99.0  # the burn-in, which must not be shown
    if "bootstrap" in parts:
        found["bootstrap"] = BootstrapRow(
            n_samples=50, seed=0, n_refined=49, n_not_converged=0, n_failed=1, n_pending=0)
        arrays["bootstrap/values"] = VALUES + SU * random.normal(size=(50, 3))
        arrays["bootstrap/outcome"] = np.array([1] * 49 + [3])
    if "profile" in parts:
        steps = np.arange(1, 6) * 0.5
        found["profile"] = {"P.Br_eq.B_iso": ProfileRow(
            value=2.0, su=0.1, chi2_min=100.0, below="risen", above="bound", n_points=10,
            interval_68=(1.9, 2.1), interval_95=(1.8, 2.2), scaled_68=(1.89, 2.11),
            scaled_95=(1.78, 2.22))}
        for side, sign in (("below", -1), ("above", 1)):
            arrays[f"profile/P.Br_eq.B_iso/{side}/value"] = 2.0 + sign * 0.1 * steps
            arrays[f"profile/P.Br_eq.B_iso/{side}/chi2"] = 100.0 + steps**2
    rows = {
        name: ParameterRow(kind=kind, value=value, su=su, unit=kind.spec.unit, lower=0.0,
                           upper=value + 2.5 * su, start=value, status=ParameterStatus.FREE)
        for name, value, su, kind in zip(NAMES, VALUES, SU, KINDS, strict=True)}
    return Result(UncertaintySummary(
        status=Status.COMPLETE, stop_reason="complete", title="Dots", phases=["P"],
        parameters=rows, uncertainty=UncertaintyRow(**found), linear={}, derived={}, n_cycles=1,
        n_evaluations=1, agreement=Agreement(
            n_points=100, n_parameters=9, chi2=110.0, r_p=0.04, r_wp=0.05, r_exp=0.045, gof=1.1,
            r_wp_background_subtracted=0.06, durbin_watson=2.0),
    ), arrays)


def texts(figure):
    return " ".join([figure._suptitle.get_text(), *(
        text for panel in figure.axes for text in (panel.get_xlabel(), panel.get_ylabel()))])


def vertical(panel):
    return sorted({float(line.get_xdata()[0]) for line in panel.lines
                   if np.ptp(line.get_xdata()) == 0})


def test_the_corner_plot_marks_value_and_su(tmp_path):
    result = made("posterior")
    assert posterior_samples(result).shape == (35 * 12, 3)
    figure = uncertainty_figure(result)
    assert "Br_eq.B_iso\n(Å²)" in texts(figure) and "NOT CONVERGED" in texts(figure)
    panels = np.array(figure.axes).reshape(3, 3)
    for k in range(3):
        np.testing.assert_allclose(
            vertical(panels[k, k]), [VALUES[k] - SU[k], VALUES[k], VALUES[k] + SU[k]])
        low, high = panels[k, k].get_xlim()
        assert high < VALUES[k] + 8 * SU[k] < 99 and low > VALUES[k] - 8 * SU[k]
    save_figure(figure, tmp_path / "corner.png")
    # tick labels are complete numbers, without an offset
    assert not any(axis.get_offset_text().get_text() for panel in figure.axes
                   for axis in (panel.xaxis, panel.yaxis))


def test_a_profile_is_drawn_with_its_parabola_and_bound(tmp_path):
    figure = uncertainty_figure(made("profile"), "profile")
    (panel,) = figure.axes
    points = next(line for line in panel.lines if line.get_marker() == "o")
    x, rise = points.get_data()
    np.testing.assert_allclose(rise, ((x - 2.0) / 0.1) ** 2, atol=1e-9)
    assert len(x) == 11 and vertical(panel) == [pytest.approx(2.25)]
    assert "Δχ²" in texts(figure) and "Br_eq.B_iso (Å²)" in texts(figure)
    save_figure(figure, tmp_path / "profile.pdf")


def test_failed_bootstrap_samples_are_not_drawn(tmp_path):
    result = made("bootstrap")
    result.arrays["bootstrap/values"][49] = 1e6
    figure = uncertainty_figure(result, "bootstrap")
    assert "49 of 50 bootstrap samples" in texts(figure)
    for k, panel in enumerate(figure.axes):
        assert panel.get_xlim()[1] < VALUES[k] + 8 * SU[k]
        area = sum(bar.get_width() * bar.get_height() for bar in panel.patches)
        assert area == pytest.approx(1.0)
    save_figure(figure, tmp_path / "bootstrap.png")


def test_a_parameter_at_its_bound_is_drawn_without_a_normal_distribution(tmp_path):
    result = made("bootstrap", "posterior")
    rows = result.summary.parameters
    held = rows["P.a"].model_copy(update={"su": None, "status": ParameterStatus.AT_BOUND})
    result = result.changed(parameters=rows | {"P.a": held})
    with np.errstate(all="raise"):
        panel = uncertainty_figure(result, "bootstrap").axes[0]
        uncertainty_figure(result, "corner")
    assert vertical(panel) == [VALUES[0]]


def test_a_figure_without_data_is_refused_with_the_available_figures():
    with pytest.raises(
            ValueError, match=r"'corner'; the available figures are profile, bootstrap\."):
        uncertainty_figure(made("profile", "bootstrap"), "corner")
