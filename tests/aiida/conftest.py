"""A temporary AiiDA profile with a daemon, and a small crystal's pattern from the direct sum.

Nothing here reads or writes the configuration of the person who runs the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

# before anything of aiida is imported: it would look at (and migrate) ~/.aiida
_SCRATCH = Path(tempfile.mkdtemp(prefix="dse-tests-"))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
os.environ["AIIDA_PATH"] = str(_SCRATCH / "aiida")
(_SCRATCH / "aiida").mkdir()
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402

# a conftest below the root must not define pytest_plugins; importing the fixtures does the same
from aiida.tools.pytest_fixtures import (  # noqa: E402, F401
    aiida_config,
    aiida_config_factory,
    aiida_manager,
    aiida_profile_factory,
    daemon_client,
    started_daemon_client,
    stopped_daemon_client,
    submit_and_await,
)
from waiting import patient, wait_until  # noqa: E402

WAVELENGTH = 0.7093  # Å
CELLS = (4, 4, 4)
TRUTH = {"salt.a": 4.123, "salt.Cs1.B_iso": 1.9, "salt.Cl_a.B_iso": 2.3}

CIF = """data_CsCl
_cell_length_a 4.12
_cell_length_b 4.12
_cell_length_c 4.12
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_B_iso_or_equiv
Cs1 Cs1+ 0 0 0 1 1.5
Cl_a Cl1- 0.5 0.5 0.5 1 2.0
"""

DOCUMENT = {
    "schema": "aiida-dse/model/2",
    "title": "caesium chloride",
    "sample": {"name": "T1", "ligand": "oleate", "temperature": 293.0, "tags": {"run": "7"}},
    "pattern": {
        "file": "salt.xye", "axis": "two_theta", "wavelength": WAVELENGTH, "sigma": "column"
    },
    "phases": {
        "salt": {"structure": "CsCl.cif", "particle": {"shape": "parallelepiped", "cells": list(CELLS)}}
    },
    "background": {"chebyshev": 1},
}

SCAN = {
    "axes": [
        {"parameter": "salt.a", "start": 4.10, "stop": 4.15, "step": 0.01},
        {"parameter": "salt.Cs1.B_iso", "values": [1.0, 1.5, 2.0, 2.5]},
    ]
}


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes a minute; runs with DSE_SLOW_TESTS=1")


def pytest_collection_modifyitems(items):
    if not os.environ.get("DSE_SLOW_TESTS"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: set DSE_SLOW_TESTS=1"))


def _direct():
    """tests/physics/direct.py, which imports nothing of the package."""
    known = "_aiida_tests_direct"
    if known not in sys.modules:
        path = Path(__file__).parents[1] / "physics" / "direct.py"
        spec = importlib.util.spec_from_file_location(known, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


@pytest.fixture(scope="session")
def aiida_profile(aiida_config, aiida_profile_factory):  # noqa: F811
    """A profile with a broker that needs no service, for the daemon."""
    with aiida_profile_factory(aiida_config, broker_backend="core.zeromq") as profile:
        # the daemon of a test profile would poll all processes without a pause
        profile.is_test_profile = False
        aiida_config.update_profile(profile)
        aiida_config.set_option("runner.poll.interval", 1, scope=profile.name)
        aiida_config.set_option("daemon.timeout", int(patient(60)), scope=profile.name)
        aiida_config.set_option("daemon.default_workers", 2, scope=profile.name)
        # what was computed before is taken from the cache, read by the daemon at its start
        aiida_config.set_option(
            "caching.enabled_for",
            ["aiida.calculations:dse.scan", "aiida.calculations:dse.refine"], scope=profile.name
        )
        aiida_config.store()
        yield profile


@pytest.fixture(scope="session", autouse=True)
def _always_a_profile(aiida_profile):
    """No test of this folder runs outside the temporary profile."""


@contextlib.contextmanager
def _own_storage(profile, manager):
    kept = dict(vars(manager))
    fresh = {name: None for name in kept}
    vars(manager).update(fresh)
    manager.load_profile(profile.name)
    try:
        yield
    finally:
        manager.unload_profile()
        vars(manager).update(kept)


@pytest.fixture
def own_storage(aiida_profile, aiida_manager):  # noqa: F811
    """For a test that changes profiles: nodes that other tests hold stay attached to theirs."""
    with _own_storage(aiida_profile, aiida_manager):
        yield


@pytest.fixture(scope="module")
def own_storage_of_module(aiida_profile, aiida_manager):  # noqa: F811
    """The same for tests that share a profile, the last ones of a module."""
    with _own_storage(aiida_profile, aiida_manager):
        yield


def direct_pattern(truth, seed):
    """200 points of 4 x 4 x 4 cells by the direct sum, on a constant, with Poisson-like noise."""
    direct = _direct()
    salt = direct.Structure.of(
        (truth["salt.a"],) * 3,
        [("Cs1+", 1.0, truth["salt.Cs1.B_iso"], [(0, 0, 0)]),
         ("Cl1-", 1.0, truth["salt.Cl_a.B_iso"], [(0.5, 0.5, 0.5)])],
    )
    two_theta = np.linspace(4, 60, 200)
    q = 4 * np.pi / WAVELENGTH * np.sin(np.radians(two_theta / 2))
    clean = 0.01 * direct.intensity(direct.block(salt, *CELLS), q, WAVELENGTH) + 40
    sigma = np.sqrt(clean)
    noisy = clean + sigma * np.random.default_rng(seed).normal(size=len(q))
    rows = zip(two_theta.tolist(), noisy.tolist(), sigma.tolist(), strict=True)
    return "".join(f"{a!r} {i!r} {s!r}\n" for a, i, s in rows)


@pytest.fixture(scope="session")
def pattern_text():
    return direct_pattern(TRUTH, 1)


@pytest.fixture(scope="session")
def pattern_of():
    """The function direct_pattern(truth, seed)."""
    return direct_pattern


@pytest.fixture(scope="session")
def write_case(pattern_text):
    """A function that writes a document and its files into a folder; the document's path."""
    def write(folder, changes=None, *, cif=CIF, pattern=pattern_text):
        (folder / "CsCl.cif").write_text(cif)
        (folder / "salt.xye").write_text(pattern)
        path = folder / "model.yaml"
        path.write_text(yaml.safe_dump(copy.deepcopy(DOCUMENT) | (changes or {})))
        return path

    return write


@pytest.fixture(scope="session")
def case_nodes(write_case, tmp_path_factory):
    """A function: the inputs (model, pattern, structures[, blanks]) of the case, with changes."""
    from aiida.orm import Dict

    from aiida_dse.data.jobs import job_document, nodes_of_document
    from aiida_dse.documents import load_document

    def make(changes=None):
        path = write_case(tmp_path_factory.mktemp("case"), changes)
        document = load_document(path)
        nodes = nodes_of_document(document, path.parent)
        return {"model": Dict(job_document(document, nodes)), **nodes.inputs()}

    return make


@pytest.fixture(scope="session")
def computer(aiida_profile, tmp_path_factory):
    """This computer, without a queue."""
    from aiida.orm import Computer

    found = Computer(
        label="localhost", hostname="localhost", transport_type="core.local",
        scheduler_type="core.direct", workdir=str(tmp_path_factory.mktemp("scratch")),
    ).store()
    found.set_minimum_job_poll_interval(0.3)
    found.set_default_mpiprocs_per_machine(1)
    found.configure(safe_interval=0, use_login_shell=False)
    return found


@pytest.fixture(scope="session")
def make_code(computer):
    """A function: an InstalledCode of dse-engine with some shell lines in front."""
    from aiida.orm import InstalledCode

    def make(label, prepend_text=""):
        return InstalledCode(
            label=label, computer=computer, prepend_text=prepend_text,
            filepath_executable=str(Path(sys.executable).with_name("dse-engine")),
        ).store()

    return make


@pytest.fixture(scope="session")
def code(make_code):
    return make_code("dse-engine")


@pytest.fixture(scope="session")
def in_order():
    """A function that waits until the broker counts both workers, which it does every 5 s.

    What is submitted before waits in the queue, so only a test about workers needs this.
    """
    from aiida_dse.cli.daemon import workers_of_daemon

    def both(profile):
        workers = workers_of_daemon(profile)
        return workers is not None and (workers.counted, workers.running) == (2, 2)

    def wait(profile):
        wait_until(lambda: both(profile), lambda: str(workers_of_daemon(profile)), seconds=60,
                   every=0.2)

    return wait


@pytest.fixture(scope="session")
def start_anew(aiida_profile):
    """A function: stop the daemon, if it runs, and start it, as 'verdi daemon restart' does.

    `meanwhile` is called while no daemon runs.
    """
    from aiida.manage import get_manager

    from aiida_dse.cli.daemon_start import empty_folder

    def restart(client, meanwhile=None):
        # the client's restart_daemon leaves the broker as it is
        if client.is_daemon_running:
            client.stop_daemon(wait=True)
        wait_until(lambda: not client.is_daemon_running, lambda: "the daemon still runs",
                   seconds=60)
        # with the daemon goes its broker: this process must not go on talking to the old one
        manager = get_manager()
        manager.reset_broker()
        manager.reset_runner()
        if meanwhile is not None:
            meanwhile()
        # AiiDA's broker may delete the content of the folder in which the daemon was started
        with contextlib.chdir(empty_folder()):
            client.start_daemon(number_workers=2)

    return restart


@pytest.fixture(scope="module")
def started(daemon_client, start_anew):  # noqa: F811
    """The daemon's client, running."""
    if not daemon_client.is_daemon_running:
        start_anew(daemon_client)
    return daemon_client


@pytest.fixture(scope="session")
def long_maps():
    """A context in which every map is estimated to be so long that it is divided into tiles."""
    from contextlib import contextmanager

    from aiida_dse.tasks import estimate

    @contextmanager
    def lasting():
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(estimate, "NOMINAL_SPEED", 1e3)
            yield

    return lasting


@pytest.fixture
def mortal(started, start_anew, aiida_profile, in_order):
    """The daemon's client for a test that kills workers; other tests get a daemon started anew."""
    in_order(aiida_profile)
    yield started
    start_anew(started)


@pytest.fixture(scope="session")
def workers_of():
    """A function: the process ids of the daemon's two workers."""
    def ask(client):
        # a busy circus answers late
        info = wait_until(lambda: client.get_worker_info().get("info"),
                          lambda: str(client.get_worker_info()), seconds=60)
        workers = [int(pid) for pid in info]
        assert len(workers) == 2
        return workers

    return ask


@pytest.fixture(scope="session")
def finish():
    """A function that waits until a process has ended; the error contains its report.

    The limit is the time in which nothing changes in any process of the profile.
    """
    from aiida.cmdline.utils.common import get_workchain_report
    from aiida.orm import ProcessNode, QueryBuilder, WorkChainNode

    def last_change():
        query = QueryBuilder().append(ProcessNode, project="mtime")
        return query.order_by({ProcessNode: {"mtime": "desc"}}).limit(1).first(flat=True)

    def wait(node, seconds=120):
        def report():
            detail = get_workchain_report(node, "REPORT") if isinstance(
                node, WorkChainNode) else node.process_state
            return f"{node} has not ended: {detail}"

        wait_until(lambda: node.is_terminated, report, seconds, progress=last_change)
        return node

    return wait


@pytest.fixture(scope="session")
def case():
    """The constants of the case."""
    return SimpleNamespace(
        cif=CIF, document=DOCUMENT, scan=SCAN, truth=TRUTH, wavelength=WAVELENGTH, cells=CELLS
    )
