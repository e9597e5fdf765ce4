"""The termination of the example: the estimated chi2 of another one is that of its refinement."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiida_dse.documents.reading import load_document
from aiida_dse.engine.fit.refine import refine
from aiida_dse.tasks.build import build
from aiida_dse.tasks.terminations import compare_terminations

EXAMPLE = Path(__file__).parents[2] / "examples" / "cspbbr3" / "refine.yaml"


def test_the_expected_chi2_is_that_of_a_refinement():
    built = build(load_document(EXAMPLE), EXAMPLE.parent)
    found = refine(built.model, built.stages)
    fits = compare_terminations(built, found, built.model.phases[0], refined=1)
    assert fits[0].refined is found and len(fits) == 196
    for fit in fits[1:2]:
        gain = fit.refined.agreement.chi2 - found.agreement.chi2
        assert fit.expected - found.agreement.chi2 == pytest.approx(gain, abs=0.1 * gain)
