"""The limits of the tests themselves: patient, but not endless."""

from __future__ import annotations

import ast
import os
import time
from pathlib import Path

import pytest
import waiting


@pytest.fixture
def load(monkeypatch):
    """A function that pretends a load for each core."""
    def pretend(busy, wanted="1"):
        cores = len(os.sched_getaffinity(0))
        monkeypatch.setattr(os, "getloadavg", lambda: (busy * cores, 0.0, 0.0))
        monkeypatch.setenv("DSE_TEST_PATIENCE", wanted)

    return pretend


@pytest.mark.parametrize(("busy", "wanted", "factor"), [
    (0.0, "1", 1.0), (0.9, "1", 1.0), (8.0, "1", 8.0), (0.5, "3", 3.0), (8.0, "3", 24.0)])
def test_limits_grow_with_the_load_and_on_request(load, busy, wanted, factor):
    load(busy, wanted)
    assert waiting.patient(10) == pytest.approx(10 * factor)


def test_what_does_not_happen_ends_the_wait(load):
    load(0.0)
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer"):
        waiting.wait_until(lambda: False, lambda: "no answer", seconds=0.2, every=0.01)
    assert 0.2 <= time.monotonic() - begin < 2


def test_progress_prolongs_the_wait(load):
    load(0.0)
    begin = time.monotonic()
    waiting.wait_until(lambda: time.monotonic() - begin > 0.5, lambda: "too early", seconds=0.1,
                       every=0.01, progress=time.monotonic)


def test_the_limit_of_a_test_is_patient_too(request):
    """A shorter limit than that of pyproject.toml would not know of the load."""
    (own,) = request.node.iter_markers("timeout")
    assert own.args[0] >= float(request.config.getini("timeout"))


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("*.py")),
                         ids=lambda path: path.name)
def test_no_limit_is_a_mere_number(path):
    """A fixed number of seconds fails on a busy machine: write patient(seconds)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            for argument in node.keywords:
                fixed = argument.arg == "timeout" and isinstance(argument.value, ast.Constant)
                assert not fixed, f"line {node.lineno}"
