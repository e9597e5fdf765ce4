"""Numbers with standard uncertainties, printed as journals do."""

from __future__ import annotations

import math


def with_su(value: float, su: float | None, digits: int = 5) -> str:
    """'8.207(1)': the s.u. with one digit, or two up to 19 (rule of 19); plain without s.u."""
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
