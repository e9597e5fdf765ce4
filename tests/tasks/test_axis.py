"""The check of peak positions detects wrong wavelengths and units, and accepts correct ones."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_dse.documents import DocumentError
from aiida_dse.tasks.peak_positions import check_axis, match_axis


@pytest.fixture
def angles(folder, columns):
    """A function that builds the pattern, measured at 0.7 Å, with a specified wavelength."""
    two_theta = np.degrees(2 * np.arcsin(columns[:, 0] * 0.7 / (4 * np.pi)))
    np.savetxt(folder.path / "angles.xye", np.c_[two_theta, columns[:, 1:]], fmt="%.8g")

    def built(wavelength, **paths):
        return folder.build(pattern__file="angles.xye", pattern__axis="two_theta",
                            pattern__wavelength=wavelength, **paths)

    return built


def test_a_correct_axis_passes(folder, angles):
    assert check_axis(folder.build()) is None
    assert check_axis(angles(0.7)) is None


@pytest.mark.parametrize("wavelength", [1.5406, 0.5594, 0.4, 0.9])
def test_a_wrong_wavelength_is_refused_and_the_correct_one_suggested(angles, wavelength):
    with pytest.raises(DocumentError) as refused:
        check_axis(angles(wavelength))
    suggested = float(str(refused.value).split("Is the wavelength ")[1].split(" Å")[0])
    assert suggested == pytest.approx(0.7, rel=0.01)
    assert "axis_confirmed" in str(refused.value)


def test_a_wrong_definition_of_q_is_recognised_by_its_factor(folder, columns):
    stretched = columns.copy()
    stretched[:, 0] /= 2 * np.pi
    np.savetxt(folder.path / "s.xye", stretched, fmt="%.8g")
    found = match_axis(folder.build(pattern__file="s.xye").model)
    assert found.factor == pytest.approx(2 * np.pi, rel=0.01)
    with pytest.raises(DocumentError, match="2 pi"):
        check_axis(folder.build(pattern__file="s.xye"))


def test_a_deviation_of_a_few_per_cent_is_reported(folder):
    """The cell may be a poor starting value, so the deviation is reported, not refused."""
    remark = check_axis(folder.build(parameters={"P.a": 4.12 * 1.026}))
    assert remark is not None and "multiplied by 0.97" in remark


def test_a_confirmed_axis_is_not_checked(angles):
    assert check_axis(angles(1.5406, pattern__axis_confirmed=True)) is None


def test_a_pattern_without_peaks_passes(folder, columns):
    flat = columns.copy()
    flat[:, 1] = np.random.default_rng(3).poisson(1e4, len(flat))
    flat[:, 2] = 100
    np.savetxt(folder.path / "flat.xye", flat, fmt="%.8g")
    assert check_axis(folder.build(pattern__file="flat.xye")) is None


def test_another_kind_of_axis_is_recognised(folder, columns, angles):
    with pytest.raises(DocumentError, match=r"'q_inverse_angstrom'\. Correct the axis"):
        check_axis(folder.build(pattern__axis="two_theta"))
    angles(0.7)
    with pytest.raises(DocumentError, match=r"'two_theta'\. Correct the axis"):
        check_axis(folder.build(pattern__file="angles.xye", pattern__axis="q_inverse_nm"))


def test_a_structure_that_explains_nothing_is_remarked_on(folder):
    (folder.path / "wrong.cif").write_text(
        folder.cif().replace("0.5 0.5 0.5", "0.5 0.0 0.25").replace("4.12", "6.71"))
    remark = check_axis(folder.build(phases__P__structure="wrong.cif", parameters={}))
    assert remark is not None and "Check the structure" in remark
