"""What all rules share: the stabiliser of denominators, and whether biases take part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Numerics:
    """What all layers share.

    Attributes
    ----------
    stabiliser : float, > 0
        Added to every denominator, with its sign.
    zero_bias : bool
        Biases get no share of the relevance, so that it all reaches the input (Zennit's ``zero_params="bias"``).
    """

    stabiliser: float
    zero_bias: bool

    @property
    def zero_params(self) -> list[str] | None:
        """In Zennit's form."""
        return ["bias"] if self.zero_bias else None

    def stabilised(self, values: Tensor) -> Tensor:
        """Away from zero by the stabiliser; zero itself goes up."""
        return self.offset(values).add_(values)

    def offset(self, values: Tensor) -> Tensor:
        """What :meth:`stabilised` adds, of the shape of ``values``."""
        stabiliser = torch.full((), self.stabiliser, dtype=values.dtype, device=values.device)
        signs = values.detach() + 0.0  # -0.0 + 0.0 = 0.0
        return torch.copysign(stabiliser, signs, out=signs)
