"""verdi data dse: measured patterns and stored pair distances in the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from aiida.cmdline.params import arguments, types
from aiida.cmdline.utils import decorators, echo


@click.group("dse")
def dse() -> None:
    """Inspect and manipulate the data of aiida-dse."""


@dse.group()
def pattern() -> None:
    """Manage measured patterns."""


_NODE = types.DataParamType(sub_classes=("aiida.data:dse.pattern",))


@pattern.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--axis", type=click.Choice(["two_theta", "q_inverse_angstrom", "q_inverse_nm"]),
              help="Quantity and unit of the abscissa.")
@click.option("--wavelength", type=float, help="Wavelength in Å.")
@click.option("--sigma", help=(
    "Source of the standard uncertainties: 'column', 'counts', 'counts / N' or 'p %'."))
@click.option("--grid", nargs=2, type=float, help=(
    "Start and step of the axis, for files that contain only intensities."))
@click.option("--intensity-column", help="Name or number of the intensity column.")
@click.option("--range", "range_", nargs=2, type=float, help=(
    "Lower and upper limit of the points to import, in units of the axis."))
@click.option("--sample", help="Name of the sample.")
@click.option("--ligand", help="Ligand of the sample.")
@click.option("--state", help="State of the sample: colloid, powder, film, ...")
@click.option("--temperature", type=click.FloatRange(min=0), help="Temperature in K.")
@click.option("--beamline", help="Name of the beamline.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE",
              help="Tag of the sample. The option can be repeated.")
@decorators.with_dbenv()
def import_(
    file: Path, axis: str | None, wavelength: float | None, sigma: str | None,
    grid: tuple[float, float] | None, intensity_column: str | None,
    range_: tuple[float, float] | None, sample: str | None, tags: tuple[str, ...],
    **facts: Any,
) -> None:
    """Store a pattern file together with its metadata."""
    from aiida_dse.data.pattern import PatternData
    from aiida_dse.io.patterns import read_pattern

    number = intensity_column is not None and intensity_column.isdigit()
    column = int(intensity_column) if number and intensity_column else intensity_column
    try:
        measured = read_pattern(
            file, axis=axis, wavelength=wavelength, sigma=sigma, axis_grid=grid or None,
            intensity_column=column, range_=range_ or None,
        )
    except ValueError as problem:
        echo.echo_critical(str(problem))
    known = {key: value for key, value in facts.items() if value is not None}
    if sample:
        known["name"] = sample
    if tags:
        split = (tag.partition("=") for tag in tags)
        known["tags"] = {key: value if sign else True for key, sign, value in split}
    node = PatternData.from_measured(measured, sample=known, source=file).store()
    echo.echo_success(f"stored PatternData<{node.pk}>: {len(measured.q)} points, "
                      f"q = {measured.q[0]:.4g} ... {measured.q[-1]:.4g} 1/Å")


@pattern.command("list")
@decorators.with_dbenv()
def list_() -> None:
    """List all stored patterns."""
    from aiida.orm import QueryBuilder

    from aiida_dse.data.pattern import PatternData

    names = ("sample_name", "ligand", "temperature", "wavelength", "q_min", "q_max", "n_points",
             "source_name")
    query = QueryBuilder().append(
        PatternData, project=["id", *(f"attributes.{name}" for name in names)]
    )
    rows = [[("" if value is None else f"{value:.5g}" if isinstance(value, float) else value)
             for value in row] for row in query.all()]
    import tabulate

    echo.echo(tabulate.tabulate(rows, headers=["PK", *names]))


@pattern.command()
@arguments.DATUM(type=_NODE)
@decorators.with_dbenv()
def show(datum: Any) -> None:
    """Show the metadata of a stored pattern."""
    for key, value in sorted(datum.base.attributes.all.items()):
        if not key.startswith("array|"):
            echo.echo(f"{key:18} {value}")


@pattern.command()
@arguments.DATUM(type=_NODE)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Output file (default: standard output).")
@decorators.with_dbenv()
def export(datum: Any, output: Path | None) -> None:
    """Export a pattern as three columns: axis, intensity, sigma."""
    attributes = datum.base.attributes
    header = (f"# {attributes.get('axis_kind')} intensity sigma\n"
              f"# wavelength = {attributes.get('wavelength')} A\n")
    text = header + datum.as_text()
    if output is None:
        echo.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as problem:
        echo.echo_critical(f"{output} cannot be written: {problem}")
    echo.echo_success(f"wrote {output}")


@dse.group()
def distances() -> None:
    """Manage stored pair distances."""


_STORE = types.DataParamType(sub_classes=("aiida.data:dse.distances",))


@distances.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@decorators.with_dbenv()
def import_distances(file: Path) -> None:
    """Store a file of pair distances written by 'dse-engine build'."""
    from aiida_dse.data.distances import DistancesData

    try:
        node = DistancesData.from_file(file).store()
    except ValueError as problem:
        echo.echo_critical(str(problem))
    echo.echo_success(f"stored DistancesData<{node.pk}>: {node.base.attributes.get('name')}, "
                      f"accurate up to q = {node.base.attributes.get('q_max'):.4g} 1/Å")


@distances.command("list")
@decorators.with_dbenv()
def list_distances() -> None:
    """List all stored pair distances."""
    import tabulate
    from aiida.orm import QueryBuilder

    from aiida_dse.data.distances import DistancesData

    names = ("name", "space_group", "atoms", "r_max", "q_max", "tolerance")
    rows = QueryBuilder().append(
        DistancesData, project=["id", "label", *(f"attributes.{name}" for name in names)]
    ).all()
    echo.echo(tabulate.tabulate(rows, headers=["PK", "label", *names], floatfmt=".5g"))


@distances.command("show")
@arguments.DATUM(type=_STORE)
@decorators.with_dbenv()
def show_distances(datum: Any) -> None:
    """Show the metadata of stored pair distances."""
    for key, value in sorted(datum.base.attributes.all.items()):
        echo.echo(f"{key:18} {value}")


@distances.command("export")
@arguments.DATUM(type=_STORE)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="HDF5 file to write.")
@decorators.with_dbenv()
def export_distances(datum: Any, output: Path) -> None:
    """Export pair distances as an HDF5 file, for the key 'distances' of a model document."""
    try:
        output.write_bytes(datum.get_content(mode="rb"))
    except OSError as problem:
        echo.echo_critical(f"{output} cannot be written: {problem}")
    echo.echo_success(f"wrote {output}")
