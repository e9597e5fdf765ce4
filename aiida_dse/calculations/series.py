"""Calcfunctions that analyse series of results; they only delegate to aiida_dse.analysis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiida.engine import calcfunction
from aiida.orm import Dict

from aiida_dse.analysis import differential as patterns
from aiida_dse.analysis import size_series as sizes
from aiida_dse.analysis import temperature_series as temperatures
from aiida_dse.analysis.series_table import Series
from aiida_dse.data.results import result_from_nodes, result_nodes
from aiida_dse.documents.series import (
    DifferentialOptions,
    SizeOptions,
    SizingOptions,
    TemperatureOptions,
    parse_options,
)
from aiida_dse.io.results import Result, plain
from aiida_dse.sections import Section


@calcfunction
def temperature_series(options: Any = None, **refinements: Any) -> dict[str, Any]:
    """Analyse refinements at several temperatures: expansion, strain, bonds, B(T) and disorder.

    Refinements are passed as <name>_result (Dict) and <name>_arrays (HDF5), and options as a Dict
    of TemperatureOptions. The outputs are 'table', 'result' and 'arrays'.
    """
    return _analysed(temperatures.temperature_series, TemperatureOptions, options, refinements)


@calcfunction
def size_series(options: Any = None, **refinements: Any) -> dict[str, Any]:
    """Analyse refinements of several sizes: strain, surface energy and distortions.

    Inputs and outputs are those of temperature_series, with options as a Dict of SizeOptions.
    """
    return _analysed(sizes.size_series, SizeOptions, options, refinements)


@calcfunction
def sizing_curve(options: Any = None, **refinements: Any) -> dict[str, Any]:
    """Compute first exciton energies from refined sizes, and d0 if energies were measured.

    Inputs and outputs are those of temperature_series, with options as a Dict of SizingOptions.
    """
    return _analysed(sizes.sizing_curve, SizingOptions, options, refinements)


@calcfunction
def differential(options: Any, **patterns_: Any) -> dict[str, Any]:
    """Compute (I - I0)/I0 of simulations or refinements passed as <name>_result and <name>_arrays.

    The options are a Dict of DifferentialOptions, which requires 'reference'. The outputs are
    'result' and 'arrays'.
    """
    chosen = parse_options(DifferentialOptions, options.get_dict())
    found = patterns.differential(_results(patterns_), chosen)
    summary, arrays = result_nodes(found)
    return {"result": summary, "arrays": arrays}


#: Function of each analysis, by the name of its calcfunction.
ANALYSES: dict[str, Callable[..., Any]] = {
    "temperature_series": temperatures.temperature_series, "size_series": sizes.size_series,
    "sizing_curve": sizes.sizing_curve, "differential": patterns.differential,
}


def _analysed(
    analysis: Callable[..., tuple[Series, Result]], kind: type[Section], options: Any,
    refinements: dict[str, Any],
) -> dict[str, Any]:
    chosen = parse_options(kind, None if options is None else options.get_dict())
    series, found = analysis(_results(refinements), chosen)
    summary, arrays = result_nodes(found)
    return {"table": Dict(plain(series.plain())), "result": summary, "arrays": arrays}


def _results(nodes: dict[str, Any]) -> dict[str, Result[Any]]:
    """Results by name from the inputs <name>_result (Dict) and <name>_arrays (SinglefileData).

    Raises ValueError if either input of a name is missing.
    """
    names = sorted({key.removesuffix(end) for key in nodes for end in ("_result", "_arrays")
                    if key.endswith(end)})
    for name in names:
        for end, what in (("_result", "result"), ("_arrays", "arrays")):
            if f"{name}{end}" not in nodes:
                raise ValueError(f"the {what} of '{name}' is missing; provide the input "
                                 f"'{name}{end}'.")
    return {name: result_from_nodes(nodes[f"{name}_result"], nodes[f"{name}_arrays"])
            for name in names}
