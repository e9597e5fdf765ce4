"""The class Phase for notebooks: a structure with its particles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from aiida_dse.documents.model import Phase as PhaseSection
from aiida_dse.documents.reading import located, validated
from aiida_dse.engine.crystal.disorder import EXCLUSION_DISTANCE
from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.io.results import plain
from aiida_dse.io.structures import cif_text
from aiida_dse.io.xyz import xyz_text
from aiida_dse.tasks.sources import Atoms, Structure

from .shapes import Shape
from .structures import as_structure


@dataclass(frozen=True, eq=False, repr=False)
class Phase:
    """One kind of nanocrystal. The names of its parameters begin with its name.

    source: a crystal from which the `particle` is cut (a CIF path or text, a pymatgen Structure,
    ASE Atoms, a gemmi SmallStructure, a Crystal), a list of atoms (XYZ path or text, ASE Atoms, a
    pymatgen Molecule, (labels, positions in Å)), or the path of stored pair distances (.h5). ions
    and B_iso (Å^2): by site label or element; they replace those of the source. displacements: by site
    label or element, 'anisotropic' or a mapping as in documents. correlated_motion, boundaries,
    split, size_laws, frames: as in documents. bulk: {} or a mapping as in documents, for a large
    crystal without a `particle`. termination: fractional coordinates of the corner of the box whose
    atoms form one unit cell; distances, angles, pseudo_cubic: derived quantities to report, by site
    labels. Raises ValueError if the source or the particle is invalid.
    """

    name: str
    source: Any
    particle: Shape | None = None
    _: KW_ONLY
    ions: Mapping[str, str] = field(default_factory=dict)
    B_iso: Mapping[str, float] = field(default_factory=dict)
    displacements: Mapping[str, Any] = field(default_factory=dict)
    correlated_motion: Mapping[str, float] | None = None
    boundaries: Mapping[str, Any] | None = None
    split: Mapping[str, Any] | None = None
    size_laws: Mapping[str, Any] = field(default_factory=dict)
    bulk: Mapping[str, Any] | None = None
    termination: tuple[float, float, float] = (0.0, 0.0, 0.0)
    exclusion_distance: float = EXCLUSION_DISTANCE
    block: str | None = None
    frames: str | None = None
    distances: Sequence[tuple[str, str]] = ()
    angles: Sequence[tuple[str, str, str]] = ()
    pseudo_cubic: bool = False
    structure: Structure = field(init=False)

    def __post_init__(self) -> None:
        with located(f"phase {self.name}"):
            found = as_structure(self.source, name=self.name, block=self.block,
                                 in_particle=self.particle is not None or self.bulk is not None,
                                 average=self.frames is not None)
            if isinstance(found, Crystal):
                found = replace(found, termination=self.termination)
            object.__setattr__(self, "structure", found)
            validated(self.content(), PhaseSection)

    def __repr__(self) -> str:
        found = self.structure
        what = f"{len(found.labels)} atoms" if isinstance(found, Atoms) else \
            f"sites {', '.join(found.labels)}" if not isinstance(found, Crystal) else \
            f"{found.space_group or f'{len(found.operations)} operations'}, sites " \
            f"{', '.join(site.label for site in found.sites)}"
        return f"Phase({self.name}: {what}, {self.particle or 'no particle'})"

    @property
    def file(self) -> str:
        """The name of the file of the structure in a document."""
        kinds = {Crystal: "cif", Atoms: "xyz"}
        return f"{self.name}.{kinds.get(type(self.structure), 'h5')}"

    def content(self) -> dict[str, Any]:
        """The section of the phase in a document."""
        key = {"cif": "structure", "xyz": "atoms", "h5": "distances"}[self.file.rpartition(".")[2]]
        content = {
            key: self.file, "ions": dict(self.ions), "B_iso": dict(self.B_iso),
            "displacements": dict(self.displacements), "correlated_motion": self.correlated_motion,
            "boundaries": self.boundaries, "split": self.split,
            "size_laws": dict(self.size_laws), "bulk": self.bulk,
            "termination": self.termination, "exclusion_distance": self.exclusion_distance,
        }
        if isinstance(self.structure, Atoms) and self.structure.positions.ndim == 3:
            content["frames"] = "average"
        particle = {} if self.particle is None else {"particle": self.particle.content()}
        return dict(plain(content)) | particle

    @property
    def derived(self) -> dict[str, Any]:
        """The section 'derived' of the phase in a document; empty if nothing is requested."""
        content = {"distances": self.distances, "angles": self.angles,
                   "pseudo_cubic": self.pseudo_cubic}
        return {key: plain(value) for key, value in content.items() if value}

    @cached_property
    def text(self) -> bytes:
        """The content of the file of the structure, with all digits."""
        found = self.structure
        if isinstance(found, Crystal):
            return cif_text(found, exact=True).encode()
        if isinstance(found, Atoms):
            return xyz_text(found.labels, found.positions).encode()
        return Path(self.source).read_bytes()
