"""Profiles, bootstrap and posterior as text, beside the standard uncertainties."""

from __future__ import annotations

from typing import Any

#: Why a side of a profile has no limit.
OPEN = {"bound": "bound", "flat": "flat", "": "unfinished"}


def uncertainty_lines(summary: dict[str, Any]) -> list[str]:
    """Half-widths of the 68.3 % intervals side by side, scaled profile intervals, verdicts."""
    found = summary["uncertainty"]
    posterior, bootstrap = found.get("posterior", {}), found.get("bootstrap", {})
    lines = ["", *_progress_lines(found)]
    columns = {name: [row["value"], row["su"], *_profile_widths(found, name),
                      _sd(bootstrap, name), _sd(posterior, name)]
               for name, row in summary["parameters"].items() if row["free"]}
    lines += [
        "s.u. and half-widths of 68.3 % intervals, all unscaled (times max(1, GoF) = "
        f"{max(1.0, summary['agreement']['gof']):.3f} where the misfit is to count)",
        f"{'':34} {'value':>11} {'s.u.':>9} {'profile -':>10} {'+':>9} {'bootstrap':>10} "
        f"{'posterior':>10} {'R-hat':>6} {'eff. n':>7}",
    ]
    diagnostics = posterior.get("parameters", {})
    for name, numbers in columns.items():
        lines.append(_row(name, numbers) + _diagnosis(diagnostics.get(name)))
    for phase, rows in found.get("derived", {}).items():
        for name, row in rows.items():
            widths = [row[kind]["sd"] if kind in row else None
                      for kind in ("bootstrap", "posterior")]
            if not any(width is not None and width > 1e-12 for width in widths):
                continue  # constant in this model, such as a correlation of zero
            lines.append(_row(f"{phase} {name}", [row["value"], row["su"], None, None, *widths])
                         + (f"  {row['unit']}" if row["unit"] else ""))
    return lines + _profile_lines(summary)


def _progress_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    if row := found.get("bootstrap"):
        lines.append(
            f"bootstrap: {row['n_refined']} of {row['n_samples']} samples refined, "
            f"{row['n_not_converged']} did not converge, {row['n_failed']} failed, "
            f"{row['n_pending']} not done; seed {row['seed']}"
        )
    if row := found.get("posterior"):
        lines.append(
            f"posterior: {row['n_walkers']} walkers, {row['n_steps']} steps, acceptance "
            f"{row['acceptance']:.2f}, {row['n_impossible']} impossible proposals; seed "
            f"{row['seed']}"
        )
        if "converged" in row:
            longest = max((p["autocorrelation_time"] or float("nan")
                           for p in row["parameters"].values()), default=float("nan"))
            lines.append(
                f"  {'converged' if row['converged'] else 'NOT CONVERGED'}: burn-in "
                f"{row['burn_in']} steps, longest autocorrelation time {longest:.1f} steps"
                + "".join(f"; {reason}" for reason in row["reasons"])
            )
    return lines


def _profile_widths(found: dict[str, Any], name: str) -> list[Any]:
    row = found.get("profile", {}).get(name)
    if row is None:
        return [None, None]
    low, high = row["interval_68"]
    return [OPEN.get(row["below"], "open") if low is None else row["value"] - low,
            OPEN.get(row["above"], "open") if high is None else high - row["value"]]


def _profile_lines(summary: dict[str, Any]) -> list[str]:
    rows = summary["uncertainty"].get("profile", {})
    if not rows:
        return []
    factor = max(1.0, summary["agreement"]["gof"]) ** 2
    lines = [f"profile intervals at chi2 = min + {factor:.3f} (68.3 %) and + {4 * factor:.3f} "
             "(95.4 %), scaled by max(1, GoF)^2"]
    for name, row in rows.items():
        unit = summary["parameters"][name]["unit"]
        shown = [f"{_end(row['scaled_' + key], 0)} ... {_end(row['scaled_' + key], 1)}"
                 for key in ("68", "95")]
        ends = [f"the curve ends at the bound {side}" if row[side] == "bound"
                else f"{side}: {row[side]}"
                for side in ("below", "above") if row[side] not in ("", "risen")]
        lines.append(f"{name:34} {shown[0]:>24}  {shown[1]:>24} {unit}"
                     + "".join(f"; {end}" for end in ends))
    return lines


def _end(interval: list[float | None], k: int) -> str:
    return "?" if interval[k] is None else f"{interval[k]:.6g}"


def _sd(part: dict[str, Any], name: str) -> float | None:
    row = part.get("parameters", {}).get(name)
    return None if row is None else row["sd"]


def _row(name: str, numbers: list[Any]) -> str:
    texts = [number if isinstance(number, str) else "" if number is None else f"{number:.3g}"
             for number in numbers[1:]]
    widths = (9, 10, 9, 10, 10)
    return f"{name:34} {numbers[0]:11.6g} " + " ".join(
        f"{text:>{width}}" for text, width in zip(texts, widths, strict=True)
    )


def _diagnosis(row: dict[str, Any] | None) -> str:
    if row is None or row["r_hat"] is None:
        return ""
    return f" {row['r_hat']:6.3f} {row['effective_samples']:7.0f}"
