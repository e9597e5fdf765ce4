"""Corrections, Compton scattering and profiles, against closed forms, quadrature and xraylib."""

from __future__ import annotations

import numpy as np
import pytest
import xraylib
from numpy.testing import assert_allclose
from scipy.special import iv, modstruve

from aiida_dse.engine.measurement.compton import ELECTRON_REST_ENERGY, compton_scattering
from aiida_dse.engine.measurement.corrections import (
    CapillaryAbsorption,
    Polarisation,
    SynchrotronPolarisation,
)
from aiida_dse.engine.measurement.instrument import Instrument, InstrumentMeasurement, interpolated
from aiida_dse.engine.measurement.profiles import (
    Profile,
    Widths,
    axial_divergence,
    capillary,
    gaussian,
    lorentzian,
    pseudo_voigt,
)
from aiida_dse.engine.units import photon_energy, q_from_two_theta

WAVELENGTH = 0.56


@pytest.mark.parametrize(("mu_r", "inverse"), [
    (0.1, 1.1843), (0.5, 2.2996), (1.0, 5.0910), (2.0, 21.437), (3.0, 70.12)])
def test_the_absorption_at_zero_angle(mu_r, inverse):
    """Published values of A*, and A = 2 d^2/dz^2 [I_0(z) - L_0(z)] at z = 2 mu R."""
    (found,) = CapillaryAbsorption(mu_r).factor(np.array([0.0]))
    assert 1 / found == pytest.approx(inverse, rel=1e-4)
    z = 2 * mu_r
    # I_0'' = (I_0 + I_2) / 2, and L_0' = 2 / pi + L_1, L_1' = L_0 - L_1 / z
    closed = (iv(0, z) + iv(2, z)) / 2 - (modstruve(0, z) - modstruve(1, z) / z)
    assert found == pytest.approx(2 * closed, rel=1e-5)


def test_the_absorption_at_other_angles_and_without_absorption():
    at_theta = 2 * np.array([30.0, 60.0, 90.0])
    assert_allclose(CapillaryAbsorption(1.0).factor(at_theta), [0.22007, 0.26819, 0.29509], rtol=2e-5)
    assert_allclose(CapillaryAbsorption(0.0).factor(np.array([5.0, 100.0])), 1.0, atol=1e-12)
    small = 1e-4
    assert_allclose(CapillaryAbsorption(small).factor(np.array([0.0])), 1 - 16 / (3 * np.pi) * small, rtol=1e-7)


def test_the_absorption_is_the_mean_over_paths():
    """Points drawn in the disc, with the paths by intersection with the circle."""
    rng = np.random.default_rng(3)
    points = rng.uniform(-1, 1, (400_000, 2))
    points = points[(points**2).sum(axis=1) < 1]

    def path(direction):
        along = points @ direction
        return -along + np.sqrt(along**2 + 1 - (points**2).sum(axis=1))

    for angle in (20.0, 75.0, 150.0):
        out = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        expected = np.exp(-1.3 * (path(np.array([-1.0, 0.0])) + path(out)))
        assert CapillaryAbsorption(1.3).factor(np.array([angle]))[0] == pytest.approx(
            expected.mean(), abs=4 * expected.std() / len(points) ** 0.5)


def test_compton_scattering_is_that_of_xraylib():
    """Its differential cross section contains the factor of Klein and Nishina for unpolarised radiation."""
    q = np.array([0.5, 2.0, 8.0, 20.0])
    energy = photon_energy(WAVELENGTH) / 1000
    theta = 2 * np.arcsin(q * WAVELENGTH / (4 * np.pi))
    ratio = 1 / (1 + 1000 * energy / ELECTRON_REST_ENERGY * (1 - np.cos(theta)))
    found = compton_scattering("Pb", q, WAVELENGTH) * 0.5 * (ratio + 1 / ratio - np.sin(theta) ** 2)
    radius_squared = 0.07940787  # barn
    expected = [xraylib.DCSb_Compt(82, energy, float(t)) for t in theta]
    assert_allclose(radius_squared * found, expected, rtol=2e-6)
    assert_allclose(compton_scattering("Pb", q, WAVELENGTH, integrating=True),
                    compton_scattering("Pb", q, WAVELENGTH) * ratio, rtol=1e-12)


def test_polarisation():
    angle = np.array([0.0, 60.0, 90.0])
    assert_allclose(Polarisation().factor(angle), [1.0, (1 + 0.25) / 2, 0.5])
    # a graphite monochromator for Cu K-alpha
    own = np.cos(np.radians(26.6)) ** 2
    assert_allclose(Polarisation(26.6).factor(angle)[2], 1 / (1 + own))
    assert_allclose(Polarisation(26.6, perfect=True).factor(angle)[2], 1 / (1 + own**0.5))
    assert_allclose(SynchrotronPolarisation(1.0).factor(angle), 1.0)
    assert_allclose(SynchrotronPolarisation(0.9).factor(angle)[2], 0.9)
    assert_allclose(SynchrotronPolarisation(0.9, "horizontal").factor(angle)[2], 0.1)


@pytest.mark.parametrize("transform, profile", [
    (lambda k: gaussian(k, 0.2), lambda x: np.exp(-4 * np.log(2) * x**2 / 0.04)),
    (lambda k: lorentzian(k, 0.2), lambda x: 1 / (1 + 4 * x**2 / 0.04)),
    (lambda k: pseudo_voigt(k, 0.2, 0.0), lambda x: np.exp(-4 * np.log(2) * x**2 / 0.04)),
    (lambda k: pseudo_voigt(k, 0.0, 0.2), lambda x: 1 / (1 + 4 * x**2 / 0.04)),
    (lambda k: capillary(k, 0.25, 200.0),
     lambda x: np.sqrt(np.maximum(1 - (x / np.degrees(0.25 / 200.0)) ** 2, 0.0))),
], ids=["gaussian", "lorentzian", "TCH gaussian", "TCH lorentzian", "capillary"])
def test_the_transform_of_a_profile(transform, profile):
    """Its inverse is the profile, with an area of 1."""
    half, n = 40.0, 2**17
    x = (np.arange(n) - n // 2) * (2 * half / n)
    k = 2 * np.pi * np.fft.rfftfreq(n, 2 * half / n)
    found = np.roll(np.fft.irfft(transform(k), n), n // 2) / (2 * half / n)
    expected = profile(x)
    expected = expected / (expected.sum() * 2 * half / n)
    # a profile with a sharp edge is not resolved there
    smooth = abs(np.gradient(expected)) < 0.05 * expected.max()
    assert_allclose(found[smooth], expected[smooth], atol=1e-2 * expected.max())
    assert found.sum() * 2 * half / n == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("angle", "moment"), [(5.0, -0.14697), (20.0, -0.03416), (120.0, 0.00717)])
def test_the_first_moment_of_axial_divergence(angle, moment):
    """That of ray tracing, for half-lengths of 0.03 and 0.02."""
    k = 1e-5
    found = -axial_divergence(np.array([k]), angle, 0.03, 0.02).imag[0] / k
    assert found == pytest.approx(moment, abs=3e-5)
    # rays drawn at random
    rng = np.random.default_rng(1)
    z = rng.uniform(-0.03, 0.03, 400_000) - rng.uniform(-0.02, 0.02, 400_000)
    shift = np.degrees(np.arccos(np.cos(np.radians(angle)) * np.sqrt(1 + z**2))) - angle
    assert found == pytest.approx(shift.mean(), abs=5 * shift.std() / 400_000**0.5)


def waves(q):
    """A pattern with oscillations like those of 9 nm particles."""
    return 2 + np.cos(90 * q) * np.exp(-q / 10) + 0.3 * np.sin(31 * q)


def measured(two_theta, instrument, longest=150.0, **more):
    found = InstrumentMeasurement(instrument, two_theta, longest, **more)
    values = {parameter.name: parameter.value for parameter in found.parameters}
    return found, values


LINE = ((WAVELENGTH, 1.0),)
ANGLES = np.arange(8.0, 60.0, 0.02)


def test_an_instrument_without_effects_is_the_sample_itself():
    found, values = measured(ANGLES, Instrument(LINE))
    assert_allclose(found.observe(waves(found.q), values), waves(q_from_two_theta(ANGLES, WAVELENGTH)), rtol=3e-6)


@pytest.mark.parametrize("profile", [
    Profile("voigt", Widths(W=0.025**2, X=0.02, Y=0.01), axial=(0.005, 0.005)),
    Profile("tch", Widths(U=0.02, V=-0.01, W=0.01, Y=0.05), axial=(0.03, 0.02)),
    Profile("voigt", q_width=0.02, capillary=(0.25, 200.0)),
], ids=["strip detector", "laboratory", "area detector"])
def test_the_convolution_against_quadrature(profile):
    """Every point is the integral over the profiles of all source angles."""
    some = np.array([12.0, 17.3, 31.0, 52.0])
    found, values = measured(ANGLES, Instrument(LINE, profile))
    pattern = found.observe(waves(found.q), values)
    step = 0.002
    source = np.arange(3.0, 70.0, step)
    intensity = waves(q_from_two_theta(source, WAVELENGTH))
    n = 2**15
    for at in some:
        # the profile varies slowly with the angle of the source
        grid = np.linspace(at - 8, at + 8, 65)
        tables = np.array([np.fft.irfft(profile.transform(n // 2 + 1, 2 * np.pi / (n * step), x, WAVELENGTH), n)
                           for x in grid])
        near = np.flatnonzero(abs(source - at) < 8)
        lag = np.round((at - source[near]) / step).astype(int) % n
        place = np.interp(source[near], grid, np.arange(len(grid)))
        low = np.clip(place.astype(int), 0, len(grid) - 2)
        share = place - low
        kernel = (1 - share) * tables[low, lag] + share * tables[low + 1, lag]
        # what lies beyond 8 degrees is taken from the mean; shifts that vary with the angle change the sum as well
        beyond = 1 - tables[len(grid) // 2, lag].sum()
        total = (kernel * intensity[near]).sum() + beyond * intensity[near].mean()
        assert np.interp(at, ANGLES, pattern) == pytest.approx(total, rel=1e-3)


def test_the_area_is_conserved():
    """Of a peak far from the ends."""
    found, values = measured(ANGLES, Instrument(LINE, Profile("voigt", Widths(W=0.4**2))))
    peak = np.exp(-((found.grid - 30.0) / 0.4) ** 2)
    seen = found.observe(peak, values)
    assert seen.sum() * 0.02 == pytest.approx(np.sqrt(np.pi) * 0.4, rel=1e-6)
    width = np.sqrt((seen * (ANGLES - 30) ** 2).sum() / seen.sum())
    assert width == pytest.approx(np.sqrt(0.08 + 0.4**2 / (8 * np.log(2))), rel=1e-5)
    skewed, values = measured(ANGLES, Instrument(LINE, Profile("voigt", Widths(W=0.04**2), axial=(0.02, 0.02))))
    assert skewed.observe(np.exp(-((skewed.grid - 30.0) / 0.4) ** 2), values).sum() * 0.02 == pytest.approx(
        np.sqrt(np.pi) * 0.4, rel=1e-6)


def test_a_doublet_is_the_weighted_sum_of_two_patterns():
    lines = ((1.540596, 1.0), (1.544414, 0.5))
    angles = np.arange(20.0, 100.0, 0.02)
    found, values = measured(angles, Instrument(lines))
    expected = sum(w * waves(q_from_two_theta(angles, line)) for line, w in lines) / 1.5
    assert_allclose(found.observe(waves(found.q), values), expected, rtol=3e-6)


def test_shifts_of_the_angles():
    """2theta_true = 2theta - zero - (s_across cos 2theta - s_along sin 2theta) / R; the wavelength changes q."""
    instrument = Instrument(LINE, zero=0.013, displacement=(0.2, -0.1), radius=180.0)
    found, values = measured(ANGLES, instrument)
    shift = np.degrees((-0.1 * np.cos(np.radians(ANGLES)) - 0.2 * np.sin(np.radians(ANGLES))) / 180)
    true = ANGLES - 0.013 - shift
    assert_allclose(found.observe(waves(found.q), values), waves(q_from_two_theta(true, WAVELENGTH)), rtol=3e-6)
    own, values = measured(ANGLES, Instrument(LINE))
    moved = values | {"instrument.wavelength": 1.001 * WAVELENGTH, "instrument.zero": 0.01}
    assert_allclose(own.observe(waves(own.q), moved),
                    waves(q_from_two_theta(ANGLES - 0.01, 1.001 * WAVELENGTH)), rtol=3e-6)
    with pytest.raises(ValueError, match="shifts of the angles are too large"):
        own.observe(waves(own.q), values | {"instrument.zero": 1.0})


def test_several_patterns_are_observed_like_each_of_them():
    found, values = measured(ANGLES, Instrument(LINE, Profile("voigt", Widths(W=0.03**2, X=0.01))),
                             before=[Polarisation()], after=[CapillaryAbsorption(0.5)])
    several = np.array([[waves(found.q), found.q], [1 / found.q, np.ones_like(found.q)]])
    assert_allclose(found.observe(several, values)[1, 0], found.observe(several[1, 0], values), rtol=1e-12)
    assert_allclose(found.observe(2 * several[0, 1], values), 2 * found.observe(several[0, 1], values), rtol=1e-12)


def test_six_points_interpolate_polynomials_exactly():
    x = np.arange(30.0)
    at = np.array([2.0, 2.7, 15.01, 27.3, 29.0])
    assert_allclose(interpolated((x / 10) ** 5 - x, at), (at / 10) ** 5 - at, rtol=1e-11)


def test_a_debye_pattern_contains_the_lorentz_factor():
    """The integral of a reflection over 2theta is N m F^2 lambda^3 / (16 pi V sin^2 theta cos theta)."""
    edge, diameter, wavelength = 4.0, 120.0, 0.5
    angles = np.arange(4.0, 26.0, 0.004)
    q = q_from_two_theta(angles, wavelength)
    # a sphere of a simple cubic lattice, with a random centre
    n = int(diameter / edge) + 1
    u = np.arange(-n, n + 1) ** 2
    number = np.bincount((u[:, None, None] + u[None, :, None] + u[None, None, :]).ravel())
    r = edge * np.sqrt(np.arange(len(number)))
    inside = (r < diameter) & (number > 0)
    cells = np.pi / 6 * (diameter / edge) ** 3
    x = r[inside] / diameter
    pairs = number[inside] * cells * (1 - 1.5 * x + 0.5 * x**3)
    intensity = sum(c * np.sinc(q * one / np.pi) for c, one in zip(pairs, r[inside], strict=True))
    centres = np.degrees(2 * np.arcsin(wavelength * np.sqrt([0.5, 1, 2, 3, 4, 5, 6, 8]) / (2 * edge)))
    for k, multiplicity in ((1, 6), (2, 12), (3, 8), (6, 24)):
        near = (angles > centres[k - 1 : k + 1].mean()) & (angles < centres[k : k + 2].mean())
        theta = np.radians(centres[k]) / 2
        expected = cells * multiplicity * wavelength**3 / (
            16 * np.pi * edge**3 * np.sin(theta) ** 2 * np.cos(theta))
        assert np.trapezoid(intensity[near], np.radians(angles[near])) == pytest.approx(expected, rel=0.015)
