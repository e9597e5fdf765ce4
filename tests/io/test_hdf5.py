"""HDF5 files from other people: they can neither read other files nor exhaust the memory."""

from __future__ import annotations

import fcntl
import json
import re

import h5py
import numpy as np
import pytest

from aiida_dse.engine.model.fixed_geometry import PairDistances
from aiida_dse.io import hdf5
from aiida_dse.io.distances import read_distances, write_distances
from aiida_dse.io.patterns import read_pattern
from aiida_dse.io.results import read_arrays
from aiida_dse.io.storage import BLOCK


def secret(path):
    (path.parent / "secret").write_bytes(b"root:x:0:0:root:/root:/bin/bash")
    with h5py.File(path.parent / "other.h5", "w") as file:
        file["numbers"] = np.arange(4.0)
        file["texts"] = np.array([b"secret text"])


def external_link(file):
    file["x"] = h5py.ExternalLink("other.h5", "/numbers")


def link_in_a_group(file):
    file.create_group("g")["x"] = h5py.ExternalLink("other.h5", "/texts")


def external_storage(file):
    file.create_dataset("x", (8,), dtype="S4", external=[("secret", 0, 32)])


def virtual_data(file):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource("other.h5", "numbers", shape=(4,))
    file.create_virtual_dataset("x", layout)


def soft_link(file):
    file["x"] = h5py.SoftLink("/y")


def loop(file):
    file.create_group("a/b")
    file["a/b/c"] = file["a"]


def bomb(file):
    file.create_dataset("x", (400_000_000,), dtype="f8", chunks=(1_000_000,), compression="gzip")


def many(file):
    for k in range(50):
        file[f"x{k}"] = k


def deep(file):
    file.create_group("/".join("abcdefghijklmnopqrstuvwxyz"))


def objects(file):
    file["x"] = "a text of variable length"


def empty(file):
    file["x"] = h5py.Empty("f8")


CASES = [external_link, link_in_a_group, external_storage, virtual_data, soft_link, loop, bomb, many,
         deep, objects, empty]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_a_file_is_not_read_beyond_its_own_data(tmp_path, make, monkeypatch):
    path = tmp_path / "result.h5"
    secret(path)
    monkeypatch.setattr(hdf5, "MOST_ITEMS", 40)
    with h5py.File(path, "w") as file:
        file["good"] = np.arange(3.0)
        make(file)
    with pytest.raises(ValueError, match=r"^result\.h5") as refused:
        read_arrays(path)
    assert "secret" not in str(refused.value) and "root" not in str(refused.value)


def test_a_damaged_file_and_a_locked_one_differ(tmp_path):
    path = tmp_path / "result.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(1000.0)
    with path.open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="locked"):
            read_arrays(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="missing or damaged"):
        read_arrays(path)


STORED = PairDistances(("Cs", "Cl"), ("Cs1+", "Cl1-"), (1.0, 2.0), (1.0, 0.5), np.array([8.0, 1.0]),
                       np.ones((3, 40)), 0.02, {"L": 2.0}, {"values": {"a": 4.12}})


@pytest.fixture
def store(tmp_path):
    """Stored distances without a seal, like those of somebody who writes their own."""
    path = tmp_path / "P.h5"
    write_distances(STORED, path)
    path.write_bytes(path.read_bytes()[BLOCK:])
    return path


@pytest.mark.parametrize("place", [20, 600, -1])
def test_a_changed_byte_is_noticed_before_hdf5_reads_it(tmp_path, place):
    path = tmp_path / "P.h5"
    write_distances(STORED, path)
    assert read_distances(path).labels == STORED.labels
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"P\.h5 is damaged: it was changed"):
        read_distances(path)


def replaced(path, key, values):
    with h5py.File(path, "a") as file:
        del file[key]
        file[key] = np.array(values, dtype="S") if isinstance(values, list) and isinstance(
            values[0], bytes) else values


@pytest.mark.parametrize(("key", "values", "message"), [
    ("atoms", [-1.0, 2.0], "numbers of atoms must be positive"),
    ("atoms", [0.0, 2.0], "numbers of atoms must be positive"),
    ("labels", [b"Cs", b"Cs"], "must be different"),
    ("labels", [b"Cs.x", b"Cl"], "without blanks, dots"),
    ("labels", [b"", b"Cl"], "without blanks, dots"),
    ("labels", [b"\x1b[31mCs", b"Cl"], "without blanks, dots"),
    ("B", [1e308, 1.0], "B_iso between 0 and 100"),
    ("occupancy", [1.5, 1.0], "occupancies between 0 and 1"),
    ("weights", np.full((3, 40), np.nan), "not finite"),
    ("weights", np.ones((2, 40)), "channels"),
    ("ions", [1.0, 2.0], "cannot be read"),
    ("labels", 5.0, "cannot be read"),
])
def test_stored_distances_must_make_sense(store, key, values, message):
    replaced(store, key, values)
    with pytest.raises(ValueError, match=message):
        read_distances(store)


@pytest.mark.parametrize(("key", "value"), [
    ("step", 1e-300), ("step", float("nan")), ("step", "x"), ("sizes", "[1]"),
    ("sizes", '{"L": "x"}'), ("about", '{"values": {"a": []}}'), ("about", "[]"), ("about", "{"),
    ("about", "[" * 100_000),
], ids=lambda value: str(value)[:20])
def test_attributes_of_stored_distances_must_make_sense(store, key, value):
    with h5py.File(store, "a") as file:
        if len(str(value)) > 60_000:  # larger attributes need another storage
            value = value[:60_000]
        file.attrs[key] = value
    with pytest.raises(ValueError, match=re.escape(store.name) + "|step"):
        read_distances(store)


def test_an_external_label_does_not_become_a_parameter(store):
    (store.parent / "passwd").write_bytes(b"root:x:0daemon:x")
    with h5py.File(store, "a") as file:
        del file["labels"]
        file.create_dataset("labels", (2,), dtype="S8", external=[("passwd", 0, 16)])
    with pytest.raises(ValueError, match="lie in another file"):
        read_distances(store)


@pytest.mark.parametrize("where", ["signal", "axis", "group"])
def test_a_pattern_is_not_read_from_another_file(tmp_path, where):
    q = np.linspace(0.5, 9, 50)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        group = file.create_group("data")
        group.attrs.update({"NX_class": "NXdata", "signal": "I", "axes": "q"})
        group["q"], group["I"] = q, np.full(50, 100.0)
        group["q"].attrs["units"] = "1/angstrom"
    path = tmp_path / "p.nxs"
    with h5py.File(path, "w") as file:
        if where == "group":
            file.attrs["default"] = "data"
            file["data"] = h5py.ExternalLink("other.h5", "/data")
        else:
            group = file.create_group("data")
            group.attrs.update({"NX_class": "NXdata", "signal": "I", "axes": "q"})
            for name, values, external in (("q", q, where == "axis"),
                                           ("I", np.full(50, 100.0), where == "signal")):
                if external:
                    group[name] = h5py.ExternalLink("other.h5", f"/data/{name}")
                else:
                    group[name] = values
            if where == "signal":
                group["q"].attrs["units"] = "1/angstrom"
    with pytest.raises(ValueError, match="links to another file"):
        read_pattern(path, axis="q_inverse_angstrom", wavelength=0.5, sigma="counts")


def test_json_of_attributes_is_what_was_written(store):
    with h5py.File(store) as file:
        assert json.loads(file.attrs["sizes"]) == {"L": 2.0}
    assert read_distances(store).sizes == {"L": 2.0}
