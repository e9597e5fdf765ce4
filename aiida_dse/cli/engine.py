"""The command dse-engine: runs the tasks of a document and writes result files."""

from __future__ import annotations

import os

# One BLAS thread, because the engine distributes its cores itself; must precede import of numpy.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import json  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402

from aiida_dse.engine.resources import ONE_THREAD, Resources  # noqa: E402

_document = click.argument("document", type=click.Path(path_type=Path))
_output = click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("results"),
    show_default=True, help="Folder for result.json and result.h5.",
)
_walltime = click.option(
    "--walltime", type=click.FloatRange(min=1),
    help="Stop after this many seconds and write the results so far.",
)


def _resources_of(
    context: click.Context, option: click.Parameter, threads: int | None
) -> Resources:
    """Threads and memory of the command: the only place that reads them from the environment."""
    try:
        return Resources.from_environment(threads)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None


_threads = click.option(
    "--threads", "resources", type=click.IntRange(min=1), callback=_resources_of,
    help="Number of threads (default: all available cores).",
)
_quiet = click.option("--quiet", is_flag=True, help="Do not show progress.")


def _print_version(context: click.Context, _: Any, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        import aiida_dse
        from aiida_dse.tasks.summary import engine_identity

        click.echo(f"dse-engine, version {aiida_dse.__version__}, {engine_identity()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=_print_version,
              help="Show the versions of the engine and of its numerics, and exit.")
def main() -> None:
    """Analyse X-ray total scattering of nanocrystals by the Debye scattering equation."""
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

        click.echo(json.dumps(ModelDocument.model_json_schema(by_alias=True), indent=1))
        return
    if document is None:
        raise click.UsageError("Specify the document to check, or the option --schema.")
    with _refusals():
        if _is_simultaneous(document):
            from aiida_dse.report.simultaneous_tables import simultaneous_validation_report

            click.echo(simultaneous_validation_report(_build_simultaneous(document)))
        else:
            from aiida_dse.report.tables import validation_report

            click.echo(validation_report(_build(document)))


@main.command()
@_document
@_output
@_threads
def simulate(document: Path, output: Path, resources: Resources) -> None:
    """Compute the pattern at the starting values."""
    from aiida_dse.tasks.run import run_simulate

    with _task(output):
        _finish(run_simulate(_build(document, resources)), output)


@main.command("build")
@_document
@_output
@_threads
def build_(document: Path, output: Path, resources: Resources) -> None:
    """Compute and store the pair distances of every phase.

    Later documents can use the stored distances of a phase in place of its structure.
    """
    from aiida_dse.tasks.distances import run_build

    with _task(output):
        _finish(run_build(_build(document, resources), output), output)


@main.command()
@_document
@_output
@_walltime
@_threads
@_quiet
def refine(
    document: Path, output: Path, walltime: float | None, resources: Resources, quiet: bool
) -> None:
    """Refine the parameters of a document against its pattern."""
    from aiida_dse.tasks.run import run_refine

    with _task(output), _progress(quiet) as show:
        built = _build(document, resources, measured=True)
        result = run_refine(built, on_cycle=show.cycle, on_search=show.search,
                            on_descent=show.descent, should_stop=_stop_check(walltime))
        _finish(result, output)


_continue = click.option(
    "--continue", "continued", is_flag=True,
    help="Continue from the result in the output folder.",
)


@main.command()
@_document
@_output
@_walltime
@_threads
@_quiet
@_continue
def scan(
    document: Path, output: Path, walltime: float | None, resources: Resources, quiet: bool,
    continued: bool,
) -> None:
    """Compute the GoF map of the section 'scan'."""
    from aiida_dse.tasks.run import run_scan

    with _task(output), _progress(quiet) as show:
        built = _build(document, measured=True)
        result = run_scan(
            built, on_progress=show.scan, should_stop=_stop_check(walltime), checkpoint=output,
            finished=_finished(output, built) if continued else None, resources=resources,
        )
        _finish(result, output)


@main.command()
@_document
@_output
@_walltime
@_threads
@_quiet
@_continue
def uncertainty(
    document: Path, output: Path, walltime: float | None, resources: Resources, quiet: bool,
    continued: bool,
) -> None:
    """Compute profiles, bootstrap and posterior.

    The document is refined first. Its section 'uncertainty' specifies what is computed.
    """
    from aiida_dse.tasks.uncertainty import require_uncertainty, run_uncertainty

    with _task(output), _progress(quiet) as show:
        built = _build(document, measured=True)
        require_uncertainty(built)
        result = run_uncertainty(
            built, on_cycle=show.cycle, on_progress=show.uncertainty,
            should_stop=_stop_check(walltime), checkpoint=output,
            finished=_finished(output, built) if continued else None, resources=resources,
        )
        _finish(result, output)


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL...")
@_output
@_walltime
@_threads
@_quiet
def compare(
    models: tuple[str, ...], output: Path, walltime: float | None, resources: Resources, quiet: bool
) -> None:
    """Compare several models of one pattern.

    Each MODEL is a document, which is refined first, or a folder with a finished refinement. Its
    name is that of the file or folder unless NAME= precedes it.
    """
    from aiida_dse.analysis.comparison import compare as compared
    from aiida_dse.io.results import read_result, write_result
    from aiida_dse.tasks.run import run_refine

    with _task(output):
        sources = _named_models(models)
        # check all documents before the first refinement
        built = {name: _build(path, resources, measured=True) for name, path in sources.items()
                 if not path.is_dir()}
        stop = _stop_check(walltime)
        results = {}
        for name, path in sources.items():
            if name in built:
                with _progress(quiet) as show:
                    results[name] = run_refine(built[name], on_cycle=show.cycle,
                                               on_search=show.search, on_descent=show.descent,
                                               should_stop=stop)
                write_result(results[name], output / name)
            else:
                results[name] = read_result(path)
        _finish(compared(results), output)


def _named_models(models: tuple[str, ...]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for text in models:
        name, sign, rest = text.rpartition("=")
        path = Path(rest)
        name = name if sign else path.stem
        if not name or "/" in name:
            raise ValueError(f"'{text}' is not of the form NAME=MODEL with a name without a slash.")
        if name in named:
            raise ValueError(f"Two models are called '{name}'. Distinguish them with NAME=MODEL.")
        named[name] = path
    return named


@main.command()
@_document
@_output
@_walltime
@_threads
@_quiet
def simultaneous(
    document: Path, output: Path, walltime: float | None, resources: Resources, quiet: bool
) -> None:
    """Refine several patterns simultaneously.

    The patterns have shared parameters, and parameters that follow parametric constraints.
    """
    from aiida_dse.tasks.simultaneous import run_simultaneous

    with _task(output), _progress(quiet) as show:
        built = _build_simultaneous(document, resources)
        result = run_simultaneous(built, on_cycle=show.cycle, should_stop=_stop_check(walltime))
        _finish(result, output)


@main.command()
@click.argument("document", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="Output file (default: standard output).")
def upgrade(document: Path, output: Path | None) -> None:
    """Rewrite a document of version 0.1 for version 0.2.

    The new document describes the same analysis. Comments and formatting are lost. Other documents
    that it refers to are not rewritten, but remain readable. The output is JSON if its name ends
    in .json, and YAML otherwise.
    """
    import json
    import warnings

    import yaml

    from aiida_dse.documents.reading import DocumentNote, read_content

    with _refusals():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DocumentNote)
            content = read_content(document)
        if output is not None and output.suffix == ".json":
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        else:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        if output is None:
            click.echo(text, nl=False)
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
    click.echo(f"self-test: largest relative error {error:.1e} (limit {LIMIT:.0e}), "
               f"{time.monotonic() - begin:.1f} s")
    click.echo(f"speed: {1e9 * speed():.3g} ns per distance on one thread")
    sys.exit(0 if error < LIMIT else 1)


def _build(document: Path, resources: Resources = ONE_THREAD, *, measured: bool = False) -> Any:
    """Build the model of a document and check its axis.

    With `measured`, raise ValueError if the document has no measured pattern.
    """
    from aiida_dse.documents import load_document
    from aiida_dse.tasks.build import build
    from aiida_dse.tasks.peak_positions import check_axis

    built = build(load_document(document), document.parent, resources=resources)
    if measured and not built.measured:
        raise ValueError("pattern: there is no 'file' to compare with. Specify the measured "
                         "pattern, or use 'dse-engine simulate'.")
    if remark := check_axis(built):
        click.echo(f"note: {remark}", err=True)
    return built


def _is_simultaneous(document: Path) -> bool:
    from aiida_dse.documents import SIMULTANEOUS_SCHEMA
    from aiida_dse.documents.reading import read_content

    content = read_content(document)
    return isinstance(content, dict) and content.get("schema") == SIMULTANEOUS_SCHEMA


def _build_simultaneous(document: Path, resources: Resources = ONE_THREAD) -> Any:
    from aiida_dse.documents import load_simultaneous
    from aiida_dse.tasks.simultaneous import build_simultaneous, check_axes_of

    built = build_simultaneous(load_simultaneous(document), document.parent, resources=resources)
    for remark in check_axes_of(built):
        click.echo(f"note: {remark}", err=True)
    return built


def _finished(output: Path, built: Any) -> Any:
    """Read the earlier result in an output folder; None if there is none.

    Raises ValueError if the result belongs to another document or to other files.
    """
    from aiida_dse.io.results import JSON_NAME, read_result
    from aiida_dse.tasks.summary import document_hash

    if not (output / JSON_NAME).exists():
        return None
    try:
        finished = read_result(output)
    except ValueError as problem:
        raise ValueError(f"{problem} Choose another --output, or omit --continue to start "
                         "again.") from None
    data = finished.summary.data
    if finished.summary.document_sha256 != document_hash(built.document) \
            or data is None or data.sha256 != built.files:
        raise ValueError(f"{output} contains the result of another document or of other files. "
                         "Choose another --output.")
    return finished


@contextmanager
def _refusals() -> Iterator[None]:
    """Print the error that ends a command, and exit with the status of that failure."""
    from aiida_dse.documents.status import EXITS, Failure
    from aiida_dse.io.outcome import failure_of

    try:
        yield
    except (Exception, KeyboardInterrupt) as problem:
        failure = failure_of(problem)
        if failure.failure is Failure.INTERNAL:
            raise
        click.echo(f"Error: {failure}", err=True)
        sys.exit(EXITS[failure.failure].command)


@contextmanager
def _task(output: Path) -> Iterator[None]:
    """Run a task and record its outcome in the output folder, also if it fails."""
    from aiida_dse.io.outcome import reporting

    with _refusals(), reporting(output):
        yield


def _stop_check(walltime: float | None) -> Callable[[], str | None]:
    """A function that returns 'walltime' after that many seconds or a SIGTERM, and None before."""
    begin = time.monotonic()
    signalled: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signalled.append(number))

    def check() -> str | None:
        if signalled or (walltime and time.monotonic() - begin > walltime):
            return "walltime"
        return None

    return check


def _progress(quiet: bool) -> Any:
    from aiida_dse.report.progress import LogProgress, NoProgress, TerminalProgress

    if quiet:
        return NoProgress()
    return TerminalProgress() if sys.stderr.isatty() else LogProgress()


def _finish(result: Any, output: Path) -> None:
    """Write and print a result, and exit with the status of its outcome."""
    from aiida_dse.documents.status import EXITS
    from aiida_dse.io.outcome import RunOutcome, write_outcome
    from aiida_dse.io.results import write_result
    from aiida_dse.report.tables import result_report

    write_result(result, output)
    write_outcome(output, RunOutcome("finished"))
    click.echo(result_report(result))
    click.echo(f"Results: {output / 'result.json'}, {output / 'result.h5'}")
    sys.exit(EXITS[result.status].command)


if __name__ == "__main__":
    main()
