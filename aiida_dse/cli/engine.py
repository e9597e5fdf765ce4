"""The command dse-engine, which runs the tasks of a document and writes result files."""

from __future__ import annotations

import atexit
import gc
import os
import re

# Looking for garbage among the many objects of the libraries takes a tenth of a second during their
# import, and a quarter of a second at the end of the process.
gc.set_threshold(50_000, 20, 20)
atexit.register(gc.freeze)
# One BLAS thread, because the engine distributes its cores itself; must precede import of numpy.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402

from aiida_dse.engine.resources import Resources  # noqa: E402

from .engine_support import (  # noqa: E402
    build_model,
    build_simultaneous_model,
    continue_option,
    document_argument,
    finish,
    finished_result,
    is_simultaneous,
    output_option,
    print_duration,
    progress_display,
    quiet_option,
    refusals,
    stop_check,
    task_in,
    threads_option,
    walltime_option,
)
from .measuring import calibrate, total_scattering_  # noqa: E402
from .terminal import echo  # noqa: E402


def _print_version(context: click.Context, _: Any, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        import aiida_dse
        from aiida_dse.tasks.summary import engine_identity

        echo(f"dse-engine, version {aiida_dse.__version__}, {engine_identity()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=_print_version,
              help="Show the versions of the engine and its numerics, then exit.")
def main() -> None:
    """Analyse X-ray total scattering of nanocrystals with the Debye scattering equation."""
    import warnings

    from aiida_dse.documents.reading import print_notes

    warnings.showwarning = print_notes  # type: ignore[assignment]


@main.command()
@click.argument("document", type=click.Path(path_type=Path), required=False)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of model documents instead.")
def validate(document: Path | None, schema: bool) -> None:
    """Check a document and its data, and list its parameters."""
    if schema:
        from aiida_dse.documents import ModelDocument

        echo(json.dumps(ModelDocument.model_json_schema(by_alias=True), indent=1))
        return
    if document is None:
        raise click.UsageError("Specify the document to check, or the option --schema.")
    with refusals():
        if is_simultaneous(document):
            from aiida_dse.report.simultaneous_tables import simultaneous_validation_report

            echo(simultaneous_validation_report(build_simultaneous_model(document)))
        else:
            from aiida_dse.report.tables import validation_report

            echo(validation_report(build_model(document)))


@main.command()
@document_argument
@output_option
@threads_option
def simulate(document: Path, output: Path, resources: Resources) -> None:
    """Compute the pattern at the starting values."""
    from aiida_dse.tasks.simulation import run_simulate

    with task_in(output):
        built = build_model(document, resources)
        print_duration(built)
        finish(run_simulate(built), output)


@main.command("build")
@document_argument
@output_option
@threads_option
def build_(document: Path, output: Path, resources: Resources) -> None:
    """Compute and store the pair distances of every phase.

    Later documents can use the stored distances of a phase in place of its structure.
    """
    from aiida_dse.tasks.distances import run_build

    with task_in(output):
        finish(run_build(build_model(document, resources), output), output)


@main.command()
@document_argument
@output_option
@walltime_option
@threads_option
@quiet_option
def refine(
    document: Path, output: Path, walltime: float | None, resources: Resources, quiet: bool
) -> None:
    """Refine the parameters of a document against its pattern."""
    from aiida_dse.tasks.run import run_refine

    with task_in(output), progress_display(quiet) as show:
        built = build_model(document, resources, measured=True)
        print_duration(built)
        result = run_refine(built, on_cycle=show.cycle, on_search=show.search,
                            on_descent=show.descent, should_stop=stop_check(walltime))
        finish(result, output)


@main.command()
@document_argument
@output_option
@walltime_option
@threads_option
@quiet_option
@continue_option
def scan(
    document: Path, output: Path, walltime: float | None, resources: Resources, quiet: bool,
    continued: bool,
) -> None:
    """Compute the GoF map specified in the document's section 'scan'."""
    from aiida_dse.tasks.run import run_scan

    with task_in(output), progress_display(quiet) as show:
        built = build_model(document, measured=True)
        print_duration(built)
        result = run_scan(
            built, on_progress=show.scan, should_stop=stop_check(walltime), checkpoint=output,
            finished=finished_result(output, built) if continued else None, resources=resources,
        )
        finish(result, output)


@main.command()
@document_argument
@output_option
@walltime_option
@threads_option
@quiet_option
@continue_option
def uncertainty(
    document: Path, output: Path, walltime: float | None, resources: Resources, quiet: bool,
    continued: bool,
) -> None:
    """Compute profile likelihoods, bootstrap and posterior.

    The model is refined first. The section 'uncertainty' of the document specifies which of the
    analyses are run.
    """
    from aiida_dse.tasks.uncertainty import require_uncertainty, run_uncertainty

    with task_in(output), progress_display(quiet) as show:
        built = build_model(document, measured=True)
        require_uncertainty(built)
        print_duration(built)
        result = run_uncertainty(
            built, on_cycle=show.cycle, on_progress=show.uncertainty,
            should_stop=stop_check(walltime), checkpoint=output,
            finished=finished_result(output, built) if continued else None, resources=resources,
        )
        finish(result, output)


@main.command()
@document_argument
@click.option("--refined", type=click.IntRange(min=0), default=5, show_default=True,
              help="Number of terminations to refine, starting with the most promising.")
@click.option("--all", "every", is_flag=True, help="Print all terminations, not only the best.")
@walltime_option
@threads_option
@quiet_option
def terminations(
    document: Path, refined: int, every: bool, walltime: float | None, resources: Resources,
    quiet: bool,
) -> None:
    """Compare the surface terminations of particles that consist of whole unit cells.

    The model is refined first. All symmetry-inequivalent terminations are then ranked by the
    chi2 that a refinement is expected to reach, and the most promising ones are refined. Without a
    measured pattern, the terminations are only listed.
    """
    from aiida_dse.report.terminations import termination_tables

    with refusals(), progress_display(quiet) as show:
        built = build_model(document, resources)
        tables = termination_tables(
            built, refined=refined, every=every, on_cycle=show.cycle, on_done=show.terminations,
            should_stop=stop_check(walltime))
    echo(tables)


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL...")
@output_option
@walltime_option
@threads_option
@quiet_option
def compare(
    models: tuple[str, ...], output: Path, walltime: float | None, resources: Resources, quiet: bool
) -> None:
    """Compare several models of one pattern.

    Each MODEL is a document, which is refined first, or a folder that contains a finished
    refinement. A model is named after its file or folder unless NAME= precedes it.
    """
    from aiida_dse.analysis.comparison import compare as compared
    from aiida_dse.io.results import read_result, write_result
    from aiida_dse.tasks.run import run_refine

    with task_in(output):
        sources = _named_models(models)
        # check all documents before the first refinement
        built = {name: build_model(path, resources, measured=True) for name, path in sources.items()
                 if not path.is_dir()}
        stop = stop_check(walltime)
        results = {}
        for name, path in sources.items():
            if name in built:
                with progress_display(quiet) as show:
                    results[name] = run_refine(built[name], on_cycle=show.cycle,
                                               on_search=show.search, on_descent=show.descent,
                                               should_stop=stop)
                write_result(results[name], output / name)
            else:
                results[name] = read_result(path)
        finish(compared(results), output)


def _named_models(models: tuple[str, ...]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for text in models:
        name, sign, rest = text.rpartition("=")
        path = Path(rest)
        name = name if sign else path.stem
        if not re.fullmatch(r"\w[\w .+-]{0,99}", name):
            raise ValueError(f"'{text}' does not have the form NAME=MODEL, where NAME consists of letters, "
                             "digits, blanks and the characters _ . + -, and begins with a letter or a "
                             "digit.")
        if name in named:
            raise ValueError(f"Two models are called '{name}'. Distinguish them with NAME=MODEL.")
        named[name] = path
    return named


@main.command()
@document_argument
@output_option
@walltime_option
@threads_option
@quiet_option
def simultaneous(
    document: Path, output: Path, walltime: float | None, resources: Resources, quiet: bool
) -> None:
    """Refine several patterns simultaneously.

    The patterns can share parameters, and parameters can be subject to parametric constraints.
    """
    from aiida_dse.tasks.simultaneous import run_simultaneous

    with task_in(output), progress_display(quiet) as show:
        built = build_simultaneous_model(document, resources)
        result = run_simultaneous(built, on_cycle=show.cycle, should_stop=stop_check(walltime))
        finish(result, output)


@main.command()
@click.argument("document", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="Output file (default: standard output).")
def upgrade(document: Path, output: Path | None) -> None:
    """Rewrite a document of version 0.1 for version 0.2.

    The new document describes the same analysis. Comments and formatting are lost. Documents to
    which it refers are not rewritten, but can still be read. The output is JSON if its file name
    ends in .json, and YAML otherwise.
    """
    import json
    import warnings

    import yaml

    from aiida_dse.documents.reading import DocumentNote, read_content

    with refusals():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DocumentNote)
            content = read_content(document)
        if output is not None and output.suffix == ".json":
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        else:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        if output is None:
            echo(text, nl=False)
        else:
            output.write_text(text, encoding="utf-8")


@main.command()
def selftest() -> None:
    """Compile and check the engine on this computer.

    The engine is compared with the direct double sum over all pairs of atoms.
    """
    from aiida_dse.tasks.selftest import LIMIT, selftest, speed

    begin = time.monotonic()
    error = selftest()
    echo(f"self-test: largest relative error {error:.1e} (limit {LIMIT:.0e}), "
               f"{time.monotonic() - begin:.1f} s")
    echo(f"speed: {1e9 * speed():.3g} ns per distance on one thread")
    sys.exit(0 if error < LIMIT else 1)


main.add_command(calibrate)
main.add_command(total_scattering_)


if __name__ == "__main__":
    main()
