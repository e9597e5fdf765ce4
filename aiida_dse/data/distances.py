"""dse.distances: sampled pair distances of a phase, which can replace its structure."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from aiida.common.exceptions import ValidationError
from aiida.orm import SinglefileData
from aiida.orm.pydantic import OrmMetadataField

from aiida_dse.engine.model.fixed_geometry import PairDistances
from aiida_dse.io.distances import read_distances
from aiida_dse.tasks.distances import distances_row

from .results import nested


class DistancesData(SinglefileData):
    """The sampled pair distances of one phase, as an HDF5 file with attributes for queries.

    Queries can use `DistancesData.fields.q_max`, `.space_group` and `.atoms`, or paths such as
    'attributes.sizes.L_ab' and 'attributes.values.a'.
    """

    class AttributesModel(SinglefileData.AttributesModel):
        name: str = OrmMetadataField(description="Name of the structure")
        space_group: str = OrmMetadataField(description="Space group, or '' if unknown")
        sites: dict = OrmMetadataField(description="Ions by site label")
        atoms: float = OrmMetadataField(description="Mean number of atoms of a particle")
        sizes: dict = OrmMetadataField(description="Statistics of the size distribution (nm)")
        values: dict = OrmMetadataField(description="Parameter values of the sampling")
        step: float = OrmMetadataField(description="Grid step (Å)")
        n_channels: int = OrmMetadataField(description="Number of pairs of sites")
        n_bins: int = OrmMetadataField(description="Number of grid points")
        r_max: float = OrmMetadataField(description="Largest distance (Å)")
        q_max: float = OrmMetadataField(description="Limit of accuracy in q (1/Å)")
        tolerance: float = OrmMetadataField(description="Relative error per distance at q_max")
        content_sha256: str = OrmMetadataField(description="SHA-256 of the file")

    @classmethod
    def from_file(cls, path: Path, tolerance: float = 1e-5) -> DistancesData:
        """An unstored node of a file written by dse-engine. Raises ValueError for any other file.

        tolerance: the relative error for which `q_max` is computed. The file does not depend on it.
        """
        stored = read_distances(path)
        node = cls(file=str(path.resolve()))
        facts: dict[str, Any] = distances_row(stored, tolerance).model_dump()
        facts["content_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        # nested, since queries can use values.Pb.B_iso but no keys that contain dots
        facts["values"] = nested(facts["values"])
        for key, value in facts.items():
            node.base.attributes.set(key, value)
        return node

    def stored_distances(self) -> PairDistances:
        """The pair distances stored in the file."""
        with self.as_path() as path:
            return read_distances(path)

    def _validate(self) -> bool:
        """Check that the file contains pair distances. Raises ValidationError."""
        super()._validate()
        try:
            self.stored_distances()
        except ValueError as problem:
            raise ValidationError(str(problem)) from None
        if not self.base.attributes.get("content_sha256", ""):
            raise ValidationError("the attributes are missing; create the node with from_file")
        return True
