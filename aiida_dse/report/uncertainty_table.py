"""Text tables that compare profiles, bootstrap and posterior with standard uncertainties."""

from __future__ import annotations

from math import isfinite
from typing import Any

from aiida_dse.documents.results import (
    BootstrapRow,
    PosteriorRow,
    SpreadRow,
    UncertaintyRow,
    UncertaintySummary,
)

#: Reasons for which a side of a profile has no limit.
OPEN = {"bound": "bound", "flat": "flat", "": "unfinished"}


def uncertainty_lines(summary: UncertaintySummary) -> list[str]:
    """Half-widths of 68.3 % intervals by all methods, scaled profile intervals, diagnostics."""
    found = summary.uncertainty
    if not (found.profile or found.bootstrap or found.posterior):
        return []
    lines = ["", *_progress_lines(found)]
    columns = {name: [row.value, row.su, *_profile_widths(found, name),
                      _sd(found.bootstrap, name), _sd(found.posterior, name)]
               for name, row in summary.free.items()}
    lines += [
        "s.u. and half-widths of 68.3 % intervals, all unscaled (multiply by max(1, GoF) = "
        f"{summary.su_scale:.3f} to allow for the misfit)",
        f"{'':34} {'value':>11} {'s.u.':>9} {'profile -':>10} {'+':>9} {'bootstrap':>10} "
        f"{'posterior':>10} {'R-hat':>6} {'eff. n':>7}",
    ]
    diagnostics = found.posterior.parameters if found.posterior else {}
    for name, numbers in columns.items():
        lines.append(_row(name, numbers) + _diagnosis(diagnostics.get(name)))
    for phase, rows in found.derived.items():
        for name, row in rows.items():
            widths = [None if spread is None else spread.sd
                      for spread in (row.bootstrap, row.posterior)]
            if not any(width is not None and width > 1e-12 for width in widths):
                continue  # constant in this model, such as a correlation of zero
            lines.append(_row(f"{phase} {name}", [row.value, row.su, None, None, *widths])
                         + (f"  {row.unit}" if row.unit else ""))
    return lines + _profile_lines(summary)


def _progress_lines(found: UncertaintyRow) -> list[str]:
    lines = []
    if row := found.bootstrap:
        lines.append(
            f"bootstrap: {row.n_refined} of {row.n_samples} samples refined, "
            f"{row.n_not_converged} did not converge, {row.n_failed} failed, "
            f"{row.n_pending} pending; seed {row.seed}"
        )
    if chain := found.posterior:
        lines.append(
            f"posterior: {chain.n_walkers} walkers, {chain.n_steps} steps, acceptance "
            f"{chain.acceptance:.2f}, {chain.n_impossible} impossible proposals; seed {chain.seed}"
        )
        if chain.n_exact is not None and chain.error is not None:
            lines.append(
                f"  The patterns were approximated from {chain.n_exact} exact patterns. At {chain.n_checked} "
                f"samples of the chain, the error of log p has a standard deviation of {chain.error:.3f}.")
        if chain.converged is not None:
            times = [p.autocorrelation_time for p in chain.parameters.values()
                     if p.autocorrelation_time is not None and isfinite(p.autocorrelation_time)]
            longest = f"{max(times):.1f} steps" if times else "unknown (the chain is too short)"
            lines.append(
                f"  {'converged' if chain.converged else 'NOT CONVERGED'}: burn-in "
                f"{chain.burn_in} steps, longest autocorrelation time {longest}"
                + "".join(f"; {reason}" for reason in chain.reasons)
            )
            lines.append("  R-hat compares the walkers of one ensemble, which are not independent, "
                         "so the autocorrelation time is the stricter criterion")
    return lines


def _profile_widths(found: UncertaintyRow, name: str) -> list[Any]:
    row = found.profile.get(name)
    if row is None:
        return [None, None]
    low, high = row.interval_68
    return [OPEN.get(row.below, "open") if low is None else row.value - low,
            OPEN.get(row.above, "open") if high is None else high - row.value]


def _profile_lines(summary: UncertaintySummary) -> list[str]:
    rows = summary.uncertainty.profile
    if not rows:
        return []
    factor = summary.su_scale**2
    lines = [f"profile intervals at chi2 = min + {factor:.3f} (68.3 %) and + {4 * factor:.3f} "
             "(95.4 %), scaled by max(1, GoF)^2"]
    for name, row in rows.items():
        unit = summary.parameters[name].unit
        shown = [f"{_end(interval, 0)} ... {_end(interval, 1)}"
                 for interval in (row.scaled_68, row.scaled_95)]
        ends = [f"the profile ends at the bound {side}" if ended == "bound" else f"{side}: {ended}"
                for side, ended in (("below", row.below), ("above", row.above))
                if ended not in ("", "risen")]
        lines.append(f"{name:34} {shown[0]:>24}  {shown[1]:>24} {unit}"
                     + "".join(f"; {end}" for end in ends))
    return lines


def _end(interval: tuple[float | None, float | None], k: int) -> str:
    return "?" if interval[k] is None else f"{interval[k]:.6g}"


def _sd(part: BootstrapRow | PosteriorRow | None, name: str) -> float | None:
    row = part.parameters.get(name) if part else None
    return None if row is None else row.sd


def _row(name: str, numbers: list[Any]) -> str:
    texts = [number if isinstance(number, str) else "" if number is None else f"{number:.3g}"
             for number in numbers[1:]]
    widths = (9, 10, 9, 10, 10)
    return f"{name:34} {numbers[0]:11.6g} " + " ".join(
        f"{text:>{width}}" for text, width in zip(texts, widths, strict=True)
    )


def _diagnosis(row: SpreadRow | None) -> str:
    if row is None or row.r_hat is None:
        return ""
    return f" {row.r_hat:6.3f} {row.effective_samples or 0.0:7.0f}"
