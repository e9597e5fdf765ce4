"""Inputs that people really have, rebuilt from public bug reports (tests/data/field_cases).

Each case is a kind of input; the siblings here are further files of the same kind.
"""

from __future__ import annotations

import re
from pathlib import Path

import gemmi
import numpy as np
import pytest

from aiida_dse.documents.reading import load_document
from aiida_dse.engine.scattering.form_factors import scattering_factor, tabulated_ion
from aiida_dse.io.gsas import gsas_columns
from aiida_dse.io.structures import parse_cif
from aiida_dse.io.xyz import parse_xyz
from aiida_dse.tasks.build import build
from aiida_dse.tasks.simulation import run_simulate

CASES = Path(__file__).parents[1] / "data" / "field_cases"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def built(case):
    path = next(CASES.glob(f"{case}.yaml"))
    return build(load_document(path), path.parent)


def pattern_of(case):
    return run_simulate(built(case)).arrays["pattern/calculated"]


#: Case -> part of the note that the result contains; '' for none.
ACCEPTED = {
    "F01*/cdse": "no tabulated form factor of Se2- (Se1); that of Se is used",
    "F01*/in": "no tabulated form factor of In2+",
    "F01*/pbs": "no tabulated form factor of S2-",
    "F01*/te": "no tabulated form factor of Te2-",
    "F01*/pbs_remedy_ion": "", "F01*/pbs_remedy_site": "",
    "F02*/fe25": "no tabulated form factor of Fe2.5+ (A1); that of Fe2+ is used",
    "F02*/fe25_remedy": "",
    "F03*/ca1": "", "F03*/ca1_remedy": "", "F03*/pbga": "", "F03*/with_types": "",
    "F04*/nacl_name_only": "",
    "F08*/good": "", "F08*/ext_Z": "", "F08*/ext_forces": "", "F08*/ext_id": "",
    "F08*/ext_posfirst": "",
    "F10*/dummy": "1 of 461 points are marked as invalid",
    "F10*/nan": "2 of 461 points are marked as invalid",
    "F10*/zero": "2 of 461 points are marked as invalid",
    "F10*/zerocount": "", "F10*/exclude_key": "", "F10*/points_deleted": "",
    "F11*/counts": "", "F12*/fxye": "",
    "F14*/aniso_only": "isotropic mean", "F14*/aniso_B": "isotropic mean",
    "F14*/aniso_dot": "displacements of Cd1 are",
    "F16*/fm3m_question": "", "F16*/m": "", "F17*/right_key": "",
    "F18*/bomcif": "", "F18*/bomxyz": "", "F18*/fortran": "", "F18*/latin1": "",
    "F23*/pbc": "isolated particle", "F25*/ions": "no tabulated form factor of S2-",
}
#: Case -> parts of the error.
REFUSED = {
    "F04*/fm3m_1op": ("1 symmetry operations", "P 1", "'F m -3 m' has 192"),
    "F04*/fm3m_48ops": ("48 symmetry operations", "P m -3 m", "'F m -3 m' has 192"),
    "F04*/with_data_fm3m_1op": ("has 192",), "F04*/with_data_fm3m_48ops": ("has 192",),
    "F07*/oversum": ("sum to 1.6", "Cd1 (0.8) + Zn1 (0.8)"),
    "F10*/two_ranges": ("one pair of numbers", "'exclude: [[low, high], ...]'"),
    "F11*/zerosig": ("column 3 contains no standard uncertainties", "sigma: counts"),
    "F12*/as_told": ("the document specifies the axis q_inverse_nm, but the file has two_theta",),
    "F13*/gr": ("G(r), a pair distribution function",),
    "F13*/sq": ("S(Q), a structure function",),
    "F13*/fq": ("F(Q), a reduced structure function",),
    "F16*/bad_fifth": ("bad_fifth.cif", "'x+1/5,y,z'"),
    "F16*/bad_trailing": ("bad_trailing.cif", "'-x,-y,-z,'"),
    "F16*/mcif_time": ("mcif_time.cif", "'x,y,z,+1'"),
    "F16*/spaces_unquoted": ("spaces_unquoted.cif", "quotation marks"),
    "F17*/as_told": ("axis_grid: unknown key; did you mean 'grid'",),
    "F17*/uxd": ("'grid: {start: 4, step: 0.1}'",),
}


def test_every_case_is_judged():
    found = {str(path.relative_to(CASES)) for path in CASES.rglob("*.yaml")}
    judged = {str(path.relative_to(CASES)) for case in (*ACCEPTED, *REFUSED)
              for path in CASES.glob(f"{case}.yaml")}
    assert found == judged


@pytest.mark.parametrize("case", ACCEPTED)
def test_it_is_read_with_a_note_where_the_reader_decided(case):
    model = built(case)
    assert (ACCEPTED[case] in " ".join(model.notes)) if ACCEPTED[case] else not model.notes
    assert run_simulate(model).summary.warnings == list(model.notes)


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_the_reason(case):
    with pytest.raises(ValueError) as problem:
        built(case)
    for part in REFUSED[case]:
        assert part in str(problem.value)


@pytest.mark.parametrize("case", ["ext_Z", "ext_forces", "ext_id", "ext_posfirst"])
def test_columns_of_extended_xyz_in_any_order_are_the_same_particle(case):
    np.testing.assert_array_equal(pattern_of(f"F08*/{case}"), pattern_of("F08*/good"))


@pytest.mark.parametrize("case", ["bomxyz", "latin1", "fortran"])
def test_encodings_and_exponents_do_not_change_the_particle(case):
    np.testing.assert_array_equal(pattern_of(f"F18*/{case}"), pattern_of("F08*/good"))


def test_missing_types_are_those_of_the_labels():
    np.testing.assert_array_equal(pattern_of("F03*/pbga"), pattern_of("F03*/with_types"))
    np.testing.assert_array_equal(pattern_of("F03*/ca1"), pattern_of("F03*/ca1_remedy"))


def test_isotropic_means_of_anisotropic_displacements():
    """By hand for a hexagonal cell: U_eq = (U11 + U33 / 2 + ...); 1.4475 and 1.0001 Å^2."""
    for case in ("aniso_only", "aniso_B"):
        start = built(f"F14*/{case}").model.start
        assert start["P.Cd1.B_iso"] == pytest.approx(1.4475, abs=2e-4)
        assert start["P.Se1.B_iso"] == pytest.approx(1.0001, abs=2e-4)


@pytest.mark.parametrize("cell", [(5, 6, 7, 90, 90, 90), (5, 6, 7, 80, 95, 110)])
def test_the_isotropic_mean_agrees_with_gemmi(cell):
    random = np.random.default_rng(2)
    root = random.normal(size=(3, 3)) * 0.1
    u = root @ root.T + 0.01 * np.eye(3)
    values = [u[0, 0], u[1, 1], u[2, 2], u[0, 1], u[0, 2], u[1, 2]]
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    text = "data_x\n" + "".join(f"_cell_{n} {v}\n" for n, v in zip(names, cell, strict=True))
    text += "_space_group_name_H-M_alt 'P 1'\nloop_\n_atom_site_label\n_atom_site_fract_x\n" \
        "_atom_site_fract_y\n_atom_site_fract_z\nPb1 0.1 0.2 0.3\nloop_\n_atom_site_aniso_label\n"
    text += "".join(f"_atom_site_aniso_U_{k}\n" for k in ("11", "22", "33", "12", "13", "23"))
    text += "Pb1 " + " ".join(f"{v:.12g}" for v in values) + "\n"
    block = gemmi.cif.read_string(text).sole_block()
    site = gemmi.make_small_structure_from_block(block).sites[0]
    unit_cell = gemmi.UnitCell(*cell)
    cartesian = unit_cell.orth.mat
    frac = np.array(unit_cell.frac.mat.tolist())
    reciprocal = np.linalg.norm(frac, axis=1)
    tensor = np.array(site.aniso.as_mat33().tolist())
    scaled = np.diag(reciprocal) @ tensor @ np.diag(reciprocal)
    orth = np.array(cartesian.tolist())
    expected = 8 * np.pi**2 * np.trace(orth @ scaled @ orth.T) / 3
    assert parse_cif(text).sites[0].b_iso == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("ion", "used"), [
    ("S2-", "S"), ("Se2-", "Se"), ("N3-", "N"), ("P3-", "P"), ("As3-", "As"), ("In2+", "In"),
    ("Fe2.5+", "Fe2+"), ("Fe2.6+", "Fe3+"), ("Mn3.4+", "Mn3+"), ("O2-", "O2-"), ("Pb2+", "Pb2+"),
    ("Cl-", "Cl1-"), ("O1.5-", "O1-"), ("Cs0.9+", "Cs1+"),
])
def test_ions_without_a_table(ion, used):
    assert tabulated_ion(ion) == used
    assert scattering_factor(ion, np.array([1.0]), 0.7).ion == used


def test_an_ion_of_the_document_must_be_tabulated(tmp_path):
    """What a user writes is not replaced silently."""
    path = next(CASES.glob("F01*/pbs.yaml"))
    text = path.read_text().replace("structure: pbs_icsd.cif", "structure: pbs_icsd.cif, ions: {S: S2-}")
    (tmp_path / "pbs_icsd.cif").write_bytes((path.parent / "pbs_icsd.cif").read_bytes())
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ValueError, match="'S2-' has no tabulated form factor; the table has S"):
        build(load_document(tmp_path / "m.yaml"), tmp_path)


def test_three_alternatives_may_not_sum_above_one():
    """Pairwise sums of 0.8 are possible, but not all three at once."""
    sites = "".join(f"{el}1 {el} 0 0 0 0.4 1\n" for el in ("Cd", "Zn", "Hg"))
    text = "data_x\n" + "".join(f"_cell_length_{k} 5\n_cell_angle_{n} 90\n" for k, n in zip(
        "abc", ("alpha", "beta", "gamma"), strict=True))
    text += "_space_group_name_H-M_alt 'P 1'\nloop_\n" + "".join(
        f"_atom_site_{k}\n" for k in ("label", "type_symbol", "fract_x", "fract_y", "fract_z",
                                      "occupancy", "B_iso_or_equiv"))
    from aiida_dse.engine.crystal.disorder import excluded_pairs

    with pytest.raises(ValueError, match=r"sum to 1\.2: Cd1 \(0\.4\) \+ Hg1|sum to 1\.2"):
        excluded_pairs(parse_cif(text + sites))
    excluded_pairs(parse_cif(text + sites.replace("0.4", "0.3333")))
    excluded_pairs(parse_cif(text + sites.replace("0.4", "0.335")))  # rounded


@pytest.mark.parametrize(("text", "message"), [
    ("1\nProperties=pos:R:3\n0 0 0\n", "does not list the columns"),
    ("1\nProperties=species:S:1:pos:R:x\nPb 0 0 0\n", "does not list the columns"),
    ("1\n\nPb 0 0 0\n1\n\nPb 0 0 1\n", "several frames"),
    ("1\n\nPb 0 0 0\n1\n\nCl 0 0 1\n", "lists other atoms than the first frame (atoms: 1), from atom 1 on"),
    ("1\n\nPb 0 0 0\n2\n\nPb 0 0 1\nPb 0 0 4\n", "frame 2 (atoms: 2) lists other atoms"),
    ("1\n\nPb 0 0 0\n2\n\nPb 0 0 1\n", "contains 1 atoms where line 4 specifies 2"),
    ("1\n\nPb 0 0 0\nPb 0 0 1\n", "'Pb 0 0 1' follows the 1 atoms"),
    ("2\n\nPb 0 0 0\n", "contains 1 atoms where line 1 specifies 2"),
])
def test_xyz_files_that_cannot_be_one_particle(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_xyz(text, average="several" not in message)


GSAS = "title\nBANK 1 4 {rows} CONS 400.0 10.0 0 0 {kind}\n{data}\n"


@pytest.mark.parametrize(("kind", "data"), [
    ("FXYE", "400.0 100. 10.\n410.0 81. 9.\n420.0 64. 8.\n430.0 49. 7."),
    ("ESD", "   100.0    10.0    81.0     9.0    64.0     8.0    49.0     7.0"),
    ("STD", " 1  100. 1   81. 1   64. 1   49."),
    ("FXY", "400.0 100.\n410.0 81.\n420.0 64.\n430.0 49."),
])
def test_types_of_gsas_data(kind, data):
    found = gsas_columns("p.gsa", GSAS.format(rows=4, kind=kind, data=data).splitlines())
    np.testing.assert_allclose(found.axis, [4.0, 4.1, 4.2, 4.3])
    np.testing.assert_allclose(found.intensity, [100, 81, 64, 49])
    if kind != "FXY":
        np.testing.assert_allclose(found.sigma, [10, 9, 8, 7])


@pytest.mark.parametrize(("text", "message"), [
    ("t\nBANK 1 9 9 SLOG 1 2 3 0 FXYE\n1 1 1\n", "binning is 'SLOG'"),
    ("t\nBANK 1 2 2 CONS 400 10 0 0 FXYE\n400 1 1\n", "specifies 2 points, but 1 follow"),
    ("t\nBANK 1 1 1 CONS 400 10 0 0 ALT\n400 1 1\n", "'ALT' cannot be read"),
    ("t\nBANK 1 1 1 CONS 4 1 0 0 FXY\n4 1\nBANK 2 1 1 CONS 4 1 0 0 FXY\n4 1\n", "2 banks"),
])
def test_gsas_data_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=message):
        gsas_columns("p.gsa", text.splitlines())
