"""Standard uncertainties of all parameters, linear ones included: scatter, normal equations, bounds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2

from aiida_dse.engine.fit.covariance import Covariance, inverse_normal
from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.fit.simultaneous_fit import refine_simultaneous
from aiida_dse.engine.fit.simultaneous_model import SimultaneousModel
from aiida_dse.engine.model.restraints import distance_restraints, parameter_restraint
from aiida_dse.engine.parameters import Kind, Parameter, ParameterStatus

FREE = ["P.a", "P.Cs.B_iso", "P.Cl.B_iso", "P.Cl.occupancy"]
LINEAR = ["background.chebyshev_0", "background.chebyshev_1", "blank.capillary", "P.scale"]
DRAWS = 240


@pytest.fixture(scope="module")
def q():
    """A short range: the scale is strongly correlated with B and occupancy."""
    return np.linspace(0.9, 5.0, 240)


@pytest.fixture(scope="module")
def expected(small, q):
    """A directly summed pattern, a straight background and a capillary: mean counts, and a hump."""
    pattern = small.cscl_intensity(q, 3, occupancy=0.9)
    capillary = np.exp(-((q - 1.8) ** 2) / 2)
    return 4e4 * pattern / pattern.max() + 900 - 40 * q + 3000 * capillary, capillary


@pytest.fixture(scope="module")
def model(small, q, expected):
    mean, capillary = expected
    return small.model(q, mean, np.sqrt(mean), [small.phase(small.cscl(occupancy=0.9))],
                       background=small.background(2, blanks={"capillary": capillary}))


@pytest.fixture(scope="module")
def fit(model):
    return refine(model, [FREE], tolerance=1e-5)


def conditional(model, evaluation):
    """s.u. of the linear coefficients with everything else held: what they once were."""
    columns = model.linear_columns(evaluation) / model.observation.sigma[:, None]
    return np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)))


def test_uncertainties_are_the_scatter_of_repeated_measurements(model, fit, expected):
    """The sample variance of n draws over the true one is chi2 of n - 1 degrees of freedom, / (n - 1)."""
    mean, _ = expected
    random = np.random.default_rng(12)
    values = []
    for _ in range(DRAWS):
        noisy = model.with_intensity(mean + np.sqrt(mean) * random.normal(size=len(mean)))
        found = refine(noisy, [FREE])
        assert found.converged
        values.append([found.values[name] for name in FREE] + [p.value for p in found.linear])
    assert [p.name for p in found.linear] == LINEAR
    scatter = np.std(values, axis=0, ddof=1)
    su = np.array([fit.covariance.su(name) for name in FREE + LINEAR])
    low, high = np.sqrt(chi2.ppf([5e-4, 1 - 5e-4], DRAWS - 1) / (DRAWS - 1))
    assert (low < scatter / su).all() and (scatter / su < high).all(), scatter / su
    # and the correlations: the scale falls where B is small
    observed = np.corrcoef(np.transpose(values))
    reported = Covariance(tuple(FREE + LINEAR), fit.covariance.block(FREE + LINEAR)).correlation
    off = ~np.eye(len(observed), dtype=bool)
    assert np.abs(np.arctanh(observed[off]) - np.arctanh(reported[off])).max() < 0.3
    # at fixed non-linear parameters they would be too small, beyond what chance allows
    ratio = scatter[len(FREE):] / conditional(model, fit.evaluation)
    assert ratio[3] > 1.2 * high, ratio  # 1.5 times too small


def full_normal_matrix(model, found, names, restraints=()):
    """[D, L]^T [D, L] + R^T R, every column differenced or taken from the calculated pattern."""
    coefficients = found.evaluation.linear.coefficients
    sigma = model.observation.sigma

    def rows(values):
        calculated = model.linear_columns(model.evaluate(values)) @ coefficients / sigma
        return np.concatenate([calculated, [r.value(values) / r.sigma for r in restraints]])

    columns = []
    for name in names:
        step = 1e-3 * model.parameters[name].shift
        ends = [rows(model.constrained(found.values | {name: found.values[name] + s}))
                for s in (step, -step)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    linear = model.linear_columns(found.evaluation)[:, found.evaluation.linear.active]
    linear = np.vstack([linear / sigma[:, None], np.zeros((len(restraints), linear.shape[1]))])
    whole = np.hstack([np.array(columns).T, linear])
    return whole.T @ whole


def assert_same_covariance(found, expected, rtol=1e-4):
    scale = np.sqrt(np.diag(expected))
    assert_allclose(found / np.outer(scale, scale), expected / np.outer(scale, scale), atol=rtol)


@pytest.mark.parametrize("restrained", [False, True])
def test_the_joint_covariance_is_the_inverse_of_the_full_normal_matrix(model, fit, restrained):
    restraints = []
    if restrained:
        restraints = [parameter_restraint(model, "P.Cs.B_iso", 1.0, 0.3 * fit.covariance.su(FREE[1])),
                      *distance_restraints(model, model.phases[0], ("Cs", "Cl"), 3.568,
                                           0.2 * fit.covariance.su("P.a"))]
    found = refine(model, [FREE], restraints=restraints, tolerance=1e-5)
    assert set(found.covariance.names) == {*FREE, *LINEAR}
    expected = np.linalg.inv(full_normal_matrix(model, found, FREE, restraints))
    assert_same_covariance(found.covariance.block([*FREE, *LINEAR]), expected)
    if restrained:  # the restraints matter, for the scale as well
        assert found.covariance.su("P.scale") < 0.8 * fit.covariance.su("P.scale")


# --- constrained parameters ----------------------------------------------------------------------


def test_the_uncertainty_of_a_constrained_parameter_does_not_depend_on_which_one_is_free(small, q):
    """A chain Pb -> Br_eq -> Br_ax, and the same chain solved for its other end."""
    data = small.counts(small.pbnm_intensity(q), peak=3e5, background=2000.0, seed=3)
    one, other = (
        refine(small.model(q, *data, [small.phase(small.pbnm(), (2, 2, 2))], constraints=constraints,
                           background=small.background(1)), [["P.a", name]], tolerance=1e-5)
        for name, constraints in [
            ("P.Pb.B_iso", {"P.Br_ax.B_iso": "0.1 + P.Br_eq.B_iso ** 2",
                            "P.Br_eq.B_iso": "1.5 * P.Pb.B_iso"}),
            ("P.Br_ax.B_iso", {"P.Pb.B_iso": "P.Br_eq.B_iso / 1.5",
                               "P.Br_eq.B_iso": "sqrt(P.Br_ax.B_iso - 0.1)"})])
    for name in ("P.Pb.B_iso", "P.Br_eq.B_iso", "P.Br_ax.B_iso", "P.a"):
        first, second = one.parameters[name], other.parameters[name]
        assert abs(first.value - second.value) < 0.01 * first.su
        assert_allclose(first.su, second.su, rtol=2e-3)
    assert {p.status for p in (one.parameters["P.Br_ax.B_iso"], other.parameters["P.Pb.B_iso"])} == {
        ParameterStatus.CONSTRAINED}


def test_a_constraint_in_correlated_parameters_takes_their_covariance(small, q, expected, model):
    mean, capillary = expected
    constrained = small.model(
        q, mean, np.sqrt(mean), [small.phase(small.cscl(occupancy=0.9))],
        background=small.background(2, blanks={"capillary": capillary}),
        constraints={"P.Cs.occupancy": "1 - 0.1 * (P.Cs.B_iso - P.Cl.B_iso + 1) * P.a"})
    found = refine(constrained, [FREE], tolerance=1e-5)
    at, covariance = found.values, found.covariance.block(FREE)
    difference = at["P.Cs.B_iso"] - at["P.Cl.B_iso"] + 1
    gradient = -0.1 * np.array([difference, at["P.a"], -at["P.a"], 0.0])
    assert_allclose(found.parameters["P.Cs.occupancy"].su, np.sqrt(gradient @ covariance @ gradient),
                    rtol=1e-9)


TEMPERATURES = {"T100": 100.0, "T300": 300.0}


def test_uncertainties_under_a_parametric_constraint_and_a_constraint_on_top_of_it(small, q):
    """B(Cl) = b T in every pattern, B(Cs) = B(Cl)^2 / 4 in the model: a chain through both."""
    models = {}
    for k, (name, t) in enumerate(TEMPERATURES.items()):
        b = 2.0 * t / 300
        data = small.counts(small.cscl_intensity(q, 3, b=(b**2 / 4, b), occupancy=0.9), background=500.0, seed=k)
        models[name] = small.model(q, *data, [small.phase(small.cscl(occupancy=0.9))],
                                   background=small.background(1),
                                   constraints={"P.Cs.B_iso": "P.Cl.B_iso ** 2 / 4"})
    whole = SimultaneousModel(
        models, parametric_constraints={"P.Cl.B_iso": "global.b * sample.temperature"},
        global_parameters=(Parameter("global.b", Kind.GLOBAL, 0.006),),
        constants={name: {"sample.temperature": t} for name, t in TEMPERATURES.items()})
    found = refine_simultaneous(whole, [["P.a", "global.b"]], tolerance=1e-4)
    assert found.converged
    su = found.covariance.su("global.b")
    for name, t in TEMPERATURES.items():
        own = found.patterns[name].parameters
        assert_allclose(own["P.Cl.B_iso"].su, t * su, rtol=1e-9)
        assert_allclose(own["P.Cs.B_iso"].su, own["P.Cl.B_iso"].value / 2 * t * su, rtol=1e-6)
        assert own["P.Cl.B_iso"].status is own["P.Cs.B_iso"].status is ParameterStatus.CONSTRAINED


def test_linear_uncertainties_of_a_simultaneous_refinement(small, q, model, fit):
    """Nothing shared: those of the refinements by themselves. All shared: the scale gains."""
    models = {"first": model, "second": model}
    apart = refine_simultaneous(SimultaneousModel(models), [FREE], tolerance=1e-5)
    for p in apart.patterns["second"].linear:
        assert_allclose(p.su, fit.covariance.su(p.name), rtol=1e-3)
    shared = refine_simultaneous(SimultaneousModel(models, shared=FREE), [FREE], tolerance=1e-5)
    # C_ll = (L^T L)^-1 + S C_pp S^T with half the C_pp
    fixed = dict(zip(LINEAR, conditional(model, fit.evaluation), strict=True))
    for p in shared.patterns["first"].linear:
        alone = fit.covariance.su(p.name)
        assert_allclose(p.su**2, (alone**2 + fixed[p.name] ** 2) / 2, rtol=1e-3)


# --- directions that the data do not determine ---------------------------------------------------


def spread_direction(n_rows, n, participants, seed=0):
    """A random Jacobian without effect along a direction spread evenly over the participants."""
    random = np.random.default_rng(seed)
    direction = np.zeros(n)
    direction[:participants] = random.choice([-1.0, 1.0], participants) / np.sqrt(participants)
    jacobian = random.normal(size=(n_rows, n))
    # columns of very different lengths, as cell edges and B have
    return (jacobian - np.outer(jacobian @ direction, direction)) * 10 ** random.uniform(-3, 3, n)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-7])
def test_a_direction_spread_over_300_parameters_flags_them_all(noise):
    jacobian = spread_direction(900, 300, 300)
    noisy = np.random.default_rng(1).normal(size=jacobian.shape)
    jacobian += noise * noisy * np.linalg.norm(jacobian, axis=0) / np.sqrt(len(jacobian))
    found = inverse_normal(jacobian)
    inverse, undetermined = found.covariance, found.undetermined
    assert undetermined.all() and np.isnan(inverse).all()


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-7])
def test_parameters_outside_an_undetermined_direction_keep_their_uncertainty(noise):
    """The s.u. of the others are those of a fit with one of the participants fixed."""
    jacobian = spread_direction(900, 300, 120)
    noisy = np.random.default_rng(1).normal(size=jacobian.shape)
    jacobian += noise * noisy * np.linalg.norm(jacobian, axis=0) / np.sqrt(len(jacobian))
    found = inverse_normal(jacobian)
    inverse, undetermined = found.covariance, found.undetermined
    assert undetermined.tolist() == [True] * 120 + [False] * 180
    kept = np.delete(jacobian, 0, axis=1)
    reduced = np.linalg.inv(kept.T @ kept)
    assert_allclose(np.diag(inverse)[120:], np.diag(reduced)[119:], rtol=1e-4)


def test_determined_combinations_of_undetermined_parameters_have_a_covariance():
    """The data see x + y and z, but neither x nor y alone."""
    random = np.random.default_rng(2)
    u, v = random.normal(size=(2, 200))
    found = inverse_normal(np.column_stack([u, u, v]))
    assert found.undetermined.tolist() == [True, True, False]
    gradient = np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [3.0, 3.0, 2.0], [1.0, 0.0, 0.0]])
    carried = found.propagated(gradient)
    expected = np.linalg.inv(np.array([[u @ u, u @ v], [u @ v, v @ v]]))
    sums = np.array([[1.0, 0.0], [3.0, 2.0]])
    assert_allclose(carried[np.ix_([0, 2], [0, 2])], sums @ expected @ sums.T, rtol=1e-9)
    assert np.isnan(carried[[1, 3]]).all() and np.isnan(carried[:, [1, 3]]).all()


def test_a_well_conditioned_jacobian_flags_nothing():
    random = np.random.default_rng(3)
    jacobian = random.normal(size=(900, 300)) * 10 ** random.uniform(-3, 3, 300)
    jacobian *= 1 + 1e-8 * random.normal(size=jacobian.shape)
    found = inverse_normal(jacobian)
    inverse, undetermined = found.covariance, found.undetermined
    assert not undetermined.any()
    scale = np.sqrt(np.diag(inverse))
    assert_allclose(inverse / np.outer(scale, scale),
                    np.linalg.inv(jacobian.T @ jacobian) / np.outer(scale, scale), atol=1e-9)


@pytest.mark.parametrize("correlation", [0.99, 0.9999, 0.999999])
def test_a_strong_correlation_is_no_undetermined_direction(correlation):
    """Two parameters whose s.u. is large, but known."""
    random = np.random.default_rng(5)
    u, v = np.linalg.qr(random.normal(size=(200, 2)))[0].T
    jacobian = np.column_stack([u, correlation * u + np.sqrt(1 - correlation**2) * v])
    found = inverse_normal(jacobian)
    inverse, undetermined = found.covariance, found.undetermined
    assert not undetermined.any()
    assert_allclose(np.diag(inverse), 1 / (1 - correlation**2), rtol=1e-6)


# --- parameters at a bound -----------------------------------------------------------------------


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_a_parameter_at_its_bound_is_held_for_the_others(small, q, expected, side):
    """The same as a refinement with that parameter fixed at the bound, in s.u. and in n - p."""
    mean, capillary = expected
    start, bounds = (0.8, (0.1, 0.9)) if side == "upper" else (1.3, (1.2, 9.0))
    limit = bounds[side == "upper"]

    def with_cs(value, lower=0.0, upper=9.0):
        return small.model(
            q, mean, np.sqrt(mean), [small.phase(small.cscl(occupancy=0.9))],
            background=small.background(2, blanks={"capillary": capillary}),
            constraints={"P.Cs.occupancy": "0.5 + 0.5 * P.Cs.B_iso / P.Cs.B_iso"},
            overrides={"P.Cs.B_iso": Parameter("P.Cs.B_iso", Kind.B_ISO, value, lower, upper)})

    found = refine(with_cs(start, *bounds), [FREE], tolerance=1e-4)
    fixed = refine(with_cs(limit), [["P.a", "P.Cl.B_iso", "P.Cl.occupancy"]], tolerance=1e-4)
    held = found.parameters["P.Cs.B_iso"]
    assert held.status is ParameterStatus.AT_BOUND and held.su is None
    assert held.value == pytest.approx(limit, abs=1e-3)
    assert held in found.free and "P.Cs.B_iso" not in found.covariance.names
    assert found.covariance.names == fixed.covariance.names
    assert_same_covariance(found.covariance.matrix, fixed.covariance.matrix, rtol=2e-3)
    assert found.agreement.n_parameters == fixed.agreement.n_parameters == 3 + len(LINEAR)
    assert any("P.Cs.B_iso" in text and "bound" in text for text in found.warnings)
    # what depends on nothing but the held parameter has no s.u. either
    assert found.parameters["P.Cs.occupancy"].su is None


def test_a_linear_coefficient_held_at_zero_is_none(small, q):
    """The pattern has less than no blank: the others are those of a model without it."""
    pattern = small.cscl_intensity(q, 3, occupancy=0.9)
    hump = np.exp(-((q - 1.8) ** 2) / 2)
    mean = 4e4 * pattern / pattern.max() + 3000 - 800 * hump
    with_blank, without = (
        refine(small.model(q, mean, np.sqrt(mean), [small.phase(small.cscl(occupancy=0.9))],
                           background=small.background(2, blanks=blanks)), [FREE], tolerance=1e-4)
        for blanks in ({"capillary": hump}, {}))
    blank = next(p for p in with_blank.linear if p.kind is Kind.BLANK)
    assert blank.value == 0 and blank.su is None and blank.status is ParameterStatus.AT_BOUND
    assert with_blank.covariance.names == without.covariance.names
    assert_same_covariance(with_blank.covariance.matrix, without.covariance.matrix, rtol=1e-3)
    assert with_blank.agreement.n_parameters == without.agreement.n_parameters


def test_a_shared_parameter_at_its_bound(model, small, q, expected):
    """In a simultaneous refinement as well: held, without s.u., not counted."""
    mean, capillary = expected
    held = small.model(
        q, mean, np.sqrt(mean), [small.phase(small.cscl(b=(0.8, 2.0), occupancy=0.9))],
        background=small.background(2, blanks={"capillary": capillary}),
        overrides={"P.Cs.B_iso": Parameter("P.Cs.B_iso", Kind.B_ISO, 0.8, 0.1, 0.9)})
    whole = SimultaneousModel({"first": held, "second": held}, shared=FREE)
    found = refine_simultaneous(whole, [FREE], tolerance=1e-4)
    assert found.parameters["P.Cs.B_iso"].status is ParameterStatus.AT_BOUND
    assert found.parameters["P.Cs.B_iso"].su is None
    others = [name for name in FREE if name != "P.Cs.B_iso"]
    assert set(found.covariance.names) == set(others)
    alone = refine(held, [FREE], tolerance=1e-4)
    assert_same_covariance(found.covariance.block(others), alone.covariance.block(others) / 2, rtol=1e-3)
    assert found.agreement.n_parameters == 3 + 2 * len(LINEAR)
    for one in found.patterns.values():
        assert one.parameters["P.Cs.B_iso"].status is ParameterStatus.AT_BOUND
        assert one.parameters["P.Cs.B_iso"].su is None


# --- linear coefficients that the data do not determine -------------------------------------------


def linear_by_name(found):
    return {p.name: p for p in found.linear}


def test_a_blank_that_looks_like_the_background_is_undetermined(small, q):
    """Neither it nor the constant has an s.u.; the others keep theirs, but for the blank's sin(q)."""
    pattern = small.cscl_intensity(q, 3)
    flat = 1 + 1e-7 * np.sin(q)
    mean = 4e4 * pattern / pattern.max() + 500 + 3000 * flat
    found, without = (
        refine(small.model(q, mean, np.sqrt(mean), [small.phase(small.cscl())],
                           background=small.background(1, blanks=blanks)), [["P.a"]])
        for blanks in ({"capillary": flat}, {}))
    linear = linear_by_name(found)
    for name in ("background.chebyshev_0", "blank.capillary"):
        assert linear[name].su is None and linear[name].status is ParameterStatus.UNDETERMINED
        assert any(text.startswith(f"{name} is not determined") for text in found.warnings)
    assert_allclose(linear["P.scale"].su, linear_by_name(without)["P.scale"].su, rtol=0.02)
    assert_allclose(found.covariance.su("P.a"), without.covariance.su("P.a"), rtol=0.02)


def test_a_scale_that_an_undetermined_parameter_replaces_has_no_uncertainty(small, q):
    """Without pair terms (B of 1e4 Å^2) a pattern is scale times occupancy: neither is known."""
    atoms = small.cscl_intensity(q, 3)
    gas = small.cscl_intensity(q, 2, b=(1e4, 1e4), occupancy=0.5)
    mean = 4e4 * atoms / atoms.max() + 3e4 * gas / gas.max()
    free = small.crystal("P m -3 m", (4.12,) * 3, [
        ("Cs", "Cs1+", (0, 0, 0), 0.5, 1e4), ("Cl", "Cl1-", (0.5, 0.5, 0.5), 0.5, 1e4)])
    q_phase = small.phase(free, (2, 2, 2), name="Q")
    model = small.model(q, mean, np.sqrt(mean), [small.phase(small.cscl()), q_phase],
                        constraints={"Q.Cs.occupancy": "Q.Cl.occupancy"})
    found = refine(model, [["P.a", "Q.Cl.occupancy"]])
    assert found.undetermined == ("Q.Cl.occupancy",)
    linear = linear_by_name(found)
    assert linear["Q.scale"].su is None and linear["Q.scale"].status is ParameterStatus.UNDETERMINED
    assert linear["P.scale"].su > 0 and found.covariance.su("P.a") > 0
