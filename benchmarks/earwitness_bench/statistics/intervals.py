"""Bootstrap over groups: intervals and their p-values.

Percentile intervals are too narrow where groups are few: of eight normal values, a nominal 95 % interval covered the
mean in 88 % of 1000 trials. They are therefore *expanded*, cut as much further out as Student's t lies further out than
the normal distribution (Hesterberg, The American Statistician 69:4, 2015): 94 %.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from earwitness_bench.statistics.groups import Floats, Groups, Places, complete, group_places, some_groups

Aggregate = Callable[[Floats], float]
"""From the values of some clips, (m,), to one number."""

DRAWS = 10_000
"""Resamples of a mean or a median; so many that Holm over two hundred comparisons can still find a difference."""

FUNCTION_DRAWS = 2_000
"""Resamples of any other function of the values, which is called for each of them."""

MOST_GROUPS = 2048
"""More recordings than these are first put together at random into so many groups of equal size, and those are drawn:
the method of random groups (Wolter, Introduction to Variance Estimation, 2007, chapter 2). A mean's interval keeps its
width in expectation, and varies by 1 / sqrt(2 * 2048) = 1.6 % of it; time and memory no longer grow with the data."""

_BLOCK = 2**22
"""Cells of a table of resamples that are held as floats at once: 32 MiB."""


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """What a statistic is on resampled groups.

    Attributes
    ----------
    drawn : ndarray (draws,), float
        Empty where there were fewer than two groups. Where it is not finite, as of a function that is not defined for
        every resample, it speaks for either side: it widens the interval.
    n_groups : int
        Of the data, however they were put together to be drawn.
    """

    drawn: Floats
    n_groups: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Lower and upper end of the expanded percentile interval; NaN where there were fewer than two groups."""
        if not len(self.drawn):
            return math.nan, math.nan
        tail = stats.t.ppf((1 - confidence) / 2, self.n_groups - 1)
        share = 100 * stats.norm.cdf(self._expansion * tail)
        unknown = ~np.isfinite(self.drawn)
        if not unknown.any():
            low, high = np.percentile(self.drawn, [share, 100 - share])
            return float(low), float(high)
        low, high = (np.where(unknown, end, self.drawn) for end in (-math.inf, math.inf))
        ends = np.percentile(low, share, method="lower"), np.percentile(high, 100 - share, method="higher")
        return (float(ends[0]), float(ends[1])) if np.isfinite(ends).all() else (math.nan, math.nan)

    def p_value(self) -> float:
        """Two-sided p of "the statistic is 0": one less the confidence at which the interval's end is 0.

        Draws are counted with one more on the far side (Davison and Hinkley, Bootstrap Methods, 1997, eq. 4.11): it is
        never 0. NaN where there were fewer than two groups.
        """
        if not len(self.drawn):
            return math.nan
        unknown = int((~np.isfinite(self.drawn)).sum())
        finite = self.drawn[np.isfinite(self.drawn)]
        beyond = unknown + min(int((finite <= 0).sum()), int((finite >= 0).sum()))
        share = (1 + beyond) / (1 + len(self.drawn))
        if share >= 0.5:
            return 1.0
        return float(2 * stats.t.cdf(stats.norm.ppf(share) / self._expansion, self.n_groups - 1))

    @property
    def _expansion(self) -> float:
        return math.sqrt(self.n_groups / (self.n_groups - 1))


def bootstrap(
    values: Floats,
    groups: Groups,
    aggregate: Aggregate | None = None,
    *,
    draws: int | None = None,
    seed: int = 0,
) -> Bootstrap:
    """Resample groups instead of clips: a resample takes a recording with all its clips or not at all.

    Two series over the same clips, with gaps in the same places, are resampled alike: their draws can be subtracted.

    Parameters
    ----------
    values : ndarray (n,), float
        One value per clip, such as the difference of two methods. NaN is left out.
    groups : sequence of str or of int, length n
        Source recording of each clip.
    aggregate : callable (m,) -> float, optional
        Default: the mean. The median has a short way too; anything else is called for each resample.
    draws : int, optional
        Default: :data:`DRAWS`, or :data:`FUNCTION_DRAWS` for a function that must be called.
    seed : int
    """
    kept = complete(values)
    places, n_groups = group_places(some_groups(groups, kept))
    if n_groups < 2:
        return Bootstrap(np.empty(0), n_groups)
    rows = values[kept]
    n_drawn = min(n_groups, MOST_GROUPS)
    if n_drawn < n_groups:
        places = (np.random.default_rng(seed).permutation(n_groups) % n_drawn)[places]
    if aggregate is None:
        drawn = _means(rows, places, n_drawn, draws or DRAWS, seed)
    elif aggregate is np.median:
        drawn = _medians(rows, places, n_drawn, draws or DRAWS, seed)
    else:
        drawn = _aggregated(rows, places, aggregate, draws or FUNCTION_DRAWS, seed)
    return Bootstrap(drawn, n_groups)


def group_bootstrap(
    values: Floats, groups: Sequence[str], *, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The interval of a mean; see :func:`bootstrap` and :meth:`Bootstrap.interval`."""
    return bootstrap(values, groups, draws=draws, seed=seed).interval(confidence)


def _means(values: Floats, places: Places, n_groups: int, draws: int, seed: int) -> Floats:
    members = np.bincount(places, minlength=n_groups)
    sums = np.bincount(places, weights=values, minlength=n_groups)
    # About the mean, so that rounding cannot put equal values beside themselves.
    centre = float(values.mean())
    both = np.stack([sums - centre * members, members], 1)
    drawn = np.concatenate([times @ both for times in _resamples(n_groups, draws, seed)])
    means: Floats = centre + drawn[:, 0] / drawn[:, 1]
    return means


def _medians(values: Floats, places: Places, n_groups: int, draws: int, seed: int) -> Floats:
    """Of the values in ascending order, the two in the middle of each resample.

    These lie in a window about the middle of all values, as wide as it must be: only there are values counted one by
    one, so the work grows with the root of their number.
    """
    order = np.argsort(values, kind="stable")
    ascending, own = values[order], places[order]
    members = np.bincount(own, minlength=n_groups)
    found = []
    for times in _resamples(n_groups, draws, seed):
        total = (times @ members)[:, None]
        halves = ((total - 1) // 2, total // 2)
        low, high, below = _window(times, own, halves, len(values))
        size = max(1, _BLOCK // (high - low))
        for start in range(0, len(times), size):
            part = slice(start, start + size)
            reached = below[part, None] + times[part, own[low:high]].cumsum(1)
            middle = [low + (reached <= half[part]).sum(1) for half in halves]
            found.append((ascending[middle[0]] + ascending[middle[1]]) / 2)
    return np.concatenate(found)


def _window(times: Floats, own: Places, halves: tuple[Floats, Floats], n: int) -> tuple[int, int, Floats]:
    """Where the middles of all these resamples lie: from, to, and how many values each resample has below."""

    def drawn_below(place: int) -> Floats:
        counts: Floats = times @ np.bincount(own[:place], minlength=times.shape[1])
        return counts

    half_width = 4 * math.isqrt(n) + 1
    while True:
        low, high = max(0, n // 2 - half_width), min(n, n // 2 + half_width)
        below = drawn_below(low)
        if bool((below <= halves[0][:, 0]).all() and (drawn_below(high) > halves[1][:, 0]).all()):
            return low, high, below
        half_width *= 2


def _aggregated(rows: Floats, places: Places, aggregate: Aggregate, draws: int, seed: int) -> Floats:
    order = np.argsort(places, kind="stable")
    n_groups = int(places.max()) + 1
    members = np.split(order, np.cumsum(np.bincount(places))[:-1])
    drawn = np.random.default_rng(seed).integers(0, n_groups, size=(draws, n_groups))
    return np.array([aggregate(rows[np.concatenate([members[g] for g in own])]) for own in drawn], dtype=np.float64)


def _resamples(n_groups: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn in each resample, (block, n_groups), block by block: memory stays bounded."""
    for block in _counts(n_groups, draws, seed, max(1, _BLOCK // n_groups)):
        yield block.astype(np.float64, copy=False)


@functools.lru_cache(maxsize=4)
def _counts(n_groups: int, draws: int, seed: int, size: int) -> tuple[NDArray[Any], ...]:
    """All blocks of ``size`` resamples: methods and columns of one arena share them, so that comparisons are paired.

    Several blocks are kept in two bytes a count, which is 40 MiB for :data:`MOST_GROUPS` groups.
    """
    random = np.random.default_rng(seed)
    dtype = np.float64 if draws <= size else np.uint16
    blocks = []
    for start in range(0, draws, size):
        count = min(size, draws - start)
        drawn = random.integers(0, n_groups, size=(count, n_groups)) + n_groups * np.arange(count)[:, None]
        table = np.bincount(drawn.ravel(), minlength=count * n_groups).reshape(count, n_groups)
        blocks.append(table.astype(dtype))
    return tuple(blocks)
