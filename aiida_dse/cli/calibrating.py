"""The command dse-engine calibrate, which determines an instrument from a standard."""

from __future__ import annotations

from pathlib import Path

import click

from aiida_dse.engine.resources import Resources

from .engine_support import (
    build_model,
    finish,
    output_option,
    progress_display,
    quiet_option,
    task_in,
    threads_option,
)
from .terminal import echo


@click.command()
@click.argument("pattern", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--cif", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Structure of the standard.")
@click.option("--axis", type=click.Choice(["two_theta", "q_inverse_angstrom", "q_inverse_nm"]))
@click.option("--wavelength", type=float, help="Å; required unless the file specifies it.")
@click.option("--line", "lines", multiple=True, type=(float, float), metavar="WAVELENGTH WEIGHT",
              help="A line of the source, that of the pattern first; may be repeated.")
@click.option("--sigma", help="'column', 'counts', 'counts / N' or 'p %'; by default, the column of the file.")
@click.option("--range", "range_", type=(float, float), metavar="LOW HIGH", help="Points used, in units of the axis.")
@click.option("--area-detector", is_flag=True, help="The profile has a constant width in q.")
@click.option("--refine-cell", is_flag=True, help="Refine the cell too; by default, it is that of the CIF.")
@click.option("--b-iso", type=float, default=0.5, show_default=True, help="Starting B_iso (Å²) where the CIF has none.")
@click.option("--blank", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Pattern of the empty sample holder.")
@output_option
@threads_option
@quiet_option
def calibrate(
    pattern: Path, cif: Path, axis: str | None, wavelength: float | None, lines: tuple[tuple[float, float], ...],
    sigma: str | None, range_: tuple[float, float] | None, area_detector: bool, refine_cell: bool,
    b_iso: float, blank: Path | None, output: Path, resources: Resources, quiet: bool,
) -> None:
    """Determine the zero and the profile of an instrument from a standard.

    PATTERN is the pattern of large crystals with a known structure, such as LaB6. The refined instrument is written to
    instrument.yaml in the results folder, which documents refer to as pattern: {instrument: FILE}.
    """
    import yaml

    from aiida_dse.tasks.calibration import instrument_section, standard_document
    from aiida_dse.tasks.run import run_refine

    given = {"axis": axis, "wavelength": wavelength, "sigma": sigma, "range": range_}
    with task_in(output), progress_display(quiet) as show:
        document = standard_document(
            pattern, cif, {key: value for key, value in given.items() if value is not None}, lines=lines,
            constant_q=area_detector, refine_cell=refine_cell, b_iso=b_iso, blank=blank)
        output.mkdir(parents=True, exist_ok=True)
        path = output / "model.yaml"
        path.write_text(yaml.safe_dump(document.canonical(), sort_keys=False, allow_unicode=True), encoding="utf-8")
        result = run_refine(build_model(path, resources, measured=True), on_cycle=show.cycle)
        fit = result.summary.agreement
        (output / "instrument.yaml").write_text(
            f"# From {pattern.name} and {cif.name}: Rwp {100 * fit.r_wp:.2f} %, GoF {fit.gof:.2f}\n"
            + yaml.safe_dump({"instrument": instrument_section(result.summary, document)}, sort_keys=False),
            encoding="utf-8")
        echo(f"Instrument: {output / 'instrument.yaml'}")
        finish(result, output)
