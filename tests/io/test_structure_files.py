"""Crystals in the files of other programs, written here by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from cifs import cubic_cif
from numpy.testing import assert_allclose

from aiida_dse.documents import parse_document
from aiida_dse.io import structure_files
from aiida_dse.io.notes import collecting_notes
from aiida_dse.io.structure_files import read_structure
from aiida_dse.tasks.build import build
from aiida_dse.tasks.simulation import run_simulate

A = 5.64
NA = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
CL = [(0.5, 0.5, 0.5), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)]
ROWS = "\n".join("{:.6f} {:.6f} {:.6f}".format(*one) for one in [*NA, *CL])
CARTESIAN = [("Na", *(A * x for x in one)) for one in NA] + [("Cl", *(A * x for x in one)) for one in CL]
LATTICE = f"{A} 0 0 0 {A} 0 0 0 {A}"
POSCAR = f"salt\n1.0\n{A} 0 0\n0 {A} 0\n0 0 {A}\nNa Cl\n4 4\nDirect\n{ROWS}\n"
FILES = {
    "POSCAR": POSCAR,
    "CONTCAR_relaxed": POSCAR,
    "salt.vasp": POSCAR,
    "salt.extxyz": f'8\nLattice="{LATTICE}" Properties=species:S:1:pos:R:3 pbc="T T T"\n'
                   + "".join("{} {:.6f} {:.6f} {:.6f}\n".format(*row) for row in CARTESIAN),
    "salt.xsf": f"CRYSTAL\nPRIMVEC\n{A} 0 0\n0 {A} 0\n0 0 {A}\nPRIMCOORD\n8 1\n"
                + "".join("{} {:.6f} {:.6f} {:.6f}\n".format({"Na": 11, "Cl": 17}[one], *xyz)
                          for one, *xyz in CARTESIAN),
    "salt.gen": "8 F\nNa Cl\n"
                + "".join(f"{k + 1} {1 if k < 4 else 2} {row}\n" for k, row in enumerate(ROWS.splitlines()))
                + f"0 0 0\n{A} 0 0\n0 {A} 0\n0 0 {A}\n",
}
FILES["salt.xyz"] = FILES["salt.extxyz"]


@pytest.mark.parametrize("name", FILES)
def test_a_structure_is_read_with_its_symmetry(tmp_path, name):
    path = tmp_path / name
    path.write_text(FILES[name])
    with collecting_notes() as notes:
        crystal = read_structure(path)
    assert (crystal.cell.a, crystal.cell.b, crystal.cell.c) == pytest.approx((A, A, A))
    assert len(crystal.operations) == 192
    assert [site.ion for site in crystal.sites] == ["Na", "Cl"]
    assert all(site.b_iso is None for site in crystal.sites)
    found = {tuple(np.round(xyz % 1, 5) % 1) for xyz in crystal.positions()}
    assert found == {tuple(map(float, one)) for one in [*NA, *CL]}
    assert "8 atoms in the cell, 192 symmetry operations" in notes[0]


@pytest.mark.parametrize(("name", "text", "message"), [
    ("cluster.xyz", "2\n\nNa 0 0 0\nCl 2.8 0 0\n", "not periodic"),
    ("POSCAR", "nothing\n", "POSCAR cannot be read as a structure in the format 'vasp'"),
    ("x.vasp", POSCAR.replace("4 4", "4 400000000"), "announces 400,000,004 atoms"),
    ("x.xsf", "import os", "cannot be read"),
    ("x.gen", "", "cannot be read"),
    ("x.gen", "800000000 F\nNa Cl\n1 1 0 0 0\n", "announces 800,000,000 atoms"),
    ("x.extxyz", "800000000\n\nNa 0 0 0\n", "announces 800,000,000 atoms"),
    ("x.xsf", FILES["salt.xsf"].replace("8 1", "800000000 1"), "cannot be read"),
    ("x.extxyz", FILES["salt.extxyz"].replace("Na 0.000000", "Na nan"), "not a finite number"),
    ("inf.extxyz", FILES["salt.extxyz"].replace("Na 0.000000", "Na inf"), "not a finite number"),
    ("flat.vasp", POSCAR.replace(f"0 0 {A}", "0 0 0"), ""),
])
def test_a_file_that_is_no_crystal_is_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=message):
            read_structure(path)


def test_a_cif_is_a_cif_whatever_its_name(tmp_path):
    assert structure_files.format_of(tmp_path / "POSCAR_salt.cif") is None
    assert structure_files.format_of(tmp_path / "CONTCAR.mcif") is None
    assert structure_files.format_of(tmp_path / "POSCAR") == structure_files.format_of(tmp_path / "a.vasp") == "vasp"


def test_the_size_of_a_file_is_limited(tmp_path, monkeypatch):
    (tmp_path / "POSCAR").write_text(POSCAR)
    monkeypatch.setattr(structure_files, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="the limit for structures that are not CIF files"):
        read_structure(tmp_path / "POSCAR")


def test_a_document_names_a_poscar(tmp_path):
    """The pattern is that of the CIF with the same atoms."""
    cif = cubic_cif(A, ["Na Na 0 0 0", "Cl Cl 0.5 0.5 0.5"], columns=())
    (tmp_path / "salt.cif").write_text(cif)
    (tmp_path / "POSCAR").write_text(POSCAR)
    def pattern(file):
        document = parse_document({
            "schema": "aiida-dse/model/2",
            "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.5,
                        "grid": {"start": 1.0, "stop": 8.0, "step": 0.05}},
            "phases": {"salt": {"structure": file, "ions": {"Na": "Na1+", "Cl": "Cl1-"},
                                "B_iso": {"Na": 1.0, "Cl": 1.2},
                                "particle": {"shape": "parallelepiped", "cells": [3, 3, 3]}}}})
        return run_simulate(build(document, tmp_path)).arrays["pattern/calculated"]

    with collecting_notes():
        assert_allclose(pattern("POSCAR"), pattern("salt.cif"), rtol=1e-9)
