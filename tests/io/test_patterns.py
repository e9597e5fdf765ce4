"""Measured patterns: what is read is what the file says; what is doubtful is refused by line."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.io.notes import DataNote
from aiida_dse.io.patterns import MeasuredPattern, read_pattern
from aiida_dse.io.tables import read_columns

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} (third-party data) is absent")

GIVEN = {"axis": "two_theta", "wavelength": 0.5, "sigma": "column"}
XYE = "10 100 10\n20 200 14\n30 300 17\n40 400 20\n"
XY = "10 100\n20 400\n30 900\n"
CHI = "a/film.tif\n{label}\nIntensity\n   3\n 1.0E+01 4.0\n 2.0E+01 9.0\n 3.0E+01 16.0\n"


@pytest.fixture
def read(tmp_path):
    """Write a text (or bytes) to a file and read it as a pattern."""

    def _read(content, name="p.xye", **keys) -> MeasuredPattern:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_pattern(path, **(GIVEN | keys))

    return _read


@pytest.fixture
def columns(tmp_path):
    def _columns(content: str, name="p.dat", **keys):
        path = tmp_path / name
        path.write_text(content)
        return read_columns(path, **keys)

    return _columns


def refused(*fragments: str):
    """ValueError whose message holds the fragments in this order."""
    pattern = "(?s)" + ".*".join(re.escape(part) for part in fragments)
    return pytest.raises(ValueError, match=pattern)


# What is read


def test_two_theta_yields_q_by_braggs_law(read):
    pattern = read(XYE)
    assert_allclose(pattern.two_theta, [10, 20, 30, 40])
    assert_allclose(pattern.q, 4 * np.pi * np.sin(np.radians([5, 10, 15, 20])) / 0.5)
    assert_allclose(pattern.sigma, [10, 14, 17, 20])
    assert pattern.sigma_origin == "column 3"
    assert pattern.source.endswith("p.xye")


def test_a_tenth_of_1_per_nm_is_1_per_angstrom(read):
    pattern = read(XYE, axis="q_inverse_nm")
    assert_allclose(pattern.q, [1, 2, 3, 4])
    assert pattern.two_theta is None


@pytest.mark.parametrize(
    "content",
    [
        "10,100,10\n20,200,14\n30,300,17\n40,400,20\n",
        "10, 100, 10\r\n20, 200, 14\r\n30, 300, 17\r\n40, 400, 20\r\n",
        "1.0D+01 1.0D+002 1d1\n20 200 14\n30 300 17\n4.0e1 400. 20\n",
        "# a\n! b\n; c\n% d\n\n10 100 10\n20 200 14 # note\n# more\n30 300 17\n\n40 400 20\n\n",
        "measured on Monday\n" + XYE,
        "\ufeff" + XYE,
        "[Beam]\nwavelength = 0.5\ncropedges = 10, 10, 10\n#### start data\n" + XYE,
        '"2Theta","I","esd"\n10,100,10\n20,200,14\n30,300,17\n40,400,20\n',
    ],
    ids=["comma", "crlf", "fortran", "comments", "title", "bom", "ini", "quoted"],
)
@pytest.mark.parametrize("name", ["p.xye", "p.dat", "p.csv", "p.anything"])
def test_same_numbers_in_any_dress(read, content, name):
    plain = read(XYE)
    pattern = read(content, name=name)
    for field in ("q", "intensity", "sigma"):
        assert_allclose(getattr(pattern, field), getattr(plain, field), rtol=1e-14)


def test_negative_fortran_exponent(columns):
    assert columns("1 2 6.44D-002\n2 2 1\n3 2 1\n").sigma[0] == 6.44e-2


def test_line_numbers_count_every_line(columns):
    assert columns("# a\n\n1 2\n# b\n2 2\n3 2\n").line_numbers.tolist() == [3, 5, 6]


@pytest.mark.parametrize(
    ("rule", "sigma", "origin"),
    [
        ("counts", [10, 20, 30], "sqrt(counts)"),
        ("counts / 4", [5, 10, 15], "sqrt(I / 4)"),
        ("counts/4", [5, 10, 15], "sqrt(I / 4)"),
        ("2 %", [2, 8, 18], "2 % of the intensity"),
        ("0.5%", [0.5, 2, 4.5], "0.5 % of the intensity"),
    ],
)
def test_sigma_by_rule(read, rule, sigma, origin):
    pattern = read(XY, sigma=rule)
    assert_allclose(pattern.sigma, sigma)
    assert pattern.sigma_origin == origin


def test_sigma_column_by_itself_and_overruled(read):
    assert read(XYE, sigma=None).sigma_origin == "column 3"
    assert_allclose(read(XYE, sigma="counts").sigma, np.sqrt([100, 200, 300, 400]))


def test_third_of_many_columns_is_sigma_only_when_specified(read):
    text = "1 2 3 9\n2 3 4 9\n3 4 5 9\n"
    assert_allclose(read(text, sigma="column").sigma, [3, 4, 5])
    assert_allclose(read(text, sigma=None, sigma_column=4).sigma, 9)


def test_range_is_inclusive_in_axis_units_and_every_counts_from_its_start(read):
    text = "".join(f"{x} {x} 1\n" for x in range(10, 31))
    pattern = read(text, axis="q_inverse_nm", range_=(12, 20), every=3)
    assert_allclose(pattern.q, [1.2, 1.5, 1.8])
    assert_allclose(pattern.intensity, [12, 15, 18])
    assert_allclose(pattern.sigma, 1)


def test_beam_stop_is_excluded_before_the_checks(read):
    text = "0 0 0\n1 nan 0\n2 -1 -1\n" + XYE + "50 inf nan\n"
    assert_allclose(read(text, range_=(5, 45)).intensity, [100, 200, 300, 400])
    with refused("p.xye, line 3 ", "sigma is not positive"):
        read(text)
    assert_allclose(read(text, exclude=[(0, 5)]).intensity, [100, 200, 300, 400])


@pytest.mark.parametrize(
    ("rows", "keys", "n_invalid"),
    [
        (["25 nan 3", "26 5 nan"], {}, 2),
        (["25 0 0"], {}, 1),
        (["25 -1 0"], {}, 1),
        (["25 nan"], {"sigma": "counts"}, 1),
        (["25 -1"], {"sigma": "counts / 2"}, 1),
        (["25 nan"], {"sigma": "2 %"}, 1),
    ],
)
def test_points_marked_as_invalid_are_left_out_and_counted(read, rows, keys, n_invalid):
    width = len(rows[0].split())
    valid = [" ".join(line.split()[:width]) for line in XYE.splitlines()]
    text = "\n".join([*valid[:2], *rows, *valid[2:]]) + "\n"
    with pytest.warns(DataNote, match=f"{n_invalid} of {4 + n_invalid} points are marked as invalid"):
        pattern = read(text, **keys)
    assert_allclose(pattern.two_theta, [10, 20, 30, 40])


def test_excluded_regions_are_left_out(read):
    kept = read("".join(f"{x} 5 1\n" for x in range(1, 21)), exclude=[(3, 5), (10, 10)])
    assert_allclose(kept.two_theta, [x for x in range(1, 21) if x not in (3, 4, 5, 10)])


def test_no_count_has_the_uncertainty_of_one_count(read):
    pattern = read("10 100\n20 0\n30 400\n40 100\n", sigma="counts")
    assert_allclose(pattern.sigma, [10, 1, 20, 10])
    scaled = read("10 50\n20 0\n30 200\n40 50\n", sigma="counts / 2")
    assert_allclose(scaled.sigma, [5, 0.5, 10, 5])


def test_few_counts_are_remarked_on(read):
    few = "".join(f"{x} {count}\n" for x, count in zip(range(1, 9), (3, 9, 80, 90) * 2, strict=True))
    with pytest.warns(DataNote, match="50 % of the points have fewer than 50 counts"):
        read(few, sigma="counts")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(few.replace(" ", " 9"), sigma="counts")
        # intensities in units of ten counts
        read("".join(f"{x} 9\n" for x in range(1, 9)), sigma="counts / 10")


def test_a_blank_needs_no_sigma(read):
    text = "10 100\n20 0\n30 -3\n40 100\n"
    blank = read(text, sigma=None, sigma_required=False)
    assert_allclose(blank.intensity, [100, 0, -3, 100])
    assert_allclose(blank.sigma, 0)
    zeros = read("10 100 0\n20 0 0\n30 50 0\n", sigma=None, sigma_required=False)
    assert_allclose(zeros.intensity, [100, 0, 50])


def test_axis_grid_makes_the_axis(read):
    pattern = read(
        "4\n9\n16\n", name="p.cal", axis="q_inverse_angstrom", axis_grid=(1, 0.5), sigma="counts"
    )
    assert_allclose(pattern.q, [1, 1.5, 2])
    assert_allclose(pattern.sigma, [2, 3, 4])


# Hints of the file


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Q (Inverse Nanometres)", "q_inverse_nm"),
        ("Q (Inverse Angstroms)", "q_inverse_angstrom"),
        ("2-Theta Angle (Degrees)", "two_theta"),
        ("Radial Distance (mm)", None),
    ],
)
def test_chi_label_names_the_axis(columns, label, kind):
    found = columns(CHI.format(label=label), name="p.chi")
    assert found.axis_hint == kind
    assert found.axis.tolist() == [10, 20, 30]  # the '3' on line 4 is no point
    assert found.line_numbers[0] == 5


@pytest.mark.parametrize(
    ("header", "kind", "family"),
    [
        ("Q,I", None, "q"),
        ("Q[1/nm],I", "q_inverse_nm", "q"),
        ("Q (Å-1),I", "q_inverse_angstrom", "q"),
        ("q_inverse_angstrom,I", "q_inverse_angstrom", "q"),
        ("two_theta,I", "two_theta", "two_theta"),
        ("# 2th_deg  I", "two_theta", "two_theta"),
        ("# q_nm^-1  I", "q_inverse_nm", "q"),
        ("# q_A^-1  I", "q_inverse_angstrom", "q"),
        ("# tth counts", "two_theta", "two_theta"),
        ("x,y", None, None),
        ("# quite cold", None, None),
        ("# this film", None, None),
        ("# Q 20", None, None),
        ("tth = 10", None, None),
        ("Q,300", None, "q"),
        ("integrationspace = qspace", None, "q"),
    ],
)
def test_axis_named_in_a_header(columns, header, kind, family):
    found = columns(f"{header}\n10,1\n20,2\n30,3\n", name="p.csv")
    assert (found.axis_hint, found.axis_family) == (kind, family)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("wavelength = 0.1835957", 0.1835957),
        ("# 2theta counts; wavelength 0.564560 A; synthetic", 0.56456),
        ("# Wavelength: 5.6456e-11 m", 0.56456),
        ("# Wavelength: 5.6456e-11", 0.56456),
        ("# wavelength 0.056456nm", 0.56456),
        ("# Wavelength (Angstrom): 1.5406", 1.5406),
        ("# lambda=1.5406 Å", 1.5406),
        ("# wavelength 12.4 keV", None),
        ("# wavelength1 = 1.5", None),
        ("# wavelength unknown", None),
    ],
)
def test_wavelength_in_a_header(columns, header, value):
    found = columns(f"{header}\n10 1\n20 2\n30 3\n").wavelength_hint
    assert found == (None if value is None else pytest.approx(value, rel=1e-9))


def test_given_and_found_agree_within_a_thousandth(read):
    text = "# wavelength 0.5 A\n" + XYE
    assert read(text, wavelength=None).wavelength == 0.5
    assert read(text, wavelength=0.5004).wavelength == 0.5004
    with refused("0.5006 Å", "0.5 Å"):
        read(text, wavelength=0.5006)


def test_two_wavelengths_in_one_file(columns):
    with refused("line 2", "1.5444", "1.5406"):
        columns("# lambda 1.5406\n# lambda 1.5444\n" + XY)


@pytest.mark.parametrize(
    ("label", "axis", "fragments"),
    [
        ("Q (Inverse Nanometres)", "q_inverse_angstrom", ("q_inverse_angstrom", "q_inverse_nm")),
        ("Q (Inverse Nanometres)", "two_theta", ("two_theta", "q_inverse_nm")),
        ("2-Theta Angle (Degrees)", "q_inverse_nm", ("q_inverse_nm", "two_theta")),
        ("Q", "two_theta", ("two_theta", "file has q")),
    ],
)
def test_axis_given_against_axis_found(read, label, axis, fragments):
    with refused("the document specifies the axis", *fragments):
        read(CHI.format(label=label), name="p.chi", axis=axis, sigma="counts")


def test_q_without_unit_agrees_with_either_q(read):
    for axis in ("q_inverse_nm", "q_inverse_angstrom"):
        text = CHI.format(label="Q")
        assert read(text, name="p.chi", axis=axis, wavelength=0.1, sigma="counts").axis == axis


@pytest.mark.parametrize(
    ("text", "keys", "fragments"),
    [
        (XYE, {"axis": None}, ("axis: two_theta | q_inverse_angstrom | q_inverse_nm",)),
        (XYE, {"wavelength": None}, ("wavelength: ", "Å")),
        (XY, {"sigma": None}, ("sigma: column", "counts / N", "2 %")),
        (XY, {"axis": None, "sigma": None}, ("axis:", "sigma:")),
        ("Q,I\n10,1\n20,2\n30,3\n", {"axis": None, "sigma": "counts"}, ("axis:", "file has q")),
        ("Q,a,b\n1,2,3\n2,3,4\n3,4,5\n", {"sigma": None}, ("sigma:", "('Q', 'a', 'b')")),
        ("1 2 3 4\n2 3 4 5\n3 4 5 6\n", {"sigma": None}, ("sigma_column",)),
    ],
)
def test_nothing_is_guessed(read, text, keys, fragments):
    with refused("lacks the following information", *fragments):
        read(text, **keys)


# Columns by name


NAMED = "Q,noisy,low.noise,noisy_err\n10,100,99,5\n20,200,199,6\n30,300,299,7\n"


def test_columns_by_name_and_number(columns):
    found = columns(NAMED, intensity_column="low.noise", sigma_column=4)
    assert found.names == ("Q", "noisy", "low.noise", "noisy_err")
    assert found.intensity.tolist() == [99, 199, 299]
    assert found.sigma.tolist() == [5, 6, 7]
    assert columns(NAMED).sigma_column == 4  # the only one with such a name


def test_third_column_with_another_name_is_not_sigma(read, columns):
    text = "Q,noisy,low.noise\n10,100,99\n20,200,199\n30,300,299\n"
    assert columns(text).sigma is None
    with refused("no column is known to contain sigma", "low.noise", "sigma_column"):
        read(text, axis="q_inverse_nm")


@pytest.mark.parametrize(
    ("keys", "fragments"),
    [
        ({"intensity_column": "signal"}, ("intensity_column is 'signal'", "'low.noise'")),
        ({"intensity_column": 5}, ("intensity_column is 5", "4 columns")),
        ({"sigma_column": 0}, ("sigma_column is 0", "numbered from 1")),
        ({"intensity_column": "Q"}, ("intensity_column is 1", "axis")),
        ({"sigma_column": "noisy"}, ("intensity_column is 2", "sigma_column is 2")),
    ],
)
def test_wrong_columns(columns, keys, fragments):
    with refused(*fragments):
        columns(NAMED, **keys)


def test_index_column_is_not_the_axis(columns):
    with refused("column 1 has no name", "index"):
        columns(",Q,I\n0,1,2\n1,2,3\n2,3,4\n", name="p.csv")


# Refusals by line


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("10 1 1\n20 nan 1\n30 1 1\n", ("2 points lie in", "at least 3")),
        ("10 1 1\n20 -inf 1\n30 1 1\n", ("line 2 (1 in all)", "intensity is infinite")),
        ("10 1 1\n20 1 1\nNaN 1 1\n", ("line 3 (1 in all)", "axis is not finite")),
        ("10 1 1\n20 1 inf\n30 1 1\n", ("line 2 (1 in all)", "sigma is infinite")),
        ("# h\n10 1 1\n20 1 -2\n30 1 -1\n", ("line 3, 4 (2 in all)", "sigma is not positive")),
        ("10 1 0\n20 1 0\n30 1 0\n", ("column 3 contains no standard uncertainties", "counts")),
        ("10 nan 1\n20 nan 2\n30 1 1\n", ("2 of 3 points are marked as invalid",)),
        ("10 1 1\n20 1 1\n15 1 1\n", ("line 3", "not increasing", "15 after 20 on line 2")),
        ("10 1 1\n20 1 1\n\n20 1 1\n", ("line 4", "duplicated point", "20 after 20 on line 2")),
        ("30 1 1\n20 1 1\n10 1 1\n", ("line 2", "20 after 30 on line 1", "Sort")),
        ("10 1 1\n20 1\n30 1 1\n", ("line 2", "2 columns", "line 1, the first of the data, has 3")),
        ("10 1 1\n20 1 1 1\n30 1 1\n", ("line 2", "4 columns")),
        ("10 1 1\n20 ** 1\n30 1 1\n", ("line 2", "20 ** 1", "within the data")),
        ("10 1 1\n20 1 1\n30 1 1\nEND\n", ("line 4", "END")),
        ("10 1 1\n20 1_0 1\n30 1 1\n", ("line 2", "1_0")),
        ("t\n1O 1 1\n20 1 1\n30 1 1\n40 1 1\n", ("line 2", "1O 1 1", "numbers as well as other text")),
        ("-1 1 1\n0 1 1\n30 1 1\n40 1 1\n", ("line 1, 2 (2 in all)", "two_theta is not positive")),
        ("", ("no row of numbers", "empty")),
        ("\n \n", ("no row of numbers", "empty")),
        ("# only\n", ("no row of numbers", "line 1", "# only")),
        ("1,5 20,1\n1,6 21,1\n1,7 22,2\n", ("no row of numbers", "point")),
        ("1,5;20\n1,6;21\n1,7;22\n", ("no row of numbers", "point")),
        ("10 1 1\n20 1 1\n", ("contains 2 points", "at least 3")),
        ("10\n20\n30\n", ("one number per line", "grid: {start: 4.0, step: 0.02}")),
        ("_START = 5\n_STEPSIZE=0.1\n10\n20\n30\n", ("grid: {start: 5, step: 0.1}",)),
        ("2th_rad,I,esd\n1,1,1\n2,1,1\n3,1,1\n", ("2th_rad", "degrees")),
    ],
)
def test_bad_content_is_refused_by_line(read, text, fragments):
    with refused("p.xye", *fragments):
        read(text)


@pytest.mark.parametrize(("rule", "lines"), [
    ("counts", "line 3 (1 in all)"), ("counts / 3", "line 3 (1 in all)"),
    ("2 %", "line 1, 3 (2 in all)")])
def test_counts_are_not_negative_and_a_percentage_needs_positive_intensities(read, rule, lines):
    with refused(lines, "negative" if "counts" in rule else "positive"):
        read("10 0\n20 5\n30 -2\n40 5\n", sigma=rule)


def test_truncated_chi_is_noticed(read):
    text = CHI.format(label="Q (Inverse Nanometres)").replace("   3\n", "   4\n")
    with refused("line 4: the header specifies 4 points", "3 follow"):
        read(text, name="p.chi", axis="q_inverse_nm", sigma="counts")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\x00", "1 2\n2 3\n".encode("utf-16")])
def test_binary_file(read, content):
    with refused("binary"):
        read(content)


def test_latin_1_header_is_read(read):
    assert read("# wavelength 0.5 Å\n".encode("latin-1") + XYE.encode(), wavelength=None)


def test_no_file_and_a_directory(tmp_path):
    with refused("nowhere.xy", "does not exist"):
        read_pattern(tmp_path / "nowhere.xy", **GIVEN)
    with refused("is a directory"):
        read_pattern(tmp_path, **GIVEN)


@pytest.mark.parametrize(
    ("keys", "fragments"),
    [
        ({"axis": "q"}, ("'q' is unknown", "q_inverse_angstrom")),
        ({"range_": (30, 10)}, ("the range is 30 to 10",)),
        ({"range_": (10, 10)}, ("the range is 10 to 10",)),
        ({"range_": (100, 120)}, ("0 points", "100 to 120", "from 10 to 40")),
        ({"every": 0}, ("every is 0",)),
        ({"every": 3}, ("4 points", "every = 3", "at least 3")),
        ({"sigma": "absolute 3"}, ("'absolute 3'", "counts / N")),
        ({"sigma": "0 %"}, ("'0 %'", "between 0 and 100")),
        ({"sigma": "counts / 0"}, ("divisor", "positive")),
        ({"axis_grid": (1, 1)}, ("3 columns", "Remove the grid")),
        ({"wavelength": 0.0}, ("0 Å", "between 0.01 and 10")),
        ({"wavelength": 5e-11}, ("5e-11 Å", "not in nm")),
        ({"wavelength": float("nan")}, ("nan Å",)),
    ],
)
def test_wrong_settings(read, keys, fragments):
    with refused(*fragments):
        read(XYE, **keys)


@pytest.mark.parametrize("step", [0, -0.1, float("nan")])
def test_grid_must_go_up(read, step):
    with refused("the step positive"):
        read("4\n9\n16\n", name="p.cal", axis_grid=(1, step), sigma="counts")


@pytest.mark.parametrize("text", [XY, XYE.replace(" 10\n", " 10 1\n", 1)])
def test_column_sigma_needs_a_column(read, text):
    with refused("no column 3" if text is XY else "line 2"):
        read(text)


def test_unit_of_q_is_questioned(read):
    text = "".join(f"{q} 1 1\n" for q in (1, 5, 9, 20, 50))
    q = {"axis": "q_inverse_angstrom"}
    with refused("50 1/Å", "25.13 1/Å", "q_inverse_nm"):
        read(text, **q, wavelength=0.5)
    with refused("50 1/Å", "45 1/Å", "1/nm"):
        read(text, **q, wavelength=0.1)
    with refused("50 1/Å", "q_inverse_nm"):  # a range does not hide a wrong unit
        read(text, **q, wavelength=0.1, range_=(1, 20))
    assert read(text, axis="q_inverse_nm", wavelength=0.5).q.max() == 5
    with refused("5 1/Å", "4.189 1/Å"):
        read(text, axis="q_inverse_nm", wavelength=3.0)
    with refused("9.9 1/nm", "0.99 1/Å", "q_inverse_angstrom"):
        read("1 1 1\n2 1 1\n9.9 1 1\n", axis="q_inverse_nm")


def test_two_theta_ends_at_back_scattering(read):
    with refused("180 degrees", "below 180"):
        read("10 1 1\n20 1 1\n180 1 1\n")


# Real files


@needs_data
def test_nickel_in_a_capillary():
    path = DATA / "ni_capillary" / "Ni.chi"
    keys = {"axis": "q_inverse_angstrom", "wavelength": None, "sigma": None}
    pattern = read_pattern(path, **keys, range_=(1.0, 25.0))
    assert pattern.wavelength == 0.1835957
    assert pattern.sigma_origin == "column 3"
    assert_allclose(pattern.q[[0, -1]], [1, 25])
    strongest = pattern.q[np.argmax(np.where(pattern.q > 2.5, pattern.intensity, 0))]
    assert strongest == pytest.approx(2 * np.pi * np.sqrt(3) / 3.524, abs=0.03)  # Ni 111
    with pytest.warns(DataNote, match="marked as invalid"):  # q = 0, without sigma
        assert read_pattern(path, **keys).q[0] > 0
    with refused("Ni.chi", "two_theta", "file has q"):
        read_pattern(path, **(keys | {"axis": "two_theta"}), range_=(1.0, 25.0))


@needs_data
def test_tio2_film_is_in_inverse_nanometres():
    path = DATA / "tio2_film" / "tio2-ito-glass-250.chi"
    keys = {"wavelength": 0.18351, "sigma": "2 %", "range_": (5.0, 250.0)}
    pattern = read_pattern(path, axis=None, **keys)
    assert pattern.axis == "q_inverse_nm"
    assert 24.9 < pattern.q.max() <= 25
    with refused("q_inverse_angstrom", "q_inverse_nm"):
        read_pattern(path, axis="q_inverse_angstrom", **keys)


@needs_data
def test_pbs_intensities_on_a_grid():
    path = next((DATA / "pbs_qdots").glob("*SD20_Avg7.00*noisy200.00.cal"))
    pattern = read_pattern(
        path,
        axis="q_inverse_angstrom",
        wavelength=0.564162,
        sigma="counts / 200",
        axis_grid=(0.99, 0.0028),
    )
    assert pattern.q.size == 5004
    assert pattern.q[-1] == pytest.approx(0.99 + 0.0028 * 5003)
    counts = pattern.intensity * 200
    assert_allclose(counts, np.round(counts), atol=1e-6)  # so sqrt(I / 200) is Poisson's
    assert_allclose(pattern.sigma * 200, np.sqrt(counts))


@needs_data
def test_toluene_blank():
    path = DATA / "pbs_qdots" / "Toluene.xye"
    pattern = read_pattern(path, axis="two_theta", wavelength=0.564162, sigma="column")
    assert pattern.sigma[0] == 6.4419040144187173e-2
    assert_allclose(np.diff(pattern.two_theta), 0.0036, rtol=1e-6)
    with refused("wavelength:"):
        read_pattern(path, axis="two_theta", wavelength=None, sigma=None)


@needs_data
@pytest.mark.parametrize("name", ["size/size_05nm.xye", "temperature/dry09nm_006K.xye"])
def test_cspbbr3_has_all_facts_in_its_header(name):
    pattern = read_pattern(DATA / "cspbbr3_debussy" / name, axis=None, wavelength=None, sigma=None)
    assert (pattern.axis, pattern.wavelength) == ("two_theta", 0.56456)
    assert_allclose(pattern.sigma, np.sqrt(pattern.intensity), atol=6e-4)


@needs_data
def test_tio2_csv_columns():
    path = DATA / "tio2_nanoparticles" / "xrayTiO2np20nm.csv"
    keys = {"axis": "q_inverse_angstrom", "wavelength": 1.5406}
    noisy = read_pattern(path, **keys, sigma="counts", intensity_column="noisy")
    quiet = read_pattern(path, **keys, sigma="counts", intensity_column="low.noise")
    assert (noisy.intensity[0], quiet.intensity[0]) == (599, 602.6009337708169)
    assert noisy.q[-1] == 7.879064771130181
    with refused("sigma:", "low.noise"):  # column 3 is another measurement, not sigma
        read_pattern(path, **keys, sigma=None)


@needs_data
def test_every_pattern_of_the_collection_has_columns():
    files = [p for p in DATA.rglob("*") if p.suffix in {".chi", ".xye", ".csv", ".cal"}
             and not {"field_cases", "hostile"} & set(p.parts)]
    assert len(files) > 30
    for path in files:
        columns = read_columns(path, axis_grid=(0.99, 0.0028) if path.suffix == ".cal" else None)
        assert np.all(np.diff(columns.axis) > 0), path


def test_a_wavelength_in_nm_is_questioned(tmp_path):
    path = tmp_path / "bare.xye"
    path.write_text("".join(f"{x} 100 10\n" for x in range(2, 125)))
    with pytest.raises(ValueError, match=r"wavelength of 0\.0564 Å .* not in nm"):
        read_pattern(path, axis="two_theta", wavelength=0.0564, sigma="column")
    assert read_pattern(path, axis="two_theta", wavelength=0.564, sigma="column").q[-1] < 45
