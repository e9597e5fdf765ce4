"""The commands dse-engine calibrate and total-scattering: instruments from standards, and real space."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from aiida_dse.engine.resources import Resources

from .engine_support import (
    build_model,
    document_argument,
    finish,
    finished_result,
    output_option,
    progress_display,
    quiet_option,
    refusals,
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
        fit, file = result.summary.agreement, output / "instrument.yaml"
        if result.summary.status.is_minimum:
            file.write_text(
                f"# From {pattern.name} and {cif.name}: Rwp {100 * fit.r_wp:.2f} %, GoF {fit.gof:.2f}\n"
                + yaml.safe_dump({"instrument": instrument_section(result.summary, document)}, sort_keys=False),
                encoding="utf-8")
            echo(f"Instrument: {file}")
        else:
            file.unlink(missing_ok=True)  # of an earlier calibration
            echo("The refinement found no minimum, so there is no instrument.")
        finish(result, output)


@click.command("total-scattering")
@document_argument
@click.option("--result", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of a finished refinement of the document, whose values are used.")
@click.option("--q-range", type=(float, float), metavar="LOW HIGH", help="1/Å; by default, that of the pattern.")
@click.option("--r-max", type=float, default=50.0, show_default=True, help="Å")
@click.option("--r-step", type=float, default=0.02, show_default=True, help="Å")
@click.option("--lorch", is_flag=True, help="Multiply F(Q) by the window of Lorch.")
@click.option("--q-damp", type=float, default=0.0, help="1/Å; multiply G(r) by exp(-(r q_damp)^2 / 2).")
@output_option
@threads_option
def total_scattering_(
    document: Path, result: Path | None, q_range: tuple[float, float] | None, r_max: float, r_step: float,
    lorch: bool, q_damp: float, output: Path, resources: Resources,
) -> None:
    """Write S(Q), F(Q) and G(r) of a model and of its data, with a figure.

    The functions are those of Faber and Ziman; G(r) is the reduced pair distribution function. With measured data,
    the background, blanks and Compton scattering of the model are subtracted.
    """
    from aiida_dse.documents import parse_document
    from aiida_dse.documents.continuation import model_continued
    from aiida_dse.report.figures import total_scattering_figure
    from aiida_dse.tasks.build import build
    from aiida_dse.tasks.real_space import total_scattering

    with refusals():
        if not (r_step > 0 and 2 * r_step < r_max <= 1e4 and r_max / r_step <= 1e5):
            raise click.UsageError(f"r runs from {r_step:g} to {r_max:g} Å in steps of {r_step:g} Å; use a positive "
                                   "step and at most 100 000 values.")
        built = build_model(document, resources)
        if result is not None:
            finished = finished_result(result, built, remedy="Choose the --result of this document.")
            if finished is None:
                raise click.UsageError(f"{result} contains no result. Specify the folder of a finished refinement.")
            built = build(parse_document(model_continued(built.document.canonical(), finished.summary)),
                          document.parent, resources=resources)
        r = r_step * np.arange(1, int(r_max / r_step + 1e-6) + 1, dtype=np.float64)
        found = total_scattering(built, r, q_range=q_range, window="lorch" if lorch else "none", q_damp=q_damp)
        paths = [*found.write(output), output / "total_scattering.png"]
        total_scattering_figure(found).savefig(paths[-1], dpi=200)
        echo("wrote " + ", ".join(str(path) for path in paths))
