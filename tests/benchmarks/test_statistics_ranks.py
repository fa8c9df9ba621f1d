"""Ranks of many methods, against SciPy and the examples of Demšar, JMLR 7, 2006."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import rankdata

from earwitness_bench.statistics import cliques, critical_difference, friedman, mean_ranks

RANKS = np.array(
    [
        [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1],
        [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3],
        [3, 1, 4, 2],
    ]
)  # fmt: skip
"""C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets: table 6."""


def test_demsars_example_of_friedmans_test() -> None:
    """Mean ranks 3.143, 2.000, 2.893, 1.964; chi2 = 9.28, which he does not correct for ties; F = 3.69."""
    found = friedman(RANKS, higher_is_better=False)
    assert found.mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    ties = 1 - (3 * 6 + 60) / (14 * 4 * 15)  # three pairs and one block of four
    uncorrected = found.chi_square * ties
    assert uncorrected == pytest.approx(9.28, abs=5e-3)
    assert 13 * uncorrected / (14 * 3 - uncorrected) == pytest.approx(3.69, abs=5e-3)
    assert found.f_p < 0.05
    assert found.n_blocks == 14


def test_demsars_example_of_the_critical_difference() -> None:
    """1.25 at 5 %: nobody differs; 1.12 at 10 %: C4.5 is worse than C4.5+m and C4.5+m+cf."""
    ranks = friedman(RANKS, higher_is_better=False).mean_ranks
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert critical_difference(4, 14, alpha=0.10) == pytest.approx(1.12, abs=5e-3)
    assert cliques(ranks, critical_difference(4, 14)) == [(3, 1, 2, 0)]
    assert cliques(ranks, critical_difference(4, 14, alpha=0.10)) == [(3, 1, 2), (2, 0)]


@pytest.mark.parametrize(
    ("alpha", "published"),
    [
        (0.05, [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]),
        (0.10, [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]),
    ],
)
def test_the_critical_values_are_those_of_the_published_table(alpha: float, published: list[float]) -> None:
    """Table 5(a), for 2 to 10 methods."""
    blocks = 30
    found = [critical_difference(k, blocks, alpha) / math.sqrt(k * (k + 1) / (6 * blocks)) for k in range(2, 11)]
    assert found == pytest.approx(published, abs=1.1e-3)


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("ties", [False, True])
def test_friedmans_statistic_is_scipys(higher: bool, ties: bool) -> None:
    generator = np.random.default_rng(7)
    scores = generator.integers(0, 4, size=(12, 5)).astype(float) if ties else generator.normal(size=(12, 5))
    scores[:, 0] += 1.0
    wanted = stats.friedmanchisquare(*scores.T)
    found = friedman(scores, higher_is_better=higher)
    assert (found.chi_square, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))
    ranks = [rankdata(-row if higher else row) for row in scores]
    np.testing.assert_allclose(found.mean_ranks, np.mean(ranks, axis=0))


def test_iman_and_davenports_f_is_the_two_way_analysis_of_variance_of_ranks() -> None:
    scores = np.random.default_rng(1).normal(size=(9, 4)) + np.arange(4) * 0.5
    ranks = np.array([rankdata(row) for row in scores])
    between = 9 * ((ranks.mean(0) - 2.5) ** 2).sum() / 3
    rest = ((ranks - ranks.mean(0)) ** 2).sum() / (3 * 8)  # block means are all 2.5
    found = friedman(scores, higher_is_better=True)
    assert found.f == pytest.approx(between / rest)
    assert found.f_p == pytest.approx(stats.f.sf(between / rest, 3, 24))


def test_friedmans_test_at_its_ends() -> None:
    same = friedman(np.ones((5, 3)), higher_is_better=True)
    assert math.isnan(same.p)
    assert same.mean_ranks.tolist() == [2.0, 2.0, 2.0]
    ordered = friedman(np.tile([1.0, 2.0, 3.0], (5, 1)), higher_is_better=True)
    assert (ordered.chi_square, ordered.f, ordered.f_p) == (pytest.approx(10.0), math.inf, 0.0)
    for empty in (np.empty((0, 3)), np.ones((1, 3)), np.ones((4, 1))):
        assert math.isnan(friedman(empty, higher_is_better=True).p)
    assert math.isnan(critical_difference(1, 5))
    assert math.isnan(critical_difference(5, 0))


def test_every_two_methods_are_in_one_clique_unless_they_differ() -> None:
    ranks = np.random.default_rng(3).uniform(1, 9, size=9)
    found = cliques(ranks, 1.7)
    for a in range(9):
        for b in range(a):
            assert any({a, b} <= set(clique) for clique in found) == (abs(ranks[a] - ranks[b]) <= 1.7)
    assert not any(set(one) < set(other) for one in found for other in found)
    assert cliques(np.array([1.0, 2.0]), 0.5) == []


def test_the_best_method_has_rank_one_whatever_the_direction() -> None:
    scores = np.array([[0.9, 10.0], [0.5, 20.0], [0.1, 30.0]])
    assert mean_ranks(scores, [True, False]).tolist() == [1, 2, 3]
    assert mean_ranks(scores, [False, True]).tolist() == [3, 2, 1]


def test_ties_and_gaps_are_ranked_as_scipy_ranks_each_column_without_them() -> None:
    generator = np.random.default_rng(8)
    scores = generator.integers(0, 4, size=(7, 5)).astype(float)
    scores[generator.random(scores.shape) < 0.25] = np.nan
    scores[2] = np.nan
    higher = [True, False, True, True, False]
    ranks: list[list[float]] = [[] for _ in scores]
    for column, up in zip(scores.T, higher, strict=True):
        there = np.flatnonzero(~np.isnan(column))
        for method, rank in zip(there, rankdata(-column[there] if up else column[there]), strict=True):
            ranks[method].append(float(rank))
    wanted = [np.mean(own) if own else math.nan for own in ranks]
    np.testing.assert_allclose(mean_ranks(scores, higher), wanted)
    assert math.isnan(wanted[2])
