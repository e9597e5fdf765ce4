"""Agreement factors (Rwp, GoF) of a calculated pattern, and serial correlation of residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_dse.engine.units import FloatArray

#: Durbin-Watson value below which residuals count as serially correlated.
SERIAL_LIMIT = 1.5


@dataclass(frozen=True)
class Agreement:
    """Weighted agreement factors, as fractions; the observed intensity includes the background.

    r_wp = sqrt(sum w (yo-yc)^2 / sum w yo^2), r_exp = sqrt((n-p) / sum w yo^2),
    gof = r_wp / r_exp = sqrt(chi2_red), w = 1/sigma^2. The divisor of `r_wp_background_subtracted`
    is sum w (yo-yb)^2.
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
    """Agreement of `calculated` with `observed`; n_refined includes the linear coefficients.

    Raises ValueError where there are no more points than parameters.
    """
    n_points = len(observed)
    if n_points <= n_refined:
        raise ValueError(
            f"the agreement of {n_refined} parameters needs more than {n_points} points. Widen the "
            "range of the pattern, or fix parameters."
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


def su_scale(gof: float) -> float:
    """max(1, GoF), the factor by which printed s.u. and those that weight points are scaled."""
    return max(1.0, gof)


@dataclass(frozen=True)
class SerialCorrelation:
    """Serial correlation of residuals and its effect on standard uncertainties."""

    autocorrelation_time: float  # in points
    n_effective: float
    su_factor: float


def serial_correlation(residual: FloatArray) -> SerialCorrelation:
    """The effective number of points of the residuals (n_points,), and the factor for the s.u.

        tau = 1 + 2 sum_k rho_k,   n_eff = n / tau,   s.u. -> s.u. * sqrt(tau)

    rho_k is the autocorrelation at a distance of k points, summed over Sokal's window; tau is at
    least 1. The factor is exact for a parameter whose derivative varies slowly over tau points (it
    is that of a mean of correlated values: Bartlett, J. R. Stat. Soc. Suppl. 8 (1946) 27) and too
    large for one that shifts sharp lines. The factor of Berar and Lelann (J. Appl. Cryst. 24 (1991)
    1), a sum over runs of equal sign, is 1.5 even for white noise.
    """
    n_points = len(residual)
    tau = _autocorrelation_time(residual)
    return SerialCorrelation(tau, n_points / tau, float(np.sqrt(tau)))


def _autocorrelation_time(series: FloatArray) -> float:
    """tau of a series (n,), at least 1, over Sokal's window: the first that is 5 tau long.

    emcee's estimate is the same, but importing it in every refinement would take half a second.
    """
    n = len(series)
    power = np.abs(np.fft.rfft(series - series.mean(), 2 * n)) ** 2
    correlation = np.fft.irfft(power, 2 * n)[:n]
    if not correlation[0] > 0:
        return 1.0
    tau = 2 * np.cumsum(correlation / correlation[0]) - 1
    long_enough = np.flatnonzero(np.arange(n) >= 5 * tau)
    return max(1.0, float(tau[long_enough[0] if len(long_enough) else -1]))
