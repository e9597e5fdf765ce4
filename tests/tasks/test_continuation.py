"""Documents that start where an earlier analysis ended."""

from __future__ import annotations

import pytest

from aiida_dse.documents import parse_document
from aiida_dse.documents.continuation import model_continued
from aiida_dse.documents.status import Status
from aiida_dse.tasks.run import run_refine

STAGES = {"stages": [["P.a", "P.Cs.B_iso"]]}


@pytest.fixture
def search(folder):
    """The document of a refinement from four starting points, and its summary."""
    built = folder.build(refinement=STAGES | {"starts": 4}, parameters={
        "P.a": {"value": 4.12, "upper": 4.2}})
    return built.document.canonical(), run_refine(built).summary


def test_a_continued_document_starts_at_the_values_of_the_result_and_keeps_the_bounds(search):
    document, summary = search
    start = model_continued(document, summary)["parameters"]["P.a"]
    assert start == {"value": summary.parameters["P.a"].value, "upper": 4.2}


@pytest.mark.parametrize(("status", "tried", "starts"), [
    (Status.CONVERGED, 4, 4),  # a further analysis has as many starting points
    (Status.WALLTIME, 1, 4), (Status.WALLTIME, 3, 2), (Status.INTERRUPTED, 2, 3),
    (Status.NOT_CONVERGED, 4, 1),  # all points were tried: only the best one is continued
])
def test_a_search_is_continued_with_the_remaining_number_of_starting_points(
    search, status, tried, starts
):
    document, summary = search
    ended = summary.model_copy(update={
        "status": status, "search": summary.search.model_copy(update={"n_tried": tried})})
    plan = parse_document(model_continued(document, ended)).refinement
    assert plan.starts == starts
    assert (plan.seed > summary.search.seed) is (status is not Status.CONVERGED)
