"""Study documents: the model documents derived from them, and errors in them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from aiida_dse.documents import DocumentError, load_study, parse_study
from aiida_dse.tasks.build import build

BASE = {
    "title": "base", "sample": {"name": "base", "ligand": "oleate", "temperature": 10},
    "pattern": {"file": "base.xye", "axis": "two_theta", "wavelength": 0.7, "sigma": "column",
                "every": 2},
    "phases": {"salt": {"structure": "CsCl.cif", "particle": {
        "shape": "parallelepiped", "L_ab": {"mean": 5, "sd": 1}, "L_c": {"mean": 5, "sd": 1}}}},
    "background": {"chebyshev": 3},
}
STUDY = {
    "schema": "aiida-dse/study/2", "name": "salts", "defaults": BASE | {
        "pattern": {key: value for key, value in BASE["pattern"].items() if key != "file"}},
    "samples": {
        "T100": {"pattern": {"file": "a.xye"}, "sample": {"temperature": 100}},
        "T200": {"pattern": {"file": "b.xye"}, "sample": {"name": "warm", "temperature": 200},
                 "background": {"chebyshev": 5}},
        "cube": {"pattern": {"file": "c.xye"}, "phases": {"salt": {"particle": {
            "shape": "quasi_cube", "L_ab": None, "L_c": None, "L": {"mean": 4, "sd": 1}}}}},
    },
    "series": {"cooling": {"kind": "temperature", "samples": "T*"}},
    "maps": [{"sample": "T100", "axes": [{"parameter": "salt.a", "values": [4.1, 4.2]}]}],
    "compare": [{"sample": "cube", "models": {"as_is": {}, "flat": {"background": None}}}],
}


def changed(path, value):
    content = copy.deepcopy(STUDY)
    *keys, last = path
    at = content
    for key in keys:
        at = at[key]
    at[last] = value
    return content


def test_samples_inherit_the_defaults():
    study = parse_study(STUDY)
    warm = study.document_of("T200")
    assert warm.background.chebyshev == 5 and warm.pattern.every == 2
    assert warm.sample.name == "warm" and warm.sample.ligand == "oleate"
    particle = study.document_of("cube").phases["salt"].particle
    assert particle.shape == "quasi_cube" and particle.L.mean == 4
    assert study.members_of("cooling") == ("T100", "T200") and study.alone() == ("cube",)
    assert study.map_document("map_T100").scan.axes[0].values == (4.1, 4.2)
    models = study.compared_documents("compare_cube")
    assert models["as_is"].background.chebyshev == 3 and models["flat"].background.chebyshev == 0
    assert parse_study(study.canonical()) == study


def test_a_file_of_defaults_provides_the_model_but_not_the_measurement(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text(yaml.safe_dump(BASE))
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(changed(["defaults"], "below/base.yaml") | {"compare": [
        {"sample": "cube", "models": {"own": {}, "other": "below/base.yaml"}}]}))
    study = load_study(path)
    first = study.document_of("T100")
    assert first.phases["salt"].structure == "below/CsCl.cif"
    assert first.sample.name == "T100" and first.sample.temperature == 100
    assert study.document_of("cube").sample.temperature is None
    other = study.compared_documents("compare_cube")["other"]
    assert other.pattern.file == "c.xye" and other.phases["salt"].particle.L_ab.mean == 5


@pytest.mark.parametrize(("path", "value", "message"), [
    (["samples", "T100", "pattern"], {}, "samples.T100.pattern: there is neither a 'file'"),
    (["samples", "T100", "backgrund"], {}, "samples.T100.backgrund: unknown key"),
    (["series", "cooling", "samples"], "X*", "no sample is called 'X\\*'"),
    (["series", "cooling", "samples"], ["T100"], "is a single sample"),
    (["series", "cooling", "options"], {"anchor": "T100"}, "series.cooling.options.anchor"),
    (["series", "cooling", "options"], {"analysis": {"bulk": 3}}, "series.cooling.options"),
    (["maps", 0, "sample"], "T300", "maps.map_T300.sample: 'T300' is no sample"),
    (["maps", 0, "axes"], [], "maps.0.axes"),
    (["compare", 0, "models"], {"one": {}}, "compare.0.models"),
    (["defaults", "schema"], "aiida-dse/simultaneous/2", "defaults.schema"),
    (["defaults"], "base.yaml", "cannot be read here"),
    (["name"], "", "name"),
])
def test_errors_are_reported_with_their_key_path(path, value, message):
    with pytest.raises(DocumentError, match=message):
        parse_study(changed(path, value))


def test_a_study_is_refused_as_a_model_document():
    from aiida_dse.documents import parse_document

    with pytest.raises(DocumentError, match="aiida-dse launch study"):
        parse_document(STUDY)


def test_every_sample_of_the_example_study_can_be_built():
    """The parameters with which each of its twelve patterns was computed are available."""
    path = Path(__file__).parents[2] / "examples" / "cspbbr3" / "study.yaml"
    study = load_study(path)
    truths = [truth["name"] for file in ("size_truth.json", "temp_truth.json")
              for truth in json.loads((path.parent / "series" / file).read_text())]
    assert len(study.samples) == len(truths) == 12
    for name in study.samples:
        document = study.document_of(name)
        assert Path(document.pattern.file).stem in truths
        assert build(document, path.parent).measured
    (map_,) = study.named_maps()
    assert build(study.map_document(map_), path.parent).grid.shape == (11, 11)
    (comparison,) = study.named_comparisons()
    for document in study.compared_documents(comparison).values():
        assert build(document, path.parent).measured
