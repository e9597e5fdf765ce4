"""Normal distributions and free histograms of sizes."""

from __future__ import annotations

import numpy as np
import pytest
from cifs import cubic_cif
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import truncnorm

from aiida_dse.documents import DocumentError, parse_document
from aiida_dse.engine.particles.length_laws import FreeWeights, Histogram, Normal
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine
from aiida_dse.tasks.simulation import run_simulate

CIF = cubic_cif(5.936, ["Pb Pb2+ 0 0 0 1 1.3", "S S 0.5 0.5 0.5 1 0.9"])
GRID = {"axis": "q_inverse_angstrom", "wavelength": 0.5, "grid": {"start": 0.8, "stop": 12.0, "step": 0.02}}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x.cif").write_text(CIF)
    return tmp_path


def document(particle, **more):
    return {"schema": "aiida-dse/model/2", "phases": {"P": {"structure": "x.cif", "particle": particle}},
            "pattern": GRID} | more


def pattern(folder, particle, **more):
    return run_simulate(build(parse_document(document(particle, **more)), folder))


@pytest.mark.parametrize("power", [0, 1, 3])
def test_the_moments_of_a_truncated_normal_distribution(power):
    law = truncnorm((0 - 2.0) / 0.7, (3.5 - 2.0) / 0.7, loc=2.0, scale=0.7)
    found = Normal(2.0, 0.7).truncated(3.5)
    low = np.array([0.0, 0.5, 2.0, 3.4, 3.6])
    expected = [quad(lambda x: x**power * law.pdf(x), min(a, 3.5), 3.5)[0] for a in low]
    assert_allclose(found.moment_beyond(power, low), expected, rtol=1e-6, atol=1e-9)
    assert_allclose(found.density(np.array([1.0, 2.0])), law.pdf([1.0, 2.0]), rtol=1e-5)
    # lengths divided by 1.02
    assert_allclose(Normal(2.0, 0.7).truncated(3.5, 1.02).moment_beyond(power, low / 1.02),
                    np.array(expected) / 1.02**power, rtol=1e-6, atol=1e-9)
    whole = truncnorm(-2.0 / 0.7, 9.0, loc=2.0, scale=0.7)  # there are no negative lengths
    assert Normal(2.0, 0.7).beyond(2.4) == pytest.approx(whole.sf(2.4), rel=1e-6)


def test_a_histogram_is_linear_between_its_lengths():
    law = Histogram((1.0, 1.5, 2.0), (0.2, 1.0, 0.4))
    x = np.array([0.4, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0])
    assert_allclose(law.density(x), [0, 0, 0.1, 0.2, 0.6, 1.0, 0.7, 0.4, 0.2, 0, 0], atol=1e-12)
    area = 0.5 * (0.2 + 1.0 + 0.4)
    assert_allclose(law.truncated(5.0).density(x), law.density(x) / area, rtol=1e-9, atol=1e-12)
    assert law.truncated(5.0).moment_beyond(0, np.array([1.5]))[0] == pytest.approx(
        (0.5 * 0.7 + 0.5 * 0.2) / area, rel=1e-9)
    assert law.beyond(2.0) == pytest.approx(0.5 * 0.5 * 0.4 / area, rel=1e-9)
    with pytest.raises(ValueError, match="at least one of them must be above 0"):
        Histogram((1.0, 1.5, 2.0), (0.0, 0.0, 0.0))


@pytest.mark.parametrize("shape", ["sphere", "octahedron", "quasi_cube"])
def test_a_fine_histogram_of_log_normal_weights_is_the_log_normal_distribution(folder, shape):
    size = {"sphere": "D", "octahedron": "L_edge", "quasi_cube": "L"}[shape]
    law = {"mean": 2.4, "sd": 0.3}
    plain = pattern(folder, {"shape": shape, size: law})
    fine = pattern(folder, {"shape": shape, size: law | {"law": "histogram", "points": 50, "range": [1.2, 4.2]}})
    assert_allclose(fine.arrays["pattern/calculated"], plain.arrays["pattern/calculated"], rtol=1e-2)
    for name, row in plain.summary.derived["P"].sizes.items():
        if name in ("mean_D", "sd_D", "volume_mean_D", "mean_edge", "sd_edge", "mean_ab", "sd_ab"):
            assert fine.summary.derived["P"].sizes[name].value == pytest.approx(row.value, rel=1e-2), name
    assert fine.summary.derived["P"].quantities["L"].value == pytest.approx(
        plain.summary.derived["P"].quantities["L"].value, rel=1e-2)


def test_a_normal_distribution_is_the_mean_over_single_sizes(folder):
    found = pattern(folder, {"shape": "sphere", "D": {"mean": 2.4, "sd": 0.3, "law": "normal"}})
    nodes, weights = np.polynomial.legendre.leggauss(60)
    total, whole = 0.0, 0.0
    for x, w in zip(2.4 + 1.5 * nodes, weights, strict=True):
        w = w * np.exp(-(((x - 2.4) / 0.3) ** 2) / 2)
        total = total + w * pattern(folder, {"shape": "sphere", "D": float(x)}).arrays["pattern/calculated"]
        whole += w
    # TAIL: 1e-4 of the intensity may lie beyond the end of the distribution
    assert_allclose(found.arrays["pattern/calculated"], total / whole, rtol=2e-3)
    assert found.summary.parameters["P.sd_D"].value == 0.3


def test_a_bimodal_population_is_refined(folder):
    """Two sizes of particles, which no log-normal distribution describes; the weights sum to 1."""
    parts = [pattern(folder, {"shape": "sphere", "D": {"mean": mean, "sd": 0.12, "law": "normal"}})
             .arrays["pattern/calculated"] for mean in (1.6, 2.8)]
    q = pattern(folder, {"shape": "sphere", "D": 2.0}).arrays["pattern/q"]
    truth = 0.8 * parts[0] + 0.2 * parts[1]
    sigma = 0.004 * np.sqrt(truth * truth.mean())
    np.savetxt(folder / "d.xye", np.c_[q, truth + sigma * np.random.default_rng(3).normal(size=len(q)), sigma])
    law = {"mean": 2.0, "sd": 0.5, "law": "histogram", "range": [1.1, 3.4], "points": 24, "smoothness": 3.0}
    content = document({"shape": "sphere", "D": law}, refinement={"stages": [["P.D_weight_*"]]},
                       pattern={"file": "d.xye", "axis": "q_inverse_angstrom", "wavelength": 0.5, "sigma": "column"})
    found = run_refine(build(parse_document(content), folder)).summary
    lengths = np.linspace(1.1, 3.4, 24)
    weights = np.array([found.parameters[f"P.D_weight_{k}"].value for k in range(1, 25)])
    assert weights.sum() == pytest.approx(1, abs=0.01) and weights.min() >= 0
    small = weights[lengths < 2.2].sum()
    assert small == pytest.approx(0.8, abs=0.03)
    assert (weights * lengths)[lengths < 2.2].sum() / small == pytest.approx(1.6, abs=0.03)
    assert (weights * lengths)[lengths > 2.2].sum() / (1 - small) == pytest.approx(2.8, abs=0.05)
    assert found.agreement.gof < 1.15
    assert found.derived["P"].sizes["mean_D"].value == pytest.approx(0.8 * 1.6 + 0.2 * 2.8, abs=0.04)
    assert found.derived["P"].sizes["mean_D"].su > 0
    assert found.restraints["P.D: sum of weights"].value == pytest.approx(1, abs=0.01)
    log_normal = document({"shape": "sphere", "D": {"mean": 2.0, "sd": 0.5}}, pattern=content["pattern"],
                          refinement={"stages": [["P.D", "P.sd_D"]]})
    assert run_refine(build(parse_document(log_normal), folder)).summary.agreement.gof > 2 * found.agreement.gof


@pytest.mark.parametrize(("particle", "words"), [
    ({"shape": "sphere", "D": {"mean": 2, "sd": 0.3, "points": 5}}, "belong to 'law: histogram'"),
    ({"shape": "sphere", "D": {"mean": 2, "sd": 0.3, "law": "histogram", "range": [3, 1]}}, "range .* is empty"),
    ({"shape": "sphere", "D": {"mean": 2, "sd": 0.3, "law": "gauss"}}, "log_normal.* or 'histogram'"),
    ({"shape": "sphere", "D": {"mean": 2, "sd": 0.3, "law": "normal"}, "centre": [0, 0, 0]}, "all shapes but"),
    ({"shape": "parallelepiped", "L_ab": {"mean": 2, "sd": 0.3, "law": "normal"}, "L_c": {"mean": 2, "sd": 0.3}},
     "L_ab has the law 'normal'"),
    ({"shape": "sphere", "D": {"mean": 2, "sd": 0.3, "law": "histogram", "points": 100}}, "less than or equal to 60"),
    ({"shape": "quasi_cube", "L": {"mean": 0.1, "sd": 0.01, "law": "normal"}}, "lies below half the edge"),
])
def test_laws_that_make_no_sense_are_refused(folder, particle, words):
    with pytest.raises(DocumentError, match=words):
        build(parse_document(document(particle)), folder)


def test_the_names_of_the_weights():
    assert FreeWeights((1.0, 2.0)).names("L_edge") == ("L_edge_weight_1", "L_edge_weight_2")


def test_histograms_that_vanish_or_lie_far_from_their_mean(folder):
    narrow = {"shape": "quasi_cube", "L": {"mean": 2.6, "sd": 0.02, "law": "histogram", "range": [2.55, 2.75]}}
    with pytest.raises(ValueError, match=r"vanishes at all sizes of whole cells|lies below"):
        pattern(folder, narrow)
    far = {"shape": "sphere", "D": {"mean": 2.0, "sd": 0.02, "law": "histogram", "range": [4, 5]}}
    assert np.isfinite(pattern(folder, far).arrays["pattern/calculated"]).all()


def test_peaked_histograms_of_a_body_with_two_lengths(folder):
    """A cylinder with two populated diameters is the mean over the cylinders of single diameters."""
    lengths = np.linspace(1.6, 3.0, 15)
    weights = np.zeros(15)
    weights[[3, 10]] = 0.6, 0.4
    law = {"mean": 2.2, "sd": 0.3, "law": "histogram", "points": 15, "range": [1.6, 3.0]}
    parameters = {f"P.D_weight_{k}": float(w) for k, w in enumerate(weights, 1)}
    found = pattern(folder, {"shape": "cylinder", "D": law, "H": 2.4}, parameters=parameters)
    step, total, whole = lengths[1] - lengths[0], 0.0, 0.0
    nodes, gauss = np.polynomial.legendre.leggauss(6)
    for k in (3, 10):
        for side in (-1, 1):
            for x, w in zip((nodes + 1) / 2, gauss / 2, strict=True):
                share = weights[k] * w * (1 - x)
                total = total + share * pattern(
                    folder, {"shape": "cylinder", "D": float(lengths[k] + side * x * step), "H": 2.4}
                ).arrays["pattern/calculated"]
                whole += share
    assert_allclose(found.arrays["pattern/calculated"], total / whole, rtol=1e-4)


def test_constrained_weights_move_the_restraints(folder):
    q = np.arange(1.0, 8.0, 0.1)
    np.savetxt(folder / "d.xye", np.c_[q, 100 + q, np.sqrt(100 + q)])
    law = {"mean": 2.2, "sd": 0.3, "law": "histogram", "points": 6}
    built = build(parse_document(document(
        {"shape": "sphere", "D": law}, refinement={"stages": [["P.D_weight_1"]]},
        constraints={"P.D_weight_6": "P.D_weight_1"},
        pattern={"file": "d.xye", "axis": "q_inverse_angstrom", "wavelength": 0.5, "sigma": "column",
                 "axis_confirmed": True})), folder)
    (total,) = [one for one in built.restraints if "sum" in one.name]
    start = built.model.start
    assert total.value(start | {"P.D_weight_1": start["P.D_weight_1"] + 0.1}) == pytest.approx(
        total.value(start) + 0.2)
