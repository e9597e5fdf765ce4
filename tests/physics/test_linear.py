"""Scales and background against an independent bounded least-squares solver."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import lsq_linear

from aiida_dse.engine.model.linear import LinearProblem


def _problem(seed, *, n_free=3, n_blanks=2, n_patterns=2, n_points=80, noise=0.3):
    random = np.random.default_rng(seed)
    free = random.normal(size=(n_points, n_free))
    blanks = random.uniform(0, 2, size=(n_points, n_blanks))
    patterns = random.uniform(0, 2, size=(n_points, n_patterns))
    sigma = random.uniform(0.2, 2.0, size=n_points)
    # about half of the true non-negative coefficients are negative, so that the bound acts
    truth = random.normal(size=n_free + n_blanks + n_patterns)
    columns = np.hstack([free, blanks, patterns])
    observed = columns @ truth + noise * sigma * random.normal(size=n_points)
    return observed, sigma, free, blanks, patterns


def _reference(observed, sigma, free, blanks, patterns):
    columns = np.hstack([free, blanks, patterns]) / sigma[:, None]
    lower = np.r_[np.full(free.shape[1], -np.inf), np.zeros(columns.shape[1] - free.shape[1])]
    return lsq_linear(columns, observed / sigma, (lower, np.inf), method="bvls", tol=1e-14)


SHAPES = [
    {}, {"n_free": 0}, {"n_blanks": 0}, {"n_free": 0, "n_blanks": 0}, {"n_patterns": 1},
    {"n_blanks": 0, "n_patterns": 1}, {"n_free": 6, "n_blanks": 3, "n_patterns": 3},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_solve_agrees_with_bounded_least_squares(shape):
    held = 0
    for seed in range(30):
        observed, sigma, free, blanks, patterns = _problem(seed, **shape)
        expected = _reference(observed, sigma, free, blanks, patterns)
        found = LinearProblem(observed, sigma, free, blanks).solve(patterns)
        assert_allclose(found.coefficients, expected.x, atol=1e-9)
        assert found.chi2 == pytest.approx(2 * expected.cost, rel=1e-10)
        columns = np.hstack([free, blanks, patterns])
        assert_allclose(
            found.residual, (observed - columns @ expected.x) / sigma, atol=1e-8
        )
        is_free = np.arange(len(expected.x)) < free.shape[1]
        assert np.array_equal(found.active, is_free | (expected.x > 0))
        # the basis spans the active weighted columns, and is orthonormal
        assert_allclose(found.basis.T @ found.basis, np.eye(found.active.sum()), atol=1e-10)
        weighted = columns[:, found.active] / sigma[:, None]
        assert_allclose(found.basis @ (found.basis.T @ weighted), weighted, atol=1e-9)
        held += int((~found.active).sum())
    assert held > 5, "no problem had a coefficient held at zero"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sweep_finds_what_solving_finds(shape):
    for seed in range(10):
        observed, sigma, free, blanks, patterns = _problem(seed, **shape)
        problem = LinearProblem(observed, sigma, free, blanks)
        random = np.random.default_rng(seed)
        many = np.array([patterns.T * random.uniform(0.5, 2, patterns.T.shape) for _ in range(6)])
        chi2, active = problem.sweep(many)
        for k, one in enumerate(many):
            solved = problem.solve(one.T)
            assert chi2[k] == pytest.approx(solved.chi2, rel=1e-9)
            assert active[k] == solved.active.sum()


def test_sweep_and_solve_on_a_perfect_fit():
    """Noise-free data: chi2 is a difference of large sums and must still be small."""
    _, sigma, free, blanks, patterns = _problem(3)
    observed = free @ [1.0, -2, 3] + blanks @ [0.5, 2.0] + patterns @ [4.0, 1.0]
    problem = LinearProblem(observed, sigma, free, blanks)
    solved = problem.solve(patterns)
    assert_allclose(solved.coefficients, [1, -2, 3, 0.5, 2, 4, 1], rtol=1e-9)
    total = np.sum((observed / sigma) ** 2)
    assert solved.chi2 < 1e-20 * total
    assert abs(problem.sweep(patterns.T[None])[0][0]) < 1e-12 * total


def test_columns_of_very_different_size():
    """A pattern of 1e9 electron units beside a blank of order one."""
    observed, sigma, free, blanks, patterns = _problem(5, noise=0.1)
    expected = _reference(observed, sigma, free, blanks, patterns)
    found = LinearProblem(observed, sigma, free, blanks).solve(patterns * 1e9)
    assert found.chi2 == pytest.approx(2 * expected.cost, rel=1e-9)
    assert_allclose(found.coefficients[5:] * 1e9, expected.x[5:], atol=1e-8)
    chi2, _ = LinearProblem(observed, sigma, free, blanks).sweep((patterns * 1e9).T[None])
    assert chi2[0] == pytest.approx(2 * expected.cost, rel=1e-9)


def test_a_part_of_known_size_is_taken_off_first():
    observed, sigma, free, blanks, patterns = _problem(8)
    known = 1.7 * patterns[:, 0]
    problem = LinearProblem(observed, sigma, free, blanks)
    expected = _reference(observed - known, sigma, free, blanks, patterns[:, 1:])
    found = problem.solve(patterns[:, 1:], known)
    assert_allclose(found.coefficients, expected.x, atol=1e-9)
    assert found.chi2 == pytest.approx(2 * expected.cost, rel=1e-10)


def test_dependent_background_terms_are_refused():
    observed, sigma, free, blanks, _ = _problem(9)
    with pytest.raises(ValueError, match="linearly dependent"):
        LinearProblem(observed, sigma, np.hstack([free, free[:, :1]]), blanks)


NEARNESS = [0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2]


@pytest.mark.parametrize("nearness", NEARNESS)
@pytest.mark.parametrize("n_patterns", [2, 3])
def test_a_sweep_of_nearly_equal_phases_finds_what_solving_finds(nearness, n_patterns):
    """Two phases that differ by `nearness` of their length, and exactly equal ones."""
    for seed in range(40):
        observed, sigma, free, blanks, patterns = _problem(seed, n_patterns=n_patterns)
        random = np.random.default_rng(1000 + seed)
        other = random.normal(size=len(patterns))
        change = nearness * np.linalg.norm(patterns[:, 0]) / np.linalg.norm(other)
        patterns[:, 1] = random.uniform(0.1, 10) * (patterns[:, 0] + change * other)
        problem = LinearProblem(observed, sigma, free, blanks)
        many = np.array([patterns.T, patterns.T[::-1], _problem(seed + 1)[4].T[:1].repeat(
            n_patterns, axis=0)])
        chi2, active = problem.sweep(many)
        total = np.sum((observed / sigma) ** 2)
        for k, one in enumerate(many):
            solved = problem.solve(one.T)
            assert chi2[k] == pytest.approx(solved.chi2, rel=1e-8, abs=1e-11 * total)
            assert active[k] == solved.active.sum()
        # the same minimum as an independent solver finds, which may share it out differently
        expected = _reference(observed, sigma, free, blanks, patterns)
        assert chi2[0] == pytest.approx(2 * expected.cost, rel=1e-6)


@pytest.mark.parametrize("nearness", NEARNESS)
def test_a_sweep_of_phases_that_look_like_a_blank_or_the_background(nearness):
    for seed in range(40):
        observed, sigma, free, blanks, patterns = _problem(seed)
        random = np.random.default_rng(2000 + seed)
        noise = nearness * random.normal(size=(len(patterns), 2))
        like_blank = blanks[:, 0] + noise[:, 0]
        like_background = free @ random.normal(size=free.shape[1]) + noise[:, 1]
        problem = LinearProblem(observed, sigma, free, blanks)
        for pair in ([like_blank, patterns[:, 0]], [like_background, patterns[:, 0]],
                     [like_blank, like_background], [np.zeros(len(patterns)), like_blank]):
            chi2, active = problem.sweep(np.array([pair]))
            solved = problem.solve(np.array(pair).T)
            assert chi2[0] == pytest.approx(solved.chi2, rel=1e-8)
            assert active[0] == solved.active.sum()
            assert np.isfinite(solved.coefficients).all()


def test_one_phase_that_looks_like_the_background_is_swept_alone():
    for seed in range(20):
        observed, sigma, free, _, patterns = _problem(seed)
        problem = LinearProblem(observed, sigma, free, np.zeros((len(observed), 0)))
        random = np.random.default_rng(seed)
        many = np.array([[free @ random.normal(size=3)], [patterns[:, 0]],
                         [free @ random.normal(size=3) + 1e-5 * patterns[:, 1]]])
        chi2, active = problem.sweep(many)
        for k, one in enumerate(many):
            solved = problem.solve(one.T)
            assert chi2[k] == pytest.approx(solved.chi2, rel=1e-8)
            assert active[k] == solved.active.sum()
