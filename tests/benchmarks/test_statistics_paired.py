"""Paired tests and effect sizes, against SciPy, published examples and definitions written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from earwitness_bench.statistics import Pair, cohen_d, compare, compare_many, gain, holm, rank_biserial, wilcoxon

C45 = np.array([763, 599, 954, 628, 882, 936, 661, 583, 775, 1000, 940, 619, 972, 957]) / 1000
C45_M = np.array([768, 591, 971, 661, 888, 931, 668, 583, 838, 1000, 962, 666, 981, 978]) / 1000
"""AUC on 14 data sets: Demšar, JMLR 7, 2006, table 2."""


def test_demsars_example_of_the_signed_rank_test() -> None:
    """R+ = 93 and R- = 12, two zeros split; z = -2.54, beyond -1.96 (section 3.1.3)."""
    differences = np.round(C45_M - C45, 6)
    ranks = stats.rankdata(np.abs(differences))
    zeros = ranks[differences == 0].sum() / 2
    above, below = (ranks[side].sum() + zeros for side in (differences > 0, differences < 0))
    assert (above, below) == (93.0, 12.0)
    assert rank_biserial(differences) == pytest.approx((93 - 12) / 105)
    z = (12 - 14 * 15 / 4) / math.sqrt(14 * 15 * 29 / 24)
    assert z == pytest.approx(-2.54, abs=0.005)
    assert wilcoxon(differences) == pytest.approx(2 * stats.norm.cdf(z), abs=1e-4)  # SciPy knows of ties as well
    assert wilcoxon(differences) < 0.05


def test_the_signed_rank_test_is_exact_for_few_differences() -> None:
    differences = np.array([1.5, -0.2, 3.0, 2.5, 0.7, 4.0, -0.1])
    observed = abs(rank_biserial(differences))
    signs = itertools.product([-1.0, 1.0], repeat=7)
    share = np.mean(
        [abs(rank_biserial(np.abs(differences) * sign)) >= observed - 1e-12 for sign in map(np.array, signs)]
    )
    assert wilcoxon(differences) == pytest.approx(share)


def test_the_signed_rank_test_of_nothing_is_none() -> None:
    assert math.isnan(wilcoxon(np.array([1.0])))
    assert wilcoxon(np.zeros(9)) == 1.0


def test_a_published_example_of_holms_correction() -> None:
    """p = 0.01, 0.04, 0.03, 0.005: R's p.adjust(p, "holm") and Holm's own table of alpha / (n - i + 1)."""
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rejected = holm([0.01, 0.04, 0.03, 0.005]) <= 0.05
    assert rejected.tolist() == [True, False, False, True]


def test_holm_steps_down_as_it_is_written() -> None:
    """Reject in ascending order while p <= alpha / (m - i); the adjusted p is the smallest alpha that rejects."""
    generator = np.random.default_rng(0)
    for _ in range(30):
        p_values = generator.random(7) ** 3
        adjusted = holm(p_values)
        for alpha in (0.01, 0.05, 0.2, 0.6):
            rejected = set()
            for step, place in enumerate(np.argsort(p_values)):
                if p_values[place] > alpha / (7 - step):
                    break
                rejected.add(int(place))
            assert set(np.flatnonzero(adjusted <= alpha).tolist()) == rejected


def test_a_test_that_could_not_be_made_counts_as_none() -> None:
    found = holm([0.02, math.nan, 0.01])
    assert found.tolist()[::2] == pytest.approx([0.02, 0.02])
    assert math.isnan(found[1])
    assert holm([]).tolist() == []
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_the_rank_biserial_correlation_is_the_share_of_favourable_walsh_averages_less_the_others() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1.0, size=11)
    walsh = [np.sign(differences[i] + differences[j]) for i in range(11) for j in range(i, 11)]
    assert rank_biserial(differences) == pytest.approx(np.mean(walsh))


def test_effect_sizes_at_their_ends() -> None:
    assert rank_biserial(np.array([1.0, 2.0, 3.0])) == 1.0
    assert rank_biserial(-np.array([1.0, 2.0, 3.0])) == -1.0
    assert rank_biserial(np.zeros(4)) == 0.0
    assert math.isnan(rank_biserial(np.empty(0)))
    assert cohen_d(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)
    assert math.isnan(cohen_d(np.ones(4)))
    assert math.isnan(cohen_d(np.ones(1)))


def test_cohens_d_is_the_t_statistic_over_the_root_of_n() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1.0, size=11)
    assert cohen_d(differences) == pytest.approx(stats.ttest_1samp(differences, 0).statistic / math.sqrt(11))


def pair(shift: float = 0.5, *, clips: int = 2, n_groups: int = 20, seed: int = 0) -> Pair:
    generator = np.random.default_rng(seed)
    level = np.repeat(generator.normal(size=n_groups), clips)
    first, second = (level + 0.3 * generator.normal(size=len(level)) + s for s in (shift, 0.0))
    return Pair(first, second, [f"g{n:02}" for n in np.repeat(np.arange(n_groups), clips)])


def test_tests_and_effect_sizes_see_one_value_for_each_recording() -> None:
    own = pair(clips=3)
    means = (own.first - own.second).reshape(20, 3).mean(1)
    found = compare(own)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(means).pvalue)
    assert found.rank_biserial == pytest.approx(rank_biserial(means))
    assert found.cohen_d == pytest.approx(cohen_d(means))
    assert (found.clips, found.groups, found.unpaired) == (60, 20, 0)


def test_copies_of_clips_are_no_evidence() -> None:
    own = pair(0.05, clips=1)
    copied = Pair(np.repeat(own.first, 9), np.repeat(own.second, 9), np.repeat(own.groups, 9).tolist())
    one, many = compare(own), compare(copied)
    assert many.wilcoxon == one.wilcoxon
    assert many.p == pytest.approx(one.p)
    assert many.cohen_d == pytest.approx(one.cohen_d)
    assert many.interval == pytest.approx(one.interval)


def test_clips_with_one_score_are_counted_and_left_out() -> None:
    own = pair()
    first, second = own.first.copy(), own.second.copy()
    first[:3], second[3:5] = math.nan, math.nan
    found = compare(Pair(first, second, own.groups))
    rest = compare(Pair(own.first[5:], own.second[5:], own.groups[5:]))
    assert (found.unpaired, found.clips) == (5, 35)
    assert (found.difference, found.p) == pytest.approx((rest.difference, rest.p))
    assert found.wilcoxon == rest.wilcoxon


def test_a_comparison_without_common_clips_says_nothing() -> None:
    found = compare(Pair(np.array([1.0, math.nan]), np.array([math.nan, 1.0]), ["a", "b"]))
    assert (found.clips, found.unpaired, found.sign) == (0, 2, 0)
    assert all(math.isnan(value) for value in (found.difference, *found.interval, found.p, found.wilcoxon))


def test_exchanging_the_two_turns_the_sign() -> None:
    own = pair()
    one, other = compare(own), compare(Pair(own.second, own.first, own.groups))
    assert one.sign == 1
    assert other.sign == -1
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    assert one.p == other.p
    assert one.rank_biserial == pytest.approx(-other.rank_biserial)


def test_a_difference_of_medians_is_that_and_its_bootstrap_is_paired() -> None:
    own = pair(0.5)
    difference, drawn = gain(own, np.median)
    assert difference == np.median(own.first) - np.median(own.second)
    again, slow = gain(own, lambda rows: float(np.median(rows)))
    assert again == difference
    np.testing.assert_array_equal(drawn.drawn[: len(slow.drawn)], slow.drawn)
    same = gain(Pair(own.first, own.first, own.groups), np.median)[1]
    assert set(same.drawn) == {0.0}


def test_many_comparisons_are_corrected_together() -> None:
    pairs = [pair(shift, seed=seed) for seed, shift in enumerate((0.0, 0.05, 0.12, 1.0))]
    found = compare_many(pairs, [None] * 4)
    assert [c.p_holm for c in found] == pytest.approx(holm([c.p for c in found]).tolist())
    assert [c.wilcoxon_holm for c in found] == pytest.approx(holm([c.wilcoxon for c in found]).tolist())
    assert [c.p for c in found] == [compare(own).p for own in pairs]
    assert [c.sign for c in found][-1] == 1
    assert all(bool(c.sign) == (c.p_holm < 0.05) for c in found)
