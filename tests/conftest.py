"""Limits that grow with the load; results of refinements with chosen numbers, for series."""

from __future__ import annotations

import numpy as np
import pytest
from waiting import patient


def pytest_runtest_setup(item):
    """Each test gets its own limit, at the load that there is when it begins."""
    marker = item.get_closest_marker("timeout")
    limit = marker.args[0] if marker else float(item.config.getini("timeout"))
    item.add_marker(pytest.mark.timeout(patient(limit)), append=False)


EDGES = (8.2, 8.3, 11.7)
SU = {"a": 3e-4, "b": 3e-4, "c": 5e-4, "L_ab": 0.03, "L_c": 0.03, "Pb.B_iso": 0.01, "Br_ax.B_iso": 0.05,
      "Br_eq.B_iso": 0.03}
UNITS = {"a": "Å", "b": "Å", "c": "Å", "L_ab": "nm", "L_c": "nm", "sd_ab": "nm", "sd_c": "nm",
         "size_axes_rotation": "deg"}


def refinement(
    *, temperature=None, cell=EDGES, sizes=(9.0, 9.0), b=(1.0, 2.0, 1.5), gof=1.0,
    status="converged", correlation=0.0, su=SU, listed=None, name="sample",
):
    """A refined Pbnm perovskite 'P': cell, L_ab and L_c, B of Pb, Br_ax and Br_eq.

    correlation: between the last two free parameters, the B of the bromines.
    """
    from aiida_dse.io.results import Result

    values = dict(zip("abc", cell, strict=True)) | dict(zip(("L_ab", "L_c"), sizes, strict=True))
    values |= dict(zip(("Pb.B_iso", "Br_ax.B_iso", "Br_eq.B_iso"), b, strict=True))
    held = {"sd_ab": 1.0, "sd_c": 1.2, "size_axes_rotation": 0.0}
    free = list(su)
    matrix = np.diag([su[key] ** 2 for key in free])
    matrix[-1, -2] = matrix[-2, -1] = correlation * su[free[-1]] * su[free[-2]]
    parameters = {
        f"P.{key}": {"value": value, "unit": UNITS.get(key, "Å^2"), "su": su.get(key),
                     "free": key in su}
        for key, value in (values | held).items()
    }
    derived = {
        "sizes": {"mean_ab": sizes[0], "sd_ab": 1.0, "mean_c": sizes[1], "sd_c": 1.2,
                  "correlation": 0.0},
        "cell": dict(zip("abc", cell, strict=True))
        | {"alpha": 90.0, "beta": 90.0, "gamma": 90.0},
        "quantities": {"zeta": {"value": 0.0, "unit": "", "su": None},
                       "angle(Pb-Br_ax-Pb)_1": {"value": 160.0, "unit": "deg", "su": 0.1}}
        | (listed or {}),
        "sites": {"Pb": {"ion": "Pb2+"}, "Br_ax": {"ion": "Br1-"}, "Br_eq": {"ion": "Br1-"}},
    }
    sample = {"name": name, "ligand": "DDAB"}
    if temperature is not None:
        sample["temperature"] = temperature
    summary = {
        "schema": "aiida-dse/result/1", "task": "refine", "status": status,
        "stop_reason": "converged", "title": "", "phases": ["P"], "sample": sample,
        "agreement": {"gof": gof, "r_wp": 0.03, "r_exp": 0.03 / gof}, "parameters": parameters,
        "derived": {"P": derived}, "warnings": [], "seconds": 1.0, "document_sha256": "0",
    }
    q = np.linspace(0.5, 10, 100)
    return Result(summary, {
        "refinement/names": np.array([f"P.{key}" for key in free]),
        "refinement/covariance": matrix, "pattern/q": q,
        "pattern/calculated": 100 + 1000 * np.exp(-b[0] * q**2 / (8 * np.pi**2)),
        "components/P": 1000 * np.exp(-b[0] * q**2 / (8 * np.pi**2)),
    })


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
