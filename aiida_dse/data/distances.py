"""dse.distances: sampled pair distances of a phase as a searchable node, to replace a structure."""

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
    """The sampled pair distances of one phase: an HDF5 file with attributes for queries.

    Query by `DistancesData.fields.q_max`, `.space_group`, `.atoms`, or by
    'attributes.sizes.L_ab', 'attributes.values.a'.
    """

    class AttributesModel(SinglefileData.AttributesModel):
        name: str = OrmMetadataField(description="Of the structure")
        space_group: str = OrmMetadataField(description="Of the structure, '' if unknown")
        sites: dict = OrmMetadataField(description="Ion by site label")
        atoms: float = OrmMetadataField(description="Atoms of the mean particle")
        sizes: dict = OrmMetadataField(description="Statistics of the population, nm")
        values: dict = OrmMetadataField(description="Parameters that they were sampled at")
        step: float = OrmMetadataField(description="Å")
        n_channels: int = OrmMetadataField(description="Pairs of sites")
        n_bins: int = OrmMetadataField(description="Points of the grid")
        r_max: float = OrmMetadataField(description="Å")
        q_max: float = OrmMetadataField(description="1/Å, good up to here at the tolerance")
        tolerance: float = OrmMetadataField(description="Relative error of one distance")
        content_sha256: str = OrmMetadataField(description="Of the file")

    @classmethod
    def from_file(cls, path: Path, tolerance: float = 1e-5) -> DistancesData:
        """An unstored node of a file that dse-engine built. Raises ValueError for any other file.

        tolerance: for which `q_max` is computed; the file itself serves any tolerance.
        """
        stored = read_distances(path)
        node = cls(file=str(path.resolve()))
        facts: dict[str, Any] = distances_row(stored, tolerance).model_dump()
        facts["content_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        # nested, since a query reaches values.Pb.B_iso but no key that contains dots
        facts["values"] = nested(facts["values"])
        for key, value in facts.items():
            node.base.attributes.set(key, value)
        return node

    def stored_distances(self) -> PairDistances:
        """The pair distances in the file."""
        with self.as_path() as path:
            return read_distances(path)

    def _validate(self) -> bool:
        """Refuse to store any other file."""
        super()._validate()
        try:
            self.stored_distances()
        except ValueError as problem:
            raise ValidationError(str(problem)) from None
        if not self.base.attributes.get("content_sha256", ""):
            raise ValidationError("its attributes are missing: make the node with from_file")
        return True
