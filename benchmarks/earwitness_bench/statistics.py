"""Paired statistics over groups of clips: small, and without a model in sight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def group_bootstrap(
    values: Floats, groups: Sequence[str], *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, resampling groups instead of clips.

    Clips cut from one recording are not independent; a resample takes a recording with all its clips or not at all.

    Parameters
    ----------
    values : ndarray (n,), float
        One value per clip, such as the difference of two methods. NaN is left out.
    groups : sequence of str, length n
        Source recording of each clip.
    confidence : float
        Coverage of the interval.
    draws : int
    seed : int

    Returns
    -------
    (float, float)
        Lower and upper end; NaN where fewer than two groups have a value.
    """
    defined = ~np.isnan(values)
    names = np.asarray(groups, dtype=object)[defined]
    _, index = np.unique(names.astype(str), return_inverse=True)
    n_groups = int(index.max()) + 1 if len(index) else 0
    if n_groups < 2:
        return float("nan"), float("nan")
    sums = np.bincount(index, weights=values[defined], minlength=n_groups)
    counts = np.bincount(index, minlength=n_groups)
    drawn = np.random.default_rng(seed).integers(0, n_groups, size=(draws, n_groups))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


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
    from scipy.stats import rankdata

    signs = np.where(higher_is_better, -1.0, 1.0)
    ranks = rankdata(scores * signs, method="average", axis=0, nan_policy="omit")
    ranks = np.where(np.isnan(scores), np.nan, ranks)
    counted = (~np.isnan(ranks)).sum(1)
    return np.where(counted > 0, np.nansum(ranks, axis=1) / np.maximum(counted, 1), np.nan)
