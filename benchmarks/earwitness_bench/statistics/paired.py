"""Paired comparisons of two methods on the same clips, and of many pairs at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from earwitness_bench.statistics.effects import cohen_d, rank_biserial
from earwitness_bench.statistics.groups import Floats, Groups, complete, group_means, some_groups
from earwitness_bench.statistics.intervals import Aggregate, Bootstrap, bootstrap

ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Pair:
    """Scores of two methods on the same clips.

    Attributes
    ----------
    first, second : ndarray (n,), float
        NaN where there is no score.
    groups : sequence of str or of int, length n
        Source recording of each clip.
    """

    first: Floats
    second: Floats
    groups: Groups


@dataclass(frozen=True)
class Comparison:
    """What is known of a paired difference, first less second.

    Attributes
    ----------
    difference : float
        Of the two aggregates, over the clips that both have a score on.
    interval : (float, float)
        95 %, see :class:`~earwitness_bench.statistics.intervals.Bootstrap`.
    p, p_holm : float
        That of the interval, and with Holm's correction for the comparisons made with this one.
    wilcoxon, wilcoxon_holm : float
        The same of the signed-rank test over group means.
    rank_biserial, cohen_d : float
        Effect sizes over group means.
    clips, groups : int
        On which both have a score.
    unpaired : int
        Clips on which only one of them has, or neither.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float
    wilcoxon: float
    wilcoxon_holm: float
    rank_biserial: float
    cohen_d: float
    clips: int
    groups: int
    unpaired: int

    @property
    def sign(self) -> int:
        """1: the first is larger, -1: the second, 0: neither, which is so unless the corrected interval excludes 0."""
        return int(np.sign(self.difference)) if self.p_holm < ALPHA else 0


def wilcoxon(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test.

    Zeros speak for both sides by half (Demšar, JMLR 7, 2006, section 3.1.3). Exact up to 50 differences without ties.

    Parameters
    ----------
    differences : ndarray (G,), float
        Independent: one for each group.

    Returns
    -------
    float
        NaN for fewer than two differences.
    """
    if len(differences) < 2:
        return math.nan
    return float(stats.wilcoxon(differences, zero_method="zsplit").pvalue)


def holm(p_values: Sequence[float]) -> Floats:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979).

    Parameters
    ----------
    p_values : sequence of float
        NaN for a test that could not be made: it counts as none.

    Returns
    -------
    ndarray, float, in [0, 1]
        Adjusted: compare each with the level that all of them together shall keep.
    """
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")  # NaN last
    m = int((~np.isnan(given)).sum())
    adjusted = np.full(len(given), math.nan)
    stepped = given[order[:m]] * np.arange(m, 0, -1)
    adjusted[order[:m]] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def gain(pair: Pair, aggregate: Aggregate | None = None) -> tuple[float, Bootstrap]:
    """The first's aggregate less the second's over the clips that both have a score on, and its bootstrap.

    Parameters
    ----------
    pair : Pair
    aggregate : callable (m,) -> float, optional
        How a column's rows become one number. Default: the mean.

    Returns
    -------
    float
        NaN without a clip in common.
    Bootstrap
        Both methods are drawn on the same recordings.
    """
    if aggregate is None:
        differences = pair.first - pair.second
        mean = float(np.nanmean(differences)) if not np.isnan(differences).all() else math.nan
        return mean, bootstrap(differences, pair.groups)

    both = complete(np.stack([pair.first, pair.second], 1))
    groups = some_groups(pair.groups, both)
    first, second = pair.first[both], pair.second[both]
    drawn = [bootstrap(own, groups, aggregate) for own in (first, second)]
    difference = float(aggregate(first) - aggregate(second)) if len(groups) else math.nan
    return difference, Bootstrap(drawn[0].drawn - drawn[1].drawn, drawn[0].n_groups)


def compare(pair: Pair, aggregate: Aggregate | None = None) -> Comparison:
    """Compare two methods.

    Parameters
    ----------
    pair : Pair
    aggregate : callable (m,) -> float, optional
        How a column's rows become one number. Default: the mean.

    Returns
    -------
    Comparison
        With ``p_holm`` and ``wilcoxon_holm`` of this comparison alone: uncorrected. NaN where fewer than two groups
        have both scores.
    """
    difference, found = gain(pair, aggregate)
    differences = pair.first - pair.second
    by_group = group_means(differences, pair.groups)
    p, signed_rank = found.p_value(), wilcoxon(by_group)
    unpaired = int(np.isnan(differences).sum())
    return Comparison(
        difference=difference,
        interval=found.interval(),
        p=p,
        p_holm=p,
        wilcoxon=signed_rank,
        wilcoxon_holm=signed_rank,
        rank_biserial=rank_biserial(by_group),
        cohen_d=cohen_d(by_group),
        clips=len(differences) - unpaired,
        groups=found.n_groups,
        unpaired=unpaired,
    )


def compare_many(pairs: Sequence[Pair], aggregates: Sequence[Aggregate | None]) -> list[Comparison]:
    """Compare pairs that are read together: both tests are corrected after Holm for their number."""
    alone = [compare(pair, aggregate) for pair, aggregate in zip(pairs, aggregates, strict=True)]
    p, signed_rank = holm([c.p for c in alone]), holm([c.wilcoxon for c in alone])
    return [
        replace(comparison, p_holm=float(own), wilcoxon_holm=float(ranked))
        for comparison, own, ranked in zip(alone, p, signed_rank, strict=True)
    ]
