"""The text of CIFs of cubic crystals."""

from __future__ import annotations


def cubic_cif(a, sites, *, group="F m -3 m", columns=("occupancy", "B_iso_or_equiv")):
    """The CIF with the cell length `a` (angstrom); each site is a line "label ion x y z" with the further `columns`."""
    loop = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", *columns]
    return "\n".join([
        "data_x",
        *(f"_cell_length_{axis} {a}" for axis in "abc"),
        *(f"_cell_angle_{angle} 90" for angle in ("alpha", "beta", "gamma")),
        f"_space_group_name_H-M_alt '{group}'",
        "loop_",
        *(f"_atom_site_{name}" for name in loop),
        *sites,
        "",
    ])
