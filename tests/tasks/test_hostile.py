"""Inputs on which an earlier version ended in a traceback, hung, or accepted what makes no sense."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from aiida_dse.cli.engine import main

FOLDER = Path(__file__).parents[1] / "data" / "hostile"
#: Cases that are valid: their content cannot be distinguished from what somebody may want.
VALID = {"cif_truncated", "head_redos", "sigma_huge"}
#: Seconds of processor time that no input may take before it is refused.
LONGEST = 10.0
DOCUMENTS = sorted(path for path in FOLDER.glob("*/*.yaml") if path.parent.name != "study_sample_text")


def validated(path, *more):
    begin = time.process_time()
    outcome = CliRunner().invoke(main, ["validate", str(path), *more])
    assert time.process_time() - begin < LONGEST
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), repr(outcome.exception)
    return outcome


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_hostile_document_is_refused_with_a_reason(tmp_path, path):
    text = path.read_bytes()
    if not path.parent.name.startswith("yaml") and b"schema" not in text:
        text = b"schema: aiida-dse/model/1\n" + text
    for other in path.parent.iterdir():
        (tmp_path / other.name).write_bytes(other.read_bytes())
    (tmp_path / path.name).write_bytes(text)
    outcome = validated(tmp_path / path.name)
    assert outcome.exit_code == (0 if path.parent.name in VALID else 2), outcome.output
    assert "\x1b" not in outcome.output and "root:" not in outcome.output


CELL = "".join(f"_cell_length_{name} {{a}}\n" for name in "abc") + "".join(
    f"_cell_angle_{name} 90\n" for name in ("alpha", "beta", "gamma"))
ATOMS = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
"""


def crystal(folder, *, n=1, operations="'x,y,z'\n"):
    """A document of a simple cubic crystal of n x n x n atoms, 3 Å apart, each a site of its own."""
    rows = "".join(f"A{i}_{j}_{k} Au {i / n:.6f} {j / n:.6f} {k / n:.6f} 1\n"
                   for i in range(n) for j in range(n) for k in range(n))
    (folder / "x.cif").write_text(
        "data_x\n" + CELL.format(a=3.0 * n) + "loop_\n_space_group_symop_operation_xyz\n" + operations
        + ATOMS + rows)
    (folder / "m.yaml").write_text("""schema: aiida-dse/model/2
pattern: {axis: q_inverse_angstrom, wavelength: 0.5, grid: {start: 1, stop: 3, step: 0.1}}
phases: {P: {structure: x.cif, particle: {shape: parallelepiped, cells: [1, 1, 1]}}}
""")
    return folder / "m.yaml"


@pytest.mark.parametrize(("n", "accepted"), [(6, True), (22, False)], ids=["216 sites", "10 648 sites"])
def test_a_structure_of_many_sites_is_answered_in_time(tmp_path, n, accepted):
    outcome = validated(crystal(tmp_path, n=n))
    assert outcome.exit_code == (0 if accepted else 2), outcome.output[:500]
    assert f"{n**3} " in outcome.output and (accepted or "XYZ" in outcome.output)


def test_many_operations_are_refused(tmp_path):
    operations = "".join(f"'x+{i}/24,y+{j}/24,z'\n" for i in range(24) for j in range(36))
    outcome = validated(crystal(tmp_path, operations=operations))
    assert outcome.exit_code == 2 and "864 symmetry operations; the limit is 768" in outcome.output


def test_a_long_line_a_long_name_and_a_long_expression_are_refused(tmp_path):
    path = crystal(tmp_path)
    text = path.read_text()
    for more in ("constraints: {P.a: " + "P.a+" * 50_000 + "1}\n", "parameters: {" + "a" * 90_000 + ": 1}\n",
                 "refinement: {stages: [[" + "P" * 90_000 + "]]}\n", "title: " + "x" * 2_000_000 + "\n"):
        path.write_text(text + more)
        outcome = validated(path)
        assert outcome.exit_code == 2 and len(outcome.output) < 5_000, outcome.output[:300]


@pytest.mark.parametrize("name", ["nowhere.yaml", "x" * 300 + ".yaml", "/dev/zero", "/proc/self/mem",
                                  "loop.yaml", "folder"])
def test_what_is_no_document_is_refused(tmp_path, name):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "folder").mkdir()
    outcome = validated(tmp_path / name if "/" not in name else name)
    assert outcome.exit_code == 2 and "Error" in outcome.output


@pytest.mark.parametrize("file", ["x" * 300, "a\0b", "/dev/zero", "/proc/self/mem", "loop", "folder", "/"])
def test_what_is_no_file_of_data_is_refused(tmp_path, file):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    path = crystal(tmp_path)
    text = path.read_text()
    for old, new in (("structure: x.cif", f'structure: "{file}"'),
                     ("grid: {start: 1, stop: 3, step: 0.1}", f'file: "{file}", sigma: counts')):
        path.write_text(text.replace(old, new.replace("\0", "\\0")))
        outcome = validated(path)
        assert outcome.exit_code == 2 and "Error" in outcome.output
