"""Simultaneous refinements of data from the direct double sum: what sharing must and must not change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.fit.refine import refine
from aiida_dse.engine.fit.simultaneous_fit import SimultaneousProblem, refine_simultaneous
from aiida_dse.engine.fit.simultaneous_model import SimultaneousModel
from aiida_dse.engine.model.restraints import parameter_restraint
from aiida_dse.engine.parameters import Kind, Parameter, ParameterStatus

A, B = 4.12, (1.0, 2.0)
EXPANSION, TEMPERATURES = 4e-5, {"T100": 100.0, "T200": 200.0, "T300": 300.0}
#: Direct sums of cubes of N cells, N = 3, 4, 5, in these numbers.
NUMBER = {3: 0.3, 4: 0.5, 5: 0.2}
STAGES = [["P.a"], ["P.*.B_iso"]]


def edge(temperature):
    return A * (1 + EXPANSION * (temperature - 300))


@pytest.fixture(scope="module")
def cubes(small, q):
    """A function: the model of 3 x 3 x 3 cells against counts of a cell edge and a seed."""
    def make(a=A, seed=5, start=A, peak=2e5, **options):
        data = small.counts(small.cscl_intensity(q, a=a), peak=peak, background=500.0, seed=seed)
        phase = small.phase(small.cscl(a=start, b=(1.3, 1.7)))
        return small.model(q, *data, [phase], background=small.background(2), **options)

    return make


@pytest.fixture(scope="module")
def series(cubes):
    """Three temperatures; the cell follows a straight line, all else is the same."""
    return {name: cubes(edge(t), seed=k)
            for k, (name, t) in enumerate(TEMPERATURES.items(), start=20)}


@pytest.fixture(scope="module")
def warm():
    return {name: {"sample.temperature": t} for name, t in TEMPERATURES.items()}


LAW = {"P.a": "global.a0 * (1 + global.alpha * (sample.temperature - 300))"}
LAW_PARAMETERS = (Parameter("global.a0", Kind.GLOBAL, 4.11, 4.0, 4.2), Parameter("global.alpha", Kind.GLOBAL, 0.0))


def by_name(free):
    return {p.name: p for p in free}


def test_nothing_shared_is_the_separate_refinements(series):
    simultaneous = refine_simultaneous(SimultaneousModel(series), STAGES, tolerance=1e-4)
    assert simultaneous.converged
    chi2, correlated = 0.0, np.abs(simultaneous.covariance.correlation)
    for name, model in series.items():
        alone = refine(model, STAGES, tolerance=1e-4)
        for p in alone.free:
            found = by_name(simultaneous.free)[f"{name}:{p.name}"]
            assert abs(found.value - p.value) < 1e-3 * p.su, found
            assert_allclose(found.su, p.su, rtol=1e-4)
        assert vars(simultaneous.patterns[name].agreement) == pytest.approx(vars(alone.agreement))
        chi2 += alone.agreement.chi2
        inside = [k for k, p in enumerate(simultaneous.free) if p.name.startswith(name)]
        correlated[np.ix_(inside, inside)] = 0.0
    assert_allclose(simultaneous.agreement.chi2, chi2, rtol=1e-8)
    assert correlated.max() < 1e-9  # between patterns that have nothing in common


def test_two_measurements_of_one_sample_halve_the_variance(cubes):
    models = {"first": cubes(seed=1), "second": cubes(seed=2)}
    simultaneous = refine_simultaneous(SimultaneousModel(models, shared=["P.*"]), STAGES, tolerance=1e-3)
    alone = {name: by_name(refine(m, STAGES, tolerance=1e-3).free) for name, m in models.items()}
    assert [p.name for p in simultaneous.free] == ["P.a", "P.Cs.B_iso", "P.Cl.B_iso"]
    for p in simultaneous.free:
        one, two = alone["first"][p.name], alone["second"][p.name]
        assert min(one.value, two.value) < p.value < max(one.value, two.value)
        assert_allclose(p.value, (one.value + two.value) / 2, atol=0.02 * p.su)
        assert_allclose(p.su, one.su / np.sqrt(2), rtol=0.01)
    # the linear coefficients of each pattern stay its own
    assert simultaneous.agreement.n_parameters == 3 + 2 * 3


def test_a_cell_law_finds_the_expansion_it_was_made_with(series, warm):
    model = SimultaneousModel(series, shared=["P.*.B_iso"], parametric_constraints=LAW,
                              global_parameters=LAW_PARAMETERS, constants=warm)
    simultaneous = refine_simultaneous(model, STAGES)
    free = by_name(simultaneous.free)
    assert simultaneous.converged and set(free) == {"global.a0", "global.alpha", "P.Cs.B_iso", "P.Cl.B_iso"}
    for name, truth in {"global.a0": A, "global.alpha": EXPANSION, "P.Cs.B_iso": B[0],
                        "P.Cl.B_iso": B[1]}.items():
        assert abs(free[name].value - truth) < 4 * free[name].su, (name, free[name])
    assert free["global.alpha"].su < 0.1 * EXPANSION
    assert 0.9 < simultaneous.agreement.gof < 1.1
    for name, t in TEMPERATURES.items():
        own = simultaneous.patterns[name].parameters["P.a"]
        line = free["global.a0"].value * (1 + free["global.alpha"].value * (t - 300))
        assert_allclose(own.value, line, rtol=1e-12)
        # a straight line is known best in its middle
        assert own.su < 1.01 * refine(series[name], STAGES).free[0].su
    assert_allclose(simultaneous.patterns["T300"].parameters["P.a"].su, free["global.a0"].su, rtol=1e-6)


def test_the_uncertainty_of_a_law_is_that_of_a_weighted_line(series, warm):
    """With nothing else in common, the law's s.u. are those of a line through separate cells."""
    model = SimultaneousModel(
        series, constants=warm,
        parametric_constraints={"P.a": "global.a + global.slope * (sample.temperature - 300)"},
        global_parameters=(Parameter("global.a", Kind.GLOBAL, 4.11),
                           Parameter("global.slope", Kind.GLOBAL, 1e-4)))
    simultaneous = refine_simultaneous(model, STAGES, tolerance=1e-3)
    cells = [refine(m, STAGES, tolerance=1e-3).free[0] for m in series.values()]
    design = np.array([[1.0, t - 300] for t in TEMPERATURES.values()])
    weighted = design / np.array([p.su for p in cells])[:, None]
    covariance = np.linalg.inv(weighted.T @ weighted)
    line = covariance @ weighted.T @ np.array([p.value / p.su for p in cells])
    for k, name in enumerate(("global.a", "global.slope")):
        found = by_name(simultaneous.free)[name]
        assert_allclose(found.su, np.sqrt(covariance[k, k]), rtol=0.02)
        assert abs(found.value - line[k]) < 0.05 * found.su


@pytest.fixture(scope="module")
def populations(small, q):
    """Cubes of 3 to 5 cells at three temperatures: a size law to be shared."""
    models = {}
    for k, (name, t) in enumerate(TEMPERATURES.items(), start=30):
        pattern = sum(w * small.cscl_intensity(q, n, a=edge(t)) for n, w in NUMBER.items())
        data = small.counts(pattern, peak=5e4, background=500.0, seed=k)
        phase = small.cubes(small.cscl(), 1.6, 0.35)
        models[name] = small.model(q, *data, [phase], background=small.background(2))
    return models


def test_sharing_the_size_of_a_sample_narrows_it(populations):
    stages = [["P.a", "P.L"], ["P.sd_L", "P.*.B_iso"]]
    simultaneous = refine_simultaneous(SimultaneousModel(populations, shared=["P.L", "P.sd_L"]), stages)
    alone = [by_name(refine(model, stages).free) for model in populations.values()]
    for name in ("P.L", "P.sd_L"):
        found = by_name(simultaneous.free)[name]
        best = 1 / np.sqrt(sum(free[name].su ** -2 for free in alone))
        smallest = min(free[name].su for free in alone)
        # never better than the weighted mean of independent values, up to what B and cell share
        assert 0.95 * best < found.su < 0.7 * smallest
        mean = sum(free[name].value / free[name].su**2 for free in alone) * best**2
        assert abs(found.value - mean) < found.su


def differenced(problem, values, names):
    """d(residual of all points)/d(parameter), the linear parts solved anew, to fourth order."""
    columns = []
    for name in names:
        h = {"B_iso": 1e-3, "a0": 1e-4, "alpha": 1e-7}[name.rpartition(".")[2]]
        r = []
        for k in (-2, -1, 1, 2):
            moved = values | {name: values[name] + k * h}
            r.append(np.concatenate([
                block.residual(problem.model.local(p, moved))[0]
                for p, block in problem.blocks.items()]))
        columns.append((r[0] - 8 * r[1] + 8 * r[2] - r[3]) / (12 * h))
    return np.array(columns).T


def test_the_sparse_jacobian_is_that_of_the_residual(small, q, warm):
    """Kaufman's Jacobian is the full one where the residual vanishes: data without noise."""
    models = {}
    for name, t in TEMPERATURES.items():
        pattern = small.cscl_intensity(q, a=edge(t))
        phase = small.phase(small.cscl())
        models[name] = small.model(q, pattern, np.sqrt(pattern), [phase],
                                   background=small.background(1))
    exact = (Parameter("global.a0", Kind.GLOBAL, A), Parameter("global.alpha", Kind.GLOBAL, EXPANSION))
    model = SimultaneousModel(models, shared=["P.Cs.B_iso"], parametric_constraints=LAW,
                              global_parameters=exact, constants=warm)
    prior = {name: [parameter_restraint(m, "P.Cl.B_iso", 2.0, 0.1)] for name, m in models.items()}
    free = model.free_names(STAGES)
    assert free == ["P.Cs.B_iso", "global.a0", "global.alpha", "T100:P.Cl.B_iso", "T200:P.Cl.B_iso",
                    "T300:P.Cl.B_iso"]
    values = model.start
    with ThreadPoolExecutor(2) as pool:
        problem = SimultaneousProblem(model, prior, pool)
        full = problem.sparse_jacobian(values, free, reduced=False, central=True)
        expected = differenced(problem, values, free)
    assert full.shape == (3 * (len(q) + 1), len(free))
    assert full.nnz <= (3 * 3 + 3) * (len(q) + 1)  # own columns are empty in other patterns
    for column, name in enumerate(free):
        error = np.linalg.norm(full.toarray()[:, column] - expected[:, column])
        assert error < 2e-3 * np.linalg.norm(expected[:, column]), (name, error)


def test_the_reduced_problem_has_the_same_normal_equations(series, warm):
    """Length of the residual, gradient and normal matrix, at a place that is no minimum."""
    model = SimultaneousModel(series, shared=["P.*.B_iso"], parametric_constraints=LAW,
                              global_parameters=LAW_PARAMETERS, constants=warm)
    free, values = model.free_names(STAGES), model.start
    with ThreadPoolExecutor(2) as pool:
        problem = SimultaneousProblem(model, {}, pool)
        reduced, _ = problem.residual(values, free)
        full = np.concatenate([block.residual(model.local(name, values))[0]
                               for name, block in problem.blocks.items()])
        rows = problem.sparse_jacobian(values, free).toarray()
        points = problem.sparse_jacobian(values, free, reduced=False).toarray()
    assert len(reduced) == 3 * (3 + 1) and len(full) == 3 * 240
    assert_allclose(reduced @ reduced, full @ full, rtol=1e-12)
    assert_allclose(rows.T @ reduced, points.T @ full, rtol=1e-9)
    assert_allclose(rows.T @ rows, points.T @ points, rtol=1e-9)


def test_a_restraint_on_what_is_shared_counts_once(cubes):
    models = {"first": cubes(seed=1), "second": cubes(seed=2)}
    prior = {name: [parameter_restraint(m, "P.Cl.B_iso", 2.5, 1e-3),
                    parameter_restraint(m, "P.a", 4.1, 1e-5)] for name, m in models.items()}
    model = SimultaneousModel(models, shared=["P.Cl.B_iso"])
    kept = {name: [r.name for r in rows] for name, rows in model.distinct_restraints(prior).items()}
    assert kept == {"first": ["P.Cl.B_iso", "P.a"], "second": ["P.a"]}
    free = by_name(refine_simultaneous(model, STAGES, restraints=prior).free)
    # a prior far narrower than what the data say is all there is, and it is there once
    assert_allclose(free["P.Cl.B_iso"].su, 1e-3, rtol=0.01)
    assert_allclose(free["second:P.a"].su, 1e-5, rtol=0.05)


def test_a_parametric_constraint_of_a_constrained_model_reaches_what_is_constrained(cubes, warm):
    models = {name: cubes(edge(t), constraints={"P.Cl.B_iso": "2 * P.Cs.B_iso"})
              for name, t in TEMPERATURES.items()}
    model = SimultaneousModel(models, parametric_constraints={"P.Cs.B_iso": "global.b * coth(50 / sample.temperature)"},
                       global_parameters=(Parameter("global.b", Kind.GLOBAL, 0.4),), constants=warm)
    values = model.local("T200", model.start | {"global.b": 0.3})
    assert_allclose(values["P.Cl.B_iso"], 0.6 / np.tanh(0.25), rtol=1e-14)
    assert model.free_names([["P.*.B_iso"]]) == ["global.b"]


def test_an_impossible_constraint_is_no_convergence(series, warm):
    """The best straight line through these B would fall below zero at one end."""
    parametric_constraints = {"P.Cl.B_iso": "global.b * (sample.temperature - 130) / 100"}
    with pytest.raises(ValueError, match=r"-0.3 Å\^2 in pattern T100, which is impossible"):
        SimultaneousModel(series, parametric_constraints=parametric_constraints, constants=warm,
                          global_parameters=(Parameter("global.b", Kind.GLOBAL, 1.0),))
    parametric_constraints = {"P.Cl.B_iso": "global.b - global.c * (300 - sample.temperature) ** 2"}
    start = (Parameter("global.b", Kind.GLOBAL, 2.0), Parameter("global.c", Kind.GLOBAL, 0.0, -1e-3, 1e-3))
    wild = {name: parameter_restraint(m, "P.Cl.B_iso", -3.0, 1e-2) for name, m in series.items()}
    model = SimultaneousModel(series, parametric_constraints=parametric_constraints,
                              global_parameters=start, constants=warm)
    found = refine_simultaneous(model, [["global.*"]], restraints={"T100": [wild["T100"]]})
    assert not found.converged
    assert "in pattern T100, which is impossible" in found.stop_reason


def test_a_stop_keeps_what_was_reached(series):
    cycles = []
    found = refine_simultaneous(SimultaneousModel(series), STAGES, on_cycle=cycles.append,
                         should_stop=lambda: "walltime" if cycles else None)
    assert found.stop_reason == "walltime" and not found.converged
    assert len(cycles) == found.n_cycles == 1 and cycles[0].largest_name.endswith(":P.a")
    assert found.agreement.chi2 < sum(m.evaluate(m.start).chi2 for m in series.values())
    assert set(found.patterns) == set(series)


def test_at_a_bound_and_undetermined_are_reported(series):
    model = SimultaneousModel(series, global_parameters=(Parameter("global.a", Kind.GLOBAL, 4.10, 4.09, 4.101),),
                       parametric_constraints={"P.a": "global.a"})
    free = by_name(refine_simultaneous(model, [["global.a"]]).free)
    assert free["global.a"].status is ParameterStatus.AT_BOUND
    twins = SimultaneousModel(series, global_parameters=(Parameter("global.one", Kind.GLOBAL, 2.0),
                                               Parameter("global.two", Kind.GLOBAL, 2.0)),
                       parametric_constraints={"P.a": "global.one + global.two"})
    found = refine_simultaneous(twins, [["P.a"]])
    assert len(found.undetermined) == 2 and all(p.su is None for p in found.free)
    # their sum is determined: it has the s.u. of a refinement with one of the two fixed
    fixed = refine_simultaneous(twins, [["global.one"]]).patterns["T200"].parameters["P.a"]
    total = found.patterns["T200"].parameters["P.a"]
    assert total.status is ParameterStatus.CONSTRAINED
    assert total.su == pytest.approx(fixed.su, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared": ["P.q"]}, "no parameter 'P.q'"),
        ({"shared": ["P.*.w"]}, "matches no parameter"),
        ({"shared": ["P.a"], "parametric_constraints": {"P.a": "global.a"}}, "shared and has a parametric constraint"),
        ({"parametric_constraints": {"P.q": "global.a"}}, "no parameter 'P.q'"),
        ({"parametric_constraints": {"P.a": "global.b"}}, "'global.b', which is not a parameter .*global.a"),
        ({"parametric_constraints": {"P.a": "global.a + P.Cs.B_iso", "P.Cs.B_iso": "P.a"}}, "circular"),
        ({"parametric_constraints": {"P.a": "global.a * sample.temperature"}}, "T200 has no temperature"),
        ({"parametric_constraints": {"P.a": "4.1"}}, "global.a has no effect.*Use it in"),
        ({"parametric_constraints": {"P.a": "global.a * 0"}}, "impossible"),
        ({"parametric_constraints": {"P.a": "4.1 + 0 * global.a"}},
         r"global.a has no effect.*Check the parametric constraint of P\.a"),
    ],
)
def test_what_contradicts_itself_is_refused(series, options, message):
    temperatures = {"T100": {"sample.temperature": 1.0}}
    with pytest.raises(ValueError, match=message):
        SimultaneousModel(series, global_parameters=(Parameter("global.a", Kind.GLOBAL, 4.1),), constants=temperatures,
                   **options)


def test_constraints_and_sharing_exclude_each_other(cubes):
    models = {name: cubes(seed=k, constraints={"P.Cl.B_iso": "2 * P.Cs.B_iso"}) for k, name in enumerate("ab")}
    with pytest.raises(ValueError, match="cannot be shared, because it is constrained in the model"):
        SimultaneousModel(models, shared=["P.Cl.B_iso"])
    with pytest.raises(ValueError, match="constraint in the model"):
        SimultaneousModel(models, parametric_constraints={"P.Cl.B_iso": "2 * P.Cs.B_iso"})
    assert SimultaneousModel(models, shared=["P.*.B_iso"]).shared == ("P.Cs.B_iso",)


def test_a_shared_parameter_starts_once(cubes):
    models = {"first": cubes(start=4.11), "second": cubes(start=4.12)}
    with pytest.raises(ValueError, match=r"P.a is shared, but it starts at 4.12 .* in second"):
        SimultaneousModel(models, shared=["P.a"])


def test_more_parameters_than_points_are_refused(small):
    q = np.linspace(2.0, 5.0, 6)
    models = {}
    for name in ("first", "second"):
        data = small.counts(small.cscl_intensity(q))
        models[name] = small.model(q, *data, [small.phase(small.cscl())],
                                   background=small.background(2))
    with pytest.raises(ValueError, match="pattern first has 6 points for 6 parameters"):
        refine_simultaneous(SimultaneousModel(models), STAGES)


def test_one_pattern_is_not_simultaneous(series):
    with pytest.raises(ValueError, match="at least two"):
        SimultaneousModel({"T100": series["T100"]})


@pytest.mark.parametrize("stage", [["P.q"], ["T999:P.a"], ["global.q"], ["*.w"]])
def test_unknown_names_in_stages_are_refused(series, stage):
    with pytest.raises(ValueError, match=r"no parameter|matches no parameter"):
        SimultaneousModel(series).free_names([stage])
