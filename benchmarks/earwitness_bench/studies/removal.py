"""Removing the most relevant cells of feature maps. N clips, M bands, N' frames."""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.errors import ConfigurationError


def ranks(maps: Tensor, ties: Tensor) -> Tensor:
    """The place of each cell in the order of relevance.

    Parameters
    ----------
    maps : Tensor (N, M, N'), float32
        Relevance; signed maps are ranked by their values, not their magnitudes.
    ties : Tensor (N, M, N'), float32
        Seeded noise: cells of equal relevance stand in its order, so a map without a preference is a random one.

    Returns
    -------
    Tensor (N, M, N'), int32
        0 is the most relevant cell of its clip.
    """
    by_tie = ties.flatten(1).argsort(dim=1, stable=True)
    by_relevance = maps.flatten(1).gather(1, by_tie).argsort(dim=1, descending=True, stable=True)
    order = by_tie.gather(1, by_relevance)
    places = torch.arange(order.shape[1], dtype=torch.int32, device=order.device).expand(order.shape)
    return torch.empty_like(places).scatter_(1, order, places.contiguous()).reshape(maps.shape)


def removed(features: Tensor, places: Tensor, percent: float, fill: Tensor) -> Tensor:
    """Feature maps without their most relevant cells.

    Parameters
    ----------
    features : Tensor (N, M, N'), float32
        Not changed.
    places : Tensor (N, M, N'), int
        See :func:`ranks`.
    percent : float, in [0, 100]
        Of each clip's cells, to the nearest whole one.
    fill : Tensor, broadcasts to ``features``
        What a removed cell becomes; see :func:`means` and :func:`strangers`.

    Raises
    ------
    ConfigurationError
        ``percent`` is none.
    """
    if not 0 <= percent <= 100:
        raise ConfigurationError(f"A percentage lies between 0 and 100, got {percent}.")
    n_removed = round(percent / 100 * places[0].numel())
    return torch.where(places < n_removed, fill, features)


def means(features: Tensor) -> Tensor:
    """The mean of each band over all clips (N, M, N'): Tensor (M, 1)."""
    return features.mean((0, 2))[:, None]


def strangers(features: Tensor, draws: Tensor) -> Tensor:
    """For each cell a value that its band has somewhere, in any clip.

    Parameters
    ----------
    features : Tensor (N, M, N'), float32
        Of the clips that are drawn from.
    draws : Tensor (K, M, N'), float32, in [0, 1)
        Seeded noise.

    Returns
    -------
    Tensor (K, M, N'), float32
    """
    pool = features.transpose(0, 1).flatten(1)
    chosen = (draws * pool.shape[1]).long().clamp_max(pool.shape[1] - 1)
    return pool.gather(1, chosen.transpose(0, 1).flatten(1)).reshape(-1, *draws.shape[::2]).transpose(0, 1)
