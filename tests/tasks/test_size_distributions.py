"""Refined size distributions: no dependence on the start, and honest s.u. of narrow ones.

The data are cubes of CsCl, summed here over difference vectors, without the package.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from aiida_dse.documents import ModelDocument
from aiida_dse.documents.status import Status
from aiida_dse.engine.fit.covariance import inverse_normal
from aiida_dse.engine.model.pattern import PatternModel
from aiida_dse.tasks.build import build
from aiida_dse.tasks.run import run_refine

WAVELENGTH = 0.7
EDGE = 4.12  # Å
Q = np.linspace(0.4, 9.0, 700)
CIF = f"""data_CsCl
_cell_length_a {EDGE}
_cell_length_b {EDGE}
_cell_length_c {EDGE}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
Cs Cs1+ 0 0 0 1.0
Cl Cl1- 0.5 0.5 0.5 2.0
"""


def reference():
    """The reference of tests/physics, which imports nothing of the package."""
    if "_physics_direct" not in sys.modules:
        path = Path(__file__).parents[1] / "physics" / "direct.py"
        spec = importlib.util.spec_from_file_location("_physics_direct", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["_physics_direct"] = module
        spec.loader.exec_module(module)
    return sys.modules["_physics_direct"]


def number_of_cells(mean, sd, most=80):
    """Number weights of cubes of N = 1, 2, ... cells: the log-normal density at N a."""
    width = np.sqrt(np.log1p((sd / mean) ** 2))
    lengths = np.arange(1, most + 1) * EDGE / 10
    z = np.log(lengths / (mean / np.sqrt(1 + (sd / mean) ** 2))) / width
    weights = np.exp(-(z**2) / 2) / lengths
    return weights / weights.sum()


def intensity(number):
    """The mean pattern (n_q,) of cubes with number weights of N cells, by difference vectors."""
    most = int(np.flatnonzero(number > 1e-14)[-1]) + 1
    u = np.arange(1 - most, most)
    counts = sum(
        number[n - 1] * np.einsum("i,j,k->ijk", *[np.maximum(0, n - np.abs(u))] * 3)
        for n in range(1, most + 1))
    f_cs, f_cl = reference().form_factors(["Cs1+", "Cl1-"], Q, WAVELENGTH)
    damping = np.exp(-np.array([1.0, 2.0])[:, None] * (Q / (4 * np.pi)) ** 2)
    amplitudes = {"Cs": f_cs * damping[0], "Cl": f_cl * damping[1]}
    total = np.zeros(len(Q))
    x, y, z = np.meshgrid(u, u, u, indexing="ij")
    same = np.round(np.sqrt(x**2 + y**2 + z**2), 9)
    other = np.round(np.sqrt((x + 0.5) ** 2 + (y + 0.5) ** 2 + (z + 0.5) ** 2), 9)
    cells = counts[most - 1, most - 1, most - 1]
    for distance, first, second, factor in ((same, "Cs", "Cs", 1), (same, "Cl", "Cl", 1),
                                            (other, "Cs", "Cl", 2)):
        lengths, where = np.unique(distance, return_inverse=True)
        pairs = np.bincount(where.ravel(), weights=counts.ravel())
        product = np.real(amplitudes[first] * np.conj(amplitudes[second]))
        apart = lengths > 0
        for length, pair in zip(lengths[apart], pairs[apart], strict=True):
            total += factor * pair * product * np.sinc(Q * length * EDGE / np.pi)
    for f in (f_cs, f_cl):  # the self terms have no Debye-Waller factor
        total += cells * np.abs(f) ** 2
    return total


#: Mean and s.d. (nm) of the true distributions.
LAWS = ((1.8, 0.8), (3.0, 0.5), (2.6, 0.12), (2.5, 0.05))


@pytest.fixture(scope="module")
def patterns():
    return {law: intensity(number_of_cells(*law)) for law in LAWS}


def refined(folder, pattern, start, *, seed=3, counts=3e4, **particle):
    """The result of refining cell, B_iso and size distribution from `start` (mean, sd)."""
    (folder / "CsCl.cif").write_text(CIF)
    level = counts / pattern.max() * pattern + 50
    observed = np.random.default_rng(seed).poisson(level)
    np.savetxt(folder / "data.xye", np.c_[Q, observed, np.sqrt(np.maximum(observed, 1))])
    document = ModelDocument.model_validate({
        "schema": "aiida-dse/model/2",
        "pattern": {"file": "data.xye", "axis": "q_inverse_angstrom", "wavelength": WAVELENGTH},
        "phases": {"P": {"structure": "CsCl.cif", "particle": {
            "shape": "quasi_cube", "L": {"mean": start[0], "sd": start[1]}, **particle}}},
        "background": {"chebyshev": 1},
        "refinement": {"stages": [["P.a", "P.L"], ["P.*.B_iso", "P.sd_L"]]},
    })
    return run_refine(build(document, folder)).summary


STARTS = {
    (1.8, 0.8): [(1.2, 0.2), (2.5, 0.4), (4.0, 1.0), (1.0, 0.5), (6.0, 0.5)],
    (3.0, 0.5): [(1.5, 0.3), (2.0, 0.08), (3.5, 0.05), (8.0, 1.0), (3.0, 0.5)],
}


@pytest.mark.parametrize("law", STARTS, ids=["broad", "moderate"])
def test_the_same_minimum_from_five_starting_points(tmp_path, patterns, law):
    found = [refined(tmp_path, patterns[law], start) for start in STARTS[law]]
    assert all(one.status is Status.CONVERGED for one in found)
    for name, truth in (("P.L", law[0]), ("P.sd_L", law[1])):
        values = np.array([one.parameters[name].value for one in found])
        su = found[0].parameters[name].su
        assert np.ptp(values) < 0.05 * su
        assert abs(values[0] - truth) < 3.5 * su
    assert all(one.agreement.gof < 1.1 for one in found)
    assert not any("truncated" in text for one in found for text in one.warnings)


def test_a_specified_largest_size_truncates_and_is_reported(tmp_path, patterns):
    found = refined(tmp_path, patterns[1.8, 0.8], (1.5, 0.4), largest=3.0)
    assert any("the distribution is truncated" in text for text in found.warnings)
    fraction = found.derived["P"].sizes["truncated_fraction_volume_squared"].value
    assert fraction > 1e-3


@pytest.mark.parametrize("start", [(2.5, 0.3), (2.2, 0.1), (3.0, 1.0)])
@pytest.mark.parametrize("law", [(2.6, 0.12), (2.5, 0.05)], ids=["three sizes", "one size"])
def test_a_narrow_distribution_has_the_su_of_its_population(tmp_path, patterns, law, start):
    """Few sizes occur: the population is known better than the mean and s.d. of its distribution.

    Where hardly any particle has another size, only the mean is known, without an s.u.
    """
    number = number_of_cells(*law)
    lengths = np.arange(1, len(number) + 1) * EDGE / 10
    true_mean = number @ lengths
    found = refined(tmp_path, patterns[law], start)
    assert any("below half a step of the sizes" in text for text in found.warnings)
    mean, sd = (found.derived["P"].sizes[name] for name in ("mean_ab", "sd_ab"))
    assert mean.value == pytest.approx(true_mean, abs=0.01)
    if law == (2.6, 0.12):
        assert mean.su is not None and mean.su < 0.01
        assert abs(mean.value - true_mean) < 3.5 * mean.su
        assert sd.su is not None
        assert abs(sd.value - (number @ (lengths - true_mean) ** 2) ** 0.5) < 3.5 * sd.su
    # a series uses the population, and not the parameters of the distribution
    edge = found.derived["P"].quantities["L"]
    assert edge.value == pytest.approx(mean.value) and edge.su == pytest.approx(mean.su)
    for name in ("P.L", "P.sd_L"):
        su = found.parameters[name].su
        assert su is None or su < found.parameters[name].value
    lost = [name for name, row in found.parameters.items() if row.status == "undetermined"]
    assert (found.status is Status.UNDETERMINED) == bool(lost)


def test_an_su_above_the_largest_sensible_one_makes_a_parameter_undetermined():
    random = np.random.default_rng(4)
    jacobian = random.normal(size=(100, 3)) * [1.0, 1e-3, 1.0]
    found = inverse_normal(jacobian, limits=np.array([1.0, 1.0, 1.0]))
    assert found.undetermined.tolist() == [False, True, False]
    free = inverse_normal(jacobian, limits=np.full(3, np.inf))
    assert not free.undetermined.any()
    np.testing.assert_allclose(found.covariance[0, 0], free.covariance[0, 0], rtol=0.05)


def test_impossible_trial_values_shorten_the_step(tmp_path, patterns, monkeypatch):
    """A trial without a pattern ends in a shorter step, not in an error."""
    tried, evaluate = [], PatternModel.evaluate

    def limited(self, values, previous=None):
        tried.append(values["P.L"])
        if len(tried) == 2:
            raise ValueError("no such particle")
        return evaluate(self, values, previous)

    monkeypatch.setattr(PatternModel, "evaluate", limited)
    found = refined(tmp_path, patterns[3.0, 0.5], (1.5, 0.3))
    assert abs(tried[2] - tried[0]) < abs(tried[1] - tried[0])
    assert found.status is Status.CONVERGED
    assert found.parameters["P.L"].value == pytest.approx(3.0, abs=0.05)
