"""Relevance in two steps: down to a layer, where it is taken apart, and from there to the features part by part.

With activations a and relevance R at the layer, contexts c = R / a, and orthogonal U in blocks U_k, the relevance of
channel j in subspace k is

    R_jk = a_j (U_k U_k' c)_j

and sum_k R_jk = R_j, because the projections sum to I. All passes below the layer go through one graph, and they are
linear, so the maps of the parts sum to the map of the whole.

Source: Chormai et al., IEEE TPAMI 2024, without the stabiliser of their virtual layer, which loses relevance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.errors import CheckpointError
from earwitness_plugins.lrp.propagation import Propagation

_INPUTS_AT_ONCE = 16
"""Network inputs in one pass: more leave a CPU's caches."""


@dataclass(frozen=True, eq=False)
class PartsAttribution:
    """Relevance of the features, whole and in parts.

    Attributes
    ----------
    relevance : Tensor (B, 1, M, N') or (B, 1, T)
        The standard map.
    parts : tuple (length K) of Tensor of the same shape
    weights : Tensor (B, K)
        Relevance of each part at the layer.
    explained : Tensor (B,)
        What was shared out: see :class:`earwitness_plugins.lrp.propagation.Attribution`.
    """

    relevance: Tensor
    parts: tuple[Tensor, ...]
    weights: Tensor
    explained: Tensor

    @classmethod
    def joined(cls, found: Sequence[PartsAttribution]) -> Self:
        """Batches one after the other as one."""
        return cls(
            torch.cat([one.relevance for one in found]),
            tuple(torch.cat(maps) for maps in zip(*(one.parts for one in found), strict=True)),
            torch.cat([one.weights for one in found]),
            torch.cat([one.explained for one in found]),
        )


def attribute_in_parts(
    propagation: Propagation,
    classifier: AudioClassifier,
    features: Tensor,
    target: Tensor,
    *,
    layer: str,
    bases: Tensor,
    members: Tensor,
) -> PartsAttribution:
    """One forward pass, one pass down, and one pass from the layer down for each part.

    Parameters
    ----------
    propagation : Propagation
        The rules of LRP.
    classifier : AudioClassifier
    features : Tensor (B, 1, M, N') or (B, 1, T)
    target : Tensor (B,), int64
    layer : str
    bases : Tensor (B, D, D)
        U of each row.
    members : Tensor (B, K, D), bool
        Which columns of U are the block of each part.

    Returns
    -------
    PartsAttribution

    Raises
    ------
    CheckpointError
        The layer has another number of channels than the bases have rows.
    NotApplicableError, ConfigurationError, ClassifierError, AudioError
        See :meth:`earwitness_plugins.lrp.propagation.Propagation.hidden`.
    """
    with propagation.hidden(classifier, features, target, layer) as hidden:
        if hidden.activation.shape[1] != bases.shape[1]:
            raise CheckpointError(
                f"Layer {layer!r} of {classifier.name} has {hidden.activation.shape[1]} channels, and the subspaces "
                f"are of {bases.shape[1]}: they were fitted to another classifier. Fit again."
            )
        n_patches = len(hidden.activation) // len(features)
        bases, members = (each.repeat_interleave(n_patches, dim=0) for each in (bases, members))
        at_layer = split_relevance(hidden.activation, hidden.relevance, bases, members)
        weights = torch.stack([part.reshape(len(features), -1).sum(1, dtype=torch.float64) for part in at_layer], dim=1)
        parts = tuple(hidden.lower(part) for part in at_layer)
        return PartsAttribution(hidden.whole(), parts, weights.to(features.dtype), hidden.explained)


def contexts_of(activation: Tensor, relevance: Tensor) -> Tensor:
    """c = R / a, and 0 where a is not positive (an inactive unit has no relevance): any shape."""
    return torch.where(activation > 0, relevance / torch.where(activation > 0, activation, 1), 0)


def split_relevance(activation: Tensor, relevance: Tensor, bases: Tensor, members: Tensor) -> list[Tensor]:
    """R_jk of each subspace.

    Computed in float64: contexts of nearly inactive units are large and cancel out in the sum.

    Parameters
    ----------
    activation, relevance : Tensor (B, D, ...)
    bases : Tensor (B, D, D)
    members : Tensor (B, K, D), bool
        Which columns of U are the block of each part.

    Returns
    -------
    list (length K) of Tensor, shaped and typed like ``relevance``
        They sum to it.
    """
    a = activation.double().flatten(2) if activation.ndim > 2 else activation.double()[:, :, None]
    bases = bases.to(a)
    projected = bases.mT @ contexts_of(a, relevance.double().reshape(a.shape))
    parts = [a * (bases @ (projected * member[:, :, None])) for member in members.to(a).unbind(1)]
    return [part.reshape(relevance.shape).to(relevance.dtype) for part in parts]


def pieces(classifier: AudioClassifier, features: Tensor) -> Iterator[slice]:
    """Rows of a batch that go through the network at once: as many as are sixteen of its inputs, at least one."""
    n_inputs = 1 if classifier.segmenter is None else int(classifier.segmenter(features[:1]).shape[1])
    step = max(1, _INPUTS_AT_ONCE // n_inputs)
    for first in range(0, len(features), step):
        yield slice(first, first + step)
