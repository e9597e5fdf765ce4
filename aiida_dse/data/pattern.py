"""dse.pattern: a measured pattern with metadata for queries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aiida.common.exceptions import ValidationError
from aiida.orm import ArrayData
from aiida.orm.pydantic import OrmMetadataField

from aiida_dse.engine.units import q_from_two_theta
from aiida_dse.io.columns import AXES
from aiida_dse.io.patterns import MeasuredPattern


class PatternData(ArrayData):
    """Intensities and standard uncertainties as a function of 2theta or q, with metadata.

    The arrays are 'axis', 'intensity' and 'sigma' (n,), with the axis in the unit of `axis_kind`.
    Queries can use `PatternData.fields.temperature`, `.wavelength`, `.sample_name`, `.ligand`, ...
    """

    #: The source file is not part of the hash: patterns with equal points are equal.
    _hash_ignored_attributes = (*ArrayData._hash_ignored_attributes, "source_name",
                                "source_sha256")

    class AttributesModel(ArrayData.AttributesModel):
        axis_kind: str = OrmMetadataField(
            description="two_theta, q_inverse_angstrom or q_inverse_nm")
        wavelength: float = OrmMetadataField(description="Wavelength (Å)")
        n_points: int = OrmMetadataField(description="Number of points")
        q_min: float = OrmMetadataField(description="Smallest q (1/Å)")
        q_max: float = OrmMetadataField(description="Largest q (1/Å)")
        sigma_origin: str = OrmMetadataField(description="Origin of sigma")
        sample_name: str | None = OrmMetadataField(None, description="Name of the sample")
        ligand: str | None = OrmMetadataField(None, description="Ligand")
        state: str | None = OrmMetadataField(None, description="Colloid, powder, film, ...")
        temperature: float | None = OrmMetadataField(None, description="Temperature (K)")
        beamline: str | None = OrmMetadataField(None, description="Beamline")
        tags: dict | None = OrmMetadataField(None, description="User-defined tags")
        source_name: str | None = OrmMetadataField(None, description="Name of the source file")
        content_sha256: str | None = OrmMetadataField(None, description="SHA-256 of the data")
        source_sha256: str | None = OrmMetadataField(None, description="SHA-256 of the source file")

    @classmethod
    def from_measured(
        cls, pattern: MeasuredPattern, *, sample: dict[str, Any] | None = None,
        source: Path | None = None,
    ) -> PatternData:
        """An unstored node of a pattern read from a file, with the metadata of its sample."""
        node = cls()
        axis = pattern.q * (10.0 if pattern.axis == "q_inverse_nm" else 1.0)
        if pattern.axis == "two_theta":
            assert pattern.two_theta is not None
            axis = pattern.two_theta
        node.set_array("axis", axis)
        node.set_array("intensity", pattern.intensity)
        node.set_array("sigma", pattern.sigma)
        sample = dict(sample or {})
        attributes = {
            "axis_kind": pattern.axis, "wavelength": pattern.wavelength,
            "n_points": len(pattern.q), "q_min": float(pattern.q[0]),
            "q_max": float(pattern.q[-1]), "sigma_origin": pattern.sigma_origin,
            "sample_name": sample.pop("name", None), "tags": sample.pop("tags", None) or None,
            **sample,
        }
        if source is not None:
            attributes["source_name"] = source.name
            attributes["source_sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
        for key, value in attributes.items():
            if value is not None:
                node.base.attributes.set(key, value)
        facts = json.dumps({k: v for k, v in sorted(attributes.items())
                            if v is not None and not k.startswith("source_")})
        content = hashlib.sha256((facts + node.as_text()).encode()).hexdigest()
        node.base.attributes.set("content_sha256", content)
        node.label = source.name if source else ""
        return node

    def _validate(self) -> bool:
        """Check that the arrays form a valid pattern. Raises ValidationError."""
        super()._validate()
        kind = self.base.attributes.get("axis_kind", None)
        if kind not in AXES:
            raise ValidationError(f"axis_kind is '{kind}'; it must be one of {', '.join(AXES)}")
        wavelength = self.base.attributes.get("wavelength", 0)
        if not (isinstance(wavelength, float | int) and wavelength > 0):
            raise ValidationError(f"the wavelength is {wavelength}; it must be positive, in Å")
        try:
            axis, intensity, sigma = (self.get_array(n) for n in ("axis", "intensity", "sigma"))
        except KeyError as problem:
            raise ValidationError(f"the array {problem} is missing") from None
        if not axis.shape == intensity.shape == sigma.shape or axis.ndim != 1:
            raise ValidationError(
                f"axis, intensity and sigma have shapes {axis.shape}, {intensity.shape}, "
                f"{sigma.shape}; they must be one-dimensional and of equal length"
            )
        if not len(axis):
            raise ValidationError("the pattern contains no points; at least one is required")
        finite = all(np.isfinite(values).all() for values in (axis, intensity, sigma))
        if not (finite and (sigma >= 0).all()):
            raise ValidationError(
                "the arrays contain values that are not finite, or negative values of sigma; "
                "remove or correct these points")
        if not (np.diff(axis) > 0).all():
            raise ValidationError("the axis is not strictly increasing; sort the points and remove "
                                  "duplicates")
        return True

    @property
    def sample(self) -> dict[str, Any]:
        """The metadata of the sample as the section 'sample' of a document."""
        found = {
            "name": self.base.attributes.get("sample_name", None),
            **{key: self.base.attributes.get(key, None)
               for key in ("ligand", "state", "temperature", "beamline", "tags")},
        }
        return {key: value for key, value in found.items() if value not in (None, {})}

    def measured(
        self, *, range_: tuple[float, float] | None = None,
        exclude: Sequence[tuple[float, float]] = (), every: int = 1,
    ) -> MeasuredPattern:
        """Every n-th point within `range_` and outside the regions `exclude`.

        The range and the regions are in units of the axis. Raises ValueError if fewer than three
        points remain.
        """
        kind = self.base.attributes.get("axis_kind")
        wavelength = self.base.attributes.get("wavelength")
        axis, intensity, sigma = (
            self.get_array(name) for name in ("axis", "intensity", "sigma"))
        low, high = range_ or (-np.inf, np.inf)
        used = (axis >= low) & (axis <= high)
        for first, last in exclude:
            used &= (axis < first) | (axis > last)
        kept = np.flatnonzero(used)[::every]
        if len(kept) < 3:
            raise ValueError(
                f"only {len(kept)} points remain in the range {low:g} to {high:g} with every = "
                f"{every}, but at least 3 are required. The pattern extends from {axis[0]:g} to "
                f"{axis[-1]:g} ({kind})."
            )
        x = axis[kept]
        if kind == "two_theta":
            q, two_theta = q_from_two_theta(x, wavelength), x
        else:
            q, two_theta = (x / 10 if kind == "q_inverse_nm" else x), None
        return MeasuredPattern(
            q, two_theta, intensity[kept], sigma[kept], kind, wavelength,
            self.base.attributes.get("sigma_origin", "column"),
            self.base.attributes.get("source_name", None) or f"node {self.pk}")

    def as_text(self) -> str:
        """The three columns at full precision, in the format of the file of a job."""
        columns = (self.get_array(name).tolist() for name in ("axis", "intensity", "sigma"))
        return "\n".join(f"{a!r} {i!r} {s!r}" for a, i, s in zip(*columns, strict=True)) + "\n"
