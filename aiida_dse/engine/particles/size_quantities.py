"""Sizes that results report: edges, diameters and the surface-to-volume ratio."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aiida_dse.engine.crystal.structure import Cell

from .size_statistics import block_measures, sphere_measures

#: Rows (name, unit, value).
Rows = list[tuple[str, str, float]]


def size_quantities(
    local: Mapping[str, float], statistics: Mapping[str, float], cell: Cell | None = None, *,
    of_population: bool = False,
) -> Rows:
    """The size quantities of parallelepipeds, quasi-cubes and spheres as rows (name, unit, value).

    These are the mean lengths of the size distribution, L = (L_c L_ab^2)^(1/3), or (pi/6)^(1/3) D
    for spheres (nm), and 1/L; `of_population` takes the means and the standard deviations of the
    particles that occur instead of those of the distribution. sd_L is the standard deviation of L in
    the population, that of a product of powers of log-normal lengths. surface_to_volume (1/nm) and
    confinement_diameter (nm) are those of the particle with the mean lengths; without a `cell`, its
    edges are assumed to be perpendicular.
    """
    cell = cell or Cell(1.0, 1.0, 1.0)
    step = np.sqrt(cell.a * cell.b) / 10
    if "L_ab" in local:
        # with rotated axes, the means of the distribution are not lengths of particles; use
        # projections
        rotated = local.get("size_axes_rotation", 0.0) != 0.0
        projected = rotated or of_population
        names = ("mean_ab", "sd_ab", "mean_c", "sd_c") if projected else (
            "L_ab", "sd_ab", "L_c", "sd_c")
        source = statistics if projected else local
        ab, sd_ab, c, sd_c = (float(source[name]) for name in names)
        w_ab, w_c = (np.sqrt(np.log1p((sd / mean) ** 2)) for sd, mean in ((sd_ab, ab), (sd_c, c)))
        shared = statistics.get("correlation", 0.0) if rotated else 0.0
        width2 = (4 * w_ab**2 + w_c**2 + 4 * shared * w_ab * w_c) / 9
        edge = float((c * ab**2) ** (1 / 3))
        measures = block_measures(cell, ab / step, ab / step, 10 * c / cell.c)
        rows = [("L_ab", "nm", ab), ("L_c", "nm", c), ("L", "nm", edge),
                ("sd_L", "nm", edge * float(np.sqrt(np.expm1(width2))))]
    elif "L" in local or "mean_ab" in statistics:
        edge, sd = (statistics["mean_ab"], statistics["sd_ab"]) if of_population or "L" not in local else (
            local["L"], local["sd_L"])
        measures = block_measures(cell, edge / step, edge / step, 10 * edge / cell.c)
        rows = [("L", "nm", edge), ("sd_L", "nm", sd)]
    elif "D" in local or "D" in statistics:
        diameter = float(statistics["mean_D"] if of_population and "sd_D" in local
                         else local.get("D", statistics.get("D", np.nan)))
        fraction = float((np.pi / 6) ** (1 / 3))
        edge = fraction * diameter
        measures = sphere_measures(diameter)
        rows = [("D", "nm", diameter), ("L", "nm", edge)]
        if "sd_D" in local:
            sd = (statistics if of_population else local)["sd_D"]
            rows.append(("sd_L", "nm", fraction * sd))
    elif {"L_a", "L_b", "L_c"} <= set(statistics):
        edges = [statistics[name] for name in ("L_a", "L_b", "L_c")]
        edge = float(np.prod(edges) ** (1 / 3))
        measures = block_measures(
            cell, *(10 * length / cell_edge for length, cell_edge in zip(
                edges, (cell.a, cell.b, cell.c), strict=True)))
        rows = [("L", "nm", edge)]
    else:
        return []
    return [*rows, ("1/L", "1/nm", 1 / edge),
            ("surface_to_volume", "1/nm", measures["surface_to_volume"]),
            ("confinement_diameter", "nm", measures["confinement_diameter"])]
