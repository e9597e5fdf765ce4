"""Figures of merit of a calculated pattern."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .units import FloatArray


@dataclass(frozen=True)
class Agreement:
    """Weighted agreement factors; the background stays in the observed intensity.

    r_wp = sqrt(sum w (yo-yc)^2 / sum w yo^2), r_exp = sqrt((n-p) / sum w yo^2),
    gof = r_wp / r_exp = sqrt(chi2_red), w = 1/sigma^2. `r_wp_background_subtracted` divides by
    sum w (yo-yb)^2 instead. All as fractions, not percent.
    """

    n_points: int
    n_parameters: int
    chi2: float
    r_p: float
    r_wp: float
    r_exp: float
    gof: float
    r_wp_background_subtracted: float
    durbin_watson: float


def agreement(
    *,
    observed: FloatArray,
    calculated: FloatArray,
    sigma: FloatArray,
    n_refined: int,
    background: FloatArray | None = None,
) -> Agreement:
    """Agreement of `calculated` with `observed`; n_refined counts the linear coefficients too.

    Raises ValueError where there are no more points than parameters.
    """
    n_points = len(observed)
    if n_points <= n_refined:
        raise ValueError(
            f"{n_refined} parameters cannot be judged on {n_points} points. Widen the pattern's "
            "range or fix parameters."
        )
    scaled = (observed - calculated) / sigma
    chi2 = float(scaled @ scaled)
    total = float(np.sum((observed / sigma) ** 2))
    above = observed if background is None else observed - background
    r_wp, r_exp = np.sqrt(chi2 / total), np.sqrt((n_points - n_refined) / total)
    return Agreement(
        n_points=n_points,
        n_parameters=n_refined,
        chi2=chi2,
        r_p=float(np.abs(observed - calculated).sum() / np.abs(observed).sum()),
        r_wp=float(r_wp),
        r_exp=float(r_exp),
        gof=float(r_wp / r_exp),
        r_wp_background_subtracted=float(np.sqrt(chi2 / np.sum((above / sigma) ** 2))),
        durbin_watson=float(np.sum(np.diff(scaled) ** 2) / chi2) if chi2 > 0 else float("nan"),
    )
