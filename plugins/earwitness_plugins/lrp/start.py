"""Where relevance starts: at the logit of the target, or at those of a clip's patches."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from earwitness.classifier import AudioClassifier
from earwitness.errors import ConfigurationError, nearest
from earwitness.pooling import POOLS

Start = Literal["evidence", "logit", "one"]
"""``"evidence"``: what the last layer's inputs add up to: the logit, less the last bias where biases have no share. A
negative logit over a more negative bias speaks *for* its class, and starting from the logit would turn all signs.
``"logit"``: the logit itself, as in the papers. ``"one"``: 1 in its place."""


def check_start(start: str) -> Start:
    """The start itself, or a ConfigurationError."""
    if start not in get_args(Start):
        raise ConfigurationError(f"There is no start {start!r} of relevance. {nearest(start, get_args(Start))}")
    return start  # type: ignore[return-value]


def starting_relevance(
    classifier: AudioClassifier, outputs: Tensor, target: Tensor, start: Start, *, bias: Tensor | None = None
) -> Tensor:
    """Relevance of a network's outputs.

    A clip's patches have the relevance of their own logits, each weighted by its share of the pooled logit (see
    :func:`patch_shares`). So evidence keeps its sign, and with the start ``"logit"`` the whole is the pooled logit
    where the pool is ``mean`` or ``max``, or where there is one patch, and near it elsewhere.

    Parameters
    ----------
    classifier : AudioClassifier
    outputs : Tensor (B·P, C')
        Of its network; P = 1 where there is no segmenter.
    target : Tensor (B,), int64
    start : {"evidence", "logit", "one"}
    bias : Tensor (C',), optional
        What of the outputs is no evidence.

    Returns
    -------
    Tensor (B·P, C'), without gradient

    Raises
    ------
    ClassifierError
        A target is no index of a label.
    """
    outputs = outputs.detach()
    patches = outputs.reshape(len(target), -1, outputs.shape[1])
    output = _output_of(classifier, patches, target)
    logits = patches.gather(2, output[:, None, None].expand(-1, patches.shape[1], 1))[:, :, 0]
    shares = patch_shares(classifier, patches, output)
    if start == "evidence" and bias is not None:
        logits = logits - bias[output][:, None]
    relevance = shares * (torch.ones_like(logits) if start == "one" else logits)
    chosen = one_hot(output, outputs.shape[1]).to(outputs)
    return (relevance[:, :, None] * chosen[:, None]).reshape(outputs.shape)


def patch_shares(classifier: AudioClassifier, patches: Tensor, output: Tensor) -> Tensor:
    """How much each patch contributes to the pooled logit of one output.

    ============================= =================================================================================
    pool                          share of patch p
    ============================= =================================================================================
    logit_of_mean_probability     its probability over the sum of the patches' probabilities
    logsumexp                     the same with exponentials of logits
    max                           1 for the largest (the first of several), else 0
    mean                          1 / P
    ============================= =================================================================================

    Parameters
    ----------
    classifier : AudioClassifier
    patches : Tensor (B, P, C')
        Logits.
    output : Tensor (B,), int64

    Returns
    -------
    Tensor (B, P), >= 0; each row sums to 1
    """
    column = output[:, None, None].expand(-1, patches.shape[1], 1)
    if classifier.pool == "mean":
        return torch.full_like(patches[:, :, 0], 1 / patches.shape[1])
    if classifier.pool == "max":
        largest = patches.gather(2, column)[:, :, 0].argmax(1)
        return one_hot(largest, patches.shape[1]).to(patches)
    if classifier.pool == "logit_of_mean_probability":
        patches = logsigmoid(patches) if classifier.multilabel else torch.log_softmax(patches, dim=2)
    return torch.softmax(patches.gather(2, column)[:, :, 0], dim=1)


def _output_of(classifier: AudioClassifier, patches: Tensor, target: Tensor) -> Tensor:
    """The network's output that the target stands for: in a regrouped classifier, the best of the group."""
    groups = [classifier.outputs_of(index) for index in target.tolist()]
    if all(len(group) == 1 for group in groups):
        return torch.tensor([group[0] for group in groups], dtype=torch.int64, device=target.device)
    pooled = (
        patches[:, 0] if patches.shape[1] == 1 else POOLS[classifier.pool](patches, multilabel=classifier.multilabel)
    )
    members = [torch.tensor(group, device=pooled.device) for group in groups]
    return torch.stack([own[logits[own].argmax()] for own, logits in zip(members, pooled, strict=True)])
