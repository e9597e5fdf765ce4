"""S(Q), F(Q), G(r) and partials: identities, explicit sums of Gaussians, and PDFfit2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aiida_dse.engine.scattering.form_factors import scattering_factor
from aiida_dse.engine.scattering.real_space import (
    Averages,
    pair_distribution,
    partial_structure_factors,
    total_from_partials,
)

#: Coherent scattering lengths of neutrons in fm, as in PDFfit2.
LENGTHS = {"Cs": 5.42, "Pb": 9.405, "Br": 6.795}
U_ISO = (0.05, 0.02, 0.03, 0.04)  # Cs, Pb, Br_eq, Br_ax
U_ANISO = np.array([np.diag(u) for u in (
    (0.09, 0.07, 0.08), (0.02, 0.021, 0.019), (0.06, 0.06, 0.08), (0.09, 0.08, 0.026))])


def gaussians(r, distance, variance):
    return np.exp(-(r - distance) ** 2 / (2 * variance)) / np.sqrt(2 * np.pi * variance)


@pytest.fixture(scope="module")
def cluster(direct):
    """160 atoms of CsPbBr3: all distances, products of scattering lengths and variances of unordered pairs."""
    structure = direct.cspbbr3_pbnm()
    atoms = direct.block(structure, 2, 2, 2)
    i, j = np.triu_indices(len(atoms.xyz), 1)
    distance = np.linalg.norm(atoms.xyz[i] - atoms.xyz[j], axis=1)
    length = np.array([LENGTHS[ion.rstrip("0123456789+-")] for ion in structure.ions])[atoms.site]
    u = np.array(U_ISO)[atoms.site]
    return atoms, length, distance, length[i] * length[j], u[i] + u[j]


def test_the_transform_is_the_sum_of_gaussians(cluster):
    """With constant weights and isotropic displacements, G(r) is known for an infinite range of Q."""
    atoms, length, distance, product, variance = cluster
    n, mean = len(atoms.xyz), length.mean()
    q = np.arange(0.01, 60, 0.01)
    reduced = np.zeros(len(q))
    for d, p, v in zip(distance, product, variance, strict=True):
        reduced += 2 * p * np.exp(-v * q * q / 2) * np.sin(q * d) / d
    reduced /= n * mean**2
    r = np.arange(0.5, 60, 0.07)
    expected = sum(2 * p / d * (gaussians(r, d, v) - gaussians(-r, d, v))
                   for d, p, v in zip(distance, product, variance, strict=True)) / (n * mean**2)
    found = pair_distribution(np.append(0.0, q), np.append(0.0, reduced), r)
    assert_allclose(found, expected, atol=1e-12 * abs(expected).max() + 1e-13)
    assert abs(found[r > distance.max() + 2]).max() < 1e-10 * abs(found).max()
    # resolution and termination
    assert_allclose(pair_distribution(np.append(0.0, q), np.append(0.0, reduced), r, q_damp=0.05),
                    expected * np.exp(-((0.05 * r) ** 2) / 2), atol=1e-10)
    window = np.sinc(q / q[-1])
    assert_allclose(pair_distribution(q, reduced, r, window="lorch"), pair_distribution(q, reduced * window, r),
                    atol=1e-14)


def test_partials_add_up_and_intensities_return(direct):
    """Of X-rays, with complex scattering factors; the partial sums are those of all pairs."""
    structure = direct.pbs_rock_salt()
    atoms = direct.block(structure, 2, 2, 2)
    q, wavelength = np.linspace(0.5, 20, 300), 0.56
    intensity = direct.intensity(atoms, q, wavelength)
    factors = [scattering_factor(ion, q, wavelength) for ion in structure.ions]
    number = np.bincount(atoms.site).astype(float)
    damping = np.exp(-np.outer(structure.b, q**2) / (16 * np.pi**2))
    sums = []
    for s, t in ((0, 0), (0, 1), (1, 1)):
        first, second = atoms.xyz[atoms.site == s], atoms.xyz[atoms.site == t]
        d = np.linalg.norm(first[:, None] - second, axis=2)
        d = d[np.triu_indices(len(first), 1)] if s == t else d.ravel()
        sums.append(np.sinc(np.outer(q, d) / np.pi).sum(axis=1))
    averages = Averages.of(factors, number)
    partials = partial_structure_factors(np.array(sums), damping, number)
    found = averages.structure_factor(intensity / number.sum())
    assert_allclose(total_from_partials(partials, factors, number), found, rtol=1e-10)
    assert_allclose(averages.intensity(found) * number.sum(), intensity, rtol=1e-12)


def test_coordination_numbers(direct):
    """The number of Br around Pb, from the partial pair distribution function up to the first minimum."""
    structure = direct.cspbbr3_pbnm()
    atoms = direct.block(structure, 3, 3, 2)
    element = np.array([ion[:2] for ion in structure.ions])[atoms.site]
    pb, br = atoms.xyz[element == "Pb"], atoms.xyz[element == "Br"]
    distance = np.linalg.norm(pb[:, None] - br, axis=2).ravel()
    q = np.arange(0.0, 60, 0.02)
    reduced = np.zeros(len(q))
    for d in distance:
        reduced += np.exp(-0.05 * q * q / 2) * np.sin(q * d) / d  # Q (A - 1) times the number of Pb and the share of Br
    r = np.arange(0.01, 4.0, 0.01)
    number = np.trapezoid(pair_distribution(q, reduced / len(pb), r) * r, r)
    assert number == pytest.approx((distance < 4.0).sum() / len(pb), rel=1e-3)
    inside = np.abs(pb - pb.mean(axis=0)).max(axis=1) < 5
    assert ((np.linalg.norm(pb[inside][:, None] - br, axis=2) < 4.0).sum(axis=1) == 6).all()


@pytest.mark.parametrize(("column", "tensors", "delta"), [
    (1, np.multiply.outer(U_ISO, np.eye(3)), 0.0), (2, U_ANISO, 0.0), (3, np.multiply.outer(U_ISO, np.eye(3)), 4.0),
], ids=["isotropic", "anisotropic", "correlated motion"])
def test_the_interior_of_pdffit2(direct, column, tensors, delta):
    """PDFfit2 divides Gaussians by r, not by the distance of the pair; with this rule, the same values result.

    The variance along the pair is n.(U_1 + U_2).n (1 - delta_2 / r^2), as in the Debye equation of this package.
    """
    table = np.loadtxt(Path(__file__).parents[1] / "data" / "pdffit2_cspbbr3.csv", delimiter=",")
    r, expected = table[:, 0], table[:, column]
    structure = direct.cspbbr3_pbnm()
    cell = direct.block(structure, 1, 1, 1)
    size = np.array([8.207, 8.407, 11.756])
    length = np.array([LENGTHS[ion.rstrip("0123456789+-")] for ion in structure.ions])[cell.site]
    total = np.zeros(len(r))
    for u in np.ndindex(7, 7, 5):
        shift = (np.array(u) - (3, 3, 2)) * size
        for i in range(len(cell.xyz)):
            vectors = cell.xyz + shift - cell.xyz[i]
            d = np.linalg.norm(vectors, axis=1)
            for j in np.flatnonzero((d > 0.1) & (d < 17.0)):
                n = vectors[j] / d[j]
                variance = n @ (tensors[cell.site[i]] + tensors[cell.site[j]]) @ n * (1 - delta / d[j] ** 2)
                total += length[i] * length[j] * gaussians(r, d[j], variance)
    density = len(cell.xyz) / np.prod(size)
    found = total / (len(cell.xyz) * length.mean() ** 2) / r - 4 * np.pi * r * density
    # PDFfit2 leaves out pairs beyond the last r
    assert abs(found - expected)[r < 14].max() < 1e-3 * abs(expected).max()


def test_impossible_transforms_are_refused():
    q = np.arange(0.5, 20, 0.1)
    with pytest.raises(ValueError, match=r"distances up to 31.4 Å, but r reaches 40 Å"):
        pair_distribution(q, q, np.array([1.0, 40.0]))
    with pytest.raises(ValueError, match="increasing order"):
        pair_distribution(q[::-1], q, np.array([1.0]))
