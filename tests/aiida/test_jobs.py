"""From nodes to the files of a job: names, kinds of structures, blanks."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from aiida.orm import CifData, SinglefileData, StructureData
from numpy.testing import assert_allclose

from aiida_dse.data.jobs import (
    ModelNodes,
    job_document,
    job_files,
    model_of_nodes,
    nodes_of_document,
    structure_node,
)
from aiida_dse.documents import DocumentError, load_document, parse_document
from aiida_dse.io.notes import collecting_notes
from aiida_dse.tasks.build import build
from aiida_dse.tasks.simulation import run_simulate

EDGE = 4.12


def parts(inputs):
    """The document and the nodes of a job."""
    return inputs["model"].get_dict(), ModelNodes(
        inputs.get("pattern"), inputs["structures"], inputs.get("blanks", {}))


def with_structure(nodes, node):
    return replace(nodes, structures={"salt": node})


def calculated(built):
    return run_simulate(built).arrays["pattern/calculated"]


def with_ions(case):
    """The document with ions and B said in it, for structures that carry neither."""
    model = copy.deepcopy(case.document)
    model["phases"]["salt"] |= {
        "ions": {"Cs": "Cs1+", "Cl": "Cl1-"}, "B_iso": {"Cs": 1.5, "Cl": 2.0}
    }
    return model


def xyz_text(n=3):
    """n^3 cells of the salt, atom by atom."""
    rows = []
    for at in np.ndindex(n, n, n):
        for label, shift in (("Cs", 0.0), ("Cl", 0.5)):
            x, y, z = (np.array(at) + shift) * EDGE
            rows.append(f"{label} {x:.6f} {y:.6f} {z:.6f}")
    return "\n".join([str(len(rows)), "salt", *rows]) + "\n"


@pytest.fixture
def inputs(case_nodes):
    return case_nodes()


def test_the_files_of_a_job_describe_themselves(inputs, tmp_path):
    model, nodes = parts(inputs)
    content, files = job_document(model, nodes), job_files(nodes)
    assert set(files) == {"pattern.xye", "salt.cif"}
    assert content["pattern"]["file"] == "pattern.xye"
    assert content["phases"]["salt"]["structure"] == "salt.cif"
    assert content["sample"]["temperature"] == 293.0
    for name, held in files.items():
        (tmp_path / name).write_bytes(held)
    assert build(parse_document(content), tmp_path).measured


def test_the_job_computes_what_the_document_computes(inputs, write_case, tmp_path):
    path = write_case(tmp_path)
    ours = calculated(build(load_document(path), path.parent))
    assert_allclose(calculated(model_of_nodes(*parts(inputs))), ours, rtol=1e-12)


def test_the_sample_of_the_document_wins_over_the_node(inputs):
    model, nodes = parts(inputs)
    content = job_document(model | {"sample": {"temperature": 100.0}}, nodes)
    assert content["sample"]["temperature"] == 100.0
    assert content["sample"]["ligand"] == "oleate"


def test_range_and_every_of_the_document_are_kept(inputs):
    model, nodes = parts(inputs)
    model["pattern"] |= {"range": [10, 40], "every": 2}
    built = model_of_nodes(model, nodes)
    two_theta = built.model.observation.two_theta
    assert two_theta[0] >= 10 and two_theta[-1] <= 40
    assert len(two_theta) == 53


def test_a_missing_pattern_is_reported(inputs):
    model, nodes = parts(inputs)
    with pytest.raises(DocumentError, match="no 'pattern' node"):
        job_document(model, replace(nodes, pattern=None))


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({}, "missing: salt"),
        ({"brine": "salt"}, "not in the document: brine"),
        ({"salt": "salt", "extra": "salt"}, "not in the document: extra"),
    ],
)
def test_structures_and_phases_must_have_the_same_names(inputs, rename, message):
    model, nodes = parts(inputs)
    renamed = {new: nodes.structures[old] for new, old in rename.items()}
    with pytest.raises(DocumentError, match=message):
        job_document(model, replace(nodes, structures=renamed))


def test_traces_must_have_the_names_of_the_document(inputs):
    model, nodes = parts(inputs)
    with pytest.raises(DocumentError, match="not in the document: solvent"):
        job_document(model, replace(nodes, blanks={"solvent": nodes.pattern}))
    model["background"]["blanks"] = {"solvent": {"file": "water.chi", "axis": "q_inverse_nm"}}
    with pytest.raises(DocumentError, match="missing: solvent"):
        job_document(model, nodes)


def test_an_xyz_node_is_no_crystal_and_a_cif_no_list_of_atoms(inputs, case, tmp_path):
    (tmp_path / "salt.xyz").write_text(xyz_text())
    atoms = structure_node(tmp_path / "salt.xyz")
    assert isinstance(atoms, SinglefileData)
    model, nodes = parts(inputs)
    with pytest.raises(DocumentError, match=r"salt has .structure., which is a .cif file.*\.xyz"):
        job_document(model, with_structure(nodes, atoms))
    model = copy.deepcopy(case.document)
    model["phases"]["salt"] = {"atoms": "salt.xyz", "B_iso": {"Cs": 1.0, "Cl": 1.0}}
    with pytest.raises(DocumentError, match=r"salt has .atoms., which is a .xyz file.*\.cif"):
        job_document(model, nodes)


def test_an_xyz_particle_scatters_like_its_crystal(inputs, case, tmp_path):
    (tmp_path / "salt.xyz").write_text(xyz_text(n=4))
    model = copy.deepcopy(case.document)
    model["phases"]["salt"] = {
        "atoms": "salt.xyz", "ions": {"Cs": "Cs1+", "Cl": "Cl1-"}, "B_iso": {"Cs": 1.5, "Cl": 2.0}
    }
    _, nodes = parts(inputs)
    atoms = model_of_nodes(model, with_structure(nodes, structure_node(tmp_path / "salt.xyz")))
    crystal = model_of_nodes(case.document, nodes)
    assert_allclose(calculated(atoms), calculated(crystal), rtol=1e-5)


def test_a_poscar_is_stored_as_the_cif_of_its_structure(case, tmp_path, write_case):
    """The job computes the pattern of the file."""
    path = write_case(tmp_path, {"phases": {"salt": {
        "structure": "POSCAR", "ions": {"Cs": "Cs1+", "Cl": "Cl1-"}, "B_iso": {"Cs": 1.5, "Cl": 2.0},
        "particle": case.document["phases"]["salt"]["particle"]}}})
    (tmp_path / "POSCAR").write_text("salt\n1.0\n4.1234567891 0 0\n0 4.1234567891 0\n0 0 4.1234567891\nCs Cl\n1 1\n"
                                     "Direct\n0 0 0\n0.5 0.5 0.5\n")
    document = load_document(path)
    nodes = nodes_of_document(document, tmp_path)
    assert isinstance(nodes.structures["salt"], CifData) and nodes.structures["salt"].label == "POSCAR"
    with collecting_notes():
        expected = calculated(build(document, tmp_path))
    assert_allclose(calculated(model_of_nodes(job_document(document, nodes), nodes)), expected, rtol=1e-9)


def test_every_kind_of_structure_has_the_same_pattern(inputs, case):
    from pymatgen.core import Lattice, Structure

    cell = [[EDGE, 0, 0], [0, EDGE, 0], [0, 0, EDGE]]
    aiida = StructureData(cell=cell)
    aiida.append_atom(position=(0, 0, 0), symbols="Cs", name="Cs1")
    aiida.append_atom(position=(EDGE / 2,) * 3, symbols="Cl", name="Cl_a")
    pymatgen = Structure(
        Lattice(cell), ["Cs+", "Cl-"], [[0, 0, 0], [0.5] * 3],
        site_properties={"label": ["Cs1", "Cl_a"], "B_iso": [1.5, 2.0]},
    )
    _, nodes = parts(inputs)
    assert isinstance(nodes.structures["salt"], CifData)
    expected = calculated(model_of_nodes(case.document, nodes))
    for source, model in (
        (aiida, with_ions(case)), (aiida.store(), with_ions(case)), (pymatgen, case.document),
    ):
        built = model_of_nodes(model, with_structure(nodes, structure_node(source)))
        assert_allclose(calculated(built), expected, rtol=1e-9)
        assert {"salt.Cs1.B_iso", "salt.Cl_a.B_iso"} <= set(built.model.parameters)


def test_a_structure_larger_than_its_primitive_cell_keeps_its_cell(inputs, case):
    """A doubled cell, given in P 1 by its atoms, must not be reduced."""
    doubled = StructureData(cell=[[2 * EDGE, 0, 0], [0, EDGE, 0], [0, 0, EDGE]])
    for x in (0, EDGE):
        doubled.append_atom(position=(x, 0, 0), symbols="Cs")
        doubled.append_atom(position=(x + EDGE / 2, EDGE / 2, EDGE / 2), symbols="Cl")
    model = with_ions(case)
    model["phases"]["salt"]["particle"]["cells"] = [2, 4, 4]
    _, nodes = parts(inputs)
    found = calculated(model_of_nodes(model, with_structure(nodes, doubled)))
    expected = calculated(model_of_nodes(case.document, nodes))
    assert_allclose(found, expected, rtol=1e-5)


def test_a_hexagonal_structure_on_thirds_keeps_its_four_atoms(inputs, case):
    a, c, u = 4.2985321, 7.0152468, 0.3767
    cell = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])
    wurtzite = StructureData(cell=cell.tolist())
    for symbol, z in (("Cd", 0.0), ("Se", u)):
        for x, y, shift in ((1 / 3, 2 / 3, 0.0), (2 / 3, 1 / 3, 0.5)):
            wurtzite.append_atom(position=(x, y, z + shift) @ cell, symbols=symbol)
    model = copy.deepcopy(case.document)
    model["phases"]["salt"]["B_iso"] = {"Cd": 1.0, "Se": 1.0}
    _, nodes = parts(inputs)
    built = model_of_nodes(model, with_structure(nodes, wurtzite))
    crystal = built.model.phases[0].crystal
    assert sorted(site.label for site in crystal.sites) == ["Cd", "Se"]
    assert len(crystal.positions()) == 4
    assert_allclose([crystal.cell.a, crystal.cell.c], [a, c], rtol=1e-8)


def test_the_name_of_a_file_is_a_label_and_not_part_of_its_hash(case, tmp_path):
    nodes = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.xyz").write_text(xyz_text())
        (tmp_path / f"{name}.cif").write_text(case.cif)
        nodes.append([structure_node(tmp_path / f"{name}.{kind}").store() for kind in ("xyz", "cif")])
    for first, second in zip(*nodes, strict=True):
        assert first.base.caching.get_hash() == second.base.caching.get_hash()
    assert [node.label for node in nodes[1]] == ["two.xyz", "two.cif"]


def test_an_alloy_kind_becomes_alternatives(inputs, case):
    alloy = StructureData(cell=[[EDGE, 0, 0], [0, EDGE, 0], [0, 0, EDGE]])
    alloy.append_atom(position=(0, 0, 0), symbols=["Cs", "Rb"], weights=[0.6, 0.3], name="A")
    alloy.append_atom(position=(EDGE / 2,) * 3, symbols="Cl")
    model = copy.deepcopy(case.document)
    model["phases"]["salt"]["B_iso"] = {"Cs": 1.5, "Rb": 1.5, "Cl": 2.0}
    _, nodes = parts(inputs)
    built = model_of_nodes(model, with_structure(nodes, alloy))
    sites = {site.label: site.occupancy for site in built.model.phases[0].crystal.sites}
    assert sites == {"A_Cs": pytest.approx(0.6), "A_Rb": pytest.approx(0.3), "Cl": 1.0}


def test_a_structure_without_periodicity_is_a_list_of_atoms(inputs, case, tmp_path):
    positions = [(x, y, z) for x in (0, EDGE) for y in (0, EDGE) for z in (0, EDGE)]
    cluster = StructureData(cell=np.eye(3) * 30, pbc=(False,) * 3)
    for position in positions:
        cluster.append_atom(position=position, symbols="Cs")
    cluster.append_atom(position=(EDGE / 2,) * 3, symbols="Cl")
    model = with_ions(case)
    model["phases"]["salt"] = {
        "atoms": "cluster.xyz", "ions": {"Cs": "Cs+", "Cl": "Cl-"}, "B_iso": {"Cs": 1.5, "Cl": 2.0}}
    path = tmp_path / "cluster.xyz"
    path.write_text("9\n\n" + "".join(f"Cs {x} {y} {z}\n" for x, y, z in positions)
                    + "Cl " + f"{EDGE / 2} " * 3 + "\n")
    _, nodes = parts(inputs)
    found = calculated(model_of_nodes(model, with_structure(nodes, cluster)))
    expected = calculated(model_of_nodes(model, with_structure(nodes, structure_node(path))))
    assert_allclose(found, expected, rtol=1e-9)
    assert job_files(with_structure(nodes, cluster))["salt.xyz"].startswith(b"9\n")
    vacant = StructureData(cell=np.eye(3) * 30, pbc=(False,) * 3)
    vacant.append_atom(position=(0, 0, 0), symbols=["Cs"], weights=[0.5], name="CsX")
    with pytest.raises(ValueError, match="several species or vacancies"):
        model_of_nodes(model, with_structure(nodes, vacant))


def test_a_trace_becomes_a_file_and_a_linear_component(case_nodes, inputs):
    model, nodes = parts(inputs)
    nodes = replace(nodes, blanks={"solvent": nodes.pattern})
    model["background"]["blanks"] = {"solvent": {
        "file": "water.chi", "sigma": "5 %", "axis": "q_inverse_nm", "wavelength": 1.0}}
    content, files = job_document(model, nodes), job_files(nodes)
    section = content["background"]["blanks"]["solvent"]
    assert section["file"] == "blank_solvent.xye"
    assert section["sigma"] == "column"
    assert files["blank_solvent.xye"] == nodes.pattern.as_text().encode()
    built = model_of_nodes(model, nodes)
    assert any("solvent" in name for name in built.model.linear_names)


def test_traces_of_a_document_become_nodes(write_case, tmp_path):
    trace = {"file": "salt.xye", "axis": "two_theta", "wavelength": 0.7093, "sigma": "column"}
    path = write_case(tmp_path, {"background": {"blanks": {"empty": trace}}})
    document = load_document(path)
    nodes = nodes_of_document(document, tmp_path)
    assert set(nodes.blanks) == {"empty"}
    built = model_of_nodes(document, nodes)
    assert any("empty" in name for name in built.model.linear_names)


def test_a_document_of_a_simulation_has_no_pattern_node(write_case, tmp_path):
    grid = {"axis": "two_theta", "wavelength": 0.7093,
            "grid": {"start": 5, "step": 0.5, "stop": 40}}
    path = write_case(tmp_path, {"pattern": grid})
    document = load_document(path)
    nodes = nodes_of_document(document, tmp_path)
    assert nodes.pattern is None
    assert len(calculated(model_of_nodes(document, nodes))) == 71


def test_a_pattern_node_takes_the_place_of_a_file(inputs, write_case, tmp_path):
    path = write_case(tmp_path)
    (tmp_path / "salt.xye").unlink()
    document, stored = load_document(path), inputs["pattern"]
    with pytest.raises(ValueError, match=r"the file 'salt\.xye' does not exist"):
        nodes_of_document(document, tmp_path)
    assert nodes_of_document(document, tmp_path, stored).pattern is stored


def test_the_document_of_a_job_does_not_depend_on_names(write_case, tmp_path):
    """Other file names, another title: the same analysis of the same data."""
    found = []
    for name, title in (("salt.xye", "a"), ("copy of salt.xye", "b")):
        folder = tmp_path / title
        folder.mkdir()
        path = write_case(folder, {"title": title})
        (folder / "salt.xye").rename(folder / name)
        text = path.read_text().replace("salt.xye", name)
        path.write_text(text)
        document = load_document(path)
        nodes = nodes_of_document(document, folder)
        found.append((job_document(document, nodes), nodes.pattern.store().base.caching.get_hash()))
    assert found[0] == found[1]
