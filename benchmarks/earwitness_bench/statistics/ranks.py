"""Ranks of many methods: the mean rank, Friedman's test and Nemenyi's critical difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.stats import rankdata

from earwitness_bench.statistics.groups import Floats


@dataclass(frozen=True, eq=False)
class Friedman:
    """Do k methods differ over N blocks?

    Attributes
    ----------
    chi_square, p : float
        Friedman's statistic with k - 1 degrees of freedom, corrected for ties.
    f, f_p : float
        Iman and Davenport's, with k - 1 and (k - 1)(N - 1): chi_square is too careful (Demšar 2006, section 3.2.2).
    mean_ranks : ndarray (k,), float
        1 is best.
    n_blocks : int
    """

    chi_square: float
    p: float
    f: float
    f_p: float
    mean_ranks: Floats
    n_blocks: int


def mean_ranks(scores: Floats, higher_is_better: Sequence[bool]) -> Floats:
    """Mean rank of each method over metrics, 1 is best; ties share their ranks, undefined scores are left out.

    Parameters
    ----------
    scores : ndarray (methods, metrics), float
        Aggregated scores; NaN where a method was not scored.
    higher_is_better : sequence of bool, length metrics

    Returns
    -------
    ndarray (methods,), float
        NaN for a method without any score.
    """
    signs = np.where(higher_is_better, -1.0, 1.0)
    ranks = rankdata(scores * signs, method="average", axis=0, nan_policy="omit")
    ranks = np.where(np.isnan(scores), np.nan, ranks)
    counted = (~np.isnan(ranks)).sum(1)
    return np.where(counted > 0, np.nansum(ranks, axis=1) / np.maximum(counted, 1), np.nan)


def ranks_within(scores: Floats, *, higher_is_better: bool) -> Floats:
    """Ranks along the last axis, 1 is best; ties share theirs.

    Parameters
    ----------
    scores : ndarray (..., k), float
        Finite.
    higher_is_better : bool

    Returns
    -------
    ndarray (..., k), float
    """
    ranks: Floats = rankdata(-scores if higher_is_better else scores, method="average", axis=-1)
    return ranks


def friedman(scores: Floats, *, higher_is_better: bool) -> Friedman:
    """Friedman's test, with Iman and Davenport's correction.

    chi_square = 12 N / (k (k + 1)) (sum_j R_j^2 - k (k + 1)^2 / 4), divided by 1 - sum(t^3 - t) / (N k (k^2 - 1)) for
    ties of t methods within a block; F = (N - 1) chi_square / (N (k - 1) - chi_square).

    Parameters
    ----------
    scores : ndarray (N, k), float
        A row for each block (a recording), a column for each method; finite.
    higher_is_better : bool

    Returns
    -------
    Friedman
        NaN for fewer than two blocks or two methods, or where all methods tie in every block.
    """
    n, k = scores.shape
    ranks = ranks_within(scores, higher_is_better=higher_is_better)
    mean = ranks.mean(0) if n else np.full(k, math.nan)
    # Each of t methods that tie has t equals, itself included: t^3 - t is the sum of t^2 - 1 over them.
    equals = sum((ranks == own[:, None]).astype(np.int64) for own in ranks.T)
    ties = int((np.asarray(equals) ** 2 - 1).sum())
    correction = 1 - ties / (n * k * (k**2 - 1)) if n and k > 1 else 0.0
    if n < 2 or k < 2 or correction <= 0:
        return Friedman(math.nan, math.nan, math.nan, math.nan, mean, n)
    chi_square = 12 * n / (k * (k + 1)) * float(((mean - (k + 1) / 2) ** 2).sum()) / correction
    left = n * (k - 1) - chi_square
    f = (n - 1) * chi_square / left if left > 1e-9 else math.inf  # every block has the same order
    return Friedman(
        chi_square,
        float(stats.chi2.sf(chi_square, k - 1)),
        f,
        float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))),
        mean,
        n,
    )


def critical_difference(n_methods: int, n_blocks: int, alpha: float = 0.05) -> float:
    """By how much mean ranks must differ, after Nemenyi: q sqrt(k (k + 1) / (6 N)).

    Demšar, JMLR 7, 2006, section 3.2.2: q is the Studentized range at infinitely many degrees of freedom over sqrt(2),
    his table 5(a).

    Parameters
    ----------
    n_methods, n_blocks : int
        k and N; NaN for k < 2 or N < 1.
    alpha : float
    """
    if n_methods < 2 or n_blocks < 1:
        return math.nan
    q = stats.studentized_range.ppf(1 - alpha, n_methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(n_methods * (n_methods + 1) / (6 * n_blocks)))


def cliques(ranks: Floats, difference: float) -> list[tuple[int, ...]]:
    """The largest sets of methods whose mean ranks all lie within the critical difference: the bars of the diagram.

    Parameters
    ----------
    ranks : ndarray (k,), float
    difference : float

    Returns
    -------
    list of tuple of int
        Places in ``ranks``, best first; only sets of two or more, none within another.
    """
    order = np.argsort(ranks, kind="stable")
    ascending = ranks[order]
    found: list[tuple[int, ...]] = []
    reached = 0
    for start, rank in enumerate(ascending):
        end = int(np.searchsorted(ascending, rank + difference, side="right"))
        if end - start > 1 and end > reached:
            found.append(tuple(int(place) for place in order[start:end]))
            reached = end
    return found
