"""Readers and writers of CIF and XYZ files, in the setting and with the labels of the user."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import gemmi
import numpy as np

from aiida_dse.engine.crystal.structure import CELL_PARAMETERS, Cell, Crystal, Site
from aiida_dse.engine.scattering.form_factors import ion_symbol
from aiida_dse.engine.units import FloatArray, b_from_u


def read_cif(path: Path, *, block: str | None = None) -> Crystal:
    """The crystal in a CIF, with its listed operations or else those of its space-group name.

    `block` is the name of the data block; it is necessary where several blocks have sites. Raises
    ValueError for a file that is not a CIF, and where cell, symmetry, labels, types or coordinates
    are missing or invalid.
    """
    try:
        document = gemmi.cif.read(str(path))
    except (OSError, ValueError, RuntimeError) as problem:
        reason = str(problem).replace(str(path), path.name)
        raise ValueError(f"{path.name} cannot be read as a CIF: {reason}") from None
    return _crystal(document, path, block)


def parse_cif(text: str, *, name: str = "structure.cif", block: str | None = None) -> Crystal:
    """The crystal in the text of a CIF; as `read_cif`, with `name` as the name of the file."""
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as problem:
        raise ValueError(f"{name} cannot be read as a CIF: {problem}") from None
    return _crystal(document, Path(name), block)


def _crystal(document: gemmi.cif.Document, path: Path, block: str | None) -> Crystal:
    """The crystal in one block of a CIF; `path` appears in messages and names the crystal."""
    blocks = [b for b in document if b.find_values("_atom_site_fract_x")]
    if block is not None:
        blocks = [b for b in document if b.name == block]
    if len(blocks) != 1:
        names = ", ".join(b.name for b in document) or "none"
        raise ValueError(
            f"{path.name} has {len(blocks)} data blocks with atom sites (blocks: {names}). Specify "
            "the name of one block as 'block' of the phase."
        )
    chosen = blocks[0]
    structure = gemmi.make_small_structure_from_block(chosen)
    _check_labels(path, chosen)
    cell = structure.cell
    if not cell.is_crystal():
        raise ValueError(f"{path.name} has no unit cell. Add _cell_length_a and so on.")
    b_iso = _displacements(chosen)
    assemblies = _column(chosen, "_atom_site_disorder_assembly")
    types = _column(chosen, "_atom_site_type_symbol")
    sites = []
    for index, site in enumerate(structure.sites):
        if not all(np.isfinite(site.fract.tolist())):
            raise ValueError(
                f"{path.name}: site {site.label} has no coordinates. Add fract_x, y and z."
            )
        assembly = assemblies[index] if assemblies else ""
        sites.append(
            Site(
                site.label, _ion(path, site.label, types[index] if types else ""),
                (site.fract.x, site.fract.y, site.fract.z), site.occ, b_iso.get(site.label),
                "" if assembly in (".", "?") else assembly, int(site.disorder_group),
            )
        )
    values = {name: float(getattr(cell, name)) for name in CELL_PARAMETERS}
    operations, name = symmetry_of(path.name, structure)
    return Crystal(Cell(**values), operations, tuple(sites), path.name, name).checked_cell()


def cif_text(crystal: Crystal, *, exact: bool = False) -> str:
    """The crystal as the text of a CIF; with all digits if `exact`, so that it can be reread."""

    def number(value: float, form: str) -> str:
        return repr(float(value)) if exact else format(value, form)

    document = gemmi.cif.Document()
    block = document.add_new_block("aiida_dse")
    for name in CELL_PARAMETERS:
        tag = "length" if name in "abc" else "angle"
        block.set_pair(f"_cell_{tag}_{name}", number(getattr(crystal.cell, name), ".10g"))
    formula, units = chemical_formula(crystal)
    block.set_pair("_chemical_formula_sum", gemmi.cif.quote(formula))
    block.set_pair("_cell_formula_units_Z", str(units))
    if crystal.space_group:
        block.set_pair("_space_group_name_H-M_alt", gemmi.cif.quote(crystal.space_group))
    if (number_of_group := _space_group_number(crystal)) is not None:
        block.set_pair("_space_group_IT_number", str(number_of_group))
    loop = block.init_loop("_space_group_symop_", ["operation_xyz"])
    for triplet in crystal.operations:
        loop.add_row([gemmi.cif.quote(triplet)])
    tags = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy",
            "B_iso_or_equiv", "disorder_assembly", "disorder_group"]
    loop = block.init_loop("_atom_site_", tags)
    for site in crystal.sites:
        loop.add_row(
            [site.label, site.ion, *(number(x, ".9f") for x in site.position),
             number(site.occupancy, ".6g"),
             "?" if site.b_iso is None else number(site.b_iso, ".5g"),
             site.assembly or ".", str(site.group) if site.group else "."]
        )
    return str(document.as_string())


def chemical_formula(crystal: Crystal) -> tuple[str, int]:
    """The sum formula of a crystal in Hill order, such as 'Br3 Cs Pb', and Z, its units per cell.

    Where the numbers of atoms in the cell are not integers, the formula is that of the cell and
    Z is 1.
    """
    content: dict[str, float] = {}
    atoms = np.bincount(crystal.site_of_atom, minlength=len(crystal.sites))
    for site, multiplicity in zip(crystal.sites, atoms, strict=True):
        element = re.match("[A-Z][a-z]?", site.ion)
        assert element is not None
        symbol = element[0]
        content[symbol] = content.get(symbol, 0.0) + float(multiplicity) * site.occupancy
    content = {symbol: number for symbol, number in content.items() if number > 0}
    units = 1
    if all(abs(number - round(number)) < 1e-6 for number in content.values()):
        units = math.gcd(*(round(number) for number in content.values())) or 1
    first = [symbol for symbol in ("C", "H") if "C" in content and symbol in content]
    order = first + sorted(symbol for symbol in content if symbol not in first)
    numbers = {symbol: format(content[symbol] / units, ".4g") for symbol in order}
    formula = " ".join(symbol + ("" if text == "1" else text) for symbol, text in numbers.items())
    return formula, units


def _space_group_number(crystal: Crystal) -> int | None:
    """The number of the space group; None for unknown operations in an unusual setting."""
    try:
        operations = gemmi.GroupOps([gemmi.Op(triplet) for triplet in crystal.operations])
        group = gemmi.find_spacegroup_by_ops(operations)
    except (ValueError, RuntimeError):
        group = None
    if group is None and crystal.space_group:
        group = gemmi.find_spacegroup_by_name(crystal.space_group)
    return None if group is None else int(group.number)


def read_xyz(path: Path) -> tuple[list[str], FloatArray]:
    """The labels (n,) and positions (n, 3) Å in an XYZ file.

    A label is an element, or an element and a number. The ion of a label is determined later, by
    its letters ('Ca1' is calcium, 'CA1' is refused) or by the 'ions' in the document. Raises
    ValueError with the number of the line that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path.name} cannot be read: {problem}") from None
    return parse_xyz(text, name=path.name)


def xyz_text(labels: Sequence[str], positions: FloatArray) -> str:
    """The text of an XYZ file with labels (n,) and positions (n, 3) Å, with all digits."""
    rows = (f"{label} {x!r} {y!r} {z!r}"
            for label, (x, y, z) in zip(labels, positions.tolist(), strict=True))
    return "\n".join([str(len(labels)), "", *rows, ""])


def parse_xyz(text: str, *, name: str = "atoms.xyz") -> tuple[list[str], FloatArray]:
    """The labels and positions in the text of an XYZ file; `name` names the file in messages."""
    lines = text.splitlines()
    try:
        count = int(lines[0].split()[0])
    except (IndexError, ValueError):
        raise ValueError(
            f"{name}, line 1: an XYZ file must start with the number of atoms."
        ) from None
    rows = [line for line in lines[2 : 2 + count] if line.strip()]
    if len(rows) != count or count < 1:
        raise ValueError(
            f"{name} contains {len(rows)} atoms, but its first line specifies {count}. Correct the "
            "number (at least 1) or complete the list."
        )
    labels, positions = [], np.empty((count, 3))
    for number, line in enumerate(rows):
        fields = line.split()
        try:
            positions[number] = [float(field) for field in fields[1:4]]
        except ValueError:
            positions[number] = np.nan
        if len(fields) < 4 or not np.isfinite(positions[number]).all():
            raise ValueError(
                f"{name}, line {number + 3}: '{line.strip()}' is not 'label x y z' with "
                "coordinates in Å."
            )
        labels.append(fields[0])
    return labels, positions


def _ion(path: Path, label: str, type_symbol: str) -> str:
    """The ion of a site, from its type symbol or else from the first letters of its label.

    A type symbol may have any case, because _atom_site_type_symbol contains only elements and many
    programs write it in capitals. In a label, which may contain anything after its element, the
    case is significant.
    """
    if type_symbol.strip() not in ("", ".", "?"):
        return ion_symbol(type_symbol, any_case=True)
    letters = "".join(itertools.takewhile(str.isalpha, label))
    try:
        return ion_symbol(letters)
    except ValueError:
        raise ValueError(
            f"{path.name}: the element of site {label} is uncertain, because the file has no "
            f"_atom_site_type_symbol and '{letters}' is not an element symbol with an upper-case "
            "and a lower-case letter. Add the column _atom_site_type_symbol."
        ) from None


def symmetry_of(source: str, structure: gemmi.SmallStructure) -> tuple[tuple[str, ...], str]:
    """The symmetry operations as triplets, and the name of the space group.

    The operations are the listed ones, else those of the space group. Raises ValueError, with the
    name of the `source`, where there are neither or the list is incomplete.
    """
    group = structure.spacegroup
    name = str(structure.spacegroup_hm or (group.xhm() if group else ""))
    if structure.symops:
        operations = [gemmi.Op(op).wrap() for op in structure.symops]
        known = {op.triplet() for op in operations}
        for first in operations:
            for second in operations:
                if (product := (first * second).wrap().triplet()) not in known:
                    raise ValueError(
                        f"{source}: the list of symmetry operations is incomplete: "
                        f"'{first.triplet()}' after '{second.triplet()}' is '{product}', which is "
                        "not in the list. List all operations of the space group."
                    )
        return tuple(op.triplet() for op in operations), name
    if group is None:
        raise ValueError(
            f"{source} has neither symmetry operations nor a known space group "
            f"(name: '{name or 'missing'}'). Add _space_group_symop_operation_xyz."
        )
    return tuple(op.triplet() for op in group.operations()), name


def _check_labels(path: Path, block: gemmi.cif.Block) -> None:
    labels = _column(block, "_atom_site_label")
    count = len(_column(block, "_atom_site_fract_x"))
    missing = [k + 1 for k, label in enumerate(labels) if label.strip() in ("", ".", "?")]
    if len(labels) != count or missing:
        where = f"rows {missing} of the atom list" if missing else "the atom list"
        raise ValueError(
            f"{path.name}: _atom_site_label is missing in {where}. Every site needs its own label, "
            "because parameters are named by it."
        )
    bad = [label for label in labels if "." in label or " " in label]
    if bad:
        raise ValueError(
            f"{path.name}: the label '{bad[0]}' contains a '.' or a space, which separate the "
            "parts of a parameter name. Rename the site."
        )


def _displacements(block: gemmi.cif.Block) -> dict[str, float]:
    """B_iso (Å^2) by label, from the columns of B_iso and U_iso."""
    labels = _column(block, "_atom_site_label")
    b_iso: dict[str, float] = {}
    for tag, factor in (("_atom_site_B_iso_or_equiv", 1.0), ("_atom_site_U_iso_or_equiv",
                                                             b_from_u(1.0))):
        for label, text in zip(labels, _column(block, tag), strict=False):
            value = gemmi.cif.as_number(text)
            if np.isfinite(value):
                b_iso[label] = factor * value
    return b_iso


def _column(block: gemmi.cif.Block, tag: str) -> list[str]:
    return [gemmi.cif.as_string(value) for value in block.find_values(tag)]
