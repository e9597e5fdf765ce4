"""Documents of version 0.1 are read with one note, yield the same models, and can be upgraded."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from numpy.testing import assert_allclose

from aiida_dse.cli.engine import main
from aiida_dse.documents import DocumentError, load_document, parse_document
from aiida_dse.documents.migration import (
    current_document,
    current_name,
    current_wildcards,
    local_name,
    old_names,
)
from aiida_dse.documents.reading import DocumentNote, read_content
from aiida_dse.documents.simultaneous import load_simultaneous, parse_simultaneous
from aiida_dse.documents.study import load_study, parse_study
from aiida_dse.tasks.build import build

FOLDER = Path(__file__).parents[1] / "data" / "documents_0_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))["documents"]
NAMES = sorted(p.name for p in FOLDER.iterdir()
               if p.suffix in (".yaml", ".json") and p.name != "expected.json")
#: Documents that refer to other documents of version 0.1, and the number of additional notes.
NAMED = {"joint_file.yaml": 1, "study.yaml": 1, "study_file.yaml": 2}
#: Phases with a size law. Since 0.2, the law is truncated at `largest` and renormalised, which
#: changes these patterns slightly (measured: 2.6e-5 for spheres, 9e-7 otherwise). Before that
#: change, they agreed to 4e-14, as all others still do.
SIZE_LAWS = {("every_key.yaml", "PbS"): 1e-4, ("every_key.yaml", "population"): 1e-5,
             ("every_key.yaml", "cubes"): 1e-5, ("near_cubes.yaml", "salt"): 1e-5}
#: Spheres, whose histograms have another length since their pairs are grouped. The error of the
#: non-uniform transform, whose tolerance is 1e-10 of the largest term, differs; with a tolerance of
#: 1e-13, the patterns of both ways agree to 4e-12.
SPHERES = {("every_key.yaml", "one_sphere"): 2e-8, ("simulate.yaml", "PbS"): 2e-8}


def loaded(path):
    """The document and the notes on it."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        schema = read_content(path)["schema"].split("/")[1]
        warnings.simplefilter("always")
        function = {"model": load_document, "simultaneous": load_simultaneous,
                    "study": load_study}[schema]
        document = function(path)
    return document, [note for note in notes if issubclass(note.category, DocumentNote)]


def current(name):
    """The new name of a parameter, by a rule that does not depend on the package."""
    head, _, last = name.rpartition(".")
    return f"{head}." + {"B": "B_iso", "phi": "size_axes_rotation",
                         "expansion": "lattice_scale"}.get(last, last)


@pytest.mark.parametrize("name", NAMES)
def test_each_document_is_read_with_one_note(name):
    _, notes = loaded(FOLDER / name)
    assert len(notes) == 1 + NAMED.get(name, 0)
    assert sum(str(FOLDER / name) in str(note.message) for note in notes) == 1


@pytest.mark.parametrize("name", list(EXPECTED))
def test_the_model_is_the_one_that_version_0_1_built(name):
    document, _ = loaded(FOLDER / name)
    model = build(document, FOLDER).model
    assert dict(model.start) == {
        current(old): value for old, value in EXPECTED[name]["starts"].items()}
    states, at = model.states(model.start), EXPECTED[name]["points"]
    assert {phase.name for phase in model.phases} == set(EXPECTED[name]["intensity"])
    for k, phase in enumerate(model.phases):
        assert_allclose(model.intensity(k, states[k], model.start)[at],
                        EXPECTED[name]["intensity"][phase.name],
                        rtol=(SIZE_LAWS | SPHERES).get((name, phase.name), 1e-10))


@pytest.mark.parametrize(("quantity", "shift"), [("Cs1.B_iso", 1e-7), ("a", 1e-9)])
def test_the_stored_intensities_distinguish_similar_models(quantity, shift):
    document, _ = loaded(FOLDER / "global.yaml")
    model = build(document, FOLDER).model
    name = f"salt.{quantity}"
    start = dict(model.start) | {name: model.start[name] * (1 + shift)}
    found = model.intensity(0, model.states(start)[0], start)[EXPECTED["global.yaml"]["points"]]
    with pytest.raises(AssertionError):
        assert_allclose(found, EXPECTED["global.yaml"]["intensity"]["salt"], rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_upgrade_writes_an_equal_document(name, tmp_path):
    for path in FOLDER.iterdir():
        shutil.copy(path, tmp_path)
    new = tmp_path / f"new{Path(name).suffix}"
    done = CliRunner().invoke(main, ["upgrade", str(tmp_path / name), "-o", str(new)])
    assert done.exit_code == 0, done.output
    text = new.read_text(encoding="utf-8")
    assert (json.loads if new.suffix == ".json" else yaml.safe_load)(text)["schema"].endswith("/2")
    again, notes = loaded(new)
    before, _ = loaded(tmp_path / name)
    assert again == before
    # the remaining notes concern the files to which it refers
    assert not any(str(new) in str(note.message) for note in notes)


def test_upgrade_warns_that_comments_are_lost():
    shown = CliRunner().invoke(main, ["upgrade", "--help"]).output
    assert re.search(r"[Cc]omments\b.*\blost", shown, re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
def test_the_content_of_a_node_is_read_without_a_note(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    function = {"model": parse_document, "joint": parse_simultaneous, "study": parse_study}[
        content["schema"].split("/")[1]]
    folder = () if function is parse_document else (FOLDER,)
    if NAMED.get(name):
        return  # nodes contain no paths
    before = json.dumps(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DocumentNote)
        function(content, *folder)
    assert json.dumps(content) == before, "the content of a node must not change"


def test_a_document_without_a_schema_gets_a_hint():
    content = yaml.safe_load((FOLDER / "near_cubes.yaml").read_text(encoding="utf-8"))
    del content["schema"]
    with pytest.raises(DocumentError, match="schema: this looks like a document of version"):
        parse_document(content)
    parse_document({"schema": "aiida-dse/model/1", **content})
    today = current_document({"schema": "aiida-dse/model/1", **content})
    with pytest.raises(DocumentError) as problem:  # an unknown key alone does not suggest 0.1
        parse_document({key: value for key, value in today.items() if key != "schema"}
                       | {"patern": 1})
    assert "0.1" not in str(problem.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("P.Br.B", "P.Br.B_iso"), ("P.phi", "P.size_axes_rotation"),
        ("list.expansion", "list.lattice_scale"), ("*.B", "*.B_iso"), ("P.*.B", "P.*.B_iso"),
        ("P.Br_[ae]*.B", "P.Br_[ae]*.B_iso"), ("trace.air", "blank.air"), ("trace.*", "blank.*"),
        ("T100:P.Br.B", "T100:P.Br.B_iso"), ("B.B.B", "B.B.B_iso"), ("P.a", "P.a"),
        ("1.5 * P.Br_eq.B + 2*P.phi**2", "1.5 * P.Br_eq.B_iso + 2*P.size_axes_rotation**2"),
        ("-P.Br.B-P.Cs.B", "-P.Br.B_iso-P.Cs.B_iso"), ("(P.O1'.B)", "(P.O1'.B_iso)"),
        ("P.Br.B_iso", "P.Br.B_iso"), ("P.angle(Pb-B-Pb)_1", "P.angle(Pb-B-Pb)_1"),
        ("P.Br.B*2+P.Cs.B**2", "P.Br.B_iso*2+P.Cs.B_iso**2"), ("P.B*", "P.B*"), ("B.x", "B.x"),
        ("P.phi0", "P.phi0"),
        ("retrace.B", "retrace.B_iso"), ("joint.a", "joint.a"),
    ],
)
def test_names_in_texts_are_translated(old, new):
    assert current_name(old) == new
    assert current_name(new) == new


def test_global_names_of_simultaneous_documents_are_translated():
    law = "joint.c0 * (1 + joint.alpha * (sample.temperature - 300)) + P.joint.B"
    assert current_name(law, several=True) == (
        "global.c0 * (1 + global.alpha * (sample.temperature - 300)) + P.joint.B_iso")
    assert old_names("global.c0") == ("joint.c0",)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("P.*.B", ["P.*.B_iso"]), ("P.*.?", ["P.*.?", "P.*.B_iso"]),
        ("P.Br.[xyzB]", ["P.Br.[xyzB]", "P.Br.B_iso"]), ("P.Br.*", ["P.Br.*"]),
        ("*B", ["*B", "*B_iso"]), ("P.*B", ["P.*B", "P.*B_iso"]),
        ("P.ph?", ["P.ph?", "P.size_axes_rotation"]), ("P.[abc]", ["P.[abc]"]),
        ("P.e*", ["P.e*", "P.lattice_scale"]), ("P.B", ["P.B_iso"]),
        ("P.B*", ["P.B*"]), ("P.*.B*", ["P.*.B*"]),
    ],
)
def test_wildcards_select_the_same_parameters(old, new):
    assert current_wildcards(old) == new


@pytest.mark.parametrize("name", ["Cs1.B", "phi", "expansion", "a", "Cs1.x", "L_ab"])
def test_old_names_invert_the_translation(name):
    assert old_names(f"P.{local_name(name)}") == (f"P.{name}",)


def test_texts_and_paths_that_are_no_parameters_are_unchanged():
    content = current_document({
        "schema": "aiida-dse/joint/1", "title": "joint.a and P.B", "model": "joint.B",
        "patterns": {"T1": {"pattern": {"file": "trace.B"}, "parameters": {"P.Br.B": 1.0}}},
        "laws": {"P.c": "joint.c0"}, "parameters": {"joint.c0": 11.7},
    })
    assert content == {
        "schema": "aiida-dse/simultaneous/2", "title": "joint.a and P.B", "model": "joint.B",
        "patterns": {"T1": {"pattern": {"file": "trace.B"}, "parameters": {"P.Br.B_iso": 1.0}}},
        "parametric_constraints": {"P.c": "global.c0"}, "parameters": {"global.c0": 11.7},
    }


def test_a_phase_called_joint_keeps_its_name():
    content = yaml.safe_load((FOLDER / "near_cubes.yaml").read_text(encoding="utf-8"))
    text = json.dumps(content).replace("salt.", "joint.").replace('"salt"', '"joint"')
    document = parse_document(json.loads(text))
    assert list(document.phases) == ["joint"]
    assert "joint.a" in document.parameters and "joint.Cl1.B_iso" in document.parameters


def test_near_cubes_drop_the_rotation_that_had_no_effect():
    content = yaml.safe_load((FOLDER / "near_cubes.yaml").read_text(encoding="utf-8"))
    content["phases"]["salt"]["particle"]["phi"] = 20
    particle = parse_document(content).phases["salt"].particle
    assert particle.shape == "quasi_cube"
    assert particle.L.mean == pytest.approx(2.2)


def test_changes_of_a_particle_determine_its_shape():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DocumentNote)
        study = load_study(FOLDER / "study_file.yaml")
    shapes = {name: study.document_of(name).phases["CsPbBr3"].particle.shape
              for name in study.samples}
    assert shapes == {"L05": "parallelepiped", "L07": "parallelepiped", "L11": "quasi_cube"}


def test_stored_distances_of_version_0_1_have_current_names():
    from aiida_dse.io.distances import read_distances

    values = read_distances(FOLDER / "salt.distances.h5").about["values"]
    assert values["Cs1.B_iso"] == pytest.approx(1.5)
    assert not any(name.endswith(".B") for name in values)
    assert np.isfinite(list(values.values())).all()
