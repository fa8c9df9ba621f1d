"""The masking objective of L-MAC (Paissan et al., eq. 2), row by row, so that no term depends on the batch's size.

What is heard should convince the classifier of its own decision c, and the rest should not::

    λ_in (-log p_c(heard)) + λ_inc [l_c(all) + 0.5 - l_c(heard)]+ + λ_out out(rest)
    + λ_x (-log(1 - p_c'(exchanged))) + λ_s mean |M| + λ_tv TV(M)

with l_c = log p_c - log(1 - p_c). The second term is not the paper's: it ends where what is heard convinces more than
the whole recording does. That is what AI counts, and what -log p_c alone teaches slowly. Nor is the one of λ_x: under
the mask of another recording, this one should not become the class c' which that mask was made for, unless it is of
that class. Else a mask can be of a shape that the classifier takes for c', whatever is behind it.

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

_MARGIN = 0.5


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights of the terms.

    Attributes
    ----------
    in_weight, increase_weight, out_weight, exchange_weight, sparsity, tv : float, >= 0
        λ_in, λ_inc, λ_out, λ_x, λ_s and λ_tv. The published recipe sums the mean mask of the whole batch over its 16
        rows: its 0.4 is a λ_s of 6.4; and it has neither λ_inc nor λ_x.
    out_loss : {"bounded", "published"}
    """

    in_weight: float = 8.0
    increase_weight: float = 4.0
    out_weight: float = 4.0
    exchange_weight: float = 4.0
    sparsity: float = 8.0
    tv: float = 0.0
    out_loss: OutLoss = "bounded"

    def __post_init__(self) -> None:
        names = ("in_weight", "increase_weight", "out_weight", "exchange_weight", "sparsity", "tv")
        weights = {name: getattr(self, name) for name in names}
        wrong = {name: value for name, value in weights.items() if not is_weight(value)}
        if wrong or not any(weights.values()):
            raise ConfigurationError(
                f"Weights of the objective are numbers of 0 or more, and not all 0; got {weights}."
            )
        if self.out_loss not in get_args(OutLoss):
            raise ConfigurationError(
                f"There is no out_loss {self.out_loss!r}. {nearest(self.out_loss, get_args(OutLoss))}"
            )

    def of_answers(
        self, heard: Tensor, rest: Tensor, decision: Tensor, confidence: Tensor, *, multilabel: bool
    ) -> Tensor:
        """All that the classifier has to say: the terms of λ_in, λ_inc and λ_out.

        Parameters
        ----------
        heard, rest : Tensor (B, C), float32
            Logits of what is heard and of the rest.
        decision : Tensor (B,), int64
        confidence : Tensor (B,), float32
            Log-odds of the decision in the whole recording.
        multilabel : bool
            Sigmoid per class instead of softmax.

        Returns
        -------
        Tensor (B,), float32
        """
        of_heard, of_rest = (log_odds(each, decision, multilabel=multilabel) for each in (heard, rest))
        missing = functional.relu(confidence + _MARGIN - of_heard)
        inside = -functional.logsigmoid(of_heard)
        outside = -functional.logsigmoid(-of_rest) if self.out_loss == "bounded" else functional.logsigmoid(of_rest)
        return self.in_weight * inside + self.increase_weight * missing + self.out_weight * outside

    def of_exchanged(self, exchanged: Tensor, foreign: Tensor, there: Tensor, *, multilabel: bool) -> Tensor:
        """What masks make of other recordings: the term of λ_x.

        Parameters
        ----------
        exchanged : Tensor (B, C), float32
            Logits of recordings under masks of others.
        foreign : Tensor (B,), int64
            The decisions that the masks were made for.
        there : Tensor (B,), bool
            Whether the recording as it is is of that class: then nothing is asked.
        multilabel : bool
            Sigmoid per class instead of softmax.

        Returns
        -------
        Tensor (B,), float32
        """
        made = -functional.logsigmoid(-log_odds(exchanged, foreign, multilabel=multilabel))
        return self.exchange_weight * torch.where(there, 0.0, made)


def log_odds(logits: Tensor, decision: Tensor, *, multilabel: bool) -> Tensor:
    """log p_c - log(1 - p_c) of each row, finite however sure: logits (B, C), decision (B,) -> Tensor (B,).

    So log p_c is its logsigmoid, and log(1 - p_c) the logsigmoid of its negative.
    """
    own = logits.gather(1, decision[:, None])[:, 0]
    if multilabel:
        return own
    return own - torch.logsumexp(logits.scatter(1, decision[:, None], -torch.inf), dim=1)


def total_variation(mask: Tensor) -> Tensor:
    """Mean |difference| of neighbours along frequency plus that along time: mask (B, F, N) -> Tensor (B,)."""
    down, along = mask.diff(dim=1).abs(), mask.diff(dim=2).abs()
    return sum((each.mean((1, 2)) for each in (down, along) if each.numel()), mask.new_zeros(len(mask)))


def binarised(mask: Tensor) -> Tensor:
    """1 where a mask exceeds one half, else 0, with the gradient of the mask itself ("straight through")."""
    return (mask > 0.5).to(mask.dtype) + (mask - mask.detach())  # the bracket is exactly 0


def is_weight(value: object) -> bool:
    """Whether it is a finite number of 0 or more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
