"""Graphs of the provenance, as 'verdi node graph generate' draws them."""

from __future__ import annotations

from aiida.tools.visualization import Graph


def test_a_graph_can_contain_structures(case_nodes):
    """The label of a CIF in a graph is its formula, which AiiDA reads with PyCifRW."""
    structure = case_nodes()["structures"]["salt"].store()
    graph = Graph()
    graph.add_node(structure)
    assert f"CifData ({structure.pk})" in graph.graphviz.source
