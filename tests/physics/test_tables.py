"""Values of xraydb's tables: the same with the cache as without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xraydb
from numpy.testing import assert_allclose

from aiida_dse.engine.scattering import tables
from aiida_dse.engine.scattering.form_factors import scattering_factor
from aiida_dse.engine.units import photon_energy


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A new cache in an empty folder; returns the file."""
    monkeypatch.setattr(tables.config, "CACHE_DIR", str(tmp_path / "numba"), raising=False)
    monkeypatch.setattr(tables, "_values", tables._Values())
    return tmp_path / "numba" / "aiida-dse-tables.json"


def again(monkeypatch):
    """As in a new process, in which xraydb must not be used."""
    monkeypatch.setattr(tables, "_values", tables._Values())
    for name in ("f0_ions", "f1_chantler", "f2_chantler", "get_xraydb"):
        monkeypatch.setattr(xraydb, name, lambda *_: pytest.fail("xraydb was used"))


@pytest.mark.parametrize("ion", ["Cs1+", "Pb2+", "S", "U"])
def test_cached_values_are_those_of_xraydb(cache, monkeypatch, ion):
    q = np.linspace(0.2, 30, 200)
    element, energy = tables.ions(ion[:2].strip("12"))[0], photon_energy(0.56)
    expected = xraydb.f0(ion, q / (4 * np.pi)) + xraydb.f1_chantler(element, energy)
    imaginary = xraydb.f2_chantler(element, energy)
    fresh, version = scattering_factor(ion, q, 0.56), tables.tables_version()
    again(monkeypatch)
    for found in (fresh, scattering_factor(ion, q, 0.56)):
        assert_allclose(found.real, expected, rtol=1e-9)
        assert found.imaginary == pytest.approx(float(imaginary), rel=1e-6)
    assert tables.tables_version() == version and version[0].isdigit()


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b'{"source": 1}', b"\xff\xfe", b'{"source": "SOURCE", "values": [1]}',
    b'{"source": "4.0 1 2", "values": {"ions Cs": ["Zz"]}}'])
def test_a_cache_that_does_not_fit_is_made_again(cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content.replace(b"SOURCE", tables._Values._source().encode()))
    assert tables.ions("Cs") == ("Cs", "Cs1+")
    stored = json.loads(cache.read_text())
    assert stored["source"] == tables._Values._source()
    assert stored["values"]["ions Cs"] == ["Cs", "Cs1+"]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tables.config, "CACHE_DIR", str(tmp_path / "file" / "folder"), raising=False)
    monkeypatch.setattr(tables, "_values", tables._Values())
    assert tables.ions("Pb")[0] == "Pb" and tables.ions("Xx") == ()


def test_a_job_with_a_filled_cache_does_not_load_xraydb(tmp_path):
    code = ("import sys, numpy as np\n"
            "from aiida_dse.engine.scattering.form_factors import scattering_factor\n"
            "scattering_factor('Br1-', np.linspace(1, 9, 5), 0.7)\n"
            "print('xraydb' in sys.modules)")
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    found = [subprocess.run([sys.executable, "-c", code], env=environment, text=True, check=True,
                            capture_output=True).stdout.strip() for _ in range(2)]
    assert found == ["True", "False"]
