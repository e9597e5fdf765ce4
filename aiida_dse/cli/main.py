"""The command aiida-dse: set-up, launch, watch, show, plot, query, export and import."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import gc
import os
from pathlib import Path
from typing import Any

import click

from aiida_dse.data.storage_trouble import storage_trouble
from aiida_dse.documents.status import ANALYSES_OF_RESULTS

from .doctor import doctor
from .finding import query_options
from .profile import load_profile_for_command
from .setup import setup
from .shipped_files import examples
from .terminal import CommandGroup, Refusal, echo

# as in engine.py: looking for garbage among the objects of the libraries is slow
gc.set_threshold(50_000, 20, 20)
atexit.register(gc.freeze)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aiida-dse")
@click.option("-p", "--profile", help="AiiDA profile to use (default: the default profile).")
@click.pass_context
def main(context: click.Context, profile: str | None) -> None:
    """Debye scattering analysis of nanocrystals, with AiiDA provenance."""
    context.obj = profile


main.add_command(setup)
main.add_command(doctor)
main.add_command(examples)

_archive = click.option(
    "--archive", type=click.Path(dir_okay=False, path_type=Path),
    help="Read from this archive file instead of a profile; the file is not modified.",
)


def _reading(command: Any) -> Any:
    """A command that displays stored content, which may come from somebody else and have any form."""
    @functools.wraps(command)
    def run(*arguments: Any, **given: Any) -> Any:
        try:
            return command(*arguments, **given)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as problem:
            if "DSE_TRACEBACK" in os.environ or storage_trouble(problem):
                raise
            reason = str(problem).partition("\n")[0][:200]
            raise Refusal(
                f"this content cannot be displayed ({type(problem).__name__}: {reason}). It may be damaged "
                "or have been changed. If it is your own, please report this error with the output "
                "under DSE_TRACEBACK=1.") from None
    return run


def _look_into(context: click.Context, archive: Path | None) -> Any:
    """Load the profile and return it, or open an archive file for the duration of the command."""
    from .finding import refusing

    if archive is None:
        return load_profile_for_command(context.obj)
    from aiida_dse.data.archives import opened_archive

    refusing(context.with_resource, opened_archive(archive))
    return None


@main.group()
def launch() -> None:
    """Check a document, store its data and submit the analysis."""


#: The names of the protocols are repeated here so that --help does not read workchains/protocols.
_SETTINGS = (
    click.option("--code", "code_label", default="dse-engine@localhost", show_default=True,
                 help="AiiDA code (an installation of dse-engine) that runs the jobs."),
    click.option("--protocol", type=click.Choice(["fast", "standard", "publication"]),
                 default="standard", show_default=True,
                 help="Protocol that supplies the settings omitted from the document."),
    click.option("--walltime", type=click.IntRange(min=60), help=(
        "Walltime of each job in seconds (default: the value in the computer's set-up file, "
        "otherwise the protocol's).")),
    click.option("--threads", type=click.IntRange(min=1), help=(
        "Number of threads of each job (default: the value in the computer's set-up file; "
        "otherwise 1 if several jobs run concurrently, and all cores if a job runs alone).")),
    click.option("--dry-run", is_flag=True, help=(
        "Check the document and estimate the cost, but submit nothing.")),
    click.option("--wait", is_flag=True, help=(
        "Wait until the analysis has ended, then show its result.")),
)
_DOCUMENT = click.argument("document", type=click.Path(path_type=Path))
_PATTERN = click.option("--pattern", "pattern_node", metavar="PK",
                        help="Use this stored pattern (PK or UUID) instead of the document's file.")
_START = click.option("--start-from", metavar="PK",
                      help="Start from the refined values of this analysis (PK or UUID).")
_CONCURRENT = click.option("--max-concurrent", type=click.IntRange(min=1), help=(
    "Maximum number of jobs that run concurrently (default: the protocol's value)."))


def _launching(function: str, module: str, *options: Any) -> Any:
    """A launch command with the options common to all; its docstring becomes the help text."""
    def decorate(command: Any) -> Any:
        @functools.wraps(command)
        def run(profile: str | None, **given: Any) -> None:
            from importlib import import_module

            from .submission import Settings

            load_profile_for_command(profile)
            names = [field.name for field in dataclasses.fields(Settings)]
            settings = Settings(**{name: given.pop(name) for name in names})
            getattr(import_module(module, __package__), function)(settings=settings, **given)

        decorated: Any = click.pass_obj(run)
        for option in reversed((*options, *_SETTINGS)):
            decorated = option(decorated)
        return decorated
    return decorate


@launch.command("refine")
@_launching("launch_refinement", ".launching", _DOCUMENT, _PATTERN, _START)
def launch_refine() -> None:
    """Refine a model document."""


@launch.command("build")
@_launching("launch_build", ".launching", _DOCUMENT, _PATTERN, _START)
def launch_build() -> None:
    """Compute the pair distances of a document's phases, for use in place of structures."""


@launch.command("grid-search")
@_launching(
    "launch_map", ".launching", _DOCUMENT, _PATTERN, _START, _CONCURRENT,
    click.option("--tile-seconds", type=click.FloatRange(min=1),
                 help="Target duration of a tile in seconds (default: the protocol's value)."),
    click.option("--axis", "axes", multiple=True, metavar="NAME=START:STOP:STEP",
                 help="Axis of the map, instead of those in the document's 'scan'. The option "
                      "can be repeated for up to four axes."),
    click.option("--refine", "refine", multiple=True, metavar="NAME",
                 help="Parameter to refine at every grid point; requires --axis."),
    click.option("--yes", is_flag=True,
                 help="Submit a map that takes longer than an hour without asking."))
def launch_grid_search() -> None:
    """Map the GoF over the axes in a document's section 'scan'."""


@launch.command("uncertainty")
@_launching("launch_uncertainty", ".launching", _DOCUMENT, _PATTERN, _START)
def launch_uncertainty() -> None:
    """Compute the profiles, bootstrap and posterior requested in a document's 'uncertainty'."""


@launch.command("compare")
@_launching(
    "launch_comparison", ".launching",
    click.argument("documents", nargs=-1, required=True, type=click.Path(path_type=Path)),
    _PATTERN, _CONCURRENT)
def launch_compare() -> None:
    """Refine several models of one pattern and rank them."""


@launch.command("simultaneous")
@_launching("launch_simultaneous", ".launching", _DOCUMENT, _START)
def launch_simultaneous() -> None:
    """Refine several patterns simultaneously, as specified in a simultaneous document."""


@launch.command("study")
@_launching("launch_study", ".launching_studies", _DOCUMENT, _CONCURRENT)
def launch_study() -> None:
    """Run everything in a study document: samples, series, maps and comparisons."""


@launch.command("series")
@_launching(
    "launch_series", ".launching_studies", _DOCUMENT, _CONCURRENT,
    click.option("--series", metavar="NAME", help=(
        "Name of the series to run; required if the document contains several.")))
def launch_series() -> None:
    """Run one series of a study document, over temperature or size."""


@main.command()
@click.argument("kind", type=click.Choice([task.replace("_", "-") for task in ANALYSES_OF_RESULTS]))
@click.argument("sources", nargs=-1, required=True, metavar="[NAME=]PK...")
@click.option("--options", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="YAML file with the options of the analysis, which refer to the results by NAME.")
@click.option("--title", default="", help="Title of the analysis.")
@click.pass_obj
def analyse(
    profile: str | None, kind: str, sources: tuple[str, ...], options: Path | None, title: str
) -> None:
    """Analyse finished refinements or simulations together, without new computations.

    The results can come from different studies. The name of a result is 'pk' followed by its PK,
    unless a NAME is specified.
    """
    from .analysing import analyse_results

    load_profile_for_command(profile)
    analyse_results(kind, sources, options, title)


@main.command("list")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True,
              help="Maximum number of analyses to list.")
@_archive
@click.pass_context
@_reading
def list_(context: click.Context, limit: int, archive: Path | None) -> None:
    """List past and running analyses, newest first.

    Also checks that the daemon workers receive tasks, and reassigns the tasks of dead workers.
    """
    from .showing import print_list

    loaded = _look_into(context, archive)
    if print_list(loaded, limit) and loaded is not None:
        from .daemon import repair

        if trouble := repair(loaded):
            echo(trouble, err=True)


@main.command()
@click.argument("pk")
@_archive
@click.pass_context
@_reading
def show(context: click.Context, pk: str, archive: Path | None) -> None:
    """Show the parameters, agreement factors and derived quantities of an analysis."""
    from .showing import print_analysis

    _look_into(context, archive)
    print_analysis(pk)


@main.command()
@click.argument("pk")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="Figure file: .png, .pdf or .svg.")
@click.option("--curves", is_flag=True,
              help="Draw the GoF of a map along its first axis, one curve for each value of "
                   "the second.")
@click.option("--quantity", metavar="NAME",
              help="Derived quantity to draw as contours on a map, or to use as the abscissa of "
                   "its curves.")
@click.option("--at", "fixed", metavar="AXIS=VALUE", multiple=True,
              help="Slice of a map at the grid value nearest to VALUE, such as Br_eq.B_iso=1.8. The option can be "
                   "repeated for further axes. A map of four axes is drawn at that value of its last axis "
                   "at which the GoF is lowest.")
@click.option("--what", type=click.Choice(["fit", "corner", "profile", "bootstrap"]),
              help="Figure to draw for an uncertainty analysis (default: the first available of "
                   "corner, profile, bootstrap and fit).")
@_archive
@click.pass_context
@_reading
def plot(
    context: click.Context, pk: str, output: Path, archive: Path | None, **choices: Any
) -> None:
    """Plot the result of an analysis: fit, map, comparison, series or uncertainty."""
    from .showing import plot_analysis

    _look_into(context, archive)
    plot_analysis(pk, output, **choices)


@main.command()
@click.argument("pk")
@click.option("--once", is_flag=True, help="Print the current state and exit.")
@click.pass_obj
@_reading
def watch(profile: str | None, pk: str, once: bool) -> None:
    """Follow the steps of an analysis: their states, the lowest GoF and the remaining time.

    Ctrl-C ends the display; the analysis continues.
    """
    from .watching import watch_process

    load_profile_for_command(profile)
    watch_process(pk, once)


@main.command()
@query_options
@click.option("--show", multiple=True, metavar="NAME",
              help="Additional column, for example CsPbBr3.a, CsPbBr3.a.su, CsPbBr3.zeta or "
                   "space_groups.")
@click.option("--sort", default="-made", show_default=True, help=(
    "Column to sort by; the prefix '-' reverses the order to descending."))
@click.option("-n", "--limit", type=click.IntRange(min=1),
              help="Maximum number of rows to print.")
@click.option("--csv", "form", flag_value="csv", help=(
    "Print comma-separated values at full precision."))
@click.option("--json", "form", flag_value="json", help="Print JSON at full precision.")
@_archive
@click.pass_context
@_reading
def query(
    context: click.Context, show: tuple[str, ...], sort: str, limit: int | None, form: str | None,
    archive: Path | None, **filters: Any,
) -> None:
    """Find results by sample, temperature, phase, agreement factor or any parameter."""
    from .finding import print_query

    _look_into(context, archive)
    print_query(filters, show, sort, limit, form or "table")


@main.command()
@click.argument("pk")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_archive
@click.pass_context
@_reading
def trace(context: click.Context, pk: str, as_json: bool, archive: Path | None) -> None:
    """Trace a result back to its files, documents, jobs, software versions and tables."""
    from .finding import print_trace

    _look_into(context, archive)
    print_trace(pk, as_json)


@main.command()
@click.argument("pks", nargs=-1, metavar="[PK]...")
@query_options
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="Archive file to write, for example study.aiida.")
@click.option("--with-studies", is_flag=True, help=(
    "Include the series and studies to which the results belong, and with them all other samples."))
@click.pass_obj
def export(
    profile: str | None, pks: tuple[str, ...], output: Path, with_studies: bool, **filters: Any
) -> None:
    """Export results with their full provenance to an archive file."""
    from .finding import export_results

    load_profile_for_command(profile)
    export_results(pks, filters, output, with_studies)


@main.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def import_(profile: str | None, file: Path) -> None:
    """Import the results of an archive file into the profile."""
    from .finding import import_results

    load_profile_for_command(profile)
    import_results(file)
