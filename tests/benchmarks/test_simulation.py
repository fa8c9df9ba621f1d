"""The simulated cluster, against cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from simulation import Cluster, Coordinator, falls_below, heavy_tailed, simulate


@pytest.mark.parametrize(("units", "workers"), [(1, 1), (12, 4), (13, 4), (3, 8), (1000, 7)])
def test_equal_units_take_as_many_rounds_as_they_need(units: int, workers: int) -> None:
    found = simulate(np.full(units, 2.0), Cluster(workers))
    rounds = -(-units // workers)
    assert found.makespan_s == pytest.approx(2.0 * rounds)
    assert found.efficiency == pytest.approx(units / (workers * rounds))
    assert (found.lost_s, found.deaths, found.coordinator) == (0, 0, 0)


def test_a_coordinator_that_is_the_bottleneck_makes_the_time() -> None:
    """It takes 0.1 s for each unit and the workers could take 50 a second: units begin every 0.1 s."""
    found = simulate(np.full(500, 2.0), Cluster(100), Coordinator(lambda workers: 0.1))
    assert found.makespan_s == pytest.approx(500 * 0.1 + 2.0)
    assert found.efficiency == pytest.approx(1000 / (100 * 52))
    assert found.coordinator == pytest.approx(50 / 52)


def test_a_coordinator_that_keeps_up_costs_each_unit_its_own_seconds() -> None:
    found = simulate(np.full(300, 2.0), Cluster(3), Coordinator(lambda workers: 0.1))
    assert found.makespan_s == pytest.approx(100 * 2.1 + 0.2)  # the third worker is served last, and ends last


def test_shards_share_the_coordinators_work() -> None:
    found = simulate(np.full(500, 2.0), Cluster(100, shards=5), Coordinator(lambda workers: 0.006 * workers))
    assert found.makespan_s == pytest.approx(100 * 0.12 + 2.0)  # 20 workers each: 0.12 s a unit, 100 units in a shard


def test_what_comes_before_and_after_is_counted_and_workers_are_let_go_before_the_latter() -> None:
    found = simulate(np.full(8, 1.0), Cluster(4, start_s=3.0), Coordinator(before_s=10.0, after_s=20.0))
    assert (found.makespan_s, found.wall_s) == (15.0, 35.0)
    assert found.efficiency == pytest.approx(8 / (4 * 15))


def test_a_slow_worker_gets_fewer_units() -> None:
    all_slow = simulate(np.full(90, 1.0), Cluster(3, straggling=1.0, slowness=2.0))
    assert all_slow.makespan_s == pytest.approx(60)
    some = simulate(np.full(3000, 1.0), Cluster(30, straggling=0.5, slowness=4.0), seed=3)
    assert 100 < some.makespan_s < 400


def test_the_longest_unit_at_the_end_keeps_everybody_waiting() -> None:
    durations = np.append(np.full(99, 1.0), 50.0)
    assert simulate(durations, Cluster(10)).makespan_s == pytest.approx(9 + 50)  # nine rounds, and the last one


def test_no_unit_is_lost_with_a_worker_and_lost_time_is_that_of_an_exponential_life() -> None:
    """Of units of d seconds and deaths at rate r, one takes (exp(r d) - 1) / r until it is done."""
    rate, d, units = 0.5, 1.0, 20_000
    found = simulate(np.full(units, d), Cluster(10), death_rate_hz=rate, seed=1)
    tries = np.exp(rate * d)
    assert found.deaths == pytest.approx(units * (tries - 1), rel=0.03)
    assert found.useful_s + found.lost_s == pytest.approx(units * (tries - 1) / rate, rel=0.02)
    assert found.makespan_s == pytest.approx((found.useful_s + found.lost_s) / 10, rel=0.01)


def test_equal_seeds_give_equal_runs() -> None:
    durations = heavy_tailed([0.1, 1.0, 5.0], 500, seed=2)
    cluster = Cluster(16, start_s=1.0, straggling=0.2, slowness=3.0)
    one, other, third = (simulate(durations, cluster, death_rate_hz=0.01, seed=seed) for seed in (4, 4, 5))
    assert one == other
    assert one != third


def test_drawn_durations_have_the_mean_of_the_measured_ones() -> None:
    drawn = heavy_tailed([0.5, 0.5, 8.0], 100_000)
    assert drawn.mean() == pytest.approx(3.0, rel=0.02)
    assert drawn.min() > 0


def test_where_efficiency_falls_below_a_bound_is_read_between_two_points() -> None:
    assert falls_below([1, 10, 100], [1.0, 0.9, 0.7]) == pytest.approx(10**1.5)
    assert falls_below([1, 10, 100], [1.0, 0.9, 0.8]) is None
    assert falls_below([4, 10], [0.7, 0.6]) == 4
    assert falls_below([1, 10, 100, 1000], [1.0, 0.7, 0.9, 0.5]) == pytest.approx(10 ** (2 + 0.25))
