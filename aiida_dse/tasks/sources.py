"""Sources of the data of documents: files in a folder, or objects in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from aiida_dse.documents.model import CurveFile
from aiida_dse.documents.model import Phase as PhaseSection
from aiida_dse.engine.crystal.structure import Crystal
from aiida_dse.engine.model.fixed_geometry import PairDistances
from aiida_dse.engine.units import FloatArray
from aiida_dse.io.distances import read_distances
from aiida_dse.io.patterns import MeasuredPattern, read_pattern
from aiida_dse.io.structure_files import read_structure
from aiida_dse.io.xyz import read_xyz


@dataclass(frozen=True)
class Atoms:
    """A list of atoms: labels (n,) and positions (n, 3) Å, or (n_frames, n, 3) for several configurations."""

    labels: tuple[str, ...]
    positions: FloatArray


#: Largest size of a file of data (bytes).
MOST_BYTES = 600_000_000

Structure = Crystal | Atoms | PairDistances


class Source(Protocol):
    """Data of a document by its sections; the methods raise ValueError if data are missing."""

    def pattern(self, section: CurveFile) -> MeasuredPattern:
        """The observed pattern of the document, limited to its range."""

    def blank(self, name: str, section: CurveFile) -> MeasuredPattern:
        """A measured blank."""

    def structure(self, phase: str, section: PhaseSection) -> Structure:
        """The structure of a phase: a crystal, a list of atoms, or pair distances."""

    @property
    def files(self) -> Mapping[str, str]:
        """File name -> SHA-256 of the files that have been read."""

    @property
    def digest(self) -> str:
        """Hash of all data, known before they are read; empty if unknown."""


@dataclass
class FolderSource:
    """The files in a folder, to which the paths in a document are relative."""

    folder: Path
    files: dict[str, str] = field(default_factory=dict)

    def pattern(self, section: CurveFile) -> MeasuredPattern:
        return self._curve(section)

    def blank(self, name: str, section: CurveFile) -> MeasuredPattern:
        return self._curve(section, sigma_required=False)

    def structure(self, phase: str, section: PhaseSection) -> Structure:
        path = self._existing(section.file)
        if section.atoms is not None:
            labels, positions = read_xyz(path, average=section.frames is not None)
            return Atoms(tuple(labels), positions)
        if section.distances is not None:
            return read_distances(path)
        return read_structure(path, block=section.block)

    @property
    def digest(self) -> str:
        """Empty, since files may change; models from a folder are therefore not memoised."""
        return ""

    def _curve(self, section: CurveFile, *, sigma_required: bool = True) -> MeasuredPattern:
        assert section.file is not None
        path = self._existing(section.file)
        grid = None if section.grid is None else (section.grid.start, section.grid.step)
        return read_pattern(
            path, axis=section.axis, wavelength=section.wavelength, sigma=section.sigma,
            axis_grid=grid, intensity_column=section.intensity_column,
            sigma_column=section.sigma_column, range_=section.range, exclude=section.exclude,
            every=getattr(section, "every", 1), sigma_required=sigma_required,
        )

    def _existing(self, file: str) -> Path:
        path = self.folder / file
        try:
            known = path.is_file()
            size = path.stat().st_size if known else 0
        except (OSError, ValueError) as problem:
            raise ValueError(f"'{file[:100]}' is not the path of a file: "
                             f"{getattr(problem, 'strerror', None) or problem}.") from None
        if size > MOST_BYTES:
            raise ValueError(f"{file} has {size / 1e6:.0f} MB; the limit is {MOST_BYTES / 1e6:.0f} MB.")
        if not known:
            raise ValueError(
                f"there is no file '{file}' in {self.folder.resolve()}. Paths in a document are "
                "relative to the folder of the document."
            )
        try:
            with path.open("rb") as stream:
                self.files[file] = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as problem:
            raise ValueError(f"{file} cannot be read: {problem.strerror}.") from None
        return path


@dataclass(frozen=True)
class MemorySource:
    """Data in memory, by the file names in the document.

    files: file name -> SHA-256 of the content that the file would have.
    """

    patterns: Mapping[str, MeasuredPattern]
    structures: Mapping[str, Structure]
    files: Mapping[str, str]

    def pattern(self, section: CurveFile) -> MeasuredPattern:
        assert section.file is not None
        return self.patterns[section.file]

    def blank(self, name: str, section: CurveFile) -> MeasuredPattern:
        return self.pattern(section)

    def structure(self, phase: str, section: PhaseSection) -> Structure:
        return self.structures[section.file]

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()
