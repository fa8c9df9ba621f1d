"""Statistics of ratings: opinion scores, intervals, agreement of raters, and who did not hear the reference.

Ratings are on MUSHRA's continuous scale, 0 (bad) to 100 (excellent).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from earwitness_bench.statistics import bootstrap
from earwitness_bench.statistics.groups import Floats

REFERENCE_LEVEL = 90.0
REFERENCE_MISSES = 0.15
"""Who rates the hidden reference below 90 in more than 15 % of the trials is screened out (ITU-R BS.1534-3)."""


@dataclass(frozen=True)
class Opinion:
    """What raters think of one kind of sound.

    Attributes
    ----------
    name : str
    score : float
        Mean opinion score: mean over clips of the mean over raters.
    over_raters, over_clips : (float, float)
        95 % bootstrap intervals, resampling raters, and source recordings; NaN below two of them.
    ratings : int
    """

    name: str
    score: float
    over_raters: tuple[float, float]
    over_clips: tuple[float, float]
    ratings: int


def misses_the_reference(ratings: Floats) -> bool:
    """Whether a rater's ratings (n,) of the hidden reference say that the rater did not hear it."""
    given = ratings[~np.isnan(ratings)]
    return bool(len(given)) and float((given < REFERENCE_LEVEL).mean()) > REFERENCE_MISSES


def opinion(name: str, ratings: Floats, groups: Sequence[str]) -> Opinion:
    """Summarise ratings.

    Parameters
    ----------
    name : str
    ratings : ndarray (raters, clips), float
        NaN where there is none.
    groups : sequence of str, length clips
        Source recording of each.
    """
    heard = np.asarray(~np.isnan(ratings).all(0))
    raters = ~np.isnan(ratings).all(1)
    if not heard.any():
        nothing = (math.nan, math.nan)
        return Opinion(name, math.nan, nothing, nothing, 0)
    by_clip = np.nanmean(ratings[:, heard], 0)
    by_rater = np.nanmean(ratings[raters], 1)
    own = [group for group, there in zip(groups, heard.tolist(), strict=True) if there]
    return Opinion(
        name,
        float(by_clip.mean()),
        bootstrap(by_rater, [str(n) for n in range(len(by_rater))]).interval(),
        bootstrap(by_clip, own).interval(),
        int((~np.isnan(ratings)).sum()),
    )


def krippendorff_alpha(ratings: Floats) -> float:
    """Krippendorff's alpha for interval data: 1 is agreement, 0 is chance.

    Krippendorff, Content Analysis, 3rd edition, section 12.3: one less the ratio of observed to expected disagreement,
    squared differences within units to those among all values that can be paired.

    Parameters
    ----------
    ratings : ndarray (raters, units), float
        NaN where there is none; units with one rating or none do not count.

    Returns
    -------
    float, at most 1
        NaN where fewer than two units count, or all values are equal.
    """
    there = ~np.isnan(ratings)
    count = there.sum(0)
    paired = count >= 2
    values, present, count = ratings[:, paired], there[:, paired], count[paired]
    total = int(count.sum())
    if values.shape[1] < 2:
        return math.nan
    filled = np.where(present, values - np.nanmean(values), 0.0)
    # The sum of squared differences over all ordered pairs of m values is 2 (m times their squares' sum - their sum²).
    within = 2 * (count * (filled**2).sum(0) - filled.sum(0) ** 2)
    observed = float((within / (count - 1)).sum()) / total
    expected = 2 * (total * float((filled**2).sum()) - float(filled.sum()) ** 2) / (total * (total - 1))
    return 1 - observed / expected if expected > 0 else math.nan
