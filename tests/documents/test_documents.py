"""Model documents: valid ones survive a round trip, errors state key, value and remedy."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from aiida_dse.documents import (
    MODEL_SCHEMA,
    DocumentError,
    ModelDocument,
    load_document,
    parse_document,
)
from aiida_dse.documents.reading import DocumentNote

DOCUMENTS_0_1 = Path(__file__).parents[1] / "data" / "documents_0_1"
EXAMPLE = Path(__file__).parents[2] / "examples" / "cspbbr3" / "refine.yaml"

BASE = {
    "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.56,
                "grid": {"start": 0.5, "step": 0.05, "stop": 10}},
    "phases": {"P": {"structure": "c.cif",
                     "particle": {"shape": "parallelepiped", "cells": [2, 2, 2]}}},
}


def changed(**paths):
    """The base document with values at 'a__b__c' keys."""
    document = copy.deepcopy(BASE)
    for path, value in paths.items():
        *keys, last = path.split("__")
        place = document
        for key in keys:
            place = place.setdefault(key, {})
        place[last] = value
    return document


def refusal(content):
    with pytest.raises(DocumentError) as problem:
        parse_document(content)
    return str(problem.value)


#: Words of the validation library and of Python, which are not those of a document.
JARGON = ("dictionary", "instance", "tuple", "union", "tag ", "float", "string", "parse", "None")
WRONG = [None, 7, -1, "text", "7 nm", "0,5", [], [7], [[7]], {}, {"unknown": 1}, True, 1e400]


def places(content, path=()):
    """The paths of all values in a document."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_every_refusal_names_a_key_and_a_reason_in_plain_words(wrong):
    content = yaml.safe_load((DOCUMENTS_0_1 / "every_key.yaml").read_text())
    whole = parse_document(content).resolved()
    refused = 0
    for path in places(whole):
        document = copy.deepcopy(whole)
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = copy.deepcopy(wrong)
        try:
            parse_document(document)
        except DocumentError as problem:
            refused += 1
            for line in str(problem).splitlines():
                assert re.match(r"[\w.*\-]+( = .+)?: .{10,}", line), (path, line)
                reason = line.partition(": ")[2]
                assert not any(word in reason for word in JARGON), (path, line)
    assert refused > 10


def test_yaml_reads_only_true_and_false_as_booleans(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(BASE) + "schema: aiida-dse/model/2\nsample: {name: NO, ligand: on, "
                    "tags: {date: 2026-11-27, dry: true}}\n")
    sample = load_document(path).sample
    assert (sample.name, sample.ligand) == ("NO", "on")
    assert sample.tags == {"date": "2026-11-27", "dry": True}


@pytest.mark.parametrize(("key", "wrong", "message"), [
    ("displacements", {"S": 1}, ".S = 1: 'anisotropic', or a mapping with the keys model"),
    ("displacements", {"S": {"along": 3}}, ".S.along = 3: a text is required"),
    ("particle", 7, " = 7: a mapping with the key shape is required; the shapes are"),
])
def test_members_of_a_union_are_named_together(key, wrong, message):
    content = yaml.safe_load((DOCUMENTS_0_1 / "every_key.yaml").read_text())
    document = parse_document(content).resolved()
    document["phases"]["PbS"][key] = wrong
    with pytest.raises(DocumentError) as problem:
        parse_document(document)
    assert str(problem.value).startswith(f"phases.PbS.{key}{message}")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(("text", "place", "remedy"), [
    ("title: PbS: 5 nm\n", "line 1, column 11", "in quotes"),
    ("pattern:\n\tfile: a.xye\n", "line 2, column 1", "spaces instead of tabs"),
    ("stages: [[*.x]]\n", "line 1", 'quotes: "*.B_iso"'),
])
def test_errors_of_yaml_have_a_place_and_a_remedy(tmp_path, text, place, remedy):
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError) as problem:
        load_document(path)
    assert place in str(problem.value) and remedy in str(problem.value)
    assert "unicode string" not in str(problem.value)


def test_a_document_without_schema_is_read_with_a_note(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(BASE))
    with pytest.warns(DocumentNote, match="has no 'schema' and is read as aiida-dse/model/2"):
        load_document(path)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ({"patern": 1}, "patern: unknown key; did you mean 'pattern'?"),
        ({"pattern__wavelenght": 1}, "pattern.wavelenght: unknown key; did you mean 'wavelength'?"),
        ({"phases__P__particle__cell": [1]},
         "phases.P.particle.cell: unknown key; did you mean 'cells'?"),
        ({"phases__P__particle__L_ab": {"mean": 3, "sd": 1, "sdd": 1}},
         "phases.P.particle.L_ab.sdd: unknown key; did you mean 'sd'?"),
        ({"background__blanks__air__wavelenght": 1},
         "background.blanks.air.wavelenght: unknown key; did you mean 'wavelength'?"),
        ({"parameters": {"P.a": {"valu": 3}}},
         "parameters.P.a.valu: unknown key; did you mean 'value'?"),
        ({"scan__axes": [{"parameter": "P.a", "values": [1], "stepp": 1}]},
         "scan.axes.0.stepp: unknown key; did you mean 'step'?"),
        ({"derived": {"P": {"distnces": []}}},
         "derived.P.distnces: unknown key; did you mean 'distances'?"),
        ({"sample__zzzz": 4}, "sample.zzzz: unknown key; other properties of the sample belong "
         "under 'tags' (known keys: name"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_an_unknown_key_is_reported_with_the_nearest_valid_key(paths, expected):
    assert expected in refusal(changed(**paths))


@pytest.mark.parametrize(
    ("paths", "where", "what"),
    [
        ({"pattern__wavelength": "0.5 nm"}, 'pattern.wavelength = "0.5 nm"', "write it without the unit: 0.5"),
        ({"pattern__wavelength": "15 %"}, 'pattern.wavelength = "15 %"', "without the unit: 15"),
        ({"pattern__wavelength": "%"}, 'pattern.wavelength = "%"', "a number is required"),
        ({"phases__P__U_iso": {"Cs": 0.01}}, "phases.P.U_iso", "B_iso = 8 pi^2 U_iso"),
        ({"phases__P__particle": {"shape": "sphere", "radius": 3}}, "phases.P.particle.radius",
         "twice the radius"),
        ({"pattern__wavelength": "0,564"}, 'pattern.wavelength = "0,564"', "decimal point: 0.564"),
        ({"pattern__axis": "q"}, 'pattern.axis = "q"', "'q_inverse_angstrom' or 'q_inverse_nm'"),
        ({"pattern__grid": [0.5, 0.1]}, "pattern.grid = [0.5, 0.1]", "{start: 0.5, step: 0.1}"),
        ({"phases__P__particle": {"shape": "parallelepiped", "L_ab": 7, "L_c": 7}},
         "phases.P.particle.L_", "the keys mean, sd"),
        ({"phases__P__particle": {"shape": "sphere", "D": "big"}}, 'phases.P.particle.D = "big"',
         "a number, or a mapping with the keys mean, sd"),
        ({"phases__P__particle": {"shape": "quasi_cube", "L": {"mean": 7, "sd": 0}}},
         "phases.P.particle.L.sd = 0", "one size"),
        ({"phases__P__particle": {"shape": "sphere", "diameter": 7}},
         "phases.P.particle.diameter", "did you mean 'D'"),
        ({"phases__P__particle": {"shape": "sphere", "L_ab": 7}},
         "phases.P.particle.L_ab", "shape, D, largest, centre"),
        ({"phases__P__particle": {"L": 7}}, "phases.P.particle.shape", "this key is missing"),
        ({"sample__name": 5}, "sample.name = 5", 'quotes: "5"'),
        ({"sample__name": "a\x1b[31mb"}, "sample.name", "control characters"),
        ({"sample__ligand": "a\nb"}, "sample.ligand", "line breaks"),
        ({"title": "a\x00b"}, "title", "control characters"),
        ({"sample__tags": {"a\x07": 1}}, "sample.tags.a\ufffd", "control characters"),
        ({"sample__tags": {"x": float("nan")}}, "sample.tags.x", "finite"),
        ({"refinement": {"stages": ["P.a", "P.b"]}}, "refinement.stages.0", "each stage is a list"),
        ({"scan": {"axes": [{"parameter": f"P.{one}", "values": [1.0]} for one in "abcxy"]}},
         "scan.axes", "at most 4 items are possible, but there are 5; remove 1"),
        ({"refinement": {"stages": [[]]}}, "refinement.stages.0", "at least 1 item"),
        ({"parameters": {"P.a": {"valeu": 4}}}, "parameters.P.a.valeu", "did you mean 'value'"),
        ({"pattern__wavelength": -1}, "pattern.wavelength = -1", "greater than 0"),
        ({"pattern__wavelength": float("nan")}, "pattern.wavelength = NaN", "finite"),
        ({"pattern__axis": "tth"}, 'pattern.axis = "tth"', "'two_theta'"),
        ({"pattern__range": [3, 1]}, "pattern", "smaller value must come first"),
        ({"pattern__every": 0}, "pattern.every = 0", "greater than or equal to 1"),
        ({"pattern": None}, "pattern = null", "a mapping with the keys file, axis"),
        ({"pattern": {}}, "pattern", "neither a 'file' nor a complete 'grid'"),
        ({"phases": {}}, "phases", "at least 1"), ({"phases": [1]}, "phases = [1]", "a mapping of keys"),
        ({"phases__P__particle__shape": "cube"}, "phases.P.particle",
         "(did you mean 'quasi_cube'?); the shapes are parallelepiped, quasi_cube, sphere"),
        ({"phases__P__particle__cells": [1, 2, 2.5]}, "phases.P.particle.cells.2 = 2.5",
         "a whole number"),
        ({"phases__P__particle": None}, "phases.P", "needs a 'particle'"),
        ({"phases__P__particle": {"shape": "parallelepiped"}}, "phases.P.particle",
         "needs either 'cells: [n_a, n_b, n_c]'"),
        ({"phases__P__particle": {"shape": "sphere", "D": -1}}, "phases.P.particle.D",
         "greater than 0"),
        ({"phases__P__B_iso": {"Cs": -1}}, "phases.P.B_iso.Cs = -1", "greater than or equal to 0"),
        ({"phases__P__B_iso": {"Cs": "x"}}, 'phases.P.B_iso.Cs = "x"', "number"),
        ({"phases__1P": BASE["phases"]["P"]}, "phases.1P", "begin with a letter"),
        ({"phases__background": BASE["phases"]["P"]}, "phases", "another name"),
        ({"background__chebyshev": 99}, "background.chebyshev = 99", "less than or equal to 40"),
        ({"refinement__max_cycles": 0}, "refinement.max_cycles = 0", "greater than or equal to 1"),
        ({"scan__axes": []}, "scan.axes", "at least 1"),
        ({"scan__axes": [{"parameter": "P.a"}]}, "scan.axes.0", "'start', 'stop' and 'step'"),
        ({"scan__axes": [{"parameter": "P.a", "values": [2, 1]}]}, "scan.axes.0", "increase"),
        ({"scan__axes": [{"parameter": "P.a", "start": 1, "stop": 2, "step": 0}]},
         "scan.axes.0.step = 0", "greater than 0"),
        ({"sample__temperature": -4}, "sample.temperature = -4", "greater than or equal to 0"),
        ({"scales": {"P": -1}}, "scales.P = -1", "greater than or equal to 0"),
        ({"scales": {"Q": 1}}, "document: scales", "the phases are P"),
        ({"derived": {"Q": {}}}, "document: derived", "the phases are P"),
        ({"constraints": {"P.a": 3}}, "constraints.P.a = 3", "a text is required"),
        ({"tolerance": 1}, "tolerance = 1", "less than 0.01"),
    ],
    ids=str,
)
def test_a_wrong_value_is_reported_with_key_value_and_limit(paths, where, what):
    line = next(line for line in refusal(changed(**paths)).splitlines() if what in line)
    assert line.startswith(where)


@pytest.mark.parametrize(
    ("remove", "expected"),
    [("pattern", "pattern: this key is missing"), ("phases", "phases: this key is missing")],
)
def test_a_missing_key_is_reported(remove, expected):
    content = copy.deepcopy(BASE)
    del content[remove]
    assert expected in refusal(content)
    content = changed(phases__P__particle={"shape": "quasi_cube", "L": {"mean": 3}})
    assert "phases.P.particle.L.sd: this key is missing" in refusal(content)


@pytest.mark.parametrize("paths", [
    {"pattern__wavelength": True}, {"phases__P__B_iso": {"Cs": True}}, {"pattern__every": True},
    {"background__chebyshev": False},
], ids=str)
def test_booleans_are_refused_as_numbers(paths):
    """YAML reads 'yes' and 'on' as true, which must not become 1.0 Å."""
    assert next(iter(paths)).split("__")[0] in refusal(changed(**paths))


@pytest.mark.parametrize(
    "axis", [{"parameter": "P.a"}, {"parameter": "P.a", "start": 1, "stop": 2, "step": -1}],
    ids=str,
)
def test_one_error_in_an_axis_is_reported_in_one_line(axis):
    """No line with the untrue 'tuple should have at least 1 item' follows."""
    assert "at least 1 item" not in refusal(changed(scan__axes=[axis]))


def test_messages_contain_no_names_of_classes():
    text = refusal(changed(phases__P__particle={"shape": "sphere", "D": -1}))
    assert "constrained-float" not in text and "instance of" not in text


def test_all_errors_are_reported_at_once():
    text = refusal(changed(patern=1, pattern__wavelength=-1, tolerance=3))
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("schema", ["aiida-dse/model/3", 1, "", None, ["a"]])
def test_an_unknown_schema_is_refused(schema):
    text = refusal(changed(schema=schema))
    assert text.startswith("schema:") and MODEL_SCHEMA in text


@pytest.mark.parametrize(("content", "what"), [(None, "empty"), ([], "list"), ("x", "str")])
def test_content_that_is_no_mapping_is_refused(content, what):
    assert what in refusal(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("# nothing\n", "empty"), ("a: [1", "not valid YAML"),
     ("a: b: c", "not valid YAML"), ("- a\n- b\n", "list"), ("\tx: 1", "not valid YAML")],
)
def test_a_file_without_a_document_is_refused(tmp_path, text, message):
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError, match=message) as problem:
        load_document(path)
    assert str(path) in str(problem.value)


def test_a_path_that_is_no_text_file_is_refused(tmp_path):
    with pytest.raises(DocumentError, match="is not a file"):
        load_document(tmp_path)
    with pytest.raises(DocumentError, match="there is no such file"):
        load_document(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DocumentError, match="cannot be read"):
        load_document(tmp_path / "b.yaml")
    (tmp_path / "c.json").write_text("{'a': 1}")
    with pytest.raises(DocumentError, match="not valid YAML or JSON"):
        load_document(tmp_path / "c.json")


@pytest.mark.parametrize("tag", [
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]",
    "!!python/name:os.system", "!!python/tuple [1, 2]", "!local {{}}",
])
def test_a_python_object_is_refused_and_not_created(tmp_path, tag):
    marker = tmp_path / "made"
    path = tmp_path / "model.yaml"
    path.write_text("title: " + tag.format(marker=marker) + "\n")
    with pytest.raises(DocumentError, match="not valid YAML"):
        load_document(path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_duplicate_phase_is_refused(tmp_path, suffix):
    """Otherwise, the first of two equal keys would be lost silently."""
    phase = json.dumps(BASE["phases"]["P"])
    path = tmp_path / f"model.{suffix}"
    path.write_text(
        f'{{"pattern": {json.dumps(BASE["pattern"])}, "phases": {{"P": {phase}, "P": {phase}}}}}'
    )
    with pytest.raises(DocumentError, match="P"):
        load_document(path)


def test_numbers_that_yaml_reads_as_text_are_accepted(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(BASE) + "tolerance: 1e-6\nparameters: {P.a: 8e0}\n")
    document = load_document(path)
    assert document.tolerance == 1e-6 and document.parameters["P.a"] == 8.0


FULL = changed(
    title="all of it",
    sample={"name": "x", "temperature": 298, "tags": {"batch": "7", "good": True, "n": 2.5}},
    phases__Q={"structure": "d.cif", "block": "one", "termination": [0, 0, 0.1],
               "ions": {"Pb": "Pb2+"}, "B_iso": {"Pb": 1.5}, "exclusion_distance": 1.0,
               "particle": {"shape": "sphere", "D": {"mean": 3, "sd": 1}, "centre": "Pb"}},
    phases__R={"atoms": "e.xyz", "B_iso": {"C": 1}},
    phases__S={"structure": "d.cif", "particle": {
        "shape": "parallelepiped", "L_ab": {"mean": 5, "sd": 1}, "L_c": {"mean": 6, "sd": 1},
        "size_axes_rotation": 20}},
    background={"chebyshev": 3, "inverse_q": [1, 4],
                "blanks": {"air": {"file": "a.xye", "axis": "two_theta", "sigma": "2 %"}}},
    parameters={"P.a": 8.2, "P.b": {"value": 8.3, "lower": 8.0}, "P.c": {"upper": 12.0}},
    constraints={"P.Br.B_iso": "2 * P.Pb.B_iso"}, scales={"Q": 2.0}, tolerance=1e-6,
    refinement={"stages": [["P.a"], ["P.*.B_iso"]], "max_cycles": 9},
    scan={"axes": [{"parameter": "P.a", "values": [1, 2]},
                   {"parameter": "P.b", "start": 1, "stop": 2, "step": 0.1}], "refine": ["P.c"]},
    derived={"P": {"distances": [["A", "B"]], "angles": [["A", "B", "A"]], "pseudo_cubic": True}},
)


@pytest.mark.parametrize("content", [BASE, FULL, changed(refinement={}, derived={"P": {}})])
def test_the_canonical_form_is_the_same_document(content):
    document = parse_document(content)
    canonical = document.canonical()
    assert parse_document(canonical) == document
    stored = json.loads(json.dumps(canonical, allow_nan=False))
    assert parse_document(stored) == document
    assert parse_document(stored).canonical() == canonical
    assert canonical["schema"] == MODEL_SCHEMA


def test_an_infinite_bound_is_refused_and_a_document_is_plain_json():
    with pytest.raises(DocumentError, match=r"parameters\.P\.a\.lower.*finite"):
        parse_document(changed(parameters={"P.a": {"lower": float("-inf")}}))
    document = parse_document(changed(parameters={"P.a": {"lower": 4.0}}))
    stored = json.loads(json.dumps(document.canonical(), allow_nan=False))
    assert parse_document(stored) == document


def test_the_example_document_survives_a_round_trip():
    document = load_document(EXAMPLE)
    assert parse_document(document.canonical()) == document


def test_the_json_schema_agrees_with_the_reader():
    schema = ModelDocument.model_json_schema(by_alias=True)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for content in (yaml.safe_load(EXAMPLE.read_text()), BASE, FULL):
        assert not list(validator.iter_errors(content))
    for wrong in (changed(patern=1), changed(pattern__wavelength=-1), {"phases": {}}):
        assert list(validator.iter_errors(wrong))


def test_the_values_of_an_axis_include_both_ends():
    document = parse_document(FULL)
    assert document.scan.axes[1].size == 11
    assert document.scan.axes[1].points().tolist() == [round(1 + 0.1 * k, 12) for k in range(11)]


@pytest.mark.parametrize(("options", "message"), [
    ({"parameter": "P.a", "multiplicity": True}, "belong to a 'distance' or an 'angle'"),
    ({"parameter": "P.a", "cutoff": 3.0}, "belong to a 'distance' or an 'angle'"),
    ({"distance": ["Pb", "Br"], "cutoff": 3.0, "coordination": 6}, "exclude each other"),
    ({"distance": ["Pb", "Br"], "parameter": "P.a"}, "specify one of"),
])
def test_contradictory_keys_of_a_restraint_are_refused(options, message):
    from pydantic import ValidationError

    from aiida_dse.documents.plans import RestraintSection

    assert RestraintSection(distance=("Pb", "Br"), target=3.0, sigma=0.1, coordination=6,
                            multiplicity=True).coordination == 6
    with pytest.raises(ValidationError, match=message):
        RestraintSection(target=3.0, sigma=0.1, **options)


def test_every_boolean_key_may_be_a_boolean():
    """A boolean elsewhere is a mistake of YAML 1.1, so the keys that are booleans are listed."""
    from pydantic import BaseModel

    from aiida_dse.documents import SimultaneousDocument, StudyDocument
    from aiida_dse.documents.explaining import sections_of
    from aiida_dse.documents.reading import TRUTHS

    found, todo = set(), [ModelDocument, SimultaneousDocument, StudyDocument]
    seen = set(todo)
    while todo:
        section = todo.pop()
        for name, field in section.model_fields.items():
            if field.annotation is bool:
                found.add(name)
            for below in sections_of(field.annotation):
                if below not in seen and issubclass(below, BaseModel):
                    seen.add(below)
                    todo.append(below)
    assert {"fixed", "whole_cells"} <= found <= set(TRUTHS)
