"""dse.pattern: what it stores, what it refuses, what it can be found by."""

from __future__ import annotations

import numpy as np
import pytest
from aiida.common.exceptions import ValidationError
from aiida.orm import QueryBuilder, load_node
from numpy.testing import assert_allclose, assert_array_equal

from aiida_dse.data.pattern import PatternData
from aiida_dse.io.patterns import MeasuredPattern, read_pattern

SAMPLE = {"name": "batch 12", "ligand": "oleylamine", "state": "film", "temperature": 217.5,
          "beamline": "MS-X04SA", "tags": {"run": "41", "dry": True}}


def measured(n=5, axis="two_theta"):
    rng = np.random.default_rng(3)
    two_theta = np.cumsum(rng.uniform(0.1, 0.4, n))
    q = 4 * np.pi / 0.56 * np.sin(np.radians(two_theta / 2))
    return MeasuredPattern(
        q, two_theta if axis == "two_theta" else None, rng.uniform(1, 9, n) / 3,
        rng.uniform(1, 2, n) / 7, axis, 0.56, "column 3", "somewhere.xye",
    )


def raw(axis=(1.0, 2.0, 3.0), intensity=(5.0, 6.0, 7.0), sigma=(1.0, 1.0, 1.0), **attributes):
    """A node with arrays and attributes as given, checked by nobody."""
    node = PatternData()
    for name, values in (("axis", axis), ("intensity", intensity), ("sigma", sigma)):
        if values is not None:
            node.set_array(name, np.array(values, dtype=float))
    for key, value in ({"axis_kind": "two_theta", "wavelength": 0.5} | attributes).items():
        if value is not None:
            node.base.attributes.set(key, value)
    return node


def test_a_stored_pattern_comes_back_unchanged():
    pattern = measured(40)
    pk = PatternData.from_measured(pattern, sample=SAMPLE).store().pk
    node = load_node(pk)
    assert type(node) is PatternData
    assert_array_equal(node.get_array("axis"), pattern.two_theta)
    assert_array_equal(node.get_array("intensity"), pattern.intensity)
    assert_array_equal(node.get_array("sigma"), pattern.sigma)
    assert node.sample == SAMPLE
    facts = node.base.attributes
    assert (facts.get("n_points"), facts.get("wavelength")) == (40, 0.56)
    # AiiDA keeps 14 digits of the numbers in a node's attributes
    assert_allclose([facts.get("q_min"), facts.get("q_max")], pattern.q[[0, -1]], rtol=1e-13)


@pytest.mark.parametrize(
    ("axis", "factor"), [("q_inverse_angstrom", 1.0), ("q_inverse_nm", 10.0)]
)
def test_the_axis_stays_in_its_own_unit_and_the_limits_in_inverse_angstrom(axis, factor):
    pattern = measured(8, axis)
    node = PatternData.from_measured(pattern)
    assert_array_equal(node.get_array("axis"), pattern.q * factor)
    assert node.base.attributes.get("q_max") == pattern.q[-1]


def test_patterns_are_found_by_sample_and_wavelength():
    for temperature, ligand in ((81.25, "query-a"), (181.25, "query-a"), (281.25, "query-b")):
        PatternData.from_measured(
            measured(), sample={"temperature": temperature, "ligand": ligand}
        ).store()

    def found(filters):
        query = QueryBuilder()
        query.append(PatternData, filters=filters, project="attributes.temperature")
        return sorted(query.all(flat=True))

    fields = PatternData.fields
    ours = (fields.ligand == "query-a") | (fields.ligand == "query-b")
    assert found((fields.temperature > 100) & ours) == [181.25, 281.25]
    assert found((fields.ligand == "query-a") & (fields.wavelength < 0.57)) == [81.25, 181.25]
    assert found((fields.ligand == "query-a") & (fields.wavelength > 0.57)) == []
    assert found(ours & (fields.q_max > 1e3)) == []


def test_a_sample_without_a_fact_is_not_found_by_it():
    node = PatternData.from_measured(measured(), sample={"name": "bare"}).store()
    assert node.sample == {"name": "bare"}
    fields = PatternData.fields
    query = QueryBuilder()
    query.append(PatternData, filters=(fields.temperature > 0) & (fields.pk == node.pk))
    assert query.count() == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"axis_kind": "theta"}, "axis_kind is 'theta'"),
        ({"axis_kind": None}, "axis_kind is 'None'"),
        ({"wavelength": None}, "wavelength"),
        ({"wavelength": -0.5}, "-0.5"),
        ({"wavelength": "0.5"}, "wavelength"),
        ({"sigma": None}, "sigma"),
        ({"axis": (1, 2, 3, 4)}, "(4,)"),
        ({"axis": [[1, 2]], "intensity": [[1, 2]], "sigma": [[1, 1]]}, "(1, 2)"),
        ({"intensity": (5, np.nan, 7)}, "not finite"),
        ({"intensity": (5, np.inf, 7)}, "not finite"),
        ({"axis": (1, 2, np.nan)}, "not finite"),
        ({"sigma": (1, -1, 1)}, "negative values of sigma"),
        ({"sigma": (1, np.nan, 1)}, "not finite"),
        ({"sigma": (1, np.inf, 1)}, "not finite"),
        ({"axis": (1, 2, 2)}, "not strictly increasing"),
        ({"axis": (3, 2, 1)}, "not strictly increasing"),
    ],
    ids=str,
)
def test_what_is_no_pattern_is_not_stored(changes, named):
    node = raw(**changes)
    with pytest.raises(ValidationError) as message:
        node.store()
    assert named in str(message.value)
    assert not node.is_stored


def test_an_empty_node_is_not_stored():
    with pytest.raises(ValidationError):
        PatternData().store()


def test_a_pattern_without_points_is_not_stored():
    with pytest.raises(ValidationError):
        raw(axis=(), intensity=(), sigma=()).store()


def test_the_text_keeps_every_digit(tmp_path):
    pattern = measured(300)
    path = tmp_path / "out.xye"
    path.write_text(PatternData.from_measured(pattern).as_text())
    again = read_pattern(path, axis="two_theta", wavelength=0.56, sigma="column")
    assert_array_equal(again.two_theta, pattern.two_theta)
    assert_array_equal(again.intensity, pattern.intensity)
    assert_array_equal(again.sigma, pattern.sigma)


def test_the_source_file_is_named_and_fingerprinted(tmp_path):
    import hashlib

    path = tmp_path / "raw.xye"
    path.write_text("1 5 1\n2 6 1\n3 7 1\n")
    pattern = read_pattern(path, axis="two_theta", wavelength=0.56, sigma="column")
    node = PatternData.from_measured(pattern, source=path)
    facts = node.base.attributes
    assert (facts.get("source_name"), node.label) == ("raw.xye", "raw.xye")
    assert facts.get("source_sha256") == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_fingerprint_distinguishes_samples_and_arrays():
    def fingerprint(pattern, **sample):
        node = PatternData.from_measured(pattern, sample=sample)
        return node.base.attributes.get("content_sha256")

    assert fingerprint(measured(9), ligand="a") == fingerprint(measured(9), ligand="a")
    assert fingerprint(measured(9), ligand="a") != fingerprint(measured(9), ligand="b")
    assert fingerprint(measured(9)) != fingerprint(measured(10))
