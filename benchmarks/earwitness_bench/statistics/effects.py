"""How large a paired difference is, without a unit."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import rankdata

from earwitness_bench.statistics.groups import Floats


def rank_biserial(differences: Floats) -> float:
    """Matched-pairs rank-biserial correlation, the effect size of the signed-rank test.

    r = (R+ - R-) / (R+ + R-), where R+ and R- are the sums of the ranks of absolute differences above and below zero
    (Kerby, Comprehensive Psychology 3, 2014, eq. 2); zeros speak for both sides by half.

    Parameters
    ----------
    differences : ndarray (G,), float
        One for each group.

    Returns
    -------
    float
        In [-1, 1]; 1: all differences are above zero. NaN without any difference.
    """
    if not len(differences):
        return math.nan
    ranks = rankdata(np.abs(differences))
    return float((ranks * np.sign(differences)).sum() / ranks.sum())


def cohen_d(differences: Floats) -> float:
    """Cohen's d of paired differences (d_z): their mean over their standard deviation.

    Lakens, Frontiers in Psychology 4:863, 2013, eq. 6; the deviation has n - 1 below.

    Parameters
    ----------
    differences : ndarray (G,), float
        One for each group.

    Returns
    -------
    float
        In standard deviations; NaN for fewer than two differences, or where all are equal.
    """
    if len(differences) < 2 or np.ptp(differences) == 0:
        return math.nan
    return float(differences.mean() / differences.std(ddof=1))
