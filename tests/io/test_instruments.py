"""Files of instruments and beamlines: the same pattern from each of them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from aiida_dse.io.patterns import read_pattern

X = np.arange(10.0, 14.0, 0.5)
COUNTS = np.array([100.0, 144, 400, 900, 400, 169, 100, 81])

XRDML = """<?xml version="1.0" encoding="UTF-8"?>
<xrdMeasurements xmlns="http://www.xrdml.com/XRDMeasurement/1.5"><xrdMeasurement>
<usedWavelength intended="K-Alpha 1"><kAlpha1 unit="Angstrom">1.5405980</kAlpha1></usedWavelength>
<scan><dataPoints>
<positions axis="2Theta" unit="deg"><startPosition>10.0</startPosition>
<endPosition>13.5</endPosition></positions>
<positions axis="Omega" unit="deg"><startPosition>5.0</startPosition></positions>
<commonCountingTime unit="seconds">2.0</commonCountingTime>
<intensities unit="{unit}">{values}</intensities></dataPoints></scan>
</xrdMeasurement></xrdMeasurements>"""
RAS = """*RAS_DATA_START
*RAS_HEADER_START
*HW_XG_WAVE_LENGTH_ALPHA1 "1.540593"
*RAS_HEADER_END
*RAS_INT_START
{rows}
*RAS_INT_END
*RAS_DATA_END
"""


def check(path, *, axis="two_theta", wavelength=None, sigma="counts", factor=1.0):
    pattern = read_pattern(path, axis=None, wavelength=wavelength, sigma=sigma)
    assert pattern.axis == axis
    values = pattern.two_theta if axis == "two_theta" else pattern.q * factor
    np.testing.assert_allclose(values, X)
    np.testing.assert_allclose(pattern.intensity, COUNTS)
    np.testing.assert_allclose(pattern.sigma, np.sqrt(COUNTS))
    return pattern


@pytest.mark.parametrize(("unit", "divisor"), [("counts", 1), ("cps", 2)])
def test_xrdml(tmp_path, unit, divisor):
    path = tmp_path / "p.xrdml"
    path.write_text(XRDML.format(unit=unit, values=" ".join(map(str, COUNTS / divisor))))
    assert check(path).wavelength == pytest.approx(1.540598)


def test_ras(tmp_path):
    path = tmp_path / "p.ras"
    rows = [f"{x:.4f} {n / 2 if k % 2 else n:.4f} {2.0 if k % 2 else 1.0:.4f}"
            for k, (x, n) in enumerate(zip(X, COUNTS, strict=True))]
    path.write_text(RAS.format(rows="\n".join(rows)))
    assert check(path).wavelength == pytest.approx(1.540593)


def nexus(path, *, axis, units, default=True, shape=None, errors="data_errors", more=()):
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        for name in ("azint1d", *more):
            data = entry.create_group(name)
            data.attrs["NX_class"], data.attrs["signal"] = "NXdata", "data"
            data.attrs["axes"] = [axis]
            data["data"] = COUNTS if shape is None else np.ones(shape)
            data[axis] = X
            data[axis].attrs["units"] = units
            if errors:
                data[errors] = np.sqrt(COUNTS)
        entry["instrument/monochromator/wavelength"] = 0.5
        entry["instrument/monochromator/wavelength"].attrs["units"] = "angstrom"
        if default:
            file.attrs["default"], entry.attrs["default"] = "entry", "azint1d"


@pytest.mark.parametrize(("axis", "units", "kind", "factor"), [
    ("radial_axis", "1/angstrom", "q_inverse_angstrom", 1.0),
    ("q", "nm^-1", "q_inverse_nm", 10.0), ("2th", "deg", "two_theta", 1.0),
])
@pytest.mark.parametrize("default", [True, False])
def test_nexus(tmp_path, axis, units, kind, factor, default):
    nexus(tmp_path / "p.h5", axis=axis, units=units, default=default)
    found = check(tmp_path / "p.h5", axis=kind, sigma=None, factor=factor)
    assert found.wavelength == 0.5


@pytest.mark.parametrize(("changes", "message"), [
    ({"axis": "d", "units": "angstrom", "more": ("other",), "default": False}, "2 groups of data"),
    ({"axis": "d", "units": "mm"}, "unit 'mm'"),
    ({"axis": "q", "units": "nm^-1", "shape": (4, 8)}, r"shape \(4, 8\)"),
])
def test_hdf5_without_a_pattern(tmp_path, changes, message):
    nexus(tmp_path / "p.h5", **changes)
    with pytest.raises(ValueError, match=message):
        read_pattern(tmp_path / "p.h5", axis=None, wavelength=None, sigma=None)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("p.xrdml", XRDML.replace("<scan>", "<scan><dataPoints/></scan><scan>"), "2 scans"),
    ("p.xrdml", XRDML.replace("</scan>", ""), "cannot be read as XML"),
    ("p.xrdml", XRDML.replace("<xrdMeasurements", "<!DOCTYPE x [<!ENTITY a 'b'>]><xrdMeasurements"),
     "DOCTYPE"),
    ("p.xrdml", XRDML.replace('axis="2Theta"', 'axis="Chi"'), "no scan of intensities over 2Theta"),
    ("p.ras", RAS + RAS, "2 scans"),
    ("p.ras", RAS.replace("{rows}", "10 x 1"), "line 6: '10 x 1'"),
])
def test_files_that_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text.replace("{unit}", "counts").replace("{values}", "1 2 3"))
    with pytest.raises(ValueError, match=message):
        read_pattern(tmp_path / name, axis=None, wavelength=None, sigma="counts")
