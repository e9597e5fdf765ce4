"""Generated bad inputs of every kind that the commands read. Each case follows from a seed.

A case writes its files into a folder and returns the arguments of dse-engine, or a list of those of
aiida-dse. The command may accept
or refuse the input; it must not end in a traceback, hang, or exhaust the memory (see fuzz.py).
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from click.testing import CliRunner

from aiida_dse.io.storage import sealed

DATA = Path(__file__).parents[1] / "data"
OLD = DATA / "documents_0_1"
#: Numbers, texts and other values that are often outside what a program expects.
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.0, -0.0, 1e-320, 1e308, -1e308, float("nan"),
    float("inf"), float("-inf"), "", " ", "x", "*", "?", "[", "a" * 300, "é\u202e", "a\x00b", "\x1b[31m",
    "../../../etc/passwd", "/dev/zero", "/", ".", "1,5", "7 nm", "1e", "nan", "[]", "__import__('os')", "P.a",
    "**/**", [], [[]], [0], [1, 2], ["x"], [None], {}, {"": 0}, {"x": {}}, {"mean": 1, "sd": 1e300},
    {"value": "x"}, {"lower": 5, "upper": 1}, [[1, 0]], [["x"] * 50], "a" * 5000, [1e308] * 3, "2theta", "q",
]
#: Caesium chloride in the files of other programs.
CRYSTALS = {
    "POSCAR": "salt\n1.0\n4.12 0 0\n0 4.12 0\n0 0 4.12\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n",
    "x.extxyz": '2\nLattice="4.12 0 0 0 4.12 0 0 0 4.12" Properties=species:S:1:pos:R:3 pbc="T T T"\n'
                "Cs 0 0 0\nCl 2.06 2.06 2.06\n",
    "x.xsf": "CRYSTAL\nPRIMVEC\n4.12 0 0\n0 4.12 0\n0 0 4.12\nPRIMCOORD\n2 1\n55 0 0 0\n17 2.06 2.06 2.06\n",
    "x.gen": "2 F\nCs Cl\n1 1 0 0 0\n2 2 0.5 0.5 0.5\n0 0 0\n4.12 0 0\n0 4.12 0\n0 0 4.12\n",
}
MODEL: dict[str, Any] = {
    "schema": "aiida-dse/model/2", "title": "x", "sample": {
        "name": "s", "ligand": "l", "state": "powder", "temperature": 300, "tags": {"a": 1, "b": "c"}},
    "pattern": {"file": "salt.xye", "axis": "q_inverse_nm", "wavelength": 0.7093, "sigma": "column",
                "range": [7, 80], "exclude": [[20, 22]], "every": 2, "polarisation": "none",
                "intensity_column": 2, "sigma_column": 3},
    "phases": {"P": {"structure": "salt.cif", "termination": [0, 0, 0.1], "ions": {"Cs": "Cs1+"},
                     "B_iso": {"Cs": 1.0}, "exclusion_distance": 1.2,
                     "particle": {"shape": "parallelepiped", "L_ab": {"mean": 2, "sd": 0.4},
                                  "L_c": {"mean": 2.2, "sd": 0.3}, "largest": 9, "size_axes_rotation": 5}},
               "S": {"structure": "salt.cif", "particle": {
                   "shape": "sphere", "D": {"mean": 1.5, "sd": 0.2}, "centre": "Cs1", "whole_cells": False}},
               "Q": {"structure": "salt.cif", "particle": {"shape": "quasi_cube",
                                                           "L": {"mean": 1.6, "sd": 0.2}}},
               "X": {"atoms": "salt.xyz", "B_iso": {"Cs": 1.0, "Cl": 1.0}},
               "H": {"distances": "salt.h5"}},
    "background": {"chebyshev": 2, "inverse_q": [1], "blanks": {"air": {
        "file": "salt.xye", "axis": "q_inverse_nm", "wavelength": 0.7093, "sigma": "column"}}},
    "parameters": {"P.a": 4.12, "P.Cs1.B_iso": {"value": 1.1, "lower": 0.5, "upper": 3}},
    "constraints": {"S.a": "P.a", "Q.Cs1.B_iso": "2 * P.Cs1.B_iso + sqrt(1)"},
    "scales": {"X": 0.0, "H": 0.0}, "tolerance": 1e-4,
    "refinement": {"stages": [["P.a"], ["P.*.B_iso"]], "starts": 2, "seed": 1, "max_cycles": 5,
                   "tolerance": 0.1, "weights": "observed", "method": "least_squares"},
    "restraints": [{"distance": ["Cs1", "Cl1"], "phase": "P", "target": 3.5, "sigma": 0.1},
                   {"parameter": "P.Cl1.B_iso", "target": 2, "sigma": 1}],
    "scan": {"axes": [{"parameter": "P.a", "values": [4.1, 4.2]},
                      {"parameter": "P.Cl1.B_iso", "start": 1, "stop": 2, "step": 0.5}], "refine": ["P.Cs1.B_iso"]},
    "uncertainty": {"profile": ["P.a"], "bootstrap": {"samples": 3},
                    "posterior": {"steps": 5, "walkers": 40}},
    "derived": {"P": {"distances": [["Cs1", "Cl1"]], "angles": [["Cl1", "Cs1", "Cl1"]], "cutoff": 4.0}},
}

_LAW = {"mean": 1.8, "sd": 0.2}
#: Particles and disorder of every kind, for the same files.
SHAPES: dict[str, Any] = {
    "N": {"shape": "sphere", "D": _LAW | {"law": "normal"}},
    "G": {"shape": "quasi_cube", "L": _LAW | {"law": "histogram", "range": [1.2, 2.6], "points": 6, "smoothness": 1.0}},
    "E": {"shape": "ellipsoid", "D": _LAW, "aspect_2": 1.2, "axes": [[1, 1, 0], [0, 0, 1]]},
    "C": {"shape": "cylinder", "D": _LAW, "H": 1.7, "axis": [1, 1, 1]},
    "B": {"shape": "box", "L_12": _LAW, "L_3": 1.5, "axes": [[1, 1, 0], [-1, 1, 0], [0, 0, 1]]},
    "O": {"shape": "octahedron", "L_edge": 2.2, "largest": None, "centre": "Cs1"},
    "T": {"shape": "truncated_cube", "L_edge": _LAW, "truncation": 0.2},
    "W": {"shape": "polyhedron", "D": 2.0, "forms": [{"hkl": [1, 1, 1], "distance": 1.0},
                                                    {"hkl": [1, 0, 0], "distance": 1.1}]},
    "L": {"shape": "core_shell", "D": 2.0, "layers": [{"thickness": 0.3, "occupancy": {"Cl1": 0.5}}],
          "core": {"Cs1": 0.9}},
}
DISORDERED = MODEL | {
    "phases": {name: {"structure": "salt.cif", "particle": particle} for name, particle in SHAPES.items()} | {
        "P": {"structure": "salt.cif", "particle": MODEL["phases"]["P"]["particle"],
              "displacements": {"Cs": "anisotropic", "Cl1": {"model": "anisotropic"}},
              "correlated_motion": {"delta_2": 1.5}},
        "F": {"structure": "salt.cif", "particle": {
            "shape": "parallelepiped", "cells": [3, 2, 2], "extension": [0.1, 0.0, 0.6]}},
        "A": {"structure": "salt.cif", "particle": {"shape": "quasi_cube", "L": _LAW},
              "size_laws": {"a": {"change": 0.01, "size": 2.0}, "Cl1.B_iso": {"change": 0.5, "decay": 1.5}}},
        "S": {"structure": "salt.cif", "particle": {"shape": "parallelepiped", "cells": [3, 3, 3]},
              "split": {"sites": {"Cl1": {"direction": [1, 1, 0], "amplitude": 0.2, "fixed": True}},
                        "correlation": [0.0, 0.5, 1.0], "parent_lattice": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}}},
    "parameters": {"E.a": 4.12, "O.Cs1.B_iso": 1.2}, "constraints": {"E.aspect_3": "E.aspect_2"},
    "scales": {}, "restraints": [], "derived": {}, "refinement": {"stages": [["E.a", "P.delta_2"], ["*.U_*"]]},
    "scan": {"axes": [{"parameter": "P.Cl1.U_11", "values": [0.02, 0.03]}]}, "uncertainty": None,
}

#: An instrument and corrections of every kind, with large crystals.
MEASURED = MODEL | {
    "pattern": MODEL["pattern"] | {
        "polarisation": {"source": "laboratory", "monochromator": 26.6, "crystal": "mosaic"}, "compton": "counting",
        "absorption": {"composition": "CsCl", "density": 1.5, "diameter": 0.5}, "corrected": [],
        "instrument": {
            "lines": [{"wavelength": 0.7093, "weight": 1.0}, {"wavelength": 0.7136, "weight": 0.5}], "zero": 0.01,
            "displacement": {"along": 0.1, "across": -0.1, "radius": 150.0},
            "profile": {"shape": "tch", "U": 0.001, "V": -0.001, "W": 0.02, "P": 0.001, "X": 0.01, "Y": 0.02,
                        "q_width": 0.02},
            "axial_divergence": {"sample": 0.02, "detector": 0.03},
            "capillary": {"diameter": 0.5, "radius": 150.0}}},
    "phases": {"P": MODEL["phases"]["P"], "I": {"structure": "salt.cif", "bulk": {"size": 50.0, "strain": 0.001}}},
    "parameters": {"P.a": 4.12, "instrument.zero": {"value": 0.02, "lower": -0.1, "upper": 0.1}},
    "constraints": {"I.a": "P.a"}, "scales": {}, "restraints": [], "uncertainty": None,
    "refinement": {"stages": [["P.a", "instrument.zero"], ["instrument.W", "I.size"]]},
    "scan": {"axes": [{"parameter": "instrument.X", "values": [0.01, 0.02]}]},
}


def write_files(folder: Path) -> None:
    """The files to which MODEL refers."""
    for name, source in (("salt.cif", "CsCl.cif"), ("salt.xyz", "CsCl.xyz"), ("salt.h5", "salt.distances.h5"),
                         ("salt.xye", "CsCl_L.xye")):
        shutil.copy(OLD / source, folder / name)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = []
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def changed(draw: random.Random, content: Any, times: int) -> Any:
    """The content with values replaced, removed, renamed or moved."""
    content = copy.deepcopy(content)
    for _ in range(times):
        path = draw.choice(places(content))
        parent, key = at(content, path[:-1]), path[-1]
        what = draw.random()
        if what < 0.6:
            parent[key] = copy.deepcopy(draw.choice(VALUES))
        elif what < 0.75:
            del parent[key]
        elif what < 0.85 and isinstance(parent, dict):
            parent[draw.choice([f"{key}s", str(key)[1:], "x", "", "é"])] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(at(content, draw.choice(places(content))))
        if not content or not places(content):
            break
    return content


def bytes_changed(draw: random.Random, content: bytes, times: int) -> bytes:
    """The bytes with some replaced, inserted, removed, repeated or cut off."""
    found = bytearray(content)
    for _ in range(times):
        k = draw.randrange(len(found) + 1)
        what = draw.random()
        if what < 0.4 and k < len(found):
            found[k] = draw.randrange(256)
        elif what < 0.7:
            found[k:k] = draw.choice([
                b"\n", b" ", b"\t", b"-", b"e", b"#", b"'", b'"', b"nan", b"1e400", b"&a ", b"*a", b"!!int ",
                b"{", b"[", b"]", b": ", b"? ", b"<<: ", b"\x00", b"\xff", b"loop_\n", b"data_\n", b";\n", b"9" * 40])
        elif what < 0.85:
            del found[k: k + draw.randrange(30)]
        elif what < 0.95:
            found[k:k] = found[k: k + draw.randrange(200)] * draw.randrange(3)
        else:
            del found[k:]
        if not found:
            break
    return bytes(found)


def documents(draw: random.Random, folder: Path) -> list[str]:
    write_files(folder)
    (folder / "m.json").write_text(json.dumps(changed(
        draw, draw.choice([MODEL, DISORDERED, MEASURED]), draw.randint(1, 3))))
    return ["validate", str(folder / "m.json")]


SIMULTANEOUS: dict[str, Any] = {
    "schema": "aiida-dse/simultaneous/2", "title": "x",
    "model": {"phases": {"P": MODEL["phases"]["Q"]},
              "pattern": {"axis": "q_inverse_nm", "wavelength": 0.7093, "sigma": "column"},
              "background": {"chebyshev": 2}, "constraints": {"P.Cs1.B_iso": "P.Cl1.B_iso + 0.1"}},
    "patterns": {"one": {"pattern": {"file": "salt.xye"}, "sample": {"name": "s", "temperature": 100},
                         "parameters": {"P.a": 4.11}},
                 "two": {"pattern": {"file": "salt.xye", "range": [7, 70]}, "sample": {"temperature": 200},
                         "parameters": {"P.a": {"value": 4.12, "lower": 4, "upper": 4.3}}}},
    "shared": ["P.L", "P.sd_*"], "parameters": {"global.a0": 4.12, "global.k": {"value": 1e-5, "upper": 1}},
    "parametric_constraints": {"P.a": "global.a0 * (1 + global.k * (sample.temperature - 150))"},
    "refinement": {"stages": [["P.a", "global.a0"], ["P.*.B_iso"]], "max_cycles": 3},
}
STUDY: dict[str, Any] = {
    "schema": "aiida-dse/study/2", "name": "small study",
    "defaults": {
        "schema": "aiida-dse/model/2", "sample": {"ligand": "l", "state": "powder", "tags": {"batch": "9"}},
        "pattern": {"axis": "q_inverse_nm", "wavelength": 0.7093, "sigma": "column"},
        "phases": {"P": MODEL["phases"]["Q"]}, "background": {"chebyshev": 1},
        "refinement": {"stages": [["P.a"], ["P.*.B_iso"]]},
        "derived": {"P": {"distances": [["Cs1", "Cl1"]], "pseudo_cubic": True}}},
    "samples": {name: {"title": name, "pattern": {"file": "salt.xye"}, "sample": {"name": name, "temperature": t}}
                for name, t in (("T100", 100), ("T200", 200), ("L05", 298), ("L07", 298))},
    "series": {
        "cooling": {"kind": "temperature", "samples": "T*", "options": {
            "mode": "sequential", "anchor": "T200", "on_failure": "skip",
            "analysis": {"reference_temperature": 300, "masses": {"Cs1": 133}, "max_gof": 3},
            "simultaneous": {
                "shared": ["P.L"], "parameters": {"global.a0": 4.1, "global.k": 3e-5},
                "parametric_constraints": {"P.a": "global.a0 * (1 + global.k * sample.temperature)"},
                "refinement": {"stages": [["P.a", "P.L"]]}}}},
        "sizes": {"kind": "size", "samples": ["L05", "L07"], "options": {"analysis": {
            "bulk": {"volume": 70.1, "source": "x"}, "bulk_modulus": {"value": 15.0, "source": "x"}}}}},
    "maps": [{"sample": "L05", "name": "edges", "axes": [
        {"parameter": "P.a", "start": 4.1, "stop": 4.2, "step": 0.05}]}],
    "compare": [{"sample": "L05", "name": "background", "models": {
        "flat": {}, "curved": {"background": {"chebyshev": 3}}}}],
}
#: Parts of expressions, valid and not.
WORDS = ["P.a", "P.Cl1.B_iso", "P.*", "global.a0", "sample.temperature", "sqrt(", "exp(", "log(", "abs(", "(", ")",
         "+", "-", "*", "/", "**", "%", "@", ",", "[", "]", "0", "1", "2.5", "1e308", "1e-320", "9" * 30, "x", "p0_",
         "lambda: 1", "__import__('os')", "().__class__", "if", "'a'", "\\", "\n", "#", "\u00e9", "=", "==", "<", " "]


def simultaneous(draw: random.Random, folder: Path) -> list[str]:
    write_files(folder)
    (folder / "m.json").write_text(json.dumps(changed(draw, SIMULTANEOUS, draw.randint(1, 3))))
    return ["validate", str(folder / "m.json")]


def studies(draw: random.Random, folder: Path) -> list[list[str]]:
    write_files(folder)
    (folder / "m.json").write_text(json.dumps(changed(draw, STUDY, draw.randint(1, 3))))
    return [["launch", draw.choice(["study", "study", "series"]), str(folder / "m.json"), "--dry-run"]]


def expression(draw: random.Random) -> str:
    """An expression of a constraint: of mixed parts, deeply nested, or long."""
    what = draw.random()
    if what < 0.7:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 12)))
    n = draw.choice([10, 100, 3000, 100_000])
    return draw.choice(["(" * n + "P.a" + ")" * n, "-" * n + "P.a", "P.a" + " + P.a" * n, "2 ** " * n + "2",
                        "a" * n, "P." + "a" * n, "P.a + " * n, "sqrt(" * n + "2" + ")" * n, "9" * n])


def constraints(draw: random.Random, folder: Path) -> list[str]:
    """Constraints, parametric constraints, and wildcards of stages and shared parameters."""
    write_files(folder)
    if draw.random() < 0.5:
        content = copy.deepcopy(SIMULTANEOUS)
        where = draw.choice([content["parametric_constraints"], content["model"]["constraints"]])
        where[draw.choice(["P.a", "P.Cs1.B_iso", "P.L"])] = expression(draw)
        content["shared"] = [draw.choice(
            ["P.L", "*" * 1000, "*?" * 2000, "[" * 500, "P.[!a]*", "[a-", expression(draw)])]
        (folder / "m.json").write_text(json.dumps(content))
        return ["validate", str(folder / "m.json")]
    pattern = draw.choice(["P.*", "*a" * 3000, "?" * 100_000, "[" * 500, "[!P]*", "**", expression(draw)])
    return small_model(
        folder, constraints={draw.choice(["P.a", "P.Cs1.B_iso", "P.b", expression(draw)]): expression(draw)},
        refinement={"stages": [["P.a"], [pattern]]})


def yaml_texts(draw: random.Random, folder: Path) -> list[str]:
    write_files(folder)
    text = yaml.safe_dump(MODEL, sort_keys=False, allow_unicode=True).encode()
    (folder / "m.yaml").write_bytes(bytes_changed(draw, text, draw.randint(1, 6)))
    return ["validate", str(folder / "m.yaml")]


def small_model(folder: Path, **changes: Any) -> list[str]:
    content = copy.deepcopy(MODEL) | {"scan": None, "uncertainty": None, "derived": {}, "restraints": [],
                                      "constraints": {}, "parameters": {}, "scales": {},
                                      "background": {"chebyshev": 1}, "refinement": None}
    content["phases"] = {"P": MODEL["phases"]["Q"]}
    content["pattern"] = {"file": "salt.xye", "axis": "q_inverse_nm", "wavelength": 0.7093,
                          "sigma": "column"}
    content |= changes
    (folder / "m.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return ["validate", str(folder / "m.json")]


def patterns(draw: random.Random, folder: Path) -> list[str]:
    write_files(folder)
    source = draw.choice([OLD / "CsCl_L.xye", *sorted((DATA / "field_cases").glob("F1[0-3]*/*"))])
    content = source.read_bytes() if source.is_file() else b""
    if draw.random() < 0.3:
        rows = np.array([draw.choice([0.1, 1.0, -1.0, 1e300, np.nan, np.inf, 5e-324])
                         for _ in range(60)]).reshape(-1, 3)
        content = "\n".join(" ".join(map(str, row)) for row in rows).encode()
    name = draw.choice(["p.xye", "p.chi", "p.ras", "p.xrdml", "p.nxs", "p.h5", "p.fxye", "p.uxd", "p.csv", "p"])
    (folder / name).write_bytes(bytes_changed(draw, content, draw.randint(0, 8)))
    return small_model(folder, pattern={
        "file": name, "axis": draw.choice([None, "two_theta", "q_inverse_angstrom", "q_inverse_nm"]),
        "wavelength": draw.choice([None, 0.7093, 1.54]),
        "sigma": draw.choice([None, "column", "counts", "5 %", "counts / 3"])})


def structures(draw: random.Random, folder: Path) -> list[str]:
    write_files(folder)
    times = draw.randint(1, 8)
    if draw.random() < 0.3:
        content = bytes_changed(draw, (OLD / "CsCl.xyz").read_bytes(), times)
        (folder / "x.xyz").write_bytes(content)
        return small_model(folder, phases={"X": {"atoms": "x.xyz", "B_iso": {"Cs": 1.0, "Cl": 1.0}}})
    if draw.random() < 0.4:
        name, text = draw.choice(sorted(CRYSTALS.items()))
        (folder / name).write_bytes(bytes_changed(draw, text.encode(), times))
        return small_model(folder, phases={"P": {"structure": name, "B_iso": {"Cs": 1.0, "Cl": 1.0},
                                                 "particle": MODEL["phases"]["P"]["particle"]}})
    source = draw.choice(sorted(path for path in DATA.rglob("*.cif") if path.stat().st_size < 20_000))
    (folder / "x.cif").write_bytes(bytes_changed(draw, source.read_bytes(), times))
    particle = draw.choice([p["particle"] for p in MODEL["phases"].values() if "particle" in p])
    return small_model(folder, phases={"P": {"structure": "x.cif", "particle": particle}})


def stores(draw: random.Random, folder: Path) -> list[str]:
    write_files(folder)
    path = folder / "salt.h5"
    if draw.random() < 0.4:
        path.write_bytes(bytes_changed(draw, sealed(path.read_bytes()), draw.randint(1, 6)))
    else:
        with h5py.File(path, "a") as file:
            for _ in range(draw.randint(1, 2)):
                key = draw.choice([*file, *file.attrs])
                value = draw.choice([
                    1.5, "text", np.arange(3), np.full((2, 2), np.nan), np.array([b"a", b"a"]), h5py.Empty("f8"),
                    np.array([1e308] * 2), "[" * 200, "{}", '{"values": {"a": "x"}}', np.array([b"\x1b[31m"]),
                    np.zeros((0,)), np.int64(-1), np.array([True])])
                if key in file.attrs:
                    file.attrs[key] = value
                else:
                    del file[key]
                    if draw.random() < 0.9:
                        file[key] = value
                    else:
                        file[key] = draw.choice([h5py.SoftLink("/r"), h5py.ExternalLink("/etc/passwd", "/x")])
        path.write_bytes(sealed(path.read_bytes()))
    return small_model(folder, phases={"H": {"distances": "salt.h5"}})


def results(draw: random.Random, folder: Path, made: Path) -> list[str]:
    """A result whose content was changed and signed again, or whose files were damaged."""
    from aiida_dse.io import results as results_

    for name in ("one", "two"):
        shutil.copytree(made, folder / name)
    write_files(folder)
    path = folder / "one" / "result.json"
    if draw.random() < 0.7:
        content = json.loads(path.read_text())
        del content["signature"]
        content = changed(draw, content, draw.randint(1, 3))
        digest = results_._digest_of(folder / "one" / "result.h5")
        content["signature"] = results_._signature(content, digest)
        path.write_text(json.dumps(content))
    else:
        path = folder / "one" / draw.choice(["result.json", "result.h5"])
        path.write_bytes(bytes_changed(draw, path.read_bytes(), draw.randint(1, 4)))
    return ["compare", str(folder / "one"), f"b={folder / 'two'}", "-o", str(folder / "out"), "--quiet"]


def command_lines(draw: random.Random, folder: Path) -> list[str]:
    write_files(folder)
    small_model(folder)
    words = ["m.json", "nowhere", ".", "", "-", "--", "é", "a" * 300, "x=m.json", "..=m.json", "=m.json", "out"]
    options = ["--threads", "--walltime", "-o", "--output", "--quiet", "--schema", "--continue", "--help", "-x",
               "--all", "--version"]
    numbers = ["0", "-1", "1", "nan", "inf", "1e9", "1e30", "x", "0.5", ""]
    command = draw.choice(["validate", "upgrade", "compare", "terminations", "plot", "refine", "simulate"])
    arguments = [draw.choice(words) if draw.random() < 0.5 else draw.choice(
        options if draw.random() < 0.6 else numbers) for _ in range(draw.randint(0, 5))]
    given = [str(folder / word) if word in ("m.json", "out") else word for word in arguments]
    return [command, *given, *(["-o", str(folder / "o")] if command in ("refine", "simulate") else [])]


#: Values for the columns of nodes other than their attributes.
COLUMNS = {"label": ["", "\x1b[31m"], "process_type": ["", "aiida.workflows:dse.refine"], "node_type": ["", "x"],
           "extras": ["[]", '"x"', "{"], "attributes": ["[]", '"x"', "{", "{}"], "ctime": ["", "x"], "uuid": ["x"],
           "repository_metadata": ["{}", '{"o": {"x": {"k": "0"}}}', "[]"]}
LINKS = ["call_calc", "call_work", "create", "input_calc", "input_work", "return", "x"]


def archives(draw: random.Random, folder: Path) -> list[list[str]]:
    """An archive of AiiDA whose nodes and links were changed; several commands look into it."""
    with zipfile.ZipFile(DATA / "archive_0_1_0.aiida") as archive:
        archive.extractall(folder / "x")
    database = folder / "x" / "db.sqlite3"
    connection = sqlite3.connect(database)
    rows = connection.execute("select id, attributes from db_dbnode").fetchall()
    for _ in range(draw.randint(1, 3)):
        pk, attributes = draw.choice(rows)
        what = draw.random()
        with contextlib.suppress(sqlite3.Error):
            if what < 0.6 and json.loads(attributes or "{}"):
                text = json.dumps(changed(draw, json.loads(attributes), draw.randint(1, 3)))
                connection.execute("update db_dbnode set attributes = ? where id = ?", (text, pk))
            elif what < 0.8:
                column = draw.choice(sorted(COLUMNS))
                connection.execute(f"update db_dbnode set {column} = ? where id = ?",
                                   (draw.choice(COLUMNS[column]), pk))
            else:
                connection.execute(
                    "insert into db_dblink (input_id, output_id, label, type) values (?, ?, 'x', ?)",
                    (pk, draw.choice(rows)[0], draw.choice(LINKS)))
    if draw.random() < 0.05:  # a table that is a query without an end
        with contextlib.suppress(sqlite3.Error):
            connection.execute("alter table db_dbnode rename to nodes")
            connection.execute("create view db_dbnode as with recursive n(i) as (select 1 union all select i + 1 "
                               "from n) select nodes.* from nodes, n")
    connection.commit()
    connection.close()
    if draw.random() < 0.02:
        (folder / "x" / "metadata.json").write_text(" " * 200_000_000)
    if draw.random() < 0.1:
        database.write_bytes(bytes_changed(draw, database.read_bytes(), draw.randint(1, 4)))
    file = folder / "a.aiida"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "x").rglob("*")):
            if path.is_file() and (path.name in ("metadata.json", "db.sqlite3") or draw.random() < 0.99):
                archive.write(path, str(path.relative_to(folder / "x")))
    pk = str(draw.choice(rows)[0])
    more = ["--archive", str(file)]
    return [["list", *more], ["query", *more], [draw.choice(["show", "trace"]), pk, *more],
            ["plot", pk, *more, "-o", str(folder / "o.png")], ["import", str(file)], ["list"], ["query"]]


KINDS = {"documents": documents, "yaml": yaml_texts, "patterns": patterns, "structures": structures,
         "stores": stores, "results": results, "command lines": command_lines, "archives": archives,
         "simultaneous": simultaneous, "constraints": constraints, "studies": studies}
#: Kinds that are commands of aiida-dse; loading AiiDA takes longer than a case.
WITH_AIIDA = ("archives", "studies")


def make_result(folder: Path) -> Path:
    """A small refinement, whose result the cases of 'results' change."""
    from aiida_dse.documents import load_document
    from aiida_dse.io.results import write_result
    from aiida_dse.tasks.build import build
    from aiida_dse.tasks.run import run_refine

    write_files(folder)
    small_model(folder, refinement={"stages": [["P.a"], ["P.*.B_iso"]], "max_cycles": 3})
    write_result(run_refine(build(load_document(folder / "m.json"), folder)), folder / "made")
    return folder / "made"


def compile_kernels(folder: Path) -> None:
    """Compile what the models of the cases require, so that it is not part of the time of a case."""
    from aiida_dse.cli.engine import main

    write_files(folder)
    for model in (MODEL, DISORDERED, MEASURED):
        (folder / "m.json").write_text(json.dumps(model))
        outcome = CliRunner().invoke(main, ["validate", str(folder / "m.json")])
        assert outcome.exit_code == 0, outcome.output
