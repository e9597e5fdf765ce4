"""Refinements of data computed by the direct double sum come back to what they were made of."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.fit.refine import PatternProblem, refine
from aiida_dse.engine.model.derivatives import pattern_derivative
from aiida_dse.engine.parameters import Kind, Parameter, ParameterStatus

TRUTH = {"P.a": 4.135, "P.Cs.B_iso": 1.4, "P.Cl.B_iso": 2.6, "P.L": 1.4, "P.sd_L": 0.2}


def by_name(found):
    return {p.name: p for p in found.free}


def settle(found, truth, within=4.0):
    free = by_name(found)
    assert set(free) == set(truth)
    for name, value in truth.items():
        p = free[name]
        assert p.su and p.su > 0, name
        assert abs(p.value - value) < within * p.su, (name, p.value, value, p.su)


@pytest.fixture(scope="module")
def cube_data(small, q):
    """Cubes of N x N x N cells with log-normal edges: the sum over sizes of direct sums."""
    a, mean, sd = TRUTH["P.a"], TRUTH["P.L"], TRUTH["P.sd_L"]
    width = np.sqrt(np.log(1 + sd**2 / mean**2))
    median = mean / np.sqrt(1 + sd**2 / mean**2)
    n = np.arange(1, 8)
    edge = n * a / 10
    number = np.exp(-(np.log(edge / median) ** 2) / (2 * width**2)) / edge
    number /= number.sum()
    b = (TRUTH["P.Cs.B_iso"], TRUTH["P.Cl.B_iso"])
    pattern = sum(
        w * small.cscl_intensity(q, int(k), a=a, b=b)
        for k, w in zip(n, number, strict=True) if w * k**6 > 1e-2
    )
    slope = 4e3 + 200 * q
    return small.counts(pattern, peak=3e5, background=slope, seed=11)


@pytest.fixture(scope="module")
def cube_model(small, q, cube_data):
    """Of the same cubes, from other starting values."""
    phase = small.cubes(small.cscl(a=4.10, b=(1.0, 2.0)), 1.2, 0.3)
    return small.model(q, *cube_data, [phase], background=small.background(3))


@pytest.fixture(scope="module")
def refined_cubes(cube_model):
    cycles = []
    stages = [["P.a", "P.L"], ["P.*.B_iso", "P.sd_L"]]
    return refine(cube_model, stages, on_cycle=cycles.append), cycles


@pytest.fixture(scope="module")
def pbnm_data(small, q):
    return small.counts(small.pbnm_intensity(q), peak=3e5, background=2000.0, seed=3)


def pbnm_model(small, q, data, *, cell=(8.207, 8.407, 11.756), **options):
    phase = small.phase(small.pbnm(cell=cell), (2, 2, 2))
    return small.model(q, *data, [phase], background=small.background(1), **options)


def test_cell_displacements_and_size_of_a_population_are_recovered(refined_cubes):
    found, _ = refined_cubes
    assert found.converged and not found.undetermined, found.stop_reason
    settle(found, TRUTH)
    assert 0.9 < found.agreement.gof < 1.1
    assert found.agreement.n_parameters == len(TRUTH) + 4  # 3 Chebyshev terms and the scale
    assert found.agreement.durbin_watson > 1.5
    assert {p.status for p in found.free} == {ParameterStatus.FREE}


def test_the_standard_uncertainties_are_those_of_the_normal_equations(refined_cubes, cube_model):
    """s.u. from J^T J of the whole residual, differenced centrally, linear part re-solved."""
    found, _ = refined_cubes
    names = [p.name for p in found.free]
    columns = []
    for name in names:
        step = 1e-4 * abs(found.values[name])
        ends = [
            cube_model.evaluate(found.values | {name: found.values[name] + s}).linear.residual
            for s in (step, -step)
        ]
        columns.append((ends[0] - ends[1]) / (2 * step))
    jacobian = np.array(columns).T
    expected = np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))
    # the residual is noise, not zero: Kaufman's Jacobian differs from this in second order
    assert_allclose([p.su for p in found.free], expected, rtol=0.03)


def test_every_stage_frees_on_top_of_the_last(refined_cubes):
    found, cycles = refined_cubes
    assert [c.stage for c in cycles] == sorted(c.stage for c in cycles)
    assert {c.stage for c in cycles} == {1, 2} and {c.n_stages for c in cycles} == {2}
    first = {c.largest_name for c in cycles if c.stage == 1}
    assert first <= {"P.a", "P.L"}
    assert found.n_cycles == len(cycles)
    elapsed = [c.elapsed for c in cycles]
    assert elapsed == sorted(elapsed)


def test_a_stage_leaves_the_others_at_their_start(cube_model):
    found = refine(cube_model, [["P.a"]])
    assert [p.name for p in found.free] == ["P.a"]
    start = cube_model.start
    assert {n: v for n, v in found.values.items() if n != "P.a"} == {
        n: v for n, v in start.items() if n != "P.a"
    }
    assert found.values["P.a"] != start["P.a"]


def test_cell_coordinates_and_displacements_of_one_parallelepiped_are_recovered(small, q, pbnm_data):
    """Cell, coordinates of both Br sites and three B of a 160-atom parallelepiped of CsPbBr3."""
    model = pbnm_model(small, q, pbnm_data, cell=(8.19, 8.42, 11.74))
    model = small.model(
        q, *pbnm_data, model.phases, background=small.background(1),
        overrides={
            "P.Br_eq.x": Parameter("P.Br_eq.x", Kind.COORDINATE, 0.286, 0.1, 0.4),
            "P.Pb.B_iso": Parameter("P.Pb.B_iso", Kind.B_ISO, 1.6, 0.0, 30.0),
        },
    )
    stages = [["P.[abc]"], ["P.Pb.B_iso", "P.Br_*.B_iso"], ["P.Br_eq.[xyz]", "P.Br_ax.[xy]"]]
    found = refine(model, stages)
    truth = {
        "P.a": 8.207, "P.b": 8.407, "P.c": 11.756, "P.Pb.B_iso": 1.1, "P.Br_eq.B_iso": 2.3,
        "P.Br_ax.B_iso": 3.1, "P.Br_eq.x": 0.2908, "P.Br_eq.y": 0.2120, "P.Br_eq.z": 0.486,
        "P.Br_ax.x": 0.052, "P.Br_ax.y": 0.006,
    }
    assert found.converged, found.stop_reason
    settle(found, truth)
    assert 0.9 < found.agreement.gof < 1.1


def test_occupancy_is_recovered(small, q):
    data = small.counts(small.cscl_intensity(q, occupancy=0.8), seed=8)
    model = small.model(q, *data, [small.phase(small.cscl(occupancy=0.95))])
    found = refine(model, [["P.Cl.occupancy", "P.Cl.B_iso"]])
    settle(found, {"P.Cl.occupancy": 0.8, "P.Cl.B_iso": 2.0})


def test_constraints_hold_exactly(small, q, pbnm_data):
    constraints = {"P.Br_ax.B_iso": "1.5 * P.Br_eq.B_iso + 0.1", "P.b": "sqrt(P.a * P.a + 3.3)"}
    model = pbnm_model(small, q, pbnm_data, constraints=constraints)
    found = refine(model, [["P.[ab]", "P.*.B_iso"]])
    v = found.values
    assert v["P.Br_ax.B_iso"] == 1.5 * v["P.Br_eq.B_iso"] + 0.1
    assert v["P.b"] == np.sqrt(v["P.a"] * v["P.a"] + 3.3)
    names = {p.name for p in found.free}
    assert names == {"P.a", "P.Cs.B_iso", "P.Pb.B_iso", "P.Br_eq.B_iso"}
    assert found.agreement.n_parameters == len(names) + 2
    assert found.converged


def test_bounds_are_respected_and_reported(small, q, pbnm_data):
    overrides = {
        "P.a": Parameter("P.a", Kind.CELL_LENGTH, 8.19, 8.15, 8.20),
        "P.Br_eq.B_iso": Parameter("P.Br_eq.B_iso", Kind.B_ISO, 2.8, 2.5, 4.0),
        "P.Pb.B_iso": Parameter("P.Pb.B_iso", Kind.B_ISO, 1.0, 0.0, 4.0),
    }
    model = pbnm_model(small, q, pbnm_data, overrides=overrides)
    found = refine(model, [["P.a", "P.Br_eq.B_iso", "P.Pb.B_iso"]])
    free = by_name(found)
    for name, p in overrides.items():
        assert p.lower <= free[name].value <= p.upper
    for name, bound, width in (("P.a", 8.20, 1e-5), ("P.Br_eq.B_iso", 2.5, 1e-4)):
        assert free[name].status is ParameterStatus.AT_BOUND
        assert free[name].value == pytest.approx(bound, abs=width)
    assert free["P.Pb.B_iso"].status is ParameterStatus.FREE
    for name in ("P.a", "P.Br_eq.B_iso"):
        assert any(w.startswith(f"{name} =") and "bound" in w for w in found.warnings)


def test_a_parameter_without_effect_is_flagged(small, q):
    data = small.counts(small.cscl_intensity(q))
    phases = [small.phase(small.cscl()), small.phase(small.cscl(a=5.0), name="Q")]
    model = small.model(q, *data, phases, fixed_scales={"Q": 0.0})
    found = refine(model, [["P.a", "Q.a"]])
    free = by_name(found)
    assert found.undetermined
    assert free["Q.a"].status is ParameterStatus.UNDETERMINED and free["Q.a"].su is None
    assert free["P.a"].status is ParameterStatus.FREE and free["P.a"].su > 0
    assert abs(free["P.a"].value - 4.12) < 4 * free["P.a"].su
    assert any(w.startswith("Q.a is not determined by the data") for w in found.warnings)


def test_only_parameters_without_effect(small, q):
    data = small.counts(small.cscl_intensity(q))
    phases = [small.phase(small.cscl()), small.phase(small.cscl(a=5.0), name="Q")]
    model = small.model(q, *data, phases, fixed_scales={"Q": 0.0})
    with pytest.raises(ValueError, match=r"none of the free parameters \(Q.a, Q.Cs.B_iso\) has any effect"):
        refine(model, [["Q.a", "Q.Cs.B_iso"]])


def test_a_free_origin_is_flagged(small, q):
    """In a polar crystal moving all atoms along c together changes nothing."""
    sites = [("Cd", "Cd2+", (1 / 3, 2 / 3, 0.02), 1.0, 1.2),
             ("Se", "Se", (1 / 3, 2 / 3, 0.3967), 1.0, 0.9)]
    crystal = small.crystal("P 63 m c", (4.2985, 4.2985, 7.0152, 90, 90, 120), sites)
    third = 1 / 3
    structure = small.direct.Structure.of(
        (4.2985, 4.2985, 7.0152, 90, 90, 120),
        [("Cd2+", 1.0, 1.2, [(third, 2 * third, 0.02), (2 * third, third, 0.52)]),
         ("Se", 1.0, 0.9, [(third, 2 * third, 0.3967), (2 * third, third, 0.8967)])],
    )
    pattern = small.direct.intensity(small.direct.block(structure, 3, 3, 2), q, small.wavelength)
    model = small.model(q, *small.counts(pattern), [small.phase(crystal, (3, 3, 2))])
    found = refine(model, [["P.a", "P.Cd.z", "P.Se.z"]])
    free = by_name(found)
    assert found.undetermined == ("P.Cd.z", "P.Se.z"), found.warnings
    assert free["P.a"].su > 0


def test_too_few_cycles_do_not_converge(cube_model):
    found = refine(cube_model, [["P.a", "P.L", "P.*.B_iso"]], max_cycles=2)
    assert not found.converged
    assert "2 evaluations" in found.stop_reason and "without converging" in found.stop_reason


@pytest.mark.parametrize("after", [1, 2])
def test_a_stop_keeps_the_best_values(cube_model, after):
    cycles = []
    found = refine(
        cube_model, [["P.a", "P.L"], ["P.*.B_iso"]], on_cycle=cycles.append,
        should_stop=lambda: "walltime" if len(cycles) >= after else None,
    )
    assert not found.converged and found.stop_reason == "walltime"
    assert len(cycles) == found.n_cycles == after
    start = cube_model.evaluate(cube_model.start)
    assert found.evaluation.chi2 < start.chi2
    gof = np.sqrt(found.evaluation.chi2 / len(cube_model.observation.q))
    assert gof <= cycles[-1].gof * 1.01
    assert {p.name for p in found.free} == {"P.a", "P.L"}  # the second stage never began


@pytest.mark.parametrize("patience", [0.0, 1e3], ids=["slow first cycle", "fast first cycle"])
def test_a_stop_within_a_long_cycle(cube_model, monkeypatch, patience):
    """A stop ends the cycle, except the first one if it is short, so that a continuation advances."""
    module = "aiida_dse.engine.fit.leastsquares"
    monkeypatch.setattr(f"{module}.SILENCE", 0.0)
    monkeypatch.setattr(f"{module}.PATIENCE", patience)
    found = refine(cube_model, [["P.a", "P.L"]], should_stop=lambda: "walltime")
    assert found.stop_reason == "walltime" and not found.converged
    assert found.n_cycles == (1 if patience else 0)
    # the s.u. would take as long as another cycle
    assert found.parameters["P.a"].su is None and found.free and not found.undetermined


def test_a_stop_during_the_computation_of_the_su(cube_model, monkeypatch):
    monkeypatch.setattr("aiida_dse.engine.fit.leastsquares.SILENCE", 0.0)
    settled = []
    whole = refine(cube_model, [["P.a", "P.L"]], on_cycle=lambda c: settled.append(c.derivatives))
    asked = []

    def late():
        asked.append(1)
        return "walltime" if len(asked) >= len(settled) - 1 else None

    found = refine(cube_model, [["P.a", "P.L"]], should_stop=late)
    assert found.stop_reason == "walltime" and found.parameters["P.a"].su is None
    assert found.values["P.a"] == pytest.approx(whole.values["P.a"], abs=1e-6)


def test_the_keyboard_ends_it_like_a_stop(cube_model):
    def interrupt(cycle):
        raise KeyboardInterrupt

    found = refine(cube_model, [["P.a", "P.L"]], on_cycle=interrupt)
    assert found.stop_reason == "interrupted" and not found.converged
    assert found.evaluation.chi2 < cube_model.evaluate(cube_model.start).chi2


def test_a_parameter_held_between_equal_bounds_is_no_crash(small, q, pbnm_data):
    """Equal bounds are a way to say 'fixed': refused by name, or held there."""
    overrides = {"P.a": Parameter("P.a", Kind.CELL_LENGTH, 8.207, 8.207, 8.207)}
    model = pbnm_model(small, q, pbnm_data, overrides=overrides)
    try:
        found = refine(model, [["P.a", "P.b"]])
    except ValueError as problem:
        assert "P.a" in str(problem)
    else:
        assert found.values["P.a"] == 8.207


@pytest.mark.parametrize(
    ("stage", "message"),
    [(["P.d"], "P.d"), (["P.Br_ax.z"], "special position"), (["P.alpha"], "fixes alpha"),
     (["P.*.w"], "matches no parameter")],
)
def test_names_that_cannot_be_free_are_refused(small, q, pbnm_data, stage, message):
    with pytest.raises(ValueError, match=message):
        refine(pbnm_model(small, q, pbnm_data), [stage])


# --- derivatives ---------------------------------------------------------------------------------

STEPS = {"B_iso": 1e-3, "occupancy": 1e-3, "a": 1e-4, "b": 1e-4, "c": 1e-4, "x": 1e-4, "y": 1e-4,
         "z": 1e-4, "L": 1e-3, "sd_L": 1e-3}


def differenced(model, values, name):
    """d(residual)/d(parameter) with the linear part solved anew, to fourth order."""
    h = STEPS[name.rpartition(".")[2]]
    r = [
        model.evaluate(model.constrained(dict(values) | {name: values[name] + k * h})).linear.residual
        for k in (-2, -1, 1, 2)
    ]
    return (r[0] - 8 * r[1] + 8 * r[2] - r[3]) / (12 * h)


def assert_columns(model, names, *, relative):
    """Kaufman's Jacobian is the full one where the residual vanishes: data without noise."""
    values = model.start
    found = PatternProblem(model).jacobian(values, names)
    for column, name in enumerate(names):
        expected = differenced(model, values, name)
        error = np.linalg.norm(found[:, column] - expected) / np.linalg.norm(expected)
        assert error < relative, (name, error)


@pytest.fixture(scope="module")
def exact_pbnm(small, q):
    pattern = small.pbnm_intensity(q)
    phase = small.phase(small.pbnm(), (2, 2, 2))
    return pattern, phase


def test_jacobian_of_displacements_and_occupancies(small, q, exact_pbnm):
    pattern, phase = exact_pbnm
    model = small.model(q, pattern, np.sqrt(pattern), [phase], background=small.background(2))
    sites = [site.label for site in phase.crystal.sites]
    # an occupancy may pass 1 here: nothing but the bounds of a refinement keeps it
    names = [f"P.{label}.{kind}" for label in sites for kind in ("B_iso", "occupancy")]
    assert_columns(model, names, relative=1e-5)


def test_jacobian_of_cell_and_coordinates(small, q, exact_pbnm):
    pattern, phase = exact_pbnm
    model = small.model(q, pattern, np.sqrt(pattern), [phase], background=small.background(2))
    names = ["P.a", "P.b", "P.c", "P.Br_eq.x", "P.Br_eq.y", "P.Br_eq.z", "P.Br_ax.x", "P.Cs.y"]
    assert_columns(model, names, relative=2e-3)


def test_jacobian_of_constrained_parameters(small, q, exact_pbnm):
    pattern, phase = exact_pbnm
    constraints = {"P.Br_ax.B_iso": "0.8 + P.Br_eq.B_iso", "P.b": "P.a + 0.2"}
    model = small.model(q, pattern, np.sqrt(pattern), [phase], constraints=constraints)
    assert_columns(model, ["P.Br_eq.B_iso", "P.a", "P.Pb.B_iso"], relative=2e-3)


def test_jacobian_of_sizes(small, q):
    phase = small.cubes(small.cscl(), 1.6, 0.3)
    probe = small.model(q, np.ones(len(q)), np.ones(len(q)), [phase])
    pattern = probe.intensity(0, probe.states(probe.start)[0], probe.start)
    model = small.model(q, pattern, np.sqrt(pattern), [phase], background=small.background(1))
    assert_columns(model, ["P.L", "P.sd_L"], relative=5e-3)


def test_jacobian_with_polarisation_and_a_fixed_scale(small, q, exact_pbnm):
    from aiida_dse.engine.measurement.corrections import Polarisation
    from aiida_dse.engine.measurement.instrument import direct
    from aiida_dse.engine.model.pattern import ObservedPattern, PatternModel

    pattern, phase = exact_pbnm
    angle = 2 * np.arcsin(q * small.wavelength / (4 * np.pi))
    seen = 3.5 * pattern * (1 + np.cos(angle) ** 2) / 2
    observation = ObservedPattern(q, seen, np.sqrt(seen), small.wavelength)
    model = PatternModel(
        observation, [phase], small.background(1), fixed_scales={"P": 3.5},
        measurement=direct(q, small.wavelength, [Polarisation()])
    )
    assert model.evaluate(model.start).chi2 < 1e-6
    assert_columns(model, ["P.Pb.B_iso", "P.Br_ax.occupancy"], relative=1e-5)
    assert_columns(model, ["P.a"], relative=2e-3)


def test_pattern_derivative_against_the_direct_sum(small, q):
    """dI/dB, dI/d occupancy and dI/da of the scaled pattern, differenced by the reference."""
    b, o, a = (1.0, 2.0), 0.8, 4.12
    pattern = small.cscl_intensity(q, b=b, occupancy=o)
    phase = small.phase(small.cscl(b=b, occupancy=o))
    model = small.model(q, 7.0 * pattern, np.sqrt(pattern), [phase])
    base = model.evaluate(model.start)
    cases = {
        "P.Cl.B_iso": lambda s: small.cscl_intensity(q, b=(b[0], b[1] + s), occupancy=o),
        "P.Cl.occupancy": lambda s: small.cscl_intensity(q, b=b, occupancy=o + s),
        "P.a": lambda s: small.cscl_intensity(q, a=a + s, b=b, occupancy=o),
    }
    for name, moved in cases.items():
        step = 1e-4
        expected = 7.0 * (moved(step) - moved(-step)) / (2 * step)
        found = pattern_derivative(model, base, name)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 1e-3, (name, error)


@pytest.mark.parametrize(("noise", "warned"), [(0.1, False), (0.6, True)])
def test_a_noisy_blank_is_warned_about(small, q, noise, warned):
    """Half the scale of a blank halves its noise: what counts is the noise in the pattern."""
    pattern = small.cscl_intensity(q)
    hump = 1000 * np.exp(-((q - 2.0) ** 2))
    expected = 5e4 * pattern / pattern.max() + 500 + 0.5 * hump
    sigma = np.sqrt(expected)
    background = small.background(1, blanks={"solvent": hump},
                                  blank_sigma={"solvent": 2 * noise * sigma})
    model = small.model(q, expected, sigma, [small.phase(small.cscl())], background=background)
    found = refine(model, [["P.a"]])
    assert model.blank_noise(found.evaluation)["solvent"] == pytest.approx(noise, rel=0.02)
    assert any("blank solvent" in text and "0.60 times" in text for text in found.warnings) == warned


def test_long_cycles_report_their_derivatives(cube_model, monkeypatch):
    """Without a limit of silence every derivative is reported, each between two cycles."""
    monkeypatch.setattr("aiida_dse.engine.fit.leastsquares.SILENCE", 0.0)
    reports = []
    refine(cube_model, [["P.a", "P.L"]], max_cycles=4, on_cycle=reports.append)
    within = [one for one in reports if one.derivatives]
    assert within[0].cycle == 0 and np.isnan(within[0].gof)
    assert [one.derivatives for one in within[:2]] == [(1, 2), (2, 2)]
    finished = [one for one in reports if one.derivatives is None]
    assert [one.cycle for one in finished] == list(range(1, len(finished) + 1))
