"""A cluster, simulated: units of work on workers that a coordinator gives them, with stragglers, failures and deaths.

A discrete-event simulation. Whoever is free asks the coordinator for the next unit; the coordinator does one thing at a
time, and takes some seconds for it; then the unit takes its own. What a worker does beside its units (starting, waiting
for the coordinator, units that it does not finish) is lost: *efficiency* is the useful work over all that workers have
been paid for, from the first second of the run to the last one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cluster:
    """What the work is done on.

    Attributes
    ----------
    workers : int
    shards : int
        Coordinators; each has its own part of the units and of the workers, as equal as they can be.
    start_s : float
        A worker takes before it can do its first unit, and again after it died.
    straggling : float
        Share of workers that are slow, in [0, 1].
    slowness : float
        So many times longer they take.
    """

    workers: int
    shards: int = 1
    start_s: float = 0.0
    straggling: float = 0.0
    slowness: float = 1.0


@dataclass(frozen=True)
class Coordinator:
    """What a run costs beside its units.

    Attributes
    ----------
    unit_s : callable (int) -> float
        From the number of its workers to the seconds that it takes for each unit.
    before_s, after_s : float
        Before the first unit is given out and after the last one; workers are paid for in the former only, since a run
        lets them go before it writes its tables.
    """

    unit_s: Callable[[int], float] = field(default=lambda workers: 0.0)
    before_s: float = 0.0
    after_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """What became of it.

    Attributes
    ----------
    makespan_s : float
        From the first second until the last unit is done.
    wall_s : float
        The same with what comes after.
    useful_s : float
        What the units take on a worker that is not slow, each counted once.
    lost_s : float
        In units that were not finished.
    deaths : int
    coordinator : float
        Share of the time that the busiest coordinator is at work, in [0, 1].
    efficiency : float
        Useful work over workers times makespan, in [0, 1].
    """

    makespan_s: float
    wall_s: float
    useful_s: float
    lost_s: float
    deaths: int
    coordinator: float
    efficiency: float


def simulate(
    durations: Floats,
    cluster: Cluster,
    coordinator: Coordinator | None = None,
    *,
    death_rate_hz: float = 0.0,
    seed: int = 0,
) -> Result:
    """Do all units.

    Parameters
    ----------
    durations : ndarray (n,), float
        Seconds that each unit takes, in the order in which they are given out.
    cluster : Cluster
    coordinator : Coordinator, optional
        Default: one that takes no time.
    death_rate_hz : float
        How often a worker dies: exponentially distributed in between. Its unit goes to the next one who asks, and a
        new worker takes its place.
    seed : int

    Returns
    -------
    Result
    """
    coordinator = coordinator or Coordinator()
    shards = min(cluster.shards, cluster.workers)
    parts = [
        _Shard(
            durations[number::shards],
            len(range(number, cluster.workers, shards)),
            cluster,
            coordinator,
            death_rate_hz,
            np.random.default_rng((seed, number)),
        )
        for number in range(shards)
    ]
    for part in parts:
        part.run()
    makespan = max(part.end for part in parts)
    useful = float(durations.sum())
    return Result(
        makespan,
        makespan + coordinator.after_s,
        useful,
        sum(part.lost for part in parts),
        sum(part.deaths for part in parts),
        max(part.coordinator_busy for part in parts) / makespan if makespan else 0.0,
        useful / (cluster.workers * makespan) if makespan else 1.0,
    )


class _Shard:
    """One coordinator with its workers."""

    def __init__(
        self,
        durations: Floats,
        workers: int,
        cluster: Cluster,
        coordinator: Coordinator,
        death_rate_hz: float,
        random: np.random.Generator,
    ) -> None:
        self._durations = durations
        self._unit_s = coordinator.unit_s(workers)
        self._start_s = cluster.start_s
        self._mean_life_s = 1 / death_rate_hz if death_rate_hz else np.inf
        self._random = random
        slow = random.random(workers) < cluster.straggling
        self._factor = np.where(slow, cluster.slowness, 1.0)
        self._asking = [(coordinator.before_s + cluster.start_s, worker) for worker in range(workers)]
        self._free_at = coordinator.before_s
        self.end = coordinator.before_s
        self.lost = self.coordinator_busy = 0.0
        self.deaths = 0

    def run(self) -> None:
        """Do all units: the worker who has asked first is served first.

        A unit whose worker died is known to be lost only then: until that moment others go on with what is left.
        """
        heapq.heapify(self._asking)
        again: list[tuple[float, int]] = []  # when a unit was lost, and which
        fresh = 0
        while fresh < len(self._durations) or again:
            asked, worker = heapq.heappop(self._asking)
            if again and (again[0][0] <= max(asked, self._free_at) or fresh == len(self._durations)):
                lost_at, unit = heapq.heappop(again)
            else:
                lost_at, unit, fresh = 0.0, fresh, fresh + 1
            begins = max(asked, self._free_at, lost_at) + self._unit_s
            self._free_at = begins
            self.coordinator_busy += self._unit_s
            takes = float(self._durations[unit] * self._factor[worker])
            life = self._random.exponential(self._mean_life_s) if np.isfinite(self._mean_life_s) else np.inf
            if life < takes:
                self.lost += life
                self.deaths += 1
                heapq.heappush(again, (begins + life, unit))
                heapq.heappush(self._asking, (begins + life + self._start_s, worker))
            else:
                self.end = max(self.end, begins + takes)
                heapq.heappush(self._asking, (begins + takes, worker))


def heavy_tailed(measured: Sequence[float], n: int, *, seed: int = 0) -> Floats:
    """Durations of n units: drawn from measured ones, with a log-normal spread of a quarter on each.

    Parameters
    ----------
    measured : sequence of float
        Seconds of units that were really done: of all explainers, so their mixture has the tail of the slow ones.
    n : int
    seed : int

    Returns
    -------
    ndarray (n,), float
    """
    random = np.random.default_rng(seed)
    drawn = random.choice(np.asarray(measured, dtype=np.float64), size=n)
    return drawn * random.lognormal(-(0.25**2) / 2, 0.25, size=n)


def falls_below(workers: Sequence[int], efficiencies: Sequence[float], bound: float = 0.8) -> float | None:
    """At how many workers efficiency falls below a bound for good; None if it does not.

    Parameters
    ----------
    workers : sequence of int
        Ascending.
    efficiencies : sequence of float
    bound : float

    Returns
    -------
    float or None
        Between two numbers of workers: along a straight line over their logarithms.
    """
    above = [place for place, efficiency in enumerate(efficiencies) if efficiency >= bound]
    last = above[-1] if above else -1
    if last == len(workers) - 1:
        return None
    if last < 0:
        return float(workers[0])
    (x0, x1), (y0, y1) = np.log(workers[last : last + 2]), efficiencies[last : last + 2]
    return float(np.exp(x0 + (x1 - x0) * (y0 - bound) / (y0 - y1)))
