"""Limits that grow with the load; results of refinements with chosen numbers, for series."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path

# jobs and daemon workers start Python again and again: let them keep their byte code
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from waiting import patient  # noqa: E402


def pytest_runtest_setup(item):
    """Each test gets its own limit, at the load that there is when it begins."""
    marker = item.get_closest_marker("timeout")
    limit = marker.args[0] if marker else float(item.config.getini("timeout"))
    item.add_marker(pytest.mark.timeout(patient(limit)), append=False)


EXAMPLE = Path(__file__).parents[1] / "examples" / "cspbbr3"
EDGES = (8.2, 8.3, 11.7)
#: Standard uncertainties of the free parameters, by their names inside the phase.
SU = {"a": 3e-4, "b": 3e-4, "c": 5e-4, "L_ab": 0.03, "L_c": 0.03, "Pb.B_iso": 0.01,
      "Br_ax.B_iso": 0.05, "Br_eq.B_iso": 0.03}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Commands without --output write into a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


@lru_cache(maxsize=1)
def perovskite():
    """A Pbnm perovskite 'P' of the example on a short grid, with its bonds, angles and zeta."""
    from aiida_dse.documents import parse_document
    from aiida_dse.tasks.build import build

    length = {"mean": 9.0, "sd": 1.0}
    return build(parse_document({
        "pattern": {"axis": "q_inverse_angstrom", "wavelength": 0.56,
                    "grid": {"start": 0.5, "step": 0.1, "stop": 10.4}},
        "phases": {"P": {"structure": "CsPbBr3.cif", "particle": {
            "shape": "parallelepiped", "L_ab": length, "L_c": length, "largest": 14.0}}},
        "derived": {"P": {"angles": [["Pb", "Br_ax", "Pb"]], "pseudo_cubic": True}},
    }), EXAMPLE)


def refinement(
    *, temperature=None, cell=EDGES, sizes=(9.0, 9.0), b=(1.0, 2.0, 1.5), gof=1.0,
    status="converged", correlation=0.0, su=SU, name="sample",
):
    """A refined Pbnm perovskite 'P': cell, L_ab and L_c, B_iso of Pb, Br_ax and Br_eq.

    correlation: between the last two free parameters, the B_iso of the bromines.
    """
    from aiida_dse.documents.records import ParameterRow, PhaseRow, SiteRow
    from aiida_dse.documents.results import RefinementSummary
    from aiida_dse.documents.status import Status
    from aiida_dse.engine.fit.covariance import Covariance
    from aiida_dse.engine.model.agreement import Agreement
    from aiida_dse.engine.parameters import ParameterStatus
    from aiida_dse.io.results import Result
    from aiida_dse.tasks.derived import derived_quantities
    from aiida_dse.tasks.summary import covariance_arrays

    built = perovskite()
    (phase,) = built.model.phases
    given = dict(zip("abc", cell, strict=True)) | dict(zip(("L_ab", "L_c"), sizes, strict=True))
    given |= dict(zip(("Pb.B_iso", "Br_ax.B_iso", "Br_eq.B_iso"), b, strict=True))
    given |= {"sd_ab": 1.0, "sd_c": 1.2, "size_axes_rotation": 0.0}
    values = dict(built.model.start) | {f"P.{key}": value for key, value in given.items()}
    matrix = np.diag([su[key] ** 2 for key in su])
    keys = list(su)
    matrix[-1, -2] = matrix[-2, -1] = correlation * su[keys[-1]] * su[keys[-2]]
    covariance = Covariance(tuple(f"P.{key}" for key in su), matrix)
    quantities = derived_quantities(built, phase, values, covariance)
    crystal = phase.structure({p.name.local: values[p.name] for p in phase.parameters})
    summary = RefinementSummary(
        status=Status(status), stop_reason=status, phases=["P"], document_sha256="0", seconds=1.0,
        sample={"name": name, "ligand": "DDAB"} | (
            {} if temperature is None else {"temperature": temperature}),
        agreement=Agreement(
            n_points=100, n_parameters=10, chi2=90 * gof**2, r_p=0.03, r_wp=0.03, r_exp=0.03 / gof,
            gof=gof, r_wp_background_subtracted=0.03, durbin_watson=2.0),
        parameters={
            p.name: ParameterRow(
                kind=p.kind, value=values[p.name], unit=p.unit, su=su.get(p.name.local),
                status=ParameterStatus.FREE if p.name.local in su else ParameterStatus.FIXED)
            for p in phase.parameters},
        linear={}, n_cycles=1, n_evaluations=1,
        derived={"P": PhaseRow(
            sizes=quantities.rows(sizes=True), quantities=quantities.rows(sizes=False),
            sites={site.label: SiteRow(
                **dict(zip("xyz", site.position, strict=True)), ion=site.ion, B_iso=site.b_iso,
                occupancy=site.occupancy) for site in crystal.sites})},
    )
    q = built.model.sampling.q
    phase_part = 1000 * np.exp(-b[0] * q**2 / (8 * np.pi**2))
    return Result(summary, quantities.arrays("P") | covariance_arrays(covariance) | {
        "pattern/q": q, "pattern/calculated": 100 + phase_part, "components/P": phase_part})


@pytest.fixture(scope="session")
def refined():
    """A function that makes the result of a refinement."""
    return refinement


@pytest.fixture(scope="session")
def temperatures():
    """Seven temperatures of a crystal that expands and vibrates by known laws.

    V = 802 (1 + 1.1e-4 (T - 300)) Å^3, theta_E = 64 K (Pb) and 88 K (Br), B_static 0.3, 1.6, 0.4.
    """
    from aiida_dse.analysis.laws import einstein_b

    found = {}
    for t in (6.0, 45.0, 100.0, 150.0, 200.0, 250.0, 300.0):
        grown = (1 + 1.1e-4 * (t - 300)) ** (1 / 3)
        scale = grown * (802.0 / np.prod(EDGES)) ** (1 / 3)
        b = tuple(static + float(einstein_b(t, theta, mass)) for static, theta, mass in (
            (0.3, 64.0, 207.2), (1.6, 88.0, 79.904), (0.4, 88.0, 79.904)))
        found[f"T{t:.0f}"] = refinement(
            temperature=t, cell=tuple(edge * scale for edge in EDGES), b=b, correlation=-0.3)
    return found


@pytest.fixture(scope="session")
def sizes():
    """Five sizes whose volume is 793.1 (1 + 0.115 nm / L) Å^3: 2.3 % at 5 nm."""
    found = {}
    for edge in (5.0, 6.0, 7.5, 9.0, 11.0):
        scale = (793.1 * (1 + 0.115 / edge) / np.prod(EDGES)) ** (1 / 3)
        found[f"L{edge:g}".replace(".", "_")] = refinement(
            temperature=298.0, cell=tuple(e * scale for e in EDGES), sizes=(edge, edge))
    return found
