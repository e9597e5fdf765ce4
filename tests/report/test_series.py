"""Tables and figures of series show the numbers of the result with their units."""

from __future__ import annotations

import re

import pytest

from aiida_dse.analysis.differential import differential
from aiida_dse.analysis.size_series import size_series, sizing_curve
from aiida_dse.analysis.temperature_series import temperature_series
from aiida_dse.documents.series import (
    Bulk,
    DifferentialOptions,
    SizeOptions,
    SizingOptions,
    TemperatureOptions,
)
from aiida_dse.report.figures import fit_figure, save_figure
from aiida_dse.report.series_figures import (
    FIGURES,
    differential_figure,
    displacement_figure,
    size_figure,
    sizing_figure,
    temperature_figure,
)
from aiida_dse.report.tables import result_report


@pytest.fixture(scope="module")
def analyses(temperatures, sizes):
    bulk = Bulk(volume=793.1, source="a crystal")
    energies = {name: {"value": 2.5, "su": 0.01} for name in sizes}
    return {
        "temperature_series": temperature_series(
            temperatures, TemperatureOptions(exclude=("T45",)))[1],
        "size_series": size_series(sizes, SizeOptions(bulk=bulk))[1],
        "sizing_curve": sizing_curve(sizes, SizingOptions(measured=energies))[1],
        "differential": differential(temperatures, DifferentialOptions(
            reference="T6", parameter="P.Pb.B_iso")),
    }


def labels(figure):
    return [panel.get_ylabel() for panel in figure.axes]


def test_tables_show_values_units_and_sources(analyses):
    text = result_report(analyses["temperature_series"])
    assert "6 of 7 refinements of P used" in text
    assert re.search(r"alpha_V = 110\.0\d*\(\d+\) 1e-6/K", text)
    assert re.search(r"Br_ax +einstein +88\.\d*\(\d+\) +1\.60\d*\(\d+\)", text)
    assert "static disorder of Br_ax" in text and "T45 is not used" in text
    text = result_report(analyses["size_series"])
    assert "V_bulk = 793.1 Å^3 (a crystal)" in text and "eV/nm^2" in text
    assert "K = 15 GPa (default for CsPbBr3, inferred" in text
    assert "measured energies" in result_report(analyses["sizing_curve"])
    text = result_report(analyses["differential"])
    assert "(I - I0)/I0 against T6 (P.Pb.B_iso = " in text and "Å^2)" in text


@pytest.mark.parametrize("task", FIGURES)
def test_every_figure_can_be_written_and_has_labels(analyses, task, tmp_path):
    figure = FIGURES[task](analyses[task])
    save_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert all(labels(figure))
    other = next(name for name in FIGURES if name != task)
    with pytest.raises(ValueError, match=f"task '{other}'"):
        FIGURES[task](analyses[other])


def test_temperature_panels_show_points_laws_and_excluded_points(analyses):
    result = analyses["temperature_series"]
    figure = temperature_figure(result)
    assert labels(figure) == ["$V$ (Å³)", "pseudo-cubic edges (Å)",
                              "irreducible strain $\\zeta$", "$B_\\mathrm{iso}$ (Å²)",
                              "angles (deg)"]
    line = figure.axes[0].lines[0]
    volume = dict(zip(result.arrays["table/temperature"], result.arrays["table/values/volume"],
                      strict=True))
    assert line.get_ydata()[[0, -1]] == pytest.approx([volume[6.0], volume[300.0]])
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[45.0]]
    figure = displacement_figure(result)
    curve = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 200)
    assert curve.get_ydata() == pytest.approx(result.arrays["curves/einstein/Pb"])


def test_strain_is_drawn_in_per_cent_from_the_bulk(analyses):
    panel = size_figure(analyses["size_series"]).axes[0]
    assert panel.get_xlim()[0] == 0 and "%" in panel.get_ylabel()
    assert panel.lines[0].get_ydata()[-1] == pytest.approx(2.3)
    (note,) = [text.get_text() for text in panel.texts]
    assert "$R^2$ = 1.0000" in note and "eV/nm²" in note


def test_figures_name_the_fitted_and_the_swept_parameter(analyses):
    texts = [t.get_text() for t in sizing_figure(analyses["sizing_curve"]).axes[0]
             .get_legend().get_texts()]
    assert any(text.startswith("fitted, $d_0$ = ") for text in texts)
    figure = differential_figure(analyses["differential"])
    assert figure.legends[0].get_title().get_text().startswith("P.Pb.B_iso ($I_0$: ")
    with pytest.raises((KeyError, ValueError)):
        fit_figure(analyses["size_series"])
