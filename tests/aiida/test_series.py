"""Series as calcfunctions: what they need, give and leave in the provenance."""

from __future__ import annotations

import pytest
from aiida.engine import run_get_node
from aiida.orm import CalcFunctionNode, Dict, QueryBuilder, SinglefileData
from aiida.plugins import CalculationFactory
from click.testing import CliRunner

from aiida_dse.calculations.series import (
    differential,
    size_series,
    sizing_curve,
    temperature_series,
)
from aiida_dse.cli.main import main
from aiida_dse.data.results import arrays_of, result_nodes

FUNCTIONS = {
    "temperature_series": temperature_series, "size_series": size_series,
    "sizing_curve": sizing_curve, "differential": differential,
}


def nodes_of(results):
    found = {}
    for name, result in results.items():
        found[f"{name}_result"], found[f"{name}_arrays"] = result_nodes(result)
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_are_found_by_their_names(name):
    assert CalculationFactory(f"dse.analysis.{name}").process_class._func is \
        FUNCTIONS[name].process_class._func


def test_a_temperature_series_can_be_asked_for_and_drawn(temperatures, tmp_path):
    inputs = nodes_of(temperatures)
    outputs, node = run_get_node(temperature_series, **inputs)
    assert node.is_finished_ok and set(outputs) == {"table", "result", "arrays"}
    assert isinstance(outputs["arrays"], SinglefileData)
    assert node.process_type == "aiida.calculations:dse.analysis.temperature_series"
    assert set(node.inputs) == set(inputs)
    query = QueryBuilder().append(CalcFunctionNode, filters={"id": node.pk}, tag="f").append(
        Dict, with_incoming="f",
        filters={"attributes.values.einstein.Br_ax.B_static": {">": 1.5},
                 "attributes.values.alpha_V": {">": 1e-4}},
        project=["attributes.disorder", "attributes.su.alpha_V"])
    ((disorder, su),) = query.all()
    assert disorder[0]["site"] == "Br_ax" and su > 0
    assert outputs["table"]["rows"]["T6"]["quantities"]["volume"]["su"] > 0
    assert "curves/debye/Pb" in arrays_of(outputs["arrays"])
    shown = CliRunner().invoke(main, ["show", str(node.pk)])
    assert shown.exit_code == 0 and "static disorder of Br_ax" in shown.output
    path = tmp_path / "series.png"
    shown = CliRunner().invoke(main, ["plot", str(node.pk), "-o", str(path)])
    assert shown.exit_code == 0 and path.exists(), shown.output


def test_sizes_and_sizing_take_their_options_from_a_node(sizes):
    options = Dict({"bulk": {"volume": 793.1, "source": "test"}})
    outputs, _ = run_get_node(size_series, options=options, **nodes_of(sizes))
    assert outputs["result"]["values"]["gamma"] == pytest.approx(-2.7, abs=0.02)
    assert outputs["result"]["options"]["bulk"]["source"] == "test"
    options = Dict({"decay_length": 5.05})
    outputs, _ = run_get_node(sizing_curve, options=options, **nodes_of(sizes))
    assert outputs["result"]["predicted"]["L5"]["value"] > 2.38
    outputs, _ = run_get_node(differential, options=Dict({"reference": "L5"}), **nodes_of(sizes))
    assert set(outputs) == {"result", "arrays"}


def test_half_a_result_and_unknown_options_are_refused(temperatures):
    inputs = nodes_of(temperatures)
    del inputs["T6_arrays"]
    with pytest.raises(ValueError, match="'T6' comes without its arrays"):
        temperature_series(**inputs)
    with pytest.raises(ValueError, match="unknown key"):
        temperature_series(options=Dict({"phse": "P"}), **nodes_of(temperatures))
