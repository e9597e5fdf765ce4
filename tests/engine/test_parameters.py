"""Parameters as values, ties as arithmetic that executes nothing."""

from __future__ import annotations

import math
import time

import pytest

from aiida_dse.engine.model.parameters import Parameter, Tie, closest, ordered_ties, select

KNOWN = ["P.a", "P.b", "P.Br_eq.B", "P.Br_ax.B", "P.L", "P.L_ab", "PP.a"]


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
    tie = Tie.parse("P.Br_eq.B", expression, KNOWN)
    assert tie.value(values) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("expression", ["P.a-P.b", "P.a+P.b", "P.a-0.5", "P.a+1.5"])
def test_a_space_around_plus_and_minus_is_no_duty(expression):
    values = {"P.a": 3.0, "P.b": 5.0}
    expected = eval(expression.replace("P.a", "3").replace("P.b", "5"))
    assert Tie.parse("P.Br_eq.B", expression, KNOWN).value(values) == expected


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
    with pytest.raises(ValueError, match="tie"):
        Tie.parse("P.Br_eq.B", expression, KNOWN)


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(ValueError, match=r"P\.Br_eqq\.B.*did you mean P\.Br_eq\.B"):
        Tie.parse("P.Br_ax.B", "2 * P.Br_eqq.B", KNOWN)


def test_a_tie_to_itself_is_refused():
    with pytest.raises(ValueError, match="refers to itself"):
        Tie.parse("P.a", "P.a + 1", KNOWN)


def test_circles_are_refused():
    ties = [Tie.parse("P.a", "P.b", KNOWN), Tie.parse("P.b", "2 * P.L", KNOWN),
            Tie.parse("P.L", "P.a", KNOWN)]
    with pytest.raises(ValueError, match=r"P\.L, P\.a, P\.b go round in a circle"):
        ordered_ties(ties)


def test_chains_are_put_in_order():
    ties = [Tie.parse("P.a", "P.b", KNOWN), Tie.parse("P.b", "P.L", KNOWN),
            Tie.parse("P.Br_eq.B", "P.a + P.L", KNOWN)]
    targets = [tie.target for tie in ordered_ties(ties)]
    assert targets.index("P.b") < targets.index("P.a") < targets.index("P.Br_eq.B")


@pytest.mark.parametrize("expression", ["9 ** 9 ** 9 ** 9", "1 / 0", "log(P.a - 10)", "exp(1e9)"])
def test_a_value_that_cannot_be_computed_names_the_tie(expression):
    """Overflow, division by zero and domain errors are said like every other mistake."""
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"P\.Br_eq\.B"):
        Tie.parse("P.Br_eq.B", expression, KNOWN).value({"P.a": 3.0})
    assert time.monotonic() - begin < 1


def test_deep_nesting_is_refused():
    with pytest.raises(ValueError, match="tie"):
        Tie.parse("P.Br_eq.B", "-" * 3000 + "P.a", KNOWN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, "Å", 2.0, 0.5), "lower bound 2 is above the upper bound 0.5 Å"),
        ((3.0, "Å", 0.0, 2.0), r"value 3 Å lies outside its bounds 0 \.\.\. 2"),
        ((math.nan, "Å"), "not a finite number"), ((math.inf, "Å"), "not a finite number"),
        ((1.0, "Å", math.nan, 2.0), "bound"),
    ],
)
def test_impossible_parameters(arguments, message):
    with pytest.raises(ValueError, match=message) as problem:
        Parameter("P.a", *arguments)
    assert str(problem.value).startswith("P.a")


def test_a_refined_parameter_is_another_value():
    a = Parameter("P.a", 8.207, "Å", 8.0, 8.5)
    b = a.refined(8.208, su=0.0012)
    assert (a.value, a.su) == (8.207, None) and (b.value, b.su, b.unit) == (8.208, 0.0012, "Å")
    with pytest.raises(ValueError, match="outside its bounds"):
        a.refined(9.0)


def test_selection_by_wildcard_keeps_the_order_of_the_names():
    assert select(["P.L*", "P.a"], KNOWN) == ["P.a", "P.L", "P.L_ab"]
    assert select(["P.*.B"], KNOWN) == ["P.Br_eq.B", "P.Br_ax.B"]
    with pytest.raises(ValueError, match=r"'P\.Lab' names no parameter \(did you mean P\.L_ab"):
        select(["P.Lab"], KNOWN)


def test_hints_stay_silent_when_nothing_is_near():
    assert closest("zzzzzz", KNOWN) == ""
