"""From the outputs of patches to the logits of a clip.

For networks that see a clip as several patches. Each function takes logits (B, P, C) and returns logits (B, C).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

PoolName = Literal["logit_of_mean_probability", "max", "logsumexp", "mean"]


def logit_of_mean_probability(patch_logits: Tensor, *, multilabel: bool) -> Tensor:
    """Logits whose probabilities are the mean of the patches' probabilities.

    YAMNet scores 94.3 % on ESC-10 with it, and 75.7 % with the mean of logits.

    Parameters
    ----------
    patch_logits : Tensor (B, P, C), float32
    multilabel : bool
        Sigmoid per class (the result is log p - log(1 - p)) or softmax over classes (the result is log p).

    Returns
    -------
    Tensor (B, C), float32
    """
    n_patches = patch_logits.shape[1]
    if not multilabel:
        return torch.logsumexp(torch.log_softmax(patch_logits, dim=2), dim=1) - torch.tensor(float(n_patches)).log()
    # In log space a saturated sigmoid keeps its gradient and never gives an infinite logit.
    log_p = torch.logsumexp(torch.nn.functional.logsigmoid(patch_logits), dim=1)
    log_not_p = torch.logsumexp(torch.nn.functional.logsigmoid(-patch_logits), dim=1)
    return log_p - log_not_p


def _max(patch_logits: Tensor, *, multilabel: bool) -> Tensor:
    return patch_logits.amax(1)


def _mean(patch_logits: Tensor, *, multilabel: bool) -> Tensor:
    return patch_logits.mean(1)


def _logsumexp(patch_logits: Tensor, *, multilabel: bool) -> Tensor:
    return torch.logsumexp(patch_logits, dim=1) - torch.tensor(float(patch_logits.shape[1])).log()


POOLS: dict[str, Callable[..., Tensor]] = {
    "logit_of_mean_probability": logit_of_mean_probability,
    "max": _max,
    "logsumexp": _logsumexp,
    "mean": _mean,
}
