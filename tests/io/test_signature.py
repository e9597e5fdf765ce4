"""A result that was changed after it was written is not read."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from aiida_dse.documents.results import SimulationSummary
from aiida_dse.documents.status import Status
from aiida_dse.io import results
from aiida_dse.io.results import Result, read_result, write_result


def result(title="one", level=1.0):
    return Result(SimulationSummary(
        status=Status.COMPLETE, stop_reason="complete", title=title, sample={}, phases=["P"],
        structures={}, space_groups=[], document_sha256="0" * 64, document={"tolerance": 1.25e-5},
        seconds=1.5, created="2026-11-27T08:00:00+00:00", engine_version="x", numerics_version=2,
        libraries={}, warnings=[], parameters={}, derived={},
    ), {"pattern/q": np.linspace(1, 2, 100) * level, "few": np.arange(3.0)})


@pytest.fixture
def folder(tmp_path):
    write_result(result(), tmp_path / "a")
    write_result(result("another", 2.0), tmp_path / "b")
    return tmp_path / "a"


def text_of(folder, change):
    path = folder / "result.json"
    path.write_text(change(path.read_text()))


def test_a_result_is_read_as_it_was_written(folder):
    found = read_result(folder)
    assert found.summary == result().summary
    np.testing.assert_array_equal(found.arrays["few"], [0.0, 1.0, 2.0])


@pytest.mark.parametrize("digit", range(3))
def test_a_changed_digit_is_noticed(folder, digit):
    text = (folder / "result.json").read_text()
    places = [found.start() for found in re.finditer(r"\d", text.partition('"signature"')[0])]
    at = places[(len(places) - 1) * digit // 2]
    changed = str((int(text[at]) + 1) % 10)
    (folder / "result.json").write_text(text[:at] + changed + text[at + 1:])
    with pytest.raises(ValueError, match=r"signature|schema|damaged|not a result"):
        read_result(folder)


@pytest.mark.parametrize("name", ["result.json", "result.h5"])
def test_the_file_of_another_result_is_noticed(folder, name):
    (folder / name).write_bytes((folder.parent / "b" / name).read_bytes())
    with pytest.raises(ValueError, match=r"does not agree with the signature"):
        read_result(folder)


def test_an_empty_or_changed_file_of_arrays_is_noticed(folder):
    path = folder / "result.h5"
    content = path.read_bytes()
    at = content.index(np.float64(2.0).tobytes())
    path.write_bytes(content[:at] + np.float64(3.0).tobytes() + content[at + 8:])
    with pytest.raises(ValueError, match=r"result\.h5 was changed"):
        read_result(folder)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"result\.h5 was changed"):
        read_result(folder)


def without_signature(text):
    content = json.loads(text)
    del content["signature"]
    return json.dumps(content)


@pytest.mark.parametrize("change", [
    without_signature,
    lambda text: text[: len(text) // 2],
    lambda text: "[" * 100_000,
    lambda text: '{"a":' * 100_000,
    lambda text: text.replace('"one"', '"\\ud800"'),
    lambda text: text.replace('"one"', "NaN"),
    lambda text: text.replace('"status"', '"stattus"'),
    lambda text: text.replace('"complete"', '"fine"'),
    lambda text: text.replace('"numbers"', '"nombers"'),
    lambda text: '"text"', lambda text: "null", lambda text: "[1]", lambda text: "",
], ids=["no signature", "half", "lists", "objects", "surrogate", "NaN", "key", "status", "digest",
        "text", "null", "list", "nothing"])
def test_damaged_numbers_are_refused(folder, change):
    text_of(folder, change)
    with pytest.raises(ValueError, match=r"result\.json"):
        read_result(folder)


def test_a_huge_file_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(results, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="the limit of results"):
        read_result(folder)
