"""Laws against published fits, limits, and points that obey them exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import constants
from scipy.integrate import quad

from aiida_dse.analysis.excitons import ExcitonLaw, cuboid_size, fit_decay_length
from aiida_dse.analysis.laws import (
    cross_covariance,
    debye_b,
    einstein_b,
    fit_displacements,
    outliers,
    relative_slope,
    weighted_line,
)

T = np.array([6.0, 45.0, 100.0, 150.0, 200.0, 250.0, 300.0])
#: Pearson's points with York's weights.
X = np.array([0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4])
Y = np.array([5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5])
SU_X = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1.0]) ** -0.5
SU_Y = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500.0]) ** -0.5


def test_the_line_of_pearson_and_york():
    """York et al. (2004), Table I: a = 5.47991022, b = -0.480533407, S/(n-2) = 1.4833."""
    fit = weighted_line(X, Y, su_y=SU_Y, su_x=SU_X)
    assert fit.values == pytest.approx([5.47991022, -0.480533407], rel=1e-7)
    assert fit.chi2_red == pytest.approx(1.4833, abs=1e-4)
    # the published s.u. are at the adjusted points
    assert fit.su("intercept") == pytest.approx(0.2950, rel=0.01)
    assert fit.su("slope") == pytest.approx(0.0580, rel=0.01)
    assert fit.scale == pytest.approx(np.sqrt(1.4833), abs=1e-4)


def test_a_line_without_errors_in_x_is_the_weighted_one():
    fit = weighted_line(X, Y, su_y=SU_Y, origin=3.0)
    slope, intercept = np.polyfit(X - 3, Y, 1, w=1 / SU_Y)
    _, covariance = np.polyfit(X - 3, Y, 1, w=1 / SU_Y, cov="unscaled")
    assert fit.values == pytest.approx([intercept, slope])
    assert fit.covariance[::-1, ::-1] == pytest.approx(covariance)
    # the sensitivity says what each point does
    moved = Y.copy()
    moved[4] += 0.01
    again = weighted_line(X, moved, su_y=SU_Y, origin=3.0)
    assert (again.values - fit.values) / 0.01 == pytest.approx(fit.sensitivity[:, 4])
    assert fit.sensitivity * SU_Y**2 @ fit.sensitivity.T == pytest.approx(fit.covariance)


def test_errors_shared_by_both_axes_cancel_along_the_line():
    """y = 2x and errors along the line: they move points on it and leave nothing across it."""
    x, along = np.arange(1.0, 7.0), np.full(6, 0.3)
    own = np.full(6, 0.01)
    y = 2 * x + np.array([1, -1, 1, -1, 1, -1]) * 0.01
    fit = weighted_line(x, y, su_y=np.hypot(2 * along, own), su_x=along,
                        covariance_xy=2 * along**2)
    alone = weighted_line(x, y, su_y=own)
    assert fit.values == pytest.approx(alone.values, abs=1e-3)
    assert fit.chi2 == pytest.approx(alone.chi2, rel=1e-2)


def test_r_squared_is_one_on_the_line_and_zero_for_what_does_not_depend():
    assert weighted_line(X, 3 - X, su_y=SU_Y).r_squared == pytest.approx(1)
    flat = weighted_line([0, 1, 2, 3], [1, 2, 2, 1], su_y=np.ones(4))
    assert flat.r_squared == pytest.approx(0, abs=1e-12)


def test_the_line_through_the_origin_has_its_closed_form():
    fit = weighted_line(X, Y, su_y=SU_Y, through_origin=True)
    w = SU_Y**-2
    assert fit.value("slope") == pytest.approx(np.sum(w * X * Y) / np.sum(w * X**2))
    assert fit.su("slope") == pytest.approx(np.sum(w * X**2) ** -0.5)
    assert fit.degrees_of_freedom == len(X) - 1


def test_expansion_is_that_of_a_crystal_that_expands():
    v = 802.0 * (1 + 1.1e-4 * (T - 300))
    fit = weighted_line(T, v, su_y=np.full(7, 0.03), origin=300)
    alpha, su = relative_slope(fit)
    assert alpha == pytest.approx(1.1e-4)
    drawn = [relative_slope(weighted_line(T, v + noise, su_y=np.full(7, 0.03), origin=300))[0]
             for noise in np.random.default_rng(2).normal(0, 0.03, (400, 7))]
    assert np.std(drawn) == pytest.approx(su, rel=0.15)


def test_points_that_define_no_law_are_refused():
    with pytest.raises(ValueError, match="two or more different x"):
        weighted_line([1, 1], [2, 3], su_y=[1, 1])
    with pytest.raises(ValueError, match="above 0"):
        weighted_line([1, 2], [2, 3], su_y=[1, 0])
    with pytest.raises(ValueError, match="two temperatures"):
        fit_displacements("debye", [300], [2], su=[0.1], mass=80)


def test_a_stray_point_is_named():
    y = 1 + 2 * np.arange(30.0)
    y[4] += 6
    fit = weighted_line(np.arange(30.0), y, su_y=np.ones(30))
    assert list(outliers(fit, [f"p{k}" for k in range(30)])) == ["p4"]


def test_einstein_is_an_oscillators_mean_square():
    """8 pi^2 <u^2> summed over the levels of the harmonic oscillator, independently of coth."""
    theta, mass, t = 64.0, 207.2, 90.0
    n = np.arange(2000)
    share = np.exp(-n * theta / t)
    energy = constants.k * theta * np.sum((n + 0.5) * share) / share.sum()
    omega = constants.k * theta / constants.hbar
    u2 = energy / (mass * constants.atomic_mass * omega**2) * 1e20
    assert float(einstein_b(t, theta, mass)) == pytest.approx(8 * np.pi**2 * u2)


def test_debye_is_an_integral_over_einstein_oscillators():
    """The mean over g(omega) = 3 omega^2 / omega_D^3 of Einstein's B."""
    theta, mass = 150.0, 80.0
    for t in (0.0, 6.0, 80.0, 400.0):
        whole, _ = quad(lambda e, t=t: 3 * e**2 / theta**3 * float(einstein_b(t, e, mass)),
                        0, theta)
        assert float(debye_b(t, theta, mass)) == pytest.approx(whole, rel=1e-7)


def test_hot_laws_are_classical_and_agree_at_sqrt_3():
    t, theta, mass = 1e5, 150.0, 80.0
    m = mass * constants.atomic_mass
    classical = 8 * np.pi**2 * constants.hbar**2 * t / (m * constants.k * theta**2) * 1e20
    assert float(einstein_b(t, theta, mass)) == pytest.approx(classical, rel=1e-6)
    assert float(debye_b(t, theta * np.sqrt(3), mass)) == pytest.approx(classical, rel=1e-6)


@pytest.mark.parametrize("law", ["einstein", "debye"])
def test_a_law_is_found_again(law):
    thermal = {"einstein": einstein_b, "debye": debye_b}[law]
    b = 0.4 + thermal(T, 88.0, 79.904)
    fit = fit_displacements(law, T, b, su=0.02 * b, mass=79.904)
    assert fit.values == pytest.approx([88.0, 0.4], rel=1e-6) and fit.at_bound == ()
    noise = np.random.default_rng(3).normal(size=(300, 7)) * 0.02 * b
    drawn = np.array([fit_displacements(law, T, b + e, su=0.02 * b, mass=79.904).values
                      for e in noise])
    assert drawn.std(axis=0) == pytest.approx([fit.su("theta"), fit.su("B_static")], rel=0.15)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(fit.correlation("theta", "B_static"),
                                                       abs=0.1)


def test_no_static_part_below_zero():
    """Points that ask for -0.1: held at 0, said so, and theta is that of the law without it."""
    b = einstein_b(T, 60.0, 80.0) - 0.1
    fit = fit_displacements("einstein", T, b, su=0.03 * b, mass=80.0)
    assert fit.value("B_static") == 0 and fit.at_bound == ("B_static",)
    assert fit.su("B_static") is None and fit.correlation("theta", "B_static") is None
    assert fit.degrees_of_freedom == 6

    def chi2(theta):
        return np.sum(((b - einstein_b(T, theta, 80.0)) / (0.03 * b)) ** 2)

    best = fit.value("theta")
    assert chi2(best) == pytest.approx(fit.chi2)
    assert chi2(best) < min(chi2(best * 1.001), chi2(best / 1.001))


def test_the_covariance_of_two_laws_is_that_of_draws():
    """B of two sites whose errors are correlated at each temperature, r = -0.6."""
    truth = [0.4 + einstein_b(T, 88.0, 80.0), 1.6 + einstein_b(T, 88.0, 80.0)]
    su, r, rng = [0.03, 0.07], -0.6, np.random.default_rng(4)
    draws = rng.multivariate_normal([0, 0], [[su[0]**2, r * su[0] * su[1]],
                                             [r * su[0] * su[1], su[1]**2]], size=(400, 7))
    found = np.array([[fit_displacements("einstein", T, b + e[:, k], su=np.full(7, su[k]),
                                         mass=80.0).value("B_static")
                       for k, b in enumerate(truth)] for e in draws])
    fits = [fit_displacements("einstein", T, b, su=np.full(7, s), mass=80.0)
            for b, s in zip(truth, su, strict=True)]
    shared = np.diag(np.full(7, r * su[0] * su[1]))
    predicted = cross_covariance(*fits, shared)[1, 1]
    assert predicted == pytest.approx(np.cov(found.T)[0, 1], rel=0.2)


def test_the_exciton_energy_has_its_two_limits():
    """E0 for large d; for d << d0, e^-x/(1-e^-x)^2 = 1/x^2 and E1 falls like 1/d."""
    law = ExcitonLaw(2.38, 7.3, 6.1)
    assert float(law.energy(1e4)) == pytest.approx(2.38, abs=1e-12)
    rydberg_radius = constants.e / (8 * np.pi * constants.epsilon_0) * 1e9  # eV nm
    d = 1e-4
    leading = np.sqrt(2 * 2.38 * 0.7 * np.pi**2 * rydberg_radius * 6.1 / 7.3) / d
    assert float(law.energy(d)) == pytest.approx(leading, rel=1e-3)
    sizes = np.linspace(2, 30, 50)
    assert (np.diff(law.energy(sizes)) < 0).all() and (law.slope(sizes) < 0).all()


def test_the_decay_length_of_the_paper_is_found_again():
    """PHYSICS.md sec. 5: E0 = 2.38 eV, eps = 7.3, d0 = 5.05 nm fitted."""
    d = cuboid_size([5.0, 6.1, 7.2, 9.1, 11.2])
    assert d[0] == pytest.approx(5.7735, abs=1e-4)
    law = ExcitonLaw(2.38, 7.3, 5.05)
    # by hand at d = d0: x = 1, e^-1 / (1 - e^-1)^2 = 0.920674
    inner = 8 * 2.38 * 0.7 * np.pi**2 * 0.719982 / (7.3 * 5.05) * 0.920674
    assert float(law.energy(5.05)) == pytest.approx((2.38 + np.sqrt(2.38**2 + inner)) / 2,
                                                    rel=1e-6)
    fit = fit_decay_length(d, law.energy(d), su_energy=np.full(5, 0.005), gap=2.38,
                           permittivity=7.3)
    assert fit.value("d0") == pytest.approx(5.05, rel=1e-6)
    wide = fit_decay_length(d, law.energy(d), su_energy=np.full(5, 0.005),
                            su_d=np.full(5, 0.3), gap=2.38, permittivity=7.3)
    assert wide.su("d0") > 1.5 * fit.su("d0")
