"""The series that DebUsSy computed: laws found in refinements against those that went in."""

import accuracy
import numpy as np
import pytest

from aiida_dse.analysis.laws import weighted_line
from aiida_dse.analysis.size_series import size_series
from aiida_dse.analysis.temperature_series import temperature_series
from aiida_dse.documents import load_document, parse_document
from aiida_dse.documents.series import Bulk, SizeOptions
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine

CSPBBR3 = {truth["name"]: (path, truth) for path, truth in accuracy.cspbbr3_patterns()}
pytestmark = pytest.mark.skipif(not CSPBBR3, reason="the CsPbBr3 series are not beside the project")
BULK = Bulk(volume=793.1, source="Stoumpos et al., Cryst. Growth Des. 13 (2013) 2722")


def refinements(start):
    """Results and truth of the patterns whose names start so, each from the example's start."""
    results, truths = {}, {}
    for name, (path, truth) in CSPBBR3.items():
        if name.startswith(start):
            content = load_document(accuracy.EXAMPLE / "refine.yaml").canonical()
            content["pattern"]["file"] = str(path.resolve())
            content["sample"] = {"name": name, "temperature": truth["temperature_K"]}
            results[name] = run_refine(build(parse_document(content), accuracy.EXAMPLE))
            truths[name] = truth
    return results, truths


def deviation(row, truth):
    """Difference from the truth in s.u., unscaled and scaled."""
    return [abs(row.value - truth) / getattr(row, key) for key in ("su", "su_scaled")]


def test_expansion_einstein_laws_and_static_disorder():
    results, truths = refinements("dry09nm")
    _, found = temperature_series(results)
    rows = found.summary.numbers
    assert max(deviation(rows["thermal_expansion_V"], 1.1e-4)) < 3
    law = next(iter(truths.values()))["einstein"]
    for site, truth in law.items():
        assert max(deviation(rows[f"einstein.{site}.theta"], truth["theta_K"])) < 3, site
        assert max(deviation(rows[f"einstein.{site}.B_static"], truth["B_static"])) < 3, site
        assert found.summary.displacements[site].einstein.static.above_zero
    (verdict,) = found.summary.disorder
    assert verdict.sites == ["Br_ax", "Br_eq"] and verdict.n_su > 5
    assert abs(verdict.difference - 1.2) < 3 * verdict.su_scaled
    assert verdict.verdict.endswith("static disorder of Br_ax")


def test_strain_zeta_and_angles_against_size():
    """The truth is no straight line in 1/L: its own line, equally weighted, is what is found."""
    results, truths = refinements("size_")
    series, found = size_series(results, SizeOptions(bulk=BULK))
    rows = {row.name: row for row in series.rows}
    inverse = np.array([(t["L_c"] * t["L_ab"] ** 2) ** (-1 / 3) for t in truths.values()])
    cells = np.array([t["cell"] for t in truths.values()])
    edge = np.sqrt(2) * (cells.prod(axis=1) / 4) ** (1 / 3)
    columns = {
        "volume": np.array([t["volume"] for t in truths.values()]),
        "zeta": (cells[:, 0] - cells[:, 1]) / (2 * edge),
        "angle(Pb-Br_eq-Pb)_1": np.array([t["angle_eq"] for t in truths.values()]),
        "angle(Pb-Br_ax-Pb)_1": np.array([t["angle_ax"] for t in truths.values()]),
    }
    for name, truth in columns.items():
        su = np.array([rows[key].su(name) for key in truths])
        values = np.array([rows[key].value(name) for key in truths])
        assert (np.abs(values - truth) < 3 * su).all(), name
        own = weighted_line(
            inverse, truth, su_y=su, su_x=[rows[key].su("1/L") for key in truths],
            covariance_xy=np.nan_to_num([rows[key].covariance_of(name, "1/L") for key in truths]))
        line = found.summary.lines[name]
        for key in ("slope", "intercept"):
            assert max(deviation(line.numbers[key], own.value(key))) < 3, (name, key)
    assert found.summary.strain.r_squared > 0.99
    # the patterns' volumes are on no line to the bulk, and that is said
    assert any("does not pass through the bulk" in text for text in found.summary.warnings)
