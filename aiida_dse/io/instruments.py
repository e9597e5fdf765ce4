"""Readers of files of instruments and beamlines: PANalytical .xrdml, Rigaku .ras, NeXus and HDF5."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from aiida_dse.engine.units import FloatArray

from .columns import AXES, Columns
from .text import number, read_text

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def instrument_columns(path: Path) -> Columns | None:
    """The columns of an .xrdml, .ras, NeXus or HDF5 file; None for other files.

    Raises ValueError for files of these kinds that do not contain exactly one pattern.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(HDF5_SIGNATURE):
        return _nexus(path)
    if b"xrdMeasurement" in start:
        return _xrdml(path.name, read_text(path))
    if start.lstrip().startswith(b"*RAS_DATA_START"):
        return _ras(path.name, read_text(path))
    return None


def _columns(
    axis: FloatArray, intensity: FloatArray, sigma: FloatArray | None, hint: str,
    wavelength: float | None, lines: list[int] | None = None,
) -> Columns:
    where = np.arange(len(axis)) if lines is None else np.array(lines)
    return Columns(
        axis=axis, intensity=intensity, sigma=sigma, line_numbers=where.astype(np.int64),
        axis_hint=hint, wavelength_hint=wavelength, axis_family=hint.partition("_inverse")[0],
        sigma_column=None if sigma is None else 3, sigma_is_evident=sigma is not None)


def _xrdml(name: str, text: str) -> Columns:
    """PANalytical's XML: one scan over 2theta with counts; counts per second are converted."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{name} contains a DOCTYPE or entities, which an .xrdml file does not need. "
                         "It is not read.")
    try:
        root = ElementTree.fromstring(re.sub(r"^<\?xml[^>]*\?>", "", text))
    except ElementTree.ParseError as problem:
        raise ValueError(f"{name} cannot be read as XML: {problem}.") from None

    def every(element: Any, tag: str) -> list[Any]:
        return [one for one in element.iter() if one.tag.rpartition("}")[2] == tag]

    points = every(root, "dataPoints")
    if len(points) != 1:
        raise ValueError(f"{name} contains {len(points)} scans; a pattern is one scan. Export the "
                         "scan that you want.")
    data = every(points[0], "counts") or every(points[0], "intensities")
    positions = [one for one in every(points[0], "positions") if one.get("axis") == "2Theta"]
    if len(data) != 1 or len(positions) != 1:
        raise ValueError(f"{name} has no scan of intensities over 2Theta.")
    values = np.array([number(text) for text in (data[0].text or "").split()])
    if data[0].get("unit") == "cps":
        seconds = every(points[0], "commonCountingTime")
        if not seconds:
            raise ValueError(f"{name} contains counts per second without a common counting time.")
        values = np.round(values * number(seconds[0].text or ""))
    listed = every(positions[0], "listPositions")
    if listed:
        axis = np.array([number(text) for text in (listed[0].text or "").split()])
    else:
        first, last = (number(every(positions[0], tag)[0].text or "")
                       for tag in ("startPosition", "endPosition"))
        axis = np.linspace(first, last, len(values))
    wavelengths = every(root, "kAlpha1")
    wavelength = number(wavelengths[0].text or "") if wavelengths else None
    if len(axis) != len(values):
        raise ValueError(f"{name} has {len(axis)} positions, but {len(values)} intensities.")
    return _columns(axis, values, None, "two_theta", wavelength)


def _ras(name: str, text: str) -> Columns:
    """Rigaku's text: angle, intensity and attenuation between RAS_INT_START and RAS_INT_END."""
    lines = text.splitlines()
    begins = [k for k, line in enumerate(lines) if line.startswith("*RAS_INT_START")]
    ends = [k for k, line in enumerate(lines) if line.startswith("*RAS_INT_END")]
    if len(begins) != 1 or len(ends) != 1:
        raise ValueError(f"{name} contains {len(begins)} scans; a pattern is one complete scan. Export "
                         "the scan that you want.")
    rows, where = [], []
    for k in range(begins[0] + 1, ends[0]):
        try:
            row = [number(cell) for cell in lines[k].split()]
            rows.append((row[0], row[1] * (row[2] if len(row) > 2 else 1.0)))
        except (ValueError, IndexError):
            raise ValueError(f"{name}, line {k + 1}: '{lines[k][:40]}' is not a row of angle, "
                             "intensity and attenuation.") from None
        where.append(k + 1)
    found = re.search(r'\*HW_XG_WAVE_LENGTH_ALPHA1\s+"([\d.]+)"', text)
    table = np.array(rows).reshape(-1, 2)
    return _columns(table[:, 0], table[:, 1], None, "two_theta",
                    number(found[1]) if found else None, where)


def _nexus(path: Path) -> Columns:
    """An NXdata group (NXazint1d of azint, pyFAI, DAWN): the default one, or the only one."""
    from .hdf5 import opened, own

    with opened(path, "a pattern") as file:
        group = _default_group(path.name, file)
        signal = _text(group.attrs.get("signal", "data"))
        axes = group.attrs.get("axes", [])
        names = [_text(one) for one in ([axes] if isinstance(axes, str | bytes) else axes)]
        if signal not in group or len(names) != 1 or names[0] not in group:
            raise ValueError(
                f"{path.name}: the group {group.name} has the signal '{signal}' over the axes "
                f"{', '.join(names) or 'without names'}; a pattern is a signal over one axis.")
        data, axis = own(group, signal), own(group, names[0])
        if not hasattr(data, "ndim") or not hasattr(axis, "ndim"):
            raise ValueError(f"{path.name}: {group.name} contains groups instead of a signal and an axis.")
        if data.ndim != 1 or axis.shape != data.shape:
            raise ValueError(
                f"{path.name}: {data.name} has the shape {data.shape} over {axis.shape}; a pattern has "
                "one dimension. Integrate or select it first.")
        errors = next((own(group, one) for one in (
            f"{signal}_errors", f"{signal}_sigma", "errors", "sigma", f"{signal}_error")
            if one in group and getattr(own(group, one), "shape", None) == data.shape), None)
        hint = _axis_hint(path.name, names[0], axis)
        x = np.asarray(axis[()], dtype=float)
        if _text(axis.attrs.get("units", "")).lower().startswith("rad"):
            x = np.degrees(x)
        return _columns(
            x, np.asarray(data[()], dtype=float),
            None if errors is None else np.asarray(errors[()], dtype=float), hint, _wavelength(file))


def _default_group(name: str, file: Any) -> Any:
    """The NXdata group that the attributes 'default' lead to, or the only one in the file."""
    import h5py

    from .hdf5 import MOST_LEVELS, own

    group = file
    for _ in range(MOST_LEVELS):
        if not ("default" in group.attrs and _text(group.attrs["default"]) in group):
            break
        group = own(group, _text(group.attrs["default"]))
    if _text(group.attrs.get("NX_class", "")) == "NXdata":
        return group
    found: list[Any] = []

    def visit(_: str, node: Any) -> None:
        if isinstance(node, h5py.Group) and _text(node.attrs.get("NX_class", "")) == "NXdata":
            found.append(node)

    file.visititems(visit)
    if len(found) != 1:
        listed = ", ".join(node.name for node in found) or "none"
        raise ValueError(
            f"{name}: the file has {len(found)} groups of data (NXdata: {listed}) and names no default. "
            "Export the pattern that you want as text or as a file of its own.")
    return found[0]


def _axis_hint(name: str, label: str, axis: Any) -> str:
    unit = _text(axis.attrs.get("units", "")).lower()
    long_name = _text(axis.attrs.get("long_name", "")).lower()
    text = f"{label.lower()} {long_name}"
    if re.search(r"2th|tth|two[_ ]?theta|2θ", text) or unit.startswith(("deg", "rad")):
        return AXES[0]
    if "nm" in unit or "nm" in text:
        return AXES[2]
    if re.search(r"a\^?-1|å|ang|1/a", f"{unit} {text}"):
        return AXES[1]
    raise ValueError(
        f"{name}: the axis '{label}' has the unit '{unit or 'unknown'}'; a pattern has 2theta in degrees "
        "or q in 1/nm or 1/Å. Export it with the unit of its axis.")


def _wavelength(file: Any) -> float | None:
    """The wavelength (Å) in the file; None where there is none or several differ."""
    import h5py

    from .hdf5 import require_own

    found: set[float] = set()

    def visit(path: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and f"/{path}".endswith("/wavelength") \
                and node.size == 1 and node.dtype.kind in "fiu":
            require_own(node, path)
            unit = _text(node.attrs.get("units", "angstrom")).lower()
            factor = 1e10 if unit == "m" else 10.0 if unit.startswith("nm") else 1.0
            found.add(round(float(np.asarray(node[()]).reshape(-1)[0]) * factor, 9))

    file.visititems(visit)
    return found.pop() if len(found) == 1 else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
