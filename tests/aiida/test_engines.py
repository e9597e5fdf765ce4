"""Two installations of the engine: a result of one is never taken for a result of the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from aiida.common import LinkType
from aiida.engine import submit
from aiida.manage.caching import disable_caching
from aiida.orm import CalcJobNode, Dict, InstalledCode
from aiida.plugins.entry_point import format_entry_point_string
from click.testing import CliRunner

import aiida_dse
from aiida_dse.calculations.engine import RefineCalculation
from aiida_dse.cli.main import main
from aiida_dse.data.signatures import signed
from aiida_dse.documents.status import EXITS, Failure
from aiida_dse.engine import NUMERICS_VERSION
from aiida_dse.tasks.summary import engine_identity, scattering_tables
from aiida_dse.workchains.refine import RefineWorkChain

STAGES = {"stages": [["salt.a", "salt.*.B_iso"]]}


@pytest.fixture(scope="module")
def other_engine(tmp_path_factory):
    """The executable of a copy of the package whose numerics have another version."""
    folder = tmp_path_factory.mktemp("other engine")
    package = Path(aiida_dse.__file__).parent
    shutil.copytree(package, folder / "aiida_dse", ignore=shutil.ignore_patterns("__pycache__"))
    module = folder / "aiida_dse" / "engine" / "__init__.py"
    text, count = re.subn(r"(NUMERICS_VERSION.*) = \d+", r"\1 = 999", module.read_text())
    assert count == 1
    module.write_text(text)
    script = folder / "dse-engine"
    script.write_text(f"#!/bin/sh\nPYTHONPATH='{folder}' exec '{sys.executable}' -c "
                      "'from aiida_dse.cli.engine import main; main()' \"$@\"\n")
    script.chmod(0o755)
    return script


@pytest.fixture(scope="module")
def installation(computer, other_engine, tmp_path_factory):
    """A code, and a function that replaces the engine to which its path leads."""
    link = tmp_path_factory.mktemp("installation") / "dse-engine"
    engines = {"other": other_engine, "same": Path(sys.executable).with_name("dse-engine")}

    def install(name):
        link.unlink(missing_ok=True)
        os.symlink(engines[name], link)

    install("other")
    code = InstalledCode(label="replaced", computer=computer, filepath_executable=str(link),
                         default_calc_job_plugin="dse.refine").store()
    yield code, install
    code.is_hidden = True


def test_a_result_of_another_engine_is_neither_kept_nor_reused(
    started, installation, case_nodes, finish
):
    code, install = installation
    inputs = case_nodes({"refinement": STAGES})

    def refined(name):
        install(name)
        node = finish(submit(RefineWorkChain, refine=inputs | {"code": code, "threads": 1}))
        (job,) = node.called
        return node, job.base.caching.is_created_from_cache

    refused, _ = refined("other")
    assert refused.exit_status == EXITS[Failure.OTHER_ENGINE].number, refused.exit_message
    assert "999" in refused.exit_message and "result" not in refused.outputs
    again, from_cache = refined("other")
    assert again.exit_status == refused.exit_status and not from_cache
    first, from_cache = refined("same")
    assert first.is_finished_ok and not from_cache, first.exit_message
    assert first.outputs.result["numerics_version"] == NUMERICS_VERSION
    second, from_cache = refined("same")
    assert second.is_finished_ok and from_cache


@pytest.mark.parametrize(("changes", "valid"), [
    ({}, True), ({"numerics_version": NUMERICS_VERSION + 1}, False),
    ({"tables": scattering_tables().model_dump() | {"file": "XrayDB 0.1"}}, False),
    ({"tables": None}, False), ({"numerics_version": None}, False),
])
def test_a_stored_result_is_reused_if_this_engine_would_make_it(computer, changes, valid):
    """Also one that an earlier version of the plugin accepted, or that was imported."""
    content = {"numerics_version": NUMERICS_VERSION, "tables": scattering_tables().model_dump()}
    node = CalcJobNode(computer=computer, process_type=format_entry_point_string(
        "aiida.calculations", "dse.refine"))
    node.set_option("resources", {"num_machines": 1, "num_mpiprocs_per_machine": 1})
    node.set_exit_status(0)
    node.set_process_state("finished")
    with disable_caching():
        node.store()
    result = Dict(signed(content | changes))
    result.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="result")
    result.store()
    node.seal()
    assert RefineCalculation.is_valid_cache(node) is valid


def test_doctor_names_the_engine_of_other_numbers_and_its_computer(installation, aiida_profile):
    code, install = installation
    for name, outcome in (("other", "fail"), ("same", "ok")):
        install(name)
        output = CliRunner().invoke(main, ["doctor", "--json", "--code", "nobody@localhost"]).output
        (row,) = [row for row in json.loads(output) if code.full_label in row["found"]]
        assert row["outcome"] == outcome, row
        assert (engine_identity() in row["found"]) and ("999" in row["found"]) is (name == "other")
