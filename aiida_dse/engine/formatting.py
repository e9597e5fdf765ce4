"""Formatting of numbers with standard uncertainties, in the notation of journals."""

from __future__ import annotations

import math


def with_su(value: float, su: float | None, digits: int = 5) -> str:
    """A value with its standard uncertainty in its last digits, for example '8.207(1)'.

    The s.u. has two digits up to 19 and one digit above (rule of 19). Without an s.u. the value
    has `digits` significant digits.
    """
    if su is None or not math.isfinite(su) or su <= 0:
        return f"{value:.{digits}g}"
    exponent = math.floor(math.log10(su))
    two = round(su / 10 ** (exponent - 1))
    if two == 100:
        exponent, two = exponent + 1, 10
    decimals = -(exponent - 1) if two <= 19 else -exponent
    scaled = two if two <= 19 else round(su * 10**decimals)
    if decimals <= 0:
        unit = 10 ** (-decimals)
        return f"{round(value / unit) * unit:.0f}({scaled * unit})"
    return f"{value:.{decimals}f}({scaled})"
