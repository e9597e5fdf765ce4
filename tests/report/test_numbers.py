"""Numbers with standard uncertainties as printed by journals, such as 8.207(1)."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from aiida_dse.engine.formatting import with_su


@pytest.mark.parametrize(
    ("value", "su", "expected"),
    [
        (8.2071, 0.0012, "8.2071(12)"), (8.2071, 0.0019, "8.2071(19)"),
        (8.2071, 0.0021, "8.207(2)"), (8.2071, 0.009, "8.207(9)"),
        (161.04, 0.13, "161.04(13)"), (161.04, 0.26, "161.0(3)"),
        # the next decade
        (1.23456, 0.0996, "1.23(10)"), (1.23456, 0.00999, "1.235(10)"),
        (1.23456, 0.0095, "1.235(10)"),
        (1.23456, 0.0194, "1.235(19)"), (1.23456, 0.0196, "1.23(2)"),
        # one and more
        (123.456, 1.0, "123.5(10)"), (123.456, 1.9, "123.5(19)"), (123.456, 2.4, "123(2)"),
        (123.456, 9.7, "123(10)"), (123.456, 15.0, "123(15)"), (123.456, 24.0, "120(20)"),
        (123456.0, 150.0, "123460(150)"), (123456.0, 980.0, "123500(1000)"),
        (123456.0, 2400.0, "123000(2000)"), (5.0, 1e6, "0(1000000)"),
        (-8.2071, 0.0012, "-8.2071(12)"), (0.0, 0.003, "0.000(3)"),
        (1e-5, 2e-7, "0.0000100(2)"),
    ],
)
def test_the_su_is_printed_by_the_rule_of_nineteen(value, su, expected):
    assert with_su(value, su) == expected


@pytest.mark.parametrize("su", [None, 0.0, -1.0, math.nan, math.inf])
def test_a_number_without_su_is_printed_alone(su):
    assert with_su(8.2071234, su) == "8.2071"
    assert with_su(8.2071234, su, digits=7) == "8.207123"


def test_printed_numbers_agree_with_the_values():
    """Printed value and s.u. agree with the numbers within half a printed digit."""
    random = np.random.default_rng(7)
    for _ in range(3000):
        value = random.normal() * 10 ** random.uniform(-3, 4)
        su = 10 ** random.uniform(-6, 4)
        text = with_su(value, su)
        match = re.fullmatch(r"(-?\d+(?:\.(\d+))?)\((\d+)\)", text)
        assert match, text
        decimals = len(match[2] or "")
        unit = 10.0**-decimals
        printed = int(match[3]) * unit
        significant = match[3].rstrip("0") if not decimals else match[3]
        assert len(significant) <= 2, text
        if len(match[3]) == 2 and decimals:
            assert int(match[3]) <= 19, text
        assert abs(printed - su) <= 0.26 * su, text
        resolution = max(unit, printed if not decimals else unit)
        assert abs(float(match[1]) - value) <= 0.5 * resolution * 1.001, text


@pytest.mark.parametrize("su", [0.00195, 0.0195, 0.195, 1.95, 19.5])
def test_no_uncertainty_is_printed_as_twenty(su):
    """1.95 is printed as 19 or 2, depending on rounding, but never as 20 of the finer unit."""
    assert not re.search(r"\.\d+\(20\)", with_su(1.23456, su))
