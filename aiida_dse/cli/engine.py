"""dse-engine: from a document to result files, task by task."""

from __future__ import annotations

import os

# one BLAS thread: the engine shares its cores itself. Set before numpy loads.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import json  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

import click  # noqa: E402

#: Exit status by result status; AiiDA's parsers read result.json instead.
EXIT_STATUS = {"converged": 0, "complete": 0, "singular": 0, "not_converged": 3, "walltime": 4,
               "posterior_not_converged": 5, "interrupted": 130}

_document = click.argument("document", type=click.Path(path_type=Path))
_output = click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("results"),
    show_default=True, help="Folder for result.json and result.h5.",
)
_walltime = click.option(
    "--walltime", type=click.FloatRange(min=1), help="Stop after so many seconds, keeping results."
)
_threads = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads to use (default: the cores allowed)."
)
_quiet = click.option("--quiet", is_flag=True, help="No progress.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aiida-dse")
def main() -> None:
    """Debye scattering analysis of nanocrystals."""


@main.command()
@click.argument("document", type=click.Path(path_type=Path), required=False)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of model documents instead.")
def validate(document: Path | None, schema: bool) -> None:
    """Check a document, its files and the places of the lines; list its parameters."""
    if schema:
        from aiida_dse.documents import ModelDocument

        click.echo(json.dumps(ModelDocument.model_json_schema(by_alias=True), indent=1))
        return
    if document is None:
        raise click.UsageError("name the document to check, or ask for the --schema")
    if _is_simultaneous(document):
        from aiida_dse.report.simultaneous_tables import simultaneous_validation_report

        click.echo(simultaneous_validation_report(_build_simultaneous(document)))
        return
    built = _build(document)
    from aiida_dse.report.tables import validation_report

    click.echo(validation_report(built))


@main.command()
@_document
@_output
@_threads
def simulate(document: Path, output: Path, threads: int | None) -> None:
    """Compute the pattern at the starting values."""
    from aiida_dse.tasks.run import run_simulate

    built = _build(document, threads)
    with _reporting():
        result = run_simulate(built)
    _finish(result, output)


@main.command("build")
@_document
@_output
@_threads
def build_(document: Path, output: Path, threads: int | None) -> None:
    """Sample the distances of every phase once: stores that take the place of structures."""
    from aiida_dse.tasks.distances import run_build

    built = _build(document, threads)
    with _reporting():
        result = run_build(built, output)
    _finish(result, output)


@main.command()
@_document
@_output
@_walltime
@_threads
@_quiet
def refine(
    document: Path, output: Path, walltime: float | None, threads: int | None, quiet: bool
) -> None:
    """Refine the document's parameters against its pattern."""
    from aiida_dse.tasks.run import run_refine

    built = _build(document, threads)
    _needs_data(built)
    with _reporting(), _progress(quiet) as show:
        result = run_refine(built, on_cycle=show.cycle, on_search=show.search,
                            on_descent=show.descent, should_stop=_stop_check(walltime))
    _finish(result, output)


_continue = click.option(
    "--continue", "continued", is_flag=True,
    help="Keep what is finished in the result that the output folder already holds.",
)


@main.command()
@_document
@_output
@_walltime
@_threads
@_quiet
@_continue
def scan(
    document: Path, output: Path, walltime: float | None, threads: int | None, quiet: bool,
    continued: bool,
) -> None:
    """Map the GoF over the axes of the document's 'scan'."""
    from aiida_dse.tasks.run import run_scan

    built = _build(document, 1)
    _needs_data(built)
    if built.document.scan is None:
        _fail("the document has no 'scan'; add one with its 'axes'.")
    finished = _finished(output, built) if continued else None
    with _reporting(), _progress(quiet) as show:
        result = run_scan(
            built, on_progress=show.scan, should_stop=_stop_check(walltime), checkpoint=output,
            finished=finished, threads=threads,
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
    document: Path, output: Path, walltime: float | None, threads: int | None, quiet: bool,
    continued: bool,
) -> None:
    """Refine, then find the profiles, bootstrap and posterior of the document's 'uncertainty'."""
    from aiida_dse.tasks.uncertainty import require_uncertainty, run_uncertainty

    built = _build(document, 1)
    _needs_data(built)
    with _reporting():
        require_uncertainty(built)
    finished = _finished(output, built) if continued else None
    with _reporting(), _progress(quiet) as show:
        result = run_uncertainty(
            built, on_cycle=show.cycle, on_progress=show.uncertainty,
            should_stop=_stop_check(walltime), checkpoint=output, finished=finished,
            threads=threads,
        )
    _finish(result, output)


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL...")
@_output
@_walltime
@_threads
@_quiet
def compare(
    models: tuple[str, ...], output: Path, walltime: float | None, threads: int | None, quiet: bool
) -> None:
    """Compare models of one pattern: documents (refined first) or folders with refinements.

    A model is named by its file or folder unless NAME= stands before it.
    """
    from aiida_dse.analysis.comparison import compare as compared
    from aiida_dse.io.results import read_result, write_result
    from aiida_dse.tasks.run import run_refine

    sources: dict[str, Path] = {}
    for text in models:
        name, sign, rest = text.rpartition("=")
        path = Path(rest)
        name = name if sign else path.stem
        if not name or "/" in name:
            _fail(f"'{text}': write NAME=MODEL, the name without a slash.")
        if name in sources:
            _fail(f"two models are called '{name}'; tell them apart with NAME=MODEL.")
        sources[name] = path
    # all documents are checked before the first is refined
    built = {name: _build(path, threads) for name, path in sources.items() if not path.is_dir()}
    for each in built.values():
        _needs_data(each)
    stop = _stop_check(walltime)
    results = {}
    with _reporting():
        for name, path in sources.items():
            if name in built:
                with _progress(quiet) as show:
                    results[name] = run_refine(built[name], on_cycle=show.cycle,
                                               on_search=show.search, on_descent=show.descent,
                                               should_stop=stop)
                write_result(results[name], output / name)
            else:
                results[name] = read_result(path)
        result = compared(results)
    _finish(result, output)


@main.command()
@_document
@_output
@_walltime
@_threads
@_quiet
def simultaneous(
    document: Path, output: Path, walltime: float | None, threads: int | None, quiet: bool
) -> None:
    """Refine several patterns together: a simultaneous document with shared parameters and laws."""
    from aiida_dse.tasks.simultaneous import run_simultaneous

    built = _build_simultaneous(document, threads)
    with _reporting(), _progress(quiet) as show:
        result = run_simultaneous(built, on_cycle=show.cycle, should_stop=_stop_check(walltime))
    _finish(result, output)


@main.command()
def selftest() -> None:
    """Check the engine on this computer against the plain double sum, and compile it."""
    from aiida_dse.tasks.selftest import LIMIT, selftest, speed

    begin = time.monotonic()
    error = selftest()
    click.echo(f"self-test: largest relative error {error:.1e} (limit {LIMIT:.0e}), "
               f"{time.monotonic() - begin:.1f} s")
    click.echo(f"speed: {1e9 * speed():.3g} ns for each distance, one thread")
    sys.exit(0 if error < LIMIT else 1)


def _build(document: Path, threads: int | None = None) -> Any:
    from aiida_dse.documents import load_document
    from aiida_dse.tasks.build import build
    from aiida_dse.tasks.peak_positions import check_axis

    try:
        built = build(load_document(document), document.parent, threads=threads)
        remark = check_axis(built)
    except ValueError as problem:
        _fail(str(problem))
    if remark:
        click.echo(f"note: {remark}", err=True)
    return built


def _is_simultaneous(document: Path) -> bool:
    from aiida_dse.documents import SIMULTANEOUS_SCHEMA
    from aiida_dse.documents.reading import read_content

    try:
        content = read_content(document)
    except ValueError as problem:
        _fail(str(problem))
    return isinstance(content, dict) and content.get("schema") == SIMULTANEOUS_SCHEMA


def _build_simultaneous(document: Path, threads: int | None = None) -> Any:
    from aiida_dse.documents import load_simultaneous
    from aiida_dse.tasks.simultaneous import build_simultaneous, check_axes_of

    try:
        built = build_simultaneous(load_simultaneous(document), document.parent, threads=threads)
        remarks = check_axes_of(built)
    except ValueError as problem:
        _fail(str(problem))
    for remark in remarks:
        click.echo(f"note: {remark}", err=True)
    return built


def _finished(output: Path, built: Any) -> Any:
    """The result that a folder holds, if any; it must be of the same document and files."""
    from aiida_dse.io.results import read_result
    from aiida_dse.tasks.summary import document_hash

    if not (output / "result.json").exists():
        return None
    try:
        finished = read_result(output)
    except ValueError as problem:
        _fail(f"{problem} Give another --output, or leave out --continue to begin again.")
    same = finished.summary.get("document_sha256") == document_hash(built.document)
    if not same or finished.summary["data"]["sha256"] != built.files:
        _fail(f"{output} holds the result of another document or other files; give another "
              "--output.")
    return finished


def _needs_data(built: Any) -> None:
    if not built.measured:
        _fail("pattern: there is no 'file' to compare with; 'dse-engine simulate' needs none.")


@contextmanager
def _reporting() -> Iterator[None]:
    """A refusal met on the way is told like one met at the start."""
    try:
        yield
    except ValueError as problem:
        _fail(str(problem))


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(2)


def _stop_check(walltime: float | None) -> Callable[[], str | None]:
    begin = time.monotonic()
    signalled: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, geometry: signalled.append(number))

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
    from aiida_dse.io.results import write_result
    from aiida_dse.report.tables import result_report

    try:
        write_result(result, output)
    except OSError as problem:
        _fail(f"the results could not be written to {output}: {problem}. Free space, or give "
              "another --output.")
    click.echo(result_report(result))
    click.echo(f"Results: {output / 'result.json'}, {output / 'result.h5'}")
    status = EXIT_STATUS.get(result.status, 1)
    if result.task == "uncertainty" and result.status == "singular":
        status = EXIT_STATUS["not_converged"]  # what was asked for was not done
    sys.exit(status)


if __name__ == "__main__":
    main()
