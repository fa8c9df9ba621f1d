"""Agreement: of metrics on the order of methods, and of methods on where to look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from earwitness.errors import ExplanationError
from earwitness_bench.statistics.groups import Floats


def rank_agreement(scores: Floats, higher_is_better: Sequence[bool]) -> Floats:
    """Kendall's tau-b of each two metrics over the methods that both have scored.

    Parameters
    ----------
    scores : ndarray (methods, metrics), float
        Aggregated scores; NaN where a method was not scored.
    higher_is_better : sequence of bool, length metrics

    Returns
    -------
    ndarray (metrics, metrics), float, in [-1, 1]
        1: the same order. NaN for fewer than two methods in common, or where a metric has only ties.
    """
    oriented = scores * np.where(higher_is_better, 1.0, -1.0)
    count = oriented.shape[1]
    tau = np.full((count, count), math.nan)
    for a in range(count):
        for b in range(a, count):
            both = ~np.isnan(oriented[:, [a, b]]).any(1)
            if both.sum() > 1:
                tau[a, b] = tau[b, a] = stats.kendalltau(oriented[both, a], oriented[both, b], variant="b").statistic
    return tau


def map_agreement(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation of two methods' maps, clip by clip.

    Parameters
    ----------
    first, second : Tensor (B, ...), float
        On the same grid.

    Returns
    -------
    Tensor (B,), float64, in [-1, 1]
        NaN where one of the maps is constant.

    Raises
    ------
    ExplanationError
        Their shapes differ.
    """
    if first.shape != second.shape:
        raise ExplanationError(
            f"Maps are compared cell by cell, got shapes {tuple(first.shape)} and {tuple(second.shape)}. Lift both to "
            "the listening STFT first."
        )
    return (standard_ranks(first) * standard_ranks(second)).sum(1)


def standard_ranks(maps: Tensor) -> Tensor:
    """Ranks of the cells of each map, about their mean and of length 1: a product of two is Spearman's correlation.

    Parameters
    ----------
    maps : Tensor (B, ...), float
        Cells of equal value share their mean rank.

    Returns
    -------
    Tensor (B, M), float64
        NaN for a map that is constant.
    """
    flat = maps.flatten(1)
    ordered, order = flat.sort(1)
    places = torch.arange(flat.shape[1], device=flat.device, dtype=torch.float64).expand_as(flat)
    edge = torch.ones(len(flat), 1, dtype=torch.bool, device=flat.device)
    differs = ordered.diff(dim=1) != 0
    first = torch.where(torch.cat([edge, differs], 1), places, 0.0).cummax(1).values
    last = torch.where(torch.cat([differs, edge], 1), places, torch.inf).flip(1).cummin(1).values.flip(1)
    ranks = torch.empty_like(places.contiguous()).scatter_(1, order, (first + last) / 2)
    ranks = ranks - (flat.shape[1] - 1) / 2
    length = ranks.norm(dim=1, keepdim=True)
    return torch.where(length > 0, ranks / length, torch.nan)
