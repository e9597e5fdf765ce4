"""Reader and writer of CIF files, in the setting and with the labels of the user."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import gemmi
import numpy as np

from aiida_dse.engine.crystal.structure import CELL_PARAMETERS, Cell, Crystal, Site
from aiida_dse.engine.crystal.tensors import COMPONENTS, symmetric, to_cartesian
from aiida_dse.engine.scattering.form_factors import ion_symbol
from aiida_dse.engine.units import b_from_u

from .notes import note
from .text import read_text


def read_cif(path: Path, *, block: str | None = None) -> Crystal:
    """The crystal in a CIF, with its listed operations or else those of its space-group name.

    `block` is the name of the data block; it is necessary where several blocks have sites. Raises
    ValueError for a file that is not a CIF, and where cell, symmetry, labels, types or coordinates
    are missing or invalid.
    """
    return parse_cif(read_text(path), name=path.name, block=block)


def parse_cif(text: str, *, name: str = "structure.cif", block: str | None = None) -> Crystal:
    """The crystal in the text of a CIF; as `read_cif`, with `name` as the name of the file."""
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as problem:
        raise ValueError(f"{name} cannot be read as a CIF: {problem}") from None
    return _crystal(document, name, block)


def _crystal(document: gemmi.cif.Document, file: str, block: str | None) -> Crystal:
    """The crystal in one block of a CIF; `file` appears in messages and names the crystal."""
    blocks = [b for b in document if b.find_values("_atom_site_fract_x")]
    if block is not None:
        blocks = [b for b in document if b.name == block]
    if len(blocks) != 1:
        names = ", ".join(b.name for b in document) or "none"
        raise ValueError(
            f"{file} has {len(blocks)} data blocks with atom sites (blocks: {names}). Specify "
            "the name of one block as 'block' of the phase."
        )
    chosen = blocks[0]
    _use_plain_exponents(chosen)
    _check_numbers(file, chosen)
    try:
        structure = gemmi.make_small_structure_from_block(chosen)
    except (ValueError, RuntimeError, OverflowError) as problem:
        raise ValueError(f"{file} cannot be read as a structure: {problem}") from None
    _check_labels(file, chosen)
    cell = structure.cell
    if not cell.is_crystal():
        raise ValueError(f"{file} has no unit cell. Add _cell_length_a and so on.")
    tensors = _tensors(chosen, Cell(*cell.parameters))
    b_iso = _displacements(file, chosen, Cell(*cell.parameters), tensors)
    assemblies = _column(chosen, "_atom_site_disorder_assembly")
    types = _column(chosen, "_atom_site_type_symbol")
    sites = []
    for index, site in enumerate(structure.sites):
        if not all(np.isfinite(site.fract.tolist())):
            raise ValueError(
                f"{file}: site {site.label} has no coordinates. Add fract_x, y and z."
            )
        assembly = assemblies[index] if assemblies else ""
        sites.append(
            Site(
                site.label, _ion(file, site.label, types[index] if types else ""),
                (site.fract.x, site.fract.y, site.fract.z), site.occ, b_iso.get(site.label),
                "" if assembly in (".", "?") else assembly, int(site.disorder_group),
                tensors.get(site.label),
            )
        )
    values = {name: float(getattr(cell, name)) for name in CELL_PARAMETERS}
    operations, name = symmetry_of(file, structure, _operations(chosen))
    return Crystal(Cell(**values), operations, tuple(sites), file, name).checked_cell()


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
    if any(site.u_aniso is not None for site in crystal.sites):
        loop = block.init_loop("_atom_site_aniso_", ["label", *(f"U_{pair}" for pair in TENSOR)])
        for site in crystal.sites:
            if site.u_aniso is not None:
                loop.add_row([site.label, *(number(value, ".6f") for value in site.u_aniso)])
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


def _ion(file: str, label: str, type_symbol: str) -> str:
    """The ion of a site, from its type symbol or else from the first letters of its label.

    A type symbol may have any case, because _atom_site_type_symbol contains only elements and many
    programs write it in capitals. In a label, which may contain anything after its element, the
    case is significant. An ion without a tabulated form factor is accepted.
    """
    if type_symbol.strip() not in ("", ".", "?"):
        return ion_symbol(type_symbol, any_case=True, tabulated=False)
    letters = "".join(itertools.takewhile(str.isalpha, label))
    try:
        return ion_symbol(letters)
    except ValueError:
        raise ValueError(
            f"{file}: the element of site {label} is uncertain, because the file has no "
            f"_atom_site_type_symbol and '{letters}' is not an element symbol with an upper-case "
            "and a lower-case letter. Add the column _atom_site_type_symbol."
        ) from None


#: CIF data names of lists of symmetry operations.
OPERATION_TAGS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz",
                  "_space_group_symop.operation_xyz")


def _operations(block: gemmi.cif.Block) -> list[str]:
    """The operations that a block lists; none where it lists only '?'."""
    for tag in OPERATION_TAGS:
        listed = [text for text in _column(block, tag) if text.strip() not in ("", ".", "?")]
        if listed:
            return listed
    return []


def symmetry_of(
    source: str, structure: gemmi.SmallStructure, listed: Sequence[str] | None = None
) -> tuple[tuple[str, ...], str]:
    """The symmetry operations as triplets, and the name of the space group.

    The operations are the listed ones (by default those of the structure), else those of the space
    group. Raises ValueError, with the name of the `source`, where there are neither, an operation
    cannot be read, the list is incomplete, or it contradicts the space group.
    """
    group = structure.spacegroup
    if structure.spacegroup_hm:  # the group of the structure may be that of its operations
        group = gemmi.find_spacegroup_by_name(
            structure.spacegroup_hm, structure.cell.alpha, structure.cell.gamma)
    name = str(structure.spacegroup_hm or (group.xhm() if group else ""))
    listed = list(structure.symops) if listed is None else list(listed)
    if len(listed) > MOST_OPERATIONS:
        raise ValueError(f"{source} lists {len(listed)} symmetry operations; the limit is "
                         f"{MOST_OPERATIONS}. Use the conventional cell.")
    if listed:
        operations = [_operation(source, text) for text in listed]
        known = {op.triplet() for op in operations}
        if group is not None:
            _check_group(source, name, group, operations, known)
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


def _operation(source: str, text: str) -> gemmi.Op:
    try:
        found = gemmi.Op(text).wrap()
        if found.det_rot() == 0 or gemmi.Op(found.triplet()) != found:
            raise ValueError("it is not a symmetry operation")
        return found
    except (ValueError, RuntimeError) as problem:
        raise ValueError(
            f"{source}: the symmetry operation '{text}' cannot be read ({problem}). Write it in "
            "quotation marks as in 'x,y,z' or '-x,-y,z+1/2', with common fractions."
        ) from None


def _check_group(
    source: str, name: str, group: gemmi.SpaceGroup, operations: Sequence[gemmi.Op],
    known: AbstractSet[str],
) -> None:
    """Raise ValueError for a list of operations that is not of the type of the named group."""
    expected = len(list(group.operations()))
    found = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(list(operations)))
    if len(known) == expected and (found is None or found.number == group.number):
        return
    kind = f", which are those of {found.xhm()}" if found is not None else ""
    raise ValueError(
        f"{source}: the file lists {len(known)} symmetry operations{kind}, but the space group "
        f"'{name}' has {expected}. Remove the list (the operations are then those of the space "
        "group), complete it, or correct the name of the space group."
    )


#: Columns of the atom list that contain numbers, and whether they may be unknown ('?' or '.').
_NUMBERS = {"fract_x": False, "fract_y": False, "fract_z": False, "occupancy": True,
            "B_iso_or_equiv": True, "U_iso_or_equiv": True}


def _check_numbers(file: str, block: gemmi.cif.Block) -> None:
    """Raise ValueError for texts in place of numbers, which gemmi replaces by default values."""
    count = len(_column(block, "_atom_site_fract_x"))
    for key, optional in _NUMBERS.items():
        column = list(block.find_values(f"_atom_site_{key}"))
        if not optional and len(column) != count:
            raise ValueError(f"{file}: the atom list has no column _atom_site_{key}. Add it.")
        for number, text in enumerate(column, 1):
            unknown = text in ("?", ".")
            if not (optional and unknown) and not abs(gemmi.cif.as_number(text)) < 1e6:
                raise ValueError(f"{file}: {text[:40]!r} in row {number} of _atom_site_{key} is not a "
                                 "number. Correct it.")
    for name in CELL_PARAMETERS:
        tag = f"_cell_{'length' if name in 'abc' else 'angle'}_{name}"
        for text in block.find_values(tag):
            if not 0 < gemmi.cif.as_number(text) < 1e4:
                raise ValueError(f"{file}: {tag} is {text[:40]!r}, which is not a possible value. Correct "
                                 "it.")


#: Largest number of listed operations; a conventional cell has up to 192.
MOST_OPERATIONS = 768


def _check_labels(file: str, block: gemmi.cif.Block) -> None:
    labels = _column(block, "_atom_site_label")
    count = len(_column(block, "_atom_site_fract_x"))
    missing = [k + 1 for k, label in enumerate(labels) if label.strip() in ("", ".", "?")]
    if len(labels) != count or missing:
        where = f"rows {missing} of the atom list" if missing else "the atom list"
        raise ValueError(
            f"{file}: _atom_site_label is missing in {where}. Every site needs its own label, "
            "because parameters are named by it."
        )
    bad = [label for label in labels if "." in label or " " in label]
    if bad:
        raise ValueError(
            f"{file}: the label '{bad[0]}' contains a '.' or a space, which separate the "
            "parts of a parameter name. Rename the site."
        )


#: CIF names of the components of a symmetric tensor.
TENSOR = tuple(f"{i + 1}{j + 1}" for i, j in COMPONENTS)


def _displacements(
    file: str, block: gemmi.cif.Block, cell: Cell, tensors: Mapping[str, tuple[float, ...]]
) -> dict[str, float]:
    """B_iso (Å^2) by label, from B_iso and U_iso, else the mean of anisotropic displacements."""
    labels = _column(block, "_atom_site_label")
    change = to_cartesian(cell.matrix)
    # U_eq = (1/3) sum_ij U_ij a*_i a*_j (a_i . a_j)
    b_iso = {label: float(b_from_u(float(np.trace(change @ symmetric(np.array(tensor)) @ change.T)) / 3))
             for label, tensor in tensors.items()}
    averaged = set(b_iso)
    for tag, factor in (("_atom_site_B_iso_or_equiv", 1.0), ("_atom_site_U_iso_or_equiv",
                                                             b_from_u(1.0))):
        for label, text in zip(labels, _column(block, tag), strict=False):
            value = gemmi.cif.as_number(text)
            if np.isfinite(value):
                b_iso[label] = factor * value
                averaged.discard(label)
    if averaged:
        labels = [label for label in labels if label in averaged]
        note(f"{file}: the anisotropic displacements of {', '.join(labels)} are replaced by their isotropic "
             "mean, B_eq, unless 'displacements' of the phase specifies 'anisotropic' for these sites.")
    return b_iso


def _tensors(block: gemmi.cif.Block, cell: Cell) -> dict[str, tuple[float, ...]]:
    """The components U_ij (Å^2) by label, from U_ij or B_ij; sites with unknown ones are left out."""
    labels = _column(block, "_atom_site_aniso_label")
    found: dict[str, tuple[float, ...]] = {}
    for kind, factor in (("B", 1 / b_from_u(1.0)), ("U", 1.0)):
        columns = [_column(block, f"_atom_site_aniso_{kind}_{pair}") for pair in TENSOR]
        if any(len(column) != len(labels) for column in columns):
            continue
        for label, *row in zip(labels, *columns, strict=True):
            values = [factor * gemmi.cif.as_number(text) for text in row]
            if np.isfinite(values).all():
                found[label] = tuple(values)
    return found


def _use_plain_exponents(block: gemmi.cif.Block) -> None:
    """Write numbers with an exponent D of Fortran with E, which gemmi reads."""
    tags = [f"_cell_{what}_{name}" for name in CELL_PARAMETERS for what in ("length", "angle")]
    tags += [f"_atom_site_{key}" for key in (
        "fract_x", "fract_y", "fract_z", "occupancy", "B_iso_or_equiv", "U_iso_or_equiv")]
    tags += [f"_atom_site_aniso_{kind}_{pair}" for kind in "UB" for pair in TENSOR]
    for tag in tags:
        column = block.find_values(tag)
        for k in range(len(column)):
            column[k] = re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", column[k])


def _column(block: gemmi.cif.Block, tag: str) -> list[str]:
    return [gemmi.cif.as_string(value) for value in block.find_values(tag)]
