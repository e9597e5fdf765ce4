"""Simultaneous documents: the model documents derived from them, and errors in them."""

from __future__ import annotations

import copy

import pytest
import yaml

from aiida_dse.documents import DocumentError, load_simultaneous, parse_document, parse_simultaneous

MODEL = {
    "pattern": {"axis": "two_theta", "wavelength": 0.7, "range": [2, 40]},
    "sample": {"name": "S1", "ligand": "DDAB"},
    "phases": {"P": {"structure": "P.cif", "particle": {
        "shape": "quasi_cube", "L": {"mean": 4.0, "sd": 0.5}}}},
    "background": {"chebyshev": 3},
}
DOCUMENT = {
    "schema": "aiida-dse/simultaneous/2",
    "title": "two temperatures",
    "model": MODEL,
    "patterns": {
        "T100": {"pattern": {"file": "a.xye"}, "sample": {"temperature": 100}},
        "T300": {"pattern": {"file": "b.xye", "range": [3, 40]}, "sample": {"temperature": 300},
                 "parameters": {"P.a": 4.2}},
    },
    "shared": ["P.L", "P.sd_L"],
    "parameters": {"global.a0": {"value": 4.1, "lower": 4.0}, "global.alpha": 3e-5},
    "parametric_constraints": {"P.a": "global.a0 * (1 + global.alpha * sample.temperature)"},
    "refinement": {"stages": [["P.a"], ["P.*"]]},
}


def changed(**paths):
    content = copy.deepcopy(DOCUMENT)
    for key, value in paths.items():
        *keys, last = key.split("__")
        place = content
        for name in keys:
            place = place.setdefault(name, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return content


def test_settings_of_a_pattern_override_the_model():
    document = parse_simultaneous(DOCUMENT)
    cold, warm = document.document_of("T100"), document.document_of("T300")
    assert cold.pattern.file == "a.xye" and cold.pattern.wavelength == 0.7
    assert cold.pattern.range == (2, 40) and warm.pattern.range == (3, 40)
    assert cold.sample.name == "S1" and cold.sample.temperature == 100
    assert cold.parameters == {} and warm.parameters == {"P.a": 4.2}
    assert cold.phases == warm.phases and warm.background.chebyshev == 3


def test_the_canonical_form_is_the_same_document():
    document = parse_simultaneous(DOCUMENT)
    again = parse_simultaneous(document.canonical())
    assert again.canonical() == document.canonical()
    for name in document.patterns:
        assert again.document_of(name) == document.document_of(name)
    assert (again.shared, again.parametric_constraints, again.refinement, again.parameters) == (
        document.shared, document.parametric_constraints, document.refinement, document.parameters)


def test_the_model_may_be_the_file_of_another_analysis(tmp_path):
    (tmp_path / "base").mkdir()
    base = copy.deepcopy(MODEL) | {
        "title": "one", "scan": {"axes": [{"parameter": "P.a", "values": [1, 2]}]},
        "refinement": {"starts": 4, "max_cycles": 7},
    }
    base["pattern"]["file"] = "one.xye"
    base["sample"]["temperature"] = 298
    (tmp_path / "base" / "model.yaml").write_text(yaml.safe_dump(base))
    content = changed(model="base/model.yaml", refinement=None, patterns__T100__sample=None)
    (tmp_path / "global.yaml").write_text(yaml.safe_dump(content))
    document = load_simultaneous(tmp_path / "global.yaml")
    cold = document.document_of("T100")
    assert cold.phases["P"].structure == "base/P.cif" and cold.pattern.file == "a.xye"
    assert document.title == "two temperatures" and document.refinement.max_cycles == 7
    # name and temperature of the sample must be specified for each pattern
    assert cold.sample.temperature is None and cold.sample.ligand == "DDAB"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ({"patterns__T300": None}, "patterns: 1 pattern, but at least two"),
        ({"patterns__T100__pattern__file": None}, r"patterns.T100.pattern"),
        ({"patterns__T100__pattern__fle": "x"}, "patterns.T100.pattern.fle: unknown key; .*file"),
        ({"patterns__T100__range": [1, 2]}, "patterns.T100.range: unknown key"),
        ({"patterns__T100__sample__temperature": -4}, "patterns.T100.sample.temperature = -4"),
        ({"patterns__T 1": {"pattern": {"file": "x"}}}, "patterns.T 1"),
        ({"model__phases": None}, "model.phases: this key is missing"),
        ({"model__backgrund": {}}, "model.backgrund: unknown key; did you mean 'background'"),
        ({"model__refinement": {}}, "model.refinement: this key belongs beside 'model'"),
        ({"model__sample": 5}, "model.sample: 5 is not a mapping"),
        ({"parameters__P.a": 4.1}, r"parameters.P.a.*global"),
        ({"refinement__method": "cobyqa"},
         "refinement.*method = cobyqa, but simultaneous refinements are least-squares"),
        ({"refinement__starts": 3},
         "refinement.*starts = 3, but a simultaneous refinement has one"),
        ({"parametric_constraint": {}}, "did you mean 'parametric_constraints'"),
        ({"shared": "P.L"}, "shared"),
        ({"model": "m.yaml"}, "model: the file 'm.yaml' cannot be read here"),
        ({"schema": "aiida-dse/model/2"}, "schema: aiida-dse/simultaneous/2"),
    ],
)
def test_errors_are_reported_with_their_key_path(paths, message):
    with pytest.raises(DocumentError, match=message):
        parse_simultaneous(changed(**paths))


def test_a_missing_model_file_is_reported(tmp_path):
    (tmp_path / "global.yaml").write_text(yaml.safe_dump(changed(model="nowhere.yaml")))
    with pytest.raises(DocumentError, match=r"nowhere.yaml: there is no such file"):
        load_simultaneous(tmp_path / "global.yaml")


def test_a_simultaneous_document_is_refused_as_a_model_document():
    with pytest.raises(DocumentError, match="Use 'dse-engine simultaneous'"):
        parse_document(DOCUMENT)
