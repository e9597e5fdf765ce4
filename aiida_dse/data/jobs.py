"""From input nodes to the document and files of a job, and back to a document's own files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiida.orm import CifData, Dict, SinglefileData, StructureData

from aiida_dse.documents import (
    DocumentError,
    ModelDocument,
    SimultaneousDocument,
    parse_document,
    parse_simultaneous,
)
from aiida_dse.documents.model import CurveFile
from aiida_dse.io.conversions import crystal_from_pymatgen
from aiida_dse.io.patterns import read_pattern
from aiida_dse.io.structures import cif_text
from aiida_dse.tasks.build import BuiltModel, build
from aiida_dse.tasks.simultaneous import BuiltSimultaneous, build_simultaneous

from .distances import DistancesData
from .pattern import PatternData

MODEL_NAME = "model.json"
PATTERN_NAME = "pattern.xye"

#: What a phase may come from, and the suffix of its file.
KINDS = {"structure": "cif", "atoms": "xyz", "distances": "h5"}

StructureNode = CifData | StructureData | SinglefileData


def job_files(
    model: Mapping[str, Any], pattern: PatternData | None,
    structures: Mapping[str, StructureNode], blanks: Mapping[str, PatternData],
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The document of a job, naming the files it is sent with, and what those files hold.

    Raises DocumentError where a phase, a blank or the pattern has no node.
    """
    content: dict[str, Any] = parse_document(dict(model)).canonical()
    files: dict[str, bytes] = {}
    if pattern is not None:
        content["pattern"] = _column_section(content["pattern"], pattern, PATTERN_NAME)
        files[PATTERN_NAME] = pattern.as_text().encode()
        content["sample"] = {**pattern.sample, **content.get("sample", {})}
    elif "file" in content["pattern"]:
        raise DocumentError(
            f"pattern.file is '{content['pattern']['file']}', but no 'pattern' node is given."
        )
    files |= _model_files(content, structures, blanks)
    return content, files


def simultaneous_job_files(
    model: Mapping[str, Any], patterns: Mapping[str, PatternData],
    structures: Mapping[str, StructureNode], blanks: Mapping[str, PatternData],
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The simultaneous document of a job and its files; the input 'patterns' has a node for each."""
    content = parse_simultaneous(dict(model)).canonical()
    _same_names("patterns", content["patterns"], "patterns", patterns)
    files = _model_files(content["model"], structures, blanks)
    for name, node in patterns.items():
        own, file = content["patterns"][name], f"pattern_{name}.xye"
        own["pattern"] = _column_section(own["pattern"], node, file)
        own["sample"] = {**node.sample, **own.get("sample", {})}
        files[file] = node.as_text().encode()
    return content, files


def _model_files(
    content: dict[str, Any], structures: Mapping[str, StructureNode],
    blanks: Mapping[str, PatternData],
) -> dict[str, bytes]:
    """What structures and blanks hold, named in `content` by the files they are sent as."""
    files: dict[str, bytes] = {}
    _same_names("phases", content["phases"], "structures", structures)
    for name, phase in content["phases"].items():
        kind, held = _structure_content(structures[name])
        file, wants = f"{name}.{kind}", next(key for key in KINDS if key in phase)
        if KINDS[wants] != kind:
            raise DocumentError(
                f"phases.{name} has '{wants}', which is a .{KINDS[wants]} file, but its node holds "
                f"a .{kind} file."
            )
        phase[wants] = file
        files[file] = held
    wanted = content.get("background", {}).get("blanks", {})
    _same_names("background.blanks", wanted, "blanks", blanks)
    for name, blank in blanks.items():
        file = f"blank_{name}.xye"
        wanted[name] = _column_section(wanted[name], blank, file)
        files[file] = blank.as_text().encode()
    return files


def built_from_nodes(
    model: Mapping[str, Any], pattern: PatternData | None,
    structures: Mapping[str, StructureNode], blanks: Mapping[str, PatternData],
) -> BuiltModel:
    """The forward model of a set of nodes: the check that runs before anything is submitted."""
    content, files = job_files(model, pattern, structures, blanks)
    with _written(files) as folder:
        return build(parse_document(content), folder)


def simultaneous_from_nodes(
    model: Mapping[str, Any], patterns: Mapping[str, PatternData],
    structures: Mapping[str, StructureNode], blanks: Mapping[str, PatternData],
) -> BuiltSimultaneous:
    """The same for several patterns together."""
    content, files = simultaneous_job_files(model, patterns, structures, blanks)
    with _written(files) as folder:
        return build_simultaneous(parse_simultaneous(content), folder)


@contextmanager
def _written(files: Mapping[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name, held in files.items():
            (Path(folder) / name).write_bytes(held)
        yield Path(folder)


def structure_node(source: Any) -> StructureNode:
    """The node for a structure given as a node, a path (CIF, XYZ, HDF5) or a pymatgen Structure."""
    if isinstance(source, CifData | StructureData | SinglefileData):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix.lower() == ".cif":
            return CifData(file=str(path.resolve()), parse_policy="lazy")
        if path.suffix.lower() in (".h5", ".hdf5"):
            return DistancesData.from_file(path)
        return SinglefileData(file=str(path.resolve()))
    text = cif_text(crystal_from_pymatgen(source))
    return cif_node(text, "structure.cif")


def cif_node(text: str, name: str) -> CifData:
    """A CifData of a text, not parsed by AiiDA (it would want another CIF library)."""
    import io

    return CifData(file=io.BytesIO(text.encode("utf-8")), filename=name, parse_policy="lazy")


def nodes_of_document(
    document: ModelDocument, folder: Path
) -> tuple[dict[str, Any], PatternData | None, dict[str, StructureNode], dict[str, PatternData]]:
    """Unstored nodes for the files of a document a person wrote; they were checked by `build`."""
    sample = document.sample.model_dump(exclude_none=True)
    pattern = (_pattern_node(document.pattern, folder, sample) if document.pattern.file else None)
    structures = {
        name: structure_node(folder / phase.file)
        for name, phase in document.phases.items()
    }
    blanks = {
        name: _pattern_node(section, folder, None)
        for name, section in document.background.blanks.items()
    }
    return document.canonical(), pattern, structures, blanks


def nodes_of_simultaneous(
    document: SimultaneousDocument, folder: Path
) -> tuple[dict[str, Any], dict[str, PatternData], dict[str, StructureNode],
           dict[str, PatternData]]:
    """The same for the files of a simultaneous document: patterns by their names."""
    patterns: dict[str, PatternData] = {}
    for name in document.patterns:
        one = document.document_of(name)
        sample = one.sample.model_dump(exclude_none=True)
        patterns[name] = _pattern_node(one.pattern, folder, sample)
    # the model is the same for all: its structures and blanks are those of any pattern
    _, _, structures, blanks = nodes_of_document(one, folder)
    return document.canonical(), patterns, structures, blanks


def _pattern_node(
    section: CurveFile, folder: Path, sample: dict[str, Any] | None
) -> PatternData:
    assert section.file is not None
    # what lies outside the range used (a beam stop) need not be a valid measurement
    used = getattr(section, "range", None)
    measured = read_pattern(
        folder / section.file, axis=section.axis, wavelength=section.wavelength,
        sigma=section.sigma, axis_grid=(section.grid.start, section.grid.step)
        if section.grid else None, intensity_column=section.intensity_column,
        sigma_column=section.sigma_column, range_=used,
    )
    return PatternData.from_measured(measured, sample=sample, source=folder / section.file)


def model_node(content: Mapping[str, Any]) -> Dict:
    """A Dict node of a model document, checked."""
    return Dict(parse_document(dict(content)).canonical())


def _column_section(section: dict[str, Any], node: PatternData, file: str) -> dict[str, Any]:
    """A pattern or blank section that reads a node's three columns."""
    travels = ("range", "every", "polarisation", "axis_confirmed")
    kept = {k: v for k, v in section.items() if k in travels}
    attributes = node.base.attributes
    return kept | {
        "file": file, "axis": attributes.get("axis_kind"),
        "wavelength": attributes.get("wavelength"), "sigma": "column",
    }


def _structure_content(node: StructureNode) -> tuple[str, bytes]:
    """The suffix of the file that a node is sent as, and what the file holds."""
    if isinstance(node, StructureData):
        structure = node.get_pymatgen_structure()
        labels = [site.kind_name for site in node.sites]
        structure.add_site_property("label", labels)
        name = node.label or "StructureData"
        return "cif", cif_text(crystal_from_pymatgen(structure, name=name)).encode()
    if isinstance(node, CifData):
        return "cif", node.get_content(mode="rb")
    suffix = Path(node.filename).suffix.lower()
    kind = {".cif": "cif", ".h5": "h5", ".hdf5": "h5"}.get(suffix, "xyz")
    return kind, node.get_content(mode="rb")


def _same_names(key: str, wanted: Mapping[str, Any], where: str, given: Mapping[str, Any]) -> None:
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or extra:
        raise DocumentError(
            f"{key} names {', '.join(wanted) or 'nothing'}, the input '{where}' has "
            f"{', '.join(given) or 'nothing'}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; not in the document: {', '.join(extra)}" if extra else "")
            + ". Give one node of the same name for each."
        )
