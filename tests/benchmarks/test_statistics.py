"""Intervals over groups and mean ranks, against slow loops and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import rankdata

from earwitness_bench.statistics import group_bootstrap, mean_ranks


def slow_bootstrap(values: np.ndarray, groups: list[str], draws: int, seed: int) -> tuple[float, float]:
    """Each resample written out: draw groups, put all their clips together, take the mean."""
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if not math.isnan(value):
            members.setdefault(group, []).append(value)
    names = sorted(members)
    drawn = np.random.default_rng(seed).integers(0, len(names), size=(draws, len(names)))
    means = sorted(float(np.mean([v for place in draw for v in members[names[place]]])) for draw in drawn)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def test_the_interval_is_that_of_a_slow_loop() -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(size=30)
    values[[4, 17]] = np.nan
    groups = [f"g{n}" for n in generator.integers(0, 9, size=30)]
    assert group_bootstrap(values, groups, draws=500, seed=5) == pytest.approx(slow_bootstrap(values, groups, 500, 5))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        effects = np.repeat(generator.normal(1.0, 1.0, size=40), 3)
        low, high = group_bootstrap(effects + generator.normal(size=120), [str(n // 3) for n in range(120)], draws=300)
        hits += low <= 1.0 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_clips_of_one_recording_count_as_one() -> None:
    values = np.random.default_rng(1).normal(size=12)
    low, high = group_bootstrap(values, [str(n) for n in range(12)])
    copies = np.repeat(values, 10)
    grouped = group_bootstrap(copies, [str(n // 10) for n in range(120)])
    assert grouped == pytest.approx((low, high), abs=0.2 * (high - low))
    apart = group_bootstrap(copies, [str(n) for n in range(120)])
    assert apart[1] - apart[0] < 0.5 * (high - low)


def test_fewer_than_two_groups_have_no_interval() -> None:
    for values, groups in (
        ([1.0, 2.0], ["a", "a"]),
        ([1.0, math.nan], ["a", "b"]),
        ([], []),
        ([math.nan] * 2, ["a", "b"]),
    ):
        assert all(math.isnan(end) for end in group_bootstrap(np.array(values, dtype=float), groups))


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert group_bootstrap(np.full(6, 0.25), list("abcdef")) == (0.25, 0.25)


def test_a_wider_confidence_is_a_wider_interval() -> None:
    values, groups = np.random.default_rng(2).normal(size=20), [str(n) for n in range(20)]
    narrow, wide = (group_bootstrap(values, groups, confidence=c) for c in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


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
