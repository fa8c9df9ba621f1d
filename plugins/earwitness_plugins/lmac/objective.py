"""The masking objective of L-MAC (Paissan et al., eq. 2), row by row, so that no term depends on the batch's size.

What is heard should convince the classifier of its own decision c, and the rest should not::

    λ_in (-log p_c(heard)) + λ_out · out(rest) + λ_s mean |M| + λ_tv TV(M)

The published ``out`` is -CE(rest) = log p_c(rest), which has no lower bound: a rest of which the classifier is ever
surer that it is something else is worth more than a heard that it recognises. The bounded one is -log(1 - p_c(rest)),
zero where the decision is gone. B rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.errors import ConfigurationError, nearest

OutLoss = Literal["bounded", "published"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights of the terms.

    Attributes
    ----------
    in_weight, out_weight, sparsity, tv : float, >= 0
        λ_in, λ_out, λ_s and λ_tv. The published recipe sums the mean mask of the whole batch over its 16 rows: its 0.4
        is a λ_s of 6.4.
    out_loss : {"bounded", "published"}
    """

    in_weight: float = 8.0
    out_weight: float = 4.0
    sparsity: float = 1.0
    tv: float = 0.0
    out_loss: OutLoss = "bounded"

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("in_weight", "out_weight", "sparsity", "tv")}
        wrong = {name: value for name, value in weights.items() if not _is_weight(value)}
        if wrong or not any(weights.values()):
            raise ConfigurationError(
                f"Weights of the objective are numbers of 0 or more, and not all 0; got {weights}."
            )
        if self.out_loss not in get_args(OutLoss):
            raise ConfigurationError(
                f"There is no out_loss {self.out_loss!r}. {nearest(self.out_loss, get_args(OutLoss))}"
            )

    def of_answers(self, heard: Tensor, rest: Tensor, decision: Tensor, *, multilabel: bool) -> Tensor:
        """λ_in times the in term plus λ_out times the out term.

        Parameters
        ----------
        heard, rest : Tensor (B, C), float32
            Logits of what is heard and of the rest.
        decision : Tensor (B,), int64
        multilabel : bool
            Sigmoid per class instead of softmax.

        Returns
        -------
        Tensor (B,), float32
        """
        inside = -log_probability(heard, decision, multilabel=multilabel)
        if self.out_loss == "bounded":
            outside = -log_absence(rest, decision, multilabel=multilabel)
        else:
            outside = log_probability(rest, decision, multilabel=multilabel)
        return self.in_weight * inside + self.out_weight * outside


def log_probability(logits: Tensor, decision: Tensor, *, multilabel: bool) -> Tensor:
    """log p_c of each row: logits (B, C), decision (B,) -> Tensor (B,)."""
    own = functional.logsigmoid(logits) if multilabel else functional.log_softmax(logits, dim=1)
    return own.gather(1, decision[:, None])[:, 0]


def log_absence(logits: Tensor, decision: Tensor, *, multilabel: bool) -> Tensor:
    """log(1 - p_c) of each row, finite however sure the classifier is: logits (B, C), decision (B,) -> Tensor (B,)."""
    if multilabel:
        return functional.logsigmoid(-logits).gather(1, decision[:, None])[:, 0]
    others = logits.scatter(1, decision[:, None], -torch.inf)
    return torch.logsumexp(others, dim=1) - torch.logsumexp(logits, dim=1)


def total_variation(mask: Tensor) -> Tensor:
    """Mean |difference| of neighbours along frequency plus that along time: mask (B, F, N) -> Tensor (B,)."""
    down, along = mask.diff(dim=1).abs(), mask.diff(dim=2).abs()
    return sum((each.mean((1, 2)) for each in (down, along) if each.numel()), mask.new_zeros(len(mask)))


def binarised(mask: Tensor) -> Tensor:
    """1 where a mask exceeds one half, else 0, with the gradient of the mask itself ("straight through")."""
    return (mask > 0.5).to(mask.dtype) + (mask - mask.detach())  # the bracket is exactly 0


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
