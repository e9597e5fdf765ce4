"""Parameters as values, constraints as arithmetic that executes nothing."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from aiida_dse.engine.model.constraints import (
    Constraint,
    constraint_gradient,
    followers,
    ordered_constraints,
)
from aiida_dse.engine.parameters import (
    KINDS,
    Changes,
    Kind,
    Parameter,
    ParameterName,
    ParameterStatus,
    closest,
    select,
)

KNOWN = ["P.a", "P.b", "P.Br_eq.B_iso", "P.Br_ax.B_iso", "P.L", "P.L_ab", "PP.a"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("2 * P.a", 6.0), ("P.a + P.b", 8.0), ("-P.a", -3.0), ("P.a ** 2 / 4", 2.25),
        ("sqrt(P.a * P.a + 16)", 5.0), ("log(exp(P.b))", 5.0), ("abs(P.a - P.b)", 2.0),
        ("cos(0) + sin(0) * tan(1)", 1.0), ("(P.a + P.b) * 0.5", 4.0), ("1.5e-1 * P.a", 0.45),
        ("P.L_ab - P.L", 4.0), ("PP.a - P.a", 8.0), ("7", 7.0),
        ("P.a*2-P.b*2", -4.0),
    ],
)
def test_arithmetic(expression, expected):
    values = {"P.a": 3.0, "P.b": 5.0, "P.L": 7.0, "P.L_ab": 11.0, "PP.a": 11.0}
    constraint = Constraint.parse("P.Br_eq.B_iso", expression, KNOWN)
    assert constraint.value(values) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("expression", ["P.a-P.b", "P.a+P.b", "P.a-0.5", "P.a+1.5"])
def test_a_space_around_plus_and_minus_is_no_duty(expression):
    values = {"P.a": 3.0, "P.b": 5.0}
    expected = eval(expression.replace("P.a", "3").replace("P.b", "5"))
    assert Constraint.parse("P.Br_eq.B_iso", expression, KNOWN).value(values) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')", "__import__('os')", "open('/etc/passwd')",
        "eval('1')", "(P.a).__class__", "().__class__", "P.a.real", "[1][0]", "{1: 2}[1]",
        "lambda: 1", "P.a if P.a else P.b", "P.a < P.b", "P.a and P.b", "P.a // 2", "P.a % 2",
        "f'{P.a}'", "'text'", "1j", "sqrt(P.a, 2)", "sqrt(x=P.a)", "sqrt(*[4])", "sqrt",
        "(x := 3)", "P.a @ P.b", "~P.a", "", "P.a +", "P.a P.b", "a", "np.sqrt(4)", "max(1, 2)",
        "P.a; P.b", "import os", "P.a = 3", "(-1) ** 0.5", "None", "[x for x in (1,)]",
    ],
)
def test_anything_else_is_refused(expression):
    with pytest.raises(ValueError, match="constraint"):
        Constraint.parse("P.Br_eq.B_iso", expression, KNOWN)


def test_an_unknown_name_is_reported_with_the_nearest():
    with pytest.raises(ValueError, match=r"P\.Br_eqq\.B.*did you mean P\.Br_eq\.B_iso"):
        Constraint.parse("P.Br_ax.B_iso", "2 * P.Br_eqq.B_iso", KNOWN)


def test_a_constraint_to_itself_is_refused():
    with pytest.raises(ValueError, match="refers to itself"):
        Constraint.parse("P.a", "P.a + 1", KNOWN)


def test_circles_are_refused():
    constraints = [Constraint.parse("P.a", "P.b", KNOWN), Constraint.parse("P.b", "2 * P.L", KNOWN),
            Constraint.parse("P.L", "P.a", KNOWN)]
    with pytest.raises(ValueError, match=r"P\.L, P\.a, P\.b are circular"):
        ordered_constraints(constraints)


def test_chains_are_put_in_order():
    constraints = [Constraint.parse("P.a", "P.b", KNOWN), Constraint.parse("P.b", "P.L", KNOWN),
            Constraint.parse("P.Br_eq.B_iso", "P.a + P.L", KNOWN)]
    targets = [constraint.target for constraint in ordered_constraints(constraints)]
    assert targets.index("P.b") < targets.index("P.a") < targets.index("P.Br_eq.B_iso")


@pytest.mark.parametrize("expression", ["9 ** 9 ** 9 ** 9", "1 / 0", "log(P.a - 10)", "exp(1e9)"])
def test_a_value_that_cannot_be_computed_names_the_constraint(expression):
    """Overflow, division by zero and domain errors are said like every other mistake."""
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"P\.Br_eq\.B_iso"):
        Constraint.parse("P.Br_eq.B_iso", expression, KNOWN).value({"P.a": 3.0})
    assert time.monotonic() - begin < 1


def test_deep_nesting_is_refused():
    with pytest.raises(ValueError, match="constraint"):
        Constraint.parse("P.Br_eq.B_iso", "-" * 3000 + "P.a", KNOWN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 2.0, 0.5), "lower bound 2 is above the upper bound 0.5 Å"),
        ((3.0, 0.0, 2.0), r"value 3 Å lies outside its bounds 0 \.\.\. 2"),
        ((math.nan,), "not a finite number"), ((math.inf,), "not a finite number"),
    ],
)
def test_impossible_parameters(arguments, message):
    with pytest.raises(ValueError, match=message) as problem:
        Parameter("P.a", Kind.CELL_LENGTH, *arguments)
    assert str(problem.value).startswith("P.a")


def test_a_refined_parameter_is_another_value():
    a = Parameter("P.a", Kind.CELL_LENGTH, 8.207, 8.0, 8.5)
    b = a.changed(value=8.208, su=0.0012)
    assert (a.value, a.su) == (8.207, None) and (b.value, b.su, b.unit) == (8.208, 0.0012, "Å")
    with pytest.raises(ValueError, match="outside its bounds"):
        a.changed(value=9.0)


def test_selection_by_wildcard_keeps_the_order_of_the_names():
    assert select(["P.L*", "P.a"], KNOWN) == ["P.a", "P.L", "P.L_ab"]
    assert select(["P.*.B_iso"], KNOWN) == ["P.Br_eq.B_iso", "P.Br_ax.B_iso"]
    with pytest.raises(ValueError, match=r"'P\.Lab' matches no parameter \(did you mean P\.L_ab"):
        select(["P.Lab"], KNOWN)


def test_hints_stay_silent_when_nothing_is_near():
    assert closest("zzzzzz", KNOWN) == ""


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("P.a", ("", "P", "", "a", "a")),
        ("P.Br_eq.x", ("", "P", "Br_eq", "x", "Br_eq.x")),
        ("T300:P.Br_eq.B_iso", ("T300", "P", "Br_eq", "B_iso", "Br_eq.B_iso")),
        ("global.c0", ("", "global", "", "c0", "c0")),
    ],
)
def test_a_name_knows_its_parts(name, parts):
    parsed = ParameterName(name)
    assert (parsed.pattern, parsed.phase, parsed.site, parsed.quantity, parsed.local) == parts
    again = ParameterName.of(
        parsed.phase, parsed.quantity, site=parsed.site, pattern=parsed.pattern)
    assert again == parsed == name and hash(again) == hash(name)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_its_properties(kind):
    """Steps are positive; bounds and starting ranges enclose the value and are possible."""
    spec, value = KINDS[kind], {
        Kind.CELL_ANGLE: 90.0, Kind.OCCUPANCY: 0.8, Kind.LATTICE_SCALE: 1.0, Kind.BOUNDARY_PROBABILITY: 0.2,
        Kind.U_ISO: 0.02, Kind.U_ANISO: 0.02, Kind.LATTICE_CHANGE: 0.01, Kind.OCCUPANCY_CHANGE: -0.1,
        Kind.Q_WIDTH: 0.01, Kind.MICROSTRAIN: 0.001}.get(kind, 2.0)
    assert spec.shift(value) > 0
    for low, high in (spec.bounds(value), spec.start_range(value)):
        assert low <= value <= high
    assert spec.possible[0] <= value <= spec.possible[1]
    # what is refined by default is not solved linearly
    assert spec.stage is None or spec.changes is not Changes.LINEAR


def test_default_bounds_include_the_value():
    b = Parameter("P.Pb.B_iso", Kind.B_ISO, 40.0)
    assert (b.lower, b.upper) == (0.0, 80.0)
    wide = Parameter("P.L", Kind.SIZE, 0.2)
    assert wide.lower == 0.2


def test_only_refined_parameters_count_as_such():
    assert {status for status in ParameterStatus if status.refined} == {
        ParameterStatus.FREE, ParameterStatus.AT_BOUND, ParameterStatus.UNDETERMINED}


def test_derivatives_of_constraints_are_exact():
    """d(x^2 coth(y) / z)/dx = 2 x coth(y) / z and so on, to rounding."""
    one = Constraint.parse("P.b", "P.a ** 2 * coth(P.L) / P.L_ab", KNOWN)
    x, y, z = 1.7, 0.9, 3.0
    coth = 1 / math.tanh(y)
    expected = {"P.a": 2 * x * coth / z, "P.L": -x**2 / math.sinh(y) ** 2 / z,
                "P.L_ab": -x**2 * coth / z**2}
    found = dict(zip(one.sources, one.slopes({"P.a": x, "P.L": y, "P.L_ab": z}), strict=True))
    assert found == pytest.approx(expected, rel=1e-14)
    size = Constraint.parse("P.b", "abs(P.a)", KNOWN)
    assert size.slopes({"P.a": -2.0}).tolist() == [-1.0]


def test_the_chain_rule_runs_through_chains():
    order = ordered_constraints([Constraint.parse("P.a", "2 * P.b", KNOWN),
                                 Constraint.parse("P.b", "P.L ** 3", KNOWN)])
    values = {"P.L": 2.0, "P.b": 8.0, "P.a": 16.0}
    found = constraint_gradient(order, values, ["P.L", "PP.a"])
    assert found["P.a"] == pytest.approx([24.0, 0.0])
    assert followers(order, ["P.L"]) == ["P.b", "P.a"] and followers(order, ["PP.a"]) == []


def test_constraints_of_arrays_are_those_of_their_points():
    one = Constraint.parse("P.b", "sqrt(P.a) + P.L", KNOWN)
    grid = np.array([[1.0, 4.0, np.nan]])
    column = np.array([[1.0], [2.0]])
    found = one.value({"P.a": grid, "P.L": column})
    assert found.shape == (2, 3) and np.isnan(found[:, 2]).all()
    for i in range(2):
        for k in range(2):
            at = {"P.a": float(grid[0, k]), "P.L": float(column[i, 0])}
            assert found[i, k] == one.value(at)
    with pytest.raises(ValueError, match="no finite value"):
        one.value({"P.a": np.array([1.0, -1.0]), "P.L": 0.0})
