"""Size series: volumetric strain, surface energy, distortions and sizing curve."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import constants

from aiida_dse.documents.results import RefinementSummary
from aiida_dse.documents.series import BulkModulus, SeriesOptions, SizeOptions, SizingOptions
from aiida_dse.documents.series_results import (
    BulkRow,
    ExcitonRow,
    LawRow,
    ScaledValue,
    SizeSummary,
    SizingSummary,
    StrainPoint,
    StrainRow,
    StrainThroughBulk,
)
from aiida_dse.engine.formatting import with_su
from aiida_dse.io.results import Result

from .excitons import ExcitonLaw, fit_decay_length
from .laws import LawFit, relative_slope
from .series_laws import (
    law_row,
    law_warnings,
    left_out,
    left_out_warnings,
    line_against,
    listed,
    number,
    series_fields,
)
from .series_table import Row, Series, series_of

#: 1 J/m^2 in eV/nm^2.
EV_PER_NM2 = 1e-18 / constants.e
#: The quantities of a shape on which the surface energy and the exciton energy depend.
SURFACE, CONFINEMENT = "surface_to_volume", "confinement_diameter"
#: Number of s.u. by which a line may miss the bulk at 1/L = 0 without a warning.
OFF_BULK = 3.0


def size_series(
    results: Mapping[str, Result[RefinementSummary]], options: SizeOptions | None = None
) -> tuple[Series, Result[SizeSummary]]:
    """The table of refinements of several sizes, and their analysis as a size series.

    The volumetric strain (V - V_bulk)/V_bulk against 1/L, L = (L_c L_ab^2)^(1/3), is fitted by a
    weighted line with errors in both axes and their covariance. The surface energy, in eV/nm^2 and
    J/m^2, is gamma = -(3/2) K slope of the line against the surface-to-volume ratio, from
    dV/V = -(2/3) gamma (A/V) / K (-4 gamma / (K L) for a cube). zeta, cell edges, distances and
    angles are fitted by lines against 1/L as well. Without `bulk`, V_bulk is the value of the line
    at 1/L = 0. Raises ValueError where fewer than two sizes can be used.
    """
    options = options or SizeOptions()
    series = _by_size(results, options)
    arrays = series.arrays()
    warnings = left_out_warnings(series)
    numbers: dict[str, ScaledValue] = {}
    strain: StrainRow | None = None
    lines: dict[str, LawRow] = {}
    for name in ("volume", "a", "b", "c", "a_k", "zeta", *listed(series, "d(", "angle(")):
        line = line_against(series, name, "1/L") if name in series.names else None
        if line is None:
            continue
        fit, used = line
        unit = series.unit(name)
        lines[name] = law_row(fit, used, {"intercept": unit, "slope": f"{unit} nm".strip()})
        warnings += law_warnings(f"{name} against 1/L", fit, used) + left_out(series, name)
        if name == "volume":
            strain = _strain(series, fit, used, options, numbers, warnings)
            bulk = strain.V_bulk.value
            for kind, source in (("values", "value"), ("su_scaled", "su")):
                column = np.array([getattr(row, source)(name) for row in series.rows]) / bulk
                arrays[f"strain/{kind}"] = column - 1 if kind == "values" else column
        elif name == "zeta":
            for key in ("slope", "intercept"):
                numbers[f"zeta.{key}"] = lines[name].numbers[key]
    return series, Result(SizeSummary(
        **series_fields(results, series, options), numbers=numbers, lines=lines, strain=strain,
        warnings=warnings), arrays)


def sizing_curve(
    results: Mapping[str, Result[RefinementSummary]], options: SizingOptions | None = None
) -> tuple[Series, Result[SizingSummary]]:
    """First exciton energies predicted from refined sizes, and d0 fitted to measured energies.

    The energies are E1(d) (excitons.ExcitonLaw) at the confinement diameter d of the shape: D for
    spheres, 2 L / sqrt(3) for cuboids. The s.u. of E1 follows from that of d, its spread from that
    of L in the population. Raises ValueError for a measured energy without a refinement, and where
    no refinement has a size.
    """
    options = options or SizingOptions()
    for name in options.measured:
        if name not in results:
            raise ValueError(f"'measured' contains an energy for '{name}', which is not one of "
                             f"the refinements {', '.join(results)}. Correct the name.")
    series = _by_size(results, options, least=1)
    arrays = series.arrays()
    law = ExcitonLaw(options.gap, options.permittivity, options.decay_length, options.alpha)
    d = np.array([row.value(CONFINEMENT) for row in series.rows])
    su_d = np.array([row.su(CONFINEMENT) for row in series.rows])
    # all lengths of a shape are proportional to each other
    spread = d * [row.value("sd_L") / row.value("L") for row in series.rows]
    slope = np.abs(law.slope(d))
    arrays |= {"sizing/d": d, "sizing/su_d": su_d, "sizing/E1": law.energy(d),
               "sizing/su_E1": slope * su_d, "sizing/spread_E1": slope * spread}
    grid = np.linspace(0.6 * d.min(), 1.3 * d.max(), 300)
    arrays |= {"curves/d": grid, "curves/predicted": law.energy(grid)}
    predicted = {
        row.name: ExcitonRow(value=float(e), unit="eV", su_scaled=float(su), spread=float(sd),
                             d=float(size))
        for row, e, su, sd, size in zip(series.rows, law.energy(d), slope * su_d, slope * spread,
                                        d, strict=True)
    }
    fitted, numbers, warnings = None, {}, left_out_warnings(series)
    if options.measured:
        fitted = _fit_sizing(series, options, arrays, warnings)
        numbers["d0"] = fitted.numbers["d0"]
    return series, Result(SizingSummary(
        **series_fields(results, series, options), predicted=predicted, fitted=fitted,
        numbers=numbers, warnings=warnings), arrays)


def _by_size(results: Mapping[str, Result], options: SeriesOptions, *, least: int = 2) -> Series:
    """The series in the order of L; ValueError for rows without a size and for too few sizes."""
    series = series_of(results, options)
    for row in series.rows:
        if not np.isfinite(row.value("L")):
            raise ValueError(f"'{row.name}' has no particle size; it may be a list of atoms. "
                             "Remove it from the series.")
    rows = tuple(sorted(series.rows, key=lambda row: row.value("L")))
    sizes = {row.value("L") for row in rows if row.name in series.used}
    if len(sizes) < least:
        raise ValueError(
            f"this analysis needs at least {least} different sizes, but the number of usable "
            f"sizes is {len(sizes)}. "
            + "; ".join(f"{name} is not used: {why}" for name, why in series.excluded.items())
        )
    return Series(series.phase, rows, series.used, series.excluded)


def _strain(
    series: Series, fit: LawFit, points: tuple[Row, ...], options: SizeOptions,
    numbers: dict[str, ScaledValue], warnings: list[str],
) -> StrainRow:
    """The line of the volumetric strain, from that of the volume, and the surface energy."""
    scale, modulus = fit.scale, options.bulk_modulus
    surface = line_against(series, "volume", SURFACE)
    if surface is None:
        raise ValueError(f"the results contain no '{SURFACE}', from which the surface energy is "
                         "computed, because they are of an older version. Refine again.")
    through_bulk: StrainThroughBulk | None = None
    if options.bulk is None:
        longest = 1 / min(row.value("1/L") for row in points)
        bulk, bulk_su = fit.value("intercept"), fit.su("intercept") or 0.0
        source = f"the value of the line at 1/L = 0, extrapolated from L = {longest:.1f} nm"
        slope = number(*relative_slope(fit), scale, "nm")
        per_surface = number(*relative_slope(surface[0]), surface[0].scale, "nm")
        intercept = number(0.0, None, scale, "")  # by definition
        warnings.append(f"V_bulk = {with_su(bulk, bulk_su * scale)} Å^3 is {source}. Specify "
                        "'bulk' to refer to a measured crystal.")
    else:
        bulk, bulk_su, source = (options.bulk.volume, options.bulk.volume_su, options.bulk.source)
        slope = _relative(fit, "slope", bulk, bulk_su)
        per_surface = _relative(surface[0], "slope", bulk, bulk_su)
        line = _relative(fit, "intercept", bulk, bulk_su)
        intercept = line.model_copy(update={"value": line.value - 1, "unit": ""})
        if abs(intercept.value) > OFF_BULK * (intercept.su_scaled or 0.0):
            warnings.append(
                "The strain line does not pass through the bulk: it is "
                f"{with_su(intercept.value, intercept.su_scaled)} at 1/L = 0 instead of 0. "
                "Either a line does not describe the strain completely, or V_bulk "
                f"({bulk:g} Å^3, {source}) is not the limit of these samples. surface_energy is "
                "that of this line; surface_energy_through_bulk is that of the line through the "
                "bulk."
            )
        direct = line_against(series, "volume", "1/L", through=bulk)
        assert direct is not None  # the same points as the free line
        through = _relative(direct[0], "slope", bulk, bulk_su)
        to_bulk = line_against(series, "volume", SURFACE, through=bulk)
        assert to_bulk is not None
        through_bulk = StrainThroughBulk(
            slope=through, chi2_red=direct[0].chi2_red, r_squared=direct[0].r_squared,
            surface_energy=_surface_energy(
                _relative(to_bulk[0], "slope", bulk, bulk_su), modulus, EV_PER_NM2, "eV/nm^2"))
        numbers["surface_energy_through_bulk"] = through_bulk.surface_energy
    energy = _surface_energy(per_surface, modulus, EV_PER_NM2, "eV/nm^2")
    numbers |= {"strain.slope": slope, "strain.intercept": intercept, "surface_energy": energy}
    if modulus.su == 0:
        warnings.append(f"The s.u. of the surface energy does not include that of K = "
                        f"{modulus.value:g} GPa ({modulus.source}), because K has no s.u.")
    return StrainRow(
        law="dV/V = -(2/3) gamma (A/V) / K", slope=slope, intercept=intercept,
        surface_energy=energy,
        surface_energy_SI=_surface_energy(per_surface, modulus, 1.0, "J/m^2"),
        V_bulk=BulkRow(value=bulk, su=bulk_su, unit="Å^3", source=source),
        K=BulkRow(value=modulus.value, su=modulus.su, unit="GPa", source=modulus.source),
        r_squared=fit.r_squared, chi2_red=fit.chi2_red, n=len(points), through_bulk=through_bulk,
        points={row.name: StrainPoint(
            value=row.value("volume") / bulk - 1, su_scaled=row.su("volume") / bulk,
            inverse_length=row.value("1/L")) for row in points},
    )


def _relative(fit: LawFit, name: str, bulk: float, bulk_su: float) -> ScaledValue:
    """A parameter of the line of the volume, divided by V_bulk.

    The s.u. of V_bulk is common to all points, so it is not scaled by their scatter.
    """
    value, su = fit.value(name) / bulk, (fit.su(name) or 0.0) / bulk
    common = value * bulk_su / bulk
    return ScaledValue(value=value, unit="nm", su=float(np.hypot(su, common)),
                       su_scaled=float(np.hypot(su * fit.scale, common)))


def _surface_energy(
    slope: ScaledValue, modulus: BulkModulus, factor: float, unit: str
) -> ScaledValue:
    """gamma = -(3/2) K slope (GPa nm = J/m^2) times `factor`, with the s.u. of both.

    `slope` (nm) is d(dV/V) / d(A/V). The formula is exact for isotropic strain: it balances the
    work of the surface, gamma dA = (2/3) gamma A dV/V, and the elastic energy of the volume.
    """
    gamma = -1.5 * modulus.value * slope.value * factor
    share = gamma * modulus.su / modulus.value
    per_slope = 1.5 * modulus.value * factor
    return ScaledValue(
        value=gamma, unit=unit, su=float(np.hypot(per_slope * (slope.su or 0.0), share)),
        su_scaled=float(np.hypot(per_slope * (slope.su_scaled or 0.0), share)))


def _fit_sizing(
    series: Series, options: SizingOptions, arrays: dict[str, np.ndarray], warnings: list[str]
) -> LawRow:
    """Fit d0 to the measured energies; these and the fitted curve are added to `arrays`."""
    points = [row for row in series.rows if row.name in series.used
              and row.name in options.measured]
    if not points:
        raise ValueError("no refinement with a measured energy can be used: "
                         + "; ".join(f"{n}: {why}" for n, why in series.excluded.items()))
    d = np.array([row.value(CONFINEMENT) for row in points])
    su_d = np.nan_to_num([row.su(CONFINEMENT) for row in points])
    energy, su = (np.array([getattr(options.measured[row.name], key) for row in points])
                  for key in ("value", "su"))
    constant = {"gap": options.gap, "permittivity": options.permittivity, "alpha": options.alpha}
    fit = fit_decay_length(d, energy, su_energy=su, su_d=su_d, **constant)
    warnings += law_warnings("the sizing curve", fit, points)
    law = ExcitonLaw(options.gap, options.permittivity, fit.value("d0"), options.alpha)
    arrays["curves/fitted"] = law.energy(arrays["curves/d"])
    for key in ("value", "su"):
        arrays[f"measured/{key}"] = np.array([
            getattr(options.measured[row.name], key) if row.name in options.measured else np.nan
            for row in series.rows])
    return law_row(fit, points, {"d0": "nm"})
