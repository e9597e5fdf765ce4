"""Input nodes of a job: conversion to its document and files, and to the forward model."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from aiida.orm import CifData, Dict, SinglefileData, StructureData

from aiida_dse.documents import (
    DocumentError,
    ModelDocument,
    SimultaneousDocument,
    parse_document,
    parse_simultaneous,
)
from aiida_dse.documents.model import CurveFile
from aiida_dse.documents.model import Phase as PhaseSection
from aiida_dse.engine.units import FloatArray
from aiida_dse.io.conversions import crystal_from_pymatgen
from aiida_dse.io.distances import read_distances
from aiida_dse.io.patterns import MeasuredPattern, read_pattern
from aiida_dse.io.structure_files import format_of, read_structure
from aiida_dse.io.structures import cif_text, parse_cif
from aiida_dse.io.text import decoded
from aiida_dse.io.xyz import parse_xyz, xyz_text
from aiida_dse.tasks.build import BuiltModel, build
from aiida_dse.tasks.simultaneous import BuiltSimultaneous, build_simultaneous
from aiida_dse.tasks.sources import Atoms, Structure

from .distances import DistancesData
from .pattern import PatternData

MODEL_NAME = "model.json"
PATTERN_NAME = "pattern.xye"
#: Output of the engine in the folder of a job; the second file contains its progress and errors.
STDOUT, STDERR = "engine.out", "engine.err"

#: The keys of a phase that specify its file, with the suffixes of the files.
KINDS = {"structure": "cif", "atoms": "xyz", "distances": "h5"}
#: Keys that a job adopts from the section of a pattern; everything else is taken from the node.
_KEPT = ("range", "exclude", "every", "polarisation", "absorption", "compton", "corrected", "instrument",
         "axis_confirmed")

StructureNode = CifData | StructureData | SinglefileData


@dataclass(frozen=True)
class ModelNodes:
    """The data of one model as nodes, stored or unstored."""

    pattern: PatternData | None
    structures: Mapping[str, StructureNode]
    blanks: Mapping[str, PatternData] = field(default_factory=dict)

    def inputs(self) -> dict[str, Any]:
        """The nodes as inputs of a job."""
        found: dict[str, Any] = {"structures": dict(self.structures)}
        if self.pattern is not None:
            found["pattern"] = self.pattern
        if self.blanks:
            found["blanks"] = dict(self.blanks)
        return found


@dataclass(frozen=True)
class CheckedModel:
    """A model that was checked in full and can run; its nodes may be unstored.

    document: the document including the settings of a protocol; content: the document of the job;
    built: the forward model at the starting values; remarks: remarks for the user.
    """

    document: ModelDocument
    content: dict[str, Any]
    nodes: ModelNodes
    built: BuiltModel
    remarks: tuple[str, ...] = ()


def job_document(model: Mapping[str, Any] | ModelDocument, nodes: ModelNodes) -> dict[str, Any]:
    """The document of a job, completed by the metadata of its nodes.

    File names are standardised and the title is omitted, so that equal analyses of equal data have
    equal documents irrespective of the original file names. Raises DocumentError if a phase, a
    blank or the pattern has no node.
    """
    document = model if isinstance(model, ModelDocument) else parse_document(dict(model))
    content = document.canonical()
    content.pop("title", None)
    if nodes.pattern is not None:
        content["pattern"] = _column_section(content["pattern"], nodes.pattern, PATTERN_NAME)
        sample = {**nodes.pattern.sample, **content.get("sample", {})}
        content |= {"sample": sample} if sample else {}
    elif "file" in content["pattern"]:
        raise DocumentError(
            f"pattern.file is '{content['pattern']['file']}', but there is no 'pattern' node."
        )
    _name_files(content, nodes.structures, nodes.blanks)
    return content


def simultaneous_job_document(
    model: Mapping[str, Any] | SimultaneousDocument, patterns: Mapping[str, PatternData],
    structures: Mapping[str, StructureNode], blanks: Mapping[str, PatternData],
) -> dict[str, Any]:
    """The job document of a simultaneous document; `patterns` has a node for each pattern."""
    document = model if isinstance(model, SimultaneousDocument) else parse_simultaneous(dict(model))
    content = document.canonical()
    content.pop("title", None)
    _same_names("patterns", content["patterns"], "patterns", patterns)
    _name_files(content["model"], structures, blanks)
    for name, node in patterns.items():
        own = content["patterns"][name]
        own["pattern"] = _column_section(own["pattern"], node, pattern_file(name))
        own["sample"] = {**node.sample, **own.get("sample", {})}
    return content


def pattern_file(name: str) -> str:
    """The name of the file of one of several patterns."""
    return f"pattern_{name}.xye"


def blank_file(name: str) -> str:
    """The name of the file of a blank."""
    return f"blank_{name}.xye"


def job_files(nodes: ModelNodes) -> dict[str, bytes]:
    """The contents of the files of a job, by their names in its document."""
    files: dict[str, bytes] = {}
    if nodes.pattern is not None:
        files[PATTERN_NAME] = nodes.pattern.as_text().encode()
    for name, node in nodes.structures.items():
        kind, held = _structure_content(node)
        files[f"{name}.{kind}"] = held
    for name, blank in nodes.blanks.items():
        files[blank_file(name)] = blank.as_text().encode()
    return files


def _name_files(
    content: dict[str, Any], structures: Mapping[str, StructureNode],
    blanks: Mapping[str, PatternData],
) -> None:
    """Set the file names of structures and blanks in `content`."""
    _same_names("phases", content["phases"], "structures", structures)
    for name, phase in content["phases"].items():
        kind, wants = _kind_of(structures[name]), next(key for key in KINDS if key in phase)
        if KINDS[wants] != kind:
            raise DocumentError(
                f"phases.{name} has '{wants}', which is a .{KINDS[wants]} file, but its node "
                f"contains a .{kind} file."
            )
        phase[wants] = f"{name}.{kind}"
    wanted = content.get("background", {}).get("blanks", {})
    _same_names("background.blanks", wanted, "blanks", blanks)
    for name, blank in blanks.items():
        wanted[name] = _column_section(wanted[name], blank, blank_file(name))


@dataclass
class NodeSource:
    """Source of the data of `build` that reads from nodes."""

    nodes: ModelNodes
    pattern_name: str = PATTERN_NAME

    def pattern(self, section: CurveFile) -> MeasuredPattern:
        if self.nodes.pattern is None:
            raise ValueError("there is no 'pattern' node.")
        return self.nodes.pattern.measured(
            range_=section.range, exclude=section.exclude, every=getattr(section, "every", 1))

    def blank(self, name: str, section: CurveFile) -> MeasuredPattern:
        return self.nodes.blanks[name].measured(range_=section.range, exclude=section.exclude)

    def structure(self, phase: str, section: PhaseSection) -> Structure:
        node = self.nodes.structures[phase]
        if isinstance(node, StructureData):
            if not any(node.pbc):
                return Atoms(*_cluster(node))
            return crystal_from_pymatgen(_labelled(node), name=node.label or "StructureData")
        name = node.label or node.filename
        if section.distances is not None:
            with node.as_path() as path:
                return read_distances(path)
        text = decoded(node.get_content(mode="rb"), name)
        if section.atoms is not None:
            labels, positions = parse_xyz(text, name=name, average=section.frames is not None)
            return Atoms(tuple(labels), positions)
        return parse_cif(text, name=name, block=section.block)

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files of a job by file name."""
        found = {name: hashlib.sha256(held).hexdigest()
                 for name, held in job_files(self.nodes).items()}
        if PATTERN_NAME in found and self.pattern_name != PATTERN_NAME:
            found[self.pattern_name] = found.pop(PATTERN_NAME)
        return found

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()


def model_of_nodes(model: Mapping[str, Any] | ModelDocument, nodes: ModelNodes) -> BuiltModel:
    """The fully checked forward model of a document and its nodes. Raises DocumentError."""
    return build(parse_document(job_document(model, nodes)), NodeSource(nodes))


def simultaneous_of_nodes(
    model: Mapping[str, Any] | SimultaneousDocument, patterns: Mapping[str, PatternData],
    structures: Mapping[str, StructureNode], blanks: Mapping[str, PatternData],
) -> BuiltSimultaneous:
    """The fully checked forward models of a simultaneous document. Raises DocumentError."""
    content = simultaneous_job_document(model, patterns, structures, blanks)
    return build_simultaneous(
        parse_simultaneous(content),
        lambda name: NodeSource(ModelNodes(patterns[name], structures, blanks), pattern_file(name)))


def structure_node(source: Any) -> StructureNode:
    """The node of a structure, given as a node, a path (CIF, XYZ, HDF5) or a pymatgen Structure."""
    if isinstance(source, CifData | StructureData | SinglefileData):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix.lower() == ".cif":
            return crystal_node(path)
        if path.suffix.lower() in (".h5", ".hdf5"):
            return DistancesData.from_file(path)
        node = SinglefileData(file=str(path.resolve()), filename="structure.xyz")
        # the name of a file is a label, because the hash of a node includes its file name
        node.label = path.name
        return node
    return cif_node(cif_text(crystal_from_pymatgen(source)), "structure.cif")


def crystal_node(path: Path) -> CifData:
    """The node of the file of a crystal; a file that is not a CIF is converted."""
    if format_of(path) is None:
        node = _with_formula(CifData(file=str(path.resolve()), filename="structure.cif", parse_policy="lazy"))
    else:
        node = cif_node(cif_text(read_structure(path), exact=True), "structure.cif")
    node.label = path.name
    return node


def cif_node(text: str, name: str) -> CifData:
    """A CifData node with this text as the content of its file."""
    return _with_formula(
        CifData(file=io.BytesIO(text.encode("utf-8")), filename=name, parse_policy="lazy"))


def _with_formula(node: CifData) -> CifData:
    """Set formula and space group, which are displayed by 'verdi data core.cif list'."""
    try:
        node.parse()
    except Exception:  # AiiDA's CIF reader is stricter; its errors do not share a base class
        node.base.attributes.delete_many(
            [key for key in ("formulae", "spacegroup_numbers") if key in node.base.attributes.all])
    return node


def nodes_of_document(
    document: ModelDocument, folder: Path, pattern: PatternData | None = None
) -> ModelNodes:
    """Unstored nodes of the files of a document, whose paths are relative to `folder`.

    pattern: a node that replaces the pattern file of the document.
    """
    if pattern is None and document.pattern.file:
        sample = document.sample.model_dump(exclude_none=True)
        pattern = _pattern_node("pattern", document.pattern, folder, sample)
    structures = {}
    for name, phase in document.phases.items():
        with _placed(f"phases.{name}"):
            path = _existing(folder, phase.file)
            structures[name] = structure_node(path) if phase.structure is None else crystal_node(path)
    return ModelNodes(pattern, structures, {
        name: _pattern_node(f"background.blanks.{name}", section, folder, None, sigma_required=False)
        for name, section in document.background.blanks.items()})


def nodes_of_simultaneous(
    document: SimultaneousDocument, folder: Path
) -> tuple[dict[str, PatternData], ModelNodes]:
    """Unstored nodes of a simultaneous document: the patterns by name, and their common data."""
    patterns: dict[str, PatternData] = {}
    for name in document.patterns:
        one = document.document_of(name)
        sample = one.sample.model_dump(exclude_none=True)
        patterns[name] = _pattern_node(
            f"patterns.{name}.pattern", one.pattern, folder, sample)
    common = nodes_of_document(one.model_copy(update={"pattern": one.pattern.model_copy(
        update={"file": None})}), folder)
    return patterns, common


def _existing(folder: Path, file: str | None) -> Path:
    assert file is not None
    path = folder / file
    if not path.is_file():
        raise ValueError(f"the file '{file}' does not exist in {folder.resolve()}. Paths in a "
                         "document are relative to the folder of the document.")
    return path


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """Prefix errors with the key of the document that causes them."""
    try:
        yield
    except (ValueError, OSError) as problem:
        raise DocumentError(f"{place}: {problem}") from None


def _pattern_node(
    place: str, section: CurveFile, folder: Path, sample: dict[str, Any] | None, *,
    sigma_required: bool = True,
) -> PatternData:
    with _placed(place):
        path = _existing(folder, section.file)
        # points outside the range (behind a beam stop) may be invalid
        measured = read_pattern(
            path, axis=section.axis, wavelength=section.wavelength, sigma=section.sigma,
            axis_grid=(section.grid.start, section.grid.step) if section.grid else None,
            intensity_column=section.intensity_column, sigma_column=section.sigma_column,
            range_=section.range, exclude=section.exclude, sigma_required=sigma_required,
        )
    return PatternData.from_measured(measured, sample=sample, source=path)


def _column_section(section: dict[str, Any], node: PatternData, file: str) -> dict[str, Any]:
    """The section of a pattern or blank for a file with the three columns of a node."""
    attributes = node.base.attributes
    return {k: v for k, v in section.items() if k in _KEPT} | {
        "file": file, "axis": attributes.get("axis_kind"),
        "wavelength": attributes.get("wavelength"), "sigma": "column",
    }


def _kind_of(node: StructureNode) -> str:
    """The file suffix of a structure node."""
    if isinstance(node, StructureData):
        return "cif" if any(node.pbc) else "xyz"
    if isinstance(node, CifData):
        return "cif"
    suffix = Path(node.filename).suffix.lower()
    return {".cif": "cif", ".h5": "h5", ".hdf5": "h5"}.get(suffix, "xyz")


def _structure_content(node: StructureNode) -> tuple[str, bytes]:
    """The file suffix and the file content of a structure node."""
    if isinstance(node, StructureData):
        if not any(node.pbc):
            return "xyz", xyz_text(*_cluster(node)).encode()
        crystal = crystal_from_pymatgen(_labelled(node), name=node.label or "StructureData")
        return "cif", cif_text(crystal).encode()
    return _kind_of(node), node.get_content(mode="rb")


def _cluster(node: StructureData) -> tuple[tuple[str, ...], FloatArray]:
    """The elements (n,) and positions (n, 3) Å of a structure without periodicity.

    Raises ValueError for sites with several species or vacancies.
    """
    kinds = {kind.name: kind for kind in node.kinds}
    for kind in kinds.values():
        if len(kind.symbols) != 1 or abs(kind.weights[0] - 1) > 1e-6:
            raise ValueError(
                f"the kind {kind.name} of a StructureData without periodicity has several species or "
                f"vacancies ({kind.get_symbols_string()}); the atoms of one particle are either there "
                "or not.")
    labels = tuple(str(kinds[site.kind_name].symbols[0]) for site in node.sites)
    return labels, np.array([site.position for site in node.sites], dtype=float)


def _labelled(node: StructureData) -> Any:
    """The pymatgen structure of a node, with the names of its kinds as labels."""
    structure = node.get_pymatgen_structure()
    structure.add_site_property("label", [site.kind_name for site in node.sites])
    return structure


def _same_names(key: str, wanted: Mapping[str, Any], where: str, given: Mapping[str, Any]) -> None:
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or extra:
        raise DocumentError(
            f"{key} contains {', '.join(wanted) or 'nothing'}, but the input '{where}' contains "
            f"{', '.join(given) or 'nothing'}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; not in the document: {', '.join(extra)}" if extra else "")
            + ". Provide exactly one node for each name in the document."
        )


def model_node(content: Mapping[str, Any]) -> Dict:
    """A Dict node of a job document."""
    node = Dict(dict(content))
    node.label = "model"
    return node
