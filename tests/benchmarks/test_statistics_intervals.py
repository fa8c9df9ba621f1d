"""Bootstraps over groups, against slow loops, SciPy and what an interval promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from earwitness_bench.statistics import Bootstrap, bootstrap, group_bootstrap, group_means
from earwitness_bench.statistics.intervals import _BLOCK, FUNCTION_DRAWS, MOST_GROUPS

NAN = math.nan


def slow_draws(values: np.ndarray, groups: list[str], statistic, draws: int, seed: int) -> np.ndarray:
    """Each resample written out: draw groups, put all their clips together, take the statistic."""
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if not math.isnan(value):
            members.setdefault(group, []).append(value)
    names = sorted(members)
    drawn = np.random.default_rng(seed).integers(0, len(names), size=(draws, len(names)))
    return np.array([statistic([v for place in draw for v in members[names[place]]]) for draw in drawn])


def uneven() -> tuple[np.ndarray, list[str]]:
    generator = np.random.default_rng(3)
    values = generator.normal(size=30)
    values[[4, 17]] = np.nan
    return values, [f"g{n}" for n in generator.integers(0, 9, size=30)]


@pytest.mark.parametrize("statistic", [None, np.median, lambda values: float(np.max(values))])
def test_resamples_are_those_of_a_slow_loop(statistic) -> None:
    values, groups = uneven()
    wanted = slow_draws(values, groups, statistic or np.mean, 400, 5)
    np.testing.assert_allclose(bootstrap(values, groups, statistic, draws=400, seed=5).drawn, wanted, atol=1e-12)


def test_memory_stays_bounded_and_many_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = uneven()
    whole = {how: bootstrap(values, groups, how, draws=300).drawn for how in (None, np.median)}
    monkeypatch.setattr("earwitness_bench.statistics.intervals._BLOCK", 100)
    for how, wanted in whole.items():
        np.testing.assert_allclose(bootstrap(values, groups, how, draws=300).drawn, wanted, atol=1e-12)
    assert _BLOCK > 100 * 300


def test_draws_without_groups_are_distributed_as_scipys() -> None:
    values = np.random.default_rng(4).exponential(size=40)
    own = bootstrap(values, [str(n) for n in range(40)]).drawn
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).bootstrap_distribution
    assert own.std() == pytest.approx(other.std(), rel=0.03)
    np.testing.assert_allclose(np.percentile(own, [2.5, 97.5]), np.percentile(other, [2.5, 97.5]), rtol=0.02)


def test_the_interval_is_cut_where_hesterberg_cuts_it() -> None:
    """The normal quantile of the percentile is sqrt(n / (n - 1)) times Student's."""
    values, groups = np.random.default_rng(0).normal(size=10), [str(n) for n in range(10)]
    found = bootstrap(values, groups)
    share = stats.norm.cdf(math.sqrt(10 / 9) * stats.t.ppf(0.025, 9))
    assert share == pytest.approx(0.00855, abs=5e-5)
    assert found.interval() == pytest.approx(np.percentile(found.drawn, [100 * share, 100 - 100 * share]))
    plain = np.percentile(found.drawn, [2.5, 97.5])
    assert found.interval()[0] < plain[0] < plain[1] < found.interval()[1]


def test_the_interval_is_near_students_for_normal_values() -> None:
    values = np.random.default_rng(6).normal(size=12)
    low, high = group_bootstrap(values, [str(n) for n in range(12)])
    wanted = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(wanted, abs=0.12 * (wanted[1] - wanted[0]))


def test_it_covers_the_true_mean_about_as_often_as_it_says_also_of_few_groups() -> None:
    generator = np.random.default_rng(0)
    for n_groups, at_least in ((8, 0.90), (40, 0.92)):
        groups = [str(n // 3) for n in range(3 * n_groups)]
        hits = 0
        for _ in range(400):
            effects = np.repeat(generator.normal(1.0, 1.0, size=n_groups), 3)
            low, high = group_bootstrap(effects + generator.normal(size=3 * n_groups), groups, draws=1000)
            hits += low <= 1.0 <= high
        assert at_least <= hits / 400 <= 0.98


def test_p_is_one_less_the_confidence_at_which_the_interval_ends_at_zero() -> None:
    generator = np.random.default_rng(2)
    for _ in range(20):
        values = generator.normal(0.5, 1.0, size=15)
        found = bootstrap(values, [str(n) for n in range(15)])
        p = found.p_value()
        if 0.01 < p < 0.9:
            ends = found.interval(1 - p)
            near = ends[0] if values.mean() > 0 else ends[1]
            assert near == pytest.approx(0.0, abs=0.02)
        assert (found.interval()[0] > 0 or found.interval()[1] < 0) == (p < 0.05)


def test_p_is_about_that_of_a_t_test_for_normal_values() -> None:
    values = np.random.default_rng(9).normal(0.4, 1.0, size=30)
    p = bootstrap(values, [str(n) for n in range(30)]).p_value()
    assert p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=0.02)


def test_p_is_never_zero_nor_above_one() -> None:
    groups = [str(n) for n in range(20)]
    assert 0 < bootstrap(np.full(20, 3.0), groups).p_value() < 0.01
    assert bootstrap(np.zeros(20), groups).p_value() == 1.0


def test_p_under_the_null_hypothesis_is_rarely_small() -> None:
    generator = np.random.default_rng(1)
    groups = [str(n) for n in range(10)]
    found = [bootstrap(generator.normal(size=10), groups).p_value() for _ in range(400)]
    assert np.mean(np.array(found) < 0.05) < 0.09


def test_series_with_gaps_in_the_same_places_are_resampled_alike() -> None:
    values, groups = uneven()
    shifted = bootstrap(values + 1, groups, np.median).drawn - bootstrap(values, groups, np.median).drawn
    np.testing.assert_allclose(shifted, 1.0)


def test_a_function_that_is_not_always_defined_widens_the_interval() -> None:
    values, groups = np.arange(12.0), [str(n) for n in range(12)]
    whole = bootstrap(values, groups, lambda rows: float(rows.mean()))
    holey = bootstrap(values, groups, lambda rows: NAN if 11.0 not in rows and 0.0 not in rows else float(rows.mean()))
    assert len(whole.drawn) == FUNCTION_DRAWS
    assert np.isnan(holey.drawn).mean() > 0.05
    assert all(math.isnan(end) for end in holey.interval())  # too often: nothing can be said
    rarely = Bootstrap(np.where(np.arange(FUNCTION_DRAWS) < 4, NAN, whole.drawn), 12)
    assert rarely.interval()[0] <= whole.interval()[0] < whole.interval()[1] <= rarely.interval()[1]
    assert rarely.p_value() > whole.p_value()


def test_clips_of_one_recording_count_as_one() -> None:
    values = np.random.default_rng(1).normal(size=12)
    low, high = group_bootstrap(values, [str(n) for n in range(12)])
    copies = np.repeat(values, 10)
    assert group_bootstrap(copies, [f"{n // 10:02}" for n in range(120)]) == pytest.approx((low, high), abs=0.05)
    apart = group_bootstrap(copies, [str(n) for n in range(120)])
    assert apart[1] - apart[0] < 0.5 * (high - low)


@pytest.mark.parametrize("how", [None, np.median, np.max])
def test_fewer_than_two_groups_have_no_interval_and_no_p(how) -> None:
    for values, groups in (([1.0, 2.0], ["a", "a"]), ([1.0, NAN], ["a", "b"]), ([], []), ([NAN] * 2, ["a", "b"])):
        found = bootstrap(np.array(values, dtype=float), groups, how)
        assert all(math.isnan(end) for end in (*found.interval(), found.p_value()))


def test_equal_values_have_an_interval_of_no_width() -> None:
    for value in (0.25, 0.1):
        assert group_bootstrap(np.full(6, value), list("aabbcd")) == pytest.approx((value, value), abs=0)


def test_group_means_leave_out_rows_with_gaps_whole() -> None:
    values = np.array([[1.0, 10.0], [3.0, 30.0], [NAN, 50.0], [7.0, 70.0], [8.0, NAN]])
    np.testing.assert_array_equal(group_means(values, ["b", "b", "b", "a", "c"]), [[7.0, 70.0], [2.0, 20.0]])
    np.testing.assert_array_equal(group_means(values[:, 0], ["b", "b", "b", "a", "c"]), [7.0, 2.0, 8.0])
    assert group_means(np.empty(0), []).shape == (0,)
    assert group_means(np.empty((0, 3)), []).shape == (0, 3)


# --- more recordings than are drawn


@pytest.mark.parametrize("statistic", [None, np.median])
def test_many_recordings_are_drawn_in_random_groups_and_the_interval_keeps_its_width(statistic) -> None:
    generator = np.random.default_rng(5)
    values = generator.exponential(size=4 * MOST_GROUPS)
    found = bootstrap(values, np.arange(len(values)), statistic, draws=4000)
    assert found.n_groups == len(values)
    expected = values.std() / math.sqrt(len(values)) if statistic is None else 1 / math.sqrt(len(values))
    assert found.drawn.std() == pytest.approx(expected, rel=0.06)  # 1 / (2 f(median) sqrt(n)) with f = 1/2


def test_clips_of_one_recording_stay_together_in_random_groups() -> None:
    """Four equal clips of each recording: the interval is that of the recordings, twice as wide as of the clips."""
    generator = np.random.default_rng(6)
    own = generator.normal(size=2 * MOST_GROUPS)
    drawn = bootstrap(np.repeat(own, 4), np.repeat(np.arange(len(own)), 4), draws=4000).drawn
    assert drawn.std() == pytest.approx(own.std() / math.sqrt(len(own)), rel=0.06)


def test_two_series_are_put_together_alike_so_that_a_constant_difference_has_no_width() -> None:
    generator = np.random.default_rng(7)
    values, groups = generator.normal(size=3 * MOST_GROUPS), np.arange(3 * MOST_GROUPS)
    one, other = (bootstrap(own, groups, np.median, draws=50).drawn for own in (values, values + 1))
    np.testing.assert_allclose(other - one, 1.0, atol=1e-12)


def test_numbers_of_recordings_in_the_order_of_their_names_give_what_the_names_give() -> None:
    values, groups = uneven()
    _, places = np.unique(groups, return_inverse=True)
    for statistic in (None, np.median, lambda own: float(np.max(own))):
        of_names, of_numbers = (bootstrap(values, given, statistic, draws=100).drawn for given in (groups, places))
        np.testing.assert_array_equal(of_names, of_numbers)
    np.testing.assert_array_equal(group_means(values, groups), group_means(values, places))


@pytest.mark.parametrize(("n", "n_groups"), [(400, 400), (3000, 40), (3001, 2)])
def test_the_window_about_the_middle_is_as_wide_as_the_medians_of_resamples_need(n: int, n_groups: int) -> None:
    """With few recordings that lie apart a resample's median is anywhere."""
    generator = np.random.default_rng(8)
    places = generator.integers(0, n_groups, size=n)
    values = np.round(generator.normal(size=n), 1) + 3 * (places % 5)
    groups = [f"g{place:04d}" for place in places]
    wanted = slow_draws(values, groups, np.median, 40, 2)
    np.testing.assert_array_equal(bootstrap(values, groups, np.median, draws=40, seed=2).drawn, wanted)
