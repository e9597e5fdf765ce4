"""Lengths of particles that a series compares, from the parameters of their size law."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def edge_rows(
    local: Mapping[str, float], statistics: Mapping[str, float]
) -> list[tuple[str, str, float]]:
    """Mean lengths of the size law and L, the edge of the cube of the same volume (nm).

    sd_L is the spread of L in the population: of a product of powers of log-normal lengths.
    """
    if "L_ab" in local:
        # along rotated axes the law's means are no lengths of the particles; the projections are
        turned = local.get("size_axes_rotation", 0.0) != 0.0
        names = ("mean_ab", "sd_ab", "mean_c", "sd_c") if turned else (
            "L_ab", "sd_ab", "L_c", "sd_c")
        source = statistics if turned else local
        ab, sd_ab, c, sd_c = (float(source[name]) for name in names)
        w_ab, w_c = (np.sqrt(np.log1p((sd / mean) ** 2)) for sd, mean in ((sd_ab, ab), (sd_c, c)))
        shared = statistics.get("correlation", 0.0) if turned else 0.0
        width2 = (4 * w_ab**2 + w_c**2 + 4 * shared * w_ab * w_c) / 9
        edge = float((c * ab**2) ** (1 / 3))
        rows = [("L_ab", "nm", ab), ("L_c", "nm", c), ("L", "nm", edge),
                ("sd_L", "nm", edge * float(np.sqrt(np.expm1(width2))))]
    elif "L" in local:
        edge = local["L"]
        rows = [("L", "nm", edge), ("sd_L", "nm", local["sd_L"])]
    elif "D" in local or "D" in statistics:
        diameter = float(local.get("D", statistics.get("D", np.nan)))
        share = float((np.pi / 6) ** (1 / 3))
        edge = share * diameter
        rows = [("D", "nm", diameter), ("L", "nm", edge)]
        if "sd_D" in local:
            rows.append(("sd_L", "nm", share * local["sd_D"]))
    elif {"L_a", "L_b", "L_c"} <= set(statistics):
        edge = float(np.prod([statistics[name] for name in ("L_a", "L_b", "L_c")]) ** (1 / 3))
        rows = [("L", "nm", edge)]
    else:
        return []
    return [*rows, ("1/L", "1/nm", 1 / edge)]
