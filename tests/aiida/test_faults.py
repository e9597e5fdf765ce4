"""A study whose daemon stops, or whose workers die, ends as if nothing had happened."""

from __future__ import annotations

import copy
import os
import signal
import time

import pytest
import yaml
from aiida.common import LinkType
from aiida.orm import CalcJobNode, load_node
from click.testing import CliRunner
from numpy.testing import assert_allclose

from aiida_dse.cli.main import main
from aiida_dse.cli.submission import wait_for
from aiida_dse.data.jobs import built_from_nodes
from aiida_dse.tasks.run import run_refine, run_scan

TEMPERATURES = (150.0, 250.0, 350.0)


def truth_at(temperature):
    return {"salt.a": 4.11 + 4e-5 * temperature, "salt.Cs1.B": 0.3 + 0.005 * temperature,
            "salt.Cl_a.B": 0.5 + 0.006 * temperature}


@pytest.fixture(scope="module")
def document(tmp_path_factory, write_case, pattern_of, case):
    """A series of three temperatures, and a map from the values of the last."""
    folder = tmp_path_factory.mktemp("faults")
    write_case(folder)
    names = {f"T{t:.0f}": t for t in TEMPERATURES}
    for seed, (name, temperature) in enumerate(names.items(), 60):
        (folder / f"{name}.xye").write_text(pattern_of(truth_at(temperature), seed))
    base = copy.deepcopy(case.document) | {"refinement": {"stages": [["salt.a", "salt.*.B"]]}}
    del base["pattern"]["file"], base["sample"]
    axes = [{"parameter": "salt.a", "start": 4.11, "stop": 4.14, "step": 0.01},
            {"parameter": "salt.Cs1.B", "values": [1.5, 2.0]}]
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({
        "schema": "aiida-dse/study/1", "name": "faults", "defaults": base,
        "samples": {name: {"pattern": {"file": f"{name}.xye"}, "sample": {"temperature": t}}
                    for name, t in names.items()},
        "series": {"warming": {"kind": "temperature", "samples": "T*",
                               "options": {"mode": "independent"}}},
        "maps": [{"sample": "T350", "axes": axes}],
    }))
    return path


def launched(document, code):
    """The study, submitted."""
    told = CliRunner().invoke(
        main, ["launch", "study", str(document), "--code", code.full_label, "--threads", "1"])
    assert told.exit_code == 0, told.output
    return load_node(int(told.output.split("WorkChain<")[1].split(">")[0]))


def jobs_of(node):
    """The jobs of a study by the labels of the calls that lead to them; stateless ones left out."""
    found = {}
    for job in node.called_descendants:
        # a worker killed while it stored a job leaves a node without a state, which never runs
        if isinstance(job, CalcJobNode) and job.process_state is not None:
            path, at = [], job
            while at.pk != node.pk:
                link = at.base.links.get_incoming(
                    link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)).first()
                path.append(link.link_label)
                at = link.node
            found.setdefault("/".join(reversed(path)), []).append(job)
    return found


def assert_as_computed_at_once(node):
    """Refined values and map are those that the engine finds without AiiDA."""
    assert node.is_finished_ok, node.exit_message
    parts = {link.link_label: link.node for link in node.base.links.get_outgoing(
        link_type=LinkType.CALL_WORK).all()}
    series, grid = parts["series_warming"], parts["map_map_T350"]
    members = series.inputs.members
    assert sorted(series.outputs.result["used"]) == sorted(members) == ["T150", "T250", "T350"]
    for name in members:
        one = members[name]
        expected = run_refine(built_from_nodes(
            one.model.get_dict(), one.pattern, {"salt": one.structures.salt}, {})).summary
        found = series.outputs.refined[name]["parameters"]
        for key, row in expected["parameters"].items():
            assert_allclose(found[key]["value"], row["value"], rtol=1e-9)
    scan = grid.inputs.scan
    expected = run_scan(built_from_nodes(
        scan.model.get_dict(), scan.pattern, {"salt": scan.structures.salt}, {}), threads=1)
    assert_allclose(grid.outputs.map.get_array("gof"), expected.arrays["scan/gof"], rtol=1e-9)


def kill(count):
    def fault(client, start_anew, workers_of):
        for pid in workers_of(client)[:count]:
            os.kill(pid, signal.SIGKILL)

    return fault


def stop_and_start(client, start_anew, workers_of):
    start_anew(client)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [
    pytest.param(stop_and_start, id="daemon"), pytest.param(kill(2), id="workers"),
    pytest.param(kill(1), id="worker", marks=pytest.mark.slow)])
def test_a_study_survives(
    document, make_code, mortal, start_anew, workers_of, tmp_path, request, fault
):
    """In the middle: a refinement has ended, another runs, the series and the map are to come."""
    log = tmp_path / "runs.log"
    log.touch()
    name = request.node.callspec.id
    node = launched(document, make_code(f"faulty-{name}", f'echo "$PWD" >> "{log}"; sleep 1'))
    end = time.monotonic() + 120
    while True:
        jobs = [job for each in jobs_of(node).values() for job in each]
        kept = {job.pk for job in jobs if job.is_finished_ok}
        if kept and len(jobs) > len(kept):
            break
        assert time.monotonic() < end and not node.is_terminated
        time.sleep(0.05)
    fault(mortal, start_anew, workers_of)
    wait_for(node, look_every=5)
    assert_as_computed_at_once(node)
    steps, folders = jobs_of(node), log.read_text().split()
    assert len([path for path in steps if path.startswith("series_warming/refine_")]) == 3
    for path, jobs in steps.items():
        for job in jobs:
            times = folders.count(job.get_remote_workdir())
            # AiiDA may repeat a submission that it was killed in, but nothing that had ended
            once = job.pk in kept or name == "daemon"
            assert (len(jobs), times) == (1, 1) if once else times <= 2, (path, folders)
        # the next study computes again, whatever this one found
        for job in jobs:
            job.base.caching.is_valid_cache = False
