"""aiida-dse analyse: sizing curves, differential patterns and series of finished analyses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .submission import fail, refusing
from .terminal import echo


def analyse_results(kind: str, sources: tuple[str, ...], options: Path | None, title: str) -> None:
    """Analyse finished analyses, given as PK or NAME=PK, and show the result.

    The analysis is first computed without storing anything, so that errors in the input leave no
    failed process in the database.
    """
    from aiida.orm import Dict

    from aiida_dse.calculations import series
    from aiida_dse.documents.reading import read_content
    from aiida_dse.documents.series import ANALYSES, parse_options

    from .showing import print_analysis

    function = kind.replace("-", "_")
    with refusing():
        chosen = parse_options(ANALYSES[function], {} if options is None else read_content(options))
        processes = dict(_named(source) for source in sources)
        if len(processes) < len(sources):
            fail(f"{len(sources)} analyses have only {len(processes)} different names "
                 f"({', '.join(processes)}). Give each its own name: NAME=PK")
        series.ANALYSES[function]({name: _result(process) for name, process in processes.items()}, chosen)
    nodes = {f"{name}_{output}": process.outputs[output] for name, process in processes.items()
             for output in ("result", "arrays")}
    _, process = getattr(series, function).run_get_node(
        options=Dict(chosen.model_dump(mode="json", exclude_unset=True)), **nodes,
        metadata={"label": title or kind.replace("-", " ")})
    print_analysis(str(process.pk))
    echo(f"\nThe analysis is stored as node {process.pk}. Draw it with 'aiida-dse plot "
               f"{process.pk} -o figure.pdf'.")


def _named(source: str) -> tuple[str, Any]:
    """The name and the process of 'NAME=PK' or 'PK', whose name is 'pk' and the number."""
    from .showing import process_of

    name, _, identifier = source.rpartition("=")
    process = process_of(identifier)
    name = name or f"pk{process.pk}"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", name):
        fail(f"'{name}' is not a valid name. Use letters, digits and single underscores, and begin "
             "with a letter, for example T300=123")
    return name, process


def _result(process: Any) -> Any:
    from aiida_dse.data.results import result_of

    result = result_of(process)
    if result is None or "arrays" not in process.outputs:
        fail(f"{process.process_label}<{process.pk}> is not a refinement or a simulation with a "
             "result. List the analyses with 'aiida-dse list'")
    return result
