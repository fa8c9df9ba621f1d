"""The ledger: where the relevance goes, layer by layer.

For every layer, relevance that arrives at its output = relevance of its inputs + share of its bias + share of the
stabiliser, to rounding. The shares are computed from the layer's weights, not as what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


def total(values: Tensor) -> Tensor:
    """Sum of each row: (N, ...) -> (N,)."""
    return values.flatten(1).sum(1) if values.ndim > 1 else values


@dataclass(frozen=True, eq=False)
class Line:
    """One layer.

    Attributes
    ----------
    name : str
        Of the layer; for a function, of the module that calls it and the function's.
    rule : str
    relevance_out : Tensor (N,)
        What arrives at its output, of each row.
    relevance_in : Tensor (N,)
        What it hands on to its inputs.
    bias_share, stabiliser_share : Tensor (N,)
        What stays with the bias (or a constant that is added), and with the stabiliser of the denominators.
    """

    name: str
    rule: str
    relevance_out: Tensor
    relevance_in: Tensor
    bias_share: Tensor
    stabiliser_share: Tensor

    @property
    def imbalance(self) -> Tensor:
        """|in + shares - out| relative to the largest of the four, (N,): 0 to rounding."""
        sides = torch.stack([self.relevance_out, self.relevance_in, self.bias_share, self.stabiliser_share])
        missing = (sides[1:].sum(0) - sides[0]).abs()
        return missing / sides.abs().amax(0).clamp(min=torch.finfo(sides.dtype).tiny)


@dataclass(eq=False)
class Ledger:
    """The lines of one backward pass, from the logits down."""

    lines: list[Line] = field(default_factory=list)
