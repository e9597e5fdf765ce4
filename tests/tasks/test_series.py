"""Analyses of series recover known numbers, with s.u. that follow from the covariance."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from aiida_dse.analysis.differential import differential
from aiida_dse.analysis.excitons import ExcitonLaw
from aiida_dse.analysis.series_table import series_table
from aiida_dse.analysis.size_series import size_series, sizing_curve
from aiida_dse.analysis.temperature_series import temperature_series
from aiida_dse.documents import DocumentError
from aiida_dse.documents.series import (
    Bulk,
    BulkModulus,
    DifferentialOptions,
    SizeOptions,
    SizingOptions,
    TemperatureOptions,
    parse_options,
)
from aiida_dse.documents.status import Status, Task
from aiida_dse.io.results import plain
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simulation import run_simulate

BULK = Bulk(volume=793.1, source="test")


def test_the_quantities_of_a_row_follow_from_the_parameters(refined):
    (row,) = series_table({"one": refined(cell=(8.207, 8.407, 11.756), sizes=(5.0, 5.1),
                                          gof=2.0)}).rows
    assert row.value("volume") == pytest.approx(8.207 * 8.407 * 11.756)
    assert row.value("a_k") == pytest.approx(5.8750, abs=1e-4)  # PHYSICS.md sec. 5
    assert row.value("zeta") == pytest.approx(-0.01204, abs=1e-5)
    assert row.value("L") == pytest.approx((5.1 * 5.0**2) ** (1 / 3))
    # s.u. of a product of independent factors, doubled by GoF = 2
    relative = np.array([3e-4 / 8.207, 3e-4 / 8.407, 5e-4 / 11.756])
    assert row.su("volume") == pytest.approx(
        2 * row.value("volume") * np.sqrt(np.sum(relative**2)), rel=1e-6)
    of_l = row.value("L") * np.hypot(2 / 3 * 0.03 / 5.0, 1 / 3 * 0.03 / 5.1)
    assert row.su("L") == pytest.approx(2 * of_l, rel=1e-6)
    assert row.su("1/L") == pytest.approx(2 * of_l / row.value("L") ** 2, rel=1e-6)
    assert row.covariance_of("L", "1/L") == pytest.approx(-row.su("L") * row.su("1/L"), rel=1e-6)


def test_fixed_parameters_have_no_uncertainty_and_no_law(refined):
    held = {"a": 3e-4, "L_ab": 0.03, "Br_ax.B_iso": 0.05, "Br_eq.B_iso": 0.03}
    results = {f"T{t}": refined(temperature=t, su=held) for t in (10.0, 100.0, 200.0)}
    series, found = temperature_series(results)
    assert np.isnan(series.rows[0].su("B_iso(Pb)")) and np.isnan(series.rows[0].su("b"))
    assert series.rows[0].su("volume") > 0
    assert set(found.summary.displacements) == {"Br_ax", "Br_eq"}
    assert "thermal_expansion_a" in found.summary.numbers
    assert "thermal_expansion_b" not in found.summary.numbers


def test_the_spread_of_l_is_that_of_a_drawn_population(refined):
    (row,) = series_table({"one": refined(sizes=(5.0, 6.0))}).rows
    rng = np.random.default_rng(5)
    drawn = []
    for mean, sd in ((5.0, 1.0), (6.0, 1.2)):
        w = np.sqrt(np.log1p((sd / mean) ** 2))
        drawn.append(rng.lognormal(np.log(mean) - w**2 / 2, w, 200_000))
    edges = (drawn[1] * drawn[0] ** 2) ** (1 / 3)
    assert row.value("sd_L") == pytest.approx(edges.std(), rel=0.02)


def test_the_table_agrees_with_its_refinement(folder):
    """s.u. of the volume and of the edges of a cubic cell, which follow a, in a refinement."""
    found = run_refine(folder.build(derived={"P": {"distances": [["Cs", "Cl"]]}}))
    series = series_table({"cubes": found})
    (row,) = series.rows
    rows = found.summary.derived["P"].quantities
    for name in rows:
        assert row.value(name) == pytest.approx(rows[name].value)
        if rows[name].su is None:  # an angle of a cube
            assert np.isnan(row.su(name))
        else:
            assert row.su(name) == pytest.approx(rows[name].su * row.factor)
    assert {name for name in rows if rows[name].su is not None} == {
        "a", "b", "c", "volume", "d(Cs-Cl)_1", "L", "1/L", "surface_to_volume",
        "confinement_diameter", "B_iso(Cs)", "B_iso(Cl)"}
    assert row.su("c") == pytest.approx(row.su("a"))
    assert row.value("c") == row.value("a")
    assert row.value("L") == pytest.approx(0.3 * row.value("a"), rel=1e-3)
    text = json.dumps(plain(series.plain()), allow_nan=False)
    assert json.loads(text)["rows"]["cubes"]["quantities"]["B_iso(Cl)"]["su"] > 0


@pytest.fixture
def population(folder):
    """A function that builds a population of cuboids and its pattern with noise."""
    length = {"L_ab": {"mean": 1.6, "sd": 0.3}, "L_c": {"mean": 2.2, "sd": 0.4}}
    particle = {"shape": "parallelepiped", "largest": 4.0, **length}

    def built(**keys):
        return folder.build(scan=None, phases__P__particle=particle, background={"chebyshev": 1},
                            **{"parameters": {"P.a": 4.12}} | keys)

    q = folder.columns[:, 0]
    mean = run_simulate(built(refinement=None)).arrays["components/P"]
    counts = np.random.default_rng(8).poisson(2e5 * mean / mean.max() + 1000.0)
    np.savetxt(folder.path / "cubes.xye", np.c_[q, counts, np.sqrt(counts)], fmt="%.8g")
    return built


def test_the_covariance_of_a_row_follows_from_that_of_the_parameters(population):
    """Volume, bond and L of cuboids, computed by hand from the stored covariance."""
    found = run_refine(population(
        parameters={"P.a": 4.115, "P.L_ab": 1.7}, derived={"P": {"distances": [["Cs", "Cl"]]}},
        refinement={"stages": [["P.a", "P.L_*"], ["P.*.B_iso"]]}))
    assert found.status is Status.CONVERGED
    (row,) = series_table({"one": found}).rows
    names = found.arrays["covariance/names"].tolist()
    at = [names.index(name) for name in ("P.a", "P.L_ab", "P.L_c", "P.Cl.B_iso")]
    covariance = found.arrays["covariance/matrix"][np.ix_(at, at)]
    a, ab, c = (found.summary.parameters[f"P.{name}"].value for name in ("a", "L_ab", "L_c"))
    edge = (c * ab**2) ** (1 / 3)
    slopes = {
        "volume": [3 * a**2, 0, 0, 0], "d(Cs-Cl)_1": [3**0.5 / 2, 0, 0, 0],
        "L": [0, 2 / 3 * edge / ab, edge / c / 3, 0],
        "1/L": [0, -2 / 3 / edge / ab, -1 / edge / c / 3, 0], "B_iso(Cl)": [0, 0, 0, 1],
    }
    gradient = np.array(list(slopes.values()))
    expected = gradient @ covariance @ gradient.T * row.factor**2
    for i, one in enumerate(slopes):
        assert row.su(one) == pytest.approx(np.sqrt(expected[i, i]), rel=1e-5)
        for j, other in enumerate(slopes):
            scale = row.su(one) * row.su(other)
            assert row.covariance_of(one, other) / scale == pytest.approx(
                expected[i, j] / scale, abs=1e-5), (one, other)
    assert set(name for name, one in found.summary.derived["P"].quantities.items()
               if one.su is None) == {"alpha", "beta", "gamma"}
    # zero except for rounding errors, which must not be propagated
    sizes = found.summary.derived["P"].sizes
    assert sizes["correlation"].su is None and abs(sizes["correlation"].value) < 1e-12
    assert sizes["mean_ab"].su == pytest.approx(
        found.summary.parameters["P.L_ab"].su, rel=0.1)
    assert abs(expected[0, 2]) > 0.01 * row.su("volume") * row.su("L")  # large enough to matter


def test_a_constrained_parameter_has_the_uncertainty_of_its_source(folder):
    found = run_refine(folder.build(constraints={"P.Cl.B_iso": "2 * P.Cs.B_iso"}, scan=None,
                                    refinement={"stages": [["P.a", "P.Cs.B_iso"]]}))
    (row,) = series_table({"one": found}).rows
    assert row.su("B_iso(Cl)") == pytest.approx(2 * row.su("B_iso(Cs)"), rel=1e-6)


def test_excluded_refinements_are_listed_with_their_reason(temperatures, refined):
    results = temperatures | {
        "bad": refined(temperature=80.0, status="not_converged"),
        "poor": refined(temperature=90.0, gof=9.0),
        "odd": refined(temperature=95.0, cell=(9.0, 9.0, 12.0)),
    }
    series, found = temperature_series(
        results, TemperatureOptions(exclude=("odd",), max_gof=5.0))
    assert set(found.summary.excluded) == {"bad", "poor", "odd"}
    assert "not_converged" in found.summary.excluded["bad"]
    assert "9.00" in found.summary.excluded["poor"]
    assert found.summary.numbers["thermal_expansion_V"].value == pytest.approx(1.1e-4, rel=1e-6)
    assert "bad" in series.plain()["rows"]
    assert sum("is not used" in text for text in found.summary.warnings) == 3


def test_expansion_displacements_and_disorder_are_recovered(temperatures):
    _, found = temperature_series(temperatures)
    rows = found.summary.numbers
    assert rows["thermal_expansion_V"].value == pytest.approx(1.1e-4, rel=1e-6)
    for name, theta, static in (("Pb", 64, 0.3), ("Br_ax", 88, 1.6), ("Br_eq", 88, 0.4)):
        assert rows[f"einstein.{name}.theta"].value == pytest.approx(theta, rel=1e-4)
        assert rows[f"einstein.{name}.B_static"].value == pytest.approx(static, abs=1e-4)
        assert found.summary.displacements[name].better == "einstein"
    (verdict,) = found.summary.disorder
    assert verdict.sites == ["Br_ax", "Br_eq"] and verdict.static_disorder
    assert verdict.difference == pytest.approx(1.2, abs=1e-3)
    assert verdict.verdict.startswith("B_static(Br_ax) exceeds B_static(Br_eq) by 1.20(")
    assert verdict.verdict.endswith("s.u.: there is static disorder of Br_ax")


def test_the_difference_of_two_static_parts_includes_their_correlation(temperatures, refined):
    """r = +0.9 between the two B_iso at every temperature reduces the s.u."""
    found = {}
    for r in (0.0, 0.9):
        results = {}
        for name, result in temperatures.items():
            rows = result.summary.parameters
            results[name] = refined(
                temperature=result.summary.sample["temperature"], correlation=r,
                b=[rows[f"P.{site}.B_iso"].value for site in ("Pb", "Br_ax", "Br_eq")])
        (verdict,) = temperature_series(results)[1].summary.disorder
        found[r] = verdict.su_scaled
    own = [temperature_series(results)[1].summary.numbers[f"einstein.{site}.B_static"].su
           for site in ("Br_ax", "Br_eq")]
    assert found[0.0] == pytest.approx(np.hypot(*own), rel=1e-3)
    assert found[0.9] ** 2 - found[0.0] ** 2 == pytest.approx(-1.8 * own[0] * own[1], rel=1e-3)


def test_equal_sites_are_not_reported_as_disordered(temperatures, refined):
    results = {}
    for name, result in temperatures.items():
        rows = result.summary.parameters
        pb, eq = (rows[f"P.{site}.B_iso"].value for site in ("Pb", "Br_eq"))
        results[name] = refined(temperature=result.summary.temperature, correlation=-0.3,
                                b=(pb, eq + 0.02, eq))
    (verdict,) = temperature_series(results)[1].summary.disorder
    assert not verdict.static_disorder and verdict.site is None
    assert "no evidence of static disorder" in verdict.verdict


def test_a_gof_of_two_doubles_every_uncertainty(temperatures):
    worse = {name: result.changed(
                 agreement=dataclasses.replace(result.summary.agreement, gof=2.0))
             for name, result in temperatures.items()}
    one, two = (temperature_series(r)[1].summary.numbers for r in (temperatures, worse))
    for name in one:
        assert two[name].su == pytest.approx(2 * one[name].su, rel=1e-3)
        assert two[name].value == pytest.approx(one[name].value)


def test_an_invalid_temperature_series_is_refused(temperatures, refined):
    with pytest.raises(ValueError, match="'none' has no temperature"):
        temperature_series(temperatures | {"none": refined()})
    with pytest.raises(ValueError, match="two different temperatures"):
        temperature_series({"a": refined(temperature=5.0), "b": refined(temperature=5.0)})
    two = refined(temperature=5.0).changed(phases=["P", "Q"])
    with pytest.raises(ValueError, match="that of the series as 'phase'"):
        temperature_series({"a": two})
    with pytest.raises(ValueError, match="no phase 'X'"):
        temperature_series(temperatures, TemperatureOptions(phase="X"))
    with pytest.raises(ValueError, match="'scan'"):
        temperature_series({"a": refined().changed(task=Task.SCAN)})


def test_few_points_and_extrapolation_are_reported(temperatures):
    two = {name: temperatures[name] for name in ("T6", "T45", "T100")}
    warnings = temperature_series(two)[1].summary.warnings
    assert any("only 3 points" in text for text in warnings)
    assert any("300 K lies outside" in text and "extrapolated" in text for text in warnings)
    hot = {name: temperatures[name] for name in ("T150", "T200", "T250", "T300")}
    warnings = temperature_series(hot)[1].summary.warnings
    assert any("above theta" in text and "B_iso(Pb)" in text for text in warnings)


def test_the_surface_energy_agrees_with_the_paper(sizes):
    """PHYSICS.md sec. 5: 2.3 % at 5 nm with K = 15 GPa is -2.7 eV/nm^2."""
    _, found = size_series(sizes, SizeOptions(bulk=BULK))
    rows, strain = found.summary.numbers, found.summary.strain
    assert strain.points["L5"].value == pytest.approx(0.023)
    assert rows["strain.slope"].value == pytest.approx(0.115, rel=1e-6)
    assert rows["strain.intercept"].value == pytest.approx(0, abs=1e-8)
    assert strain.r_squared == pytest.approx(1)
    assert rows["surface_energy"].value == pytest.approx(-2.7, abs=0.02)
    # by hand: edges L sqrt(a/b), L sqrt(b/a) and L, so that A/V is a little above 6/L
    a, b = (sizes["L5"].summary.parameters[name].value for name in ("P.a", "P.b"))
    above = (np.sqrt(a / b) + np.sqrt(b / a) + 1) / 3
    assert strain.surface_energy_SI.value == pytest.approx(-15 * 0.115 / 4 / above)
    assert rows["surface_energy_through_bulk"].value == pytest.approx(rows["surface_energy"].value)
    assert strain.K.value == 15 and "inferred" in strain.K.source
    assert any("does not include that of K" in text for text in found.summary.warnings)


def test_without_a_bulk_the_line_determines_its_volume(sizes):
    strain = size_series(sizes)[1].summary.strain
    assert strain.V_bulk.value == pytest.approx(793.1)
    assert strain.slope.value == pytest.approx(0.115, rel=1e-6)
    assert "extrapolated from L = 11.0 nm" in strain.V_bulk.source


def test_a_line_that_misses_the_bulk_is_reported(sizes):
    _, found = size_series(sizes, SizeOptions(bulk=Bulk(volume=800.0, source="another crystal")))
    assert any("does not pass through the bulk" in text and "another crystal" in text
               for text in found.summary.warnings)


def test_the_uncertainty_of_k_enters_the_surface_energy(sizes):
    modulus = BulkModulus(value=15.0, su=1.5, source="test")
    rows = size_series(sizes, SizeOptions(bulk=BULK, bulk_modulus=modulus))[1].summary.numbers
    share = np.hypot(0.1, rows["strain.slope"].su / rows["strain.slope"].value)
    assert rows["surface_energy"].su == pytest.approx(abs(rows["surface_energy"].value) * share)


def test_predicted_energies_have_uncertainty_and_spread(sizes):
    series, found = sizing_curve(sizes)
    law, row = ExcitonLaw(2.38, 7.3, 6.1), series.rows[0]
    ends = law.energy(2 / np.sqrt(3) * (row.value("L") + row.su("L") * np.array([1, -1])))
    shown = found.summary.predicted["L5"]
    assert shown.value == pytest.approx(float(law.energy(10 / np.sqrt(3))))
    assert shown.su_scaled == pytest.approx(abs(ends[1] - ends[0]) / 2, rel=1e-3)
    assert shown.spread / shown.su_scaled == pytest.approx(
        row.value("sd_L") / row.su("L"))


def test_the_decay_length_is_recovered_from_measured_energies(sizes):
    law = ExcitonLaw(2.38, 7.3, 5.05)
    measured = {name: {"value": float(law.energy(2 * float(name[1:].replace("_", "."))
                                                 / np.sqrt(3))), "su": 0.005}
                for name in sizes}
    _, found = sizing_curve(sizes, SizingOptions(measured=measured))
    assert found.summary.numbers["d0"].value == pytest.approx(5.05, rel=1e-5)
    with pytest.raises(ValueError, match="'other'"):
        sizing_curve(sizes, SizingOptions(measured={"other": {"value": 2.5, "su": 0.01}}))


def test_a_differential_pattern_is_the_relative_change(folder):
    """A scale changes all q equally; a larger B_iso reduces the peaks, not the self-scattering."""
    grid = {"start": 0.8, "step": 0.01, "stop": 8.0}
    simulated = {
        name: run_simulate(folder.build(pattern__file=None, pattern__grid=grid,
                                        pattern__sigma=None, refinement=None, scan=None,
                                        background=None, scales={"P": scale},
                                        parameters={"P.Cl.B_iso": b}))
        for name, scale, b in (("start", 1.0, 2.0), ("scaled", 1.2, 2.0), ("hot", 1.0, 4.0))
    }
    found = differential(simulated, DifferentialOptions(reference="start", parameter="P.Cl.B_iso"))
    assert found.arrays["differential/scaled"] == pytest.approx(0.2)
    assert found.summary.patterns["hot"].at == 4.0 and found.summary.unit == "Å^2"
    inside = differential(simulated, DifferentialOptions(reference="start", q_range=(2, 3)))
    assert inside.arrays["pattern/q"].min() >= 2 and inside.arrays["pattern/q"].max() <= 3
    hot = simulated["hot"].arrays["pattern/calculated"]
    cold = simulated["start"].arrays["pattern/calculated"]
    assert found.arrays["differential/hot"] == pytest.approx(hot / cold - 1)


def test_differential_patterns_require_a_common_axis(refined):
    one, other = refined(), refined()
    short = {key: value[:50] if key.startswith(("pattern/", "components/")) else value
             for key, value in other.arrays.items()}
    with pytest.raises(ValueError, match="different q"):
        differential({"a": one, "b": dataclasses.replace(other, arrays=short)},
                     DifferentialOptions(reference="a"))
    with pytest.raises(ValueError, match="'c' is not one of"):
        differential({"a": one, "b": other}, DifferentialOptions(reference="c"))


@pytest.mark.parametrize(("kind", "content", "message"), [
    (TemperatureOptions, {"reference_temprature": 300}, "reference_temprature: unknown key"),
    (SizeOptions, {"bulk": {"volume": 793.1}}, "options.bulk.source"),
    (SizeOptions, {"bulk_modulus": {"value": -3, "source": "x"}}, "options.bulk_modulus.value"),
])
def test_invalid_options_are_refused(kind, content, message):
    with pytest.raises(DocumentError, match=message):
        parse_options(kind, content)
