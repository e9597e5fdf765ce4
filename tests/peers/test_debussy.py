"""Refinements of patterns that DebUsSy computed, against what went into them.

The quick ones of benchmarks/accuracy.py; `make validate` runs them all.
"""

import accuracy
import pytest

CSPBBR3 = {truth["name"]: (path, truth) for path, truth in accuracy.cspbbr3_patterns()}
PBS = accuracy.pbs_patterns()


@pytest.mark.skipif(not CSPBBR3, reason="the CsPbBr3 series are not beside the project")
@pytest.mark.parametrize("name", ["size_05nm", "dry09nm_006K"])
def test_cspbbr3_from_a_bulk_like_start(name):
    row = accuracy.fit_cspbbr3(*CSPBBR3[name])
    assert not row.missed, str(row)


@pytest.mark.skipif(not PBS, reason="the PbS patterns are not beside the project")
@pytest.mark.parametrize("part", ["SD10_Avg3.50", "SD15_Avg3.00"])
def test_pbs_spheres(part):
    row = accuracy.fit_pbs(next(path for path in PBS if part in path.name))
    assert not row.missed, str(row)


@pytest.mark.skipif(not PBS, reason="the PbS patterns are not beside the project")
@pytest.mark.parametrize("part", ["SD10_Avg3.50", "SD15_Avg3.00"])
def test_pbs_with_all_atoms_within_the_radius(part):
    path = next(path for path in PBS if part in path.name)
    row = accuracy.fit_pbs(path, whole_cells=False)
    assert not row.missed, str(row)


def test_a_missed_limit_is_named():
    row = accuracy.Row("x", {"GoF": (1.2, 1.1), "size": (0.5, None),
                             "B_iso": (float("nan"), 1.0)}, 0)
    assert row.missed == ["GoF", "B_iso"]
